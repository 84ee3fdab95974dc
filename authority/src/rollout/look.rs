//! One rollout's decisions: what it sees now, and what follows. Pure.
//!
//! A [`Look`] is what this process saw since the open phase began: evidence, the bake clock, who confirmed. It is not
//! stored; after a restart the open stage is looked at from the start.

use std::collections::BTreeSet;

use sealane_model::gate::{Judged, Outcome as GateOutcome, Verdict};
use sealane_model::ids::ProxyId;

use super::event::{Course, End, GateRecord, Reason, Stable, What};
use super::evidence::Side;
use super::fault::{self, Fault};
use super::machine::{Rollout, Timing, millis};
use super::observe::Roll;
use super::record::{Outcome, Phase, Record};
use super::{stage, verdict};
use crate::fleet::{Live, Proxy};

/// Why a stage passed when nobody said so.
pub(super) const EVERY_GATE_PASSED: &str = "every gate passed";

/// Nodes named in a reason.
pub(super) const NODES_MAX: usize = 20;

/// What a rollout can see.
pub(crate) struct World<'a> {
    pub(crate) now_ms: u64,
    pub(crate) live: &'a Live,
    pub(crate) timing: Timing,
    pub(crate) stable: Option<Stable>,
    /// For the next grant.
    pub(crate) sequence: u64,
    /// Judge on what is there now, whether or not an interval of evidence is over.
    pub(crate) at_once: bool,
}

/// What this process saw of the open phase.
#[derive(Clone, Debug, Default)]
pub(crate) struct Look {
    /// When the phase began, or the process.
    pub(super) since_ms: u64,
    /// Of the fleet's desired state that the phase is in.
    pub(super) version: u64,
    pub(super) cohort: Side,
    pub(super) control: Side,
    /// Proxies that must confirm and stay.
    pub(crate) required: BTreeSet<ProxyId>,
    /// Of those, the ones that were heard by this process.
    pub(super) seen: BTreeSet<ProxyId>,
    pub(super) confirmed: bool,
    pub(super) unconfirmed_since_ms: u64,
    /// When the newest interval was bad on both sides.
    pub(super) environment_ms: Option<u64>,
    /// The evidence of this phase has begun.
    pub(super) opened: bool,
    /// When the newest interval of evidence ended.
    pub(super) interval_ms: u64,
    /// Whether that one was after the bake, and how many proxies had refused.
    pub(super) interval_baked: bool,
    pub(super) interval_rejected: u64,
    pub(super) judged: Vec<Judged>,
    pub(super) last_ms: u64,
    /// Observed healthy time.
    pub(crate) baked_ms: u64,
    /// The bake clock runs, or ran.
    pub(crate) has_confirmed: bool,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) gates: Vec<GateRecord>,
    pub(crate) prepared: usize,
    pub(crate) active: usize,
    pub(crate) absent: BTreeSet<ProxyId>,
    /// One sentence on what it waits for.
    pub(crate) doing: String,
}

impl World<'_> {
    /// Proxies that were heard lately and are not leaving.
    pub(crate) fn alive(&self) -> BTreeSet<ProxyId> {
        let alive = |proxy: &Proxy| !proxy.draining && proxy.silent_ms(self.now_ms) <= millis(self.timing.live);
        self.live.proxies().filter(|(_, proxy)| alive(proxy)).map(|(id, _)| id.clone()).collect()
    }
}

impl Look {
    /// At the start of a phase, or of the process.
    pub(crate) fn begin(now_ms: u64, record: &Record, version: u64) -> Self {
        let required = match record.phase {
            Phase::Stage | Phase::FinalBake | Phase::RollingBack(_) => {
                record.stage().map(|stage| stage.opened.cohort.clone()).unwrap_or_default()
            }
            Phase::Queued | Phase::Preparing | Phase::Ended(_) => BTreeSet::new(),
        };
        Self {
            since_ms: now_ms,
            version,
            required,
            unconfirmed_since_ms: now_ms,
            last_ms: now_ms,
            interval_ms: now_ms,
            gates: record.gates.clone(),
            ..Self::default()
        }
    }
}

