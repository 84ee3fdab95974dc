//! Which label sets of a family have series of their own, and what the others come to together.
//!
//! Traffic decides: of more sets than the budget has room for, those with the most of it lately are shown, the rest is
//! `other`. What a set counted belongs for good to the side that it was on then, so no series ever goes backwards, and
//! all of them together are exact. Works on sums, at scrape time; requests know nothing of it.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use crate::metrics::Labels;

/// Sums of one label set, in an order that only its family knows. What is missing at the end is zero.
pub(crate) type Tally = Vec<u64>;

/// How long a choice stands, in milliseconds.
const CHOICE_MS: u64 = 60_000;
/// What was counted this much longer ago than a choice counts half as much in the next.
const DECAY: f64 = 0.5;
/// How much more traffic a set needs than one that is shown to take its place, so that they do not alternate.
const LEAD: f64 = 1.25;

/// What a scrape found of one label set.
#[derive(Clone, Debug)]
pub(crate) struct Counted {
    pub(crate) labels: Labels,
    pub(crate) tally: Tally,
    /// Its traffic so far.
    pub(crate) traffic: u64,
    /// Series that it takes.
    pub(crate) cost: usize,
}

/// What is remembered of the label sets of one family.
#[derive(Debug, Default)]
pub(crate) struct Fold {
    known: HashMap<Labels, Known>,
    /// What sets that are gone had folded.
    retired: Tally,
    chosen_at_ms: Option<u64>,
    folded: u64,
}

#[derive(Debug, Default)]
struct Known {
    is_shown: bool,
    /// Of a set that is shown: what it counted while it was folded. Of a folded one: what it showed before.
    apart: Tally,
    traffic: u64,
    /// Traffic lately.
    weight: f64,
}

/// A family as it is written.
#[derive(Debug, Default)]
pub(crate) struct Folded {
    /// In the order of what was counted.
    pub(crate) shown: Vec<(Labels, Tally)>,
    /// Everything else, where there is or ever was anything else.
    pub(crate) other: Option<Tally>,
}

impl Fold {
    /// Times that a label set was folded.
    pub(crate) const fn folded(&self) -> u64 {
        self.folded
    }

    /// Tells both sides apart, and where it is due chooses anew up to `budget` series for the next time: what a set shows
    /// now it has shown, whichever side it is on then.
    pub(crate) fn split(&mut self, counted: &[Counted], budget: usize, now_ms: u64) -> Folded {
        self.note(counted, budget);
        let mut page = Folded::default();
        let mut other = self.retired.clone();
        for set in counted {
            let Some(known) = self.known.get(&set.labels) else { continue };
            let own = less(&set.tally, &known.apart);
            add(&mut other, if known.is_shown { &known.apart } else { &own });
            if known.is_shown {
                page.shown.push((set.labels.clone(), own));
            }
        }
        let any_folded = page.shown.len() < counted.len() || other.iter().any(|&count| count > 0);
        page.other = any_folded.then_some(other);
        let spent = self.spent(counted);
        if spent > budget || self.chosen_at_ms.is_none_or(|at| now_ms >= at + CHOICE_MS) {
            self.choose(counted, budget);
            self.chosen_at_ms = Some(now_ms);
        }
        page
    }

    /// Takes in what was counted since. New sets are shown while there is room, the busiest first.
    fn note(&mut self, counted: &[Counted], budget: usize) {
        let present: HashSet<&Labels> = counted.iter().map(|set| &set.labels).collect();
        self.known.retain(|labels, _| present.contains(labels));
        let mut room = budget.saturating_sub(self.spent(counted));
        let mut new: Vec<&Counted> = counted.iter().filter(|set| !self.known.contains_key(&set.labels)).collect();
        new.sort_by_key(|set| Reverse(set.traffic));
        for set in new {
            let is_shown = set.cost <= room;
            room -= if is_shown { set.cost } else { 0 };
            self.folded += u64::from(!is_shown);
            self.known.insert(set.labels.clone(), Known { is_shown, ..Known::default() });
        }
        for set in counted {
            if let Some(known) = self.known.get_mut(&set.labels) {
                known.weight += set.traffic.saturating_sub(known.traffic) as f64;
                known.traffic = set.traffic;
            }
        }
    }

    /// Series of the sets that are shown.
    fn spent(&self, counted: &[Counted]) -> usize {
        let is_shown = |set: &&Counted| self.known.get(&set.labels).is_some_and(|known| known.is_shown);
        counted.iter().filter(is_shown).map(|set| set.cost).sum()
    }

    fn choose(&mut self, counted: &[Counted], budget: usize) {
        let rank = |set: &Counted| {
            let lead = |known: &Known| known.weight * if known.is_shown { LEAD } else { 1.0 };
            self.known.get(&set.labels).map_or(0.0, lead)
        };
        let mut order: Vec<(f64, &Counted)> = counted.iter().map(|set| (rank(set), set)).collect();
        order.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let mut room = budget;
        for (_, set) in order {
            let Some(known) = self.known.get_mut(&set.labels) else { continue };
            let is_shown = set.cost <= room;
            room -= if is_shown { set.cost } else { 0 };
            if known.is_shown != is_shown {
                known.apart = less(&set.tally, &known.apart);
                known.is_shown = is_shown;
                self.folded += u64::from(!is_shown);
            }
            known.weight *= DECAY;
        }
    }

