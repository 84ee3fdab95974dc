//! The HTTP address, over a plain socket: what a browser or curl sees.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::helper::{CONFIG, Running};

async fn get(addr: SocketAddr, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    ask(addr, "GET", path, headers).await
}

async fn ask(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        request.push_str(&format!("Host: {addr}\r\n"));
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{request}\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

#[tokio::test]
async fn health_metrics_and_links_are_open_and_reads_need_a_token() {
    let running = Running::start().await;
    let addr = running.authority.http_addr();
    running.publish(CONFIG).await;
    assert_eq!(get(addr, "/healthz", &[]).await.0, 200);
    assert_eq!(get(addr, "/readyz", &[]).await.0, 200);
    let (status, links) = get(addr, "/", &[]).await;
    assert!(status == 200 && links.contains("/api/v1/fleet"), "{links}");
    let (status, metrics) = get(addr, "/metrics", &[]).await;
    assert_eq!(status, 200);
    for line in [
        "sealane_revision_newest 1",
        "sealane_revision_last_good 1",
        "sealane_agents_connected 0",
        "sealane_publishes_total 1",
        "sealane_rollout_state{state=\"running\"} 0",
    ] {
        assert!(metrics.lines().any(|one| one == line), "{line}: {metrics}");
    }
    for path in ["/api/v1/fleet", "/api/v1/rollouts", "/api/v1/revisions", "/api/v1/rollouts/1", "/api/v1/revisions/1"]
    {
        assert_eq!(get(addr, path, &[]).await.0, 401, "{path}");
        let bearer = format!("Bearer {}", running.token);
        let (status, body) = get(addr, path, &[("Authorization", &bearer)]).await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str::<Value>(&body).unwrap();
    }
    let agent = format!("Bearer {}", running.make_token("agent", "eu").await);
    assert_eq!(get(addr, "/api/v1/fleet", &[("Authorization", &agent)]).await.0, 403);
}

#[tokio::test]
async fn the_json_is_that_of_the_grpc_messages() {
    let running = Running::with(|settings| settings.dev = true).await;
    let addr = running.authority.http_addr();
    running.publish(CONFIG).await;
    let (_, body) = get(addr, "/api/v1/revisions/1", &[]).await;
    let json: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&json["revision"], &json["name"], &json["state"]), (&1.into(), &"r1".into(), &"completed".into()));
    assert_eq!(json["config_yaml"], CONFIG);
    let (_, body) = get(addr, "/api/v1/rollouts/1", &[]).await;
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["state"], "completed");
    let (status, body) = get(addr, "/api/v1/revisions/9", &[]).await;
    assert_eq!(status, 404);
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["category"], "not_found");
    assert_eq!(get(addr, "/nothing", &[]).await.0, 404);
}

#[tokio::test]
async fn pages_of_other_sites_are_not_answered() {
    let running = Running::with(|settings| settings.dev = true).await;
    let addr = running.authority.http_addr();
    let fleet = "/api/v1/fleet";
    assert_eq!(get(addr, fleet, &[]).await.0, 200);
    assert_eq!(get(addr, fleet, &[("Host", "evil.example")]).await.0, 403);
    assert_eq!(get(addr, fleet, &[("Origin", "https://evil.example")]).await.0, 403);
    assert_eq!(get(addr, fleet, &[("Sec-Fetch-Site", "cross-site")]).await.0, 403);
}

#[tokio::test]
async fn what_the_document_says_is_what_is_served() {
    let running = Running::start().await;
    let addr = running.authority.http_addr();
    running.publish(CONFIG).await;
    let (status, document) = get(addr, "/api/v1/openapi.json", &[]).await;
    let document: Value = serde_json::from_str(&document).unwrap();
    assert_eq!((status, &document["openapi"]), (200, &"3.1.0".into()));
    let bearer = format!("Bearer {}", running.token);
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 14, "a path that is served and not described?");
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().unwrap() {
            let answers = operation["responses"].as_object().unwrap();
            let method = method.to_uppercase();
            for value in ["1", "none", "0"] {
                let path = path.replace("{revision}", value).replace("{id}", value);
                let (status, body) =
                    ask(addr, &method, &path, &[("Authorization", &bearer), ("Content-Length", "0")]).await;
                assert!(answers.contains_key(&status.to_string()), "{method} {path}: {status} {body}");
                let (status, _) = ask(addr, &method, &path, &[("Content-Length", "0")]).await;
                assert_eq!(status == 401, operation.get("security").is_some(), "{method} {path}: {status}");
            }
            let (status, body) = ask(addr, "PATCH", path, &[("Authorization", &bearer)]).await;
            assert_eq!(status, 405, "{path}: {body}");
        }
    }
}
