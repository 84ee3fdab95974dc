//! One agent's stream: the whole desired state at once, again when it changes, and beacons between.
//!
//! There is no backlog and no task: the stream is asked when there is room on the connection, and then gives the newest
//! state, whatever happened meanwhile. What is told is put together once and shared: see [`Telling`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::Stream;
use futures_util::stream::unfold;
use sealane_model::ids::AgentId;
use sealane_proto::{convert, v1};
use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;
use tracing::info;

use crate::app::App;
use crate::auth::AgentIdentity;
use crate::fleet::LiveError;
use crate::rollout::board::Desired;
use crate::signer::Signer;

/// States that are kept as they were put together: a second, and trust roots that agents came with.
const TOLD_MAX: usize = 4;

/// Says that the agent is gone, however its stream ends.
struct Connection {
    app: Arc<App>,
    agent: AgentId,
    subscription: u64,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.app.live().disconnect(&self.agent, self.subscription);
        self.app.questions.disconnect(&self.agent, self.subscription);
        self.app.rollouts.wake();
        info!(agent = %self.agent, "agent left");
    }
}

/// What a stream waits for.
struct Feed {
    connection: Connection,
    root_version: u32,
    /// What opened it; `None` without TLS.
    identity: Option<AgentIdentity>,
    desired: watch::Receiver<Arc<Desired>>,
    beacon: Interval,
    /// Questions to its proxies.
    asked: mpsc::Receiver<v1::Question>,
    stop: std::pin::Pin<Box<WaitForCancellationFutureOwned>>,
}

/// Opens an agent's stream.
pub(crate) fn subscribe(
    app: Arc<App>,
    hello: v1::SubscribeRequest,
    identity: Option<AgentIdentity>,
) -> Result<impl Stream<Item = Result<v1::SubscribeResponse, Status>> + Send + use<>, LiveError> {
    let subscription = app.live().connect(app.clock.now_ms(), &hello)?;
    let agent = AgentId(hello.agent_id);
    info!(agent = %agent, region = hello.region, build = hello.build, "agent connected");
    let mut desired = app.board.follow_desired();
    desired.mark_changed();
    let mut beacon = tokio::time::interval(app.tuning.beacon_interval);
    beacon.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stop = Box::pin(app.stop.clone().cancelled_owned());
    let asked = app.questions.connect(&agent, subscription);
    let connection = Connection { app, agent, subscription };
    let feed = Feed { connection, root_version: hello.root_version, identity, desired, beacon, asked, stop };
    Ok(unfold(feed, async |mut feed| {
        let response = feed.next().await?;
        Some((Ok(response), feed))
    }))
}

impl Feed {
    /// The next thing to say; `None`: the authority stops, or the agent's certificate is good no more.
    async fn next(&mut self) -> Option<v1::SubscribeResponse> {
        let Self { connection: Connection { app, .. }, root_version, identity, desired, beacon, asked, stop } = self;
        let holds =
            |app: &App| identity.as_ref().is_none_or(|identity| app.auth.still_holds(identity, app.clock.now_ms()));
        // A changed state goes first: a beacon must never run ahead of the state that it belongs to.
        tokio::select! {
            biased;
            changed = desired.changed() => {
                changed.ok()?;
                if !holds(app) {
                    return None;
                }
                let state = desired.borrow_and_update().clone();
                beacon.reset();
                Some(app.telling.state(&app.signer, &state, *root_version, app.clock.now_ms()))
            }
            () = stop => None,
            Some(question) = asked.recv() => {
                let event = v1::subscribe_response::Event::Question(question);
                Some(v1::SubscribeResponse { event: Some(event) })
            }
            _ = beacon.tick() => {
                if !holds(app) {
                    return None;
                }
                let state = desired.borrow().clone();
                let timestamp = Some(app.signer.timestamp(&state, app.clock.now_ms()).into());
                let event = v1::subscribe_response::Event::Beacon(v1::Beacon { timestamp });
                Some(v1::SubscribeResponse { event: Some(event) })
            }
        }
    }
}

/// What agents are told, put together once for all that come with the same trust root.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    told: Mutex<Vec<Told>>,
    made: AtomicU64,
}

#[derive(Debug)]
struct Told {
    desired: Arc<Desired>,
    /// Newest root that the agent has.
    root_version: u32,
    /// Of its timestamp document.
    second: u64,
    response: v1::SubscribeResponse,
}

impl Telling {
    /// A desired state, for an agent that has this trust root.
    fn state(&self, signer: &Signer, desired: &Arc<Desired>, root_version: u32, now_ms: u64) -> v1::SubscribeResponse {
        let second = now_ms / 1000;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |one: &&Told| {
            Arc::ptr_eq(&one.desired, desired) && (one.root_version, one.second) == (root_version, second)
        };
        if let Some(known) = told.iter().find(is_it) {
            return known.response.clone();
        }
        self.made.fetch_add(1, Ordering::Relaxed);
        let event = v1::subscribe_response::Event::Desired(address(signer, desired, root_version, now_ms));
        let response = v1::SubscribeResponse { event: Some(event) };
        told.truncate(TOLD_MAX - 1);
        told.insert(0, Told { desired: Arc::clone(desired), root_version, second, response: response.clone() });
        response
    }

    /// States that were put together by this process.
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }
}

fn address(signer: &Signer, desired: &Arc<Desired>, root_version: u32, now_ms: u64) -> v1::DesiredState {
    v1::DesiredState {
        state_version: desired.version,
        roots: signer.roots_between(root_version, desired.root_version).iter().map(Into::into).collect(),
        timestamp: Some(signer.timestamp(desired, now_ms).into()),
        stable: desired.stable.as_ref().map(Into::into),
        candidate: desired.candidate.as_ref().map(|candidate| v1::Candidate {
            release: Some((&candidate.release).into()),
            grants: candidate.grants.iter().map(Into::into).collect(),
            paused: candidate.paused,
        }),
        withdrawn: desired.withdrawn.iter().map(|digest| digest.to_vec()).collect(),
        // One that this root does not vouch for would have the whole state refused.
        sandbox: desired
            .sandbox
            .as_ref()
            .filter(|head| signer.vouches(&head.release))
            .map(|head| (&head.release).into()),
        cordoned: desired.cordoned.clone(),
        revoked: convert::revoked_list(&desired.revoked).certificates,
    }
}
