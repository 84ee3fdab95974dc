//! Middleware chains from outside: each stage, their order, and that upgrades and refusals pass through them too.

use std::time::Duration;

use crate::support::{Client, Origin, Response, TestProxy, ok, until};

/// A config with one route to `origin` through a chain of these stages.
pub(crate) fn chain(origin: &Origin, stages: &[&str]) -> String {
    let stages: String = stages.iter().map(|stage| format!("      - {stage}\n")).collect();
    format!(
        "routes:\n  - {{ id: all, to: 'http://{}', middleware: m }}\nmiddleware:\n  - id: m\n    stages:\n{stages}",
        origin.address
    )
}

async fn ask(proxy: &TestProxy, line: &str, headers: &[&str]) -> Response {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    proxy.client().await.ask(format!("{line} HTTP/1.1\r\nHost: test\r\n{headers}\r\n")).await
}

async fn get(proxy: &TestProxy, headers: &[&str]) -> Response {
    ask(proxy, "GET /", headers).await
}

#[tokio::test]
async fn header_transforms_edit_requests_and_answers() {
    let answer = "HTTP/1.1 200 OK\r\nServer: secret\r\nX-Keep: 1\r\nX-Both: origin\r\nContent-Length: 0\r\n\r\n";
    let origin = Origin::start(move |_| answer.into()).await;
    let stage = "{ type: header_transform, config: { add: { X-Proxy-Version: '1.0' }, set: { X-Set: new }, remove: \
                 [X-Internal-Secret, X-Forwarded-Host], response: { set: { X-Both: proxy }, add: { X-Added: a }, remove: [Server] } } }";
    let proxy = TestProxy::start(&chain(&origin, &[stage])).await;
    let response = get(&proxy, &["x-internal-secret: 1", "X-SET: old", "X-Other: 1"]).await;
    let seen = &origin.requests()[0];
    assert_eq!(seen.header("x-internal-secret"), None);
    assert_eq!(seen.header("x-forwarded-host"), None);
    assert_eq!(seen.header("x-set"), Some("new"));
    assert_eq!(seen.header("x-proxy-version"), Some("1.0"));
    assert_eq!(seen.header("x-other"), Some("1"));
    assert_eq!((response.header("server"), response.header("x-keep")), (None, Some("1")));
    assert_eq!((response.header("x-both"), response.header("x-added")), (Some("proxy"), Some("a")));
}

#[tokio::test]
async fn later_stages_see_what_earlier_ones_edited() {
    let origin = Origin::fixed("").await;
    let stages = [
        "{ type: header_transform, config: { set: { X-A: first, X-Key: same } } }",
        "{ type: rate_limit, config: { requests_per_second: 0.001, burst: 1, key: 'header:X-Key' } }",
        "{ type: header_transform, config: { set: { X-A: second }, remove: [X-Key] } }",
    ];
    let proxy = TestProxy::start(&chain(&origin, &stages)).await;
    assert_eq!(get(&proxy, &["X-Key: one"]).await.status, 200);
    assert_eq!(get(&proxy, &["X-Key: two"]).await.status, 429, "the key is what the stage before set");
    let seen = &origin.requests()[0];
    assert_eq!((seen.header("x-a"), seen.header("x-key")), (Some("second"), None));
}

