//! The order in which routes are tried.
//!
//! Source: row "match order" of the public interfaces.

use std::cmp::Reverse;

use super::{conditions, path};
use crate::config::{HostCondition, HostMatch, PathMatch, Route, RouteIndex};

/// A candidate's place in the order of all candidates of a table; lower is tried first.
pub(super) type Rank = u32;

/// Above all ranks.
pub(super) const NO_RANK: Rank = Rank::MAX;

/// Which requests a candidate is for, and when it is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tier {
    /// A route of the file.
    File,
    /// A sandbox route on one of the sandbox hosts: among the routes of the file.
    SandboxHost,
    /// A sandbox route on any other host: after every route of the file.
    Elsewhere,
}

/// The order, compared field by field.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order {
    after_the_file: bool,
    priority: i32,
    host: HostClass,
    path: PathClass,
    conditions: Reverse<usize>,
    /// Routes of the file first, in its order; then sandbox routes by id.
    sandbox: Option<u64>,
    index: RouteIndex,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum HostClass {
    Exact,
    /// Longest suffix first.
    Wildcard(Reverse<usize>),
    Regex,
    Any,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PathClass {
    Exact,
    /// Longest first.
    Prefix(Reverse<usize>),
    Regex,
    /// No condition at all is the weakest one.
    Any,
}

impl Order {
    pub(super) fn of(route: &Route, index: RouteIndex, tier: Tier) -> Self {
        Self {
            after_the_file: tier == Tier::Elsewhere,
            priority: route.priority,
            host: match &route.host {
                Some(HostCondition::Name(HostMatch::Exact(_))) => HostClass::Exact,
                Some(HostCondition::Name(HostMatch::Wildcard(suffix))) => HostClass::Wildcard(Reverse(suffix.len())),
                Some(HostCondition::Regex(_)) => HostClass::Regex,
                None => HostClass::Any,
            },
            path: match &route.path {
                PathMatch::Exact(_) => PathClass::Exact,
                PathMatch::Prefix(prefix) => PathClass::Prefix(Reverse(path::normalised_condition(prefix).len())),
                PathMatch::Regex(_) => PathClass::Regex,
                PathMatch::Any => PathClass::Any,
            },
            conditions: Reverse(conditions::count(route)),
            sandbox: route.sandbox.as_ref().map(|(_, id)| *id),
            index,
        }
    }
}
