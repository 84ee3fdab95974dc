//! Cache store and rules.

use std::time::Duration;

use super::fields::{Fields, Names};
use super::findings::Findings;
use super::header::{header_name, methods};
use super::read;
use super::route::path_match;
use super::tree::{Node, Value};
use crate::config::{Cache, CacheRule, CacheStore, PathMatch, PreCompress};

/// The cache: a list of rules, or `{ store, rules }`.
pub(super) fn cache(node: &Node<'_>, routes: &mut Names<'_>, findings: &mut Findings) -> Option<Cache> {
    let (store, rules) = match &node.value {
        Value::List(_) => (CacheStore::default(), Some(node)),
        Value::Map(_) | Value::Scalar { .. } => {
            let fields = Fields::open(node, "`cache`", &["store", "rules"], findings)?;
            let store = fields.get("store").map_or_else(CacheStore::default, |node| store(node, findings));
            (store, fields.get("rules"))
        }
    };
    let rules = rules.and_then(|node| read::list(node, "rules", findings)).unwrap_or_default();
    Some(Cache { store, rules: rules.iter().filter_map(|item| rule(item, routes, findings)).collect() })
}

fn store(node: &Node<'_>, findings: &mut Findings) -> CacheStore {
    let default = CacheStore::default();
    let keys = &["max_total", "max_entries", "max_entry", "stale_while_revalidate", "stale_if_error", "pre_compress"];
    let Some(fields) = Fields::open(node, "`store`", keys, findings) else { return default };
    let entries_max = fields.get("max_entries").and_then(|node| read::integer(node, 1..=u64::MAX, findings));
    let store = CacheStore {
        total_bytes_max: fields.bytes("max_total", default.total_bytes_max, findings),
        entries_max: entries_max.unwrap_or(default.entries_max),
        entry_bytes_max: fields.bytes("max_entry", default.entry_bytes_max, findings),
        stale_while_revalidate: fields.duration_or_zero(
            "stale_while_revalidate",
            default.stale_while_revalidate,
            findings,
        ),
        stale_if_error: fields.duration_or_zero("stale_if_error", default.stale_if_error, findings),
        pre_compress: fields.get("pre_compress").and_then(|node| pre_compress(node, findings)),
    };
    if store.entry_bytes_max > store.total_bytes_max {
        let spot = fields.get("max_entry").or_else(|| fields.get("max_total")).unwrap_or(node);
        findings
            .error(spot, "out_of_range", "`max_entry` is larger than `max_total`")
            .help("one entry must fit into the store");
    }
    store
}

fn pre_compress(node: &Node<'_>, findings: &mut Findings) -> Option<PreCompress> {
    let fields = Fields::open(node, "`pre_compress`", &["level", "min_length"], findings)?;
    let level = fields.get("level").and_then(|node| read::integer(node, 1..=9, findings));
    let length_min = fields.get("min_length").and_then(|node| match node.scalar() {
        // Both `256` and `1KB` are clear here.
        Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => read::integer(node, 0..=u64::MAX, findings),
        _ => read::bytes(node, findings),
    });
    Some(PreCompress {
        level: level.and_then(|level| u32::try_from(level).ok()).unwrap_or(6),
        length_min: length_min.unwrap_or(256),
    })
}

fn rule(node: &Node<'_>, routes: &mut Names<'_>, findings: &mut Findings) -> Option<CacheRule> {
    let keys = &[
        "route",
        "path",
        "path_prefix",
        "path_regex",
        "enabled",
        "methods",
        "status",
        "ttl",
        "vary_headers",
        "max_size",
        "auth_aware",
        "only_if_content_length",
        "coalesce",
        "coalesce_timeout",
    ];
    let fields = Fields::open(node, "a cache rule", keys, findings)?;
    let route = fields.get("route").and_then(|node| routes.find(node, findings));
    if ["route", "path", "path_prefix", "path_regex"].iter().all(|name| fields.key(name).is_none()) {
        findings
            .error(node, "missing_key", "the rule does not say what it is for")
            .below("route")
            .help("add `route: …` or `path_prefix: …`; `path_prefix: /` is everything");
    }
    let enabled = fields.boolean("enabled", true, findings);
    let coalesce = fields.boolean("coalesce", fields.key("coalesce_timeout").is_some(), findings);
    let coalesce_timeout = fields.duration("coalesce_timeout", Duration::from_secs(5), findings);
    let auth_aware = fields.boolean("auth_aware", false, findings);
    if let (true, true, Some(key)) = (enabled, auth_aware, fields.key("auth_aware")) {
        findings
            .warning(key, "caches_authorised", "answers to requests with credentials are cached, each user's apart")
            .help("remove `auth_aware` unless one user asks for the same thing often");
    }
    let rule = CacheRule {
        route,
        path: path_match(&fields, findings).unwrap_or(PathMatch::Any),
        methods: fields
            .get("methods")
            .map_or_else(|| vec!["GET".into(), "HEAD".into()], |node| cached_methods(node, findings)),
        status: fields.get("status").map(|node| statuses(node, findings)),
        ttl: fields.get("ttl").and_then(|node| read::duration_or_zero(node, findings)),
        vary_headers: match fields.get("vary_headers") {
            Some(node) => read::list(node, "headers", findings)
                .unwrap_or_default()
                .iter()
                .filter_map(|item| header_name(item, findings))
                .collect(),
            None => Vec::new(),
        },
        entry_bytes_max: fields.bytes_if_any("max_size", findings),
        auth_aware,
        only_if_content_length: fields.boolean("only_if_content_length", false, findings),
        coalesce: coalesce.then_some(coalesce_timeout),
        at: node.at(),
    };
    if enabled {
        warn(&fields, &rule, findings);
    }
    enabled.then_some(rule)
}

/// What works, but should be meant.
fn warn(fields: &Fields<'_, '_>, rule: &CacheRule, findings: &mut Findings) {
    let credentials = rule.vary_headers.iter().any(|name| matches!(name.as_str(), "authorization" | "cookie"));
    if let Some(spot) = fields.get("vary_headers").filter(|_| credentials && !rule.auth_aware) {
        findings
            .warning(
                spot,
                "varies_on_credentials",
                "requests with `Authorization` or `Cookie` are not cached by this rule",
            )
            .help("add `auth_aware: true` to store their answers apart for each");
    }
    if let Some(spot) = fields.get("ttl").filter(|_| rule.ttl.is_some_and(|ttl| ttl > TTL_LONG)) {
        findings
            .warning(spot, "long_ttl", "answers without freshness of their own stay in the cache for more than an hour")
            .help("a mistake in what is cached lasts as long, unless it is purged");
    }
}

/// A `ttl` above is worth a warning.
const TTL_LONG: Duration = Duration::from_secs(3600);

/// Other methods are for the endpoint alone: what they answer is not for the next who asks.
fn cached_methods(node: &Node<'_>, findings: &mut Findings) -> Vec<String> {
    let found = methods(node, findings);
    if let Some(other) = found.iter().find(|method| !matches!(method.as_str(), "GET" | "HEAD")) {
        findings
            .error(node, "unknown_value", format!("answers to {other} are not cached"))
            .help("a rule takes `GET`, `HEAD` or both");
    }
    found
}

fn statuses(node: &Node<'_>, findings: &mut Findings) -> Vec<u16> {
    let items = read::list(node, "statuses", findings).unwrap_or_default();
    items.iter().filter_map(|item| u16::try_from(read::integer(item, 200..=599, findings)?).ok()).collect()
}
