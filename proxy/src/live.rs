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

use sealane_model::config::ClientRetryCap;

use crate::breaker::Breaker;
use crate::clock::Moment;
use crate::hedge::HedgeLive;
use crate::jwks::KeySources;
use crate::limiter::Limiter;
use crate::metrics::{Count, lock};
use crate::outlier::{Judge, OutlierCells, Reason};
use crate::plugin::Plugins;
use crate::snapshot::tls::TlsLive;
use crate::trace::export::Exporters;
use crate::traffic::TrafficLive;
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
    breakers: Shelf<(String, String), Breaker>,
    traffic: Shelf<String, TrafficLive>,
    hedges: Shelf<String, HedgeLive>,
    endpoint_serial: AtomicU64,
    pub(crate) names: Names,
    pub(crate) key_sources: KeySources,
    pub(crate) plugins: Plugins,
    pub(crate) tls: TlsLive,
    /// Where traces go.
    pub(crate) exporters: Exporters,
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
            breakers: Shelf::default(),
            traffic: Shelf::default(),
            hedges: Shelf::default(),
            endpoint_serial: AtomicU64::new(0),
            names: Names::default(),
            key_sources: KeySources::default(),
            plugins: Plugins::default(),
            tls: TlsLive::default(),
            exporters: Exporters::default(),
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
            connections: Arc::default(),
            errors: AtomicU32::new(0),
            busy: OnceLock::new(),
            outlier: OnceLock::new(),
            threads: self.threads,
        })
    }

    pub(crate) fn rotation(&self, route: &str, pool: &str) -> Arc<Rotation> {
        let key = (route.to_owned(), pool.to_owned());
        self.rotations.take(&key.clone(), key, Rotation::default)
    }

    pub(crate) fn breaker(&self, route: &str, pool: &str) -> Arc<Breaker> {
        let key = (route.to_owned(), pool.to_owned());
        self.breakers.take(&key.clone(), key, Breaker::default)
    }

    pub(crate) fn hedges(&self, route: &str) -> Arc<HedgeLive> {
        self.hedges.take(route, route.to_owned(), || HedgeLive::new(self.threads))
    }

    pub(crate) fn traffic(&self, route: &str) -> Arc<TrafficLive> {
        self.traffic.take(route, route.to_owned(), || TrafficLive::new(self.threads))
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
        self.plugins.tidy();
        self.breakers.tidy();
        self.traffic.tidy();
        self.hedges.tidy();
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
    /// Requests that passed although no endpoint was healthy.
    trickled: AtomicU64,
    /// By [`Reason`].
    ejections: [AtomicU64; 3],
    /// Held while an endpoint is ejected: one at a time, so that their bound is exact.
    pub(crate) ejecting: Mutex<()>,
    /// What compares the endpoints, where that is configured.
    pub(crate) judge: Mutex<Judge>,
}

impl PoolLive {
    /// Whether one more request may pass although no endpoint is healthy: `per_second` over the whole process.
    pub(crate) fn trickle(&self, per_second: f64, now: Moment) -> bool {
        if per_second <= 0.0 {
            return false;
        }
        let due = self.trickle_at_nanos.load(Ordering::Relaxed);
        let next = now.nanos() + (1e9 / per_second) as u64;
        let passes = due <= now.nanos()
            && self.trickle_at_nanos.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if passes {
            self.trickled.fetch_add(1, Ordering::Relaxed);
        }
        passes
    }

    /// Requests that passed although no endpoint was healthy.
    pub(crate) fn trickled(&self) -> u64 {
        self.trickled.load(Ordering::Relaxed)
    }

