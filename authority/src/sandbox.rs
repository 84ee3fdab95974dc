//! Sandbox routes: kept in SQLite, changed through seed 000's HTTP API, served by whoever stands behind a [`Desk`].
//!
//! A change is checked, written and made ready to be served before it is committed, so that a route which was accepted
//! is served, and one that was refused left no trace. This module does not know how a route is served: one proxy
//! (`sealane run`) and a fleet each bring their own [`Desk`].

use std::future::Future;
use std::time::Duration;

use sealane_model::sandbox::{PRIORITY_DEFAULT, ROUTES_MAX, SandboxFault, SandboxRoute};
use thiserror::Error;

use crate::store::StoreError;

mod book;
pub(crate) mod fleet;
mod http;
mod kept;

pub use book::{Change, OpenError, SandboxBook};
pub use http::router;

/// A route that somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRoute {
    /// Whose it is.
    pub sandbox_id: String,
    /// A regex on the path.
    pub pattern: String,
    /// Where its requests go.
    pub target_url: String,
    /// Lower is tried first; `None`: 100.
    pub priority: Option<i32>,
    /// After this it is gone; `None`: it stays.
    pub ttl: Option<Duration>,
}

impl NewRoute {
    /// The route without its id, checked.
    pub(crate) fn route(self, now_ms: u64) -> Result<SandboxRoute, SandboxError> {
        let ttl_ms = self.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX / 4));
        let route = SandboxRoute {
            id: 0,
            sandbox_id: self.sandbox_id,
            pattern: self.pattern,
            target_url: self.target_url,
            priority: self.priority.unwrap_or(PRIORITY_DEFAULT),
            expires_at_ms: ttl_ms.map(|ttl_ms| now_ms + ttl_ms),
        };
        route.check()?;
        Ok(route)
    }
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed<T> {
    /// The answer.
    pub value: T,
    /// The revision of the sandbox partition that holds it; `None` without a fleet, or when nothing had to change.
    pub revision: Option<u64>,
}

/// Why a change was not made. Nothing of it is left.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// What was sent is wrong.
    #[error(transparent)]
    Fault(#[from] SandboxFault),
    /// The sandbox has this pattern.
    #[error("the sandbox has this pattern already, as route {id}")]
    Duplicate {
        /// The route that has it.
        id: u64,
    },
    /// One more would be too many.
    #[error("there are {ROUTES_MAX} sandbox routes already: delete some, or give them a ttl")]
    Full,
    /// No such route.
    #[error("route not found")]
    NotFound,
    /// The config in force says `sandboxes: { enabled: false }`.
    #[error("the config switches sandbox routes off (`sandboxes: {{ enabled: false }}`)")]
    Off,
    /// The fleet's trust root wants signatures that this authority cannot give.
    #[error("the fleet's trust root does not let this authority sign sandbox revisions: {0}")]
    NotSigned(String),
    /// The process is stopping.
    #[error("stopping")]
    Stopping,
    /// It cannot be served as it is.
    #[error("cannot be served: {0}")]
    Unservable(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SandboxError {
    /// What whoever asked can do about it; `None`: the error says it.
    #[must_use]
    pub fn next_step(&self) -> Option<&'static str> {
        match self {
            Self::Duplicate { .. } => Some("delete that route first, or take another pattern"),
            Self::NotFound => Some("`GET /routes` or `sealane sandbox list` shows the ids that there are"),
            Self::Off => Some("publish a config with `sandboxes: { enabled: true }`"),
            Self::NotSigned(_) => Some(
                "let one key sign releases again (`sealane key rotate --threshold release=1`), or write the routes in the \
                 config (`sandboxes: { routes: … }`), which people sign like everything else in it",
            ),
            Self::Stopping => Some("ask again in a moment"),
            Self::Store(_) => Some("the log of this process says more; a full disk is the usual cause"),
            Self::Fault(_) | Self::Full | Self::Unservable(_) => None,
        }
    }
}

/// Who asks for a change, as the audit log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor(pub String);

/// Whoever keeps sandbox routes and sees to it that they are served.
pub trait Desk: Send + Sync + 'static {
    /// Adds a route and gives its id. After the answer it is served (by a fleet: within a second).
    fn add(&self, route: NewRoute, by: Actor) -> impl Future<Output = Result<Changed<u64>, SandboxError>> + Send;
    /// All routes, in the order in which they are tried.
    fn list(&self) -> impl Future<Output = Result<Vec<SandboxRoute>, SandboxError>> + Send;
    /// Deletes a route.
    fn delete(&self, id: u64, by: Actor) -> impl Future<Output = Result<Changed<()>, SandboxError>> + Send;
    /// Deletes a sandbox with all its routes and says how many there were.
    fn delete_sandbox(
        &self,
        sandbox_id: String,
        by: Actor,
    ) -> impl Future<Output = Result<Changed<u64>, SandboxError>> + Send;
    /// Reads all routes from the database again and serves them.
    fn reload(&self, by: Actor) -> impl Future<Output = Result<Changed<()>, SandboxError>> + Send;
}

/// Sorted as they are tried.
#[must_use]
pub fn in_order<'r>(routes: impl IntoIterator<Item = &'r SandboxRoute>) -> Vec<SandboxRoute> {
    let mut routes: Vec<SandboxRoute> = routes.into_iter().cloned().collect();
    routes.sort_by_key(SandboxRoute::order);
    routes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_that_is_not_about_the_route_says_what_to_do() {
        let says = |error: SandboxError, part: &str| {
            let hint = error.next_step().unwrap_or_default();
            assert!(hint.contains(part), "{error}: {hint:?}");
        };
        says(SandboxError::NotSigned("two keys".to_owned()), "sealane key rotate --threshold release=1");
        says(SandboxError::Off, "enabled: true");
        says(SandboxError::NotFound, "sealane sandbox list");
        says(SandboxError::Duplicate { id: 1 }, "delete that route first");
        says(SandboxError::Stopping, "again");
    }
}
