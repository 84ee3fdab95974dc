//! The stored answers of a process, in shards, within bounds on bytes and entries.
//!
//! A shard holds resources, a resource the slots of its keys, and a slot the variants of one answer. What was never used again leaves first: new entries
//! wait in a small queue and move to the main one when they have been used there (S3-FIFO without its ghosts), so a
//! flood of keys that nobody asks for twice drives out little else. A lock is held for a look, never for I/O.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use foldhash::quality::RandomState;
use sealane_model::decide::HeaderView;

use super::entry::Entry;
use super::flight::Flight;
use super::key::KeyRef;
use crate::metrics::lock;

/// Everything that is stored.
#[derive(Debug)]
pub(super) struct Store {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    bytes: AtomicU64,
    entries: AtomicU64,
    bytes_max: AtomicU64,
    entries_max: AtomicU64,
    pub(super) evictions: AtomicU64,
    /// Where the next eviction looks first.
    turn: AtomicUsize,
}

#[derive(Debug, Default)]
struct Shard {
    /// By the part of the key that names the resource, then by key.
    resources: HashMap<Box<[u8]>, Slots, RandomState>,
    /// New entries.
    small: VecDeque<Weak<Entry>>,
    /// Entries that were used while they were new.
    main: VecDeque<Weak<Entry>>,
    live: usize,
}

type Slots = HashMap<Arc<[u8]>, Slot, RandomState>;

#[derive(Debug, Default)]
struct Slot {
    /// Oldest first.
    variants: Vec<Stored>,
    flight: Option<Arc<Flight>>,
}

#[derive(Debug)]
struct Stored {
    entry: Arc<Entry>,
    cost: u64,
}

const SHARDS: usize = 64;
/// Variants of one key; with one more the oldest leaves.
const VARIANTS_MAX: usize = 64;

/// What is found under a key.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) entry: Option<Arc<Entry>>,
    /// There are variants, but for other requests.
    pub(super) has_others: bool,
    pub(super) flight: Option<Arc<Flight>>,
}

