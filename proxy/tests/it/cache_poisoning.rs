//! Attacks on a shared cache: what one client sends never decides what another one gets.

use std::fmt::Write as _;

use crate::support::{Origin, Response, Seen, TestProxy, until};

/// Answers with everything that it was sent, which may be stored.
async fn reflecting() -> Origin {
    Origin::start(|seen: &Seen| {
        let mut body = String::new();
        for line in seen.head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("x-request-id")) {
            let _ = writeln!(body, "{line}");
        }
        answer("200 OK", "Cache-Control: public, max-age=3600\r\n", &body)
    })
    .await
}

fn answer(status: &str, lines: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{lines}\r\n{body}", body.len()).into_bytes()
}

async fn caching(origin: &Origin, path_prefix: &str) -> TestProxy {
    let address = origin.address;
    TestProxy::start(&format!(
        "routes: [{{ id: r, to: 'http://{address}' }}]\ncache: {{ rules: [{{ path_prefix: {path_prefix} }}] }}\n"
    ))
    .await
}

async fn ask(proxy: &TestProxy, line: &str, host: &str, lines: &str) -> Response {
    proxy.client().await.ask(format!("{line} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n")).await
}

/// An answer is stored when its last byte came, which a client may see first.
async fn until_stored(proxy: &TestProxy, entries: u64) {
    until("stored answers", async || (proxy.proxy.cache_stats().entries == entries).then_some(())).await;
}

#[tokio::test]
async fn a_header_that_the_origin_reflects_reaches_nobody_else() {
    let origin = reflecting().await;
    let proxy = caching(&origin, "/").await;
    let headers = [
        "X-Forwarded-Host: evil.example",
        "X-Forwarded-Host: evil.example\r\nX-Forwarded-Host: evil.example",
        "X-Forwarded-Proto: evil.example",
        "X-Forwarded-Scheme: evil.example",
        "X-Forwarded-Port: evil.example",
        "X-Forwarded-Server: evil.example",
        "X-Forwarded-Prefix: /evil.example",
        "Forwarded: host=evil.example",
        "X-Host: evil.example",
        "X-HTTP-Host-Override: evil.example",
        "X-Original-URL: /evil.example",
        "X-Rewrite-URL: /evil.example",
        "X-Original-Host: evil.example",
        "X_Forwarded_Host: evil.example",
        "X-HTTP-Method-Override: EVIL.EXAMPLE",
        "X-HTTP-Method: EVIL.EXAMPLE",
        "X-Method-Override: EVIL.EXAMPLE",
    ];
    for (number, header) in headers.into_iter().enumerate() {
        let line = format!("GET /{number}");
        assert_eq!(ask(&proxy, &line, "test", &format!("{header}\r\n")).await.status, 200, "{header}");
        let victim = ask(&proxy, &line, "test", "").await;
        assert!(!victim.text().to_ascii_lowercase().contains("evil.example"), "{header}: {}", victim.text());
        let again = ask(&proxy, &line, "test", "").await;
        assert!(!again.text().to_ascii_lowercase().contains("evil.example"), "{header}: {}", again.text());
    }
}

#[tokio::test]
async fn no_parameter_hides_in_another() {
    let origin = reflecting().await;
    let proxy = caching(&origin, "/").await;
    let poisoned = [
        "/js?cb=a;cb=evil",
        "/js?cb=a&utm_content=x;cb=evil",
        "/js?cb=a&cb=evil",
        "/js?cb=a%26cb=evil",
        "/js?cb=a#&cb=evil",
        "/js?CB=evil&cb=a",
        "/js?&cb=a&evil",
    ];
    for target in poisoned {
        ask(&proxy, &format!("GET {target}"), "test", "").await;
        for clean in ["/js?cb=a", "/js"] {
            let victim = ask(&proxy, &format!("GET {clean}"), "test", "").await;
            assert!(!victim.text().contains("evil"), "{target}: {}", victim.text());
        }
    }
}

