//! Hedged requests: a slow safe read is asked for a second time, and no more than the budget allows.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{Origin, OriginConnection, TestProxy, ok, until};

fn hedged(origins: &[SocketAddr], policy: &str) -> String {
    let origins: Vec<_> = origins.iter().map(|origin| format!("'http://{origin}'")).collect();
    format!("routes:\n  - id: a\n    to: [{}]\n    policy: {{ {policy} }}\n", origins.join(", "))
}

/// Never answers; counts the requests, and the connections that ended.
async fn silent() -> (Origin, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let (asked, ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (asks, ends) = (Arc::clone(&asked), Arc::clone(&ended));
    let origin = Origin::scripted(move |mut connection: OriginConnection| {
        let (asks, ends) = (Arc::clone(&asks), Arc::clone(&ends));
        async move {
            while connection.request().await.is_some() {
                asks.fetch_add(1, Ordering::Relaxed);
            }
            ends.fetch_add(1, Ordering::Relaxed);
        }
    })
    .await;
    (origin, asked, ended)
}

#[tokio::test]
async fn a_slow_endpoint_is_overtaken_and_cut_off() {
    let (slow, asked, ended) = silent().await;
    let fast = Origin::fixed("fast").await;
    let proxy = TestProxy::start(&hedged(&[slow.address, fast.address], "hedge: { after: 30ms }")).await;
    let mut client = proxy.client().await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.text(), "fast");
    }
    let overtaken = asked.load(Ordering::Relaxed);
    assert!(overtaken >= 1);
    until("the cut", async || (ended.load(Ordering::Relaxed) == overtaken).then_some(())).await;
    proxy.until_metric("proxy_hedges_total{route=\"a\",outcome=\"sent\"}", overtaken as f64).await;
    assert_eq!(proxy.metric("proxy_hedges_total{route=\"a\",outcome=\"won\"}"), Some(overtaken as f64));
    assert_eq!(fast.connections(), 1, "connections are used again");
    // HEAD is a safe read, too.
    client.send("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!(client.head_response().await.status, 200);
}

#[tokio::test]
async fn an_endpoint_in_time_is_not_hedged() {
    let (a, b) = (Origin::fixed("a").await, Origin::fixed("b").await);
    let proxy = TestProxy::start(&hedged(&[a.address, b.address], "hedge: { after: 10s }")).await;
    let mut client = proxy.client().await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(a.requests().len() + b.requests().len(), 10);
    assert_eq!(proxy.metric("proxy_hedges_total{route=\"a\",outcome=\"sent\"}"), Some(0.0));
}

#[tokio::test]
async fn what_is_not_a_safe_read_is_never_sent_twice() {
    let (slow, asked, _) = silent().await;
    let (other, other_asked, _) = silent().await;
    let policy = "timeout: 200ms, hedge: { after: 10ms }";
    let proxy = TestProxy::start(&hedged(&[slow.address, other.address], policy)).await;
    let with_body = |method: &str| format!("{method} / HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx");
    for request in [with_body("POST"), with_body("PUT"), with_body("GET")] {
        assert_eq!(proxy.client().await.ask(request).await.status, 504);
    }
    assert_eq!(asked.load(Ordering::Relaxed) + other_asked.load(Ordering::Relaxed), 3);
    assert_eq!(proxy.client().await.ask("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await.status, 504);
    assert_eq!(asked.load(Ordering::Relaxed) + other_asked.load(Ordering::Relaxed), 5, "this one was hedged");
}

#[tokio::test]
async fn a_bad_answer_does_not_win_against_one_that_may_be_good() {
    let gate = Arc::new(tokio::sync::Notify::new());
    let held = Arc::clone(&gate);
    let slow = Origin::scripted(move |mut connection: OriginConnection| {
        let held = Arc::clone(&held);
        async move {
            while connection.request().await.is_some() {
                held.notified().await;
                connection.send(&ok("good at last")).await;
            }
        }
    })
    .await;
    let opened = Arc::clone(&gate);
    let bad = Origin::start(move |_| {
        opened.notify_one();
        b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy".to_vec()
    })
    .await;
    let proxy = TestProxy::start(&hedged(&[slow.address, bad.address], "hedge: { after: 20ms }")).await;
    assert_eq!(proxy.get("/").await.text(), "good at last");
    assert_eq!(proxy.metric("proxy_hedges_total{route=\"a\",outcome=\"won\"}"), Some(0.0));
}

#[tokio::test]
async fn when_all_fail_the_policy_retries() {
    let count = Arc::<AtomicUsize>::default();
    let counter = Arc::clone(&count);
    let origin =
        Origin::start(move |_| if counter.fetch_add(1, Ordering::Relaxed) == 0 { Vec::new() } else { ok("retried") })
            .await;
    let policy = "hedge: { after: 10s }, retries: { max_attempts: 2, on: [reset] }";
    let proxy = TestProxy::start(&hedged(&[origin.address], policy)).await;
    assert_eq!(proxy.get("/").await.text(), "retried");
    proxy.until_metric("proxy_retries_total{route=\"a\",outcome=\"success\"}", 1.0).await;
}

#[tokio::test]
async fn hedges_cannot_storm() {
    let (a, asked_a, _) = silent().await;
    let (b, asked_b, _) = silent().await;
    let policy = "timeout: 60ms, hedge: { after: 5ms }";
    let proxy = TestProxy::start(&hedged(&[a.address, b.address], policy)).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut client = proxy.client().await;
        clients.push(tokio::spawn(async move { client.get("/").await.status }));
    }
    for client in clients {
        assert_eq!(client.await.unwrap(), 504);
    }
    let hedges = asked_a.load(Ordering::Relaxed) + asked_b.load(Ordering::Relaxed) - 100;
    assert!((1..40).contains(&hedges), "{hedges}: no more than the budget's floor");
    assert!(proxy.metric("proxy_hedges_total{route=\"a\",outcome=\"budget\"}").unwrap() > 50.0);
}

#[tokio::test]
async fn a_quantile_is_learned_from_what_the_route_does() {
    let (fast, faster) = (Origin::fixed("fast").await, Origin::fixed("fast").await);
    let proxy = TestProxy::start(&hedged(&[fast.address, faster.address], "hedge: { after: p95 }")).await;
    let mut client = proxy.client().await;
    assert_eq!(proxy.metric("proxy_hedge_delay_seconds{route=\"a\"}"), Some(0.0), "not known yet");
    until("a delay", async || {
        client.get("/").await;
        proxy.metric("proxy_hedge_delay_seconds{route=\"a\"}").filter(|delay| *delay > 0.0)
    })
    .await;
}
