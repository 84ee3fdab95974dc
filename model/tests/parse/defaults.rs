//! What holds when nothing is written, as the interfaces page says, and what is kept when something is.

use std::time::Duration;

use sealane_model::config::{
    Balancer, Connections, FailOpen, HostHeader, HostMatch, Http2, Limits, Logging, Metrics, PathMatch, Policy,
    RetryCondition, Rewrite, Scheme, Shutdown, StatusRange, TlsVersion,
};
use sealane_model::plan::{GatePlan, Plan};

use super::{good, pool, route, top};

#[test]
fn a_file_with_one_route_has_the_defaults_of_the_page() {
    let config = good("routes: [{ to: http://a }]\n");
    assert_eq!(config.listeners.len(), 1);
    assert_eq!((config.listeners[0].name.as_str(), config.listeners[0].address.port), ("http", 8080));
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.logging, Logging::default());
    assert_eq!(config.metrics, Metrics::default());
    assert_eq!(config.shutdown, Shutdown::default());
    assert_eq!((config.rollout, config.admin, config.cache), (None, None, None));
    let route = &config.routes[0];
    assert_eq!((route.priority, &route.policy), (100, &Policy::default()));
    let pool = &config.pools[0];
    assert_eq!((&pool.balancer, &pool.host_header), (&Balancer::RoundRobin, &HostHeader::Preserve));
    assert_eq!((&pool.connections, pool.fail_open), (&Connections::default(), FailOpen::default()));
    assert_eq!((&pool.health.active, &pool.health.passive), (&None, &None));
    assert!(!pool.expose_upstream_errors);
}

#[test]
fn a_certificate_without_listeners_adds_the_https_one() {
    let config = good(&top("tls: { certificates: [{ cert_file: /c, key_file: /k }] }"));
    let ports: Vec<_> = config.listeners.iter().map(|listener| (listener.address.port, listener.tls)).collect();
    assert_eq!(ports, [(8080, false), (8443, true)]);
}

#[test]
fn listeners_keep_what_is_written() {
    let config = good(&top("listen: [\":8080\", \"127.0.0.1:81\", \"[::1]:82\"]"));
    let names: Vec<_> = config.listeners.iter().map(|listener| listener.name.as_str()).collect();
    assert_eq!(names, [":8080", "127.0.0.1:81", "[::1]:82"]);
    let config = good(&top("listeners: [{ address: \":80\", redirect_to: https }]"));
    assert!(config.listeners[0].redirect_to_https);
    assert_eq!(config.listeners[0].name, ":80");
    // An address without a host that starts with a colon needs no quotes in a block.
    assert_eq!(good(&top("listen: :8080")).listeners[0].address.port, 8080);
}

#[test]
fn scalars_keep_their_text() {
    let certificate = "certificates: [{ cert_file: /c, key_file: /k }]";
    for version in ["1.3", "\"1.3\""] {
        let config = good(&top(&format!("tls: {{ min_version: {version}, {certificate} }}")));
        assert_eq!(config.tls.unwrap().min_version, TlsVersion::V1_3);
    }
    let config = good(&route("query: { debug: 1, on: yes, empty: \"\" }"));
    let query: Vec<_> = config.routes[0].query.iter().map(|q| (q.name.as_str(), q.value.as_str())).collect();
    assert_eq!(query, [("debug", "1"), ("on", "yes"), ("empty", "")]);
    let config = good(&route("headers: { X-API-Version: 1.10 }"));
    assert_eq!(config.routes[0].headers[0].name, "x-api-version");
    assert_eq!(config.routes[0].headers[0].value, "1.10");
    assert_eq!(good(&top("logging: { access: off }")).logging.access, sealane_model::config::AccessSink::Off);
}

