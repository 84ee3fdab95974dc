//! What the admin listener says: JSON, and of every refusal whose fault it is and the request's id.

use axum::Json;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sealane_model::problem::{Problem, Severity};
use serde_json::{Map, Value, json};

use crate::forwarded::is_request_id;

const REQUEST_ID: &str = "x-request-id";

/// The body of a refusal before it has its request's id.
#[derive(Clone, Debug)]
struct Told(Map<String, Value>);

/// A refusal.
pub(super) fn refusal(status: StatusCode, category: &str, error: &str) -> Response {
    refusal_with(status, category, error, Map::new())
}

/// A refusal with further members.
pub(super) fn refusal_with(status: StatusCode, category: &str, error: &str, more: Map<String, Value>) -> Response {
    let mut told = Map::new();
    told.insert("error".to_owned(), error.into());
    told.insert("category".to_owned(), category.into());
    told.insert("error_category".to_owned(), category.into());
    told.extend(more);
    let mut response = status.into_response();
    response.extensions_mut().insert(Told(told));
    response
}

/// A config, or this machine, has problems: all of them, as `validate -o json` prints them.
pub(super) fn problems(problems: &[Problem]) -> Response {
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let error = match problems.iter().find(|problem| problem.severity == Severity::Error) {
        Some(first) if errors > 1 => format!("{} (and {} more)", first.message, errors - 1),
        Some(first) => first.message.clone(),
        None => "the config is not valid".to_owned(),
    };
    let more = Map::from_iter([("problems".to_owned(), json!(problems))]);
    refusal_with(StatusCode::UNPROCESSABLE_ENTITY, "config_invalid", &error, more)
}

/// `Allow` is added by the router.
pub(super) async fn wrong_method() -> Response {
    refusal(StatusCode::METHOD_NOT_ALLOWED, "bad_request", "method not allowed")
}

pub(super) async fn not_found() -> Response {
    refusal(StatusCode::NOT_FOUND, "no_route", "no such admin path: /api/v2/openapi.json lists them")
}

/// Gives every answer its request's id: the one that was sent, where it is well formed, or a new one.
pub(super) async fn identify(mut request: Request, next: Next) -> Response {
    let sent = request.headers().get(REQUEST_ID).filter(|id| is_request_id(id.as_bytes())).cloned();
    let id = sent.unwrap_or_else(new_id);
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let mut response = next.run(request).await;
    if let Some(Told(mut told)) = response.extensions_mut().remove::<Told>() {
        told.insert("request_id".to_owned(), String::from_utf8_lossy(id.as_bytes()).into());
        let (mut parts, _) = response.into_parts();
        parts.headers.remove(header::CONTENT_LENGTH);
        parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response = Response::from_parts(parts, Body::from(Value::Object(told).to_string()));
    }
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// What extractors refuse in plain text is refused in JSON as everything else.
pub(super) async fn speak_json(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let is_json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    let status = response.status();
    if !status.is_client_error() || is_json || response.extensions().get::<Told>().is_some() {
        return response;
    }
    let category = if status == StatusCode::PAYLOAD_TOO_LARGE { "request_too_large" } else { "bad_request" };
    refusal(status, category, "the request cannot be read: see /api/v2/openapi.json for what is taken here")
}

/// A JSON object with a status.
pub(super) fn answer(status: StatusCode, body: Value) -> Response {
    (status, Json(body)).into_response()
}

fn new_id() -> HeaderValue {
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        bytes = u128::from(crate::clock::unix_nanos()).to_ne_bytes();
    }
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::from_str(&digits).unwrap_or_else(|_| HeaderValue::from_static("0"))
}
