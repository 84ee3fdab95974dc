//! Token buckets by key, exact over all threads.
//!
//! A bucket is one number: the time at which it would be full again if nothing more were taken (GCRA, "virtual
//! scheduling"). Taking a token is one atomic exchange on the bucket's own line. Threads remember the buckets that they
//! used, so the shared table is locked only for keys that are new to a thread.
//!
//! Keys are bounded. Only a full bucket is given up, which loses nothing; while none is full, further keys share a fixed
//! set of buckets by their hash. So neither a flood of keys nor an eviction lets more through than the limit.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use crate::clock::Moment;
use crate::metrics::lock;

/// Refill and size of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Nanoseconds in which a token comes back.
    interval: u64,
    /// Tokens of a full bucket.
    burst: u32,
}

impl Rate {
    pub(crate) fn new(per_second: f64, burst: u32) -> Self {
        Self { interval: (1e9 / per_second).round().clamp(1.0, 1e18) as u64, burst: burst.max(1) }
    }

    /// Nanoseconds in which an empty bucket fills up.
    pub(crate) fn window(self) -> u64 {
        self.interval.saturating_mul(u64::from(self.burst))
    }

    /// Tokens of a full bucket.
    pub(crate) fn burst(self) -> u32 {
        self.burst
    }
}

/// What came of asking for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) granted: bool,
    /// Tokens that are left.
    pub(crate) remaining: u32,
    /// Nanoseconds until the bucket is full.
    pub(crate) full_after: u64,
    /// Nanoseconds until there is a token; 0 if there is one.
    pub(crate) retry_after: u64,
    /// The bucket is that of several keys, for lack of room.
    pub(crate) shared: bool,
}

/// A bucket, on a line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket(AtomicU64);

/// A bucket that was given up.
const RETIRED: u64 = u64::MAX;

