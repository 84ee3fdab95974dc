//! Compression of answers: what is compressed, what is left alone, and that a real inflate reads it.

use std::io::Read as _;

use crate::middleware::chain;
use crate::support::http2::Http2;
use crate::support::{Client, Origin, Response, TestProxy, noise, patiently};

const STAGE: &str = "{ type: compression, config: { min_length: 100 } }";

fn text(length: usize) -> String {
    (0..).flat_map(|number: u32| format!("line {number}\n").into_bytes()).take(length).map(char::from).collect()
}

fn answer(fields: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

async fn ask(proxy: &TestProxy, line: &str, headers: &str) -> Response {
    let mut client = proxy.client().await;
    client.send(format!("{line} HTTP/1.1\r\nHost: test\r\n{headers}\r\n")).await;
    if line.starts_with("HEAD") { client.head_response().await } else { client.response().await }
}

fn inflate(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut decoder = flate2::bufread::GzDecoder::new(bytes);
    decoder.read_to_end(&mut out).unwrap();
    assert!(decoder.into_inner().is_empty(), "nothing follows the end");
    out
}

#[tokio::test]
async fn what_is_compressed_is_read_back_and_says_what_it_is() {
    let body = text(50_000);
    let sent = body.clone();
    let fields = "Content-Type: text/plain; charset=utf-8\r\nETag: \"abc\"\r\nAccept-Ranges: bytes\r\nVary: Cookie\r\n";
    let origin = Origin::start(move |_| answer(fields, &sent)).await;
    let proxy = TestProxy::start(&chain(&origin, &[STAGE])).await;
    let response = ask(&proxy, "GET /", "Accept-Encoding: deflate, gzip\r\n").await;
    assert_eq!(response.header("content-encoding"), Some("gzip"));
    assert_eq!(response.header("transfer-encoding"), Some("chunked"));
    assert_eq!((response.header("content-length"), response.header("accept-ranges")), (None, None));
    assert_eq!(response.header("etag"), Some("W/\"abc\""));
    let vary: Vec<_> = response.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("vary")).collect();
    assert_eq!(vary.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["Cookie", "Accept-Encoding"]);
    assert!(response.body.len() < body.len() / 3);
    assert_eq!(inflate(&response.body), body.as_bytes());

    let plain = ask(&proxy, "GET /", "").await;
    assert_eq!((plain.header("content-encoding"), plain.header("etag")), (None, Some("\"abc\"")));
    assert!(plain.headers.iter().any(|(_, value)| value == "Accept-Encoding"), "caches are told all the same");
    assert_eq!(plain.body, body.as_bytes());
    let head = ask(&proxy, "HEAD /", "Accept-Encoding: gzip\r\n").await;
    assert_eq!((head.header("content-encoding"), head.header("content-length")), (Some("gzip"), None));
    // The connection goes on after each of them.
    let mut client = proxy.client().await;
    for _ in 0..3 {
        let response = client.ask("GET / HTTP/1.1\r\nHost: test\r\nAccept-Encoding: gzip\r\n\r\n").await;
        assert_eq!(inflate(&response.body), body.as_bytes());
    }
}

#[tokio::test]
async fn clients_get_the_coding_that_they_want_most() {
    let body = text(50_000);
    let sent = body.clone();
    let origin = Origin::start(move |_| answer("Content-Type: text/html\r\nETag: \"abc\"\r\n", &sent)).await;
    let proxy = TestProxy::start(&chain(&origin, &[STAGE])).await;
    let read = |coding: &str, bytes: &[u8]| -> Vec<u8> {
        let mut out = Vec::new();
        match coding {
            "br" => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut out).unwrap(),
            "zstd" => zstd::stream::read::Decoder::new(bytes).unwrap().read_to_end(&mut out).unwrap(),
            _ => return inflate(bytes),
        };
        out
    };
    for (wanted, coding) in [
        ("gzip, deflate, br, zstd", "br"),
        ("gzip, zstd", "zstd"),
        ("br;q=0.1, gzip;q=0.9", "gzip"),
        ("zstd, *;q=0.5", "zstd"),
    ] {
        let response = ask(&proxy, "GET /", &format!("Accept-Encoding: {wanted}\r\n")).await;
        assert_eq!(response.header("content-encoding"), Some(coding), "{wanted}");
        assert_eq!((response.header("etag"), response.header("vary")), (Some("W/\"abc\""), Some("Accept-Encoding")));
        assert!(response.body.len() < body.len() / 3, "{wanted}: {}", response.body.len());
        assert_eq!(read(coding, &response.body), body.as_bytes(), "{wanted}");
    }
    let stage = "{ type: compression, config: { encodings: [gzip] } }";
    let only = TestProxy::start(&chain(&origin, &[stage])).await;
    let response = ask(&only, "GET /", "Accept-Encoding: br, zstd, gzip;q=0.1\r\n").await;
    assert_eq!(response.header("content-encoding"), Some("gzip"));
    let response = ask(&only, "GET /", "Accept-Encoding: br, zstd\r\n").await;
    assert_eq!((response.header("content-encoding"), response.header("vary")), (None, Some("Accept-Encoding")));
}

