//! Publishing and reading revisions.

use std::sync::Arc;

use sealane_model::cohort;
use sealane_model::envelope::Envelope;
use sealane_model::ids::ProxyId;
use sealane_model::plan::Plan;
use sealane_model::problem::{Problem, Severity};
use sealane_model::release::ChangeClass;
use sealane_proto::convert::{change_class_or_standard, wire_duration};
use sealane_proto::v1;
use sealane_proto::v1::config_service_server::ConfigService;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::status::{hinted, status};
use super::{caller, page_number, page_size, problems, question};
use crate::app::App;
use crate::approve::{ApproveOrder, approve};
use crate::auth::{Caller, Role};
use crate::publish::{self, PublishOrder, RollbackOrder, receipt};
use crate::revision;
use crate::rollout::subject::wave_of;
use crate::store::audit::AuditEntry;

mod explain;

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Config(pub(crate) Arc<App>);

#[tonic::async_trait]
impl ConfigService for Config {
    async fn validate(&self, request: Request<v1::ValidateRequest>) -> Result<Response<v1::ValidateResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let file = publish::file_name(&request.file)?;
        let response = match publish::check(file.clone(), request.config_yaml).await? {
            Ok(checked) => {
                let mut found = checked.warnings.clone();
                found.extend(self.asked(&caller, &file, &checked.text).await?);
                let valid = found.iter().all(|problem| problem.severity != Severity::Error);
                v1::ValidateResponse { valid, problems: problems(&found) }
            }
            Err(found) => v1::ValidateResponse { valid: false, problems: problems(&found) },
        };
        Ok(Response::new(response))
    }

    async fn plan(&self, request: Request<v1::PlanRequest>) -> Result<Response<v1::PlanResponse>, Status> {
        let app = &self.0;
        let caller = caller(&request)?;
        let request = request.into_inner();
        let file = publish::file_name(&request.file)?;
        let newest = app.store.newest_release().await?;
        let etag = newest.as_ref().map_or_else(String::new, |row| row.digest.to_string());
        let before = match &newest {
            Some(row) => (format!("{} r{}", row.file, row.revision), revision::text(app, row).await?),
            None => ("nothing".to_owned(), String::new()),
        };
        let before_text = newest.is_some().then(|| before.1.clone());
        let wants_impact = !request.without_sample && newest.is_some();
        let diff = revision::diff(before, (file.clone(), request.config_yaml.clone())).await;
        let response = match publish::check(file.clone(), request.config_yaml).await? {
            Ok(checked) => {
                let mut found = checked.warnings.clone();
                found.extend(self.asked(&caller, &file, &checked.text).await?);
                let valid = found.iter().all(|problem| problem.severity != Severity::Error);
                let impact = match &before_text {
                    Some(before) if wants_impact && valid => {
                        question::impact_of(app, before.clone(), checked.text.clone()).await
                    }
                    Some(_) | None => None,
                };
                let changes = revision::changes(before_text, checked.text.clone()).await;
                let plan = checked.config.rollout.unwrap_or_else(|| app.default_plan.clone());
                v1::PlanResponse {
                    valid,
                    problems: problems(&found),
                    etag,
                    diff,
                    stages: preview(app, &plan),
                    changes,
                    duration_least: Some(wire_duration(least_time(&plan))),
                    impact,
                }
            }
            Err(found) => {
                v1::PlanResponse { valid: false, problems: problems(&found), etag, diff, ..v1::PlanResponse::default() }
            }
        };
        Ok(Response::new(response))
    }

    async fn publish(&self, request: Request<v1::PublishRequest>) -> Result<Response<v1::PublishResponse>, Status> {
        let caller = caller(&request)?;
        if request.get_ref().override_freeze && caller.role < Role::Incident {
            let role = caller.role.as_str();
            self.refuse_override(&caller.name).await?;
            let message = format!("to override a freeze needs role incident; the token has role {role}");
            let hint = "`sealane token create --role incident` makes one; a roll back needs none of this";
            return Err(hinted(Code::PermissionDenied, "NEEDS_INCIDENT", message, hint));
        }
        let (actor, role) = (caller.name, caller.role.as_str());
        let request = request.into_inner();
        let receipt = receipt("Publish", &request.request_id, &request);
        let class = change_class_or_standard(request.change_class)
            .map_err(|error| status(Code::InvalidArgument, "BAD_FIELD", error.to_string()))?;
        if !matches!(class, ChangeClass::Standard | ChangeClass::Expedited) {
            let message = "a config is published as `standard` or `expedited`; for earlier content there is Rollback";
            return Err(status(Code::InvalidArgument, "BAD_FIELD", message));
        }
        let order = PublishOrder {
            text: request.config_yaml,
            file: request.file,
            message: request.message,
            etag: Some(request.etag).filter(|etag| !etag.is_empty()),
            class,
            hold: request.hold,
            override_freeze: request.override_freeze,
            dry_run: request.dry_run,
            supersede: request.supersede,
            actor,
            role,
            receipt,
        };
        Ok(Response::new(publish::publish(&self.0, order).await?))
    }

    async fn get_revision(
        &self,
        request: Request<v1::GetRevisionRequest>,
    ) -> Result<Response<v1::GetRevisionResponse>, Status> {
        let request = request.into_inner();
        let row = revision::find(&self.0, request.revision).await?;
        let etag = self.etag().await?;
        let revision = revision::view(&self.0, &row, request.with_config).await?;
        Ok(Response::new(v1::GetRevisionResponse { revision: Some(revision), etag }))
    }

    async fn list_revisions(
        &self,
        request: Request<v1::ListRevisionsRequest>,
    ) -> Result<Response<v1::ListRevisionsResponse>, Status> {
        let request = request.into_inner();
        let size = page_size(request.page_size, 50, 1000);
        let rows = self.0.store.releases_before(page_number(&request.page_token)?, size).await?;
        let next_page_token = match rows.last() {
            Some(last) if rows.len() == size as usize && last.revision > 1 => last.revision.to_string(),
            _ => String::new(),
        };
        let mut revisions = Vec::new();
        for row in &rows {
            revisions.push(revision::view(&self.0, row, false).await?);
        }
        let etag = self.etag().await?;
        Ok(Response::new(v1::ListRevisionsResponse { revisions, next_page_token, etag }))
    }

    async fn diff_revisions(
        &self,
        request: Request<v1::DiffRevisionsRequest>,
    ) -> Result<Response<v1::DiffRevisionsResponse>, Status> {
        let request = request.into_inner();
        let mut sides = Vec::new();
        for number in [request.from, request.to] {
            let row = revision::find(&self.0, number).await?;
            sides.push((format!("{} r{}", row.file, row.revision), revision::text(&self.0, &row).await?));
        }
        let after = sides.pop().unwrap_or_default();
        let before = sides.pop().unwrap_or_default();
        let changes = revision::changes(Some(before.1.clone()), after.1.clone()).await;
        Ok(Response::new(v1::DiffRevisionsResponse { diff: revision::diff(before, after).await, changes }))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Result<Response<v1::ExplainResponse>, Status> {
        Ok(Response::new(explain::explain(&self.0, request.into_inner()).await?))
    }

    async fn approve(&self, request: Request<v1::ApproveRequest>) -> Result<Response<v1::ApproveResponse>, Status> {
        let actor = caller(&request)?.name;
        let request = request.into_inner();
        let receipt = receipt("Approve", &request.request_id, &request);
        let order = ApproveOrder {
            revision: request.revision,
            release: request.release.map(Envelope::from),
            message: request.message,
            actor,
            receipt,
            dry_run: request.dry_run,
        };
        Ok(Response::new(approve(&self.0, order).await?))
    }

    type ExportRevisionStream = ReceiverStream<Result<v1::ExportRevisionResponse, Status>>;

    async fn export_revision(
        &self,
        request: Request<v1::ExportRevisionRequest>,
    ) -> Result<Response<Self::ExportRevisionStream>, Status> {
        let app = &self.0;
        let row = revision::find(app, request.into_inner().revision).await?;
        let (manifest, chunks) = revision::blobs(app, &row).await?;
        let desired = app.board.desired();
        let head = v1::ExportHead {
            revision: row.revision,
            roots: app.signer.roots().iter().map(|root| root.envelope().into()).collect(),
            release: Some(row.envelope.into()),
            timestamp: Some(app.signer.timestamp(&desired, app.clock.now_ms()).into()),
            grants: app.store.grants(row.revision).await?.into_iter().map(Into::into).collect(),
            manifest,
        };
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let head = v1::export_revision_response::Part::Head(head);
            let parts = chunks.into_values().map(v1::export_revision_response::Part::Chunk);
            for part in std::iter::once(head).chain(parts) {
                if sender.send(Ok(v1::ExportRevisionResponse { part: Some(part) })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn rollback(&self, request: Request<v1::RollbackRequest>) -> Result<Response<v1::RollbackResponse>, Status> {
        let actor = caller(&request)?.name;
        let request = request.into_inner();
        let receipt = receipt("Rollback", &request.request_id, &request);
        let order = RollbackOrder {
            to: Some(request.to).filter(|revision| *revision > 0),
            message: request.message,
            dry_run: request.dry_run,
            actor,
            receipt,
        };
        Ok(Response::new(publish::rollback(&self.0, order).await?))
    }
}

impl Config {
    /// A refusal is recorded like a deed.
    async fn refuse_override(&self, actor: &str) -> Result<(), Status> {
        let entry = AuditEntry {
            at_ms: self.0.clock.now_ms(),
            actor: actor.to_owned(),
            action: "override_refused",
            subject: "freeze".to_owned(),
            digest: None,
            detail: serde_json::json!({ "why": "to override a freeze needs role incident" }),
        };
        Ok(self.0.audit(&entry).await?)
    }

    /// What the policies would say if this caller published this.
    async fn asked(&self, caller: &Caller, file: &str, text: &str) -> Result<Vec<Problem>, Status> {
        let order = PublishOrder {
            text: String::new(),
            file: String::new(),
            message: String::new(),
            etag: None,
            class: ChangeClass::Standard,
            hold: false,
            dry_run: true,
            supersede: false,
            override_freeze: false,
            actor: caller.name.clone(),
            role: caller.role.as_str(),
            receipt: None,
        };
        Ok(publish::judge(&self.0, &order, file, text).await?.denials)
    }

    async fn etag(&self) -> Result<String, Status> {
        Ok(self.0.store.newest_release().await?.map_or_else(String::new, |row| row.digest.to_string()))
    }
}

/// From the first stage to the end, when every gate passes as soon as it may.
fn least_time(plan: &Plan) -> std::time::Duration {
    let wave: std::time::Duration = plan.stages.iter().map(|stage| stage.bake).sum();
    let waves = u32::try_from(plan.waves.len().max(1)).unwrap_or(u32::MAX);
    wave.saturating_mul(waves).saturating_add(plan.final_bake)
}

/// How many proxies each stage will have taken, as things stand.
fn preview(app: &App, plan: &Plan) -> Vec<v1::StagePreview> {
    let live = app.live();
    let mut stages = Vec::new();
    for (index, wave) in plan.waves.iter().enumerate() {
        let here = |(_, proxy): &(&ProxyId, &crate::fleet::Proxy)| wave_of(plan, &proxy.region) == index;
        let nodes: Vec<String> = live.proxies().filter(here).map(|(id, _)| id.0.clone()).collect();
        // Ranks stand for the proxies: only how many lie below the cut is asked here.
        let ranks: Vec<u64> = (0..nodes.len() as u64).collect();
        for stage in &plan.stages {
            let cut = cohort::cut(stage.fleet_percent, &ranks);
            let proxies = ranks.iter().filter(|rank| cut.is_some_and(|cut| **rank <= cut)).count();
            stages.push(v1::StagePreview {
                wave: wave.name.clone(),
                name: stage.name.clone(),
                fleet_percent: stage.fleet_percent,
                nodes: if proxies == nodes.len() { nodes.clone() } else { Vec::new() },
                proxies: u32::try_from(proxies).unwrap_or(u32::MAX),
                bake: Some(wire_duration(stage.bake)),
            });
        }
    }
    stages
}
