//! What differs between two configs, in their own words: routes, pools and policies added, removed, changed, each
//! changed value as old → new with its lines.
//!
//! It compares what the texts say, not the texts: order of keys, quoting, comments, defaults that are written out, and
//! `60s` for `1m` are no changes. Values of headers that carry credentials are never shown.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::findings::Findings;
use super::tree::{Node, Value};
use super::{duration, size, source};
use crate::config::Config;
use crate::schema::{self, Object};

/// One difference. Serialises to the object that `plan -o json` and `diff -o json` print.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// `added`, `removed` or `changed`.
    pub kind: String,
    /// `route`, `pool`, `policy`, … or the name of a section such as `limits`.
    pub what: String,
    /// Of the route, pool, …; empty for a section.
    pub id: String,
    /// The value below it, such as `policy.timeout`; empty: the whole.
    pub path: String,
    /// As written before; a default when nothing was.
    pub before: Option<String>,
    /// As written now.
    pub after: Option<String>,
    /// In the old text; 0: not written there.
    pub line_before: u32,
    /// In the new text; 0: not written there.
    pub line: u32,
}

/// Differences that are told at most; a person reads no more, and `diff` of the texts has them all.
const CHANGES_MAX: usize = 2_000;
/// Headers whose values are not shown.
const CREDENTIALS: [&str; 4] = ["authorization", "cookie", "proxy-authorization", "x-api-key"];
/// Objects that hold even where nothing is written.
const ALWAYS: [&str; 6] = ["limits", "logging", "metrics", "shutdown", "connections", "fail_open"];

/// A value as it is compared, and as it is shown.
#[derive(Clone, Debug)]
struct Leaf {
    compared: String,
    shown: String,
    line: u32,
}

/// An item of a section: its line and everything it says.
#[derive(Debug, Default)]
struct Item {
    line: u32,
    leaves: BTreeMap<String, Leaf>,
}

/// The parts of a config by what they are and their id.
type Parts = BTreeMap<(String, String), Item>;

/// What differs between two valid texts and the configs that they gave. `before` is `None` where nothing was published.
#[must_use]
pub fn changes(before: Option<(&str, &Config)>, after: (&str, &Config)) -> Vec<Change> {
    let (old, old_order) = before.map(|(text, config)| parts(text, config)).unwrap_or_default();
    let (new, new_order) = parts(after.0, after.1);
    let mut out = Vec::new();
    // A section that only defaults speak for was not added by anyone.
    let written = |item: &Item| item.line > 0;
    for (key, item) in &old {
        if !new.contains_key(key) {
            out.push(whole("removed", key, item.line, 0));
        }
    }
    for (key, item) in &new {
        match old.get(key) {
            None if !written(item) => {}
            None => out.push(whole("added", key, 0, item.line)),
            Some(earlier) => compare(key, earlier, item, &mut out),
        }
    }
    let common = |order: &[String], other: &[String]| {
        let other: HashSet<&String> = other.iter().collect();
        order.iter().filter(|id| other.contains(id)).cloned().collect::<Vec<_>>()
    };
    let (before_order, after_order) = (common(&old_order, &new_order), common(&new_order, &old_order));
    if before_order != after_order {
        let moved = after_order.iter().zip(&before_order).find(|(now, then)| now != then);
        out.push(Change {
            what: "order of routes".to_owned(),
            id: moved.map_or_else(String::new, |(now, _)| now.clone()),
            ..whole("changed", &(String::new(), String::new()), 0, 0)
        });
    }
    out.sort_by(|a, b| (&a.what, &a.id, &a.path).cmp(&(&b.what, &b.id, &b.path)));
    out.truncate(CHANGES_MAX);
    out
}

fn whole(kind: &str, (what, id): &(String, String), line_before: u32, line: u32) -> Change {
    Change {
        kind: kind.to_owned(),
        what: what.clone(),
        id: id.clone(),
        path: String::new(),
        before: None,
        after: None,
        line_before,
        line,
    }
}

