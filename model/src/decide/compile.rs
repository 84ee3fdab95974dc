//! From routes to a table: order them, then put each where a search will find it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::FixedState;

use super::automata::AutomataBuilder;
use super::cache::CacheRules;
use super::conditions::{self, Conditions};
use super::host::Names;
use super::paths::{Candidate, Group, PathsBuilder, small};
use super::patterns::Patterns;
use super::rank::{NO_RANK, Order, Tier};
use super::rewrite::Rewrites;
use super::search::{HostRegexes, Hosts};
use super::syntax::Anchoring;
use super::{Ranked, RouteTable};
use crate::config::{Config, HostCondition, Pattern, Route, RouteIndex};

/// What `before` has and `config` wants is used again: a table costs what is new in it, beside an ordering of all routes.
pub(super) fn compile(config: &Config, before: Option<&RouteTable>) -> RouteTable {
    let mut hosts: [HostsBuilder<'_>; 3] = Default::default();
    let mut paths = PathsBuilder::default();
    let mut conditions = ConditionsBuilder::default();
    let mut ranked = Vec::with_capacity(config.routes.len());
    for (rank, (tier, index)) in (0..NO_RANK).zip(ordered(config)) {
        let route = &config.routes[index];
        let group = hosts[tier as usize].group(route.host.as_ref(), paths.next_group());
        let candidate = Candidate { rank, route: small(index), conditions: conditions.add(route) };
        paths.add(group, &route.path, candidate);
        ranked.push(Ranked { route: small(index), group: small(group), tier });
    }
    let mut automata = AutomataBuilder::after(before.map(|before| &before.automata));
    let (paths, groups) = paths.finish(&mut automata);
    RouteTable {
        hosts: hosts.map(|hosts| hosts.finish(&groups, &mut automata)),
        paths,
        conditions: conditions.all,
        automata: automata.finish(),
        sandbox_hosts: sandbox_hosts(config),
        ranked,
        rewrites: Rewrites::compile(config, before.map(|before| &before.rewrites)),
        cache_rules: CacheRules::compile(config, before.map(|before| &before.cache_rules)),
        identity: Arc::new(()),
    }
}

/// All candidates, in the order of matching.
fn ordered(config: &Config) -> impl Iterator<Item = (Tier, RouteIndex)> + use<> {
    let has_sandbox_hosts = config.sandboxes.as_ref().is_some_and(|sandboxes| !sandboxes.hosts.is_empty());
    let mut candidates = Vec::with_capacity(config.routes.len());
    let ended: HashSet<RouteIndex> = config.sandboxes.iter().flat_map(|sandboxes| &sandboxes.ended).copied().collect();
    for (index, route) in config.routes.iter().enumerate().filter(|(index, _)| !ended.contains(index)) {
        let tiers: &[Tier] = match &route.sandbox {
            None => &[Tier::File],
            Some(_) if has_sandbox_hosts => &[Tier::SandboxHost, Tier::Elsewhere],
            Some(_) => &[Tier::Elsewhere],
        };
        candidates.extend(tiers.iter().map(|&tier| (Order::of(route, index, tier), tier, index)));
    }
    candidates.sort_unstable();
    candidates.into_iter().map(|(_, tier, index)| (tier, index))
}

fn sandbox_hosts(config: &Config) -> Names<()> {
    let mut names = Names::default();
    for host in config.sandboxes.iter().flat_map(|sandboxes| &sandboxes.hosts) {
        names.entry(host, || ());
    }
    names
}

/// Numbers conditions. Most routes have none, or those of many others: equal ones are kept once.
#[derive(Debug, Default)]
struct ConditionsBuilder {
    all: Vec<Conditions>,
    /// The number of having none.
    none: Option<u32>,
    known: HashMap<Conditions, u32, FixedState>,
}

impl ConditionsBuilder {
    fn add(&mut self, route: &Route) -> u32 {
        if let (Some(none), 0) = (self.none, conditions::count(route)) {
            return none;
        }
        let conditions = Conditions::of(route);
        let number = self.number(conditions);
        if conditions::count(route) == 0 {
            self.none = Some(number);
        }
        number
    }

    fn number(&mut self, conditions: Conditions) -> u32 {
        *self.known.entry(conditions).or_insert_with_key(|conditions| {
            self.all.push(conditions.clone());
            small(self.all.len() - 1)
        })
    }
}

/// Gives each host condition of one tier its group. Those of patterns come in the order of their lowest rank.
#[derive(Debug, Default)]
struct HostsBuilder<'p> {
    names: Names<usize>,
    regexes: Vec<(&'p Pattern, usize)>,
    known_regexes: HashMap<&'p Pattern, usize, FixedState>,
    any: Option<usize>,
}

impl<'p> HostsBuilder<'p> {
    /// The group of `condition`; a new one is `next`. Must be asked for in the order of rank.
    fn group(&mut self, condition: Option<&'p HostCondition>, next: usize) -> usize {
        match condition {
            None => *self.any.get_or_insert(next),
            Some(HostCondition::Name(name)) => *self.names.entry(name, || next),
            Some(HostCondition::Regex(pattern)) => *self.known_regexes.entry(pattern).or_insert_with(|| {
                self.regexes.push((pattern, next));
                next
            }),
        }
    }

    fn finish(self, groups: &[Group], automata: &mut AutomataBuilder<'p>) -> Hosts {
        let patterns: Vec<_> = self.regexes.iter().map(|&(pattern, group)| (pattern, groups[group].lowest)).collect();
        Hosts {
            names: self.names.map(|group| groups[group]),
            regex: (!patterns.is_empty()).then(|| HostRegexes {
                patterns: Patterns::compile(&patterns, Anchoring::Host, automata),
                groups: self.regexes.iter().map(|&(_, group)| groups[group]).collect(),
            }),
            any: self.any.map(|group| groups[group]),
        }
    }
}
