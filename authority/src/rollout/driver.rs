//! Runs the rollout machine: feeds it time, reports and commands, makes what it decides durable, and only then tells.
//!
//! One task owns the machine. When the store refuses (a full disk), the machine is thrown away and made again from the
//! stored events, as after a restart, so that memory is never ahead of the disk; what was told before stays told.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sealane_model::envelope::Envelope;
use sealane_model::ids::{Epoch, Revision};
use sealane_proto::v1;
use thiserror::Error;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::board::{Board, Candidate, Desired, Shown};
use super::event::{Event, Reason, What};
use super::machine::{Action, Command, ENDED_MAX, Input, Machine, Refusal, Rollout, Timing};
use super::record::Phase;
use super::subject::Subject;
use super::view::is_final;
use super::{audit, memory};
use crate::clock::Clock;
use crate::error::chain;
use crate::fleet::Live;
use crate::metric::Counters;
use crate::signer::Signer;
use crate::store::idempotency::Receipt;
use crate::store::rollout::{EventRow, Steps};
use crate::store::{Store, StoreError};

/// Requests that wait for the driver.
const REQUESTS_MAX: usize = 64;
/// Reports that come within this are looked at together.
const COALESCE: Duration = Duration::from_millis(20);
/// A look at a large fleet takes a while: between looks the driver rests so many times that long.
const REST_FACTOR: u32 = 4;
/// Releases whose facts are kept in memory.
const RELEASES_MAX: usize = 16;

/// The way to the driver.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    requests: mpsc::Sender<Request>,
    wake: Arc<Notify>,
}

#[derive(Debug)]
enum Request {
    Offer { subject: Arc<Subject>, queued: Event, done: oneshot::Sender<()> },
    Command { command: Command, receipt: Option<Receipt>, answer: oneshot::Sender<Result<v1::Rollout, CommandError>> },
    Refresh,
}

/// Why a command did not happen.
#[derive(Debug, Error)]
pub(crate) enum CommandError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the command could not be stored")]
    Store(#[source] Arc<StoreError>),
    #[error("the authority is stopping")]
    Stopping,
}

/// Runs the machine.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) store: Store,
    pub(crate) live: Arc<Mutex<Live>>,
    pub(crate) signer: Arc<Signer>,
    pub(crate) board: Arc<Board>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) clock: Clock,
    pub(crate) timing: Timing,
    pub(crate) tick: Duration,
    /// `None` after a failure of the store, until it is read again.
    machine: Option<Machine>,
    releases: HashMap<u64, (Envelope, Arc<Subject>)>,
    requests: mpsc::Receiver<Request>,
    wake: Arc<Notify>,
    /// Newest desired state that was put together.
    told_version: Option<u64>,
}

impl Handle {
    /// A revision was stored.
    pub(crate) async fn offer(&self, subject: Arc<Subject>, queued: Event) {
        let (done, wait) = oneshot::channel();
        if self.requests.send(Request::Offer { subject, queued, done }).await.is_ok() {
            let _ = wait.await;
        }
    }

    /// A person steers. Gives the state that followed.
    pub(crate) async fn command(
        &self,
        command: Command,
        receipt: Option<Receipt>,
    ) -> Result<v1::Rollout, CommandError> {
        let (answer, wait) = oneshot::channel();
        let request = Request::Command { command, receipt, answer };
        self.requests.send(request).await.map_err(|_| CommandError::Stopping)?;
        wait.await.map_err(|_| CommandError::Stopping)?
    }

    /// A report came in.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Something beside rollouts changed that agents are told.
    pub(crate) async fn refresh(&self) {
        let _ = self.requests.send(Request::Refresh).await;
    }
}

impl Driver {
    /// Reads the store and shows what it says. The task is [`Driver::run`].
    #[expect(clippy::too_many_arguments, reason = "the one place that wires the driver")]
    pub(crate) async fn start(
        store: Store,
        live: Arc<Mutex<Live>>,
        signer: Arc<Signer>,
        board: Arc<Board>,
        counters: Arc<Counters>,
        clock: Clock,
        timing: Timing,
        tick: Duration,
    ) -> Result<(Self, Handle), StoreError> {
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        let wake = Arc::new(Notify::new());
        let handle = Handle { requests: sender, wake: Arc::clone(&wake) };
        let mut driver = Self {
            store,
            live,
            signer,
            board,
            counters,
            clock,
            timing,
            tick,
            machine: None,
            releases: HashMap::new(),
            requests,
            wake,
            told_version: None,
        };
        driver.reload().await?;
        driver.tell().await?;
        Ok((driver, handle))
    }

