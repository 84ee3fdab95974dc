//! Middleware chains: what each stage takes, and what it refuses.

use std::time::Duration;

use sealane_model::config::{AcceptId, CorsOrigin, JwksSource, JwtAlgorithm, RedirectPiece, Stage};

use super::{good, problems, refuses, suggests, top};

fn stages(stages: &str) -> String {
    top(&format!("middleware: [{{ id: c, stages: [{stages}] }}]"))
}

fn first(text: &str) -> Stage {
    good(&stages(text)).middleware[0].stages[0].clone()
}

/// One stage has exactly these errors; paths start below it.
#[track_caller]
fn stage_refuses(text: &str, expected: &[&str]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|error| {
            let (code, path) = error.split_once(' ').unwrap_or((error, ""));
            let dot = if path.is_empty() { "" } else { "." };
            format!("{code} middleware[0].stages[0]{dot}{path}")
        })
        .collect();
    refuses(&stages(text), &expected.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn stages_without_options_may_be_written_as_their_names() {
    let chain = good(&stages("request_id, { type: access_log }, access_log")).middleware[0].clone();
    assert!(matches!(&chain.stages[0], Stage::RequestId(id) if id.header == "X-Request-Id" && id.response));
    assert_eq!(chain.stages[1], Stage::AccessLog { sample_percent: 100.0 });
    assert_eq!(chain.stages[1], chain.stages[2]);
    suggests(&stages("auth"), "wrong_type middleware[0].stages[0]", "type: auth");
    stage_refuses("{ type: access_log, config: { sample: 1 } }", &["unknown_key config.sample"]);
    stage_refuses("{ type: access_log, config: { sample_percent: 101 } }", &["out_of_range config.sample_percent"]);
}

#[test]
fn request_ids() {
    let stage = first("{ type: request_id, config: { header: X-Trace, accept: trusted, response: false } }");
    assert!(matches!(stage, Stage::RequestId(id) if id.header == "X-Trace" && id.accept == AcceptId::Trusted));
    stage_refuses("{ type: request_id, config: { accept: all } }", &["unknown_value config.accept"]);
    stage_refuses("{ type: request_id, config: { header: Content-Length } }", &["bad_header_name config.header"]);
    stage_refuses("{ type: request_id, config: { header: 'a b' } }", &["bad_header_name config.header"]);
}

#[test]
fn tokens() {
    let jwt = |more: &str| format!("{{ type: auth, config: {{ jwt: {{ issuer: 'https://a.test', {more} }} }} }}");
    let Stage::Auth(found) =
        first(&jwt("audience: [a, b], algorithms: [ES256, EdDSA], leeway: 5s, forward_token: false, \
                                         claims_to_headers: { sub: X-User }"))
    else {
        panic!("no auth stage")
    };
    assert_eq!((found.audiences.len(), found.leeway, found.forward_token), (2, Duration::from_secs(5), false));
    assert_eq!(found.algorithms, [JwtAlgorithm::Es256, JwtAlgorithm::EdDsa]);
    assert_eq!(found.claims_to_headers, [("sub".to_owned(), "X-User".to_owned())]);
    assert_eq!(found.jwks, JwksSource::Discovery);
    let Stage::Auth(found) = first(&jwt("audience: a, jwks_url: 'https://a.test/keys'")) else {
        panic!("no auth stage")
    };
    assert_eq!((found.audiences, found.leeway), (vec!["a".to_owned()], Duration::from_secs(60)));

    stage_refuses(&jwt("jwks_file: /k, jwks_url: 'https://a'"), &["conflicting_keys config.jwt.jwks_url"]);
    stage_refuses(&jwt("algorithms: [none]"), &["unknown_value config.jwt.algorithms[0]"]);
    stage_refuses(&jwt("algorithms: []"), &["empty_value config.jwt.algorithms"]);
    stage_refuses(&jwt("algorithms: [HS256]"), &["conflicting_keys config.jwt.algorithms[0]"]);
    good(&stages(&jwt("algorithms: [HS256], jwks_file: /k")));
    stage_refuses(&jwt("audience: []"), &["empty_value config.jwt.audience"]);
    stage_refuses(&jwt("leeway: 1h"), &["out_of_range config.jwt.leeway"]);
    stage_refuses(&jwt("jwks_file: /k, ca_file: /c"), &["conflicting_keys config.jwt.ca_file"]);
    stage_refuses(&jwt("jwks_url: 'ftp://a'"), &["bad_address config.jwt.jwks_url"]);
    stage_refuses(&jwt("claims_to_headers: { sub: Host }"), &["bad_header_name config.jwt.claims_to_headers.sub"]);
    stage_refuses(&jwt("claims_to_headers: { a: X-A, b: x-a }"), &["duplicate_key config.jwt.claims_to_headers.b"]);
    suggests(
        &stages(&jwt("jwks_uri: 'https://a'")),
        "unknown_key middleware[0].stages[0].config.jwt.jwks_uri",
        "jwks_url",
    );
    let warned = problems(&stages(&jwt("jwks_url: 'http://keys.test/'")));
    assert_eq!(warned[0].code, "plain_text_keys");
    assert_eq!(problems(&stages(&jwt("jwks_url: 'http://127.0.0.1:8080/'"))), []);
}

#[test]
fn header_edits() {
    let Stage::HeaderTransform(edits) =
        first("{ type: header_transform, config: { remove: [X-A], response: { set: { Server: me } } } }")
    else {
        panic!("no header_transform stage")
    };
    assert_eq!((edits.request.remove, edits.response.set.len()), (vec!["x-a".to_owned()], 1));
    let edit = |edits: &str| format!("{{ type: header_transform, config: {{ {edits} }} }}");
    for (edits, path) in [
        ("set: { Host: a }", "bad_header_name config.set.Host"),
        ("add: { Transfer-Encoding: chunked }", "bad_header_name config.add.Transfer-Encoding"),
        ("remove: [content-length]", "bad_header_name config.remove[0]"),
        ("response: { remove: [Connection] }", "bad_header_name config.response.remove[0]"),
        ("request: { set: { a: b } }, add: { c: d }", "conflicting_keys config.add"),
        ("add: { X-A: \"a\\nb\" }", "bad_header_value config.add.X-A"),
        ("add: { X-Api-Key: abc }", "secret_literal config.add.X-Api-Key"),
    ] {
        stage_refuses(&edit(edits), &[path]);
    }
}

#[test]
fn cross_origin() {
    let cors = |config: &str| format!("{{ type: cors, config: {{ {config} }} }}");
    let Stage::Cors(found) =
        first(&cors("origins: ['https://A.test:443', 'http://*.b.test:8080', 'http://[::1]:3000']"))
    else {
        panic!("no cors stage")
    };
    let below = CorsOrigin::Below { scheme: "http://".to_owned(), suffix: ".b.test:8080".to_owned() };
    let exact = |text: &str| CorsOrigin::Exact(text.to_owned());
    assert_eq!(found.origins, [exact("https://a.test"), below, exact("http://[::1]:3000")]);
    assert_eq!((found.methods.len(), found.headers, found.max_age), (3, Some(vec![]), Duration::from_secs(600)));
    let Stage::Cors(any) = first(&cors("origins: ['*'], methods: ['*'], headers: '*'")) else {
        panic!("no cors stage")
    };
    assert_eq!((any.methods.len(), any.headers), (0, None));
    stage_refuses(&cors("methods: [GET]"), &["missing_key config.origins"]);
    stage_refuses(&cors("origins: []"), &["empty_value config.origins"]);
    stage_refuses(&cors("origins: ['*'], credentials: true"), &["conflicting_keys config.origins"]);
    for bad in [
        "a.test",
        "https://a.test/",
        "https://a.test/x",
        "https://",
        "https://a b",
        "https://*",
        "https://a.*.test",
        "null",
    ] {
        stage_refuses(&cors(&format!("origins: ['{bad}']")), &["bad_origin config.origins[0]"]);
    }
    suggests(
        &stages(&cors("origins: ['*'], allow_methods: [GET]")),
        "unknown_key middleware[0].stages[0].config.allow_methods",
        "methods",
    );
    let late = problems(&stages(&format!(
        "{{ type: auth, config: {{ jwt: {{ issuer: a, jwks_file: /k }} }} }}, {}",
        cors("origins: ['*']")
    )));
    assert!(late.iter().any(|problem| problem.code == "preflight_refused"));
}

#[test]
fn redirects() {
    let redirect = |config: &str| format!("{{ type: redirect, config: {{ {config} }} }}");
    let Stage::Redirect(found) = first(&redirect("to: 'https://{host}/x{path}{query}'")) else { panic!("no redirect") };
    let text = |text: &str| RedirectPiece::Text(text.to_owned());
    assert_eq!(
        found.to,
        [text("https://"), RedirectPiece::Host, text("/x"), RedirectPiece::Path, RedirectPiece::Query]
    );
    assert_eq!(found.status, 308);
    for (config, error) in [
        ("{}", "missing_key config.to"),
        ("status: 200, to: /x", "unknown_value config.status"),
        ("to: x", "bad_address config.to"),
        ("to: //evil.test/", "bad_address config.to"),
        ("to: 'https://{path}'", "bad_address config.to"),
        ("to: 'javascript:alert(1)'", "bad_address config.to"),
        ("to: 'https://a/{what}'", "unknown_value config.to"),
        ("to: 'https://a/{path'", "unknown_value config.to"),
        ("to: /x, https: true", "conflicting_keys config.https"),
        ("host: 'a/b'", "bad_host config.host"),
        ("path: x", "bad_path config.path"),
    ] {
        let config = if config == "{}" { "" } else { config };
        stage_refuses(&redirect(config), &[error]);
    }
}

#[test]
fn a_limit_by_claim_needs_a_token_before_it() {
    let limit = "{ type: rate_limit, config: { requests_per_second: 1, key: 'claim:sub' } }";
    stage_refuses(limit, &["bad_order"]);
    good(&stages(&format!("{{ type: auth, config: {{ jwt: {{ issuer: a, jwks_file: /k }} }} }}, {limit}")));
}
