//! Deadlines: slow heads, slow bodies, slow endpoints, clients that leave.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::{Origin, OriginConnection, TestProxy, ok, patiently, to, until};

/// Takes the request and never answers.
async fn silent() -> Origin {
    Origin::scripted(|mut connection: OriginConnection| async move { while connection.fill().await {} }).await
}

#[tokio::test]
async fn a_slow_head_is_a_408_and_silence_is_just_closed() {
    let origin = Origin::fixed("").await;
    let proxy = TestProxy::start(&format!("limits: {{ read_header_timeout: 200ms }}\n{}", to(&[origin.address]))).await;
    let started = Instant::now();
    let mut silent = proxy.client().await;
    let mut slow = proxy.client().await;
    slow.send("GET / HTTP/1.1\r\nHost: te").await;
    let response = slow.response().await;
    assert_eq!((response.status, response.category()), (408, "client_timeout".to_owned()));
    assert!(slow.is_closed().await);
    assert!(silent.is_closed().await);
    assert!(started.elapsed() > Duration::from_millis(200));
}

#[tokio::test]
async fn dripping_bytes_do_not_extend_the_time_for_a_head() {
    let origin = Origin::fixed("").await;
    let proxy = TestProxy::start(&format!("limits: {{ read_header_timeout: 300ms }}\n{}", to(&[origin.address]))).await;
    let mut client = proxy.client().await;
    client.send("GET / HTTP/1.1\r\nX: ").await;
    let response = loop {
        tokio::select! {
            response = client.response() => break response,
            // A drip: what is tested is that time passes in spite of it.
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
        client.send("x").await;
    };
    assert_eq!(response.status, 408);
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let origin = Origin::fixed("").await;
    let proxy = TestProxy::start(&format!("limits: {{ idle_timeout: 100ms }}\n{}", to(&[origin.address]))).await;
    let mut client = proxy.client().await;
    assert_eq!(client.get("/").await.status, 200);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_slow_body_is_a_408() {
    let origin = silent().await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut client = proxy.client().await;
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\nabc").await;
    let response = client.response().await;
    assert_eq!((response.status, response.category()), (408, "client_timeout".to_owned()));
    assert_eq!(response.header("connection"), Some("close"));
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_a_504() {
    let origin = silent().await;
    let yaml = |policy: &str, connections: &str| {
        format!(
            "routes: [{{ id: a, pool: p, policy: {{ {policy} }} }}]\npools: [{{ id: p, endpoints: ['{}'], connections: {{ {connections} }} }}]",
            origin.address
        )
    };
    let proxy = TestProxy::start(&yaml("", "read_timeout: 100ms")).await;
    let mut client = proxy.client().await;
    assert_eq!(client.get("/").await.category(), "upstream_timeout");
    proxy.serve(&yaml("timeout: 100ms", "")).await;
    let response = client.get("/").await;
    assert_eq!((response.status, response.category()), (504, "request_timeout".to_owned()));
    assert_eq!(response.header("connection"), None, "the client is not to blame");
}

#[tokio::test]
async fn an_answer_that_stops_half_way_is_cut() {
    let origin = Origin::scripted(|mut connection: OriginConnection| async move {
        connection.request().await;
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").await;
        connection.fill().await;
    })
    .await;
    let yaml = format!(
        "routes: [{{ pool: p }}]\npools: [{{ id: p, endpoints: ['{}'], connections: {{ read_timeout: 100ms }} }}]",
        origin.address
    );
    let proxy = TestProxy::start(&yaml).await;
    let response = proxy.get("/").await;
    assert_eq!((response.text(), response.truncated), ("abc", true));
    proxy.until_metric("proxy_refused_total{category=\"upstream_timeout\"}", 1.0).await;
}

#[tokio::test]
async fn a_stream_that_goes_on_is_not_cut_by_the_timeout_of_its_head() {
    let origin = Origin::scripted(|mut connection: OriginConnection| async move {
        connection.request().await;
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").await;
        for number in 0..10 {
            // Longer than the timeout, all together: that is the rule.
            tokio::time::sleep(Duration::from_millis(50)).await;
            connection.send(format!("data: {number}\n\n").as_bytes()).await;
        }
    })
    .await;
    let yaml = format!("routes: [{{ to: 'http://{}', policy: {{ timeout: 300ms }} }}]", origin.address);
    let proxy = TestProxy::start(&yaml).await;
    let response = proxy.get("/").await;
    assert!(response.text().ends_with("data: 9\n\n") && !response.truncated);
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_and_the_endpoint_told() {
    let (told, mut hear) = tokio::sync::mpsc::channel(1);
    let origin = Origin::scripted(move |mut connection: OriginConnection| {
        let told = told.clone();
        async move {
            connection.request().await;
            while connection.fill().await {}
            told.send(()).await.unwrap();
        }
    })
    .await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut client = proxy.client().await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    until("the request", async || (origin.connections() == 1).then_some(())).await;
    client.stream.set_zero_linger().unwrap();
    drop(client);
    patiently("the endpoint", hear.recv()).await;
    proxy.until_metric("proxy_refused_total{category=\"client_closed\"}", 1.0).await;
}

#[tokio::test]
async fn an_endpoint_does_not_go_on_for_a_client_that_has_closed() {
    let (told, mut hear) = tokio::sync::mpsc::channel(1);
    let origin = Origin::scripted(move |mut connection: OriginConnection| {
        let told = told.clone();
        async move {
            connection.request().await;
            while connection.fill().await {}
            told.send(()).await.unwrap();
        }
    })
    .await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut client = proxy.client().await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    until("the request", async || (origin.connections() == 1).then_some(())).await;
    // An orderly end, as a browser's stop button makes it.
    drop(client);
    patiently("the endpoint", hear.recv()).await;
    proxy.until_metric("proxy_refused_total{category=\"client_closed\"}", 1.0).await;
}

#[tokio::test]
async fn a_flood_of_slow_clients_does_not_slow_a_good_one() {
    const SLOW: usize = 500;
    let origin = Origin::start(|_| ok("fine")).await;
    let yaml = format!("limits: {{ read_header_timeout: 10s, idle_timeout: 10s }}\n{}", to(&[origin.address]));
    let proxy = TestProxy::start(&yaml).await;
    let mut slow = Vec::new();
    for index in 0..SLOW {
        let mut client = proxy.client().await;
        let start = ["GET / HTTP/1.1\r\nX: ", "P", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""][index % 4];
        client.send(start).await;
        slow.push(client);
    }
    proxy.until_metric("proxy_connections_open", SLOW as f64).await;
    // All of these are answered while all of those are waited for: nothing is queued behind them.
    let mut client = proxy.client().await;
    for _ in 0..100 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert!(proxy.metric("proxy_connections_open") >= Some(SLOW as f64), "served only once the slow ones were gone");
    // They are given up however many they are, and leave nothing behind.
    drop(client);
    proxy.until_metric("proxy_connections_open", 0.0).await;
}

#[tokio::test]
async fn a_client_that_only_says_that_it_sends_no_more_gets_its_answer() {
    let (release, held) = tokio::sync::watch::channel(false);
    let origin = Origin::scripted(move |mut connection: OriginConnection| {
        let mut held = held.clone();
        async move {
            while connection.request().await.is_some() {
                held.wait_for(|released| *released).await.unwrap();
                connection.send(&ok("still here")).await;
            }
        }
    })
    .await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    for version in ["1.1", "1.0"] {
        let mut client = proxy.client().await;
        client.send(format!("GET / HTTP/{version}\r\nHost: test\r\n\r\n")).await;
        tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await.unwrap();
        until("the request", async || (origin.connections() > 0).then_some(())).await;
        release.send_replace(true);
        assert_eq!(client.response().await.text(), "still here");
        assert!(client.is_closed().await);
    }
}
