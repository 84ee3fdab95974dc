//! When a slow safe read is asked for a second time: what a route's recent latencies say, and what came of it.
//!
//! Requests count into cells of their own thread; the background adds them up and keeps the quantile that the plan asks
//! for at hand ([`HedgeLive::look`]). How a hedge is run is [`crate::exchange`]'s business.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sealane_model::config::HedgeDelay;
use sealane_model::latency;

use crate::metrics::{Count, lock};
use crate::outlier::quantile;

/// What the hedges of one route remember. Outlives snapshots.
#[derive(Debug)]
pub(crate) struct HedgeLive {
    /// The quantile asked for, in microseconds; 0: not known yet.
    delay_us: AtomicU64,
    /// By thread.
    cells: Box<[HedgeCells]>,
    judged: Mutex<Judged>,
}

/// What one thread counts.
#[derive(Debug)]
#[repr(align(128))]
struct HedgeCells {
    /// By [`latency::bucket`].
    latency: Box<[Count]>,
    outcomes: [Count; 3],
}

/// What came of a hedge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HedgeOutcome {
    /// A further endpoint was asked.
    Sent,
    /// And its answer came first.
    Won,
    /// The budget had nothing left.
    Budget,
}

impl HedgeOutcome {
    pub(crate) const ALL: [Self; 3] = [Self::Sent, Self::Won, Self::Budget];

    /// The name in metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Won => "won",
            Self::Budget => "budget",
        }
    }
}

#[derive(Debug, Default)]
struct Judged {
    before: Vec<u64>,
    /// Latencies of the last looks.
    slices: VecDeque<Vec<u64>>,
    due_ms: u64,
}

/// Between two looks.
const LOOK_MS: u64 = 500;
/// Looks that a quantile is taken over: the last ten seconds.
const SLICES: usize = 20;
/// Answers below which a quantile means nothing.
const SAMPLES_MIN: u64 = 20;

impl HedgeLive {
    pub(crate) fn new(threads: usize) -> Self {
        let cells = || HedgeCells {
            latency: (0..latency::BUCKETS).map(|_| Count::default()).collect(),
            outcomes: Default::default(),
        };
        Self { delay_us: AtomicU64::new(0), cells: (0..threads).map(|_| cells()).collect(), judged: Mutex::default() }
    }

    /// How long to wait before a further endpoint is asked; `None`: not known yet.
    pub(crate) fn delay(&self, after: HedgeDelay) -> Option<Duration> {
        match after {
            HedgeDelay::Fixed(delay) => Some(delay),
            HedgeDelay::Quantile(_) => {
                let micros = self.delay_us.load(Ordering::Relaxed);
                (micros > 0).then(|| Duration::from_micros(micros))
            }
        }
    }

    /// Counts how long an endpoint took, or had taken when it was given up for a faster one.
    pub(crate) fn took(&self, thread: usize, latency_us: u64) {
        self.cells[thread].latency[latency::bucket(latency_us)].add(1);
    }

    pub(crate) fn count(&self, thread: usize, outcome: HedgeOutcome) {
        self.cells[thread].outcomes[outcome as usize].add(1);
    }

    pub(crate) fn outcomes(&self, outcome: HedgeOutcome) -> u64 {
        self.cells.iter().map(|cells| cells.outcomes[outcome as usize].value()).sum()
    }

    /// Works the quantile out anew if that is due. When the next look is, in milliseconds; `None`: never.
    pub(crate) fn look(&self, after: HedgeDelay, now_ms: u64) -> Option<u64> {
        let HedgeDelay::Quantile(q) = after else { return None };
        let mut judged = lock(&self.judged);
        if now_ms < judged.due_ms {
            return Some(judged.due_ms);
        }
        judged.due_ms = now_ms + LOOK_MS;
        let mut sums = vec![0; latency::BUCKETS];
        for cells in &self.cells {
            sums.iter_mut().zip(&cells.latency).for_each(|(sum, count)| *sum += count.value());
        }
        if judged.before.is_empty() {
            judged.before = vec![0; latency::BUCKETS];
        }
        let slice = sums.iter().zip(&judged.before).map(|(now, then)| now - then).collect();
        judged.before = sums;
        judged.slices.push_back(slice);
        if judged.slices.len() > SLICES {
            judged.slices.pop_front();
        }
        let mut recent = vec![0; latency::BUCKETS];
        for slice in &judged.slices {
            recent.iter_mut().zip(slice).for_each(|(sum, count)| *sum += count);
        }
        self.delay_us.store(quantile(&recent, q, SAMPLES_MIN).unwrap_or(0), Ordering::Relaxed);
        Some(judged.due_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_follows_the_latencies_of_the_last_seconds() {
        let live = HedgeLive::new(2);
        let p90 = HedgeDelay::Quantile(0.9);
        let count = |times, latency_us| (0..times).for_each(|number| live.took(number % 2, latency_us));
        let edge = |latency_us| Some(Duration::from_micros(latency::upper_edge_us(latency::bucket(latency_us))));
        count(19, 1000);
        assert_eq!(live.look(p90, 0), Some(LOOK_MS));
        assert_eq!(live.delay(p90), None, "too few");
        count(81, 1000);
        count(20, 50_000);
        live.look(p90, 100);
        assert_eq!(live.delay(p90), None, "not due");
        live.look(p90, 500);
        assert_eq!(live.delay(p90), edge(50_000));
        count(400, 2000);
        live.look(p90, 1000);
        assert_eq!(live.delay(p90), edge(2000));
        for look in 3..30 {
            live.look(p90, look * 500);
        }
        assert_eq!(live.delay(p90), None, "long ago");
    }

    #[test]
    fn a_fixed_delay_is_what_it_is() {
        let live = HedgeLive::new(1);
        let fixed = HedgeDelay::Fixed(Duration::from_millis(5));
        assert_eq!((live.look(fixed, 0), live.delay(fixed)), (None, Some(Duration::from_millis(5))));
    }
}