    /// Until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut ticker = tokio::time::interval(self.tick);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let wake = Arc::clone(&self.wake);
        let mut rest = COALESCE;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                request = self.requests.recv() => match request {
                    Some(request) => self.handle(request).await,
                    None => return,
                },
                _ = ticker.tick() => {
                    let forgotten = self.lock_live().forget(self.clock.now_ms());
                    if forgotten > 0 {
                        info!(forgotten, "agents and proxies that were silent for long are forgotten");
                    }
                    self.look().await;
                }
                () = wake.notified() => {
                    tokio::time::sleep(rest).await;
                    let begun = Instant::now();
                    self.look().await;
                    rest = COALESCE.max(begun.elapsed() * REST_FACTOR).min(self.tick.max(COALESCE));
                }
            }
        }
    }

    async fn handle(&mut self, request: Request) {
        match request {
            Request::Offer { subject, queued, done } => {
                let revision = subject.revision.0;
                if let Err(error) = self.step(Input::Offer { subject, queued }, None).await {
                    warn!(revision, error = %chain(&error), "the rollout waits: it could not be stored");
                }
                let _ = done.send(());
            }
            Request::Command { command, receipt, answer } => {
                let _ = answer.send(self.command(command, receipt).await);
            }
            Request::Refresh => {
                self.told_version = None;
                self.releases.clear(); // signatures may have come
                if let Err(error) = self.tell().await {
                    warn!(error = %chain(&error), "the agents could not be told");
                }
            }
        }
    }

    async fn look(&mut self) {
        if let Err(CommandError::Store(error)) = self.step(Input::Tick, None).await {
            error!(error = %chain(&*error), "the rollout stands still: it could not be stored");
        }
    }

    async fn command(&mut self, mut command: Command, receipt: Option<Receipt>) -> Result<v1::Rollout, CommandError> {
        if command.revision.is_none() {
            command.revision = self.machine.as_ref().and_then(Machine::current).map(|one| one.subject.revision.0);
        }
        let revision = command.revision.ok_or(Refusal::NothingUnderWay)?;
        self.step(Input::Command(command), receipt.map(|receipt| (revision, receipt))).await?;
        let rollout = self.board.rollout(revision).ok_or(Refusal::NotOpen { revision })?;
        Ok((*rollout).clone())
    }

    /// One step of the machine: decide, store, then tell.
    async fn step(&mut self, input: Input, receipt: Option<(u64, Receipt)>) -> Result<(), CommandError> {
        if self.machine.is_none() {
            self.reload().await.map_err(stored)?;
        }
        let Some(machine) = &mut self.machine else { return Err(CommandError::Stopping) };
        let now_ms = self.clock.now_ms();
        let (mut steps, verb) = {
            let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
            let verb = match &input {
                Input::Command(command) => Some(command.clone()),
                Input::Tick | Input::Offer { .. } => None,
            };
            let actions = machine.step(now_ms, &live, input)?;
            (self.signer_steps(&actions), verb)
        };
        if let Some(command) = &verb {
            steps.audit.insert(0, audit::of_command(command, now_ms));
        }
        if let Some((revision, receipt)) = receipt
            && let Some(rollout) = self.rollout(revision)
        {
            steps.receipt = Some((receipt, prost::Message::encode_to_vec(&rollout.view())));
        }
        if !steps.events.is_empty() || !steps.audit.is_empty() || !steps.evidence.is_empty() {
            if let Err(error) = self.store.append(&steps, now_ms).await {
                // The machine is ahead of the disk: forget it, and begin again from what is stored.
                self.machine = None;
                if let Err(again) = self.reload().await {
                    warn!(error = %chain(&again), "the store cannot be read either");
                }
                return Err(stored(error));
            }
            self.log(&steps);
        }
        self.tell().await.map_err(stored)
    }

    /// What the store is to remember of these actions; grants are signed here, outside the transaction.
    fn signer_steps(&self, actions: &[Action]) -> Steps {
        let mut steps = Steps::default();
        for action in actions {
            match action {
                Action::Record { revision, seq, event } => {
                    steps.events.push(EventRow {
                        revision: *revision,
                        seq: *seq,
                        kind: event.what.kind(),
                        at_ms: event.at_ms,
                        body: event.to_json(),
                    });
                    let rollout = self.rollout(*revision);
                    steps.audit.extend(rollout.and_then(|one| audit::of_event(*revision, one.subject.digest, event)));
                }
                Action::Evidence { revision, seq, entry } => {
                    let body = serde_json::to_string(entry).expect("evidence has finite numbers and string keys");
                    steps.evidence.push((*revision, *seq, body));
                }
                Action::Grant(order) => {
                    let envelope = self.signer.grant(order);
                    steps.grants.push((order.opened.sequence, order.revision.0, envelope));
                }
            }
        }
        steps
    }

    fn log(&self, steps: &Steps) {
        for row in &steps.events {
            let (revision, kind) = (row.revision, row.kind);
            let Ok(Event { what, .. }) = Event::from_json(&row.body) else { continue };
            match &what {
                What::RollingBack { reason, .. } | What::Held { reason, .. } | What::Rejected { reason, .. } => {
                    let Reason { gate, stage, message, .. } = reason;
                    warn!(revision, kind, gate, stage, why = message, "rollout moved");
                }
                What::StageOpened(opened) => {
                    let (wave, stage, proxies) = (opened.wave, opened.stage, opened.cohort.len());
                    info!(revision, kind, wave, stage, proxies, "rollout moved");
                }
                What::Completed { line, .. } | What::Ended { line, .. } => {
                    info!(revision, kind, verdict = line, "rollout moved");
                }
                What::StagePassed { why, .. } | What::Released { why } => info!(revision, kind, why, "rollout moved"),
                What::Promoted { actor }
                | What::Retried { actor }
                | What::Paused { actor }
                | What::Resumed { actor } => {
                    info!(revision, kind, actor, "rollout moved");
                }
                What::Queued { .. } | What::Preparing { .. } | What::FinalBake => {
                    info!(revision, kind, "rollout moved")
                }
            }
            if let What::RollingBack { reason, .. } = &what {
                self.counters.rolled_back(&reason.gate);
            }
        }
    }

    /// Shows the state, and tells the agents where it changed.
    async fn tell(&mut self) -> Result<(), StoreError> {
        let Some(machine) = &self.machine else { return Ok(()) };
        // One that has ended does not change any more.
        let before = self.board.shown().rollouts;
        let view = |one: &Rollout| match before.get(&one.subject.revision.0) {
            Some(shown) if is_final(shown.state()) => Arc::clone(shown),
            _ => Arc::new(one.view()),
        };
        self.board.show(Shown {
            rollouts: machine.rollouts().map(|one| (one.subject.revision.0, view(one))).collect(),
            current: machine.current().map(|one| one.subject.revision.0),
            stable: machine.stable(),
        });
        let version = machine.version();
        if self.told_version == Some(version) {
            return Ok(());
        }
        let offered = machine
            .current()
            .filter(|one| matches!(one.record.phase, Phase::Preparing | Phase::Stage | Phase::FinalBake));
        let offered = offered.map(|one| (one.subject.revision.0, one.record.paused));
        let root_version = self.signer.root_version();
        let busy = machine.current().is_some();
        let stable = machine.stable();
        let withdrawn: Vec<_> = machine.withdrawn().collect();
        let sequence_min = machine.sequence_min();
        let mut candidate = None;
        if let Some((revision, paused)) = offered {
            let release = self.release(revision).await?.0;
            let grants = self.store.grants(revision).await?;
            let grants = grants.into_iter().map(|grant| self.signer.freshen_grant(grant)).collect();
            candidate = Some(Candidate { release, grants, paused });
        }
        let stable = match stable {
            Some(stable) => Some(self.release(stable.revision).await?.0),
            None => None,
        };
        // One that still waits for people is not offered, so it is no head either.
        let head = match self.store.newest_begun().await? {
            Some(revision) => self.store.release(revision).await?.map(|row| (Revision(row.revision), row.digest)),
            None => None,
        };
        let cordoned = self.lock_live().cordoned().iter().map(|id| id.0.clone()).collect();
        self.board.desire(Desired {
            version,
            stable,
            candidate,
            withdrawn,
            cordoned,
            sandbox: None,
            revoked: BTreeMap::new(),
            head,
            epoch: self.epoch().await?,
            sequence_min,
            audit_head: self.store.audit_head().await?,
            root_version,
            busy,
        });
        self.told_version = Some(version);
        Ok(())
    }

    async fn epoch(&self) -> Result<Epoch, StoreError> {
        crate::home::epoch(&self.store).await
    }

    /// Makes the machine from the store.
    async fn reload(&mut self) -> Result<(), StoreError> {
        let remembered = memory::remember(&self.store, &self.signer).await?;
        self.machine = Some(Machine::remember(self.timing, remembered, self.clock.now_ms()));
        self.told_version = None;
        Ok(())
    }

    /// A rollout at hand.
    fn rollout(&self, revision: u64) -> Option<&Rollout> {
        self.machine.as_ref()?.rollouts().find(|one| one.subject.revision.0 == revision)
    }

    async fn release(&mut self, revision: u64) -> Result<(Envelope, Arc<Subject>), StoreError> {
        if let Some(known) = self.releases.get(&revision) {
            return Ok(known.clone());
        }
        let known = memory::load(&self.store, &self.signer, revision).await?;
        if self.releases.len() >= RELEASES_MAX {
            self.releases.clear();
        }
        self.releases.insert(revision, known.clone());
        Ok(known)
    }

    fn lock_live(&self) -> std::sync::MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stored(error: StoreError) -> CommandError {
    CommandError::Store(Arc::new(error))
}

const _: () = assert!(ENDED_MAX >= 16, "watchers of an ended rollout read its last state from memory");
