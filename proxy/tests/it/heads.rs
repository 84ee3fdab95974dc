//! What endpoints and clients see of heads: what passes, what is added, what is taken out.

use crate::support::{Client, Origin, TestProxy, ok, to};

#[tokio::test]
async fn a_plain_get_goes_through() {
    let origin = Origin::fixed("hello").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut client = proxy.client().await;
    for _ in 0..3 {
        let response = client.get("/a%2Fb//c?x=1&y").await;
        assert_eq!((response.status, response.text()), (200, "hello"));
        assert_eq!(response.header("connection"), None);
        assert!(response.header("date").is_some());
    }
    let seen = origin.requests();
    assert_eq!(seen[0].line(), "GET /a%2Fb//c?x=1&y HTTP/1.1");
    assert_eq!(seen[0].header("host"), Some("test"));
    assert_eq!(seen[0].header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen[0].header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen[0].header("x-forwarded-host"), Some("test"));
    assert_eq!(seen[0].header("x-real-ip"), Some("127.0.0.1"));
    assert_eq!(seen[0].header("via"), Some("1.1 sealane"));
    assert_eq!(seen[0].header("x-request-id").unwrap().len(), 32);
    assert_ne!(seen[0].header("x-request-id"), seen[1].header("x-request-id"));
    assert_eq!(origin.connections(), 1, "connections are used again");
}

