//! What probes and scrapers ask: is it alive, is it ready, what was counted; and the sample of recent requests.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::answer::refusal;
use super::guard::may_scrape;
use crate::exposition;
use crate::shared::Shared;

pub(super) async fn healthz() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

pub(super) async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    if shared.is_ready() {
        return Json(json!({ "status": "ready" })).into_response();
    }
    let reason = if shared.current.version() == 0 { "no config is active" } else { "shutting down" };
    let body = Json(json!({ "status": "not_ready", "reason": reason }));
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

pub(super) async fn metrics(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let snapshot = shared.current.snapshot();
    if let Some(snapshot) = snapshot {
        let metrics = &snapshot.config.metrics;
        if !metrics.enabled {
            return refusal(StatusCode::NOT_FOUND, "no_route", "metrics are off");
        }
        let sent = headers.get(header::AUTHORIZATION).map(http::HeaderValue::as_bytes);
        if !may_scrape(metrics.token_env.as_deref(), sent) {
            return refusal(StatusCode::UNAUTHORIZED, "unauthorized", "a bearer token is required");
        }
    }
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let (content_type, text) = exposition::answer(&shared, accept);
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

/// Recent requests, as decisions saw them.
pub(super) async fn samples(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(json!({ "requests": shared.samples() }))
}
