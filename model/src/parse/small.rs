//! The files of seeds 001 and 002, loaded as they are.
//!
//! Seed 001: `port` and `endpoints`, each a path and the URLs that take its place. Seed 002: `port` and `backends`, one
//! rotation for every path. Both are told from the native format by their top-level keys.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::address::{self, Target};
use super::endpoint::of_target;
use super::fields::Fields;
use super::findings::Findings;
use super::native::empty;
use super::path::matched_path;
use super::pool::{ANONYMOUS, default_active, plain};
use super::read::{self, shown};
use super::route::PRIORITY_DEFAULT;
use super::tree::{Node, Value};
use crate::config::{
    ActiveHealth, Config, FailOpen, Health, HostHeader, ListenAddress, Listener, Metrics, PathMatch, Policy, Pool,
    PoolId, Route, RouteId, Scheme, TargetPath,
};

/// A small format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Small {
    /// Seed 001.
    Endpoints,
    /// Seed 002.
    Backends,
}

/// Which small format a file is in, if it is in one.
pub(super) fn recognise(root: &Node<'_>) -> Option<Small> {
    root.get("port")?;
    if root.get("endpoints").is_some() {
        Some(Small::Endpoints)
    } else if root.get("backends").or_else(|| root.get("upstreams")).is_some() {
        Some(Small::Backends)
    } else {
        None
    }
}

/// Reads a file in a small format.
pub(super) fn config(root: &Node<'_>, small: Small, findings: &mut Findings) -> Option<Config> {
    match small {
        Small::Endpoints => endpoints(root, findings),
        Small::Backends => backends(root, findings),
    }
}

fn listener(fields: &Fields<'_, '_>, findings: &mut Findings) -> Option<Listener> {
    let node = fields.require("port", "the port to listen on", findings)?;
    let port = u16::try_from(read::integer(node, 1..=65_535, findings)?).ok()?;
    let address = ListenAddress { ip: None, port };
    Some(Listener {
        name: address.to_string(),
        address,
        tls: false,
        redirect_to_https: false,
        proxy_protocol: false,
        at: node.at(),
    })
}

fn route(id: String, path: PathMatch, pool: usize, node: &Node<'_>) -> Route {
    Route {
        id: RouteId(id),
        host: None,
        path,
        methods: Vec::new(),
        headers: Vec::new(),
        query: Vec::new(),
        priority: PRIORITY_DEFAULT,
        rewrite: None,
        pool,
        policy: Policy::default(),
        middleware: None,
        require_mtls: false,
        traffic: None,
        sandbox: None,
        at: node.at(),
    }
}

/// URLs, at least one, each `host:port` once.
fn targets<'n, 't>(node: &'n Node<'t>, findings: &mut Findings) -> Vec<(&'n Node<'t>, Target)> {
    let items = read::list(node, "URLs", findings).unwrap_or_default();
    if matches!(&node.value, Value::List(items) if items.is_empty()) {
        findings.error(node, "empty_list", "at least one URL is needed");
    }
    let mut seen = HashMap::new();
    let mut targets = Vec::new();
    for item in items {
        let Some(target) = address::url(item, findings) else { continue };
        if target.scheme == Scheme::H2c {
            findings.error(item, "bad_address", "write `http://` or `https://` here");
            continue;
        }
        if let Some(line) = seen.insert((target.host.clone(), target.port), item.span.line) {
            findings
                .error(item, "duplicate_endpoint", format!("`{}:{}` is written twice", target.host, target.port))
                .help(format!("the first one is on line {line}"));
        }
        targets.push((item, target));
    }
    targets
}

