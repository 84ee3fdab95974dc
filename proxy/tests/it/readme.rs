//! The fragments of config in the README of "modern reverse proxy", merged with what they leave open: they run, and do what
//! they say.

use std::collections::HashMap;
use std::net::SocketAddr;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;

use crate::support::{Origin, Response, TestProxy};

const SAMPLE: &str = include_str!("../../../deploy/samples/seed-004.yaml");
const FRAGMENTS: [&str; 9] = [
    include_str!("../../../model/tests/parse/seed-004/router.yaml"),
    include_str!("../../../model/tests/parse/seed-004/policies.yaml"),
    include_str!("../../../model/tests/parse/seed-004/pools.yaml"),
    include_str!("../../../model/tests/parse/seed-004/traffic.yaml"),
    include_str!("../../../model/tests/parse/seed-004/middleware.yaml"),
    include_str!("../../../model/tests/parse/seed-004/cache.yaml"),
    include_str!("../../../model/tests/parse/seed-004/rollout.yaml"),
    include_str!("../../../model/tests/parse/seed-004/plugins.yaml"),
    include_str!("../../../model/tests/parse/seed-004/tls.yaml"),
];

/// Mappings by key, lists by the `id` of their items.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) => {
            for item in from {
                let known = into.iter_mut().find(|known| item.get("id").is_some() && known.get("id") == item.get("id"));
                match (known, item) {
                    (Some(Value::Object(known)), Value::Object(item)) => known.extend(item),
                    (_, item) => into.push(item),
                }
            }
        }
        (into, from) => *into = from,
    }
}

/// The whole config, on this machine: certificates that exist, endpoints that answer.
fn whole(files: &std::path::Path, endpoints: &HashMap<&str, SocketAddr>) -> Value {
    let mut all: Value = serde_saphyr::from_str(SAMPLE).unwrap();
    for fragment in FRAGMENTS {
        merge(&mut all, serde_saphyr::from_str(fragment).unwrap());
    }
    let mut params = CertificateParams::new(["api.example.com".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    for file in ["api.crt", "ca.crt"] {
        std::fs::write(files.join(file), issuer.pem()).unwrap();
    }
    std::fs::write(files.join("api.key"), issuer.key().serialize_pem()).unwrap();
    let mut text = all.to_string().replace("/etc/certs", &files.display().to_string());
    for (written, address) in endpoints {
        text = text.replace(written, &address.to_string());
    }
    let text = text.replace("\":8080\"", "\"127.0.0.1:0\"");
    let mut all: Value = serde_json::from_str(&text).unwrap();
    all["logging"] = serde_json::json!({ "access": "off" });
    all
}

async fn get(proxy: &TestProxy, host: &str, path: &str, lines: &str) -> Response {
    proxy.client().await.ask(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n")).await
}

#[tokio::test]
async fn its_fragments_run_together_and_do_what_they_say() {
    let files = tempfile::tempdir().unwrap();
    let (backend, other) = (Origin::fixed("backend").await, Origin::fixed("backend").await);
    let (stable, canary) = (Origin::fixed("stable").await, Origin::fixed("canary").await);
    let endpoints = HashMap::from([
        ("10.0.1.10:8000", backend.address),
        ("10.0.1.11:8000", other.address),
        ("10.0.2.10:8000", stable.address),
        ("10.0.3.10:8000", canary.address),
    ]);
    let mut config = whole(files.path(), &endpoints);
    let proxy = TestProxy::start(&config.to_string()).await;
    let api = "api.example.com";
    for path in ["/exact/path", "/api/users"] {
        assert_eq!(get(&proxy, api, path, "").await.text(), "backend", "{path}");
    }
    assert_eq!(get(&proxy, "www.example.com", "/v7/x", "").await.text(), "backend", "a regex of hosts and paths");
    assert_eq!(get(&proxy, api, "/anything", "X-API-Version: v2\r\n").await.text(), "backend", "a header");
    assert_eq!(get(&proxy, api, "/anything", "").await.status, 404);
    assert_eq!(get(&proxy, "admin.example.com", "/", "").await.category(), "mtls_required");
    assert_eq!(get(&proxy, api, "/v1/1", "X-Cohort: beta\r\n").await.text(), "canary");
    assert_eq!(get(&proxy, api, "/v1/2", "X-Cohort: stable\r\n").await.text(), "stable");
    let mut canaries = 0;
    for number in 0..100 {
        canaries += usize::from(get(&proxy, api, &format!("/v1/w{number}"), "").await.text() == "canary");
    }
    assert_eq!(canaries, 10, "a tenth of those without a cohort");
    let with_lines = "Accept-Language: de\r\nX-Cohort: stable\r\n";
    get(&proxy, api, "/v1/cached", with_lines).await;
    crate::support::until("a stored answer to be used", async || {
        (get(&proxy, api, "/v1/cached", with_lines).await.header("x-cache") == Some("HIT")).then_some(())
    })
    .await;

    // The chain of the README, on its route: nobody passes without a token.
    for route in config["routes"].as_array_mut().unwrap() {
        if route["id"] == "api-route" {
            route["middleware"] = "api-chain".into();
        }
    }
    let proxy = TestProxy::start(&config.to_string()).await;
    assert_eq!(get(&proxy, api, "/v1/1", "").await.category(), "unauthorized");
    assert_eq!(get(&proxy, api, "/api/users", "").await.text(), "backend");
}
