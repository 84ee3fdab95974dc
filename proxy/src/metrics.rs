//! Cells that count, one set per thread, each with one writer; and the registry that a scrape reads them through.
//!
//! Counting is a plain load and store of a line that no other thread writes. Readers add the threads up. What the series
//! are called is [`crate::exposition`]'s business.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::FixedState;
use sealane_model::config::RetryCondition;
use sealane_model::latency;

use crate::error::Category;
use crate::fold::{Fold, Tally};
use crate::middleware::jwt::token::Reject;
use crate::proxy::RevisionTag;
use crate::sample::Samples;
use crate::snapshot::Snapshot;

/// A number with one writer and any number of readers.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    pub(crate) fn subtract(&self, less: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(less), Ordering::Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts of values up to each of `N - 1` edges, and beyond.
#[derive(Debug)]
pub(crate) struct Histogram<const N: usize> {
    pub(crate) buckets: [Count; N],
    pub(crate) sum: Count,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Count::default()), sum: Count::default() }
    }
}

impl<const N: usize> Histogram<N> {
    /// The buckets, then the sum.
    pub(crate) fn counts(&self) -> impl Iterator<Item = &Count> {
        self.buckets.iter().chain([&self.sum])
    }

    /// `edges` are the inclusive upper edges of all buckets but the last.
    pub(crate) fn record(&self, edges: &[u64], value: u64) {
        self.buckets[edges.partition_point(|&edge| edge < value)].add(1);
        self.sum.add(value);
    }
}

/// Upper edges of durations in microseconds: 0.5 ms to 60 s.
pub(crate) const DURATION_EDGES_US: [u64; 15] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 60_000_000,
];
/// Upper edges of sizes in bytes: 256 B to 256 MiB.
pub(crate) const SIZE_EDGES: [u64; 6] = [256, 4 << 10, 64 << 10, 1 << 20, 16 << 20, 256 << 20];
/// Statuses with a series of their own; others count under their class, such as `4xx`.
pub(crate) const STATUSES: [u16; 34] = [
    101, 200, 201, 202, 204, 206, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 406, 408, 409, 410, 412, 413,
    414, 421, 422, 429, 431, 499, 500, 501, 502, 503, 504,
];
/// Classes that statuses without a series of their own count under.
pub(crate) const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "other"];

/// What the cache made of a request, in the log and in metrics.
pub(crate) const CACHE_RESULTS: [&str; 9] = [
    "hit",
    "miss",
    "stale",
    "revalidated",
    "bypass",
    "not_cacheable",
    "coalesce_follower",
    "coalesce_breakaway",
    "store_failed",
];

/// What is counted of the requests of one route that went to one pool.
#[derive(Debug)]
pub(crate) struct LaneCells {
    pub(crate) statuses: [Count; STATUSES.len() + CLASSES.len()],
    pub(crate) duration_us: Histogram<{ DURATION_EDGES_US.len() + 1 }>,
    pub(crate) request_bytes: Histogram<{ SIZE_EDGES.len() + 1 }>,
    pub(crate) response_bytes: Histogram<{ SIZE_EDGES.len() + 1 }>,
    /// When the last of them ended, in nanoseconds since the process began, and how many microseconds it took.
    pub(crate) last: (Count, Count),
    /// What the proxy answered or gave up itself, by [`Category`].
    pub(crate) refused: [Count; Category::ALL.len()],
    /// By the place of the reason in [`RETRY_REASONS`] and by [`RetryOutcome`].
    pub(crate) retries: [[Count; 3]; RETRY_REASONS.len()],
    /// By the place of the word in [`CACHE_RESULTS`].
    pub(crate) cache: [Count; CACHE_RESULTS.len()],
    /// Requests that wait for somebody else's answer.
    pub(crate) cache_waiters: Count,
}

impl Default for LaneCells {
    fn default() -> Self {
        Self {
            statuses: std::array::from_fn(|_| Count::default()),
            duration_us: Histogram::default(),
            request_bytes: Histogram::default(),
            response_bytes: Histogram::default(),
            last: Default::default(),
            refused: std::array::from_fn(|_| Count::default()),
            retries: Default::default(),
            cache: Default::default(),
            cache_waiters: Count::default(),
        }
    }
}

/// Where what a tally of [`LaneCells::counters`] begins that is by [`Category`]: behind the statuses.
pub(crate) const REFUSED_AT: usize = STATUSES.len() + CLASSES.len();

