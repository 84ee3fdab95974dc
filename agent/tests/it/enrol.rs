//! Off loopback: TLS, a token once, then the agent's own certificate.

use std::os::unix::fs::PermissionsExt;

use sealane_agent::start;

use crate::fake::{Authority, Fleet, settings};

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_an_agent_enrols_once_and_comes_back_with_its_certificate() {
    let (directory, fleet) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1));
    let (mut authority, ca_pem) = Authority::start_tls().await;
    authority.require_token("once");
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, ca_pem).unwrap();
    let mut settings = settings(directory.path(), &fleet, authority.address);
    settings.authority = format!("https://localhost:{}", authority.address.port());
    settings.ca_file = Some(ca_file);
    settings.token = Some("once".into());
    let first = fleet.release(1, "{}", |_| {});
    authority.hold(&first);
    authority.offer(fleet.desired(Some(&first), None));

    let agent = start(settings.clone()).await.unwrap();
    authority.report("r1", |report| report.state_version == 1).await;
    assert_eq!(authority.enrolled(), 1);
    let file = directory.path().join("agent/identity/agent.pem");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let before = authority.reports.borrow().as_ref().unwrap().instance.clone();
    agent.stop().await;

    settings.token = None;
    let agent = start(settings).await.unwrap();
    authority.report("it is back", |report| report.instance != before).await;
    assert_eq!(authority.enrolled(), 1, "the certificate is good enough");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_another_ca_vouches_for_gets_nothing() {
    let (directory, fleet) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1));
    let (authority, _) = Authority::start_tls().await;
    let (_, other_ca) = Authority::start_tls().await;
    authority.require_token("once");
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, other_ca).unwrap();
    let mut settings = settings(directory.path(), &fleet, authority.address);
    settings.authority = format!("https://localhost:{}", authority.address.port());
    settings.ca_file = Some(ca_file);
    settings.token = Some("once".into());
    let agent = start(settings).await.unwrap();
    let mut seen = authority.reports.clone();
    let report = tokio::time::timeout(std::time::Duration::from_secs(1), seen.changed()).await;
    assert!(report.is_err(), "nothing arrives");
    assert_eq!(authority.enrolled(), 0);
    agent.stop().await;
}
