//! What can be wrong with a config on this machine only: files, keys, names, ports.
//!
//! Everything else was settled in parsing, also what this version does not serve.

use sealane_model::config::Position;
use sealane_model::problem::{Problem, Severity};

/// An error at a place of the config.
pub(crate) fn error(code: &str, at: Position, path: impl Into<String>, message: impl Into<String>) -> Problem {
    Problem {
        code: code.to_owned(),
        severity: Severity::Error,
        message: message.into(),
        file: String::new(),
        line: at.line,
        column: at.column,
        end_column: at.column,
        path: path.into(),
        help: String::new(),
        suggestion: None,
    }
}
