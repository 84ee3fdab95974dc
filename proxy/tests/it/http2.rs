//! HTTP/2 from clients: the same requests and answers as in HTTP/1.1, and what only HTTP/2 has.

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::http2::{END, Http2, PSEUDO, Raw, get, read, send_all, whole};
use crate::support::{Origin, OriginConnection, TestProxy, apart, noise, ok, patiently, to, until};

#[tokio::test]
async fn a_client_that_begins_with_http2_is_served_in_it() {
    let origin = Origin::start(|seen| ok(&format!("{} {}", seen.line(), seen.header("host").unwrap()))).await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let client = Http2::to(&proxy).await;
    for path in ["/", "/a?b=%20c", "/*"] {
        let answer = client.get(path).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.text(), format!("GET {path} HTTP/1.1 test"));
        assert_eq!(answer.header("content-length"), Some(&*answer.body.len().to_string()));
        assert!(answer.header("date").is_some());
        assert_eq!((answer.header("connection"), answer.header("transfer-encoding")), (None, None));
    }
    let seen = origin.requests().pop().unwrap();
    assert_eq!((seen.header("via"), seen.header("x-forwarded-proto")), (Some("2.0 sealane"), Some("http")));
    assert_eq!(origin.connections(), 1);
    proxy.until_metric("proxy_http2_streams_total", 3.0).await;
    proxy.until_metric("proxy_requests_total{route=\"all\",pool=\"route/all\",status=\"200\"}", 3.0).await;
}

#[tokio::test]
async fn a_preface_may_come_in_pieces_and_a_lookalike_is_http1() {
    let origin = Origin::fixed("here").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut tcp = TcpStream::connect(proxy.address()).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    for piece in [&b"PRI "[..], b"* HTTP/2.0\r\n\r", b"\nSM\r", b"\n\r\n"] {
        tcp.write_all(piece).await.unwrap();
        apart().await;
    }
    // SETTINGS of the proxy; its type is the fourth byte.
    tcp.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut header = [0; 9];
    patiently("settings", tcp.read_exact(&mut header)).await.unwrap();
    assert_eq!(header[3], 4);
    for (opening, status) in [("P", "OST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n")] {
        let mut client = proxy.client().await;
        client.send(opening).await;
        apart().await;
        assert_eq!(client.ask(status).await.text(), "here");
        assert_eq!(client.get("/").await.text(), "here");
    }
    assert_eq!(proxy.client().await.ask("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n").await.status, 400);
    // Only the first bytes decide.
    let mut client = proxy.client().await;
    client.get("/").await;
    assert_eq!(client.ask("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.status, 400);
}

#[tokio::test]
async fn bodies_go_both_ways_with_and_without_a_length() {
    let origin = Origin::scripted(|mut connection: OriginConnection| async move {
        while let Some(seen) = connection.request().await {
            let chunked = seen.header("transfer-encoding").is_some();
            assert_eq!(chunked, seen.header("content-length").is_none());
            if chunked {
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n";
                connection.send(head.as_bytes()).await;
                for piece in seen.body.chunks(10_000) {
                    connection.send(format!("{:x}\r\n", piece.len()).as_bytes()).await;
                    connection.send(piece).await;
                    connection.send(b"\r\n").await;
                }
                connection.send(b"0\r\nX-Sum: 7\r\n\r\n").await;
            } else {
                connection
                    .send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", seen.body.len()).as_bytes())
                    .await;
                connection.send(&seen.body).await;
            }
        }
    })
    .await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let client = Http2::to(&proxy).await;
    let check = async |length: usize, with_length: bool| {
        let body = Bytes::from(noise(length, length as u64));
        let mut request = Request::post("http://test/");
        if with_length {
            request = request.header("content-length", length);
        }
        let (response, mut stream) = client.start(request.body(()).unwrap(), false).await;
        let sent = body.clone();
        let sender = tokio::spawn(async move {
            send_all(&mut stream, sent.clone(), true).await;
            if sent.is_empty() {
                stream.send_data(Bytes::new(), true).unwrap();
            }
        });
        let answer = whole(response).await.unwrap();
        sender.await.unwrap();
        assert_eq!(answer.status, 200, "{:?}", answer.text());
        assert!(answer.body == body, "{length}");
        let sum = answer.trailers.as_ref().and_then(|trailers| trailers.get("x-sum"));
        assert_eq!(sum.is_some(), !with_length, "{length}");
    };
    for length in [0, 1, 100, 70_000, 3_000_000] {
        futures_util::join!(check(length, true), check(length, false));
    }
}

#[tokio::test]
async fn a_body_of_the_clients_trailers_reaches_the_endpoint() {
    let origin = Origin::scripted(|mut connection: OriginConnection| async move {
        connection.head().await.unwrap();
        while !connection.buffer.ends_with(b"0\r\nx-check: ok\r\n\r\n") {
            assert!(connection.fill().await);
        }
        connection.send(&ok("yes")).await;
    })
    .await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let client = Http2::to(&proxy).await;
    let (response, mut stream) = client.start(Request::post("http://test/").body(()).unwrap(), false).await;
    stream.send_data(Bytes::from_static(b"abc"), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-check", "ok".parse().unwrap());
    stream.send_trailers(trailers).unwrap();
    assert_eq!(whole(response).await.unwrap().text(), "yes");
}

#[tokio::test]
async fn the_proxys_own_answers_are_the_same_as_in_http1() {
    let origin = Origin::fixed("").await;
    let yaml = format!(
        "routes: [{{ path: /only, to: 'http://{}', policy: {{ body_size_limit: 10B }} }}]\nlimits: {{ max_url_bytes: 200B }}\n",
        origin.address
    );
    let proxy = TestProxy::start(&yaml).await;
    let client = Http2::to(&proxy).await;
    let answer = client.get("/nowhere").await;
    assert_eq!((answer.status.as_u16(), answer.category()), (404, "no_route".to_owned()));
    let answer = client.get(&format!("/{}", "a".repeat(300))).await;
    assert_eq!((answer.status.as_u16(), answer.category()), (414, "uri_too_long".to_owned()));
    let large = Request::post("http://test/only").header("content-length", 11).body(()).unwrap();
    let (response, _stream) = client.start(large, false).await;
    let answer = whole(response).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.category()), (413, "request_too_large".to_owned()));
    let (response, mut stream) = client.start(Request::post("http://test/only").body(()).unwrap(), false).await;
    stream.send_data(Bytes::from_static(&[0; 20]), false).unwrap();
    assert_eq!(whole(response).await.unwrap().category(), "request_too_large");
    let head = client.ask(Request::head("http://test/nowhere").body(()).unwrap()).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (404, 0));
    assert_eq!(client.get("/only").await.status, 200, "the connection goes on");
}

