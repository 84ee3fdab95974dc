//! gRPC handlers: convert, call, convert. No decisions.

use sealane_proto::v1;
use tonic::{Request, Status};

use crate::auth::Caller;

pub(crate) mod agent;
pub(crate) mod audit;
pub(crate) mod config;
pub(crate) mod fleet;
mod freeze;
mod question;
pub(crate) mod rollout;
pub(crate) mod sandbox;
pub(crate) mod status;
pub(crate) mod trust;

/// Who calls; the layer in front has put it there.
fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get::<Caller>().cloned().ok_or_else(|| Status::unauthenticated("a token is needed"))
}

/// A page size: `asked`, or `default` for 0, at most `max`.
fn page_size(asked: u32, default: u32, max: u32) -> u32 {
    if asked == 0 { default } else { asked.min(max) }
}

/// A page token that is a number; empty: from the beginning.
fn page_number(token: &str) -> Result<Option<u64>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    token.parse().map(Some).map_err(|_| Status::invalid_argument("`page_token` is not one of ours"))
}

/// Problems on the wire.
fn problems(problems: &[sealane_model::problem::Problem]) -> Vec<v1::Problem> {
    problems.iter().map(Into::into).collect()
}