impl Bucket {
    /// `None`: the bucket was given up.
    fn take(&self, rate: Rate, now: u64) -> Option<Taken> {
        let window = rate.window();
        let mut full_at = self.0.load(Ordering::Relaxed);
        loop {
            if full_at == RETIRED {
                return None;
            }
            let base = full_at.max(now);
            let next = base.saturating_add(rate.interval).min(RETIRED - 1);
            if next - now > window {
                let retry_after = next - now - window;
                return Some(Taken {
                    granted: false,
                    remaining: 0,
                    full_after: base - now,
                    retry_after,
                    shared: false,
                });
            }
            match self.0.compare_exchange_weak(full_at, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    let remaining = ((window - (next - now)) / rate.interval) as u32;
                    return Some(Taken {
                        granted: true,
                        remaining,
                        full_after: next - now,
                        retry_after: 0,
                        shared: false,
                    });
                }
                Err(seen) => full_at = seen,
            }
        }
    }

    /// Gives the bucket up if it is full.
    fn retire_if_full(&self, now: u64) -> bool {
        let full_at = self.0.load(Ordering::Relaxed);
        full_at <= now && self.0.compare_exchange(full_at, RETIRED, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// The buckets of one limit.
#[derive(Debug)]
pub(crate) struct Limiter {
    /// Unique in the process.
    serial: u64,
    shards: [Mutex<Shard>; SHARDS],
    /// For keys that find no room.
    shared: OnceLock<Box<[Bucket]>>,
    hashes: [RandomState; 2],
}

#[derive(Debug, Default)]
struct Shard {
    buckets: HashMap<u128, Arc<Bucket>>,
    swept_at: u64,
}

const SHARDS: usize = 16;
/// Keys of one limit that have a bucket of their own: about 8 MiB.
const KEYS_MAX: usize = 65_536;
/// Buckets for all further keys.
const SHARED: usize = 1024;
/// Between two looks for full buckets in a shard that has no room.
const SWEEP_NANOS: u64 = 50_000_000;
/// Buckets that a thread remembers, over all limits.
const REMEMBERED_MAX: usize = 8192;

/// The buckets that a thread used, by limit and key.
#[derive(Debug, Default)]
pub(crate) struct Remembered(RefCell<HashMap<(u64, u128), Arc<Bucket>>>);

impl Limiter {
    pub(crate) fn new(serial: u64) -> Self {
        Self {
            serial,
            shards: std::array::from_fn(|_| Mutex::default()),
            shared: OnceLock::new(),
            hashes: [RandomState::new(), RandomState::new()],
        }
    }

    /// The key of some bytes of a kind. Not to be guessed from outside, and too wide for accidents.
    pub(crate) fn key(&self, kind: u8, bytes: &[u8]) -> u128 {
        let [high, low] = [0, 1].map(|index| {
            let mut hasher = self.hashes[index].build_hasher();
            hasher.write_u8(kind);
            hasher.write(bytes);
            u128::from(hasher.finish())
        });
        high << 64 | low
    }

    /// Asks for a token.
    pub(crate) fn take(&self, remembered: &Remembered, key: u128, rate: Rate, now: Moment) -> Taken {
        let now = now.nanos();
        let mut mine = remembered.0.borrow_mut();
        if let Some(taken) = mine.get(&(self.serial, key)).and_then(|bucket| bucket.take(rate, now)) {
            return taken;
        }
        // A bucket that was found may be given up before it is used, but hardly twice in a row.
        for _ in 0..4 {
            let Some(bucket) = self.bucket(key, now) else { break };
            if let Some(taken) = bucket.take(rate, now) {
                if mine.len() >= REMEMBERED_MAX {
                    mine.clear();
                }
                mine.insert((self.serial, key), bucket);
                return taken;
            }
        }
        let shared = self.shared.get_or_init(|| (0..SHARED).map(|_| Bucket::default()).collect());
        let taken = shared[key as usize % SHARED].take(rate, now);
        let refused = Taken { granted: false, remaining: 0, full_after: 0, retry_after: rate.interval, shared: true };
        taken.map_or(refused, |taken| Taken { shared: true, ..taken })
    }

    /// `None`: there is no room.
    fn bucket(&self, key: u128, now: u64) -> Option<Arc<Bucket>> {
        let shard = &mut *lock(&self.shards[(key >> 64) as usize % SHARDS]);
        if let Some(bucket) = shard.buckets.get(&key) {
            return Some(Arc::clone(bucket));
        }
        if shard.buckets.len() >= KEYS_MAX / SHARDS {
            if now < shard.swept_at.saturating_add(SWEEP_NANOS) {
                return None;
            }
            shard.swept_at = now;
            shard.buckets.retain(|_, bucket| !bucket.retire_if_full(now));
            if shard.buckets.len() >= KEYS_MAX / SHARDS {
                return None;
            }
        }
        let bucket = Arc::new(Bucket::default());
        shard.buckets.insert(key, Arc::clone(&bucket));
        Some(bucket)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::default().plus(Duration::from_secs(100)).plus(Duration::from_millis(millis))
    }

    #[test]
    fn a_bucket_gives_its_burst_at_once_and_then_its_rate() {
        let (limiter, mine, rate) = (Limiter::new(0), Remembered::default(), Rate::new(10.0, 3));
        let key = limiter.key(0, b"a");
        let take = |millis| limiter.take(&mine, key, rate, at(millis));
        assert_eq!([0, 0, 0].map(|millis| take(millis).remaining), [2, 1, 0]);
        let refused = take(0);
        assert!(!refused.granted);
        assert_eq!((refused.retry_after, refused.full_after), (100_000_000, 300_000_000));
        assert!(!take(99).granted);
        assert!(take(100).granted);
        assert!(!take(100).granted, "a refusal costs nothing, and gives nothing");
        assert_eq!(take(10_000).remaining, 2, "never more than the burst");
        assert_eq!(limiter.take(&mine, limiter.key(0, b"b"), rate, at(0)).remaining, 2, "another key, another bucket");
    }

    #[test]
    fn several_threads_get_exactly_the_limit_together() {
        let limiter = Arc::new(Limiter::new(0));
        let rate = Rate::new(1000.0, 50);
        let key = limiter.key(0, b"a");
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let limiter = Arc::clone(&limiter);
                thread::spawn(move || {
                    let mine = Remembered::default();
                    // Two seconds, a look every 0.1 ms: ten times what is allowed.
                    (0..20_000u64).filter(|step| limiter.take(&mine, key, rate, at(step / 10)).granted).count()
                })
            })
            .collect();
        let granted: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        // Threads run through the same time at their own pace, so a late one finds it used up.
        let expected = 50 + 1999;
        assert!(granted.abs_diff(expected) <= expected / 20, "{granted} of {expected}");
    }

    #[test]
    fn a_flood_of_keys_is_bounded_and_gets_nobody_past_the_limit() {
        let (limiter, mine, rate) = (Limiter::new(0), Remembered::default(), Rate::new(1.0, 1));
        let key = limiter.key(0, b"me");
        assert!(limiter.take(&mine, key, rate, at(0)).granted);
        let flood = (0..2 * KEYS_MAX as u64).map(|number| limiter.key(0, &number.to_be_bytes()));
        let granted = flood.filter(|key| limiter.take(&mine, *key, rate, at(1)).granted).count();
        let kept: usize = limiter.shards.iter().map(|shard| lock(shard).buckets.len()).sum();
        assert!(kept <= KEYS_MAX, "{kept}");
        assert!(granted <= KEYS_MAX + SHARED, "{granted}");
        let other_thread = Remembered::default();
        assert!(!limiter.take(&other_thread, key, rate, at(2)).granted, "the flood did not push the bucket out");
        // Full buckets make room again, and a thread that remembers one that was given up finds the new one.
        assert!(limiter.take(&mine, limiter.key(0, b"new"), rate, at(5000)).granted);
        assert!(limiter.take(&mine, key, rate, at(5000)).granted);
        assert!(!limiter.take(&other_thread, key, rate, at(5000)).granted);
    }
}
