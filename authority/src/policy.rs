//! Rules that a config must keep before it is published: Rego policies (OPA's language, version 1) in a folder.
//!
//! A policy file has a package below `sealane`, such as `package sealane.hosts`, with a set `deny` of messages and, where
//! people must look, a number `require_approvals`. It sees `input`: `config` and `previous` (as JSON), `diff`, `author`,
//! `role`, `class`, `message`, `time`. The files are read anew for each judgement, so a changed rule counts at once.
//!
//! Fails closed: what cannot be read, compiled or evaluated in time publishes nothing. It does not know how a config is
//! parsed or stored. A roll back is not asked: its content was let through once, and everybody waits.

use std::path::{Path, PathBuf};

use sealane_model::problem::{Problem, Severity};
use serde_json::{Value, json};
use thiserror::Error;

mod change;
#[cfg(feature = "policy")]
mod rego;

/// What is judged.
#[derive(Clone, Debug)]
pub(crate) struct Proposal {
    pub(crate) text: String,
    pub(crate) file: String,
    /// Text of the revision that was rolled out last; `None`: there is none.
    pub(crate) previous: Option<String>,
    pub(crate) author: String,
    pub(crate) role: &'static str,
    pub(crate) class: &'static str,
    pub(crate) message: String,
    /// RFC 3339.
    pub(crate) time: String,
}

/// What the policies say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Judgement {
    /// One problem for each rule that says no.
    pub(crate) denials: Vec<Problem>,
    /// People beside the author.
    pub(crate) approvals_min: u32,
}

/// Why nothing could be judged; nothing is published.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// A folder or file.
    #[error("cannot read the policy `{}`", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// More than is looked at.
    #[error("there are more than {POLICIES_MAX} policies, or one has more than {POLICY_BYTES_MAX} bytes")]
    TooMuch,
    /// Not Rego, or a mistake in it.
    #[error("policy `{file}` does not compile: {why}")]
    Compile {
        /// Which.
        file: String,
        /// Where and what.
        why: String,
    },
    /// Nothing that is asked for.
    #[error("policy `{file}` says neither `deny` nor `require_approvals` in a package below `sealane`")]
    Silent {
        /// Which.
        file: String,
    },
    /// It failed on this config.
    #[error("policy `{package}` cannot be evaluated: {why}")]
    Evaluate {
        /// Its package.
        package: String,
        /// What happened.
        why: String,
    },
    /// It said something else than messages or a number.
    #[error("policy `{package}` gives a `{rule}` that is no {expected}")]
    Result {
        /// Its package.
        package: String,
        /// `deny` or `require_approvals`.
        rule: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// This build has no Rego.
    #[error("this build cannot evaluate policies: it was made without the feature `policy`")]
    NotBuilt,
}

/// A policy as it was read.
#[derive(Clone, Debug)]
struct Source {
    file: String,
    rego: String,
}

/// Policies that are looked at.
const POLICIES_MAX: usize = 256;
/// Largest policy, in bytes.
const POLICY_BYTES_MAX: u64 = 256 << 10;

/// Checks at the start that every policy compiles.
///
/// # Errors
/// The first that does not.
pub(crate) fn check(folder: Option<&Path>) -> Result<(), PolicyError> {
    match folder {
        Some(folder) => compile(&read(folder)?),
        None => Ok(()),
    }
}

/// Asks every policy. May take a while: run it beside the async tasks.
///
/// # Errors
/// What keeps a policy from being asked.
pub(crate) fn judge(folder: Option<&Path>, proposal: &Proposal) -> Result<Judgement, PolicyError> {
    let Some(folder) = folder else { return Ok(Judgement::default()) };
    let sources = read(folder)?;
    let config = document(&proposal.text);
    let previous = proposal.previous.as_deref().map(document);
    let input = json!({
        "diff": change::diff(previous.as_ref(), &config, proposal.previous.as_deref().unwrap_or_default(), &proposal.text),
        "config": config,
        "previous": previous,
        "file": proposal.file,
        "author": proposal.author,
        "role": proposal.role,
        "class": proposal.class,
        "message": proposal.message,
        "time": proposal.time,
    });
    let mut judgement = Judgement::default();
    for (package, message) in evaluate(&sources, &input, &mut judgement.approvals_min)? {
        judgement.denials.push(Problem {
            code: "policy_denied".to_owned(),
            severity: Severity::Error,
            message: format!("{package}.deny: {message}"),
            file: proposal.file.clone(),
            line: 0,
            column: 0,
            end_column: 0,
            path: String::new(),
            help: format!("the policy `{package}` of this authority forbids it"),
            suggestion: None,
        });
    }
    Ok(judgement)
}

#[cfg(feature = "policy")]
fn compile(sources: &[Source]) -> Result<(), PolicyError> {
    rego::compile(sources).map(drop)
}

#[cfg(feature = "policy")]
fn evaluate(sources: &[Source], input: &Value, approvals_min: &mut u32) -> Result<Vec<(String, String)>, PolicyError> {
    rego::evaluate(sources, input, approvals_min)
}

#[cfg(not(feature = "policy"))]
fn compile(_: &[Source]) -> Result<(), PolicyError> {
    Err(PolicyError::NotBuilt)
}

#[cfg(not(feature = "policy"))]
fn evaluate(_: &[Source], _: &Value, _: &mut u32) -> Result<Vec<(String, String)>, PolicyError> {
    Err(PolicyError::NotBuilt)
}

/// Every `*.rego` of the folder, by name.
fn read(folder: &Path) -> Result<Vec<Source>, PolicyError> {
    let trouble = |path: &Path| {
        let path = path.to_owned();
        move |source| PolicyError::File { path, source }
    };
    let mut sources = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(trouble(folder))? {
        let path = entry.map_err(trouble(folder))?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if file.starts_with('.') || !file.ends_with(".rego") || file.ends_with("_test.rego") {
            continue;
        }
        let length = std::fs::metadata(&path).map_err(trouble(&path))?.len();
        if length > POLICY_BYTES_MAX || sources.len() >= POLICIES_MAX {
            return Err(PolicyError::TooMuch);
        }
        sources.push(Source { rego: std::fs::read_to_string(&path).map_err(trouble(&path))?, file });
    }
    sources.sort_by(|one, other| one.file.cmp(&other.file));
    Ok(sources)
}

/// A config's text as JSON. It was parsed before, so what does not read here is nothing that a rule could ask for.
fn document(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or(Value::Null)
}

#[cfg(test)]
#[cfg(feature = "policy")]
mod tests;
