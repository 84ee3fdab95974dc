//! Routes: what they match, what they do to the path, and where they send requests.

use std::collections::HashMap;

use super::address;
use super::fields::{Fields, Names, check_id, mapping};
use super::findings::Findings;
use super::header::{header_values, methods};
use super::path::{matched_path, plain_path};
use super::pattern;
use super::read::{self, shown};
use super::support::Feature;
use super::tree::Node;
use super::{policy, pool};
use crate::config::{
    HeaderCondition, HostCondition, HostMatch, PathMatch, Policy, Pool, PoolId, PoolIndex, QueryCondition, Rewrite,
    Route, RouteId,
};

/// Where a route goes when nothing else says so.
pub(super) const PRIORITY_DEFAULT: i32 = 100;
/// What starts the ids of sandbox routes.
pub(super) const SANDBOX: &str = "sandbox/";

const KEYS: &[&str] = &[
    "id",
    "host",
    "host_regex",
    "path",
    "path_prefix",
    "path_regex",
    "methods",
    "headers",
    "query",
    "priority",
    "rewrite",
    "pool",
    "to",
    "policy",
    "middleware",
    "require_mtls",
];

/// What routes refer to, and the pools that their `to` adds.
#[derive(Debug)]
pub(super) struct References<'a, 'n> {
    pub(super) pools: &'a mut Names<'n>,
    pub(super) all_pools: &'a mut Vec<Pool>,
    pub(super) policies: &'a mut Names<'n>,
    pub(super) all_policies: &'a [Policy],
    pub(super) middleware: &'a mut Names<'n>,
    /// Routes that a traffic plan gives a stable pool.
    pub(super) planned: &'a HashMap<&'n str, &'n Node<'n>>,
    /// Whether clients are asked for certificates.
    pub(super) mtls: bool,
}

/// The routes of a list, each with its node; and whether it was read without an error, so that it means what it says.
pub(super) fn routes<'n>(
    node: &'n Node<'n>,
    references: &mut References<'_, 'n>,
    findings: &mut Findings,
) -> Vec<(Route, &'n Node<'n>, bool)> {
    let items = read::list(node, "routes", findings).unwrap_or_default();
    let mut ids = Ids::default();
    for item in items {
        if let Some((id, node)) = item.get("id").and_then(|id| Some((id.scalar()?, id))) {
            ids.reserve(id, node, findings);
        }
    }
    let read = items.iter().filter_map(|item| {
        let errors = findings.errors();
        let route = route(item, &mut ids, references, findings)?;
        Some((route, item, findings.errors() == errors))
    });
    read.collect()
}

/// Ids of routes: the written ones first, then names made of what a route matches.
#[derive(Debug, Default)]
struct Ids<'n> {
    written: HashMap<&'n str, u32>,
    made: HashMap<String, u32>,
}

impl<'n> Ids<'n> {
    fn reserve(&mut self, id: &'n str, node: &'n Node<'n>, findings: &mut Findings) {
        if let Some(line) = self.written.get(id) {
            let message = format!("the route id `{}` is used twice", shown(id));
            findings.error(node, "duplicate_id", message).help(format!("the first one is on line {line}"));
            return;
        }
        self.written.insert(id, node.span.line);
        if id.starts_with(SANDBOX) {
            findings
                .error(node, "bad_id", format!("ids that start with `{SANDBOX}` are taken"))
                .help("they name sandbox routes; choose another id");
        }
    }

    /// `<host or *><path>`, with `#2` on repeats.
    fn make(&mut self, host: Option<&HostCondition>, path: &PathMatch) -> RouteId {
        let host = match host {
            None => "*".into(),
            Some(HostCondition::Name(HostMatch::Exact(name))) => name.clone(),
            Some(HostCondition::Name(HostMatch::Wildcard(name))) => format!("*.{name}"),
            Some(HostCondition::Regex(pattern)) => pattern.as_str().to_owned(),
        };
        let path = match path {
            PathMatch::Any => "",
            PathMatch::Exact(path) | PathMatch::Prefix(path) => path,
            PathMatch::Regex(pattern) => pattern.as_str(),
        };
        let base = host + path;
        let times = self.made.entry(base.clone()).or_default();
        loop {
            *times += 1;
            let id = if *times == 1 { base.clone() } else { format!("{base}#{times}") };
            if !self.written.contains_key(id.as_str()) {
                return RouteId(id);
            }
        }
    }
}

