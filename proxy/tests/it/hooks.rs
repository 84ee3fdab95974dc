//! Hooks of a program that uses this crate, and the examples that show them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sealane_model::parse::{Reader, parse};
use sealane_proxy::hooks::{Answer, EditError, Hooks, Keep, Verdict};
use sealane_proxy::settings::Settings;

use crate::support::{Origin, Response, TestProxy, nobody, ok, settings, to, until};

#[expect(dead_code, reason = "an example has a `main` that a test does not call")]
#[path = "../../examples/cache.rs"]
mod cache_example;
#[expect(dead_code, reason = "an example has a `main` that a test does not call")]
#[path = "../../examples/domains.rs"]
mod domains_example;
#[expect(dead_code, reason = "an example has a `main` that a test does not call")]
#[path = "../../examples/hooks.rs"]
mod hooks_example;

async fn hooked(hooks: Hooks, yaml: &str) -> TestProxy {
    TestProxy::with(Settings { hooks, ..settings() }, yaml).await
}

async fn counting(lines: &'static str) -> Origin {
    let count = AtomicUsize::new(0);
    Origin::start(move |_| {
        let body = format!("body {}", count.fetch_add(1, Ordering::Relaxed) + 1);
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{lines}\r\n{body}", body.len()).into_bytes()
    })
    .await
}

async fn ask(proxy: &TestProxy, path: &str, lines: &str) -> Response {
    proxy.client().await.ask(format!("GET {path} HTTP/1.1\r\nHost: test\r\n{lines}\r\n")).await
}

async fn until_stored(proxy: &TestProxy, entries: u64) {
    until("stored answers", async || (proxy.proxy.cache_stats().entries == entries).then_some(())).await;
}

#[tokio::test]
async fn a_request_goes_on_as_hooks_edited_it() {
    let origin = Origin::fixed("ok").await;
    let hooks = Hooks::default().on_request(|request| {
        assert_eq!((request.method(), request.path(), request.query()), ("GET", "/a", Some("q=1")));
        assert_eq!((request.host(), request.route(), request.pool()), ("test", "all", "route/all"));
        assert!(request.client_addr().is_loopback() && !request.is_tls() && !request.request_id().is_empty());
        assert_eq!(request.header("x-sent"), Some(&b"1"[..]));
        request.remove_header("X-Sent").unwrap();
        request.add_header("X-Added", "2").unwrap();
        request.set_header("User-Agent", "hook").unwrap();
        request.set_host("elsewhere.internal:81").unwrap();
        request.set_path("/b%20c").unwrap();
        assert_eq!(request.header("x-sent"), None);
        true
    });
    let proxy = hooked(hooks, &to(&[origin.address])).await;
    assert_eq!(ask(&proxy, "/a?q=1", "X-Sent: 1\r\nUser-Agent: client\r\n").await.status, 200);
    let seen = &origin.requests()[0];
    assert_eq!(seen.line(), "GET /b%20c?q=1 HTTP/1.1");
    assert_eq!(seen.header("host"), Some("elsewhere.internal:81"));
    assert_eq!(
        (seen.header("x-sent"), seen.header("x-added"), seen.header("user-agent")),
        (None, Some("2"), Some("hook"))
    );
}