impl Store {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            bytes: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            bytes_max: AtomicU64::new(0),
            entries_max: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
            turn: AtomicUsize::new(0),
        }
    }

    /// Bytes and entries.
    pub(super) fn used(&self) -> (u64, u64) {
        (self.bytes.load(Ordering::Relaxed), self.entries.load(Ordering::Relaxed))
    }

    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max.load(Ordering::Relaxed)
    }

    pub(super) fn entries_max(&self) -> u64 {
        self.entries_max.load(Ordering::Relaxed)
    }

    pub(super) fn set_bounds(&self, bytes_max: u64, entries_max: u64) {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
        self.entries_max.store(entries_max, Ordering::Relaxed);
        self.evict_down();
    }

    /// The latest variant that fits the request, and whoever is fetching one.
    pub(super) fn find(&self, key: KeyRef<'_>, request: &impl HeaderView) -> Found {
        let shard = lock(self.shard(key.uri()));
        let Some(slots) = shard.resources.get(key.uri()) else {
            return Found { entry: None, has_others: false, flight: None };
        };
        let Some(slot) = slots.get(key.bytes) else {
            return Found { entry: None, has_others: true, flight: None };
        };
        let mut variants = slot.variants.iter().rev().map(|stored| &stored.entry);
        let entry = variants.find(|entry| entry.selected.fits(request));
        Found {
            entry: entry.map(Arc::clone),
            has_others: !slot.variants.is_empty(),
            flight: slot.flight.as_ref().map(Arc::clone),
        }
    }

    /// Puts an entry in the place of the variant that it replaces, and evicts what then is too much.
    pub(super) fn insert(&self, entry: Arc<Entry>) {
        let cost = entry.cost();
        if cost > self.bytes_max() {
            return;
        }
        {
            let mut shard = lock(self.shard(entry.key().uri()));
            let shard = &mut *shard;
            let slot = shard.slot(entry.key(), &entry.key);
            let replaced = slot.variants.iter().position(|stored| stored.entry.selected == entry.selected);
            let replaced = replaced.or((slot.variants.len() >= VARIANTS_MAX).then_some(0));
            let old = replaced.map(|position| slot.variants.remove(position));
            let weak = Arc::downgrade(&entry);
            slot.variants.push(Stored { entry, cost });
            match old {
                // What replaces an entry is no newcomer.
                Some(old) => {
                    self.count_out(&old);
                    shard.live -= 1;
                    shard.main.push_back(weak);
                }
                None => shard.small.push_back(weak),
            }
            shard.live += 1;
            self.bytes.fetch_add(cost, Ordering::Relaxed);
            self.entries.fetch_add(1, Ordering::Relaxed);
            shard.tidy();
        }
        self.evict_down();
    }

    /// The entry has grown by a variant of its own: counts it anew.
    pub(super) fn recount(&self, entry: &Arc<Entry>) {
        {
            let mut shard = lock(self.shard(entry.key().uri()));
            let slots = shard.resources.get_mut(entry.key().uri());
            let slot = slots.and_then(|slots| slots.get_mut(&entry.key));
            let stored = slot.and_then(|slot| slot.variants.iter_mut().find(|there| Arc::ptr_eq(&there.entry, entry)));
            let Some(stored) = stored else { return };
            let cost = entry.cost();
            self.bytes.fetch_add(cost, Ordering::Relaxed);
            self.bytes.fetch_sub(stored.cost, Ordering::Relaxed);
            stored.cost = cost;
        }
        self.evict_down();
    }

    /// Takes an entry out; whether it was still there.
    pub(super) fn remove(&self, entry: &Arc<Entry>) -> bool {
        let mut shard = lock(self.shard(entry.key().uri()));
        let slots = shard.resources.get_mut(entry.key().uri());
        let Some(slot) = slots.and_then(|slots| slots.get_mut(&entry.key)) else { return false };
        let place = slot.variants.iter().position(|stored| Arc::ptr_eq(&stored.entry, entry));
        let Some(stored) = place.map(|place| slot.variants.remove(place)) else { return false };
        shard.live -= 1;
        shard.clear_away(entry.key());
        self.count_out(&stored);
        true
    }

    /// Takes out every variant of a resource. How many these were.
    pub(super) fn remove_resource(&self, uri: &[u8]) -> u64 {
        let mut shard = lock(self.shard(uri));
        let Some(slots) = shard.resources.get_mut(uri) else { return 0 };
        let mut gone = 0;
        slots.retain(|_, slot| {
            gone += slot.variants.len();
            slot.variants.drain(..).for_each(|stored| self.count_out(&stored));
            slot.flight.is_some()
        });
        if slots.is_empty() {
            shard.resources.remove(uri);
        }
        shard.live -= gone;
        gone as u64
    }

    /// Takes out every entry that `test` holds for. How many these were.
    pub(super) fn purge(&self, test: impl Fn(&Entry) -> bool) -> u64 {
        let mut purged = 0;
        for shard in &self.shards {
            let mut shard = lock(shard);
            let shard = &mut *shard;
            let mut gone = 0;
            shard.resources.retain(|_, slots| {
                slots.retain(|_, slot| {
                    slot.variants.retain(|stored| {
                        let purge = test(&stored.entry);
                        if purge {
                            self.count_out(stored);
                            gone += 1;
                        }
                        !purge
                    });
                    !slot.is_empty()
                });
                !slots.is_empty()
            });
            shard.live -= gone;
            shard.tidy();
            purged += gone as u64;
        }
        purged
    }

    /// The flight of `key` that is there; `None`: `flight` is, now.
    pub(super) fn join(&self, key: KeyRef<'_>, shared: &Arc<[u8]>, flight: &Arc<Flight>) -> Option<Arc<Flight>> {
        let mut shard = lock(self.shard(key.uri()));
        let slot = shard.slot(key, shared);
        match &slot.flight {
            Some(there) => Some(Arc::clone(there)),
            None => {
                slot.flight = Some(Arc::clone(flight));
                None
            }
        }
    }

    /// The flight is over.
    pub(super) fn leave(&self, key: KeyRef<'_>, flight: &Arc<Flight>) {
        let mut shard = lock(self.shard(key.uri()));
        let slots = shard.resources.get_mut(key.uri());
        let Some(slot) = slots.and_then(|slots| slots.get_mut(key.bytes)) else { return };
        if slot.flight.as_ref().is_some_and(|there| Arc::ptr_eq(there, flight)) {
            slot.flight = None;
        }
        shard.clear_away(key);
    }

    /// A number of the key's bytes that is the same as long as the process lives.
    pub(super) fn hash(&self, bytes: &[u8]) -> u64 {
        self.hasher.hash_one(bytes)
    }

    fn shard(&self, uri: &[u8]) -> &Mutex<Shard> {
        &self.shards[(self.hash(uri) >> 32) as usize % SHARDS]
    }

    fn count_out(&self, stored: &Stored) {
        self.bytes.fetch_sub(stored.cost, Ordering::Relaxed);
        self.entries.fetch_sub(1, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        let (bytes, entries) = self.used();
        bytes > self.bytes_max() || entries > self.entries_max()
    }

    /// Evicts until the bounds hold.
    fn evict_down(&self) {
        let mut idle = 0;
        // A shard may give nobody away the first time, and must the second.
        while self.is_over() && idle < 2 * SHARDS {
            let shard = &self.shards[self.turn.fetch_add(1, Ordering::Relaxed) % SHARDS];
            let victim = lock(shard).victim();
            if victim.is_some_and(|victim| self.remove(&victim)) {
                self.evictions.fetch_add(1, Ordering::Relaxed);
                idle = 0;
            } else {
                idle += 1;
            }
        }
    }
}

impl Slot {
    fn is_empty(&self) -> bool {
        self.variants.is_empty() && self.flight.is_none()
    }
}

impl Shard {
    fn slot(&mut self, key: KeyRef<'_>, shared: &Arc<[u8]>) -> &mut Slot {
        let slots = self.resources.entry(key.uri().into()).or_default();
        slots.entry(Arc::clone(shared)).or_default()
    }

    /// Forgets the slot of a key if nothing is in it.
    fn clear_away(&mut self, key: KeyRef<'_>) {
        let Some(slots) = self.resources.get_mut(key.uri()) else { return };
        if slots.get(key.bytes).is_some_and(Slot::is_empty) {
            slots.remove(key.bytes);
        }
        if slots.is_empty() {
            self.resources.remove(key.uri());
        }
    }

    /// Who leaves next. Each is looked at once; what was used since the last look stays.
    fn victim(&mut self) -> Option<Arc<Entry>> {
        let mut looks = self.small.len() + self.main.len();
        while looks > 0 {
            looks -= 1;
            let from_small = !self.small.is_empty() && self.small.len() * 10 >= self.small.len() + self.main.len();
            let queue = if from_small || self.main.is_empty() { &mut self.small } else { &mut self.main };
            let weak = queue.pop_front()?;
            let Some(entry) = weak.upgrade() else { continue };
            if entry.used.swap(false, Ordering::Relaxed) {
                self.main.push_back(weak);
            } else {
                return Some(entry);
            }
        }
        None
    }

    /// Forgets queue places of what is gone, once they are many.
    fn tidy(&mut self) {
        if self.small.len() + self.main.len() > 2 * self.live + 64 {
            self.small.retain(|weak| weak.strong_count() > 0);
            self.main.retain(|weak| weak.strong_count() > 0);
        }
    }
}
