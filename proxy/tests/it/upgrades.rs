//! WebSocket and other upgrades: only when both sides agree, and then bytes both ways.

use tokio::io::AsyncWriteExt as _;

use crate::support::{Origin, OriginConnection, TestProxy, noise, ok, patiently, to};

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// Switches protocols and echoes; what it sends with the head comes first.
async fn echo() -> Origin {
    Origin::scripted(|mut connection: OriginConnection| async move {
        let head = connection.head().await.unwrap();
        assert!(head.contains("\r\nConnection: Upgrade\r\nUpgrade: websocket"), "{head}");
        assert!(head.contains("Sec-WebSocket-Key: dGhl"));
        connection
            .send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX: y\r\n\r\nfirst")
            .await;
        loop {
            let bytes = std::mem::take(&mut connection.buffer);
            connection.send(&bytes).await;
            if !connection.fill().await {
                return;
            }
        }
    })
    .await
}

#[tokio::test]
async fn after_101_bytes_go_both_ways() {
    let origin = echo().await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut client = proxy.client().await;
    // The client does not wait for the 101.
    client.send(format!("{UPGRADE}early")).await;
    let response = client.response().await;
    assert_eq!((response.status, response.header("upgrade")), (101, Some("websocket")));
    assert_eq!((response.header("connection"), response.header("x")), (Some("Upgrade"), Some("y")));
    assert_eq!(client.read_exact(10).await, b"firstearly");
    client.send("hello").await;
    assert_eq!(client.read_exact(5).await, b"hello");
    let large = noise(3_000_000, 1);
    let (mut reading, mut writing) = client.stream.into_split();
    let sent = large.clone();
    let writer = tokio::spawn(async move {
        tokio::io::AsyncWriteExt::write_all(&mut writing, &sent).await.unwrap();
        writing
    });
    let mut back = vec![0; large.len()];
    patiently("the echo", tokio::io::AsyncReadExt::read_exact(&mut reading, &mut back)).await.unwrap();
    assert!(back == large);
    // The end of one side reaches the other, and back.
    drop(writer.await.unwrap());
    let read = patiently("the end", tokio::io::AsyncReadExt::read(&mut reading, &mut back)).await;
    assert_eq!(read.unwrap(), 0);
}

#[tokio::test]
async fn a_relay_that_one_side_has_ended_does_not_wait_for_the_other_for_ever() {
    let (told, mut hear) = tokio::sync::mpsc::channel(2);
    let origin = Origin::scripted(move |mut connection: OriginConnection| {
        let told = told.clone();
        async move {
            let head = connection.head().await.unwrap();
            connection
                .send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                .await;
            if head.starts_with("GET /leaves") {
                connection.stream.shutdown().await.unwrap();
            }
            // Sees the end of the client's side, and keeps its own open: only the proxy can end that.
            while connection.fill().await {}
            told.send(()).await.unwrap();
            std::future::pending::<()>().await;
        }
    })
    .await;
    let yaml = format!("limits: {{ idle_timeout: 300ms }}\n{}", to(&[origin.address]));
    let proxy = TestProxy::start(&yaml).await;
    // The client ends its side.
    let mut client = proxy.client().await;
    assert_eq!(client.ask(UPGRADE).await.status, 101);
    client.stream.shutdown().await.unwrap();
    patiently("the end at the endpoint", hear.recv()).await;
    assert!(client.is_closed().await);
    // The endpoint ends its side.
    let mut client = proxy.client().await;
    assert_eq!(client.ask(UPGRADE.replace("/chat", "/leaves")).await.status, 101);
    assert!(client.is_closed().await);
    patiently("the end at the endpoint", hear.recv()).await;
    proxy.until_metric("proxy_connections_open", 0.0).await;
}

#[tokio::test]
async fn an_endpoint_may_decline() {
    let origin =
        Origin::start(|_| b"HTTP/1.1 403 No\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nno".to_vec()).await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut client = proxy.client().await;
    for _ in 0..2 {
        let response = client.ask(UPGRADE).await;
        assert_eq!((response.status, response.text(), response.header("upgrade")), (403, "no", None));
    }
}

#[tokio::test]
async fn what_is_no_proper_upgrade_is_forwarded_without_it() {
    let origin = Origin::start(|_| ok("")).await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut client = proxy.client().await;
    let body = "Content-Length: 1\r\n\r\na";
    for (name, request) in [
        ("post", format!("POST / HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n{body}")),
        ("body", format!("GET / HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n{body}")),
        ("no connection", "GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\n\r\n".to_owned()),
        ("no upgrade", "GET / HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\n\r\n".to_owned()),
        ("h2c", "GET / HTTP/1.1\r\nHost: test\r\nConnection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n\r\n".to_owned()),
        ("h2c in a list", "GET / HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: websocket, h2c\r\n\r\n".to_owned()),
        ("tls", "GET / HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: TLS/1.0\r\n\r\n".to_owned()),
    ] {
        assert_eq!(client.ask(request).await.status, 200, "{name}");
        let seen = origin.requests().pop().unwrap();
        assert_eq!((seen.header("upgrade"), seen.header("connection")), (None, None), "{name}");
        assert_eq!(seen.header("http2-settings"), None);
    }
    let response =
        proxy.client().await.ask("GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(response.status, 200);
    assert_eq!(origin.requests().pop().unwrap().header("upgrade"), None);
}