#[tokio::test]
async fn request_ids_are_taken_over_or_made_and_told_to_both_sides() {
    let origin =
        Origin::start(|_| b"HTTP/1.1 200 OK\r\nX-Request-Id: theirs\r\nContent-Length: 0\r\n\r\n".into()).await;
    let proxy = TestProxy::start(&chain(&origin, &["{ type: request_id }"])).await;
    let response = get(&proxy, &["X-Request-Id: abc-1"]).await;
    assert_eq!(response.header("x-request-id"), Some("abc-1"));
    assert_eq!(origin.requests()[0].header("x-request-id"), Some("abc-1"));
    for bad in ["X-Request-Id: a b", "X-Request-Id: <script>", "X-Request-Id: a\r\nX-Request-Id: b"] {
        let response = get(&proxy, &[bad]).await;
        let id = response.header("x-request-id").unwrap().to_owned();
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{bad}: {id}");
        assert_eq!(origin.requests().last().unwrap().header("x-request-id"), Some(&*id));
    }
    let never = "{ type: request_id, config: { header: X-Correlation-Id, accept: never, response: false } }";
    proxy.serve(&chain(&origin, &[never])).await;
    let response = get(&proxy, &["X-Correlation-Id: abc-1"]).await;
    assert_eq!((response.header("x-correlation-id"), response.header("x-request-id")), (None, Some("theirs")));
    let seen = origin.requests().pop().unwrap();
    assert_eq!(seen.header("x-correlation-id"), seen.header("x-request-id"));
    assert_ne!(seen.header("x-correlation-id"), Some("abc-1"));
    // A refusal carries the same id as everything else.
    proxy
        .serve(&chain(&origin, &["request_id", "{ type: auth, config: { jwt: { issuer: 'http://127.0.0.1:9' } } }"]))
        .await;
    let response = get(&proxy, &["X-Request-Id: abc-2"]).await;
    assert_eq!((response.status, response.header("x-request-id")), (401, Some("abc-2")));
    assert_eq!(response.json()["request_id"], "abc-2");
}

#[tokio::test]
async fn redirects_go_where_the_template_says_and_never_to_the_place_they_came_from() {
    let origin = Origin::fixed("here").await;
    let check = async |config: &str, target: &str, status: u16, location: &str| {
        let proxy =
            TestProxy::start(&chain(&origin, &[&format!("{{ type: redirect, config: {{ {config} }} }}")])).await;
        let response = ask(&proxy, &format!("GET {target}"), &[]).await;
        assert_eq!((response.status, response.header("location").unwrap_or("")), (status, location), "{config}");
    };
    check("to: 'https://{host}{path}{query}'", "/a?b=c", 308, "https://test/a?b=c").await;
    check("to: 'https://new.example/x{path}', status: 301", "/a?b=c", 301, "https://new.example/x/a").await;
    check("to: 'https://new.example/{path}{query}', status: 302", "/a", 302, "https://new.example/a").await;
    check("https: true", "/a?b", 308, "https://test/a?b").await;
    check("host: 'other.example:8080'", "/a?b", 308, "http://other.example:8080/a?b").await;
    check("path: '/v2{path}', status: 307", "/a?b", 307, "http://test/v2/a?b").await;
    check("to: /login", "/a?b", 308, "/login").await;
    check("to: '{path}/'", "//evil.example/x", 308, "/evil.example/x/").await;
    check("to: '/{path}'", "//evil.example/x", 308, "/evil.example/x").await;
    check("to: 'http://{authority}{path}{query}'", "/a?b", 200, "").await;
    check("to: /here", "/here", 200, "").await;
}

#[tokio::test]
async fn a_client_gets_its_burst_and_then_429_with_what_is_left() {
    let origin = Origin::fixed("").await;
    let stage = "{ type: rate_limit, config: { requests_per_second: 0.01, burst: 3 } }";
    let proxy = TestProxy::start(&chain(&origin, &[stage])).await;
    for remaining in ["2", "1", "0"] {
        let response = get(&proxy, &[]).await;
        assert_eq!((response.status, response.header("ratelimit-remaining")), (200, Some(remaining)));
        assert_eq!(response.header("ratelimit-limit"), Some("3"));
        assert_eq!(response.header("ratelimit-policy"), Some("\"default\";q=3;w=300"));
        let told = response.header("ratelimit").unwrap();
        assert!(told.starts_with(&format!("\"default\";r={remaining};t=")), "{told}");
    }
    let response = get(&proxy, &[]).await;
    assert_eq!((response.status, response.category()), (429, "rate_limited".to_owned()));
    assert_eq!(response.header("ratelimit-remaining"), Some("0"));
    let retry_after: u64 = response.header("retry-after").unwrap().parse().unwrap();
    assert!((95..=100).contains(&retry_after), "{retry_after}");
    assert!(response.header("ratelimit-reset").unwrap().parse::<u64>().unwrap() > 250);
    // The state stays through a swap.
    proxy.serve(&chain(&origin, &[stage])).await;
    assert_eq!(get(&proxy, &[]).await.status, 429);
    assert_eq!(origin.requests().len(), 3);
    proxy.until_metric("proxy_refused_total{category=\"rate_limited\"}", 2.0).await;
}

