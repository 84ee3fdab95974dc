//! What the authority signs: releases, grants, timestamps. Holds the keys and the chain of trust roots; knows no store
//! and no clock.
//!
//! The newest root rules what is signed from now on; what was signed under an earlier one can be read here for ever. What
//! nodes are offered is signed once more when the root changes: [`crate::trust`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use sealane_model::envelope::Envelope;
use sealane_model::ids::{Digest, FleetId, Revision};
use sealane_model::keys::{KeyId, SigningKey};
use sealane_model::release::{ClaimedRelease, Partition, Release, VerifiedRelease};
use sealane_model::timestamp::Timestamp;
use sealane_model::trust::{PlanFloor, Role, RootDocument, TrustRoot, chain};
use sealane_model::verify::VerifyError;

use crate::rollout::board::Desired;
use crate::rollout::machine::GrantOrder;

/// The keys and the trust roots that say what they may sign.
pub(crate) struct Signer {
    fleet: FleetId,
    now: RwLock<Arc<Rooted>>,
    timestamp_lifetime_ms: u64,
    /// The newest timestamp document: signed once a second, not once per agent.
    newest: Mutex<Option<Signed>>,
    /// Timestamp documents that were signed.
    timestamps: AtomicU64,
}

/// Keys and roots as they are at one moment.
struct Rooted {
    keys: Vec<SigningKey>,
    /// Versions 1, 2, 3, …; never empty.
    roots: Vec<TrustRoot>,
}

struct Signed {
    desired: Arc<Desired>,
    second: u64,
    envelope: Envelope,
}

/// A release that was signed as far as the keys here go.
#[derive(Clone, Debug)]
pub(crate) struct Drawn {
    pub(crate) claimed: ClaimedRelease,
    pub(crate) envelope: Envelope,
    /// `None`: people must sign too.
    pub(crate) verified: Option<VerifiedRelease>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: Vec<KeyId> = self.rooted().keys.iter().map(|key| key.public().id()).collect();
        f.debug_struct("Signer").field("keys", &ids).finish_non_exhaustive()
    }
}

impl Signer {
    /// `roots` begin with version 1; the last one rules.
    ///
    /// # Errors
    /// Without a root.
    pub(crate) fn new(
        keys: Vec<SigningKey>,
        roots: Vec<TrustRoot>,
        timestamp_lifetime_ms: u64,
    ) -> Result<Self, VerifyError> {
        let newest = roots.last().ok_or(VerifyError::Malformed { what: "trust root chain" })?;
        let fleet = newest.fleet().clone();
        let now = RwLock::new(Arc::new(Rooted { keys, roots }));
        Ok(Self { fleet, now, timestamp_lifetime_ms, newest: Mutex::new(None), timestamps: AtomicU64::new(0) })
    }

