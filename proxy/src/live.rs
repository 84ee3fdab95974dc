//! State that outlives a snapshot: what endpoints did, rotations, retry budgets, rate limits, keys of tokens, names,
//! TLS sessions.
//!
//! Keyed by stable ids (pool id, `host:port`, route id), so that an endpoint that stays keeps its state through a swap.
//! Entries are held weakly here and strongly by the snapshots that use them: what no snapshot names is gone.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use sealane_model::config::PassiveHealth;

use crate::clock::Moment;
use crate::jwks::KeySources;
use crate::limiter::Limiter;
use crate::metrics::{Count, lock};
use crate::snapshot::tls::TlsLive;
use crate::upstream::resolve::Names;

/// All of a process.
#[derive(Debug)]
pub(crate) struct Live {
    threads: usize,
    pools: Shelf<String, PoolLive>,
    endpoints: Shelf<(String, String), EndpointLive>,
    rotations: Shelf<(String, String), Rotation>,
    budgets: Shelf<String, Budget>,
    limiters: Shelf<(String, String), Limiter>,
    limiter_serial: AtomicU64,
    endpoint_serial: AtomicU64,
    pub(crate) names: Names,
    pub(crate) key_sources: KeySources,
    pub(crate) tls: TlsLive,
}

impl Live {
    pub(crate) fn new(threads: usize) -> Self {
        Self {
            threads,
            pools: Shelf::default(),
            endpoints: Shelf::default(),
            rotations: Shelf::default(),
            budgets: Shelf::default(),
            limiters: Shelf::default(),
            limiter_serial: AtomicU64::new(0),
            endpoint_serial: AtomicU64::new(0),
            names: Names::default(),
            key_sources: KeySources::default(),
            tls: TlsLive::default(),
        }
    }

    pub(crate) fn pool(&self, pool: &str) -> Arc<PoolLive> {
        self.pools.take(pool, pool.to_owned(), PoolLive::default)
    }

    pub(crate) fn endpoint(&self, pool: &str, address: &str) -> Arc<EndpointLive> {
        let key = (pool.to_owned(), address.to_owned());
        self.endpoints.take(&key.clone(), key, || EndpointLive {
            serial: self.endpoint_serial.fetch_add(1, Ordering::Relaxed),
            probed_unhealthy: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until_ms: AtomicU64::new(0),
            busy: OnceLock::new(),
            threads: self.threads,
        })
    }

    pub(crate) fn rotation(&self, route: &str, pool: &str) -> Arc<Rotation> {
        let key = (route.to_owned(), pool.to_owned());
        self.rotations.take(&key.clone(), key, Rotation::default)
    }

    pub(crate) fn budget(&self, route: &str) -> Arc<Budget> {
        self.budgets.take(route, route.to_owned(), || Budget::new(self.threads))
    }

    /// The buckets of one limit of a route.
    pub(crate) fn limiter(&self, route: &str, limit: &str) -> Arc<Limiter> {
        let key = (route.to_owned(), limit.to_owned());
        self.limiters.take(&key.clone(), key, || Limiter::new(self.limiter_serial.fetch_add(1, Ordering::Relaxed)))
    }

    /// Forgets what nobody holds any more.
    pub(crate) fn tidy(&self) {
        self.pools.tidy();
        self.endpoints.tidy();
        self.rotations.tidy();
        self.budgets.tidy();
        self.limiters.tidy();
        self.key_sources.tidy();
        self.names.tidy();
    }
}

/// Values that live as long as somebody outside holds them.
#[derive(Debug)]
pub(crate) struct Shelf<K, T>(Mutex<HashMap<K, Weak<T>>>);

impl<K, T> Default for Shelf<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq, T> Shelf<K, T> {
    /// The value of `key`, made if nobody holds it.
    pub(crate) fn take<Q: Hash + Eq + ?Sized>(&self, borrowed: &Q, key: K, make: impl FnOnce() -> T) -> Arc<T>
    where
        K: Borrow<Q>,
    {
        let mut map = lock(&self.0);
        if let Some(value) = map.get(borrowed).and_then(Weak::upgrade) {
            return value;
        }
        let value = Arc::new(make());
        map.insert(key, Arc::downgrade(&value));
        value
    }

    pub(crate) fn tidy(&self) {
        lock(&self.0).retain(|_, value| value.strong_count() > 0);
    }

    /// What is held at the moment.
    pub(crate) fn held(&self) -> Vec<Arc<T>> {
        lock(&self.0).values().filter_map(Weak::upgrade).collect()
    }
}

