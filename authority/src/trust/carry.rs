//! What the fleet serves must be good under the next trust root too, or a node that starts anew could take nothing in.
//!
//! Signatures of keys that go are worth nothing from then on: one of them may be why the root changes. So nobody judges
//! an old release by the root that it was made under. Instead the keys that the authority will hold sign it once more,
//! once, in the transaction that puts the root in force, and only what the root of today vouches for; people sign the rest.

use sealane_model::envelope::{Envelope, Signature};
use sealane_model::ids::Revision;
use sealane_model::keys::SigningKey;
use sealane_model::trust::{Role, RootDocument};

use crate::app::App;
use crate::store::StoreError;

/// Last-good revisions before the newest that get the new keys' signatures too, like the ring that agents keep.
const RING: usize = 5;

/// What a next root means for what is served.
#[derive(Debug, Default)]
pub(super) struct Carried {
    /// Signatures to be stored with the root.
    pub(super) signatures: Vec<(u64, Signature)>,
    /// What would still lack some.
    pub(super) lacking: Vec<Lacking>,
}

/// A revision that is offered to nodes and that a root does not vouch for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lacking {
    pub(crate) revision: Revision,
    what: What,
    signed: usize,
    due: u32,
}

/// Why a revision is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    LastGood,
    RollingOut,
    /// Only to go back to.
    Earlier,
}

impl std::fmt::Display for Lacking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.what {
            What::LastGood => "which the fleet serves",
            What::RollingOut => "whose rollout has not ended",
            What::Earlier => "an earlier one",
        };
        write!(f, "{}, {what}, has {} of the {} signatures of release keys", self.revision, self.signed, self.due)
    }
}

/// What `next` with `keys` means. `next` need not be in force.
pub(super) async fn carry(app: &App, next: &RootDocument, keys: &[&SigningKey]) -> Result<Carried, StoreError> {
    let (mut carried, today) = (Carried::default(), app.signer.root());
    for (revision, what) in offered(app).await? {
        let Some(row) = app.store.release(revision).await? else { continue };
        let mut envelope = row.envelope;
        if today.verify_release(&envelope).is_ok() {
            let before = next.signers_of(&envelope, Role::Release).0;
            let ids = next.roles.iter().find(|one| one.role == Role::Release).map(|one| one.key_ids.as_slice());
            let may = |key: &&SigningKey| {
                let id = key.public().id();
                ids.is_some_and(|ids| ids.contains(&id)) && !before.contains(&id)
            };
            for key in keys.iter().copied().filter(may) {
                envelope.add_signature(key);
                let made = envelope.signatures.iter().find(|one| one.key_id == key.public().id());
                carried.signatures.extend(made.map(|one| (revision, one.clone())));
            }
        }
        carried.lacking.extend(lack(next, revision, what, &envelope).filter(|_| what != What::Earlier));
    }
    Ok(carried)
}

/// What is offered to nodes and the root in force does not vouch for.
pub(crate) async fn lacking(app: &App) -> Result<Vec<Lacking>, StoreError> {
    let (root, mut all) = (app.signer.root(), Vec::new());
    for (revision, what) in offered(app).await?.into_iter().filter(|(_, what)| *what != What::Earlier) {
        if let Some(row) = app.store.release(revision).await? {
            all.extend(lack(root.document(), revision, what, &row.envelope));
        }
    }
    Ok(all)
}

/// Whether people may still sign a revision whose rollout has begun.
pub(crate) async fn is_offered(app: &App, revision: u64) -> Result<bool, StoreError> {
    Ok(offered(app).await?.iter().any(|(one, _)| *one == revision))
}

fn lack(root: &RootDocument, revision: u64, what: What, envelope: &Envelope) -> Option<Lacking> {
    let (signed, due) = root.signers_of(envelope, Role::Release);
    let lacks = signed.len() < due as usize;
    lacks.then_some(Lacking { revision: Revision(revision), what, signed: signed.len(), due })
}

/// What nodes are offered, or may be taken back to.
async fn offered(app: &App) -> Result<Vec<(u64, What)>, StoreError> {
    let mut all = Vec::new();
    let mut before = u64::MAX;
    for place in 0..=RING {
        let Some(revision) = app.store.completed_before(before).await? else { break };
        all.push((revision, if place == 0 { What::LastGood } else { What::Earlier }));
        before = revision;
    }
    let open = app.store.open_rollouts().await?.into_iter();
    all.extend(open.map(|revision| (revision, What::RollingOut)));
    Ok(all)
}
