//! The evidence of a rollout: what is stored, and the fold that is judged.
//!
//! Entries are only added. A restart, or `explain`, folds the stored ones into the same [`Case`].

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::counts::Counts;
use super::sequential::{OVERDISPERSION_UNKNOWN, Sequential};
use crate::latency::{bucket, upper_edge_us};

/// What is compared between canary and control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// 5xx, made by proxy or upstream.
    Failures,
    /// 4xx.
    Refusals,
    /// Connections to endpoints that could not be made.
    ConnectFailures,
    /// Slower than control's p99.
    Slow,
}

/// Every metric; α is shared over them.
pub const METRICS: [Metric; 4] = [Metric::Failures, Metric::Refusals, Metric::ConnectFailures, Metric::Slow];

/// A piece of evidence, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Entry {
    /// A stage or the final bake began, or is looked at from the start after a restart.
    Opened(Opened),
    /// What both sides did in a while.
    Interval(Interval),
}

/// The beginning of a phase that is judged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// Unix milliseconds.
    pub at_ms: u64,
    /// Name of the stage; `final bake` for that.
    pub stage: String,
    /// What is known of both sides from before.
    pub baseline: Baseline,
}

/// Both sides before the change, by metric in the order of [`METRICS`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// φ̂: variance between control proxies over what chance explains.
    pub overdispersion: [f64; METRICS.len()],
    /// ρ0: how many times control's rate the cohort's proxies had before they ran the change; at least 1.
    pub ratio: [f64; METRICS.len()],
}

/// What both sides did since the entry before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Its end, Unix milliseconds.
    pub at_ms: u64,
    /// Proxies that run the candidate.
    pub cohort: Counts,
    /// Proxies that run last good meanwhile; no requests when there is no control.
    pub control: Counts,
    /// How many proxies `cohort` is.
    pub cohort_proxies: u32,
    /// How many proxies `control` is.
    pub control_proxies: u32,
    /// Proxies that refused the candidate.
    pub rejected: u64,
    /// The bake is over: this is the evidence that decides.
    pub baked: bool,
}

/// Everything that a rollout is judged on.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// One for each metric, carried across stages.
    pub(super) tests: [Sequential; METRICS.len()],
    /// The same, of this phase alone.
    pub(super) window: [Sequential; METRICS.len()],
    pub(super) alpha: f64,
    pub(super) baseline: Baseline,
    /// Since the phase began.
    pub(super) cohort: Counts,
    pub(super) control: Counts,
    pub(super) cohort_proxies: u32,
    pub(super) control_proxies: u32,
    pub(super) rejected: u64,
    pub(super) baked: bool,
    /// Control as it was in the newest phase that had one.
    pub(super) frozen: Counts,
    /// Requests and failures of both sides over the last hour, oldest first.
    pub(super) recent: VecDeque<Recent>,
    /// Slow is above this bucket.
    pub(super) edge: Option<usize>,
}

/// For the burn rate.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Recent {
    pub(super) at_ms: u64,
    /// Requests, failed.
    pub(super) cohort: (u64, u64),
    pub(super) control: (u64, u64),
}

/// The long window of the burn rate.
pub(super) const BURN_LONG_MS: u64 = 3_600_000;
/// The short one: what burnt an hour ago and stopped is no reason to go back.
pub(super) const BURN_SHORT_MS: u64 = 300_000;
/// Intervals closer together than this are one, for the burn rate.
const RECENT_STEP_MS: u64 = 5_000;
/// Latencies of control below which its p99 is not known.
const EDGE_SAMPLE: u64 = 100;
/// Slow is at least this much above control's p99: less is seen, but hurts nobody.
const SLOW_MARGIN_US: u64 = 2_000;

impl Default for Baseline {
    fn default() -> Self {
        Self { overdispersion: [OVERDISPERSION_UNKNOWN; METRICS.len()], ratio: [1.0; METRICS.len()] }
    }
}

impl Metric {
    /// As its gate is called.
    #[must_use]
    pub fn gate(self) -> &'static str {
        match self {
            Self::Failures => "compare_5xx",
            Self::Refusals => "compare_4xx",
            Self::ConnectFailures => "compare_connect",
            Self::Slow => "compare_slow",
        }
    }

    /// Bad events of a side, and all of them. `edge`: see [`slow_edge`].
    #[must_use]
    pub fn of(self, counts: &Counts, edge: Option<usize>) -> (u64, u64) {
        match self {
            Self::Failures => (counts.failed.min(counts.requests), counts.requests),
            Self::Refusals => (counts.refused.min(counts.requests), counts.requests),
            Self::ConnectFailures => (counts.connect_failures.min(counts.requests), counts.requests),
            Self::Slow => edge.map_or((0, 0), |edge| (counts.slower_than(edge), counts.measured())),
        }
    }
}

