//! What was refused since the start: counts by code, and the newest one in words. Goes into reports and metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use sealane_model::verify::VerifyError;

/// Shared counters of refusals.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refusals {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Codes are those of [`VerifyError::code`]: a bounded set.
    counts: BTreeMap<&'static str, u64>,
    alarm: String,
}

impl Refusals {
    /// Counts one refusal, logs it and makes it the alarm.
    pub(crate) fn count(&self, what: &str, error: &VerifyError) {
        let code = error.code();
        tracing::error!(code, %error, what, "refused, nothing was changed");
        let mut inner = self.lock();
        *inner.counts.entry(code).or_default() += 1;
        inner.alarm = format!("refused {what}: {error}");
    }

    /// Raises an alarm that is not a refusal.
    pub(crate) fn alarm(&self, text: String) {
        self.lock().alarm = text;
    }

    /// By code.
    pub(crate) fn counts(&self) -> Vec<(&'static str, u64)> {
        self.lock().counts.iter().map(|(code, count)| (*code, *count)).collect()
    }

    /// The newest alarm; empty: none.
    pub(crate) fn newest(&self) -> String {
        self.lock().alarm.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
