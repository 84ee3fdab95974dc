//! A table answers what a plain scan over all routes answers, on configs and requests that meet often.

use std::cmp::Reverse;
use std::collections::HashMap;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// The plain scan: all routes in the order of matching, conditions tried one after the other.
struct Scan<'c> {
    config: &'c Config,
    regexes: HashMap<String, regex::Regex>,
}

impl<'c> Scan<'c> {
    fn new(config: &'c Config) -> Self {
        let hosts = config.routes.iter().filter_map(|route| match &route.host {
            Some(HostCondition::Regex(pattern)) => Some(whole(pattern)),
            _ => None,
        });
        let paths = config.routes.iter().filter_map(|route| match &route.path {
            PathMatch::Regex(pattern) => Some(pattern.as_str().to_owned()),
            _ => None,
        });
        let regexes = hosts.chain(paths).map(|text| (text.clone(), regex::Regex::new(&text).unwrap())).collect();
        Self { config, regexes }
    }

    /// The routes up to the one that matches, each with what fails.
    fn tried(&self, head: &RequestHead<'_>, path: &str) -> Vec<Tried> {
        let host = head.host.trim_end_matches('.').to_lowercase();
        let on_sandbox_host = self.config.sandboxes.as_ref().is_some_and(|sandboxes| {
            sandboxes.hosts.iter().any(|name| self.host_matches(&HostCondition::Name(name.clone()), &host))
        });
        let mut order: Vec<usize> = (0..self.config.routes.len()).collect();
        order.sort_by_key(|&index| key(&self.config.routes[index], index, on_sandbox_host));
        let mut tried = Vec::new();
        for route in order {
            let mismatch = self.mismatch(&self.config.routes[route], head, &host, path);
            tried.push(Tried { route, mismatch });
            if mismatch.is_none() {
                break;
            }
        }
        tried
    }

    fn mismatch(&self, route: &Route, head: &RequestHead<'_>, host: &str, path: &str) -> Option<Mismatch> {
        if !route.host.as_ref().is_none_or(|condition| self.host_matches(condition, host)) {
            return Some(Mismatch::Host);
        }
        if !self.path_matches(&route.path, path) {
            return Some(Mismatch::Path);
        }
        if !route.methods.is_empty() && !route.methods.contains(&head.method.to_owned()) {
            return Some(Mismatch::Method);
        }
        let has_header = |wanted: &HeaderCondition| {
            head.headers.any_value(&wanted.name, &mut |value| value == wanted.value.as_bytes())
        };
        if let Some(header) = route.headers.iter().position(|wanted| !has_header(wanted)) {
            return Some(Mismatch::Header(header));
        }
        let parameters = head.query.unwrap_or("");
        let has_parameter = |wanted: &QueryCondition| {
            parameters.split('&').any(|one| one == format!("{}={}", wanted.name, wanted.value))
        };
        route.query.iter().position(|wanted| !has_parameter(wanted)).map(Mismatch::Query)
    }

    fn host_matches(&self, condition: &HostCondition, host: &str) -> bool {
        match condition {
            HostCondition::Name(HostMatch::Exact(name)) => name == host,
            HostCondition::Name(HostMatch::Wildcard(suffix)) => {
                host.len() > suffix.len() + 1 && host.ends_with(&format!(".{suffix}"))
            }
            HostCondition::Regex(pattern) => self.regexes[&whole(pattern)].is_match(host),
        }
    }

    fn path_matches(&self, condition: &PathMatch, path: &str) -> bool {
        match condition {
            PathMatch::Any => true,
            _ if path == "*" => false,
            PathMatch::Exact(exact) => path == exact,
            PathMatch::Prefix(prefix) if prefix.ends_with('/') => path.starts_with(prefix),
            PathMatch::Prefix(prefix) => path == prefix || path.starts_with(&format!("{prefix}/")),
            PathMatch::Regex(pattern) => self.regexes[pattern.as_str()].is_match(path),
        }
    }
}

type Key = (bool, i32, (u8, Reverse<usize>), (u8, Reverse<usize>), Reverse<usize>, Option<u64>, usize);

