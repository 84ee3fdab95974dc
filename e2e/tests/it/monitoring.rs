//! Dashboards and alert rules against a running fleet: every metric that they use is exported.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sealane_e2e::fleet::Fleet;
use sealane_e2e::load;
use sealane_e2e::origin::Origin;
use sealane_e2e::wait;

use crate::program;

const SOON: Duration = Duration::from_secs(30);

/// Names of metrics in a text of expressions.
fn used(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !is_name(c) && c != ':');
    // Recorded ones have colons and are defined in the same file; ids of dashboards have dashes.
    words
        .filter(|word| (word.starts_with("proxy_") || word.starts_with("sealane_")) && !word.contains(':'))
        .map(str::to_owned)
        .collect()
}

/// A family of a scrape: what it is, and the labels of its series.
#[derive(Default)]
struct Family {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

/// The families of a scrape.
fn families(scrape: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in scrape.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            families.entry(name.to_owned()).or_default().help = help.to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            families.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if let Some((name, rest)) = line.split_once('{') {
            let base = ["_bucket", "_sum", "_count"].into_iter().find_map(|part| name.strip_suffix(part));
            let name = base.filter(|base| families.contains_key(*base)).unwrap_or(name);
            let family = families.get_mut(name).unwrap_or_else(|| panic!("a series without a family: {line}"));
            family.labels.extend(label_names(rest).into_iter().filter(|label| label != "le"));
        }
    }
    families
}

