//! Authority ↔ agent.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::BoxStream;
use rustls_pki_types::UnixTime;
use sealane_model::ids::{AgentId, Digest};
use sealane_node::keyring::{Keyring, Stranger};
use sealane_node::member::{self, Member};
use sealane_proto::v1;
use sealane_proto::v1::agent_service_server::AgentService;
use serde_json::json;
use tonic::{Code, Request, Response, Status};

use super::caller;
use super::status::status;
use crate::app::App;
use crate::auth::{Credentials, Role};
use crate::fleet::is_name;
use crate::pki;
use crate::store::agent::AgentCertificate;
use crate::store::audit::AuditEntry;
use crate::subscribe::subscribe;

/// Between reports while a rollout is under way, in milliseconds: from one second in a small fleet up to three, below the
/// age at which a report no longer counts as fresh.
const REPORT_BUSY_MS: std::ops::RangeInclusive<usize> = 1_000..=3_000;
/// Between reports otherwise.
const REPORT_QUIET_MS: std::ops::RangeInclusive<usize> = 5_000..=10_000;
/// Reports a second that agents are asked for at most, as far as the bounds above allow. What changes is said at once.
const REPORTS_PER_SECOND: usize = 1_000;

/// Entries of one proof.
const PROOF_ENTRIES_MAX: u32 = 10_000;

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Agents(pub(crate) Arc<App>);

#[tonic::async_trait]
impl AgentService for Agents {
    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::EnrolResponse>, Status> {
        let app = &self.0;
        let caller = caller(&request)?;
        let request = request.into_inner();
        caller.speaks_for(&request.agent_id, &request.region)?;
        let now_ms = app.clock.now_ms();
        let (agent, region) = (request.agent_id, request.region);
        let member = member(app, member::Role::Agent, &region, &agent);
        let issued = app.ca.issue(&request.certificate_request_pem, &member, now_ms)?;
        let certificate = AgentCertificate {
            fingerprint: issued.fingerprint,
            agent: agent.clone(),
            region: region.clone(),
            enrolled_at_ms: now_ms,
            not_after_ms: issued.not_after_ms,
        };
        let mut change = app.store.write().await?;
        app.store.add_agent_certificate(&mut change, &certificate).await?;
        let entry = AuditEntry {
            at_ms: now_ms,
            actor: caller.name,
            action: "enrol",
            subject: agent,
            digest: Some(issued.fingerprint),
            detail: json!({ "region": region }),
        };
        app.store.add_audit(&mut change, &entry).await?;
        app.store.commit(change).await?;
        app.auth.add_certificate(&certificate);
        Ok(Response::new(v1::EnrolResponse {
            certificate_pem: issued.pem,
            ca_pem: app.ca.pem().to_owned(),
            not_after_unix_ms: i64::try_from(issued.not_after_ms).unwrap_or(i64::MAX),
        }))
    }

    async fn enrol_proxy(
        &self,
        request: Request<v1::EnrolProxyRequest>,
    ) -> Result<Response<v1::EnrolProxyResponse>, Status> {
        let app = &self.0;
        let agent = caller(&request)?;
        let request = request.into_inner();
        let region = agent.region.clone().unwrap_or_default();
        if agent.agent.is_none() || !is_name(&region) || !is_name(&request.proxy_id) {
            let message = "only an agent with a certificate enrols proxies, by a valid `proxy_id`";
            return Err(status(Code::FailedPrecondition, "NOT_ENROLLED", message));
        }
        let now_ms = app.clock.now_ms();
        let member = member(app, member::Role::Proxy, &region, &request.proxy_id);
        let by = if request.token.is_empty() {
            renews(app, &request, &member, now_ms)?;
            "renewal".to_owned()
        } else {
            let credentials = Credentials { bearer: Some(&request.token), certificate: None };
            let token = app.auth.of_token(&credentials, now_ms, Role::Proxy)?;
            if token.region.as_deref() != Some(region.as_str()) {
                let message = format!("the proxy's token is not for region `{region}`, its agent's");
                return Err(status(Code::PermissionDenied, "OTHER_REGION", message));
            }
            token.name
        };
        let issued = app.ca.issue(&request.certificate_request_pem, &member, now_ms)?;
        let entry = AuditEntry {
            at_ms: now_ms,
            actor: agent.name,
            action: "enrol_proxy",
            subject: request.proxy_id,
            digest: Some(issued.fingerprint),
            detail: json!({ "region": region, "by": by }),
        };
        app.live().welcome(&entry.subject);
        app.audit(&entry).await?;
        Ok(Response::new(v1::EnrolProxyResponse {
            certificate_pem: issued.pem,
            ca_pem: app.ca.pem().to_owned(),
            not_after_unix_ms: i64::try_from(issued.not_after_ms).unwrap_or(i64::MAX),
        }))
    }

