//! The sandbox partition at the agent: a revision that holds sandbox routes and nothing else goes straight to all
//! proxies. What "nothing else" means is judged here, by this agent's own reading of the content.
//!
//! It does not know proxies: they follow the ledger. Rollouts of the config neither wait for this nor are waited for.

use std::collections::BTreeMap;
use std::sync::Mutex;

use sealane_model::bundle::VerifiedBundle;
use sealane_model::envelope::Envelope;
use sealane_model::release::{ChangeClass, Floor, Partition, VerifiedRelease};
use sealane_model::sandbox::{SandboxRoute, decode};
use sealane_model::timestamp::Timestamp;
use sealane_model::trust::TrustRoot;
use sealane_model::verify::VerifyError;
use sealane_proto::v1;

use crate::ledger::State;

/// Verifies the release of a sandbox revision. `None`: it is the one that is held.
pub(crate) fn verify(
    state: &State,
    trust: &TrustRoot,
    seen: Option<&Timestamp>,
    envelope: &v1::Envelope,
) -> Result<Option<VerifiedRelease>, VerifyError> {
    let envelope = Envelope::from(envelope);
    if state.sandbox.as_ref().is_some_and(|held| held.release().envelope().payload == envelope.payload) {
        return Ok(None);
    }
    let verified = trust.verify_release(&envelope)?;
    let release = verified.release();
    if release.partition != Partition::Sandbox || release.change_class != ChangeClass::Sandbox {
        return Err(VerifyError::Malformed { what: "release: it is not of the sandbox partition" });
    }
    trust.document().plan_floor.admit(release)?;
    let head = seen.and_then(|seen| {
        let head = seen.heads.iter().find(|(partition, ..)| *partition == Partition::Sandbox);
        head.filter(|(_, revision, _)| (seen.epoch, *revision) == (release.epoch, release.revision))
    });
    if head.is_some_and(|(.., digest)| *digest != verified.digest()) {
        return Err(VerifyError::SameRevisionDifferentDigest { revision: release.revision });
    }
    Floor::admit(state.floors.get(&Partition::Sandbox), &verified)?;
    Ok(Some(verified))
}

/// Routes that were checked, so that each is checked once.
#[derive(Debug, Default)]
pub(crate) struct Checked(Mutex<BTreeMap<u64, SandboxRoute>>);

impl Checked {
    /// Whether the content is sandbox routes and nothing else, each of them sound.
    pub(crate) fn check(&self, bundle: &VerifiedBundle) -> Result<(), VerifyError> {
        let routes = decode(bundle.sandbox()?)
            .map_err(|_| VerifyError::Malformed { what: "sandbox routes: not a list of them" })?;
        let mut known = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut checked = BTreeMap::new();
        for route in routes {
            if known.get(&route.id) != Some(&route) {
                route
                    .check()
                    .map_err(|_| VerifyError::Malformed { what: "sandbox routes: one that cannot be served" })?;
            }
            checked.insert(route.id, route);
        }
        *known = checked;
        Ok(())
    }
}
