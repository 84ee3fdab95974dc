//! Runs the local rollout: feeds the machine with what proxies, ledger and clock say, and carries its actions out.
//!
//! The one owner of the links to proxies; others ask over a bounded channel and watch the [`Roster`]. It does not
//! decide who runs what, the machine does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sealane_model::ids::{Digest, ProxyId};
use sealane_model::release::ChangeClass;
use sealane_node::disk;
use sealane_proto::{convert, v1};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::machine::{Action, Candidate, Cause, Desired, Input, Machine, Now, READY_MS, Seen, Target};
use crate::clock;
use crate::ledger::{Ledger, LocalRollback, State};
use crate::refusal::Refusals;
use crate::settings::is_name;
use crate::subscribe::Contact;

/// What a proxy should hold and run, newest only.
pub(crate) type Commands = watch::Receiver<Option<Arc<v1::ProxyDesired>>>;

/// What others ask of the driver.
#[derive(Debug)]
pub(crate) enum Ask {
    /// A proxy opens its stream.
    Attach(v1::AttachRequest, oneshot::Sender<Result<Attached, AttachError>>),
    /// That stream ended.
    Detach(ProxyId, u64),
    /// It is sent away and does not come back as who it was: as if it had said goodbye, which is no death.
    SendAway(ProxyId, u64),
    /// A proxy says what is.
    Observe(Box<v1::ProxyStatus>, oneshot::Sender<Result<(), ObserveError>>),
    /// A person takes this agent's proxies back; whether there was a candidate.
    RollBack(oneshot::Sender<bool>),
}

/// An open stream to a proxy. It is over when `commands` closes.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) proxy: ProxyId,
    pub(crate) session: u64,
    pub(crate) commands: Commands,
}

/// Why a proxy may not attach.
#[derive(Debug, Error)]
pub(crate) enum AttachError {
    #[error("a proxy id has 1 to 128 letters, digits or any of -_.:")]
    Name,
    #[error("an instance has 1 to 128 letters, digits or any of -_.:")]
    Instance,
    #[error("this agent belongs to fleet `{0}`")]
    OtherFleet(String),
    #[error("another live proxy is called `{0}`; give each its own --id")]
    Taken(String),
    #[error("this agent has {PROXIES_MAX} proxies, which is the most it takes")]
    Full,
    #[error("generation {0} is out of range")]
    Generation(u64),
}

/// Why an observation was not taken.
#[derive(Debug, Error)]
pub(crate) enum ObserveError {
    #[error("this proxy is not attached")]
    NotAttached,
    #[error(transparent)]
    Malformed(#[from] convert::ConvertError),
}

/// The proxies of this agent as they were seen last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roster {
    pub(crate) proxies: Vec<RosterEntry>,
    /// Grows when anything but a count changed.
    pub(crate) changes: u64,
}

/// One proxy.
#[derive(Clone, Debug)]
pub(crate) struct RosterEntry {
    /// What it said last.
    pub(crate) status: Arc<v1::ProxyStatus>,
    pub(crate) attached: bool,
    pub(crate) deaths: u32,
    pub(crate) heard: Instant,
}

impl RosterEntry {
    /// The proxy as its agent sees it now.
    pub(crate) fn status(&self) -> v1::ProxyStatus {
        v1::ProxyStatus {
            attached: self.attached,
            deaths: self.deaths,
            silent_ms: u64::try_from(self.heard.elapsed().as_millis()).unwrap_or(u64::MAX),
            ..v1::ProxyStatus::clone(&self.status)
        }
    }
}

/// What a driver works with.
#[derive(Debug)]
pub(crate) struct Driver {
    ledger: Ledger,
    refusals: Refusals,
    roster: watch::Sender<Roster>,
    machine: Machine,
    started: Instant,
    state: Arc<State>,
    links: BTreeMap<ProxyId, Link>,
    sessions: u64,
    changes: u64,
    /// Somebody observed since the roster was shown last.
    heard: bool,
}

#[derive(Debug)]
struct Link {
    session: u64,
    instance: String,
    build: String,
    root_version: u32,
    /// `None` while no stream is open.
    commands: Option<watch::Sender<Option<Arc<v1::ProxyDesired>>>>,
    status: Arc<v1::ProxyStatus>,
    deaths: u32,
    /// More than a count changed since the roster was shown last.
    changed: bool,
    heard: Instant,
}

