//! What the authority signs: releases, grants, timestamps. Holds the keys; knows no store and no clock.

use std::sync::{Arc, Mutex, PoisonError};

use sealane_model::envelope::Envelope;
use sealane_model::ids::{Digest, FleetId, Revision};
use sealane_model::keys::{KeyId, SigningKey};
use sealane_model::release::{Partition, Release, VerifiedRelease};
use sealane_model::timestamp::Timestamp;
use sealane_model::trust::{PlanFloor, Role, TrustRoot};
use sealane_model::verify::VerifyError;

use crate::rollout::board::Desired;
use crate::rollout::machine::GrantOrder;

/// The keys and the trust root that says what they may sign.
pub(crate) struct Signer {
    keys: Vec<SigningKey>,
    root: TrustRoot,
    /// Every root from the first one on, to bring agents up to date.
    roots: Vec<Envelope>,
    timestamp_lifetime_ms: u64,
    /// The newest timestamp document: signed once a second, not once per agent.
    newest: Mutex<Option<Signed>>,
}

struct Signed {
    desired: Arc<Desired>,
    second: u64,
    envelope: Envelope,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: Vec<KeyId> = self.keys.iter().map(|key| key.public().id()).collect();
        f.debug_struct("Signer").field("keys", &ids).finish_non_exhaustive()
    }
}

impl Signer {
    /// `roots` begin with version 1; `root` is the last of them.
    pub(crate) fn new(
        keys: Vec<SigningKey>,
        root: TrustRoot,
        roots: Vec<Envelope>,
        timestamp_lifetime_ms: u64,
    ) -> Self {
        Self { keys, root, roots, timestamp_lifetime_ms, newest: Mutex::new(None) }
    }

    pub(crate) fn fleet(&self) -> &FleetId {
        self.root.fleet()
    }

    pub(crate) fn plan_floor(&self) -> &PlanFloor {
        &self.root.document().plan_floor
    }

    pub(crate) fn root_version(&self) -> u32 {
        self.root.document().version
    }

    /// Trust roots above a version, in order.
    pub(crate) fn roots_above(&self, version: u32) -> &[Envelope] {
        self.roots.get(version as usize..).unwrap_or_default()
    }

    /// Signs a release with every key of the role that is here, and checks that this is enough.
    pub(crate) fn release(&self, release: &Release) -> Result<VerifiedRelease, VerifyError> {
        let envelope = release.sign(&self.keys_of(Role::Release));
        self.root.verify_release(&envelope)
    }

    /// Checks a stored release.
    pub(crate) fn verify_release(&self, envelope: &Envelope) -> Result<VerifiedRelease, VerifyError> {
        self.root.verify_release(envelope)
    }

    /// Signs the grants of a stage.
    pub(crate) fn grant(&self, order: &GrantOrder) -> Envelope {
        let number = |index: usize| u32::try_from(index).unwrap_or(u32::MAX);
        let grant = sealane_model::grant::Grant {
            fleet: self.fleet().clone(),
            epoch: order.epoch,
            revision: order.revision,
            release_digest: order.digest,
            wave: number(order.opened.wave),
            stage: number(order.opened.stage),
            cut: order.opened.cut,
            regions: order.opened.regions.clone(),
            sequence: order.opened.sequence,
            not_after_unix_ms: signed(order.not_after_ms),
            proxy: match order.opened.cohort.first() {
                Some(only) if order.opened.cohort.len() == 1 => Some(only.clone()),
                _ => None,
            },
        };
        grant.sign(&self.keys_of(Role::Timestamp))
    }

    /// The timestamp document that goes with a desired state, at most a second old.
    pub(crate) fn timestamp(&self, desired: &Arc<Desired>, now_ms: u64) -> Envelope {
        let second = now_ms / 1000;
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(signed) = &*newest
            && Arc::ptr_eq(&signed.desired, desired)
            && signed.second == second
        {
            return signed.envelope.clone();
        }
        let timestamp = Timestamp {
            fleet: self.fleet().clone(),
            epoch: desired.epoch,
            heads: heads(desired),
            time_unix_ms: signed(second * 1000),
            expires_unix_ms: signed(second * 1000 + self.timestamp_lifetime_ms),
            grant_sequence_min: desired.sequence_min,
            root_version: self.root_version(),
            audit_head: desired.audit_head.clone(),
        };
        let envelope = timestamp.sign(&self.keys_of(Role::Timestamp));
        *newest = Some(Signed { desired: Arc::clone(desired), second, envelope: envelope.clone() });
        envelope
    }

    fn keys_of(&self, role: Role) -> Vec<&SigningKey> {
        let document = self.root.document();
        let ids = document.roles.iter().find(|one| one.role == role).map(|one| one.key_ids.as_slice());
        let ids = ids.unwrap_or_default();
        self.keys.iter().filter(|key| ids.contains(&key.public().id())).collect()
    }
}

/// The newest revision of each partition that has one.
fn heads(desired: &Desired) -> Vec<(Partition, Revision, Digest)> {
    let config = desired.head.map(|(revision, digest)| (Partition::Config, revision, digest));
    let sandbox = desired.sandbox.as_ref().map(|head| (Partition::Sandbox, head.revision, head.digest));
    config.into_iter().chain(sandbox).collect()
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}
