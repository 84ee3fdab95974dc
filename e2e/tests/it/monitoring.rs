//! Dashboards and alert rules against a running fleet: every metric that they use is exported.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
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

/// Names of families in a scrape, as their series are called.
fn exported(scrape: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let Some((name, kind)) = line.split_once(' ') else { continue };
        names.insert(name.to_owned());
        if kind == "histogram" {
            names.extend(["bucket", "sum", "count"].map(|part| format!("{name}_{part}")));
        }
    }
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_dashboards_and_alerts_is_exported() {
    let monitoring = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/monitoring");
    let mut files = vec![monitoring.join("alerts.yaml")];
    let dashboards = fs::read_dir(monitoring.join("dashboards")).expect("the dashboards");
    files.extend(dashboards.map(|entry| entry.expect("an entry").path()));
    assert!(files.len() >= 5, "{files:?}");

    let origin = Origin::start("one").await;
    let fleet = Fleet::start(program(), &["eu"], 1).await;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (certificate, key) = (fleet.path().join("cert.pem"), fleet.path().join("key.pem"));
    fs::write(&certificate, made.cert.pem()).expect("a file");
    fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
    let config = format!(
        "version: 1\nlisteners:\n  - {{ name: http, address: \"127.0.0.1:8080\" }}\n  - {{ name: https, address: \"127.0.0.1:0\", tls: true }}\n\
         tls:\n  certificates: [{{ sni: localhost, cert_file: {}, key_file: {} }}]\n\
         routes:\n  - {{ id: all, path_prefix: /, to: \"http://{}\", policy: {{ retries: {{ max_attempts: 2 }} }} }}\n",
        certificate.display(),
        key.display(),
        origin.address()
    );
    let published = fleet.publish(&fleet.config_text("one.yaml", &config)).await;
    assert_eq!(published.code, 0, "{published:?}");
    fleet.wait_for_body("one").await;

    let client = load::client();
    let mut exports = BTreeSet::new();
    for address in [fleet.http, fleet.agents[0].http, fleet.proxies[0].admin] {
        let url = format!("http://{address}/metrics");
        let scrape = wait::until(&url, SOON, async || match load::get(&client, &url).await {
            Ok((200, text)) => Some(text),
            _ => None,
        });
        exports.extend(exported(&scrape.await));
    }
    for file in files {
        let text = fs::read_to_string(&file).expect("a file");
        // Only expressions: texts may speak of anything.
        let expressions: String =
            text.lines().filter(|line| line.trim_start().starts_with("expr:") || line.contains("\"expr\":")).collect();
        let names = used(&expressions);
        assert!(!names.is_empty(), "{} uses metrics", file.display());
        let unknown: Vec<_> = names.difference(&exports).collect();
        assert!(unknown.is_empty(), "{} uses what nobody exports: {unknown:?}", file.display());
    }
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
