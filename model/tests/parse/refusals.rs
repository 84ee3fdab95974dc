//! Each refusal that is not about one section: the traps of YAML, references, secrets, and that nothing hides another.

use sealane_model::parse::{Reader, parse};

use super::{errors, pool, problems, refuses, route, suggests, top};

#[test]
fn unknown_keys_name_the_nearest_one() {
    suggests(&route("polciy: x"), "unknown_key routes[0].polciy", "policy");
    suggests(&route("pathPrefix: /x"), "unknown_key routes[0].pathPrefix", "path_prefix");
    suggests(&route("server_name: x"), "unknown_key routes[0].server_name", "host");
    suggests(&top("locations: []"), "unknown_key locations", "routes");
    suggests(&pool("lb_policy: x"), "unknown_key pools[0].lb_policy", "balancer");
    suggests(&top("listen:8080: "), "unknown_key \"listen:8080\"", "listen: 8080");
    let misplaced = &problems(&route("timeout: 3s"))[0];
    assert!(misplaced.help.contains("policy: { timeout: … }"), "{misplaced:#?}");
}

#[test]
fn the_traps_of_yaml_are_named_with_the_correction() {
    for word in ["on", "yes", "True", "\"true\"", "1"] {
        suggests(&top(&format!("metrics: {{ enabled: {word} }}")), "wrong_type metrics.enabled", "true");
    }
    for word in ["off", "no", "FALSE"] {
        suggests(&top(&format!("metrics: {{ enabled: {word} }}")), "wrong_type metrics.enabled", "false");
    }
    suggests(&route("policy: { timeout: 3 }"), "bad_duration routes[0].policy.timeout", "3s");
    suggests(&top("shutdown: { drain: 1d }"), "bad_duration shutdown.drain", "24h");
    suggests(&top("shutdown: { drain: 1.5h }"), "bad_duration shutdown.drain", "1h30m");
    suggests(&top("limits: { max_body_bytes: 1048576 }"), "bad_size limits.max_body_bytes", "1MB");
    suggests(&top("limits: { max_headers: \"200\" }"), "wrong_type limits.max_headers", "200");
    suggests(&top("limits: { max_headers: 1_000 }"), "wrong_type limits.max_headers", "1000");
    suggests(&top("listen: 8080"), "bad_address listen", "\":8080\"");
    suggests(&top("listen: ::1:8080"), "bare_ipv6 listen", "\"[::1]:8080\"");
    suggests("routes: [{ to: 2001:db8::1 }]", "bare_ipv6 routes[0].to", "\"[2001:db8::1]:80\"");
    suggests("routes: [{ to: {10.0.0.1:80} }]", "wrong_type routes[0].to", "\"10.0.0.1:80\"");
    suggests("routes: [{ to: {\"10.0.0.1\":80} }]", "wrong_type routes[0].to", "\"10.0.0.1:80\"");
    suggests(&route("methods: GET"), "wrong_type routes[0].methods", "[GET]");
    suggests(&route("id: [a]"), "wrong_type routes[0].id", "a");
    refuses(&route("headers: [a]"), &["wrong_type routes[0].headers"]);
    refuses(&route("policy: [a]"), &["wrong_type routes[0].policy"]);
    refuses("routes: { a: 1 }\n", &["wrong_type routes"]);
    refuses("routes: [x]\n", &["wrong_type routes[0]"]);
    refuses("- a\n", &["wrong_type "]);
    refuses("hello\n", &["wrong_type "]);
    refuses("routes:\n\t- to: a\n", &["tab "]);
    refuses(&route("rewrite:"), &["empty_value routes[0].rewrite"]);
    refuses("routes:\nlisten: :80\n", &["empty_value routes"]);
}

#[test]
fn a_bare_ipv6_list_is_named_in_the_help() {
    let text = "routes: [{ to: \"http://a\" }]\nlisteners: [{ address: [::1] }]\n";
    let problem = &problems(text)[0];
    assert_eq!((problem.code.as_str(), problem.path.as_str()), ("wrong_type", "listeners[0].address"));
    assert!(problem.help.contains("\"[::1]:80\""), "{problem:#?}");
}

#[test]
fn every_problem_is_reported_in_source_order() {
    let text = "listen: 80\nroutes:\n  - pol: a\n    path: x\n    policy: { timeout: 1d, retries: { max_attempts: 0 } }\n\
                \x20   pool: nowhere\npools:\n  - id: a\n    endpoints: [\"b:99999\"]\n    balancer: robin\n";
    refuses(
        text,
        &[
            "bad_address listen",
            "unknown_key routes[0].pol",
            "bad_path routes[0].path",
            "bad_duration routes[0].policy.timeout",
            "out_of_range routes[0].policy.retries.max_attempts",
            "missing_reference routes[0].pool",
            "bad_address pools[0].endpoints[0]",
            "unknown_value pools[0].balancer",
        ],
    );
}

#[test]
fn a_problem_points_at_its_token() {
    let text = "routes:\n  - to: http://a\n    methods: [GET, \"P T\"]  # é\n";
    let problem = &problems(text)[0];
    assert_eq!((problem.line, problem.column, problem.end_column), (3, 20, 25));
    assert_eq!(problem.path, "routes[0].methods[1]");
    // Columns are characters, whatever their bytes, and a BOM is none.
    let text = "\u{feff}routes: [{ x-é: 日本, to: \"http://a\", pol: 1 }]\n";
    let problem = &problems(text)[0];
    assert_eq!((problem.line, problem.column, problem.end_column), (1, 37, 40));
}