fn route<'n>(
    node: &'n Node<'n>,
    ids: &mut Ids<'n>,
    references: &mut References<'_, 'n>,
    findings: &mut Findings,
) -> Option<Route> {
    let fields = Fields::open(node, "a route", KEYS, findings)?;
    let host = host(&fields, findings);
    let path = path(&fields, findings);
    let id = match fields.get("id") {
        Some(node) => {
            let id = read::text(node, "an id", findings);
            if let Some(id) = id {
                check_id(node, id, findings);
            }
            RouteId(id.unwrap_or_default().to_owned())
        }
        None => ids.make(host.as_ref(), &path),
    };
    let policy = fields.get("policy").map(|node| match node.scalar() {
        Some(_) => {
            references.policies.find(node, findings).and_then(|index| references.all_policies.get(index)).cloned()
        }
        None => Some(policy::inline(node, findings)),
    });
    if let Some(key) = fields.key("middleware") {
        findings.uses(key, Feature::Middleware);
    }
    let require_mtls = fields.boolean("require_mtls", false, findings);
    if let (true, Some(key)) = (require_mtls, fields.key("require_mtls")) {
        findings.uses(key, Feature::Mtls);
        if !references.mtls {
            findings
                .error(key, "missing_reference", "a client certificate is required, but `tls.mtls` is not set")
                .help("add `tls: { mtls: { ca_file: … } }`");
        }
    }
    Some(Route {
        methods: fields.get("methods").map(|node| methods(node, findings)).unwrap_or_default(),
        headers: headers(&fields, findings),
        query: query(&fields, findings),
        priority: fields.get("priority").and_then(|node| priority(node, findings)).unwrap_or(PRIORITY_DEFAULT),
        rewrite: fields.get("rewrite").and_then(|node| rewrite(node, &path, findings)),
        pool: pool_of(&fields, &id, references, findings),
        policy: policy.flatten().unwrap_or_default(),
        middleware: fields.get("middleware").and_then(|node| references.middleware.find(node, findings)),
        require_mtls,
        traffic: None,
        sandbox: None,
        at: node.at(),
        id,
        host,
        path,
    })
}

/// Index of the pool of a route; 0 after a problem.
fn pool_of<'n>(
    fields: &Fields<'n, 'n>,
    id: &RouteId,
    references: &mut References<'_, 'n>,
    findings: &mut Findings,
) -> PoolIndex {
    match fields.at_most_one(&["pool", "to"], findings) {
        Some(("pool", node)) => references.pools.find(node, findings).unwrap_or(0),
        Some((_, node)) => {
            let pool_id = PoolId(format!("{}{id}", pool::ANONYMOUS));
            references.all_pools.push(pool::of_endpoints(pool_id, node, findings));
            references.all_pools.len() - 1
        }
        None => {
            if let Some(stable) = references.planned.get(id.0.as_str()) {
                // A missing pool is reported where the plan names it.
                return stable.scalar().and_then(|name| references.pools.index(name)).unwrap_or(0);
            }
            let written = ["pool", "to"].into_iter().any(|key| fields.key(key).is_some() || fields.misspells(key));
            if !written {
                findings
                    .error(fields.node, "missing_reference", format!("the route `{}` has no `pool`", shown(&id.0)))
                    .below("pool")
                    .help("add `pool: …` with the id of a pool, or `to: …` with one or more URLs");
            }
            0
        }
    }
}

fn host(fields: &Fields<'_, '_>, findings: &mut Findings) -> Option<HostCondition> {
    match fields.at_most_one(&["host", "host_regex"], findings)? {
        ("host", node) => {
            if node.scalar().is_some_and(address::looks_like_regex) {
                let pattern = pattern::pattern(node, findings)?;
                findings
                    .warning(node, "regex_in_host", "a regex in `host` is taken as `host_regex`")
                    .help("write `host_regex`; a `host` is exact or `*.example.com`");
                return Some(HostCondition::Regex(pattern));
            }
            address::host_match(node, findings).map(HostCondition::Name)
        }
        (_, node) => pattern::pattern(node, findings).map(HostCondition::Regex),
    }
}

