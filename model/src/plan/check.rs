//! What makes a plan sound. The parser says it better, with lines; this is the last word, on what came over the wire.

use std::time::Duration;

use super::{
    DETECT_MAX, DETECT_MIN, DURATION_MAX, GATES_MAX, GatePlan, Plan, PlanError, REGIONS_MAX, STAGES_MAX, WAVES_MAX,
};

/// Longest name of a stage, wave or region, in bytes.
const NAME_BYTES_MAX: usize = 200;

impl Plan {
    /// Refuses what makes no sense: shares that do not rise to 100, numbers that are not finite or out of range, too much
    /// of anything, names twice.
    pub fn check(&self) -> Result<(), PlanError> {
        self.check_stages()?;
        self.check_waves()?;
        if self.gates.len() > GATES_MAX {
            return Err(PlanError::GateCount { count: self.gates.len() });
        }
        self.gates.iter().try_for_each(check_gate)?;
        let durations = [("progress_deadline", self.progress_deadline), ("final_bake", self.final_bake)];
        durations.into_iter().try_for_each(|(field, duration)| check_duration(field, duration))?;
        let alpha = self.compare_alpha > 0.0 && self.compare_alpha < 1.0;
        // At 100 there is no error budget to burn.
        let budget = self.burn_rate_max.is_none() || self.slo_percent < 100.0;
        let numbers = [
            ("absent_max_percent", (0.0..=100.0).contains(&self.absent_max_percent)),
            ("slo_percent", self.slo_percent > 0.0 && self.slo_percent <= 100.0 && budget),
            ("compare_alpha", alpha),
            ("compare_detect", self.compare_detect.is_none_or(|ratio| (DETECT_MIN..=DETECT_MAX).contains(&ratio))),
            ("burn_rate_max", self.burn_rate_max.is_none_or(|max| max.is_finite() && max > 0.0)),
        ];
        match numbers.into_iter().find(|(_, sound)| !sound) {
            Some((field, _)) => Err(PlanError::OutOfRange { field }),
            None => Ok(()),
        }
    }

    fn check_stages(&self) -> Result<(), PlanError> {
        let count = self.stages.len();
        if count == 0 || count > STAGES_MAX {
            return Err(PlanError::StageCount { count });
        }
        check_names(self.stages.iter().map(|stage| stage.name.as_str()))?;
        let mut before = 0.0;
        for (index, stage) in self.stages.iter().enumerate() {
            let percent = stage.fleet_percent;
            let last = index + 1 == count;
            // A NaN fails every comparison, so it fails here.
            let sound = percent > before && if last { percent == 100.0 } else { percent < 100.0 };
            if !sound {
                return Err(PlanError::Share { stage: stage.name.clone(), percent: percent.to_string() });
            }
            before = percent;
            check_duration("bake", stage.bake)?;
        }
        Ok(())
    }

    fn check_waves(&self) -> Result<(), PlanError> {
        if self.waves.is_empty() || self.waves.len() > WAVES_MAX {
            return Err(PlanError::Waves);
        }
        check_names(self.waves.iter().map(|wave| wave.name.as_str()))?;
        for wave in &self.waves {
            if wave.regions.is_empty() || wave.regions.len() > REGIONS_MAX {
                return Err(PlanError::Waves);
            }
            check_names(wave.regions.iter().map(String::as_str))?;
        }
        Ok(())
    }
}

fn check_names<'n>(names: impl Iterator<Item = &'n str> + Clone) -> Result<(), PlanError> {
    for (index, name) in names.clone().enumerate() {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || names.clone().take(index).any(|other| other == name) {
            return Err(PlanError::Name { name: name.chars().take(NAME_BYTES_MAX).collect() });
        }
    }
    Ok(())
}

fn check_gate(gate: &GatePlan) -> Result<(), PlanError> {
    let sound = match gate {
        GatePlan::ErrorRate(limit) => (0.0..=1.0).contains(limit),
        GatePlan::Latency { percentile, max } => [50, 95, 99].contains(percentile) && *max <= DURATION_MAX,
        GatePlan::RejectedNodes(_) => true,
    };
    if sound { Ok(()) } else { Err(PlanError::Gate { gate: gate.metric() }) }
}

fn check_duration(field: &'static str, duration: Duration) -> Result<(), PlanError> {
    if duration <= DURATION_MAX { Ok(()) } else { Err(PlanError::OutOfRange { field }) }
}
