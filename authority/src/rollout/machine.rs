//! The fleet's rollouts: one at a time, the others wait. **Pure**: no I/O, no clock, no randomness.
//!
//! [`Machine::step`] takes the time, the live view and one input, and gives actions. A driver makes the actions durable
//! *before* anybody learns of them; when it cannot, it throws the machine away and makes a new one from the stored
//! events, exactly as after a restart. So the machine never has to take anything back.
//!
//! Invariants (checked after every step in debug builds):
//! - at most one rollout is under way; it runs the candidate on granted proxies and stable elsewhere (R1);
//! - a stage passes only after its bake and a `Pass`, or on a person's word (R2: [`super::look`]);
//! - grant sequences only grow, a wave's cut never shrinks, a withdrawn digest is never granted again.
//!
//! Source of the rules: design page "Control plane", Rollouts.

use std::collections::btree_map;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use sealane_model::gate::{Case, Entry};
use sealane_model::ids::{Digest, Epoch, Revision};
use sealane_model::release::ChangeClass;

use super::event::{Course, End, Event, Reason, Stable, StageOpened, What};
use super::fault::{self, Fault};
use super::look::{Look, World};
use super::record::{Phase, Record};
use super::subject::Subject;
use super::verdict;
use crate::fleet::Live;

mod command;

pub(crate) use command::{Command, Refusal, Verb};

/// Times of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A proxy heard within this is live: it belongs to a prepare set and counts for a cut.
    pub live: Duration,
    /// A proxy of the prepare set that is silent for this long is absent.
    pub absent: Duration,
    /// From a grant until its proxies should have confirmed; after that the rollout says whom it waits for.
    pub confirm: Duration,
    /// Oldest report that still lets the bake clock run.
    pub fresh: Duration,
    /// A cohort proxy that is silent for this long holds the rollout.
    pub silence: Duration,
    /// A cohort proxy that reports but does not serve the candidate for this long holds the rollout.
    pub unconfirmed: Duration,
    /// From a roll back until who is still missing is listed and not waited for.
    pub roll_back: Duration,
    /// After a restart, until decisions are taken: the reports must come in first.
    pub settle: Duration,
    /// From the last breach on both sides until a rollout held for the environment goes on.
    pub environment_clear: Duration,
    /// From the signing of a grant to its expiry; longer than any rollout may stay open.
    pub grant_lifetime: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            live: Duration::from_secs(30),
            absent: Duration::from_secs(60),
            confirm: Duration::from_secs(15),
            fresh: Duration::from_secs(5),
            silence: Duration::from_secs(60),
            unconfirmed: Duration::from_secs(60),
            roll_back: Duration::from_secs(60),
            settle: Duration::from_secs(5),
            environment_clear: Duration::from_secs(10),
            grant_lifetime: Duration::from_secs(30 * 86_400),
        }
    }
}

/// Digests that are remembered as withdrawn; older ones are never offered again anyway.
pub(crate) const WITHDRAWN_MAX: usize = 64;
/// Rollouts that ended and are still at hand; older ones are in the store.
pub(crate) const ENDED_MAX: usize = 64;
/// Transitions in one step; a rollout of 20 stages over 100 waves that are all empty stays far below.
const TRANSITIONS_MAX: usize = 64;

/// The fleet's rollouts.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    timing: Timing,
    stable: Option<Stable>,
    /// Oldest first.
    withdrawn: VecDeque<Digest>,
    /// Not ended, by revision.
    rollouts: BTreeMap<u64, Rollout>,
    /// Ended in this process, oldest first.
    ended: VecDeque<Rollout>,
    /// Of the newest grant.
    sequence: u64,
    /// Grants below are void.
    sequence_min: u64,
    /// Events of all rollouts.
    version: u64,
    /// No decisions before this.
    settled_ms: u64,
    /// Evidence that is to be stored: revision, its number, the entry.
    evidence: Vec<(u64, u64, Entry)>,
}

/// One rollout.
#[derive(Clone, Debug)]
pub(crate) struct Rollout {
    pub(crate) subject: Arc<Subject>,
    /// The fold of its events.
    pub(crate) record: Record,
    /// The fold of its evidence.
    pub(crate) case: Case,
    /// Entries of evidence so far.
    pub(crate) entries: u64,
    /// Evidence that is not handed on yet.
    pub(super) testimony: Vec<Entry>,
    /// What this process saw of it; a restart begins it anew.
    pub(crate) look: Look,
}

/// What the store remembers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remembered {
    pub(crate) stable: Option<Stable>,
    /// Newest first.
    pub(crate) withdrawn: Vec<Digest>,
    /// Rollouts that have not ended, with their events and evidence.
    pub(crate) open: Vec<(Arc<Subject>, Vec<Event>, Vec<Entry>)>,
    pub(crate) sequence: u64,
    pub(crate) sequence_min: u64,
    /// Events of all rollouts.
    pub(crate) version: u64,
}

