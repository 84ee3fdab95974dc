//! `validate`: no network, every problem, exit 3.

use serde_json::Value;

use super::{code, err, out, sealane};

const VALID: &str = "\
listen: :8080
routes:
  - path_prefix: /api/
    to: http://localhost:3000
  - to: [http://localhost:5173, http://localhost:5174]
";

const INVALID: &str = "\
listen: :8080
routes:
  - path_prefix: /api/
    pool: api-v2
  - path_prefix: /v1/
    to: http://localhost:3000
    polcy: strict
";

const FAILING_TEST: &str = "\
listen: :8080
routes:
  - id: api
    path_prefix: /api/
    to: http://localhost:3000
tests:
  - name: users go to the api
    request: { url: http://example.com/users }
    expect: { route: api }
";

fn validate(text: &str, arguments: &[&str]) -> std::process::Output {
    sealane().args(["validate", "-"]).args(arguments).write_stdin(text).output().unwrap()
}

#[test]
fn a_valid_file_is_said_to_be_so() {
    let output = validate(VALID, &[]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    assert!(out(&output).ends_with("<stdin>: valid: 2 routes, 2 pools\n"), "{}", out(&output));
    assert_eq!(out(&validate(VALID, &["-o", "json"])), "[]\n");
}

#[test]
fn every_problem_is_shown_with_its_line() {
    let output = validate(INVALID, &[]);
    assert_eq!(code(&output), 3);
    insta::assert_snapshot!("validate_problems", format!("{}----\n{}", out(&output), err(&output)));
}

#[test]
fn problems_as_json_have_their_place() {
    let output = validate(INVALID, &["-o", "json"]);
    assert_eq!(code(&output), 3);
    let problems: Value = serde_json::from_slice(&output.stdout).unwrap();
    let problems = problems.as_array().unwrap();
    let lines: Vec<_> = problems.iter().map(|problem| (problem["code"].as_str().unwrap(), &problem["line"])).collect();
    assert!(lines.iter().any(|(code, line)| *code == "missing_reference" && **line == 4), "{lines:?}");
    assert!(lines.iter().any(|(code, line)| *code == "unknown_key" && **line == 7), "{lines:?}");
    for key in ["code", "severity", "message", "file", "line", "column", "end_column", "path", "help", "suggestion"] {
        assert!(problems[0].get(key).is_some(), "{key}");
    }
}

#[test]
fn annotations_name_file_and_line() {
    let output = validate(INVALID, &["-o", "github"]);
    assert_eq!(code(&output), 3);
    assert!(out(&output).lines().any(|line| line.starts_with("::error file=<stdin>,line=4,")), "{}", out(&output));
}

#[test]
fn a_failed_test_of_the_file_is_a_problem() {
    let output = validate(FAILING_TEST, &["-o", "json"]);
    assert_eq!(code(&output), 3, "{}", err(&output));
    let problems: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(problems[0]["code"], "test_failed");
    assert_eq!(problems[0]["file"], "<stdin>");
}

#[test]
fn a_file_that_is_missing_or_empty_is_invalid() {
    let output = super::run(&["validate", "/nonexistent/fleet.yaml"]);
    assert_eq!(code(&output), 3);
    assert!(err(&output).starts_with("error: cannot read `/nonexistent/fleet.yaml`: "), "{}", err(&output));
    assert_eq!(code(&validate("", &[])), 3);
}

#[test]
fn what_only_one_machine_may_say_is_refused_for_a_fleet() {
    let text = format!("{VALID}admin: {{ address: \"127.0.0.1:9090\" }}\n");
    assert_eq!(code(&validate(&text, &[])), 0);
    let output = validate(&text, &["--fleet"]);
    assert_eq!(code(&output), 3);
    assert!(out(&output).contains("not_allowed_in_fleet"), "{}", out(&output));
}
