//! A table of refusals for each section of the file.

use super::{errors, pool, refuses, route, suggests, top};

/// The errors of a text, features that are not there yet left out.
#[track_caller]
fn values(text: &str, expected: &[&str]) {
    let found: Vec<_> = errors(text).into_iter().filter(|error| !error.starts_with("not_supported_yet")).collect();
    assert_eq!(found, expected, "{text}");
}

#[test]
fn routes() {
    refuses(&route("path: /a\n    path_prefix: /b"), &["conflicting_keys routes[0].path_prefix"]);
    refuses(&route("pool: p"), &["conflicting_keys routes[0].to", "missing_reference routes[0].pool"]);
    refuses(&route("host: a\n    host_regex: b"), &["conflicting_keys routes[0].host_regex"]);
    suggests(&route("path: api"), "bad_path routes[0].path", "/api");
    refuses(&route("path: /a//b/%61"), &[]);
    refuses(&route("path: /é"), &[]);
    refuses(&route("path: /../a"), &["bad_path routes[0].path"]);
    refuses(&route("path: /%0"), &["bad_path routes[0].path"]);
    suggests(&route("path: /a?b=1"), "bad_path routes[0].path", "/a");
    suggests(&route("path: /a#b"), "bad_path routes[0].path", "/a");
    suggests(&route("rewrite: { path: /é }"), "bad_path routes[0].rewrite.path", "/%C3%A9");
    refuses(&route("rewrite: { path: /a?b }"), &["bad_path routes[0].rewrite.path"]);
    suggests(&route("path_prefix: https://a.com/x"), "bad_path routes[0].path_prefix", "/x");
    suggests(&route("host: a.com:80"), "bad_host routes[0].host", "a.com");
    suggests(&route("host: https://a.com/"), "bad_host routes[0].host", "a.com");
    refuses(&route("host: \"*\""), &["bad_host routes[0].host"]);
    refuses(&route("host: a.*.com"), &["bad_host routes[0].host"]);
    refuses(&route("path_regex: \"(\""), &["bad_regex routes[0].path_regex"]);
    refuses(&route("path_regex: \"\""), &["bad_regex routes[0].path_regex"]);
    refuses(&route("path_regex: \"\\\\pL{1000}{1000}\""), &["bad_regex routes[0].path_regex"]);
    refuses(&route("methods: [\"G T\"]"), &["unknown_value routes[0].methods[0]"]);
    refuses(&route("headers: { \"a b\": c }"), &["bad_header_name routes[0].headers.\"a b\""]);
    refuses(&route("headers: { a: \"b\\nc\" }"), &["bad_header_value routes[0].headers.a"]);
    refuses(&route("headers: { a: b, A: c }"), &["duplicate_key routes[0].headers.A"]);
    refuses(&route("priority: high"), &["wrong_type routes[0].priority"]);
    refuses(&route("priority: 99999999999"), &["wrong_type routes[0].priority"]);
    refuses(&route("rewrite: {}"), &["missing_key routes[0].rewrite"]);
    refuses(&route("rewrite: { path: x }"), &["bad_path routes[0].rewrite.path"]);
    refuses(&route("rewrite: { prefix: /x }"), &["conflicting_keys routes[0].rewrite.prefix"]);
    refuses(&route("rewrite: { regex: a }"), &["missing_key routes[0].rewrite.replacement"]);
    refuses(&route("rewrite: { regex: a, replacement: $1 }"), &["bad_replacement routes[0].rewrite.replacement"]);
    refuses(&route("rewrite: { path: /a, replacement: b }"), &["conflicting_keys routes[0].rewrite.replacement"]);
    values(&route("require_mtls: true"), &["missing_reference routes[0].require_mtls"]);
    values(&route("middleware: x"), &["missing_reference routes[0].middleware"]);
}

