//! Finds the endpoints of a pool that do worse than their siblings.
//!
//! Requests count into cells of their own thread ([`OutlierCells`]); a judge in the background adds the threads up once
//! an interval and says whom to eject, and why ([`Judge::look`]). Pure: sums come in, verdicts go out. Failures in a row
//! are not its business: [`crate::live`] sees those as they happen. Nor is the bound on ejections, which holds for
//! whatever ejects.

use std::collections::VecDeque;

use sealane_model::config::OutlierDetection;
use sealane_model::latency;

use crate::metrics::Count;

/// What one thread counts of one endpoint.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct OutlierCells {
    pub(crate) requests: Count,
    pub(crate) failures: Count,
    /// Of answers, from the attempt's start to the head, by [`latency::bucket`].
    pub(crate) latency: Box<[Count]>,
}

impl Default for OutlierCells {
    fn default() -> Self {
        Self {
            requests: Count::default(),
            failures: Count::default(),
            latency: (0..latency::BUCKETS).map(|_| Count::default()).collect(),
        }
    }
}

impl OutlierCells {
    /// Counts an attempt. `latency_us`: of an answer; `None`: there was none.
    pub(crate) fn count(&self, failed: bool, latency_us: Option<u64>) {
        self.requests.add(1);
        if failed {
            self.failures.add(1);
        }
        if let Some(latency_us) = latency_us {
            self.latency[latency::bucket(latency_us)].add(1);
        }
    }
}

/// Counts of one endpoint: over all threads since it is known, or within an interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sums {
    requests: u64,
    failures: u64,
    latency: Vec<u64>,
}

impl Default for Sums {
    fn default() -> Self {
        Self { requests: 0, failures: 0, latency: vec![0; latency::BUCKETS] }
    }
}

impl Sums {
    /// The threads' cells, added up.
    pub(crate) fn of<'a>(cells: impl IntoIterator<Item = &'a OutlierCells>) -> Self {
        let mut sums = Self::default();
        for cells in cells {
            sums.requests += cells.requests.value();
            sums.failures += cells.failures.value();
            sums.latency.iter_mut().zip(&cells.latency).for_each(|(sum, count)| *sum += count.value());
        }
        sums
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            failures: self.failures.saturating_sub(before.failures),
            latency: self.latency.iter().zip(&before.latency).map(|(now, then)| now.saturating_sub(*then)).collect(),
        }
    }

    /// Microseconds; `None` without enough answers.
    fn latency_p95(&self) -> Option<u64> {
        quantile(&self.latency, 0.95, LATENCY_SAMPLES_MIN)
    }
}

/// The upper edge of the bucket that holds quantile `q`, in microseconds; `None` below `samples_min` samples.
pub(crate) fn quantile(latency: &[u64], q: f64, samples_min: u64) -> Option<u64> {
    let samples: u64 = latency.iter().sum();
    if samples < samples_min.max(1) {
        return None;
    }
    let rank = ((samples as f64 * q).ceil() as u64).clamp(1, samples);
    let mut below = 0;
    let bucket = latency.iter().position(|count| {
        below += count;
        below >= rank
    })?;
    Some(latency::upper_edge_us(bucket))
}

/// Why an endpoint is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    ConsecutiveFailures,
    ErrorRate,
    Latency,
}

impl Reason {
    pub(crate) const ALL: [Self; 3] = [Self::ConsecutiveFailures, Self::ErrorRate, Self::Latency];

    /// The name in logs, metrics and the admin API.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ConsecutiveFailures => "consecutive_fail",
            Self::ErrorRate => "error_rate",
            Self::Latency => "latency",
        }
    }
}

/// Intervals that the error rate is taken over, and that latency must be bad for in a row.
const INTERVALS: usize = 3;
/// Answers in an interval below which an endpoint's latency is not judged.
const LATENCY_SAMPLES_MIN: u64 = 50;

/// What a judge remembers of one pool.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    endpoints: Vec<Remembered>,
    due_ms: u64,
}

#[derive(Debug)]
struct Remembered {
    /// Tells endpoints apart: unique in the process.
    serial: u64,
    before: Sums,
    /// Requests and failures of the last intervals.
    intervals: VecDeque<(u64, u64)>,
    /// Intervals in a row with bad latency.
    slow: usize,
}

impl Judge {
    /// When the next look is due, in milliseconds.
    pub(crate) const fn due_ms(&self) -> u64 {
        self.due_ms
    }

