//! The access log: one line a request, with the fields that others rely on, and nothing that is secret.

use std::path::Path;

use crate::support::{Client, Origin, TestProxy, to, until};

async fn lines(path: &Path, count: usize) -> Vec<String> {
    until("log lines", async || {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        (lines.len() >= count).then_some(lines)
    })
    .await
}

#[tokio::test]
async fn a_line_says_what_happened_to_a_request() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let origin = Origin::fixed("hello").await;
    let yaml = format!("logging: {{ access: file, file: '{}' }}\n{}", path.display(), to(&[origin.address]));
    let proxy = TestProxy::start(&yaml).await;
    let mut client = proxy.client().await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    client
        .ask(format!(
            "POST /a\"b?token=secret HTTP/1.1\r\nHost: Test:80\r\nContent-Length: 3\r\nAuthorization: secret\r\n\
             traceparent: {trace}\r\n\r\nabc"
        ))
        .await;
    drop(Client::connect(proxy.address()).await.ask("GET / HTTP/1.1\r\n\r\n").await);
    let lines = lines(&path, 2).await;
    assert!(!lines.concat().contains("secret"), "{lines:?}");
    let mut lines: Vec<serde_json::Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    // Each thread hands its lines over by itself.
    lines.sort_by_key(|line| line["status"].as_u64());
    let (line, refused) = (&lines[0], &lines[1]);
    let request_id = origin.requests()[0].header("x-request-id").unwrap().to_owned();
    let expected = serde_json::json!({
        "timestamp": line["timestamp"], "request_id": request_id, "method": "POST", "path": "/a\"b?<redacted>",
        "host": "Test", "route": "all", "pool": "route/all", "endpoint": origin.address.to_string(), "status": 200,
        "duration_ms": line["duration_ms"], "upstream_duration_ms": line["upstream_duration_ms"], "retries": 0,
        "cache": "bypass", "breaker_state": "closed", "canary_variant": "stable", "revision": "r1", "node": "node-1",
        "reason": "", "attempts": 1, "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "remote_addr": "127.0.0.1",
        "tls": false, "bytes_in": 3, "bytes_out": 5,
    });
    assert_eq!(*line, expected);
    assert!(line["duration_ms"].as_f64().unwrap() >= line["upstream_duration_ms"].as_f64().unwrap());
    let timestamp = line["timestamp"].as_str().unwrap();
    timestamp.parse::<jiff::Timestamp>().unwrap();
    assert_eq!((refused["status"].as_u64(), refused["reason"].as_str()), (Some(400), Some("bad_request")));
    assert_eq!((refused["route"].as_str(), refused["upstream_duration_ms"].is_null()), (Some(""), true));
}

#[tokio::test]
async fn the_combined_format_and_plain_queries_are_there_for_those_who_want_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let origin = Origin::fixed("hello").await;
    let yaml = |format: &str| {
        format!(
            "logging: {{ access: file, file: '{}', format: {format}, redact_query: false, redact_headers: [referer] }}\n{}",
            path.display(),
            to(&[origin.address])
        )
    };
    let proxy = TestProxy::start(&yaml("text")).await;
    let request = "GET /a?b=c HTTP/1.1\r\nHost: test\r\nReferer: http://r/\r\nUser-Agent: me \"too\"\r\n\r\n";
    proxy.client().await.ask(request).await;
    let line = lines(&path, 1).await.remove(0);
    let (start, rest) = line.split_once('[').unwrap();
    assert_eq!(start, "127.0.0.1 - - ");
    assert_eq!(rest.split_once("] ").unwrap().1, "\"GET /a?b=c HTTP/1.1\" 200 5 \"-\" \"me _too_\"");
    proxy.serve(&yaml("json")).await;
    proxy.client().await.ask(request).await;
    let line: serde_json::Value = serde_json::from_str(&lines(&path, 2).await[1]).unwrap();
    assert_eq!(line["path"], "/a?b=c");
}

