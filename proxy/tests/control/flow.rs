//! Commands that are in order.

use std::sync::Arc;

use sealane_model::config::ListenAddress;
use sealane_proxy::control::{StartError, StoreError, attach};
use sealane_proxy::proxy::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use sealane_proxy::settings::{ListenFlag, Settings};

use crate::fake::{Agent, Fleet, command, config, settings, start, start_with, stop};

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_fetched_compiled_served_and_echoed() {
    let (directory, fleet, mut agent) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1), Agent::start().await);
    let (proxy, control) = start(settings(directory.path(), &fleet, agent.address)).await;
    let first = fleet.release(1, &config("one"));
    agent.hold(&first);
    assert_eq!(proxy.active(), None);
    agent.command(command(5, &[&first], &first));
    let status = agent.status("r1", |status| status.generation == 5).await;
    assert_eq!((status.active_digest, status.active_revision), (first.digest.to_vec(), 1));
    assert_eq!((status.last_good_revision, status.ready, status.refused_bundles), (1, true, 0));
    assert_eq!((status.proxy_id.as_str(), control.id()), ("p1", "p1"));
    let (_, address) = proxy.bound()[0].clone();
    assert_eq!(status.data_address, address.to_string());
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    let status = agent.status("the count", |status| status.counts.iter().any(|counts| counts.requests == 1)).await;
    assert_eq!((status.counts[0].revision, status.counts[0].failed), (1, 1));
    stop(proxy, control).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_is_held_ready_and_going_back_needs_no_compiling() {
    let (directory, fleet, mut agent) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1), Agent::start().await);
    let (proxy, control) = start(settings(directory.path(), &fleet, agent.address)).await;
    let (first, second) = (fleet.release(1, &config("one")), fleet.release(2, &config("two")));
    agent.hold(&first);
    agent.hold(&second);
    agent.command(command(1, &[&first, &second], &first));
    let status = agent.status("prepared r2", |status| status.generation == 1).await;
    assert_eq!((status.active_revision, status.prepared_revision), (1, 2));
    let mut granted = command(2, &[&first, &second], &second);
    granted.grant = Some((&fleet.grant(&second, |_| {})).into());
    agent.command(granted);
    let status = agent.status("active r2", |status| status.generation == 2).await;
    assert_eq!((status.active_revision, status.prepared_revision, status.last_good_revision), (2, 1, 1));
    agent.command(command(3, &[&first], &first));
    let status = agent.status("back on r1", |status| status.generation == 3).await;
    assert_eq!((status.active_revision, status.prepared_revision, status.last_good_revision), (1, 0, 1));
    stop(proxy, control).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_does_not_compile_is_refused_with_its_lines_and_the_old_one_serves() {
    let (directory, fleet, mut agent) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1), Agent::start().await);
    let (proxy, control) = start(settings(directory.path(), &fleet, agent.address)).await;
    let first = fleet.release(1, &config("one"));
    let broken = fleet.release(2, "listen: 127.0.0.1:0\nroutes:\n  - pool: nowhere\n");
    agent.hold(&first);
    agent.hold(&broken);
    agent.command(command(1, &[&first, &broken], &first));
    let status = agent.status("the refusal", |status| status.generation == 1).await;
    assert_eq!((status.active_revision, status.prepared_revision), (1, 0));
    assert_eq!(status.refused_digest, broken.digest.to_vec());
    let problem = &status.problems[0];
    assert_eq!((problem.code.as_str(), problem.line, problem.file.as_str()), ("missing_reference", 3, "fleet.yaml"));
    // Told to serve it all the same, it goes on with what works.
    let mut granted = command(2, &[&first, &broken], &broken);
    granted.grant = Some((&fleet.grant(&broken, |_| {})).into());
    agent.command(granted);
    let status = agent.status("still r1", |status| status.generation == 2).await;
    assert_eq!((status.active_revision, status.ready), (1, true));
    // Once it is off the table the refusal is history.
    agent.command(command(3, &[&first], &first));
    let status = agent.status("clean", |status| status.generation == 3).await;
    assert!(status.refused_digest.is_empty() && status.problems.is_empty());
    stop(proxy, control).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_replaces_the_address_of_the_first_listener_and_names_the_proxy() {
    let (directory, fleet, mut agent) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1), Agent::start().await);
    let mut settings = settings(directory.path(), &fleet, agent.address);
    settings.id = None;
    let address = ListenAddress { ip: Some("127.0.0.1".parse().unwrap()), port: 0 };
    let http_listen = Some(ListenFlag { address, flag: "--http-addr" });
    let (proxy, control) = start_with(Settings { threads: 1, http_listen, ..Settings::default() }, settings).await;
    assert!(control.id().ends_with("-0"), "{}", control.id());
    let first = fleet.release(1, "listen: 192.0.2.1:80\nroutes:\n  - to: http://127.0.0.1:9\n");
    agent.hold(&first);
    agent.command(command(1, &[&first], &first));
    let status = agent.status("r1", |status| status.generation == 1).await;
    assert_eq!(status.active_revision, 1, "{:?}", status.problems);
    assert!(proxy.bound()[0].1.ip().is_loopback());
    stop(proxy, control).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_says_goodbye_and_the_data_plane_goes_on() {
    let (directory, fleet, mut agent) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1), Agent::start().await);
    let (proxy, control) = start(settings(directory.path(), &fleet, agent.address)).await;
    let first = fleet.release(1, &config("one"));
    agent.hold(&first);
    agent.command(command(1, &[&first], &first));
    agent.status("r1", |status| status.generation == 1).await;
    control.stop().await;
    agent.status("the goodbye", |status| status.draining).await;
    assert!(proxy.observe().ready);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_can_ask_for_a_graceful_stop() {
    let (directory, fleet, agent) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1), Agent::start().await);
    let (proxy, control) = start(settings(directory.path(), &fleet, agent.address)).await;
    let first = fleet.release(1, &config("one"));
    agent.hold(&first);
    let mut last = command(1, &[&first], &first);
    last.drain = true;
    agent.command(last);
    tokio::time::timeout(std::time::Duration::from_secs(10), control.drain_requested()).await.unwrap();
    stop(proxy, control).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_directory_belongs_to_one_process_one_fleet_and_one_id() {
    let (directory, fleet) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1));
    let settings = settings(directory.path(), &fleet, "127.0.0.1:1".parse().unwrap());
    let (proxy, control) = start(settings.clone()).await;
    let second = attach(proxy.clone(), settings.clone()).await.unwrap_err();
    assert!(matches!(second, StartError::Store(StoreError::InUse(_))), "{second}");
    stop(proxy, control).await;
    let proxy = Proxy::start(Settings { threads: 1, ..Settings::default() }).await.unwrap();
    let mut renamed = settings.clone();
    renamed.id = Some("p2".into());
    let error = attach(proxy.clone(), renamed).await.unwrap_err();
    assert!(matches!(error, StartError::Store(StoreError::OtherId { .. })), "{error}");
    std::fs::write(&settings.trust, Fleet::new("g", 2).root.to_json()).unwrap();
    let error = attach(proxy.clone(), settings).await.unwrap_err();
    assert!(matches!(error, StartError::Store(StoreError::OtherFleet { .. })), "{error}");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_root_is_taken_in_and_the_old_key_signs_nothing_new() {
    let (directory, old, mut agent) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1), Agent::start().await);
    let settings = settings(directory.path(), &old, agent.address);
    let (proxy, control) = start(settings.clone()).await;
    let (new, root) = old.rotate(2);
    let first = new.release(1, &config("one"));
    agent.hold(&first);
    let mut desired = command(1, &[&first], &first);
    desired.roots = vec![(&root).into()];
    agent.command(desired);
    let status = agent.status("r1", |status| status.generation == 1).await;
    assert_eq!((status.active_revision, status.refused_bundles), (1, 0));
    let second = old.release(2, &config("two"));
    agent.hold(&second);
    agent.command(command(2, &[&second], &second));
    let status = agent.status("a refusal", |status| status.refused_bundles > 0).await;
    assert_eq!(status.active_revision, 1);
    assert!(proxy.metrics().contains("{code=\"threshold_not_met\"} 1"));
    stop(proxy, control).await;
    // The old trust file does not turn time back.
    let (proxy, control) = start(settings).await;
    assert_eq!(proxy.active().unwrap().number, 1);
    stop(proxy, control).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_renewed_on_disk_is_served_without_a_command() {
    let (directory, fleet, mut agent) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1), Agent::start().await);
    let (proxy, control) = start(settings(directory.path(), &fleet, agent.address)).await;
    let files = tempfile::tempdir().unwrap();
    let path = |file: &str| files.path().join(file);
    let issue = || {
        let issued = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
        // As tools that renew do it: each file whole, under another name first.
        for (file, text) in [("a.key", issued.signing_key.serialize_pem()), ("a.crt", issued.cert.pem())] {
            std::fs::write(path("new"), text).unwrap();
            std::fs::rename(path("new"), path(file)).unwrap();
        }
        issued.cert.der().to_vec()
    };
    let first = issue();
    let shown = files.path().display();
    let release = fleet.release(
        1,
        &format!(
            "listeners: [{{ name: https, address: '127.0.0.1:0', tls: true }}]\n\
             tls: {{ certificates: [{{ cert_file: {shown}/a.crt, key_file: {shown}/a.key }}] }}\n\
             limits: {{ read_header_timeout: 60s }}\n\
             routes: [{{ to: 'http://127.0.0.1:9' }}]\n"
        ),
    );
    agent.hold(&release);
    agent.command(command(1, &[&release], &release));
    agent.status("r1", |status| status.active_revision == 1).await;
    let (_, address) = proxy.bound()[0].clone();
    // Its request comes after files were looked at twice: it must have time for that.
    let mut kept = handshake(address).await;
    assert_eq!(served(&kept), first);
    let second = issue();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while served(&handshake(address).await) != second {
        assert!(tokio::time::Instant::now() < deadline, "the old certificate is served on");
    }
    // The connection that was made with the old one goes on.
    kept.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    kept.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 502"));
    let expiry = proxy.metrics();
    assert!(expiry.contains("proxy_certificate_expiry_timestamp_seconds{name=\"a.test\"}"), "{expiry}");
    stop(proxy, control).await;
}

type Tls = tokio_rustls::client::TlsStream<TcpStream>;

/// Trusts whatever it is shown.
#[derive(Debug)]
struct Anything;

impl rustls::client::danger::ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

async fn handshake(address: std::net::SocketAddr) -> Tls {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anything)).with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("a.test").unwrap();
    let tcp = TcpStream::connect(address).await.unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
}

fn served(tls: &Tls) -> Vec<u8> {
    tls.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}
