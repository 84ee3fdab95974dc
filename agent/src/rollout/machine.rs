//! The local rollout, pure: `step(now, input) -> actions`. No I/O, no sleep, no randomness.
//!
//! It decides for each proxy of this agent whether it runs the stable revision or the candidate. It does not verify
//! (what comes in was accepted by the ledger) and it never widens beyond a grant. Narrowing is its own: a withdrawn
//! candidate, a process that dies on it twice, one that is not ready within 30 s.
//!
//! Invariants, checked after every step in debug builds: a proxy is told the stable revision or the candidate; the
//! candidate only under a grant that covers it, never when it was withdrawn or rolled back; generations only grow.

use std::collections::{BTreeMap, BTreeSet};

use sealane_model::cohort;
use sealane_model::grant::Grant;
use sealane_model::ids::{Digest, Generation, ProxyId, Revision};
use sealane_model::plan::OnAuthorityLoss;

use self::fault::Fault;
use self::proxy::Proxy;

mod fault;
mod proxy;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

/// Two clocks: one that only grows, for waiting, and the wall's, for expiry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Now {
    pub(crate) mono_ms: u64,
    pub(crate) unix_ms: i64,
}

/// What the fleet wants of this agent's proxies: the ledger's state as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Desired {
    pub(crate) stable: Option<Digest>,
    pub(crate) candidate: Option<Candidate>,
    pub(crate) withdrawn: BTreeSet<Digest>,
    /// Release digest of a candidate that this agent took back by itself.
    pub(crate) rolled_back: Option<Digest>,
    /// After this the timestamp document is stale: nothing widens. `None`: there is none.
    pub(crate) fresh_until_unix_ms: Option<i64>,
    pub(crate) grant_sequence_min: u64,
    /// They sit out every stage but the last.
    pub(crate) cordoned: BTreeSet<ProxyId>,
}

/// The revision under way.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) digest: Digest,
    pub(crate) revision: Revision,
    /// By sequence.
    pub(crate) grants: Vec<Grant>,
    pub(crate) paused: bool,
    /// A revert: no local first proxy.
    pub(crate) at_once: bool,
    pub(crate) on_authority_loss: OnAuthorityLoss,
    /// One proxy starts it from disk once more before the fleet goes on.
    pub(crate) cold_start: bool,
    /// Of the plan floor: between the grants of two stages.
    pub(crate) bake_min_ms: u64,
    /// Of the plan floor: highest rank in the first stage, unless the grant names the proxy.
    pub(crate) first_rank_max: Option<u64>,
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// The ledger changed.
    Desired(Desired),
    /// The authority was heard last at this time; `None`: never since the start.
    Authority(Option<u64>),
    /// A proxy opened its stream. It is told nothing before its first observation.
    Attached { proxy: ProxyId, instance: String, generation: u64 },
    /// Its stream ended.
    Detached { proxy: ProxyId, instance: String },
    /// What a proxy says of itself.
    Observed { proxy: ProxyId, seen: Seen },
    /// A person takes this agent's proxies back.
    RollBack,
    /// Time passed.
    Tick,
}

/// What a proxy says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) instance: String,
    pub(crate) ready: bool,
    pub(crate) draining: bool,
    pub(crate) active: Option<Digest>,
    pub(crate) prepared: Option<Digest>,
    pub(crate) refused: Option<Digest>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Tell a proxy what to hold and run.
    Send { proxy: ProxyId, generation: Generation, target: Target },
    /// This agent takes the candidate back: remember it and report it.
    RollBack { digest: Digest, revision: Revision, cause: Cause, proxies: Vec<ProxyId> },
}

/// What a proxy should hold and run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    /// The stable revision, then the candidate.
    pub(crate) releases: Vec<Digest>,
    /// `None`: what it runs now.
    pub(crate) active: Option<Digest>,
    /// `None`: unchanged.
    pub(crate) last_good: Option<Digest>,
    /// Sequence of the grant that allows `active`.
    pub(crate) grant: Option<u64>,
    /// To start from disk once more.
    pub(crate) rehearse: Option<Digest>,
}

/// Why this agent took a candidate back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A process ended without a goodbye while it ran the candidate, twice.
    Death,
    /// Not ready within [`READY_MS`] of its activation.
    NotReady,
    /// The authority is away and the plan says so.
    AuthorityLoss,
    /// A person at this agent.
    Operator,
}

/// The local rollout.
#[derive(Debug)]
pub(crate) struct Machine {
    region: String,
    desired: Desired,
    proxies: BTreeMap<ProxyId, Proxy>,
    generation: u64,
    started_ms: u64,
    heard_ms: Option<u64>,
    /// When each grant of the candidate, by sequence, was first seen here.
    grants_seen_ms: BTreeMap<u64, u64>,
}