#[test]
fn look_around_is_named() {
    let problem = &super::problems(&route("path_regex: \"^/(?!admin)\""))[0];
    assert!(problem.message.contains("look-around is not supported"), "{problem:#?}");
    let problem = &super::problems(&route(r#"path_regex: '(a)\1'"#))[0];
    assert!(problem.message.contains("backreferences are not supported"), "{problem:#?}");
}

#[test]
fn endpoints() {
    let to = |to: &str| format!("routes:\n  - to: {to}\n");
    suggests(&to("http://a/base"), "path_in_address routes[0].to", "http://a");
    suggests(&to("http://a/?x=1"), "query_in_address routes[0].to", "http://a/");
    refuses(&to("http://a#x"), &["fragment_in_address routes[0].to"]);
    refuses(&to("http://u:p@a"), &["userinfo_in_address routes[0].to"]);
    suggests(&to("localhost"), "bad_address routes[0].to", "localhost:80");
    suggests(&to("ws://a"), "bad_address routes[0].to", "http://a");
    refuses(&to("[]"), &["empty_list routes[0].to"]);
    refuses(&to("[\"a:1\", \"http://a:1\"]"), &["duplicate_endpoint routes[0].to[1]"]);
    refuses(&to("{ url: \"a:1\", weight: 0 }"), &["zero_weights routes[0].to"]);
    refuses(&to("[{ url: \"a:1\", weight: -1 }]"), &["wrong_type routes[0].to[0].weight"]);
    refuses(&to("[{ url: \"a:1\", weight: 1000001 }]"), &["out_of_range routes[0].to[0].weight"]);
    refuses(&to("[{ weight: 1 }]"), &["missing_key routes[0].to[0].address"]);
    let problem = &super::problems(&to("http://a/base"))[0];
    assert!(problem.help.contains("rewrite: { path: /base }"), "{problem:#?}");
}

#[test]
fn pools() {
    suggests(&pool("balancer: roundrobin"), "unknown_value pools[0].balancer", "round_robin");
    values(&pool("balancer: consistent_hash"), &["missing_key pools[0].hash"]);
    values(&pool("balancer: consistent_hash\n    hash: { header: X-A }"), &[]);
    refuses(&pool("hash: { header: X-A }"), &["conflicting_keys pools[0].hash"]);
    refuses(&pool("host_header: \"a b\""), &["bad_host pools[0].host_header"]);
    refuses(&pool("connections: { connect_timeout: 0s }"), &["out_of_range pools[0].connections.connect_timeout"]);
    refuses(&pool("connections: { http2: yes }"), &["unknown_value pools[0].connections.http2"]);
    refuses(&pool("tls: { cert_file: /c }"), &["missing_key pools[0].tls.key_file"]);
    refuses(&pool("tls: { sni: \"a:1\" }"), &["bad_host pools[0].tls.sni"]);
    refuses(&pool("health: { active: { path: health } }"), &["bad_path pools[0].health.active.path"]);
    refuses(
        &pool("health: { active: { expected_status: 399-200 } }"),
        &["bad_status pools[0].health.active.expected_status"],
    );
    refuses(
        &pool("health: { active: { expected_status: 99 } }"),
        &["bad_status pools[0].health.active.expected_status"],
    );
    refuses(
        &pool("health: { active: { fail_threshold: 0 } }"),
        &["out_of_range pools[0].health.active.fail_threshold"],
    );
    refuses(
        &pool("health: { passive: { consecutive_failures: 0 } }"),
        &["out_of_range pools[0].health.passive.consecutive_failures"],
    );
    refuses(&pool("fail_open: { requests_per_second: -1 }"), &["out_of_range pools[0].fail_open.requests_per_second"]);
    values(&pool("outlier_detection: {}"), &["missing_key pools[0].outlier_detection.consecutive_failures"]);
    values(
        &pool("circuit_breaker: { error_threshold_percent: 101 }"),
        &["out_of_range pools[0].circuit_breaker.error_threshold_percent"],
    );
    suggests(&pool("fail_open: { requests_per_second: 5% }"), "wrong_type pools[0].fail_open.requests_per_second", "5");
    let weights =
        pool("balancer: round_robin").replace("[\"10.0.0.1:80\"]", "[{ address: \"a:1\", weight: 2 }, \"b:1\"]");
    suggests(&weights, "conflicting_keys pools[0].balancer", "weighted_round_robin");
}

#[test]
fn policies() {
    let policy = |line: &str| route(&format!("policy: {{ {line} }}"));
    refuses(&policy("retries: { max_attempts: 0 }"), &["out_of_range routes[0].policy.retries.max_attempts"]);
    refuses(&policy("retries: { on: [200] }"), &["out_of_range routes[0].policy.retries.on[0]"]);
    suggests(
        &policy("retries: { on: [connect_failur] }"),
        "unknown_value routes[0].policy.retries.on[0]",
        "connect_failure",
    );
    refuses(&policy("id: a"), &["unknown_key routes[0].policy.id"]);
    values(&policy("hedge: { after: p200 }"), &["unknown_value routes[0].policy.hedge.after"]);
    values(&policy("hedge: { after: 10ms }"), &[]);
    values(&policy("rate_limit: { burst: 1 }"), &["missing_key routes[0].policy.rate_limit.requests_per_second"]);
    values(
        &policy("rate_limit: { requests_per_second: 0 }"),
        &["out_of_range routes[0].policy.rate_limit.requests_per_second"],
    );
    values(
        &policy("rate_limit: { requests_per_second: 1, key: ip }"),
        &["unknown_value routes[0].policy.rate_limit.key"],
    );
    values(&policy("rate_limit: { requests_per_second: 1, key: \"header:X-Api-Key\" }"), &[]);
}

#[test]
fn traffic() {
    let plan = |line: &str| {
        let pools = "pools: { a: [\"a:1\"], b: [\"b:1\"] }";
        format!(
            "routes: [{{ id: r, pool: a }}, {{ pool: b, path: /b }}]\n{pools}\ntraffic_management:\n  - {{ route: r, {line} }}\n"
        )
    };
    values(&plan("canary_pool: b, canary_weight: 10"), &[]);
    values(&plan("canary_pool: b"), &["missing_key traffic_management[0].canary_weight"]);
    values(&plan("canary_weight: 1"), &["missing_key traffic_management[0].canary_pool"]);
    values(&plan("stable_pool: c"), &["missing_reference traffic_management[0].stable_pool"]);
    values(&plan("auto_brake: {}"), &["missing_key traffic_management[0].auto_brake"]);
    values(&plan("overload_protection: {}"), &["missing_key traffic_management[0].overload_protection.max_concurrent"]);
    values(
        &plan("cohort_routing: { mappings: { x: b } }"),
        &["missing_key traffic_management[0].cohort_routing.header"],
    );
    values(
        &plan("cohort_routing: { header: X, mappings: { x: c } }"),
        &["missing_reference traffic_management[0].cohort_routing.mappings.x"],
    );
    values(&plan("cohort_routing: { hash: { cookie: sid } }"), &[]);
    let twice = plan("canary_pool: b, canary_weight: 10") + "  - { route: r }\n";
    values(&twice, &["duplicate_id traffic_management[1].route"]);
    values(&plan("route: q").replace("route: r, ", ""), &["missing_reference traffic_management[0].route"]);
}

#[test]
fn middleware_cache_and_plugins() {
    let stage = |stage: &str| top(&format!("middleware: [{{ id: c, stages: [{stage}] }}]"));
    values(&stage("{ type: reqest_id }"), &["unknown_value middleware[0].stages[0].type"]);
    values(&stage("{}"), &["missing_key middleware[0].stages[0].type"]);
    values(&stage("{ type: auth }"), &["missing_key middleware[0].stages[0].config"]);
    values(
        &stage("{ type: auth, config: { jwt: { audience: a } } }"),
        &["missing_key middleware[0].stages[0].config.jwt.issuer"],
    );
    values(
        &stage("{ type: auth, config: { jwt: { issuer: me } } }"),
        &["bad_address middleware[0].stages[0].config.jwt.issuer"],
    );
    values(&stage("{ type: auth, config: { jwt: { issuer: me, jwks_file: /k } } }"), &[]);
    values(&stage("{ type: rate_limit }"), &["missing_key middleware[0].stages[0].policy_ref"]);
    values(&stage("{ type: plugin, plugin_ref: x }"), &["missing_reference middleware[0].stages[0].plugin_ref"]);
    let limit = stage("{ type: rate_limit, policy_ref: p }") + "policies: { p: { timeout: 1s } }\n";
    values(&limit, &["missing_key middleware[0].stages[0].policy_ref"]);

    let cache = |rule: &str| top(&format!("cache: [{{ {rule} }}]"));
    values(&cache("ttl: 1s"), &["missing_key cache[0].route"]);
    values(&cache("path_prefix: /s/, status: [99]"), &["out_of_range cache[0].status[0]"]);
    values(&cache("path_prefix: /s/, methods: [GET, POST]"), &["unknown_value cache[0].methods"]);
    values(&cache("path_prefix: /s/, ttl: 60"), &["bad_duration cache[0].ttl"]);
    values(&cache("route: nope"), &["missing_reference cache[0].route"]);
    values(&top("cache: { store: { max_total: 1MB } }"), &["out_of_range cache.store.max_total"]);
    values(&top("cache: { store: { pre_compress: { level: 10 } } }"), &["out_of_range cache.store.pre_compress.level"]);

    let plugin = |plugin: &str| top(&format!("plugins: [{{ id: p, {plugin} }}]"));
    values(&plugin("type: external_grpc"), &["missing_key plugins[0].address"]);
    values(&plugin("type: external_grpc, address: localhost"), &["bad_address plugins[0].address"]);
    values(&plugin("type: builtin, name: structured_loger"), &["unknown_value plugins[0].name"]);
    values(&plugin("type: wasm"), &["unknown_value plugins[0].type"]);
    values(&plugin("fail_mode: open"), &["missing_key plugins[0].type"]);
}

#[test]
fn server() {
    refuses(&top("version: 2"), &["unsupported_version version"]);
    refuses(&top("listen: :80\nlisteners: []"), &["conflicting_keys listeners"]);
    refuses(&top("listeners: []"), &["empty_list listeners"]);
    refuses(&top("listen: [\":80\", \":80\"]"), &["duplicate_id listen[1]"]);
    refuses(
        &top("listeners: [{ name: a, address: \":80\" }, { name: b, address: \":80\" }]"),
        &["duplicate_address listeners[1]"],
    );
    refuses(&top("listeners: [{ name: a }]"), &["missing_key listeners[0].address"]);
    refuses(&top("listen: example.com:80"), &["bad_address listen"]);
    refuses(&top("limits: { max_header_bytes: 1B }"), &["out_of_range limits.max_header_bytes"]);
    refuses(&top("limits: { min_body_rate: 1KB/s }"), &[]);
    refuses(&top("limits: { max_connections: 0 }"), &["out_of_range limits.max_connections"]);
    suggests(&top("trusted_proxies: [10.1.2.3/8]"), "bad_cidr trusted_proxies[0]", "10.0.0.0/8");
    refuses(
        &top("trusted_proxies: [10.0.0.0/33, \"::/129\", x]"),
        &["bad_cidr trusted_proxies[0]", "bad_cidr trusted_proxies[1]", "bad_cidr trusted_proxies[2]"],
    );
    refuses(&top("trusted_proxies: [\"2001:db8::/32\", 192.0.2.1, 0.0.0.0/0]"), &[]);
    refuses(&top("tls: { min_version: 1.1 }"), &["unknown_value tls.min_version"]);
    refuses(&top("tls: { certificates: [{ cert_file: /c }] }"), &["missing_key tls.certificates[0].key_file"]);
    values(&top("tls: { mtls: {} }"), &["missing_key tls.mtls.ca_file"]);
    refuses(&top("admin: { address: \"a:b\" }"), &["bad_address admin.address"]);
    refuses(&top("logging: { access: file }"), &["missing_key logging.file"]);
    refuses(&top("logging: { file: /x }"), &["conflicting_keys logging.file"]);
    refuses(&top("metrics: { path: metrics }"), &["bad_path metrics.path"]);
    refuses(&top("metrics: { require_token: true }"), &["missing_key metrics.token_env"]);
    values(
        &top("tracing: { sample_percent: 200 }"),
        &["missing_key tracing.otlp_endpoint", "out_of_range tracing.sample_percent"],
    );
    refuses(&top("shutdown: { drain: 5 }"), &["bad_duration shutdown.drain"]);
    let both = "listeners: [{ address: \":1\", tls: true, redirect_to: https }]\ntls: { certificates: [{ cert_file: /c, key_file: /k }] }";
    refuses(&top(both), &["conflicting_keys listeners[0].redirect_to"]);
}

#[test]
fn sandboxes() {
    let sandbox = |route: &str| format!("sandboxes: {{ routes: [{{ {route} }}] }}\n");
    refuses(
        &sandbox("sandbox_id: s"),
        &["missing_key sandboxes.routes[0].pattern", "missing_key sandboxes.routes[0].target_url"],
    );
    refuses(
        &sandbox("sandbox_id: s, pattern: \"(\", target_url: \"http://a\""),
        &["bad_regex sandboxes.routes[0].pattern"],
    );
    refuses(&sandbox("sandbox_id: s, pattern: a, target_url: a"), &["bad_address sandboxes.routes[0].target_url"]);
    refuses(
        &sandbox("sandbox_id: s, pattern: a, target_url: \"http://u@a\""),
        &["userinfo_in_address sandboxes.routes[0].target_url"],
    );
    values(
        &sandbox("sandbox_id: s, pattern: a, target_url: \"http://a\", ttl: 8"),
        &["bad_duration sandboxes.routes[0].ttl"],
    );
    let one = "{ sandbox_id: s, pattern: a, target_url: \"http://a\" }";
    refuses(&format!("sandboxes: {{ routes: [{one}, {one}] }}\n"), &["duplicate_id sandboxes.routes[1]"]);
    values(&top("sandboxes: { hosts: [\"a:1\"] }"), &["bad_host sandboxes.hosts[0]"]);
}

#[test]
fn rollouts() {
    let stages = |stages: &str| top(&format!("rollout: {{ stages: [{stages}] }}"));
    let stage = |name: &str, percent: &str| format!("{{ name: {name}, fleet_percent: {percent}, bake_time: 1m }}");
    refuses(&stages(""), &["bad_rollout rollout.stages"]);
    refuses(&stages(&stage("a", "50")), &["bad_rollout rollout.stages[0].fleet_percent"]);
    refuses(&stages(&stage("a", "0")), &["bad_rollout rollout.stages[0].fleet_percent"]);
    refuses(&stages(&stage("a", "101")), &["out_of_range rollout.stages[0].fleet_percent"]);
    suggests(&stages(&stage("a", "100%")), "wrong_type rollout.stages[0].fleet_percent", "100");
    let falls = [stage("a", "50"), stage("b", "50"), stage("c", "100")].join(", ");
    refuses(&stages(&falls), &["bad_rollout rollout.stages[1].fleet_percent"]);
    let same = [stage("a", "50"), stage("a", "100")].join(", ");
    refuses(&stages(&same), &["duplicate_id rollout.stages[1]"]);
    refuses(
        &stages("{ name: a, fleet_percent: 1 }, { name: b, fleet_percent: 100 }"),
        &["missing_key rollout.stages[0].bake_time"],
    );
    refuses(&stages("{ name: a, fleet_percent: 100, bake_time: 2h }"), &["bad_rollout rollout.stages[0].bake_time"]);
    let gate = |metric: &str, threshold: &str| {
        top(&format!("rollout: {{ health_gates: [{{ metric: {metric}, threshold: {threshold} }}] }}"))
    };
    suggests(&gate("error_rate", "5"), "out_of_range rollout.health_gates[0].threshold", "0.05");
    suggests(&gate("error_rate", "3.4%"), "out_of_range rollout.health_gates[0].threshold", "0.034");
    suggests(&gate("p95_latency", "500"), "bad_duration rollout.health_gates[0].threshold", "8m20s");
    suggests(&gate("p95latency", "500ms"), "unknown_value rollout.health_gates[0].metric", "p95_latency");
    refuses(&gate("rejected_nodes", "-1"), &["wrong_type rollout.health_gates[0].threshold"]);
    let twice = "rollout: { health_gates: [{ metric: rejected_nodes, threshold: 0 }, { metric: rejected_nodes, threshold: 1 }] }";
    refuses(&top(twice), &["duplicate_id rollout.health_gates[1].metric"]);
    let waves = |waves: &str| top(&format!("rollout: {{ waves: [{waves}] }}"));
    refuses(&waves(""), &["bad_rollout rollout.waves"]);
    refuses(&waves("{ name: a, regions: [\"*\"] }, { name: b, regions: [eu] }"), &["bad_rollout rollout.waves[1]"]);
    refuses(&waves("{ name: a, regions: [eu, eu] }"), &["duplicate_id rollout.waves[0].regions[1]"]);
    refuses(&waves("{ name: a, regions: [] }"), &["empty_list rollout.waves[0].regions"]);
    suggests(&top("rollout: { on_no_data: holds }"), "unknown_value rollout.on_no_data", "hold");
    values(&top("rollout: { slo: 100 }"), &["out_of_range rollout.slo"]);
    values(&top("rollout: { compare: { alpha: 0 } }"), &["out_of_range rollout.compare.alpha"]);
    values(
        &top("rollout: { auto_rollback: { error_budget_burn_rate: 10 } }"),
        &["wrong_type rollout.auto_rollback.error_budget_burn_rate"],
    );
    values(&top("rollout: { auto_rollback: { error_budget_burn_rate: 10x } }"), &[]);
}

#[test]
fn tests_of_a_config() {
    let test = |test: &str| top(&format!("tests: [{{ name: t, {test} }}]"));
    refuses(&test("expect: { route: \"*\" }"), &["missing_key tests[0].request"]);
    refuses(&test("request: { url: \"http://a\" }"), &["missing_key tests[0].expect"]);
    refuses(&test("request: { url: \"http://a\" }, expect: {}"), &["missing_key tests[0].expect.route"]);
    refuses(&test("request: { url: /a }, expect: { route: \"*\" }"), &["bad_url tests[0].request.url"]);
    refuses(&test("request: { url: \"http://a/b c\" }, expect: { route: \"*\" }"), &["bad_url tests[0].request.url"]);
    refuses(
        &test("request: { url: \"http://a\", method: \"a b\" }, expect: { route: \"*\" }"),
        &["unknown_value tests[0].request.method"],
    );
    refuses(&test("request: { url: \"http://[::1]:80/x?y\" }, expect: { route: \"*\" }"), &[]);
}