    /// A label set goes, with what it has counted.
    pub(crate) fn retire(&mut self, labels: &Labels, tally: &[u64]) {
        let Some(known) = self.known.remove(labels) else { return };
        let folded = if known.is_shown { known.apart } else { less(tally, &known.apart) };
        add(&mut self.retired, &folded);
    }
}

/// `sum += more`.
pub(crate) fn add(sum: &mut Tally, more: &[u64]) {
    sum.resize(sum.len().max(more.len()), 0);
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

/// `from - part`.
fn less(from: &[u64], part: &[u64]) -> Tally {
    from.iter().enumerate().map(|(place, from)| from.saturating_sub(part.get(place).copied().unwrap_or(0))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;

    fn counted(traffic: &[(u64, u64)]) -> Vec<Counted> {
        let set = |&(name, traffic): &(u64, u64)| Counted {
            labels: (Arc::from(format!("r{name}")), Arc::from("p")),
            tally: vec![traffic],
            traffic,
            cost: 1,
        };
        traffic.iter().map(set).collect()
    }

    fn look(fold: &mut Fold, traffic: &[(u64, u64)], now_ms: u64) -> (Vec<(String, u64)>, Option<u64>) {
        let page = fold.split(&counted(traffic), 2, now_ms);
        let shown = page.shown.iter().map(|((name, _), tally)| (name.to_string(), tally[0])).collect();
        (shown, page.other.map(|tally| tally.first().copied().unwrap_or(0)))
    }

    fn named(sets: &[(&str, u64)]) -> Vec<(String, u64)> {
        sets.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn all_are_shown_while_there_is_room() {
        let mut fold = Fold::default();
        assert_eq!(look(&mut fold, &[(1, 5), (2, 0)], 0), (named(&[("r1", 5), ("r2", 0)]), None));
        assert_eq!(fold.folded(), 0);
    }

    #[test]
    fn the_busiest_are_shown_whenever_they_came() {
        let mut fold = Fold::default();
        assert_eq!(look(&mut fold, &[(1, 5), (2, 1)], 0), (named(&[("r1", 5), ("r2", 1)]), None));
        let (shown, other) = look(&mut fold, &[(1, 9), (2, 1), (3, 100)], 1000);
        assert_eq!((shown, other), (named(&[("r1", 9), ("r2", 1)]), Some(100)), "a choice stands for a minute");
        assert_eq!(fold.folded(), 1);
        let (shown, other) = look(&mut fold, &[(1, 9), (2, 2), (3, 200)], 60_000);
        assert_eq!((shown, other), (named(&[("r1", 9), ("r2", 2)]), Some(200)), "what was shown was shown");
        let (shown, other) = look(&mut fold, &[(1, 9), (2, 4), (3, 250)], 61_000);
        assert_eq!((shown, other), (named(&[("r1", 9), ("r3", 50)]), Some(202)), "what was folded stays folded");
        assert_eq!(fold.folded(), 2);
    }

    #[test]
    fn what_was_busy_long_ago_makes_room() {
        let mut fold = Fold::default();
        look(&mut fold, &[(1, 1000), (2, 1000), (3, 0)], 0);
        let mut shown = Vec::new();
        for minute in 1..=12 {
            shown = look(&mut fold, &[(1, 1000 + minute * 100), (2, 1000), (3, minute * 50)], minute * 60_000).0;
        }
        assert_eq!(shown.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["r1", "r3"]);
    }

    #[test]
    fn equals_do_not_alternate() {
        let mut fold = Fold::default();
        for minute in 0..20 {
            let traffic = [(1, minute * 100), (2, minute * 101), (3, minute * 105)];
            let shown = look(&mut fold, &traffic, minute * 60_000).0;
            assert_eq!(shown.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["r1", "r2"], "{minute}");
        }
        assert_eq!(fold.folded(), 1);
    }

    #[test]
    fn no_series_goes_backwards_and_together_they_are_exact() {
        let mut random = 7u64;
        let mut next = |below: u64| {
            random = crate::balance::mix(random.wrapping_add(0x9e37_79b9_7f4a_7c15));
            random % below
        };
        let mut fold = Fold::default();
        let mut counts = [0u64; 12];
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        for step in 0..2000 {
            // Whoever is busy changes over time.
            (0..5).for_each(|_| counts[(next(4) + step / 100) as usize % 12] += next(50));
            let traffic: Vec<(u64, u64)> = (0..).zip(counts).collect();
            let (shown, other) = look(&mut fold, &traffic, step * 20_000);
            assert!(shown.len() <= 2);
            for (name, value) in shown.into_iter().chain(other.map(|value| ("other".to_owned(), value))) {
                let before = last.insert(name.clone(), value).unwrap_or(0);
                assert!(value >= before, "{name} fell from {before} to {value} in step {step}");
            }
            assert_eq!(last.values().sum::<u64>(), counts.iter().sum::<u64>());
        }
        assert!(last.len() > 8, "who was busy had a series: {last:?}");
    }

    #[test]
    fn what_is_gone_stays_in_what_was_folded() {
        let mut fold = Fold::default();
        assert_eq!(look(&mut fold, &[(1, 9), (2, 8), (3, 7)], 0).1, Some(7));
        fold.retire(&(Arc::from("r3"), Arc::from("p")), &[10]);
        fold.retire(&(Arc::from("r1"), Arc::from("p")), &[10]);
        assert_eq!(look(&mut fold, &[(2, 8), (3, 1)], 1000), (named(&[("r2", 8), ("r3", 1)]), Some(10)));
    }
}
