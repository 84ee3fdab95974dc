//! What a rollout sees: evidence, who confirmed, the bake clock, the gates' verdict. Pure.

use sealane_model::gate::{self, Case, Entry, Interval, Opened, Verdict};
use sealane_model::ids::ProxyId;

use super::event::GateRecord;
use super::fault::{self, Fault};
use super::look::{NODES_MAX, World};
use super::machine::{Rollout, millis};
use super::record::Phase;
use super::{stage, verdict};
use crate::fleet::Proxy;

/// Longest interval of evidence.
const INTERVAL_MAX_MS: u64 = 10_000;
/// Shortest.
const INTERVAL_MIN_MS: u64 = 250;
/// While a hold lasts longer than [`HELD_LONG_MS`].
const INTERVAL_HELD_MS: u64 = 60_000;
/// After this a hold is one that waits for a person.
const HELD_LONG_MS: u64 = 600_000;

/// How the proxies that must confirm are.
#[derive(Default)]
pub(super) struct Roll {
    /// Fresh, ready, on the candidate.
    pub(super) confirmed: usize,
    /// Not heard for [`Timing::silence`].
    pub(super) silent: Vec<String>,
    /// Heard, but not there.
    pub(super) lagging: Vec<String>,
}

impl Rollout {
    /// Takes in what the proxies say, and moves the bake clock.
    pub(super) fn observe(&mut self, world: &World<'_>) -> Roll {
        let candidate = self.subject.digest;
        let alive = world.alive();
        for (id, proxy) in world.live.proxies() {
            if self.covers(world, id, proxy) {
                self.look.cohort.observe(id, proxy, &candidate);
                if alive.contains(id) {
                    self.look.required.insert(id.clone());
                }
            } else if let Some(stable) = world.stable {
                self.look.control.observe(id, proxy, &stable.digest);
            }
        }
        // Who leaves with a goodbye is not waited for.
        let (seen, live) = (&mut self.look.seen, world.live);
        self.look.required.retain(|id| match live.proxy(id) {
            Some(proxy) => {
                seen.insert(id.clone());
                !proxy.draining
            }
            None => !seen.contains(id),
        });
        let roll = self.roll(world);
        let is_confirmed = roll.confirmed == self.look.required.len() && roll.confirmed > 0;
        let is_confirmed = is_confirmed || fault::is(Fault::BakesUnhealthySeconds);
        let paused = self.record.paused && !fault::is(Fault::IgnoresAPause);
        let runs = is_confirmed && self.look.confirmed && !paused && self.record.held.is_none();
        if runs {
            let passed_ms = world.now_ms.saturating_sub(self.look.last_ms);
            self.look.baked_ms += passed_ms.min(millis(world.timing.fresh));
        }
        if is_confirmed {
            self.look.unconfirmed_since_ms = world.now_ms;
            self.look.has_confirmed = true;
        }
        self.look.confirmed = is_confirmed;
        self.look.last_ms = world.now_ms;
        self.look.active = world.live.proxies().filter(|(_, one)| one.active == Some(candidate)).count();
        let holds = |proxy: &Proxy| [proxy.prepared, proxy.active].contains(&Some(candidate));
        self.look.prepared = world.live.proxies().filter(|(_, proxy)| holds(proxy)).count();
        self.look.doing = self.describe(world, &roll);
        roll
    }

    pub(super) fn roll(&self, world: &World<'_>) -> Roll {
        let mut roll = Roll::default();
        for id in &self.look.required {
            let proxy = world.live.proxy(id);
            let heard_ms = proxy.map_or(0, |proxy| proxy.heard_ms);
            let silent_ms = world.now_ms.saturating_sub(heard_ms);
            let watched_ms = world.now_ms.saturating_sub(self.look.since_ms);
            match proxy {
                // One whose stream ended is away at once, not when its last word is old.
                Some(proxy)
                    if silent_ms <= millis(world.timing.fresh)
                        && proxy.attached
                        && proxy.ready
                        && proxy.active == Some(self.subject.digest) =>
                {
                    roll.confirmed += 1;
                }
                _ if silent_ms.min(watched_ms) >= millis(world.timing.silence) => roll.silent.push(id.0.clone()),
                _ => roll.lagging.push(id.0.clone()),
            }
        }
        roll.silent.truncate(NODES_MAX);
        roll.lagging.truncate(NODES_MAX);
        roll
    }

    pub(super) fn describe(&self, world: &World<'_>, roll: &Roll) -> String {
        let waited_ms = world.now_ms.saturating_sub(self.look.since_ms);
        if !self.look.confirmed {
            let late = if waited_ms > millis(world.timing.confirm) { " (late)" } else { "" };
            let waiting: Vec<&String> = roll.lagging.iter().chain(&roll.silent).collect();
            return format!("waiting for {} to confirm{late}", verdict::names(&waiting));
        }
        let bake = verdict::duration(self.bake_ms());
        if self.look.baked_ms < self.bake_ms() {
            return format!("baking: {} of {bake}", verdict::duration(self.look.baked_ms));
        }
        if self.look.verdict == Some(Verdict::NotEnoughData) {
            return "baked; waiting for enough requests to judge".to_owned();
        }
        if self.look.verdict == Some(Verdict::Suspect) {
            return "baked; what it does is suspect, waiting for more evidence".to_owned();
        }
        format!("baked for {bake}")
    }

