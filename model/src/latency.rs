//! The latency histogram that observations carry: the same edges everywhere, so that counts can be added and compared.
//!
//! Log-linear: [`SUB_BUCKETS`] equal steps in each octave of microseconds, so a bucket is at most 12.5 % wide.

/// Steps in each octave.
pub const SUB_BUCKETS: usize = 8;
/// Octaves above the first: up to 2^27 µs, about 134 s; slower requests fall into the last bucket.
const OCTAVES: usize = 24;
/// Number of buckets.
pub const BUCKETS: usize = SUB_BUCKETS * (OCTAVES + 1);

/// The bucket of a latency in microseconds, below [`BUCKETS`].
#[must_use]
pub fn bucket(latency_us: u64) -> usize {
    let sub = SUB_BUCKETS as u64;
    if latency_us < sub {
        return latency_us as usize;
    }
    let octave = latency_us.ilog2() - sub.ilog2();
    let step = (latency_us >> octave) - sub;
    (SUB_BUCKETS * (octave as usize + 1) + step as usize).min(BUCKETS - 1)
}

/// The inclusive upper edge of a bucket in microseconds.
#[must_use]
pub fn upper_edge_us(bucket: usize) -> u64 {
    let sub = SUB_BUCKETS as u64;
    if bucket < SUB_BUCKETS {
        return bucket as u64;
    }
    let octave = bucket / SUB_BUCKETS - 1;
    let step = (bucket % SUB_BUCKETS) as u64;
    ((sub + step + 1) << octave) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_lies_at_or_below_the_edge_of_its_bucket_and_above_the_one_before() {
        for us in (0..100_000u64).chain([1 << 20, (1 << 26) + 12_345, (1 << 27) - 1]) {
            let bucket = bucket(us);
            assert!(us <= upper_edge_us(bucket), "{us}");
            assert!(bucket == 0 || us > upper_edge_us(bucket - 1), "{us}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }
}
