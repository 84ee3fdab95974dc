//! A token bucket: so many at once, so many a second after that. Pure; time comes in.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A token bucket.
#[derive(Debug)]
pub(crate) struct Bucket {
    per_second: u32,
    burst: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// In thousandths.
    tokens: u64,
    at_ms: u64,
}

impl Bucket {
    /// Full.
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        let state = Mutex::new(State { tokens: u64::from(burst) * 1000, at_ms: 0 });
        Self { per_second: per_second.max(1), burst, state }
    }

    /// Takes one, or says after how long there may be one.
    pub(crate) fn take(&self, now_ms: u64) -> Result<(), Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // A token a second is one thousandth a millisecond.
        let grown = now_ms.saturating_sub(state.at_ms).saturating_mul(u64::from(self.per_second));
        state.tokens = state.tokens.saturating_add(grown).min(u64::from(self.burst) * 1000);
        state.at_ms = state.at_ms.max(now_ms);
        if state.tokens >= 1000 {
            state.tokens -= 1000;
            return Ok(());
        }
        Err(Duration::from_millis((1000 - state.tokens).div_ceil(u64::from(self.per_second))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_through_and_then_so_many_a_second() {
        let bucket = Bucket::new(10, 3);
        let now = 1_000_000;
        assert!((0..3).all(|_| bucket.take(now).is_ok()));
        assert_eq!(bucket.take(now), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(now + 100), Ok(()));
        assert!(bucket.take(now + 101).is_err());
        let later = (0..100).filter(|_| bucket.take(now + 60_000).is_ok()).count();
        assert_eq!(later, 3, "it does not save up for more than a burst");
        assert!(bucket.take(0).is_err(), "a clock that goes back gives nothing");
    }
}
