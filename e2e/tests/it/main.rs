//! Real processes, real sockets.

mod admin;
mod cold_start;
mod disasters;
mod distribution;
mod faults;
mod losses;
mod manifests;
mod members;
mod monitoring;
mod nodes;
mod pages;
mod questions;
mod rollouts;
mod rotation;
mod run;
mod sandbox;
mod scale;
mod service;
mod trust;

use std::path::Path;

/// The program under test.
fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_sealane-under-test"))
}
