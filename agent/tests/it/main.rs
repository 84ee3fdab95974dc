//! An agent between a fake authority that signs real documents and fake proxies that speak the real protocol.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails is the test")]

mod attack;
mod attack_by_name;
mod disk;
mod enrol;
mod fake;
mod flow;
mod http;
mod restart;
mod rotation;
mod sandbox;
