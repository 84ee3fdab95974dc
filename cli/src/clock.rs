//! The one place where this crate reads the wall clock: ages in human output. Deadlines use tokio's clock.

/// Now.
pub(crate) fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