impl Machine {
    /// A machine that goes on above `generation`.
    pub(crate) fn new(region: &str, generation: u64, now: Now) -> Self {
        Self {
            region: region.to_owned(),
            desired: Desired::default(),
            proxies: BTreeMap::new(),
            generation,
            started_ms: now.mono_ms,
            heard_ms: None,
            grants_seen_ms: BTreeMap::new(),
        }
    }

    /// Takes one input in and says what to do.
    pub(crate) fn step(&mut self, now: Now, input: Input) -> Vec<Action> {
        let asked = matches!(input, Input::RollBack);
        self.take_in(now, input);
        let mut actions = Vec::new();
        actions.extend(self.narrow(now, asked));
        self.widen(now);
        self.send(now, &mut actions);
        self.check_invariants();
        actions
    }

    /// Newest generation that was used.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Goes on above `generation`.
    pub(crate) fn raise_generation(&mut self, generation: u64) {
        self.generation = self.generation.max(generation);
    }

    /// Processes of `proxy` that died on the candidate since it was granted.
    pub(crate) fn deaths(&self, proxy: &ProxyId) -> u32 {
        self.proxies.get(proxy).map_or(0, |proxy| proxy.deaths)
    }

    /// One that was sent away is not waited for, and its end says nothing about the candidate.
    pub(crate) fn forget(&mut self, proxy: &ProxyId) {
        self.proxies.remove(proxy);
    }

    /// Proxies that are known and not forgotten yet.
    pub(crate) fn knows(&self, proxy: &ProxyId) -> bool {
        self.proxies.contains_key(proxy)
    }

    fn take_in(&mut self, now: Now, input: Input) {
        let exposed_to = self.candidate().map(|candidate| candidate.digest);
        match input {
            Input::Desired(desired) => self.take_desired(now, desired),
            Input::Authority(heard_ms) => self.heard_ms = heard_ms,
            Input::Attached { proxy, instance, generation } => {
                self.raise_generation(generation);
                self.proxies.entry(proxy).or_default().attach(instance, exposed_to);
            }
            Input::Detached { proxy, instance } => {
                if let Some(proxy) = self.proxies.get_mut(&proxy).filter(|proxy| proxy.instance == instance) {
                    proxy.detach(now.mono_ms);
                }
            }
            Input::Observed { proxy, seen } => {
                if let Some(proxy) = self.proxies.get_mut(&proxy).filter(|proxy| proxy.instance == seen.instance) {
                    proxy.observe(now.mono_ms, seen, exposed_to);
                }
            }
            Input::RollBack | Input::Tick => {}
        }
        let exposed_to = self.candidate().map(|candidate| candidate.digest);
        self.proxies.retain(|_, proxy| {
            proxy.judge_absence(now.mono_ms, exposed_to);
            !proxy.is_forgotten(now.mono_ms)
        });
    }

    fn take_desired(&mut self, now: Now, mut desired: Desired) {
        let old = self.desired.candidate.as_ref().map(|candidate| candidate.digest);
        let new = desired.candidate.as_ref().map(|candidate| candidate.digest);
        if old == new {
            // What was decided here holds even if it could not be made durable.
            desired.rolled_back = desired.rolled_back.or(self.desired.rolled_back);
        } else {
            self.proxies.values_mut().for_each(Proxy::forget_candidate);
            self.grants_seen_ms.clear();
        }
        for grant in desired.candidate.iter().flat_map(|candidate| &candidate.grants) {
            self.grants_seen_ms.entry(grant.sequence).or_insert(now.mono_ms);
        }
        self.desired = desired;
    }

    /// The candidate, if proxies may run it at all.
    fn candidate(&self) -> Option<&Candidate> {
        self.desired.candidate.as_ref().filter(|candidate| {
            Some(candidate.digest) != self.desired.stable
                && Some(candidate.digest) != self.desired.rolled_back
                && (!self.desired.withdrawn.contains(&candidate.digest) || fault::is(Fault::ForgetsWhatWasWithdrawn))
        })
    }

