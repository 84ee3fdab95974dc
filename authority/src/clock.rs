//! The one place that reads a real clock.

use std::time::{Duration, UNIX_EPOCH};

use tokio::time::Instant;

/// Unix time in milliseconds that never runs backwards while the process lives: read once from the wall, then from the
/// monotonic clock, so that a clock set back cannot stall or rush a rollout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start_ms: u64,
    start: Instant,
}

impl Clock {
    /// A clock that starts at the wall's time, or at `least_ms` where the wall is behind what was stored already.
    #[must_use]
    pub(crate) fn starting_at_least(least_ms: u64) -> Self {
        Self { start_ms: wall_ms().max(least_ms), start: Instant::now() }
    }

    /// Unix time in milliseconds.
    #[must_use]
    pub(crate) fn now_ms(&self) -> u64 {
        self.start_ms + u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX / 2)
    }
}

/// The wall's Unix time in milliseconds.
#[expect(clippy::disallowed_methods, reason = "the one real clock of this crate")]
pub(crate) fn wall_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(0)
}
