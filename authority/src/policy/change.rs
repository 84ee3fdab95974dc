//! What a config changes, as policies see it: names, not lines, so that a rule can say who may touch what.
//!
//! Pure. It does not judge, and it does not know defaults: it compares what was written.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// Sections whose entries have names.
const SECTIONS: [&str; 6] = ["routes", "pools", "policies", "middleware", "plugins", "traffic_management"];

/// The difference between two configs (`None`: nothing was there).
pub(super) fn diff(previous: Option<&Value>, config: &Value, before: &str, after: &str) -> Value {
    let empty = Value::Null;
    let previous = previous.unwrap_or(&empty);
    let mut out = Map::new();
    let mut hosts: BTreeSet<String> = BTreeSet::new();
    for section in SECTIONS {
        let (old, new) = (entries(section, previous), entries(section, config));
        let added: Vec<&String> = new.keys().filter(|name| !old.contains_key(*name)).collect();
        let removed: Vec<&String> = old.keys().filter(|name| !new.contains_key(*name)).collect();
        let changed: Vec<&String> = new
            .iter()
            .filter(|(name, value)| old.get(*name).is_some_and(|was| was != *value))
            .map(|(name, _)| name)
            .collect();
        if section == "routes" {
            let touched = added.iter().chain(&removed).chain(&changed);
            for value in touched.flat_map(|name| [old.get(*name), new.get(*name)]).flatten() {
                hosts.insert(host(value));
            }
        }
        out.insert(section.to_owned(), json!({ "added": added, "removed": removed, "changed": changed }));
    }
    // Sections without names: whether they differ at all.
    let keys = |value: &Value| -> BTreeSet<String> {
        value.as_object().map(|object| object.keys().cloned().collect()).unwrap_or_default()
    };
    let sections: Vec<String> = keys(previous)
        .union(&keys(config))
        .filter(|key| previous.get(key.as_str()) != config.get(key.as_str()))
        .cloned()
        .collect();
    let (lines_added, lines_removed) = lines(before, after);
    let (was, is) = (entries("routes", previous).len(), entries("routes", config).len());
    out.insert("hosts".to_owned(), json!(hosts));
    out.insert("sections".to_owned(), json!(sections));
    out.insert("lines_added".to_owned(), json!(lines_added));
    out.insert("lines_removed".to_owned(), json!(lines_removed));
    out.insert("routes_before".to_owned(), json!(was));
    out.insert("routes_after".to_owned(), json!(is));
    Value::Object(out)
}

/// Entries of a section by name: a map's keys, or what each entry of a list calls itself.
fn entries(section: &str, config: &Value) -> BTreeMap<String, Value> {
    match config.get(section) {
        Some(Value::Object(map)) => map.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        Some(Value::Array(list)) => {
            let mut named = BTreeMap::new();
            for value in list {
                let base = name(value);
                let mut unique = base.clone();
                for repeat in 2.. {
                    if !named.contains_key(&unique) {
                        break;
                    }
                    unique = format!("{base}#{repeat}");
                }
                named.insert(unique, value.clone());
            }
            named
        }
        _ => BTreeMap::new(),
    }
}

/// As the config's own rule for names goes: an id, else host and path.
fn name(value: &Value) -> String {
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    if let Some(id) = text("id").or_else(|| text("name")).or_else(|| text("route")) {
        return id;
    }
    let path = ["path", "path_prefix", "path_regex"].into_iter().find_map(text).unwrap_or_default();
    format!("{}{path}", host(value))
}

fn host(route: &Value) -> String {
    let text = |key: &str| route.get(key).and_then(Value::as_str);
    text("host").or_else(|| text("host_regex")).unwrap_or("*").to_owned()
}

/// How many lines came and went, wherever they stand.
fn lines(before: &str, after: &str) -> (usize, usize) {
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    after.lines().for_each(|line| *counts.entry(line).or_default() += 1);
    before.lines().for_each(|line| *counts.entry(line).or_default() -= 1);
    let sum = |sign: i64| counts.values().map(|count| (count * sign).max(0)).sum::<i64>();
    let count = |sign| usize::try_from(sum(sign)).unwrap_or(0);
    (count(1), count(-1))
}
