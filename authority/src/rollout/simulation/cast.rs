//! Who and what a simulated fleet is made of: dice, what is wrong with a revision, proxies, agents, and the disk that a
//! machine is remembered from. What they do is in [`super`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sealane_model::gate::Entry;
use sealane_model::ids::Digest;
use sealane_proto::v1;

use super::super::event::{Event, Stable, StageOpened, What};
use super::super::machine::Remembered;
use super::super::subject::Subject;

pub(super) struct Dice(pub(super) u64);

impl Dice {
    /// splitmix64
    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    pub(super) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Nature {
    pub(super) refuses: bool,
    pub(super) fails_percent: u64,
    /// One in so many ticks; 0: never.
    pub(super) dies: u64,
    pub(super) stuck: bool,
    /// It keeps traffic away.
    pub(super) starved: bool,
    /// One in so many ticks it is not ready; 0: never.
    pub(super) flaps: u64,
    /// It serves, and does not start from disk.
    pub(super) dies_at_start: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Proxy {
    pub(super) id: String,
    pub(super) instance: u64,
    pub(super) active: Option<Digest>,
    pub(super) prepared: Option<Digest>,
    pub(super) deaths: u32,
    pub(super) counts: BTreeMap<Digest, (u64, u64)>,
    pub(super) silent_until: u64,
    pub(super) draining: bool,
    pub(super) flapped: bool,
    /// The revision that was started from disk once more, and whether that went well.
    pub(super) rehearsed: Option<(Digest, bool)>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Desired {
    pub(super) version: u64,
    pub(super) stable: Option<Digest>,
    pub(super) candidate: Option<(Digest, Vec<StageOpened>, bool)>,
    pub(super) withdrawn: BTreeSet<Digest>,
}

#[derive(Debug, Default)]
pub(super) struct Agent {
    pub(super) id: String,
    pub(super) region: String,
    pub(super) proxies: Vec<Proxy>,
    pub(super) desired: Desired,
    pub(super) away_until: u64,
    pub(super) local_rollback: Option<Digest>,
    /// A report that is still under way.
    pub(super) late: Option<v1::ReportRequest>,
}

/// What the store would hold.
#[derive(Default)]
pub(super) struct Disk {
    pub(super) subjects: BTreeMap<u64, Arc<Subject>>,
    pub(super) events: BTreeMap<u64, Vec<Event>>,
    pub(super) evidence: BTreeMap<u64, Vec<Entry>>,
    /// In the order in which they were stored.
    pub(super) order: Vec<(u64, What)>,
    pub(super) grants: Vec<(u64, u64)>,
}

impl Disk {
    pub(super) fn remembered(&self) -> Remembered {
        let ends = |what: &What| matches!(what, What::Completed { .. } | What::Rejected { .. } | What::Ended { .. });
        let mut withdrawn: Vec<u64> = Vec::new();
        let mut stable = None;
        for (revision, what) in &self.order {
            match what {
                What::Completed { .. } => {
                    stable = Some(Stable { revision: *revision, digest: self.subjects[revision].digest });
                }
                What::RollingBack { .. } | What::Rejected { .. } => withdrawn.push(*revision),
                _ => {}
            }
        }
        let went_back: BTreeSet<u64> = self
            .order
            .iter()
            .filter(|(_, what)| matches!(what, What::RollingBack { .. }))
            .map(|(revision, _)| *revision)
            .collect();
        let void = self.grants.iter().filter(|(_, revision)| went_back.contains(revision)).map(|(one, _)| *one).max();
        Remembered {
            stable,
            withdrawn: withdrawn.iter().rev().map(|revision| self.subjects[revision].digest).collect(),
            open: self
                .events
                .iter()
                .filter(|(_, events)| !events.iter().any(|event| ends(&event.what)))
                .map(|(revision, events)| {
                    let evidence = self.evidence.get(revision).cloned().unwrap_or_default();
                    (Arc::clone(&self.subjects[revision]), events.clone(), evidence)
                })
                .collect(),
            sequence: self.grants.iter().map(|(sequence, _)| *sequence).max().unwrap_or(0),
            sequence_min: void.map_or(0, |sequence| sequence + 1),
            version: self.order.len() as u64,
        }
    }
}
