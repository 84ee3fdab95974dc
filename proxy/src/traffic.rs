//! How a route's traffic is split and bounded.
//!
//! Pure machines ([`split`], [`brake`], [`limiter`], [`adaptive`]), what asks them ([`stage`]), and [`TrafficLive`]: what
//! they remember of a route, which outlives snapshots, so that another weight or limit resets neither counts nor places. Requests count into cells
//! of their own thread; the background adds them up ([`TrafficLive::look`]).

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sealane_model::config::{AutoBrake, OverloadProtection};

use crate::metrics::{Count, lock};
use crate::traffic::adaptive::{Adaptive, Observed};
use crate::traffic::brake::{Brake, Change, SideSums, Sides};
use crate::traffic::limiter::Limiter;
use crate::traffic::split::{Turns, Variant};

pub(crate) mod adaptive;
pub(crate) mod brake;
pub(crate) mod limiter;
pub(crate) mod split;
pub(crate) mod stage;

/// What the traffic plan of one route remembers.
#[derive(Debug)]
pub(crate) struct TrafficLive {
    pub(crate) turns: Turns,
    pub(crate) limiter: Limiter,
    /// Milliseconds; 0: not braked.
    braked_until_ms: AtomicU64,
    brakes: AtomicU64,
    /// By thread.
    cells: Box<[VariantCells]>,
    judged: Mutex<Judged>,
}

/// What one thread counts of a route's variants.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct VariantCells {
    requests: [Count; 3],
    errors: [Count; 3],
    answers: Count,
    latency_us: Count,
}

/// What only the background knows.
#[derive(Debug, Default)]
struct Judged {
    brake: Brake,
    adaptive: Adaptive,
    answers_before: u64,
    latency_before_us: u64,
    adapt_due_ms: u64,
}

/// Between two looks at how long answers take.
pub(crate) const ADAPT_MS: u64 = 250;

impl TrafficLive {
    pub(crate) fn new(threads: usize) -> Self {
        Self {
            turns: Turns::default(),
            limiter: Limiter::default(),
            braked_until_ms: AtomicU64::new(0),
            brakes: AtomicU64::new(0),
            cells: (0..threads).map(|_| VariantCells::default()).collect(),
            judged: Mutex::default(),
        }
    }

    /// The canary is taken out at the moment.
    pub(crate) fn is_braked(&self, now_ms: u64) -> bool {
        now_ms < self.braked_until_ms.load(Ordering::Relaxed)
    }

    /// How long the canary is out.
    pub(crate) fn braked_for_ms(&self, now_ms: u64) -> u64 {
        self.braked_until_ms.load(Ordering::Relaxed).saturating_sub(now_ms)
    }

    /// Times that the canary was taken out.
    pub(crate) fn brakes(&self) -> u64 {
        self.brakes.load(Ordering::Relaxed)
    }

    /// Counts a request that is over. `error`: the endpoints' fault. `latency_us`: to the answer's head, or to the end
    /// where there was none.
    pub(crate) fn count(&self, thread: usize, variant: Variant, error: bool, latency_us: u64) {
        let cells = &self.cells[thread];
        cells.requests[variant as usize].add(1);
        if error {
            cells.errors[variant as usize].add(1);
        }
        cells.answers.add(1);
        cells.latency_us.add(latency_us);
    }

    /// Requests and errors of a variant since the process began.
    pub(crate) fn sums(&self, variant: Variant) -> SideSums {
        let sum = |pick: fn(&VariantCells) -> &[Count; 3]| {
            self.cells.iter().map(|cells| pick(cells)[variant as usize].value()).sum()
        };
        SideSums { requests: sum(|cells| &cells.requests), errors: sum(|cells| &cells.errors) }
    }

    /// What the brake looks at: both sides within its window.
    pub(crate) fn window(&self) -> Sides {
        lock(&self.judged).brake.window()
    }

    /// Judges what happened since the last look. What that changed for the canary.
    pub(crate) fn look(
        &self,
        brake: Option<&AutoBrake>,
        overload: Option<&OverloadProtection>,
        now_ms: u64,
    ) -> Option<Change> {
        let mut judged = lock(&self.judged);
        self.adapt(&mut judged, overload, now_ms);
        let Some(plan) = brake else {
            // Without a brake nothing is braked.
            judged.brake = Brake::default();
            self.braked_until_ms.store(0, Ordering::Relaxed);
            return None;
        };
        let sides = Sides { stable: self.sums(Variant::Stable), canary: self.sums(Variant::Canary) };
        let change = judged.brake.look(plan, now_ms, sides)?;
        match change {
            Change::Engaged { until_ms, .. } => {
                self.brakes.fetch_add(1, Ordering::Relaxed);
                self.braked_until_ms.store(until_ms, Ordering::Relaxed);
            }
            Change::Released => self.braked_until_ms.store(0, Ordering::Relaxed),
        }
        Some(change)
    }

    fn adapt(&self, judged: &mut Judged, overload: Option<&OverloadProtection>, now_ms: u64) {
        let Some((overload, plan)) = overload.and_then(|overload| Some((overload, overload.adaptive.as_ref()?))) else {
            judged.adaptive = Adaptive::default();
            self.limiter.adapt(u32::MAX);
            return;
        };
        if now_ms < judged.adapt_due_ms {
            return;
        }
        judged.adapt_due_ms = now_ms + ADAPT_MS;
        let sum = |pick: fn(&VariantCells) -> &Count| self.cells.iter().map(|cells| pick(cells).value()).sum::<u64>();
        let (answers, latency_us) = (sum(|cells| &cells.answers), sum(|cells| &cells.latency_us));
        let (in_flight, waiting) = self.limiter.load();
        let observed = Observed {
            answers: answers - judged.answers_before,
            latency_us: latency_us - judged.latency_before_us,
            load: in_flight + waiting,
        };
        (judged.answers_before, judged.latency_before_us) = (answers, latency_us);
        self.limiter.adapt(judged.adaptive.look(plan, overload.concurrent_max, observed));
    }
}
