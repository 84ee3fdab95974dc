//! What a client of HTTP/2 may not send, frame by frame, and the error codes of RFC 9113 that it gets for it.

use crate::http2::{END, PSEUDO, Raw};
use crate::support::{Origin, TestProxy, to};

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

/// The head of a GET: method, scheme, path, and `test` as authority.
const GET: &[u8] = b"\x82\x86\x84\x41\x04test";
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 0x20;

/// Kind, flags, stream, payload.
type Frame<'a> = (u8, u8, u32, &'a [u8]);

const ASKED: Frame<'_> = (HEADERS, END, 1, GET);
const ASKING: Frame<'_> = (HEADERS, END_HEADERS, 1, GET);
const CANCEL: Frame<'_> = (RST_STREAM, 0, 1, &[0, 0, 0, 8]);

#[tokio::test]
async fn each_broken_rule_of_frames_ends_the_connection_with_its_code() {
    let origin = Origin::fixed("here").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let cases: &[(&str, &[Frame<'_>], u32)] = &[
        ("4.3 another frame within a block", &[(HEADERS, 1, 1, GET), (PRIORITY, 0, 1, &[0; 5])], PROTOCOL_ERROR),
        ("4.3 another stream within a block", &[(HEADERS, 1, 1, GET), (HEADERS, END, 3, GET)], PROTOCOL_ERROR),
        ("5.1 data on an idle stream", &[(DATA, 1, 1, b"x")], PROTOCOL_ERROR),
        ("5.1 reset of an idle stream", &[CANCEL], PROTOCOL_ERROR),
        ("5.1 window of an idle stream", &[(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])], PROTOCOL_ERROR),
        ("5.1 continuation of nothing", &[(CONTINUATION, END_HEADERS, 1, GET)], PROTOCOL_ERROR),
        ("5.1 data after the end", &[ASKED, (DATA, 1, 1, b"x")], STREAM_CLOSED),
        ("5.1 a head after the end", &[ASKED, ASKED], STREAM_CLOSED),
        ("5.1 data after a reset", &[ASKING, CANCEL, (DATA, 1, 1, b"x")], STREAM_CLOSED),
        ("5.1 a head after a reset", &[ASKING, CANCEL, ASKED], STREAM_CLOSED),
        ("5.1.1 an even stream", &[(HEADERS, END, 2, GET)], PROTOCOL_ERROR),
        ("5.1.1 a lower stream", &[(HEADERS, END, 5, GET), (HEADERS, END, 3, GET)], PROTOCOL_ERROR),
        ("5.5 an unknown frame within a block", &[(HEADERS, 1, 1, GET), (99, 0, 0, b"x")], PROTOCOL_ERROR),
        ("6.1 data of no stream", &[(DATA, 1, 0, b"x")], PROTOCOL_ERROR),
        ("6.1 more padding than data", &[ASKING, (DATA, PADDED | 1, 1, b"\x05test")], PROTOCOL_ERROR),
        ("6.2 a head of no stream", &[(HEADERS, END, 0, GET)], PROTOCOL_ERROR),
        ("6.2 more padding than head", &[(HEADERS, END | PADDED, 1, b"\xff\x82")], PROTOCOL_ERROR),
        ("6.3 priority of no stream", &[(PRIORITY, 0, 0, &[0; 5])], PROTOCOL_ERROR),
        ("6.3 a short priority", &[(PRIORITY, 0, 1, &[0; 4])], FRAME_SIZE_ERROR),
        ("6.4 reset of no stream", &[(RST_STREAM, 0, 0, &[0; 4])], PROTOCOL_ERROR),
        ("6.4 a short reset", &[ASKING, (RST_STREAM, 0, 1, &[0; 3])], FRAME_SIZE_ERROR),
        ("6.5 an acknowledgement with settings", &[(SETTINGS, 1, 0, &[0; 6])], FRAME_SIZE_ERROR),
        ("6.5 settings of a stream", &[(SETTINGS, 0, 1, &[])], PROTOCOL_ERROR),
        ("6.5 half a setting", &[(SETTINGS, 0, 0, &[0; 3])], FRAME_SIZE_ERROR),
        ("6.5.2 push is 0 or 1", &[(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2])], PROTOCOL_ERROR),
        ("6.5.2 a window too large", &[(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0])], FLOW_CONTROL_ERROR),
        ("6.5.2 frames too small", &[(SETTINGS, 0, 0, &[0, 5, 0, 0, 0x3f, 0xff])], PROTOCOL_ERROR),
        ("6.5.2 frames too large", &[(SETTINGS, 0, 0, &[0, 5, 1, 0, 0, 0])], PROTOCOL_ERROR),
        ("6.6 a promise of a client", &[ASKING, (PUSH_PROMISE, 4, 1, b"\0\0\0\x02\x82")], PROTOCOL_ERROR),
        ("6.7 a ping of a stream", &[(PING, 0, 1, &[0; 8])], PROTOCOL_ERROR),
        ("6.7 a short ping", &[(PING, 0, 0, &[0; 6])], FRAME_SIZE_ERROR),
        ("6.8 goaway of a stream", &[(GOAWAY, 0, 1, &[0; 8])], PROTOCOL_ERROR),
        ("6.8 a short goaway", &[(GOAWAY, 0, 0, &[0; 4])], FRAME_SIZE_ERROR),
        ("6.9 a window update of nothing", &[(WINDOW_UPDATE, 0, 0, &[0; 4])], PROTOCOL_ERROR),
        ("6.9 a short window update", &[(WINDOW_UPDATE, 0, 0, &[0, 0, 1])], FRAME_SIZE_ERROR),
        (
            "6.9.1 the connection's window overflows",
            &[(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]), (WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])],
            FLOW_CONTROL_ERROR,
        ),
        (
            "6.10 data within a block",
            &[(HEADERS, 1, 1, GET), (CONTINUATION, 0, 1, b""), (DATA, 1, 1, b"x")],
            PROTOCOL_ERROR,
        ),
        ("6.10 continuation of no stream", &[(HEADERS, 1, 1, GET), (CONTINUATION, 4, 0, b"")], PROTOCOL_ERROR),
        ("6.10 continuation after the end", &[ASKING, (CONTINUATION, 4, 1, b"")], PROTOCOL_ERROR),
    ];
    for (name, frames, code) in cases {
        let mut raw = Raw::to(&proxy).await;
        for (kind, flags, stream, payload) in *frames {
            raw.frame(*kind, *flags, *stream, payload).await;
        }
        assert_eq!(raw.goaway().await, Some(*code), "{name}");
        assert!(raw.is_closed().await, "{name}");
    }
    proxy.until_metric("proxy_http2_protocol_errors_total", cases.len() as f64).await;
    assert_eq!(proxy.get("/").await.text(), "here");
}

