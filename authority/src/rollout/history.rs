//! What one proxy counted in the last hour, in slots of five minutes, whatever it ran: how much proxies differ from slot to
//! slot is how far the comparison of canary and control may trust its counts. In memory only.

use std::collections::VecDeque;

use sealane_model::gate::{Counts, METRICS, slow_edge};
use sealane_model::ids::Digest;

use crate::slim::Slim;

/// Length of a slot.
const SLOT_MS: u64 = 300_000;
/// Slots that are kept: an hour.
const SLOTS: usize = 12;

/// The last hour of one proxy.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// Cumulative counts of its process when it was heard last, over all revisions.
    last: Slim,
    /// Slow is above this bucket: a little above this proxy's own p99 before the slot.
    edge: Option<usize>,
    /// Oldest first: number of the slot, and for each metric bad events and all.
    slots: VecDeque<(u64, [(u64, u64); METRICS.len()])>,
}

impl History {
    /// The history after one more report. `before` is that of the report before, with its process.
    pub(crate) fn next(
        before: Option<(String, Self)>,
        now_ms: u64,
        instance: &str,
        counts: &[(Digest, Counts)],
    ) -> Self {
        let (is_same, mut history) = match before {
            Some((of, history)) => (of == instance, history),
            None => (false, Self::default()),
        };
        let mut total = Counts::default();
        counts.iter().for_each(|(_, counts)| total.add(counts));
        // What a process counted before it was first heard is of no known time.
        let new = if is_same { total.since(&Counts::from(&history.last)) } else { Counts::default() };
        let slot = now_ms / SLOT_MS;
        if history.slots.back().is_none_or(|(last, _)| *last != slot) {
            history.edge = slow_edge(&total);
            history.slots.push_back((slot, Default::default()));
        }
        history.slots.retain(|(one, _)| one + SLOTS as u64 > slot);
        if let Some((_, slots)) = history.slots.back_mut() {
            for (sum, metric) in slots.iter_mut().zip(METRICS) {
                let (bad, of) = metric.of(&new, history.edge);
                *sum = (sum.0.saturating_add(bad), sum.1.saturating_add(of));
            }
        }
        history.last = Slim::from(&total);
        history
    }

    /// Bad events and all of a metric (its place in [`METRICS`]), slot by slot.
    pub(crate) fn of(&self, metric: usize) -> Vec<(u64, u64)> {
        self.slots.iter().map(|(_, slots)| slots[metric]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_holds_what_was_counted_in_it_and_an_hour_is_kept() {
        let release = Digest::of(b"release");
        let counted = |requests, failed| vec![(release, Counts { requests, failed, ..Counts::default() })];
        let mut history = History::next(None, 0, "one", &counted(1_000, 10));
        assert_eq!(history.of(0), [(0, 0)], "of no known time");
        for (at_ms, requests, failed) in [(1_000, 1_100, 11), (2_000, 1_200, 13), (SLOT_MS, 1_300, 13)] {
            history = History::next(Some(("one".into(), history)), at_ms, "one", &counted(requests, failed));
        }
        assert_eq!(history.of(0), [(3, 200), (0, 100)]);
        history = History::next(Some(("one".into(), history)), SLOT_MS + 1, "two", &counted(50, 50));
        assert_eq!(history.of(0), [(3, 200), (0, 100)], "another process begins anew");
        for slot in 2..40 {
            history = History::next(Some(("two".into(), history)), slot * SLOT_MS, "two", &counted(50, 50));
        }
        assert_eq!(history.of(0).len(), SLOTS);
    }
}
