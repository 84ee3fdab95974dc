//! `sandboxes:` — regex routes that belong to a sandbox, as in seed 000.

use std::collections::HashMap;
use std::time::Duration;

use super::address;
use super::endpoint::of_target;
use super::fields::{Fields, check_id};
use super::findings::Findings;
use super::pattern;
use super::pool::{ANONYMOUS, plain};
use super::read::{self, shown};
use super::route::{PRIORITY_DEFAULT, SANDBOX, priority};
use super::support::Feature;
use super::tree::Node;
use crate::config::{
    Connections, HostHeader, PathMatch, Policy, Pool, PoolId, Route, RouteId, Sandboxes, Scheme, TargetPath,
};

/// Reads the section and appends its routes and their pools.
pub(super) fn sandboxes(
    node: &Node<'_>,
    routes: &mut Vec<Route>,
    pools: &mut Vec<Pool>,
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
    let mut indexes = Vec::new();
    let mut seen = HashMap::new();
    for (index, item) in items.iter().enumerate() {
        let Some((route, pool)) = sandbox_route(item, index as u64 + 1, findings) else { continue };
        if let (Some((sandbox, _)), PathMatch::Regex(pattern)) = (&route.sandbox, &route.path)
            && let Some(line) = seen.insert((sandbox.clone(), pattern.clone()), item.span.line)
        {
            findings
                .error(item, "duplicate_id", format!("the sandbox `{}` has this pattern twice", shown(sandbox)))
                .help(format!("the first time on line {line}"));
        }
        if enabled {
            indexes.push(routes.len());
            routes.push(Route { pool: pools.len(), ..route });
            pools.push(pool);
        }
    }
    enabled.then_some(Sandboxes { hosts, routes: indexes })
}

/// Index of the pool is left to the caller.
fn sandbox_route(node: &Node<'_>, number: u64, findings: &mut Findings) -> Option<(Route, Pool)> {
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
    if let (Some(key), Some(_)) = (fields.key("ttl"), fields.duration_if_any("ttl", findings)) {
        findings.uses(key, Feature::SandboxTtl);
    }
    let (sandbox, pattern, target) = (sandbox?, pattern?, target?);
    let path = match target.path.trim_end_matches('/') {
        "" => TargetPath::Keep,
        path => TargetPath::Prepend(path.to_owned()),
    };
    let id = RouteId(format!("{SANDBOX}{sandbox}/{number}"));
    let pool_id = PoolId(format!("{ANONYMOUS}{id}"));
    let pool = Pool {
        host_header: HostHeader::Endpoint,
        // The timeouts of seed 000.
        connections: Connections {
            connect_timeout: Duration::from_secs(5),
            response_header_timeout: Some(Duration::from_secs(30)),
            ..Connections::default()
        },
        expose_upstream_errors: true,
        ..plain(pool_id, vec![of_target(&target, 1, path)], node.at())
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
        policy: Policy::default(),
        middleware: None,
        require_mtls: false,
        traffic: None,
        sandbox: Some((sandbox, number)),
        at: node.at(),
    };
    Some((route, pool))
}
