//! The circuit breaker of a (route, pool): closed, open after too many failures, half-open to find out.
//!
//! A pure state machine that all threads share: time comes in as milliseconds, nothing here waits. While closed a request
//! costs one atomic read-modify-write, on a line of its own, when its outcome is known; state is one word that is read
//! by all and written only when it changes. What counts as a failure is the caller's business; what this knows is that
//! a [`Permit`] always ends in exactly one outcome, also when its request is dropped.
//!
//! Invariants: at most `half_open_requests` requests try at the same time while half-open; an outcome counts only for
//! the state that its request was let in under; a half-open state that learns nothing for as long as the breaker would
//! stay open lets others try.

use std::sync::atomic::{AtomicU64, Ordering};

use sealane_model::config::CircuitBreaker;

/// State of all threads. Outlives snapshots.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    /// Read by every request, written when the state changes.
    word: Line,
    /// The rolling window: written by every outcome.
    window: Window,
    /// Times that it opened.
    trips: AtomicU64,
    /// Requests that it refused.
    refused: AtomicU64,
}

/// A word on a line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line(AtomicU64);

/// Buckets of the rolling window.
const BUCKETS: u64 = 10;

/// Each slot: epoch (16 bits), failures (24 bits), requests (24 bits).
#[derive(Debug, Default)]
#[repr(align(128))]
struct Window([AtomicU64; BUCKETS as usize]);

/// What the config says, in the units of the hot path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BreakerPlan {
    error_threshold_percent: f64,
    requests_min: u64,
    open_ms: u64,
    bucket_ms: u64,
    half_open_requests: u64,
}

impl From<&CircuitBreaker> for BreakerPlan {
    fn from(config: &CircuitBreaker) -> Self {
        Self {
            error_threshold_percent: config.error_threshold_percent,
            requests_min: u64::from(config.requests_min),
            open_ms: (config.open_duration.as_millis() as u64).clamp(1, MS_MAX),
            bucket_ms: (config.window.as_millis() as u64 / BUCKETS).clamp(1, MS_MAX),
            half_open_requests: u64::from(config.half_open_requests).clamp(1, 100),
        }
    }
}

/// Ten years.
const MS_MAX: u64 = 10 * 365 * 24 * 3600 * 1000;

/// What a breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Closed,
    Open,
    HalfOpen,
}

impl State {
    pub(crate) const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// The name in logs, metrics and the admin API.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// What a person is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) state: State,
    /// Of an open breaker: until it lets requests try.
    pub(crate) open_for_ms: u64,
    /// Of a half-open breaker.
    pub(crate) trying: u64,
    /// In the window.
    pub(crate) requests: u64,
    /// In the window.
    pub(crate) failures: u64,
    pub(crate) trips: u64,
    pub(crate) refused: u64,
}

/// The word, unpacked. `generation` changes with every change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Closed { generation: u64 },
    Open { generation: u64, until_ms: u64 },
    HalfOpen { generation: u64, trying: u64, succeeded: u64, lease_end: u64 },
}

const GENERATION_BITS: u64 = 14;
/// Unit of a lease's end.
const LEASE_UNIT_MS: u64 = 64;

impl Word {
    const fn unpack(word: u64) -> Self {
        let generation = word >> 2 & ((1 << GENERATION_BITS) - 1);
        let rest = word >> (2 + GENERATION_BITS);
        match word & 3 {
            0 => Self::Closed { generation },
            1 => Self::Open { generation, until_ms: rest },
            _ => Self::HalfOpen { generation, trying: rest & 0x7f, succeeded: rest >> 7 & 0x7f, lease_end: rest >> 14 },
        }
    }

    const fn pack(self) -> u64 {
        let (kind, generation, rest) = match self {
            Self::Closed { generation } => (0, generation, 0),
            Self::Open { generation, until_ms } => (1, generation, until_ms),
            Self::HalfOpen { generation, trying, succeeded, lease_end } => {
                (2, generation, trying | succeeded << 7 | lease_end << 14)
            }
        };
        kind | (generation & ((1 << GENERATION_BITS) - 1)) << 2 | rest << (2 + GENERATION_BITS)
    }

