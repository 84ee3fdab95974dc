//! Traffic plans: canary, cohorts, brake and overload protection of a route.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::fields::{Fields, Names, mapping};
use super::findings::Findings;
use super::header::{cookie_name, header_name};
use super::pool::hash_key;
use super::read;
use super::tree::Node;
use crate::config::{
    AdaptiveLimit, AdaptiveMode, AutoBrake, CohortKey, CohortRouting, HashKey, OverloadProtection, PoolIndex, Route,
    TrafficPlan,
};

const KEYS: &[&str] =
    &["route", "stable_pool", "canary_pool", "canary_weight", "cohort_routing", "auto_brake", "overload_protection"];

/// The stable pool that each plan names, by route id.
pub(super) fn stable_pools<'n>(node: &'n Node<'n>) -> HashMap<&'n str, &'n Node<'n>> {
    let super::tree::Value::List(items) = &node.value else { return HashMap::new() };
    items.iter().filter_map(|item| Some((item.get("route")?.scalar()?, item.get("stable_pool")?))).collect()
}

/// Reads the plans and attaches each to its route.
pub(super) fn attach(
    node: &Node<'_>,
    routes: &mut [Arc<Route>],
    route_names: &mut Names<'_>,
    pools: &mut Names<'_>,
    findings: &mut Findings,
) {
    for item in read::list(node, "traffic plans", findings).unwrap_or_default() {
        let Some(fields) = Fields::open(item, "a traffic plan", KEYS, findings) else { continue };
        let route_node = fields.require("route", "the id of a route", findings);
        let route = route_node
            .and_then(|node| route_names.find(node, findings))
            .and_then(|index| routes.get_mut(index))
            .map(Arc::make_mut);
        let plan = plan(&fields, route.as_deref().map(|route| route.pool), pools, findings);
        let (Some(route), Some(route_node)) = (route, route_node) else { continue };
        if let Some(first) = &route.traffic {
            let help = format!("the first one is on line {}", first.at.line);
            findings
                .error(route_node, "duplicate_id", format!("the route `{}` has two traffic plans", route.id))
                .help(help);
        } else {
            route.traffic = Some(plan);
        }
    }
}

fn plan(
    fields: &Fields<'_, '_>,
    route_pool: Option<PoolIndex>,
    pools: &mut Names<'_>,
    findings: &mut Findings,
) -> TrafficPlan {
    let stable = match fields.get("stable_pool") {
        Some(node) => pools.find(node, findings),
        None => route_pool,
    };
    let canary_pool = fields.get("canary_pool").and_then(|node| pools.find(node, findings));
    let canary_weight = fields.get("canary_weight").and_then(|node| read::percent(node, findings));
    if let (Some(node), Some(weight)) =
        (fields.get("canary_weight"), canary_weight.filter(|w| *w <= 0.0 || *w >= 100.0))
    {
        let (nothing, all) = if weight <= 0.0 { ("canary", "stable") } else { ("stable", "canary") };
        findings
            .warning(node, "zero_weight_share", format!("the {nothing} pool gets nothing, the {all} pool everything"))
            .help("write a share between 0 and 100, or remove the canary");
    }
    match (fields.key("canary_pool"), fields.key("canary_weight")) {
        (Some(_), None) => {
            fields.require("canary_weight", "the canary's share in percent", findings);
        }
        (None, Some(_)) => {
            fields.require("canary_pool", "the id of a pool", findings);
        }
        (None, None) | (Some(_), Some(_)) => {}
    }
    if let (Some(key), None) = (fields.key("auto_brake"), fields.key("canary_pool")) {
        findings
            .error(key, "missing_key", "`auto_brake` has no canary to take out")
            .help("add `canary_pool` and `canary_weight`");
    }
    TrafficPlan {
        stable: stable.unwrap_or(0),
        canary: canary_pool.zip(canary_weight),
        cohorts: fields.get("cohort_routing").and_then(|node| cohorts(node, pools, findings)),
        auto_brake: fields.get("auto_brake").and_then(|node| auto_brake(node, findings)),
        overload: fields.get("overload_protection").and_then(|node| overload(node, findings)),
        at: fields.node.at(),
    }
}

