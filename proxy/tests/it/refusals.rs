//! Limits, and the bodies of what the proxy answers itself.

use std::sync::Arc;

use crate::support::{Client, Origin, TestProxy, nobody, ok, to};

#[tokio::test]
async fn a_request_without_a_route_is_a_404_that_names_the_path() {
    let origin = Origin::fixed("").await;
    let proxy = TestProxy::start(&format!("routes: [{{ path: /known, to: 'http://{}' }}]", origin.address)).await;
    let mut client = proxy.client().await;
    let response = client.get("/no-such-\"path\"?q=1").await;
    let json = response.json();
    assert_eq!((response.status, response.category()), (404, "no_route".to_owned()));
    assert_eq!((json["error"].as_str(), json["path"].as_str()), (Some("no route matched"), Some("/no-such-\"path\"")));
    assert_eq!(json["request_id"].as_str(), response.header("x-request-id"));
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert!(response.header("date").is_some());
    assert_eq!(client.get("/known").await.status, 200, "the connection goes on");
    client.send("HEAD /no HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!(client.head_response().await.status, 404);
    assert_eq!(client.get("/known").await.status, 200, "and HEAD has no body");
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_is_a_502_and_named_only_where_asked() {
    let nobody = nobody();
    let dead = nobody.address;
    let proxy = TestProxy::start(&to(&[dead])).await;
    let response = proxy.get("/").await;
    assert_eq!((response.status, response.category()), (502, "upstream_connect_failed".to_owned()));
    assert_eq!(response.json()["error"], "bad gateway");
    assert_eq!((response.json().get("target"), response.json().get("detail")), (None, None));
    proxy
        .serve_edited(&to(&[dead]), |config| Arc::make_mut(&mut config.pools[0]).expose_upstream_errors = true)
        .await
        .unwrap();
    let json = proxy.get("/").await.json();
    assert_eq!(json["target"], dead.to_string());
    assert!(json["detail"].as_str().unwrap().contains("refused"), "{json}");
    proxy.until_metric("proxy_refused_total{category=\"upstream_connect_failed\"}", 2.0).await;
}

#[tokio::test]
async fn limits_on_heads_have_their_statuses() {
    let origin = Origin::fixed("").await;
    let limits = "limits: { max_header_bytes: 2KB, max_headers: 5, max_url_bytes: 1KB }\n";
    let proxy = TestProxy::start(&format!("{limits}{}", to(&[origin.address]))).await;
    let head = |target: usize, fields: usize, value: usize| {
        let mut head = format!("GET /{} HTTP/1.1\r\nHost: test\r\n", "a".repeat(target - 1));
        for number in 0..fields {
            head.push_str(&format!("X-{number}: {}\r\n", "b".repeat(value)));
        }
        head + "\r\n"
    };
    let cases = [
        (head(1024, 4, 450), 200, ""),
        (head(1025, 0, 0), 414, "uri_too_long"),
        (head(100_000, 0, 0), 414, "uri_too_long"),
        (head(1, 5, 1), 431, "headers_too_large"),
        (head(1, 500, 1), 431, "headers_too_large"),
        (head(1, 2, 1100), 431, "headers_too_large"),
        (head(1, 1, 100_000), 431, "headers_too_large"),
    ];
    for (head, status, category) in cases {
        let mut client = proxy.client().await;
        // A client that is refused early may find its connection reset while it still sends.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client.stream, head.as_bytes()).await;
        let response = client.response().await;
        assert_eq!(response.status, status, "{}", &head[..80.min(head.len())]);
        if status != 200 {
            assert_eq!(response.category(), category);
            assert!(client.is_closed().await);
        }
    }
    // Without an end.
    for (start, status) in [("GET /", 414), ("GET / HTTP/1.1\r\nHost: test\r\nX: ", 431)] {
        let mut client = proxy.client().await;
        client.send(start).await;
        client.send("a".repeat(3000)).await;
        assert_eq!(client.response().await.status, status);
    }
}

#[tokio::test]
async fn limits_on_bodies_hold_for_lengths_and_for_chunks() {
    let origin = Origin::fixed("fine").await;
    let yaml = format!(
        "limits: {{ max_body_bytes: 1KB }}\nroutes:\n  - {{ path_prefix: /small, to: 'http://{0}', policy: {{ body_size_limit: 10B }} }}\n\
         \x20 - to: 'http://{0}'\n",
        origin.address
    );
    let proxy = TestProxy::start(&yaml).await;
    let ask = async |path: &str, framing: &str, body: String| {
        let mut client = proxy.client().await;
        let response = client.ask(format!("POST {path} HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n{body}")).await;
        (response.status, client)
    };
    for (path, size, status) in [("/", 1024, 200), ("/", 1025, 413), ("/small", 10, 200), ("/small", 11, 413)] {
        let body = "x".repeat(size);
        assert_eq!(ask(path, &format!("Content-Length: {size}"), body.clone()).await.0, status, "{path} {size}");
        let chunked = format!("{size:x}\r\n{body}\r\n0\r\n\r\n");
        assert_eq!(ask(path, "Transfer-Encoding: chunked", chunked).await.0, status, "{path} {size} chunked");
    }
    // Found out while the body streams.
    let mut client = proxy.client().await;
    client.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n").await;
    for _ in 0..3 {
        client.send(format!("200\r\n{}\r\n", "x".repeat(512))).await;
    }
    let response = client.response().await;
    assert_eq!((response.status, response.category()), (413, "request_too_large".to_owned()));
}

#[tokio::test]
async fn connections_are_limited_in_all_and_per_client() {
    let origin = Origin::fixed("fine").await;
    for limit in ["max_connections: 2", "max_connections_per_client: 2"] {
        let proxy = TestProxy::start(&format!("limits: {{ {limit} }}\n{}", to(&[origin.address]))).await;
        let mut first = proxy.client().await;
        assert_eq!(first.get("/").await.status, 200);
        let mut second = proxy.client().await;
        assert_eq!(second.get("/").await.status, 200);
        let mut third: Client<_> = proxy.client().await;
        assert_eq!(third.response().await.status, 503, "{limit}");
        drop(first);
        crate::support::until("a free place", async || {
            let mut client = proxy.client().await;
            client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
            (client.response().await.status == 200).then_some(())
        })
        .await;
        assert!(proxy.metric("proxy_connections_refused_total").unwrap() >= 1.0);
    }
}

#[tokio::test]
async fn a_refusal_does_not_lose_its_answer_to_a_client_that_is_still_sending() {
    let proxy = TestProxy::start("limits: { max_body_bytes: 1KB }\nroutes: [{ to: 'http://127.0.0.1:1' }]").await;
    for _ in 0..20 {
        let mut client = proxy.client().await;
        let mut request = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 500000\r\n\r\n".to_vec();
        request.resize(request.len() + 500_000, b'x');
        let response = client.ask(request).await;
        assert_eq!((response.status, response.header("connection")), (413, Some("close")));
        assert!(client.is_closed().await);
    }
}

#[tokio::test]
async fn plain_text_is_refused_where_tls_is_required() {
    let origin = Origin::start(|_| ok("")).await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    proxy
        .serve_edited(&to(&[origin.address]), |config| Arc::make_mut(&mut config.routes[0]).policy.require_tls = true)
        .await
        .unwrap();
    let response = proxy.get("/").await;
    assert_eq!((response.status, response.category()), (403, "tls_required".to_owned()));
}
