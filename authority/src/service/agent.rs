//! Authority ↔ agent.

use std::sync::Arc;

use sealane_model::ids::{AgentId, Digest};
use sealane_proto::v1;
use sealane_proto::v1::agent_service_server::AgentService;
use serde_json::json;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::caller;
use super::status::status;
use crate::app::App;
use crate::auth::Role;
use crate::store::agent::AgentCertificate;
use crate::store::audit::AuditEntry;
use crate::subscribe::subscribe;

/// Between reports while a rollout is under way.
const REPORT_BUSY_MS: u32 = 1_000;
/// Between reports otherwise.
const REPORT_QUIET_MS: u32 = 5_000;

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
        let issued =
            app.ca.issue_agent(&request.certificate_request_pem, app.signer.fleet(), &agent, &region, now_ms)?;
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

    type SubscribeStream = ReceiverStream<Result<v1::SubscribeResponse, Status>>;

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
        let stream = subscribe(Arc::clone(&self.0), hello)?;
        self.0.rollouts.wake();
        Ok(Response::new(stream))
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
        let refused_before = app.live().refused_by(&report.agent_id, &report.instance);
        app.live().hear(now_ms, &report, caller.region.as_deref())?;
        let refused = app.live().refused_by(&report.agent_id, &report.instance);
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
        let next_report_ms = if app.board.desired().busy { REPORT_BUSY_MS } else { REPORT_QUIET_MS };
        Ok(Response::new(v1::ReportResponse { next_report_ms }))
    }

    async fn get_chunk(&self, request: Request<v1::GetChunkRequest>) -> Result<Response<v1::GetChunkResponse>, Status> {
        let request = request.into_inner();
        let digest = Digest::from_slice(&request.digest)
            .ok_or_else(|| status(Code::InvalidArgument, "BAD_FIELD", "`digest` is not 32 bytes"))?;
        let content = match self.0.store.blob(&digest).await? {
            Some(content) => Some(content),
            None => self.0.store.sandbox_blob(&digest).await?,
        };
        let content =
            content.ok_or_else(|| status(Code::NotFound, "NO_SUCH_CHUNK", format!("there is no {digest}")))?;
        let deflated = if request.deflate { sealane_model::bundle::transfer::deflate(&content) } else { None };
        Ok(Response::new(match deflated {
            Some(deflated) => v1::GetChunkResponse { content: Vec::new(), deflated },
            None => v1::GetChunkResponse { content, deflated: Vec::new() },
        }))
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
