//! Which stage comes next, and whom it takes. Pure arithmetic on ranks.

use std::collections::BTreeSet;

use sealane_model::cohort;
use sealane_model::ids::ProxyId;

use super::event::{Course, StageOpened};
use super::fault::{self, Fault};
use super::record::Record;
use super::subject::Subject;
use crate::fleet::Live;

/// A stage before it is granted.
pub(crate) struct Planned {
    pub(crate) merged: Vec<usize>,
    pub(crate) bake_ms: u64,
    pub(crate) cut: u64,
}

/// Whether a grant of this rollout covers a proxy.
pub(crate) fn covers(subject: &Subject, record: &Record, live: &Live, id: &ProxyId, region: &str) -> bool {
    let rank = subject.rank(id);
    record.stages.iter().any(|stage| {
        let opened = &stage.opened;
        opened.regions.iter().any(|one| one == "*" || one == region)
            && rank <= opened.cut
            && (opened.cut == u64::MAX || !live.is_cordoned(id))
    })
}

/// The stage at `from` of `wave`, or of the first wave after it that has a live proxy. `None`: no wave has one.
pub(crate) fn open(
    subject: &Subject,
    record: &Record,
    live: &Live,
    alive: &BTreeSet<ProxyId>,
    wave: usize,
    from: usize,
    sequence: u64,
) -> Option<StageOpened> {
    let last = subject.plan.stages.len() - 1;
    if record.course != Course::Staged {
        return Some(StageOpened {
            wave: 0,
            stage: last,
            merged: Vec::new(),
            bake_ms: 0,
            cut: u64::MAX,
            regions: vec!["*".to_owned()],
            sequence,
            cohort: alive.clone(),
        });
    }
    for (wave, from) in (wave..subject.plan.waves.len()).map(|at| (at, if at == wave { from } else { 0 })) {
        let here = |id: &&ProxyId| live.proxy(id).is_some_and(|proxy| subject.wave_of(&proxy.region) == wave);
        let members: Vec<&ProxyId> = alive.iter().filter(here).collect();
        if members.is_empty() {
            continue;
        }
        let free: Vec<u64> = members.iter().filter(|id| !live.is_cordoned(id)).map(|id| subject.rank(id)).collect();
        let all: Vec<u64> = members.iter().map(|id| subject.rank(id)).collect();
        let least = record.stages.iter().filter(|one| one.opened.wave == wave).map(|one| one.opened.cut).max();
        let ranks = if free.is_empty() { &all } else { &free };
        let planned = plan(subject, from, ranks, all.len(), least.unwrap_or(0))?;
        let mut opened = StageOpened {
            wave,
            stage: from,
            merged: planned.merged,
            bake_ms: planned.bake_ms,
            cut: planned.cut,
            regions: subject.regions(wave),
            sequence,
            cohort: BTreeSet::new(),
        };
        let mut after = record.clone();
        after.stages.push(super::record::StageRecord {
            opened: opened.clone(),
            opened_ms: 0,
            outcome: super::record::Outcome::Open,
        });
        let covered =
            |id: &&ProxyId| live.proxy(id).is_some_and(|proxy| covers(subject, &after, live, id, &proxy.region));
        opened.cohort = alive.iter().filter(covered).cloned().collect();
        return Some(opened);
    }
    None
}