    /// The hard guards: takes the candidate back here and now.
    fn narrow(&mut self, now: Now, asked: bool) -> Option<Action> {
        let candidate = self.candidate()?;
        let (digest, revision) = (candidate.digest, candidate.revision);
        let named = |guilty: &dyn Fn(&Proxy) -> bool| -> Vec<ProxyId> {
            self.proxies.iter().filter(|(_, proxy)| guilty(proxy)).map(|(id, _)| id.clone()).collect()
        };
        let dead = named(&|proxy| proxy.deaths >= DEATHS_MAX);
        let unready = named(&|proxy| proxy.unready_for(now.mono_ms) >= READY_MS);
        let moved = named(&|proxy| proxy.moved.is_some());
        let lost = candidate.on_authority_loss == OnAuthorityLoss::Rollback
            && !moved.is_empty()
            && now.mono_ms.saturating_sub(self.heard_ms.unwrap_or(self.started_ms)) >= AUTHORITY_LOSS_MS;
        let (cause, proxies) = match () {
            () if !dead.is_empty() => (Cause::Death, dead),
            () if !unready.is_empty() => (Cause::NotReady, unready),
            () if asked => (Cause::Operator, moved),
            () if lost => (Cause::AuthorityLoss, moved),
            () => return None,
        };
        self.desired.rolled_back = Some(digest).filter(|_| !fault::is(Fault::ForgetsItsRollBack));
        Some(Action::RollBack { digest, revision, cause, proxies })
    }

    /// Moves the proxies that may move now to the candidate.
    fn widen(&mut self, now: Now) {
        let Some(candidate) = self.candidate() else {
            self.proxies.values_mut().for_each(|proxy| proxy.moved = None);
            return;
        };
        let digest = candidate.digest;
        let stays: Vec<(ProxyId, Option<u64>)> =
            self.proxies.iter().map(|(id, proxy)| (id.clone(), self.stays_moved(candidate, id, proxy))).collect();
        let frozen = self.is_frozen(now, candidate);
        let at_once = candidate.at_once || self.desired.stable.is_none();
        let grants = if frozen { Vec::new() } else { self.usable_grants(now, candidate) };
        let covered = self.covered_by(candidate, &grants);
        for (id, moved) in stays {
            self.proxies.get_mut(&id).expect("collected above").moved = moved;
        }
        for (sequence, members) in covered {
            for id in self.next_of_stage(&digest, &members, at_once) {
                self.proxies.get_mut(&id).expect("a member is a known proxy").moved = Some(sequence);
            }
        }
    }

    /// A proxy that runs the candidate stays on it while a grant covers it, expired or not: cohorts only grow.
    fn stays_moved(&self, candidate: &Candidate, id: &ProxyId, proxy: &Proxy) -> Option<u64> {
        if proxy.refused == Some(candidate.digest) {
            return None;
        }
        if fault::is(Fault::NeedsNoGrant) {
            return Some(0);
        }
        let runs = proxy.known && proxy.active == Some(candidate.digest);
        let holds = |sequence: &u64| candidate.grants.iter().any(|grant| grant.sequence == *sequence);
        proxy.moved.filter(holds).or_else(|| {
            let grant = candidate.grants.iter().find(|grant| runs && grant.covers(id, &self.region))?;
            Some(grant.sequence)
        })
    }

    /// Nothing new is activated.
    fn is_frozen(&self, now: Now, candidate: &Candidate) -> bool {
        let lost = self.heard_ms.is_none_or(|heard| now.mono_ms.saturating_sub(heard) >= AUTHORITY_LOSS_MS);
        if fault::is(Fault::WidensWhileFrozen) {
            return false;
        }
        if candidate.paused {
            return true;
        }
        if lost {
            return candidate.on_authority_loss != OnAuthorityLoss::Continue;
        }
        self.desired.fresh_until_unix_ms.is_none_or(|until| now.unix_ms > until)
    }