#[tokio::test]
async fn a_head_above_the_limit_is_refused() {
    let origin = Origin::fixed("here").await;
    let proxy =
        TestProxy::start(&format!("{}limits: {{ max_header_bytes: 4KB, max_headers: 20 }}\n", to(&[origin.address])))
            .await;
    let client = Http2::to(&proxy).await;
    let request = Request::get("http://test/").header("x-large", "a".repeat(4500)).body(()).unwrap();
    assert_eq!(client.ask(request).await.status, 431);
    let mut many = Request::get("http://test/");
    for index in 0..30 {
        many = many.header(format!("x-{index}"), "1");
    }
    assert_eq!(client.ask(many.body(()).unwrap()).await.status, 431);
    assert_eq!(client.get("/").await.text(), "here");
}

#[tokio::test]
async fn authority_and_host_name_one_host() {
    let origin = Origin::fixed("").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let client = Http2::to(&proxy).await;
    let ask = async |uri: &str, host: Option<&str>| {
        let mut request = Request::get(uri);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        client.ask(request.body(()).unwrap()).await.status.as_u16()
    };
    assert_eq!(ask("http://a.test/", Some("A.test")).await, 200);
    assert_eq!(origin.requests().pop().unwrap().header("host"), Some("a.test"));
    assert_eq!(ask("http://a.test/", Some("b.test")).await, 400);
    assert_eq!(ask("http://user@a.test/", None).await, 400);
}