#[tokio::test]
async fn what_must_not_be_compressed_is_left_alone() {
    let body = text(5000);
    let cases: &[(&str, &str)] = &[
        ("an image", "Content-Type: image/png\r\n"),
        ("no type", ""),
        ("compressed already", "Content-Type: text/plain\r\nContent-Encoding: br\r\n"),
        ("no-transform", "Content-Type: text/plain\r\nCache-Control: public, no-transform\r\n"),
        ("a digest", "Content-Type: text/plain\r\nContent-Digest: sha-256=:AAA=:\r\n"),
        ("a range", "Content-Type: text/plain\r\nContent-Range: bytes 0-9/10\r\n"),
    ];
    for (name, fields) in cases {
        let (sent, fields) = (body.clone(), (*fields).to_owned());
        let origin = Origin::start(move |_| answer(&fields, &sent)).await;
        let proxy = TestProxy::start(&chain(&origin, &[STAGE])).await;
        let response = ask(&proxy, "GET /", "Accept-Encoding: gzip\r\n").await;
        assert_ne!(response.header("content-encoding"), Some("gzip"), "{name}");
        assert_eq!(response.body, body.as_bytes(), "{name}");
        assert_eq!(response.header("content-length"), Some("5000"), "{name}");
    }
    let origin = Origin::start(|request| match request.line() {
        "GET /small HTTP/1.1" => answer("Content-Type: text/plain\r\n", "small"),
        "GET /none HTTP/1.1" => b"HTTP/1.1 204 No Content\r\nContent-Type: text/plain\r\n\r\n".to_vec(),
        "GET /same HTTP/1.1" => b"HTTP/1.1 304 Not Modified\r\nContent-Type: text/plain\r\nETag: \"a\"\r\n\r\n".to_vec(),
        _ => {
            let body = text(500);
            format!("HTTP/1.1 206 Part\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-499/900\r\nContent-Length: 500\r\n\r\n{body}").into()
        }
    })
    .await;
    let proxy = TestProxy::start(&chain(&origin, &[STAGE])).await;
    for (path, status, length) in [("/small", 200, 5), ("/none", 204, 0), ("/same", 304, 0), ("/part", 206, 500)] {
        let response = ask(&proxy, &format!("GET {path}"), "Accept-Encoding: gzip\r\n").await;
        assert_eq!((response.status, response.header("content-encoding")), (status, None), "{path}");
        assert_eq!(response.body.len(), length, "{path}");
    }
    let old = proxy.client().await.ask("GET /part HTTP/1.0\r\nHost: test\r\nAccept-Encoding: gzip\r\n\r\n").await;
    assert_eq!(old.header("content-encoding"), None);
}

#[tokio::test]
async fn bodies_of_every_framing_and_size_come_through() {
    for length in [1, 100, 16_384, 70_000, 1_000_000] {
        let mut content = text(length / 2).into_bytes();
        content.extend(noise(length - length / 2, length as u64));
        for framing in ["length", "chunked", "close"] {
            let sent = content.clone();
            let origin = Origin::start(move |_| {
                let mut bytes = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n".to_vec();
                match framing {
                    "length" => {
                        bytes.extend(format!("Content-Length: {}\r\n\r\n", sent.len()).into_bytes());
                        bytes.extend(&sent);
                    }
                    "chunked" => {
                        bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                        for chunk in sent.chunks(9999) {
                            bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                            bytes.extend(chunk);
                            bytes.extend(b"\r\n");
                        }
                        bytes.extend(b"0\r\nX-Trailer: 1\r\n\r\n");
                    }
                    _ => {
                        bytes.extend(b"Connection: close\r\n\r\n");
                        bytes.extend(&sent);
                    }
                }
                bytes
            })
            .await;
            let stage = "{ type: compression, config: { min_length: 0 } }";
            let proxy = TestProxy::start(&chain(&origin, &[stage])).await;
            let response = ask(&proxy, "GET /", "Accept-Encoding: gzip\r\n").await;
            assert_eq!(response.header("content-encoding"), Some("gzip"), "{framing} {length}");
            assert!(!response.truncated);
            assert_eq!(inflate(&response.body), content, "{framing} {length}");
        }
    }
}