fn path(fields: &Fields<'_, '_>, findings: &mut Findings) -> PathMatch {
    path_match(fields, findings).unwrap_or(PathMatch::Any)
}

/// `path`, `path_prefix` or `path_regex`; `None` also after a problem.
pub(super) fn path_match(fields: &Fields<'_, '_>, findings: &mut Findings) -> Option<PathMatch> {
    match fields.at_most_one(&["path", "path_prefix", "path_regex"], findings)? {
        ("path", node) => matched_path(node, findings).map(PathMatch::Exact),
        ("path_prefix", node) => matched_path(node, findings).map(PathMatch::Prefix),
        (_, node) => pattern::pattern(node, findings).map(PathMatch::Regex),
    }
}

fn headers(fields: &Fields<'_, '_>, findings: &mut Findings) -> Vec<HeaderCondition> {
    let Some(node) = fields.get("headers") else { return Vec::new() };
    header_values(node, findings).into_iter().map(|(name, value)| HeaderCondition { name, value }).collect()
}

fn query(fields: &Fields<'_, '_>, findings: &mut Findings) -> Vec<QueryCondition> {
    let Some(node) = fields.get("query") else { return Vec::new() };
    let entries = mapping(node, "`query`", findings).unwrap_or_default();
    entries
        .iter()
        .filter_map(|(key, node)| {
            // An empty value is one that can be asked for: `?debug=` and `?debug`.
            let value = match node.scalar() {
                Some("") => "",
                _ => read::text(node, "the value of a query parameter", findings)?,
            };
            Some(QueryCondition { name: key.text.to_string(), value: value.to_owned() })
        })
        .collect()
}

/// A priority, an `i32`.
pub(super) fn priority(node: &Node<'_>, findings: &mut Findings) -> Option<i32> {
    let value = read::text(node, "a whole number", findings)?;
    let number = value.parse().ok().filter(|_| !value.starts_with('+'));
    if number.is_none() {
        findings
            .error(node, "wrong_type", format!("expected a whole number, found `{}`", shown(value)))
            .help("a priority is a whole number; lower is tried first, the default is 100");
    }
    number
}

fn rewrite(node: &Node<'_>, path: &PathMatch, findings: &mut Findings) -> Option<Rewrite> {
    let fields = Fields::open(node, "`rewrite`", &["path", "prefix", "regex", "replacement"], findings)?;
    let regex_only = |findings: &mut Findings| {
        if let Some(key) = fields.key("replacement") {
            findings.error(key, "conflicting_keys", "`replacement` works only with `regex`").help("remove it");
        }
    };
    match fields.at_most_one(&["path", "prefix", "regex"], findings) {
        Some(("path", node)) => {
            regex_only(findings);
            plain_path(node, findings).map(Rewrite::Path)
        }
        Some(("prefix", node)) => {
            regex_only(findings);
            if !matches!(path, PathMatch::Prefix(_)) {
                findings
                    .error(node, "conflicting_keys", "`rewrite.prefix` needs a route with `path_prefix`")
                    .help("it takes the place of the matched prefix; use `path` or `regex` otherwise");
            }
            plain_path(node, findings).map(Rewrite::Prefix)
        }
        Some((_, node)) => {
            let regex = pattern::compiled(node, findings);
            let replacement = fields.require("replacement", "what takes the place of each match", findings);
            let replacement = replacement.and_then(|node| {
                let text = read::text(node, "what takes the place of each match", findings)?;
                if let Some(group) = regex.as_ref().and_then(|(_, regex)| pattern::unknown_group(regex, text)) {
                    findings
                        .error(node, "bad_replacement", format!("the regex has no group `{}`", shown(group)))
                        .help("groups are `$1` or `${name}`; a `$` itself is `$$`; `${1}x` where letters follow");
                    return None;
                }
                Some(text.to_owned())
            });
            Some(Rewrite::Regex { regex: regex?.0, replacement: replacement? })
        }
        None => {
            findings
                .error(node, "missing_key", "`rewrite` says nothing")
                .help("write `path: …`, `prefix: …`, or `regex: …` with `replacement: …`");
            None
        }
    }
}