    const fn generation(self) -> u64 {
        match self {
            Self::Closed { generation } | Self::Open { generation, .. } | Self::HalfOpen { generation, .. } => {
                generation
            }
        }
    }
}

/// How a request ended, as the breaker sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    Failure,
    /// It says nothing about the endpoints: the client went away, or the request never got there.
    Unknown,
}

/// What an outcome changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Opened,
    Closed,
}

impl Breaker {
    fn try_admit(&self, plan: &BreakerPlan, now_ms: u64) -> Option<(u64, bool)> {
        let mut packed = self.word.0.load(Ordering::Acquire);
        loop {
            let word = Word::unpack(packed);
            let lease_end = (now_ms + plan.open_ms) / LEASE_UNIT_MS + 1;
            let after = match word {
                Word::Closed { generation } => return Some((generation, false)),
                Word::Open { until_ms, .. } if now_ms < until_ms => return None,
                Word::Open { generation, .. } => {
                    Word::HalfOpen { generation: generation + 1, trying: 1, succeeded: 0, lease_end }
                }
                Word::HalfOpen { generation, trying, succeeded, lease_end }
                    if trying + succeeded < plan.half_open_requests =>
                {
                    Word::HalfOpen { generation, trying: trying + 1, succeeded, lease_end }
                }
                Word::HalfOpen { lease_end, .. } if now_ms / LEASE_UNIT_MS < lease_end => return None,
                // Those that try have said nothing for too long: they count no more.
                Word::HalfOpen { generation, succeeded, .. } => {
                    let succeeded = succeeded.min(plan.half_open_requests - 1);
                    Word::HalfOpen { generation: generation + 1, trying: 1, succeeded, lease_end }
                }
            };
            match self.word.0.compare_exchange_weak(packed, after.pack(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some((Word::unpack(after.pack()).generation(), true)),
                Err(now) => packed = now,
            }
        }
    }

    /// The state, also that an open breaker lets the next request try.
    pub(crate) fn state(&self, now_ms: u64) -> State {
        match Word::unpack(self.word.0.load(Ordering::Relaxed)) {
            Word::Closed { .. } => State::Closed,
            Word::Open { until_ms, .. } if now_ms < until_ms => State::Open,
            Word::Open { .. } | Word::HalfOpen { .. } => State::HalfOpen,
        }
    }

    pub(crate) fn look(&self, plan: &BreakerPlan, now_ms: u64) -> Look {
        let (requests, failures) = self.window.sum(now_ms / plan.bucket_ms);
        let word = Word::unpack(self.word.0.load(Ordering::Relaxed));
        let (open_for_ms, trying) = match word {
            Word::Closed { .. } => (0, 0),
            Word::Open { until_ms, .. } => (until_ms.saturating_sub(now_ms), 0),
            Word::HalfOpen { trying, .. } => (0, trying),
        };
        Look {
            state: self.state(now_ms),
            open_for_ms,
            trying,
            requests,
            failures,
            trips: self.trips(),
            refused: self.refused(),
        }
    }

    /// Opens a closed breaker, whatever the window says; whether it was closed.
    pub(crate) fn trip(&self, plan: &BreakerPlan, now_ms: u64) -> bool {
        let word = Word::unpack(self.word.0.load(Ordering::Acquire));
        matches!(word, Word::Closed { .. }) && self.open(word, plan, now_ms)
    }

    /// Times that it opened.
    pub(crate) fn trips(&self) -> u64 {
        self.trips.load(Ordering::Relaxed)
    }

    /// Requests that it refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn report(
        &self,
        plan: &BreakerPlan,
        generation: u64,
        probe: bool,
        outcome: Outcome,
        now_ms: u64,
    ) -> Option<Change> {
        if probe {
            return self.report_probe(plan, generation, outcome, now_ms);
        }
        let word = Word::unpack(self.word.0.load(Ordering::Acquire));
        if outcome == Outcome::Unknown || word != (Word::Closed { generation }) {
            return None;
        }
        let epoch = now_ms / plan.bucket_ms;
        self.window.add(epoch, outcome == Outcome::Failure);
        if outcome == Outcome::Success {
            return None;
        }
        let (requests, failures) = self.window.sum(epoch);
        let too_many = failures as f64 * 100.0 >= plan.error_threshold_percent * requests as f64;
        (requests >= plan.requests_min && too_many && self.open(word, plan, now_ms)).then_some(Change::Opened)
    }

