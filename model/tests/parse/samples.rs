//! The sample files and the fragments of seed 004.

use std::collections::BTreeSet;

use sealane_model::config::{Endpoint, HostCondition, PathMatch};
use sealane_model::parse::{Reader, parse};
use sealane_model::problem::Severity;
use serde_json::Value;

use super::{errors, good, problems};

pub(crate) const SMALLEST: &str = include_str!("../../../deploy/samples/smallest.yaml");
pub(crate) const FULL: &str = include_str!("../../../deploy/samples/full.yaml");
pub(crate) const SEED_001: &str = include_str!("../../../deploy/samples/seed-001.yaml");
pub(crate) const SEED_002: &str = include_str!("../../../deploy/samples/seed-002.yaml");
pub(crate) const SEED_004: &str = include_str!("../../../deploy/samples/seed-004.yaml");
pub(crate) const FRAGMENTS: [(&str, &str); 9] = [
    ("router", include_str!("seed-004/router.yaml")),
    ("policies", include_str!("seed-004/policies.yaml")),
    ("pools", include_str!("seed-004/pools.yaml")),
    ("traffic", include_str!("seed-004/traffic.yaml")),
    ("middleware", include_str!("seed-004/middleware.yaml")),
    ("cache", include_str!("seed-004/cache.yaml")),
    ("rollout", include_str!("seed-004/rollout.yaml")),
    ("plugins", include_str!("seed-004/plugins.yaml")),
    ("tls", include_str!("seed-004/tls.yaml")),
];

#[test]
fn the_smallest_file_loads() {
    let config = good(SMALLEST);
    assert_eq!(problems(SMALLEST), []);
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(config.listeners[0].address.to_string(), ":8080");
    let routes: Vec<_> = config.routes.iter().map(|route| (route.id.0.as_str(), &route.path)).collect();
    assert_eq!(routes, [("*/api/", &PathMatch::Prefix("/api/".into())), ("*", &PathMatch::Any)]);
    let pools: Vec<(&str, Vec<String>)> = config
        .pools
        .iter()
        .map(|pool| (pool.id.0.as_str(), pool.endpoints.iter().map(Endpoint::to_string).collect()))
        .collect();
    let expected = [
        ("route/*/api/", vec!["localhost:3000".to_owned()]),
        ("route/*", vec!["localhost:5173".into(), "localhost:5174".into()]),
    ];
    assert_eq!(pools, expected);
}

#[test]
fn the_full_sample_is_good_but_for_what_it_warns_of() {
    let codes: BTreeSet<_> = problems(FULL).into_iter().map(|problem| problem.code).collect();
    let fine = ["caches_authorised", "long_ttl", "public_fail_closed"].map(str::to_owned);
    assert!(codes.is_subset(&BTreeSet::from(fine)), "{codes:?}");
}

#[test]
fn each_fragment_of_seed_004_lacks_only_what_stands_elsewhere() {
    for (name, text) in FRAGMENTS {
        for problem in problems(text) {
            let fine = problem.severity == Severity::Warning || problem.code == "missing_reference";
            assert!(fine, "{name}: {problem:#?}");
        }
    }
}

#[test]
fn the_fragments_of_seed_004_merged_with_their_sample_are_a_whole_config() {
    let read = |text: &str| serde_saphyr::from_str::<Value>(text).expect("a sample is YAML");
    let base = read(SEED_004);
    assert_good("base", &base);
    let mut all = base.clone();
    for (name, text) in FRAGMENTS {
        let mut one = base.clone();
        merge(&mut one, read(text));
        merge(&mut all, read(text));
        assert_good(name, &one);
    }
    assert_good("all", &all);
}

fn assert_good(name: &str, config: &Value) {
    let text = serde_json::to_string_pretty(config).expect("a value is JSON");
    let errors = errors(&text);
    assert!(errors.is_empty(), "{name}: {errors:?}\n{text}");
}

/// Mappings by key, lists by the `id` or `route` of their items.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                match into.get_mut(&key) {
                    Some(known) => merge(known, value),
                    None => {
                        into.insert(key, value);
                    }
                }
            }
        }
        (Value::Array(into), Value::Array(from)) => {
            for item in from {
                match into.iter_mut().find(|known| item.get("id").is_some() && known.get("id") == item.get("id")) {
                    // The endpoints of a pool are replaced, not added to.
                    Some(Value::Object(known)) => {
                        if let Value::Object(item) = item {
                            known.extend(item);
                        }
                    }
                    Some(_) => {}
                    None => into.push(item),
                }
            }
        }
        (into, from) => *into = from,
    }
}

#[test]
fn a_regex_in_host_loads_with_a_warning() {
    let text = super::route(r#"host: ".*\\.example\\.com""#);
    let (config, warnings) = parse("f", &text, Reader::Local).unwrap();
    assert!(matches!(&config.routes[0].host, Some(HostCondition::Regex(p)) if p.as_str() == r".*\.example\.com"));
    assert_eq!((warnings[0].code.as_str(), warnings[0].line), ("regex_in_host", 4));
}

#[test]
fn the_same_config_as_json_is_the_same_config() {
    let value: Value = serde_saphyr::from_str(SMALLEST).unwrap();
    let mut from_json = good(&serde_json::to_string(&value).unwrap());
    let mut from_yaml = good(SMALLEST);
    for config in [&mut from_json, &mut from_yaml] {
        config.listeners.iter_mut().for_each(|it| it.at = Default::default());
        config.routes.iter_mut().for_each(|it| std::sync::Arc::make_mut(it).at = Default::default());
        config.pools.iter_mut().for_each(|it| std::sync::Arc::make_mut(it).at = Default::default());
    }
    assert_eq!(from_json, from_yaml);
}