impl Driver {
    pub(crate) fn new(ledger: Ledger, refusals: Refusals, region: &str, roster: watch::Sender<Roster>) -> Self {
        let state = ledger.state();
        let started = Instant::now();
        let now = Now { mono_ms: 0, unix_ms: clock::unix_ms() };
        let mut machine = Machine::new(region, state.generation, now);
        machine.step(now, Input::Desired(desired(&state)));
        let links = BTreeMap::new();
        Self { ledger, refusals, roster, machine, started, state, links, sessions: 0, changes: 0, heard: false }
    }

    /// Drives until `cancel`.
    pub(crate) async fn run(
        mut self,
        mut asks: mpsc::Receiver<Ask>,
        mut contact: watch::Receiver<Contact>,
        cancel: CancellationToken,
    ) {
        let mut ledger = self.ledger.watch();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                ask = asks.recv() => match ask {
                    Some(ask) => self.answer(ask).await,
                    None => return,
                },
                changed = ledger.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.state = Arc::clone(&ledger.borrow_and_update());
                    let desired = desired(&self.state);
                    self.step(Input::Desired(desired)).await;
                }
                changed = contact.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let heard = contact.borrow_and_update().heard.map(|heard| self.mono_ms(heard));
                    self.step(Input::Authority(heard)).await;
                }
                _ = tick.tick() => self.step(Input::Tick).await,
            }
            self.publish();
        }
    }

    async fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Attach(request, reply) => {
                let attached = self.attach(request).await;
                let _ = reply.send(attached); // the caller may be gone; its stream's end says so
            }
            Ask::Detach(proxy, session) => self.detach(&proxy, session).await,
            Ask::SendAway(proxy, session) => self.send_away(&proxy, session).await,
            Ask::Observe(status, reply) => {
                let observed = self.observe(*status).await;
                let _ = reply.send(observed);
            }
            Ask::RollBack(reply) => {
                let before = self.state.candidate.is_some() && self.state.rolled_back.is_none();
                self.step(Input::RollBack).await;
                let _ = reply.send(before);
            }
        }
    }

    async fn attach(&mut self, request: v1::AttachRequest) -> Result<Attached, AttachError> {
        if !is_name(&request.proxy_id) {
            return Err(AttachError::Name);
        }
        if !is_name(&request.instance) {
            return Err(AttachError::Instance);
        }
        if request.fleet_id != self.state.fleet().0 {
            return Err(AttachError::OtherFleet(self.state.fleet().0.clone()));
        }
        if request.generation > GENERATION_MAX {
            return Err(AttachError::Generation(request.generation));
        }
        let proxy = ProxyId(request.proxy_id);
        if let Some(link) = self.links.get(&proxy) {
            let lives = link.commands.is_some() && link.heard.elapsed() < LIVE;
            if link.instance != request.instance && lives && !link.status.draining {
                return Err(AttachError::Taken(proxy.0));
            }
        } else if self.links.len() >= PROXIES_MAX {
            return Err(AttachError::Full);
        }
        self.sessions += 1;
        let (commands, receiver) = watch::channel(None);
        let fresh = || {
            Arc::new(v1::ProxyStatus {
                proxy_id: proxy.0.clone(),
                build: request.build.clone(),
                instance: request.instance.clone(),
                ..v1::ProxyStatus::default()
            })
        };
        let status = match self.links.remove(&proxy) {
            Some(link) if link.instance == request.instance => link.status,
            Some(_) | None => fresh(),
        };
        let link = Link {
            session: self.sessions,
            instance: request.instance.clone(),
            build: request.build.clone(),
            root_version: request.root_version,
            commands: Some(commands),
            status,
            deaths: 0,
            changed: true,
            heard: Instant::now(),
        };
        tracing::info!(proxy = proxy.0, instance = request.instance, "proxy attached");
        self.links.insert(proxy.clone(), link);
        let (instance, generation) = (request.instance, request.generation);
        self.step(Input::Attached { proxy: proxy.clone(), instance, generation }).await;
        Ok(Attached { proxy, session: self.sessions, commands: receiver })
    }

    async fn detach(&mut self, proxy: &ProxyId, session: u64) {
        let Some(link) = self.links.get_mut(proxy).filter(|link| link.session == session) else { return };
        link.commands = None;
        link.changed = true;
        let instance = link.instance.clone();
        tracing::info!(proxy = proxy.0, goodbye = link.status.draining, "proxy's stream ended");
        self.step(Input::Detached { proxy: proxy.clone(), instance }).await;
    }

    async fn send_away(&mut self, proxy: &ProxyId, session: u64) {
        let Some(link) = self.links.get(proxy).filter(|link| link.session == session) else { return };
        let goodbye = v1::ProxyStatus { draining: true, ready: false, ..v1::ProxyStatus::clone(&link.status) };
        if let Err(error) = self.observe(goodbye).await {
            tracing::debug!(proxy = proxy.0, error = disk::chain(&error), "sent away without a goodbye");
        }
        self.detach(proxy, session).await;
        self.links.remove(proxy);
        self.machine.forget(proxy);
        self.changes += 1;
        self.heard = true;
    }

    async fn observe(&mut self, mut status: v1::ProxyStatus) -> Result<(), ObserveError> {
        let proxy = ProxyId(status.proxy_id.clone());
        let link = self.links.get_mut(&proxy).filter(|link| link.commands.is_some());
        let link = link.filter(|link| link.instance == status.instance).ok_or(ObserveError::NotAttached)?;
        let seen = Seen {
            instance: status.instance.clone(),
            ready: status.ready,
            draining: status.draining,
            active: convert::digest_or_none(&status.active_digest, "active_digest")?,
            prepared: convert::digest_or_none(&status.prepared_digest, "prepared_digest")?,
            refused: convert::digest_or_none(&status.refused_digest, "refused_digest")?,
        };
        status.counts.truncate(COUNTS_MAX);
        status.problems.truncate(PROBLEMS_MAX);
        status.build.clone_from(&link.build);
        link.changed |= facts(&link.status) != facts(&status);
        link.status = Arc::new(status);
        self.heard = true;
        link.heard = Instant::now();
        self.step(Input::Observed { proxy, seen }).await;
        Ok(())
    }

    async fn step(&mut self, input: Input) {
        let now = Now { mono_ms: self.mono_ms(Instant::now()), unix_ms: clock::unix_ms() };
        let actions = self.machine.step(now, input);
        if let Err(error) = self.ledger.ensure_generation(self.machine.generation()).await {
            // Proxies say their generation when they attach, so nothing is lost but a warning.
            self.refusals.alarm(disk::chain(&error));
        }
        for action in actions {
            match action {
                Action::Send { proxy, generation, target } => self.send(&proxy, generation.0, &target),
                Action::RollBack { digest, revision, cause, proxies } => {
                    let rollback = local_rollback(digest, revision.0, cause, &proxies);
                    tracing::error!(revision = revision.0, gate = rollback.gate, "took this agent's proxies back");
                    if let Err(error) = self.ledger.roll_back(rollback).await {
                        self.refusals.alarm(disk::chain(&error));
                    }
                }
            }
        }
    }

    fn send(&self, proxy: &ProxyId, generation: u64, target: &Target) {
        let Some(link) = self.links.get(proxy) else { return };
        let Some(commands) = &link.commands else { return };
        let releases = target.releases.iter().filter_map(|digest| self.state.release(digest));
        let newer_roots = self.state.roots.iter().filter(|root| root.document().version > link.root_version);
        let grants = self.state.candidate.iter().flat_map(|candidate| &candidate.grants);
        let grant = grants.into_iter().find(|grant| Some(grant.grant().sequence) == target.grant);
        let bytes = |digest: Option<Digest>| digest.map(Digest::to_vec).unwrap_or_default();
        let desired = v1::ProxyDesired {
            generation,
            roots: newer_roots.map(|root| root.envelope().into()).collect(),
            releases: releases.map(|release| release.envelope().into()).collect(),
            active_digest: bytes(target.active),
            last_good_digest: bytes(target.last_good),
            grant: grant.map(|grant| grant.envelope().into()),
            drain: false,
            rehearse_digest: bytes(target.rehearse),
            timestamp: None,
        };
        commands.send_replace(Some(Arc::new(desired)));
    }

    /// Shows the proxies to those who watch.
    fn publish(&mut self) {
        let known = self.links.len();
        self.links.retain(|proxy, link| link.commands.is_some() || self.machine.knows(proxy));
        let mut changed = self.links.len() != known;
        for (proxy, link) in &mut self.links {
            let deaths = self.machine.deaths(proxy);
            changed |= std::mem::take(&mut link.changed) || link.deaths != deaths;
            link.deaths = deaths;
        }
        let heard = std::mem::take(&mut self.heard);
        if !changed && !heard {
            return;
        }
        self.changes += u64::from(changed);
        let entries = self.links.values().map(|link| RosterEntry {
            status: Arc::clone(&link.status),
            attached: link.commands.is_some(),
            deaths: link.deaths,
            heard: link.heard,
        });
        self.roster.send_replace(Roster { proxies: entries.collect(), changes: self.changes });
    }

    fn mono_ms(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }
}

