//! The rollout plan: the recipe that travels inside the signed release.
//!
//! It does not know which proxies there are. Plans come from the config file, where the parser makes them, and from
//! releases, where [`Plan::from_bytes`] refuses what makes no sense.
//!
//! Source: design page "Control plane", Rollouts and Gates; keys as in the config file's `rollout:`.

use std::time::Duration;

use prost::Message as _;
use thiserror::Error;

mod check;
pub(crate) mod wire;

/// How a revision reaches the fleet.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// At least one; shares rise strictly and end at 100.
    pub stages: Vec<StagePlan>,
    /// What a stage is judged by.
    pub gates: Vec<GatePlan>,
    /// Requests in a cohort below which thresholds do not judge. Default 100.
    pub requests_min: u64,
    /// What silence means at the progress deadline.
    pub on_no_data: OnNoData,
    /// For one stage, from its grant to its verdict. Default 1 h.
    pub progress_deadline: Duration,
    /// After the last stage, before "last good". Default 5 m.
    pub final_bake: Duration,
    /// Groups of regions, one after the other; at least one.
    pub waves: Vec<Wave>,
    /// One canary restarts from disk, control plane cut off, before the first widening.
    pub cold_start_gate: bool,
    /// What agents do while the authority is away.
    pub on_authority_loss: OnAuthorityLoss,
    /// Share of proxies that may be absent from the prepare set, 0 to 100; at least one may. Default 10.
    pub absent_max_percent: f64,
    /// Base of the burn rate, percent of good requests. Default 99.9.
    pub slo_percent: f64,
    /// Error rate of the sequential test against control. Default 0.01.
    pub compare_alpha: f64,
    /// How many times control's failures a stage must be able to see before it passes, above 1; `None`: whatever its
    /// bake can see.
    pub compare_detect: Option<f64>,
    /// Burn rate that rolls back; `None`: not judged.
    pub burn_rate_max: Option<f64>,
}

/// One step: a share of the fleet, then a bake.
#[derive(Clone, Debug, PartialEq)]
pub struct StagePlan {
    /// Unique within the plan.
    pub name: String,
    /// Share of the targeted proxies, above 0, at most 100.
    pub fleet_percent: f64,
    /// Observed healthy time it must hold. 0 for the last stage unless written.
    pub bake: Duration,
}

/// One threshold.
#[derive(Clone, Debug, PartialEq)]
pub enum GatePlan {
    /// Share of failed requests, 0 to 1.
    ErrorRate(f64),
    /// Latency quantile (50, 95 or 99) at the proxy.
    Latency {
        /// 50, 95 or 99.
        percentile: u8,
        /// Above fails.
        max: Duration,
    },
    /// Proxies that refused the revision.
    RejectedNodes(u64),
}

/// What silence means at the progress deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnNoData {
    /// Wait for a person.
    Hold,
    /// Go on.
    Proceed,
    /// Go back.
    Rollback,
}

/// What agents do while the authority is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnAuthorityLoss {
    /// Stay where the last grant put them.
    Hold,
    /// Finish the granted stage.
    Continue,
    /// Back to last good.
    Rollback,
}

/// A group of regions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wave {
    /// Shown.
    pub name: String,
    /// Region names; `*` means every region that no earlier wave names.
    pub regions: Vec<String>,
}

/// Why a plan was refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    /// Not the protobuf it claims to be.
    #[error("malformed rollout plan")]
    Malformed,
    /// No stages, or more than [`STAGES_MAX`].
    #[error("{count} stages; 1 to {max} are allowed", max = STAGES_MAX)]
    StageCount {
        /// How many there are.
        count: usize,
    },
    /// A name that is empty, too long or used before.
    #[error("stage or wave name `{name}` is empty, too long or used twice")]
    Name {
        /// Shortened.
        name: String,
    },
    /// Shares must rise strictly, from above 0 to exactly 100.
    #[error("share {percent} of stage `{stage}` does not rise to 100 from above 0")]
    Share {
        /// Its name.
        stage: String,
        /// As written there.
        percent: String,
    },
    /// No waves, more than [`WAVES_MAX`], or one without regions or with too many.
    #[error("waves: 1 to {max} are allowed, each with 1 to {regions} regions", max = WAVES_MAX, regions = REGIONS_MAX)]
    Waves,
    /// An unknown metric, or a threshold that is not in its range.
    #[error("gate `{gate}` is unknown or its threshold is out of range")]
    Gate {
        /// Its metric, shortened.
        gate: String,
    },
    /// More than [`GATES_MAX`].
    #[error("{count} gates, more than the {max} allowed", max = GATES_MAX)]
    GateCount {
        /// How many there are.
        count: usize,
    },
    /// A number, duration or word out of its range.
    #[error("`{field}` is out of range")]
    OutOfRange {
        /// As in `sealane.v1.RolloutPlan`, without the unit.
        field: &'static str,
    },
}

