//! The protobuf form, tags as in `sealane/v1/bundle.proto`.

use std::time::Duration;

use prost::Message;

use super::{GatePlan, OnAuthorityLoss, OnNoData, Plan, PlanError, Wave};

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RolloutPlan {
    #[prost(message, repeated, tag = "1")]
    stages: Vec<StagePlan>,
    #[prost(message, repeated, tag = "2")]
    gates: Vec<WireGate>,
    #[prost(uint64, tag = "3")]
    requests_min: u64,
    #[prost(string, tag = "4")]
    on_no_data: String,
    #[prost(uint64, tag = "5")]
    progress_deadline_ms: u64,
    #[prost(uint64, tag = "6")]
    final_bake_ms: u64,
    #[prost(message, repeated, tag = "7")]
    waves: Vec<WireWave>,
    #[prost(bool, tag = "8")]
    cold_start_gate: bool,
    #[prost(string, tag = "9")]
    on_authority_loss: String,
    #[prost(double, tag = "10")]
    absent_max_percent: f64,
    #[prost(double, tag = "11")]
    slo_percent: f64,
    #[prost(double, tag = "12")]
    compare_alpha: f64,
    #[prost(double, tag = "13")]
    burn_rate_max: f64,
    #[prost(double, tag = "14")]
    compare_detect: f64,
}

#[derive(Clone, PartialEq, Message)]
struct StagePlan {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(double, tag = "2")]
    fleet_percent: f64,
    #[prost(uint64, tag = "3")]
    bake_ms: u64,
}

#[derive(Clone, PartialEq, Message)]
struct WireGate {
    #[prost(string, tag = "1")]
    metric: String,
    #[prost(double, tag = "2")]
    threshold: f64,
}

#[derive(Clone, PartialEq, Message)]
struct WireWave {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, repeated, tag = "2")]
    regions: Vec<String>,
}

impl From<&Plan> for RolloutPlan {
    fn from(plan: &Plan) -> Self {
        let stage = |stage: &super::StagePlan| StagePlan {
            name: stage.name.clone(),
            fleet_percent: stage.fleet_percent,
            bake_ms: millis(stage.bake),
        };
        let gate = |gate: &GatePlan| WireGate { metric: gate.metric(), threshold: gate.threshold() };
        let wave = |wave: &Wave| WireWave { name: wave.name.clone(), regions: wave.regions.clone() };
        Self {
            stages: plan.stages.iter().map(stage).collect(),
            gates: plan.gates.iter().map(gate).collect(),
            requests_min: plan.requests_min,
            on_no_data: plan.on_no_data.as_str().to_owned(),
            progress_deadline_ms: millis(plan.progress_deadline),
            final_bake_ms: millis(plan.final_bake),
            waves: plan.waves.iter().map(wave).collect(),
            cold_start_gate: plan.cold_start_gate,
            on_authority_loss: plan.on_authority_loss.as_str().to_owned(),
            absent_max_percent: plan.absent_max_percent,
            slo_percent: plan.slo_percent,
            compare_alpha: plan.compare_alpha,
            burn_rate_max: plan.burn_rate_max.unwrap_or(0.0),
            compare_detect: plan.compare_detect.unwrap_or(0.0),
        }
    }
}

impl TryFrom<RolloutPlan> for Plan {
    type Error = PlanError;

    fn try_from(wire: RolloutPlan) -> Result<Self, PlanError> {
        let mut gates = Vec::new();
        for one in wire.gates {
            gates.push(gate(one)?);
        }
        let stage = |stage: StagePlan| super::StagePlan {
            name: stage.name,
            fleet_percent: stage.fleet_percent,
            bake: Duration::from_millis(stage.bake_ms),
        };
        let plan = Self {
            stages: wire.stages.into_iter().map(stage).collect(),
            gates,
            requests_min: wire.requests_min,
            on_no_data: OnNoData::ALL
                .into_iter()
                .find(|one| one.as_str() == wire.on_no_data)
                .ok_or(PlanError::OutOfRange { field: "on_no_data" })?,
            progress_deadline: Duration::from_millis(wire.progress_deadline_ms),
            final_bake: Duration::from_millis(wire.final_bake_ms),
            waves: wire.waves.into_iter().map(|wave| Wave { name: wave.name, regions: wave.regions }).collect(),
            cold_start_gate: wire.cold_start_gate,
            on_authority_loss: OnAuthorityLoss::ALL
                .into_iter()
                .find(|one| one.as_str() == wire.on_authority_loss)
                .ok_or(PlanError::OutOfRange { field: "on_authority_loss" })?,
            absent_max_percent: wire.absent_max_percent,
            slo_percent: wire.slo_percent,
            compare_alpha: wire.compare_alpha,
            burn_rate_max: (wire.burn_rate_max != 0.0).then_some(wire.burn_rate_max),
            compare_detect: (wire.compare_detect != 0.0).then_some(wire.compare_detect),
        };
        plan.check()?;
        Ok(plan)
    }
}

fn gate(wire: WireGate) -> Result<GatePlan, PlanError> {
    let refused = || PlanError::Gate { gate: wire.metric.chars().take(100).collect() };
    let limit = wire.threshold;
    if !limit.is_finite() || limit < 0.0 {
        return Err(refused());
    }
    let latency = |percentile| {
        // Thresholds have whole nanoseconds at most; the range is checked with the plan.
        let max = Duration::try_from_secs_f64(limit / 1e3).map_err(|_| refused())?;
        Ok(GatePlan::Latency { percentile, max })
    };
    match wire.metric.as_str() {
        "error_rate" => Ok(GatePlan::ErrorRate(limit)),
        "p50_latency" => latency(50),
        "p95_latency" => latency(95),
        "p99_latency" => latency(99),
        // Whole numbers that a double holds exactly.
        "rejected_nodes" if limit.fract() == 0.0 && limit <= 9e15 => Ok(GatePlan::RejectedNodes(limit as u64)),
        _ => Err(refused()),
    }
}

/// Whole milliseconds, as durations travel.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
