//! What is refused because it may be read in two ways, and that nothing of it leaves the proxy.

use crate::support::{Origin, TestProxy, apart, to, until};

#[tokio::test]
async fn ambiguous_requests_are_refused_and_nothing_of_them_is_forwarded() {
    let origin = Origin::fixed("").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let host = "Host: test\r\n";
    let cases: &[(&str, String)] = &[
        (
            "length and chunked",
            format!("POST / HTTP/1.1\r\n{host}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ),
        (
            "chunked and length",
            format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n"),
        ),
        ("equal lengths", format!("POST / HTTP/1.1\r\n{host}Content-Length: 3\r\nContent-Length: 3\r\n\r\n")),
        ("different lengths", format!("POST / HTTP/1.1\r\n{host}Content-Length: 3\r\nContent-Length: 4\r\n\r\n")),
        ("length list", format!("POST / HTTP/1.1\r\n{host}Content-Length: 3, 3\r\n\r\n")),
        ("signed length", format!("POST / HTTP/1.1\r\n{host}Content-Length: +3\r\n\r\n")),
        ("negative length", format!("POST / HTTP/1.1\r\n{host}Content-Length: -3\r\n\r\n")),
        ("hexadecimal length", format!("POST / HTTP/1.1\r\n{host}Content-Length: 0x3\r\n\r\n")),
        ("spaced length", format!("POST / HTTP/1.1\r\n{host}Content-Length: 1 0\r\n\r\n")),
        ("empty length", format!("POST / HTTP/1.1\r\n{host}Content-Length:\r\n\r\n")),
        ("huge length", format!("POST / HTTP/1.1\r\n{host}Content-Length: 18446744073709551616\r\n\r\n")),
        ("gzip, chunked", format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: gzip, chunked\r\n\r\n")),
        ("chunked, identity", format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked, identity\r\n\r\n")),
        ("identity", format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: identity\r\n\r\n")),
        ("xchunked", format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: xchunked\r\n\r\n")),
        ("vertical tab", format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: \x0bchunked\r\n\r\n")),
        ("quoted", format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: \"chunked\"\r\n\r\n")),
        ("twice", format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n")),
        ("chunked in 1.0", format!("POST / HTTP/1.0\r\n{host}Transfer-Encoding: chunked\r\n\r\n")),
        ("fold", format!("GET / HTTP/1.1\r\n{host}X: a\r\n b\r\n\r\n")),
        ("fold before the first field", format!("GET / HTTP/1.1\r\n X: a\r\n{host}\r\n")),
        ("bare cr in a value", format!("GET / HTTP/1.1\r\n{host}X: a\rb\r\n\r\n")),
        ("bare cr as line end", format!("GET / HTTP/1.1\r\n{host}X: a\rY: b\r\n\r\n")),
        ("bare lf as line end", format!("GET / HTTP/1.1\r\n{host}X: a\nY: b\r\n\r\n")),
        ("bare lf after the request line", format!("GET / HTTP/1.1\n{host}\r\n")),
        ("bare lf at the end", format!("GET / HTTP/1.1\r\n{host}\n")),
        ("nul in a value", format!("GET / HTTP/1.1\r\n{host}X: a\0b\r\n\r\n")),
        ("nul in a name", format!("GET / HTTP/1.1\r\n{host}X\0: a\r\n\r\n")),
        ("control byte", format!("GET / HTTP/1.1\r\n{host}X: a\x01b\r\n\r\n")),
        ("del", format!("GET / HTTP/1.1\r\n{host}X: a\x7fb\r\n\r\n")),
        ("space before colon", format!("GET / HTTP/1.1\r\n{host}X : a\r\n\r\n")),
        ("space in a framing name", format!("POST / HTTP/1.1\r\n{host}Content-Length : 3\r\n\r\n")),
        ("no colon", format!("GET / HTTP/1.1\r\n{host}X\r\n\r\n")),
        ("empty name", format!("GET / HTTP/1.1\r\n{host}: a\r\n\r\n")),
        ("no host", "GET / HTTP/1.1\r\n\r\n".to_owned()),
        ("no host with absolute target", "GET http://test/ HTTP/1.1\r\n\r\n".to_owned()),
        ("two hosts", format!("GET / HTTP/1.1\r\n{host}{host}\r\n")),
        ("empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n".to_owned()),
        ("host list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n".to_owned()),
        ("host with path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".to_owned()),
        ("host with user", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n".to_owned()),
        ("host with space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned()),
        ("host with bad port", "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n".to_owned()),
        ("host with open bracket", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n".to_owned()),
        ("host with bytes", "GET / HTTP/1.1\r\nHost: gr\u{fc}n\r\n\r\n".to_owned()),
        ("user in absolute target", format!("GET http://u@b/ HTTP/1.1\r\n{host}\r\n")),
        ("other scheme", format!("GET ftp://b/ HTTP/1.1\r\n{host}\r\n")),
        ("relative target", format!("GET b HTTP/1.1\r\n{host}\r\n")),
        ("fragment", format!("GET /a#b HTTP/1.1\r\n{host}\r\n")),
        ("asterisk", format!("GET * HTTP/1.1\r\n{host}\r\n")),
        ("connect", "CONNECT test:443 HTTP/1.1\r\nHost: test:443\r\n\r\n".to_owned()),
        ("a port beyond 65535", "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n".to_owned()),
        ("a long method", format!("{} / HTTP/1.1\r\n{host}\r\n", "A".repeat(41))),
        ("two spaces", format!("GET  / HTTP/1.1\r\n{host}\r\n")),
        ("space in target", format!("GET /a b HTTP/1.1\r\n{host}\r\n")),
        ("tab in request line", format!("GET\t/ HTTP/1.1\r\n{host}\r\n")),
        ("no version", format!("GET /\r\n{host}\r\n")),
        ("version 2.0", format!("GET / HTTP/2.0\r\n{host}\r\n")),
        ("lower-case version", format!("GET / http/1.1\r\n{host}\r\n")),
        ("bad method", format!("G@T / HTTP/1.1\r\n{host}\r\n")),
        ("tls hello", "\x16\x03\x01\x02\x00\x01\x00".to_owned()),
        ("escaped nul", format!("GET /a%00b HTTP/1.1\r\n{host}\r\n")),
        ("dots above the root", format!("GET /a/../../b HTTP/1.1\r\n{host}\r\n")),
        ("too many connection options", format!("GET / HTTP/1.1\r\n{host}Connection: {}\r\n\r\n", "a,".repeat(100))),
    ];
    for (name, request) in cases {
        let mut client = proxy.client().await;
        // What follows would be the smuggled request.
        let response = client.ask(format!("{request}GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n")).await;
        assert_eq!((response.status, response.category()), (400, "bad_request".to_owned()), "{name}");
        if !["escaped nul", "dots above the root"].contains(name) {
            assert_eq!(response.header("connection"), Some("close"), "{name}");
            assert!(client.is_closed().await, "{name}");
        }
    }
    // Only after a bad path does the connection go on.
    until("the requests after bad paths", async || (origin.requests().len() == 2).then_some(())).await;
    assert!(origin.requests().iter().all(|seen| seen.line() == "GET /smuggled HTTP/1.1"));
}

#[tokio::test]
async fn malformed_chunks_end_the_request() {
    let origin = Origin::fixed("").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let bodies = [
        "g\r\nabc\r\n0\r\n\r\n",
        "\r\n0\r\n\r\n",
        ";x\r\n0\r\n\r\n",
        "-1\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "3 \r\nabc\r\n0\r\n\r\n",
        "3 4;x\r\nabc\r\n0\r\n\r\n",
        "3\t\r\nabc\r\n0\r\n\r\n",
        "3\nabc\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nab\r\n0\r\n\r\n",
        "3;a\nb\r\nabc\r\n0\r\n\r\n",
        "3;a\0\r\nabc\r\n0\r\n\r\n",
        "ffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "10000000000000000\r\nabc\r\n0\r\n\r\n",
        "0\r\nContent-Length: 3\r\n\r\n",
        "0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "0\r\nHost: evil\r\n\r\n",
        "0\r\nX : a\r\n\r\n",
        "0\r\nX: a\n\r\n",
        "0\r\nX: a\r\n b\r\n\r\n",
        "0\r\n\n",
        "0\n\r\n",
    ];
    for body in bodies {
        for split in [false, true] {
            let mut client = proxy.client().await;
            let head = "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
            if split {
                client.send(format!("{head}1\r\nx\r\n")).await;
                client.send(body).await;
            } else {
                client.send(format!("{head}{body}")).await;
            }
            client.send("GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n").await;
            let response = client.response().await;
            assert_eq!((response.status, response.category()), (400, "bad_request".to_owned()), "{body:?} {split}");
            assert!(client.is_closed().await, "{body:?}");
        }
    }
    assert!(origin.requests().is_empty(), "no request was complete");
}

/// White space before an extension is bad, but has one reading (RFC 9112 §7.1.1); neither goes on.
#[tokio::test]
async fn extensions_of_chunks_are_read_and_dropped() {
    let origin = Origin::fixed("fine").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    for size in ["3;a=b", "3 ;a=b", "3\t ; a=\"b;c\"", "3;a;b", "003;a"] {
        let mut client = proxy.client().await;
        let head = "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(client.ask(format!("{head}{size}\r\nabc\r\n0;x\r\n\r\n")).await.text(), "fine", "{size}");
        assert_eq!(origin.requests().pop().unwrap().body, b"abc", "{size}");
    }
}

#[tokio::test]
async fn ambiguous_answers_are_a_502_and_their_connection_is_closed() {
    let answers = [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\nY: b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "SSH-2.0-OpenSSH_9.6\r\n",
    ];
    let origin = Origin::start(move |request| {
        let number: usize = request.line().split('/').nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        answers[number].as_bytes().to_vec()
    })
    .await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut client = proxy.client().await;
    for (number, answer) in answers.iter().enumerate() {
        let response = client.get(&format!("/{number}")).await;
        assert_eq!((response.status, response.category()), (502, "upstream_reset".to_owned()), "{answer:?}");
    }
    assert_eq!(origin.connections(), answers.len());
}

#[tokio::test]
async fn bytes_after_an_answer_belong_to_nobody() {
    let origin = Origin::start(|request| match request.line() {
        "GET /extra HTTP/1.1" => {
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nsplit".to_vec()
        }
        "HEAD /head HTTP/1.1" => b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec(),
        "GET /304 HTTP/1.1" => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello".to_vec(),
        _ => b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine".to_vec(),
    })
    .await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut client = proxy.client().await;
    assert_eq!(client.get("/extra").await.text(), "a");
    assert_eq!(client.get("/").await.text(), "fine");
    client.send("HEAD /head HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!(client.head_response().await.header("content-length"), Some("5"));
    assert_eq!(client.get("/").await.text(), "fine");
    assert_eq!(client.get("/304").await.status, 304);
    assert_eq!(client.get("/").await.text(), "fine");
}

/// An empty line is none of the request that follows, however the bytes are cut (RFC 9112 §2.2).
#[tokio::test]
async fn an_empty_line_before_a_request_may_be_cut_anywhere() {
    let origin = Origin::fixed("here").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let text = "\r\n\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n";
    for first in [true, false] {
        for cut in 1..12 {
            let mut client = proxy.client().await;
            if !first {
                assert_eq!(client.get("/").await.status, 200);
            }
            let (start, rest) = text.split_at(cut);
            client.send(start).await;
            apart().await;
            assert_eq!(client.ask(rest).await.text(), "here", "{first} {cut}");
            // The same after a body.
            client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\na{start}")).await;
            assert_eq!(client.response().await.status, 200);
            assert_eq!(client.ask(rest).await.text(), "here", "{first} {cut}");
        }
    }
}
