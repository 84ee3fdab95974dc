//! Counters of this process. Gauges are read from the live state when someone asks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Gates that get a series of their own; the rest is counted as `other`.
const GATES_MAX: usize = 32;

/// What happened since this process started.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    publishes: AtomicU64,
    denials: AtomicU64,
    rollbacks: Mutex<BTreeMap<String, u64>>,
}

impl Counters {
    pub(crate) fn published(&self) {
        self.publishes.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn publishes(&self) -> u64 {
        self.publishes.load(Ordering::Relaxed)
    }

    /// A policy forbade a publish.
    pub(crate) fn denied(&self) {
        self.denials.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn denials(&self) -> u64 {
        self.denials.load(Ordering::Relaxed)
    }

    /// A rollout went back because of this gate.
    pub(crate) fn rolled_back(&self, gate: &str) {
        let mut rollbacks = self.rollbacks.lock().unwrap_or_else(PoisonError::into_inner);
        let gate = if rollbacks.len() >= GATES_MAX && !rollbacks.contains_key(gate) { "other" } else { gate };
        *rollbacks.entry(gate.to_owned()).or_default() += 1;
    }

    /// By gate.
    pub(crate) fn rollbacks(&self) -> BTreeMap<String, u64> {
        self.rollbacks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
