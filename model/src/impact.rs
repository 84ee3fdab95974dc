//! What a change of routes would do to real traffic: recent request shapes, decided by both configs.
//!
//! A shape holds what decisions look at and nothing else: host, path, method, the names of the headers that conditions
//! compare, and a value only where it is one that a condition names. No bodies, no secrets. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::{CohortKey, Config, Endpoint, Pool, Rewrite, Scheme, TargetPath};
use crate::decide::{Decision, HeaderView, RequestHead, RouteTable, Scratch};
use crate::selftest::possible_pools;

/// Headers that carry credentials: neither name nor value is kept.
const CREDENTIALS: [&str; 4] = ["authorization", "cookie", "proxy-authorization", "x-api-key"];

/// What the conditions of a config compare, beside host, path and method.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Header names (lower case) and the values that are asked for.
    pub headers: BTreeMap<String, Vec<String>>,
    /// Query parameters and the values that are asked for.
    pub query: BTreeMap<String, Vec<String>>,
}

impl Compared {
    /// What `config` compares.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let mut compared = Self::default();
        let mut note = |name: &str, value: &str| {
            if !CREDENTIALS.contains(&name) {
                compared.headers.entry(name.to_owned()).or_default().push(value.to_owned());
            }
        };
        for route in &config.routes {
            route.headers.iter().for_each(|header| note(&header.name, &header.value));
            if let Some(cohorts) = route.traffic.as_ref().and_then(|plan| plan.cohorts.as_ref())
                && let CohortKey::Header(name) = &cohorts.key
            {
                cohorts.mappings.iter().for_each(|(cohort, _)| note(name, cohort));
            }
        }
        for query in config.routes.iter().flat_map(|route| &route.query) {
            compared.query.entry(query.name.clone()).or_default().push(query.value.clone());
        }
        for values in compared.headers.values_mut().chain(compared.query.values_mut()) {
            values.sort_unstable();
            values.dedup();
        }
        compared
    }
}

/// A request as decisions saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// The id that its log line has.
    pub request_id: String,
    /// As sent.
    pub method: String,
    /// As sent, without port.
    pub host: String,
    /// As sent, without query.
    pub path: String,
    /// Headers that were compared: the value where it is one that was asked for, else just that it was there.
    pub headers: Vec<(String, Option<String>)>,
    /// Query parameters that have a value that was asked for.
    pub query: Vec<(String, String)>,
}

impl HeaderView for Shape {
    fn any_value(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        let values = self.headers.iter().filter(|(known, _)| known == name).filter_map(|(_, value)| value.as_deref());
        values.into_iter().any(|value| test(value.as_bytes()))
    }
}

/// What would be decided differently. Serialises to what `plan -o json` prints as `impact`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Impact {
    /// Shapes that were decided by both.
    pub requests: u64,
    /// Those that came out differently.
    pub different: u64,
    /// From where to where, the most frequent first.
    pub moves: Vec<Move>,
    /// Headers that only the new config compares: what requests have there is not known.
    pub unknown_headers: Vec<String>,
}

/// Requests that go elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Such as `users → pool-a`, or `404 no_route`.
    pub from: String,
    /// The same, by the new config.
    pub to: String,
    /// How many.
    pub requests: u64,
    /// One of them: method, host and path.
    pub example: String,
}

/// Runs `shapes` through both configs.
#[must_use]
pub fn impact(before: &Config, after: &Config, shapes: &[Shape]) -> Impact {
    let (old, new) = (RouteTable::compile(before), RouteTable::compile(after));
    let (mut old_scratch, mut new_scratch) = (old.scratch(), new.scratch());
    let mut moves: BTreeMap<(String, String), Move> = BTreeMap::new();
    let mut different = 0;
    for shape in shapes {
        let from = decided(before, &old, shape, &mut old_scratch);
        let to = decided(after, &new, shape, &mut new_scratch);
        if from == to {
            continue;
        }
        different += 1;
        let example = || format!("{} {}{}", shape.method, shape.host, shape.path);
        moves
            .entry((from.clone(), to.clone()))
            .or_insert_with(|| Move { from, to, requests: 0, example: example() })
            .requests += 1;
    }
    let mut moves: Vec<Move> = moves.into_values().collect();
    moves.sort_by_key(|it| std::cmp::Reverse(it.requests));
    let known = Compared::of(before);
    let names = Compared::of(after).headers.into_keys();
    let unknown_headers = names.filter(|name| !known.headers.contains_key(name)).collect();
    Impact { requests: shapes.len() as u64, different, moves, unknown_headers }
}

