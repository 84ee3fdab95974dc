//! Following and steering rollouts.

use std::sync::Arc;

use prost::Message;
use sealane_proto::v1;
use sealane_proto::v1::rollout_service_server::RolloutService;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::status::status;
use super::{caller, freeze, page_number, page_size};
use crate::app::App;
use crate::auth::Caller;
use crate::publish::{PublishError, receipt};
use crate::revision::find;
use crate::rollout::explain::{explain, summary};
use crate::rollout::machine::{Command, Verb};
use crate::rollout::memory::{stored_evidence, stored_view};
use crate::rollout::view::is_final;
use crate::store::idempotency::Known;

/// Longest message, in characters.
const MESSAGE_MAX: usize = 2_000;
/// Longest request id, in characters.
const REQUEST_ID_MAX: usize = 64;

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Rollouts(pub(crate) Arc<App>);

#[tonic::async_trait]
impl RolloutService for Rollouts {
    async fn get(
        &self,
        request: Request<v1::RolloutServiceGetRequest>,
    ) -> Result<Response<v1::RolloutServiceGetResponse>, Status> {
        let revision = find(&self.0, request.into_inner().revision).await?.revision;
        Ok(Response::new(v1::RolloutServiceGetResponse { rollout: Some(view(&self.0, revision).await?) }))
    }

    async fn list(
        &self,
        request: Request<v1::RolloutServiceListRequest>,
    ) -> Result<Response<v1::RolloutServiceListResponse>, Status> {
        let request = request.into_inner();
        let size = page_size(request.page_size, 50, 1000);
        let rows = self.0.store.releases_before(page_number(&request.page_token)?, size).await?;
        let next_page_token = match rows.last() {
            Some(last) if rows.len() == size as usize && last.revision > 1 => last.revision.to_string(),
            _ => String::new(),
        };
        let mut rollouts = Vec::new();
        for row in rows {
            rollouts.push(view(&self.0, row.revision).await?);
        }
        Ok(Response::new(v1::RolloutServiceListResponse { rollouts, next_page_token }))
    }

