//! docs/reference is written from the code and equal to it: config keys from the JSON Schema, commands from clap, calls
//! from the descriptor set. (Codes of problems are `model`'s, metrics are the whole fleet's.)
//!
//! `UPDATE_REFERENCE=1 cargo test --workspace reference` writes all of it again.

use std::path::Path;

mod calls;
mod commands;
mod keys;

#[test]
fn the_reference_of_config_keys_is_current() {
    current("config.md", &keys::page());
}

#[test]
fn the_reference_of_commands_is_current() {
    current("cli.md", &commands::page());
}

#[test]
fn the_reference_of_calls_is_current() {
    current("grpc.md", &calls::page());
}

#[track_caller]
fn current(name: &str, page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference").join(name);
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&path, page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "{name} is old: run `UPDATE_REFERENCE=1 cargo test --workspace reference`");
}

/// Text in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ").trim().to_owned()
}
