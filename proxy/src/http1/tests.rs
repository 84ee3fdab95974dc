//! The codec against tables and against mutated messages: it never panics, and what it lets through it writes in one
//! form that it reads back as the same.

use proptest::prelude::*;
use sealane_model::config::Underscores;

use super::body::{Body, Coding};
use super::field::{Fields, Known, KnownSet};
use super::framing::{Framing, Version};
use super::request_head::{HeadLimits, RequestFault, RequestHead, is_authority};
use super::response_head::{Asked, ResponseHead};
use super::write;

const LIMITS: HeadLimits =
    HeadLimits { header_bytes_max: 4096, fields_max: 20, target_bytes_max: 1024, underscores: Underscores::Keep };

fn parse<'b>(bytes: &'b [u8], fields: &mut Fields) -> Result<Option<RequestHead<'b>>, RequestFault> {
    RequestHead::parse(bytes, &LIMITS, fields)
}

#[test]
fn targets_are_split_into_what_they_say() {
    let check = |line: &str, expected: (&str, Option<&str>, &str, &str)| {
        let text = format!("{line} HTTP/1.1\r\nHost: host:1\r\n\r\n");
        let head = parse(text.as_bytes(), &mut Fields::default()).unwrap().unwrap();
        assert_eq!((head.path, head.query, head.authority, head.host()), expected, "{line}");
    };
    check("GET /", ("/", None, "host:1", "host"));
    check("GET /a?b?c", ("/a", Some("b?c"), "host:1", "host"));
    check("GET /?", ("/", Some(""), "host:1", "host"));
    check("OPTIONS *", ("*", None, "host:1", "host"));
    check("GET http://x", ("/", None, "x", "x"));
    check("GET HTTPS://x:8443/a?b", ("/a", Some("b"), "x:8443", "x"));
    check("GET http://[::1]:80?b", ("/", Some("b"), "[::1]:80", "::1"));
    check("GET //x/y", ("//x/y", None, "host:1", "host"));
}

#[test]
fn authorities_are_hosts_with_ports() {
    for good in ["a", "a.b", "a:1", "a:", "[::1]", "[::1]:80", "1.2.3.4:65535", "a_b", "%41", "xn--a"] {
        assert!(is_authority(good), "{good}");
    }
    for bad in
        ["", ":1", "a:b", "a:123456", "a:1:2", "[::1", "[::1]a", "[]", "a b", "a,b", "a/b", "a@b", "a\"", "a?b", "a#"]
    {
        assert!(!is_authority(bad), "{bad}");
    }
}

#[test]
fn persistence_follows_version_and_options() {
    let check = |version: &str, connection: &str, expected| {
        let text = format!("GET / HTTP/{version}\r\nHost: a\r\n{connection}\r\n");
        let head = parse(text.as_bytes(), &mut Fields::default()).unwrap().unwrap();
        assert_eq!(head.keep_alive, expected, "{version} {connection}");
    };
    check("1.1", "", true);
    check("1.1", "Connection: CLOSE\r\n", false);
    check("1.1", "Connection: x, close , y\r\n", false);
    check("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false);
    check("1.0", "", false);
    check("1.0", "Connection: Keep-Alive\r\n", true);
    check("1.0", "Connection: keep-alive, close\r\n", false);
}

#[test]
fn a_connection_option_takes_out_its_fields_but_not_framing_and_host() {
    let text = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: x-a, Content-Length, host\r\nX-A: 1\r\nX-B: 2\r\nx-a: 3\r\nContent-Length: 5\r\n\r\n";
    let mut fields = Fields::default();
    let head = parse(text, &mut fields).unwrap().unwrap();
    assert_eq!((head.framing, head.authority), (Framing::Length(5), "a"));
    let mut out = Vec::new();
    write::fields(&mut out, text, head.length, &fields, KnownSet::HOP_BY_HOP);
    assert_eq!(out, b"Host: a\r\nX-B: 2\r\n");
}

#[test]
fn every_known_name_is_recognised_in_any_case_and_no_other() {
    assert_eq!(Known::of(b"CONTENT-length"), Known::ContentLength);
    assert_eq!(Known::of(b"tRANSFER-eNCODING"), Known::TransferEncoding);
    assert_eq!(Known::of(b"content_length"), Known::Other);
    // No other byte of a token passes for a letter, a digit or a hyphen.
    for byte in (0u8..=255).filter(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)) {
        let known = Known::of(&[b"x-real", &[byte][..], b"ip"].concat());
        assert_eq!(known == Known::XRealIp, byte == b'-', "{byte}");
        let known = Known::of(&[b"Http", &[byte][..], b"-settings"].concat());
        assert_eq!(known == Known::Http2Settings, byte == b'2', "{byte}");
        let known = Known::of(&[&[byte][..], b"ost"].concat());
        assert_eq!(known == Known::Host, byte.eq_ignore_ascii_case(&b'h'), "{byte}");
    }
    assert_eq!(Known::of(b""), Known::Other);
}