fn compare(key: &(String, String), earlier: &Item, item: &Item, out: &mut Vec<Change>) {
    let paths: std::collections::BTreeSet<&String> = earlier.leaves.keys().chain(item.leaves.keys()).collect();
    for path in paths {
        let (then, now) = (earlier.leaves.get(path), item.leaves.get(path));
        if then.map(|leaf| &leaf.compared) == now.map(|leaf| &leaf.compared) {
            continue;
        }
        let kind = match (then, now) {
            (None, _) => "added",
            (_, None) => "removed",
            _ => "changed",
        };
        // An endpoint that comes or goes is told by its address.
        let endpoint = path.strip_suffix("].weight").and_then(|path| path.split_once('['));
        let shown = |leaf: &Leaf| match endpoint {
            Some((_, address)) if then.is_none() || now.is_none() => match leaf.shown.as_str() {
                "1" => address.to_owned(),
                weight => format!("{address} (weight {weight})"),
            },
            _ => leaf.shown.clone(),
        };
        out.push(Change {
            path: match endpoint {
                Some((list, _)) if then.is_none() || now.is_none() => list.to_owned(),
                _ => path.clone(),
            },
            before: then.map(shown),
            after: now.map(shown),
            line_before: then.map_or(earlier.line, |leaf| leaf.line),
            line: now.map_or(item.line, |leaf| leaf.line),
            ..whole(kind, key, 0, 0)
        });
    }
}

/// The parts of a text, and the ids of its routes in order.
fn parts(text: &str, config: &Config) -> (Parts, Vec<String>) {
    let mut parts = Parts::new();
    let mut findings = Findings::new();
    let Some(root) = source::tree(text, &mut findings) else { return (parts, Vec::new()) };
    let Value::Map(entries) = &root.value else { return (parts, Vec::new()) };
    let mut ids = config.routes.iter().filter(|route| route.sandbox.is_none()).map(|route| route.id.0.clone());
    let order: Vec<String> = ids.by_ref().collect();
    let mut route_ids = order.iter();
    for (key, node) in entries.iter().filter(|(key, _)| !key.text.starts_with("x-") && key.text != "version") {
        let (what, object, id_key) = match &*key.text {
            "routes" => ("route", "route", "id"),
            "pools" => ("pool", "pool", "id"),
            "policies" => ("policy", "policy", "id"),
            "middleware" => ("chain", "chain", "id"),
            "plugins" => ("plugin", "plugin", "id"),
            "traffic_management" => ("traffic plan", "traffic_plan", "route"),
            "listeners" => ("listener", "listener", "name"),
            "tests" => ("test", "test", "name"),
            "endpoints" => ("endpoint", "small_endpoint", "from"),
            section => {
                let mut item = Item { line: key.span.line, ..Item::default() };
                flatten(node, section_object(section), String::new(), &mut item.leaves);
                parts.insert((section.to_owned(), String::new()), item);
                continue;
            }
        };
        let mut add = |id: String, line: u32, node: &Node<'_>| {
            let mut item = Item { line, ..Item::default() };
            flatten(node, schema::object(object), String::new(), &mut item.leaves);
            item.leaves.remove(id_key);
            parts.insert((what.to_owned(), id), item);
        };
        match &node.value {
            Value::Map(items) => items.iter().for_each(|(id, node)| add(id.text.to_string(), id.span.line, node)),
            Value::List(items) => {
                for (index, node) in items.iter().enumerate() {
                    let written = [id_key, "address", "id"].iter().find_map(|key| node.get(key)?.scalar());
                    let id = match what {
                        "route" => route_ids.next().cloned(),
                        _ => written.map(str::to_owned),
                    };
                    add(id.unwrap_or_else(|| format!("#{}", index + 1)), node.at().line, node);
                }
            }
            Value::Scalar { .. } => {}
        }
    }
    for section in ALWAYS.iter().filter(|name| !["connections", "fail_open"].contains(name)) {
        let item = parts.entry(((*section).to_owned(), String::new())).or_default();
        imply(schema::object(section), "", &mut item.leaves);
    }
    (parts, order)
}

fn section_object(section: &str) -> Option<&'static Object> {
    schema::object(section)
}