#[tokio::test]
async fn what_hooks_may_not_edit_is_refused_and_changes_nothing() {
    let origin = Origin::fixed("ok").await;
    let hooks = Hooks::default()
        .on_request(|request| {
            for name in ["Host", "Content-Length", "Transfer-Encoding", "Connection", "Te", "a b", "", "x\r\ny"] {
                assert_eq!(request.set_header(name, "1"), Err(EditError::Field(name.to_owned())), "{name}");
            }
            assert!(request.set_header("X", "a\r\nInjected: 1").is_err());
            for host in ["", "a b", "a/b", "a\r\nX: 1", "user@host"] {
                assert!(request.set_host(host).is_err(), "{host}");
            }
            for path in ["", "x", "/a b", "/a?b", "/a#b", "/a\r\nX: 1", "/ä"] {
                assert!(request.set_path(path).is_err(), "{path}");
            }
            true
        })
        .on_response(|response| {
            for status in [0, 100, 101, 199, 204, 205, 304, 600] {
                assert_eq!(response.set_status(status), Err(EditError::Status(status)));
            }
            assert!(response.set_header("Content-Length", "1").is_err());
            assert!(response.add_header("X", "a\nb").is_err());
        });
    let proxy = hooked(hooks, &to(&[origin.address])).await;
    let response = proxy.get("/").await;
    assert_eq!((response.status, response.text()), (200, "ok"));
    assert_eq!(origin.requests()[0].line(), "GET / HTTP/1.1");
}

#[tokio::test]
async fn a_rejected_request_is_a_502_and_never_reaches_an_endpoint_or_the_cache() {
    let origin = counting("Cache-Control: max-age=60\r\n").await;
    let hooks = Hooks::default().on_request(|request| match request.header("x-reject") {
        Some(b"502") => Verdict::Reject,
        Some(_) => Verdict::Answer(Answer::new(451, "text/plain", "no\n").unwrap()),
        None => Verdict::Forward,
    });
    let yaml = format!("{}cache: {{ rules: [{{ path_prefix: / }}] }}\n", to(&[origin.address]));
    let proxy = hooked(hooks, &yaml).await;
    assert_eq!(proxy.get("/").await.text(), "body 1");
    until_stored(&proxy, 1).await;
    assert_eq!(proxy.get("/").await.text(), "body 1");
    let rejected = ask(&proxy, "/", "X-Reject: 502\r\n").await;
    assert_eq!((rejected.status, rejected.category()), (502, "request_rejected".to_owned()));
    let answered = ask(&proxy, "/", "X-Reject: 451\r\n").await;
    assert_eq!((answered.status, answered.text(), answered.header("content-type")), (451, "no\n", Some("text/plain")));
    assert_eq!(origin.requests().len(), 1);
    assert!(Answer::new(199, "", "").is_err() && Answer::new(200, "a\r\nb", "").is_err());
}