#[test]
fn more_fields_than_fit_on_the_stack_are_parsed_where_limits_allow() {
    let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(500));
    let mut fields = Fields::default();
    let limits = HeadLimits { fields_max: 501, ..LIMITS };
    assert!(RequestHead::parse(text.as_bytes(), &limits, &mut fields).unwrap().is_some());
    assert_eq!(fields.lines().len(), 501);
    let limits = HeadLimits { fields_max: 500, ..LIMITS };
    assert_eq!(RequestHead::parse(text.as_bytes(), &limits, &mut fields).unwrap_err(), RequestFault::HeadersTooLarge);
}

#[test]
fn answers_are_framed_by_status_request_and_fields() {
    let check = |asked, head: &str, expected: Result<Framing, ()>| {
        let text = format!("{head}\r\n\r\n");
        let parsed = ResponseHead::parse(text.as_bytes(), asked, &mut Fields::default());
        assert_eq!(parsed.map(|head| head.unwrap().framing).map_err(|_| ()), expected, "{head}");
    };
    use Asked::{Head, Ordinary, Upgrade};
    check(Ordinary, "HTTP/1.1 200 OK\r\nContent-Length: 5", Ok(Framing::Length(5)));
    check(Ordinary, "HTTP/1.1 200 OK\r\nContent-Length: 0", Ok(Framing::Empty));
    check(Ordinary, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", Ok(Framing::Chunked));
    check(Ordinary, "HTTP/1.1 200 OK", Ok(Framing::UntilClose));
    check(Ordinary, "HTTP/1.0 200 OK", Ok(Framing::UntilClose));
    check(Head, "HTTP/1.1 200 OK\r\nContent-Length: 5", Ok(Framing::Empty));
    check(Ordinary, "HTTP/1.1 204 No\r\nContent-Length: 5", Ok(Framing::Empty));
    check(Ordinary, "HTTP/1.1 304 No\r\nTransfer-Encoding: chunked", Ok(Framing::Empty));
    check(Ordinary, "HTTP/1.1 103 Hint\r\nContent-Length: 5", Ok(Framing::Empty));
    check(Ordinary, "HTTP/1.1 101 Up\r\nConnection: upgrade", Err(()));
    check(Upgrade, "HTTP/1.1 101 Up\r\nConnection: upgrade", Ok(Framing::Empty));
    check(Upgrade, "HTTP/1.1 101 Up", Err(()));
    check(Ordinary, "HTTP/1.1 204 No\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", Err(()));
}

/// Feeds `input` in pieces; what came out, and how much was taken, if the body ended.
fn decode(input: &[u8], pieces: &[usize], coding: Coding) -> Result<(Vec<u8>, Option<usize>), &'static str> {
    let mut body = Body::expected(Framing::Chunked);
    let mut out = Vec::new();
    let mut at = 0;
    for piece in pieces.iter().cycle() {
        let end = (at + (*piece).max(1)).min(input.len());
        at += body.feed(&input[at..end], coding, &mut out)?.consumed;
        if body.is_done() {
            return Ok((out, Some(at)));
        }
        if at == input.len() {
            break;
        }
    }
    Ok((out, None))
}

