//! Waiting between attempts: exponential with full jitter, so that a fleet does not come back at one instant.

use std::time::Duration;

/// Growing waits.
#[derive(Debug)]
pub struct Backoff {
    attempt: u32,
    last: Duration,
}

impl Backoff {
    /// Waits that grow up to `last`.
    #[must_use]
    pub fn new(last: Duration) -> Self {
        Self { attempt: 0, last }
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    /// The next wait: evenly between 0 and a bound that doubles from [`FIRST`] to the last.
    pub fn wait(&mut self) -> Duration {
        let bound = FIRST.saturating_mul(1 << self.attempt.min(10)).min(self.last);
        self.attempt = self.attempt.saturating_add(1);
        // Without entropy everyone waits the bound.
        let share = getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
        bound.mul_f64(share)
    }
}

const FIRST: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_below_a_bound_that_grows_and_ends() {
        let last = Duration::from_secs(10);
        let mut backoff = Backoff::new(last);
        for attempt in 0..50 {
            assert!(backoff.wait() <= FIRST.saturating_mul(1 << attempt.min(10)).min(last));
        }
    }
}
