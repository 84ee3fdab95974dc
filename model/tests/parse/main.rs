//! Config files as users write them: what loads, what is refused, and where the problem is shown.

use sealane_model::config::Config;
use sealane_model::parse::{Reader, parse};
use sealane_model::problem::{Problem, Severity};

mod broken;
mod codes;
mod defaults;
mod middleware;
mod mutation;
mod refusals;
mod samples;
mod sections;
mod self_tests;
mod small_formats;
mod support;
mod warnings;

/// The config of a text without errors.
#[track_caller]
fn good(text: &str) -> Config {
    match parse("f.yaml", text, Reader::Local) {
        Ok((config, _)) => config,
        Err(problems) => panic!("{text}\n{problems:#?}"),
    }
}

/// Every problem of a text, warnings too.
fn problems(text: &str) -> Vec<Problem> {
    match parse("f.yaml", text, Reader::Local) {
        Ok((_, warnings)) => warnings,
        Err(problems) => problems,
    }
}

/// The errors of a text as `code path`, in source order.
fn errors(text: &str) -> Vec<String> {
    let errors = problems(text).into_iter().filter(|problem| problem.severity == Severity::Error);
    errors.map(|problem| format!("{} {}", problem.code, problem.path)).collect()
}

/// The text has exactly these errors.
#[track_caller]
fn refuses(text: &str, expected: &[&str]) {
    assert_eq!(errors(text), expected, "{text}");
}

/// The text has one error, with this suggestion.
#[track_caller]
fn suggests(text: &str, code_and_path: &str, suggestion: &str) {
    let problems: Vec<_> = problems(text).into_iter().filter(|p| p.severity == Severity::Error).collect();
    let [problem] = problems.as_slice() else { panic!("{text}\n{problems:#?}") };
    assert_eq!(format!("{} {}", problem.code, problem.path), code_and_path, "{text}");
    assert_eq!(problem.suggestion.as_deref(), Some(suggestion), "{text}\n{problem:#?}");
}

/// A whole file around one line of a route.
fn route(line: &str) -> String {
    format!("listen: :8080\nroutes:\n  - to: http://a\n    {line}\n")
}

/// A whole file around one line of a pool.
fn pool(line: &str) -> String {
    format!("routes: [{{ pool: p }}]\npools:\n  - id: p\n    endpoints: [\"10.0.0.1:80\"]\n    {line}\n")
}

/// A whole file around some top-level lines.
fn top(lines: &str) -> String {
    format!("routes: [{{ to: http://a }}]\n{lines}\n")
}