fn decided(config: &Config, table: &RouteTable, shape: &Shape, scratch: &mut Scratch) -> String {
    let query: Vec<String> =
        shape.query.iter().map(|(name, value)| format!("{}={}", escaped(name), escaped(value))).collect();
    let query = query.join("&");
    let head = RequestHead {
        method: &shape.method,
        host: &shape.host,
        path: &shape.path,
        query: (!query.is_empty()).then_some(query.as_str()),
        headers: shape,
    };
    match table.decide(&head, scratch) {
        Decision::NoRoute => "404 no_route".to_owned(),
        Decision::BadPath => "400 bad_request".to_owned(),
        Decision::Route(index) => {
            let Some(route) = config.routes.get(index) else { return String::new() };
            let headers: Vec<(String, String)> =
                shape.headers.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect();
            let pools: Vec<String> = possible_pools(route, &headers)
                .into_iter()
                .filter_map(|pool| config.pools.get(pool).map(|pool| place(pool)))
                .collect();
            let rewrite = route.rewrite.as_ref().map_or_else(String::new, rewritten);
            format!("{} → {}{rewrite}", route.id, pools.join(" or "))
        }
    }
}

/// A pool's name; where it has none of its own, the places it stands for.
fn place(pool: &Pool) -> String {
    if !pool.is_anonymous() {
        return pool.id.0.clone();
    }
    let url = |endpoint: &Endpoint| {
        let scheme = match endpoint.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::H2c => "h2c",
        };
        let path = match &endpoint.path {
            TargetPath::Keep => "",
            TargetPath::Replace(path) | TargetPath::Prepend(path) => path,
        };
        format!("{scheme}://{endpoint}{path}")
    };
    pool.endpoints.iter().map(url).collect::<Vec<_>>().join(", ")
}

/// What happens to the path on the way.
fn rewritten(rewrite: &Rewrite) -> String {
    match rewrite {
        Rewrite::Path(path) => format!(", as {path}"),
        Rewrite::Prefix(by) => format!(", prefix as {by}"),
        Rewrite::Regex { regex, replacement } => format!(", {} as {replacement}", regex.as_str()),
    }
}

/// As a component of a query.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{Reader, parse};

    fn config(text: &str) -> Config {
        parse("f.yaml", text, Reader::Local).unwrap_or_else(|problems| panic!("{problems:#?}")).0
    }

    fn shape(path: &str, version: Option<&str>) -> Shape {
        Shape {
            method: "GET".into(),
            host: "a.test".into(),
            path: path.into(),
            headers: version.map(|version| ("x-version".to_owned(), Some(version.to_owned()))).into_iter().collect(),
            ..Shape::default()
        }
    }

    #[test]
    fn requests_that_go_elsewhere_are_counted_by_from_and_to() {
        let before =
            config("routes: [{ id: v2, headers: { X-Version: v2 }, to: \"http://b\" }, { id: all, to: \"http://a\" }]");
        let after = config(
            "routes: [{ id: v2, headers: { X-Version: v2 }, to: \"http://b\" }, { id: api, path_prefix: /api/, to: \"http://c\" }]",
        );
        let shapes = [shape("/api/1", None), shape("/api/2", None), shape("/y", Some("v2")), shape("/x", None)];
        let found = impact(&before, &after, &shapes);
        assert_eq!((found.requests, found.different), (4, 3));
        let told: Vec<_> = found.moves.iter().map(|m| format!("{} {} > {}", m.requests, m.from, m.to)).collect();
        assert_eq!(told, ["2 all → http://a:80 > api → http://c:80", "1 all → http://a:80 > 404 no_route"]);
        assert_eq!(found.moves[0].example, "GET a.test/api/1");
        assert_eq!(impact(&before, &before, &shapes).different, 0);
    }

    #[test]
    fn a_route_that_goes_to_another_url_or_path_decides_differently_although_its_pool_has_no_name() {
        let check = |before: &str, after: &str, expected: &str| {
            let config = |route: &str| config(&format!("routes: [{{ id: r, {route} }}]"));
            let found = impact(&config(before), &config(after), &[shape("/x", None)]);
            let moved = found.moves.first().map_or_else(String::new, |it| format!("{} > {}", it.from, it.to));
            assert_eq!(moved, expected, "{before} to {after}");
        };
        check("to: \"http://a\"", "to: \"http://a:80\"", "");
        check("to: \"http://a\"", "to: \"http://b\"", "r → http://a:80 > r → http://b:80");
        check(
            "to: \"http://a\"",
            "to: [\"http://a\", \"https://b\"]",
            "r → http://a:80 > r → http://a:80, https://b:443",
        );
        check(
            "to: \"http://a\"",
            "to: \"http://a\", rewrite: { path: /y }",
            "r → http://a:80 > r → http://a:80, as /y",
        );
    }

    #[test]
    fn only_what_conditions_compare_is_kept_and_no_credentials() {
        let compared = Compared::of(&config(
            "routes: [{ headers: { X-Version: v2, Authorization: s3cret }, query: { debug: \"1\" }, to: \"http://b\" }]",
        ));
        assert_eq!(compared.headers.keys().collect::<Vec<_>>(), ["x-version"]);
        assert_eq!(compared.query.keys().collect::<Vec<_>>(), ["debug"]);
    }

    #[test]
    fn a_header_that_only_the_new_config_compares_is_said_to_be_unknown() {
        let before = config("routes: [{ to: \"http://a\" }]");
        let after = config("routes: [{ headers: { X-New: a }, to: \"http://b\" }, { to: \"http://a\" }]");
        assert_eq!(impact(&before, &after, &[]).unknown_headers, ["x-new"]);
    }
}
