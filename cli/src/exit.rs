//! How a command ends: the exit codes that other programs rely on, and the failure that carries one.
//!
//! Source: design page "Public interfaces", the exit table. A code never changes its meaning.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

/// Every exit code of `sealane`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done; when watching: every stage was reached.
    Done = 0,
    /// Unexpected failure.
    Failed = 1,
    /// A detailed plan found changes.
    Changes = 2,
    /// The config is invalid, or one of its tests failed.
    Invalid = 3,
    /// No such thing at the authority.
    NotFound = 4,
    /// No token, a wrong one, or one whose role may not do this.
    NotAllowed = 5,
    /// The server cannot be reached, or did not answer in time.
    Unreachable = 6,
    /// Someone published meanwhile.
    Conflict = 7,
    /// The rollout was rolled back or aborted.
    RolledBack = 8,
    /// Stopped watching before the verdict: time ran out, or the rollout waits for a person. It is not over.
    Unfinished = 9,
    /// Wrong usage.
    Usage = 64,
}

impl Exit {
    /// Every code with what it means, for the manual and the reference.
    pub const MEANINGS: [(Self, &'static str); 11] = [
        (Self::Done, "done; when watching: every stage was reached"),
        (Self::Failed, "unexpected failure"),
        (Self::Changes, "`plan --detailed-exitcode`: there are changes"),
        (Self::Invalid, "the config is invalid, or one of its tests failed"),
        (Self::NotFound, "no such thing at the authority"),
        (Self::NotAllowed, "no token, a wrong one, or one whose role may not do this"),
        (Self::Unreachable, "the server cannot be reached, or did not answer in time"),
        (Self::Conflict, "someone published meanwhile"),
        (Self::RolledBack, "the rollout was rolled back or aborted"),
        (
            Self::Unfinished,
            "stopped watching before the verdict: time ran out, or the rollout waits for a person; it is not over",
        ),
        (Self::Usage, "wrong usage"),
    ];
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not end well: one sentence, what to do about it, and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// How the program ends.
    pub exit: Exit,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// A failure with one sentence, lower case, no full stop.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None, source: None }
    }

    /// A failure about which everything has been said already.
    #[must_use]
    pub fn quiet(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    /// Wrong usage that clap cannot see.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Adds what to type or do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause, printed after the sentence.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The sentence and its causes, outermost first; `None` when everything has been said.
    #[must_use]
    pub fn sentence(&self) -> Option<String> {
        if self.message.is_empty() {
            return None;
        }
        let mut text = self.message.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            let next = error.to_string();
            // Some libraries repeat their cause in their own words.
            if !next.is_empty() && !text.ends_with(&next) {
                text.push_str(": ");
                text.push_str(&next);
            }
            cause = error.source();
        }
        Some(text)
    }

    /// What to do next, if anything.
    #[must_use]
    pub fn next_step(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_its_causes_once() {
        let cause = std::io::Error::other("connection refused");
        let failure = Failure::new(Exit::Unreachable, "cannot reach it").because(cause);
        assert_eq!(failure.sentence().unwrap(), "cannot reach it: connection refused");
        let cause = std::io::Error::other("refused");
        let failure = Failure::new(Exit::Unreachable, "cannot reach it: refused").because(cause);
        assert_eq!(failure.sentence().unwrap(), "cannot reach it: refused");
        assert_eq!(Failure::quiet(Exit::RolledBack).sentence(), None);
    }
}