    /// Looks at a pool whose endpoints are named by a serial number each. Gives the indexes of those to eject.
    ///
    /// `ejected` ones start anew when they come back, and are nobody's measure meanwhile.
    pub(crate) fn look(
        &mut self,
        plan: &OutlierDetection,
        now_ms: u64,
        endpoints: Vec<(u64, Sums, bool)>,
    ) -> Vec<(usize, Reason)> {
        self.due_ms = now_ms + plan.interval.as_millis() as u64;
        let mut known = std::mem::take(&mut self.endpoints);
        let mut latencies = Vec::with_capacity(endpoints.len());
        let mut verdicts = Vec::new();
        for (index, (serial, sums, ejected)) in endpoints.into_iter().enumerate() {
            let position = known.iter().position(|known| known.serial == serial);
            // What was counted before the first look belongs to no interval.
            let mut remembered = position.map(|position| known.swap_remove(position)).unwrap_or_else(|| Remembered {
                serial,
                before: sums.clone(),
                intervals: VecDeque::with_capacity(INTERVALS + 1),
                slow: 0,
            });
            let interval = sums.since(&remembered.before);
            remembered.before = sums;
            if ejected {
                remembered.intervals.clear();
                remembered.slow = 0;
                latencies.push(None);
            } else {
                remembered.intervals.push_back((interval.requests, interval.failures));
                if remembered.intervals.len() > INTERVALS {
                    remembered.intervals.pop_front();
                }
                latencies.push(interval.latency_p95());
                if remembered.fails_too_often(plan) {
                    remembered.intervals.clear();
                    verdicts.push((index, Reason::ErrorRate));
                }
            }
            self.endpoints.push(remembered);
        }
        self.judge_latency(plan, &latencies, &mut verdicts);
        verdicts
    }

    /// Compares each endpoint with the median of the others: one that is in its own measure hides itself.
    fn judge_latency(
        &mut self,
        plan: &OutlierDetection,
        latencies: &[Option<u64>],
        verdicts: &mut Vec<(usize, Reason)>,
    ) {
        let Some(multiplier) = plan.latency_multiplier else { return };
        for (index, remembered) in self.endpoints.iter_mut().enumerate() {
            let mut others: Vec<u64> = latencies
                .iter()
                .enumerate()
                .filter_map(|(other, latency)| latency.filter(|_| other != index))
                .collect();
            others.sort_unstable();
            let (Some(own), Some(median)) = (latencies[index], others.get(others.len().saturating_sub(1) / 2)) else {
                remembered.slow = 0;
                continue;
            };
            remembered.slow = if own as f64 > multiplier * *median as f64 { remembered.slow + 1 } else { 0 };
            if remembered.slow >= INTERVALS && !verdicts.iter().any(|(known, _)| *known == index) {
                remembered.slow = 0;
                verdicts.push((index, Reason::Latency));
            }
        }
    }
}

impl Remembered {
    fn fails_too_often(&self, plan: &OutlierDetection) -> bool {
        let Some(threshold) = plan.error_rate_threshold_percent else { return false };
        let (requests, failures) =
            self.intervals.iter().fold((0, 0), |(requests, failures), (r, f)| (requests + r, failures + f));
        requests >= u64::from(plan.requests_min) && failures as f64 * 100.0 >= threshold * requests as f64
    }
}