#[tokio::test]
async fn cookies_in_crumbs_are_one_field_and_te_goes_on() {
    let origin = Origin::fixed("").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let client = Http2::to(&proxy).await;
    let request = Request::get("http://test/").header("cookie", "a=1").header("cookie", "b=2").header("te", "trailers");
    client.ask(request.body(()).unwrap()).await;
    let seen = origin.requests().pop().unwrap();
    assert_eq!((seen.header("cookie"), seen.header("te")), (Some("a=1; b=2"), Some("trailers")));
}

const RST_STREAM: u8 = 3;
const PROTOCOL_ERROR: [u8; 4] = [0, 0, 0, 1];

#[tokio::test]
async fn a_malformed_request_ends_its_stream_alone() {
    let origin = Origin::fixed("here").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut raw = Raw::to(&proxy).await;
    let [method, scheme, authority, path] = PSEUDO;
    let with = |more: &[(&'static str, &'static str)]| [&PSEUDO[..], more].concat();
    let mut stream = 1;
    for fields in [
        with(&[("connection", "close")]),
        with(&[("keep-alive", "1")]),
        with(&[("proxy-connection", "close")]),
        with(&[("transfer-encoding", "chunked")]),
        with(&[("upgrade", "websocket")]),
        with(&[("te", "gzip")]),
        with(&[("content-length", "5")]),
        with(&[(":path", "/")]),
        vec![scheme, authority, path],
        vec![method, authority, path],
        vec![method, scheme, authority],
        vec![method, scheme, authority, (":path", "")],
        vec![("x", "1"), method, scheme, authority, path],
        with(&[("x", "1"), (":status", "200")]),
    ] {
        assert!(raw.head(stream, END, &fields).await, "{fields:?}");
        let (reset, code) = raw.next(RST_STREAM).await.unwrap_or_else(|| panic!("{fields:?} ended the connection"));
        assert_eq!((reset, code), (stream, PROTOCOL_ERROR.to_vec()), "{fields:?}");
        stream += 2;
    }
    // Names that are none may cost the connection.
    for name in ["X-Upper", ":unknown", "a b", ""] {
        let mut raw = Raw::to(&proxy).await;
        assert!(raw.head(1, END, &with(&[(name, "1")])).await);
        let (_, payload) = raw.next_of(&[RST_STREAM, 7]).await.unwrap();
        assert_eq!(payload[payload.len().saturating_sub(4)..][..4], PROTOCOL_ERROR, "{name:?}");
    }
    // A body that is not as long as was said.
    for (length, body) in [("3", "ab"), ("3", "abcd")] {
        assert!(raw.head(stream, 4, &with(&[("content-length", length)])).await);
        raw.frame(0, 1, stream, body.as_bytes()).await;
        assert_eq!(raw.next(RST_STREAM).await.unwrap(), (stream, PROTOCOL_ERROR.to_vec()), "{length}");
        stream += 2;
    }
    // CONNECT without a protocol is understood, and not served.
    raw.head(stream, END, &[(":method", "CONNECT"), (":authority", "test:443")]).await;
    assert_eq!(raw.next(1).await.unwrap().0, stream);
    raw.head(stream + 2, END, &PSEUDO).await;
    assert_eq!(raw.next(1).await.unwrap().0, stream + 2, "the connection goes on");
}

