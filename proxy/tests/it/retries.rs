//! What is tried again, and what never is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sealane_model::config::{Config, HostHeader, TargetPath};

use crate::support::{Origin, OriginConnection, TestProxy, nobody, ok, patiently, to};

fn with_retries(origins: &[SocketAddr], retries: &str) -> String {
    let origins: Vec<_> = origins.iter().map(|origin| format!("'http://{origin}'")).collect();
    format!("routes:\n  - id: a\n    to: [{}]\n    policy: {{ retries: {{ {retries} }} }}\n", origins.join(", "))
}

const POST: &str = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc";

#[tokio::test]
async fn a_connection_that_cannot_be_made_moves_on_to_each_other_endpoint() {
    let (a, b) = (nobody(), nobody());
    let origin = Origin::fixed("here").await;
    let proxy = TestProxy::start(&to(&[a.address, b.address, origin.address])).await;
    let mut client = proxy.client().await;
    for _ in 0..6 {
        assert_eq!(client.get("/").await.text(), "here");
        assert_eq!(client.ask(POST).await.text(), "here", "nothing was sent, so any method may");
    }
    assert_eq!(origin.requests()[1].body, b"abc");
    let observation = proxy.proxy.observe();
    assert!(observation.revisions[0].connect_failures >= 6);
    assert_eq!(observation.revisions[0].failed, 0);
    proxy.serve(&to(&[a.address, b.address])).await;
    assert_eq!(proxy.get("/").await.category(), "upstream_connect_failed");
}

#[tokio::test]
async fn a_name_is_tried_at_each_of_its_addresses() {
    // `localhost` is `::1` too on most machines; nobody listens there.
    let origin = Origin::fixed("here").await;
    let proxy = TestProxy::start(&format!("routes: [{{ to: 'http://localhost:{}' }}]", origin.address.port())).await;
    assert_eq!(proxy.get("/").await.text(), "here");
    proxy.serve("routes: [{ to: 'http://no-such-name.invalid' }]").await;
    let response = proxy.get("/").await;
    assert_eq!((response.status, response.category()), (502, "upstream_connect_failed".to_owned()));
}

#[tokio::test]
async fn another_endpoint_gets_a_head_of_its_own() {
    let origin = Origin::fixed("").await;
    let dead = nobody();
    let yaml = to(&[dead.address, origin.address]);
    let proxy = TestProxy::start(&yaml).await;
    let edit = |config: &mut Config| {
        let pool = Arc::make_mut(&mut config.pools[0]);
        pool.host_header = HostHeader::Endpoint;
        pool.endpoints[0].path = TargetPath::Replace("/one".to_owned());
        pool.endpoints[1].path = TargetPath::Replace("/two".to_owned());
    };
    proxy.serve_edited(&yaml, edit).await.unwrap();
    let mut client = proxy.client().await;
    for _ in 0..2 {
        let request = "POST /index?q HTTP/1.1\r\nHost: test\r\nX-Request-Id: 1\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(client.ask(request).await.status, 200);
    }
    for seen in origin.requests() {
        assert_eq!((seen.line(), seen.body.as_slice()), ("POST /two?q HTTP/1.1", &b"abc"[..]));
        assert_eq!(seen.header("host"), Some(&*origin.address.to_string()));
    }
}

#[tokio::test]
async fn a_stale_connection_is_no_failed_attempt() {
    // Closes each connection after one answer without saying so.
    let (told, mut closed) = tokio::sync::mpsc::channel(200);
    let origin = Origin::scripted(move |mut connection: OriginConnection| {
        let told = told.clone();
        async move {
            connection.request().await;
            connection.send(&ok("fresh")).await;
            tokio::io::AsyncWriteExt::shutdown(&mut connection.stream).await.unwrap();
            told.send(()).await.unwrap();
        }
    })
    .await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut client = proxy.client().await;
    for _ in 0..50 {
        assert_eq!(client.get("/").await.text(), "fresh");
    }
    let mut ends = 0;
    for _ in 0..50 {
        // A connection that is known to be closed is not used for what cannot be sent twice.
        while origin.connections() > ends {
            patiently("the end of a connection", closed.recv()).await.unwrap();
            ends += 1;
        }
        assert_eq!(client.ask(POST).await.text(), "fresh");
    }
    assert_eq!(origin.connections(), 100);
}

/// Fails `failures` times, by closing or with a status, then answers.
async fn flaky(failures: usize, failure: &'static [u8]) -> (Origin, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let origin = Origin::start(move |_| {
        if counter.fetch_add(1, Ordering::Relaxed) < failures { failure.to_vec() } else { ok("at last") }
    })
    .await;
    (origin, count)
}

const BUSY: &[u8] = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy";