/// What happens to the machine.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// Time went by, or a report came in.
    Tick,
    /// A revision was published. Its first event, `queued`, is stored already.
    Offer { subject: Arc<Subject>, queued: Event },
    /// A person steers.
    Command(Command),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Store it, as the rollout's event number `seq`.
    Record { revision: u64, seq: u64, event: Event },
    /// Store it, as the rollout's evidence number `seq`.
    Evidence { revision: u64, seq: u64, entry: Entry },
    /// Sign it, and store it in the same transaction.
    Grant(GrantOrder),
}

/// What a grant is to say.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GrantOrder {
    pub(crate) epoch: Epoch,
    pub(crate) revision: Revision,
    pub(crate) digest: Digest,
    pub(crate) opened: StageOpened,
    pub(crate) not_after_ms: u64,
}

/// What one step has at hand.
struct Step<'a> {
    now_ms: u64,
    live: &'a Live,
    out: Vec<Action>,
}

impl Machine {
    /// From what the store remembers. Decisions wait until the fleet had time to report, unless there is no past.
    pub(crate) fn remember(timing: Timing, remembered: Remembered, now_ms: u64) -> Self {
        let settle = if remembered.version == 0 { Duration::ZERO } else { timing.settle };
        let mut withdrawn: VecDeque<Digest> = remembered.withdrawn.into_iter().rev().collect();
        while withdrawn.len() > WITHDRAWN_MAX {
            withdrawn.pop_front();
        }
        if fault::is(Fault::ForgetsWhatWasTakenBack) {
            withdrawn.clear();
        }
        let settled_ms = now_ms + millis(settle);
        let open = remembered.open.into_iter().map(|(subject, events, entries)| {
            let record = Record::fold(&events);
            let mut rollout = Rollout::new(subject, record, settled_ms);
            rollout.remember_evidence(&entries);
            (rollout.subject.revision.0, rollout)
        });
        Self {
            timing,
            stable: remembered.stable,
            withdrawn,
            rollouts: open.collect(),
            ended: VecDeque::new(),
            sequence: remembered.sequence,
            sequence_min: remembered.sequence_min,
            version: remembered.version,
            settled_ms,
            evidence: Vec::new(),
        }
    }

    /// Takes one input in and decides whatever is due.
    pub(crate) fn step(&mut self, now_ms: u64, live: &Live, input: Input) -> Result<Vec<Action>, Refusal> {
        let mut step = Step { now_ms, live, out: Vec::new() };
        match input {
            Input::Tick => {}
            Input::Offer { subject, queued } => {
                let revision = subject.revision.0;
                // Else offered again, after a restart that had read it from the store already.
                if let btree_map::Entry::Vacant(vacant) = self.rollouts.entry(revision) {
                    vacant.insert(Rollout::new(subject, Record::new(), now_ms));
                    self.fold(revision, &queued, now_ms);
                }
            }
            Input::Command(command) => {
                // Precedence: a guard that fails in this very moment goes before what a person asks for.
                self.guard(&mut step);
                // Where the guard has acted, the answer to the command is the state that followed.
                if let Err(refusal) = self.command(&mut step, &command)
                    && step.out.is_empty()
                {
                    return Err(refusal);
                }
            }
        }
        self.advance(&mut step);
        #[cfg(debug_assertions)]
        self.check_invariants();
        let evidence = self.evidence.drain(..);
        step.out.extend(evidence.map(|(revision, seq, entry)| Action::Evidence { revision, seq, entry }));
        Ok(step.out)
    }

    fn advance(&mut self, step: &mut Step<'_>) {
        if step.now_ms < self.settled_ms {
            return;
        }
        for _ in 0..TRANSITIONS_MAX {
            let next = match self.under_way() {
                None => self.begin_next(step),
                Some(revision) => self.make_way(revision).or_else(|| self.look(revision, step, false)),
            };
            let Some((revision, what)) = next else { return };
            self.write(step, revision, what);
        }
    }

    /// Starts the oldest rollout that waits.
    fn begin_next(&self, step: &Step<'_>) -> Option<(u64, What)> {
        let (revision, rollout) = self.rollouts.iter().next()?;
        Some((*revision, self.preparing(rollout, step)))
    }

    fn preparing(&self, rollout: &Rollout, step: &Step<'_>) -> What {
        let course = match (rollout.subject.class, self.stable) {
            (_, None) => Course::First,
            (ChangeClass::Revert, Some(_)) => Course::Revert,
            (ChangeClass::Standard | ChangeClass::Expedited | ChangeClass::Sandbox, Some(_)) => Course::Staged,
        };
        What::Preparing { set: self.world(step).alive(), stable: self.stable, course }
    }

