//! Endpoints of a pool: where requests go, and how many of them.

use std::collections::HashMap;

use super::address::{self, Target};
use super::fields::Fields;
use super::findings::Findings;
use super::read::{self, shown};
use super::support::Feature;
use super::tree::{Node, Value};
use crate::config::{Endpoint, Scheme, TargetPath};

/// Largest weight of one endpoint.
const WEIGHT_MAX: u64 = 1_000_000;

/// One endpoint or a list of them; at least one, each `host:port` once, not all without weight.
pub(super) fn endpoints(node: &Node<'_>, findings: &mut Findings) -> Vec<Endpoint> {
    let items = match &node.value {
        Value::List(items) => items.as_slice(),
        Value::Scalar { .. } | Value::Map(_) => std::slice::from_ref(node),
    };
    if items.is_empty() {
        findings
            .error(node, "empty_list", "a pool needs at least one endpoint")
            .help("add an address: `[\"10.0.0.1:8000\"]`");
    }
    let endpoints: Vec<(&Node<'_>, Endpoint)> =
        items.iter().filter_map(|item| Some((item, endpoint(item, findings)?))).collect();
    let mut seen: HashMap<String, u32> = HashMap::new();
    for (item, endpoint) in &endpoints {
        let name = endpoint.to_string();
        if let Some(line) = seen.get(&name) {
            findings
                .error(*item, "duplicate_endpoint", format!("`{name}` is written twice in this pool"))
                .help(format!("the first one is on line {line}; to send it more, give it a larger `weight`"));
        } else {
            seen.insert(name, item.span.line);
        }
    }
    if !endpoints.is_empty() && endpoints.len() == items.len() && endpoints.iter().all(|(_, e)| e.weight == 0) {
        findings
            .error(node, "zero_weights", "every endpoint of this pool has weight 0, so nothing can be sent")
            .help("give at least one endpoint a weight of 1 or more");
    }
    endpoints.into_iter().map(|(_, endpoint)| endpoint).collect()
}

fn endpoint(node: &Node<'_>, findings: &mut Findings) -> Option<Endpoint> {
    let (address, weight) = match &node.value {
        // A mapping like `{10.0.0.1:80}` or `{"10.0.0.1":80}` is an address that lost its quotes.
        Value::Map(entries) if !matches!(entries.as_slice(), [(key, value)] if value.scalar().is_some() && address_like(&key.text)) =>
        {
            let fields = Fields::open(node, "an endpoint", &["address", "url", "weight"], findings)?;
            let weight = fields.get("weight").and_then(|node| read::integer(node, 0..=WEIGHT_MAX, findings));
            if fields.at_most_one(&["address", "url"], findings).is_none() {
                fields.require("address", "`host:port` or a URL", findings);
            }
            (fields.get("address").or_else(|| fields.get("url"))?, weight.unwrap_or(1))
        }
        Value::Map(_) | Value::Scalar { .. } | Value::List(_) => (node, 1),
    };
    let target = address::target(address, findings)?;
    if !matches!(&*target.path, "" | "/") {
        findings
            .error(
                address,
                "path_in_address",
                format!("`{}` cannot be part of an endpoint's address", shown(&target.path)),
            )
            .help(format!(
                "the path belongs to the route: `rewrite: {{ path: {path} }}`, or `rewrite: {{ prefix: {path} }}` with \
                 `path_prefix`",
                path = target.path
            ))
            .suggest(target.origin);
        return None;
    }
    if target.scheme == Scheme::H2c {
        findings.uses(address, Feature::Http2Upstream);
    }
    Some(of_target(&target, u32::try_from(weight).unwrap_or(1), TargetPath::Keep))
}

fn address_like(key: &str) -> bool {
    key.contains('.') || key.contains(':') || key == "localhost" || key.starts_with("http")
}

/// The endpoint that a URL names.
pub(super) fn of_target(target: &Target, weight: u32, path: TargetPath) -> Endpoint {
    Endpoint { host: target.host.clone(), port: target.port, scheme: target.scheme, weight, path }
}

pub(super) fn equal_weights(endpoints: &[Endpoint]) -> bool {
    endpoints.windows(2).all(|pair| pair[0].weight == pair[1].weight)
}
