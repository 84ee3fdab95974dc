//! Connections of a pool to its endpoints: how long they may take, how many are kept, for how long; and what of a pool
//! changes with its config.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sealane_proxy::settings::Settings;
use tokio::net::TcpStream;

use crate::support::{Client, Origin, OriginConnection, TestProxy, nobody, ok, settings, until};

/// One route to one pool.
fn pool(endpoint: &str, more: &str) -> String {
    format!("routes: [{{ id: all, pool: p }}]\npools: [{{ id: p, endpoints: ['{endpoint}'], {more} }}]\n")
}

/// Reads nothing, and keeps the connection.
async fn deaf() -> Origin {
    Origin::scripted(|connection: OriginConnection| async move {
        let _kept = connection;
        std::future::pending::<()>().await;
    })
    .await
}

/// An origin that answers, and how many of its connections are open.
async fn counted() -> (Origin, Arc<AtomicUsize>) {
    let open = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&open);
    let origin = Origin::scripted(move |mut connection: OriginConnection| {
        let count = Arc::clone(&count);
        async move {
            count.fetch_add(1, Ordering::Relaxed);
            while connection.request().await.is_some() {
                connection.send(&ok("here")).await;
            }
            count.fetch_sub(1, Ordering::Relaxed);
        }
    });
    (origin.await, open)
}

fn one_thread() -> Settings {
    Settings { threads: 1, ..settings() }
}

#[tokio::test]
async fn a_handshake_counts_as_connecting_and_is_given_up_in_time() {
    let origin = deaf().await;
    let yaml = pool(&format!("https://{}", origin.address), "connections: { connect_timeout: 100ms }");
    let proxy = TestProxy::start(&yaml).await;
    let response = proxy.get("/").await;
    assert_eq!((response.status, response.category()), (502, "upstream_connect_failed".to_owned()));
}

#[tokio::test]
async fn the_time_for_a_head_is_apart_from_that_between_reads() {
    let origin = deaf().await;
    let more = "connections: { response_header_timeout: 100ms, read_timeout: 10m }";
    let proxy = TestProxy::start(&pool(&origin.address.to_string(), more)).await;
    assert_eq!(proxy.get("/").await.category(), "upstream_timeout");
}

#[tokio::test]
async fn an_endpoint_that_takes_no_more_of_a_request_is_given_up_in_time() {
    let origin = deaf().await;
    let more = "connections: { write_timeout: 100ms, read_timeout: 10m }";
    let proxy = TestProxy::start(&pool(&origin.address.to_string(), more)).await;
    let client = proxy.client().await;
    let (reading, mut writing) = client.stream.into_split();
    let sending = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        // More than all buffers on the way hold.
        let length = 64 << 20;
        let head = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n");
        let _ = writing.write_all(head.as_bytes()).await;
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..length >> 20 {
            if writing.write_all(&piece).await.is_err() {
                break;
            }
        }
        writing
    });
    let mut client = Client::over(tokio::io::join(reading, tokio::io::sink()));
    let response = client.response().await;
    assert_eq!((response.status, response.category()), (504, "upstream_timeout".to_owned()));
    sending.abort();
}

#[tokio::test]
async fn only_so_many_idle_connections_are_kept() {
    let (origin, open) = counted().await;
    let proxy = TestProxy::with(one_thread(), &pool(&origin.address.to_string(), "connections: { max_idle: 2 }")).await;
    // Bodies that are not complete hold their connections to the endpoint.
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = proxy.client().await;
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\na").await;
        clients.push(client);
    }
    until("five connections", async || (open.load(Ordering::Relaxed) == 5).then_some(())).await;
    for client in &mut clients {
        client.send("b").await;
        assert_eq!(client.response().await.text(), "here");
    }
    until("two connections", async || (open.load(Ordering::Relaxed) == 2).then_some(())).await;
    assert_eq!(proxy.get("/").await.text(), "here");
    assert_eq!((origin.connections(), open.load(Ordering::Relaxed)), (5, 2), "a kept one is used");
}

/// A request whose body is not complete, which holds a connection to the endpoint.
async fn holding(proxy: &TestProxy) -> Client<TcpStream> {
    let mut client = proxy.client().await;
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\na").await;
    client
}

