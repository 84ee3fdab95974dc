//! A file in the native format → [`Config`]: section by section, what is referred to before what refers to it.

use std::sync::Arc;

use super::fields::{Fields, Names, named};
use super::findings::Findings;
use super::read;
use super::support::Feature;
use super::tree::{Node, Value};
use super::{Reader, cache, config_tests, middleware, policy, pool, rollout, route, sandbox, server, traffic};
use crate::config::{Config, Limits, Logging, Metrics, Policy, Pool, Route, Shutdown};
use crate::decide::shadowed;
use crate::plan::Plan;

const KEYS: &[&str] = &[
    "version",
    "listen",
    "listeners",
    "limits",
    "trusted_proxies",
    "routes",
    "pools",
    "policies",
    "traffic_management",
    "middleware",
    "cache",
    "plugins",
    "tls",
    "sandboxes",
    "admin",
    "logging",
    "metrics",
    "tracing",
    "shutdown",
    "rollout",
    "tests",
];

/// A config that says nothing.
pub(super) fn empty() -> Config {
    Config {
        listeners: Vec::new(),
        limits: Limits::default(),
        trusted_proxies: Vec::new(),
        routes: Vec::new(),
        pools: Vec::new(),
        middleware: Vec::new(),
        cache: None,
        plugins: Vec::new(),
        tls: None,
        sandboxes: None,
        admin: None,
        logging: Logging::default(),
        metrics: Metrics::default(),
        tracing: None,
        shutdown: Shutdown::default(),
        rollout: None,
        tests: Vec::new(),
    }
}

/// Reads a file. The config is of use only if no error was found.
pub(super) fn config<'n>(root: &'n Node<'n>, reader: Reader, findings: &mut Findings) -> Option<Config> {
    let fields = Fields::open(root, "a config", KEYS, findings)?;
    let mut config = empty();
    version(&fields, findings);
    around(&fields, reader, &mut config, findings);
    traffic_parts(&fields, &mut config, findings);
    if let Some(node) = fields.get("rollout") {
        config.rollout = rollout::plan(node, findings);
    }
    Some(config)
}

/// Reads a file that holds `rollout:` and nothing else of interest.
pub(super) fn plan(root: &Node<'_>, findings: &mut Findings) -> Option<Plan> {
    let fields = Fields::open(root, "a plan", &["version", "rollout"], findings)?;
    version(&fields, findings);
    match fields.get("rollout") {
        Some(node) => rollout::plan(node, findings),
        None => {
            findings
                .error(root, "missing_key", "there is no `rollout` in this file")
                .help("write `rollout: { stages: … }`");
            None
        }
    }
}

fn version(fields: &Fields<'_, '_>, findings: &mut Findings) {
    if let Some(node) = fields.get("version")
        && read::text(node, "`1`", findings).is_some_and(|version| version != "1")
    {
        findings
            .error(node, "unsupported_version", "only version 1 of this format exists")
            .help("write `version: 1`")
            .suggest("1");
    }
}

/// What stands around routing: listeners, TLS, limits, admin, logs.
fn around(fields: &Fields<'_, '_>, reader: Reader, config: &mut Config, findings: &mut Findings) {
    config.tls = fields.get("tls").and_then(|node| server::tls(node, findings));
    let certificates = fields.get("tls").and_then(|node| node.get("certificates"));
    let has_certificates =
        certificates.is_some_and(|node| !matches!(&node.value, Value::List(items) if items.is_empty()));
    config.listeners = match fields.at_most_one(&["listen", "listeners"], findings) {
        Some(("listen", node)) => server::listen(node, findings),
        Some((_, node)) => server::listeners(node, has_certificates, findings),
        None => server::default_listeners(config.tls.as_ref()),
    };
    if let Some(node) = fields.get("limits") {
        config.limits = server::limits(node, findings);
    }
    if let Some(node) = fields.get("trusted_proxies") {
        config.trusted_proxies = server::trusted_proxies(node, findings);
    }
    if let Some(node) = fields.get("admin") {
        config.admin = server::admin(node, findings);
        if let (Reader::Fleet, Some(key)) = (reader, fields.key("admin")) {
            findings
                .error(key, "not_allowed_in_fleet", "a fleet revision may not set `admin`")
                .help("remove it; each proxy has its own admin address: `sealane proxy --admin-addr`");
        }
    }
    if let Some(node) = fields.get("logging") {
        config.logging = server::logging(node, findings);
    }
    if let Some(node) = fields.get("metrics") {
        config.metrics = server::metrics(node, findings);
    }
    if let Some(node) = fields.get("tracing") {
        config.tracing = server::tracing(node, findings);
        if let Some(key) = fields.key("tracing") {
            findings.uses(key, Feature::Tracing);
        }
    }
    if let Some(node) = fields.get("shutdown") {
        config.shutdown = server::shutdown(node, findings);
    }
}

