//! Which route of what is served takes a request, and why. Sends nothing, changes nothing.
//!
//! The decision is the model's, by the table that requests go through. A request of the past is told again as far as it is
//! remembered ([`crate::sample`]), with what was decided then.

use std::sync::Arc;

use sealane_model::account::{Account, AskError, Asked, account_with};
use thiserror::Error;

use crate::sample::Kept;
use crate::shared::Shared;

/// A request and what happens to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Explained {
    /// By what is served now.
    pub account: Account,
    /// Label of what is served now.
    pub config: Arc<str>,
    /// Of a request of the past.
    pub then: Option<Then>,
}

/// What was decided when the request came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Then {
    /// Label of what was served.
    pub config: String,
    /// The route that took it; `None`: none did.
    pub route: Option<String>,
}

/// Why there is nothing to tell.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExplainError {
    /// No config is active.
    #[error("no config is active")]
    NothingServed,
    /// It is not among the latest.
    #[error("this proxy does not remember that request: it keeps the latest ones, and of many only a sample")]
    Forgotten,
    /// Not a request.
    #[error(transparent)]
    Asked(#[from] AskError),
}

/// What happens to a request that may be sent.
pub(crate) fn explain(shared: &Shared, asked: &Asked) -> Result<Explained, ExplainError> {
    let snapshot = shared.current.snapshot().ok_or(ExplainError::NothingServed)?;
    let account = account_with(&snapshot.config, &snapshot.table, asked)?;
    Ok(Explained { account, config: Arc::clone(&snapshot.tag.label), then: None })
}

/// What happened to a request that was sent, and what would happen now.
pub(crate) fn explain_past(shared: &Shared, request_id: &str) -> Result<Explained, ExplainError> {
    let mut threads = shared.registry.threads.iter().filter(|_| !request_id.is_empty());
    let kept = threads.find_map(|cells| cells.samples.find(request_id)).ok_or(ExplainError::Forgotten)?;
    let then = Then {
        config: kept.config.as_deref().unwrap_or_default().to_owned(),
        route: kept.route.as_deref().map(str::to_owned),
    };
    Ok(Explained { then: Some(then), ..explain(shared, &asked(kept))? })
}

fn asked(kept: Kept) -> Asked {
    let shape = kept.shape;
    let query: Vec<String> = shape.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    let host = if shape.host.contains(':') { format!("[{}]", shape.host) } else { shape.host };
    let headers = shape.headers.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    Asked { method: shape.method, url: format!("http://{host}{}{query}", shape.path), headers }
}
