//! Takes a canary out while it does worse than stable.
//!
//! Pure: sums of what both sides did come in at each look, and what changed goes out. It goes on working for as long as
//! its route lives: after the cool-off the canary gets its share back, and is judged again by what it does then.

use std::collections::VecDeque;

use sealane_model::config::AutoBrake;

/// Requests and errors of one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SideSums {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
}

impl SideSums {
    const fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            errors: self.errors.saturating_sub(before.errors),
        }
    }

    const fn plus(self, more: Self) -> Self {
        Self { requests: self.requests + more.requests, errors: self.errors + more.errors }
    }

    /// 0 to 1; 0 without requests.
    pub(crate) fn error_rate(self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.errors as f64 / self.requests as f64 }
    }
}

/// Stable and canary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sides {
    pub(crate) stable: SideSums,
    pub(crate) canary: SideSums,
}

impl Sides {
    const fn since(self, before: Self) -> Self {
        Self { stable: self.stable.since(before.stable), canary: self.canary.since(before.canary) }
    }

    const fn plus(self, more: Self) -> Self {
        Self { stable: self.stable.plus(more.stable), canary: self.canary.plus(more.canary) }
    }
}

/// What a look changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Change {
    /// The canary is out until then.
    Engaged { until_ms: u64, window: Sides },
    /// The canary is back.
    Released,
}

/// What the brake of one route remembers.
#[derive(Debug, Default)]
pub(crate) struct Brake {
    before: Option<Sides>,
    /// What happened in each slice of the window, with the slice's end.
    slices: VecDeque<(u64, Sides)>,
    engaged_until_ms: Option<u64>,
}

/// Slices of a window at most; looks that come faster share one.
const SLICES: u64 = 60;

impl Brake {
    /// Looks at what both sides did since the process began.
    pub(crate) fn look(&mut self, plan: &AutoBrake, now_ms: u64, total: Sides) -> Option<Change> {
        let happened = total.since(self.before.unwrap_or(total));
        self.before = Some(total);
        if let Some(until_ms) = self.engaged_until_ms {
            // What was on its way when the brake was engaged is not the canary's fault afterwards.
            if now_ms < until_ms {
                return None;
            }
            self.engaged_until_ms = None;
            return Some(Change::Released);
        }
        let window_ms = plan.window.as_millis() as u64;
        match self.slices.back_mut() {
            Some((end_ms, slice)) if now_ms < *end_ms => *slice = slice.plus(happened),
            _ => self.slices.push_back((now_ms + (window_ms / SLICES).max(1), happened)),
        }
        while self.slices.front().is_some_and(|(end_ms, _)| end_ms + window_ms < now_ms) {
            self.slices.pop_front();
        }
        let window = self.window();
        if !is_worse(plan, window) {
            return None;
        }
        self.slices.clear();
        let until_ms = now_ms + plan.cooloff.as_millis() as u64;
        self.engaged_until_ms = Some(until_ms);
        Some(Change::Engaged { until_ms, window })
    }

    /// What happened in the window.
    pub(crate) fn window(&self) -> Sides {
        self.slices.iter().fold(Sides::default(), |sum, (_, slice)| sum.plus(*slice))
    }
}

/// The rule of seed 004: with enough canary requests, an error rate of at least so many times that of stable; any error
/// while stable has none.
fn is_worse(plan: &AutoBrake, window: Sides) -> bool {
    let Sides { stable, canary } = window;
    canary.requests >= u64::from(plan.requests_min)
        && canary.errors > 0
        && canary.error_rate() >= plan.error_rate_multiplier * stable.error_rate()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn plan() -> AutoBrake {
        AutoBrake {
            error_rate_multiplier: 3.0,
            requests_min: 50,
            window: Duration::from_secs(60),
            cooloff: Duration::from_secs(300),
        }
    }

    #[derive(Default)]
    struct Route {
        brake: Brake,
        total: Sides,
        now_ms: u64,
    }

    impl Route {
        fn new() -> Self {
            let mut route = Self::default();
            route.second((0, 0), (0, 0));
            route
        }

        fn second(&mut self, stable: (u64, u64), canary: (u64, u64)) -> Option<Change> {
            let sums = |(requests, errors)| SideSums { requests, errors };
            self.total = self.total.plus(Sides { stable: sums(stable), canary: sums(canary) });
            self.now_ms += 1000;
            self.brake.look(&plan(), self.now_ms, self.total)
        }
    }

    fn engaged(change: Option<Change>) -> bool {
        matches!(change, Some(Change::Engaged { .. }))
    }

    #[test]
    fn a_canary_that_fails_three_times_as_often_is_taken_out() {
        let mut route = Route::new();
        assert_eq!(route.second((1000, 20), (100, 5)), None, "2.5 times");
        assert!(engaged(route.second((0, 0), (0, 1))), "3 times");
    }

    #[test]
    fn it_is_not_judged_below_the_least_number_of_requests() {
        let mut route = Route::new();
        assert_eq!(route.second((1000, 0), (49, 49)), None);
        assert!(engaged(route.second((0, 0), (1, 0))));
    }

    #[test]
    fn any_error_is_too_many_while_stable_has_none() {
        let mut route = Route::new();
        assert_eq!(route.second((1000, 0), (1000, 0)), None);
        assert!(engaged(route.second((0, 0), (0, 1))));
    }

    #[test]
    fn what_happened_before_the_window_does_not_count() {
        let mut route = Route::new();
        assert_eq!(route.second((1000, 0), (49, 49)), None);
        for _ in 0..62 {
            assert_eq!(route.second((10, 0), (0, 0)), None);
        }
        assert_eq!(route.second((10, 0), (49, 49)), None);
        assert_eq!(route.brake.window().canary.requests, 49);
    }

    #[test]
    fn after_the_cool_off_it_is_back_and_judged_anew_time_after_time() {
        let mut route = Route::new();
        for _ in 0..50 {
            assert!(engaged(route.second((100, 0), (50, 50))));
            for _ in 0..299 {
                assert_eq!(route.second((100, 0), (1, 1)), None, "what was on its way");
            }
            assert_eq!(route.second((100, 0), (0, 0)), Some(Change::Released));
            assert_eq!(route.second((100, 0), (50, 0)), None);
            for _ in 0..62 {
                route.second((100, 0), (0, 0));
            }
        }
    }

    #[test]
    fn looks_that_come_fast_do_not_pile_up() {
        let mut brake = Brake::default();
        for now_ms in 0..200_000 {
            brake.look(&plan(), now_ms, Sides::default());
        }
        assert!(brake.slices.len() <= SLICES as usize + 2, "{}", brake.slices.len());
    }
}