impl LaneCells {
    /// Statuses, then refusals.
    pub(crate) fn counters(&self) -> impl Iterator<Item = &Count> {
        self.statuses.iter().chain(&self.refused)
    }

    /// Durations, sizes of requests, sizes of answers: buckets, then their sum.
    pub(crate) fn histograms(&self) -> impl Iterator<Item = &Count> {
        self.duration_us.counts().chain(self.request_bytes.counts()).chain(self.response_bytes.counts())
    }

    pub(crate) fn status(&self, status: u16) -> &Count {
        let slot = STATUSES.binary_search(&status).unwrap_or_else(|_| {
            let class = if (100..600).contains(&status) { status as usize / 100 - 1 } else { CLASSES.len() - 1 };
            STATUSES.len() + class
        });
        &self.statuses[slot]
    }
}

/// Why a request was to be sent again.
pub(crate) const RETRY_REASONS: [&str; 9] =
    ["dial", "reset", "timeout", "status_429", "status_500", "status_502", "status_503", "status_504", "status_other"];

/// The place of a reason in [`RETRY_REASONS`].
pub(crate) const fn retry_reason(condition: RetryCondition) -> usize {
    match condition {
        RetryCondition::ConnectFailure => 0,
        RetryCondition::Reset => 1,
        RetryCondition::Timeout => 2,
        RetryCondition::Status(429) => 3,
        RetryCondition::Status(500) => 4,
        RetryCondition::Status(502) => 5,
        RetryCondition::Status(503) => 6,
        RetryCondition::Status(504) => 7,
        RetryCondition::Status(_) => 8,
    }
}

/// Why an attempt on an endpoint failed.
pub(crate) const UPSTREAM_ERRORS: [&str; 3] = ["timeout", "connect_failed", "other"];

/// What came of a wish to retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryOutcome {
    /// A later try was answered.
    Success,
    /// The last try failed too.
    Exhausted,
    /// The budget had nothing left.
    Budget,
}

/// What is counted of one endpoint of a pool.
#[derive(Debug, Default)]
pub(crate) struct EndpointCells {
    pub(crate) requests: Count,
    pub(crate) in_flight: Count,
    pub(crate) connect_failures: Count,
    /// Failed attempts, by the place in [`UPSTREAM_ERRORS`].
    pub(crate) errors: [Count; UPSTREAM_ERRORS.len()],
    pub(crate) connections_opened: Count,
    pub(crate) duration_us: Histogram<{ DURATION_EDGES_US.len() + 1 }>,
}

impl EndpointCells {
    /// Requests, connections that failed, connections that were made.
    pub(crate) fn counters(&self) -> impl Iterator<Item = &Count> {
        [&self.requests, &self.connect_failures, &self.connections_opened].into_iter()
    }
}

/// What is counted of one thread.
#[derive(Debug)]
pub(crate) struct ThreadCells {
    pub(crate) connections_accepted: Count,
    pub(crate) connections_open: Count,
    pub(crate) connections_refused: Count,
    pub(crate) tls_handshake_failures: Count,
    pub(crate) http2_connections: Count,
    pub(crate) http2_streams: Count,
    pub(crate) http2_floods: Count,
    pub(crate) http2_protocol_errors: Count,
    pub(crate) forwarding_loops: Count,
    pub(crate) panics: Count,
    /// By [`Category`].
    pub(crate) refused: Vec<Count>,
    pub(crate) log_lines_dropped: Count,
    pub(crate) views_refreshed: Count,
    pub(crate) limits_shared: Count,
    pub(crate) tokens_accepted: Count,
    /// By [`Reject`].
    pub(crate) tokens_refused: [Count; Reject::ALL.len()],
    pub(crate) tokens_without_keys: Count,
    pub(crate) cache_hits: Count,
    pub(crate) cache_misses: Count,
    /// Recent requests, as decisions saw them.
    pub(crate) samples: Samples,
}