    pub(crate) fn note_ejection(&self, reason: Reason) {
        self.ejections[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Ejections for this reason.
    pub(crate) fn ejections(&self, reason: Reason) -> u64 {
        self.ejections[reason as usize].load(Ordering::Relaxed)
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
    /// Failed requests in a row, any answer with 5xx among them.
    errors: AtomicU32,
    /// Ejections without a healthy stretch between them.
    ejections: AtomicU32,
    ejected_until_ms: AtomicU64,
    /// Connections that are open, of all threads.
    connections: Arc<AtomicUsize>,
    /// Requests in flight by thread, where the balancer asks for them.
    busy: OnceLock<Box<[Padded]>>,
    /// What is compared with the endpoint's siblings, by thread, where that is configured.
    outlier: OnceLock<Box<[OutlierCells]>>,
    threads: usize,
}

/// One of the connections that an endpoint may have; free again when dropped. Keeps nothing else of the endpoint alive.
#[derive(Debug)]
pub(crate) struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A count on a line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Padded(pub(crate) Count);

impl EndpointLive {
    /// Whether requests should go there. Two relaxed loads of lines that are rarely written.
    pub(crate) fn is_available(&self, now_ms: u64) -> bool {
        !self.probed_unhealthy.load(Ordering::Relaxed) && self.ejected_until_ms.load(Ordering::Relaxed) <= now_ms
    }

    /// Takes one of the connections that it may have; `None`: there are as many already.
    pub(crate) fn take_connection(&self, most: usize) -> Option<Slot> {
        let taken = self
            .connections
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < most).then_some(open + 1));
        taken.is_ok().then(|| Slot(Arc::clone(&self.connections)))
    }

    /// Of the connections that it may have, how many may idle on one thread: what idles there is of no use to another, so each
    /// keeps its part at most, and nothing at the bound.
    pub(crate) fn idle_share(&self, most: usize) -> usize {
        match self.threads {
            1 => most,
            _ if self.connections.load(Ordering::Relaxed) >= most => 0,
            threads => most / threads,
        }
    }

    /// Whether probes find it healthy.
    pub(crate) fn is_probed_healthy(&self) -> bool {
        !self.probed_unhealthy.load(Ordering::Relaxed)
    }

    /// Takes the verdict of the probes; whether it is a change.
    pub(crate) fn set_probed_healthy(&self, healthy: bool) -> bool {
        self.probed_unhealthy.swap(!healthy, Ordering::Relaxed) == healthy
    }

    /// A request was answered, and not with 502, 503 or 504. `error`: with another 5xx.
    pub(crate) fn succeeded(&self, error: bool) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        if !error && self.errors.load(Ordering::Relaxed) != 0 {
            self.errors.store(0, Ordering::Relaxed);
        }
    }