/// The bucket above which a request counts as slow: a quarter and 2 ms above this control's p99. `None`: too few.
#[must_use]
pub fn slow_edge(control: &Counts) -> Option<usize> {
    if control.measured() < EDGE_SAMPLE {
        return None;
    }
    let p99 = upper_edge_us(control.percentile_bucket(99)?);
    Some(bucket((p99 + p99 / 4).max(p99 + SLOW_MARGIN_US)))
}

impl Case {
    /// Before any evidence. `alpha` is the rollout's; see [`crate::plan::Plan::compare_alpha`].
    #[must_use]
    pub fn new(alpha: f64) -> Self {
        let share = alpha / METRICS.len() as f64;
        Self {
            tests: std::array::from_fn(|_| Sequential::new(share)),
            window: std::array::from_fn(|_| Sequential::new(share)),
            alpha,
            baseline: Baseline::default(),
            cohort: Counts::default(),
            control: Counts::default(),
            cohort_proxies: 0,
            control_proxies: 0,
            rejected: 0,
            baked: false,
            frozen: Counts::default(),
            recent: VecDeque::new(),
            edge: None,
        }
    }

    /// From all its entries.
    #[must_use]
    pub fn fold<'a>(alpha: f64, entries: impl IntoIterator<Item = &'a Entry>) -> Self {
        let mut case = Self::new(alpha);
        entries.into_iter().for_each(|entry| case.take(entry));
        case
    }

    /// Takes one more entry in.
    pub fn take(&mut self, entry: &Entry) {
        match entry {
            Entry::Opened(opened) => self.open(opened),
            Entry::Interval(interval) => self.take_interval(interval),
        }
    }

    fn open(&mut self, opened: &Opened) {
        if self.control.requests > 0 {
            self.frozen = std::mem::take(&mut self.control);
        }
        self.baseline = opened.baseline.clone();
        (self.cohort, self.control) = (Counts::default(), Counts::default());
        (self.cohort_proxies, self.control_proxies, self.rejected, self.baked) = (0, 0, 0, false);
        for (index, test) in self.tests.iter_mut().enumerate() {
            let overdispersion = self.baseline.overdispersion[index];
            *test = test.clone().with_overdispersion(overdispersion);
            self.window[index] = Sequential::new(self.alpha / METRICS.len() as f64).with_overdispersion(overdispersion);
        }
    }

    fn take_interval(&mut self, interval: &Interval) {
        // What is slow was settled before the interval: its own latencies must not move their own yardstick.
        self.edge = slow_edge(&self.control).or(self.edge);
        for (index, metric) in METRICS.iter().enumerate() {
            let ((x, n), (y, m)) = (metric.of(&interval.cohort, self.edge), metric.of(&interval.control, self.edge));
            let ratio = self.baseline.ratio[index];
            self.tests[index].observe_against(ratio, x, n, y, m);
            self.window[index].observe_against(ratio, x, n, y, m);
        }
        self.cohort.add(&interval.cohort);
        self.control.add(&interval.control);
        (self.cohort_proxies, self.control_proxies) = (interval.cohort_proxies, interval.control_proxies);
        self.rejected = interval.rejected;
        self.baked = interval.baked;
        let (cohort, control) = (&interval.cohort, &interval.control);
        let new = Recent {
            at_ms: interval.at_ms,
            cohort: (cohort.requests, cohort.failed),
            control: (control.requests, control.failed),
        };
        match self.recent.back_mut().filter(|last| interval.at_ms < last.at_ms.saturating_add(RECENT_STEP_MS)) {
            Some(last) => last.add(&new),
            None => self.recent.push_back(new),
        }
        let oldest_ms = interval.at_ms.saturating_sub(BURN_LONG_MS);
        while self.recent.front().is_some_and(|first| first.at_ms < oldest_ms) {
            self.recent.pop_front();
        }
    }

    /// Both sides over the last `window_ms`.
    pub(super) fn recently(&self, window_ms: u64) -> Recent {
        let now_ms = self.recent.back().map_or(0, |last| last.at_ms);
        let mut sum = Recent { at_ms: now_ms, ..Recent::default() };
        for one in self.recent.iter().filter(|one| one.at_ms.saturating_add(window_ms) >= now_ms) {
            sum.add(one);
        }
        sum
    }

    /// What control is compared with: the live one, else the newest there was. Whether it is the older one.
    pub(super) fn yardstick(&self) -> (&Counts, bool) {
        if self.control.requests == 0 && self.frozen.requests > 0 {
            (&self.frozen, true)
        } else {
            (&self.control, false)
        }
    }
}

impl Recent {
    fn add(&mut self, other: &Self) {
        self.cohort.0 = self.cohort.0.saturating_add(other.cohort.0);
        self.cohort.1 = self.cohort.1.saturating_add(other.cohort.1);
        self.control.0 = self.control.0.saturating_add(other.control.0);
        self.control.1 = self.control.1.saturating_add(other.control.1);
    }
}