/// Everything that a value says, by path. Defaults of keys that are not written stand there too.
fn flatten(node: &Node<'_>, object: Option<&'static Object>, prefix: String, out: &mut BTreeMap<String, Leaf>) {
    let below = |key: &str| if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
    match &node.value {
        Value::Map(entries) => {
            for (key, value) in entries.iter().filter(|(key, _)| !key.text.starts_with("x-")) {
                let inner = object.and_then(|object| object.below(&key.text));
                flatten(value, inner, below(&key.text), out);
            }
            imply(object, &prefix, out);
        }
        Value::List(items) if items.iter().all(|item| item.scalar().is_some()) && !prefix.ends_with("endpoints") => {
            let texts: Vec<_> = items.iter().filter_map(Node::scalar).map(str::to_owned).collect();
            let shown = format!("[{}]", texts.join(", "));
            out.insert(prefix, Leaf { compared: shown.clone(), shown, line: node.span.line });
        }
        // A pool that is just its endpoints, and a pool's endpoints.
        Value::List(_) if prefix.is_empty() => {
            flatten(node, None, "endpoints".to_owned(), out);
            imply(object, "", out);
        }
        Value::List(items) => {
            let mut seen: HashMap<String, usize> = HashMap::new();
            for (index, item) in items.iter().enumerate() {
                let names = ["id", "name", "address", "url", "route", "metric", "sni", "sandbox_id"];
                let name = names.iter().find_map(|key| item.get(key)?.scalar()).or_else(|| item.scalar());
                let name = name.map_or_else(|| index.to_string(), str::to_owned);
                let times = seen.entry(name.clone()).or_default();
                *times += 1;
                let name = if *times > 1 { format!("{name}#{times}") } else { name };
                let path = format!("{prefix}[{name}]");
                let endpoint = prefix.ends_with("endpoints") || prefix == "to";
                match (endpoint, item.scalar()) {
                    // An address alone has the default weight.
                    (true, Some(_)) => {
                        let leaf = |text: &str, line| Leaf { compared: text.into(), shown: text.into(), line };
                        out.insert(format!("{path}.weight"), leaf("1", item.span.line));
                    }
                    (true, None) => {
                        flatten(item, schema::object("endpoint"), path.clone(), out);
                        out.remove(&format!("{path}.address"));
                        out.remove(&format!("{path}.url"));
                    }
                    (false, _) => flatten(item, object, path, out),
                }
            }
            if items.is_empty() {
                out.insert(prefix, Leaf { compared: "[]".into(), shown: "[]".into(), line: node.span.line });
            }
        }
        Value::Scalar { text, .. } => {
            let key = prefix.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
            let secret = CREDENTIALS.contains(&key.trim_matches('"')) || text.contains("${");
            let shown = if secret { "(hidden)".to_owned() } else { text.chars().take(200).collect() };
            let path = if prefix.is_empty() { "value".to_owned() } else { prefix };
            out.insert(path, Leaf { compared: canonical(text), shown, line: node.span.line });
        }
    }
}

/// Adds the defaults of the keys of `object` that are not written below `prefix`.
fn imply(object: Option<&'static Object>, prefix: &str, out: &mut BTreeMap<String, Leaf>) {
    let Some(object) = object else { return };
    for (name, default) in object.defaults() {
        let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        let shown = default.trim_matches('"').to_owned();
        let leaf = || Leaf { compared: canonical(&shown), shown: shown.clone(), line: 0 };
        if !default.starts_with(['[', '{']) {
            out.entry(path).or_insert_with(leaf);
        }
    }
    for (name, inner) in object.objects().filter(|(name, _)| ALWAYS.contains(name)) {
        let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        imply(schema::object(inner), &path, out);
    }
}

/// The same for all spellings of one duration or size.
fn canonical(text: &str) -> String {
    if let Ok(duration) = duration::parse(text) {
        return format!("{}ms", duration.as_millis());
    }
    size::parse(text).map_or_else(|_| text.to_owned(), |bytes| format!("{bytes}B"))
}

