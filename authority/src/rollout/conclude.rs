//! What a rollout writes down when it completes, waits, goes back or is rejected: the event and its reason. Pure.

use sealane_model::gate::{Judged, Verdict};
use sealane_model::ids::ProxyId;
use sealane_model::plan::{GatePlan, OnNoData};
use sealane_proto::v1;

use super::event::{End, GateRecord, NodeProblem, Reason, What};
use super::look::{NODES_MAX, World};
use super::machine::Rollout;
use super::observe::Roll;
use super::record::Phase;
use super::verdict;
use crate::fleet::Proxy;

/// Deaths of one proxy on the candidate that take it back.
const DEATHS_MAX: u32 = 2;
/// Problems kept of a rejection.
const PROBLEMS_MAX: usize = 100;

impl Rollout {
    /// An agent went back by itself, or a proxy keeps dying.
    pub(super) fn local_rollback(&self, world: &World<'_>) -> Option<Reason> {
        for (id, agent) in world.live.agents() {
            let Some(told) = agent.local_rollback.as_ref().filter(|told| told.digest == self.subject.digest) else {
                continue;
            };
            let mut reason = told.reason.clone();
            let said = if reason.message.is_empty() { reason.gate.clone() } else { reason.message.clone() };
            reason.message = format!("{said}{}", self.place());
            reason.stage = self.stage_name();
            if reason.nodes.is_empty() {
                reason.nodes = vec![id.0.clone()];
            }
            return Some(reason);
        }
        let died = |id: &&ProxyId| {
            world.live.proxy(id).is_some_and(|proxy| {
                let told = world.live.agent(&proxy.agent).is_some_and(|agent| agent.state_version >= self.look.version);
                told && proxy.deaths >= DEATHS_MAX
            })
        };
        let id = self.look.required.iter().find(died)?;
        let message = format!("{id} died {DEATHS_MAX} times{}", self.place());
        Some(self.reason("death", &message, std::slice::from_ref(&id.0)))
    }

    pub(super) fn breached(&self, failed: &Judged) -> Reason {
        let nodes = match self.subject.plan.gates.iter().find(|gate| gate.metric() == failed.gate) {
            Some(GatePlan::ErrorRate(limit)) => self.look.cohort.worst(*limit, NODES_MAX),
            _ => self.look.required.iter().take(NODES_MAX).map(|id| id.0.clone()).collect(),
        };
        let record = GateRecord::from(failed);
        Reason {
            gate: record.gate,
            value: record.value,
            limit: record.limit,
            sample: record.sample,
            stage: self.stage_name(),
            nodes,
            message: verdict::breach(failed, &self.stage_name()),
        }
    }

    pub(super) fn problems(&self, world: &World<'_>) -> Vec<NodeProblem> {
        let refused = world.live.proxies().filter(|(_, proxy)| proxy.refused == Some(self.subject.digest));
        let one = |id: &ProxyId, proxy: &Proxy, problem: &v1::Problem| NodeProblem {
            node: id.0.clone(),
            agent: proxy.agent.0.clone(),
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
        };
        let unsaid = v1::Problem {
            code: "refused".to_owned(),
            severity: "error".to_owned(),
            message: "it refused the revision and did not say why".to_owned(),
            ..v1::Problem::default()
        };
        refused
            .flat_map(|(id, proxy)| {
                let problems = if proxy.problems.is_empty() { std::slice::from_ref(&unsaid) } else { &proxy.problems };
                problems.iter().map(|problem| one(id, proxy, problem)).collect::<Vec<_>>()
            })
            .take(PROBLEMS_MAX)
            .collect()
    }

    pub(super) fn reject(&self, problems: Vec<NodeProblem>) -> What {
        let line = verdict::rejected(self.subject.revision.0, &problems);
        let mut nodes: Vec<String> = problems.iter().map(|problem| problem.node.clone()).collect();
        nodes.dedup();
        nodes.truncate(NODES_MAX);
        let message = format!("{} cannot compile it", verdict::names(&nodes));
        let reason = Reason {
            gate: "prepare_rejected".to_owned(),
            value: nodes.len() as f64,
            message,
            nodes,
            ..Reason::default()
        };
        What::Rejected { reason, problems, line }
    }

    pub(super) fn complete(&self, world: &World<'_>) -> What {
        let (proxies, active) = self.totals(world);
        let took_ms = world.now_ms.saturating_sub(self.record.started_ms);
        let line = verdict::completed(self.subject.revision.0, took_ms, active as usize, proxies as usize);
        What::Completed { proxies, active, gates: self.look.gates.clone(), line }
    }

    pub(super) fn on_no_data(&self, roll: &Roll) -> What {
        let is_quiet = self.look.confirmed && self.look.verdict == Some(Verdict::NotEnoughData);
        if self.look.verdict == Some(Verdict::Suspect) && self.subject.plan.on_no_data != OnNoData::Rollback {
            return self.hold("suspect", "what it does is suspect, and the evidence did not clear it in time", &[]);
        }
        let (had, needed) =
            (self.look.judged.iter().map(|gate| gate.sample).max().unwrap_or(0), self.subject.plan.requests_min);
        let missing: Vec<String> = roll.silent.iter().chain(&roll.lagging).cloned().collect();
        let waited = match missing.as_slice() {
            [] => String::new(),
            some => format!(": {} is away, not ready, or does not serve it", verdict::names(some)),
        };
        let (gate, message) = match is_quiet {
            true if had < needed.max(1) => (
                "no_data",
                format!("only {had} of the {needed} requests that it needs to be judged came by the deadline"),
            ),
            true => {
                ("no_data", "too few requests came by the deadline to see what the plan's `detect` wants".to_owned())
            }
            false => ("deadline", format!("it did not get through its bake by the deadline{waited}")),
        };
        match self.subject.plan.on_no_data {
            OnNoData::Hold => self.hold(gate, &message, &missing),
            OnNoData::Proceed if is_quiet && self.record.phase == Phase::FinalBake => {
                What::Promoted { actor: "the plan's on_no_data".to_owned() }
            }
            OnNoData::Proceed if is_quiet => What::StagePassed {
                why: "no data by the deadline, and the plan says to proceed".to_owned(),
                gates: self.look.gates.clone(),
            },
            OnNoData::Proceed => self.hold(gate, &message, &missing),
            OnNoData::Rollback => self.roll_back(self.reason(gate, &message, &missing), End::RolledBack),
        }
    }

    pub(super) fn roll_back(&self, reason: Reason, end: End) -> What {
        What::RollingBack { reason, end, gates: self.look.gates.clone() }
    }

    pub(super) fn hold(&self, gate: &str, message: &str, nodes: &[String]) -> What {
        What::Held { reason: self.reason(gate, message, nodes), gates: self.look.gates.clone() }
    }

    pub(super) fn reason(&self, gate: &str, message: &str, nodes: &[String]) -> Reason {
        Reason {
            gate: gate.to_owned(),
            stage: self.stage_name(),
            nodes: nodes.to_vec(),
            message: message.to_owned(),
            ..Reason::default()
        }
    }

    pub(super) fn place(&self) -> String {
        match self.stage_name() {
            name if name.is_empty() => String::new(),
            name => format!(" at stage {name}"),
        }
    }
}