    fn report_probe(&self, plan: &BreakerPlan, of: u64, outcome: Outcome, now_ms: u64) -> Option<Change> {
        let mut packed = self.word.0.load(Ordering::Acquire);
        loop {
            let word = Word::unpack(packed);
            let Word::HalfOpen { generation, trying, succeeded, lease_end } = word else { return None };
            if generation != of {
                return None;
            }
            let (after, change) = match outcome {
                Outcome::Failure => return self.open(word, plan, now_ms).then_some(Change::Opened),
                Outcome::Success if succeeded + 1 >= plan.half_open_requests => {
                    (Word::Closed { generation: generation + 1 }, Some(Change::Closed))
                }
                Outcome::Success => (
                    Word::HalfOpen {
                        generation,
                        trying: trying.saturating_sub(1),
                        succeeded: succeeded + 1,
                        lease_end,
                    },
                    None,
                ),
                Outcome::Unknown => {
                    (Word::HalfOpen { generation, trying: trying.saturating_sub(1), succeeded, lease_end }, None)
                }
            };
            // Before it closes, so that nobody finds what led to its opening.
            if change.is_some() {
                self.window.clear();
            }
            match self.word.0.compare_exchange_weak(packed, after.pack(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return change,
                Err(now) => packed = now,
            }
        }
    }

    /// Opens, unless the state is no longer `from` (but for who tries).
    fn open(&self, from: Word, plan: &BreakerPlan, now_ms: u64) -> bool {
        let after = Word::Open { generation: from.generation() + 1, until_ms: now_ms + plan.open_ms };
        let mut packed = self.word.0.load(Ordering::Acquire);
        while Word::unpack(packed).generation() == from.generation() {
            match self.word.0.compare_exchange_weak(packed, after.pack(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    self.trips.fetch_add(1, Ordering::Relaxed);
                    return true;
                }
                Err(now) => packed = now,
            }
        }
        false
    }
}

const REQUEST: u64 = 1;
const FAILURE: u64 = 1 << 24;
const COUNT_MASK: u64 = FAILURE - 1;
const EPOCH_SHIFT: u32 = 48;

impl Window {
    /// Counts a request in the bucket of `epoch`.
    fn add(&self, epoch: u64, failed: bool) {
        let slot = &self.0[(epoch % BUCKETS) as usize];
        let one = REQUEST + if failed { FAILURE } else { 0 };
        let mut packed = slot.load(Ordering::Relaxed);
        // The first of a bucket's time takes the place of what was counted there before.
        while packed >> EPOCH_SHIFT != epoch & 0xffff {
            let fresh = (epoch & 0xffff) << EPOCH_SHIFT | one;
            match slot.compare_exchange_weak(packed, fresh, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => packed = now,
            }
        }
        // Far below what would run into the failures: a bucket that full is judged as it is.
        if packed & COUNT_MASK < COUNT_MASK / 2 {
            slot.fetch_add(one, Ordering::Relaxed);
        }
    }

    /// Requests and failures of the window that ends with `epoch`.
    fn sum(&self, epoch: u64) -> (u64, u64) {
        self.0.iter().enumerate().fold((0, 0), |(requests, failures), (index, slot)| {
            let packed = slot.load(Ordering::Relaxed);
            let age = (epoch + BUCKETS - index as u64) % BUCKETS;
            let expected = epoch.wrapping_sub(age) & 0xffff;
            if packed >> EPOCH_SHIFT != expected || age > epoch {
                return (requests, failures);
            }
            (requests + (packed & COUNT_MASK), failures + (packed >> 24 & COUNT_MASK))
        })
    }