#[tokio::test]
async fn headers_are_logged_where_asked_for_and_credentials_never() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let origin = Origin::fixed("").await;
    let headers = "X-Tenant, authorization, cookie, set-cookie, x-api-key, proxy-authorization, x-own, x-absent";
    let proxy = TestProxy::start(&format!(
        "logging: {{ access: file, file: '{}', headers: [{headers}], redact_headers: [x-own] }}\n{}",
        path.display(),
        to(&[origin.address])
    ))
    .await;
    let sent = "Authorization: secret1\r\nCookie: secret2\r\nSet-Cookie: secret3\r\nX-Api-Key: secret4\r\n\
                Proxy-Authorization: secret5\r\nX-Own: secret6\r\nX-Tenant: a\"b\r\nX-Tenant: c\r\nUser-Agent: me/1\r\n";
    proxy.client().await.ask(format!("GET / HTTP/1.1\r\nHost: test\r\n{sent}\r\n")).await;
    let line = lines(&path, 1).await.remove(0);
    assert!(!line.contains("secret"), "{line}");
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let hidden = "[redacted]";
    let expected = serde_json::json!({ "x-tenant": "a\"b", "authorization": hidden, "cookie": hidden,
        "set-cookie": hidden, "x-api-key": hidden, "proxy-authorization": hidden, "x-own": hidden });
    assert_eq!((&line["headers"], line["user_agent"].as_str()), (&expected, Some("me/1")));
}

#[tokio::test]
async fn a_line_says_why_a_request_was_refused_or_sent_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let origin = Origin::start(|_| b"HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n".to_vec()).await;
    let proxy = TestProxy::start(&format!(
        "logging: {{ access: file, file: '{}' }}\nroutes:\n  - id: a\n    to: 'http://{}'\n    policy: {{ retries: {{ max_attempts: 2, on: ['503'] }} }}\n",
        path.display(),
        origin.address
    ))
    .await;
    proxy.get("/").await;
    let line: serde_json::Value = serde_json::from_str(&lines(&path, 1).await[0]).unwrap();
    assert_eq!((line["retry_last_reason"].as_str(), line["retries"].as_u64()), (Some("status_503"), Some(1)));
    assert!(line.get("overload_rejected").is_none() && line.get("breaker_denied").is_none(), "{line}");
}

#[tokio::test]
async fn a_line_says_that_an_endpoint_was_ejected_and_who_was_sent_there_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let origin = Origin::start(|_| b"HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n".to_vec()).await;
    let proxy = TestProxy::start(&format!(
        "logging: {{ access: file, file: '{}' }}\nroutes: [{{ id: a, pool: p }}]\npools:\n  - id: p\n    \
         endpoints: ['{}']\n    health: {{ passive: {{ consecutive_failures: 2, ejection_duration: 60s }} }}\n",
        path.display(),
        origin.address
    ))
    .await;
    let mut client = proxy.client().await;
    for _ in 0..4 {
        client.get("/").await;
    }
    let lines: Vec<serde_json::Value> =
        lines(&path, 4).await.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen: Vec<_> = lines
        .iter()
        .map(|line| {
            (line["reason"].as_str().unwrap(), line["endpoint_ejected"] == true, line["outlier_ignored"] == true)
        })
        .collect();
    let trickle = ("", true, true);
    let refused = ("no_healthy_upstream", false, false);
    assert_eq!(seen, [("", false, false), ("", true, false), trickle, refused]);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_costs_lines_which_are_counted_and_no_request() {
    let origin = Origin::fixed("hello").await;
    let yaml = format!("logging: {{ access: file, file: /dev/full }}\n{}", to(&[origin.address]));
    let proxy = TestProxy::start(&yaml).await;
    for _ in 0..10 {
        assert_eq!(proxy.get("/").await.text(), "hello");
    }
    proxy.until_metric("proxy_access_log_lines_dropped_total", 10.0).await;
}

#[tokio::test]
async fn a_rotated_file_is_opened_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let origin = Origin::fixed("").await;
    let proxy = TestProxy::start(&format!(
        "logging: {{ access: file, file: '{}' }}\n{}",
        path.display(),
        to(&[origin.address])
    ))
    .await;
    proxy.get("/1").await;
    lines(&path, 1).await;
    std::fs::rename(&path, directory.path().join("old.log")).unwrap();
    proxy.proxy.reopen_log();
    proxy.get("/2").await;
    assert!(lines(&path, 1).await[0].contains("/2"));
}
