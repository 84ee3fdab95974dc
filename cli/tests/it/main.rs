//! The binary from outside: what it prints, where, and how it exits. Authorities are fakes with canned answers.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod backend;
mod fake;
mod fleet;
mod help;
mod keys;
mod offline;
mod publish;
mod reference;
mod rollout;
mod tls;

use std::process::Output;

/// `sealane`, in a surrounding without settings of the person who runs the tests.
fn sealane() -> assert_cmd::Command {
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_sealane"));
    command.env_clear().env("NO_COLOR", "1").env("TERM", "dumb").timeout(std::time::Duration::from_secs(60));
    command
}

fn run(arguments: &[&str]) -> Output {
    sealane().args(arguments).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
