//! The audit log.

use std::sync::Arc;

use sealane_model::ids::Digest;
use sealane_proto::v1;
use sealane_proto::v1::audit_service_server::AuditService;
use tonic::{Request, Response, Status};

use super::{page_number, page_size};
use crate::app::App;
use crate::inspect::inspect;
use crate::rollout::view::time;
use crate::store::audit::AuditRow;

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Audit(pub(crate) Arc<App>);

#[tonic::async_trait]
impl AuditService for Audit {
    async fn list_audit(
        &self,
        request: Request<v1::ListAuditRequest>,
    ) -> Result<Response<v1::ListAuditResponse>, Status> {
        let request = request.into_inner();
        let size = page_size(request.page_size, 100, 1000);
        let rows = self.0.store.audit_after(page_number(&request.page_token)?.unwrap_or(0), size).await?;
        let next_page_token = match rows.last() {
            Some(last) if rows.len() == size as usize => last.sequence.to_string(),
            _ => String::new(),
        };
        let entries = rows.into_iter().map(entry).collect();
        Ok(Response::new(v1::ListAuditResponse { entries, next_page_token }))
    }

    async fn verify_audit(
        &self,
        _: Request<v1::VerifyAuditRequest>,
    ) -> Result<Response<v1::VerifyAuditResponse>, Status> {
        let verdict = self.0.store.verify_audit().await?;
        let problems = inspect(&self.0).await?;
        Ok(Response::new(v1::VerifyAuditResponse {
            intact: verdict.broken_at.is_none() && problems.is_empty(),
            problems,
            entries: verdict.entries,
            broken_at: verdict.broken_at.unwrap_or(0),
            head: hex(&verdict.head),
        }))
    }
}

fn entry(row: AuditRow) -> v1::AuditEntry {
    v1::AuditEntry {
        sequence: u64::try_from(row.sequence).unwrap_or(0),
        at: time(u64::try_from(row.at_ms).unwrap_or(0)),
        actor: row.actor,
        action: row.action,
        subject: row.subject,
        digest: row.digest.as_deref().map(hex).unwrap_or_default(),
        detail: row.detail,
        hash: hex(&row.hash),
    }
}

fn hex(bytes: &[u8]) -> String {
    Digest::from_slice(bytes).map(|digest| digest.to_string()).unwrap_or_default()
}