#[tokio::test]
async fn an_endpoint_has_only_so_many_connections_and_what_is_beyond_is_refused() {
    let (origin, open) = counted().await;
    // Over all threads, of which there are two here.
    let proxy = TestProxy::start(&pool(&origin.address.to_string(), "connections: { max_connections: 3 }")).await;
    let mut clients = Vec::new();
    for count in 1..=3 {
        clients.push(holding(&proxy).await);
        until("a connection", async || (open.load(Ordering::Relaxed) == count).then_some(())).await;
    }
    for _ in 0..4 {
        let refused = proxy.get("/").await;
        assert_eq!((refused.status, refused.category()), (503, "overloaded".to_owned()));
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    assert_eq!((origin.connections(), open.load(Ordering::Relaxed)), (3, 3), "the endpoint saw nothing of them");
    assert_eq!(proxy.metric("proxy_pool_healthy_endpoints{pool=\"p\"}").unwrap_or(1.0), 1.0, "nor is it blamed");
    for client in &mut clients {
        client.send("b").await;
        assert_eq!(client.response().await.text(), "here");
    }
    // Whatever idles on whichever thread, there is room again, on each.
    for _ in 0..10 {
        let mut again = holding(&proxy).await;
        again.send("b").await;
        assert_eq!(again.response().await.text(), "here");
    }
}

#[tokio::test]
async fn a_request_beyond_the_connections_of_one_endpoint_goes_to_another() {
    let (first, open) = counted().await;
    let second = Origin::fixed("second").await;
    let endpoints = format!("{}', '{}", first.address, second.address);
    let proxy =
        TestProxy::with(one_thread(), &pool(&endpoints, "connections: { max_connections: 1, max_idle: 0 }")).await;
    let _held = holding(&proxy).await;
    until("a connection", async || (open.load(Ordering::Relaxed) == 1).then_some(())).await;
    for _ in 0..4 {
        assert_eq!(proxy.get("/").await.text(), "second");
    }
}

#[tokio::test]
async fn an_idle_connection_to_an_endpoint_is_closed_in_time() {
    let (origin, open) = counted().await;
    let more = "connections: { idle_timeout: 100ms }";
    let proxy = TestProxy::with(one_thread(), &pool(&origin.address.to_string(), more)).await;
    assert_eq!(proxy.get("/").await.text(), "here");
    until("its end", async || (open.load(Ordering::Relaxed) == 0).then_some(())).await;
    assert_eq!((proxy.get("/").await.text(), origin.connections()), ("here", 2));
}

#[tokio::test]
async fn a_connection_is_used_no_longer_than_its_age() {
    let (origin, _) = counted().await;
    let more = "connections: { max_age: 100ms }";
    let proxy = TestProxy::with(one_thread(), &pool(&origin.address.to_string(), more)).await;
    // Never idle, and yet another one is made.
    until("a further connection", async || {
        assert_eq!(proxy.get("/").await.text(), "here");
        (origin.connections() > 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_pool_that_no_config_names_lets_go_of_its_connections_and_checks() {
    let (removed, open) = counted().await;
    let (stays, _) = counted().await;
    let checks = "health: { active: { path: /health, interval: 20ms } }";
    let proxy = TestProxy::start(&pool(&removed.address.to_string(), checks)).await;
    assert_eq!(proxy.get("/").await.text(), "here");
    until("checks", async || (removed.connections() > 2).then_some(())).await;
    proxy.serve(&pool(&stays.address.to_string(), "")).await;
    // A check under way ends, and none follows: the connection of the request and theirs are gone.
    until("its connections' end", async || (open.load(Ordering::Relaxed) == 0).then_some(())).await;
    assert_eq!(proxy.metric("proxy_pool_healthy_endpoints{pool=\"p\"}"), Some(1.0));
    assert_eq!(proxy.get("/").await.text(), "here");
    assert!(stays.connections() > 0);
}

#[tokio::test]
async fn checks_begin_at_once_and_wait_for_no_other() {
    let silent = deaf().await;
    let gone = nobody();
    // One after the other, or only after an interval, would take minutes.
    let yaml = format!(
        "routes: [{{ id: a, pool: p }}]\npools:\n  - id: p\n    endpoints: ['{}', '{}']\n    health:\n      active: \
         {{ path: /, interval: 5m, timeout: 4m, fail_threshold: 1 }}\n",
        silent.address, gone.address
    );
    let proxy = TestProxy::start(&yaml).await;
    proxy.until_metric("proxy_pool_healthy_endpoints{pool=\"p\"}", 1.0).await;
    until("the check of the silent one", async || (silent.connections() == 1).then_some(())).await;
}

#[tokio::test]
async fn good_checks_do_not_bring_back_an_endpoint_that_fails_requests() {
    let bad = Origin::start(|seen| match seen.line() {
        "GET /health HTTP/1.1" => ok("fine"),
        _ => b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_vec(),
    })
    .await;
    let good = Origin::fixed("good").await;
    let yaml = format!(
        "routes: [{{ id: a, pool: p }}]\npools:\n  - id: p\n    endpoints: ['{}', '{}']\n    health:\n      active: \
         {{ path: /health, interval: 20ms, success_threshold: 1 }}\n      passive: {{ consecutive_failures: 2, ejection_duration: 10m }}\n",
        bad.address, good.address
    );
    let proxy = TestProxy::start(&yaml).await;
    let mut client = proxy.client().await;
    until("the ejection", async || {
        let both = [client.get("/").await.status, client.get("/").await.status];
        (both == [200, 200]).then_some(())
    })
    .await;
    let checks = || bad.requests().iter().filter(|seen| seen.line() == "GET /health HTTP/1.1").count();
    let before = checks();
    until("further checks", async || (checks() > before + 5).then_some(())).await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.text(), "good");
    }
}

#[tokio::test]
async fn limits_change_with_the_config() {
    let (origin, _) = counted().await;
    let yaml = |limits: &str| format!("{}limits: {{ {limits} }}\n", pool(&origin.address.to_string(), ""));
    let proxy = TestProxy::start(&yaml("max_headers: 200")).await;
    let path = format!("/{}", "a".repeat(2000));
    let mut client = proxy.client().await;
    assert_eq!(client.get(&path).await.status, 200);
    proxy.serve(&yaml("max_url_bytes: 1KB")).await;
    assert_eq!(client.get(&path).await.status, 414, "also on a connection that was there before");
    proxy.serve(&yaml("max_headers: 1")).await;
    let two = format!("GET {path} HTTP/1.1\r\nHost: test\r\nX: y\r\n\r\n");
    assert_eq!(proxy.client().await.ask(&two).await.status, 431);
    assert_eq!(proxy.get(&path).await.status, 200);
}