#[tokio::test]
async fn an_answer_reaches_the_client_as_hooks_edited_it() {
    let origin = Origin::start(|seen| {
        let lines = "X-Powered-By: toy\r\nX-Kept: 1\r\n";
        if seen.line().contains("/empty") {
            return format!("HTTP/1.1 404 Not Found\r\n{lines}Content-Length: 0\r\n\r\n").into_bytes();
        }
        format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 2\r\n\r\nok").into_bytes()
    })
    .await;
    let address = origin.address.to_string();
    let hooks = Hooks::default().on_response(move |response| {
        assert_eq!((response.backend(), response.host(), response.route()), (&*address, "test", "all"));
        assert_eq!((response.method(), response.header("x-kept")), ("GET", Some(&b"1"[..])));
        response.remove_header("X-Powered-By").unwrap();
        response.add_header("X-Proxy", "Sealane").unwrap();
        let status = if response.path() == "/empty" { 410 } else { 203 };
        response.set_status(status).unwrap();
        assert_eq!((response.status(), response.header("x-powered-by")), (status, None));
    });
    let proxy = hooked(hooks, &to(&[origin.address])).await;
    let mut client = proxy.client().await;
    for (path, status, body) in [("/", 203, "ok"), ("/empty", 410, ""), ("/", 203, "ok")] {
        let response = client.get(path).await;
        assert_eq!((response.status, response.text(), response.truncated), (status, body, false));
        assert_eq!((response.header("x-powered-by"), response.header("x-proxy")), (None, Some("Sealane")));
    }
    proxy.until_metric(r#"proxy_requests_total{route="all",pool="route/all",status="410"}"#, 1.0).await;
}

#[tokio::test]
async fn an_answer_is_kept_for_as_many_clients_as_a_hook_says_without_any_rule() {
    let origin = counting("Cache-Control: no-store\r\nSet-Cookie: a=b\r\n").await;
    let hooks = Hooks::default().on_response(|response| {
        response.add_header("X-Proxy", "Sealane").unwrap();
        response.cache_this(Keep::for_time(Duration::from_secs(300)).hits_max(2));
    });
    let proxy = hooked(hooks, &to(&[origin.address])).await;
    assert_eq!(proxy.get("/").await.header("set-cookie"), Some("a=b"));
    until_stored(&proxy, 1).await;
    for expected in ["body 1", "body 1", "body 2"] {
        let response = proxy.get("/").await;
        assert_eq!((response.text(), response.header("x-proxy")), (expected, Some("Sealane")));
        assert_eq!(response.header("set-cookie").is_some(), expected == "body 2");
    }
    assert_eq!(origin.requests().len(), 2);
}

#[tokio::test]
async fn what_a_hook_keeps_for_a_request_with_credentials_is_for_these_alone() {
    let origin = counting("").await;
    let hooks = Hooks::default().on_response(|response| response.cache_this(Keep::for_time(Duration::from_secs(300))));
    let yaml = format!("{}cache: {{ rules: [{{ path_prefix: / }}] }}\n", to(&[origin.address]));
    let proxy = hooked(hooks, &yaml).await;
    assert_eq!(ask(&proxy, "/", "Cookie: who=a\r\n").await.text(), "body 1");
    until_stored(&proxy, 1).await;
    assert_eq!(ask(&proxy, "/", "Cookie: who=b\r\n").await.text(), "body 2");
    until_stored(&proxy, 2).await;
    assert_eq!(proxy.get("/").await.text(), "body 3");
    until_stored(&proxy, 3).await;
    assert_eq!(ask(&proxy, "/", "Cookie: who=a\r\n").await.text(), "body 1");
    assert_eq!(ask(&proxy, "/", "Cookie: who=b\r\n").await.text(), "body 2");
    assert_eq!(proxy.get("/").await.text(), "body 3");
}

#[tokio::test]
async fn what_a_hook_wants_not_cached_is_not_whatever_the_rules_say() {
    let origin = counting("Cache-Control: max-age=3600\r\n").await;
    let hooks = Hooks::default().on_response(|response| {
        if response.path() == "/me" {
            response.do_not_cache();
        }
    });
    let yaml = format!("{}cache: {{ rules: [{{ path_prefix: / }}] }}\n", to(&[origin.address]));
    let proxy = hooked(hooks, &yaml).await;
    assert_eq!((proxy.get("/me").await.text(), proxy.get("/me").await.text()), ("body 1", "body 2"));
    assert_eq!(proxy.get("/all").await.text(), "body 3");
    until_stored(&proxy, 1).await;
    assert_eq!(proxy.get("/all").await.text(), "body 3");
}

#[tokio::test]
async fn a_kept_answer_ends_with_its_time_and_is_then_fetched_whole() {
    let origin = counting("ETag: \"a\"\r\n").await;
    let hooks = Hooks::default().on_response(|response| response.cache_this(Keep::for_time(Duration::from_millis(1))));
    let proxy = hooked(hooks, &to(&[origin.address])).await;
    proxy.get("/").await;
    until_stored(&proxy, 1).await;
    until("an answer of the origin", async || (proxy.get("/").await.text() != "body 1").then_some(())).await;
    assert!(origin.requests().iter().all(|seen| seen.header("if-none-match").is_none()));
}

#[tokio::test]
async fn every_failed_attempt_is_told_with_its_number() {
    let broken = Origin::start(|_| Vec::new()).await;
    let (nobody, told) = (nobody(), Arc::new(Mutex::new(Vec::new())));
    let heard = Arc::clone(&told);
    let hooks = Hooks::default().on_error(move |error| {
        assert_eq!((error.host(), error.route(), error.method(), error.path()), ("test", "all", "GET", "/x"));
        assert!(error.client_addr().is_loopback() && !error.detail().is_empty());
        let fact = (error.attempt(), error.backend().to_owned(), error.category().name());
        heard.lock().unwrap().push(fact);
    });
    let policy = "    policy: { retries: { max_attempts: 2, on: [reset] } }\n";
    let proxy = hooked(hooks, &format!("{}{policy}", to(&[nobody.address, broken.address]))).await;
    assert_eq!(proxy.get("/x").await.status, 502);
    let told = told.lock().unwrap().clone();
    let (nobody, broken) = (nobody.address.to_string(), broken.address.to_string());
    assert_eq!(told[0], (1, nobody, "upstream_connect_failed"), "{told:?}");
    assert_eq!(told[1], (1, broken, "upstream_reset"), "{told:?}");
    assert!(told[2..].iter().all(|(attempt, ..)| *attempt == 2) && told.len() > 2, "{told:?}");
}

#[tokio::test]
async fn the_example_of_hooks_does_what_it_says() {
    let origin = Origin::start(|seen| ok(seen.line())).await;
    let yaml = format!("listen: '127.0.0.1:0'\nlogging: {{ access: off }}\n{}", to(&[origin.address]));
    let proxy = hooks_example::proxy().settings(settings()).serve("hooks", &yaml).await.unwrap();
    let proxy = TestProxy { proxy, revision: AtomicUsize::new(0) };
    assert_eq!(proxy.get("/internal/x").await.status, 403);
    assert_eq!(proxy.get("/old").await.text(), "GET /new HTTP/1.1");
    until_stored(&proxy, 1).await;
    for _ in 0..2 {
        let me = proxy.get("/api/user/me").await;
        assert_eq!((me.status, me.header("x-proxy")), (200, Some("Sealane")));
    }
    let kept = proxy.get("/old").await;
    assert_eq!((kept.header("x-cache"), kept.header("x-proxy")), (Some("HIT"), Some("Sealane")));
    let seen = origin.requests();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|request| request.header("x-internal-auth") == Some("secret")));
    assert_eq!(seen[0].header("host"), Some("new.internal"));
    let error = proxy.proxy.serve("broken", "routes: [{ to: 3 }]").await.unwrap_err();
    assert!(error.to_string().starts_with("the config cannot be served\n  "), "{error}");
    assert_eq!(proxy.get("/old").await.status, 200);
}