#[tokio::test]
async fn hop_by_hop_fields_end_here_in_both_directions() {
    let origin = Origin::start(|_| {
        b"HTTP/1.1 200 OK\r\nConnection: X-Secret, keep-alive\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\n\
          Proxy-Authenticate: Basic\r\nUpgrade: h2c\r\nX-Kept: 2\r\nContent-Length: 0\r\n\r\n"
            .to_vec()
    })
    .await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let response = proxy
        .client()
        .await
        .ask(
            "GET / HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, X-Drop, X-Forwarded-For, Host, Via\r\nX-Drop: 1\r\n\
             x-drop: 2\r\nKeep-Alive: 5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\n\
             TE: gzip\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\nX_Under_Score: kept\r\nX-Kept: 1\r\n\r\n",
        )
        .await;
    for name in ["x-secret", "keep-alive", "proxy-authenticate", "upgrade", "connection"] {
        assert_eq!(response.header(name), None, "{name}");
    }
    assert_eq!(response.header("x-kept"), Some("2"));
    let seen = &origin.requests()[0];
    for name in [
        "x-drop",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "upgrade",
        "http2-settings",
        "connection",
    ] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert_eq!(seen.header("x-kept"), Some("1"));
    assert_eq!(seen.header("x_under_score"), Some("kept"));
    assert_eq!(seen.header("host"), Some("test"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("via"), Some("1.1 sealane"));
}

#[tokio::test]
async fn lines_leave_in_one_form_however_they_came() {
    let origin = Origin::fixed("").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let request = "GET / HTTP/1.1\r\nA:1\r\nHost:\ttest \r\nB:  2 \t \r\nC: 3\r\nD:\r\nE: 5\r\n\r\n";
    proxy.client().await.ask(request).await;
    let head = &origin.requests()[0].head;
    assert!(
        head.starts_with("GET / HTTP/1.1\r\nHost: test\r\nA: 1\r\nB: 2\r\nC: 3\r\nD: \r\nE: 5\r\nX-Forwarded-For"),
        "{head}"
    );
}

#[tokio::test]
async fn forwarding_fields_are_believed_from_trusted_peers_only() {
    let origin = Origin::fixed("").await;
    let request = "GET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n\
                   X-Forwarded-Host: public\r\nForwarded: for=192.0.2.7\r\nX-Request-Id: abc-1\r\nX-Real-IP: 9.9.9.9\r\n\r\n";
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    proxy.client().await.ask(request).await;
    proxy.serve(&format!("{}trusted_proxies: [127.0.0.0/8]\n", to(&[origin.address]))).await;
    proxy.client().await.ask(request).await;
    let seen = origin.requests();
    assert_eq!(seen[0].header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen[0].header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen[0].header("x-forwarded-host"), Some("test"));
    assert_eq!(seen[0].header("forwarded"), None);
    assert_eq!(seen[0].header("x-real-ip"), Some("127.0.0.1"));
    assert_ne!(seen[0].header("x-request-id"), Some("abc-1"));
    assert_eq!(seen[1].header("x-forwarded-for"), Some("192.0.2.7, 127.0.0.1"));
    assert_eq!(seen[1].header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen[1].header("x-forwarded-host"), Some("public"));
    assert_eq!(seen[1].header("forwarded"), Some("for=192.0.2.7, for=127.0.0.1;proto=http"));
    assert_eq!(seen[1].header("x-real-ip"), Some("9.9.9.9"));
    assert_eq!(seen[1].header("x-request-id"), Some("abc-1"));
}

#[tokio::test]
async fn the_authority_of_an_absolute_target_replaces_host() {
    let origin = Origin::fixed("").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut client = proxy.client().await;
    client.ask("GET http://other:81?q HTTP/1.1\r\nHost: test\r\n\r\n").await;
    client.ask("OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n").await;
    let seen = origin.requests();
    assert_eq!((seen[0].line(), seen[0].header("host")), ("GET /?q HTTP/1.1", Some("other:81")));
    assert_eq!(seen[1].line(), "OPTIONS * HTTP/1.1");
}

#[tokio::test]
async fn the_host_header_is_the_clients_the_endpoints_or_a_name() {
    let origin = Origin::fixed("").await;
    let address = origin.address;
    let yaml = |host: &str| {
        format!(
            "routes: [{{ id: a, pool: p }}]\npools: [{{ id: p, host_header: {host}, endpoints: [\"{address}\"] }}]\n"
        )
    };
    let proxy = TestProxy::start(&yaml("preserve")).await;
    for (host, expected) in [
        ("preserve", "test".to_owned()),
        ("endpoint", address.to_string()),
        ("inner.example", "inner.example".to_owned()),
    ] {
        proxy.serve(&yaml(host)).await;
        proxy.get("/").await;
        assert_eq!(origin.requests().last().unwrap().header("host"), Some(&*expected));
    }
}

#[tokio::test]
async fn requests_of_a_sandbox_are_marked_on_both_sides() {
    let origin =
        Origin::start(|_| b"HTTP/1.1 200 OK\r\nX-ALB-Sandbox: fake\r\nContent-Length: 0\r\n\r\n".to_vec()).await;
    let yaml = format!(
        "sandboxes:\n  enabled: true\n  routes:\n    - {{ sandbox_id: s-1, pattern: '^/api(/.*)?$', target_url: 'http://{}/base', priority: 10 }}\n",
        origin.address
    );
    let proxy = TestProxy::start(&yaml).await;
    let mut client = proxy.client().await;
    let response = client.ask("GET /api/x HTTP/1.1\r\nHost: test\r\nX-Sandbox-ID: fake\r\n\r\n").await;
    assert_eq!((response.status, response.header("x-alb-sandbox")), (200, Some("s-1")));
    let seen = &origin.requests()[0];
    assert_eq!(seen.line(), "GET /base/api/x HTTP/1.1");
    assert_eq!(seen.header("x-sandbox-id"), Some("s-1"));
    assert_eq!(seen.header("x-alb-route-id"), response.header("x-alb-route-id"));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::start(|request| ok(request.line())).await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut client = proxy.client().await;
    let mut requests = String::new();
    for number in 0..50 {
        requests.push_str(&format!("GET /{number} HTTP/1.1\r\nHost: test\r\n\r\n"));
        requests.push_str(&format!("POST /{number} HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc"));
    }
    // In two pieces that end inside a head.
    client.send(&requests[..1001]).await;
    client.send(&requests[1001..]).await;
    for number in 0..50 {
        assert_eq!(client.response().await.text(), format!("GET /{number} HTTP/1.1"));
        assert_eq!(client.response().await.text(), format!("POST /{number} HTTP/1.1"));
    }
}

#[tokio::test]
async fn a_head_may_come_byte_by_byte() {
    let origin = Origin::fixed("x").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut client = proxy.client().await;
    for byte in b"\r\nGET / HTTP/1.1\r\nHost: test\r\nX: y\r\n\r\n" {
        client.send([*byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.response().await.text(), "x");
}

#[tokio::test]
async fn empty_lines_before_a_request_are_none_of_it() {
    let origin = Origin::fixed("x").await;
    let proxy = TestProxy::start(&format!("limits: {{ read_header_timeout: 100ms }}\n{}", to(&[origin.address]))).await;
    let mut client = proxy.client().await;
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\na").await;
    assert_eq!(client.response().await.text(), "x");
    client.send("\r\n").await;
    // One that began a head after it has run out of time: the empty line did not start any.
    let mut begun = proxy.client().await;
    assert_eq!(begun.ask("GET").await.status, 408);
    assert_eq!(client.get("/").await.text(), "x");
}

#[tokio::test]
async fn http_1_0_clients_get_what_they_understand() {
    let origin = Origin::start(|request| match request.line() {
        "GET /chunked HTTP/1.1" => {
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\n".to_vec()
        }
        _ => ok("abc"),
    })
    .await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;

    let mut client = proxy.client().await;
    let response = client.ask("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!((response.text(), response.header("connection")), ("abc", Some("close")));
    assert!(client.is_closed().await);
    assert_eq!(origin.requests()[0].header("host"), Some(&*origin.address.to_string()));
    assert_eq!(origin.requests()[0].header("via"), Some("1.0 sealane"));

    let mut client = proxy.client().await;
    let response = client.ask("GET / HTTP/1.0\r\nHost: test\r\nConnection: keep-alive\r\n\r\n").await;
    assert_eq!((response.text(), response.header("connection")), ("abc", Some("keep-alive")));
    let response = client.ask("GET /chunked HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    assert_eq!((response.text(), response.header("connection")), ("abcde", Some("close")));
    assert_eq!(response.header("transfer-encoding"), None);
    assert!(!response.truncated);
}

#[tokio::test]
async fn connection_close_is_kept() {
    let origin = Origin::fixed("abc").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let mut client: Client<_> = proxy.client().await;
    let response = client.ask("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await;
    assert_eq!((response.text(), response.header("connection")), ("abc", Some("close")));
    assert!(client.is_closed().await);
    assert_eq!(origin.requests()[0].header("connection"), None, "the endpoint's connection goes on");
}

#[tokio::test]
async fn a_header_that_a_route_asks_for_is_compared_exactly() {
    let (wanted, other) = (Origin::fixed("wanted").await, Origin::fixed("other").await);
    let yaml = format!(
        "routes:\n  - {{ headers: {{ X-API-Version: v2 }}, to: 'http://{}' }}\n  - to: 'http://{}'\n",
        wanted.address, other.address
    );
    let proxy = TestProxy::start(&yaml).await;
    let mut client = proxy.client().await;
    for (lines, expected) in [
        ("X-API-Version: v2\r\n", "wanted"),
        ("x-api-version:v2 \r\n", "wanted"),
        ("X-API-Version: v1\r\nX-API-Version: v2\r\n", "wanted"),
        ("X-API-Version: v22\r\n", "other"),
        ("X-API-Version: V2\r\n", "other"),
        ("X-API-Version: v1, v2\r\n", "other"),
        ("", "other"),
    ] {
        let answer = client.ask(format!("GET / HTTP/1.1\r\nHost: test\r\n{lines}\r\n")).await;
        assert_eq!(answer.text(), expected, "{lines:?}");
    }
}

#[tokio::test]
async fn header_names_with_underscores_are_kept_dropped_or_refused_as_the_config_says() {
    let origin = Origin::fixed("here").await;
    let yaml = |limits: &str| format!("limits: {{ {limits} }}\n{}", to(&[origin.address]));
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    let request = "GET / HTTP/1.1\r\nHost: test\r\nX_Real_IP: 6.6.6.6\r\nX-Kept: 1\r\n\r\n";
    assert_eq!(proxy.client().await.ask(request).await.text(), "here");
    assert_eq!(origin.requests().pop().unwrap().header("x_real_ip"), Some("6.6.6.6"));
    proxy.serve(&yaml("header_underscores: drop")).await;
    assert_eq!(proxy.client().await.ask(request).await.text(), "here");
    let seen = origin.requests().pop().unwrap();
    assert_eq!((seen.header("x_real_ip"), seen.header("x-kept")), (None, Some("1")));
    proxy.serve(&yaml("header_underscores: refuse")).await;
    let refused = proxy.client().await.ask(request).await;
    assert_eq!((refused.status, refused.category()), (400, "bad_request".to_owned()));
    assert_eq!(proxy.get("/").await.text(), "here");
    let framing = "POST / HTTP/1.1\r\nHost: test\r\nContent_Length: 5\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(proxy.client().await.ask(framing).await.status, 400);
}