/// Stage `from` over `ranks`, together with the later stages that add no proxy: the longest bake counts. The cut never
/// falls below `least`, the wave's cut so far. Only a stage of 100 % takes all `members`, cordoned ones too.
pub(crate) fn plan(subject: &Subject, from: usize, ranks: &[u64], members: usize, least: u64) -> Option<Planned> {
    let stages = &subject.plan.stages;
    let bake_ms = |stage: usize| u64::try_from(stages[stage].bake.as_millis()).unwrap_or(u64::MAX);
    let percent_of = |stage: usize| match fault::is(Fault::WidensAtOnce) {
        true => 99.9,
        false => stages[stage].fleet_percent,
    };
    let cut_of = |stage: usize| Some(cohort::cut(percent_of(stage), ranks)?.max(least));
    let count = |cut: u64| {
        if cut == u64::MAX { members } else { ranks.iter().filter(|rank| **rank <= cut).count() }
    };
    let mut planned = Planned { merged: Vec::new(), bake_ms: bake_ms(from), cut: cut_of(from)? };
    for stage in from + 1..stages.len() {
        let cut = cut_of(stage)?;
        if count(cut) > count(planned.cut) {
            break;
        }
        planned.merged.push(stage);
        planned.bake_ms = planned.bake_ms.max(bake_ms(stage));
        planned.cut = cut;
    }
    Some(planned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealane_model::ids::{Digest, Epoch, Revision};
    use sealane_model::plan::{Plan, StagePlan, Wave};
    use sealane_model::release::ChangeClass;
    use std::time::Duration;

    fn subject() -> Subject {
        let stage = |name: &str, fleet_percent, bake| StagePlan {
            name: name.into(),
            fleet_percent,
            bake: Duration::from_secs(bake),
        };
        Subject {
            revision: Revision(2),
            epoch: Epoch(1),
            digest: Digest::of(b"release"),
            plan: Plan {
                stages: vec![
                    stage("canary", 1.0, 5),
                    stage("small", 10.0, 9),
                    stage("half", 50.0, 7),
                    stage("all", 100.0, 0),
                ],
                ..Plan::default()
            },
            class: ChangeClass::Standard,
            author: String::new(),
            message: String::new(),
        }
    }

    #[test]
    fn stages_that_add_no_proxy_merge_and_the_longest_bake_counts() {
        let ranks = [10, 20, 30, 40, 50, 60];
        let first = plan(&subject(), 0, &ranks, 6, 0).unwrap();
        assert_eq!((first.merged, first.bake_ms, first.cut), (vec![1], 9_000, 10));
        let half = plan(&subject(), 2, &ranks, 6, 10).unwrap();
        assert_eq!((half.merged, half.bake_ms, half.cut), (vec![], 7_000, 30));
        let all = plan(&subject(), 3, &ranks, 6, 30).unwrap();
        assert_eq!((all.merged, all.bake_ms, all.cut), (vec![], 0, u64::MAX));
        let alone = plan(&subject(), 0, &[10], 1, 0).unwrap();
        assert_eq!((alone.merged, alone.bake_ms, alone.cut), (vec![1, 2, 3], 9_000, u64::MAX));
    }

    #[test]
    fn a_cordoned_proxy_comes_in_with_the_last_stage_only() {
        let canary = plan(&subject(), 0, &[10], 3, 0).unwrap();
        assert_eq!((canary.merged, canary.cut), (vec![1, 2], 10));
        assert_eq!(plan(&subject(), 3, &[10], 3, 10).unwrap().cut, u64::MAX);
    }

    #[test]
    fn a_cut_never_shrinks_when_proxies_leave() {
        assert_eq!(plan(&subject(), 2, &[10, 20], 2, 45).unwrap().cut, u64::MAX);
        assert_eq!(plan(&subject(), 2, &[10, 20, 50, 60, 70, 80, 90], 7, 85).unwrap().cut, 85);
    }

    #[test]
    fn the_last_wave_takes_the_regions_that_nobody_names() {
        let mut subject = subject();
        let wave = |name: &str, regions: &[&str]| Wave {
            name: name.into(),
            regions: regions.iter().map(|one| (*one).to_owned()).collect(),
        };
        subject.plan.waves = vec![wave("first", &["eu"]), wave("rest", &["us"])];
        assert_eq!(subject.wave_of("eu"), 0);
        assert_eq!(subject.wave_of("asia"), 1);
        assert_eq!(subject.regions(1), ["*"]);
        subject.plan.waves = vec![wave("first", &["eu"]), wave("rest", &["*"])];
        assert_eq!((subject.wave_of("eu"), subject.wave_of("us")), (0, 1));
    }
}
