//! The single pointer to the snapshot that new requests see.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;

use crate::snapshot::Snapshot;

/// The snapshot in force, and a number that each swap raises. One writer at a time (see [`crate::proxy`]).
#[derive(Debug, Default)]
pub(crate) struct Current {
    version: AtomicU64,
    snapshot: ArcSwapOption<Snapshot>,
}

impl Current {
    /// The number of the swap in force; 0: no snapshot yet. The one atomic load of each request head.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(crate) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.load_full()
    }

    /// Puts a snapshot in force. The one before.
    pub(crate) fn swap(&self, snapshot: Arc<Snapshot>) -> Option<Arc<Snapshot>> {
        let before = self.snapshot.swap(Some(snapshot));
        self.version.fetch_add(1, Ordering::AcqRel);
        before
    }
}