    /// Closes an interval of evidence where one is due, and judges.
    pub(super) fn weigh(&mut self, world: &World<'_>) {
        if !self.look.opened {
            self.look.opened = true;
            let baseline = self.baseline(world);
            self.testify(Entry::Opened(Opened { at_ms: world.now_ms, stage: self.stage_name(), baseline }));
        }
        let refused = world.live.proxies().filter(|(_, one)| one.refused == Some(self.subject.digest)).count() as u64;
        let baked = self.look.confirmed && self.look.baked_ms >= self.bake_ms();
        let waited_ms = world.now_ms.saturating_sub(self.look.interval_ms);
        let is_new = (baked, refused) != (self.look.interval_baked, self.look.interval_rejected);
        if !is_new && !world.at_once && (waited_ms < self.interval_ms(world) || waited_ms == 0) {
            return;
        }
        let mut cohort = std::mem::take(&mut self.look.cohort);
        let mut control = std::mem::take(&mut self.look.control);
        let interval = {
            let proxy = |id: &ProxyId| world.live.proxy(id);
            let (cohort, cohort_proxies) = cohort.take(|_| true);
            let (control, control_proxies) =
                control.take(|id| proxy(id).is_some_and(|proxy| self.is_control(world, id, proxy)));
            let at_ms = world.now_ms;
            Interval { at_ms, cohort, control, cohort_proxies, control_proxies, rejected: refused, baked }
        };
        (self.look.cohort, self.look.control) = (cohort, control);
        self.look.interval_ms = world.now_ms;
        (self.look.interval_baked, self.look.interval_rejected) = (baked, refused);
        let is_quiet = interval.cohort.is_empty() && interval.control.is_empty();
        if is_quiet && !is_new && self.look.verdict.is_some() {
            return;
        }
        if self.is_environment(&interval) {
            self.look.environment_ms = Some(world.now_ms);
        }
        self.testify(Entry::Interval(interval));
        let (verdict, judged) = gate::judge(&self.case, &self.subject.plan);
        self.look.verdict = Some(verdict);
        self.look.gates = judged.iter().map(GateRecord::from).collect();
        self.look.judged = judged;
    }

    /// Whether this interval alone is bad on both sides.
    fn is_environment(&self, interval: &Interval) -> bool {
        let mut alone = Case::new(self.subject.plan.compare_alpha);
        alone.take(&Entry::Interval(interval.clone()));
        gate::judge(&alone, &self.subject.plan).0 == Verdict::Environment
    }

    /// Takes evidence in, and asks for it to be stored.
    fn testify(&mut self, entry: Entry) {
        self.case.take(&entry);
        self.testimony.push(entry);
    }

    /// How long an interval of evidence is: a twentieth of the bake, at most 10 s; longer while a hold lasts.
    fn interval_ms(&self, world: &World<'_>) -> u64 {
        let held_ms = world.now_ms.saturating_sub(self.record.changed_ms);
        if self.record.held.is_some() && held_ms > HELD_LONG_MS {
            return INTERVAL_HELD_MS;
        }
        (self.bake_ms() / 20).clamp(INTERVAL_MIN_MS, INTERVAL_MAX_MS)
    }

    /// Whether a proxy is compared with: outside of the cohort, in the regions of the wave that is open.
    pub(super) fn is_control(&self, world: &World<'_>, id: &ProxyId, proxy: &Proxy) -> bool {
        let wave = match (self.record.phase, self.record.stage()) {
            (Phase::Stage, Some(stage)) => stage.opened.wave,
            _ => return false,
        };
        self.subject.wave_of(&proxy.region) == wave && !self.covers(world, id, proxy)
    }

    pub(super) fn covers(&self, world: &World<'_>, id: &ProxyId, proxy: &Proxy) -> bool {
        stage::covers(&self.subject, &self.record, world.live, id, &proxy.region)
    }

    /// Silence never passes: only a verdict of `Pass` does.
    pub(super) fn passes(&self) -> bool {
        self.look.verdict == Some(Verdict::Pass) || fault::is(Fault::PassesWithoutVerdict)
    }

    /// Of the open stage, or of the final bake.
    pub(crate) fn bake_ms(&self) -> u64 {
        match self.record.phase {
            Phase::FinalBake => millis(self.subject.plan.final_bake),
            _ => self.record.stage().map_or(0, |stage| stage.opened.bake_ms),
        }
    }

    pub(super) fn past_deadline(&self, world: &World<'_>) -> bool {
        world.now_ms.saturating_sub(self.look.since_ms) >= millis(self.subject.plan.progress_deadline)
    }

    pub(super) fn totals(&self, world: &World<'_>) -> (u32, u32) {
        let alive = world.alive();
        let is_active =
            |id: &&ProxyId| world.live.proxy(id).is_some_and(|proxy| proxy.active == Some(self.subject.digest));
        let active = alive.iter().filter(is_active).count();
        (u32::try_from(alive.len()).unwrap_or(u32::MAX), u32::try_from(active).unwrap_or(u32::MAX))
    }
}
