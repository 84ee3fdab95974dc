//! Requests that come round, and those that may not go on.

use crate::support::{Origin, TestProxy, to};

#[tokio::test]
async fn a_request_that_goes_round_in_circles_ends() {
    let origin = Origin::fixed("here").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    // A few proxies in a row are no circle.
    let via = "Via: 1.1 sealane, 1.0 other\r\n".repeat(5);
    let request = format!("GET / HTTP/1.1\r\nHost: test\r\n{via}\r\n");
    assert_eq!(proxy.client().await.ask(&request).await.text(), "here");
    let seen = origin.requests().pop().unwrap();
    assert_eq!(seen.head.matches("sealane").count(), 6, "{}", seen.head);
    // A route that leads back to the proxy.
    proxy.serve(&to(&[proxy.address()])).await;
    let response = proxy.get("/").await;
    assert_eq!((response.status, response.category()), (400, "bad_request".to_owned()));
    proxy.until_metric("proxy_forwarding_loops_total", 1.0).await;
    proxy.until_metric("proxy_requests_total{route=\"all\",pool=\"route/all\",status=\"400\"}", 10.0).await;
}

/// RFC 9110 §7.6.2
#[tokio::test]
async fn max_forwards_is_counted_down_for_the_methods_that_heed_it() {
    let origin = Origin::fixed("here").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut client = proxy.client().await;
    let ask =
        |method: &str, left: &str| format!("{method} /a?b HTTP/1.1\r\nHost: test\r\nMax-Forwards: {left}\r\n\r\n");
    for (method, sent, seen) in [
        ("OPTIONS", "7", "6"),
        ("TRACE", "1", "0"),
        ("OPTIONS", "99999999999999999999", "4294967294"),
        ("GET", "7", "7"),
        ("GET", "0", "0"),
        ("OPTIONS", "x", "x"),
    ] {
        assert_eq!(client.ask(ask(method, sent)).await.text(), "here");
        assert_eq!(origin.requests().pop().unwrap().header("max-forwards"), Some(seen), "{method} {sent}");
    }
    let reached = origin.requests().len();
    let answer = client.ask(ask("OPTIONS", "0")).await;
    assert_eq!((answer.status, answer.text()), (200, ""));
    let answer = client.ask(ask("TRACE", "0")).await;
    assert_eq!(answer.header("content-type"), Some("message/http"));
    assert_eq!(answer.text(), "TRACE /a?b HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.get("/").await.text(), "here", "the connection goes on");
    assert_eq!(origin.requests().len(), reached + 1);
}
