//! The trust root: who may sign what.
//!
//! It does not know time, files or what was accepted before. The first root comes from a file that a person trusts, the
//! next ones from anywhere. Invariants: a [`TrustRoot`] met its own root threshold; a signature counts once per key,
//! whatever key id stands beside it; a payload is parsed only after its signatures met the role's threshold (the pinned
//! root, which vouches for itself, is the one exception).

use std::time::Duration;

use crate::envelope::{Envelope, PayloadType};
use crate::ids::{Epoch, FleetId};
use crate::keys::{KeyId, PublicKey, SigningKey};
use crate::release::{ChangeClass, Release};
use crate::verify::VerifyError;

pub mod chain;
mod wire;

/// What a key may sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Trust roots and the plan floor.
    Root,
    /// Releases.
    Release,
    /// Timestamps and grants.
    Timestamp,
}

/// The content of a trust root document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootDocument {
    /// Its fleet.
    pub fleet: FleetId,
    /// 1, 2, 3, …
    pub version: u32,
    /// Distinct; at most [`KEYS_MAX`].
    pub keys: Vec<RootKey>,
    /// One entry for each [`Role`].
    pub roles: Vec<RoleKeys>,
    /// What agents insist on.
    pub plan_floor: PlanFloor,
    /// Unix time in milliseconds.
    pub created_at_unix_ms: i64,
    /// Releases of a later epoch are refused, so that a stolen release key cannot skip numbers; `None`: any epoch goes.
    pub epoch_max: Option<Epoch>,
}

/// A key of the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootKey {
    /// The key.
    pub key: PublicKey,
    /// Held outside the authority.
    pub offline: bool,
    /// For people.
    pub comment: String,
}

/// A role's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleKeys {
    /// The role.
    pub role: Role,
    /// Distinct, all in [`RootDocument::keys`].
    pub key_ids: Vec<KeyId>,
    /// At least 1, at most the number of keys.
    pub threshold: u32,
}

/// The least care that agents insist on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanFloor {
    /// Stages before 100 %.
    pub stages_min: u32,
    /// Each bake.
    pub bake_min: Duration,
    /// Largest first share in hundredths of a percent, at least 1; `None`: no bound.
    pub first_share_max_bp: Option<u32>,
    /// Allowed classes; empty: all.
    pub change_classes: Vec<ChangeClass>,
}

/// A trust root whose signatures were verified. Only [`TrustRoot::pinned`] and [`TrustRoot::next`] make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustRoot {
    document: RootDocument,
    envelope: Envelope,
}

/// Most keys in a trust root: bounds the work of verifying an envelope.
pub const KEYS_MAX: usize = 32;

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Root, Self::Release, Self::Timestamp];

    /// `root`, `release` or `timestamp`, as in the document.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Release => "release",
            Self::Timestamp => "timestamp",
        }
    }
}

impl RootDocument {
    /// The easy default: one key for every role, threshold 1, no plan floor.
    #[must_use]
    pub fn single_key(fleet: FleetId, key: &PublicKey, created_at_unix_ms: i64) -> Self {
        Self {
            fleet,
            version: 1,
            keys: vec![RootKey { key: key.clone(), offline: false, comment: String::new() }],
            roles: Role::ALL.map(|role| RoleKeys { role, key_ids: vec![key.id()], threshold: 1 }).into(),
            plan_floor: PlanFloor::default(),
            created_at_unix_ms,
            epoch_max: None,
        }
    }

    /// Encodes and signs it. What makes no sense is refused by every reader, see [`TrustRoot::pinned`].
    #[must_use]
    pub fn sign(&self, keys: &[&SigningKey]) -> Envelope {
        Envelope::sign(PayloadType::Root, wire::encode(self), keys)
    }

    /// Reads a document of which nobody checked the signatures: what a person looks at before signing.
    ///
    /// # Errors
    /// What makes no sense; see [`TrustRoot::pinned`].
    pub fn claimed(envelope: &Envelope) -> Result<Self, VerifyError> {
        envelope.check_caps()?;
        wire::decode(&envelope.payload)
    }

    /// The keys of `role` that signed `envelope`, each once, and how many are due. Says nothing about what was signed:
    /// for showing how far an envelope is.
    #[must_use]
    pub fn signers_of(&self, envelope: &Envelope, role: Role) -> (Vec<KeyId>, u32) {
        let trusted = self.roles.iter().find(|one| one.role == role).filter(|_| envelope.check_caps().is_ok());
        trusted.map_or((Vec::new(), 0), |trusted| (self.signers(trusted, envelope), trusted.threshold))
    }

    /// Checks caps, type and that distinct keys of `role` meet its threshold. The payload stays unparsed.
    fn verify(&self, envelope: &Envelope, payload_type: PayloadType, role: Role) -> Result<(), VerifyError> {
        let what = payload_type.noun();
        envelope.check_caps()?;
        if envelope.payload_type != payload_type.as_str() {
            let offered = envelope.payload_type.chars().take(100).collect();
            return Err(VerifyError::WrongType { offered, expected: payload_type.as_str() });
        }
        if envelope.signatures.is_empty() {
            return Err(VerifyError::Unsigned { what });
        }
        let Some(trusted) = self.roles.iter().find(|one| one.role == role) else {
            return Err(VerifyError::Malformed { what: "trust root: a role is missing" });
        };
        let valid = u32::try_from(self.signers(trusted, envelope).len()).unwrap_or(u32::MAX);
        if valid < trusted.threshold {
            let threshold = trusted.threshold;
            return Err(VerifyError::ThresholdNotMet { what, role: role.as_str(), valid, threshold });
        }
        Ok(())
    }