/// For people: by section, `+` added, `-` removed, `~` changed.
#[must_use]
pub fn text(changes: &[Change], file: &str) -> String {
    let mut out = String::new();
    let mut last = (String::new(), String::new());
    for change in changes {
        let sign = match change.kind.as_str() {
            "added" => '+',
            "removed" => '-',
            _ => '~',
        };
        let name = if change.id.is_empty() { String::new() } else { format!(" {}", change.id) };
        if change.path.is_empty() {
            let place = match (change.line, change.line_before) {
                (0, 0) => String::new(),
                (0, was) => format!("  (was line {was})"),
                (line, _) => format!("  ({file}:{line})"),
            };
            out.push_str(&format!("{sign} {}{name}{place}\n", change.what));
            continue;
        }
        if last != (change.what.clone(), change.id.clone()) {
            out.push_str(&format!("~ {}{name}\n", change.what));
            last = (change.what.clone(), change.id.clone());
        }
        let place = match (change.line, change.line_before) {
            (0, 0) => String::new(),
            (line, was) if line == 0 || change.kind == "removed" => format!("  (was line {was})"),
            (line, _) => format!("  ({file}:{line})"),
        };
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
        let (before, after) = (value(&change.before), value(&change.after));
        out.push_str(&format!("    {sign} {}: {before} → {after}{place}\n", change.path));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{Reader, parse};

    fn differ(before: &str, after: &str) -> Vec<String> {
        let config = |text: &str| parse("f.yaml", text, Reader::Local).unwrap_or_else(|p| panic!("{text} {p:#?}")).0;
        let (old, new) = (config(before), config(after));
        let found = changes(Some((before, &old)), (after, &new));
        found
            .into_iter()
            .map(|c| {
                let value = |value: Option<String>| value.unwrap_or_else(|| "-".into());
                format!("{} {} {} {} {}>{}", c.kind, c.what, c.id, c.path, value(c.before), value(c.after))
            })
            .collect()
    }

    const BASE: &str = "listen: :8080
routes:
  - { id: a, path: /a, pool: p, policy: { timeout: 60s } }
  - { path_prefix: /b/, to: http://b:1 }
pools:
  p: { endpoints: [\"x:1\", \"y:1\"] }
";

    #[test]
    fn what_says_the_same_is_no_change() {
        let same = "pools: [{ endpoints: [{ address: \"x:1\", weight: 1 }, \"y:1\"], id: p, host_header: preserve }]
# a comment
listen: \":8080\"
limits: { max_headers: 200, idle_timeout: 1m }
routes:
  - policy: { timeout: 1m, require_tls: false }
    path: \"/a\"
    id: a
    pool: p
    priority: 100
  - { to: http://b:1, path_prefix: /b/ }
";
        assert_eq!(differ(BASE, same), Vec::<String>::new());
        assert_eq!(differ(same, BASE), Vec::<String>::new());
    }

    #[test]
    fn changes_name_the_thing_and_the_value() {
        let other = "listen: :8081
routes:
  - { id: a, path: /a, pool: p, policy: { timeout: 5s } }
  - { id: c, path: /c, to: http://c:1 }
pools:
  p: { endpoints: [\"x:1\", { address: \"y:1\", weight: 3 }], balancer: weighted_round_robin }
limits: { max_headers: 100 }
";
        assert_eq!(
            differ(BASE, other),
            [
                "changed limits  max_headers 200>100",
                "changed listen  value :8080>:8081",
                "changed pool p balancer round_robin>weighted_round_robin",
                "changed pool p endpoints[y:1].weight 1>3",
                "removed route */b/  ->-",
                "changed route a policy.timeout 60s>5s",
                "added route c  ->-",
            ]
        );
    }

    #[test]
    fn an_endpoint_that_comes_or_goes_is_told_by_its_address() {
        let other = BASE.replace("\"y:1\"", "\"z:1\"");
        assert_eq!(differ(BASE, &other), ["removed pool p endpoints y:1>-", "added pool p endpoints ->z:1"]);
    }

    #[test]
    fn a_first_config_adds_what_it_says_and_no_defaults() {
        let (config, _) = parse("f.yaml", BASE, Reader::Local).unwrap();
        let found = changes(None, (BASE, &config));
        let names: Vec<_> = found.iter().map(|c| format!("{} {} {}", c.kind, c.what, c.id)).collect();
        assert_eq!(names, ["added listen ", "added pool p", "added route */b/", "added route a"]);
    }

    #[test]
    fn credentials_are_never_shown_and_the_order_of_routes_counts() {
        let one =
            "routes: [{ id: a, headers: { authorization: hunter2 }, to: \"http://a\" }, { id: b, to: \"http://b\" }]";
        let two =
            "routes: [{ id: b, to: \"http://b\" }, { id: a, headers: { authorization: hunter3 }, to: \"http://a\" }]";
        let found = differ(one, two);
        assert_eq!(
            found,
            ["changed order of routes b  ->-", "changed route a headers.authorization (hidden)>(hidden)",]
        );
    }
}
