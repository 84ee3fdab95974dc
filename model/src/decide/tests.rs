//! Tables of the rules of matching and forwarding. That all of them hold together is [`agreement`]'s.

use super::*;
use crate::config::{
    Cache, CacheRule, CacheStore, Config, HeaderCondition, HostCondition, HostMatch, Limits, Logging, Metrics,
    PathMatch, Pattern, Policy, Position, QueryCondition, Rewrite, Route, RouteId, Sandboxes, Shutdown,
};

mod agreement;

#[test]
fn a_change_of_one_route_builds_one_automaton_anew() {
    let keyed = (0..200).map(|n| route(None, regex(&format!("^/team-{n}/[0-9]+$"))));
    let crowd = (1..200).map(|n| route(None, regex(&format!("^/[a-z]{{{n}}}$"))));
    let mut routes: Vec<Route> = keyed.chain(crowd).collect();
    let mut table = RouteTable::compile(&config(routes.clone()));
    let all = table.automata.in_common(&table.automata);
    assert!(all >= 399 / automata::PATTERNS_MAX, "{all}");
    for n in 0..50 {
        routes.remove(n * 7 % routes.len());
        routes.insert(n, route(None, regex(&format!("^/new-{n}/.*"))));
        let next = RouteTable::compile_after(&config(routes.clone()), &table);
        let (kept, now) = (next.automata.in_common(&table.automata), next.automata.in_common(&next.automata));
        // The one with what is new, and one of each kind that has too little left.
        assert!(kept + 3 >= now, "{kept} of {now} are the same after edit {n}");
        assert!(now <= all * 2 + 2, "{now} automata, {all} at first");
        table = next;
    }
}

/// A config of these routes and nothing else.
fn config(routes: Vec<Route>) -> Config {
    Config {
        listeners: Vec::new(),
        limits: Limits::default(),
        trusted_proxies: Vec::new(),
        routes: routes.into_iter().map(Arc::new).collect(),
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

/// A route for this host and path that asks for nothing else.
fn route(host: Option<HostCondition>, path: PathMatch) -> Route {
    Route {
        id: RouteId(String::new()),
        host,
        path,
        methods: Vec::new(),
        headers: Vec::new(),
        query: Vec::new(),
        priority: 100,
        rewrite: None,
        pool: 0,
        policy: Policy::default(),
        middleware: None,
        require_mtls: false,
        traffic: None,
        sandbox: None,
        at: Position::default(),
    }
}

fn exact(path: &str) -> PathMatch {
    PathMatch::Exact(path.into())
}

fn prefix(path: &str) -> PathMatch {
    PathMatch::Prefix(path.into())
}

fn regex(path: &str) -> PathMatch {
    PathMatch::Regex(Pattern::new(path))
}

fn name(host: &str) -> Option<HostCondition> {
    Some(HostCondition::Name(match host.strip_prefix("*.") {
        Some(suffix) => HostMatch::Wildcard(suffix.into()),
        None => HostMatch::Exact(host.into()),
    }))
}

fn host_regex(host: &str) -> Option<HostCondition> {
    Some(HostCondition::Regex(Pattern::new(host)))
}

/// Header fields, names in lower case.
struct Fields<'a>(&'a [(&'a str, &'a str)]);

impl HeaderView for Fields<'_> {
    fn any_value(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.0.iter().any(|(key, value)| *key == name && test(value.as_bytes()))
    }
}

fn get<'a>(host: &'a str, path: &'a str) -> RequestHead<'a> {
    RequestHead { method: "GET", host, path, query: None, headers: &Fields(&[]) }
}

/// What is decided; that an explanation says the same is checked on the way.
fn decide(routes: &[Route], head: &RequestHead<'_>) -> Decision {
    decide_in(&config(routes.to_vec()), head)
}

fn decide_in(config: &Config, head: &RequestHead<'_>) -> Decision {
    let table = RouteTable::compile(config);
    let mut scratch = table.scratch();
    let decision = table.decide(head, &mut scratch);
    assert_eq!(table.explain(head, &mut scratch).decision, decision);
    assert_eq!(table.decide(head, &mut scratch), decision, "a used scratch makes no difference");
    decision
}

/// The path that an endpoint sees when `route` is the only one.
fn forwarded(route: Route, path: &str, endpoint: &TargetPath) -> String {
    let table = RouteTable::compile(&config(vec![route]));
    let mut scratch = table.scratch();
    let head = get("example.com", path);
    assert_eq!(table.decide(&head, &mut scratch), Decision::Route(0), "{path}");
    let mut out = b"GET ".to_vec();
    table.write_path(0, &head, endpoint, &mut scratch, &mut out);
    String::from_utf8(out.split_off(4)).unwrap()
}

