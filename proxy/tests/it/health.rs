//! Endpoints that fail are left out and come back; without any, a trickle goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{Origin, OriginConnection, TestProxy, ok, to, until};

/// An origin whose `/health` does as told.
async fn switchable(body: &'static str) -> (Origin, Arc<AtomicBool>) {
    let healthy = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&healthy);
    let origin = Origin::start(move |request| match request.line() {
        "GET /health HTTP/1.1" if told.load(Ordering::Relaxed) => ok("fine"),
        "GET /health HTTP/1.1" => b"HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n".to_vec(),
        _ => ok(body),
    })
    .await;
    (origin, healthy)
}

fn checked(origins: &[&Origin]) -> String {
    let endpoints: Vec<_> = origins.iter().map(|origin| format!("'{}'", origin.address)).collect();
    format!(
        "routes: [{{ id: a, pool: p }}]\npools:\n  - id: p\n    endpoints: [{}]\n    health:\n      active: {{ path: /health, \
         interval: 20ms, timeout: 1s, fail_threshold: 2, success_threshold: 2 }}\n",
        endpoints.join(", ")
    )
}

async fn healthy_endpoints(proxy: &TestProxy, count: f64) {
    until("health", async || (proxy.metric("proxy_pool_healthy_endpoints{pool=\"p\"}") == Some(count)).then_some(()))
        .await;
}

#[tokio::test]
async fn an_unhealthy_endpoint_is_skipped_and_rejoins() {
    let ((a, a_healthy), (b, _)) = (switchable("a").await, switchable("b").await);
    let proxy = TestProxy::start(&checked(&[&a, &b])).await;
    healthy_endpoints(&proxy, 2.0).await;
    let mut client = proxy.client().await;
    assert_eq!(client.get("/").await.text(), "a");
    a_healthy.store(false, Ordering::Relaxed);
    healthy_endpoints(&proxy, 1.0).await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.text(), "b");
    }
    a_healthy.store(true, Ordering::Relaxed);
    healthy_endpoints(&proxy, 2.0).await;
    let mut both = [client.get("/").await, client.get("/").await].map(|response| response.text().to_owned());
    both.sort();
    assert_eq!(both, ["a", "b"]);
}

#[tokio::test]
async fn a_probe_that_ends_in_any_way_is_a_verdict_and_nothing_else() {
    // What a health endpoint should never say, one kind each.
    let answers: [fn() -> Vec<u8>; 4] = [
        || b"\x00\xff\xfe not http\r\n\r\n".to_vec(),
        || [&b"HTTP/1.1 200 OK\r\n"[..], &b"X: y\r\n".repeat(5000)].concat(),
        || b"HTTP/1.1 200".to_vec(),
        || b"HTTP/1.1 99999 Many\r\n\r\n".to_vec(),
    ];
    let (good, _) = switchable("good").await;
    let mut broken = Vec::new();
    for answer in answers {
        let origin = Origin::scripted(move |mut connection: OriginConnection| async move {
            if let Some(head) = connection.head().await {
                let probe = head.starts_with("GET /health");
                connection.send(&if probe { answer() } else { ok("broken") }).await;
            }
        });
        broken.push(origin.await);
    }
    let all: Vec<&Origin> = broken.iter().chain([&good]).collect();
    let proxy = TestProxy::start(&checked(&all)).await;
    healthy_endpoints(&proxy, 1.0).await;
    let mut client = proxy.client().await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.text(), "good");
    }
    assert_eq!(proxy.metric("proxy_panics_total"), Some(0.0));
}

#[tokio::test]
async fn health_stays_through_a_swap() {
    let ((a, a_healthy), (b, _)) = (switchable("a").await, switchable("b").await);
    a_healthy.store(false, Ordering::Relaxed);
    let proxy = TestProxy::start(&checked(&[&a, &b])).await;
    healthy_endpoints(&proxy, 1.0).await;
    for _ in 0..5 {
        proxy.serve(&checked(&[&a, &b])).await;
        assert_eq!(proxy.metric("proxy_pool_healthy_endpoints{pool=\"p\"}"), Some(1.0));
        assert_eq!(proxy.get("/").await.text(), "b");
    }
    // Without checks an endpoint counts as healthy.
    proxy.serve(&to(&[a.address])).await;
    assert_eq!(proxy.get("/").await.text(), "a");
}

#[tokio::test]
async fn without_a_healthy_endpoint_a_trickle_passes_and_the_rest_is_refused() {
    let (a, a_healthy) = switchable("a").await;
    a_healthy.store(false, Ordering::Relaxed);
    let proxy = TestProxy::start(&checked(&[&a])).await;
    healthy_endpoints(&proxy, 0.0).await;
    let mut client = proxy.client().await;
    let mut passed = 0;
    for _ in 0..50 {
        let response = client.get("/").await;
        if response.status == 200 {
            passed += 1;
        } else {
            assert_eq!((response.status, response.category()), (503, "no_healthy_upstream".to_owned()));
            assert_eq!(response.header("retry-after"), Some("1"));
        }
    }
    assert_eq!(passed, 1);
    assert_eq!(proxy.metric("proxy_outlier_fail_open_total{pool=\"p\"}"), Some(1.0));
}

#[tokio::test]
async fn a_connection_is_enough_where_no_path_is_given() {
    let origin = Origin::fixed("a").await;
    let address = origin.address;
    let yaml = format!(
        "routes: [{{ id: a, pool: p }}]\npools:\n  - id: p\n    endpoints: ['{address}']\n    fail_open: {{ requests_per_second: 0 }}\n    \
         health:\n      active: {{ interval: 20ms, fail_threshold: 1, success_threshold: 1 }}\n"
    );
    let proxy = TestProxy::start(&yaml).await;
    assert_eq!(proxy.get("/").await.text(), "a");
    drop(origin);
    healthy_endpoints(&proxy, 0.0).await;
    assert_eq!(proxy.get("/").await.status, 503);
    let _origin = Origin::at(address, |_| ok("back")).await;
    healthy_endpoints(&proxy, 1.0).await;
    assert_eq!(proxy.get("/").await.text(), "back");
}

#[tokio::test]
async fn failures_in_a_row_eject_an_endpoint_for_a_while() {
    let bad = Origin::start(|_| b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_vec()).await;
    let good = Origin::fixed("good").await;
    let yaml = format!(
        "routes: [{{ id: a, pool: p }}]\npools:\n  - id: p\n    endpoints: ['{}', '{}']\n    health:\n      passive: \
         {{ consecutive_failures: 3, ejection_duration: 300ms }}\n",
        bad.address, good.address
    );
    let proxy = TestProxy::start(&yaml).await;
    let mut client = proxy.client().await;
    let statuses = async |client: &mut crate::support::Client<_>, count: usize| {
        let mut statuses = Vec::new();
        for _ in 0..count {
            statuses.push(client.get("/").await.status);
        }
        statuses
    };
    assert_eq!(statuses(&mut client, 6).await, [503, 200, 503, 200, 503, 200]);
    assert_eq!(statuses(&mut client, 6).await, [200; 6]);
    until("the end of the ejection", async || (client.get("/").await.status == 503).then_some(())).await;
}
