//! `/api/v2/drain`: begins a shutdown, and says how far it is.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::shared::{Shared, Stage};

/// Begins a drain, once; says how far it is.
pub(super) async fn begin(State(shared): State<Arc<Shared>>) -> Response {
    shared.drain_asked.notify_one();
    (StatusCode::ACCEPTED, state(State(shared)).await).into_response()
}

pub(super) async fn state(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let stage = match shared.stage() {
        Stage::Serving => "serving",
        Stage::Leaving => "leaving",
        Stage::Draining => "draining",
        Stage::Drained => "drained",
    };
    Json(json!({ "stage": stage, "connections": shared.open_connections() }))
}