#[test]
fn tables_are_shared_by_threads() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<RouteTable>();
    sent::<Scratch>();
}

#[test]
fn a_prefix_ends_at_a_slash() {
    let check = |condition: &str, path: &str, expected| {
        let matches = decide(&[route(None, prefix(condition))], &get("a", path)) == Decision::Route(0);
        assert_eq!(matches, expected, "{condition} {path}");
    };
    check("/api/", "/api/", true);
    check("/api/", "/api/x", true);
    check("/api/", "/api/x/y", true);
    check("/api/", "/api", false);
    check("/api/", "/apix", false);
    check("/api", "/api", true);
    check("/api", "/api/", true);
    check("/api", "/api/x", true);
    check("/api", "/apix", false);
    check("/api", "/ap", false);
    check("/api", "/x/api", false);
    check("/", "/", true);
    check("/", "/x", true);
    check("/a/b", "/a/b/c", true);
    check("/a/b", "/a/bc", false);
    check("/a/b", "/a%2Fb/c", false);
    check("/a%2fb", "/a%2Fb/c", true);
    check("/caf\u{e9}", "/caf%c3%a9/x", true);
    check("/%61", "/a/x", true);
}

#[test]
fn paths_are_matched_in_their_normalised_form() {
    let routes = [route(None, exact("/a/b")), route(None, regex("^/x[^/]*$"))];
    let check = |path: &str, expected| assert_eq!(decide(&routes, &get("a", path)), expected, "{path}");
    check("/a/b", Decision::Route(0));
    check("/%61//./c/../b", Decision::Route(0));
    check("/a/b/", Decision::NoRoute);
    check("/A/b", Decision::NoRoute);
    check("/a%2Fb", Decision::NoRoute);
    check("/x%2fy", Decision::Route(1));
    check("/x/y", Decision::NoRoute);
    check("/a/../..", Decision::BadPath);
    check("/a/%00", Decision::BadPath);
    check("/a/%zz", Decision::BadPath);
    check("a", Decision::BadPath);
}

#[test]
fn the_asterisk_meets_only_routes_without_path_condition() {
    let routes = [route(None, prefix("/")), route(None, regex(".*")), route(None, PathMatch::Any)];
    assert_eq!(decide(&routes, &get("a", "*")), Decision::Route(2));
    assert_eq!(decide(&routes[..2], &get("a", "*")), Decision::NoRoute);
}

#[test]
fn hosts_match_by_name_wildcard_and_whole_regex() {
    let check = |condition, host: &str, expected| {
        let route = route(condition, PathMatch::Any);
        assert_eq!(decide(&[route], &get(host, "/")) == Decision::Route(0), expected, "{host}");
    };
    check(name("example.com"), "example.com", true);
    check(name("example.com"), "EXAMPLE.com.", true);
    check(name("example.com"), "a.example.com", false);
    check(name("*.example.com"), "a.example.com", true);
    check(name("*.example.com"), "A.B.Example.com.", true);
    check(name("*.example.com"), "example.com", false);
    check(name("::1"), "0:0::1", true);
    check(name("2001:db8::a"), "2001:DB8::A", true);
    check(name("127.0.0.1"), "127.0.0.1", true);
    check(host_regex(r".*\.example\.com"), "a.example.com", true);
    check(host_regex(r".*\.example\.com"), "a.example.com.org", false);
    check(host_regex(r".*\.EXAMPLE\.com"), "A.example.com", true);
    check(host_regex("a|b"), "ab", false);
    check(host_regex("a|b"), "b", true);
    check(host_regex(".*"), "", true);
    check(host_regex(".*"), "b\u{fc}cher.de", false);
    check(None, "b\u{fc}cher.de", true);
}

