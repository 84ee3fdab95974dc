//! The plan floor of the trust root: the least care that this agent insists on, whatever the authority asks for.
//!
//! Pure. With the easy default root there is no floor and everything here passes. The pace of the stages is kept by the
//! rollout machine, which has the clock.

use sealane_model::plan::Plan;
use sealane_model::release::{ChangeClass, VerifiedRelease};
use sealane_model::trust::PlanFloor;
use sealane_model::verify::VerifyError;

use crate::ledger::State;

/// Whether `release` may be rolled out here under the floor of the trust root in `state`.
pub(crate) fn check_release(state: &State, release: &VerifiedRelease) -> Result<(), VerifyError> {
    let floor = &state.trust().document().plan_floor;
    if *floor == PlanFloor::default() {
        return Ok(());
    }
    let statement = release.release();
    let class = statement.change_class;
    if !floor.change_classes.is_empty() && !floor.change_classes.contains(&class) {
        return Err(VerifyError::BelowPlanFloor { why: "its change class is not allowed" });
    }
    match class {
        ChangeClass::Revert => check_revert(state, release),
        ChangeClass::Sandbox => {
            Err(VerifyError::BelowPlanFloor { why: "a config revision is not of the sandbox class" })
        }
        ChangeClass::Standard | ChangeClass::Expedited => check_plan(floor, &statement.plan),
    }
}

/// A revert skips the stages, so its content must be what already was last good here.
fn check_revert(state: &State, release: &VerifiedRelease) -> Result<(), VerifyError> {
    let content = release.release().manifest_digest;
    let was_good = state
        .ring
        .iter()
        .filter_map(|digest| state.release(digest))
        .any(|held| held.release().manifest_digest == content);
    if was_good {
        return Ok(());
    }
    Err(VerifyError::BelowPlanFloor { why: "a revert may only bring back what was last good here" })
}

fn check_plan(floor: &PlanFloor, plan: &Plan) -> Result<(), VerifyError> {
    let before_all: Vec<_> = plan.stages.iter().filter(|stage| stage.fleet_percent < 100.0).collect();
    if before_all.len() < floor.stages_min as usize {
        return Err(VerifyError::BelowPlanFloor { why: "it has too few stages before 100 %" });
    }
    if before_all.iter().any(|stage| stage.bake < floor.bake_min) {
        return Err(VerifyError::BelowPlanFloor { why: "a stage bakes too short" });
    }
    let first = plan.stages.first().map_or(100.0, |stage| stage.fleet_percent);
    if floor.first_share_max_bp.is_some_and(|max| first * 100.0 > f64::from(max)) {
        return Err(VerifyError::BelowPlanFloor { why: "its first stage is too large" });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