impl Default for ThreadCells {
    fn default() -> Self {
        Self {
            connections_accepted: Count::default(),
            connections_open: Count::default(),
            connections_refused: Count::default(),
            tls_handshake_failures: Count::default(),
            http2_connections: Count::default(),
            http2_streams: Count::default(),
            http2_floods: Count::default(),
            http2_protocol_errors: Count::default(),
            forwarding_loops: Count::default(),
            panics: Count::default(),
            refused: Category::ALL.iter().map(|_| Count::default()).collect(),
            log_lines_dropped: Count::default(),
            views_refreshed: Count::default(),
            limits_shared: Count::default(),
            tokens_accepted: Count::default(),
            tokens_refused: Default::default(),
            tokens_without_keys: Count::default(),
            cache_hits: Count::default(),
            cache_misses: Count::default(),
            samples: Samples::default(),
        }
    }
}

/// What is counted of the requests that one revision served; see [`crate::proxy::RevisionObservation`].
#[derive(Debug)]
pub(crate) struct RevisionCells {
    pub(crate) requests: Count,
    pub(crate) failed: Count,
    pub(crate) client_errors: Count,
    pub(crate) connect_failures: Count,
    pub(crate) latency: Box<[Count]>,
}

impl Default for RevisionCells {
    fn default() -> Self {
        Self {
            requests: Count::default(),
            failed: Count::default(),
            client_errors: Count::default(),
            connect_failures: Count::default(),
            latency: (0..latency::BUCKETS).map(|_| Count::default()).collect(),
        }
    }
}

/// One set of cells per thread.
pub(crate) type PerThread<T> = Vec<Option<Arc<T>>>;
/// Route id and pool id, or pool id and endpoint.
pub(crate) type Labels = (Arc<str>, Arc<str>);

/// All cells of a process.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) threads: Vec<Arc<ThreadCells>>,
    lanes: Mutex<BTreeMap<Labels, PerThread<LaneCells>>>,
    endpoints: Mutex<BTreeMap<Labels, PerThread<EndpointCells>>>,
    revisions: Mutex<VecDeque<(RevisionTag, PerThread<RevisionCells>)>>,
    /// Which of all these have series of their own.
    folds: Mutex<Folds>,
    /// Label sets that found no cells of their own.
    unkept: AtomicU64,
    pub(crate) swaps: AtomicU64,
    /// Configs that could not be served.
    pub(crate) rejected: AtomicU64,
    /// Configs that were offered where somebody else decides, or another version was served than expected.
    pub(crate) conflicts: AtomicU64,
    /// How long configs took from being offered to being ready, whatever came of it.
    pub(crate) applied: Mutex<Histogram<{ APPLY_EDGES_US.len() + 1 }>>,
}

/// Upper edges of the time that a config takes, in microseconds: 1 ms to 10 s.
pub(crate) const APPLY_EDGES_US: [u64; 9] =
    [1_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000, 10_000_000];

/// One for each kind of series.
#[derive(Debug, Default)]
pub(crate) struct Folds {
    pub(crate) lanes: Fold,
    pub(crate) lane_histograms: Fold,
    pub(crate) endpoints: Fold,
    pub(crate) endpoint_histograms: Fold,
    pub(crate) pools: Fold,
    pub(crate) pool_histograms: Fold,
}

/// Label sets of a kind that have cells of their own, so that the busiest of them can be found.
const KEPT_MAX: usize = 16_384;
/// Revisions whose counters are kept.
const REVISIONS_KEPT: usize = 8;
/// The label of folded series.
pub(crate) const OTHER: &str = "other";

impl Registry {
    pub(crate) fn new(threads: usize) -> Self {
        Self {
            threads: (0..threads).map(|_| Arc::default()).collect(),
            lanes: Mutex::default(),
            endpoints: Mutex::default(),
            revisions: Mutex::default(),
            folds: Mutex::default(),
            unkept: AtomicU64::new(0),
            swaps: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            conflicts: AtomicU64::new(0),
            applied: Mutex::default(),
        }
    }

    /// The thread's cells of a route and pool; those of `other` above a bound.
    pub(crate) fn lane(&self, thread: usize, route: &Arc<str>, pool: &Arc<str>) -> Arc<LaneCells> {
        self.cells(&self.lanes, thread, (route, pool), if route.is_empty() { usize::MAX } else { KEPT_MAX })
    }

    /// The thread's cells of an endpoint; those of `other` above a bound.
    pub(crate) fn endpoint(&self, thread: usize, pool: &Arc<str>, endpoint: &Arc<str>) -> Arc<EndpointCells> {
        self.cells(&self.endpoints, thread, (pool, endpoint), KEPT_MAX)
    }

