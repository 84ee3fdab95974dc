//! One agent's stream: the whole desired state at once, again when it changes, and beacons between.
//!
//! There is no backlog: a slow agent's next message is the newest state, whatever happened meanwhile.

use std::sync::Arc;

use sealane_model::ids::AgentId;
use sealane_proto::v1;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::{Instrument, info, info_span};

use crate::app::App;
use crate::fleet::LiveError;
use crate::rollout::board::Desired;

/// Messages under way to one agent; the newest state waits outside.
const PENDING_MAX: usize = 1;

/// Says that the agent is gone, however its stream ends.
struct Connection {
    app: Arc<App>,
    agent: AgentId,
    instance: String,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.app.live().disconnect(&self.agent, &self.instance);
        self.app.rollouts.wake();
        info!(agent = %self.agent, "agent left");
    }
}

/// Opens an agent's stream.
pub(crate) fn subscribe(
    app: Arc<App>,
    hello: v1::SubscribeRequest,
) -> Result<ReceiverStream<Result<v1::SubscribeResponse, Status>>, LiveError> {
    app.live().connect(app.clock.now_ms(), &hello)?;
    let agent = AgentId(hello.agent_id);
    info!(agent = %agent, region = hello.region, build = hello.build, "agent connected");
    let span = info_span!("subscription", agent = %agent, region = hello.region);
    let connection = Connection { app, agent, instance: hello.instance };
    let (sender, receiver) = mpsc::channel(PENDING_MAX);
    tokio::spawn(feed(connection, hello.root_version, sender).instrument(span));
    Ok(ReceiverStream::new(receiver))
}

async fn feed(connection: Connection, root_version: u32, sender: mpsc::Sender<Result<v1::SubscribeResponse, Status>>) {
    let app = &connection.app;
    let mut desired = app.board.follow_desired();
    let mut beacon = tokio::time::interval(app.tuning.beacon_interval);
    beacon.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let state = desired.borrow_and_update().clone();
        let event = v1::subscribe_response::Event::Desired(address(app, &state, root_version));
        if sender.send(Ok(v1::SubscribeResponse { event: Some(event) })).await.is_err() {
            return;
        }
        beacon.reset();
        loop {
            // A changed state goes first: a beacon must never run ahead of the state that it belongs to.
            tokio::select! {
                biased;
                changed = desired.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                () = sender.closed() => return,
                () = app.stop.cancelled() => return,
                _ = beacon.tick() => {
                    let timestamp = app.signer.timestamp(&state, app.clock.now_ms());
                    let event = v1::subscribe_response::Event::Beacon(v1::Beacon { timestamp: Some(timestamp.into()) });
                    if sender.send(Ok(v1::SubscribeResponse { event: Some(event) })).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

fn address(app: &App, desired: &Arc<Desired>, root_version: u32) -> v1::DesiredState {
    v1::DesiredState {
        state_version: desired.version,
        roots: app.signer.roots_between(root_version, desired.root_version).iter().map(Into::into).collect(),
        timestamp: Some(app.signer.timestamp(desired, app.clock.now_ms()).into()),
        stable: desired.stable.as_ref().map(Into::into),
        candidate: desired.candidate.as_ref().map(|candidate| v1::Candidate {
            release: Some((&candidate.release).into()),
            grants: candidate.grants.iter().map(Into::into).collect(),
            paused: candidate.paused,
        }),
        withdrawn: desired.withdrawn.iter().map(|digest| digest.to_vec()).collect(),
        sandbox: desired.sandbox.as_ref().map(|head| app.signer.freshen_release(head.release.clone()).into()),
        cordoned: desired.cordoned.clone(),
    }
}