/// A status without what changes all the time.
fn facts(status: &v1::ProxyStatus) -> v1::ProxyStatus {
    v1::ProxyStatus { counts: Vec::new(), silent_ms: 0, ..status.clone() }
}

/// The ledger's state as far as the machine needs it.
fn desired(state: &State) -> Desired {
    let floor = &state.trust().document().plan_floor;
    let candidate = state.candidate.as_ref().and_then(|candidate| {
        let release = state.release(&candidate.digest)?.release();
        Some(Candidate {
            digest: candidate.digest,
            revision: release.revision,
            grants: candidate.grants.iter().map(|grant| grant.grant().clone()).collect(),
            paused: candidate.paused,
            at_once: release.change_class == ChangeClass::Revert,
            on_authority_loss: release.plan.on_authority_loss,
            cold_start: release.plan.cold_start_gate,
            bake_min_ms: u64::try_from(floor.bake_min.as_millis()).unwrap_or(u64::MAX),
            first_rank_max: floor.first_share_max_bp.map(rank_of_share),
        })
    });
    Desired {
        stable: state.stable,
        candidate,
        withdrawn: state.withdrawn.iter().copied().collect(),
        rolled_back: state.rolled_back.as_ref().and_then(|rollback| Digest::from_hex(&rollback.digest)),
        fresh_until_unix_ms: state.seen_timestamp().map(|timestamp| timestamp.expires_unix_ms),
        cordoned: state.cordoned.iter().cloned().map(ProxyId).collect(),
        grant_sequence_min: state.seen_timestamp().map_or(0, |timestamp| timestamp.grant_sequence_min),
    }
}

