//! The release statement: the payload that names one revision of one fleet.
//!
//! It does not know the content beyond its manifest's digest, nor what a ledger holds. Releases come from the authority
//! through any hands. Invariant B1: a [`VerifiedRelease`] is what distinct trusted keys signed, byte for byte.

use crate::bundle::Resource;
use crate::envelope::{Envelope, PayloadType};
use crate::ids::{Digest, Epoch, FleetId, Revision};
use crate::keys::SigningKey;
use crate::plan::Plan;
use crate::trust::{Role, TrustRoot};
use crate::verify::VerifyError;

pub(crate) mod wire;

/// A line of revisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Partition {
    /// The config file.
    Config,
    /// The sandbox routes.
    Sandbox,
}

/// How careful a change has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeClass {
    /// All stages, all gates.
    Standard,
    /// Shorter bakes, same guards.
    Expedited,
    /// Straight to all; only sandbox routes differ.
    Sandbox,
    /// Earlier content again, straight to all, no gates.
    Revert,
}

/// What a release says.
#[derive(Clone, Debug, PartialEq)]
pub struct Release {
    /// Its fleet.
    pub fleet: FleetId,
    /// Orders first.
    pub epoch: Epoch,
    /// Orders second.
    pub revision: Revision,
    /// Its line.
    pub partition: Partition,
    /// Of the manifest's bytes.
    pub manifest_digest: Digest,
    /// Exact.
    pub manifest_bytes: u64,
    /// Release digest of what was last good; `None`: the first.
    pub base: Option<Digest>,
    /// What a reader must be able to do; see [`CAPABILITIES`].
    pub capabilities: Vec<String>,
    /// Least config schema.
    pub schema_min: u32,
    /// Newest config schema.
    pub schema_max: u32,
    /// How it reaches the fleet.
    pub plan: Plan,
    /// How careful that is.
    pub change_class: ChangeClass,
    /// Who asked.
    pub author: String,
    /// Why.
    pub message: String,
    /// Unix time in milliseconds.
    pub created_at_unix_ms: i64,
    /// Program and version.
    pub producer: String,
}

/// Config schema that this build reads.
pub const SCHEMA: u32 = 1;
/// What this build can do.
pub const CAPABILITIES: &[&str] = &["config.v1"];

/// A release whose signatures met the threshold. Only [`TrustRoot::verify_release`] makes one.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifiedRelease {
    release: Release,
    digest: Digest,
    envelope: Envelope,
}

impl Release {
    /// Encodes and signs it.
    #[must_use]
    pub fn sign(&self, keys: &[&SigningKey]) -> Envelope {
        Envelope::sign(PayloadType::Release, wire::encode(self), keys)
    }
}

/// A release of which nobody checked the signatures: what a person looks at before signing. Nothing else may use it.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimedRelease(VerifiedRelease);

impl ClaimedRelease {
    /// Reads type, capabilities, schema and plan; trusts nobody.
    ///
    /// # Errors
    /// What is not a release that this build reads.
    pub fn read(envelope: &Envelope) -> Result<Self, VerifyError> {
        envelope.check_caps()?;
        if envelope.payload_type != PayloadType::Release.as_str() {
            let offered = envelope.payload_type.chars().take(100).collect();
            return Err(VerifyError::WrongType { offered, expected: PayloadType::Release.as_str() });
        }
        let release = wire::decode(&envelope.payload, |_| Ok(()))?;
        let digest = Digest::of(&envelope.payload);
        Ok(Self(VerifiedRelease { release, digest, envelope: envelope.clone() }))
    }

    /// What it says.
    #[must_use]
    pub fn release(&self) -> &Release {
        &self.0.release
    }

    /// SHA-256 of the payload.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// The content that the statement names, every byte checked against its digests.
    ///
    /// # Errors
    /// As [`VerifiedRelease::open_manifest`] and [`crate::bundle::VerifiedManifest::open`].
    pub fn content(
        &self,
        manifest: &[u8],
        chunk: impl FnMut(&Digest) -> Option<Vec<u8>>,
    ) -> Result<Vec<Resource>, VerifyError> {
        Ok(self.0.open_manifest(manifest)?.open(chunk)?.resources().to_vec())
    }
}

impl VerifiedRelease {
    /// What it says.
    #[must_use]
    pub fn release(&self) -> &Release {
        &self.release
    }
    /// SHA-256 of the payload: the name of this bundle everywhere.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }
    /// What was signed, to store and pass on.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }
}

impl TrustRoot {
    /// Verifies a release: size, type, distinct keys ≥ threshold, fleet, capabilities, schema, sound plan, in this order.
    /// It does not look at the floor: see [`Floor::admit`] and [`crate::trust::PlanFloor::admit`].
    pub fn verify_release(&self, envelope: &Envelope) -> Result<VerifiedRelease, VerifyError> {
        let payload = self.signed_payload(envelope, PayloadType::Release, Role::Release)?;
        let release = wire::decode(payload, |fleet| self.check_fleet(fleet))?;
        self.check_epoch(release.epoch)?;
        Ok(VerifiedRelease { release, digest: Digest::of(payload), envelope: envelope.clone() })
    }
}

/// The newest revision accepted in a partition. Only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    /// Orders first.
    pub epoch: Epoch,
    /// Orders second.
    pub revision: Revision,
    /// Release digest of that revision.
    pub digest: Digest,
}

impl Floor {
    /// Whether `release` may be accepted above `floor` (`None`: nothing was accepted yet, so nothing is too high): newer by
    /// (epoch, revision), or the very same digest; at most [`REVISION_LEAP_MAX`] and [`EPOCH_LEAP_MAX`] above. Gives the
    /// floor after accepting. Each partition has a floor of its own.
    ///
    /// Invariant A1: the floor never falls, and one number never stands for two digests.
    pub fn admit(floor: Option<&Self>, release: &VerifiedRelease) -> Result<Self, VerifyError> {
        let Release { epoch, revision, .. } = release.release;
        let admitted = Self { epoch, revision, digest: release.digest };
        let Some(floor) = floor else { return Ok(admitted) };
        if (epoch, revision) < (floor.epoch, floor.revision) {
            return Err(VerifyError::RevisionTooOld {
                offered: revision,
                offered_epoch: epoch,
                floor: floor.revision,
                floor_epoch: floor.epoch,
            });
        }
        if (epoch, revision) == (floor.epoch, floor.revision) && admitted.digest != floor.digest {
            return Err(VerifyError::SameRevisionDifferentDigest { revision });
        }
        if revision.0.saturating_sub(floor.revision.0) > REVISION_LEAP_MAX {
            return Err(VerifyError::RevisionTooHigh { offered: revision, floor: floor.revision });
        }
        if epoch.0.saturating_sub(floor.epoch.0) > EPOCH_LEAP_MAX {
            return Err(VerifyError::EpochTooHigh { offered: epoch, floor: floor.epoch });
        }
        Ok(admitted)
    }
}

/// Most that a revision may lie above the floor: one stolen signature must not use up all numbers.
pub const REVISION_LEAP_MAX: u64 = 1_000_000;

/// Most that an epoch may lie above the floor's, for the same reason.
pub const EPOCH_LEAP_MAX: u32 = 1_000;
