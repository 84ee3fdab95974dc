//! What takes bytes from outside, as functions that take any bytes at all: none may panic or hang, and what they accept must
//! read the same again. `proxy/tests/it/fuzz.rs` feeds them from the corpus with seeded edits; `fuzz/` wraps them for
//! cargo-fuzz.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;

use sealane_model::config::{Config, TargetPath, Underscores};
use sealane_model::decide::{Decision, RequestHead as Decided, RouteTable};
use sealane_model::parse::{Reader, parse};
use sealane_proxy::http1::chunked::ChunkDecoder;
use sealane_proxy::http1::field::{FieldView, Fields, KnownSet};
use sealane_proxy::http1::request_head::{HeadLimits, RequestHead, is_authority};
use sealane_proxy::http1::response_head::{Asked, ResponseHead};
use sealane_proxy::http1::write;

const LIMITS: HeadLimits =
    HeadLimits { header_bytes_max: 4096, fields_max: 60, target_bytes_max: 1024, underscores: Underscores::Keep };

/// A request's head: what is accepted has one end, and what is written of it is accepted again with the same fields.
pub(super) fn request_head(bytes: &[u8]) {
    let mut fields = Fields::default();
    let Ok(Some(head)) = RequestHead::parse(bytes, &LIMITS, &mut fields) else { return };
    assert!(head.length <= bytes.len());
    assert!(bytes[..head.length].ends_with(b"\r\n\r\n"));
    assert!(head.path.starts_with('/') || head.path == "*");
    assert!(head.authority.is_empty() || is_authority(head.authority));
    let text = [head.method, head.path, head.query.unwrap_or_default(), head.authority].concat();
    assert!(text.bytes().all(|byte| byte > b' ' && byte != 0x7f), "{text:?}");
    for line in fields.lines() {
        for part in [line.name, line.value] {
            assert!(part.of_bytes(bytes).iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f)));
        }
    }
    // One byte less is no head, and what follows does not matter.
    let before = &bytes[..head.length - 1];
    assert!(matches!(RequestHead::parse(before, &LIMITS, &mut Fields::default()), Ok(None)));
    let mut out = format!("{} {} HTTP/1.1\r\nHost: a\r\n", head.method, head.path).into_bytes();
    write::fields(&mut out, bytes, head.length, &fields, without());
    out.extend(b"\r\n");
    let mut again = Fields::default();
    let unbounded =
        HeadLimits { header_bytes_max: usize::MAX, fields_max: 1000, target_bytes_max: usize::MAX, ..LIMITS };
    let read = RequestHead::parse(&out, &unbounded, &mut again);
    let Ok(Some(read)) = read else { panic!("{read:?} of {:?}", String::from_utf8_lossy(&out)) };
    assert_eq!((read.method, read.path, read.length), (head.method, head.path, out.len()));
    let kept = |fields: &Fields, bytes: &[u8]| -> Vec<(Vec<u8>, Vec<u8>)> {
        let lines = fields.lines().iter().filter(|line| !without().contains(line.known));
        lines.map(|line| (line.name.of_bytes(bytes).to_vec(), line.value.of_bytes(bytes).to_vec())).collect()
    };
    assert_eq!(kept(&again, &out), kept(&fields, bytes));
}

/// Fields that are written anew.
const fn without() -> KnownSet {
    KnownSet::HOP_BY_HOP.and(KnownSet::of(&[sealane_proxy::http1::field::Known::Host]))
}

/// A response's head, to each kind of request.
pub(super) fn response_head(bytes: &[u8]) {
    for asked in [Asked::Ordinary, Asked::Head, Asked::Upgrade] {
        let mut fields = Fields::default();
        let Ok(Some(head)) = ResponseHead::parse(bytes, asked, &mut fields) else { continue };
        assert!(head.length <= bytes.len() && bytes[..head.length].ends_with(b"\r\n\r\n"));
        assert!((100..1000).contains(&head.status));
        assert!(!head.reason.contains(['\r', '\n', '\0']));
        let before = &bytes[..head.length - 1];
        assert!(matches!(ResponseHead::parse(before, asked, &mut Fields::default()), Ok(None)));
    }
}

