//! `/api/v2/pools/{id}/health`: what is known of each endpoint of a pool.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::answer::refusal;
use crate::clock::Moment;
use crate::shared::Shared;

pub(super) async fn health(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    let snapshot = shared.current.snapshot();
    let pool = snapshot.as_ref().and_then(|snapshot| snapshot.pools.iter().find(|pool| *pool.id == id));
    let Some(pool) = pool else {
        return refusal(StatusCode::NOT_FOUND, "no_route", "no such pool: /api/v2/config/current lists them");
    };
    let now_ms = Moment::now().millis();
    let endpoints: Vec<Value> = pool
        .endpoints
        .iter()
        .map(|endpoint| {
            let (failures, ejected_until_ms) = endpoint.live.passive_state();
            let healthy = endpoint.live.is_available(now_ms);
            let state = match (healthy, endpoint.live.is_probed_healthy()) {
                (true, _) => "healthy",
                (false, false) => "probed_unhealthy",
                (false, true) => "ejected",
            };
            json!({
                "address": &*endpoint.address,
                "state": state,
                "healthy": healthy,
                "probes_healthy": endpoint.live.is_probed_healthy(),
                "consecutive_failures": failures,
                "ejected": endpoint.live.is_ejected(now_ms),
                "ejected_for_ms": ejected_until_ms.saturating_sub(now_ms),
                // Counted where the balancer asks for it; elsewhere it would cost every request.
                "in_flight": endpoint.live.busy_cell(0).map(|_| endpoint.live.busy()),
            })
        })
        .collect();
    let healthy = pool.endpoints.iter().filter(|endpoint| endpoint.live.is_available(now_ms)).count();
    Json(json!({ "pool": id, "healthy": healthy, "total": endpoints.len(), "endpoints": endpoints })).into_response()
}
