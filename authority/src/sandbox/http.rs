//! Seed 000's HTTP API, path by path and body by body. Who may call it is the caller's business.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use http::{HeaderValue, StatusCode, header};
use jiff::Timestamp;
use sealane_model::sandbox::{SandboxRoute, parse_ttl};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Actor, Changed, Desk, NewRoute, SandboxError};

/// Largest request body in bytes: room for the longest pattern and URL, escaped.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Says which revision of the sandbox partition holds a change.
const REVISION: &str = "x-sealane-sandbox-revision";

/// Every path but `/healthz`, which each listener has already.
pub fn router<D: Desk>(desk: Arc<D>) -> Router {
    let wrong = |router: MethodRouter<Arc<D>>, allow: &'static str| router.fallback(move || wrong_method(allow));
    Router::new()
        .route("/routes", wrong(get(list::<D>).post(add::<D>), "GET, HEAD, POST"))
        .route("/routes/reload", wrong(post(reload::<D>), "POST"))
        .route("/routes/{id}", wrong(delete(remove::<D>), "DELETE"))
        .route("/routes/", wrong(delete(no_route_id), "DELETE"))
        .route("/sandboxes/{id}", wrong(delete(remove_sandbox::<D>), "DELETE"))
        .route("/sandboxes/", wrong(delete(no_sandbox_id), "DELETE"))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(desk)
}

/// Who asks, as the layer in front has found out.
struct By(Actor);

impl<S: Sync> FromRequestParts<S> for By {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(parts.extensions.get::<Actor>().cloned().unwrap_or_else(|| Actor("anybody on this machine".into()))))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    sandbox_id: Option<String>,
    pattern: Option<String>,
    target_url: Option<String>,
    priority: Option<i32>,
    ttl: Option<String>,
}

async fn add<D: Desk>(State(desk): State<Arc<D>>, By(by): By, body: Result<Bytes, BytesRejection>) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            let detail = format!("a route has at most {BODY_BYTES_MAX} bytes");
            return problem(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", "request body too large", Some(detail));
        }
        Err(rejection) => return bad_json(rejection.to_string()),
    };
    let body: Body = match serde_json::from_slice(&body) {
        Ok(body) => body,
        Err(error) => return bad_json(error.to_string()),
    };
    let ttl = match body.ttl.as_deref().map(parse_ttl).transpose() {
        Ok(ttl) => ttl,
        Err(fault) => return refused(&fault.into()),
    };
    let new = NewRoute {
        sandbox_id: body.sandbox_id.unwrap_or_default(),
        pattern: body.pattern.unwrap_or_default(),
        target_url: body.target_url.unwrap_or_default(),
        priority: body.priority,
        ttl,
    };
    answer(desk.add(new, by).await, StatusCode::CREATED, |id| json!({ "id": id }))
}

async fn list<D: Desk>(State(desk): State<Arc<D>>) -> Response {
    match desk.list().await {
        Ok(routes) => json_answer(StatusCode::OK, &Value::Array(routes.iter().map(view).collect())),
        Err(error) => refused(&error),
    }
}

/// The members of seed 000, and when it ends where it does.
fn view(route: &SandboxRoute) -> Value {
    let mut view = json!({
        "id": route.id,
        "sandbox_id": route.sandbox_id,
        "pattern": route.pattern,
        "target_url": route.target_url,
        "priority": route.priority,
    });
    let expires = route.expires_at_ms.and_then(|at_ms| Timestamp::from_millisecond(i64::try_from(at_ms).ok()?).ok());
    if let (Some(expires), Some(members)) = (expires, view.as_object_mut()) {
        members.insert("expires_at".into(), expires.to_string().into());
    }
    view
}

async fn remove<D: Desk>(State(desk): State<Arc<D>>, By(by): By, Path(id): Path<String>) -> Response {
    match id.parse::<u64>() {
        Ok(id) if id > 0 => answer(desk.delete(id, by).await, StatusCode::OK, |()| json!({ "status": "deleted" })),
        _ => no_route_id().await,
    }
}

async fn no_route_id() -> Response {
    problem(StatusCode::BAD_REQUEST, "bad_request", "invalid route id", None)
}

async fn remove_sandbox<D: Desk>(State(desk): State<Arc<D>>, By(by): By, Path(id): Path<String>) -> Response {
    let deleted = desk.delete_sandbox(id.clone(), by).await;
    answer(deleted, StatusCode::OK, |deleted| json!({ "deleted": deleted, "sandbox_id": id }))
}

async fn no_sandbox_id() -> Response {
    problem(StatusCode::BAD_REQUEST, "bad_request", "sandbox id is required", None)
}

async fn reload<D: Desk>(State(desk): State<Arc<D>>, By(by): By) -> Response {
    match desk.reload(by).await {
        Err(SandboxError::Store(error)) => {
            tracing::error!(error = &error as &dyn std::error::Error, "sandbox routes not read again");
            problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", "reload failed", Some(error.to_string()))
        }
        other => answer(other, StatusCode::OK, |()| json!({ "status": "reloaded" })),
    }
}

async fn wrong_method(allow: &'static str) -> Response {
    let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "bad_request", "method not allowed", None);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

fn answer<T>(changed: Result<Changed<T>, SandboxError>, status: StatusCode, body: impl FnOnce(T) -> Value) -> Response {
    match changed {
        Ok(Changed { value, revision }) => {
            let mut response = json_answer(status, &body(value));
            if let Some(revision) = revision {
                response.headers_mut().insert(REVISION, revision.into());
            }
            response
        }
        Err(error) => refused(&error),
    }
}

fn bad_json(detail: String) -> Response {
    problem(StatusCode::BAD_REQUEST, "bad_request", "invalid JSON body", Some(detail))
}

fn refused(error: &SandboxError) -> Response {
    let (status, category) = match error {
        SandboxError::Fault(_) => (StatusCode::BAD_REQUEST, "bad_request"),
        SandboxError::Duplicate { .. } | SandboxError::Full | SandboxError::Off => (StatusCode::CONFLICT, "conflict"),
        SandboxError::NotSigned(_) => (StatusCode::FORBIDDEN, "forbidden"),
        SandboxError::NotFound => (StatusCode::NOT_FOUND, "not_found"),
        SandboxError::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        SandboxError::Unservable(_) | SandboxError::Store(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
    };
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!(error = error as &dyn std::error::Error, "sandbox routes not changed");
    }
    let mut body = body_of(category, &error.to_string());
    if let (Some(hint), Some(members)) = (error.next_step(), body.as_object_mut()) {
        members.insert("hint".into(), hint.into());
    }
    let mut response = json_answer(status, &body);
    if let SandboxError::Duplicate { id } = error {
        response.headers_mut().insert("x-alb-route-id", (*id).into());
    }
    response
}

fn problem(status: StatusCode, category: &str, error: &str, detail: Option<String>) -> Response {
    let mut body = body_of(category, error);
    if let (Some(detail), Some(members)) = (detail, body.as_object_mut()) {
        members.insert("detail".into(), detail.into());
    }
    json_answer(status, &body)
}

fn body_of(category: &str, error: &str) -> Value {
    json!({ "error": error, "category": category, "error_category": category })
}

fn json_answer(status: StatusCode, body: &Value) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, format!("{body}\n")).into_response()
}
