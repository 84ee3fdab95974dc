//! What this proxy refused since its start, by code.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

/// Shared counters of refusals.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refusals {
    /// Codes are static: a bounded set.
    counts: Arc<Mutex<BTreeMap<&'static str, u64>>>,
}

impl Refusals {
    /// Counts and logs one.
    pub(crate) fn count(&self, what: &str, code: &'static str, error: &dyn Display) {
        tracing::error!(code, %error, what, "refused, nothing was changed");
        *self.lock().entry(code).or_default() += 1;
    }

    /// Counts one that its caller tells.
    pub(crate) fn add(&self, code: &'static str) {
        *self.lock().entry(code).or_default() += 1;
    }

    /// By code.
    pub(crate) fn counts(&self) -> Vec<(&'static str, u64)> {
        self.lock().iter().map(|(code, count)| (*code, *count)).collect()
    }

    /// All together.
    pub(crate) fn total(&self) -> u64 {
        self.lock().values().sum()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
