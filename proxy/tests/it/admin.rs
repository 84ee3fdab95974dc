//! The admin listener: what it serves, to whom, and that it is nowhere else.

use std::time::Duration;

use sealane_model::config::Shutdown;
use sealane_model::parse::Reader;
use sealane_proxy::desk::{Order, Refused};
use sealane_proxy::proxy::{Notice, Proxy, StartError};
use sealane_proxy::settings::{AdminSettings, Settings};

use crate::support::{Client, Origin, PATIENCE, Response, TestProxy, metric, patiently, settings, to, until};

fn with_admin(edit: impl FnOnce(&mut AdminSettings)) -> Settings {
    let mut admin = AdminSettings {
        address: "127.0.0.1:0".parse().unwrap(),
        flag: "--admin-addr",
        token: None,
        tls: None,
        rate_per_second: sealane_proxy::settings::ADMIN_RATE,
        insecure: false,
        extra: None,
    };
    edit(&mut admin);
    Settings { admin: Some(admin), ..settings() }
}

async fn ask(proxy: &Proxy, path: &str, headers: &str) -> Response {
    ask_by(proxy, "GET", path, headers).await
}

async fn ask_by(proxy: &Proxy, method: &str, path: &str, headers: &str) -> Response {
    let mut client = Client::connect(proxy.admin().unwrap()).await;
    let host = if headers.contains("Host:") { "" } else { "Host: localhost\r\n" };
    client.ask(format!("{method} {path} HTTP/1.1\r\n{host}{headers}Connection: close\r\n\r\n")).await
}

#[tokio::test]
async fn it_is_alive_before_it_is_ready() {
    let proxy = Proxy::start(with_admin(|_| {})).await.unwrap();
    assert_eq!(ask(&proxy, "/healthz", "").await.json()["status"], "ok");
    for path in ["/ready", "/readyz"] {
        let response = ask(&proxy, path, "").await;
        assert_eq!((response.status, response.json()["status"].as_str()), (503, Some("not_ready")));
    }
    assert_eq!(ask(&proxy, "/api/v2/config/current", "").await.status, 404);
    assert!(!proxy.observe().ready);
    assert_eq!(metric(ask(&proxy, "/metrics", "").await.text(), "proxy_ready"), Some(0.0));
}

