//! What is known of both sides from before the change: how much proxies differ by chance, and how much the cohort's differed
//! from control's all along. Pure.

use sealane_model::gate::sequential::{OVERDISPERSION_UNKNOWN, overdispersion};
use sealane_model::gate::{Baseline, Counts, METRICS, slow_edge};

use super::look::World;
use super::machine::Rollout;

/// Bad events of both sides below which their ratio is chance.
const RATIO_EVENTS_MIN: u64 = 30;
/// Bad events of control below which its variance is not known better than [`OVERDISPERSION_UNKNOWN`].
const VARIANCE_EVENTS_MIN: u64 = 50;
/// A cohort that was so many times worse before is not compared any more.
const RATIO_MAX: f64 = 1000.0;

impl Rollout {
    /// Of the phase that begins now.
    pub(super) fn baseline(&self, world: &World<'_>) -> Baseline {
        let mut baseline = Baseline::default();
        let Some(stable) = world.stable else { return baseline };
        let (mut cohort, mut control) = (Counts::default(), Counts::default());
        let mut hours = Vec::new();
        for (id, proxy) in world.live.proxies() {
            let counts = proxy.counts_of(&stable.digest);
            if self.covers(world, id, proxy) {
                counts.iter().for_each(|counts| cohort.add(counts));
            } else if self.is_control(world, id, proxy) {
                counts.iter().for_each(|counts| control.add(counts));
                hours.push(&proxy.history);
            }
        }
        let edge = slow_edge(&control);
        for (index, metric) in METRICS.iter().enumerate() {
            let slots: Vec<Vec<(u64, u64)>> = hours.iter().map(|history| history.of(index)).collect();
            let bad = slots.iter().flatten().fold(0_u64, |sum, (bad, _)| sum.saturating_add(*bad));
            let estimate = overdispersion(&slots);
            baseline.overdispersion[index] =
                if bad < VARIANCE_EVENTS_MIN { estimate.max(OVERDISPERSION_UNKNOWN) } else { estimate };
            let ((x, n), (y, m)) = (metric.of(&cohort, edge), metric.of(&control, edge));
            if n > 0 && m > 0 && x.saturating_add(y) >= RATIO_EVENTS_MIN {
                // Half an event more on control's side, so that none there is no division by 0.
                let ratio = (x as f64 / n as f64) / ((y as f64 + 0.5) / m as f64);
                baseline.ratio[index] = ratio.clamp(1.0, RATIO_MAX);
            }
        }
        baseline
    }
}