impl Rollout {
    /// What follows from what is seen now; `None`: nothing.
    pub(crate) fn next(&mut self, world: &World<'_>) -> Option<What> {
        match self.record.phase {
            Phase::Queued | Phase::Ended(_) => None,
            Phase::Preparing => self.prepare(world),
            Phase::Stage | Phase::FinalBake => self.watch(world),
            Phase::RollingBack(end) => self.go_back(world, end),
        }
    }

    fn prepare(&mut self, world: &World<'_>) -> Option<What> {
        let alive = world.alive();
        let ready = |proxy: &Proxy| [proxy.prepared, proxy.active].contains(&Some(self.subject.digest));
        let problems = self.problems(world);
        let known: Vec<(&ProxyId, Option<&Proxy>)> =
            self.record.set.iter().map(|id| (id, world.live.proxy(id))).collect();
        let silent_ms = |proxy: Option<&Proxy>| {
            let heard_ms = proxy.map_or(0, |proxy| proxy.heard_ms).max(self.look.since_ms);
            world.now_ms.saturating_sub(heard_ms)
        };
        let mut absent = BTreeSet::new();
        let mut pending: Vec<&str> = Vec::new();
        let mut prepared = 0;
        for (id, proxy) in &known {
            match proxy {
                Some(proxy) if ready(proxy) => prepared += 1,
                // Left with a goodbye while this process watched.
                None if self.look.seen.contains(*id) => {}
                Some(proxy) if proxy.draining => {}
                proxy if silent_ms(*proxy) >= millis(world.timing.absent) => {
                    absent.insert((*id).clone());
                }
                _ => pending.push(&id.0),
            }
        }
        let set_len = self.record.set.len();
        let doing = if alive.is_empty() {
            "waiting for a proxy".to_owned()
        } else if pending.is_empty() {
            format!("{prepared} of {set_len} proxies have prepared it")
        } else {
            format!("preparing: waiting for {}", verdict::names(&pending))
        };
        let is_pending = !pending.is_empty();
        let absent_names: Vec<String> = absent.iter().take(NODES_MAX).map(|id| id.0.clone()).collect();
        let absent_allowed = ((self.subject.plan.absent_max_percent / 100.0 * set_len as f64) as usize).max(1);
        let is_too_many = absent.len() > absent_allowed;
        self.look.seen.extend(known.iter().filter(|(_, proxy)| proxy.is_some()).map(|(id, _)| (*id).clone()));
        self.look.active = world.live.proxies().filter(|(_, one)| one.active == Some(self.subject.digest)).count();
        self.look.prepared = prepared;
        self.look.absent = absent;
        self.look.doing = doing;

        if !problems.is_empty() && !fault::is(Fault::IgnoresARefusal) {
            return Some(self.reject(problems));
        }
        if self.record.paused && !fault::is(Fault::IgnoresAPause) {
            return None;
        }
        if let Some(held) = &self.record.held {
            let returned = held.gate == "absent" && !is_too_many;
            return returned.then(|| What::Released { why: "enough proxies are back".to_owned() });
        }
        if alive.is_empty() {
            if self.record.course == Course::First {
                let waits = self.record.hold && !self.record.waived;
                return Some(if waits {
                    self.hold("hold", "held by the publisher", &[])
                } else {
                    self.complete(world)
                });
            }
            return self.past_deadline(world).then(|| self.hold("deadline", "no proxy is connected", &[]));
        }
        // A person may waive what is waited for, not a freeze.
        let frozen = self.frozen(world);
        if self.record.waived {
            self.look.doing = frozen.clone().unwrap_or_default();
            return if frozen.is_some() { None } else { self.open(world, &alive, 0, 0) };
        }
        if is_too_many {
            let message = format!(
                "{} of {set_len} proxies are absent: {}",
                self.look.absent.len(),
                verdict::names(&absent_names)
            );
            return Some(self.hold("absent", &message, &absent_names));
        }
        if is_pending {
            return self
                .past_deadline(world)
                .then(|| self.hold("deadline", "not every proxy has prepared it in time", &[]));
        }
        if prepared == 0 {
            // The set is empty or has left: begin with whoever is here now.
            return Some(What::Preparing { set: alive, stable: self.record.stable, course: self.record.course });
        }
        if self.record.hold {
            return Some(self.hold("hold", "held by the publisher", &[]));
        }
        if let Some(freeze) = frozen {
            self.look.doing = freeze;
            return None;
        }
        self.open(world, &alive, 0, 0)
    }

