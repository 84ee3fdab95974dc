//! `sandboxes:` — regex routes that belong to a sandbox, as in seed 000; and the same routes from elsewhere, as
//! [`crate::sandbox`] has them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::address::{self, Target};
use super::endpoint::of_target;
use super::fields::{Fields, check_id, id_fault};
use super::findings::Findings;
use super::pattern;
use super::pool::{ANONYMOUS, plain};
use super::read::{self, shown};
use super::route::{PRIORITY_DEFAULT, SANDBOX, priority};
use super::support::Feature;
use super::tree::Node;
use crate::config::{
    Connections, HostHeader, PathMatch, Pattern, Policy, Pool, PoolId, Position, Route, RouteId, Sandboxes, Scheme,
    TargetPath,
};
use crate::sandbox::{SandboxFault, SandboxTimes};

/// Reads the section and appends its routes and their pools.
pub(super) fn sandboxes(
    node: &Node<'_>,
    routes: &mut Vec<Arc<Route>>,
    pools: &mut Vec<Arc<Pool>>,
    findings: &mut Findings,
) -> Option<Sandboxes> {
    let fields = Fields::open(node, "`sandboxes`", &["enabled", "hosts", "routes"], findings)?;
    let enabled = fields.boolean("enabled", true, findings);
    let hosts = match fields.get("hosts") {
        Some(node) => {
            if let (true, Some(key)) = (enabled, fields.key("hosts")) {
                findings.uses(key, Feature::SandboxHosts);
            }
            read::list(node, "hosts", findings)
                .unwrap_or_default()
                .iter()
                .filter_map(|item| address::host_match(item, findings))
                .collect()
        }
        None => Vec::new(),
    };
    let items = fields.get("routes").and_then(|node| read::list(node, "sandbox routes", findings)).unwrap_or_default();
    let mut sandboxes = Sandboxes { enabled, hosts, ..Sandboxes::default() };
    let mut seen = HashMap::new();
    for (index, item) in items.iter().enumerate() {
        let Some((route, pool, ttl)) = sandbox_route(item, index as u64 + 1, findings) else { continue };
        if let (Some((sandbox, _)), PathMatch::Regex(pattern)) = (&route.sandbox, &route.path)
            && let Some(line) = seen.insert((sandbox.clone(), pattern.clone()), item.span.line)
        {
            findings
                .error(item, "duplicate_id", format!("the sandbox `{}` has this pattern twice", shown(sandbox)))
                .help(format!("the first time on line {line}"));
        }
        if enabled {
            sandboxes.routes.push(routes.len());
            sandboxes.lives.extend(ttl.map(|ttl| (routes.len(), ttl)));
            routes.push(Arc::new(Route { pool: pools.len(), ..route }));
            pools.push(Arc::new(pool));
        }
    }
    Some(sandboxes)
}

/// Index of the pool is left to the caller.
fn sandbox_route(node: &Node<'_>, number: u64, findings: &mut Findings) -> Option<(Route, Pool, Option<Duration>)> {
    let keys = &["sandbox_id", "pattern", "target_url", "priority", "ttl"];
    let fields = Fields::open(node, "a sandbox route", keys, findings)?;
    let sandbox = fields.require("sandbox_id", "the sandbox it belongs to", findings);
    let sandbox = sandbox.and_then(|node| {
        let id = read::text(node, "an id", findings)?;
        check_id(node, id, findings).then(|| id.to_owned())
    });
    let pattern = fields.require("pattern", "a regex such as `^/api/users(/.*)?$`", findings);
    let pattern = pattern.and_then(|node| pattern::pattern(node, findings));
    let target = fields.require("target_url", "such as `http://user-service:8080`", findings);
    let target = target.and_then(|node| {
        let target = address::url(node, findings)?;
        if target.scheme == Scheme::H2c {
            findings.uses(node, Feature::Http2Upstream);
        }
        Some(target)
    });
    let priority = fields.get("priority").and_then(|node| priority(node, findings)).unwrap_or(PRIORITY_DEFAULT);
    let ttl = fields.duration_if_any("ttl", findings);
    if let (Some(key), Some(_)) = (fields.key("ttl"), ttl) {
        findings.uses(key, Feature::SandboxTtl);
    }
    let (sandbox, pattern, target) = (sandbox?, pattern?, target?);
    let id = RouteId(format!("{SANDBOX}{sandbox}/{number}"));
    let (route, pool) = build(id, (sandbox, number), pattern, &target, priority, SandboxTimes::default(), node.at());
    Some((route, pool, ttl))
}

/// A sandbox route that did not come from a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SandboxParts<'a> {
    pub(crate) sandbox_id: &'a str,
    pub(crate) pattern: &'a str,
    pub(crate) target_url: &'a str,
    pub(crate) priority: i32,
    pub(crate) id: u64,
    pub(crate) times: SandboxTimes,
}

/// The route and its pool, or what is wrong. By the rules of a file.
pub(crate) fn sandbox_parts(parts: &SandboxParts<'_>) -> Result<(Route, Pool), SandboxFault> {
    let pattern = pattern::check(parts.pattern).map_err(SandboxFault::Pattern)?;
    let target = address::check_url(parts.target_url).map_err(SandboxFault::Target)?;
    if target.scheme == Scheme::H2c && !super::support::support(Feature::Http2Upstream).works {
        return Err(SandboxFault::Target("h2c is not supported yet, use http:// or https://".into()));
    }
    let id = RouteId(format!("{SANDBOX}{}/{}", parts.sandbox_id, parts.id));
    let sandbox = (parts.sandbox_id.to_owned(), parts.id);
    Ok(build(id, sandbox, pattern, &target, parts.priority, parts.times, Position::default()))
}

/// Why `text` cannot be a sandbox's id; `None`: it can.
pub(crate) fn sandbox_id_fault(text: &str) -> Option<String> {
    id_fault(text)
}

fn build(
    id: RouteId,
    sandbox: (String, u64),
    pattern: Pattern,
    target: &Target,
    priority: i32,
    times: SandboxTimes,
    at: Position,
) -> (Route, Pool) {
    let path = match target.path.trim_end_matches('/') {
        "" => TargetPath::Keep,
        path => TargetPath::Prepend(path.to_owned()),
    };
    let pool_id = PoolId(format!("{ANONYMOUS}{id}"));
    let pool = Pool {
        host_header: HostHeader::Endpoint,
        connections: Connections {
            connect_timeout: times.connect,
            response_header_timeout: Some(times.response),
            read_timeout: times.response,
            ..Connections::default()
        },
        expose_upstream_errors: true,
        ..plain(pool_id, vec![of_target(target, 1, path)], at)
    };
    let route = Route {
        id,
        host: None,
        path: PathMatch::Regex(pattern),
        methods: Vec::new(),
        headers: Vec::new(),
        query: Vec::new(),
        priority,
        rewrite: None,
        pool: 0,
        policy: Policy { timeout: times.total, ..Policy::default() },
        middleware: None,
        require_mtls: false,
        traffic: None,
        sandbox: Some(sandbox),
        at,
    };
    (route, pool)
}
