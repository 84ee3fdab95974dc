//! A rollout as operators see it: `sealane.v1.Rollout`.

use sealane_model::gate::Verdict;
use sealane_model::plan::StagePlan;
use sealane_proto::v1;

use super::event::{Course, End, GateRecord, NodeProblem, Reason};
use super::machine::{Rollout, millis};
use super::record::{Final, Outcome, Phase, Record, StageRecord};
use super::verdict;

impl Rollout {
    /// What operators see of it.
    pub(crate) fn view(&self) -> v1::Rollout {
        let Self { subject, record, look, .. } = self;
        let open = record.stage().map(|stage| &stage.opened);
        let is_open = matches!(record.phase, Phase::Stage | Phase::FinalBake | Phase::RollingBack(_));
        let (proxies, active) = match (record.totals, record.phase) {
            (Some(totals), _) => totals,
            (None, Phase::Preparing) => (count(record.set.len()), count(look.active)),
            (None, _) => (count(record.set.len().max(look.required.len())), count(look.active)),
        };
        v1::Rollout {
            revision: subject.revision.0,
            state: state(record).into(),
            wave: match open {
                Some(opened) if is_open || record.has_ended() => subject.plan.waves[opened.wave].name.clone(),
                _ => String::new(),
            },
            stage: match record.phase {
                Phase::FinalBake => String::new(),
                _ => open.map_or_else(String::new, |opened| subject.plan.stages[opened.stage].name.clone()),
            },
            verdict: judged(record, look.verdict).to_owned(),
            reason: record.reason.as_ref().or(record.held.as_ref()).map(reason),
            last_good: record.stable.map_or(0, |stable| stable.revision),
            state_version: record.events,
            started_at: time(record.started_ms),
            changed_at: time(record.changed_ms),
            stages: self.stages(),
            proxies,
            prepared: count(look.prepared),
            active,
            absent: count(look.absent.len().max(record.missing.len())),
            problems: record.problems.iter().map(node_problem).collect(),
            gates: if look.gates.is_empty() { &record.gates } else { &look.gates }.iter().map(gate).collect(),
            verdict_line: record.line.clone(),
            doing: self.doing(),
            message: subject.message.clone(),
            author: subject.author.clone(),
            change_class: v1::ChangeClass::from(subject.class).into(),
        }
    }

    fn doing(&self) -> String {
        let record = &self.record;
        match record.phase {
            Phase::Ended(Final::Completed) if record.totals.is_some_and(|(proxies, _)| proxies == 0) => {
                "no proxy is connected yet; each takes it on as soon as it is there".to_owned()
            }
            Phase::Ended(_) => String::new(),
            Phase::Queued => "waiting for the rollout before it".to_owned(),
            Phase::RollingBack(_) => self.look.doing.clone(),
            Phase::Preparing | Phase::Stage | Phase::FinalBake => match (&record.held, record.paused) {
                (_, true) => "paused".to_owned(),
                (Some(held), false) => verdict::held(self.subject.revision.0, held),
                (None, false) if record.course == Course::First => {
                    format!("the first revision goes straight to all; {}", self.look.doing)
                }
                (None, false) => self.look.doing.clone(),
            },
        }
    }

    fn stages(&self) -> Vec<v1::StageStatus> {
        let plan = &self.subject.plan;
        if self.record.course != Course::Staged {
            let last = plan.stages.len() - 1;
            let opened = self.record.stage();
            return vec![self.stage_status(
                plan.waves.first().map_or("", |wave| &wave.name),
                &plan.stages[last],
                opened,
            )];
        }
        let mut out = Vec::new();
        for (at, wave) in plan.waves.iter().enumerate() {
            let opened: Vec<&StageRecord> = self.record.stages.iter().filter(|stage| stage.opened.wave == at).collect();
            for (index, stage) in plan.stages.iter().enumerate() {
                if opened.iter().any(|one| one.opened.merged.contains(&index)) {
                    continue;
                }
                let opened = opened.iter().rev().find(|one| one.opened.stage == index).copied();
                out.push(self.stage_status(&wave.name, stage, opened));
            }
        }
        out
    }

    fn stage_status(&self, wave: &str, stage: &StagePlan, opened: Option<&StageRecord>) -> v1::StageStatus {
        let is_last = opened.is_some_and(|one| self.record.stage() == Some(one));
        let is_current = is_last && self.record.phase == Phase::Stage;
        let bake_ms = opened.map_or_else(|| millis(stage.bake), |one| one.opened.bake_ms);
        let merged = opened.map_or(&[][..], |one| &one.opened.merged);
        let share = merged.last().map_or(stage.fleet_percent, |index| self.subject.plan.stages[*index].fleet_percent);
        v1::StageStatus {
            wave: wave.to_owned(),
            name: stage.name.clone(),
            fleet_percent: share,
            state: match opened.map(|one| one.outcome) {
                // It went to all while nobody was there: there is nothing it waits for.
                None if self.record.phase == Phase::Ended(Final::Completed) => "passed",
                None => "pending",
                Some(Outcome::Open) if self.look.has_confirmed || !is_current => "baking",
                Some(Outcome::Open) => "activating",
                Some(Outcome::Passed) => "passed",
                Some(Outcome::Failed) => "failed",
            }
            .to_owned(),
            proxies: opened.map_or(0, |one| count(one.opened.cohort.len())),
            bake: Some(duration(bake_ms)),
            baked: Some(duration(match opened.map(|one| one.outcome) {
                Some(Outcome::Passed) => bake_ms,
                Some(Outcome::Open) if is_current => self.look.baked_ms,
                _ => 0,
            })),
            merged: merged.iter().map(|index| self.subject.plan.stages[*index].name.clone()).collect(),
        }
    }
}