#[test]
fn routes_are_tried_in_the_documented_order() {
    let limited = |mut route: Route, methods: &[&str], headers: &[(&str, &str)]| {
        route.methods = methods.iter().map(ToString::to_string).collect();
        let condition = |(name, value): &(&str, &str)| HeaderCondition { name: (*name).into(), value: (*value).into() };
        route.headers = headers.iter().map(condition).collect();
        route
    };
    let first = |mut route: Route| {
        route.priority = 1;
        route
    };
    // All of them match; each comes before the next.
    let ordered = [
        first(route(None, PathMatch::Any)),
        route(name("a.b.c"), exact("/x/y")),
        route(name("a.b.c"), prefix("/x/")),
        route(name("a.b.c"), prefix("/x")),
        limited(route(name("a.b.c"), prefix("/")), &["GET"], &[("k", "v")]),
        limited(route(name("a.b.c"), prefix("/")), &["GET", "PUT"], &[]),
        route(name("a.b.c"), prefix("/")),
        route(name("a.b.c"), regex("^/x")),
        route(name("a.b.c"), PathMatch::Any),
        route(name("*.b.c"), PathMatch::Any),
        route(name("*.c"), exact("/x/y")),
        route(host_regex("a.*"), PathMatch::Any),
        route(None, exact("/x/y")),
        route(None, regex("y")),
        route(None, PathMatch::Any),
        route(None, PathMatch::Any),
    ];
    let head = RequestHead { headers: &Fields(&[("k", "v")]), ..get("a.b.c", "/x/y") };
    for first in 0..ordered.len() {
        assert_eq!(decide(&ordered[first..], &head), Decision::Route(0), "from {first}");
        // The order of the file decides only between the last two, which are equal.
        let mut reversed = ordered[first..ordered.len() - 1].to_vec();
        reversed.reverse();
        if let Some(last) = reversed.len().checked_sub(1) {
            assert_eq!(decide(&reversed, &head), Decision::Route(last), "from {first}, reversed");
        }
    }
}

#[test]
fn a_method_that_does_not_match_falls_through() {
    let mut post = route(None, exact("/x"));
    post.methods = vec!["POST".into()];
    let routes = [post, route(None, prefix("/"))];
    let check = |method, expected| {
        assert_eq!(decide(&routes, &RequestHead { method, ..get("a", "/x") }), Decision::Route(expected), "{method}");
    };
    check("POST", 0);
    check("GET", 1);
    check("post", 1);
}

#[test]
fn an_explanation_names_the_first_condition_that_fails() {
    let with = |edit: &dyn Fn(&mut Route)| {
        let mut route = route(None, exact("/x"));
        edit(&mut route);
        route
    };
    let routes = vec![
        route(name("other"), PathMatch::Any),
        with(&|route| {
            route.query = vec![QueryCondition { name: "q".into(), value: "1".into() }];
            route.headers = vec![HeaderCondition { name: "k".into(), value: "v".into() }];
            route.methods = vec!["GET".into()];
        }),
        with(&|route| route.headers = [("k", "v"), ("k", "w")].map(header).into()),
        with(&|route| route.methods = vec!["POST".into()]),
        route(None, exact("/y")),
        route(None, prefix("/")),
        route(None, PathMatch::Any),
    ];
    fn header((name, value): (&str, &str)) -> HeaderCondition {
        HeaderCondition { name: name.into(), value: value.into() }
    }
    let table = RouteTable::compile(&config(routes));
    let head = RequestHead { query: Some("q=2"), headers: &Fields(&[("k", "v")]), ..get("A.", "//x") };
    let explanation = table.explain(&head, &mut table.scratch());
    let tried: Vec<_> = explanation.tried.iter().map(|tried| (tried.route, tried.mismatch)).collect();
    let expected = [
        (0, Some(Mismatch::Host)),
        (1, Some(Mismatch::Query(0))),
        (2, Some(Mismatch::Header(1))),
        (3, Some(Mismatch::Method)),
        (4, Some(Mismatch::Path)),
        (5, None),
    ];
    assert_eq!(tried, expected);
    assert_eq!((explanation.host.as_str(), explanation.path.as_str()), ("a", "/x"));
    let refused = table.explain(&get("a", "/.."), &mut table.scratch());
    assert_eq!((refused.decision, refused.path.as_str(), refused.tried.len()), (Decision::BadPath, "/..", 0));
}

#[test]
fn sandbox_routes_go_by_priority_only_on_sandbox_hosts() {
    let sandbox = |id, priority, path| {
        let mut route = route(None, regex(path));
        (route.sandbox, route.priority) = (Some(("s".into(), id)), priority);
        route
    };
    let mut config = config(vec![sandbox(7, 10, "^/x"), sandbox(3, 10, "/x"), route(None, prefix("/x"))]);
    config.sandboxes =
        Some(Sandboxes { hosts: vec![HostMatch::Wildcard("dev".into())], routes: vec![0, 1], ..Sandboxes::default() });
    let check = |config: &Config, host, path, expected| {
        assert_eq!(decide_in(config, &get(host, path)), expected, "{host} {path}");
    };
    check(&config, "a.dev", "/x", Decision::Route(1));
    check(&config, "a.com", "/x", Decision::Route(2));
    check(&config, "a.com", "/y/x", Decision::Route(1));
    Arc::make_mut(&mut config.routes[1]).priority = 11;
    check(&config, "a.dev", "/x", Decision::Route(0));
    // Each sandbox route is tried once, whatever the host.
    let table = RouteTable::compile(&config);
    for host in ["a.dev", "a.com"] {
        assert_eq!(table.explain(&get(host, "/none"), &mut table.scratch()).tried.len(), 3, "{host}");
    }
    config.sandboxes = None;
    check(&config, "a.dev", "/x", Decision::Route(2));
}