fn key(route: &Route, index: usize, on_sandbox_host: bool) -> Key {
    let host = match &route.host {
        Some(HostCondition::Name(HostMatch::Exact(_))) => (0, Reverse(0)),
        Some(HostCondition::Name(HostMatch::Wildcard(suffix))) => (1, Reverse(suffix.len())),
        Some(HostCondition::Regex(_)) => (2, Reverse(0)),
        None => (3, Reverse(0)),
    };
    let path = match &route.path {
        PathMatch::Exact(_) => (0, Reverse(0)),
        PathMatch::Prefix(prefix) => (1, Reverse(prefix.len())),
        PathMatch::Regex(_) => (2, Reverse(0)),
        PathMatch::Any => (3, Reverse(0)),
    };
    let conditions = route.headers.len() + route.query.len() + usize::from(!route.methods.is_empty());
    let sandbox = route.sandbox.as_ref().map(|(_, id)| *id);
    let after_the_file = sandbox.is_some() && !on_sandbox_host;
    (after_the_file, route.priority, host, path, Reverse(conditions), sandbox, index)
}

/// The regex of a host in the terms of the `regex` crate.
fn whole(pattern: &Pattern) -> String {
    format!("(?i)^(?:{})$", pattern.as_str())
}

/// What a path is compared as, written as the rule reads: decode, then drop empty segments and dots.
fn plain_normalise(path: &str) -> Option<String> {
    if path == "*" {
        return Some(path.into());
    }
    let decoded = path.replace("%61", "a").replace("%2e", ".").replace("%2f", "%2F");
    if decoded.contains("%00") || decoded.contains("%zz") {
        return None;
    }
    let mut segments: Vec<&str> = Vec::new();
    let mut slash = true;
    for segment in decoded.split('/') {
        slash = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()?),
            _ => segments.push(segment),
        }
    }
    let end = if slash && !segments.is_empty() { "/" } else { "" };
    Some(format!("/{}{end}", segments.join("/")))
}

const LABELS: [&str; 4] = ["a", "b", "ab", "c"];

fn some_host() -> impl Strategy<Value = String> {
    prop::collection::vec(select(&LABELS[..]), 1..4).prop_map(|labels| labels.join("."))
}

/// In normal form, as parsing leaves it or a table makes it.
fn some_normal_path() -> impl Strategy<Value = String> {
    (prop::collection::vec(select(&["a", "b", "ab", "a%2Fb"][..]), 0..4), any::<bool>()).prop_map(
        |(segments, slash)| {
            let end = if slash && !segments.is_empty() { "/" } else { "" };
            format!("/{}{end}", segments.join("/"))
        },
    )
}

fn some_pattern() -> impl Strategy<Value = String> {
    let piece = select(
        &[
            "a", "b", "/", "/a", "/b/", "[ab]", "[^/]+", ".*", r"\w+", "(a|b)", "(/.*)?", "(ab)?", "(%2F/)?", "a{2}",
            "%2F", r"\b", "(?i:A)", "B",
        ][..],
    );
    (any::<bool>(), prop::collection::vec(piece, 0..5), any::<bool>()).prop_map(|(start, pieces, end)| {
        format!("{}{}{}", if start { "^/" } else { "" }, pieces.concat(), if end { "$" } else { "" })
    })
}

fn some_host_condition() -> impl Strategy<Value = Option<HostCondition>> {
    let pattern =
        select(&["a.*", r".*\.b", "[ab]+", r"(a|b)\.c", r"\w+\.\w+", "A", ".*c", r"a\.b\.?.*", "b|c", "ab.?.?"][..]);
    prop_oneof![
        3 => Just(None),
        3 => some_host().prop_map(|host| Some(HostCondition::Name(HostMatch::Exact(host)))),
        2 => some_host().prop_map(|host| Some(HostCondition::Name(HostMatch::Wildcard(host)))),
        2 => pattern.prop_map(host_regex),
    ]
}

fn some_path_condition() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        1 => Just(PathMatch::Any),
        2 => some_normal_path().prop_map(PathMatch::Exact),
        3 => some_normal_path().prop_map(PathMatch::Prefix),
        5 => some_pattern().prop_map(|pattern| regex(&pattern)),
    ]
}

prop_compose! {
    fn some_route()(
        host in some_host_condition(),
        path in some_path_condition(),
        methods in prop_oneof![3 => Just(vec![]), 1 => Just(vec!["GET"]), 1 => Just(vec!["POST", "PUT"])],
        header in prop_oneof![3 => Just(None), 1 => select(&["1", "2"][..]).prop_map(Some)],
        query in prop_oneof![3 => Just(None), 1 => select(&["1", "2"][..]).prop_map(Some)],
        priority in select(&[100, 100, 100, 90, 110][..]),
        sandbox in prop_oneof![5 => Just(None), 1 => (0_u64..9).prop_map(Some)],
    ) -> Route {
        Route {
            methods: methods.iter().map(ToString::to_string).collect(),
            headers: header.iter().map(|value| HeaderCondition { name: "k".into(), value: value.to_string() }).collect(),
            query: query.iter().map(|value| QueryCondition { name: "q".into(), value: value.to_string() }).collect(),
            priority,
            sandbox: sandbox.map(|id| ("s".into(), id)),
            ..route(host, path)
        }
    }
}

