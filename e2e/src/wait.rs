//! Waiting for a value with a deadline.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::Instant;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Looks until `look` gives a value.
///
/// # Panics
/// At the deadline, saying what was waited for.
pub async fn until<T>(what: &str, deadline: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = look().await {
            return value;
        }
        assert!(Instant::now() < end, "waited {deadline:?} for {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// Looks until `look` gives `expected`.
///
/// # Panics
/// At the deadline, saying what was there instead.
pub async fn equals<T: PartialEq + Debug>(
    what: &str,
    deadline: Duration,
    expected: T,
    mut look: impl AsyncFnMut() -> T,
) {
    let end = Instant::now() + deadline;
    loop {
        let value = look().await;
        if value == expected {
            return;
        }
        assert!(Instant::now() < end, "waited {deadline:?} for {what} to be {expected:?}, it is {value:?}");
        tokio::time::sleep(LOOK).await;
    }
}