#[test]
fn many_patterns_are_told_apart_by_their_literals_or_run_together() {
    let keyed = (0..300).map(|n| format!("^/svc/r{n}/[0-9]+(/.*)?$"));
    let crowd = (1..=200).map(|n| format!("^/[a-z]{{{n}}}$"));
    let odd = ["(?i)/ShOuT/x$", r"^/(one|two)/\w+$", r"\bword\b", r"^/\p{Greek}", "", "/late/.*"].map(String::from);
    let patterns: Vec<String> = keyed.chain(crowd).chain(odd).collect();
    let mut routes: Vec<_> = patterns.iter().map(|pattern| route(None, regex(pattern))).collect();
    // The empty pattern matches everything; let it come last.
    routes[504].priority = 101;
    let check =
        |path: &str, expected| assert_eq!(decide(&routes, &get("a", path)), Decision::Route(expected), "{path}");
    check("/svc/r0/1", 0);
    check("/svc/r299/12/x", 299);
    check("/svc/r29/12/x", 29);
    check("/svc/R29/12/x", 504);
    check("/a", 300);
    check(&format!("/{}", "z".repeat(200)), 499);
    check("/q/sHoUt/X", 500);
    check("/two/a_1", 501);
    check("/1/word-2", 502);
    check("/%CE%B1", 504);
    check("/x/late/", 505);
    check("/1/late", 504);
}

#[test]
fn a_path_is_forwarded_byte_for_byte_unless_it_is_rewritten() {
    for path in ["/", "/a//b/../c/%61%2f", "/a b", "/é?", "/a/./"] {
        assert_eq!(forwarded(route(None, PathMatch::Any), path, &TargetPath::Keep), path);
    }
}

#[test]
fn the_path_of_an_endpoint_replaces_or_precedes() {
    let check = |endpoint, path: &str, expected: &str| {
        assert_eq!(forwarded(route(None, PathMatch::Any), path, &endpoint), expected, "{endpoint:?} {path}");
    };
    check(TargetPath::Replace("/fixed".into()), "/a", "/fixed");
    check(TargetPath::Replace("/a b".into()), "/a", "/a%20b");
    check(TargetPath::Prepend("/base".into()), "/a//b", "/base/a//b");
    check(TargetPath::Prepend("/base".into()), "/", "/base/");
    check(TargetPath::Prepend(String::new()), "/a", "/a");
    check(TargetPath::Prepend("/base".into()), "*", "*");
    let mut rewritten = route(None, prefix("/api"));
    rewritten.rewrite = Some(Rewrite::Prefix("/v2".into()));
    assert_eq!(forwarded(rewritten.clone(), "/api/x", &TargetPath::Prepend("/base".into())), "/base/v2/x");
    assert_eq!(forwarded(rewritten, "/api/x", &TargetPath::Replace("/fixed".into())), "/fixed");
}

