//! A config's own tests are run against its own decisions.

use sealane_model::selftest::run_tests;

use super::good;

const ROUTES: &str = "routes:\n  - { id: api, host: api.example.com, path_prefix: /v1/, pool: p, query: { debug: 1 } }\n\
                      \x20 - { id: web, host: example.com, to: \"http://a\", headers: { X-A: b } }\npools: { p: [\"a:1\"] }\n";

#[track_caller]
fn run(test: &str) -> Vec<(String, u32)> {
    let config = good(&format!("{ROUTES}tests:\n  - {{ name: t, {test} }}\n"));
    run_tests(&config).into_iter().map(|problem| (problem.message, problem.line)).collect()
}

#[test]
fn a_test_that_holds_says_nothing() {
    assert_eq!(
        run("request: { url: \"https://API.example.com:8443/v1/x?debug=1\" }, expect: { route: api, pool: p }"),
        []
    );
    assert_eq!(run("request: { url: \"http://example.com/\", headers: { x-a: b } }, expect: { route: web }"), []);
    assert_eq!(run("request: { url: \"http://example.com/\" }, expect: { route: null }"), []);
}

#[test]
fn a_test_that_fails_names_what_was_decided_and_its_line() {
    let message = "test `t`: expected route `web`, found route `api`".to_owned();
    let url = "request: { url: \"http://api.example.com/v1/x?debug=1\" }";
    assert_eq!(run(&format!("{url}, expect: {{ route: web }}")), [(message, 6)]);
    let message = "test `t`: expected no route, found route `api`".to_owned();
    assert_eq!(run(&format!("{url}, expect: {{ route: null }}")), [(message, 6)]);
    let message = "test `t`: expected pool `p`, found no route".to_owned();
    assert_eq!(run("request: { url: \"http://x/\" }, expect: { pool: p }"), [(message, 6)]);
    let message = "test `t`: the path is refused with 400".to_owned();
    assert_eq!(run("request: { url: \"http://x/%00\" }, expect: { route: null }"), [(message, 6)]);
}
