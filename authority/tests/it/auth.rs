//! Who may call what: every call against every role.

use sealane_proto::v1;
use sealane_proto::v1::agent_service_client::AgentServiceClient;
use sealane_proto::v1::audit_service_client::AuditServiceClient;
use sealane_proto::v1::config_service_client::ConfigServiceClient;
use sealane_proto::v1::fleet_service_client::FleetServiceClient;
use sealane_proto::v1::rollout_service_client::RolloutServiceClient;
use sealane_proto::v1::trust_service_client::TrustServiceClient;
use tonic::{Code, Status};

use crate::helper::{Running, Wire};

/// The calls, and the least role of each.
const CALLS: &[(&str, &str)] = &[
    ("ConfigService/Validate", "viewer"),
    ("ConfigService/Plan", "viewer"),
    ("ConfigService/GetRevision", "viewer"),
    ("ConfigService/ListRevisions", "viewer"),
    ("ConfigService/DiffRevisions", "viewer"),
    ("ConfigService/Explain", "viewer"),
    ("RolloutService/Get", "viewer"),
    ("RolloutService/List", "viewer"),
    ("RolloutService/Watch", "viewer"),
    ("RolloutService/Explain", "viewer"),
    ("RolloutService/ListFreezes", "viewer"),
    ("RolloutService/AddFreeze", "operator"),
    ("RolloutService/RemoveFreeze", "incident"),
    ("FleetService/GetFleet", "viewer"),
    ("FleetService/ListNodes", "viewer"),
    ("FleetService/Watch", "viewer"),
    ("AuditService/ListAudit", "viewer"),
    ("AuditService/VerifyAudit", "viewer"),
    ("ConfigService/Rollback", "operator"),
    ("RolloutService/Pause", "operator"),
    ("RolloutService/Resume", "operator"),
    ("RolloutService/Promote", "operator"),
    ("RolloutService/Abort", "operator"),
    ("RolloutService/Retry", "operator"),
    ("FleetService/Cordon", "operator"),
    ("FleetService/Drain", "operator"),
    ("FleetService/Revoke", "admin"),
    ("FleetService/PurgeCache", "operator"),
    ("FleetService/GetCacheStats", "viewer"),
    ("FleetService/Tail", "operator"),
    ("ConfigService/Publish", "publisher"),
    ("FleetService/CreateToken", "admin"),
    ("FleetService/ListTokens", "admin"),
    ("FleetService/RevokeToken", "admin"),
    ("ConfigService/ExportRevision", "viewer"),
    ("ConfigService/Approve", "publisher"),
    ("TrustService/GetTrust", "viewer"),
    ("TrustService/RotateRoot", "admin"),
    ("TrustService/PutRoot", "admin"),
    ("AgentService/GetAuditProof", "agent"),
    ("AgentService/Enrol", "agent"),
    ("AgentService/EnrolProxy", "agent"),
    ("AgentService/Subscribe", "agent"),
    ("AgentService/Report", "agent"),
    ("AgentService/GetChunk", "agent"),
    ("AgentService/PassAnswer", "agent"),
];

const ROLES: &[&str] = &["viewer", "operator", "publisher", "incident", "admin"];

