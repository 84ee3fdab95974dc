//! What is rolled out: the facts of a verified release that the machine needs.

use std::sync::Arc;

use sealane_model::ids::{Digest, Epoch, ProxyId, Revision};
use sealane_model::plan::{EXPEDITED_BAKE_DIVISOR, Plan};
use sealane_model::release::{ChangeClass, VerifiedRelease};

/// What is rolled out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Subject {
    pub(crate) revision: Revision,
    pub(crate) epoch: Epoch,
    /// Release digest.
    pub(crate) digest: Digest,
    /// With the bakes of its class.
    pub(crate) plan: Plan,
    pub(crate) class: ChangeClass,
    pub(crate) author: String,
    pub(crate) message: String,
}

impl Subject {
    /// Of a release.
    pub(crate) fn of(release: &VerifiedRelease) -> Arc<Self> {
        let statement = release.release();
        let mut plan = statement.plan.clone();
        if statement.change_class == ChangeClass::Expedited {
            for stage in &mut plan.stages {
                stage.bake /= EXPEDITED_BAKE_DIVISOR;
            }
            plan.final_bake /= EXPEDITED_BAKE_DIVISOR;
        }
        Arc::new(Self {
            revision: statement.revision,
            epoch: statement.epoch,
            digest: release.digest(),
            plan,
            class: statement.change_class,
            author: statement.author.clone(),
            message: statement.message.clone(),
        })
    }

    /// A proxy's place in the order in which stages take proxies.
    pub(crate) fn rank(&self, proxy: &ProxyId) -> u64 {
        sealane_model::cohort::rank(&self.digest, proxy)
    }

    /// Regions of a wave as a grant names them. The last wave also takes the regions that no wave names, so that nobody
    /// is left behind.
    pub(crate) fn regions(&self, wave: usize) -> Vec<String> {
        let waves = &self.plan.waves;
        if wave + 1 >= waves.len() {
            return vec!["*".to_owned()];
        }
        waves[wave].regions.clone()
    }

    /// See [`wave_of`].
    pub(crate) fn wave_of(&self, region: &str) -> usize {
        wave_of(&self.plan, region)
    }
}

/// The wave that takes a region: the first that names it or says `*`, else the last.
pub(crate) fn wave_of(plan: &Plan, region: &str) -> usize {
    let takes = |one: &String| one == "*" || one == region;
    let position = plan.waves.iter().position(|wave| wave.regions.iter().any(takes));
    position.unwrap_or(plan.waves.len().saturating_sub(1))
}