#[tokio::test]
async fn it_shows_what_is_served() {
    let origin = Origin::fixed("").await;
    let proxy = TestProxy::with(with_admin(|_| {}), &to(&[origin.address])).await;
    proxy.get("/").await;
    proxy.client().await.ask("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n").await;
    proxy.until_metric("proxy_requests_total{route=\"\",pool=\"\",status=\"400\"}", 1.0).await;
    proxy.until_metric("proxy_requests_total{route=\"all\",pool=\"route/all\",status=\"200\"}", 1.0).await;
    let current = ask(&proxy.proxy, "/api/v2/config/current", "").await.json();
    assert_eq!((current["revision"].as_u64(), current["label"].as_str()), (Some(1), Some("r1")));
    assert_eq!(current["routes"][0]["id"], "all");
    assert_eq!(ask(&proxy.proxy, "/ready", "").await.status, 200);
    let health = ask(&proxy.proxy, "/api/v2/pools/route%2Fall/health", "").await.json();
    assert_eq!((health["healthy"].as_u64(), health["total"].as_u64()), (Some(1), Some(1)));
    assert_eq!(health["endpoints"][0]["address"], origin.address.to_string());
    assert_eq!(ask(&proxy.proxy, "/api/v2/pools/none/health", "").await.status, 404);

    let metrics = ask(&proxy.proxy, "/metrics", "").await;
    assert!(metrics.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let endpoint = origin.address;
    for (series, value) in [
        ("proxy_requests_total{route=\"all\",pool=\"route/all\",status=\"200\"}".to_owned(), 1.0),
        ("proxy_requests_total{route=\"\",pool=\"\",status=\"400\"}".to_owned(), 1.0),
        ("proxy_request_duration_seconds_count{route=\"all\",pool=\"route/all\"}".to_owned(), 1.0),
        ("proxy_request_duration_seconds_bucket{route=\"all\",pool=\"route/all\",le=\"+Inf\"}".to_owned(), 1.0),
        ("proxy_request_size_bytes_count{route=\"all\",pool=\"route/all\"}".to_owned(), 1.0),
        ("proxy_response_size_bytes_sum{route=\"all\",pool=\"route/all\"}".to_owned(), 0.0),
        (format!("proxy_upstream_requests_total{{pool=\"route/all\",endpoint=\"{endpoint}\"}}"), 1.0),
        (format!("proxy_upstream_duration_seconds_count{{pool=\"route/all\",endpoint=\"{endpoint}\"}}"), 1.0),
        ("proxy_pool_healthy_endpoints{pool=\"route/all\"}".to_owned(), 1.0),
        ("proxy_pool_total_endpoints{pool=\"route/all\"}".to_owned(), 1.0),
        ("proxy_refused_total{category=\"bad_request\"}".to_owned(), 1.0),
        ("proxy_refused_total{category=\"circuit_open\"}".to_owned(), 0.0),
        ("proxy_config_revision".to_owned(), 1.0),
        ("proxy_active_snapshot_info{version=\"r1\",source=\"fleet\"}".to_owned(), 1.0),
        ("proxy_config_apply_total{result=\"success\"}".to_owned(), 1.0),
        ("proxy_config_apply_total{result=\"rejected\"}".to_owned(), 0.0),
        ("proxy_trace_spans_exported_total".to_owned(), 0.0),
        ("proxy_snapshot_swaps_total".to_owned(), 1.0),
        ("proxy_access_log_lines_dropped_total".to_owned(), 0.0),
        ("proxy_upstream_roundtrip_seconds_count{pool=\"route/all\"}".to_owned(), 1.0),
        ("proxy_upstream_errors_total{pool=\"route/all\",category=\"timeout\"}".to_owned(), 0.0),
        ("proxy_upstream_errors_total{pool=\"route/all\",category=\"connect_failed\"}".to_owned(), 0.0),
        ("proxy_proxy_errors_total{route=\"all\",category=\"upstream_timeout\"}".to_owned(), 0.0),
        ("proxy_proxy_errors_total{route=\"\",category=\"bad_request\"}".to_owned(), 1.0),
        ("proxy_mtls_reject_total{route=\"all\"}".to_owned(), 0.0),
        ("proxy_config_apply_duration_seconds_count".to_owned(), 1.0),
    ] {
        assert_eq!(metric(metrics.text(), &series), Some(value), "{series}\n{}", metrics.text());
    }
}

#[tokio::test]
async fn who_asks_for_open_metrics_gets_it() {
    let origin = Origin::fixed("").await;
    let proxy = TestProxy::with(with_admin(|_| {}), &to(&[origin.address])).await;
    let accept = "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1\r\n";
    let page = ask(&proxy.proxy, "/metrics", accept).await;
    assert!(page.header("content-type").unwrap().starts_with("application/openmetrics-text; version=1.0.0"));
    assert!(page.text().ends_with("# EOF\n"));
    assert!(page.text().contains("# TYPE proxy_requests counter\n"));
    assert!(page.text().contains("# UNIT proxy_request_duration_seconds seconds\n"));
}

#[tokio::test]
async fn failures_of_endpoints_are_counted_by_pool_and_route() {
    let gone = crate::support::nobody();
    let proxy = TestProxy::start(&to(&[gone.address])).await;
    proxy.get("/").await;
    proxy.until_metric("proxy_proxy_errors_total{route=\"all\",category=\"upstream_connect_failed\"}", 1.0).await;
    let series = "proxy_upstream_errors_total{pool=\"route/all\",category=\"connect_failed\"}";
    assert_eq!(proxy.metric(series), Some(1.0));
    assert!(proxy.metric("proxy_request_last_duration_seconds{route=\"all\",pool=\"route/all\"}").unwrap() > 0.0);
}

#[tokio::test]
async fn paths_have_families_of_their_own_where_the_config_wants_them() {
    let origin = Origin::fixed("hi").await;
    let gone = crate::support::nobody();
    let yaml = format!(
        "metrics: {{ path_names: true }}\nroutes:\n  - {{ id: a, path: /index, to: 'http://{}' }}\n  - {{ id: b, to: 'http://{}' }}\n",
        origin.address, gone.address
    );
    let proxy = TestProxy::start(&yaml).await;
    for name in ["index", "ROOT"] {
        for family in ["request_count", "last_response_time", "successful_request_count", "failed_request_count"] {
            assert_eq!(proxy.metric(&format!("{name}_{family}")), Some(0.0), "{name}_{family}");
        }
    }
    proxy.get("/index").await;
    proxy.get("/else").await;
    proxy.until_metric("index_successful_request_count", 1.0).await;
    proxy.until_metric("ROOT_failed_request_count", 1.0).await;
    assert_eq!(proxy.metric("index_failed_request_count"), Some(0.0));
    assert_eq!(proxy.metric("ROOT_successful_request_count"), Some(0.0));
    assert!(proxy.metric("index_last_response_time").unwrap() > 0.0);
}

#[tokio::test]
async fn series_exist_with_zeros_before_the_first_request() {
    let origin = Origin::fixed("").await;
    let proxy = TestProxy::start(&to(&[origin.address])).await;
    assert_eq!(proxy.metric("proxy_requests_total{route=\"all\",pool=\"route/all\",status=\"200\"}"), Some(0.0));
    let series = format!("proxy_upstream_requests_total{{pool=\"route/all\",endpoint=\"{}\"}}", origin.address);
    assert_eq!(proxy.metric(&series), Some(0.0));
}

#[tokio::test]
async fn a_browser_cannot_be_made_to_reach_it() {
    let proxy = Proxy::start(with_admin(|_| {})).await.unwrap();
    let port = proxy.admin().unwrap().port();
    for (headers, status) in [
        ("Host: evil.example\r\n".to_owned(), 403),
        ("Host: 127.0.0.1.evil.example\r\n".to_owned(), 403),
        ("Host: 127.0.0.1\r\n".to_owned(), 200),
        ("Host: [::1]:9090\r\n".to_owned(), 200),
        ("Host: localhost:9090\r\n".to_owned(), 200),
        ("Origin: http://evil.example\r\n".to_owned(), 403),
        ("Origin: null\r\n".to_owned(), 403),
        ("Origin: http://localhost:3000\r\n".to_owned(), 403),
        (format!("Host: localhost:{port}\r\nOrigin: http://localhost:{port}\r\n"), 200),
        ("Sec-Fetch-Site: cross-site\r\n".to_owned(), 403),
        ("Sec-Fetch-Site: same-site\r\n".to_owned(), 403),
        ("Sec-Fetch-Site: same-origin\r\n".to_owned(), 200),
        ("Sec-Fetch-Site: none\r\n".to_owned(), 200),
    ] {
        assert_eq!(ask(&proxy, "/healthz", &headers).await.status, status, "{headers}");
    }
}

#[tokio::test]
async fn a_token_guards_everything_but_health() {
    let extra = axum::Router::new().route("/extra", axum::routing::get(async || "extra"));
    let edit = |admin: &mut AdminSettings| (admin.token, admin.extra) = (Some("secret".to_owned()), Some(extra));
    let proxy = Proxy::start(with_admin(edit)).await.unwrap();
    assert_eq!(ask(&proxy, "/healthz", "").await.status, 200);
    assert_eq!(ask(&proxy, "/ready", "").await.status, 503);
    for path in ["/metrics", "/extra"] {
        for (headers, status) in [
            ("", 401),
            ("Authorization: Bearer wrong\r\n", 401),
            ("Authorization: Basic secret\r\n", 401),
            ("Authorization: Bearer secret\r\n", 200),
        ] {
            assert_eq!(ask(&proxy, path, headers).await.status, status, "{path} {headers}");
        }
    }
}

#[tokio::test]
async fn wrong_tokens_lock_an_address_out_even_with_the_right_one_but_not_from_health() {
    let proxy = Proxy::start(with_admin(|admin| admin.token = Some("secret".to_owned()))).await.unwrap();
    for _ in 0..10 {
        assert_eq!(ask(&proxy, "/metrics", "Authorization: Bearer wrong\r\n").await.status, 401);
    }
    let locked = ask(&proxy, "/metrics", "Authorization: Bearer secret\r\n").await;
    assert_eq!(locked.status, 429);
    assert!((1..=60).contains(&locked.header("retry-after").unwrap().parse::<u64>().unwrap()));
    assert_eq!(ask(&proxy, "/healthz", "").await.status, 200);
}

#[tokio::test]
async fn beyond_loopback_it_wants_protection_or_an_explicit_word() {
    let exposed = with_admin(|admin| admin.address = "0.0.0.0:0".parse().unwrap());
    let refused = Proxy::start(exposed.clone()).await.unwrap_err();
    assert!(matches!(refused, StartError::AdminExposed { .. }));
    assert!(refused.to_string().contains("--insecure-admin"), "{refused}");
    let token_alone = with_admin(|admin| {
        (admin.address, admin.token) = ("0.0.0.0:0".parse().unwrap(), Some("secret".to_owned()));
    });
    assert!(matches!(Proxy::start(token_alone).await, Err(StartError::AdminExposed { .. })));
    let mut insecure = exposed;
    insecure.admin.as_mut().unwrap().insecure = true;
    Proxy::start(insecure).await.unwrap();
}

#[tokio::test]
async fn a_taken_address_is_named_with_its_flag() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let error = Proxy::start(with_admin(|admin| admin.address = address)).await.unwrap_err().to_string();
    assert!(error.contains(&address.to_string()) && error.contains("--admin-addr"), "{error}");
}