#[test]
fn a_rewrite_builds_on_the_normalised_path_and_makes_a_valid_one() {
    let check = |condition: PathMatch, rewrite: Rewrite, path: &str, expected: &str| {
        let mut route = route(None, condition.clone());
        route.rewrite = Some(rewrite.clone());
        assert_eq!(forwarded(route, path, &TargetPath::Keep), expected, "{condition:?} {rewrite:?} {path}");
    };
    let by = |by: &str| Rewrite::Prefix(by.into());
    check(prefix("/api"), by("/"), "/api/x", "/x");
    check(prefix("/api"), by("/"), "/api", "/");
    check(prefix("/api"), by(""), "/api", "/");
    check(prefix("/api"), by("/"), "/api/", "/");
    check(prefix("/api"), by("/v2"), "/api", "/v2");
    check(prefix("/api"), by("/v2/"), "/api", "/v2/");
    check(prefix("/api"), by("/v2/"), "/api/x", "/v2/x");
    check(prefix("/api/"), by("/v2/"), "/api/", "/v2/");
    check(prefix("/api/"), by("/v2/"), "/api/x/", "/v2/x/");
    check(prefix("/api/"), by("/v2"), "/api/x", "/v2/x");
    check(prefix("/"), by("/v2"), "/x", "/v2/x");
    check(prefix("/"), by("/v2"), "/", "/v2/");
    check(prefix("/api"), by("/v2"), "/%61pi//x/%7e", "/v2/x/~");
    check(PathMatch::Any, by("/v2"), "/x", "/v2/x");
    check(PathMatch::Any, by("/v2"), "*", "*");
    check(regex("^/x"), by("/v2/"), "/x", "/v2/x");
    check(exact("/x"), by("/v2"), "/x", "/v2");
    check(prefix("/"), Rewrite::Path("/fixed".into()), "/x", "/fixed");
    check(prefix("/"), Rewrite::Path("fixed?a#b c%2fd%".into()), "/x", "/fixed%3Fa%23b%20c%2fd%25");

    let regex =
        |regex: &str, replacement: &str| Rewrite::Regex { regex: Pattern::new(regex), replacement: replacement.into() };
    check(PathMatch::Any, regex("^/v1/(.*)$", "/v2/$1"), "/v1/a/b", "/v2/a/b");
    check(PathMatch::Any, regex("^/(?P<who>[^/]+)/x$", "/x/${who}"), "/me/x", "/x/me");
    check(PathMatch::Any, regex("o", "0"), "/foo/o", "/f00/0");
    check(PathMatch::Any, regex("nothing", "x"), "/a//b", "/a/b");
    check(PathMatch::Any, regex("^/", ""), "/a", "/a");
    check(PathMatch::Any, regex(".*", ""), "/a", "/");
    check(PathMatch::Any, regex("x*", "-"), "/axb", "/-/-a-b-");
    check(PathMatch::Any, regex("a", "?é\n$$$9"), "/a", "/%3F%C3%A9%0A$");
}

#[test]
fn a_scratch_of_another_table_is_replaced() {
    let routes: Vec<_> = (0..20).map(|n| route(None, regex(&format!("^/r{n}/\\d+$")))).collect();
    let (old, new) = (RouteTable::compile(&config(routes[..1].to_vec())), RouteTable::compile(&config(routes)));
    let mut scratch = old.scratch();
    assert_eq!(old.decide(&get("a", "/r0/1"), &mut scratch), Decision::Route(0));
    assert_eq!(new.decide(&get("a", "/r19/1"), &mut scratch), Decision::Route(19));
    assert_eq!(old.decide(&get("a", "/r0/1"), &mut scratch), Decision::Route(0));
}

#[test]
fn the_first_cache_rule_that_fits_by_route_and_path_holds() {
    let rule = |route, path| CacheRule {
        route,
        path,
        methods: Vec::new(),
        status: None,
        ttl: None,
        vary_headers: Vec::new(),
        entry_bytes_max: None,
        auth_aware: false,
        only_if_content_length: false,
        coalesce: None,
        at: Position::default(),
    };
    let mut config = config(vec![route(None, prefix("/a")), route(None, PathMatch::Any)]);
    let store = CacheStore {
        total_bytes_max: 1,
        entries_max: 1,
        entry_bytes_max: 1,
        stale_while_revalidate: std::time::Duration::ZERO,
        stale_if_error: std::time::Duration::ZERO,
        pre_compress: None,
    };
    let rules = vec![
        rule(Some(0), exact("/a/exact")),
        rule(None, prefix("/a/static/")),
        rule(None, PathMatch::Regex(Pattern::from(&regex::Regex::new("[.]css$").unwrap()))),
        rule(Some(1), PathMatch::Any),
    ];
    config.cache = Some(Cache { store, rules });
    let table = RouteTable::compile(&config);
    let mut scratch = table.scratch();
    let mut check = |path: &str, expected: Option<usize>| {
        let head = RequestHead { method: "GET", host: "h", path, query: None, headers: &NoHeaders };
        let Decision::Route(route) = table.decide(&head, &mut scratch) else { panic!("{path} has a route") };
        assert_eq!(table.cache_rule(route, &head, &mut scratch), expected, "{path}");
    };
    check("/a/exact", Some(0));
    check("/a//x/../exact", Some(0));
    check("/a/static/x", Some(1));
    check("/a/static", None);
    check("/a/style.css", Some(2));
    check("/b/style.css", Some(2));
    check("/b/other", Some(3));
    check("/a/other", None);
}

struct NoHeaders;

impl HeaderView for NoHeaders {
    fn any_value(&self, _: &str, _: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        false
    }
}