#[test]
fn references_must_exist_and_name_the_nearest() {
    let text = "routes: [{ pool: api-pol }]\npools: [{ id: api-pool, endpoints: [\"a:1\"] }]\n";
    suggests(text, "missing_reference routes[0].pool", "api-pool");
    refuses(&route("policy: nope"), &["missing_reference routes[0].policy"]);
    refuses("routes: [{ id: a }]\n", &["missing_reference routes[0].pool"]);
    refuses("listen: :80\n", &["missing_reference routes"]);
    let expect =
        |what: &str| top(&format!("tests: [{{ name: t, request: {{ url: \"http://a\" }}, expect: {{ {what} }} }}]"));
    refuses(&expect("route: nope"), &["missing_reference tests[0].expect.route"]);
    refuses(&expect("pool: nope"), &["missing_reference tests[0].expect.pool"]);
    refuses(&expect("route: null"), &[]);
    let https = top("listeners: [{ address: \":443\", tls: true }]");
    refuses(&https, &["missing_reference listeners[0].tls"]);
}

#[test]
fn ids_are_unique_and_plain() {
    let pools = "pools: [{ id: p, endpoints: [\"a:1\"] }, { id: p, endpoints: [\"a:1\"] }]\n";
    refuses(&format!("routes: [{{ pool: p }}]\n{pools}"), &["duplicate_id pools[1].id"]);
    let routes = "routes: [{ id: r, to: \"http://a\" }, { id: r, path: /x, to: \"http://a\" }]\n";
    refuses(routes, &["duplicate_id routes[1].id"]);
    refuses(&route("id: \"a b\""), &["bad_id routes[0].id"]);
    refuses(&route("id: sandbox/a/1"), &["bad_id routes[0].id"]);
    refuses("routes: [{ pool: route/a }]\npools: { route/a: [\"a:1\"] }\n", &["bad_id pools.\"route/a\""]);
    refuses(
        "routes: [{ pool: p }]\npools: [{ endpoints: [\"a:1\"] }]\n",
        &["missing_reference routes[0].pool", "missing_key pools[0].id"],
    );
    refuses("routes: [{ pool: p }]\npools: { p: { id: p, endpoints: [\"a:1\"] } }\n", &["conflicting_keys pools.p.id"]);
}

#[test]
fn secrets_stay_out_of_the_file() {
    let key = "tls: { certificates: [{ cert_file: /c, key_file: \"-----BEGIN PRIVATE KEY-----\\nMII\" }] }";
    refuses(&top(key), &["secret_literal tls.certificates[0].key_file"]);
    let block = "tls:\n  certificates:\n    - cert_file: /c\n      key: |\n        -----BEGIN EC PRIVATE KEY-----\n        MII\n";
    let found = errors(&top(block));
    assert!(found.contains(&"secret_literal tls.certificates[0].key".to_owned()), "{found:?}");
    for problem in problems(&top(key)) {
        assert!(!problem.message.contains("MII"), "{problem:#?}");
    }
    refuses(&route("host: \"${env:HOST}\""), &["bad_regex routes[0].host", "reference_not_allowed routes[0].host"]);
    refuses(&pool("tls: { ca_file: \"${file:/x}\" }"), &["reference_not_allowed pools[0].tls.ca_file"]);
    let chain = |value: &str| {
        let stage = format!("{{ type: header_transform, config: {{ add: {{ Authorization: \"{value}\" }} }} }}");
        let found = errors(&top(&format!("middleware: [{{ id: c, stages: [{stage}] }}]")));
        found.into_iter().filter(|error| !error.starts_with("not_supported_yet")).collect::<Vec<_>>()
    };
    assert_eq!(chain("Bearer x"), ["secret_literal middleware[0].stages[0].config.add.Authorization"]);
    assert_eq!(chain("Bearer ${env:SEALANE_SECRET_X}"), [""; 0]);
    let token = &problems(&top("metrics: { require_token: true, token_env: \"s3cr-et\" }"))[0];
    assert_eq!(token.code, "bad_name");
    assert!(!token.message.contains("s3cr"), "{token:#?}");
}

#[test]
fn a_fleet_revision_may_not_set_admin() {
    let text = top("admin: { address: \":9090\" }");
    assert!(parse("f", &text, Reader::Local).is_ok());
    let problems = parse("f", &text, Reader::Fleet).unwrap_err();
    assert_eq!((problems[0].code.as_str(), problems[0].path.as_str()), ("not_allowed_in_fleet", "admin"));
}

#[test]
fn the_number_of_problems_is_bounded() {
    let text = format!("routes:\n{}", "- { pol: 1, to: \"http://a\" }\n".repeat(20_000));
    let problems = problems(&text);
    assert_eq!(problems.len(), 10_001);
    let last = problems.last().unwrap();
    assert_eq!(last.code, "too_many_problems");
    assert!(last.message.starts_with("29999 ") || last.message.starts_with("10000 "), "{}", last.message);
}

#[test]
fn common_slips_of_yaml_are_named_where_they_are() {
    let first = |text: &str| problems(text).into_iter().next().expect("it is not YAML");
    let problem = first("listen: [::1]:8080\nroutes: []\n");
    assert_eq!((problem.line, problem.column, problem.end_column), (1, 9, 19), "{problem:#?}");
    assert_eq!(problem.suggestion.as_deref(), Some("\"[::1]:8080\""));
    let problem = first("routes:\n  - to: \"http://a\n    path: /a\n");
    assert_eq!((problem.line, problem.column), (2, 9), "{problem:#?}");
    assert!(problem.message.contains("not closed"), "{problem:#?}");
    let problem = first("routes:\n  - path:/a\n    to: http://a\n");
    assert!(problem.help.contains("`path: /a`"), "{problem:#?}");
    let problem = first("routes:\n  - path: /a\n   to: http://a\n");
    assert!(problem.help.contains("one column"), "{problem:#?}");
}
