//! Gates: evidence → verdict. Pure; the same code judges a rollout while it runs and again in `explain`.
//!
//! It does not know nodes or rollouts: whoever collects the evidence decides since when and from whom. A [`Case`] is the
//! fold of [`Entry`]s, the evidence as it is stored; [`judge`] is a function of the case and the plan alone. Invariant:
//! silence is never a [`Verdict::Pass`].
//!
//! Source: design page "Control plane", Gates: plan thresholds and burn rate in [`judge`], the canary against control in
//! [`sequential`].

#[cfg(test)]
mod bench;
mod case;
mod counts;
mod judge;
pub mod sequential;
#[cfg(test)]
mod tests;

pub use case::{Baseline, Case, Entry, Interval, METRICS, Metric, Opened, slow_edge};
pub use counts::Counts;
pub use judge::judge;

/// A gate as it was judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// `error_rate`, `p95_latency`, `rejected_nodes`, `error_budget_burn_rate`, `starved`, `compare_5xx`, …
    pub gate: String,
    /// Share, milliseconds, count, or the e-value of a comparison.
    pub value: f64,
    /// In the same unit.
    pub limit: f64,
    /// Requests of the cohort.
    pub sample: u64,
    /// The same on control; 0 without. Of a comparison: control's share of bad requests.
    pub control_value: f64,
    /// Requests of control.
    pub control_sample: u64,
    /// Bad requests of the cohort, where the gate counts them.
    pub bad: u64,
    /// Of control.
    pub control_bad: u64,
    /// How many times worse than control the cohort would have to be to be seen with so much traffic. `None`: not a
    /// comparison, or nothing would be seen.
    pub detects: Option<f64>,
    /// How many times worse it should be able to see, as the plan says or as is usual for its share of the traffic;
    /// `None`: nothing is asked of this gate. One that sees less is weaker than it looks.
    pub wants: Option<f64>,
    /// There is no control now: what is compared with is older.
    pub weaker: bool,
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
    /// Cohort breaches, but so few bad requests may be chance; the end of the bake decides.
    Suspect,
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
    /// None of these, at least one is suspect: not yet.
    Suspect,
    /// None of these, at least one has not enough data. Silence never promotes.
    NotEnoughData,
}

impl Outcome {
    /// As it is stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Suspect => "suspect",
            Self::Environment => "environment",
            Self::NotEnoughData => "not_enough_data",
        }
    }
}

impl Verdict {
    /// Of these gates together.
    #[must_use]
    pub fn of(judged: &[Judged]) -> Self {
        let any = |outcome| judged.iter().any(|gate| gate.outcome == outcome);
        if any(Outcome::Fail) {
            Self::Fail
        } else if any(Outcome::Environment) {
            Self::Environment
        } else if any(Outcome::Suspect) {
            Self::Suspect
        } else if any(Outcome::NotEnoughData) {
            Self::NotEnoughData
        } else {
            Self::Pass
        }
    }
}