/// A chunked body: the same however it is cut, and what is written of it decodes to the same.
pub(super) fn chunked_body(bytes: &[u8]) {
    let decode = |step: usize| {
        let (mut decoder, mut data, mut taken) = (ChunkDecoder::default(), Vec::new(), 0);
        for piece in bytes.chunks(step) {
            match decoder.decode(piece, |part| data.extend_from_slice(part)) {
                Ok(length) => taken += length,
                Err(_) => return None,
            }
            if decoder.is_done() {
                break;
            }
        }
        Some((decoder.is_done(), data, taken, decoder))
    };
    let whole = decode(bytes.len().max(1));
    for step in [1, 2, 7] {
        let cut = decode(step);
        let facts = |(done, data, taken, _): &(bool, Vec<u8>, usize, ChunkDecoder)| (*done, data.clone(), *taken);
        assert_eq!(whole.as_ref().map(facts), cut.as_ref().map(facts), "{step}");
    }
    let Some((true, data, _, decoder)) = whole else { return };
    let mut trailers = Vec::new();
    if decoder.write_trailers(&mut trailers).is_err() {
        return;
    }
    let mut out = Vec::new();
    if !data.is_empty() {
        write::hexadecimal(&mut out, data.len());
        out.extend(b"\r\n");
        out.extend(&data);
        out.extend(b"\r\n");
    }
    out.extend(b"0\r\n");
    out.extend(&trailers);
    out.extend(b"\r\n");
    let (mut again, mut read, mut kept) = (ChunkDecoder::default(), Vec::new(), Vec::new());
    assert_eq!(again.decode(&out, |part| read.extend_from_slice(part)), Ok(out.len()));
    again.write_trailers(&mut kept).expect("they passed before");
    assert_eq!((again.is_done(), read, kept), (true, data, trailers));
}

/// A request's target, matched and rewritten: the path that leaves is one word that starts at the root.
pub(super) fn target(bytes: &[u8]) {
    static TABLE: OnceLock<RouteTable> = OnceLock::new();
    let table = TABLE.get_or_init(|| RouteTable::compile(&routes()));
    let mut request = b"GET ".to_vec();
    request.extend(bytes);
    request.extend(b" HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut fields = Fields::default();
    let Ok(Some(head)) = RequestHead::parse(&request, &LIMITS, &mut fields) else { return };
    let headers = FieldView { bytes: &request, fields: &fields };
    let decided =
        Decided { method: head.method, host: head.host(), path: head.path, query: head.query, headers: &headers };
    let mut scratch = table.scratch();
    let Decision::Route(route) = table.decide(&decided, &mut scratch) else { return };
    let mut path = Vec::new();
    table.write_path(route, &decided, &TargetPath::Keep, &mut scratch, &mut path);
    assert!(path.starts_with(b"/") || path == b"*", "{path:?}");
    assert!(path.iter().all(|&byte| byte > b' ' && byte != 0x7f && byte != b'?' && byte != b'#'), "{path:?}");
}

fn routes() -> Config {
    let text = "
routes:
  - { id: exact, path: /exact, rewrite: { path: /other }, to: 'http://127.0.0.1:9' }
  - { id: prefix, path_prefix: /api/, rewrite: { prefix: /v2/ }, to: 'http://127.0.0.1:9' }
  - { id: regex, path_regex: '^/user/([^/]+)/(.*)$', rewrite: { regex: '^/user/([^/]+)/(.*)$', replacement: '/u/$2/$1' }, to: 'http://127.0.0.1:9' }
  - { id: rest, to: 'http://127.0.0.1:9' }
";
    match parse("fuzz.yaml", text, Reader::Local) {
        Ok((config, _)) => config,
        Err(problems) => panic!("{problems:#?}"),
    }
}

/// A config's text: it parses, or its problems say where in it.
pub(super) fn config_text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for reader in [Reader::Local, Reader::Fleet] {
        match parse("fuzz.yaml", text, reader) {
            Ok((config, _)) => {
                // Whatever parses compiles.
                drop(RouteTable::compile(&config));
            }
            Err(problems) => {
                assert!(!problems.is_empty());
                let lines = text.lines().count() as u32 + 1;
                assert!(problems.iter().all(|problem| problem.line <= lines), "{problems:#?} of {lines} lines");
            }
        }
    }
}

/// Frames into a connection of HTTP/2 to a proxy that listens at `address`: it ends once the client has ended it.
pub(super) fn http2_connection(address: SocketAddr, frames: &[u8]) {
    let mut client = TcpStream::connect(address).expect("the proxy listens");
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket has a timeout");
    // The proxy may end it before everything was sent.
    let _ = client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    let _ = client.write_all(frames);
    let _ = client.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    if let Err(error) = client.read_to_end(&mut answer) {
        let timed_out = matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
        assert!(!timed_out, "the connection does not end");
    }
}
