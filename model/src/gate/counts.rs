//! What a side counted. Cumulative at the proxies, differences here.

use serde::{Deserialize, Serialize};

use crate::latency::{BUCKETS, upper_edge_us};

/// What one side (cohort or control) did in the bake so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests.
    pub requests: u64,
    /// Failed ones: 5xx made by proxy or upstream, and ends without an answer.
    pub failed: u64,
    /// Answers of 4xx.
    #[serde(default)]
    pub refused: u64,
    /// Connections to endpoints that could not be made.
    #[serde(default)]
    pub connect_failures: u64,
    /// Per bucket of [`crate::latency`]; empty or [`crate::latency::BUCKETS`] long. Stored as pairs of those
    /// that are not 0.
    #[serde(default, with = "sparse")]
    pub latency: Vec<u64>,
}

impl Counts {
    /// Adds `other` to this.
    pub fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.failed = self.failed.saturating_add(other.failed);
        self.refused = self.refused.saturating_add(other.refused);
        self.connect_failures = self.connect_failures.saturating_add(other.connect_failures);
        if self.latency.len() < other.latency.len() {
            self.latency.resize(other.latency.len(), 0);
        }
        for (count, more) in self.latency.iter_mut().zip(&other.latency) {
            *count = count.saturating_add(*more);
        }
    }

    /// What was counted since `earlier` (of the same process); saturates at 0.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut latency = self.latency.clone();
        for (count, before) in latency.iter_mut().zip(&earlier.latency) {
            *count = count.saturating_sub(*before);
        }
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            failed: self.failed.saturating_sub(earlier.failed),
            refused: self.refused.saturating_sub(earlier.refused),
            connect_failures: self.connect_failures.saturating_sub(earlier.connect_failures),
            latency,
        }
    }

    /// Whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        [self.requests, self.failed, self.refused, self.connect_failures] == [0; 4] && self.measured() == 0
    }

    /// Failed over requests; `None` without requests.
    #[must_use]
    pub fn error_rate(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.failed as f64 / self.requests as f64)
    }

    /// Upper edge in microseconds of the bucket that holds this percentile (1 to 99): at most 12.5 % above the latency
    /// itself. `None` without latencies.
    #[must_use]
    pub fn percentile_us(&self, percentile: u8) -> Option<u64> {
        self.percentile_bucket(percentile).map(upper_edge_us)
    }

    /// The bucket that holds this percentile.
    #[must_use]
    pub fn percentile_bucket(&self, percentile: u8) -> Option<usize> {
        let total = self.measured();
        if total == 0 {
            return None;
        }
        // Nearest rank: the smallest latency that at least `percentile` % of all do not exceed.
        let rank = (u128::from(total) * u128::from(percentile)).div_ceil(100).max(1);
        let mut below = 0_u128;
        for (bucket, count) in self.latency.iter().enumerate().take(BUCKETS) {
            below += u128::from(*count);
            if below >= rank {
                return Some(bucket);
            }
        }
        None
    }

    /// Requests that took longer than the edge of `bucket`.
    #[must_use]
    pub fn slower_than(&self, bucket: usize) -> u64 {
        self.latency.iter().take(BUCKETS).skip(bucket + 1).fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Requests with a latency.
    #[must_use]
    pub fn measured(&self) -> u64 {
        self.latency.iter().take(BUCKETS).fold(0, |sum, count| sum.saturating_add(*count))
    }
}

mod sparse {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::BUCKETS;

    pub(super) fn serialize<S: Serializer>(latency: &[u64], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(latency.iter().enumerate().filter(|(_, count)| **count > 0))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
        let pairs = Vec::<(usize, u64)>::deserialize(deserializer)?;
        let mut latency = if pairs.is_empty() { Vec::new() } else { vec![0; BUCKETS] };
        for (bucket, count) in pairs {
            if let Some(slot) = latency.get_mut(bucket) {
                *slot = count;
            }
        }
        Ok(latency)
    }
}