    /// Distinct keys of the role that signed. The envelope's key ids only say which key to try first.
    fn signers(&self, trusted: &RoleKeys, envelope: &Envelope) -> Vec<KeyId> {
        let message = envelope.signed_bytes();
        let mut untried: Vec<(KeyId, &PublicKey)> = self
            .keys
            .iter()
            .map(|one| (one.key.id(), &one.key))
            .filter(|(id, _)| trusted.key_ids.contains(id))
            .collect();
        let mut valid = Vec::new();
        for signature in &envelope.signatures {
            untried.sort_by_key(|(id, _)| *id != signature.key_id);
            // A key that has signed is taken out: it cannot count again.
            if let Some(at) = untried.iter().position(|(_, key)| key.signed(&message, &signature.bytes)) {
                valid.push(untried.remove(at).0);
            }
        }
        valid
    }
}

impl TrustRoot {
    /// Accepts a root that came by a trusted way (`--trust FILE`): it must meet its own root threshold.
    ///
    /// Refused also: no fleet, version 0, a key that is weak or given twice, a role that is missing, given twice, without
    /// keys of the document, or with a threshold outside 1 to its number of keys.
    pub fn pinned(envelope: &Envelope) -> Result<Self, VerifyError> {
        envelope.check_caps()?;
        if envelope.payload_type != PayloadType::Root.as_str() {
            let offered = envelope.payload_type.chars().take(100).collect();
            return Err(VerifyError::WrongType { offered, expected: PayloadType::Root.as_str() });
        }
        let document = wire::decode(&envelope.payload)?;
        document.verify(envelope, PayloadType::Root, Role::Root)?;
        Ok(Self { document, envelope: envelope.clone() })
    }

    /// Accepts version N+1 of the same fleet, signed by the root thresholds of N and of N+1.
    pub fn next(&self, envelope: &Envelope) -> Result<Self, VerifyError> {
        self.document.verify(envelope, PayloadType::Root, Role::Root)?;
        let document = wire::decode(&envelope.payload)?;
        self.check_fleet(&document.fleet)?;
        let trusted = self.document.version;
        if trusted.checked_add(1) != Some(document.version) {
            return Err(VerifyError::RootNotNext { offered: document.version, trusted });
        }
        document.verify(envelope, PayloadType::Root, Role::Root)?;
        Ok(Self { document, envelope: envelope.clone() })
    }

    /// As [`RootDocument::signers_of`].
    #[must_use]
    pub fn signers(&self, envelope: &Envelope, role: Role) -> (Vec<KeyId>, u32) {
        self.document.signers_of(envelope, role)
    }

    /// What it says.
    #[must_use]
    pub fn document(&self) -> &RootDocument {
        &self.document
    }

    /// What was signed, to store and pass on.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// Its fleet.
    #[must_use]
    pub fn fleet(&self) -> &FleetId {
        &self.document.fleet
    }

    /// The payload of a document that `role`'s keys signed as a `payload_type`: the only way to parse one.
    pub(crate) fn signed_payload<'e>(
        &self,
        envelope: &'e Envelope,
        payload_type: PayloadType,
        role: Role,
    ) -> Result<&'e [u8], VerifyError> {
        self.document.verify(envelope, payload_type, role)?;
        Ok(&envelope.payload)
    }

    /// Refuses an epoch that the root does not allow yet.
    pub(crate) fn check_epoch(&self, offered: Epoch) -> Result<(), VerifyError> {
        match self.document.epoch_max {
            Some(allowed) if offered > allowed => Err(VerifyError::EpochNotAllowed { offered, allowed }),
            _ => Ok(()),
        }
    }

    /// Refuses a document of another fleet.
    pub(crate) fn check_fleet(&self, offered: &FleetId) -> Result<(), VerifyError> {
        if offered == self.fleet() {
            return Ok(());
        }
        Err(VerifyError::WrongFleet { offered: offered.clone(), expected: self.fleet().clone() })
    }
}

impl PlanFloor {
    /// Whether a release that is not the first and not in the agent's own ring is careful enough: class, stages, bakes,
    /// first share. Classes `sandbox` and `revert` have no stages; whether they may be used here is also up to the
    /// agent's own diff and ring.
    ///
    /// Source: design page "Control plane", Plan floor.
    pub fn admit(&self, release: &Release) -> Result<(), VerifyError> {
        let refuse = |why| Err(VerifyError::BelowPlanFloor { why });
        if !self.change_classes.is_empty() && !self.change_classes.contains(&release.change_class) {
            return refuse("its change class is not allowed");
        }
        let bake_divisor = match release.change_class {
            ChangeClass::Standard => 1,
            ChangeClass::Expedited => crate::plan::EXPEDITED_BAKE_DIVISOR,
            ChangeClass::Sandbox | ChangeClass::Revert => return Ok(()),
        };
        let early: Vec<_> = release.plan.stages.iter().filter(|stage| stage.fleet_percent < 100.0).collect();
        if early.len() < self.stages_min as usize {
            return refuse("too few stages before 100 %");
        }
        if early.iter().any(|stage| stage.bake / bake_divisor < self.bake_min) {
            return refuse("a bake is too short");
        }
        let first_bp = release.plan.stages.first().map_or(0.0, |stage| stage.fleet_percent * 100.0);
        if self.first_share_max_bp.is_some_and(|max| first_bp > f64::from(max)) {
            return refuse("its first share is too large");
        }
        Ok(())
    }
}
