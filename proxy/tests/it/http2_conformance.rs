//! HTTP/2 to the letter, frame by frame: the cases of the conformance suite h2spec by its numbers (the sections of RFC 7540,
//! whose rules RFC 9113 kept unless a case says otherwise), and some more.
//!
//! Where the suite takes several answers, this table has the one that is given. A stream error may always be treated as
//! an error of the connection (RFC 9113 §5.4.1); where that is done, the case says so.

use crate::support::http2::{END, PSEUDO, Raw};
use crate::support::{Origin, OriginConnection, TestProxy, to};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const REFUSED_STREAM: u32 = 7;
const COMPRESSION_ERROR: u32 = 9;

/// The heads of a GET and a POST: method, scheme, path, and `test` as authority.
const GET: &[u8] = b"\x82\x86\x84\x41\x04test";
const POST: &[u8] = b"\x83\x86\x84\x41\x04test";
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 0x20;

/// Kind, flags, stream, payload.
type Frame<'a> = (u8, u8, u32, &'a [u8]);

const ASKED: Frame<'_> = (HEADERS, END, 1, GET);
const ASKING: Frame<'_> = (HEADERS, END_HEADERS, 1, POST);
const CANCEL: Frame<'_> = (RST_STREAM, 0, 1, &[0, 0, 0, 8]);
const TRAILERS: Frame<'_> = (HEADERS, END, 1, b"\x00\x01a\x01b");

