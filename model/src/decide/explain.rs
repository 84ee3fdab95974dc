//! Why a request is decided as it is: the candidates in the order in which they rank, each with the first condition
//! that did not hold.

use std::collections::{HashMap, HashSet};

use super::rank::{NO_RANK, Rank};
use super::search::Observer;
use super::{Decision, Mismatch, RequestHead, RouteTable, Scratch, host, normal_path};
use crate::config::RouteIndex;

/// A decision and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What [`RouteTable::decide`] answers.
    pub decision: Decision,
    /// The host as it was compared.
    pub host: String,
    /// The path as it was compared; as sent where it cannot be ([`Decision::BadPath`]).
    pub path: String,
    /// The routes up to the one that was decided for, in the order of matching; all of them when there is none.
    pub tried: Vec<Tried>,
}

/// A route that was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried {
    /// An index into [`crate::config::Config::routes`].
    pub route: RouteIndex,
    /// The first condition that does not hold; `None`: it matches.
    pub mismatch: Option<Mismatch>,
}

/// What a search said.
#[derive(Debug, Default)]
struct Trace {
    entered: HashSet<u32>,
    rejected: HashMap<Rank, Mismatch>,
}

impl Observer for Trace {
    fn entered(&mut self, group: u32) {
        self.entered.insert(group);
    }

    fn rejected(&mut self, rank: Rank, mismatch: Mismatch) {
        self.rejected.insert(rank, mismatch);
    }
}

impl RouteTable {
    /// Explains what [`Self::decide`] answers, by the same search. Takes time and space with the number of routes.
    #[must_use]
    pub fn explain(&self, head: &RequestHead<'_>, scratch: &mut Scratch) -> Explanation {
        let mut trace = Trace::default();
        let decision = self.search(head, scratch, &mut trace);
        let mut copy = String::new();
        let host = host::normalised(head.host, &mut copy);
        let tried = if decision == Decision::BadPath { Vec::new() } else { self.tried(host, decision, &trace) };
        let path = normal_path(scratch.normal, head, &scratch.path).to_owned();
        Explanation { decision, host: host.to_owned(), path, tried }
    }

    fn tried(&self, host: &str, decision: Decision, trace: &Trace) -> Vec<Tried> {
        let tiers = self.tiers(host);
        let mut tried = Vec::new();
        // A sandbox route is a candidate of two tiers, one of which counts here.
        for (rank, ranked) in (0..NO_RANK).zip(&self.ranked).filter(|(_, ranked)| tiers.contains(&ranked.tier)) {
            let route = ranked.route as RouteIndex;
            if decision == Decision::Route(route) {
                tried.push(Tried { route, mismatch: None });
                break;
            }
            // What the search passed over for its rank alone ranks behind the one that it found. So a candidate before
            // that one of which it said nothing is not where its maps and patterns led: by host, or by path.
            let mismatch = match trace.rejected.get(&rank) {
                Some(mismatch) => *mismatch,
                None if trace.entered.contains(&ranked.group) => Mismatch::Path,
                None => Mismatch::Host,
            };
            tried.push(Tried { route, mismatch: Some(mismatch) });
        }
        tried
    }
}
