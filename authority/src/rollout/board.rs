//! What everybody else reads of the driver's state: the latest value, never a queue.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use sealane_model::envelope::Envelope;
use sealane_model::ids::{Digest, Epoch, Revision};
use sealane_proto::v1;
use tokio::sync::watch;

use super::event::Stable;

/// What every agent should be told, before it is signed and addressed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Desired {
    pub(crate) version: u64,
    pub(crate) stable: Option<Envelope>,
    pub(crate) candidate: Option<Candidate>,
    pub(crate) withdrawn: Vec<Digest>,
    pub(crate) cordoned: Vec<String>,
    /// Newest revision of the sandbox partition. The rollouts know nothing of it: the board keeps it for them.
    pub(crate) sandbox: Option<SandboxHead>,
    /// Certificates that were taken back, and when each ends (Unix time in milliseconds). Kept like the sandbox head.
    pub(crate) revoked: BTreeMap<Digest, i64>,
    /// Newest published revision.
    pub(crate) head: Option<(Revision, Digest)>,
    /// Epoch of the fleet.
    pub(crate) epoch: Epoch,
    /// Grants below are void.
    pub(crate) sequence_min: u64,
    pub(crate) audit_head: Vec<u8>,
    /// Newest trust root that agents are told of with this.
    pub(crate) root_version: u32,
    /// A rollout is under way: reports are wanted more often.
    pub(crate) busy: bool,
}

/// The revision that is being rolled out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) release: Envelope,
    /// Oldest first.
    pub(crate) grants: Vec<Envelope>,
    pub(crate) paused: bool,
}

/// The newest revision of the sandbox partition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SandboxHead {
    pub(crate) revision: Revision,
    pub(crate) digest: Digest,
    pub(crate) release: Envelope,
}

/// The latest state of every rollout at hand.
#[derive(Debug)]
pub(crate) struct Board {
    shown: RwLock<Shown>,
    desired: watch::Sender<Arc<Desired>>,
    /// Counts changes of what is shown.
    changed: watch::Sender<u64>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Shown {
    pub(crate) rollouts: BTreeMap<u64, Arc<v1::Rollout>>,
    /// The one under way.
    pub(crate) current: Option<u64>,
    pub(crate) stable: Option<Stable>,
}

impl Board {
    pub(crate) fn new() -> Self {
        Self { shown: RwLock::default(), desired: watch::Sender::new(Arc::default()), changed: watch::Sender::new(0) }
    }

    /// Shows a new state, if it is new.
    pub(super) fn show(&self, shown: Shown) {
        let mut slot = self.shown.write().unwrap_or_else(PoisonError::into_inner);
        let is_same = slot.rollouts == shown.rollouts && slot.current == shown.current && slot.stable == shown.stable;
        *slot = shown;
        drop(slot);
        if !is_same {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    /// Tells the agents, if it is new.
    pub(super) fn desire(&self, mut desired: Desired) {
        self.desired.send_if_modified(|slot| {
            desired.sandbox.clone_from(&slot.sandbox);
            desired.revoked.clone_from(&slot.revoked);
            let is_new = **slot != desired;
            if is_new {
                *slot = Arc::new(desired);
            }
            is_new
        });
    }

    /// Tells the agents of a revision of the sandbox partition.
    pub(crate) fn desire_sandbox(&self, head: SandboxHead) {
        self.desired.send_modify(|slot| *slot = Arc::new(Desired { sandbox: Some(head), ..Desired::clone(slot) }));
    }

    /// Tells the agents which certificates nobody accepts any more.
    pub(crate) fn desire_revoked(&self, revoked: BTreeMap<Digest, i64>) {
        self.desired.send_modify(|slot| *slot = Arc::new(Desired { revoked, ..Desired::clone(slot) }));
    }

    /// What is shown now.
    pub(crate) fn shown(&self) -> Shown {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A rollout at hand.
    pub(crate) fn rollout(&self, revision: u64) -> Option<Arc<v1::Rollout>> {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).rollouts.get(&revision).cloned()
    }

    /// The revision under way.
    pub(crate) fn current(&self) -> Option<u64> {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).current
    }

    /// What counts as last good.
    pub(crate) fn stable(&self) -> Option<Stable> {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).stable
    }

    /// Follows what is shown.
    pub(crate) fn follow(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Follows what the agents should be told.
    pub(crate) fn follow_desired(&self) -> watch::Receiver<Arc<Desired>> {
        self.desired.subscribe()
    }

    /// What the agents should be told now.
    pub(crate) fn desired(&self) -> Arc<Desired> {
        self.desired.borrow().clone()
    }
}