    fn cells<T: Default>(
        &self,
        map: &Mutex<BTreeMap<Labels, PerThread<T>>>,
        thread: usize,
        (first, second): (&Arc<str>, &Arc<str>),
        kept_max: usize,
    ) -> Arc<T> {
        let mut map = lock(map);
        let mut labels = (Arc::clone(first), Arc::clone(second));
        if map.len() >= kept_max && !map.contains_key(&labels) {
            self.unkept.fetch_add(1, Ordering::Relaxed);
            labels = (Arc::from(OTHER), Arc::from(OTHER));
        }
        let threads = map.entry(labels).or_insert_with(|| vec![None; self.threads.len()]);
        Arc::clone(threads[thread].get_or_insert_with(Arc::default))
    }

    /// Makes room for the series of a config that is about to be served: where they would not all find some, those of
    /// routes and endpoints that it does not have are let go of. Otherwise they stay, so that a last scrape sees them.
    pub(crate) fn make_room(&self, snapshot: &Snapshot) {
        let lanes = snapshot.targets().map(|(route, target)| (&*route.id, &*snapshot.pools[target.pool].id));
        // Cells first, then folds, as a scrape does.
        let mut counted = lock(&self.lanes);
        let mut folds = self.folds();
        for (labels, threads) in make_room(&mut counted, lanes, KEPT_MAX) {
            folds.lanes.retire(&labels, &tally(&threads, LaneCells::counters));
            folds.lane_histograms.retire(&labels, &tally(&threads, LaneCells::histograms));
        }
        drop((counted, folds));
        let endpoints = snapshot
            .pools
            .iter()
            .flat_map(|pool| pool.endpoints.iter().map(|endpoint| (&*pool.id, &*endpoint.address)));
        let mut counted = lock(&self.endpoints);
        let mut folds = self.folds();
        for (labels, threads) in make_room(&mut counted, endpoints, KEPT_MAX) {
            folds.endpoints.retire(&labels, &tally(&threads, EndpointCells::counters));
            folds.endpoint_histograms.retire(&labels, &tally(&threads, |cells| cells.duration_us.counts()));
        }
    }

    /// Which label sets have series of their own.
    pub(crate) fn folds(&self) -> MutexGuard<'_, Folds> {
        lock(&self.folds)
    }

    /// Times that a label set was folded into `other`.
    pub(crate) fn folded(&self) -> u64 {
        let folds = self.folds();
        let all = [&folds.lanes, &folds.lane_histograms, &folds.endpoints, &folds.endpoint_histograms];
        let pools = [&folds.pools, &folds.pool_histograms];
        all.into_iter().chain(pools).map(Fold::folded).sum::<u64>() + self.unkept.load(Ordering::Relaxed)
    }

    /// The thread's cells of a revision, which becomes the newest one.
    pub(crate) fn revision(&self, thread: usize, tag: &RevisionTag) -> Arc<RevisionCells> {
        let mut revisions = lock(&self.revisions);
        let known = revisions.iter().position(|(known, _)| known == tag);
        let (tag, mut threads) = known
            .and_then(|position| revisions.remove(position))
            .unwrap_or_else(|| (tag.clone(), vec![None; self.threads.len()]));
        let cells = Arc::clone(threads[thread].get_or_insert_with(Arc::default));
        revisions.push_back((tag, threads));
        if revisions.len() > REVISIONS_KEPT {
            revisions.pop_front();
        }
        cells
    }

    pub(crate) fn lanes(&self) -> MutexGuard<'_, BTreeMap<Labels, PerThread<LaneCells>>> {
        lock(&self.lanes)
    }

    pub(crate) fn endpoints(&self) -> MutexGuard<'_, BTreeMap<Labels, PerThread<EndpointCells>>> {
        lock(&self.endpoints)
    }

    pub(crate) fn revisions(&self) -> MutexGuard<'_, VecDeque<(RevisionTag, PerThread<RevisionCells>)>> {
        lock(&self.revisions)
    }
}

