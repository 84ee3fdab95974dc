//! Where a rollout stands, as the fold of its events: nothing else is in a [`Record`], so a restart gives the same one.

use std::collections::BTreeSet;

use sealane_model::ids::ProxyId;

use super::event::{Course, End, Event, GateRecord, NodeProblem, Reason, Stable, StageOpened, What};

/// Where a rollout stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) phase: Phase,
    pub(crate) paused: bool,
    /// Why it waits.
    pub(crate) held: Option<Reason>,
    /// Events so far: the state version.
    pub(crate) events: u64,
    /// When it was published, then when it began.
    pub(crate) started_ms: u64,
    pub(crate) changed_ms: u64,
    /// Its publisher wants it held once it is prepared.
    pub(crate) hold: bool,
    pub(crate) supersede: bool,
    /// Freezes do not hold it.
    pub(crate) override_freeze: bool,
    /// A person let it go on from PREPARING.
    pub(crate) waived: bool,
    pub(crate) course: Course,
    pub(crate) stable: Option<Stable>,
    pub(crate) set: BTreeSet<ProxyId>,
    /// As opened, in order.
    pub(crate) stages: Vec<StageRecord>,
    /// A person took the final bake on their word.
    pub(crate) final_waived: bool,
    /// Why it went back or was rejected.
    pub(crate) reason: Option<Reason>,
    pub(crate) problems: Vec<NodeProblem>,
    /// As judged when the newest event that carries them was written.
    pub(crate) gates: Vec<GateRecord>,
    /// Proxies when it ended, and those on its revision then.
    pub(crate) totals: Option<(u32, u32)>,
    pub(crate) missing: BTreeSet<ProxyId>,
    pub(crate) line: String,
}

/// The part of a rollout's life it is in. Held and paused lie across these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Queued,
    Preparing,
    /// The last of [`Record::stages`].
    Stage,
    FinalBake,
    RollingBack(End),
    Ended(Final),
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Final {
    Completed,
    Rejected,
    Back(End),
}

/// A stage that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StageRecord {
    pub(crate) opened: StageOpened,
    pub(crate) opened_ms: u64,
    pub(crate) outcome: Outcome,
}

/// How a stage came out so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Open,
    Passed,
    Failed,
}

impl Record {
    /// Before its first event.
    pub(crate) fn new() -> Self {
        Self {
            phase: Phase::Queued,
            paused: false,
            held: None,
            events: 0,
            started_ms: 0,
            changed_ms: 0,
            hold: false,
            supersede: false,
            override_freeze: false,
            waived: false,
            course: Course::Staged,
            stable: None,
            set: BTreeSet::new(),
            stages: Vec::new(),
            final_waived: false,
            reason: None,
            problems: Vec::new(),
            gates: Vec::new(),
            totals: None,
            missing: BTreeSet::new(),
            line: String::new(),
        }
    }

    /// From all its events.
    pub(crate) fn fold<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut record = Self::new();
        events.into_iter().for_each(|event| record.apply(event));
        record
    }

    /// Takes one more event in.
    pub(crate) fn apply(&mut self, event: &Event) {
        self.events += 1;
        self.changed_ms = event.at_ms;
        match &event.what {
            What::Queued { hold, supersede, override_freeze } => {
                self.started_ms = event.at_ms;
                self.override_freeze = *override_freeze;
                self.hold = *hold;
                self.supersede = *supersede;
            }
            What::Preparing { set, stable, course } => {
                if self.phase == Phase::Queued {
                    self.started_ms = event.at_ms;
                }
                self.phase = Phase::Preparing;
                self.set.clone_from(set);
                self.stable = *stable;
                self.course = *course;
                self.held = None;
            }
            What::StageOpened(opened) => {
                let again = |one: &StageRecord| (one.opened.wave, one.opened.stage) == (opened.wave, opened.stage);
                if self.stages.last().is_some_and(again) {
                    self.stages.pop();
                }
                self.stages.push(StageRecord {
                    opened: opened.clone(),
                    opened_ms: event.at_ms,
                    outcome: Outcome::Open,
                });
                self.phase = Phase::Stage;
                self.held = None;
            }
            What::StagePassed { gates, .. } => {
                self.close_stage(Outcome::Passed);
                self.gates.clone_from(gates);
                self.held = None;
            }
            What::FinalBake => {
                self.phase = Phase::FinalBake;
                self.held = None;
            }
            What::Completed { proxies, active, gates, line } => {
                self.close_stage(Outcome::Passed);
                self.end(Final::Completed, (*proxies, *active), line);
                self.gates.clone_from(gates);
            }
            What::Held { reason, gates } => {
                self.held = Some(reason.clone());
                self.gates.clone_from(gates);
            }
            What::Released { .. } | What::Retried { .. } => self.held = None,
            What::Promoted { .. } => {
                self.held = None;
                match self.phase {
                    Phase::Preparing => self.waived = true,
                    Phase::Stage => self.close_stage(Outcome::Passed),
                    Phase::FinalBake => self.final_waived = true,
                    Phase::Queued | Phase::RollingBack(_) | Phase::Ended(_) => {}
                }
            }
            What::Paused { .. } => self.paused = true,
            What::Resumed { .. } => self.paused = false,
            What::RollingBack { reason, end, gates } => {
                self.close_stage(Outcome::Failed);
                self.phase = Phase::RollingBack(*end);
                self.held = None;
                self.paused = false;
                self.reason = Some(reason.clone());
                if !gates.is_empty() {
                    self.gates.clone_from(gates);
                }
            }
            What::Ended { end, missing, proxies, active, line } => {
                self.end(Final::Back(*end), (*proxies, *active), line);
                self.missing.clone_from(missing);
            }
            What::Rejected { reason, problems, line } => {
                self.end(Final::Rejected, (u32::try_from(self.set.len()).unwrap_or(u32::MAX), 0), line);
                self.reason = Some(reason.clone());
                self.problems.clone_from(problems);
            }
        }
    }

    fn close_stage(&mut self, outcome: Outcome) {
        if let Some(stage) = self.stages.last_mut()
            && stage.outcome == Outcome::Open
        {
            stage.outcome = outcome;
        }
    }

    fn end(&mut self, how: Final, totals: (u32, u32), line: &str) {
        self.phase = Phase::Ended(how);
        self.held = None;
        self.paused = false;
        self.totals = Some(totals);
        line.clone_into(&mut self.line);
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
    }

    /// The stage that was opened last.
    pub(crate) fn stage(&self) -> Option<&StageRecord> {
        self.stages.last()
    }

    /// Sequence of its newest grant.
    pub(crate) fn sequence(&self) -> Option<u64> {
        self.stages.iter().map(|stage| stage.opened.sequence).max()
    }
}