#[tokio::test]
async fn admin_paths_are_no_admin_paths_on_the_data_plane() {
    let origin = Origin::fixed("the origin's").await;
    let proxy = TestProxy::with(with_admin(|_| {}), &to(&[origin.address])).await;
    for path in ["/healthz", "/ready", "/metrics", "/api/v2/config/current", "/%6detrics", "//metrics"] {
        assert_eq!(proxy.get(path).await.text(), "the origin's", "{path}");
    }
}

#[tokio::test]
async fn metrics_are_on_the_data_plane_where_the_config_says_so_and_nothing_else_is() {
    let origin = Origin::fixed("the origin's").await;
    let yaml = format!("metrics: {{ on_data_plane: true, path: /stats }}\n{}", to(&[origin.address]));
    let proxy = TestProxy::start(&yaml).await;
    let mut client = proxy.client().await;
    assert_eq!(metric(client.get("/stats").await.text(), "proxy_config_revision"), Some(1.0));
    for path in ["/metrics", "/healthz", "/stats/"] {
        assert_eq!(client.get(path).await.text(), "the origin's");
    }
    // A token that is asked for but nowhere set lets nobody in.
    let edit = |config: &mut sealane_model::config::Config| config.metrics.token_env = Some("NO_SUCH_TOKEN".to_owned());
    proxy.serve_edited(&yaml, edit).await.unwrap();
    let request = "GET /stats HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer \r\n\r\n";
    for request in [request, "GET /stats HTTP/1.1\r\nHost: test\r\n\r\n"] {
        assert_eq!(client.ask(request).await.category(), "unauthorized");
    }
}