#[tokio::test]
async fn nothing_is_retried_without_a_policy() {
    let (origin, count) = flaky(1, b"").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    assert_eq!(proxy.get("/").await.category(), "upstream_reset");
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn the_policy_says_what_is_retried_and_how_often() {
    let check = async |failure, failures, retries: &str, request: &str, expected: (u16, usize)| {
        let (origin, count) = flaky(failures, failure).await;
        let proxy = TestProxy::start(&with_retries(&[origin.address], retries)).await;
        let response = proxy.client().await.ask(request).await;
        assert_eq!((response.status, count.load(Ordering::Relaxed)), expected, "{retries} {request}");
        if response.status == 503 && response.body == b"busy" {
            assert_eq!(response.header("content-length"), Some("4"));
        }
    };
    let get = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";
    let put = "PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc";
    check(BUSY, 1, "max_attempts: 2, on: ['503']", get, (200, 2)).await;
    check(BUSY, 1, "max_attempts: 2, on: ['503']", put, (200, 2)).await;
    check(BUSY, 5, "max_attempts: 3, on: ['503']", get, (503, 3)).await;
    check(BUSY, 1, "max_attempts: 2, on: ['502']", get, (503, 1)).await;
    check(BUSY, 1, "max_attempts: 2, on: ['503']", POST, (503, 1)).await;
    check(BUSY, 1, "max_attempts: 2, on: ['503'], idempotent_only: false", POST, (200, 2)).await;
    check(b"", 1, "max_attempts: 2, on: [reset]", get, (200, 2)).await;
    check(b"", 1, "max_attempts: 2, on: [connect_failure]", get, (502, 1)).await;
    check(b"", 1, "max_attempts: 2, on: [reset]", POST, (502, 1)).await;
    check(
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nhalf",
        9,
        "max_attempts: 3, on: [reset]",
        get,
        (200, 1),
    )
    .await;
}

#[tokio::test]
async fn a_body_that_is_still_coming_is_not_retried() {
    let (origin, count) = flaky(1, BUSY).await;
    let proxy = TestProxy::start(&with_retries(&[origin.address], "max_attempts: 2, on: ['503']")).await;
    let mut client = proxy.client().await;
    client.send("PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: 200000\r\n\r\n").await;
    client.send("x".repeat(200_000)).await;
    assert_eq!(client.response().await.status, 503);
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_retry_goes_elsewhere_if_there_is_somewhere_else() {
    let bad = Origin::start(|_| BUSY.to_vec()).await;
    let good = Origin::fixed("good").await;
    let proxy = TestProxy::start(&with_retries(
        &[bad.address, good.address],
        "max_attempts: 2, on: ['503'], budget_percent: 100",
    ))
    .await;
    let mut client = proxy.client().await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.text(), "good");
    }
    let retried = bad.requests().len() as f64;
    proxy.until_metric("proxy_retries_total{route=\"a\",outcome=\"success\"}", retried).await;
}

#[tokio::test]
async fn the_budget_bounds_a_storm() {
    let origin = Origin::start(|_| BUSY.to_vec()).await;
    let proxy = TestProxy::start(&with_retries(&[origin.address], "max_attempts: 3, on: ['503']")).await;
    let mut client = proxy.client().await;
    for _ in 0..100 {
        assert_eq!(client.get("/").await.status, 503);
    }
    let retried = origin.requests().len() - 100;
    assert!((3..=40).contains(&retried), "{retried}");
    let refused = proxy.metric("proxy_retries_total{route=\"a\",outcome=\"budget\"}").unwrap();
    assert!(refused > 50.0);
    assert_eq!(proxy.metric("proxy_retry_outcomes_total{route=\"a\",outcome=\"budget\"}"), Some(refused));
    assert_eq!(proxy.metric("proxy_retry_budget_exhausted_total{route=\"a\"}"), Some(refused));
    assert!(proxy.metric("proxy_retry_reasons_total{route=\"a\",reason=\"status_503\"}").unwrap() >= refused);
    assert!(proxy.metric("proxy_retry_budget_tokens{route=\"a\"}").is_some());
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_given_up_for_another() {
    let slow = Origin::scripted(|mut connection: OriginConnection| async move {
        connection.request().await;
        connection.request().await;
    })
    .await;
    let fast = Origin::fixed("fast").await;
    let retries = "max_attempts: 2, per_try_timeout: 100ms, on: [timeout]";
    let proxy = TestProxy::start(&with_retries(&[slow.address, fast.address], retries)).await;
    assert_eq!(proxy.get("/").await.text(), "fast");
    proxy.serve(&with_retries(&[slow.address], retries)).await;
    let response = proxy.get("/").await;
    assert_eq!((response.status, response.category()), (504, "upstream_timeout".to_owned()));
}

#[tokio::test]
async fn an_endpoint_that_asks_for_more_time_than_the_policy_gives_is_not_tried_again() {
    let check = async |retry_after: &'static str, retries: &str, expected: (u16, usize)| {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        let origin = Origin::start(move |_| {
            if counter.fetch_add(1, Ordering::Relaxed) > 0 {
                return ok("at last");
            }
            format!("HTTP/1.1 503 Busy\r\nRetry-After: {retry_after}\r\nContent-Length: 4\r\n\r\nbusy").into_bytes()
        })
        .await;
        let retries = format!("max_attempts: 2, on: ['503'], {retries}");
        let proxy = TestProxy::start(&with_retries(&[origin.address], &retries)).await;
        let started = tokio::time::Instant::now();
        let response = proxy.get("/").await;
        assert_eq!((response.status, count.load(Ordering::Relaxed)), expected, "{retry_after} {retries}");
        started.elapsed().as_millis()
    };
    assert!(check("1", "backoff: 10ms, max_backoff: 2s", (200, 2)).await >= 1000, "as it asked");
    check("3", "backoff: 10ms, max_backoff: 2s", (503, 1)).await;
    check("soon", "backoff: 10ms", (200, 2)).await;
    check("3600", "idempotent_only: true", (200, 2)).await;
    check("1", "backoff: 10ms, max_backoff: 2s, within: 500ms", (503, 1)).await;
}

#[tokio::test]
async fn one_client_cannot_use_up_the_retries_of_all() {
    let origin = Origin::start(|_| BUSY.to_vec()).await;
    let retries = "max_attempts: 2, on: ['503'], per_client: { key: 'header:X-Client', percent: 0, burst: 1 }";
    let proxy = TestProxy::start(&with_retries(&[origin.address], retries)).await;
    let mut client = proxy.client().await;
    for name in ["greedy", "greedy", "greedy", "modest"] {
        client.ask(format!("GET / HTTP/1.1\r\nHost: test\r\nX-Client: {name}\r\n\r\n")).await;
    }
    assert_eq!(origin.requests().len(), 4 + 2, "one retry each");
}
