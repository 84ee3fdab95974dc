//! The only code that decides what happens to a request: pure, on a borrowed head.
//!
//! [`RouteTable::compile`] gives each route a *rank*: its place in the order of matching. [`RouteTable::decide`] finds
//! the lowest rank whose conditions all hold, through maps by host and path and automata for patterns, and skips
//! whatever ranks behind what it has. [`RouteTable::explain`] is the same search with somebody listening.
//!
//! Knows nothing of connections, pools and time. Source of the rules: rows "match order", "regex anchoring", "paths"
//! and "prefix" of the public interfaces. Where these are silent: a route without a path condition comes after those
//! with one; methods count as one condition; a route of the file comes before a sandbox route; a host that is not
//! ASCII meets no host regex.

use std::fmt;
use std::sync::Arc;

use self::automata::Automata;
use self::cache::{CacheRules, CacheScratch};
use self::conditions::Conditions;
use self::host::Names;
use self::path::Normal;
use self::paths::{Group, Paths};
use self::patterns::PatternScratch;
use self::rank::Tier;
use self::rewrite::{RewriteScratch, Rewrites};
use self::search::{Hosts, Observer, Search};
use crate::config::{Config, RouteIndex, TargetPath};

pub use self::explain::{Explanation, Tried};
pub(crate) use self::shadow::shadowed;

mod automata;
mod cache;
mod compile;
mod conditions;
mod explain;
mod host;
mod literals;
mod path;
mod paths;
mod patterns;
mod rank;
mod rewrite;
mod search;
mod shadow;
mod syntax;
#[cfg(test)]
mod tests;

/// What a decision looks at. Nothing is copied out of it.
#[derive(Clone, Copy)]
pub struct RequestHead<'a> {
    /// As sent.
    pub method: &'a str,
    /// Without port; any case; an IPv6 literal without brackets.
    pub host: &'a str,
    /// As sent, without query; starts with `/` (or is `*`).
    pub path: &'a str,
    /// As sent, without `?`.
    pub query: Option<&'a str>,
    /// The header fields.
    pub headers: &'a dyn HeaderView,
}

/// Without query and headers, which may hold secrets.
impl fmt::Debug for RequestHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, host, path, query: _, headers: _ } = self;
        f.debug_struct("RequestHead")
            .field("method", method)
            .field("host", host)
            .field("path", path)
            .finish_non_exhaustive()
    }
}

/// Header fields of whatever shape the caller keeps them in.
pub trait HeaderView {
    /// Whether `test` holds for the value of one of the field lines called `name` (lower case).
    fn any_value(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool;
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// This route, an index into [`Config::routes`].
    Route(RouteIndex),
    /// 404 `no_route`.
    NoRoute,
    /// 400 `bad_request`: `%00`, a broken escape, or dots that leave the root.
    BadPath,
}

/// The first condition of a route that a request does not meet, in the order host, path, method, headers, query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// [`crate::config::Route::host`]
    Host,
    /// [`crate::config::Route::path`]
    Path,
    /// [`crate::config::Route::methods`]
    Method,
    /// This one of [`crate::config::Route::headers`].
    Header(usize),
    /// This one of [`crate::config::Route::query`].
    Query(usize),
}

/// The routes of a config, compiled for matching. Immutable and shared by threads.
#[derive(Debug)]
pub struct RouteTable {
    /// By tier.
    hosts: [Hosts; 3],
    paths: Paths,
    conditions: Vec<Conditions>,
    automata: Automata,
    sandbox_hosts: Names<()>,
    /// By rank.
    ranked: Vec<Ranked>,
    rewrites: Rewrites,
    cache_rules: CacheRules,
    /// Tells this table's scratches from those of another.
    identity: Arc<()>,
}

/// What explanations need to know of a candidate. Sandbox routes are candidates twice: among the routes of the file,
/// for sandbox hosts, and after them.
#[derive(Clone, Copy, Debug)]
struct Ranked {
    route: u32,
    group: u32,
    tier: Tier,
}

/// What one thread needs to match against one [`RouteTable`]: regex caches and the normalised path.
#[derive(Debug)]
pub struct Scratch {
    table: Arc<()>,
    host: String,
    path: String,
    normal: Normal,
    groups: Vec<Group>,
    patterns: PatternScratch,
    rewrites: RewriteScratch,
    cache_rules: CacheScratch,
}

impl RouteTable {
    /// Compiles the routes of `config`. Cannot fail: everything was settled in parsing.
    #[must_use]
    pub fn compile(config: &Config) -> Self {
        compile::compile(config, None)
    }

    /// The same table as [`Self::compile`] makes, out of parts of an earlier one as far as they go: what a small change
    /// of a large config costs is what is new in it.
    #[must_use]
    pub fn compile_after(config: &Config, before: &Self) -> Self {
        compile::compile(config, Some(before))
    }