#[tokio::test]
async fn a_drain_is_asked_for_once_followed_to_its_end_and_lasts() {
    let origin = Origin::fixed("").await;
    let times = Shutdown { lb_convergence: Duration::from_millis(50), drain: PATIENCE, force_close: PATIENCE };
    let settings = Settings { shutdown: Some(times), ..with_admin(|_| {}) };
    let proxy = TestProxy::with(settings, &to(&[origin.address])).await;
    let data = proxy.address();
    let mut open = proxy.client().await;
    open.send("GET / HTTP/1.1\r\nHost: te").await;
    assert_eq!(ask(&proxy.proxy, "/api/v2/drain", "").await.json()["stage"], "serving");
    for _ in 0..2 {
        assert_eq!(ask_by(&proxy.proxy, "POST", "/api/v2/drain", "").await.status, 202);
    }
    until("draining", async || {
        (ask(&proxy.proxy, "/api/v2/drain", "").await.json()["stage"] == "draining").then_some(())
    })
    .await;
    assert_eq!(ask(&proxy.proxy, "/ready", "").await.status, 503);
    open.send("st\r\n\r\n").await;
    assert_eq!(open.response().await.status, 200, "what was begun is finished");
    until("the end", async || {
        (ask(&proxy.proxy, "/api/v2/drain", "").await.json()["stage"] == "drained").then_some(())
    })
    .await;
    assert!(tokio::net::TcpStream::connect(data).await.is_err());
    // Stopping what is drained takes no time; draining it again neither.
    patiently("the second drain", proxy.proxy.drain(Notice::LoadBalancers)).await;
}

