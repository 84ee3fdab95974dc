//! Off loopback: TLS, and client certificates for agents.

use rcgen::{CertificateParams, KeyPair};
use sealane_authority::StartError;
use sealane_proto::v1::agent_service_client::AgentServiceClient;
use sealane_proto::v1::config_service_client::ConfigServiceClient;
use sealane_proto::v1::{self, RolloutState};
use std::net::SocketAddr;
use tonic::Code;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::helper::{Agent, Bearer, CONFIG, Running, Wire, settings};

fn wire(running: &Running, token: &str, identity: Option<Identity>) -> Wire {
    let ca = std::fs::read_to_string(running.folder.path().join("ca.pem")).unwrap();
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name("localhost");
    if let Some(identity) = identity {
        tls = tls.identity(identity);
    }
    let url = format!("https://localhost:{}", running.authority.grpc_addr().port());
    let channel = Endpoint::from_shared(url).unwrap().tls_config(tls).unwrap().connect_lazy();
    InterceptedService::new(channel, Bearer(token.to_owned()))
}

async fn with_tls() -> Running {
    Running::with(|settings| settings.tls_name = vec!["localhost".into(), "127.0.0.1".into()]).await
}

/// A key, and what Enrol answers for it.
async fn enrol(running: &Running, token: &str, agent: &str, region: &str) -> Result<Identity, tonic::Status> {
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::new(vec!["forged.example".into()]).unwrap().serialize_request(&key).unwrap();
    let request = v1::EnrolRequest {
        agent_id: agent.into(),
        region: region.into(),
        certificate_request_pem: request.pem().unwrap(),
    };
    let answer = AgentServiceClient::new(wire(running, token, None)).enrol(request).await?.into_inner();
    assert!(answer.not_after_unix_ms > 0);
    let (_, pem) = x509_parser::pem::parse_x509_pem(answer.certificate_pem.as_bytes()).unwrap();
    let certificate = pem.parse_x509().unwrap();
    let said = format!("{:?} {}", certificate.subject_alternative_name().unwrap().unwrap(), certificate.subject());
    assert!(said.contains(&format!("region/{region}/agent/{agent}")), "{said}");
    assert!(!said.contains("forged"), "{said}");
    Ok(Identity::from_pem(answer.certificate_pem, key.serialize_pem()))
}

fn hello(agent: &str, region: &str) -> v1::SubscribeRequest {
    v1::SubscribeRequest { agent_id: agent.into(), region: region.into(), instance: "one".into(), ..Default::default() }
}