async fn call(wire: Wire, name: &str) -> Result<(), Status> {
    let mut config = ConfigServiceClient::new(wire.clone());
    let mut rollout = RolloutServiceClient::new(wire.clone());
    let mut fleet = FleetServiceClient::new(wire.clone());
    let mut audit = AuditServiceClient::new(wire.clone());
    let mut trust = TrustServiceClient::new(wire.clone());
    let mut agent = AgentServiceClient::new(wire);
    match name {
        "ConfigService/Validate" => config.validate(v1::ValidateRequest::default()).await.map(drop),
        "ConfigService/Plan" => config.plan(v1::PlanRequest::default()).await.map(drop),
        "ConfigService/GetRevision" => config.get_revision(v1::GetRevisionRequest::default()).await.map(drop),
        "ConfigService/ListRevisions" => config.list_revisions(v1::ListRevisionsRequest::default()).await.map(drop),
        "ConfigService/DiffRevisions" => config.diff_revisions(v1::DiffRevisionsRequest::default()).await.map(drop),
        "ConfigService/Explain" => config.explain(v1::ExplainRequest::default()).await.map(drop),
        "ConfigService/Rollback" => config.rollback(v1::RollbackRequest::default()).await.map(drop),
        "ConfigService/Publish" => config.publish(v1::PublishRequest::default()).await.map(drop),
        "RolloutService/Get" => rollout.get(v1::RolloutServiceGetRequest::default()).await.map(drop),
        "RolloutService/List" => rollout.list(v1::RolloutServiceListRequest::default()).await.map(drop),
        "RolloutService/Watch" => rollout.watch(v1::RolloutServiceWatchRequest::default()).await.map(drop),
        "RolloutService/Explain" => rollout.explain(v1::RolloutServiceExplainRequest::default()).await.map(drop),
        "RolloutService/AddFreeze" => rollout.add_freeze(v1::AddFreezeRequest::default()).await.map(drop),
        "RolloutService/ListFreezes" => rollout.list_freezes(v1::ListFreezesRequest::default()).await.map(drop),
        "RolloutService/RemoveFreeze" => rollout.remove_freeze(v1::RemoveFreezeRequest::default()).await.map(drop),
        "RolloutService/Pause" => rollout.pause(v1::RolloutServicePauseRequest::default()).await.map(drop),
        "RolloutService/Resume" => rollout.resume(v1::RolloutServiceResumeRequest::default()).await.map(drop),
        "RolloutService/Promote" => rollout.promote(v1::RolloutServicePromoteRequest::default()).await.map(drop),
        "RolloutService/Abort" => rollout.abort(v1::RolloutServiceAbortRequest::default()).await.map(drop),
        "RolloutService/Retry" => rollout.retry(v1::RolloutServiceRetryRequest::default()).await.map(drop),
        "FleetService/GetFleet" => fleet.get_fleet(v1::GetFleetRequest::default()).await.map(drop),
        "FleetService/ListNodes" => fleet.list_nodes(v1::ListNodesRequest::default()).await.map(drop),
        "FleetService/Watch" => fleet.watch(v1::FleetServiceWatchRequest::default()).await.map(drop),
        "FleetService/Revoke" => fleet.revoke(v1::FleetServiceRevokeRequest::default()).await.map(drop),
        "FleetService/Drain" => fleet.drain(v1::FleetServiceDrainRequest::default()).await.map(drop),
        "FleetService/PurgeCache" => fleet.purge_cache(v1::PurgeCacheRequest::default()).await.map(drop),
        "FleetService/GetCacheStats" => fleet.get_cache_stats(v1::GetCacheStatsRequest::default()).await.map(drop),
        "FleetService/Tail" => fleet.tail(v1::TailRequest::default()).await.map(drop),
        "FleetService/Cordon" => fleet.cordon(v1::FleetServiceCordonRequest::default()).await.map(drop),
        "FleetService/CreateToken" => fleet.create_token(v1::CreateTokenRequest::default()).await.map(drop),
        "FleetService/ListTokens" => fleet.list_tokens(v1::ListTokensRequest::default()).await.map(drop),
        "FleetService/RevokeToken" => fleet.revoke_token(v1::RevokeTokenRequest::default()).await.map(drop),
        "AuditService/ListAudit" => audit.list_audit(v1::ListAuditRequest::default()).await.map(drop),
        "AuditService/VerifyAudit" => audit.verify_audit(v1::VerifyAuditRequest::default()).await.map(drop),
        "AgentService/Enrol" => agent.enrol(v1::EnrolRequest::default()).await.map(drop),
        "AgentService/EnrolProxy" => agent.enrol_proxy(v1::EnrolProxyRequest::default()).await.map(drop),
        "AgentService/Subscribe" => agent.subscribe(v1::SubscribeRequest::default()).await.map(drop),
        "AgentService/Report" => agent.report(v1::ReportRequest::default()).await.map(drop),
        "AgentService/PassAnswer" => agent.pass_answer(v1::PassAnswerRequest::default()).await.map(drop),
        "AgentService/GetChunk" => agent.get_chunk(v1::GetChunkRequest::default()).await.map(drop),
        "ConfigService/ExportRevision" => config.export_revision(v1::ExportRevisionRequest::default()).await.map(drop),
        "ConfigService/Approve" => config.approve(v1::ApproveRequest::default()).await.map(drop),
        "TrustService/GetTrust" => trust.get_trust(v1::GetTrustRequest::default()).await.map(drop),
        "TrustService/RotateRoot" => trust.rotate_root(v1::RotateRootRequest::default()).await.map(drop),
        "TrustService/PutRoot" => trust.put_root(v1::PutRootRequest::default()).await.map(drop),
        "AgentService/GetAuditProof" => agent.get_audit_proof(v1::GetAuditProofRequest::default()).await.map(drop),
        other => panic!("{other}"),
    }
}

fn is_let_in(result: &Result<(), Status>) -> bool {
    let refused = [Code::Unauthenticated, Code::PermissionDenied];
    !matches!(result, Err(status) if refused.contains(&status.code()))
}