#[tokio::test]
async fn a_connection_begins_with_settings_and_nothing_before() {
    let origin = Origin::fixed("here").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    for (kind, flags, payload) in [(PING, 0, &[0; 8][..]), (SETTINGS, 1, &[])] {
        let mut raw = Raw::without_settings(&proxy).await;
        raw.frame(kind, flags, 0, payload).await;
        assert_eq!(raw.goaway().await, Some(PROTOCOL_ERROR), "{kind}");
        assert!(raw.is_closed().await);
    }
}

#[tokio::test]
async fn frames_that_are_in_order_disturb_nothing() {
    let origin = Origin::fixed("here").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let head = |before: &[u8]| [before, GET].concat();
    let (padded, dependent) = ([&b"\x04"[..], GET, &[0; 4]].concat(), head(&[0, 0, 0, 0, 255]));
    let cases: &[(&str, &[Frame<'_>])] = &[
        ("4.1 an unknown frame", &[(99, 0, 0, b"anything"), ASKED]),
        ("4.1 undefined flags", &[(PING, 0xfe, 0, &[0; 8]), ASKED]),
        ("4.1 the reserved bit", &[(PING, 0, 1 << 31, &[0; 8]), ASKED]),
        ("5.1 priority of an idle stream", &[(PRIORITY, 0, 1, &[0, 0, 0, 0, 16]), ASKED]),
        ("6.1 padded data", &[ASKING, (DATA, PADDED | 1, 1, b"\x04test\0\0\0\0")]),
        ("6.2 a padded head", &[(HEADERS, END | PADDED, 1, &padded)]),
        ("6.2 a head with priority", &[(HEADERS, END | WITH_PRIORITY, 1, &dependent)]),
        ("6.5 unknown settings", &[(SETTINGS, 0, 0, &[0, 99, 0, 0, 0, 1]), ASKED]),
        ("6.7 an answer to no ping", &[(PING, 1, 0, &[0; 8]), ASKED]),
        (
            "6.10 a head in pieces",
            &[(HEADERS, END_STREAM, 1, &GET[..2]), (CONTINUATION, 0, 1, &GET[2..3]), (CONTINUATION, 4, 1, &GET[3..])],
        ),
        ("7 an unknown code", &[(HEADERS, 4, 1, GET), (RST_STREAM, 0, 1, &[0, 0, 0, 99]), (HEADERS, END, 3, GET)]),
        ("8.1 trailers", &[ASKING, (DATA, 0, 1, b"x"), (HEADERS, END, 1, b"\x00\x01a\x01b")]),
    ];
    for (name, frames) in cases {
        let mut raw = Raw::to(&proxy).await;
        for (kind, flags, stream, payload) in *frames {
            assert!(raw.frame(*kind, *flags, *stream, payload).await, "{name}");
        }
        let (_, body) = raw.next(DATA).await.unwrap_or_else(|| panic!("{name}: no answer"));
        assert_eq!(body, b"here", "{name}");
    }
}

#[tokio::test]
async fn a_scheme_that_is_not_of_http_is_malformed() {
    let origin = Origin::fixed("here").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut raw = Raw::to(&proxy).await;
    let [method, _, authority, path] = PSEUDO;
    for (index, scheme) in ["ftp", "javascript"].into_iter().enumerate() {
        let stream = 1 + 2 * index as u32;
        raw.head(stream, END, &[method, (":scheme", scheme), authority, path]).await;
        assert_eq!(raw.next(RST_STREAM).await, Some((stream, PROTOCOL_ERROR.to_be_bytes().to_vec())), "{scheme}");
    }
    raw.head(9, END, &[method, (":scheme", "https"), authority, path]).await;
    assert_eq!(raw.next(DATA).await.unwrap().1, b"here", "whatever lies before the proxy may speak TLS");
}