/// What had to go.
fn make_room<'l, T>(
    map: &mut BTreeMap<Labels, PerThread<T>>,
    wanted: impl Iterator<Item = (&'l str, &'l str)>,
    kept_max: usize,
) -> Vec<(Labels, PerThread<T>)> {
    let may_go = |(one, _): &&Labels| !one.is_empty() && **one != *OTHER;
    // The series that are there are few beside the routes of a large config.
    let mut is_wanted: HashMap<(&str, &str), bool, FixedState> =
        map.keys().filter(may_go).map(|(one, other)| ((&**one, &**other), false)).collect();
    if is_wanted.is_empty() {
        return Vec::new();
    }
    let mut new = 0;
    for labels in wanted {
        match is_wanted.get_mut(&labels) {
            Some(is_wanted) => *is_wanted = true,
            None => new += 1,
        }
    }
    if map.len() + new <= kept_max {
        return Vec::new();
    }
    let is_unwanted = |(one, other): &&Labels| is_wanted.get(&(&**one, &**other)) == Some(&false);
    let gone: Vec<Labels> = map.keys().filter(is_unwanted).cloned().collect();
    gone.into_iter().filter_map(|labels| map.remove_entry(&labels)).collect()
}

/// The sums of some counts over threads, in their order.
pub(crate) fn tally<'a, T: 'a, I: Iterator<Item = &'a Count>>(
    threads: &'a PerThread<T>,
    counts: impl Fn(&'a T) -> I,
) -> Tally {
    let mut sums = Tally::new();
    for cells in threads.iter().flatten() {
        for (place, count) in counts(cells).enumerate() {
            match sums.get_mut(place) {
                Some(sum) => *sum += count.value(),
                None => sums.push(count.value()),
            }
        }
    }
    sums
}

/// The sum of a count over threads.
pub(crate) fn total<T>(threads: &PerThread<T>, count: impl Fn(&T) -> &Count) -> u64 {
    threads.iter().flatten().map(|cells| count(cells).value()).sum()
}

/// Locks, also after a panic elsewhere: counts cannot be left half done.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_counts_under_itself_or_its_class() {
        let cells = LaneCells::default();
        for status in [200, 200, 418, 599, 999] {
            cells.status(status).add(1);
        }
        let value = |slot: usize| cells.statuses[slot].value();
        assert_eq!(value(1), 2);
        assert_eq!([3, 4, 5].map(|class| value(STATUSES.len() + class)), [1, 1, 1]);
    }

    #[test]
    fn statuses_are_sorted() {
        assert!(STATUSES.is_sorted());
    }

    #[test]
    fn label_sets_above_the_bound_share_cells_and_are_counted() {
        let registry = Registry::new(1);
        let name = |number: usize| Arc::from(format!("r{number}"));
        let pool: Arc<str> = Arc::from("p");
        for number in 0..KEPT_MAX + 2 {
            registry.lane(0, &name(number), &pool).status(200).add(1);
        }
        assert_eq!(registry.folded(), 2);
        let lanes = registry.lanes();
        let folded = &lanes[&(Arc::from(OTHER), Arc::from(OTHER))];
        assert_eq!(total(folded, |cells| cells.status(200)), 2);
    }

    #[test]
    fn series_of_routes_that_are_gone_make_room_for_new_ones() {
        let registry = Registry::new(1);
        for route in ["a", "b", "c"] {
            registry.lane(0, &Arc::from(route), &Arc::from("p")).status(200).add(1);
        }
        let seen = || registry.lanes().keys().map(|(route, _)| route.to_string()).collect::<Vec<_>>();
        assert_eq!(make_room(&mut registry.lanes(), [("a", "p"), ("b", "p")].into_iter(), 3).len(), 0);
        assert_eq!(seen(), ["a", "b", "c"], "there is room");
        let gone = make_room(&mut registry.lanes(), [("b", "p"), ("d", "p")].into_iter(), 3);
        assert_eq!((seen(), gone.len()), (vec!["b".to_owned()], 2));
        registry.lane(0, &Arc::from("d"), &Arc::from("p")).status(200).add(1);
        assert_eq!((seen(), registry.folded()), (vec!["b".to_owned(), "d".to_owned()], 0));
    }

    #[test]
    fn a_revision_that_comes_back_goes_on_counting_and_eight_are_kept() {
        let registry = Registry::new(1);
        let tag = |number| RevisionTag { number, digest: [0; 32], label: Arc::from("r") };
        registry.revision(0, &tag(1)).requests.add(1);
        registry.revision(0, &tag(2)).requests.add(1);
        registry.revision(0, &tag(1)).requests.add(1);
        assert_eq!(total(&registry.revisions()[1].1, |cells| &cells.requests), 2);
        for number in 3..20 {
            registry.revision(0, &tag(number));
        }
        assert_eq!(registry.revisions().len(), REVISIONS_KEPT);
    }
}
