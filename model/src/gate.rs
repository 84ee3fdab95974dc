//! Gates: evidence → verdict. Pure; the same code judges at the agent and at the authority, and again in `explain`.
//!
//! It does not know time, nodes or rollouts: whoever collects the evidence decides since when and from whom. What it
//! judges is layer 2 of the design page "Control plane", Gates; layer 3 is [`sequential`]. Invariant: silence is never
//! a [`Verdict::Pass`].

use crate::latency::{BUCKETS, upper_edge_us};
use crate::plan::{GatePlan, Plan};

pub mod sequential;
#[cfg(test)]
mod tests;

/// What one side (cohort or control) did in the bake so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests.
    pub requests: u64,
    /// Failed ones: 5xx made by proxy or upstream, and ends without an answer.
    pub failed: u64,
    /// Per bucket of [`crate::latency`]; empty or [`crate::latency::BUCKETS`] long.
    pub latency: Vec<u64>,
}

impl Counts {
    /// Adds `other` to this.
    pub fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.failed = self.failed.saturating_add(other.failed);
        if self.latency.len() < other.latency.len() {
            self.latency.resize(other.latency.len(), 0);
        }
        for (count, more) in self.latency.iter_mut().zip(&other.latency) {
            *count = count.saturating_add(*more);
        }
    }

    /// What was counted since `earlier` (of the same process); saturates at 0.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut latency = self.latency.clone();
        for (count, before) in latency.iter_mut().zip(&earlier.latency) {
            *count = count.saturating_sub(*before);
        }
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            failed: self.failed.saturating_sub(earlier.failed),
            latency,
        }
    }

    /// Failed over requests; `None` without requests.
    #[must_use]
    pub fn error_rate(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.failed as f64 / self.requests as f64)
    }

    /// Upper edge in microseconds of the bucket that holds this percentile (1 to 99): at most 12.5 % above the latency
    /// itself. `None` without latencies.
    #[must_use]
    pub fn percentile_us(&self, percentile: u8) -> Option<u64> {
        let total = self.measured();
        if total == 0 {
            return None;
        }
        // Nearest rank: the smallest latency that at least `percentile` % of all do not exceed.
        let rank = (u128::from(total) * u128::from(percentile)).div_ceil(100).max(1);
        let mut below = 0_u128;
        for (bucket, count) in self.latency.iter().enumerate().take(BUCKETS) {
            below += u128::from(*count);
            if below >= rank {
                return Some(upper_edge_us(bucket));
            }
        }
        None
    }

    /// Requests with a latency.
    fn measured(&self) -> u64 {
        self.latency.iter().take(BUCKETS).fold(0, |sum, count| sum.saturating_add(*count))
    }
}

/// What a stage is judged on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Proxies that run the candidate, since they activated it.
    pub cohort: Counts,
    /// Proxies that run last good, over the same time; no requests when there is no control.
    pub control: Counts,
    /// Proxies that refused the candidate.
    pub rejected: u64,
}

/// A gate as it was judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// `error_rate`, `p95_latency`, `rejected_nodes`, …
    pub gate: String,
    /// Share, milliseconds or count.
    pub value: f64,
    /// In the same unit.
    pub limit: f64,
    /// Requests of the cohort.
    pub sample: u64,
    /// The same on control; 0 without.
    pub control_value: f64,
    /// Requests of control.
    pub control_sample: u64,
    /// How it came out.
    pub outcome: Outcome,
}

/// How a gate came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Within the limit.
    Pass,
    /// Cohort breaches, control does not.
    Fail,
    /// Both breach: not the revision's doing.
    Environment,
    /// Too few requests.
    NotEnoughData,
}

/// What follows for the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every gate passes.
    Pass,
    /// At least one fails.
    Fail,
    /// None fails, at least one is for the environment: hold.
    Environment,
    /// None fails, at least one has not enough data. Silence never promotes.
    NotEnoughData,
}