/// Most stages of a plan.
pub const STAGES_MAX: usize = 20;
/// Most waves of a plan.
pub const WAVES_MAX: usize = 100;
/// Most regions of a wave.
pub const REGIONS_MAX: usize = 1000;
/// Most gates of a plan.
pub const GATES_MAX: usize = 100;
/// Longest bake or deadline: a leap year. Longer ones are mistakes, and clocks overflow on absurd ones.
pub const DURATION_MAX: Duration = Duration::from_secs(366 * 86_400);
/// Least ratio that [`Plan::compare_detect`] may ask for; less would need a day of traffic.
pub const DETECT_MIN: f64 = 1.5;
/// Largest ratio that [`Plan::compare_detect`] may ask for.
pub const DETECT_MAX: f64 = 100.0;
/// Class `expedited` divides every bake by this.
pub const EXPEDITED_BAKE_DIVISOR: u32 = 5;

impl Plan {
    /// The bytes of the protobuf `sealane.v1.RolloutPlan`. Durations are cut to whole milliseconds.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        wire::RolloutPlan::from(self).encode_to_vec()
    }

    /// From those bytes. Errs as [`Plan::check`] does.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PlanError> {
        wire::RolloutPlan::decode(bytes).map_err(|_| PlanError::Malformed)?.try_into()
    }
}

impl GatePlan {
    /// `error_rate`, `p50_latency`, `p95_latency`, `p99_latency` or `rejected_nodes`.
    #[must_use]
    pub fn metric(&self) -> String {
        match self {
            Self::ErrorRate(_) => "error_rate".to_owned(),
            Self::Latency { percentile, .. } => format!("p{percentile}_latency"),
            Self::RejectedNodes(_) => "rejected_nodes".to_owned(),
        }
    }

    /// A share (0 to 1), milliseconds, or a count.
    #[must_use]
    pub fn threshold(&self) -> f64 {
        match self {
            Self::ErrorRate(limit) => *limit,
            Self::Latency { max, .. } => max.as_nanos() as f64 / 1e6,
            Self::RejectedNodes(limit) => *limit as f64,
        }
    }
}

impl OnNoData {
    /// Every choice.
    pub const ALL: [Self; 3] = [Self::Hold, Self::Proceed, Self::Rollback];

    /// As in the config file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Proceed => "proceed",
            Self::Rollback => "rollback",
        }
    }
}

impl OnAuthorityLoss {
    /// Every choice.
    pub const ALL: [Self; 3] = [Self::Hold, Self::Continue, Self::Rollback];

    /// As in the config file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Continue => "continue",
            Self::Rollback => "rollback",
        }
    }
}

impl Default for Plan {
    /// The four stages of the interfaces page.
    fn default() -> Self {
        let stage = |name: &str, fleet_percent, bake_minutes: u64| StagePlan {
            name: name.into(),
            fleet_percent,
            bake: Duration::from_secs(60 * bake_minutes),
        };
        Self {
            stages: vec![
                stage("canary", 1.0, 5),
                stage("small", 10.0, 10),
                stage("half", 50.0, 15),
                stage("all", 100.0, 0),
            ],
            gates: vec![
                GatePlan::ErrorRate(0.01),
                GatePlan::Latency { percentile: 95, max: Duration::from_millis(500) },
                GatePlan::RejectedNodes(0),
            ],
            requests_min: 100,
            on_no_data: OnNoData::Hold,
            progress_deadline: Duration::from_secs(3600),
            final_bake: Duration::from_secs(300),
            waves: vec![Wave { name: "all".into(), regions: vec!["*".into()] }],
            cold_start_gate: false,
            on_authority_loss: OnAuthorityLoss::Hold,
            absent_max_percent: 10.0,
            slo_percent: 99.9,
            compare_alpha: 0.01,
            compare_detect: None,
            burn_rate_max: None,
        }
    }
}
