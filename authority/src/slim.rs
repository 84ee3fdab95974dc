//! Counts as they are kept of each proxy: of the latency buckets only those that are not empty. A fleet's proxies are many,
//! and most buckets are empty.

use sealane_model::gate::Counts;
use sealane_model::latency::BUCKETS;

/// Counts, kept small.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Slim {
    requests: u64,
    failed: u64,
    refused: u64,
    connect_failures: u64,
    /// Buckets that are not empty, ascending, and what is in them.
    buckets: Box<[u8]>,
    latency: Box<[u64]>,
}

const _: () = assert!(BUCKETS <= 1 << 8, "a bucket's number fits a byte");

impl From<&Counts> for Slim {
    fn from(counts: &Counts) -> Self {
        let filled = || counts.latency.iter().enumerate().take(BUCKETS).filter(|(_, count)| **count > 0);
        Self {
            requests: counts.requests,
            failed: counts.failed,
            refused: counts.refused,
            connect_failures: counts.connect_failures,
            buckets: filled().map(|(bucket, _)| bucket as u8).collect(),
            latency: filled().map(|(_, count)| *count).collect(),
        }
    }
}

impl From<&Slim> for Counts {
    fn from(slim: &Slim) -> Self {
        let mut latency = if slim.buckets.is_empty() { Vec::new() } else { vec![0; BUCKETS] };
        for (bucket, count) in slim.buckets.iter().zip(&slim.latency) {
            latency[usize::from(*bucket)] = *count;
        }
        Self {
            requests: slim.requests,
            failed: slim.failed,
            refused: slim.refused,
            connect_failures: slim.connect_failures,
            latency,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_come_back_as_they_were() {
        let mut latency = vec![0; BUCKETS];
        (latency[0], latency[17], latency[BUCKETS - 1]) = (1, u64::MAX, 3);
        let full = Counts { requests: 9, failed: 8, refused: 7, connect_failures: 6, latency };
        for counts in [full, Counts::default()] {
            assert_eq!(Counts::from(&Slim::from(&counts)), counts);
        }
    }
}
