//! The line between those who ask for another config over the admin address and the one who owns what is served.
//!
//! Handlers are many, the owner is one: `sealane run` with its file, or the part that talks to an agent. The owner takes
//! [`Order`]s, carries them out by the way of every other change (parse → prepare → activate), and answers. What may be
//! read at any time lies in [`Source`]. This module decides nothing.

use std::sync::Arc;

use sealane_model::ids::Digest;
use sealane_model::parse::{Reader, parse};
use sealane_model::problem::{Problem, Severity};
use sealane_model::selftest::run_tests;
use tokio::sync::{mpsc, oneshot};

use sealane_model::config::Config;

/// Orders that wait for the owner.
const WAITING_MAX: usize = 16;

/// What is served, as text, and what could be served again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Of the file, or what stands for one; shown in problems.
    pub name: String,
    /// Exactly what was parsed.
    pub text: Arc<str>,
    /// Where it came from.
    pub origin: Origin,
    /// Since when it is served, Unix time in milliseconds.
    pub since_unix_ms: i64,
    /// What [`Order::Rollback`] can go back to, the newest last.
    pub versions: Vec<Version>,
}

impl Source {
    /// Lower-case hex SHA-256 of the text.
    #[must_use]
    pub fn version(&self) -> String {
        version(&self.text)
    }
}

/// Lower-case hex SHA-256 of a config text: its version.
#[must_use]
pub fn version(text: &str) -> String {
    Digest::of(text.as_bytes()).to_string()
}

/// Where a config came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// A file, or the command line.
    #[default]
    File,
    /// Applied over the admin address.
    Applied,
    /// A revision of the fleet.
    Fleet,
    /// Applied over the admin address of a proxy that a fleet manages.
    Override,
}

impl Origin {
    /// As answers show it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Applied => "applied",
            Self::Fleet => "fleet",
            Self::Override => "override",
        }
    }
}

/// A config that was served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Lower-case hex SHA-256 of its text.
    pub version: String,
    /// Where it came from.
    pub origin: Origin,
    /// When it was first served, Unix time in milliseconds.
    pub since_unix_ms: i64,
}

/// What a handler asks of the owner.
#[derive(Debug)]
pub enum Order {
    /// Serve this text.
    Apply(Apply),
    /// Serve an earlier version again: the one that is named, or the one before.
    Rollback(Option<String>, Answer),
}

/// Whom the owner answers.
pub type Answer = oneshot::Sender<Result<Applied, Refused>>;

/// A text that should be served.
#[derive(Debug)]
pub struct Apply {
    /// YAML or JSON.
    pub text: String,
    /// Everything but the swap.
    pub dry_run: bool,
    /// A proxy of a fleet serves it all the same, until its agent's next command.
    pub break_glass: bool,
    /// Only if this version is served now.
    pub expected: Option<String>,
    /// Whom to answer.
    pub answer: Answer,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// What is served now; in a dry run what would be.
    pub version: String,
    /// What was served before.
    pub previous: Option<String>,
    /// About the text.
    pub warnings: Vec<Problem>,
    /// How long it lasts, in a sentence.
    pub lasts: &'static str,
}

/// Why nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The text, or this machine, has these problems.
    Invalid(Vec<Problem>),
    /// Another version than the expected one is served.
    Moved {
        /// The one that is.
        current: Option<String>,
    },
    /// A fleet decides what this proxy serves.
    Managed,
    /// Requests still use so many retired snapshots.
    Pressure {
        /// So many.
        retired: usize,
    },
    /// No version of that name is remembered, or none before.
    NoVersion(String),
    /// The swap did not happen.
    Failed(String),
}

/// The handlers' end.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    orders: mpsc::Sender<Order>,
    pub(crate) reader: Reader,
}

/// The two ends of a line. `reader`: for whom texts are checked.
pub(crate) fn line(reader: Reader) -> (Desk, mpsc::Receiver<Order>) {
    let (orders, received) = mpsc::channel(WAITING_MAX);
    (Desk { orders, reader }, received)
}

impl Desk {
    /// Asks the owner and waits. `None`: it has stopped.
    pub(crate) async fn ask(&self, order: impl FnOnce(Answer) -> Order) -> Option<Result<Applied, Refused>> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(order(answer)).await.ok()?;
        answered.await.ok()
    }
}

/// Parses a text and runs its own tests: a config with warnings, or every problem. Changes nothing.
///
/// # Errors
/// Every problem.
pub async fn check(name: &str, text: &str, reader: Reader) -> Result<(Config, Vec<Problem>), Vec<Problem>> {
    let (name, text) = (name.to_owned(), text.to_owned());
    let checked = tokio::task::spawn_blocking(move || {
        let (config, warnings) = parse(&name, &text, reader)?;
        let mut failed = run_tests(&config);
        failed.iter_mut().for_each(|problem| problem.file.clone_from(&name));
        if failed.iter().any(|problem| problem.severity == Severity::Error) {
            return Err(failed);
        }
        Ok((config, warnings))
    });
    checked.await.unwrap_or_else(|_| {
        Err(vec![crate::snapshot::problems::error(
            "internal",
            sealane_model::config::Position::default(),
            "",
            "reading the config failed",
        )])
    })
}
