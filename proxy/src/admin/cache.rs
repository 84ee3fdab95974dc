//! `/api/v2/cache/stats`, `/api/v2/cache/purge`, and `DELETE /admin/cache/{domain}` as some know it from elsewhere.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::answer::refusal;
use crate::cache::{CacheStats, Purge};
use crate::shared::Shared;

/// What to purge: exactly one of these.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PurgeRequest {
    url: Option<String>,
    prefix: Option<String>,
    host: Option<String>,
    #[serde(default)]
    all: bool,
}

impl PurgeRequest {
    fn read(self) -> Option<Purge> {
        match self {
            Self { url: Some(url), prefix: None, host: None, all: false } => Some(Purge::Url(url)),
            Self { url: None, prefix: Some(prefix), host: None, all: false } => Some(Purge::Prefix(prefix)),
            Self { url: None, prefix: None, host: Some(host), all: false } => Some(Purge::Host(host)),
            Self { url: None, prefix: None, host: None, all: true } => Some(Purge::All),
            Self { .. } => None,
        }
    }
}

pub(super) async fn stats(State(shared): State<Arc<Shared>>) -> Response {
    let CacheStats { entries, entries_max, bytes, bytes_max, resident_bytes, hits, misses, evictions, purged } =
        shared.cache_stats();
    Json(json!({
        "entries": entries,
        "max_entries": entries_max,
        "total_bytes": bytes,
        "max_total_bytes": bytes_max,
        "resident_bytes": resident_bytes,
        "hits": hits,
        "misses": misses,
        "evictions": evictions,
        "purged": purged,
    }))
    .into_response()
}

pub(super) async fn purge(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    const WANTED: &str = "say what to purge: one of {\"url\": …}, {\"prefix\": …}, {\"host\": …}, {\"all\": true}";
    let Some(purge) = serde_json::from_slice(&body).ok().and_then(PurgeRequest::read) else {
        return refusal(StatusCode::BAD_REQUEST, "bad_request", WANTED);
    };
    match run(shared, purge).await {
        Ok(purged) => Json(json!({ "purged": purged })).into_response(),
        Err(refused) => refused,
    }
}

pub(super) async fn purge_domain(State(shared): State<Arc<Shared>>, Path(domain): Path<String>) -> Response {
    match run(shared, Purge::Host(domain.clone())).await {
        Ok(purged) => Json(json!({ "domain": domain, "purged": purged })).into_response(),
        Err(refused) => refused,
    }
}

/// Purges beside whoever else is served here: every stored answer is looked at.
async fn run(shared: Arc<Shared>, purge: Purge) -> Result<u64, Response> {
    let purged = tokio::task::spawn_blocking(move || shared.cache.purge(&purge)).await;
    match purged {
        Ok(Ok(purged)) => Ok(purged),
        Ok(Err(error)) => Err(refusal(StatusCode::BAD_REQUEST, "bad_request", &error.to_string())),
        Err(_) => Err(refusal(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the purge did not finish")),
    }
}