/// Names before `=` in `a="b",c=~"d"}`, quoted text left out.
fn label_names(text: &str) -> Vec<String> {
    let inside = text.split('}').next().unwrap_or_default();
    let outside: Vec<&str> = inside.split('"').step_by(2).collect();
    let names = outside.iter().flat_map(|part| part.split(','));
    names
        .map(|part| part.trim_end_matches(['=', '~', '!']).trim())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Labels that an expression asks of series, by metric; and those that it groups by.
fn asked(expression: &str) -> (Vec<(String, String)>, Vec<String>) {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    let mut of_metrics = Vec::new();
    for (at, _) in expression.match_indices('{') {
        let before = &expression[..at];
        let name = &before[before.trim_end_matches(is_name).len()..];
        let labels = label_names(&expression[at + 1..]);
        of_metrics.extend(labels.into_iter().map(|label| (name.to_owned(), label)));
    }
    let mut groups = Vec::new();
    for word in ["by (", "by(", "on (", "on("] {
        for part in expression.split(word).skip(1) {
            let inside = part.split(')').next().unwrap_or_default();
            groups.extend(inside.split(',').map(|label| label.trim().to_owned()).filter(|label| !label.is_empty()));
        }
    }
    (of_metrics, groups)
}

/// Labels that a scraper adds, and `le`.
const OF_THE_SCRAPER: [&str; 8] = ["job", "instance", "le", "region", "node", "namespace", "pod", "container"];

/// A config that opens every family: their series are there with zeros.
const EVERYTHING: &str = "
version: 1
listeners:
  - { name: http, address: \"127.0.0.1:8080\" }
  - { name: https, address: \"127.0.0.1:0\", tls: true }
tls:
  certificates: [{ sni: localhost, cert_file: CERTIFICATE, key_file: KEY }]
routes:
  - id: all
    path_prefix: /
    pool: one
    middleware: chain
    policy:
      retries: { max_attempts: 2 }
      hedge: { after: p95, max_extra: 1 }
      circuit_breaker: { error_threshold_percent: 50, min_requests: 20, open_duration: 30s }
  - { id: guarded, path: /guarded, pool: one, middleware: guarded }
pools:
  - id: one
    endpoints: [\"ORIGIN\"]
    health: { active: { path: /health, interval: 1s } }
    outlier_detection: { consecutive_failures: 5 }
  - { id: two, endpoints: [\"ORIGIN\"] }
traffic_management:
  - route: all
    stable_pool: one
    canary_pool: two
    canary_weight: 10
    auto_brake: { error_rate_multiplier: 3, min_requests: 50, cooloff: 5m }
    overload_protection: { max_concurrent: 1000, queue_size: 100, queue_timeout: 1s }
middleware:
  - id: chain
    stages: [request_id]
  - id: guarded
    stages:
      - { type: auth, config: { jwt: { issuer: \"https://auth.example.com\", audience: api, jwks_file: KEYS } } }
      - { type: plugin, plugin_ref: asked }
plugins:
  - { id: asked, type: external_grpc, address: \"127.0.0.1:9\", timeout: 50ms, fail_mode: closed }
cache:
  rules: [{ route: all, ttl: 60s }]
";

/// Families whose series come with what they count, and not before.
const LATER: [(&str, &[&str]); 5] = [
    ("sealane_rollbacks_total", &["gate"]),
    ("sealane_refused_bundles_total", &["code"]),
    ("sealane_agent_refused_bundles_total", &["code"]),
    ("sealane_proxy_refused_bundles_total", &["code"]),
    ("sealane_proxies", &["state"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_of_metrics_is_current_and_dashboards_and_alerts_use_what_is_exported() {
    let origin = Origin::start("one").await;
    let fleet = Fleet::start(program(), &["eu"], 1).await;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let at = |name: &str| fleet.path().join(name).display().to_string();
    fs::write(at("cert.pem"), made.cert.pem()).expect("a file");
    fs::write(at("key.pem"), made.signing_key.serialize_pem()).expect("a file");
    let keys = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","kid":"1","use":"sig","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    fs::write(at("keys.json"), keys).expect("a file");
    let config = EVERYTHING
        .replace("CERTIFICATE", &at("cert.pem"))
        .replace("KEYS", &at("keys.json"))
        .replace("KEY", &at("key.pem"))
        .replace("ORIGIN", &origin.address().to_string());
    let published = fleet.publish(&fleet.config_text("one.yaml", &config)).await;
    assert_eq!(published.code, 0, "{published:?}");
    fleet.wait_for_body("one").await;

    let client = load::client();
    let mut roles = Vec::new();
    let addresses =
        [("The authority", fleet.http), ("An agent", fleet.agents[0].http), ("A proxy", fleet.proxies[0].admin)];
    for (role, address) in addresses {
        let url = format!("http://{address}/metrics");
        let scrape = wait::until(&url, SOON, async || match load::get(&client, &url).await {
            Ok((200, text)) => Some(text),
            _ => None,
        });
        let mut families = families(&scrape.await);
        for (name, labels) in LATER {
            let Some(family) = families.get_mut(name) else { continue };
            family.labels.extend(labels.iter().map(|label| (*label).to_owned()));
            assert_eq!(family.labels.len(), labels.len(), "{name} has other labels: {:?}", family.labels);
        }
        roles.push((role, families));
    }
    reference(&roles);
    let exports: BTreeMap<String, Family> = roles.into_iter().flat_map(|(_, families)| families).collect();
    for file in dashboards_and_rules() {
        uses_only(&file, &exports);
    }
}

fn dashboards_and_rules() -> Vec<PathBuf> {
    let monitoring = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/monitoring");
    let mut files = vec![monitoring.join("alerts.yaml")];
    let dashboards = fs::read_dir(monitoring.join("dashboards")).expect("the dashboards");
    files.extend(dashboards.map(|entry| entry.expect("an entry").path()));
    assert!(files.len() >= 5, "{files:?}");
    files
}

/// Every metric of the file's expressions is exported, with every label that they ask for or group by.
fn uses_only(file: &Path, exports: &BTreeMap<String, Family>) {
    let text = fs::read_to_string(file).expect("a file");
    let base = |name: &str| {
        let part = ["_bucket", "_sum", "_count"].into_iter().find_map(|part| name.strip_suffix(part));
        part.filter(|base| exports.get(*base).is_some_and(|family| family.kind == "histogram"))
            .unwrap_or(name)
            .to_owned()
    };
    // Only expressions: texts may speak of anything.
    let expressions: Vec<String> = text
        .lines()
        .filter(|line| line.trim_start().starts_with("expr:") || line.contains("\"expr\":"))
        .map(|line| line.replace("\\\"", "\""))
        .collect();
    assert!(!expressions.is_empty(), "{} has expressions", file.display());
    for expression in &expressions {
        let names: BTreeSet<String> = used(expression).iter().map(|name| base(name)).collect();
        let unknown: Vec<_> = names.iter().filter(|name| !exports.contains_key(*name)).collect();
        assert!(unknown.is_empty(), "{} uses what nobody exports: {unknown:?}", file.display());
        let (of_metrics, groups) = asked(expression);
        for (name, label) in of_metrics {
            let Some(family) = exports.get(&base(&name)) else { continue };
            let has = family.labels.contains(&label) || OF_THE_SCRAPER.contains(&label.as_str());
            assert!(has, "{}: {name} has no label {label}: {expression}", file.display());
        }
        // What was recorded keeps the labels that it was grouped by.
        let recorded = expression.contains("sealane:") || expression.contains("proxy:");
        for label in groups.iter().filter(|_| !recorded) {
            let has = names.iter().any(|name| exports[name].labels.contains(label));
            assert!(
                has || OF_THE_SCRAPER.contains(&label.as_str()),
                "{}: nothing in `{expression}` has {label}",
                file.display()
            );
        }
    }
}

/// Writes docs/reference/metrics.md where it is asked for, and compares.
fn reference(roles: &[(&str, BTreeMap<String, Family>)]) {
    let mut page = "# Metrics\n\nWritten from what a running fleet exports on `/metrics`. Series exist with zeros before the first request. \
                    `metrics.max_series` bounds each family: of more routes and endpoints the busiest of the last minutes are shown, the rest is \
                    `other` and counted; no counter goes backwards when that changes.\n"
        .to_owned();
    for (role, families) in roles {
        page.push_str(&format!("\n## {role}\n\n| Metric | Type | Labels | |\n|---|---|---|---|\n"));
        for (name, family) in families {
            let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            page.push_str(&format!("| `{name}` | {} | {} | {} |\n", family.kind, labels.join(", "), family.help));
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/metrics.md");
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        fs::write(&path, &page).expect("the page can be written");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "metrics.md is old: run `UPDATE_REFERENCE=1 cargo test --workspace reference`");
}

#[test]
fn alert_rules_keep_their_promises_where_promtool_is_installed() {
    let monitoring = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/monitoring");
    let tested = std::process::Command::new("promtool")
        .args(["test", "rules", "alerts.test.yaml"])
        .current_dir(monitoring)
        .output();
    match tested {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => eprintln!("skipped: promtool is not installed ({error})"),
    }
}