    fn clear(&self) {
        for slot in &self.0 {
            slot.fetch_and(u64::MAX << EPOCH_SHIFT, Ordering::Relaxed);
        }
    }
}

/// The leave to make one attempt. Ends in one outcome: the reported one, or [`Outcome::Unknown`] when dropped.
///
/// `B` leads to the breaker. On the hot path it is a handle of the thread's own: cloning an [`std::sync::Arc`] for every
/// request would be one more atomic on a shared line.
#[derive(Debug)]
pub(crate) struct Permit<B: AsRef<Breaker>> {
    /// `None`: reported.
    breaker: Option<B>,
    plan: BreakerPlan,
    generation: u64,
    probe: bool,
}

impl<B: AsRef<Breaker>> Permit<B> {
    /// Lets a request in, or not. `None`: refused, and counted as such.
    pub(crate) fn take(breaker: B, plan: BreakerPlan, now_ms: u64) -> Option<Self> {
        let Some((generation, probe)) = breaker.as_ref().try_admit(&plan, now_ms) else {
            breaker.as_ref().refused.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        Some(Self { breaker: Some(breaker), plan, generation, probe })
    }

    /// Whether this request finds out for a half-open breaker.
    pub(crate) const fn is_probe(&self) -> bool {
        self.probe
    }

    /// Reports how the attempt ended. What that changed.
    pub(crate) fn report(mut self, outcome: Outcome, now_ms: u64) -> Option<Change> {
        let breaker = self.breaker.take()?;
        breaker.as_ref().report(&self.plan, self.generation, self.probe, outcome, now_ms)
    }
}

impl<B: AsRef<Breaker>> Drop for Permit<B> {
    fn drop(&mut self) {
        if let Some(breaker) = self.breaker.take() {
            breaker.as_ref().report(&self.plan, self.generation, self.probe, Outcome::Unknown, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn plan() -> BreakerPlan {
        BreakerPlan::from(&CircuitBreaker {
            error_threshold_percent: 50.0,
            requests_min: 20,
            open_duration: Duration::from_secs(30),
            window: Duration::from_secs(10),
            half_open_requests: 5,
        })
    }

    fn admit(breaker: &Arc<Breaker>, plan: BreakerPlan, now_ms: u64) -> Option<Permit<Arc<Breaker>>> {
        Permit::take(Arc::clone(breaker), plan, now_ms)
    }

    fn run(breaker: &Arc<Breaker>, outcome: Outcome, count: usize, now_ms: u64) -> Vec<Change> {
        (0..count).filter_map(|_| admit(breaker, plan(), now_ms)?.report(outcome, now_ms)).collect()
    }

    #[test]
    fn opens_at_the_threshold_and_not_below_the_least_number_of_requests() {
        let breaker = Arc::<Breaker>::default();
        assert_eq!(run(&breaker, Outcome::Failure, 19, 1000), []);
        assert_eq!(breaker.state(1000), State::Closed);
        assert_eq!(run(&breaker, Outcome::Failure, 1, 1000), [Change::Opened]);
        assert!(admit(&breaker, plan(), 30_999).is_none());
        assert_eq!((breaker.trips(), breaker.refused()), (1, 1));

        let breaker = Arc::<Breaker>::default();
        run(&breaker, Outcome::Success, 21, 1000);
        assert_eq!(run(&breaker, Outcome::Failure, 20, 1000), [], "20 of 41 are below half");
        assert_eq!(run(&breaker, Outcome::Failure, 1, 1000), [Change::Opened], "21 of 42 are half");
    }

    #[test]
    fn the_window_rolls() {
        let breaker = Arc::<Breaker>::default();
        run(&breaker, Outcome::Failure, 15, 100_500);
        // Ten seconds later those are forgotten.
        assert_eq!(run(&breaker, Outcome::Failure, 19, 110_500), []);
        assert_eq!(breaker.look(&plan(), 110_500).failures, 19);
        // Nine seconds later they are not.
        assert_eq!(run(&breaker, Outcome::Failure, 1, 119_500), [Change::Opened]);
    }

    #[test]
    fn half_open_lets_five_try_and_closes_when_they_succeed() {
        let breaker = Arc::<Breaker>::default();
        run(&breaker, Outcome::Failure, 20, 0);
        let permits: Vec<_> = (0..9).filter_map(|_| admit(&breaker, plan(), 30_000)).collect();
        assert_eq!(permits.len(), 5);
        assert_eq!(breaker.state(30_000), State::HalfOpen);
        let changes: Vec<_> =
            permits.into_iter().filter_map(|permit| permit.report(Outcome::Success, 30_100)).collect();
        assert_eq!(changes, [Change::Closed]);
        assert_eq!(run(&breaker, Outcome::Failure, 19, 30_200), [], "what was before does not count");
    }

    #[test]
    fn one_failure_reopens_and_late_outcomes_do_not_count() {
        let breaker = Arc::<Breaker>::default();
        let late = admit(&breaker, plan(), 0).unwrap();
        run(&breaker, Outcome::Failure, 20, 0);
        let mut permits: Vec<_> = (0..5).filter_map(|_| admit(&breaker, plan(), 30_000)).collect();
        assert_eq!(late.report(Outcome::Failure, 30_000), None, "let in before it opened");
        assert_eq!(permits.pop().unwrap().report(Outcome::Failure, 30_000), Some(Change::Opened));
        for permit in permits {
            assert_eq!(permit.report(Outcome::Success, 30_001), None);
        }
        assert!(admit(&breaker, plan(), 59_999).is_none());
        assert!(admit(&breaker, plan(), 60_000).is_some());
    }

    #[test]
    fn permits_that_are_dropped_are_free_again() {
        let breaker = Arc::<Breaker>::default();
        run(&breaker, Outcome::Failure, 20, 0);
        for _ in 0..1000 {
            let permits: Vec<_> = (0..5).map(|_| admit(&breaker, plan(), 30_000).unwrap()).collect();
            assert!(admit(&breaker, plan(), 30_000).is_none());
            drop(permits);
        }
        let panicked = thread::spawn({
            let breaker = Arc::clone(&breaker);
            move || {
                let _permits: Vec<_> = (0..5).map(|_| admit(&breaker, plan(), 30_000).unwrap()).collect();
                panic!("on purpose");
            }
        });
        assert!(panicked.join().is_err());
        assert_eq!(run(&breaker, Outcome::Success, 5, 30_000), [Change::Closed]);
    }

    #[test]
    fn permits_that_say_nothing_for_too_long_make_room() {
        let breaker = Arc::<Breaker>::default();
        run(&breaker, Outcome::Failure, 20, 0);
        let hanging: Vec<_> = (0..5).map(|_| admit(&breaker, plan(), 30_000).unwrap()).collect();
        assert!(admit(&breaker, plan(), 59_000).is_none());
        assert_eq!(run(&breaker, Outcome::Success, 5, 60_100), [Change::Closed]);
        drop(hanging);
        assert_eq!(breaker.state(60_100), State::Closed);
    }

    #[test]
    fn threads_together_open_once_and_lose_no_outcome() {
        const THREADS: usize = 4;
        const EACH: usize = 10_000;
        let breaker = Arc::<Breaker>::default();
        let plan = BreakerPlan { requests_min: (THREADS * EACH) as u64, ..plan() };
        let barrier = Arc::new(Barrier::new(THREADS));
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let (breaker, barrier) = (Arc::clone(&breaker), Arc::clone(&barrier));
                thread::spawn(move || {
                    barrier.wait();
                    (0..EACH)
                        .filter_map(|_| admit(&breaker, plan, 5000)?.report(Outcome::Failure, 5000))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let changes: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(changes, [Change::Opened], "exactly the last outcome opens it");
    }

    #[test]
    fn threads_together_never_have_more_than_five_trying() {
        let breaker = Arc::<Breaker>::default();
        run(&breaker, Outcome::Failure, 20, 0);
        let trying = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (breaker, trying) = (Arc::clone(&breaker), Arc::clone(&trying));
                thread::spawn(move || {
                    for _ in 0..20_000 {
                        let Some(permit) = admit(&breaker, plan(), 30_000) else { continue };
                        assert!(trying.fetch_add(1, Ordering::SeqCst) < 5);
                        trying.fetch_sub(1, Ordering::SeqCst);
                        drop(permit);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(breaker.look(&plan(), 30_000).trying, 0);
    }
}