/// Routes and everything that they refer to or that refers to them.
fn traffic_parts<'n>(fields: &Fields<'n, 'n>, config: &mut Config, findings: &mut Findings) {
    for (name, feature) in [
        ("traffic_management", Feature::TrafficManagement),
        ("middleware", Feature::Middleware),
        ("cache", Feature::Cache),
        ("plugins", Feature::Plugins),
    ] {
        if let Some(key) = fields.key(name) {
            findings.uses(key, feature);
        }
    }
    let pools = fields.get("pools").map(|node| named(node, "pools", findings)).unwrap_or_default();
    let policies = fields.get("policies").map(|node| named(node, "policies", findings)).unwrap_or_default();
    let chains = fields.get("middleware").map(|node| named(node, "chains", findings)).unwrap_or_default();
    let plugins = fields.get("plugins").map(|node| named(node, "plugins", findings)).unwrap_or_default();
    let mut pool_names = Names::new("pool", pools.iter().map(|pool| pool.id));
    let mut policy_names = Names::new("policy", policies.iter().map(|policy| policy.id));
    let mut chain_names = Names::new("chain", chains.iter().map(|chain| chain.id));
    let mut plugin_names = Names::new("plugin", plugins.iter().map(|plugin| plugin.id));

    let mut all_pools: Vec<Pool> = pools.iter().map(|it| pool::named(it.id, it.node, findings)).collect();
    let all_policies: Vec<Policy> = policies.iter().map(|it| policy::named(it.id, it.node, findings)).collect();
    config.plugins = plugins.iter().filter_map(|it| middleware::plugin(it.id, it.node, findings)).collect();
    if let Some(first) = plugins.get(middleware::PLUGINS_MAX) {
        let message = format!("a config has {} plugins at most, not {}", middleware::PLUGINS_MAX, plugins.len());
        findings.error(first.node, "out_of_range", message).help("each is a metric's label and a connection");
    }
    let mut references =
        middleware::References { policies: &mut policy_names, all_policies: &all_policies, plugins: &mut plugin_names };
    config.middleware = chains.iter().map(|it| middleware::chain(it.id, it.node, &mut references, findings)).collect();

    let plans = fields.get("traffic_management");
    let planned = plans.map(traffic::stable_pools).unwrap_or_default();
    let mut references = route::References {
        pools: &mut pool_names,
        all_pools: &mut all_pools,
        policies: &mut policy_names,
        all_policies: &all_policies,
        middleware: &mut chain_names,
        planned: &planned,
        mtls: asks_for_certificates(fields),
    };
    let routes = fields.get("routes").map(|node| route::routes(node, &mut references, findings));
    let routes = routes.unwrap_or_default();
    warn_of_unreachable(&routes, findings);
    config.routes = routes.into_iter().map(|(route, ..)| Arc::new(route)).collect();
    config.pools = all_pools.into_iter().map(Arc::new).collect();
    let plugin_nodes: Vec<_> = plugins.iter().map(|it| (it.id, it.node)).collect();
    middleware::warn_of_public_refusals(config, &plugin_nodes, findings);
    if let Some(node) = fields.get("sandboxes") {
        config.sandboxes = sandbox::sandboxes(node, &mut config.routes, &mut config.pools, findings);
    }
    check_any_route(fields, config, findings);

    let ids: Vec<String> = config.routes.iter().map(|route| route.id.0.clone()).collect();
    let mut route_names = Names::new("route", ids.iter().map(String::as_str));
    if let Some(node) = plans {
        traffic::attach(node, &mut config.routes, &mut route_names, &mut pool_names, findings);
    }
    if let Some(node) = fields.get("cache") {
        config.cache = cache::cache(node, &mut route_names, findings);
    }
    if let Some(node) = fields.get("tests") {
        // A test alone does not make a pool used, so these names are apart from those above.
        let mut names = Names::new("pool", config.pools.iter().map(|pool| pool.id.0.as_str()));
        config.tests = config_tests::tests(node, &mut route_names, &mut names, findings);
    }
    for (kind, code, names, all) in
        [("pool", "unused_pool", &pool_names, &pools), ("policy", "unused_policy", &policy_names, &policies)]
    {
        for (index, it) in all.iter().enumerate().filter(|(index, _)| !names.is_used(*index)) {
            debug_assert_eq!(names.index(it.id), Some(index), "names are in the order of their items");
            findings
                .warning(it.node.get("id").unwrap_or(it.node), code, format!("nothing uses the {kind} `{}`", it.id))
                .help("remove it, or name it in a route");
        }
    }
}

fn asks_for_certificates(fields: &Fields<'_, '_>) -> bool {
    let mtls = fields.get("tls").and_then(|node| node.get("mtls"));
    mtls.is_some_and(|mtls| mtls.get("enabled").and_then(Node::scalar) != Some("false"))
}

/// A config that serves nothing is a mistake, unless it says so.
fn check_any_route(fields: &Fields<'_, '_>, config: &Config, findings: &mut Findings) {
    let sandboxes = config.sandboxes.as_ref().is_some_and(|sandboxes| sandboxes.enabled);
    match fields.get("routes") {
        None if !sandboxes && fields.key("routes").is_none() && !fields.misspells("routes") => {
            findings
                .error(fields.node, "missing_reference", "there are no routes, so every request would get 404")
                .below("routes")
                .help("add `routes: [{ to: http://localhost:3000 }]`; a config that serves nothing says `routes: []`");
        }
        Some(node) if matches!(&node.value, Value::List(items) if items.is_empty()) && !sandboxes => {
            findings.warning(node, "no_routes", "there are no routes: every request gets 404");
        }
        Some(_) | None => {}
    }
}

/// Names routes that can never match. A route with an error does not say which requests it takes.
fn warn_of_unreachable(routes: &[(Route, &Node<'_>, bool)], findings: &mut Findings) {
    let (all, nodes): (Vec<&Route>, Vec<_>) =
        routes.iter().filter(|(.., is_right)| *is_right).map(|(route, node, _)| (route, *node)).unzip();
    for (lost, winner) in shadowed(&all) {
        let winner = all[winner];
        findings
            .warning(nodes[lost], "unreachable_route", format!("the route `{}` never matches", all[lost].id))
            .help(format!("`{}` on line {} takes the same requests first", winner.id, winner.at.line));
    }
}
