//! What a person at this machine may ask, over the Unix socket: to take this agent's proxies back. No decisions.

use sealane_model::ids::Digest;
use sealane_proto::v1;
use sealane_proto::v1::agent_local_service_server::AgentLocalService;
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};

use crate::ledger::Ledger;
use crate::rollout::driver::Ask;

const NOTHING_TO_GO_BACK_TO: &str = "no revision has been good here yet: there is nothing to go back to";

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    pub(crate) asks: mpsc::Sender<Ask>,
    pub(crate) ledger: Ledger,
}

#[tonic::async_trait]
impl AgentLocalService for Local {
    async fn roll_back(
        &self,
        request: Request<v1::AgentRollBackRequest>,
    ) -> Result<Response<v1::AgentRollBackResponse>, Status> {
        let stopping = || Status::unavailable("the agent is stopping");
        let state = self.ledger.state();
        let number = |digest: Option<Digest>| {
            digest.and_then(|digest| state.release(&digest)).map_or(0, |release| release.release().revision.0)
        };
        let candidate = state.candidate.as_ref().map(|candidate| candidate.digest);
        if candidate.is_some() && state.stable.is_none() {
            return Err(Status::failed_precondition(NOTHING_TO_GO_BACK_TO));
        }
        let rolled_back = if request.into_inner().dry_run {
            candidate.is_some() && state.rolled_back.is_none()
        } else {
            let (reply, answer) = oneshot::channel();
            self.asks.send(Ask::RollBack(reply)).await.map_err(|_| stopping())?;
            answer.await.map_err(|_| stopping())?
        };
        let revision = if rolled_back { number(candidate) } else { 0 };
        Ok(Response::new(v1::AgentRollBackResponse { rolled_back, revision, last_good: number(state.stable) }))
    }
}