    /// When a later revision supersedes: those that wait before it end, then the one under way goes back.
    fn make_way(&self, under_way: u64) -> Option<(u64, What)> {
        let newest = self.rollouts.iter().rev().find(|(_, rollout)| rollout.record.supersede && rollout.waits())?.0;
        let reason =
            Reason { gate: "superseded".to_owned(), message: format!("superseded by r{newest}"), ..Reason::default() };
        for (revision, rollout) in self.rollouts.range(..newest) {
            if rollout.waits() {
                return Some((*revision, never_begun(*revision, End::Superseded, &reason)));
            }
        }
        let rollout = &self.rollouts[&under_way];
        if matches!(rollout.record.phase, Phase::RollingBack(_)) || under_way >= *newest {
            return None;
        }
        Some((under_way, What::RollingBack { reason, end: End::Superseded, gates: rollout.look.gates.clone() }))
    }

    fn look(&mut self, revision: u64, step: &Step<'_>, at_once: bool) -> Option<(u64, What)> {
        let world = World {
            now_ms: step.now_ms,
            live: step.live,
            timing: self.timing,
            stable: self.stable,
            sequence: self.sequence + 1,
            at_once,
        };
        let rollout = self.rollouts.get_mut(&revision)?;
        let next = rollout.next(&world);
        for entry in rollout.testimony.drain(..) {
            rollout.entries += 1;
            self.evidence.push((revision, rollout.entries, entry));
        }
        Some((revision, next?))
    }

    /// Lets only what narrows happen.
    fn guard(&mut self, step: &mut Step<'_>) {
        if step.now_ms < self.settled_ms {
            return;
        }
        let Some(revision) = self.under_way() else { return };
        if let Some((revision, what @ (What::RollingBack { .. } | What::Rejected { .. }))) =
            self.look(revision, step, true)
        {
            self.write(step, revision, what);
        }
    }