#[tokio::test]
async fn a_host_is_one_key_however_it_is_written_and_another_port_is_another() {
    let origin = reflecting().await;
    let proxy = caching(&origin, "/").await;
    ask(&proxy, "GET /", "test", "").await;
    until_stored(&proxy, 1).await;
    for same in ["TEST", "Test:80", "test:"] {
        assert_eq!(ask(&proxy, "GET /", same, "").await.header("x-cache"), Some("HIT"), "{same}");
    }
    for other in ["test:1337", "test.", "test:080"] {
        assert_ne!(ask(&proxy, "GET /", other, "").await.header("x-cache"), Some("HIT"), "{other}");
    }
    assert!(!ask(&proxy, "GET /", "test", "").await.text().contains("1337"));
}

#[tokio::test]
async fn a_page_for_one_user_is_not_stored_under_a_path_that_looks_static() {
    let origin = reflecting().await;
    let proxy = caching(&origin, "/static/").await;
    let targets = [
        "/static/../account",
        "/static/%2e%2e/account",
        "/static/..%2faccount",
        "/static/..%2Faccount%3f.css",
        "/static/..%5caccount",
        "/account/..%2fstatic/x.css",
        "/account;/static/x.css",
        "/account%00/static/x.css",
        "//static/..;/account",
    ];
    for target in targets {
        for lines in ["Cookie: session=victim\r\n", "Authorization: Bearer victim\r\n"] {
            ask(&proxy, &format!("GET {target}"), "test", lines).await;
            let attacker = ask(&proxy, &format!("GET {target}"), "test", "").await;
            assert!(!attacker.text().contains("victim"), "{target}: {}", attacker.text());
        }
    }
    for target in ["/static/../account", "/static/%2e%2e/account", "/static/x/%2E./../account"] {
        let attacker = ask(&proxy, &format!("GET {target}"), "test", "").await;
        assert_eq!(attacker.header("cache-status"), None, "{target} is below /account");
    }
}

#[tokio::test]
async fn an_answer_to_head_is_none_to_get() {
    let origin = Origin::start(|seen: &Seen| {
        let body = if seen.line().starts_with("HEAD") { "" } else { "hello" };
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nCache-Control: max-age=60\r\n\r\n";
        format!("{head}{body}").into_bytes()
    })
    .await;
    let proxy = caching(&origin, "/").await;
    let mut client = proxy.client().await;
    client.send("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!(client.head_response().await.status, 200);
    assert_eq!(proxy.get("/").await.text(), "hello");
}

#[tokio::test]
async fn an_error_that_one_client_provokes_is_not_stored_for_all() {
    let origin = Origin::start(|seen: &Seen| {
        let lines = "Cache-Control: public, max-age=3600\r\n";
        match (seen.header("range"), seen.header("x-status")) {
            (Some("bytes=0-0"), _) => {
                answer("206 Partial Content", &format!("Content-Range: bytes 0-0/5\r\n{lines}"), "h")
            }
            (Some(_), _) => answer("416 Range Not Satisfiable", &format!("Content-Range: bytes */5\r\n{lines}"), ""),
            (None, Some(status)) => answer(&format!("{status} No"), lines, "no"),
            (None, None) => answer("200 OK", lines, "hello"),
        }
    })
    .await;
    let proxy = caching(&origin, "/").await;
    let attacks = ["Range: bytes=0-0", "Range: bytes=99-", "Range: evil"];
    let statuses =
        [400, 408, 411, 412, 413, 416, 417, 421, 425, 426, 428, 429, 431].map(|status| format!("X-Status: {status}"));
    for (number, attack) in attacks.into_iter().map(str::to_owned).chain(statuses).enumerate() {
        let line = format!("GET /{number}");
        let attacked = ask(&proxy, &line, "test", &format!("{attack}\r\n")).await;
        assert_ne!(attacked.status, 200, "{attack}");
        let victim = ask(&proxy, &line, "test", "").await;
        assert_eq!((victim.status, victim.text()), (200, "hello"), "{attack}");
    }
}

#[tokio::test]
async fn a_rule_may_want_errors_stored() {
    let origin = Origin::start(|_: &Seen| answer("400 No", "Cache-Control: max-age=60\r\n", "no")).await;
    let address = origin.address;
    let proxy = TestProxy::start(&format!(
        "routes: [{{ id: r, to: 'http://{address}' }}]\ncache: {{ rules: [{{ path_prefix: /, status: [200, 400] }}] }}\n"
    ))
    .await;
    proxy.get("/").await;
    until_stored(&proxy, 1).await;
    assert_eq!(proxy.get("/").await.header("x-cache"), Some("HIT"));
}
