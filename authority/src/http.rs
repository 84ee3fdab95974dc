//! The HTTP address: health, metrics, and the main reads as JSON. The dashboard will live here.
//!
//! It reads what the gRPC handlers read. A listener on loopback answers nobody that another site's page sent.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use sealane_proto::json::to_json;
use sealane_proto::v1;
use serde::Deserialize;
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::app::App;
use crate::{overview, revision, service};

mod guard;
mod listen;
mod metrics;
mod openapi;

pub use listen::HttpTlsError;
pub(crate) use listen::{HttpTls, serve};

/// Rows of a list.
const LIST_MAX: u32 = 1000;

/// Every path.
pub(crate) fn router(app: Arc<App>, is_loopback: bool) -> Router {
    let api = Router::new()
        .route("/api/v1/fleet", get(fleet))
        .route("/api/v1/rollouts", get(rollouts))
        .route("/api/v1/rollouts/{revision}", get(rollout))
        .route("/api/v1/revisions", get(revisions))
        .route("/api/v1/revisions/{revision}", get(one_revision))
        .layer(from_fn_with_state(Arc::clone(&app), guard::viewer));
    let sandboxes = crate::sandbox::router(Arc::clone(&app.sandboxes))
        .layer(from_fn_with_state(Arc::clone(&app), guard::sandbox_editor));
    let router = Router::new()
        .route("/", get(links))
        .route("/healthz", get(|| async { json_answer(StatusCode::OK, json!({ "status": "ok" })) }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_page))
        .route("/api/v1/openapi.json", get(openapi::document))
        .merge(api)
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path") })
        .method_not_allowed_fallback(|| async {
            problem(StatusCode::METHOD_NOT_ALLOWED, "bad_request", "method not allowed")
        })
        .with_state(app)
        .merge(sandboxes);
    if is_loopback { router.layer(from_fn(guard::same_site)) } else { router }
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    page_size: u32,
    #[serde(default)]
    page_token: String,
}

async fn links() -> Html<&'static str> {
    Html(
        "<!doctype html><html lang=en><meta charset=utf-8><title>sealane authority</title><h1>sealane authority</h1><ul>\
         <li><a href=/api/v1/fleet>/api/v1/fleet</a><li><a href=/api/v1/rollouts>/api/v1/rollouts</a>\
         <li><a href=/api/v1/revisions>/api/v1/revisions</a><li><a href=/routes>/routes</a> (sandbox routes)<li><a href=/api/v1/openapi.json>/api/v1/openapi.json</a><li><a href=/metrics>/metrics</a>\
         <li><a href=/healthz>/healthz</a><li><a href=/readyz>/readyz</a></ul></html>",
    )
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    match app.store.rollout_counters().await {
        Ok(_) if !app.stop.is_cancelled() => json_answer(StatusCode::OK, json!({ "status": "ready" })),
        Ok(_) => problem(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the authority is stopping"),
        Err(_) => problem(StatusCode::SERVICE_UNAVAILABLE, "database", "the database cannot be read"),
    }
}

async fn metrics_page(State(app): State<Arc<App>>) -> Response {
    match metrics::page(&app).await {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => failed(error.into()),
    }
}

async fn fleet(State(app): State<Arc<App>>) -> Result<Response, Response> {
    let fleet = overview::fleet(&app).await.map_err(|error| failed(error.into()))?;
    Ok(json_answer(StatusCode::OK, to_json("GetFleetResponse", &fleet)))
}

async fn rollouts(State(app): State<Arc<App>>, Query(page): Query<Page>) -> Result<Response, Response> {
    let (rows, next_page_token) = list(&app, &page).await.map_err(failed)?;
    let mut response = v1::RolloutServiceListResponse { rollouts: Vec::new(), next_page_token };
    for row in rows {
        response.rollouts.push(service::rollout::view(&app, row.revision).await.map_err(failed)?);
    }
    Ok(json_answer(StatusCode::OK, to_json("RolloutServiceListResponse", &response)))
}

async fn rollout(State(app): State<Arc<App>>, Path(number): Path<u64>) -> Result<Response, Response> {
    let row = revision::find(&app, number).await.map_err(|error| failed(error.into()))?;
    let rollout = service::rollout::view(&app, row.revision).await.map_err(failed)?;
    Ok(json_answer(StatusCode::OK, to_json("Rollout", &rollout)))
}

async fn revisions(State(app): State<Arc<App>>, Query(page): Query<Page>) -> Result<Response, Response> {
    let (rows, next_page_token) = list(&app, &page).await.map_err(failed)?;
    let mut response = v1::ListRevisionsResponse { next_page_token, ..Default::default() };
    for row in &rows {
        response.revisions.push(revision::view(&app, row, false).await.map_err(|error| failed(error.into()))?);
    }
    let newest = app.store.newest_release().await.map_err(|error| failed(error.into()))?;
    response.etag = newest.map_or_else(String::new, |row| row.digest.to_string());
    Ok(json_answer(StatusCode::OK, to_json("ListRevisionsResponse", &response)))
}

async fn one_revision(State(app): State<Arc<App>>, Path(number): Path<u64>) -> Result<Response, Response> {
    let row = revision::find(&app, number).await.map_err(|error| failed(error.into()))?;
    let revision = revision::view(&app, &row, true).await.map_err(|error| failed(error.into()))?;
    Ok(json_answer(StatusCode::OK, to_json("Revision", &revision)))
}

async fn list(app: &App, page: &Page) -> Result<(Vec<crate::store::release::ReleaseRow>, String), Status> {
    let size = if page.page_size == 0 { 50 } else { page.page_size.min(LIST_MAX) };
    let before = match page.page_token.as_str() {
        "" => None,
        token => Some(token.parse().map_err(|_| Status::invalid_argument("`page_token` is not one of ours"))?),
    };
    let rows = app.store.releases_before(before, size).await?;
    let next = match rows.last() {
        Some(last) if rows.len() == size as usize && last.revision > 1 => last.revision.to_string(),
        _ => String::new(),
    };
    Ok((rows, next))
}

fn json_answer(status: StatusCode, body: Value) -> Response {
    let body = format!("{body}\n");
    (status, [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], body).into_response()
}

/// An error as JSON.
fn problem(status: StatusCode, category: &str, message: &str) -> Response {
    json_answer(status, json!({ "error": message, "category": category }))
}

fn failed(status: Status) -> Response {
    let (http, category) = match status.code() {
        Code::NotFound => (StatusCode::NOT_FOUND, "not_found"),
        Code::InvalidArgument => (StatusCode::BAD_REQUEST, "bad_request"),
        Code::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthorized"),
        Code::PermissionDenied => (StatusCode::FORBIDDEN, "forbidden"),
        Code::Unavailable | Code::ResourceExhausted => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
    };
    problem(http, category, status.message())
}