prop_compose! {
    fn some_config()(
        routes in prop_oneof![prop::collection::vec(some_route(), 0..12), prop::collection::vec(some_route(), 40..120)],
        sandbox_hosts in prop::option::of(prop::collection::vec(some_host().prop_map(HostMatch::Wildcard), 0..3)),
    ) -> Config {
        let mut config = config(routes);
        config.sandboxes = sandbox_hosts.map(|hosts| Sandboxes { hosts, ..Sandboxes::default() });
        config
    }
}

#[derive(Clone, Debug)]
struct Request {
    method: &'static str,
    host: String,
    path: String,
    query: Option<&'static str>,
    headers: Vec<(&'static str, &'static str)>,
}

prop_compose! {
    fn some_request()(
        method in select(&["GET", "POST", "get"][..]),
        host in some_host(),
        dot in any::<bool>(),
        upper in any::<bool>(),
        path in prop_oneof![
            6 => some_normal_path(),
            3 => prop::collection::vec(select(&["a", "b", "/", "/", "/.", "..", "%61", "%2f", "%2e", "%00", "%zz"][..]), 0..8)
                .prop_map(|pieces| format!("/{}", pieces.concat())),
            1 => Just("*".to_owned()),
        ],
        query in select(&[None, Some("q=1"), Some("x=1&q=2"), Some("q=2&q=1")][..]),
        headers in select(vec![vec![], vec![("k", "1")], vec![("k", "0"), ("k", "2")]]),
    ) -> Request {
        let host = if upper { host.to_uppercase() } else { host };
        Request { method, host: if dot { host + "." } else { host }, path, query, headers }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_table_made_out_of_another_decides_as_one_made_alone(
        routes in prop::collection::vec(some_route(), 20..120),
        sandbox_hosts in prop::option::of(prop::collection::vec(some_host().prop_map(HostMatch::Wildcard), 0..3)),
        // Which routes are there, table by table.
        steps in prop::collection::vec(prop::collection::vec(prop::bool::weighted(0.9), 120), 2..6),
        requests in prop::collection::vec(some_request(), 1..20),
    ) {
        let mut before: Option<RouteTable> = None;
        for present in steps {
            let routes = routes.iter().zip(&present).filter(|(_, present)| **present).map(|(route, _)| route.clone());
            let mut config = config(routes.collect());
            config.sandboxes = sandbox_hosts.clone().map(|hosts| Sandboxes { hosts, ..Sandboxes::default() });
            let alone = RouteTable::compile(&config);
            let after = match &before {
                Some(before) => RouteTable::compile_after(&config, before),
                None => RouteTable::compile(&config),
            };
            let (mut scratch, mut scratch_after) = (alone.scratch(), after.scratch());
            for Request { method, host, path, query, headers } in &requests {
                let head = RequestHead { method, host, path, query: *query, headers: &Fields(headers) };
                prop_assert_eq!(after.decide(&head, &mut scratch_after), alone.decide(&head, &mut scratch));
                prop_assert_eq!(after.explain(&head, &mut scratch_after), alone.explain(&head, &mut scratch));
            }
            before = Some(after);
        }
    }

    #[test]
    fn a_table_agrees_with_a_plain_scan(
        config in some_config(),
        requests in prop::collection::vec(some_request(), 1..20),
    ) {
        let table = RouteTable::compile(&config);
        let scan = Scan::new(&config);
        let mut scratch = table.scratch();
        for Request { method, host, path, query, headers } in &requests {
            let head = RequestHead { method, host, path, query: *query, headers: &Fields(headers) };
            let decision = table.decide(&head, &mut scratch);
            let explanation = table.explain(&head, &mut scratch);
            prop_assert_eq!(explanation.decision, decision);
            let Some(path) = plain_normalise(path) else {
                prop_assert_eq!(decision, Decision::BadPath);
                continue;
            };
            prop_assert_eq!(&explanation.path, &path);
            let tried = scan.tried(&head, &path);
            let expected = match tried.last() {
                Some(Tried { route, mismatch: None }) => Decision::Route(*route),
                _ => Decision::NoRoute,
            };
            prop_assert_eq!(decision, expected);
            prop_assert_eq!(explanation.tried, tried);
        }
    }
}
