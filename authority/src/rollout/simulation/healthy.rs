//! The bake clock as an outsider would run it: the most healthy time that the machine can have seen.

use crate::fleet::Live;
use crate::rollout::machine::Machine;
use crate::rollout::record::Phase;

/// Of the open phase of the rollout under way.
#[derive(Debug, Default)]
pub(super) struct Healthy {
    pub(super) ms: u64,
    /// Revision, stages so far, whether it is the final bake.
    phase: Option<(u64, usize, bool)>,
    last_ms: u64,
}

impl Healthy {
    /// Nothing yet.
    pub(super) fn since(now_ms: u64) -> Self {
        Self { last_ms: now_ms, ..Self::default() }
    }

    /// Before the machine looks. `fresh_ms`: the oldest report that counts, and the longest step.
    pub(super) fn look(&mut self, now_ms: u64, machine: &Machine, live: &Live, fresh_ms: u64) {
        let passed_ms = now_ms.saturating_sub(std::mem::replace(&mut self.last_ms, now_ms));
        let Some(current) = machine.current() else { return };
        let (record, digest) = (&current.record, current.subject.digest);
        let phase = (current.subject.revision.0, record.stages.len(), record.phase == Phase::FinalBake);
        if self.phase.replace(phase) != Some(phase) {
            self.ms = 0;
        }
        let Some(stage) = record.stage() else { return };
        let members = stage.opened.cohort.iter().filter_map(|id| live.proxy(id)).filter(|proxy| !proxy.draining);
        let is_healthy = members.clone().all(|proxy| {
            proxy.attached
                && proxy.ready
                && proxy.active == Some(digest)
                && now_ms.saturating_sub(proxy.heard_ms) <= fresh_ms
        });
        if is_healthy && !record.paused && record.held.is_none() {
            self.ms += passed_ms.min(fresh_ms);
        }
    }
}
