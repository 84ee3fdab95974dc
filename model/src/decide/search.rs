//! One search for the candidate of lowest rank that a request meets, whoever asks: an [`Observer`] is all that differs
//! between a decision and its explanation.

use super::host::Names;
use super::paths::{Candidate, Group};
use super::patterns::{PatternScratch, Patterns};
use super::rank::{NO_RANK, Rank};
use super::{Decision, Mismatch, RequestHead, RouteTable};

/// Hears what a search does.
pub(super) trait Observer {
    /// The host condition of this group holds, and it may hold a better candidate.
    fn entered(&mut self, group: u32);
    /// Host and path of this candidate hold, another condition does not.
    fn rejected(&mut self, rank: Rank, mismatch: Mismatch);
}

/// Nobody asks.
impl Observer for () {
    fn entered(&mut self, _group: u32) {}
    fn rejected(&mut self, _rank: Rank, _mismatch: Mismatch) {}
}

/// The groups of one tier, by host condition.
#[derive(Debug)]
pub(super) struct Hosts {
    pub(super) names: Names<Group>,
    pub(super) regex: Option<HostRegexes>,
    pub(super) any: Option<Group>,
}

/// Groups by pattern.
#[derive(Debug)]
pub(super) struct HostRegexes {
    pub(super) patterns: Patterns,
    /// By pattern.
    pub(super) groups: Vec<Group>,
}

/// A search in progress.
pub(super) struct Search<'s, O> {
    table: &'s RouteTable,
    head: &'s RequestHead<'s>,
    /// Normalised; `None`: `*`.
    path: Option<&'s str>,
    observer: &'s mut O,
    best: Option<Candidate>,
}

impl<'s, O: Observer> Search<'s, O> {
    pub(super) fn new(
        table: &'s RouteTable,
        head: &'s RequestHead<'s>,
        path: Option<&'s str>,
        observer: &'s mut O,
    ) -> Self {
        Self { table, head, path, observer, best: None }
    }

    /// Searches all tiers that count for `host`, which is normalised. `groups` is room to work in.
    pub(super) fn run(mut self, host: &str, scratch: &mut PatternScratch, groups: &mut Vec<Group>) -> Decision {
        for tier in self.table.tiers(host) {
            self.search_hosts(&self.table.hosts[tier as usize], host, scratch, groups);
        }
        self.best.map_or(Decision::NoRoute, |best| Decision::Route(best.route as usize))
    }

    /// The rank of the best candidate so far.
    pub(super) fn best(&self) -> Rank {
        self.best.map_or(NO_RANK, |best| best.rank)
    }

    /// Tries candidates whose host and path hold, in the order of rank, as long as one could be the best.
    pub(super) fn offer(&mut self, candidates: &[Candidate]) {
        for candidate in candidates {
            if candidate.rank >= self.best() {
                return;
            }
            match self.table.conditions[candidate.conditions as usize].mismatch(self.head) {
                None => self.best = Some(*candidate),
                Some(mismatch) => self.observer.rejected(candidate.rank, mismatch),
            }
        }
    }

    fn search_hosts(&mut self, hosts: &Hosts, host: &str, scratch: &mut PatternScratch, groups: &mut Vec<Group>) {
        hosts.names.visit(host, |group| self.search_group(group, scratch));
        // Patterns are compiled for ASCII text.
        if let Some(regex) = &hosts.regex
            && host.is_ascii()
        {
            groups.clear();
            regex.patterns.visit(&self.table.automata, host, self.best(), scratch, |pattern| {
                groups.push(regex.groups[pattern]);
                self.best()
            });
            for group in groups.iter() {
                self.search_group(group, scratch);
            }
        }
        if let Some(group) = &hosts.any {
            self.search_group(group, scratch);
        }
    }

    fn search_group(&mut self, group: &Group, scratch: &mut PatternScratch) {
        if group.lowest >= self.best() {
            return;
        }
        self.observer.entered(group.index);
        let table = self.table;
        table.paths.search(group, self.path, &table.automata, scratch, self);
    }
}