#[tokio::test]
async fn the_cache_is_shown_and_purged_by_those_who_may() {
    let origin =
        Origin::start(|_| b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 2\r\n\r\nok".to_vec())
            .await;
    let yaml = format!("routes: [{{ to: 'http://{}' }}]\ncache: [{{ path_prefix: / }}]\n", origin.address);
    let proxy = TestProxy::with(with_admin(|admin| admin.token = Some("secret".to_owned())), &yaml).await;
    for path in ["/a", "/a?x", "/b", "/c"] {
        proxy.get(path).await;
    }
    proxy.get("/a").await;
    until("stored answers", async || (proxy.proxy.cache_stats().entries == 4).then_some(())).await;
    let send = async |line: &str, token: &str, body: &str| {
        let mut client = Client::connect(proxy.proxy.admin().unwrap()).await;
        let length = body.len();
        let head = format!("Host: localhost\r\n{token}Content-Length: {length}\r\nConnection: close\r\n\r\n");
        client.ask(format!("{line} HTTP/1.1\r\n{head}{body}")).await
    };
    const TOKEN: &str = "Authorization: Bearer secret\r\n";
    assert_eq!(send("GET /api/v2/cache/stats", "", "").await.status, 401);
    assert_eq!(send("POST /api/v2/cache/purge", "", "{\"all\":true}").await.status, 401);
    let stats = send("GET /api/v2/cache/stats", TOKEN, "").await.json();
    assert_eq!(
        (stats["entries"].as_u64(), stats["hits"].as_u64(), stats["misses"].as_u64()),
        (Some(4), Some(1), Some(4))
    );
    assert!(stats["total_bytes"].as_u64().unwrap() > 0 && stats["max_entries"] == 10_000);
    let purge = async |body: &str| send("POST /api/v2/cache/purge", TOKEN, body).await;
    assert_eq!(purge("{\"url\":\"http://test/b\"}").await.json()["purged"], 1);
    assert_eq!(purge("{\"prefix\":\"test/a\"}").await.json()["purged"], 2);
    assert_eq!(purge("{\"host\":\"other\"}").await.json()["purged"], 0);
    for bad in
        ["", "{}", "{\"all\":false}", "{\"url\":\"ftp://x/\"}", "{\"url\":\"a\",\"all\":true}", "{\"path\":\"/\"}"]
    {
        let refused = purge(bad).await;
        assert_eq!((refused.status, &refused.json()["category"]), (400, &"bad_request".into()), "{bad}");
    }
    let domain = send("DELETE /admin/cache/test", TOKEN, "").await.json();
    assert_eq!((domain["domain"].as_str(), domain["purged"].as_u64()), (Some("test"), Some(1)));
    assert_eq!(purge("{\"all\":true}").await.json()["purged"], 0);
}

async fn post(proxy: &Proxy, path: &str, headers: &str, body: &str) -> Response {
    let mut client = Client::connect(proxy.admin().unwrap()).await;
    let head = format!("Host: localhost\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    client.ask(format!("POST {path} HTTP/1.1\r\n{head}{body}")).await
}

#[tokio::test]
async fn every_answer_has_an_id_and_a_refusal_says_it_and_what_is_allowed() {
    let proxy = Proxy::start(with_admin(|_| {})).await.unwrap();
    let sent = ask(&proxy, "/healthz", "X-Request-Id: mine-1\r\n").await;
    assert_eq!(sent.header("x-request-id"), Some("mine-1"));
    let made = ask(&proxy, "/healthz", "X-Request-Id: not an id\r\n").await;
    assert_eq!(made.header("x-request-id").map(str::len), Some(32));
    let refused = ask(&proxy, "/nothing", "X-Request-Id: mine-2\r\n").await;
    assert_eq!((refused.status, refused.json()["request_id"].as_str()), (404, Some("mine-2")));
    let wrong = ask_by(&proxy, "DELETE", "/api/v2/config/apply", "").await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")));
    assert_eq!(wrong.json()["error"], "method not allowed");
}

#[tokio::test]
async fn configs_are_taken_so_often_from_one_address_and_everything_else_as_often_as_one_likes() {
    let proxy = Proxy::start(with_admin(|admin| admin.rate_per_second = 1)).await.unwrap();
    let valid = "listen: 127.0.0.1:0\nroutes: [{ to: 'http://127.0.0.1:1' }]\n";
    for _ in 0..2 {
        assert_eq!(post(&proxy, "/api/v2/config/validate", "", valid).await.status, 200);
    }
    let refused = post(&proxy, "/api/v2/config/validate", "", valid).await;
    assert_eq!((refused.status, refused.category().as_str()), (429, "rate_limited"));
    assert!(refused.header("retry-after").is_some());
    for _ in 0..20 {
        assert_eq!(ask(&proxy, "/metrics", "").await.status, 200);
    }
}

#[tokio::test]
async fn a_config_is_checked_and_nothing_changes() {
    let origin = Origin::fixed("").await;
    let proxy = TestProxy::with(with_admin(|admin| admin.rate_per_second = 0), &to(&[origin.address])).await;
    let applied = proxy.metric("proxy_config_apply_total{result=\"rejected\"}");
    for path in ["/api/v2/config/validate", "/admin/validate"] {
        let bad = post(&proxy.proxy, path, "", "listen: :8080\nroutes:\n  - to: http://a\n    pool: b\n").await;
        assert_eq!((bad.status, bad.category().as_str()), (422, "config_invalid"), "{path}");
        assert!(bad.json()["problems"].as_array().is_some_and(|problems| problems[0]["line"].as_u64() > Some(0)));
    }
    assert_eq!(proxy.metric("proxy_config_apply_total{result=\"rejected\"}"), applied);
    assert_eq!(ask(&proxy.proxy, "/api/v2/config/current", "").await.json()["label"], "r1");
    // Here a test owns the config.
    let refused = post(&proxy.proxy, "/api/v2/config/apply", "", &to(&[origin.address])).await;
    assert_eq!((refused.status, refused.category().as_str()), (409, "managed_by_program"));
    assert_eq!(proxy.metric("proxy_config_conflict_total"), Some(1.0));
}

#[tokio::test]
async fn replaced_configs_that_requests_still_use_are_counted_until_they_are_free() {
    let origin = Origin::fixed("").await;
    let settings = Settings { retired_max: 1, ..with_admin(|_| {}) };
    let proxy = TestProxy::with(settings, &to(&[origin.address])).await;
    let mut client = proxy.client().await;
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\n").await;
    until("the request to be on its way", async || {
        (!origin.requests().is_empty() || origin.connections.load(std::sync::atomic::Ordering::Relaxed) > 0)
            .then_some(())
    })
    .await;
    proxy.serve(&to(&[origin.address])).await;
    assert_eq!(proxy.proxy.pressure(), Some(1));
    client.send("ab").await;
    assert_eq!(client.response().await.status, 200);
    until("room again", async || proxy.proxy.pressure().is_none().then_some(())).await;
}

#[tokio::test]
async fn requests_are_shown_as_they_end_without_what_the_log_redacts() {
    let origin = Origin::fixed("").await;
    let yaml = format!("logging: {{ access: off }}\n{}", to(&[origin.address]));
    let proxy = TestProxy::with(with_admin(|_| {}), &yaml).await;
    let mut client = Client::connect(proxy.proxy.admin().unwrap()).await;
    client
        .send("GET /api/v2/tail?path_prefix=%2Fa&lines=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await;
    let followed = tokio::spawn(async move { client.response().await });
    until("a line", async || {
        proxy.get("/b?token=hunter2").await;
        proxy.get("/a?token=hunter2").await;
        followed.is_finished().then_some(())
    })
    .await;
    let followed = followed.await.unwrap();
    assert_eq!(followed.header("content-type"), Some("application/x-ndjson"));
    let line: serde_json::Value = serde_json::from_str(followed.text().lines().next().unwrap()).unwrap();
    assert_eq!((line["path"].as_str(), line["route"].as_str()), (Some("/a?<redacted>"), Some("all")));
    assert!(!followed.text().contains("hunter2"));
    for bad in ["status=9xx", "rout=a"] {
        assert_eq!(ask(&proxy.proxy, &format!("/api/v2/tail?{bad}"), "").await.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn families_are_bounded_and_the_busiest_routes_have_series_of_their_own() {
    let origin = Origin::fixed("hello").await;
    let mut yaml = "metrics: { max_series: 60 }\nroutes:\n".to_owned();
    for number in 0..200 {
        yaml += &format!("  - {{ id: r{number}, path: /{number}, to: 'http://{}' }}\n", origin.address);
    }
    let proxy = TestProxy::start(&yaml).await;
    let mut client = proxy.client().await;
    // What came first is not what is busy.
    for number in (0..150).chain([190, 191, 192].repeat(10)) {
        client.get(&format!("/{number}")).await;
    }
    let all = |text: &str| -> f64 {
        let values = text.lines().filter_map(|line| line.strip_prefix("proxy_requests_total{")?.rsplit_once(' '));
        values.map(|(_, value)| value.parse::<f64>().unwrap()).sum()
    };
    until("all to be counted", async || (all(&proxy.proxy.metrics()) == 180.0).then_some(())).await;
    let text = proxy.proxy.metrics();
    let own = |route: &str| {
        metric(&text, &format!("proxy_requests_total{{route=\"{route}\",pool=\"route/{route}\",status=\"200\"}}"))
    };
    for route in ["r190", "r191", "r192"] {
        assert!(own(route).is_some_and(|requests| requests >= 9.0), "{route}");
    }
    assert!(metric(&text, "proxy_requests_total{route=\"other\",pool=\"other\",status=\"200\"}").is_some());
    for family in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
        let of_family = |line: &&str| {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            name.strip_prefix(family).is_some_and(|rest| ["", "_bucket", "_sum", "_count"].contains(&rest))
        };
        let series = text.lines().filter(of_family).count();
        assert!(series <= 60 + 41, "{family} has {series} series; `other` may take some beside the bound");
    }
}

#[tokio::test]
async fn who_applies_too_much_at_once_is_told_to_wait() {
    let origin = Origin::fixed("").await;
    let yaml = to(&[origin.address]);
    let proxy = TestProxy::with(with_admin(|_| {}), &yaml).await;
    let mut orders = proxy.proxy.take_orders(Reader::Local);
    let owner = tokio::spawn(async move {
        while let Some(Order::Apply(apply)) = orders.recv().await {
            let _ = apply.answer.send(Err(Refused::Pressure { retired: 10 }));
        }
    });
    let refused = post(&proxy.proxy, "/api/v2/config/apply", "", &yaml).await;
    assert_eq!((refused.status, refused.category().as_str()), (429, "config_pressure"));
    assert_eq!(refused.header("retry-after"), Some("5"));
    assert_eq!(proxy.metric("proxy_config_conflict_total"), Some(0.0), "nobody else decides");
    owner.abort();
}