/// The rank at this share of all ranks, in hundredths of a percent.
fn rank_of_share(share_bp: u32) -> u64 {
    u64::try_from(u128::from(share_bp.min(10_000)) * u128::from(u64::MAX) / 10_000).unwrap_or(u64::MAX)
}

fn local_rollback(digest: Digest, revision: u64, cause: Cause, proxies: &[ProxyId]) -> LocalRollback {
    let nodes: Vec<String> = proxies.iter().map(|proxy| proxy.0.clone()).collect();
    let (gate, message) = match cause {
        Cause::Death => ("death", format!("{} ended without a goodbye on r{revision} twice", nodes.join(", "))),
        Cause::NotReady => {
            let seconds = READY_MS / 1000;
            ("not_ready", format!("{} was not ready on r{revision} for {seconds} s", nodes.join(", ")))
        }
        Cause::AuthorityLoss => ("authority_loss", "the authority is away and the plan says to go back".to_owned()),
        Cause::Operator => ("operator", "an operator took this agent's proxies back".to_owned()),
    };
    LocalRollback { digest: digest.to_string(), revision, gate: gate.to_owned(), message, nodes }
}

/// Between two looks at the clock.
const TICK: Duration = Duration::from_millis(250);
/// A proxy that was heard within this is alive.
const LIVE: Duration = Duration::from_secs(10);
/// Proxies of one agent.
const PROXIES_MAX: usize = 1024;
/// Above this a proxy's generation is not one that any agent gave.
const GENERATION_MAX: u64 = 1 << 53;
/// Revisions of which a proxy's counts are kept.
const COUNTS_MAX: usize = 8;
/// Problems of a refused revision that are passed on.
const PROBLEMS_MAX: usize = 100;