#[tokio::test]
async fn frames_that_achieve_nothing_end_the_connection() {
    let origin = Origin::fixed("here").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let good = Http2::to(&proxy).await;
    let mut floods = 0.0;
    for (name, (kind, flags), payload) in [
        ("ping", (6, 0), &[0; 8][..]),
        ("answers to no ping", (6, 1), &[0; 8]),
        ("settings", (4, 0), &[]),
        ("priority", (2, 0), &[0, 0, 0, 0, 1]),
        ("unknown", (99, 0), &[]),
        ("window update", (8, 0), &[0, 0, 0, 1]),
    ] {
        let mut raw = Raw::to(&proxy).await;
        let stream = if kind == 2 { 1 } else { 0 };
        for _ in 0..10_000 {
            if !raw.frame(kind, flags, stream, payload).await {
                break;
            }
        }
        assert_eq!(raw.goaway().await, Some(0xb), "{name}");
        floods += 1.0;
        proxy.until_metric("proxy_http2_floods_total", floods).await;
        assert_eq!(good.get("/").await.text(), "here");
    }
    // Requests that are given up as soon as they are made.
    let mut raw = Raw::to(&proxy).await;
    for stream in (1..20_000).step_by(2) {
        if !raw.head(stream, END, &PSEUDO).await || !raw.frame(3, 0, stream, &[0, 0, 0, 8]).await {
            break;
        }
    }
    assert_eq!(raw.goaway().await, Some(0xb), "rapid reset");
    // Requests that the proxy has to end because of what follows them.
    let mut raw = Raw::to(&proxy).await;
    for stream in (1..20_000).step_by(2) {
        if !raw.head(stream, END, &PSEUDO).await || !raw.frame(8, 0, stream, &[0x7f, 0xff, 0xff, 0xff]).await {
            break;
        }
    }
    assert_eq!(raw.goaway().await, Some(0xb), "made you reset");
    // A head that never ends.
    let mut raw = Raw::to(&proxy).await;
    raw.head(1, 1, &PSEUDO).await;
    for _ in 0..10_000 {
        if !raw.frame(9, 0, 1, b"\x00\x01a\x01b").await {
            break;
        }
    }
    assert!(raw.goaway().await.is_some(), "continuation");
    // Pieces of a body without content.
    let mut raw = Raw::to(&proxy).await;
    raw.head(1, 4, &PSEUDO).await;
    for _ in 0..100_000 {
        if !raw.frame(0, 0, 1, &[]).await {
            break;
        }
    }
    assert!(raw.goaway().await.is_some(), "empty data");
    assert_eq!(good.get("/").await.text(), "here");
}

#[tokio::test]
async fn a_head_must_come_in_time() {
    let origin = Origin::fixed("here").await;
    let yaml = format!("{}limits: {{ read_header_timeout: 200ms }}\n", to(&[origin.address]));
    let proxy = TestProxy::start(&yaml).await;
    // No preface, half of one, and half of a head.
    let mut half = proxy.client().await;
    half.send("PRI * HT").await;
    let mut begun = Raw::to(&proxy).await;
    begun.head(1, 1, &PSEUDO).await;
    assert_eq!(begun.next(99).await, None, "closed");
    assert_eq!(half.response().await.status, 408);
}

#[tokio::test]
async fn a_client_that_gives_up_is_given_up_at_the_endpoint() {
    let origin = Origin::scripted(|mut connection: OriginConnection| async move {
        let seen = connection.request().await.unwrap();
        if seen.line().contains("begun") {
            connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await;
        }
        // The end of the connection is what is waited for.
        assert!(!connection.fill().await);
    })
    .await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let client = Http2::to(&proxy).await;
    let mut cancelled = 0.0;
    for path in ["/silent", "/begun"] {
        let (response, mut stream) = client.start(get(path), true).await;
        let answer = if path == "/begun" { Some(response.await.unwrap()) } else { None };
        until("the request to arrive", async || (origin.connections() as f64 > cancelled).then_some(())).await;
        stream.send_reset(Reason::CANCEL);
        cancelled += 1.0;
        // Faster than any timeout.
        patiently("the cancellation", proxy.until_metric("proxy_refused_total{category=\"client_closed\"}", cancelled))
            .await;
        drop(answer);
    }
    assert_eq!(proxy.metric("proxy_pool_in_flight{pool=\"route/all\"}").unwrap_or(0.0), 0.0);
}

#[tokio::test]
async fn interim_answers_reach_the_client() {
    let origin = Origin::scripted(|mut connection: OriginConnection| async move {
        while connection.request().await.is_some() {
            connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
            connection.send(&ok("done")).await;
        }
    })
    .await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let client = Http2::to(&proxy).await;
    let (mut response, _) = client.start(get("/"), true).await;
    let interim = patiently("hints", std::future::poll_fn(|cx| response.poll_informational(cx))).await;
    let interim: Response<()> = interim.unwrap().unwrap();
    assert_eq!((interim.status().as_u16(), interim.headers()["link"].to_str().unwrap()), (103, "</a>"));
    assert_eq!(whole(response).await.unwrap().text(), "done");
}

