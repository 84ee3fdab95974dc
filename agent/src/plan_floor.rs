//! The plan floor of the trust root: the least care that this agent insists on, whatever the authority asks for.
//!
//! Pure. What the floor asks of any release is the model's to say ([`PlanFloor::admit`]); what depends on this agent's own
//! past is said here. With the easy default root there is no floor and everything here passes. The pace of the stages is kept by the
//! rollout machine, which has the clock.

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
    floor.admit(release.release())?;
    match release.release().change_class {
        ChangeClass::Revert => check_revert(state, release),
        ChangeClass::Sandbox => {
            Err(VerifyError::BelowPlanFloor { why: "a config revision is not of the sandbox class" })
        }
        ChangeClass::Standard | ChangeClass::Expedited => Ok(()),
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

#[cfg(test)]
mod tests;