#[tokio::test]
async fn events_are_passed_on_as_they_come_and_a_truncated_body_is_never_complete() {
    let origin = Origin::scripted(|mut connection| async move {
        let Some(_) = connection.head().await else { return };
        connection
            .send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        for _ in 0..3 {
            connection.send(b"9\r\ndata: a\n\n\r\n").await;
            // The client has read this one before the next is sent.
            if connection.line().await.is_none() {
                return;
            }
        }
    })
    .await;
    let proxy = TestProxy::start(&chain(&origin, &[STAGE])).await;
    let mut client: Client<_> = proxy.client().await;
    // The lines after the head are a body that tells the origin how far the client has come.
    client.send("POST / HTTP/1.1\r\nHost: test\r\nAccept-Encoding: gzip\r\nContent-Length: 6\r\n\r\n").await;
    while !read_line(&mut client).await.is_empty() {}
    let mut inflated = Vec::new();
    let mut decoder = flate2::write::GzDecoder::new(&mut inflated);
    for event in 1..=3usize {
        while decoder.get_ref().len() < event * 9 {
            let line = read_line(&mut client).await;
            let length = usize::from_str_radix(&line, 16).unwrap();
            let chunk = client.read_exact(length + 2).await;
            std::io::Write::write_all(&mut decoder, &chunk[..length]).unwrap();
            std::io::Write::flush(&mut decoder).unwrap();
        }
        if event < 3 {
            client.send("\r\n").await;
        }
    }
    client.send("\r\n").await;
    assert!(patiently("the end", client.is_closed()).await, "no last chunk");
}

#[tokio::test]
async fn a_refusal_after_a_broken_answer_is_not_said_to_be_compressed() {
    let origin = Origin::start(|_| {
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n".to_vec()
    })
    .await;
    let proxy = TestProxy::start(&chain(&origin, &[STAGE])).await;
    let response = ask(&proxy, "GET /", "Accept-Encoding: gzip\r\n").await;
    assert_eq!((response.status, response.category()), (502, "upstream_reset".to_owned()));
    assert_eq!((response.header("content-encoding"), response.header("vary")), (None, None));
}

async fn read_line(client: &mut Client<tokio::net::TcpStream>) -> String {
    let mut line = Vec::new();
    loop {
        line.extend(client.read_exact(1).await);
        if line.ends_with(b"\r\n") {
            return String::from_utf8(line[..line.len() - 2].to_vec()).unwrap();
        }
    }
}

#[tokio::test]
async fn chains_hold_for_http2_too() {
    let body = text(20_000);
    let sent = body.clone();
    let origin = Origin::start(move |_| answer("Content-Type: text/plain\r\n", &sent)).await;
    let stages = [
        "request_id",
        "{ type: rate_limit, config: { requests_per_second: 0.001, burst: 2 } }",
        "{ type: header_transform, config: { set: { X-Added: a }, response: { set: { X-Back: b } } } }",
        STAGE,
    ];
    let proxy = TestProxy::start(&chain(&origin, &stages)).await;
    let client = Http2::to(&proxy).await;
    let request = || {
        let request = http::Request::get("http://test/").header("accept-encoding", "gzip");
        request.header("x-request-id", "abc").body(()).unwrap()
    };
    for _ in 0..2 {
        let whole = client.ask(request()).await;
        assert_eq!((whole.status.as_u16(), whole.header("x-request-id")), (200, Some("abc")));
        assert_eq!((whole.header("content-encoding"), whole.header("content-length")), (Some("gzip"), None));
        assert_eq!(whole.header("x-back"), Some("b"));
        assert_eq!(inflate(&whole.body), body.as_bytes());
    }
    let refused = client.ask(request()).await;
    assert_eq!((refused.status.as_u16(), refused.category()), (429, "rate_limited".to_owned()));
    assert_eq!(refused.header("x-request-id"), Some("abc"));
    assert!(refused.header("retry-after").is_some());
    assert_eq!(origin.requests()[0].header("x-added"), Some("a"));
}
