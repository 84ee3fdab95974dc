//! Sandbox routes over gRPC.

use std::sync::Arc;
use std::time::Duration;

use sealane_model::sandbox::{SandboxRoute, TTL_MAX};
use sealane_proto::v1;
use sealane_proto::v1::sandbox_service_server::SandboxService;
use tonic::{Code, Request, Response, Status};

use super::status::{hinted, status};
use super::{caller, page_number, page_size};
use crate::app::App;
use crate::error::chain;
use crate::rollout::view::time;
use crate::sandbox::{Actor, Desk, NewRoute, SandboxError};

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Sandboxes(pub(crate) Arc<App>);

#[tonic::async_trait]
impl SandboxService for Sandboxes {
    async fn add_sandbox_route(
        &self,
        request: Request<v1::AddSandboxRouteRequest>,
    ) -> Result<Response<v1::AddSandboxRouteResponse>, Status> {
        let by = Actor(caller(&request)?.name);
        let request = request.into_inner();
        let bad = |text: &str| status(Code::InvalidArgument, "BAD_FIELD", text);
        let ttl = request.ttl.map(Duration::try_from).transpose().map_err(|_| bad("`ttl` is negative"))?;
        if ttl.is_some_and(|ttl| ttl.is_zero() || ttl > TTL_MAX) {
            return Err(bad("`ttl` is zero or longer than a year"));
        }
        let new = NewRoute {
            sandbox_id: request.sandbox_id,
            pattern: request.pattern,
            target_url: request.target_url,
            priority: request.priority,
            ttl,
        };
        let added = self.0.sandboxes.add(new, by).await?;
        let route = self.0.sandboxes.route(added.value).await.map(view);
        Ok(Response::new(v1::AddSandboxRouteResponse { route, revision: added.revision.unwrap_or(0) }))
    }

    async fn list_sandbox_routes(
        &self,
        request: Request<v1::ListSandboxRoutesRequest>,
    ) -> Result<Response<v1::ListSandboxRoutesResponse>, Status> {
        let request = request.into_inner();
        let size = page_size(request.page_size, 1000, 10_000) as usize;
        let from = usize::try_from(page_number(&request.page_token)?.unwrap_or(0)).unwrap_or(usize::MAX);
        let all = self.0.sandboxes.list().await?;
        let wanted =
            all.into_iter().filter(|route| request.sandbox_id.is_empty() || route.sandbox_id == request.sandbox_id);
        let mut routes: Vec<SandboxRoute> = wanted.skip(from).take(size + 1).collect();
        let next_page_token = if routes.len() > size { (from + size).to_string() } else { String::new() };
        routes.truncate(size);
        let routes = routes.into_iter().map(view).collect();
        Ok(Response::new(v1::ListSandboxRoutesResponse { routes, next_page_token }))
    }

    async fn delete_sandbox_route(
        &self,
        request: Request<v1::DeleteSandboxRouteRequest>,
    ) -> Result<Response<v1::DeleteSandboxRouteResponse>, Status> {
        let by = Actor(caller(&request)?.name);
        let deleted = self.0.sandboxes.delete(request.into_inner().id, by).await?;
        Ok(Response::new(v1::DeleteSandboxRouteResponse { revision: deleted.revision.unwrap_or(0) }))
    }

    async fn delete_sandbox(
        &self,
        request: Request<v1::DeleteSandboxRequest>,
    ) -> Result<Response<v1::DeleteSandboxResponse>, Status> {
        let by = Actor(caller(&request)?.name);
        let sandbox = request.into_inner().sandbox_id;
        if sandbox.is_empty() {
            return Err(status(Code::InvalidArgument, "BAD_FIELD", "`sandbox_id` is empty"));
        }
        let deleted = self.0.sandboxes.delete_sandbox(sandbox, by).await?;
        let (deleted, revision) = (deleted.value, deleted.revision.unwrap_or(0));
        Ok(Response::new(v1::DeleteSandboxResponse { deleted, revision }))
    }
}

fn view(route: SandboxRoute) -> v1::SandboxRoute {
    v1::SandboxRoute {
        id: route.id,
        sandbox_id: route.sandbox_id,
        pattern: route.pattern,
        target_url: route.target_url,
        priority: route.priority,
        expires_at: route.expires_at_ms.and_then(time),
    }
}

impl From<SandboxError> for Status {
    fn from(error: SandboxError) -> Self {
        let message = chain(&error);
        let (code, reason) = match error {
            SandboxError::Fault(_) => (Code::InvalidArgument, "BAD_SANDBOX_ROUTE"),
            SandboxError::Duplicate { .. } => (Code::AlreadyExists, "DUPLICATE_PATTERN"),
            SandboxError::Full => (Code::ResourceExhausted, "TOO_MANY_SANDBOX_ROUTES"),
            SandboxError::NotFound => (Code::NotFound, "NO_SUCH_SANDBOX_ROUTE"),
            SandboxError::Off => (Code::FailedPrecondition, "SANDBOXES_OFF"),
            SandboxError::NotSigned(_) => (Code::FailedPrecondition, "CANNOT_SIGN"),
            SandboxError::Stopping => (Code::Unavailable, "STOPPING"),
            SandboxError::Unservable(_) => (Code::Internal, "UNSERVABLE"),
            SandboxError::Store(error) => return error.into(),
        };
        match error.next_step() {
            Some(hint) => hinted(code, reason, message, hint),
            None => status(code, reason, message),
        }
    }
}