    type WatchStream = ReceiverStream<Result<v1::RolloutServiceWatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<v1::RolloutServiceWatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let revision = find(&self.0, request.into_inner().revision).await?.revision;
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(follow(Arc::clone(&self.0), revision, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn pause(
        &self,
        request: Request<v1::RolloutServicePauseRequest>,
    ) -> Result<Response<v1::RolloutServicePauseResponse>, Status> {
        let caller = caller(&request)?;
        let rollout = self.steer(Verb::Pause, "Pause", request.into_inner().command, caller).await?;
        Ok(Response::new(v1::RolloutServicePauseResponse { rollout: Some(rollout) }))
    }

    async fn resume(
        &self,
        request: Request<v1::RolloutServiceResumeRequest>,
    ) -> Result<Response<v1::RolloutServiceResumeResponse>, Status> {
        let caller = caller(&request)?;
        let rollout = self.steer(Verb::Resume, "Resume", request.into_inner().command, caller).await?;
        Ok(Response::new(v1::RolloutServiceResumeResponse { rollout: Some(rollout) }))
    }

    async fn promote(
        &self,
        request: Request<v1::RolloutServicePromoteRequest>,
    ) -> Result<Response<v1::RolloutServicePromoteResponse>, Status> {
        let caller = caller(&request)?;
        let rollout = self.steer(Verb::Promote, "Promote", request.into_inner().command, caller).await?;
        Ok(Response::new(v1::RolloutServicePromoteResponse { rollout: Some(rollout) }))
    }

    async fn abort(
        &self,
        request: Request<v1::RolloutServiceAbortRequest>,
    ) -> Result<Response<v1::RolloutServiceAbortResponse>, Status> {
        let caller = caller(&request)?;
        let rollout = self.steer(Verb::Abort, "Abort", request.into_inner().command, caller).await?;
        Ok(Response::new(v1::RolloutServiceAbortResponse { rollout: Some(rollout) }))
    }

    async fn retry(
        &self,
        request: Request<v1::RolloutServiceRetryRequest>,
    ) -> Result<Response<v1::RolloutServiceRetryResponse>, Status> {
        let caller = caller(&request)?;
        let rollout = self.steer(Verb::Retry, "Retry", request.into_inner().command, caller).await?;
        Ok(Response::new(v1::RolloutServiceRetryResponse { rollout: Some(rollout) }))
    }

    async fn add_freeze(
        &self,
        request: Request<v1::AddFreezeRequest>,
    ) -> Result<Response<v1::AddFreezeResponse>, Status> {
        let actor = caller(&request)?.name;
        let freeze = freeze::add(&self.0, actor, &request.into_inner()).await?;
        Ok(Response::new(v1::AddFreezeResponse { freeze: Some(freeze) }))
    }

    async fn list_freezes(
        &self,
        _: Request<v1::ListFreezesRequest>,
    ) -> Result<Response<v1::ListFreezesResponse>, Status> {
        Ok(Response::new(v1::ListFreezesResponse { freezes: freeze::list(&self.0).await? }))
    }

    async fn remove_freeze(
        &self,
        request: Request<v1::RemoveFreezeRequest>,
    ) -> Result<Response<v1::RemoveFreezeResponse>, Status> {
        let actor = caller(&request)?.name;
        freeze::remove(&self.0, actor, &request.into_inner().id).await?;
        Ok(Response::new(v1::RemoveFreezeResponse {}))
    }

    async fn explain(
        &self,
        request: Request<v1::RolloutServiceExplainRequest>,
    ) -> Result<Response<v1::RolloutServiceExplainResponse>, Status> {
        let app = &self.0;
        let revision = find(app, request.into_inner().revision).await?.revision;
        let rollout = view(app, revision).await?;
        let (plan, events, entries) = stored_evidence(&app.store, &app.signer, revision).await?;
        let decisions = explain(&plan, &events, &entries);
        let agrees = decisions.iter().all(|decision| decision.agrees);
        let summary = summary(&decisions);
        Ok(Response::new(v1::RolloutServiceExplainResponse { rollout: Some(rollout), decisions, agrees, summary }))
    }
}

impl Rollouts {
    async fn steer(
        &self,
        verb: Verb,
        method: &'static str,
        command: Option<v1::RolloutCommand>,
        caller: Caller,
    ) -> Result<v1::Rollout, Status> {
        let app = &self.0;
        let command = command.unwrap_or_default();
        if command.message.chars().count() > MESSAGE_MAX || command.request_id.chars().count() > REQUEST_ID_MAX {
            return Err(status(Code::InvalidArgument, "BAD_FIELD", "`message` or `request_id` is too long"));
        }
        let receipt = receipt(method, &command.request_id, &command);
        if let Some(receipt) = &receipt {
            match app.store.known(receipt).await? {
                Known::New => {}
                Known::Other => return Err(PublishError::RequestIdUsed(command.request_id).into()),
                Known::Answered(bytes) => {
                    let damaged = |_| status(Code::Internal, "DATABASE_FAILED", "the first answer cannot be read");
                    return v1::Rollout::decode(bytes.as_slice()).map_err(damaged);
                }
            }
        }
        if command.revision > 0 {
            find(app, command.revision).await?;
        }
        let order = Command {
            revision: Some(command.revision).filter(|revision| *revision > 0),
            state_version: Some(command.state_version).filter(|version| *version > 0),
            verb,
            actor: caller.name,
            message: command.message,
        };
        Ok(app.rollouts.command(order, receipt).await?)
    }
}

/// A rollout: at hand, or from the store.
pub(crate) async fn view(app: &App, revision: u64) -> Result<v1::Rollout, Status> {
    if let Some(rollout) = app.board.rollout(revision) {
        return Ok((*rollout).clone());
    }
    let stored = stored_view(&app.store, &app.signer, revision).await?;
    stored.ok_or_else(|| crate::revision::ReadError::Unknown(revision).into())
}

/// Sends the whole state, then again after each change, until a final one.
async fn follow(app: Arc<App>, revision: u64, sender: mpsc::Sender<Result<v1::RolloutServiceWatchResponse, Status>>) {
    let mut changes = app.board.follow();
    let mut sent: Option<v1::Rollout> = None;
    loop {
        changes.borrow_and_update();
        let rollout = match view(&app, revision).await {
            Ok(rollout) => rollout,
            Err(status) => {
                let _ = sender.send(Err(status)).await;
                return;
            }
        };
        let is_final = is_final(rollout.state());
        if sent.as_ref() != Some(&rollout) {
            let response = v1::RolloutServiceWatchResponse { rollout: Some(rollout.clone()) };
            if sender.send(Ok(response)).await.is_err() {
                return;
            }
            sent = Some(rollout);
        }
        if is_final {
            return;
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = sender.closed() => return,
            () = app.stop.cancelled() => {
                let _ = sender.send(Err(Status::unavailable("the authority is stopping"))).await;
                return;
            }
        }
    }
}
