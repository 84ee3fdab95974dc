//! Finds out how many requests a route's pool can work on at the same time, from how long answers take.
//!
//! Pure: what was answered since the last look comes in, a limit goes out. The gradient follows Netflix' "Gradient2" of
//! concurrency-limits: while answers take longer than they use to, the limit shrinks by that ratio; while they do not, it
//! grows by the square root of itself. It grows only while it is used: an idle route proves nothing.

use sealane_model::config::{AdaptiveLimit, AdaptiveMode};

/// What happened since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) answers: u64,
    /// Of all answers together.
    pub(crate) latency_us: u64,
    /// In flight and waiting at the moment.
    pub(crate) load: u64,
}

/// What the limit of one route remembers.
#[derive(Debug, Default)]
pub(crate) struct Adaptive {
    limit: Option<f64>,
    /// Latency of the long run, in microseconds.
    usual_us: Option<f64>,
}

/// Answers below which a look says nothing.
const ANSWERS_MIN: u64 = 5;
/// How much longer than usual an answer may take before the limit shrinks.
const TOLERANCE: f64 = 1.5;
/// Weight of one look in the latency of the long run: about ten seconds at four looks a second.
const USUAL_WEIGHT: f64 = 0.025;
/// Weight of one look in the limit.
const LIMIT_WEIGHT: f64 = 0.2;

impl Adaptive {
    /// The limit from now on, between the plan's bounds.
    pub(crate) fn look(&mut self, plan: &AdaptiveLimit, concurrent_max: u32, observed: Observed) -> u32 {
        let (least, most) = (f64::from(plan.concurrent_min.min(concurrent_max)), f64::from(concurrent_max));
        let limit = self.limit.unwrap_or(most).clamp(least, most);
        let next = if observed.answers < ANSWERS_MIN {
            limit
        } else {
            let recent_us = (observed.latency_us as f64 / observed.answers as f64).max(1.0);
            let is_used = observed.load as f64 * 2.0 >= limit;
            match plan.mode {
                AdaptiveMode::Gradient => self.gradient(limit, recent_us, is_used),
                AdaptiveMode::Aimd(target) if recent_us > target.as_micros() as f64 => limit * 0.9,
                AdaptiveMode::Aimd(_) if is_used => limit + 1.0,
                AdaptiveMode::Aimd(_) => limit,
            }
        };
        let next = next.clamp(least, most);
        self.limit = Some(next);
        next as u32
    }

    fn gradient(&mut self, limit: f64, recent_us: f64, is_used: bool) -> f64 {
        let usual_us = self.usual_us.unwrap_or(recent_us);
        let mut learned_us = usual_us * (1.0 - USUAL_WEIGHT) + recent_us * USUAL_WEIGHT;
        // After a long overload the usual is too high to notice the next one.
        if usual_us / recent_us > 2.0 {
            learned_us *= 0.95;
        }
        self.usual_us = Some(learned_us);
        let gradient = (TOLERANCE * usual_us / recent_us).clamp(0.5, 1.0);
        if gradient >= 1.0 && !is_used {
            return limit;
        }
        limit * (1.0 - LIMIT_WEIGHT) + (limit * gradient + limit.sqrt()) * LIMIT_WEIGHT
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn look(adaptive: &mut Adaptive, mode: AdaptiveMode, latency_ms: u64, load: u64) -> u32 {
        let plan = AdaptiveLimit { mode, concurrent_min: 10 };
        adaptive.look(&plan, 100, Observed { answers: 50, latency_us: 50 * latency_ms * 1000, load })
    }

    #[test]
    fn the_gradient_shrinks_while_answers_take_longer_and_recovers_after() {
        let mut adaptive = Adaptive::default();
        let gradient = AdaptiveMode::Gradient;
        (0..20).for_each(|_| assert_eq!(look(&mut adaptive, gradient, 10, 100), 100));
        let overloaded = (0..10).map(|_| look(&mut adaptive, gradient, 100, 100)).last().unwrap();
        assert!((10..60).contains(&overloaded), "{overloaded}");
        let recovered = (0..200).map(|_| look(&mut adaptive, gradient, 10, 100)).last().unwrap();
        assert_eq!(recovered, 100);
    }

    #[test]
    fn aimd_keeps_answers_within_their_target() {
        let mut adaptive = Adaptive::default();
        let aimd = AdaptiveMode::Aimd(Duration::from_millis(50));
        assert_eq!(look(&mut adaptive, aimd, 40, 100), 100);
        assert_eq!(look(&mut adaptive, aimd, 60, 100), 90);
        assert_eq!(look(&mut adaptive, aimd, 60, 100), 81);
        assert_eq!(look(&mut adaptive, aimd, 50, 100), 82);
        assert_eq!(look(&mut adaptive, aimd, 50, 10), 82, "it is not used");
        let least = (0..100).map(|_| look(&mut adaptive, aimd, 60, 100)).last().unwrap();
        assert_eq!(least, 10);
    }

    #[test]
    fn few_answers_and_an_idle_route_say_nothing() {
        let mut adaptive = Adaptive::default();
        let plan = AdaptiveLimit { mode: AdaptiveMode::Gradient, concurrent_min: 10 };
        let few = Observed { answers: 4, latency_us: 4_000_000_000, load: 100 };
        assert_eq!(adaptive.look(&plan, 100, few), 100);
        assert_eq!(adaptive.look(&plan, 5, few), 5, "another config has another bound");
    }
}