/// Judges every gate of the plan, and the burn rate where it has one. A threshold fails only when control (with
/// `requests_min` requests) does not breach it too.
///
/// A gate needs `requests_min` requests in the cohort, and at least one, to say anything; only refused proxies fail
/// without. Where no gate of the plan looks at requests, their number is a gate of its own, `requests_min`.
#[must_use]
pub fn judge(evidence: &Evidence, plan: &Plan) -> (Verdict, Vec<Judged>) {
    let mut judged: Vec<Judged> = plan.gates.iter().map(|gate| judge_gate(evidence, plan, gate)).collect();
    judged.extend(judge_burn_rate(evidence, plan));
    let sample = evidence.cohort.requests;
    let requests_min = plan.requests_min.max(1);
    if sample < requests_min && judged.iter().all(|gate| gate.outcome == Outcome::Pass) {
        judged.push(Judged {
            gate: "requests_min".to_owned(),
            value: sample as f64,
            limit: requests_min as f64,
            sample,
            control_value: 0.0,
            control_sample: evidence.control.requests,
            outcome: Outcome::NotEnoughData,
        });
    }
    let any = |outcome| judged.iter().any(|gate| gate.outcome == outcome);
    let verdict = if any(Outcome::Fail) {
        Verdict::Fail
    } else if any(Outcome::Environment) {
        Verdict::Environment
    } else if any(Outcome::NotEnoughData) {
        Verdict::NotEnoughData
    } else {
        Verdict::Pass
    };
    (verdict, judged)
}

fn judge_gate(evidence: &Evidence, plan: &Plan, gate: &GatePlan) -> Judged {
    match gate {
        GatePlan::ErrorRate(limit) => {
            let side = |counts: &Counts| (counts.error_rate(), counts.requests);
            judge_sides(gate.metric(), *limit, evidence, plan, side)
        }
        GatePlan::Latency { percentile, .. } => {
            let side =
                |counts: &Counts| (counts.percentile_us(*percentile).map(|us| us as f64 / 1e3), counts.measured());
            judge_sides(gate.metric(), gate.threshold(), evidence, plan, side)
        }
        // A refusal is a fact about the candidate: it needs no sample and has no control.
        GatePlan::RejectedNodes(limit) => Judged {
            gate: gate.metric(),
            value: evidence.rejected as f64,
            limit: *limit as f64,
            sample: evidence.cohort.requests,
            control_value: 0.0,
            control_sample: evidence.control.requests,
            outcome: if evidence.rejected > *limit { Outcome::Fail } else { Outcome::Pass },
        },
    }
}

/// How many times faster than the objective allows the error budget burns, over the whole bake so far.
fn judge_burn_rate(evidence: &Evidence, plan: &Plan) -> Option<Judged> {
    let limit = plan.burn_rate_max?;
    let budget = 1.0 - plan.slo_percent / 100.0;
    let side = |counts: &Counts| (counts.error_rate().map(|rate| rate / budget), counts.requests);
    Some(judge_sides("error_budget_burn_rate".to_owned(), limit, evidence, plan, side))
}

/// `side` gives a side's value, and the requests it rests on.
fn judge_sides(
    gate: String,
    limit: f64,
    evidence: &Evidence,
    plan: &Plan,
    side: impl Fn(&Counts) -> (Option<f64>, u64),
) -> Judged {
    let (value, sample) = side(&evidence.cohort);
    let (control_value, control_sample) = side(&evidence.control);
    let breach = |value: Option<f64>, sample| match value {
        Some(value) if sample >= plan.requests_min => Some(value > limit),
        _ => None,
    };
    let outcome = match (breach(value, sample), breach(control_value, control_sample)) {
        (None, _) => Outcome::NotEnoughData,
        (Some(false), _) => Outcome::Pass,
        (Some(true), Some(true)) => Outcome::Environment,
        (Some(true), _) => Outcome::Fail,
    };
    Judged {
        gate,
        value: value.unwrap_or(0.0),
        limit,
        sample,
        control_value: control_value.unwrap_or(0.0),
        control_sample,
        outcome,
    }
}
