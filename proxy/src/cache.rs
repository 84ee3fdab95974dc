//! The shared HTTP cache (RFC 9111): one store for all threads, opt-in by rule.
//!
//! [`stage`] looks an answer up before an endpoint is picked, and answers from the store, waits for somebody who fetches
//! the same, or lets the request pass with a [`fill::Fill`] that judges the answer when its head is there. What may be
//! stored and used is decided by pure functions ([`policy`], [`directives`], [`vary`], [`conditional`], [`range`]).
//!
//! Nothing here knows how requests are routed or how bytes reach a client. Whatever goes wrong with the store, a request
//! is forwarded as if there were none. The state lives as long as the process and survives snapshots; entries of rules
//! that no snapshot has any more are purged.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use sealane_model::config;

use self::entry::{Entry, Stamp};
use self::key::Resource;
use self::store::Store;
use crate::metrics::lock;

pub(crate) mod body;
pub(crate) mod conditional;
mod date;
mod directives;
pub(crate) mod entry;
pub(crate) mod fill;
pub(crate) mod flight;
pub(crate) mod key;
pub(crate) mod policy;
mod purge;
pub(crate) mod range;
pub(crate) mod rules;
pub(crate) mod serve;
pub(crate) mod stage;
mod store;
pub(crate) mod vary;

pub use self::purge::{CacheStats, Purge, PurgeError};

/// The cache of a process.
#[derive(Debug)]
pub(crate) struct Cache {
    store: Store,
    /// Bytes of all bodies, stored, being fetched, or only still being read.
    resident: Arc<AtomicU64>,
    /// Grows with every invalidation and purge.
    sequence: AtomicU64,
    /// By resource: the sequence number of its latest invalidation, for what is on its way. Resources share places; what
    /// shares one is not stored this once.
    invalidated: Box<[AtomicU64]>,
    /// The sequence number of the latest purge: what was asked for before is not stored any more.
    purged: AtomicU64,
    /// By key: until when (monotonic milliseconds) nobody waits for it, because its last answer could not be shared.
    not_shared: Box<[AtomicU64]>,
    /// Of the rules in force.
    fingerprints: Mutex<HashSet<u64>>,
    pub(crate) counts: Counts,
}

/// What is counted beside the requests of routes.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) store_failures: AtomicU64,
    pub(crate) purged: AtomicU64,
    pub(crate) invalidations: AtomicU64,
    pub(crate) refreshes: AtomicU64,
}

/// Places of [`Cache::invalidated`]: so many that answers on their way seldom share one with what is invalidated
/// meanwhile, though every unsafe request invalidates two resources.
const INVALIDATED_PLACES: usize = 32_768;
/// Places of [`Cache::not_shared`].
const PLACES: usize = 8192;
/// How long nobody waits for an answer that could not be shared.
const NOT_SHARED_MS: u64 = 5000;
/// How far bodies that are still read, though evicted, may exceed the bound on bytes, as a share of it.
const RESIDENT_PERCENT: u64 = 150;

impl Default for Cache {
    fn default() -> Self {
        let places = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            store: Store::new(),
            resident: Arc::default(),
            sequence: AtomicU64::new(1),
            invalidated: places(INVALIDATED_PLACES),
            purged: AtomicU64::new(0),
            not_shared: places(PLACES),
            fingerprints: Mutex::default(),
            counts: Counts::default(),
        }
    }
}

impl Cache {
    /// Takes the bounds of the config that is activated, and lets go of what its rules do not know.
    pub(crate) fn adopt(&self, store: Option<&config::CacheStore>, fingerprints: HashSet<u64>) {
        let (bytes_max, entries_max) = store.map_or((0, 0), |store| (store.total_bytes_max, store.entries_max));
        let before = std::mem::replace(&mut *lock(&self.fingerprints), fingerprints.clone());
        if before.iter().any(|fingerprint| !fingerprints.contains(fingerprint)) {
            let is_known = |entry: &Entry| {
                Resource::of(&entry.key).is_some_and(|resource| fingerprints.contains(&resource.fingerprint))
            };
            self.store.purge(|entry| !is_known(entry));
        }
        self.store.set_bounds(bytes_max, entries_max);
    }

    /// The stamp of what is asked for now. `uri` is the part of the key that names the resource.
    pub(crate) fn stamp(&self, uri: &[u8]) -> Stamp {
        let slot = (self.store.hash(uri) as usize % INVALIDATED_PLACES) as u32;
        Stamp { sequence: self.sequence.load(Ordering::Acquire), slot }
    }

    /// Whether nothing was invalidated since that it stands for.
    fn is_valid(&self, stamp: Stamp) -> bool {
        self.invalidated[stamp.slot as usize].load(Ordering::Acquire) <= stamp.sequence
    }

    /// What is stored of a resource is not used any more (RFC 9111 §4.4).
    pub(crate) fn invalidate(&self, uri: &[u8]) {
        let slot = self.store.hash(uri) as usize % INVALIDATED_PLACES;
        let sequence = self.sequence.fetch_add(1, Ordering::AcqRel) + 1;
        self.invalidated[slot].fetch_max(sequence, Ordering::AcqRel);
        self.store.remove_resource(uri);
        self.counts.invalidations.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a body of about this many bytes may be taken in.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        let bytes_max = self.store.bytes_max();
        let resident = self.resident.load(Ordering::Relaxed);
        bytes <= bytes_max && resident.saturating_add(bytes) <= bytes_max.saturating_mul(RESIDENT_PERCENT) / 100
    }

    /// Stores a complete entry, unless it was purged or invalidated on its way.
    pub(crate) fn insert(&self, entry: Arc<Entry>) {
        let outdated = || self.purged.load(Ordering::Acquire) > entry.stamp.sequence || !self.is_valid(entry.stamp);
        let known =
            Resource::of(&entry.key).is_some_and(|resource| lock(&self.fingerprints).contains(&resource.fingerprint));
        if outdated() || !known {
            self.counts.store_failures.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.store.insert(Arc::clone(&entry));
        // It may have been on its way in while it was looked for.
        if outdated() {
            self.store.remove(&entry);
        }
    }

    /// Nobody should wait for this key for a while.
    pub(crate) fn note_not_shared(&self, key: &[u8], now_ms: u64) {
        self.not_shared[self.store.hash(key) as usize % PLACES].store(now_ms + NOT_SHARED_MS, Ordering::Relaxed);
    }

    /// Whether waiting for this key is of use, as far as is known.
    pub(crate) fn may_share(&self, key: &[u8], now_ms: u64) -> bool {
        self.not_shared[self.store.hash(key) as usize % PLACES].load(Ordering::Relaxed) <= now_ms
    }

    /// Bytes of all bodies.
    pub(crate) fn resident(&self) -> &Arc<AtomicU64> {
        &self.resident
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use sealane_model::decide::HeaderView;

    /// Header fields of a test.
    #[derive(Debug)]
    pub(crate) struct Lines<'a>(pub(crate) &'a [(&'a str, &'a str)]);

    impl HeaderView for Lines<'_> {
        fn any_value(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
            self.0.iter().any(|(found, value)| found.eq_ignore_ascii_case(name) && test(value.trim().as_bytes()))
        }
    }
}