/// Sends each case over a connection of its own.
async fn each(proxy: &TestProxy, cases: &[(&str, &[Frame<'_>])], mut then: impl AsyncFnMut(&str, Raw)) {
    for (name, frames) in cases {
        let mut raw = Raw::to(proxy).await;
        for (kind, flags, stream, payload) in *frames {
            // The proxy may have ended the connection already.
            raw.frame(*kind, *flags, *stream, payload).await;
        }
        then(name, raw).await;
    }
}

#[tokio::test]
async fn what_breaks_a_connection_ends_it_with_the_code_of_the_rule() {
    let origin = Origin::fixed("here").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut count = 0.0;
    let mut check = async |code: u32, cases: &[(&str, &[Frame<'_>])]| {
        each(&proxy, cases, async |name, mut raw| {
            assert_eq!(raw.goaway().await, Some(code), "{name}");
            assert!(raw.is_closed().await, "{name}");
        })
        .await;
        count += cases.len() as f64;
    };
    let large = vec![0; (32 << 10) + 1];
    let window = (WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff][..]);
    check(
        PROTOCOL_ERROR,
        &[
            ("4.3/2 another frame within a block", &[(HEADERS, 1, 1, GET), (PRIORITY, 0, 1, &[0; 5])]),
            ("4.3/3 a head of another stream within a block", &[(HEADERS, 1, 1, GET), (HEADERS, END, 3, GET)]),
            ("5.1/1 data on an idle stream", &[(DATA, 1, 1, b"x")]),
            ("5.1/2 reset of an idle stream", &[CANCEL]),
            ("5.1/3 window of an idle stream", &[(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])]),
            ("5.1/4 continuation of an idle stream", &[(CONTINUATION, END_HEADERS, 1, GET)]),
            ("5.1/7 continuation of a half-closed stream", &[ASKED, (CONTINUATION, END_HEADERS, 1, GET)]),
            ("5.1/10 continuation after a reset", &[ASKING, CANCEL, (CONTINUATION, END_HEADERS, 1, GET)]),
            ("5.1.1/1 an even stream", &[(HEADERS, END, 2, GET)]),
            ("5.1.1/2 a lower stream", &[(HEADERS, END, 5, GET), (HEADERS, END, 3, GET)]),
            ("5.3.1/1 a head that depends on itself, and changes the table: not a stream error, since what follows would be misread",
             &[(HEADERS, END | WITH_PRIORITY, 1, b"\0\0\0\x01\x10\x82\x86\x84\x41\x04test")]),
            ("5.5/2 an unknown frame within a block", &[(HEADERS, 1, 1, GET), (99, 0, 0, b"x")]),
            ("6.1/1 data of no stream", &[(DATA, 1, 0, b"x")]),
            ("6.1/3 more padding than data", &[ASKING, (DATA, PADDED | 1, 1, b"\x05test")]),
            ("6.2/1 a block that is not finished before priority", &[(HEADERS, 1, 1, GET), (PRIORITY, 0, 3, &[0; 5])]),
            ("6.2/3 a head of no stream", &[(HEADERS, END, 0, GET)]),
            ("6.2/4 more padding than head", &[(HEADERS, END | PADDED, 1, b"\xff\x82")]),
            ("6.3/1 priority of no stream", &[(PRIORITY, 0, 0, &[0; 5])]),
            ("6.4/1 reset of no stream", &[(RST_STREAM, 0, 0, &[0; 4])]),
            ("6.4/2 reset of an idle stream", &[(RST_STREAM, 0, 7, &[0; 4])]),
            ("6.5/2 settings of a stream", &[(SETTINGS, 0, 1, &[])]),
            ("6.5.2/1 push is 0 or 1", &[(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2])]),
            ("6.5.2/3 frames too small", &[(SETTINGS, 0, 0, &[0, 5, 0, 0, 0x3f, 0xff])]),
            ("6.5.2/4 frames too large", &[(SETTINGS, 0, 0, &[0, 5, 1, 0, 0, 0])]),
            ("6.7/3 a ping of a stream", &[(PING, 0, 1, &[0; 8])]),
            ("6.8/1 goaway of a stream", &[(GOAWAY, 0, 1, &[0; 8])]),
            ("6.9/1 a window update of nothing", &[(WINDOW_UPDATE, 0, 0, &[0; 4])]),
            ("6.9/2 the same of a stream: not a stream error, h2 has it so", &[ASKING, (WINDOW_UPDATE, 0, 1, &[0; 4])]),
            ("6.10/2 data within a block", &[(HEADERS, 1, 1, GET), (CONTINUATION, 0, 1, b""), (DATA, 1, 1, b"x")]),
            ("6.10/3 continuation of no stream", &[(HEADERS, 1, 1, GET), (CONTINUATION, 4, 0, b"")]),
            ("6.10/4 continuation after the end", &[ASKING, (CONTINUATION, 4, 1, b"")]),
            ("6.10/5 continuation after the last one", &[(HEADERS, 0, 1, POST), (CONTINUATION, 4, 1, b""), (CONTINUATION, 4, 1, b"")]),
            ("6.10/6 continuation after data", &[ASKING, (DATA, 0, 1, b"x"), (CONTINUATION, 4, 1, b"")]),
            ("8.1.2/1 a name in upper case: not a stream error, h2 has it so", &[(HEADERS, END, 1, b"\x82\x86\x84\x41\x04test\x00\x01X\x01y")]),
            ("8.1.2.1/1 an unknown pseudo-field: not a stream error, h2 has it so", &[(HEADERS, END, 1, b"\x82\x86\x84\x41\x04test\x00\x05:test\x02ok")]),
            ("8.2/1 a promise of a client", &[ASKING, (PUSH_PROMISE, 4, 1, b"\0\0\0\x02\x82")]),
        ],
    )
    .await;
    check(
        STREAM_CLOSED,
        &[
            ("5.1/5 data on a half-closed stream", &[ASKED, (DATA, 1, 1, b"x")]),
            ("5.1/6 a head on a half-closed stream", &[ASKED, ASKED]),
            ("5.1/8 data after a reset", &[ASKING, CANCEL, (DATA, 1, 1, b"x")]),
            ("5.1/9 a head after a reset", &[ASKING, CANCEL, ASKED]),
            ("6.1/2 data on a stream that the client has ended", &[ASKING, (DATA, 1, 1, b"x"), (DATA, 1, 1, b"x")]),
        ],
    )
    .await;
    check(
        FRAME_SIZE_ERROR,
        &[
            ("4.2/2 data above the largest frame", &[ASKING, (DATA, 1, 1, &large)]),
            ("4.2/3 a head above the largest frame", &[(HEADERS, END, 1, &large)]),
            ("6.3/2 a short priority: h2spec takes a stream error too", &[(PRIORITY, 0, 1, &[0; 4])]),
            ("6.4/3 a short reset", &[ASKING, (RST_STREAM, 0, 1, &[0; 3])]),
            ("6.5/1 an acknowledgement with settings", &[(SETTINGS, 1, 0, &[0; 6])]),
            ("6.5/3 half a setting", &[(SETTINGS, 0, 0, &[0; 3])]),
            ("5.4.1/1, 6.7/4 a short ping", &[(PING, 0, 0, &[0; 6])]),
            ("6.8 a short goaway", &[(GOAWAY, 0, 0, &[0; 4])]),
            ("6.9/3 a short window update", &[(WINDOW_UPDATE, 0, 0, &[0, 0, 1])]),
        ],
    )
    .await;
    check(
        FLOW_CONTROL_ERROR,
        &[
            ("6.5.2/2, 6.9.2/3 a window too large", &[(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0])]),
            ("6.9.1/2 the connection's window overflows", &[window, window]),
        ],
    )
    .await;
    check(
        COMPRESSION_ERROR,
        &[
            ("4.3/1 half a field", &[(HEADERS, END, 1, &GET[..6])]),
            ("4.3 half a field in its last frame", &[(HEADERS, 1, 1, &GET[..6]), (CONTINUATION, 4, 1, b"te")]),
            ("hpack 2.3.3/1 an index beyond the table", &[(HEADERS, END, 1, b"\x82\x86\x84\x41\x04test\xc6")]),
            (
                "hpack 2.3.3/2 a name beyond the table",
                &[(HEADERS, END, 1, b"\x82\x86\x84\x41\x04test\x7f\x07\x04test")],
            ),
            ("hpack 4.2/1 a size after the fields", &[(HEADERS, END, 1, b"\x82\x86\x84\x41\x04test\x20")]),
            (
                "hpack 5.2/1 more than seven bits of padding",
                &[(HEADERS, END, 1, b"\x82\x86\x84\x41\x04test\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff")],
            ),
            (
                "hpack 5.2/2 padding of zeros",
                &[(HEADERS, END, 1, b"\x82\x86\x84\x41\x04test\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90")],
            ),
            (
                "hpack 5.2/3 the end symbol in a text",
                &[(
                    HEADERS,
                    END,
                    1,
                    b"\x82\x86\x84\x41\x04test\x00\x85\xf2\xb2\x4a\x87\xff\x89\xff\xff\xff\xff\xe2\x49\x50\x9f\xff",
                )],
            ),
            ("hpack 6.1/1 index 0", &[(HEADERS, END, 1, b"\x82\x86\x84\x41\x04test\x80")]),
            (
                "hpack 6.3/1 a size above what was allowed",
                &[(HEADERS, END, 1, b"\x3f\xe2\x1f\x82\x86\x84\x41\x04test")],
            ),
            ("hpack 5.1 a number without end", &[(HEADERS, END, 1, b"\xff\x80\x80\x80\x80\x80\x80\x80\x80\x01")]),
            ("4.3 trailers with an index beyond the table", &[ASKING, (HEADERS, END, 1, b"\xc6")]),
        ],
    )
    .await;
    proxy.until_metric("proxy_http2_protocol_errors_total", count).await;
    assert_eq!(proxy.get("/").await.text(), "here");
}

#[tokio::test]
async fn what_breaks_a_stream_ends_it_alone_with_the_code_of_the_rule() {
    let origin = Origin::scripted(|mut connection: OriginConnection| async move {
        // Answers once it has the whole of a request: none of these is one.
        while connection.request().await.is_some() {
            connection.send(&crate::support::ok("here")).await;
        }
    })
    .await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let check = async |code: u32, cases: &[(&str, &[Frame<'_>])]| {
        each(&proxy, cases, async |name, mut raw| {
            let ended = raw.next_of(&[RST_STREAM, GOAWAY]).await;
            assert_eq!(ended, Some((1, code.to_be_bytes().to_vec())), "{name}");
            raw.frame(HEADERS, END, 201, GET).await;
            assert_eq!(raw.next(HEADERS).await.map(|(stream, _)| stream), Some(201), "{name}: others go on");
        })
        .await;
    };
    let with = |more: &[u8]| [GET, more].concat();
    let field = |name: &str, value: &str| {
        [&[0, name.len() as u8][..], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
    };
    let length = |value: &str| [POST, &field("content-length", value)].concat();
    let flow = (WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff][..]);
    check(FLOW_CONTROL_ERROR, &[("6.9.1/3 a stream's window overflows", &[ASKING, flow, flow])]).await;
    check(
        PROTOCOL_ERROR,
        &[
            (
                "5.3.1/1 a head that depends on itself",
                &[(HEADERS, END | WITH_PRIORITY, 1, b"\0\0\0\x01\x10\x82\x86\x84")],
            ),
            ("5.3.1/2 priority that depends on itself", &[ASKING, (PRIORITY, 0, 1, &[0, 0, 0, 1, 16])]),
            (
                "8.1/1 a second head that is not the end",
                &[ASKING, (DATA, 0, 1, b"x"), (HEADERS, END_HEADERS, 1, TRAILERS.3)],
            ),
            ("8.1.2.1/2 a pseudo-field of answers", &[(HEADERS, END, 1, &with(&field(":status", "200")))]),
            ("8.1.2.1/3 a pseudo-field in trailers", &[ASKING, (DATA, 0, 1, b"x"), (HEADERS, END, 1, b"\x82")]),
            ("8.1.2.1/3 an unknown one", &[ASKING, (HEADERS, END, 1, &field(":method", "x"))]),
            ("8.1.2.1/4 a pseudo-field after others", &[(HEADERS, END, 1, &[&field("a", "b"), GET].concat())]),
            ("8.1.2.2/1 a field of connections", &[(HEADERS, END, 1, &with(&field("connection", "keep-alive")))]),
            ("8.1.2.2/2 TE other than trailers", &[(HEADERS, END, 1, &with(&field("te", "trailers, deflate")))]),
            ("8.1.2.3/1 an empty path", &[(HEADERS, END, 1, b"\x82\x86\x41\x04test\x04\0")]),
            ("8.1.2.3/2 no method", &[(HEADERS, END, 1, b"\x86\x84\x41\x04test")]),
            ("8.1.2.3/3 no scheme", &[(HEADERS, END, 1, b"\x82\x84\x41\x04test")]),
            ("8.1.2.3/4 no path", &[(HEADERS, END, 1, b"\x82\x86\x41\x04test")]),
            ("8.1.2.3/5 two methods", &[(HEADERS, END, 1, &with(b"\x82"))]),
            ("8.1.2.3/6 two schemes", &[(HEADERS, END, 1, &with(b"\x86"))]),
            ("8.1.2.3/7 two paths", &[(HEADERS, END, 1, &with(b"\x84"))]),
            ("8.1.2.6/1 a body longer than its length", &[(HEADERS, 4, 1, &length("1")), (DATA, 1, 1, b"test")]),
            ("8.1.2.6/2 in several frames", &[(HEADERS, 4, 1, &length("1")), (DATA, 0, 1, b"te"), (DATA, 1, 1, b"st")]),
            ("8.1.2.6 a body shorter than its length", &[(HEADERS, 4, 1, &length("5")), (DATA, 1, 1, b"test")]),
            (
                "8.1.2.6 two lengths",
                &[(HEADERS, 4, 1, &[length("4"), field("content-length", "5")].concat()), (DATA, 1, 1, b"test")],
            ),
            ("8.3.1 a path with a fragment", &[(HEADERS, END, 1, b"\x82\x86\x41\x04test\x04\x04/a#b")]),
            ("8.3.1 a path that is a whole URL", &[(HEADERS, END, 1, b"\x82\x86\x41\x04test\x04\x08http://a")]),
            ("8.3.1 a path that is a query", &[(HEADERS, END, 1, b"\x82\x86\x41\x04test\x04\x02?a")]),
            ("8.3.1 the same, in the table", &[(HEADERS, END, 1, b"\x82\x86\x41\x04test\x44\x04/a#b")]),
            (
                "8.3.1 a scheme that is not of HTTP",
                &[(HEADERS, END, 1, &[&b"\x82\x84\x41\x04test"[..], &field(":scheme", "ftp")].concat())],
            ),
            (
                "RFC 8441 a protocol that is a line end and a field",
                &[(
                    HEADERS,
                    END_HEADERS,
                    1,
                    &[&b"\x02\x07CONNECT\x86\x84\x41\x04test"[..], &field(":protocol", "websocket\r\nx: y")].concat(),
                )],
            ),
            (
                "RFC 8441 a protocol that is two words",
                &[(
                    HEADERS,
                    END_HEADERS,
                    1,
                    &[&b"\x02\x07CONNECT\x86\x84\x41\x04test"[..], &field(":protocol", "web socket")].concat(),
                )],
            ),
            ("8.2.1 a value that begins with a space", &[(HEADERS, END, 1, &with(&field("a", " b")))]),
            ("8.2.1 a value that ends with a tab", &[(HEADERS, END, 1, &with(&field("a", "b\t")))]),
        ],
    )
    .await;
    let requests = origin.requests();
    assert!(requests.iter().all(|seen| seen.line() == "GET / HTTP/1.1" && seen.body.is_empty()), "{requests:?}");
}

#[tokio::test]
async fn flawed_trailers_of_a_complete_body_reset_a_stream_that_has_no_answer() {
    // A body as long as it says makes the request complete: an endpoint that answers may be first.
    let origin =
        Origin::scripted(
            |mut connection: OriginConnection| async move { while connection.request().await.is_some() {} },
        )
        .await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let length = [POST, b"\0\x0econtent-length\x011"].concat();
    let cases: &[(&str, &[Frame<'_>])] = &[(
        "8.1.2.1/3 after a body with a length",
        &[(HEADERS, 4, 1, &length), (DATA, 0, 1, b"x"), (HEADERS, END, 1, b"\x84")],
    )];
    each(&proxy, cases, async |name, mut raw| {
        let ended = raw.next_of(&[RST_STREAM, GOAWAY]).await;
        assert_eq!(ended, Some((1, PROTOCOL_ERROR.to_be_bytes().to_vec())), "{name}");
    })
    .await;
}

#[tokio::test]
async fn what_a_client_may_do_is_answered() {
    let origin = Origin::fixed("here").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let huffman = b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff";
    let with = |more: &[u8]| [GET, more].concat();
    let padded = [&b"\x04"[..], GET, &[0; 4]].concat();
    let dependent = |weight: u8, exclusive: u8| [&[exclusive, 0, 0, 0, weight], GET].concat();
    let before = |size: &[u8]| [size, GET].concat();
    let full = vec![b'x'; 16 << 10];
    let cases: &[(&str, &[Frame<'_>])] = &[
        ("generic 1/1, 3.5/1 a preface", &[ASKED]),
        ("generic 2/1 priority of an idle stream", &[(PRIORITY, 0, 1, &[0, 0, 0, 0, 255]), ASKED]),
        ("generic 2/2 a window of a half-closed stream", &[ASKED, (WINDOW_UPDATE, 0, 1, &[0, 0, 0, 100])]),
        ("generic 2/3 priority of a half-closed stream", &[ASKED, (PRIORITY, 0, 1, &[0, 0, 0, 0, 255])]),
        ("generic 2/4 reset of a half-closed stream", &[ASKED, CANCEL, (HEADERS, END, 3, GET)]),
        (
            "generic 2/5 priority of a closed stream",
            &[ASKED, CANCEL, (PRIORITY, 0, 1, &[0, 0, 0, 0, 255]), (HEADERS, END, 3, GET)],
        ),
        ("generic 3.1/1 data", &[ASKING, (DATA, 1, 1, b"test")]),
        ("generic 3.1/2 data in several frames", &[ASKING, (DATA, 0, 1, b"test"), (DATA, 1, 1, b"test")]),
        ("generic 3.1/3 padded data", &[ASKING, (DATA, PADDED | 1, 1, b"\x04test\0\0\0\0")]),
        ("generic 3.2/1 a head", &[ASKED]),
        ("generic 3.2/2 a padded head", &[(HEADERS, END | PADDED, 1, &padded)]),
        ("generic 3.2/3 a head with priority", &[(HEADERS, END | WITH_PRIORITY, 1, &dependent(255, 0))]),
        ("generic 3.3/1 priority 1", &[(PRIORITY, 0, 1, &[0; 5]), ASKED]),
        ("generic 3.3/2 priority 256", &[(PRIORITY, 0, 1, &[0, 0, 0, 0, 255]), ASKED]),
        ("generic 3.3/3 a dependency", &[(PRIORITY, 0, 3, &[0, 0, 0, 1, 255]), ASKED]),
        ("generic 3.3/4 an exclusive dependency", &[(HEADERS, END | WITH_PRIORITY, 1, &dependent(1, 0x80))]),
        ("generic 3.3/5 priority of an idle stream, then a lower one", &[(PRIORITY, 0, 5, &[0, 0, 0, 0, 1]), ASKED]),
        ("generic 3.4/1 a reset", &[ASKING, CANCEL, (HEADERS, END, 3, GET)]),
        ("generic 3.5/1 settings", &[(SETTINGS, 0, 0, &[]), ASKED]),
        ("generic 3.8/1 goaway: streams from before are answered", &[ASKED, (GOAWAY, 0, 0, &[0; 8])]),
        ("generic 3.9/1 the connection's window", &[(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), ASKED]),
        ("generic 3.9/2 a stream's window", &[ASKING, (WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), (DATA, 1, 1, b"x")]),
        ("generic 3.10/1 a continuation", &[(HEADERS, 1, 1, &GET[..2]), (CONTINUATION, 4, 1, &GET[2..])]),
        (
            "generic 3.10/2, 6.10/1 continuations that cut a field",
            &[(HEADERS, 1, 1, &GET[..2]), (CONTINUATION, 0, 1, &GET[2..6]), (CONTINUATION, 4, 1, &GET[6..])],
        ),
        ("generic 4/3 a POST", &[ASKING, (DATA, 1, 1, b"test")]),
        ("generic 4/4 a POST with trailers", &[ASKING, (DATA, 0, 1, b"test"), TRAILERS]),
        ("generic 5/1 an indexed field", &[(HEADERS, END, 1, &with(b"\x90"))]),
        ("generic 5/2 a field that enters the table", &[(HEADERS, END, 1, &with(b"\x7a\x04test"))]),
        ("generic 5/3 the same by Huffman's code", &[(HEADERS, END, 1, huffman)]),
        ("generic 5/4 with a new name", &[(HEADERS, END, 1, &with(b"\x40\x01a\x01b"))]),
        (
            "generic 5/5 the same with Huffman's code",
            &[(HEADERS, END, 1, &with(b"\x40\x88\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f\x86\xa8\xeb\x10\x64\x9c\xbf"))],
        ),
        ("generic 5/6 a field that does not", &[(HEADERS, END, 1, &with(b"\x0f\x2b\x04test"))]),
        ("generic 5/8 with a new name", &[(HEADERS, END, 1, &with(b"\x00\x01a\x01b"))]),
        ("generic 5/10 a field that never does", &[(HEADERS, END, 1, &with(b"\x1f\x2b\x04test"))]),
        ("generic 5/12 with a new name", &[(HEADERS, END, 1, &with(b"\x10\x01a\x01b"))]),
        ("generic 5/14 a size of the table", &[(HEADERS, END, 1, &before(b"\x20"))]),
        ("generic 5/15 two sizes", &[(HEADERS, END, 1, &before(b"\x20\x3f\xe1\x1f"))]),
        ("generic 5 a field from the table", &[(HEADERS, END, 1, &with(b"\x40\x01a\x01b\xbe"))]),
        ("4.1/1 an unknown frame", &[(99, 0, 0, b"anything"), ASKED]),
        ("4.1/2 undefined flags", &[(PING, 0xfe, 0, &[0; 8]), ASKED]),
        ("4.1/3 the reserved bit", &[(PING, 0, 1 << 31, &[0; 8]), ASKED]),
        ("4.2/1 the largest frame that all take", &[ASKING, (DATA, 1, 1, &full)]),
        ("5.5/1 an unknown frame", &[(22, 0, 0, b"extension"), ASKED]),
        ("6.5.2/5 unknown settings", &[(SETTINGS, 0, 0, &[0, 99, 0, 0, 0, 1]), ASKED]),
        ("6.7/2 an answer to no ping", &[(PING, 1, 0, &[0; 8]), ASKED]),
        ("7/1 goaway with an unknown code", &[ASKED, (GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0xff])]),
        ("7/2 a reset with an unknown code", &[ASKING, (RST_STREAM, 0, 1, &[0, 0, 0, 99]), (HEADERS, END, 3, GET)]),
        (
            "8.3.1 a scheme of another connection: whatever lies before the proxy may speak TLS",
            &[(HEADERS, END, 1, b"\x82\x87\x84\x41\x04test")],
        ),
        ("8.3.1 OPTIONS of the server", &[(HEADERS, END, 1, b"\x02\x07OPTIONS\x86\x41\x04test\x04\x01*")]),
    ];
    each(&proxy, cases, async |name, mut raw| {
        let answer = raw.next_of(&[DATA, RST_STREAM, GOAWAY]).await.map(|(_, payload)| payload);
        assert_eq!(answer.as_deref(), Some(&b"here"[..]), "{name}");
    })
    .await;
}

#[tokio::test]
async fn an_answer_to_head_has_no_data() {
    let origin = Origin::fixed("here").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut raw = Raw::to(&proxy).await;
    // generic 4/2
    let [_, scheme, authority, path] = PSEUDO;
    raw.head(1, END, &[(":method", "HEAD"), scheme, authority, path]).await;
    let flags = raw.flags_of_next(HEADERS).await.unwrap();
    assert_eq!(flags & END_STREAM, END_STREAM);
}

#[tokio::test]
async fn a_connection_begins_with_preface_and_settings() {
    let origin = Origin::fixed("here").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    for (kind, flags, payload) in [(PING, 0, &[0; 8][..]), (SETTINGS, 1, &[])] {
        let mut raw = Raw::without_settings(&proxy).await;
        raw.frame(kind, flags, 0, payload).await;
        assert_eq!(raw.goaway().await, Some(PROTOCOL_ERROR), "{kind}");
        assert!(raw.is_closed().await);
    }
    // 3.5/2: what is no preface is no HTTP/2; h2spec wants the connection to end.
    let mut client = proxy.client().await;
    client.send("INVALID CONNECTION PREFACE\r\n\r\n").await;
    assert_eq!(client.response().await.status, 400);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn settings_and_pings_are_acknowledged() {
    let origin = Origin::fixed("here").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut raw = Raw::to(&proxy).await;
    // 6.5.3/2: the proxy's own come first, then the acknowledgement.
    assert_eq!(raw.flags_of_next(SETTINGS).await, Some(0));
    assert_eq!(raw.flags_of_next(SETTINGS).await, Some(1));
    // 6.7/1, generic 3.7/1
    raw.frame(PING, 0, 0, b"h2spec\0\0").await;
    assert_eq!(raw.next(PING).await, Some((0, b"h2spec\0\0".to_vec())));
}

#[tokio::test]
async fn windows_are_kept_to_the_byte() {
    let origin = Origin::fixed("here").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let sized = |size: u8| [0, 4, 0, 0, 0, size];
    // 6.9.1/1
    let mut raw = Raw::to(&proxy).await;
    raw.frame(SETTINGS, 0, 0, &sized(1)).await;
    raw.frame(HEADERS, END, 1, GET).await;
    assert_eq!(raw.next(DATA).await.unwrap().1, b"h");
    raw.frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 3]).await;
    assert_eq!(raw.next(DATA).await.unwrap().1, b"ere");
    // 6.5.3/1: the last of several values counts.
    let mut raw = Raw::to(&proxy).await;
    raw.frame(SETTINGS, 0, 0, &[sized(100), sized(1)].concat()).await;
    raw.frame(HEADERS, END, 1, GET).await;
    assert_eq!(raw.next(DATA).await.unwrap().1, b"h");
    // 6.9.2/1: a change counts for streams that are open.
    let mut raw = Raw::to(&proxy).await;
    raw.frame(SETTINGS, 0, 0, &sized(0)).await;
    raw.frame(HEADERS, END, 1, GET).await;
    raw.next(HEADERS).await.unwrap();
    raw.frame(SETTINGS, 0, 0, &sized(1)).await;
    assert_eq!(raw.next(DATA).await.unwrap().1, b"h");
    // 6.9.2/2: and can leave less than nothing.
    let mut raw = Raw::to(&proxy).await;
    raw.frame(SETTINGS, 0, 0, &sized(3)).await;
    raw.frame(HEADERS, END, 1, GET).await;
    assert_eq!(raw.next(DATA).await.unwrap().1, b"her");
    raw.frame(SETTINGS, 0, 0, &sized(2)).await;
    raw.frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 2]).await;
    assert_eq!(raw.next(DATA).await.unwrap().1, b"e");
}

#[tokio::test]
async fn streams_above_the_limit_are_refused() {
    let origin =
        Origin::scripted(|mut connection: OriginConnection| async move { while connection.fill().await {} }).await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut raw = Raw::to(&proxy).await;
    // 5.1.2/1
    for index in 0..=128 {
        raw.frame(HEADERS, END, 1 + 2 * index, GET).await;
    }
    assert_eq!(raw.next(RST_STREAM).await, Some((257, REFUSED_STREAM.to_be_bytes().to_vec())));
}

#[tokio::test]
async fn frames_for_streams_that_are_closed_on_both_sides_are_errors() {
    let origin = Origin::fixed("here").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    // 5.1/11 to 5.1/13: the answer has ended, and the client ended before.
    for (kind, code) in [(DATA, STREAM_CLOSED), (HEADERS, STREAM_CLOSED), (CONTINUATION, PROTOCOL_ERROR)] {
        let mut raw = Raw::to(&proxy).await;
        raw.frame(HEADERS, END, 1, GET).await;
        raw.next(DATA).await.unwrap();
        raw.frame(kind, END, 1, GET).await;
        assert_eq!(raw.goaway().await, Some(code), "{kind}");
    }
}
