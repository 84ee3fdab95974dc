//! Which cache rule holds for a request: the first one, in the order of the file, that its route and path fit.
//!
//! Knows nothing of methods, statuses and times: a rule that fits by route and path is the rule, and what it then does
//! not take is not cached.

use regex_automata::meta::{self, Regex};

use super::path;
use super::rewrite::Compiled;
use crate::config::{Config, PathMatch, Pattern, RouteIndex};

/// The rules of a config, by route.
#[derive(Debug, Default)]
pub(super) struct CacheRules {
    of_route: Vec<Box<[Candidate]>>,
    regexes: Vec<(Pattern, Regex)>,
}

/// One thread's room, by regex, made when first needed.
#[derive(Debug)]
pub(super) struct CacheScratch(Vec<Option<meta::Cache>>);

#[derive(Debug)]
struct Candidate {
    /// An index into [`crate::config::Cache::rules`].
    rule: usize,
    path: Condition,
}

#[derive(Clone, Debug)]
enum Condition {
    Any,
    Exact(String),
    /// The path starts so, and goes on with a slash or not at all unless this ends with one.
    Prefix(String),
    /// An index into [`CacheRules::regexes`].
    Regex(usize),
}

impl CacheRules {
    /// Regexes that `before` has are used again.
    pub(super) fn compile(config: &Config, before: Option<&Self>) -> Self {
        let rules = config.cache.as_ref().map(|cache| cache.rules.as_slice()).unwrap_or_default();
        if rules.is_empty() {
            return Self::default();
        }
        let before = Compiled::of(before.map(|before| before.regexes.as_slice()));
        let mut regexes = Vec::new();
        let conditions: Vec<Condition> = rules
            .iter()
            .map(|rule| match &rule.path {
                PathMatch::Any => Condition::Any,
                PathMatch::Exact(path) => Condition::Exact(path::normalised_condition(path).into_owned()),
                PathMatch::Prefix(path) => Condition::Prefix(path::normalised_condition(path).into_owned()),
                PathMatch::Regex(pattern) => {
                    regexes.push((pattern.clone(), before.compile(pattern)));
                    Condition::Regex(regexes.len() - 1)
                }
            })
            .collect();
        let of_route = (0..config.routes.len()).map(|route| {
            // Sandboxes come and go with what they answer.
            let cached = config.routes[route].sandbox.is_none();
            let candidates = rules
                .iter()
                .zip(&conditions)
                .enumerate()
                .filter(|(_, (rule, _))| cached && rule.route.is_none_or(|wanted| wanted == route));
            candidates.map(|(rule, (_, path))| Candidate { rule, path: path.clone() }).collect()
        });
        Self { of_route: of_route.collect(), regexes }
    }

    pub(super) fn scratch(&self) -> CacheScratch {
        CacheScratch(self.regexes.iter().map(|_| None).collect())
    }

    pub(super) fn find(&self, route: RouteIndex, normal_path: &str, scratch: &mut CacheScratch) -> Option<usize> {
        let candidates = self.of_route.get(route)?;
        let fits = |path: &Condition, scratch: &mut CacheScratch| match path {
            Condition::Any => true,
            Condition::Exact(exact) => normal_path == exact,
            Condition::Prefix(prefix) => normal_path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/')),
            Condition::Regex(index) => {
                let regex = &self.regexes[*index].1;
                let cache = scratch.0[*index].get_or_insert_with(|| regex.create_cache());
                regex.search_half_with(cache, &regex_automata::Input::new(normal_path)).is_some()
            }
        };
        candidates.iter().find(|candidate| fits(&candidate.path, scratch)).map(|candidate| candidate.rule)
    }

    /// Whether any rule may hold for requests of this route.
    pub(super) fn concern(&self, route: RouteIndex) -> bool {
        self.of_route.get(route).is_some_and(|candidates| !candidates.is_empty())
    }
}