#[test]
fn ids_are_made_of_host_and_path_and_counted_on_repeats() {
    let config = good(
        "routes:\n- { host: A.com, path: /x, to: \"http://a\" }\n- { host: \"*.b.com\", path_prefix: /y/, to: \"http://a\" }\n\
         - { path_regex: ^/z, to: \"http://a\" }\n- { to: \"http://a\" }\n- { to: \"http://a\", methods: [GET] }\n\
         - { id: \"*#3\", to: \"http://a\", methods: [PUT] }\n- { to: \"http://a\", methods: [POST] }\n",
    );
    let ids: Vec<_> = config.routes.iter().map(|route| route.id.0.as_str()).collect();
    assert_eq!(ids, ["a.com/x", "*.b.com/y/", "*^/z", "*", "*#2", "*#3", "*#4"]);
    assert_eq!(config.pools[6].id.0, "route/*#4");
}

#[test]
fn endpoints_are_written_in_many_ways() {
    let config = good(&pool("").replace(
        "[\"10.0.0.1:80\"]",
        "[\"10.0.0.1:80\", \"http://b\", \"https://c\", \"[::1]:80\", { address: d:1, weight: 3 }]",
    ));
    let all: Vec<_> = config.pools[0].endpoints.iter().map(|e| (e.to_string(), e.scheme, e.weight)).collect();
    let expected = [
        ("10.0.0.1:80", Scheme::Http, 1),
        ("b:80", Scheme::Http, 1),
        ("c:443", Scheme::Https, 1),
        ("[::1]:80", Scheme::Http, 1),
        ("d:1", Scheme::Http, 3),
    ];
    assert_eq!(all, expected.map(|(name, scheme, weight)| (name.to_owned(), scheme, weight)));
    // Weights that differ are meant, also without a balancer.
    assert_eq!(config.pools[0].balancer, Balancer::WeightedRoundRobin);
    for to in ["http://a:1", "[\"http://a:1\"]", "{ url: \"http://a:1\" }", "[{ url: \"http://a:1\", weight: 2 }]"] {
        let config = good(&format!("routes: [{{ to: {to} }}]").replace("{ to: http://a:1 }", "{ to: \"http://a:1\" }"));
        assert_eq!(config.pools[0].endpoints[0].to_string(), "a:1", "{to}");
    }
}

#[test]
fn pools_and_policies_are_lists_or_mappings() {
    let map =
        "routes: [{ pool: p, policy: q }]\npools: { p: { endpoints: [\"a:1\"] } }\npolicies: { q: { timeout: 3s } }\n";
    let list = "routes: [{ pool: p, policy: q }]\npools: [{ id: p, endpoints: [\"a:1\"] }]\npolicies: [{ id: q, timeout: 3s }]\n";
    for text in [map, list] {
        let config = good(text);
        assert_eq!(config.pools[0].id.0, "p", "{text}");
        assert_eq!(config.routes[0].policy.timeout, Some(Duration::from_secs(3)), "{text}");
        assert_eq!(config.routes[0].policy.id.as_ref().unwrap().0, "q", "{text}");
    }
    let inline = good(&route("policy: { body_size_limit: 1MB }"));
    assert_eq!((&inline.routes[0].policy.id, inline.routes[0].policy.body_bytes_max), (&None, Some(1 << 20)));
}

#[test]
fn retries_default_to_what_seed_004_retries() {
    let config = good(&route("policy: { retries: { max_attempts: 3 } }"));
    let retries = config.routes[0].policy.retries.clone().unwrap();
    assert_eq!((retries.attempts_max, retries.budget_percent, retries.idempotent_only), (3, 10.0, true));
    assert!(retries.on.contains(&RetryCondition::ConnectFailure) && retries.on.contains(&RetryCondition::Status(503)));
    let config = good(&route("policy: { retries: { on: [reset, \"502\", 504] } }"));
    let on = config.routes[0].policy.retries.clone().unwrap().on;
    assert_eq!(on, [RetryCondition::Reset, RetryCondition::Status(502), RetryCondition::Status(504)]);
}

