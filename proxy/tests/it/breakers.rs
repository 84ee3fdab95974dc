//! Circuit breakers: when they open, what they refuse, how they close again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sealane_proxy::settings::{AdminSettings, Settings};
use serde_json::json;

use crate::support::{Client, Origin, OriginConnection, TestProxy, nobody, ok, settings, until};

const FAILING: &[u8] = b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno";

fn with_breaker(origins: &[SocketAddr], breaker: &str, policy: &str) -> String {
    let origins: Vec<_> = origins.iter().map(|origin| format!("'http://{origin}'")).collect();
    format!(
        "pools: {{ p: {{ endpoints: [{}], circuit_breaker: {{ {breaker} }} }} }}\n\
         routes:\n  - {{ id: a, path_prefix: /a, pool: p, policy: {{ {policy} }} }}\n  - {{ id: b, pool: p }}\n",
        origins.join(", ")
    )
}

/// Answers 500 while the switch is on.
async fn switched() -> (Origin, Arc<AtomicBool>) {
    let failing = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&failing);
    let origin = Origin::start(move |_| if switch.load(Ordering::Relaxed) { FAILING.to_vec() } else { ok("good") });
    (origin.await, failing)
}

pub(crate) fn with_admin() -> Settings {
    let admin = AdminSettings {
        address: "127.0.0.1:0".parse().unwrap(),
        flag: "--admin",
        token: None,
        tls: None,
        rate_per_second: sealane_proxy::settings::ADMIN_RATE,
        insecure: false,
        extra: None,
    };
    Settings { admin: Some(admin), ..settings() }
}

async fn breakers(proxy: &TestProxy) -> serde_json::Value {
    let mut client = Client::connect(proxy.proxy.admin().unwrap()).await;
    client.ask("GET /api/v2/breakers HTTP/1.1\r\nHost: localhost\r\n\r\n").await.json()["breakers"].clone()
}