    /// Grants that allow an activation now.
    fn usable_grants<'a>(&self, now: Now, candidate: &'a Candidate) -> Vec<&'a Grant> {
        let mut usable: Vec<&Grant> = Vec::new();
        let mut stage_before: Option<&Grant> = None;
        for grant in &candidate.grants {
            let next_stage = stage_before.is_some_and(|before| (before.wave, before.stage) < (grant.wave, grant.stage));
            let opened_ms = stage_before.and_then(|before| self.grants_seen_ms.get(&before.sequence)).copied();
            let baked = opened_ms.is_none_or(|at| now.mono_ms.saturating_sub(at) >= candidate.bake_min_ms);
            if next_stage && !baked && !fault::is(Fault::IgnoresThePlanFloor) {
                break; // the plan floor: a stage not before the one before has baked
            }
            if stage_before.is_none() || next_stage {
                stage_before = Some(grant);
            }
            if !grant.is_expired(now.unix_ms) && grant.sequence >= self.desired.grant_sequence_min {
                usable.push(grant);
            }
        }
        usable
    }

    /// Proxies by the first grant that covers them.
    fn covered_by(&self, candidate: &Candidate, grants: &[&Grant]) -> BTreeMap<u64, Vec<ProxyId>> {
        let mut covered: BTreeMap<u64, Vec<ProxyId>> = BTreeMap::new();
        let first = candidate.grants.first().map(|grant| (grant.wave, grant.stage));
        for id in self.proxies.keys() {
            let rank = cohort::rank(&candidate.digest, id);
            let too_early = |grant: &Grant| {
                Some((grant.wave, grant.stage)) == first
                    && !candidate.at_once
                    && self.desired.stable.is_some()
                    && candidate.first_rank_max.is_some_and(|max| rank > max)
                    && grant.proxy.as_ref() != Some(id)
            };
            let cordoned = self.desired.cordoned.contains(id);
            let sits_out = |grant: &Grant| cordoned && grant.cut != u64::MAX;
            let covers = |grant: &Grant| grant.covers(id, &self.region) && !too_early(grant) && !sits_out(grant);
            let grant = grants.iter().find(|grant| covers(grant));
            if let Some(grant) = grant {
                covered.entry(grant.sequence).or_default().push(id.clone());
            }
        }
        covered
    }

    /// Who of a stage's local members may go now: first the one with the lowest rank, and the others once one of them
    /// has confirmed and was ready in [`SETTLED_REPORTS`] reports.
    fn next_of_stage(&self, digest: &Digest, members: &[ProxyId], at_once: bool) -> Vec<ProxyId> {
        let of = |id: &ProxyId| &self.proxies[id];
        let may_go = |id: &&ProxyId| of(id).moved.is_none() && of(id).can_activate(digest);
        let settled = members.iter().any(|id| of(id).is_settled(digest));
        if at_once || settled || fault::is(Fault::MovesAllAtOnce) {
            return members.iter().filter(may_go).cloned().collect();
        }
        if members.iter().any(|id| of(id).moved.is_some() && !of(id).is_gone()) {
            return Vec::new();
        }
        let first = members.iter().filter(may_go).min_by_key(|id| cohort::rank(digest, id));
        first.cloned().into_iter().collect()
    }

    /// Sends each proxy its target where that changed.
    fn send(&mut self, now: Now, actions: &mut Vec<Action>) {
        let candidate = self.candidate().map(|candidate| candidate.digest);
        let stable = self.desired.stable;
        let rehearser = self.rehearser();
        for (id, proxy) in self.proxies.iter_mut().filter(|(_, proxy)| proxy.attached && proxy.known) {
            let moved = candidate.filter(|_| proxy.moved.is_some());
            let mut releases: Vec<Digest> = stable.into_iter().collect();
            releases.extend(candidate);
            let target = Target {
                releases,
                active: moved.or(stable),
                last_good: stable,
                grant: moved.and(proxy.moved),
                rehearse: moved.filter(|_| rehearser.as_ref() == Some(id)),
            };
            if proxy.sent.as_ref() != Some(&target) {
                self.generation += u64::from(!fault::is(Fault::RepeatsAGeneration));
                proxy.told(now.mono_ms, target.clone(), candidate);
                let generation = Generation(self.generation);
                actions.push(Action::Send { proxy: id.clone(), generation, target });
            }
        }
    }

    /// Who starts the candidate from disk once more: of those that run it, the one with the lowest rank.
    fn rehearser(&self) -> Option<ProxyId> {
        let digest = self.candidate().filter(|candidate| candidate.cold_start)?.digest;
        let runs = |proxy: &Proxy| proxy.moved.is_some() && proxy.known && proxy.active == Some(digest);
        let running = self.proxies.iter().filter(|(_, proxy)| runs(proxy));
        running.map(|(id, _)| id).min_by_key(|id| cohort::rank(&digest, id)).cloned()
    }

    fn check_invariants(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        let candidate = self.candidate();
        for (id, proxy) in &self.proxies {
            let Some(active) =
                proxy.sent.as_ref().filter(|_| proxy.attached && proxy.known).and_then(|sent| sent.active)
            else {
                continue;
            };
            if Some(active) == self.desired.stable {
                continue;
            }
            let candidate = candidate.expect("a proxy is told the stable revision or the candidate");
            assert_eq!(active, candidate.digest, "a proxy is told the stable revision or the candidate");
            assert!(
                candidate.grants.iter().any(|grant| grant.covers(id, &self.region)),
                "the candidate needs a grant that covers the proxy"
            );
        }
    }
}

/// A process may die on the candidate this often, less one.
const DEATHS_MAX: u32 = 2;
/// From the command to activate until ready, at most.
pub(crate) const READY_MS: u64 = 30_000;
/// The authority counts as away: three beacons were missed.
pub(crate) const AUTHORITY_LOSS_MS: u64 = 30_000;
/// Ready reports in a row, [`proxy::REPORT_GAP_MS`] apart, after which a stage's first local proxy counts as settled.
const SETTLED_REPORTS: u32 = 2;