    /// A stage or the final bake.
    fn watch(&mut self, world: &World<'_>) -> Option<What> {
        let roll = self.observe(world);
        if let Some(reason) = self.local_rollback(world)
            && !fault::is(Fault::IgnoresALocalRollBack)
        {
            return Some(self.roll_back(reason, End::RolledBack));
        }
        if self.record.course != Course::Staged {
            return self.watch_straight(world, &roll);
        }
        self.weigh(world);
        if self.look.verdict == Some(Verdict::Fail)
            && let Some(failed) = self.look.judged.iter().find(|gate| gate.outcome == GateOutcome::Fail)
        {
            let reason = self.breached(failed);
            return Some(self.roll_back(reason, End::RolledBack));
        }
        if self.record.paused && !fault::is(Fault::IgnoresAPause) {
            return None;
        }
        if let Some(held) = self.record.held.clone() {
            return self.held(world, &held, &roll);
        }
        let has_passed = match self.record.phase {
            Phase::FinalBake => self.record.final_waived,
            _ => self.record.stage().is_some_and(|stage| stage.outcome == Outcome::Passed),
        };
        if has_passed {
            return self.after(world);
        }
        if !roll.silent.is_empty() {
            let message = format!("{} went silent: unknown is not healthy", verdict::names(&roll.silent));
            return Some(self.hold("silence", &message, &roll.silent));
        }
        if self.look.required.is_empty() {
            return Some(self.hold("canary_left", "every proxy of the stage has left", &[]));
        }
        if self.look.verdict == Some(Verdict::Environment) {
            let message = "proxies with and without the change breach the limit: it is not the change alone";
            return Some(self.hold("environment", message, &[]));
        }
        let unconfirmed_ms = world.now_ms.saturating_sub(self.look.unconfirmed_since_ms);
        if !self.look.confirmed && unconfirmed_ms >= millis(world.timing.unconfirmed) && !roll.lagging.is_empty() {
            let message = format!("{} did not take it on", verdict::names(&roll.lagging));
            return Some(self.hold("not_confirmed", &message, &roll.lagging));
        }
        if let Some(what) = self.cold_start(world) {
            return what;
        }
        let is_baked = self.look.baked_ms >= self.bake_ms() || fault::is(Fault::PassesBeforeItsBake);
        if self.look.confirmed && is_baked && self.passes() {
            return match self.record.phase {
                Phase::FinalBake => Some(self.complete(world)),
                _ => Some(What::StagePassed { why: EVERY_GATE_PASSED.to_owned(), gates: self.look.gates.clone() }),
            };
        }
        if self.past_deadline(world) { Some(self.on_no_data(&roll)) } else { None }
    }

