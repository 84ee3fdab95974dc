//! Why a signed document or its content was refused. One error type, so that agent and proxy count the same codes.
//!
//! It does not know who refused nor what follows; every refusal leaves state as it was.

use thiserror::Error;

use crate::ids::{Digest, Epoch, FleetId, Revision};
use crate::plan::PlanError;

/// Why a document or its content was refused. Nothing was changed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum VerifyError {
    /// Above a cap, before any signature work.
    #[error("{what} has {bytes} bytes, more than the {max} allowed")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size, or what is known of it.
        bytes: u64,
        /// The cap.
        max: u64,
    },
    /// More of something than a cap allows, before any signature work.
    #[error("{count} {what}, more than the {max} allowed")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        count: u64,
        /// The cap.
        max: u64,
    },
    /// Not the protobuf or JSON it claims to be, or a field is out of range.
    #[error("malformed {what}")]
    Malformed {
        /// The document, and the field where one is to blame.
        what: &'static str,
    },
    /// Another payload type than asked for.
    #[error("payload type `{offered}` where `{expected}` is due")]
    WrongType {
        /// As received, shortened.
        offered: String,
        /// See [`crate::envelope::PayloadType::as_str`].
        expected: &'static str,
    },
    /// No signature at all.
    #[error("{what} carries no signature")]
    Unsigned {
        /// The document.
        what: &'static str,
    },
    /// Fewer distinct trusted keys than the role's threshold signed it.
    #[error("{what} is signed by {valid} of {threshold} keys of role {role}")]
    ThresholdNotMet {
        /// The document.
        what: &'static str,
        /// Whose keys were asked.
        role: &'static str,
        /// Distinct keys of the role with a valid signature.
        valid: u32,
        /// How many are due.
        threshold: u32,
    },
    /// Of another fleet.
    #[error("document of fleet `{offered}` in fleet `{expected}`")]
    WrongFleet {
        /// The document's.
        offered: FleetId,
        /// The trust root's.
        expected: FleetId,
    },
    /// Below the floor.
    #[error("revision {offered} (epoch {offered_epoch}) is below the floor {floor} (epoch {floor_epoch})")]
    RevisionTooOld {
        /// The release's.
        offered: Revision,
        /// The release's.
        offered_epoch: Epoch,
        /// Newest accepted.
        floor: Revision,
        /// Of the newest accepted.
        floor_epoch: Epoch,
    },
    /// The number of the floor with other content.
    #[error("revision {revision} was accepted with another digest")]
    SameRevisionDifferentDigest {
        /// The number that two releases claim.
        revision: Revision,
    },
    /// More than a million above the floor.
    #[error("revision {offered} is absurdly far above the floor {floor}")]
    RevisionTooHigh {
        /// The release's.
        offered: Revision,
        /// Newest accepted.
        floor: Revision,
    },
    /// More than a thousand epochs above the floor.
    #[error("epoch {offered} is absurdly far above the floor's epoch {floor}")]
    EpochTooHigh {
        /// The release's.
        offered: Epoch,
        /// Of the newest accepted.
        floor: Epoch,
    },
    /// The trust root does not allow that epoch.
    #[error("epoch {offered} is not allowed by the trust root, which allows epochs up to {allowed}")]
    EpochNotAllowed {
        /// The release's.
        offered: Epoch,
        /// The root's.
        allowed: Epoch,
    },
    /// Needs something this build cannot do.
    #[error("needs capability `{capability}`, which this build does not have")]
    MissingCapability {
        /// As the release names it.
        capability: String,
    },
    /// Needs another config schema.
    #[error("needs config schema {min} to {max}, this build reads {ours}")]
    SchemaOutOfRange {
        /// Least that reads it as meant.
        min: u32,
        /// Newest that reads it as meant.
        max: u32,
        /// [`crate::release::SCHEMA`]
        ours: u32,
    },
    /// Its rollout plan makes no sense.
    #[error("refused rollout plan")]
    Plan(#[from] PlanError),
    /// Bytes that do not hash to the digest that was signed.
    #[error("{what} has digest {actual}, {expected} was signed")]
    WrongDigest {
        /// Manifest, chunk or resource.
        what: &'static str,
        /// Signed.
        expected: Digest,
        /// Of the bytes offered.
        actual: Digest,
    },
    /// Bytes of another length than was signed.
    #[error("{what} has {actual} bytes, {expected} were signed")]
    WrongLength {
        /// Manifest, chunk or resource.
        what: &'static str,
        /// Signed.
        expected: u64,
        /// Of the bytes offered.
        actual: u64,
    },
    /// Names not strictly ascending.
    #[error("manifest names are not strictly ascending at `{name}`")]
    UnsortedManifest {
        /// The first that is not above the one before.
        name: String,
    },
    /// A chunk or manifest is not there.
    #[error("{what} {digest} is missing")]
    Missing {
        /// Manifest or chunk.
        what: &'static str,
        /// Its name.
        digest: Digest,
    },
    /// A root that does not follow the one that is trusted.
    #[error("trust root version {offered} does not follow version {trusted}")]
    RootNotNext {
        /// The document's.
        offered: u32,
        /// The one in force.
        trusted: u32,
    },
    /// An older timestamp document than one seen.
    #[error("timestamp document is older than one seen before")]
    TimestampRolledBack,
    /// The audit log does not lead from a head that was seen to the newest one.
    #[error("the audit log was cut or rewritten: it does not lead from what was seen of it before to its newest head")]
    AuditRewritten,
    /// A grant for something else, or one that is void.
    #[error("grant refused: {why}")]
    GrantRefused {
        /// One clause.
        why: &'static str,
    },
    /// The plan floor forbids it.
    #[error("the plan floor forbids it: {why}")]
    BelowPlanFloor {
        /// One clause.
        why: &'static str,
    },
}

impl VerifyError {
    /// Stable code for metrics and reports, lower snake case.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::TooMany { .. } => "too_many",
            Self::Malformed { .. } => "malformed",
            Self::WrongType { .. } => "wrong_type",
            Self::Unsigned { .. } => "unsigned",
            Self::ThresholdNotMet { .. } => "threshold_not_met",
            Self::WrongFleet { .. } => "wrong_fleet",
            Self::RevisionTooOld { .. } => "revision_too_old",
            Self::SameRevisionDifferentDigest { .. } => "same_revision_different_digest",
            Self::RevisionTooHigh { .. } => "revision_too_high",
            Self::EpochTooHigh { .. } => "epoch_too_high",
            Self::EpochNotAllowed { .. } => "epoch_not_allowed",
            Self::MissingCapability { .. } => "missing_capability",
            Self::SchemaOutOfRange { .. } => "schema_out_of_range",
            Self::Plan(_) => "plan_refused",
            Self::WrongDigest { .. } => "wrong_digest",
            Self::WrongLength { .. } => "wrong_length",
            Self::UnsortedManifest { .. } => "unsorted_manifest",
            Self::Missing { .. } => "missing",
            Self::RootNotNext { .. } => "root_not_next",
            Self::TimestampRolledBack => "timestamp_rolled_back",
            Self::AuditRewritten => "audit_rewritten",
            Self::GrantRefused { .. } => "grant_refused",
            Self::BelowPlanFloor { .. } => "below_plan_floor",
        }
    }
}