/// Seed 001: exact path (`/` is every path), the URL's path replaces the request's, metrics on the data port.
fn endpoints(root: &Node<'_>, findings: &mut Findings) -> Option<Config> {
    let fields = Fields::open(root, "a file with `port` and `endpoints`", &["port", "endpoints"], findings)?;
    let mut config = empty();
    config.listeners.extend(listener(&fields, findings));
    config.metrics = Metrics { on_data_plane: true, path_names: true, ..Metrics::default() };
    let node = fields.require("endpoints", "a list of paths and pools", findings)?;
    let items = read::list(node, "endpoints", findings).unwrap_or_default();
    if matches!(&node.value, Value::List(items) if items.is_empty()) {
        findings.error(node, "empty_list", "at least one endpoint is needed");
    }
    let mut seen = HashMap::new();
    for item in items {
        let Some(fields) = Fields::open(item, "an endpoint", &["from", "pool"], findings) else { continue };
        let from_node = fields.require("from", "a path such as `/index`", findings);
        let from = from_node.and_then(|node| matched_path(node, findings));
        if let (Some(node), Some(from)) = (from_node, &from)
            && let Some(line) = seen.insert(from.clone(), node.span.line)
        {
            findings
                .error(node, "duplicate_id", format!("`{}` is written twice", shown(from)))
                .help(format!("the first one is on line {line}"));
        }
        let targets = fields.require("pool", "a list of URLs", findings).map(|node| targets(node, findings));
        let (Some(from), Some(targets)) = (from, targets) else { continue };
        let id = format!("*{from}");
        let endpoints = targets.iter().map(|(_, target)| {
            let path = match &*target.path {
                "" => TargetPath::Keep,
                path => TargetPath::Replace(path.to_owned()),
            };
            of_target(target, 1, path)
        });
        let pool = Pool {
            host_header: HostHeader::Endpoint,
            ..plain(PoolId(format!("{ANONYMOUS}{id}")), endpoints.collect(), item.at())
        };
        let path = if from == "/" { PathMatch::Prefix(from) } else { PathMatch::Exact(from) };
        config.routes.push(Arc::new(route(id, path, config.pools.len(), item)));
        config.pools.push(Arc::new(pool));
    }
    Some(config)
}

/// Seed 002: one rotation, the client's `Host`, each URL's path is its health path, down and up at the first probe that
/// says so, 503 when all are down.
fn backends(root: &Node<'_>, findings: &mut Findings) -> Option<Config> {
    let keys = &["port", "backends", "upstreams", "healthCheckTimeout", "healthCheckPeriod"];
    let fields = Fields::open(root, "a file with `port` and `backends`", keys, findings)?;
    let mut config = empty();
    config.listeners.extend(listener(&fields, findings));
    let seconds = |name: &str, default: u64, findings: &mut Findings| {
        let seconds = fields.get(name).and_then(|node| read::integer(node, 1..=86_400, findings));
        Duration::from_secs(seconds.unwrap_or(default))
    };
    let (timeout, interval) = (seconds("healthCheckTimeout", 3, findings), seconds("healthCheckPeriod", 5, findings));
    let (_, node) = fields.at_most_one(&["backends", "upstreams"], findings)?;
    let targets = targets(node, findings);
    let any_path = targets.iter().any(|(_, target)| !target.path.is_empty());
    let paths = targets.iter().map(|(_, target)| match &*target.path {
        "" => "/".to_owned(),
        path => path.to_owned(),
    });
    let active = ActiveHealth {
        // Without any path a connection is enough.
        path: any_path.then(|| "/".to_owned()),
        endpoint_paths: if any_path { paths.collect() } else { Vec::new() },
        interval,
        timeout,
        fail_threshold: 1,
        success_threshold: 1,
        ..default_active()
    };
    let endpoints = targets.iter().map(|(_, target)| of_target(target, 1, TargetPath::Keep)).collect();
    config.pools.push(Arc::new(Pool {
        health: Health { active: Some(active), passive: None },
        fail_open: FailOpen { requests_per_second: 0.0 },
        ..plain(PoolId(format!("{ANONYMOUS}*")), endpoints, node.at())
    }));
    config.routes.push(Arc::new(route("*".into(), PathMatch::Any, 0, node)));
    Some(config)
}
