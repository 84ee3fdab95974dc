//! One proxy as the local rollout sees it.

use sealane_model::ids::Digest;

use super::{SETTLED_REPORTS, Seen, Target};

/// One proxy, over all processes that bore its name.
#[derive(Debug, Default)]
pub(super) struct Proxy {
    /// Of the process that attached last.
    pub(super) instance: String,
    pub(super) attached: bool,
    /// It said what it runs since it attached.
    pub(super) known: bool,
    /// It announced that it ends.
    goodbye: bool,
    detached_ms: Option<u64>,
    pub(super) active: Option<Digest>,
    prepared: Option<Digest>,
    pub(super) refused: Option<Digest>,
    /// What it was told since it attached.
    pub(super) sent: Option<Target>,
    /// It is to run the candidate: sequence of the grant that allowed it.
    pub(super) moved: Option<u64>,
    /// Since when it is told to run the candidate.
    told_ms: Option<u64>,
    /// When it last said that it runs the candidate and is ready.
    good_ms: Option<u64>,
    /// Such reports in a row, and when one was counted last.
    settled_reports: u32,
    settled_ms: Option<u64>,
    pub(super) deaths: u32,
    /// The end of this process was judged: whether it counted as a death.
    judged: Option<bool>,
}

impl Proxy {
    /// Its stream opened. Another instance means that the process before has ended.
    pub(super) fn attach(&mut self, instance: String, candidate: Option<Digest>) {
        if self.instance == instance {
            if self.judged.take() == Some(true) {
                self.deaths -= 1; // it was only away
            }
            self.attached = true;
            self.known = false;
            self.detached_ms = None;
            self.sent = None;
            self.told_ms = None;
            return;
        }
        self.judge_end(candidate);
        *self = Self { instance, attached: true, deaths: self.deaths, ..Self::default() };
    }

    pub(super) fn detach(&mut self, now_ms: u64) {
        self.attached = false;
        self.known = false;
        self.detached_ms = Some(now_ms);
    }

    pub(super) fn observe(&mut self, now_ms: u64, seen: Seen, candidate: Option<Digest>) {
        if !self.attached {
            return;
        }
        self.known = true;
        self.goodbye = seen.draining;
        self.active = seen.active;
        self.prepared = seen.prepared;
        self.refused = seen.refused;
        if seen.ready && candidate.is_some() && self.active == candidate {
            self.good_ms = Some(now_ms);
            if self.settled_ms.is_none_or(|at| now_ms.saturating_sub(at) >= REPORT_GAP_MS) {
                self.settled_ms = Some(now_ms);
                self.settled_reports += 1;
            }
        } else {
            self.settled_ms = None;
            self.settled_reports = 0;
        }
    }

    /// It was sent `target`.
    pub(super) fn told(&mut self, now_ms: u64, target: Target, candidate: Option<Digest>) {
        if candidate.is_some() && target.active == candidate {
            self.told_ms.get_or_insert(now_ms);
        } else {
            self.told_ms = None;
        }
        self.sent = Some(target);
    }

    /// A process that stays away without a goodbye has died.
    pub(super) fn judge_absence(&mut self, now_ms: u64, candidate: Option<Digest>) {
        if self.detached_ms.is_some_and(|at| now_ms.saturating_sub(at) >= AWAY_MS) {
            self.judge_end(candidate);
        }
    }

    /// Another candidate, or none: nothing that was counted on the old one matters.
    pub(super) fn forget_candidate(&mut self) {
        self.moved = None;
        self.told_ms = None;
        self.good_ms = None;
        self.settled_ms = None;
        self.settled_reports = 0;
        self.deaths = 0;
        self.judged = self.judged.map(|_| false);
    }

    pub(super) fn is_forgotten(&self, now_ms: u64) -> bool {
        self.detached_ms.is_some_and(|at| now_ms.saturating_sub(at) >= FORGET_MS)
    }

    /// It will not come back as the same process.
    pub(super) fn is_gone(&self) -> bool {
        !self.attached && (self.goodbye || self.judged.is_some())
    }

    pub(super) fn can_activate(&self, digest: &Digest) -> bool {
        let held = self.prepared == Some(*digest) || self.active == Some(*digest);
        self.attached && self.known && !self.goodbye && held && self.refused != Some(*digest)
    }

    pub(super) fn is_settled(&self, digest: &Digest) -> bool {
        self.attached && self.active == Some(*digest) && self.settled_reports >= SETTLED_REPORTS
    }

    /// How long it has owed a report that says ready and candidate active; 0 while it owes none.
    pub(super) fn unready_for(&self, now_ms: u64) -> u64 {
        if !self.attached || self.goodbye {
            return 0;
        }
        let owed_since = self.told_ms.map(|told| told.max(self.good_ms.unwrap_or(0)));
        owed_since.map_or(0, |since| now_ms.saturating_sub(since))
    }

    fn judge_end(&mut self, candidate: Option<Digest>) {
        if self.judged.is_some() || self.instance.is_empty() {
            return;
        }
        let died = !self.goodbye && self.is_exposed(candidate);
        self.deaths += u32::from(died);
        self.judged = Some(died);
    }

    /// It ran the candidate, was about to, or was compiling it.
    fn is_exposed(&self, candidate: Option<Digest>) -> bool {
        let Some(candidate) = candidate else { return false };
        let sent = self.sent.as_ref();
        let told = sent.is_some_and(|sent| sent.active == Some(candidate));
        let compiling = sent.is_some_and(|sent| sent.releases.contains(&candidate))
            && self.prepared != Some(candidate)
            && self.refused != Some(candidate);
        self.active == Some(candidate) || told || compiling
    }
}

/// A process whose stream ended without a goodbye is dead when it stays away this long.
const AWAY_MS: u64 = 10_000;
/// A proxy that stays away this long is no longer this agent's.
const FORGET_MS: u64 = 600_000;
/// Reports closer together count once.
pub(super) const REPORT_GAP_MS: u64 = 500;