    /// A request failed: no connection, no answer in time, a broken answer, or 502, 503, 504. How many have in a row.
    pub(crate) fn failed(&self) -> u32 {
        self.failures.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A request failed, or was answered with any 5xx. How many were in a row.
    pub(crate) fn erred(&self) -> u32 {
        self.errors.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Sends no requests there for a while. An ejection lasts `first_ms`, doubled with each one that follows within
    /// `calm_ms` of the last, `longest_ms` at most.
    pub(crate) fn eject(&self, first_ms: u64, longest_ms: u64, calm_ms: u64, now_ms: u64) -> Duration {
        self.failures.store(0, Ordering::Relaxed);
        self.errors.store(0, Ordering::Relaxed);
        let before = self.ejected_until_ms.load(Ordering::Relaxed);
        if before == 0 || now_ms > before + calm_ms {
            self.ejections.store(0, Ordering::Relaxed);
        }
        let ejections = self.ejections.fetch_add(1, Ordering::Relaxed).min(20);
        let ejected_ms = first_ms.saturating_mul(1 << ejections).min(longest_ms);
        self.ejected_until_ms.store(now_ms + ejected_ms, Ordering::Relaxed);
        Duration::from_millis(ejected_ms)
    }

    /// Whether it is ejected at the moment.
    pub(crate) fn is_ejected(&self, now_ms: u64) -> bool {
        self.ejected_until_ms.load(Ordering::Relaxed) > now_ms
    }

    /// Starts counting what is compared with its siblings.
    pub(crate) fn watch(&self) {
        self.outlier.get_or_init(|| (0..self.threads).map(|_| OutlierCells::default()).collect());
    }

    /// The cells of all threads, where the endpoint is compared with its siblings.
    pub(crate) fn outlier_cells(&self) -> Option<&[OutlierCells]> {
        self.outlier.get().map(|cells| &**cells)
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
    /// What each client used of it, where that is bounded.
    clients: HashMap<u64, Used>,
}

/// Retries of one client.
#[derive(Clone, Copy, Debug)]
struct Used {
    /// In about the last [`WINDOW_SECONDS`].
    recent: f64,
    at_ms: u64,
}

impl Used {
    fn by(self, now_ms: u64) -> f64 {
        let seconds = now_ms.saturating_sub(self.at_ms) as f64 / 1000.0;
        self.recent * (-seconds / WINDOW_SECONDS).exp()
    }
}

/// Clients whose retries are remembered. Beyond, those that used least are forgotten.
const CLIENTS_MAX: usize = 10_000;

/// Retries per second that are always allowed.
const FLOOR_PER_SECOND: f64 = 3.0;
/// How long what was earned may be saved up.
const WINDOW_SECONDS: f64 = 10.0;

impl Budget {
    fn new(threads: usize) -> Self {
        let account =
            Account { tokens: FLOOR_PER_SECOND, recent: 0.0, successes_seen: 0, at_ms: 0, clients: HashMap::new() };
        Self { successes: (0..threads).map(|_| Padded::default()).collect(), account: Mutex::new(account) }
    }

    pub(crate) fn succeeded(&self, thread: usize) {
        self.successes[thread].0.add(1);
    }

    /// Takes one retry out of the budget, if there is one.
    pub(crate) fn take(&self, percent: f64, now_ms: u64) -> bool {
        self.take_for(percent, None, now_ms)
    }

    /// The same for one client, named by a hash, which may use up its own share only. A retry that is refused for its
    /// client's sake costs the others nothing.
    pub(crate) fn take_for(&self, percent: f64, client: Option<(u64, &ClientRetryCap)>, now_ms: u64) -> bool {
        let mut account = lock(&self.account);
        let successes = self.successes.iter().map(|cell| cell.0.value()).sum::<u64>();
        let earned = (successes - account.successes_seen) as f64 * percent / 100.0;
        let seconds = now_ms.saturating_sub(account.at_ms) as f64 / 1000.0;
        account.recent = account.recent * (-seconds / WINDOW_SECONDS).exp() + earned;
        let most = account.recent.max(FLOOR_PER_SECOND * WINDOW_SECONDS);
        account.tokens = (account.tokens + earned.max(FLOOR_PER_SECOND * seconds)).min(most);
        (account.successes_seen, account.at_ms) = (successes, now_ms);
        let within_share = client.is_none_or(|(key, cap)| {
            let used = account.clients.get(&key).map_or(0.0, |used| used.by(now_ms));
            // Half a retry of tolerance for what has decayed.
            used + 0.5 <= (most * cap.percent / 100.0).max(f64::from(cap.burst))
        });
        let granted = account.tokens >= 1.0 && within_share;
        if granted {
            account.tokens -= 1.0;
            if let Some((key, _)) = client {
                account.note(key, now_ms);
            }
        }
        granted
    }

    /// Retries that are left, as of the last look.
    pub(crate) fn tokens(&self) -> f64 {
        lock(&self.account).tokens
    }
}

impl Account {
    fn note(&mut self, client: u64, now_ms: u64) {
        if self.clients.len() >= CLIENTS_MAX && !self.clients.contains_key(&client) {
            let mut used: Vec<f64> = self.clients.values().map(|used| used.by(now_ms)).collect();
            let middle = used.len() / 2;
            let (_, median, _) = used.select_nth_unstable_by(middle, f64::total_cmp);
            let median = *median;
            self.clients.retain(|_, used| used.by(now_ms) > median);
        }
        let used = self.clients.entry(client).or_insert(Used { recent: 0.0, at_ms: now_ms });
        *used = Used { recent: used.by(now_ms) + 1.0, at_ms: now_ms };
    }
}

#[cfg(test)]
mod tests {
    use sealane_model::config::RateLimitKey;

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
    fn one_client_cannot_use_up_the_budget_of_all() {
        let budget = Budget::new(1);
        let cap = ClientRetryCap { key: RateLimitKey::ClientIp, percent: 20.0, burst: 3 };
        (0..10_000).for_each(|_| budget.succeeded(0));
        let taken = |client, now_ms| (0..1000).filter(|_| budget.take_for(10.0, Some((client, &cap)), now_ms)).count();
        assert_eq!(taken(1, 0), 200, "a fifth of a tenth of all successes");
        assert_eq!(taken(1, 0), 0);
        assert_eq!(taken(2, 0), 200);
        assert_eq!((0..1000).filter(|_| budget.take(10.0, 0)).count(), 600, "what is refused costs nothing");
        let poor = Budget::new(1);
        assert_eq!((0..1000).filter(|_| poor.take_for(10.0, Some((1, &cap)), 0)).count(), 3, "its burst");
    }

    #[test]
    fn clients_beyond_the_bound_are_forgotten() {
        let budget = Budget::new(1);
        let cap = ClientRetryCap { key: RateLimitKey::ClientIp, percent: 100.0, burst: 1 };
        (0..1_000_000).for_each(|_| budget.succeeded(0));
        for client in 0..3 * CLIENTS_MAX as u64 {
            assert!(budget.take_for(100.0, Some((client, &cap)), client));
        }
        assert!(lock(&budget.account).clients.len() <= CLIENTS_MAX);
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