#[test]
fn pools_keep_what_is_written() {
    let config = good(&pool("health: { active: { path: /health, expected_status: 200 }, passive: {} }"));
    let health = &config.pools[0].health;
    let active = health.active.as_ref().unwrap();
    assert_eq!(active.expected_status, StatusRange { first: 200, last: 200 });
    assert_eq!((active.path.as_deref(), active.interval), (Some("/health"), Duration::from_secs(5)));
    assert_eq!(health.passive.as_ref().unwrap().consecutive_failures, 5);
    let config = good(&pool("connections: { http2: never, response_header_timeout: 2s }"));
    assert_eq!(config.pools[0].connections.http2, Http2::Never);
    assert_eq!(config.pools[0].connections.response_header_timeout, Some(Duration::from_secs(2)));
    assert_eq!(good(&pool("host_header: app.internal")).pools[0].host_header, HostHeader::Name("app.internal".into()));
}

#[test]
fn routes_keep_what_is_written() {
    let config = good(&route("host: \"*.Example.com\""));
    let expected = sealane_model::config::HostCondition::Name(HostMatch::Wildcard("example.com".into()));
    assert_eq!(config.routes[0].host, Some(expected));
    let config = good(&route("methods: [get, POST]"));
    assert_eq!(config.routes[0].methods, ["GET", "POST"]);
    assert_eq!(good(&route("priority: -5")).routes[0].priority, -5);
    let config = good(&route("path_prefix: /a\n    rewrite: { prefix: / }"));
    assert_eq!(config.routes[0].path, PathMatch::Prefix("/a".into()));
    assert_eq!(config.routes[0].rewrite, Some(Rewrite::Prefix("/".into())));
    let config = good(&route("rewrite: { regex: ^/a/(.*)$, replacement: /b/$1 }"));
    let Some(Rewrite::Regex { regex, replacement }) = &config.routes[0].rewrite else { panic!() };
    assert_eq!((regex.as_str(), replacement.as_str()), ("^/a/(.*)$", "/b/$1"));
    assert_eq!(config.routes[0].at.line, 3);
}

#[test]
fn a_rollout_is_the_default_plan_where_nothing_is_written() {
    assert_eq!(good(&top("rollout: {}")).rollout, Some(Plan::default()));
    let config = good(&top(
        "rollout: { stages: [{ name: a, fleet_percent: 50, bake_time: 0s }, { name: b, fleet_percent: 100 }], \
         health_gates: [{ metric: p99_latency, threshold: 1s }, { metric: error_rate, threshold: 0.5 }] }",
    ));
    let plan = config.rollout.unwrap();
    assert_eq!(plan.stages.len(), 2);
    let latency = GatePlan::Latency { percentile: 99, max: Duration::from_secs(1) };
    assert_eq!(plan.gates, [latency, GatePlan::ErrorRate(0.5)]);
    assert_eq!(plan.waves, Plan::default().waves);
}

#[test]
fn a_sandbox_route_goes_before_the_path_to_its_target() {
    use sealane_model::config::TargetPath;
    let config = good(
        "sandboxes: { routes: [{ sandbox_id: s, pattern: ^/a, target_url: \"http://svc:8080/base/\", priority: 0 }] }\n",
    );
    let (route, pool) = (&config.routes[0], &config.pools[0]);
    assert_eq!((route.id.0.as_str(), route.priority), ("sandbox/s/1", 0));
    assert_eq!(route.sandbox, Some(("s".into(), 1)));
    assert_eq!(pool.endpoints[0].path, TargetPath::Prepend("/base".into()));
    assert_eq!((&pool.host_header, pool.expose_upstream_errors), (&HostHeader::Endpoint, true));
    assert_eq!(config.sandboxes.unwrap().routes, [0]);
    let off =
        good(&top("sandboxes: { enabled: false, routes: [{ sandbox_id: s, pattern: a, target_url: \"http://b\" }] }"));
    assert_eq!((off.routes.len(), off.sandboxes.unwrap().enabled), (1, false));
}

#[test]
fn keys_that_start_with_x_are_for_the_reader() {
    let config = good("x-common: &common { timeout: 2s }\nroutes:\n- to: http://a\n  x-owner: me\n  policy: *common\n");
    assert_eq!(config.routes[0].policy.timeout, Some(Duration::from_secs(2)));
}

#[test]
fn admin_without_a_host_is_loopback() {
    let config = good(&top("admin: { address: \":9090\" }"));
    assert_eq!(config.admin.unwrap().address.to_string(), "127.0.0.1:9090");
}