#[test]
fn chunks_are_decoded_the_same_however_they_are_cut() {
    let input = b"5;a=b\r\nhello\r\n1\r\n \r\n00005\r\nworld\r\n0\r\nA: 1\r\nB:2\r\n\r\nnext";
    for size in 1..=input.len() {
        let (out, consumed) = decode(input, &[size], Coding::Identity).unwrap();
        assert_eq!((out.as_slice(), consumed), (&b"hello world"[..], Some(input.len() - 4)), "{size}");
    }
    let (out, _) = decode(input, &[7], Coding::Chunked).unwrap();
    assert!(out.ends_with(b"\r\n0\r\nA: 1\r\nB: 2\r\n\r\n"), "{:?}", String::from_utf8_lossy(&out));
}

#[test]
fn chunk_extensions_and_trailers_are_bounded() {
    let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(5000));
    assert!(decode(long.as_bytes(), &[1000], Coding::Identity).is_err());
    let drip = format!("{}0\r\n\r\n", format!("1;{}\r\na\r\n", "x".repeat(100)).repeat(100));
    assert!(decode(drip.as_bytes(), &[1000], Coding::Identity).is_err(), "over all chunks together");
    let trailers = format!("0\r\n{}\r\n", "A: b\r\n".repeat(10_000));
    assert!(decode(trailers.as_bytes(), &[1000], Coding::Identity).is_err());
}

/// Messages that mutations start from.
const REQUESTS: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /a?b=c HTTP/1.1\r\nHost: a:1\r\nContent-Length: 3\r\nConnection: close, x\r\nX: y\r\n\r\nabc",
    "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\r\n3;e\r\nabc\r\n0\r\nT: 1\r\n\r\n",
    "GET http://b/ HTTP/1.0\r\nConnection: keep-alive\r\nAccept:\t*/* \r\n\r\n",
    "GET / HTTP/1.1\r\nHost: [::1]:80\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nExpect: 100-continue\r\n\r\n",
];

const RESPONSES: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nabc",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "HTTP/1.0 404 Not Found\r\nServer: x\r\n\r\nbody",
    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
];

/// A byte that tends to matter.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        4 => prop::sample::select(b"\r\n\t :;,=0\x00\x7f\x80-+aA[]/?#@%".to_vec()),
        1 => any::<u8>(),
    ]
}

