//! A problem in a config: what, where, and what to do.

use serde::{Deserialize, Serialize};

pub use self::render::render;

pub(crate) mod lines;
mod render;

/// One problem. Serialises to the object that `validate -o json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable, lower snake case, such as `unknown_key`. Listed in [`crate::parse`].
    pub code: String,
    /// Whether the config can be used in spite of it.
    pub severity: Severity,
    /// One sentence, lower case, no full stop.
    pub message: String,
    /// The file's name as given.
    pub file: String,
    /// 1-based; 0: the whole file.
    pub line: u32,
    /// 1-based, in characters; 0: the whole line.
    pub column: u32,
    /// Exclusive; on the same line.
    pub end_column: u32,
    /// The key's path, such as `routes[3].pool`; empty: the whole file.
    pub path: String,
    /// How to go on; may be empty.
    pub help: String,
    /// The text to put in place of the underlined token, if there is one.
    pub suggestion: Option<String>,
}

/// Whether the config can be used in spite of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can.
    Warning,
}