/// Endpoints of a pool that may be ejected at the same time: a share, rounded down, and never all.
pub(crate) fn ejections_max(endpoints: usize, percent: f64) -> usize {
    ((endpoints as f64 * percent / 100.0 + 1e-9) as usize).min(endpoints.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn plan() -> OutlierDetection {
        OutlierDetection {
            consecutive_failures: None,
            error_rate_threshold_percent: Some(50.0),
            requests_min: 20,
            latency_multiplier: Some(3.0),
            interval: Duration::from_secs(10),
            ejection_duration: Duration::from_secs(30),
            ejection_duration_max: Duration::from_secs(600),
            ejection_max_percent: 50.0,
        }
    }

    /// Endpoints that count together, interval after interval.
    struct Pool {
        cells: Vec<[OutlierCells; 2]>,
        ejected: Vec<bool>,
        judge: Judge,
        now_ms: u64,
    }

    impl Pool {
        fn new(endpoints: usize) -> Self {
            let mut pool = Self {
                cells: (0..endpoints).map(|_| Default::default()).collect(),
                ejected: vec![false; endpoints],
                judge: Judge::default(),
                now_ms: 0,
            };
            pool.look();
            pool
        }

        fn count(&self, endpoint: usize, requests: usize, failures: usize, latency_us: u64) {
            for number in 0..requests {
                self.cells[endpoint][number % 2].count(number < failures, Some(latency_us));
            }
        }

        fn look(&mut self) -> Vec<(usize, Reason)> {
            assert!(self.now_ms >= self.judge.due_ms());
            let sums = self.cells.iter().zip(&self.ejected).enumerate();
            let sums = sums.map(|(index, (cells, ejected))| (index as u64, Sums::of(cells), *ejected)).collect();
            let verdicts = self.judge.look(&plan(), self.now_ms, sums);
            self.now_ms += 10_000;
            verdicts
        }
    }

    #[test]
    fn a_high_share_of_failures_ejects_once_there_are_enough_requests() {
        let mut pool = Pool::new(2);
        pool.count(0, 19, 19, 1000);
        assert_eq!(pool.look(), []);
        pool.count(0, 1, 0, 1000);
        pool.count(1, 100, 49, 1000);
        assert_eq!(pool.look(), [(0, Reason::ErrorRate)], "19 of 20 over two intervals");
        pool.count(0, 10, 10, 1000);
        assert_eq!(pool.look(), [], "what led to it does not count twice");
    }

    #[test]
    fn failures_of_four_intervals_ago_are_forgotten() {
        let mut pool = Pool::new(2);
        pool.count(0, 19, 19, 1000);
        for _ in 0..3 {
            assert_eq!(pool.look(), []);
        }
        pool.count(0, 19, 19, 1000);
        assert_eq!(pool.look(), []);
    }

    #[test]
    fn an_endpoint_slower_than_the_others_for_three_intervals_is_ejected() {
        let mut pool = Pool::new(3);
        for round in 0..3 {
            pool.count(0, 60, 0, 1_000);
            pool.count(1, 60, 0, 1_500);
            pool.count(2, 60, 0, 10_000);
            let expected: &[_] = if round == 2 { &[(2, Reason::Latency)] } else { &[] };
            assert_eq!(pool.look(), expected, "round {round}");
        }
        // With two, each is measured by the other alone.
        let mut pool = Pool::new(2);
        for round in 0..3 {
            pool.count(0, 60, 0, 1_000);
            pool.count(1, 60, 0, 10_000);
            assert_eq!(pool.look().len(), usize::from(round == 2));
        }
    }

    #[test]
    fn latency_is_not_judged_by_few_answers_nor_without_a_sibling() {
        let mut pool = Pool::new(2);
        for _ in 0..6 {
            pool.count(0, 60, 0, 1_000);
            pool.count(1, 49, 0, 100_000);
            assert_eq!(pool.look(), []);
        }
        let mut pool = Pool::new(1);
        for _ in 0..6 {
            pool.count(0, 60, 0, 1_000_000);
            assert_eq!(pool.look(), []);
        }
    }

    #[test]
    fn an_endpoint_that_comes_back_starts_anew() {
        let mut pool = Pool::new(2);
        pool.count(0, 20, 20, 1000);
        assert_eq!(pool.look(), [(0, Reason::ErrorRate)]);
        pool.ejected[0] = true;
        pool.count(0, 20, 20, 1000);
        assert_eq!(pool.look(), []);
        pool.ejected[0] = false;
        assert_eq!(pool.look(), []);
    }

    #[test]
    fn the_bound_on_ejections_rounds_down_and_never_is_the_whole_pool() {
        let check = |endpoints, percent, expected| {
            assert_eq!(ejections_max(endpoints, percent), expected, "{endpoints} {percent}");
        };
        check(4, 25.0, 1);
        check(4, 50.0, 2);
        check(3, 50.0, 1);
        check(3, 25.0, 0);
        check(10, 30.0, 3);
        check(4, 100.0, 3);
        check(1, 100.0, 0);
        check(0, 100.0, 0);
    }

    #[test]
    fn a_quantile_is_the_edge_of_its_bucket() {
        let mut counts = vec![0; latency::BUCKETS];
        counts[latency::bucket(1000)] = 95;
        counts[latency::bucket(50_000)] = 5;
        assert_eq!(quantile(&counts, 0.95, 50), Some(latency::upper_edge_us(latency::bucket(1000))));
        assert_eq!(quantile(&counts, 0.96, 50), Some(latency::upper_edge_us(latency::bucket(50_000))));
        assert_eq!(quantile(&counts, 0.96, 101), None);
        assert_eq!(quantile(&[], 0.5, 0), None);
    }
}