/// A message with a few bytes replaced, inserted, removed, or a piece doubled.
fn mutated(corpus: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let edit = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..4u8, byte());
    (prop::sample::select(corpus), prop::collection::vec(edit, 0..6)).prop_map(|(text, edits)| {
        let mut bytes = text.as_bytes().to_vec();
        for (at, other, kind, byte) in edits {
            if bytes.is_empty() {
                break;
            }
            let (at, other) = (at.index(bytes.len()), other.index(bytes.len()));
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => drop(bytes.remove(at)),
                _ => {
                    let piece = bytes[at.min(other)..at.max(other)].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_request_head_that_passes_reads_the_same_after_it_was_written(bytes in mutated(REQUESTS)) {
        let mut fields = Fields::default();
        let Ok(Some(head)) = parse(&bytes, &mut fields) else { return Ok(()) };
        let mut out = format!("{} {}", head.method, head.path).into_bytes();
        if let Some(query) = head.query {
            out.extend([b"?", query.as_bytes()].concat());
        }
        let version = if head.version == Version::Http10 { " HTTP/1.0\r\n" } else { " HTTP/1.1\r\n" };
        out.extend(version.as_bytes());
        if !head.authority.is_empty() {
            write::field(&mut out, b"Host", head.authority.as_bytes());
        }
        write::fields(&mut out, &bytes, head.length, &fields, KnownSet::HOP_BY_HOP.and(KnownSet::of(&[Known::Host])));
        match head.framing {
            Framing::Length(length) => write::field(&mut out, b"Content-Length", length.to_string().as_bytes()),
            Framing::Chunked => write::field(&mut out, b"Transfer-Encoding", b"chunked"),
            Framing::Empty | Framing::UntilClose => {}
        }
        out.extend(b"\r\n");
        prop_assert!(!out.contains(&0));
        // Every CR has its LF, every LF its CR.
        let crs = memchr::memchr_iter(b'\r', &out).collect::<Vec<_>>();
        let lfs = memchr::memchr_iter(b'\n', &out).map(|at| at - 1).collect::<Vec<_>>();
        prop_assert_eq!(crs, lfs);
        let mut again = Fields::default();
        let written = parse(&out, &mut again).unwrap().unwrap();
        prop_assert_eq!(written.length, out.len());
        prop_assert_eq!(
            (written.method, written.path, written.query, written.authority, written.framing),
            (head.method, head.path, head.query, head.authority, head.framing)
        );
        let kept = |fields: &Fields| fields.lines().iter().filter(|field| {
            !KnownSet::HOP_BY_HOP.contains(field.known) && field.known != Known::Host
        }).count();
        prop_assert_eq!(kept(&again), kept(&fields));
    }

    #[test]
    fn a_prefix_of_a_request_is_partial_or_refused_never_something_else(bytes in mutated(REQUESTS), cut in any::<prop::sample::Index>()) {
        let cut = cut.index(bytes.len() + 1);
        let whole = parse(&bytes, &mut Fields::default()).map(|head| head.map(|head| (head.length, head.framing)));
        let part = parse(&bytes[..cut], &mut Fields::default()).map(|head| head.map(|head| (head.length, head.framing)));
        match (part, whole) {
            (Ok(None), _) | (Err(_), Err(_)) => {}
            (part, whole) => prop_assert_eq!(part, whole),
        }
    }

    #[test]
    fn response_heads_never_panic_and_never_have_two_framings(bytes in mutated(RESPONSES), asked in 0..3usize) {
        let asked = [Asked::Ordinary, Asked::Head, Asked::Upgrade][asked];
        let mut fields = Fields::default();
        let Ok(Some(head)) = ResponseHead::parse(&bytes, asked, &mut fields) else { return Ok(()) };
        let lines = fields.lines().iter().filter(|field| matches!(field.known, Known::ContentLength | Known::TransferEncoding));
        prop_assert!(lines.count() <= 1);
        prop_assert!(head.length <= bytes.len());
        let mut body = Body::expected(head.framing);
        let mut out = Vec::new();
        if let Ok(fed) = body.feed(&bytes[head.length..], Coding::Chunked, &mut out) {
            prop_assert!(fed.consumed <= bytes.len() - head.length);
        }
    }

    #[test]
    fn chunked_bodies_decode_the_same_in_any_pieces_and_after_being_written(
        bytes in mutated(&["3;e=f\r\nabc\r\nA\r\n0123456789\r\n0\r\nT: 1\r\nU: 2\r\n\r\nrest"]),
        pieces in prop::collection::vec(1..9usize, 1..5),
    ) {
        let whole = decode(&bytes, &[usize::MAX / 2], Coding::Identity);
        let cut = decode(&bytes, &pieces, Coding::Identity);
        match (&whole, &cut) {
            (Ok(whole), Ok(cut)) => prop_assert_eq!(whole, cut),
            (whole, cut) => prop_assert_eq!(whole.is_err(), cut.is_err()),
        }
        if let Ok((data, Some(_))) = whole
            && let Ok((written, Some(_))) = decode(&bytes, &pieces, Coding::Chunked)
        {
            prop_assert_eq!(decode(&written, &[3], Coding::Identity).unwrap(), (data, Some(written.len())));
        }
    }
}