#[tokio::test]
async fn a_policy_limits_without_a_chain_and_once_with_one_that_refers_to_it() {
    let origin = Origin::fixed("").await;
    let policy = "policies: { p: { rate_limit: { requests_per_second: 0.001, burst: 2, key: 'header:X-Key' } } }\n";
    let route =
        |more: &str| format!("routes: [{{ id: all, to: 'http://{}', policy: p{more} }}]\n{policy}", origin.address);
    let chained = route(", middleware: m") + "middleware: [{ id: m, stages: [{ type: rate_limit, policy_ref: p }] }]\n";
    for yaml in [route(""), chained] {
        let proxy = TestProxy::start(&yaml).await;
        let statuses: Vec<u16> = {
            let mut statuses = Vec::new();
            for key in ["a", "a", "a", "b", "b", "b"] {
                statuses.push(get(&proxy, &[&format!("X-Key: {key}")]).await.status);
            }
            // Leaving the header out gets one bucket for all who do.
            for _ in 0..3 {
                statuses.push(get(&proxy, &[]).await.status);
            }
            statuses
        };
        assert_eq!(statuses, [200, 200, 429, 200, 200, 429, 200, 200, 429], "{yaml}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_is_exact_over_all_threads() {
    let origin = Origin::fixed("").await;
    let stage = "{ type: rate_limit, config: { requests_per_second: 200, burst: 20 } }";
    let proxy = std::sync::Arc::new(TestProxy::start(&chain(&origin, &[stage])).await);
    let start = tokio::time::Instant::now();
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let proxy = std::sync::Arc::clone(&proxy);
            tokio::spawn(async move {
                let mut client = proxy.client().await;
                let mut granted = 0u32;
                while start.elapsed() < Duration::from_secs(2) {
                    granted += u32::from(client.get("/").await.status == 200);
                }
                granted
            })
        })
        .collect();
    let mut granted = 0;
    for client in clients {
        granted += client.await.unwrap();
    }
    let expected = 20.0 + 200.0 * start.elapsed().as_secs_f64();
    assert!((f64::from(granted) - expected).abs() <= expected * 0.05, "{granted} of {expected}");
}

#[tokio::test]
async fn cors_answers_preflights_and_names_who_may_read() {
    let answer = "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nVary: Accept\r\nContent-Length: 0\r\n\r\n";
    let origin = Origin::start(move |_| answer.into()).await;
    let stage = "{ type: cors, config: { origins: ['https://app.example.com', 'https://*.dev.example.com'], methods: \
                 [GET, PUT], headers: [X-Token], expose: [X-Total], credentials: true, max_age: 5m } }";
    let proxy = TestProxy::start(&chain(&origin, &[stage])).await;
    let values = |response: &Response, name: &str| -> Vec<String> {
        let found = response.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone()).collect()
    };
    for (sent, allowed) in [
        ("https://app.example.com", true),
        ("https://a.b.dev.example.com", true),
        ("https://dev.example.com", false),
        ("http://app.example.com", false),
        ("https://app.example.com.evil.com", false),
        ("https://app.example.com:8443", false),
        ("null", false),
    ] {
        let header = format!("Origin: {sent}");
        let response = get(&proxy, &[&header]).await;
        assert_eq!(response.status, 200);
        assert_eq!(
            values(&response, "access-control-allow-origin"),
            if allowed { vec![sent] } else { vec![] },
            "{sent}"
        );
        assert_eq!(response.header("access-control-allow-credentials"), allowed.then_some("true"));
        assert_eq!(response.header("access-control-expose-headers"), allowed.then_some("X-Total"));
        assert!(values(&response, "vary").contains(&"Origin".to_owned()), "{sent}");
        assert!(values(&response, "vary").contains(&"Accept".to_owned()), "{sent}");
        let before = origin.requests().len();
        let preflight = ask(&proxy, "OPTIONS /x", &[&header, "Access-Control-Request-Method: PUT"]).await;
        assert_eq!(
            (preflight.status, origin.requests().len()),
            (204, before),
            "a preflight does not reach the endpoint"
        );
        assert_eq!(preflight.header("content-length"), None);
        assert_eq!(preflight.header("access-control-allow-origin"), allowed.then_some(sent));
        assert_eq!(preflight.header("access-control-allow-methods"), allowed.then_some("GET, PUT"));
        assert_eq!(preflight.header("access-control-allow-headers"), allowed.then_some("x-token"));
        assert_eq!(preflight.header("access-control-max-age"), allowed.then_some("300"));
    }
    assert!(values(&get(&proxy, &[]).await, "vary").contains(&"Origin".to_owned()));
    // An OPTIONS that is no preflight is the endpoint's.
    let before = origin.requests().len();
    ask(&proxy, "OPTIONS /x", &["Origin: https://app.example.com"]).await;
    assert_eq!(origin.requests().len(), before + 1);

    let any = "{ type: cors, config: { origins: ['*'], methods: ['*'], headers: ['*'] } }";
    proxy.serve(&chain(&origin, &[any])).await;
    let response = get(&proxy, &["Origin: https://who.ever"]).await;
    assert_eq!(values(&response, "access-control-allow-origin"), ["*"]);
    assert_eq!(values(&response, "vary"), ["Accept"]);
    let headers =
        ["Origin: https://who.ever", "Access-Control-Request-Method: PURGE", "Access-Control-Request-Headers: x-a,x-b"];
    let preflight = ask(&proxy, "OPTIONS /x", &headers).await;
    assert_eq!(preflight.header("access-control-allow-methods"), Some("PURGE"));
    assert_eq!(preflight.header("access-control-allow-headers"), Some("x-a,x-b"));
}