    /// A scratch for one thread.
    #[must_use]
    pub fn scratch(&self) -> Scratch {
        Scratch {
            table: Arc::clone(&self.identity),
            host: String::new(),
            path: String::new(),
            normal: Normal::AsSent,
            groups: Vec::new(),
            patterns: PatternScratch::new(&self.automata),
            rewrites: self.rewrites.scratch(),
            cache_rules: self.cache_rules.scratch(),
        }
    }

    /// Decides. Afterwards `scratch` holds the normalised path that [`Self::write_path`] builds on.
    ///
    /// Allocates only while `scratch` grows to what the traffic needs: its buffers, and the states of lazy automata.
    /// A scratch of another table is replaced.
    pub fn decide(&self, head: &RequestHead<'_>, scratch: &mut Scratch) -> Decision {
        self.search(head, scratch, &mut ())
    }

    /// Appends the path (without query) that the endpoint sees: the request's, byte for byte, unless the route
    /// rewrites it or the endpoint's URL has a path. Must follow a [`Self::decide`] of the same `head` and `scratch`
    /// that gave `route`.
    ///
    /// - [`TargetPath::Replace`] holds whatever the route does, [`TargetPath::Prepend`] comes before what it makes.
    /// - `Rewrite::Prefix` leaves one slash where prefix and rest meet: `/api` by `/` makes `/x` of `/api/x` and `/` of
    ///   `/api`; `/api/` by `/v2` makes `/v2/x` of `/api/x`. On a route without a prefix it comes before the path; on
    ///   one with an exact path it replaces that.
    /// - What a rewrite makes starts with `/` and is percent-encoded where it must be.
    /// - `*` stays.
    pub fn write_path(
        &self,
        route: RouteIndex,
        head: &RequestHead<'_>,
        endpoint: &TargetPath,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) {
        if head.path == ASTERISK {
            out.extend(ASTERISK.as_bytes());
            return;
        }
        match endpoint {
            TargetPath::Keep => {}
            TargetPath::Replace(path) => return rewrite::write_encoded(path.as_bytes(), out),
            TargetPath::Prepend(path) => match path.trim_end_matches('/') {
                "" => {}
                path => rewrite::write_encoded(path.as_bytes(), out),
            },
        }
        scratch.fit(self);
        let Scratch { path, normal, rewrites, .. } = scratch;
        if !self.rewrites.write(route, normal_path(*normal, head, path), rewrites, out) {
            out.extend(head.path.as_bytes());
        }
    }

    /// The cache rule for a request that goes to `route`, an index into [`crate::config::Cache::rules`]: the first in the
    /// order of the file that fits by route and path. Must follow a [`Self::decide`] of the same `head` and `scratch`.
    pub fn cache_rule(&self, route: RouteIndex, head: &RequestHead<'_>, scratch: &mut Scratch) -> Option<usize> {
        scratch.fit(self);
        let Scratch { path, normal, cache_rules, .. } = scratch;
        self.cache_rules.find(route, normal_path(*normal, head, path), cache_rules)
    }

    /// Whether any cache rule may hold for requests that go to `route`.
    #[must_use]
    pub fn may_cache(&self, route: RouteIndex) -> bool {
        self.cache_rules.concern(route)
    }

    fn search<O: Observer>(&self, head: &RequestHead<'_>, scratch: &mut Scratch, observer: &mut O) -> Decision {
        scratch.fit(self);
        let Scratch { host, path, normal, groups, patterns, .. } = scratch;
        *normal = Normal::AsSent;
        if head.path != ASTERISK {
            match path::normalise(head.path, path) {
                Ok(found) => *normal = found,
                Err(path::BadPath) => return Decision::BadPath,
            }
        }
        let path = (head.path != ASTERISK).then(|| normal_path(*normal, head, path));
        Search::new(self, head, path, observer).run(host::normalised(head.host, host), patterns, groups)
    }

    /// The tiers whose candidates count on `host`.
    fn tiers(&self, host: &str) -> [Tier; 2] {
        [Tier::File, if self.sandbox_hosts.contains(host) { Tier::SandboxHost } else { Tier::Elsewhere }]
    }
}

impl Scratch {
    /// Makes this a scratch of `table`, should it be one of another.
    fn fit(&mut self, table: &RouteTable) {
        if !Arc::ptr_eq(&self.table, &table.identity) {
            *self = table.scratch();
        }
    }
}

fn normal_path<'a>(normal: Normal, head: &RequestHead<'a>, copy: &'a str) -> &'a str {
    match normal {
        Normal::AsSent => head.path,
        Normal::Copied => copy,
    }
}

/// The target of `OPTIONS *`.
const ASTERISK: &str = "*";