#[tokio::test]
async fn a_truncated_answer_is_a_reset_and_never_an_end() {
    let origin = Origin::scripted(|mut connection: OriginConnection| async move {
        let seen = connection.request().await.unwrap();
        let head: &[u8] = if seen.line().contains("chunked") {
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"
        } else {
            b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf"
        };
        connection.send(head).await;
    })
    .await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let client = Http2::to(&proxy).await;
    for path in ["/chunked", "/length"] {
        let (response, _) = client.start(get(path), true).await;
        let error = whole(response).await.unwrap_err();
        assert!(error.is_reset(), "{error}");
    }
}

#[tokio::test]
async fn a_client_that_reads_slowly_holds_up_its_own_stream_alone() {
    let body: &'static [u8] = noise(8_000_000, 3).leak();
    let origin = Origin::start(move |seen| {
        let body = if seen.line().contains("large") { body } else { b"small" };
        [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
    })
    .await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let client = Http2::to(&proxy).await;
    let (slow, _) = client.start(get("/large"), true).await;
    let slow = patiently("an answer", slow).await.unwrap();
    // Nothing of it is read, and nothing waits for that.
    for _ in 0..20 {
        assert_eq!(client.get("/small").await.text(), "small");
    }
    let (bytes, _) = read(slow.into_body()).await.unwrap();
    assert!(bytes == body);
}

#[tokio::test]
async fn a_drain_says_goaway_and_lets_streams_finish() {
    let (release, released) = tokio::sync::watch::channel(false);
    let origin = Origin::scripted(move |mut connection: OriginConnection| {
        let mut released = released.clone();
        async move {
            connection.request().await.unwrap();
            released.wait_for(|&released| released).await.unwrap();
            connection.send(&ok("at last")).await;
        }
    })
    .await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let client = Http2::to(&proxy).await;
    let (response, _) = client.start(get("/"), true).await;
    until("the request to arrive", async || (origin.connections() == 1).then_some(())).await;
    let idle = Http2::to(&proxy).await;
    let draining = tokio::spawn(async move {
        proxy.proxy.drain(sealane_proxy::proxy::Notice::Nobody).await;
    });
    patiently("the idle connection to end", idle.driver).await.unwrap().unwrap();
    until("goaway", async || client.send.clone().ready().await.is_err().then_some(())).await;
    release.send(true).unwrap();
    assert_eq!(whole(response).await.unwrap().text(), "at last");
    patiently("the connection to end", client.driver).await.unwrap().unwrap();
    patiently("the drain", draining).await.unwrap();
}

#[tokio::test]
async fn an_idle_connection_ends_politely() {
    let origin = Origin::fixed("here").await;
    let proxy = TestProxy::start(&format!("{}limits: {{ idle_timeout: 300ms }}\n", to(&[origin.address]))).await;
    let client = Http2::to(&proxy).await;
    assert_eq!(client.get("/").await.text(), "here");
    patiently("the end", client.driver).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_websocket_over_http2_is_an_upgrade_at_the_endpoint() {
    let origin = Origin::scripted(|mut connection: OriginConnection| async move {
        let head = connection.head().await.unwrap();
        assert!(head.starts_with("GET /chat HTTP/1.1\r\nHost: test\r\n"), "{head}");
        assert!(head.contains("\r\nConnection: Upgrade\r\nUpgrade: websocket"), "{head}");
        assert!(head.contains("sec-websocket-key: "), "{head}");
        assert!(head.contains("sec-websocket-protocol: chat"), "{head}");
        if head.contains("refuse") {
            return connection.send(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno").await;
        }
        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: chat\r\n\r\nfirst";
        connection.send(switch.as_bytes()).await;
        loop {
            let bytes = std::mem::take(&mut connection.buffer);
            connection.send(&bytes).await;
            if !connection.fill().await {
                return;
            }
        }
    })
    .await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let client = Http2::to(&proxy).await;
    until("settings", async || client.send.is_extended_connect_protocol_enabled().then_some(())).await;
    let connect = |extra: &str| {
        let request = Request::connect("http://test/chat").header("sec-websocket-version", "13");
        let mut request = request.header("sec-websocket-protocol", "chat").header("x-extra", extra).body(()).unwrap();
        request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        request
    };
    let (response, mut stream) = client.start(connect(""), false).await;
    let response = patiently("an answer", response).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
    for absent in ["sec-websocket-accept", "upgrade", "connection"] {
        assert!(!response.headers().contains_key(absent), "{absent}");
    }
    let large = Bytes::from(noise(1_000_000, 5));
    let sent = large.clone();
    let sender = tokio::spawn(async move {
        send_all(&mut stream, sent, true).await;
    });
    let (back, _) = read(response.into_body()).await.unwrap();
    sender.await.unwrap();
    assert!(back[..5] == *b"first" && back[5..] == large[..]);
    let (response, _stream) = client.start(connect("refuse"), false).await;
    let answer = whole(response).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.text()), (403, "no"));
}

#[tokio::test]
async fn a_grpc_client_reads_the_proxys_refusal_from_trailers() {
    let proxy = TestProxy::start(&to(&[crate::support::nobody().address])).await;
    let client = Http2::to(&proxy).await;
    let request = Request::post("http://test/a.B/C").header("content-type", "application/grpc+proto");
    let (response, mut stream) = client.start(request.body(()).unwrap(), false).await;
    stream.send_data(Bytes::from_static(b"\0\0\0\0\0"), true).unwrap();
    let answer = whole(response).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, Some("application/grpc")));
    assert_eq!(answer.header("grpc-status"), Some("14"));
    assert_eq!(answer.header("grpc-message"), Some("upstream_connect_failed: bad gateway"));
    assert_eq!((answer.header("content-length"), answer.body.len()), (None, 0));
    proxy.until_metric("proxy_refused_total{category=\"upstream_connect_failed\"}", 1.0).await;
}

