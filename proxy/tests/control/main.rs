//! A real proxy attached to a fake agent that sends real signed documents.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails is the test")]

mod attack;
mod attack_by_name;
mod fake;
mod flow;
mod restart;
