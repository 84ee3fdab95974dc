//! Endpoints that do worse than their siblings are ejected, within a bound.

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::{Origin, OriginConnection, TestProxy, ok, until};

const FAILING: &[u8] = b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno";

fn pool(origins: &[SocketAddr], outlier: &str) -> String {
    let origins: Vec<_> = origins.iter().map(|origin| format!("'http://{origin}'")).collect();
    format!(
        "pools: {{ p: {{ endpoints: [{}], outlier_detection: {{ {outlier} }} }} }}\nroutes: [{{ pool: p }}]\n",
        origins.join(", ")
    )
}

#[tokio::test]
async fn failures_in_a_row_eject_up_to_the_bound() {
    let mut origins = Vec::new();
    for number in 0..4 {
        origins.push(Origin::start(move |_| if number < 3 { FAILING.to_vec() } else { ok("good") }).await);
    }
    let addresses: Vec<_> = origins.iter().map(|origin| origin.address).collect();
    let proxy = TestProxy::start(&pool(&addresses, "consecutive_failures: 2, max_ejection_percent: 50")).await;
    let mut client = proxy.client().await;
    for _ in 0..40 {
        client.get("/").await;
    }
    let ejections = "proxy_outlier_ejections_total{pool=\"p\",reason=\"consecutive_fail\"}";
    assert_eq!(proxy.metric(ejections), Some(2.0));
    assert_eq!(proxy.metric("proxy_pool_healthy_endpoints{pool=\"p\"}"), Some(2.0));
    let statuses: Vec<_> = [client.get("/").await.status, client.get("/").await.status].into();
    assert!(statuses.contains(&200) && statuses.contains(&500), "{statuses:?}: two of four still serve");
}

#[tokio::test]
async fn an_endpoint_that_fails_half_of_the_time_is_found_out() {
    let count = std::sync::atomic::AtomicUsize::new(0);
    let flapping = Origin::start(move |_| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if number.is_multiple_of(2) { FAILING.to_vec() } else { ok("lucky") }
    })
    .await;
    let good = Origin::fixed("good").await;
    let outlier = "error_rate_threshold: 40, min_requests: 10, interval: 50ms";
    let proxy = TestProxy::start(&pool(&[flapping.address, good.address], outlier)).await;
    let mut client = proxy.client().await;
    until("the ejection", async || {
        client.get("/").await;
        let ejections = "proxy_outlier_ejections_total{pool=\"p\",reason=\"error_rate\"}";
        (proxy.metric(ejections) == Some(1.0)).then_some(())
    })
    .await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.text(), "good");
    }
}

#[tokio::test]
async fn an_endpoint_that_is_much_slower_is_found_out() {
    let slow = Origin::scripted(|mut connection: OriginConnection| async move {
        while connection.request().await.is_some() {
            // Time is what it is judged by.
            tokio::time::sleep(Duration::from_millis(200)).await;
            connection.send(&ok("slow")).await;
        }
    })
    .await;
    let (fast, faster) = (Origin::fixed("fast").await, Origin::fixed("fast").await);
    let outlier = "latency_multiplier: 3, interval: 500ms, max_ejection_percent: 34";
    let proxy = TestProxy::start(&pool(&[slow.address, fast.address, faster.address], outlier)).await;
    let clients = std::iter::repeat_with(|| async {
        let mut client = proxy.client().await;
        loop {
            client.get("/").await;
        }
    });
    let ejected = proxy.until_metric("proxy_outlier_ejections_total{pool=\"p\",reason=\"latency\"}", 1.0);
    tokio::select! {
        () = ejected => {}
        _ = futures_util::future::join_all(clients.take(64)) => {}
    }
    for _ in 0..6 {
        assert_eq!(proxy.get("/").await.text(), "fast");
    }
}