/// Any bytes after a good start: the connection ends in order, no thread panics, and others are served.
#[tokio::test]
async fn no_frames_whatever_harm_the_proxy() {
    let origin = Origin::fixed("here").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let good = Http2::to(&proxy).await;
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    };
    // GET and POST to `/`, from HPACK's static table.
    let (get, post) = (b"\x82\x86\x84\x41\x04test", b"\x83\x86\x84\x41\x04test");
    let mut corpus = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    for part in [
        frame(4, 0, 0, &[0, 3, 0, 0, 0, 9, 0, 4, 0, 1, 0, 0]),
        frame(1, 5, 1, get),
        frame(1, 4, 3, post),
        frame(8, 0, 0, &[0, 0, 1, 0]),
        frame(0, 0, 3, b"abcdef"),
        frame(1, 0, 5, &get[..4]),
        frame(9, 4, 5, &get[4..]),
        frame(6, 0, 0, &[1; 8]),
        frame(2, 0, 3, &[0, 0, 0, 1, 16]),
        frame(3, 0, 5, &[0, 0, 0, 8]),
        frame(0, 1, 3, b"end"),
        frame(1, 5, 7, get),
        frame(7, 0, 0, &[0; 8]),
    ] {
        corpus.extend(part);
    }
    for seed in 0..300u64 {
        let mut bytes = corpus.clone();
        let random = noise(64, seed + 1);
        for pair in random.chunks(4).take(usize::from(random[0] % 6)) {
            let at = 24 + usize::from(u16::from_le_bytes([pair[0], pair[1]])) % (bytes.len() - 24);
            match pair[2] % 4 {
                0 => bytes[at] = pair[3],
                1 => bytes[at] ^= 1 << (pair[3] % 8),
                2 => bytes.insert(at, pair[3]),
                _ => bytes.truncate(at.max(30)),
            }
        }
        let mut tcp = TcpStream::connect(proxy.address()).await.unwrap();
        // A proxy that has ended the connection already is right too.
        let _ = tcp.write_all(&bytes).await;
        let _ = tcp.shutdown().await;
        let mut answer = Vec::new();
        let _ = patiently("the end", tcp.read_to_end(&mut answer)).await;
        assert_eq!(answer.get(3), Some(&4), "settings come first: {seed}");
    }
    assert_eq!(good.get("/").await.text(), "here");
    assert_eq!(proxy.metric("proxy_panics_total"), Some(0.0));
}
