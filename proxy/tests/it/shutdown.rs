//! The graceful shutdown, stage by stage.

use std::time::Duration;

use sealane_model::config::Shutdown;
use sealane_proxy::proxy::Notice;
use sealane_proxy::settings::Settings;
use tokio::time::Instant;

use crate::support::{Origin, OriginConnection, TestProxy, ok, patiently, settings, to, until};

fn times(lb: u64, drain: u64) -> Settings {
    let shutdown = Shutdown {
        lb_convergence: Duration::from_millis(lb),
        drain: Duration::from_millis(drain),
        force_close: Duration::from_millis(1000),
    };
    Settings { shutdown: Some(shutdown), ..settings() }
}

/// Answers when told.
async fn held() -> (Origin, tokio::sync::watch::Sender<bool>) {
    let (release, held) = tokio::sync::watch::channel(false);
    let origin = Origin::scripted(move |mut connection: OriginConnection| {
        let mut held = held.clone();
        async move {
            while connection.request().await.is_some() {
                if held.wait_for(|released| *released).await.is_err() {
                    return;
                }
                connection.send(&ok("done")).await;
            }
        }
    })
    .await;
    (origin, release)
}

#[tokio::test]
async fn readiness_goes_first_requests_in_flight_finish_and_idle_connections_close() {
    let (origin, release) = held().await;
    let proxy = TestProxy::with(times(200, 20_000), &to(&[origin.address])).await;
    let mut idle = proxy.client().await;
    release.send_replace(true);
    assert_eq!(idle.get("/").await.status, 200);
    release.send_replace(false);
    let mut busy = proxy.client().await;
    busy.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    until("the request", async || (origin.connections() >= 1).then_some(())).await;

    let handle = proxy.proxy.clone();
    let drained = tokio::spawn(async move { handle.drain(Notice::LoadBalancers).await });
    until("not ready", async || (!proxy.proxy.observe().ready).then_some(())).await;
    // Load balancers have not noticed yet: new connections are still served.
    let mut late = proxy.client().await;
    late.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;

    assert!(idle.is_closed().await);
    assert!(!drained.is_finished());
    assert!(tokio::net::TcpStream::connect(proxy.address()).await.is_err(), "nothing is accepted any more");
    release.send_replace(true);
    for client in [&mut busy, &mut late] {
        let response = client.response().await;
        assert_eq!((response.text(), response.header("connection")), ("done", Some("close")));
        assert!(client.is_closed().await);
    }
    patiently("the end", drained).await.unwrap();
}

#[tokio::test]
async fn a_connection_whose_first_request_is_on_the_way_is_served_in_a_drain() {
    let origin = Origin::fixed("hello").await;
    let proxy = TestProxy::with(times(0, 20_000), &to(&[origin.address])).await;
    let mut kept = proxy.client().await;
    assert_eq!(kept.get("/").await.text(), "hello");
    let mut fresh = proxy.client().await;
    proxy.until_metric("proxy_connections_open", 2.0).await;
    let handle = proxy.proxy.clone();
    let drained = tokio::spawn(async move { handle.drain(Notice::Nobody).await });
    // Its client had time to ask again; that of the other one has not asked yet.
    assert!(kept.is_closed().await);
    fresh.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    let response = fresh.response().await;
    assert_eq!((response.text(), response.header("connection")), ("hello", Some("close")));
    patiently("the end", drained).await.unwrap();
}

#[tokio::test]
async fn what_does_not_finish_is_cut_in_bounded_time() {
    let (origin, _release) = held().await;
    let proxy = TestProxy::with(times(0, 100), &to(&[origin.address])).await;
    let mut busy = proxy.client().await;
    busy.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    until("the request", async || (origin.connections() == 1).then_some(())).await;
    let started = Instant::now();
    proxy.proxy.drain(Notice::LoadBalancers).await;
    assert!(started.elapsed() < Duration::from_secs(2));
    assert!(busy.is_closed().await);
}

#[tokio::test]
async fn a_drain_under_load_fails_no_request() {
    let origin = Origin::start(|_| ok("fine")).await;
    let proxy = TestProxy::with(times(200, 10_000), &to(&[origin.address])).await;
    let address = proxy.address();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn(async move {
                let mut served = 0;
                // A connection is given up when the proxy says so; a refused one ends the client.
                while let Ok(stream) = tokio::net::TcpStream::connect(address).await {
                    let mut client = crate::support::Client::over(stream);
                    loop {
                        let response = client.get("/").await;
                        assert_eq!(response.text(), "fine");
                        served += 1;
                        if response.header("connection") == Some("close") {
                            break;
                        }
                    }
                }
                served
            })
        })
        .collect();
    until("load", async || (origin.requests().len() > 100).then_some(())).await;
    proxy.proxy.drain(Notice::LoadBalancers).await;
    for client in clients {
        // A connection that idles at that very moment may be closed under a client's hands; none here idles.
        assert!(client.await.unwrap() > 0);
    }
}

#[tokio::test]
async fn stopping_stops_at_once() {
    let (origin, _release) = held().await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut busy = proxy.client().await;
    busy.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    until("the request", async || (origin.connections() == 1).then_some(())).await;
    patiently("the stop", proxy.proxy.stop()).await;
    assert!(busy.is_closed().await);
    assert!(tokio::net::TcpStream::connect(proxy.address()).await.is_err());
}