#[tokio::test]
async fn refusals_of_later_stages_can_be_read_by_the_site_that_asked() {
    let origin = Origin::fixed("").await;
    let stages = [
        "{ type: cors, config: { origins: ['https://app.example.com'] } }",
        "{ type: rate_limit, config: { requests_per_second: 0.001, burst: 1 } }",
    ];
    let proxy = TestProxy::start(&chain(&origin, &stages)).await;
    get(&proxy, &[]).await;
    let response = get(&proxy, &["Origin: https://app.example.com"]).await;
    assert_eq!(response.status, 429);
    assert_eq!(response.header("access-control-allow-origin"), Some("https://app.example.com"));
    drop(origin);
}

#[tokio::test]
async fn upgrades_pass_the_chain_too() {
    let origin = Origin::scripted(|mut connection| async move {
        let Some(head) = connection.head().await else { return };
        assert!(head.contains("\r\nx-added: 1"), "{head}");
        connection
            .send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\nX-Gone: 1\r\n\r\n")
            .await;
        while let Some(bytes) = connection.read_exact(1).await {
            connection.send(&bytes).await;
        }
    })
    .await;
    let stages = [
        "{ type: header_transform, config: { add: { X-Added: '1' }, response: { remove: [X-Gone] } } }",
        "{ type: rate_limit, config: { requests_per_second: 0.001, burst: 1 } }",
    ];
    let proxy = TestProxy::start(&chain(&origin, &stages)).await;
    let upgrade = "GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    let mut client = proxy.client().await;
    client.send(upgrade).await;
    let response = client.response().await;
    assert_eq!((response.status, response.header("x-gone")), (101, None));
    client.send("x").await;
    assert_eq!(client.read_exact(1).await, b"x");
    assert_eq!(proxy.client().await.ask(upgrade).await.status, 429);
}

#[tokio::test]
async fn sampled_routes_log_a_share_of_their_requests_and_every_failure() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let origin = Origin::start(|request| {
        if request.line().contains("/bad") { b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_vec() } else { ok("") }
    })
    .await;
    let yaml = format!(
        "logging: {{ access: file, file: '{}' }}\n{}",
        path.display(),
        chain(&origin, &["{ type: access_log, config: { sample_percent: 20 } }"])
    );
    let proxy = TestProxy::start(&yaml).await;
    let mut client: Client<_> = proxy.client().await;
    for _ in 0..500 {
        client.get("/good").await;
    }
    for _ in 0..5 {
        client.get("/bad").await;
    }
    let lines = until("log lines", async || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        (text.matches("/bad").count() == 5).then_some(text)
    })
    .await;
    let good = lines.matches("/good").count();
    assert!((50..=160).contains(&good), "{good} of 500");
}
