//! The statistical test bench: whole rollouts over simulated counts, judged as they are in a fleet. Seeded.

use super::sequential::overdispersion;
use super::*;
use crate::plan::Plan;

/// SplitMix64: the same run for the same seed, everywhere.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn poisson(&mut self, mean: f64) -> u64 {
        // In parts, so that the limit does not underflow.
        let (mut left, mut count) = (mean, 0);
        while left > 0.0 {
            let part = left.min(30.0);
            let (limit, mut product) = ((-part).exp(), self.unit());
            while product > limit {
                product *= self.unit();
                count += 1;
            }
            left -= part;
        }
        count
    }

    /// Events in clumps: their variance is `clump` times their mean.
    fn clumped(&mut self, mean: f64, clump: u64) -> u64 {
        clump * self.poisson(mean / clump as f64)
    }
}

/// A fleet of proxies with the same traffic, and a canary among them.
struct Fleet {
    random: Random,
    proxies: u64,
    /// Requests of one proxy in an interval of 10 s.
    requests: u64,
    /// Share of 5xx.
    rate: f64,
    /// φ of 5xx and 4xx.
    clump: u64,
}

/// Share of 4xx: far more common than failures.
const REFUSED: f64 = 0.02;
/// Share of requests in the tail.
const SLOW: f64 = 0.009;
const INTERVALS_OF_HOUR: u64 = 360;

impl Fleet {
    fn side(&mut self, proxies: u64, times: f64) -> Counts {
        let mut sum = Counts::default();
        for _ in 0..proxies {
            let requests = self.requests;
            let of = requests as f64;
            let failed = self.random.clumped(of * self.rate * times, self.clump).min(requests);
            let refused = self.random.clumped(of * REFUSED, self.clump).min(requests);
            let mut latency = vec![0; crate::latency::BUCKETS];
            // Log-linear buckets around 10 ms, with a tail.
            let slow = self.random.clumped(of * SLOW, self.clump).min(requests);
            latency[80] = requests - slow;
            latency[95] = slow;
            sum.add(&Counts { requests, failed, refused, connect_failures: 0, latency });
        }
        sum
    }

    /// φ̂ from the hour before, twelve slots of each control proxy.
    fn baseline(&mut self) -> Baseline {
        let per_slot = INTERVALS_OF_HOUR / 12 * self.requests;
        let mut baseline = Baseline::default();
        for (index, rate) in [(0, self.rate), (1, REFUSED), (3, SLOW)] {
            let hour: Vec<Vec<(u64, u64)>> = (1..self.proxies)
                .map(|_| {
                    let slot = |_| (self.random.clumped(rate * per_slot as f64, self.clump), per_slot);
                    (0..12).map(slot).collect()
                })
                .collect();
            baseline.overdispersion[index] = overdispersion(&hour);
        }
        baseline
    }

    /// A canary, a half and everyone, with bakes of 5, 10 and 5 minutes; `times` the fleet's failures on the change. How
    /// many bad requests the cohort had when it failed.
    fn roll_out(&mut self, plan: &Plan, times: f64) -> Option<u64> {
        let mut case = Case::new(plan.compare_alpha);
        let mut at_ms = 0;
        let mut bad = 0;
        for (stage, share, minutes) in [("canary", 10, 5), ("half", 50, 10), ("all", 100, 5)] {
            let baseline = self.baseline();
            case.take(&Entry::Opened(Opened { at_ms, stage: stage.into(), baseline }));
            let cohort = (self.proxies * share / 100).max(1);
            let intervals = minutes * 6;
            for index in 0..intervals {
                at_ms += 10_000;
                let interval = Interval {
                    at_ms,
                    cohort: self.side(cohort, times),
                    control: self.side(self.proxies - cohort, 1.0),
                    cohort_proxies: cohort as u32,
                    control_proxies: (self.proxies - cohort) as u32,
                    rejected: 0,
                    baked: index + 1 == intervals,
                };
                bad += interval.cohort.failed;
                case.take(&Entry::Interval(interval));
                if judge(&case, plan).0 == Verdict::Fail {
                    return Some(bad);
                }
            }
        }
        None
    }
}

#[test]
fn fewer_than_one_in_a_hundred_clean_rollouts_is_taken_back() {
    let mut taken_back = 0;
    for seed in 0..500 {
        let clump = [1, 4, 8][seed as usize % 3];
        let mut fleet = Fleet { random: Random(seed), proxies: 10, requests: 300, rate: 0.001, clump };
        let plan = Plan { burn_rate_max: Some(10.0), ..Plan::default() };
        taken_back += u32::from(fleet.roll_out(&plan, 1.0).is_some());
    }
    assert!(taken_back < 5, "{taken_back} of 500");
}

#[test]
fn three_times_the_failures_are_seen_within_about_23_bad_requests() {
    // Thresholds far away: the comparison alone sees it.
    let plan = Plan { gates: Vec::new(), ..Plan::default() };
    let mut events: Vec<u64> = (0..101)
        .map(|seed| {
            let mut fleet = Fleet { random: Random(seed), proxies: 10, requests: 300, rate: 0.001, clump: 1 };
            fleet.roll_out(&plan, 3.0).unwrap_or(u64::MAX)
        })
        .collect();
    events.sort_unstable();
    assert!(events[50] <= 26, "the median rollout was taken back after {} bad requests", events[50]);
    assert!(events[99] < u64::MAX, "more than one was never seen");
}
