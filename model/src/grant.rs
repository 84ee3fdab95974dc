//! Grants: signed leave to activate a revision on the proxies of a stage.
//!
//! It does not know clocks nor which grants were seen; the ledger passes both in. Grants come from the authority through
//! any hands. Invariant: nothing widens without a [`VerifiedGrant`].

use crate::cohort::rank;
use crate::envelope::{Envelope, PayloadType};
use crate::ids::{Digest, Epoch, FleetId, ProxyId, Revision};
use crate::keys::SigningKey;
use crate::release::VerifiedRelease;
use crate::trust::{Role, TrustRoot};
use crate::verify::VerifyError;

mod wire;

/// Opens a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Its fleet.
    pub fleet: FleetId,
    /// Of the release.
    pub epoch: Epoch,
    /// Of the release.
    pub revision: Revision,
    /// Of the release.
    pub release_digest: Digest,
    /// Index into the plan's waves.
    pub wave: u32,
    /// Index into the plan's stages.
    pub stage: u32,
    /// Highest rank that may activate, inclusive.
    pub cut: u64,
    /// Regions it holds in; `*`: all.
    pub regions: Vec<String>,
    /// Only grows.
    pub sequence: u64,
    /// Unix time in milliseconds.
    pub not_after_unix_ms: i64,
    /// A proxy named because the cut adds it although its rank lies above the stage's share.
    pub proxy: Option<ProxyId>,
}

/// A grant whose signatures met the timestamp role's threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedGrant {
    grant: Grant,
    envelope: Envelope,
}

impl Grant {
    /// Encodes and signs it.
    #[must_use]
    pub fn sign(&self, keys: &[&SigningKey]) -> Envelope {
        Envelope::sign(PayloadType::Grant, wire::encode(self), keys)
    }
    /// Whether it lets this proxy of this region activate its release.
    #[must_use]
    pub fn covers(&self, proxy: &ProxyId, region: &str) -> bool {
        self.regions.iter().any(|one| one == "*" || one == region) && rank(&self.release_digest, proxy) <= self.cut
    }

    /// [`Self::check_for`], and refuses one that has expired at `now_unix_ms`.
    pub fn check(&self, release: &VerifiedRelease, sequence_min: u64, now_unix_ms: i64) -> Result<(), VerifyError> {
        self.check_for(release, sequence_min)?;
        if self.is_expired(now_unix_ms) {
            return Err(VerifyError::GrantRefused { why: "it has expired" });
        }
        Ok(())
    }

    /// Whether nothing new may be activated under it any more. What is active under it stays.
    #[must_use]
    pub fn is_expired(&self, now_unix_ms: i64) -> bool {
        now_unix_ms > self.not_after_unix_ms
    }

    /// Refuses a grant that is void (`sequence_min`: from the newest timestamp), or for anything but `release`: another
    /// digest, number, or a wave or stage that its plan does not have.
    pub fn check_for(&self, release: &VerifiedRelease, sequence_min: u64) -> Result<(), VerifyError> {
        let plan = &release.release().plan;
        let named = (self.epoch, self.revision) == (release.release().epoch, release.release().revision);
        let rules = [
            (named && self.release_digest == release.digest(), "it is for another release"),
            ((self.wave as usize) < plan.waves.len(), "its wave is not in the plan"),
            ((self.stage as usize) < plan.stages.len(), "its stage is not in the plan"),
            (self.sequence >= sequence_min, "it was taken back"),
        ];
        match rules.into_iter().find(|(kept, _)| !kept) {
            Some((_, why)) => Err(VerifyError::GrantRefused { why }),
            None => Ok(()),
        }
    }
}

impl VerifiedGrant {
    /// What it says.
    #[must_use]
    pub fn grant(&self) -> &Grant {
        &self.grant
    }
    /// What was signed, to store and pass on.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }
}

impl TrustRoot {
    /// Verifies type, signatures and fleet. Expiry and sequence are the ledger's to judge: they need a clock and memory.
    /// See [`Grant::check`].
    pub fn verify_grant(&self, envelope: &Envelope) -> Result<VerifiedGrant, VerifyError> {
        let grant = wire::decode(self.signed_payload(envelope, PayloadType::Grant, Role::Timestamp)?)?;
        self.check_fleet(&grant.fleet)?;
        Ok(VerifiedGrant { grant, envelope: envelope.clone() })
    }
}