#[tokio::test]
async fn the_example_of_the_cache_does_what_it_says() {
    let origin = counting("").await;
    let yaml = format!("{}{}", to(&[origin.address]), cache_example::CACHE);
    let proxy = hooked(Hooks::default(), &yaml).await;
    let mut client = proxy.client().await;
    for (path, entries) in [("/api/v1/users", 1), ("/static/a", 2)] {
        client.ask(format!("GET {path} HTTP/1.1\r\nHost: api.example.com\r\n\r\n")).await;
        until_stored(&proxy, entries).await;
    }
    client.ask("GET /other HTTP/1.1\r\nHost: b.example.com\r\n\r\n").await;
    until_stored(&proxy, 3).await;
    assert!(cache_example::statistics(&proxy.proxy).starts_with("cache: 3 entries, "));
    assert!(cache_example::statistics(&proxy.proxy).ends_with(" bytes, 0 hits, 3 misses"));
    assert_eq!(cache_example::purge(&proxy.proxy).unwrap(), [1, 1, 1]);
}

#[test]
fn the_example_of_domains_is_a_config_without_a_problem() {
    for routes in [domains_example::BASIC, domains_example::FULL] {
        let parsed = parse("domains", &domains_example::listening(routes, ":8080"), Reader::Local);
        let (config, warnings) = parsed.unwrap();
        assert!(warnings.is_empty() && !config.routes.is_empty(), "{warnings:#?}");
    }
}
