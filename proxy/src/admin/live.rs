//! The live state of breakers and traffic plans.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::clock::Moment;
use crate::shared::Shared;
use crate::traffic::split::Variant;

/// `GET /api/v2/breakers`: every breaker of the snapshot in force.
pub(super) async fn breakers(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let now_ms = Moment::now().millis();
    let snapshot = shared.current.snapshot();
    let breakers: Vec<Value> = snapshot
        .iter()
        .flat_map(|snapshot| snapshot.targets().map(move |(route, target)| (snapshot, route, target)))
        .filter_map(|(snapshot, route, target)| {
            let breaker = target.breaker.as_ref()?;
            let look = breaker.live.look(&breaker.plan, now_ms);
            let error_percent = look.failures as f64 * 100.0 / look.requests.max(1) as f64;
            Some(json!({
                "route": &*route.id,
                "pool": &*snapshot.pools[target.pool].id,
                "state": look.state.name(),
                "open_for_ms": look.open_for_ms,
                "trying": look.trying,
                "window": { "requests": look.requests, "failures": look.failures, "error_percent": error_percent },
                "trips": look.trips,
                "refused": look.refused,
            }))
        })
        .collect();
    Json(json!({ "breakers": breakers }))
}

/// `GET /api/v2/traffic/canary`: every traffic plan of the snapshot in force.
pub(super) async fn traffic(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let now_ms = Moment::now().millis();
    let snapshot = shared.current.snapshot();
    let routes: Vec<Value> = snapshot
        .iter()
        .flat_map(|snapshot| snapshot.routes.iter().map(move |route| (snapshot, route)))
        .filter_map(|(snapshot, route)| {
            let traffic = route.traffic.as_ref()?;
            let live = &traffic.live;
            let pool = |index: usize| &*snapshot.pools[index].id;
            let braked = traffic.brake.is_some() && live.is_braked(now_ms);
            let side = |variant: Variant| {
                let sums = live.sums(variant);
                json!({ "requests": sums.requests, "errors": sums.errors })
            };
            let weight = traffic.split.canary.map_or(0.0, |(_, share)| share.percent());
            let brake = traffic.brake.as_ref().map(|_| {
                let window = live.window();
                json!({
                    "engaged": braked,
                    "cooloff_left_ms": live.braked_for_ms(now_ms),
                    "engaged_total": live.brakes(),
                    "window": {
                        "stable": { "requests": window.stable.requests, "errors": window.stable.errors },
                        "canary": { "requests": window.canary.requests, "errors": window.canary.errors },
                    },
                })
            });
            let overload = traffic.overload.as_ref().map(|overload| {
                let (in_flight, waiting) = live.limiter.load();
                json!({
                    "in_flight": in_flight,
                    "waiting": waiting,
                    "limit": live.limiter.effective(overload.concurrent_max),
                    "max_concurrent": overload.concurrent_max,
                    "queue_size": overload.queue_max,
                    "rejected": live.limiter.rejected(),
                })
            });
            Some(json!({
                "route": &*route.id,
                "stable_pool": pool(traffic.split.stable),
                "canary_pool": traffic.split.canary.map(|(canary, _)| pool(canary)),
                "canary_weight": weight,
                "effective_canary_weight": if braked { 0.0 } else { weight },
                "stable": side(Variant::Stable),
                "canary": side(Variant::Canary),
                "cohort": side(Variant::Cohort),
                "auto_brake": brake,
                "overload_protection": overload,
            }))
        })
        .collect();
    Json(json!({ "routes": routes }))
}