#[tokio::test]
async fn an_agent_enrols_and_then_its_certificate_is_what_counts() {
    let running = with_tls().await;
    let admin = wire(&running, &running.token, None);
    let request = v1::CreateTokenRequest { role: "agent".into(), region: "eu".into(), ..Default::default() };
    let mut fleet = v1::fleet_service_client::FleetServiceClient::new(admin.clone());
    let token = fleet.create_token(request).await.unwrap().into_inner().text;
    let refused = AgentServiceClient::new(wire(&running, &token, None)).subscribe(hello("a", "eu")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "the token alone is not enough over TLS");

    let identity = enrol(&running, &token, "a", "eu").await.unwrap();
    assert_eq!(enrol(&running, &token, "a", "us").await.unwrap_err().code(), Code::PermissionDenied);
    let mut client = AgentServiceClient::new(wire(&running, "", Some(identity.clone())));
    assert_eq!(client.subscribe(hello("b", "eu")).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(client.subscribe(hello("a", "us")).await.unwrap_err().code(), Code::PermissionDenied);
    let forged = v1::ReportRequest { agent_id: "b".into(), instance: "one".into(), ..Default::default() };
    assert_eq!(client.report(forged).await.unwrap_err().code(), Code::PermissionDenied);
    let operator = ConfigServiceClient::new(wire(&running, "", Some(identity.clone())))
        .get_revision(v1::GetRevisionRequest::default())
        .await;
    assert_eq!(operator.unwrap_err().code(), Code::Unauthenticated, "an agent's certificate is for agents' calls");

    let agent = Agent::join(wire(&running, "", Some(identity)), &running.trust(), "a", "eu", &["p1", "p2"]);
    agent.wait("connected", |agent| agent.desired().is_some()).await;
    let request = v1::PublishRequest { config_yaml: CONFIG.into(), ..Default::default() };
    ConfigServiceClient::new(admin.clone()).publish(request).await.unwrap();
    agent.wait("r1", |agent| agent.active() == [1, 1]).await;
    let mut rollouts = v1::rollout_service_client::RolloutServiceClient::new(admin);
    let mut watch = rollouts.watch(v1::RolloutServiceWatchRequest::default()).await.unwrap().into_inner();
    let mut last = None;
    while let Some(response) = watch.message().await.unwrap() {
        last = response.rollout;
    }
    assert_eq!(last.unwrap().state(), RolloutState::Completed);
}

fn proxy_request(id: &str, key: &KeyPair, token: &str, renews: &[u8]) -> v1::EnrolProxyRequest {
    let request = CertificateParams::new(vec!["forged.example".into()]).unwrap().serialize_request(key).unwrap();
    v1::EnrolProxyRequest {
        proxy_id: id.into(),
        certificate_request_pem: request.pem().unwrap(),
        token: token.into(),
        renews: renews.to_vec(),
    }
}

#[tokio::test]
async fn a_proxy_enrols_through_its_agent_with_a_token_of_its_region_and_renews_with_its_key_alone() {
    let running = with_tls().await;
    let mut fleet = v1::fleet_service_client::FleetServiceClient::new(wire(&running, &running.token, None));
    let mut token = async |role: &str, region: &str| {
        let request = v1::CreateTokenRequest { role: role.into(), region: region.into(), ..Default::default() };
        fleet.create_token(request).await.unwrap().into_inner().text
    };
    let (agents, ours, theirs) = (token("agent", "eu").await, token("proxy", "eu").await, token("proxy", "us").await);
    let agent = enrol(&running, &agents, "a", "eu").await.unwrap();
    let mut client = AgentServiceClient::new(wire(&running, "", Some(agent)));
    let key = KeyPair::generate().unwrap();
    for (bad, code) in [
        ("", Code::Unauthenticated),
        ("sealane_wrong", Code::Unauthenticated),
        (agents.as_str(), Code::PermissionDenied),
        (running.token.as_str(), Code::PermissionDenied),
        (theirs.as_str(), Code::PermissionDenied),
    ] {
        assert_eq!(client.enrol_proxy(proxy_request("p", &key, bad, &[])).await.unwrap_err().code(), code);
    }
    let answer = client.enrol_proxy(proxy_request("p", &key, &ours, &[])).await.unwrap().into_inner();
    let (_, pem) = x509_parser::pem::parse_x509_pem(answer.certificate_pem.as_bytes()).unwrap();
    let said = format!("{:?}", pem.parse_x509().unwrap().subject_alternative_name().unwrap().unwrap());
    assert!(said.contains("region/eu/proxy/p") && !said.contains("forged"), "{said}");

    // The certificate is no secret: without its key it renews nothing, and it renews nobody else.
    let thief = KeyPair::generate().unwrap();
    for (id, key) in [("p", &thief), ("q", &key)] {
        let refused = client.enrol_proxy(proxy_request(id, key, "", &pem.contents)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    }
    let again = client.enrol_proxy(proxy_request("p", &key, "", &pem.contents)).await.unwrap().into_inner();
    assert!(again.not_after_unix_ms >= answer.not_after_unix_ms);
    // A token for proxies is good for nothing else, and a proxy's certificate is none of an agent's.
    let proxy = Identity::from_pem(answer.certificate_pem, key.serialize_pem());
    for wire in [wire(&running, &ours, None), wire(&running, "", Some(proxy))] {
        let refused = AgentServiceClient::new(wire).subscribe(hello("a", "eu")).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_worth_nothing() {
    let ours = with_tls().await;
    let theirs = with_tls().await;
    let request = v1::CreateTokenRequest { role: "agent".into(), region: "eu".into(), ..Default::default() };
    let mut fleet = v1::fleet_service_client::FleetServiceClient::new(wire(&theirs, &theirs.token, None));
    let token = fleet.create_token(request).await.unwrap().into_inner().text;
    let identity = enrol(&theirs, &token, "a", "eu").await.unwrap();
    let mut client = AgentServiceClient::new(wire(&ours, "", Some(identity)));
    assert!(client.subscribe(hello("a", "eu")).await.is_err());
}

/// A certificate by the fleet's own CA, as the authority might have issued it long ago.
fn expired(running: &Running, name: &str) -> Identity {
    let read = |file: &str| std::fs::read_to_string(running.folder.path().join(file)).unwrap();
    let ca_key = KeyPair::from_pem(&read("ca.key")).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("ca.pem"), ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![rcgen::SanType::URI(name.try_into().unwrap())];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    Identity::from_pem(params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
}

#[tokio::test]
async fn an_expired_or_revoked_certificate_of_an_agent_opens_nothing_and_ends_its_stream() {
    let running = with_tls().await;
    let over = expired(&running, "sealane://f/region/eu/agent/a");
    let refused = AgentServiceClient::new(wire(&running, "", Some(over))).subscribe(hello("a", "eu")).await;
    assert!(refused.is_err(), "an expired certificate does not get through the handshake");

    let admin = wire(&running, &running.token, None);
    let mut fleet = v1::fleet_service_client::FleetServiceClient::new(admin.clone());
    let request = v1::CreateTokenRequest { role: "agent".into(), region: "eu".into(), ..Default::default() };
    let token = fleet.create_token(request).await.unwrap().into_inner().text;
    let stolen = enrol(&running, &token, "a", "eu").await.unwrap();
    let other = enrol(&running, &token, "b", "eu").await.unwrap();
    let mut thief = AgentServiceClient::new(wire(&running, "", Some(stolen)));
    let mut stream = thief.subscribe(hello("a", "eu")).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some(), "good until it is revoked");
    let mut stays = AgentServiceClient::new(wire(&running, "", Some(other)));
    let mut others = stays.subscribe(hello("b", "eu")).await.unwrap().into_inner();

    let revoke =
        |node: &str, dry_run| v1::FleetServiceRevokeRequest { node: node.into(), dry_run, ..Default::default() };
    assert_eq!(fleet.revoke(revoke("c", false)).await.unwrap_err().code(), Code::NotFound);
    let bad = v1::FleetServiceRevokeRequest { node: "a".into(), role: "viewer".into(), dry_run: false };
    assert_eq!(fleet.revoke(bad).await.unwrap_err().code(), Code::InvalidArgument);
    let dry = fleet.revoke(revoke("a", true)).await.unwrap().into_inner();
    assert_eq!((dry.certificates, dry.role.as_str(), dry.region.as_str(), dry.tokens.len()), (1, "agent", "eu", 1));
    let done = fleet.revoke(revoke("a", false)).await.unwrap().into_inner();
    assert_eq!(done.certificates, 1, "the dry run changed nothing");
    assert_eq!(fleet.revoke(revoke("a", false)).await.unwrap().into_inner().certificates, 0, "it may be repeated");

    // Its stream ends at once, not at the end of the certificate.
    let ended =
        tokio::time::timeout(crate::helper::DEADLINE, async { while let Ok(Some(_)) = stream.message().await {} });
    ended.await.expect("the stream ends");
    let refused = thief.subscribe(hello("a", "eu")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("was revoked") && refused.message().contains("sealane token create"));
    let report = v1::ReportRequest { agent_id: "a".into(), instance: "one".into(), ..Default::default() };
    assert_eq!(thief.report(report).await.unwrap_err().code(), Code::Unauthenticated);
    // The others are told of it, and go on.
    let told = loop {
        let response = others.message().await.unwrap().expect("its stream stays");
        if let Some(v1::subscribe_response::Event::Desired(desired)) = response.event
            && !desired.revoked.is_empty()
        {
            break desired.revoked;
        }
    };
    assert_eq!(told.len(), 1);

    // A restart knows it; a token lets the name in again, under another certificate.
    drop((stream, others, thief, stays));
    let folder = std::sync::Arc::clone(&running.folder);
    running.authority.stop().await;
    let mut again = settings(folder.path());
    again.tls_name = vec!["localhost".into()];
    let running = Running::of(folder, again).await;
    let mut fleet = v1::fleet_service_client::FleetServiceClient::new(wire(&running, &running.token, None));
    assert_eq!(fleet.revoke(revoke("a", true)).await.unwrap().into_inner().certificates, 0);
    let again = enrol(&running, &token, "a", "eu").await.unwrap();
    let mut client = AgentServiceClient::new(wire(&running, "", Some(again)));
    let mut stream = client.subscribe(hello("a", "eu")).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().and_then(|response| response.event);
    assert!(matches!(&first, Some(v1::subscribe_response::Event::Desired(desired)) if desired.revoked.len() == 1));
}

#[tokio::test]
async fn a_revoked_proxy_renews_nothing() {
    let running = with_tls().await;
    let mut fleet = v1::fleet_service_client::FleetServiceClient::new(wire(&running, &running.token, None));
    let mut token = async |role: &str| {
        let request = v1::CreateTokenRequest { role: role.into(), region: "eu".into(), ..Default::default() };
        fleet.create_token(request).await.unwrap().into_inner().text
    };
    let (agents, proxies) = (token("agent").await, token("proxy").await);
    let agent = enrol(&running, &agents, "both", "eu").await.unwrap();
    let mut client = AgentServiceClient::new(wire(&running, "", Some(agent)));
    let key = KeyPair::generate().unwrap();
    let answer = client.enrol_proxy(proxy_request("both", &key, &proxies, &[])).await.unwrap().into_inner();
    let (_, pem) = x509_parser::pem::parse_x509_pem(answer.certificate_pem.as_bytes()).unwrap();
    let ambiguous = v1::FleetServiceRevokeRequest { node: "both".into(), ..Default::default() };
    let refused = fleet.revoke(ambiguous).await.unwrap_err();
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains("role"), "{refused:?}");
    let request = v1::FleetServiceRevokeRequest { node: "both".into(), role: "proxy".into(), dry_run: false };
    assert_eq!(fleet.revoke(request).await.unwrap().into_inner().certificates, 1);
    let refused = client.enrol_proxy(proxy_request("both", &key, "", &pem.contents)).await.unwrap_err();
    assert!(refused.code() == Code::PermissionDenied && refused.message().contains("revoked"), "{refused:?}");
    client.enrol_proxy(proxy_request("both", &key, &proxies, &[])).await.unwrap();
}

#[tokio::test]
async fn a_request_that_is_no_pkcs10_is_refused() {
    let running = with_tls().await;
    let request = v1::CreateTokenRequest { role: "agent".into(), region: "eu".into(), ..Default::default() };
    let mut fleet = v1::fleet_service_client::FleetServiceClient::new(wire(&running, &running.token, None));
    let token = fleet.create_token(request).await.unwrap().into_inner().text;
    for bad in ["", "nonsense", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"] {
        let request =
            v1::EnrolRequest { agent_id: "a".into(), region: "eu".into(), certificate_request_pem: bad.into() };
        let refused = AgentServiceClient::new(wire(&running, &token, None)).enrol(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{bad}");
    }
}

#[tokio::test]
async fn the_clients_file_points_at_the_tls_address_and_its_ca() {
    let running = with_tls().await;
    let client = std::fs::read_to_string(running.folder.path().join("client.yaml")).unwrap();
    let server = format!("https://localhost:{}", running.authority.grpc_addr().port());
    assert!(client.contains(&server) && client.contains("ca_file: "), "{client}");
}

#[tokio::test]
async fn everybodys_address_without_tls_is_refused_in_one_sentence_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let everybody = SocketAddr::from(([0, 0, 0, 0], 0));
    let mut exposed = settings(folder.path());
    exposed.grpc_addr = everybody;
    let refused = sealane_authority::start(exposed.clone()).await.unwrap_err();
    assert!(matches!(refused, StartError::Exposed { .. }), "{refused:?}");
    assert!(refused.to_string().contains("--tls-cert"), "{refused}");
    let mut dev = settings(folder.path());
    dev.dev = true;
    dev.http_addr = everybody;
    let refused = sealane_authority::start(dev).await.unwrap_err();
    assert!(matches!(refused, StartError::DevExposed { .. }), "{refused:?}");
    exposed.insecure_admin = true;
    sealane_authority::start(exposed).await.unwrap().stop().await;
}