    /// From now on `root`, the next one, rules, with `keys`.
    pub(crate) fn rotate(&self, keys: Vec<SigningKey>, root: TrustRoot) {
        let mut roots = self.rooted().roots.clone();
        roots.push(root);
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Rooted { keys, roots });
    }

    pub(crate) fn fleet(&self) -> &FleetId {
        &self.fleet
    }

    pub(crate) fn plan_floor(&self) -> PlanFloor {
        self.root().document().plan_floor.clone()
    }

    /// The trust root that rules.
    pub(crate) fn root(&self) -> TrustRoot {
        self.rooted().newest().clone()
    }

    /// Every trust root, oldest first.
    pub(crate) fn roots(&self) -> Vec<TrustRoot> {
        self.rooted().roots.clone()
    }

    /// Ids of the keys that are here.
    pub(crate) fn held(&self) -> Vec<KeyId> {
        self.rooted().keys.iter().map(|key| key.public().id()).collect()
    }

    pub(crate) fn root_version(&self) -> u32 {
        self.rooted().newest().document().version
    }

    /// Trust roots above a version up to another, in order.
    pub(crate) fn roots_between(&self, above: u32, up_to: u32) -> Vec<Envelope> {
        let rooted = self.rooted();
        let wanted = rooted.roots.iter().filter(|root| (above + 1..=up_to).contains(&root.document().version));
        wanted.map(|root| root.envelope().clone()).collect()
    }

    /// Signs a root document with every root key that is here, those of the newest root and its own.
    pub(crate) fn sign_root(&self, document: &RootDocument, more: &[SigningKey]) -> Envelope {
        let rooted = self.rooted();
        let may = |document: &RootDocument, key: &SigningKey| {
            let id = key.public().id();
            document.roles.iter().any(|one| one.role == Role::Root && one.key_ids.contains(&id))
        };
        let before = rooted.newest().document();
        let keys: Vec<&SigningKey> =
            rooted.keys.iter().chain(more).filter(|key| may(before, key) || may(document, key)).collect();
        document.sign(&keys)
    }

    /// Signs a release with every key of the role that is here.
    ///
    /// # Errors
    /// A release that no signature would make good.
    pub(crate) fn release(&self, release: &Release) -> Result<Drawn, VerifyError> {
        let rooted = self.rooted();
        let envelope = release.sign(&rooted.keys_of(Role::Release));
        let claimed = ClaimedRelease::read(&envelope)?;
        let verified = match rooted.newest().verify_release(&envelope) {
            Ok(verified) => Some(verified),
            Err(VerifyError::ThresholdNotMet { .. } | VerifyError::Unsigned { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(Drawn { claimed, envelope, verified })
    }

    /// Checks a stored release: against any root that ruled once.
    pub(crate) fn verify_release(&self, envelope: &Envelope) -> Result<VerifiedRelease, VerifyError> {
        chain::verify_kept(&self.rooted().roots, |root| root.verify_release(envelope))
    }

    /// Whether the newest root vouches for a release.
    pub(crate) fn vouches(&self, envelope: &Envelope) -> bool {
        self.rooted().newest().verify_release(envelope).is_ok()
    }

    /// A stored grant as nodes are offered it: where it was good under an earlier root only, today's keys sign it too.
    pub(crate) fn freshen_grant(&self, envelope: Envelope) -> Envelope {
        let rooted = self.rooted();
        let good_once = || chain::verify_kept(&rooted.roots, |root| root.verify_grant(&envelope)).is_ok();
        if rooted.newest().verify_grant(&envelope).is_ok() || !good_once() {
            return envelope;
        }
        rooted.sign_more(envelope, Role::Timestamp)
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
        grant.sign(&self.rooted().keys_of(Role::Timestamp))
    }

    /// The timestamp document that goes with a desired state, at most a second old. It is signed for the root that the
    /// state was put together under: agents get the next root with the next state.
    pub(crate) fn timestamp(&self, desired: &Arc<Desired>, now_ms: u64) -> Envelope {
        let second = now_ms / 1000;
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(signed) = &*newest
            && Arc::ptr_eq(&signed.desired, desired)
            && signed.second == second
        {
            return signed.envelope.clone();
        }
        self.timestamps.fetch_add(1, Ordering::Relaxed);
        let rooted = self.rooted();
        let root = rooted.roots.iter().find(|root| root.document().version == desired.root_version);
        let document = root.unwrap_or(rooted.newest()).document();
        let timestamp = Timestamp {
            fleet: self.fleet().clone(),
            epoch: desired.epoch,
            heads: heads(desired),
            time_unix_ms: signed(second * 1000),
            expires_unix_ms: signed(second * 1000 + self.timestamp_lifetime_ms),
            grant_sequence_min: desired.sequence_min,
            root_version: document.version,
            audit_head: desired.audit_head.clone(),
        };
        let envelope = timestamp.sign(&rooted.keys_for(document, Role::Timestamp));
        *newest = Some(Signed { desired: Arc::clone(desired), second, envelope: envelope.clone() });
        envelope
    }

    /// Timestamp documents that were signed by this process.
    pub(crate) fn timestamps(&self) -> u64 {
        self.timestamps.load(Ordering::Relaxed)
    }

    fn rooted(&self) -> Arc<Rooted> {
        Arc::clone(&self.now.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Rooted {
    fn newest(&self) -> &TrustRoot {
        self.roots.last().expect("a signer is made with a root and roots are only added")
    }

    fn keys_of(&self, role: Role) -> Vec<&SigningKey> {
        self.keys_for(self.newest().document(), role)
    }

    fn keys_for(&self, document: &RootDocument, role: Role) -> Vec<&SigningKey> {
        let ids = document.roles.iter().find(|one| one.role == role).map(|one| one.key_ids.as_slice());
        let ids = ids.unwrap_or_default();
        self.keys.iter().filter(|key| ids.contains(&key.public().id())).collect()
    }

    fn sign_more(&self, mut envelope: Envelope, role: Role) -> Envelope {
        for key in self.keys_of(role) {
            envelope.add_signature(key);
        }
        envelope
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
