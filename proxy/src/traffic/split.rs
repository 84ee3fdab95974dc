//! Which side of a traffic plan a request goes to: stable, canary, or the pool that its cohort is mapped to.
//!
//! Exact where nothing in the request decides: requests take turns over all threads, so that a canary with 10 % gets one
//! of every ten. A value that decides by its hash gets the same side for as long as the weight stays, on every node.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::balance::{fnv, mix};

/// Shares are counted in millionths.
const WHOLE: u64 = 1_000_000;

/// Where the turns of a route stand. Outlives snapshots.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Turns(AtomicU64);

impl Turns {
    /// Whether this turn is the canary's. The one atomic read-modify-write of a request that is split.
    fn is_canary(&self, share: Share) -> bool {
        let turn = self.0.fetch_add(1, Ordering::Relaxed) % WHOLE;
        (turn + 1) * share.0 / WHOLE != turn * share.0 / WHOLE
    }
}

/// A share of requests, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share(u64);

impl Share {
    pub(crate) fn of_percent(percent: f64) -> Self {
        Self(((percent * (WHOLE / 100) as f64).round() as u64).min(WHOLE))
    }

    pub(crate) fn percent(self) -> f64 {
        self.0 as f64 / (WHOLE / 100) as f64
    }
}

/// The side that a request was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    Stable,
    Canary,
    /// The request's cohort is mapped to a pool that is neither.
    Cohort,
}

impl Variant {
    /// The name in logs and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Canary => "canary",
            Self::Cohort => "cohort",
        }
    }
}

/// What a plan says of the split, compiled. Pools are the snapshot's.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Split {
    pub(crate) stable: usize,
    pub(crate) canary: Option<(usize, Share)>,
    /// Cohort to pool, sorted by cohort.
    mappings: Vec<(Box<[u8]>, usize)>,
    /// So that routes do not all choose the same clients.
    salt: u64,
}

impl Split {
    pub(crate) fn new(
        route: &str,
        stable: usize,
        canary: Option<(usize, f64)>,
        mappings: impl IntoIterator<Item = (String, usize)>,
    ) -> Self {
        let mut mappings: Vec<_> =
            mappings.into_iter().map(|(cohort, pool)| (cohort.into_bytes().into_boxed_slice(), pool)).collect();
        mappings.sort_unstable();
        Self {
            stable,
            canary: canary.map(|(pool, percent)| (pool, Share::of_percent(percent))),
            mappings,
            salt: fnv(route.as_bytes()),
        }
    }

    /// The pool of a request whose cohort is `cohort`; `None`: it names none. `braked`: the canary is taken out.
    pub(crate) fn choose(&self, turns: &Turns, cohort: Option<&[u8]>, braked: bool) -> (usize, Variant) {
        let pool = match cohort {
            Some(cohort) => match self.mapped(cohort) {
                Some(pool) => pool,
                None => self.by_hash(cohort),
            },
            None => match self.canary {
                Some((canary, share)) if !braked && turns.is_canary(share) => canary,
                _ => self.stable,
            },
        };
        match self.canary {
            Some((canary, _)) if pool == canary && canary != self.stable => {
                if braked {
                    (self.stable, Variant::Stable)
                } else {
                    (canary, Variant::Canary)
                }
            }
            _ if pool == self.stable => (pool, Variant::Stable),
            _ => (pool, Variant::Cohort),
        }
    }

    /// The variant that a pool stands for.
    pub(crate) fn variant_of(&self, pool: usize) -> Variant {
        match self.canary {
            _ if pool == self.stable => Variant::Stable,
            Some((canary, _)) if pool == canary => Variant::Canary,
            _ => Variant::Cohort,
        }
    }

    fn mapped(&self, cohort: &[u8]) -> Option<usize> {
        let index = self.mappings.binary_search_by(|(known, _)| known.as_ref().cmp(cohort)).ok()?;
        Some(self.mappings[index].1)
    }

    fn by_hash(&self, cohort: &[u8]) -> usize {
        match self.canary {
            Some((canary, share)) if mix(fnv(cohort) ^ self.salt) % WHOLE < share.0 => canary,
            _ => self.stable,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    fn split(percent: f64) -> Split {
        Split::new("r", 0, Some((1, percent)), [("beta".to_owned(), 1), ("old".to_owned(), 0), ("qa".to_owned(), 2)])
    }

    #[test]
    fn the_split_is_exact_over_all_threads() {
        for (percent, expected) in [(10.0, 4_000), (0.0, 0), (100.0, 40_000), (33.3, 13_320), (0.5, 200)] {
            let turns = Arc::<Turns>::default();
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let turns = Arc::clone(&turns);
                    let split = split(percent);
                    thread::spawn(move || {
                        (0..10_000).filter(|_| split.choose(&turns, None, false).1 == Variant::Canary).count()
                    })
                })
                .collect();
            let canary: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
            assert_eq!(canary, expected, "{percent} %");
        }
    }

    #[test]
    fn a_canary_is_spread_evenly() {
        let (turns, split) = (Turns::default(), split(10.0));
        for _ in 0..100 {
            let of_ten = (0..10).filter(|_| split.choose(&turns, None, false).1 == Variant::Canary).count();
            assert_eq!(of_ten, 1);
        }
    }

    #[test]
    fn a_mapped_cohort_goes_to_its_pool() {
        let (turns, split) = (Turns::default(), split(10.0));
        let check = |cohort: &str, expected| {
            for _ in 0..20 {
                assert_eq!(split.choose(&turns, Some(cohort.as_bytes()), false), expected, "{cohort}");
            }
        };
        check("beta", (1, Variant::Canary));
        check("old", (0, Variant::Stable));
        check("qa", (2, Variant::Cohort));
    }

    #[test]
    fn any_other_value_sticks_to_a_side_and_sides_have_their_share() {
        let (turns, split) = (Turns::default(), split(10.0));
        let mut canary = 0;
        for user in 0..10_000 {
            let user = format!("user-{user}");
            let first = split.choose(&turns, Some(user.as_bytes()), false);
            assert_eq!(split.choose(&turns, Some(user.as_bytes()), false), first);
            canary += usize::from(first.1 == Variant::Canary);
        }
        assert!((900..1100).contains(&canary), "{canary}");
    }

    #[test]
    fn who_is_on_the_canary_stays_there_when_its_share_grows() {
        let turns = Turns::default();
        for user in 0..1000 {
            let user = format!("user-{user}");
            let side = |percent| split(percent).choose(&turns, Some(user.as_bytes()), false).1;
            assert!(side(10.0) == Variant::Stable || side(50.0) == Variant::Canary);
        }
    }

    #[test]
    fn routes_choose_different_clients() {
        let turns = Turns::default();
        let other = Split::new("q", 0, Some((1, 50.0)), []);
        let same = (0..1000)
            .filter(|user| {
                let user = format!("user-{user}");
                split(50.0).choose(&turns, Some(user.as_bytes()), false).1
                    == other.choose(&turns, Some(user.as_bytes()), false).1
            })
            .count();
        assert!((400..600).contains(&same), "{same}");
    }

    #[test]
    fn a_braked_canary_gets_nothing() {
        let (turns, split) = (Turns::default(), split(100.0));
        for cohort in [None, Some(&b"beta"[..]), Some(b"anyone")] {
            assert_eq!(split.choose(&turns, cohort, true), (0, Variant::Stable));
        }
        assert_eq!(split.choose(&turns, Some(b"qa"), true), (2, Variant::Cohort));
    }
}