/// What a pool did.
#[derive(Debug, Default)]
pub(crate) struct PoolLive {
    /// When the next request may pass although no endpoint is healthy.
    trickle_at_nanos: AtomicU64,
}

impl PoolLive {
    /// Whether one more request may pass although no endpoint is healthy: `per_second` over the whole process.
    pub(crate) fn trickle(&self, per_second: f64, now: Moment) -> bool {
        if per_second <= 0.0 {
            return false;
        }
        let due = self.trickle_at_nanos.load(Ordering::Relaxed);
        let next = now.nanos() + (1e9 / per_second) as u64;
        due <= now.nanos()
            && self.trickle_at_nanos.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// What an endpoint of a pool did.
#[derive(Debug)]
pub(crate) struct EndpointLive {
    /// Unique in the process.
    pub(crate) serial: u64,
    probed_unhealthy: AtomicBool,
    /// Failed requests in a row.
    failures: AtomicU32,
    /// Ejections without a healthy stretch between them.
    ejections: AtomicU32,
    ejected_until_ms: AtomicU64,
    /// Requests in flight by thread, where the balancer asks for them.
    busy: OnceLock<Box<[Padded]>>,
    threads: usize,
}

/// A count on a line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Padded(pub(crate) Count);

/// Ejections double up to this many times the first.
const EJECTION_FACTOR_MAX: u32 = 10;

impl EndpointLive {
    /// Whether requests should go there. Two relaxed loads of lines that are rarely written.
    pub(crate) fn is_available(&self, now_ms: u64) -> bool {
        !self.probed_unhealthy.load(Ordering::Relaxed) && self.ejected_until_ms.load(Ordering::Relaxed) <= now_ms
    }

    /// Whether probes find it healthy.
    pub(crate) fn is_probed_healthy(&self) -> bool {
        !self.probed_unhealthy.load(Ordering::Relaxed)
    }

    /// Takes the verdict of the probes; whether it is a change.
    pub(crate) fn set_probed_healthy(&self, healthy: bool) -> bool {
        self.probed_unhealthy.swap(!healthy, Ordering::Relaxed) == healthy
    }

    /// A request was answered.
    pub(crate) fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// A request failed: no connection, no answer in time, a broken answer, or 502, 503, 504. Whether this ejects the
    /// endpoint. An ejection lasts `ejection_duration`, doubled with each one that follows within that time of the last.
    pub(crate) fn failed(&self, passive: Option<&PassiveHealth>, now_ms: u64) -> Option<Duration> {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let passive = passive.filter(|passive| failures == passive.consecutive_failures)?;
        self.failures.store(0, Ordering::Relaxed);
        let base_ms = passive.ejection_duration.as_millis() as u64;
        let before = self.ejected_until_ms.load(Ordering::Relaxed);
        if before == 0 || now_ms > before + base_ms {
            self.ejections.store(0, Ordering::Relaxed);
        }
        let ejections = self.ejections.fetch_add(1, Ordering::Relaxed).min(8);
        let ejected_ms = base_ms * u64::from((1 << ejections).min(EJECTION_FACTOR_MAX));
        self.ejected_until_ms.store(now_ms + ejected_ms, Ordering::Relaxed);
        Some(Duration::from_millis(ejected_ms))
    }

    /// Failed requests in a row, and until when it is ejected (milliseconds of [`Moment`], 0: never was).
    pub(crate) fn passive_state(&self) -> (u32, u64) {
        (self.failures.load(Ordering::Relaxed), self.ejected_until_ms.load(Ordering::Relaxed))
    }

    /// Starts counting requests in flight.
    pub(crate) fn count_busy(&self) {
        self.busy.get_or_init(|| (0..self.threads).map(|_| Padded::default()).collect());
    }

    /// The thread's cell of requests in flight, where they are counted.
    pub(crate) fn busy_cell(&self, thread: usize) -> Option<&Count> {
        self.busy.get().map(|cells| &cells[thread].0)
    }

    /// Requests in flight over all threads.
    pub(crate) fn busy(&self) -> u64 {
        self.busy.get().map_or(0, |cells| cells.iter().map(|cell| cell.0.value()).sum())
    }
}

/// Where the rotation of a (route, pool) stands, on a line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Rotation(AtomicUsize);

impl Rotation {
    /// The next turn, from 0. The one atomic read-modify-write of a request to several endpoints.
    pub(crate) fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// The retry budget of a route: a share of its successes, never below [`FLOOR_PER_SECOND`].
#[derive(Debug)]
pub(crate) struct Budget {
    /// By thread.
    successes: Box<[Padded]>,
    account: Mutex<Account>,
}

#[derive(Debug)]
struct Account {
    tokens: f64,
    /// Earned in about the last [`WINDOW_SECONDS`].
    recent: f64,
    successes_seen: u64,
    at_ms: u64,
}

/// Retries per second that are always allowed.
const FLOOR_PER_SECOND: f64 = 3.0;
/// How long what was earned may be saved up.
const WINDOW_SECONDS: f64 = 10.0;

impl Budget {
    fn new(threads: usize) -> Self {
        let account = Account { tokens: FLOOR_PER_SECOND, recent: 0.0, successes_seen: 0, at_ms: 0 };
        Self { successes: (0..threads).map(|_| Padded::default()).collect(), account: Mutex::new(account) }
    }

    pub(crate) fn succeeded(&self, thread: usize) {
        self.successes[thread].0.add(1);
    }

    /// Takes one retry out of the budget, if there is one.
    pub(crate) fn take(&self, percent: f64, now_ms: u64) -> bool {
        let mut account = lock(&self.account);
        let successes = self.successes.iter().map(|cell| cell.0.value()).sum::<u64>();
        let earned = (successes - account.successes_seen) as f64 * percent / 100.0;
        let seconds = now_ms.saturating_sub(account.at_ms) as f64 / 1000.0;
        account.recent = account.recent * (-seconds / WINDOW_SECONDS).exp() + earned;
        let most = account.recent.max(FLOOR_PER_SECOND * WINDOW_SECONDS);
        account.tokens = (account.tokens + earned.max(FLOOR_PER_SECOND * seconds)).min(most);
        (account.successes_seen, account.at_ms) = (successes, now_ms);
        let granted = account.tokens >= 1.0;
        if granted {
            account.tokens -= 1.0;
        }
        granted
    }

    /// Retries that are left, as of the last look.
    pub(crate) fn tokens(&self) -> f64 {
        lock(&self.account).tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trickle_passes_one_a_second_for_all_threads_together() {
        let pool = Arc::new(PoolLive::default());
        let passed = |now: Moment| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let pool = Arc::clone(&pool);
                    std::thread::spawn(move || (0..1000).filter(|_| pool.trickle(1.0, now)).count())
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        };
        let start = Moment::default().plus(Duration::from_secs(5));
        assert_eq!(passed(start), 1);
        assert_eq!(passed(start.plus(Duration::from_millis(999))), 0);
        assert_eq!(passed(start.plus(Duration::from_millis(1000))), 1);
        assert!(!pool.trickle(0.0, start.plus(Duration::from_secs(9))));
    }

    #[test]
    fn failures_in_a_row_eject_and_repeated_ejections_last_longer() {
        let live = Live::new(1);
        let endpoint = live.endpoint("p", "a:1");
        let passive = PassiveHealth { consecutive_failures: 2, ejection_duration: Duration::from_secs(30) };
        let fail_twice = |now_ms| {
            assert_eq!(endpoint.failed(Some(&passive), now_ms), None);
            endpoint.failed(Some(&passive), now_ms)
        };
        endpoint.failed(Some(&passive), 1000);
        endpoint.succeeded();
        assert!(endpoint.is_available(1000));
        assert_eq!(fail_twice(1000), Some(Duration::from_secs(30)));
        assert_eq!((endpoint.is_available(30_999), endpoint.is_available(31_000)), (false, true));
        assert_eq!(fail_twice(31_000), Some(Duration::from_secs(60)));
        assert_eq!(fail_twice(91_000), Some(Duration::from_secs(120)));
        assert_eq!(fail_twice(400_000), Some(Duration::from_secs(30)), "after a healthy stretch it starts anew");
    }

    #[test]
    fn a_budget_gives_a_share_of_successes_and_never_less_than_its_floor() {
        let budget = Budget::new(2);
        let taken = |now_ms| (0..1000).filter(|_| budget.take(10.0, now_ms)).count();
        assert_eq!(taken(0), 3);
        assert_eq!(taken(1000), 3);
        (0..500).for_each(|_| budget.succeeded(0));
        (0..500).for_each(|_| budget.succeeded(1));
        assert_eq!(taken(2000), 100);
        assert_eq!(taken(2000), 0);
    }

    #[test]
    fn state_lives_as_long_as_a_snapshot_holds_it() {
        let live = Live::new(1);
        let held = live.endpoint("p", "a:1");
        held.set_probed_healthy(false);
        live.tidy();
        assert!(!live.endpoint("p", "a:1").is_probed_healthy());
        assert!(live.endpoint("q", "a:1").is_probed_healthy());
        drop(held);
        assert!(live.endpoint("p", "a:1").is_probed_healthy());
    }
}