    type SubscribeStream = BoxStream<'static, Result<v1::SubscribeResponse, Status>>;

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let caller = caller(&request)?;
        let hello = request.into_inner();
        caller.speaks_for(&hello.agent_id, &hello.region)?;
        self.0.subscriptions.take(self.0.clock.now_ms()).map_err(|wait| {
            let message = format!("many agents come back at once: try again in {} ms", wait.as_millis());
            status(Code::ResourceExhausted, "TOO_MANY_SUBSCRIPTIONS", message)
        })?;
        let stream = subscribe(Arc::clone(&self.0), hello, caller.agent)?;
        self.0.rollouts.wake();
        Ok(Response::new(Box::pin(stream)))
    }

    async fn report(&self, request: Request<v1::ReportRequest>) -> Result<Response<v1::ReportResponse>, Status> {
        let app = &self.0;
        let caller = caller(&request)?;
        let report = request.into_inner();
        let region = match &caller.region {
            Some(region) => Some(region.clone()),
            None => app.live().agent(&AgentId(report.agent_id.clone())).map(|agent| agent.region.clone()),
        };
        if caller.role == Role::Agent {
            caller.speaks_for(&report.agent_id, region.as_deref().unwrap_or_default())?;
        }
        let now_ms = app.clock.now_ms();
        let (refused_before, refused, agents) = {
            let mut live = app.live();
            let before = live.refused_by(&report.agent_id, &report.instance);
            live.hear(now_ms, &report, caller.region.as_deref())?;
            (before, live.refused_by(&report.agent_id, &report.instance), live.agent_count())
        };
        let news: Vec<&String> = refused
            .iter()
            .filter(|(code, count)| refused_before.get(*code).is_none_or(|before| before < count))
            .map(|(code, _)| code)
            .collect();
        if !news.is_empty() && app.refusals.take(now_ms).is_ok() {
            let entry = AuditEntry {
                at_ms: now_ms,
                actor: format!("{} (agent)", report.agent_id),
                action: "refused",
                subject: report.agent_id.clone(),
                digest: None,
                detail: json!({ "codes": news, "why": report.alarm.chars().take(500).collect::<String>() }),
            };
            app.audit(&entry).await?;
        }
        app.rollouts.wake();
        let next_report_ms = next_report_ms(app.board.desired().busy, agents);
        Ok(Response::new(v1::ReportResponse { next_report_ms }))
    }

    async fn get_chunk(&self, request: Request<v1::GetChunkRequest>) -> Result<Response<v1::GetChunkResponse>, Status> {
        let request = request.into_inner();
        let digest = Digest::from_slice(&request.digest)
            .ok_or_else(|| status(Code::InvalidArgument, "BAD_FIELD", "`digest` is not 32 bytes"))?;
        let answer = self.0.content.get(digest, request.deflate).await?;
        let answer = answer.ok_or_else(|| status(Code::NotFound, "NO_SUCH_CHUNK", format!("there is no {digest}")))?;
        Ok(Response::new(answer))
    }

    async fn pass_answer(
        &self,
        request: Request<v1::PassAnswerRequest>,
    ) -> Result<Response<v1::PassAnswerResponse>, Status> {
        let app = &self.0;
        let caller = caller(&request)?;
        let request = request.into_inner();
        let agent = AgentId(request.agent_id);
        let region = app.live().agent(&agent).map(|agent| agent.region.clone());
        if caller.role == Role::Agent {
            caller.speaks_for(&agent.0, region.as_deref().unwrap_or_default())?;
        }
        let answer = request.answer.ok_or_else(|| status(Code::InvalidArgument, "BAD_FIELD", "`answer` is missing"))?;
        let done = app.questions.answer(&agent, answer)?;
        Ok(Response::new(v1::PassAnswerResponse { done }))
    }

    async fn get_audit_proof(
        &self,
        request: Request<v1::GetAuditProofRequest>,
    ) -> Result<Response<v1::GetAuditProofResponse>, Status> {
        let from = request.into_inner().from_head;
        let Some(after) = self.0.store.audit_sequence(&from).await? else {
            return Ok(Response::new(v1::GetAuditProofResponse { found: false, entries: Vec::new() }));
        };
        let rows = self.0.store.audit_after(after, PROOF_ENTRIES_MAX).await?;
        let entries = rows.iter().map(|row| row.entry().digest().to_vec()).collect();
        Ok(Response::new(v1::GetAuditProofResponse { found: true, entries }))
    }
}

