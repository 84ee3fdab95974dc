//! Routes that can never match, since another one that is tried earlier takes every request that they could get.
//!
//! It finds covers that can be read off the conditions: a wildcard over a name, a prefix over a path, fewer methods,
//! headers and parameters. Of regexes it knows only that equal ones match the same. What it names is certain; what it
//! does not name may still be shadowed.

use std::collections::HashMap;

use super::path;
use super::rank::{Order, Tier};
use crate::config::{HostCondition, HostMatch, PathMatch, Route};

/// Routes of one host and path that are remembered; a cover among more of them may go unnoticed.
const ALIKE_MAX: usize = 32;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum HostKey<'r> {
    Exact(&'r str),
    Wildcard(&'r str),
    Regex(&'r str),
    Any,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum PathKey<'r> {
    Exact(&'r str),
    Prefix(&'r str),
    Regex(&'r str),
    Any,
}

/// Pairs of places in `routes`: one that never matches, and the one that takes its requests. Routes of a file only.
pub(crate) fn shadowed(routes: &[&Route]) -> Vec<(usize, usize)> {
    let mut order: Vec<usize> = (0..routes.len()).collect();
    order.sort_by_cached_key(|&index| Order::of(routes[index], index, Tier::File));
    // Conditions are compared in the form in which requests are.
    let paths: Vec<String> = routes.iter().map(|route| normal(&route.path)).collect();
    let mut before: HashMap<(HostKey<'_>, PathKey<'_>), Vec<usize>> = HashMap::with_capacity(routes.len());
    let mut found = Vec::new();
    for index in order {
        let route = routes[index];
        let (host, path) = (host_key(route), path_key(route, &paths[index]));
        let mut winner = None;
        covering_hosts(host, &mut |host| {
            covering_paths(path, &mut |path| {
                let alike = before.get(&(host, path)).into_iter().flatten();
                winner = winner.or_else(|| alike.copied().find(|&earlier| asks_no_more(routes[earlier], route)));
            });
        });
        if let Some(winner) = winner {
            found.push((index, winner));
            continue;
        }
        let alike = before.entry((host, path)).or_default();
        if alike.len() < ALIKE_MAX {
            alike.push(index);
        }
    }
    found.sort_unstable();
    found
}

/// Whether every request that meets the conditions of `route` beside host and path meets those of `earlier`.
fn asks_no_more(earlier: &Route, route: &Route) -> bool {
    let methods = earlier.methods.is_empty()
        || (!route.methods.is_empty() && route.methods.iter().all(|method| earlier.methods.contains(method)));
    methods
        && earlier.headers.iter().all(|header| route.headers.contains(header))
        && earlier.query.iter().all(|query| route.query.contains(query))
}

fn normal(path: &PathMatch) -> String {
    match path {
        PathMatch::Exact(text) => path::normalised_condition(text).into_owned(),
        PathMatch::Prefix(text) => path::normalised_condition(text).into_owned(),
        PathMatch::Regex(_) | PathMatch::Any => String::new(),
    }
}

fn host_key(route: &Route) -> HostKey<'_> {
    match &route.host {
        Some(HostCondition::Name(HostMatch::Exact(name))) => HostKey::Exact(name),
        Some(HostCondition::Name(HostMatch::Wildcard(base))) => HostKey::Wildcard(base),
        Some(HostCondition::Regex(pattern)) => HostKey::Regex(pattern.as_str()),
        None => HostKey::Any,
    }
}

fn path_key<'r>(route: &'r Route, normal: &'r str) -> PathKey<'r> {
    match &route.path {
        PathMatch::Exact(_) => PathKey::Exact(normal),
        PathMatch::Prefix(_) => PathKey::Prefix(normal),
        PathMatch::Regex(pattern) => PathKey::Regex(pattern.as_str()),
        PathMatch::Any => PathKey::Any,
    }
}

/// The host conditions that hold wherever `host` does.
fn covering_hosts<'r>(host: HostKey<'r>, visit: &mut impl FnMut(HostKey<'r>)) {
    visit(host);
    if let HostKey::Exact(name) | HostKey::Wildcard(name) = host {
        let mut rest = name;
        while let Some((_, base)) = rest.split_once('.') {
            visit(HostKey::Wildcard(base));
            rest = base;
        }
    }
    if host != HostKey::Any {
        visit(HostKey::Any);
    }
}

/// The path conditions that hold wherever `path` does. `/api` covers `/api/`, `/api/` does not cover `/api`.
fn covering_paths<'r>(path: PathKey<'r>, visit: &mut impl FnMut(PathKey<'r>)) {
    visit(path);
    if let PathKey::Exact(text) | PathKey::Prefix(text) = path {
        if matches!(path, PathKey::Exact(_)) {
            visit(PathKey::Prefix(text));
        }
        for (at, _) in text.match_indices('/') {
            if at + 1 < text.len() {
                visit(PathKey::Prefix(&text[..=at]));
            }
            if at > 0 {
                visit(PathKey::Prefix(&text[..at]));
            }
        }
    }
    if let PathKey::Regex(_) = path {
        visit(PathKey::Prefix("/"));
    }
    if path != PathKey::Any {
        visit(PathKey::Any);
    }
}