    /// The first revision, and roll backs by a person: everyone at once, no gates.
    fn watch_straight(&mut self, world: &World<'_>, roll: &Roll) -> Option<What> {
        if self.record.paused {
            return None;
        }
        let alive = world.alive();
        let is_there = |id: &ProxyId| {
            world.live.proxy(id).is_some_and(|proxy| proxy.ready && proxy.active == Some(self.subject.digest))
        };
        let is_all = !alive.is_empty() && alive.iter().all(is_there);
        if self.record.held.is_some() {
            return is_all.then(|| What::Released { why: "every proxy confirmed".to_owned() });
        }
        let promoted = self.record.stage().is_some_and(|stage| stage.outcome == Outcome::Passed);
        let nobody = alive.is_empty() && self.record.course == Course::First;
        if is_all || promoted || nobody {
            return Some(self.complete(world));
        }
        let waited_ms = world.now_ms.saturating_sub(self.look.unconfirmed_since_ms);
        if waited_ms >= millis(world.timing.unconfirmed) {
            let late: Vec<String> = roll.lagging.iter().chain(&roll.silent).cloned().collect();
            let message = match late.as_slice() {
                [] => "no proxy is connected".to_owned(),
                some => format!("{} did not take it on", verdict::names(some)),
            };
            return Some(self.hold("not_confirmed", &message, &late));
        }
        None
    }

    /// While it is held: whether what it waits for came.
    fn held(&mut self, world: &World<'_>, held: &Reason, roll: &Roll) -> Option<What> {
        let released = |why: &str| Some(What::Released { why: why.to_owned() });
        match held.gate.as_str() {
            "silence" if roll.silent.is_empty() => released("they are back"),
            "not_confirmed" if self.look.confirmed => released("every proxy confirmed"),
            "environment" => {
                let calm_ms = world.now_ms.saturating_sub(self.look.environment_ms.unwrap_or(self.look.since_ms));
                if calm_ms >= millis(world.timing.environment_clear) {
                    return released("the other proxies are fine again");
                }
                None
            }
            // At the next look, not at once: the hold is to be seen.
            "canary_left" if world.now_ms > self.record.changed_ms => {
                let opened = &self.record.stage()?.opened;
                let (wave, stage) = (opened.wave, opened.stage);
                let what = self.open(world, &world.alive(), wave, stage)?;
                matches!(&what, What::StageOpened(again) if again.wave == wave).then_some(what)
            }
            _ => None,
        }
    }

    /// The cold-start gate of the first stage. `None`: it has nothing to say; `Some(None)`: it waits.
    fn cold_start(&mut self, world: &World<'_>) -> Option<Option<What>> {
        let is_first = self.record.phase == Phase::Stage && self.record.stages.len() == 1;
        if !self.subject.plan.cold_start_gate || !is_first || fault::is(Fault::SkipsTheColdStart) {
            return None;
        }
        let candidate = Some(self.subject.digest);
        let rehearsed = |id: &&ProxyId| world.live.proxy(id).is_some_and(|proxy| proxy.rehearsed == candidate);
        let tried: Vec<&ProxyId> = self.look.required.iter().filter(rehearsed).collect();
        let problem = |id: &ProxyId| {
            world.live.proxy(id).map(|proxy| proxy.rehearsal_problem.clone()).filter(|problem| !problem.is_empty())
        };
        if let Some((id, problem)) = tried.iter().find_map(|id| Some((*id, problem(id)?))) {
            let message = format!("{id} would not start from disk{}: {problem}", self.place());
            let reason = self.reason("cold_start", &message, std::slice::from_ref(&id.0));
            return Some(Some(self.roll_back(reason, End::RolledBack)));
        }
        if !tried.is_empty() {
            return None;
        }
        let is_baked = self.look.confirmed && self.look.baked_ms >= self.bake_ms();
        if is_baked {
            self.look.doing = "baked; waiting for a canary to start from disk".to_owned();
        }
        if self.past_deadline(world) {
            return Some(Some(self.hold("cold_start", "no canary said that it would start from disk", &[])));
        }
        is_baked.then_some(None)
    }

