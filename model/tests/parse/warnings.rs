//! What works but is probably not meant.

use super::{good, problems, route, top};

#[track_caller]
fn warns(text: &str, expected: &[&str]) {
    good(text);
    let found: Vec<_> = problems(text).into_iter().map(|p| format!("{} {}", p.code, p.path)).collect();
    assert_eq!(found, expected, "{text}");
}

#[test]
fn of_routes_with_the_same_matchers_the_one_tried_later_is_named() {
    warns("routes: [{ path: /a, to: \"http://a\" }, { path: /a, to: \"http://b\" }]", &["unreachable_route routes[1]"]);
    let first_loses = "routes: [{ path: /a, to: \"http://a\" }, { path: /a, to: \"http://b\", priority: 1 }]";
    warns(first_loses, &["unreachable_route routes[0]"]);
    let order = "routes: [{ methods: [GET, PUT], headers: { a: b, c: d }, to: \"http://a\" }, \
                 { methods: [put, get], headers: { C: d, A: b }, to: \"http://b\" }]";
    warns(order, &["unreachable_route routes[1]"]);
    warns("routes: [{ path: /a, to: \"http://a\" }, { path_prefix: /a, to: \"http://b\" }]", &[]);
    warns("routes: [{ path: /a, to: \"http://a\" }, { path: /a, methods: [GET], to: \"http://b\" }]", &[]);
}

#[test]
fn a_method_that_nobody_knows_is_named_with_the_one_that_was_meant() {
    let methods = |list: &str| format!("routes: [{{ methods: [{list}], to: \"http://a\" }}]");
    warns(&methods("GTE, POST"), &["unknown_method routes[0].methods[0]"]);
    assert_eq!(problems(&methods("GTE"))[0].suggestion.as_deref(), Some("GET"));
    warns(&methods("get, PROPFIND, QUERY, Purge"), &[]);
    warns(&methods("FROBNICATE"), &["unknown_method routes[0].methods[0]"]);
    assert!(problems(&methods("FROBNICATE"))[0].help.contains("keep it"));
}

#[test]
fn what_follows_from_an_error_is_not_warned_about() {
    let codes = |text: &str| problems(text).into_iter().map(|p| p.code).collect::<Vec<_>>();
    let broken = "routes: [{ path_regex: \"(\", to: \"http://a\" }, { path_regex: \")\", to: \"http://b\" }]";
    assert_eq!(codes(broken), ["bad_regex", "bad_regex"]);
    let misspelt = "routes: [{ pool: api-pol }]\npools: [{ id: api-pool, endpoints: [\"a:1\"] }]";
    assert_eq!(codes(misspelt), ["missing_reference"]);
}

#[test]
fn what_nothing_uses_is_named() {
    warns(&top("pools: { p: [\"a:1\"] }"), &["unused_pool pools.p"]);
    warns(&top("pools: [{ id: p, endpoints: [\"a:1\"] }]"), &["unused_pool pools[0].id"]);
    warns(&top("policies: { p: { timeout: 1s } }"), &["unused_policy policies.p"]);
    warns("routes: [{ pool: p }]\npools: { p: [\"a:1\"] }", &[]);
}

#[test]
fn cache_rules_that_should_be_meant_are_named() {
    let cache = |rule: &str| top(&format!("cache: [{{ path_prefix: /, {rule} }}]"));
    warns(&cache("auth_aware: true"), &["caches_authorised cache[0].auth_aware"]);
    warns(&cache("vary_headers: [Authorization]"), &["varies_on_credentials cache[0].vary_headers"]);
    warns(&cache("vary_headers: [Accept]"), &[]);
    warns(&cache("ttl: 2h"), &["long_ttl cache[0].ttl"]);
    warns(&cache("ttl: 1h"), &[]);
}

#[test]
fn a_plugin_without_which_everybody_is_refused_is_named() {
    let with = |route: &str, plugin: &str| {
        format!(
            "routes: [{{ to: \"http://a\", middleware: c{route} }}]\nmiddleware: {{ c: [{{ type: plugin, plugin_ref: p }}] }}\n\
             tls: {{ mtls: {{ enabled: true, ca_file: ca.crt }} }}\nplugins: {{ p: {{ type: {plugin} }} }}\n"
        )
    };
    let external = "external_grpc, address: \"a:1\"";
    warns(&with("", external), &["public_fail_closed plugins.p"]);
    let closed = format!("{external}, fail_mode: closed");
    warns(&with("", &closed), &["public_fail_closed plugins.p.fail_mode"]);
    warns(&with("", &format!("{external}, fail_mode: open")), &[]);
    warns(&with(", require_mtls: true", external), &[]);
    warns(&with("", "builtin, name: structured_logger"), &[]);
}

#[test]
fn a_config_has_no_more_plugins_than_metrics_can_name() {
    let plugins = |count: usize| {
        let one = |number| format!("p{number}: {{ type: builtin, name: structured_logger }}");
        top(&format!("plugins: {{ {} }}", (0..count).map(one).collect::<Vec<_>>().join(", ")))
    };
    warns(&plugins(200), &[]);
    assert!(problems(&plugins(201)).iter().any(|problem| problem.code == "out_of_range"));
}

#[test]
fn other_warnings() {
    warns("routes: []", &["no_routes routes"]);
    warns(&route(r#"host: "^a$""#), &["regex_in_host routes[0].host"]);
    warns(&top("rollout: { health_gates: [] }"), &["no_gates rollout.health_gates"]);
    warns(&top("rollout: { waves: [{ name: a, regions: [eu] }] }"), &["regions_left_out rollout.waves"]);
    warns(&route("methods: [GET, get]"), &["repeated_value routes[0].methods[1]"]);
    let insecure =
        "routes: [{ pool: p }]\npools: { p: { endpoints: [\"https://a\"], tls: { insecure_skip_verify: true } } }";
    warns(insecure, &["insecure_skip_verify pools.p.tls.insecure_skip_verify"]);
}