#[tokio::test]
async fn every_call_is_open_to_its_role_and_those_above_and_to_nobody_else() {
    let running = Running::start().await;
    let mut tokens = Vec::new();
    for role in ROLES {
        tokens.push((*role, running.make_token(role, "").await));
    }
    let agent = running.make_token("agent", "eu").await;
    for (name, least) in CALLS {
        let rank = ROLES.iter().position(|role| role == least);
        for (at, (role, token)) in tokens.iter().enumerate() {
            let result = call(running.wire(token), name).await;
            let expected = rank.is_some_and(|rank| at >= rank);
            assert_eq!(is_let_in(&result), expected, "{name} as {role}: {result:?}");
        }
        let result = call(running.wire(&agent), name).await;
        assert_eq!(is_let_in(&result), *least == "agent", "{name} as agent: {result:?}");
        for nobody in ["", "sealane_wrong"] {
            let result = call(running.wire(nobody), name).await;
            assert_eq!(result.unwrap_err().code(), Code::Unauthenticated, "{name} as nobody");
        }
    }
}

#[tokio::test]
async fn every_method_of_the_package_is_in_the_table() {
    let set = <prost_types::FileDescriptorSet as prost::Message>::decode(sealane_proto::DESCRIPTOR_SET).unwrap();
    let served = ["ConfigService", "RolloutService", "FleetService", "AuditService", "TrustService", "AgentService"];
    let services = set.file.iter().flat_map(|file| &file.service);
    for service in services.filter(|service| served.contains(&service.name())) {
        for method in &service.method {
            let path = format!("{}/{}", service.name(), method.name());
            assert!(CALLS.iter().any(|(name, _)| *name == path), "{path}");
        }
    }
}

#[tokio::test]
async fn a_revoked_or_expired_token_opens_nothing() {
    let running = Running::start().await;
    let request = v1::CreateTokenRequest { role: "viewer".into(), ..Default::default() };
    let made = running.fleet().create_token(request.clone()).await.unwrap().into_inner();
    assert!(call(running.wire(&made.text), "FleetService/GetFleet").await.is_ok());
    let id = made.token.unwrap().id;
    running.fleet().revoke_token(v1::RevokeTokenRequest { id: id.clone() }).await.unwrap();
    assert_eq!(
        call(running.wire(&made.text), "FleetService/GetFleet").await.unwrap_err().code(),
        Code::Unauthenticated
    );
    let again = running.fleet().revoke_token(v1::RevokeTokenRequest { id: id.clone() }).await.unwrap_err();
    assert_eq!(again.code(), Code::NotFound);
    let list = running.fleet().list_tokens(v1::ListTokensRequest::default()).await.unwrap().into_inner().tokens;
    assert!(list.iter().any(|token| token.id == id && token.revoked));

    let ttl = Some(prost_types::Duration { seconds: 0, nanos: 1_000_000 });
    let short = v1::CreateTokenRequest { ttl, ..request };
    let short = running.fleet().create_token(short).await.unwrap().into_inner().text;
    let wait = async { while call(running.wire(&short), "FleetService/GetFleet").await.is_ok() {} };
    tokio::time::timeout(crate::helper::DEADLINE, wait).await.unwrap();
}

#[tokio::test]
async fn tokens_survive_a_restart() {
    let running = Running::start().await;
    let token = running.make_token("viewer", "").await;
    let running = running.restart().await;
    assert!(call(running.wire(&token), "FleetService/GetFleet").await.is_ok());
    assert!(running.authority.first_start().is_none());
}

#[tokio::test]
async fn a_token_needs_a_role_there_is_and_an_agents_token_a_region() {
    let running = Running::start().await;
    for (role, region) in [("root", ""), ("", ""), ("agent", ""), ("agent", "e u"), ("viewer", "eu")] {
        let request = v1::CreateTokenRequest { role: role.into(), region: region.into(), ..Default::default() };
        let refused = running.fleet().create_token(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{role} {region}");
    }
}

#[tokio::test]
async fn dev_asks_nobody() {
    let running = Running::with(|settings| settings.dev = true).await;
    assert!(call(running.wire(""), "FleetService/GetFleet").await.is_ok());
    assert!(is_let_in(&call(running.wire(""), "AgentService/Subscribe").await));
}

#[tokio::test]
async fn health_and_reflection_are_open() {
    let running = Running::start().await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(running.wire(""));
    let request = tonic_health::pb::HealthCheckRequest { service: "sealane.v1.ConfigService".into() };
    let status = health.check(request).await.unwrap().into_inner().status;
    assert_eq!(status, i32::from(tonic_health::pb::health_check_response::ServingStatus::Serving));
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let request = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(running.wire(""));
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    assert!(list.service.iter().any(|one| one.name == "sealane.v1.ConfigService"));
}