    /// What comes after the stage that passed.
    fn after(&mut self, world: &World<'_>) -> Option<What> {
        if self.record.phase == Phase::FinalBake {
            return Some(self.complete(world));
        }
        if let Some(freeze) = self.frozen(world) {
            self.look.doing = freeze;
            return None;
        }
        let opened = &self.record.stage()?.opened;
        let skipped = usize::from(fault::is(Fault::SkipsAStage));
        let next = opened.merged.last().copied().unwrap_or(opened.stage) + 1 + skipped;
        let (wave, stage) =
            if next < self.subject.plan.stages.len() { (opened.wave, next) } else { (opened.wave + 1, 0) };
        let alive = world.alive();
        let here = |id: &ProxyId| world.live.proxy(id).is_some_and(|one| self.subject.wave_of(&one.region) == wave);
        if stage > 0 && !alive.iter().any(here) && !self.past_deadline(world) {
            // Wait for them rather than leave the rest of the wave out; after that they come with the completion.
            self.look.doing =
                format!("waiting for the proxies of wave {} to come back", self.subject.plan.waves[wave].name);
            return None;
        }
        if let Some(what) = self.open(world, &alive, wave, stage) {
            return Some(what);
        }
        if self.subject.plan.final_bake.is_zero() { Some(self.complete(world)) } else { Some(What::FinalBake) }
    }

    /// What a freeze says that holds now and counts for this change. Earlier content again, and a change that its
    /// publisher pushes through an incident, do not ask.
    fn frozen(&self, world: &World<'_>) -> Option<String> {
        if self.record.course == Course::Revert || self.record.override_freeze || fault::is(Fault::IgnoresAFreeze) {
            return None;
        }
        let freeze = world.live.frozen(world.now_ms)?;
        let left = verdict::duration(freeze.until_ms.saturating_sub(world.now_ms));
        Some(format!("frozen for {left} by {}: {}", freeze.id, freeze.reason))
    }

    fn open(&self, world: &World<'_>, alive: &BTreeSet<ProxyId>, wave: usize, from: usize) -> Option<What> {
        stage::open(&self.subject, &self.record, world.live, alive, wave, from, world.sequence).map(What::StageOpened)
    }

    fn go_back(&mut self, world: &World<'_>, end: End) -> Option<What> {
        let candidate = Some(self.subject.digest);
        let stable = self.record.stable.map(|stable| stable.digest);
        let mut missing = BTreeSet::new();
        if let Some(stable) = stable {
            for (id, proxy) in world.live.proxies() {
                let was_granted = self.covers(world, id, proxy);
                self.look.seen.insert(id.clone());
                let is_back = proxy.heard_ms >= self.look.since_ms && proxy.active == Some(stable) && proxy.ready;
                if proxy.active == candidate || was_granted && !proxy.draining && !is_back {
                    missing.insert(id.clone());
                }
            }
            for id in &self.look.required {
                if world.live.proxy(id).is_none() && !self.look.seen.contains(id) {
                    missing.insert(id.clone());
                }
            }
        }
        self.look.active = world.live.proxies().filter(|(_, one)| one.active == candidate).count();
        let names: Vec<&str> = missing.iter().map(|id| id.0.as_str()).collect();
        self.look.doing = format!("going back: waiting for {}", verdict::names(&names));
        let waited_ms = world.now_ms.saturating_sub(self.look.since_ms);
        if !missing.is_empty() && waited_ms < millis(world.timing.roll_back) {
            return None;
        }
        let (words, end) = match (end, missing.is_empty()) {
            (End::RolledBack, true) => ("ROLLED BACK", End::RolledBack),
            (End::RolledBack | End::RolledBackPartial, _) => ("ROLLED BACK", End::RolledBackPartial),
            (End::Aborted, _) => ("ABORTED", End::Aborted),
            (End::Superseded, _) => ("SUPERSEDED", End::Superseded),
        };
        let took_ms = world.now_ms.saturating_sub(self.record.started_ms);
        let revision = self.subject.revision.0;
        let back_to = self.record.stable.map(|stable| stable.revision);
        let reason = self.record.reason.clone().unwrap_or_default();
        let line = verdict::ended(words, revision, back_to, took_ms, &reason, &names);
        let (proxies, active) = self.totals(world);
        Some(What::Ended { end, missing, proxies, active, line })
    }
}