fn member(app: &App, role: member::Role, region: &str, id: &str) -> Member {
    Member { fleet: app.signer.fleet().0.clone(), region: region.to_owned(), role, id: id.to_owned() }
}

/// A proxy renews the certificate that it holds: of this CA, of that proxy, not over, and the request signed with its key.
/// The agent in between cannot make such a request.
fn renews(app: &App, request: &v1::EnrolProxyRequest, asked: &Member, now_ms: u64) -> Result<(), Status> {
    let refused = |message: String| status(Code::PermissionDenied, "NOT_RENEWABLE", message);
    if request.renews.is_empty() {
        let message = "a proxy enrols with a token of role proxy (`sealane token create --role proxy`)";
        return Err(status(Code::Unauthenticated, "NO_TOKEN", message));
    }
    let keyring = Keyring::new(&asked.fleet);
    keyring.trust(app.ca.pem()).map_err(|error| status(Code::Internal, "CERTIFICATE_FAILED", error.to_string()))?;
    let chain = [request.renews.clone().into()];
    let now = UnixTime::since_unix_epoch(Duration::from_millis(now_ms));
    let held = keyring.judge(&chain, now).map_err(|stranger| refused(stranger.to_string()))?;
    if app.auth.is_revoked(&held.fingerprint) {
        return Err(refused(Stranger::Revoked.to_string()));
    }
    if held.member != *asked {
        return Err(refused(format!("the certificate to renew belongs to {}, not {asked}", held.member)));
    }
    match pki::is_of_key(&request.certificate_request_pem, &request.renews)? {
        true => Ok(()),
        false => Err(refused("the request is not signed with the key of the certificate to renew".to_owned())),
    }
}

/// When an agent of a fleet of so many agents should report again, unless something changes.
fn next_report_ms(busy: bool, agents: usize) -> u32 {
    let bounds = if busy { REPORT_BUSY_MS } else { REPORT_QUIET_MS };
    let shared = agents * 1_000 / REPORTS_PER_SECOND;
    u32::try_from(shared.clamp(*bounds.start(), *bounds.end())).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_fleet_reports_less_often_but_never_too_rarely_to_count_as_fresh() {
        assert_eq!((next_report_ms(true, 3), next_report_ms(false, 3)), (1_000, 5_000));
        assert_eq!((next_report_ms(true, 2_000), next_report_ms(false, 7_000)), (2_000, 7_000));
        assert_eq!((next_report_ms(true, 10_000), next_report_ms(false, 100_000)), (3_000, 10_000));
        let fresh = crate::rollout::machine::Timing::default().fresh;
        assert!(u128::from(next_report_ms(true, usize::MAX / 2_000)) < fresh.as_millis());
    }
}