#[tokio::test]
async fn a_breaker_opens_refuses_lets_some_try_and_closes() {
    let (origin, failing) = switched().await;
    let breaker = "error_threshold_percent: 50, min_requests: 10, open_duration: 300ms, half_open_requests: 2";
    let proxy = TestProxy::with(with_admin(), &with_breaker(&[origin.address], breaker, "")).await;
    let mut client = proxy.client().await;
    for _ in 0..10 {
        assert_eq!(client.get("/a").await.status, 500);
    }
    let refused = client.get("/a").await;
    assert_eq!((refused.status, refused.category()), (503, "circuit_open".to_owned()));
    assert_eq!(refused.header("x-proxy-circuit-open"), Some("p"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(origin.requests().len(), 10, "no contact while open");
    let shown = breakers(&proxy).await;
    assert_eq!(shown[0]["route"], "a");
    assert_eq!((&shown[0]["state"], &shown[0]["trips"], &shown[0]["refused"]), (&json!("open"), &json!(1), &json!(1)));
    assert_eq!((&shown[1]["route"], &shown[1]["state"]), (&json!("b"), &json!("closed")), "one per route and pool");
    assert_eq!(proxy.metric("proxy_breaker_state{route=\"a\",pool=\"p\",state=\"open\"}"), Some(1.0));
    assert_eq!(proxy.metric("proxy_breaker_trips_total{route=\"a\",pool=\"p\"}"), Some(1.0));
    assert_eq!(proxy.metric("proxy_circuit_open_total{route=\"a\",pool=\"p\"}"), Some(1.0));
    assert_eq!(proxy.metric("proxy_breaker_open{route=\"b\",pool=\"p\"}"), Some(0.0));
    failing.store(false, Ordering::Relaxed);
    until("a try", async || (client.get("/a").await.status == 200).then_some(())).await;
    assert_eq!(breakers(&proxy).await[0]["state"], "half_open");
    assert_eq!(client.get("/a").await.status, 200);
    assert_eq!(breakers(&proxy).await[0]["state"], "closed");
}

#[tokio::test]
async fn timeouts_count_as_failures() {
    let hanging =
        Origin::scripted(
            |mut connection: OriginConnection| async move { while connection.request().await.is_some() {} },
        )
        .await;
    for policy in ["timeout: 50ms", "retries: { max_attempts: 1, per_try_timeout: 50ms }"] {
        let yaml = with_breaker(&[hanging.address], "min_requests: 3", policy);
        let proxy = TestProxy::start(&yaml).await;
        let mut client = proxy.client().await;
        for _ in 0..3 {
            assert_eq!(client.get("/a").await.status, 504, "{policy}");
        }
        assert_eq!(client.get("/a").await.category(), "circuit_open", "{policy}");
    }
}

#[tokio::test]
async fn a_client_that_is_slow_or_gone_is_not_the_endpoints_fault() {
    let origin = Origin::fixed("good").await;
    let proxy = TestProxy::start(&with_breaker(&[origin.address], "min_requests: 1", "timeout: 100ms")).await;
    let mut slow = proxy.client().await;
    let response = slow.ask("POST /a HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\nstart").await;
    assert_eq!(response.status, 504);
    assert_eq!(proxy.get("/a").await.status, 200);
}

#[tokio::test]
async fn tries_that_are_cancelled_leak_no_leave() {
    let (failing, hanging) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
    let asked = Arc::new(AtomicUsize::new(0));
    let (fails, hangs, counts) = (Arc::clone(&failing), Arc::clone(&hanging), Arc::clone(&asked));
    let origin = Origin::scripted(move |mut connection: OriginConnection| {
        let (fails, hangs, counts) = (Arc::clone(&fails), Arc::clone(&hangs), Arc::clone(&counts));
        async move {
            while connection.request().await.is_some() {
                if fails.load(Ordering::Relaxed) {
                    connection.send(FAILING).await;
                } else if hangs.load(Ordering::Relaxed) {
                    counts.fetch_add(1, Ordering::Relaxed);
                } else {
                    connection.send(&ok("good")).await;
                }
            }
        }
    })
    .await;
    let breaker = "min_requests: 2, open_duration: 50ms, half_open_requests: 2";
    let proxy = TestProxy::start(&with_breaker(&[origin.address], breaker, "")).await;
    let mut client = proxy.client().await;
    client.get("/a").await;
    client.get("/a").await;
    failing.store(false, Ordering::Relaxed);
    // More than there are leaves, each given up by its client.
    for round in 0..3 {
        until("a try", async || {
            let mut gone = proxy.client().await;
            gone.send("GET /a HTTP/1.1\r\nHost: test\r\n\r\n").await;
            let tried = asked.load(Ordering::Relaxed) > round;
            gone.stream.set_zero_linger().unwrap();
            tried.then_some(())
        })
        .await;
    }
    hanging.store(false, Ordering::Relaxed);
    until("closing", async || {
        (proxy.get("/a").await.status == 200
            && proxy.metric("proxy_breaker_state{route=\"a\",pool=\"p\",state=\"closed\"}") == Some(1.0))
        .then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_policys_breaker_replaces_the_pools_and_state_survives_a_swap() {
    let (origin, _failing) = switched().await;
    let yaml = with_breaker(&[origin.address], "min_requests: 1000", "circuit_breaker: { min_requests: 3 }");
    let proxy = TestProxy::start(&yaml).await;
    let mut client = proxy.client().await;
    for _ in 0..2 {
        assert_eq!(client.get("/a").await.status, 500);
        assert_eq!(client.get("/b").await.status, 500);
    }
    proxy.serve(&format!("{yaml}  - {{ id: c, path: /c, pool: p }}\n")).await;
    assert_eq!(client.get("/a").await.status, 500, "the third failure of the route");
    assert_eq!(client.get("/a").await.category(), "circuit_open");
    proxy.serve(&yaml).await;
    assert_eq!(client.get("/a").await.category(), "circuit_open");
    assert_eq!(client.get("/b").await.status, 500, "as the pool says");
}

#[tokio::test]
async fn an_open_breaker_stops_retries() {
    let (origin, _failing) = switched().await;
    let retries = "retries: { max_attempts: 5, on: ['500'] }";
    let proxy = TestProxy::start(&with_breaker(&[origin.address], "min_requests: 2", retries)).await;
    assert_eq!(proxy.get("/a").await.text(), "no", "the answer that there is");
    assert_eq!(origin.requests().len(), 2);
    assert_eq!(proxy.get("/a").await.category(), "circuit_open");
}

#[tokio::test]
async fn an_endpoint_that_is_passed_over_is_no_failure_of_the_pool() {
    let (dead, origin) = (nobody(), Origin::fixed("good").await);
    let proxy = TestProxy::start(&with_breaker(&[dead.address, origin.address], "min_requests: 2", "")).await;
    for _ in 0..10 {
        assert_eq!(proxy.get("/a").await.text(), "good");
    }
    proxy.serve(&with_breaker(&[dead.address], "min_requests: 2", "")).await;
    let categories = [proxy.get("/b").await.category(), proxy.get("/b").await.category()];
    assert_eq!(categories, ["upstream_connect_failed", "upstream_connect_failed"]);
    assert_eq!(proxy.get("/b").await.category(), "circuit_open");
}