    fn world<'a>(&self, step: &Step<'a>) -> World<'a> {
        World {
            now_ms: step.now_ms,
            live: step.live,
            timing: self.timing,
            stable: self.stable,
            sequence: self.sequence + 1,
            at_once: false,
        }
    }

    /// Decides one event: takes it in, and asks for it to be stored.
    fn write(&mut self, step: &mut Step<'_>, revision: u64, what: What) {
        if let What::StageOpened(opened) = &what {
            let subject = &self.rollouts[&revision].subject;
            step.out.push(Action::Grant(GrantOrder {
                epoch: subject.epoch,
                revision: subject.revision,
                digest: subject.digest,
                opened: opened.clone(),
                not_after_ms: step.now_ms + millis(self.timing.grant_lifetime),
            }));
        }
        let rollout = self.rollouts.get(&revision);
        let seq = rollout.map_or(0, |rollout| rollout.record.events) + 1;
        let evidence = rollout.map_or(0, |rollout| rollout.entries);
        let event = Event { at_ms: step.now_ms, evidence, what };
        self.fold(revision, &event, step.now_ms);
        step.out.push(Action::Record { revision, seq, event });
    }

    fn fold(&mut self, revision: u64, event: &Event, now_ms: u64) {
        self.version += 1;
        let Some(rollout) = self.rollouts.get_mut(&revision) else { return };
        let was_environment = rollout.record.held.as_ref().is_some_and(|held| held.gate == "environment");
        rollout.record.apply(event);
        let digest = rollout.subject.digest;
        match &event.what {
            What::StageOpened(opened) => {
                self.sequence = self.sequence.max(opened.sequence);
                rollout.look = Look::begin(now_ms, &rollout.record, self.version);
            }
            What::Preparing { .. } | What::FinalBake => {
                rollout.look = Look::begin(now_ms, &rollout.record, self.version);
            }
            What::Completed { .. } => self.stable = Some(Stable { revision, digest }),
            What::RollingBack { .. } => {
                if let Some(sequence) = rollout.record.sequence()
                    && !fault::is(Fault::KeepsGrantsGood)
                {
                    self.sequence_min = self.sequence_min.max(sequence + 1);
                }
                rollout.look = Look::begin(now_ms, &rollout.record, self.version);
                self.withdraw(digest);
            }
            What::Rejected { .. } => self.withdraw(digest),
            // What was counted while both sides were bad says nothing about the change.
            What::Released { .. } if was_environment => {
                rollout.look = Look::begin(now_ms, &rollout.record, rollout.look.version);
            }
            What::Queued { .. }
            | What::StagePassed { .. }
            | What::Held { .. }
            | What::Released { .. }
            | What::Promoted { .. }
            | What::Retried { .. }
            | What::Paused { .. }
            | What::Resumed { .. }
            | What::Ended { .. } => {}
        }
        if self.rollouts.get(&revision).is_some_and(|rollout| rollout.record.has_ended())
            && let Some(rollout) = self.rollouts.remove(&revision)
        {
            self.ended.push_back(rollout);
            if self.ended.len() > ENDED_MAX {
                self.ended.pop_front();
            }
        }
    }

    fn withdraw(&mut self, digest: Digest) {
        if !self.withdrawn.contains(&digest) {
            self.withdrawn.push_back(digest);
        }
        if self.withdrawn.len() > WITHDRAWN_MAX {
            self.withdrawn.pop_front();
        }
    }

    fn under_way(&self) -> Option<u64> {
        self.rollouts.iter().find(|(_, rollout)| !rollout.waits()).map(|(revision, _)| *revision)
    }

    /// The rollout under way.
    pub(crate) fn current(&self) -> Option<&Rollout> {
        self.rollouts.get(&self.under_way()?)
    }

    /// Rollouts at hand: open ones, and those that ended lately.
    pub(crate) fn rollouts(&self) -> impl Iterator<Item = &Rollout> {
        self.ended.iter().chain(self.rollouts.values())
    }

    /// What every proxy outside a cohort runs.
    pub(crate) fn stable(&self) -> Option<Stable> {
        self.stable
    }

    /// Digests that were taken back, oldest first.
    pub(crate) fn withdrawn(&self) -> impl Iterator<Item = Digest> {
        self.withdrawn.iter().copied()
    }

    /// Grants below are void.
    pub(crate) fn sequence_min(&self) -> u64 {
        self.sequence_min
    }

    /// Events of all rollouts so far: the version of the desired state.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    #[cfg(debug_assertions)]
    fn check_invariants(&self) {
        let under_way = self.rollouts.values().filter(|rollout| !rollout.waits()).count();
        assert!(under_way <= 1, "R1: {under_way} rollouts are under way");
        for (revision, rollout) in &self.rollouts {
            let record = &rollout.record;
            assert!(!record.has_ended(), "r{revision} has ended and is still at hand as open");
            let back = matches!(record.phase, Phase::RollingBack(_));
            assert_eq!(back, self.withdrawn.contains(&rollout.subject.digest), "r{revision}: withdrawn and offered");
            assert!(!rollout.waits() || record.stages.is_empty(), "r{revision} waits and was granted");
            for (before, after) in record.stages.iter().zip(record.stages.iter().skip(1)) {
                let (before, after) = (&before.opened, &after.opened);
                assert!(before.sequence < after.sequence, "r{revision}: a grant's sequence fell");
                assert!(before.wave <= after.wave, "r{revision}: a wave came twice");
                assert!(before.wave != after.wave || before.cut <= after.cut, "r{revision}: a cut shrank");
            }
            assert!(record.sequence().is_none_or(|sequence| sequence <= self.sequence));
            let granted = record.sequence().is_some_and(|sequence| sequence >= self.sequence_min);
            assert!(!(back && granted), "r{revision} goes back and its grants are not void");
        }
        if let Some(stable) = self.stable {
            assert!(!self.withdrawn.contains(&stable.digest), "stable was withdrawn");
        }
    }
}

impl Rollout {
    /// As a record says, with no evidence.
    pub(crate) fn new(subject: Arc<Subject>, record: Record, now_ms: u64) -> Self {
        let case = Case::new(subject.plan.compare_alpha);
        let look = Look::begin(now_ms, &record, 0);
        Self { subject, record, case, entries: 0, testimony: Vec::new(), look }
    }

    /// Takes stored evidence in.
    pub(crate) fn remember_evidence(&mut self, entries: &[Entry]) {
        self.case = Case::fold(self.subject.plan.compare_alpha, entries);
        self.entries = entries.len() as u64;
    }

    /// Whether it has not begun.
    pub(crate) fn waits(&self) -> bool {
        self.record.phase == Phase::Queued
    }

    /// Name of the stage that was opened last; empty before.
    pub(crate) fn stage_name(&self) -> String {
        match (self.record.phase, self.record.stage()) {
            (Phase::FinalBake, _) => "final bake".to_owned(),
            (_, Some(stage)) => self.subject.plan.stages[stage.opened.stage].name.clone(),
            (_, None) => String::new(),
        }
    }
}

/// The end of a rollout that no proxy has heard of.
fn never_begun(revision: u64, end: End, reason: &Reason) -> What {
    let word = if end == End::Aborted { "ABORTED" } else { "SUPERSEDED" };
    What::Ended {
        end,
        missing: std::collections::BTreeSet::new(),
        proxies: 0,
        active: 0,
        line: format!("{word} r{revision} before it began: {}", verdict::sentence(reason)),
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests;