/// The state of a record.
pub(crate) fn state(record: &Record) -> v1::RolloutState {
    use v1::RolloutState as State;
    match record.phase {
        Phase::Ended(Final::Completed) => State::Completed,
        Phase::Ended(Final::Rejected) => State::Rejected,
        Phase::Ended(Final::Back(End::RolledBack)) => State::RolledBack,
        Phase::Ended(Final::Back(End::RolledBackPartial)) => State::RolledBackPartial,
        Phase::Ended(Final::Back(End::Aborted)) => State::Aborted,
        Phase::Ended(Final::Back(End::Superseded)) => State::Superseded,
        Phase::RollingBack(_) => State::RollingBack,
        Phase::Queued => State::Queued,
        _ if record.paused => State::Paused,
        _ if record.held.is_some() => State::Held,
        Phase::Preparing => State::Preparing,
        Phase::Stage => State::Running,
        Phase::FinalBake => State::FinalBake,
    }
}

/// Its name in lower case, as `-o json` prints it.
pub(crate) fn state_name(state: v1::RolloutState) -> String {
    state.as_str_name().trim_start_matches("ROLLOUT_STATE_").to_ascii_lowercase()
}

/// Whether a state is a final one.
pub(crate) fn is_final(state: v1::RolloutState) -> bool {
    use v1::RolloutState as State;
    matches!(
        state,
        State::Completed
            | State::RolledBack
            | State::RolledBackPartial
            | State::Aborted
            | State::Rejected
            | State::Superseded
    )
}

fn judged(record: &Record, verdict: Option<Verdict>) -> &'static str {
    match (record.phase, verdict) {
        (Phase::Ended(Final::Completed), _) => "pass",
        (Phase::Ended(Final::Rejected | Final::Back(End::RolledBack | End::RolledBackPartial)), _) => "fail",
        (Phase::RollingBack(End::RolledBack), _) | (_, Some(Verdict::Fail)) => "fail",
        (_, Some(Verdict::Pass)) => "pass",
        (_, Some(Verdict::Environment | Verdict::NotEnoughData | Verdict::Suspect)) => "inconclusive",
        (_, None) => "",
    }
}

fn reason(reason: &Reason) -> v1::Reason {
    v1::Reason {
        gate: reason.gate.clone(),
        value: reason.value,
        limit: reason.limit,
        sample: reason.sample,
        stage: reason.stage.clone(),
        nodes: reason.nodes.clone(),
        message: reason.message.clone(),
    }
}

pub(super) fn gate(gate: &GateRecord) -> v1::GateStatus {
    v1::GateStatus {
        gate: gate.gate.clone(),
        value: gate.value,
        limit: gate.limit,
        sample: gate.sample,
        control_value: gate.control_value,
        control_sample: gate.control_sample,
        outcome: gate.outcome.clone(),
        detects: gate.detects.unwrap_or(0.0),
        wants: gate.wants.unwrap_or(0.0),
        weaker: gate.weaker,
        bad: gate.bad,
        control_bad: gate.control_bad,
    }
}

fn node_problem(problem: &NodeProblem) -> v1::NodeProblem {
    v1::NodeProblem {
        node: problem.node.clone(),
        agent: problem.agent.clone(),
        problem: Some(v1::Problem {
            code: problem.code.clone(),
            severity: problem.severity.clone(),
            message: problem.message.clone(),
            file: problem.file.clone(),
            line: problem.line,
            column: problem.column,
            end_column: problem.end_column,
            path: problem.path.clone(),
            help: problem.help.clone(),
            suggestion: problem.suggestion.clone(),
        }),
    }
}

/// Unix milliseconds on the wire; 0: absent.
pub(crate) fn time(ms: u64) -> Option<prost_types::Timestamp> {
    if ms == 0 {
        return None;
    }
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    let nanos = i32::try_from(ms % 1000).unwrap_or(0) * 1_000_000;
    Some(prost_types::Timestamp { seconds, nanos })
}

fn duration(ms: u64) -> prost_types::Duration {
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    let nanos = i32::try_from(ms % 1000).unwrap_or(0) * 1_000_000;
    prost_types::Duration { seconds, nanos }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