fn cohorts(node: &Node<'_>, pools: &mut Names<'_>, findings: &mut Findings) -> Option<CohortRouting> {
    let fields = Fields::open(node, "`cohort_routing`", &["header", "cookie", "hash", "mappings"], findings)?;
    let key = match fields.at_most_one(&["header", "cookie", "hash"], findings) {
        Some(("header", node)) => header_name(node, findings).map(CohortKey::Header),
        Some(("cookie", node)) => cookie_name(node, findings).map(CohortKey::Cookie),
        Some((_, node)) => cohort_hash(node, findings),
        None => {
            fields.require("header", "what names the cohort, or `cookie: …`, or `hash: …`", findings);
            None
        }
    };
    // A hash picks a side for every value, so that its mappings are exceptions.
    let written = if fields.key("hash").is_some() {
        fields.get("mappings")
    } else {
        fields.require("mappings", "cohort to pool", findings)
    };
    let mut mappings = Vec::new();
    for (cohort, pool) in written.and_then(|node| mapping(node, "`mappings`", findings)).unwrap_or_default() {
        if let Some(pool) = pools.find(pool, findings) {
            mappings.push((cohort.text.to_string(), pool));
        }
    }
    Some(CohortRouting { key: key?, mappings })
}

/// `client_ip`, `{ header: NAME }` or `{ cookie: NAME }`.
fn cohort_hash(node: &Node<'_>, findings: &mut Findings) -> Option<CohortKey> {
    if node.scalar() == Some("client_ip") {
        return Some(CohortKey::HashClientIp);
    }
    hash_key(node, findings).map(|key| match key {
        HashKey::Header(name) => CohortKey::HashHeader(name),
        HashKey::Cookie(name) => CohortKey::HashCookie(name),
    })
}

fn auto_brake(node: &Node<'_>, findings: &mut Findings) -> Option<AutoBrake> {
    let keys = &["error_rate_multiplier", "min_requests", "window", "cooloff"];
    let fields = Fields::open(node, "`auto_brake`", keys, findings)?;
    let multiplier = fields.get("error_rate_multiplier").and_then(|node| read::number(node, 1.0..=1e6, findings));
    Some(AutoBrake {
        error_rate_multiplier: multiplier.unwrap_or(3.0),
        requests_min: fields.u32("min_requests", 1, 50, findings),
        window: fields.duration("window", Duration::from_secs(60), findings),
        cooloff: fields.duration("cooloff", Duration::from_secs(300), findings),
    })
}

fn overload(node: &Node<'_>, findings: &mut Findings) -> Option<OverloadProtection> {
    let keys = &["max_concurrent", "queue_size", "queue_timeout", "adaptive", "min_concurrent", "latency_target"];
    let fields = Fields::open(node, "`overload_protection`", keys, findings)?;
    fields.require("max_concurrent", "requests in flight", findings);
    let concurrent_max = fields.u32("max_concurrent", 1, 1000, findings);
    Some(OverloadProtection {
        concurrent_max,
        queue_max: fields.u32("queue_size", 0, 100, findings),
        queue_timeout: fields.duration("queue_timeout", Duration::from_secs(1), findings),
        adaptive: adaptive(&fields, concurrent_max, findings),
    })
}

fn adaptive(fields: &Fields<'_, '_>, concurrent_max: u32, findings: &mut Findings) -> Option<AdaptiveLimit> {
    let words = &[("off", None), ("gradient", Some(false)), ("aimd", Some(true))];
    let aimd = fields.one_of("adaptive", words, None, findings);
    let least = fields.u32_if_any("min_concurrent", 1, findings);
    let target = fields.duration_if_any("latency_target", findings);
    let needless = |name: &str, needed_by: &str, findings: &mut Findings| {
        if let Some(key) = fields.key(name) {
            findings
                .error(key, "conflicting_keys", format!("`{name}` works only with `adaptive: {needed_by}`"))
                .help("set the mode or remove it");
        }
    };
    let mode = match aimd {
        None => {
            needless("min_concurrent", "gradient` or `aimd", findings);
            needless("latency_target", "aimd", findings);
            return None;
        }
        Some(false) => {
            needless("latency_target", "aimd", findings);
            AdaptiveMode::Gradient
        }
        Some(true) => {
            fields.require("latency_target", "how long an answer may take, such as `500ms`", findings);
            AdaptiveMode::Aimd(target?)
        }
    };
    if let (Some(_), Some(key)) = (least.filter(|least| *least > concurrent_max), fields.key("min_concurrent")) {
        findings.error(key, "out_of_range", "must not be above `max_concurrent`");
    }
    Some(AdaptiveLimit { mode, concurrent_min: least.unwrap_or(10).min(concurrent_max) })
}
