//! `/api/v2/config/…`: check a config, serve it, see what is served, compare, go back.
//!
//! Checking and comparing change nothing and are done here. Serving and going back are orders to whoever owns the config
//! ([`crate::desk`]), by the way that a change of the file takes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use sealane_model::parse::changes::changes;
use sealane_model::parse::shown::shown;
use sealane_model::parse::{Reader, parse};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::answer::{answer, problems, refusal, refusal_with};
use super::explain::decoded;
use crate::clock::Civil;
use crate::desk::{self, Applied, Apply, Order, Refused, Source};
use crate::shared::Shared;

/// Largest body, in bytes, counted while it comes in.
pub(super) const BODY_BYTES_MAX: usize = 10 << 20;
/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an order may take: compiling, binding, swapping.
const ORDER_TIMEOUT: Duration = Duration::from_secs(60);
/// How configs that came in a request are called in problems.
const NAME: &str = "config";

/// A body of `{"config": …}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrapped {
    config: Box<RawValue>,
    /// The version that must be served for this to be applied.
    expected_version: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RollbackRequest {
    version: Option<String>,
}

/// A config as it was sent.
struct Sent {
    text: String,
    expected: Option<String>,
}

pub(super) async fn validate(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Body) -> Response {
    let sent = match sent(&headers, body).await {
        Ok(sent) => sent,
        Err(refused) => return refused,
    };
    match desk::check(NAME, &sent.text, reader(&shared)).await {
        Ok((_, warnings)) => answer(
            StatusCode::OK,
            json!({ "ok": true, "valid": true, "version": desk::version(&sent.text), "warnings": warnings }),
        ),
        Err(found) => problems(&found),
    }
}

pub(super) async fn apply(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let flags = match flags(query.as_deref(), &["dry_run", "break_glass"]) {
        Ok(flags) => flags,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, "bad_request", &error),
    };
    let (dry_run, break_glass) = (flags.contains(&"dry_run"), flags.contains(&"break_glass"));
    let sent = match sent(&headers, body).await {
        Ok(sent) => sent,
        Err(refused) => return refused,
    };
    let order = |answer| Order::Apply(Apply { text: sent.text, dry_run, break_glass, expected: sent.expected, answer });
    match ask(&shared, order).await {
        Ok(Applied { version, previous, warnings, lasts }) => answer(
            StatusCode::OK,
            json!({
                "applied": !dry_run,
                "dry_run": dry_run,
                "version": version,
                "previous": previous,
                "warnings": warnings,
                "lasts": lasts,
            }),
        ),
        Err(refused) => refused,
    }
}

pub(super) async fn rollback(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Body) -> Response {
    let body = match bytes(&headers, body).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let request = if body.iter().all(u8::is_ascii_whitespace) {
        RollbackRequest::default()
    } else {
        match serde_json::from_slice(&body) {
            Ok(request) => request,
            Err(error) => {
                let error = format!("send {{\"version\": …}}, or nothing for the version before: {error}");
                return refusal(StatusCode::BAD_REQUEST, "bad_request", &error);
            }
        }
    };
    let version = request.version.filter(|version| !version.is_empty());
    match ask(&shared, |answer| Order::Rollback(version, answer)).await {
        Ok(Applied { version, previous, lasts, .. }) => answer(
            StatusCode::OK,
            json!({ "rolled_back": true, "version": version, "previous": previous, "lasts": lasts }),
        ),
        Err(refused) => refused,
    }
}

pub(super) async fn diff(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Body) -> Response {
    let sent = match sent(&headers, body).await {
        Ok(sent) => sent,
        Err(refused) => return refused,
    };
    let reader = reader(&shared);
    let (config, warnings) = match desk::check(NAME, &sent.text, reader).await {
        Ok(checked) => checked,
        Err(found) => return problems(&found),
    };
    let Some(source) = shared.source() else {
        return refusal(StatusCode::NOT_FOUND, "no_route", "nothing is served that this could be compared with");
    };
    let (version, current) = (desk::version(&sent.text), source.version());
    let work = tokio::task::spawn_blocking(move || {
        let before = parse(&source.name, &source.text, reader).ok();
        let before = before.as_ref().map(|(config, _)| (&*source.text, config));
        changes(before, (&sent.text, &config))
    });
    let Ok(found) = work.await else {
        return refusal(StatusCode::INTERNAL_SERVER_ERROR, "internal", "comparing did not finish");
    };
    answer(
        StatusCode::OK,
        json!({
            "identical": found.is_empty(),
            "version": version,
            "current_version": current,
            "changes": found,
            "warnings": warnings,
        }),
    )
}

pub(super) async fn current(State(shared): State<Arc<Shared>>) -> Response {
    let Some(snapshot) = shared.current.snapshot() else {
        return refusal(StatusCode::NOT_FOUND, "no_route", "no config is active");
    };
    let digest: String = snapshot.tag.digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let routes: Vec<Value> = snapshot
        .routes
        .iter()
        .map(|route| json!({ "id": &*route.id, "pool": &*snapshot.pools[route.pool()].id }))
        .collect();
    let pools: Vec<Value> = snapshot
        .pools
        .iter()
        .map(|pool| {
            let endpoints: Vec<&str> = pool.endpoints.iter().map(|endpoint| &*endpoint.address).collect();
            json!({ "id": &*pool.id, "endpoints": endpoints })
        })
        .collect();
    let listeners: Vec<Value> = snapshot
        .listeners
        .iter()
        .map(|listener| json!({ "name": listener.name, "address": listener.address.to_string(), "tls": listener.tls }))
        .collect();
    let source = shared.source();
    let text = source.as_ref().map(|source| Arc::clone(&source.text));
    let config = match text {
        Some(text) => tokio::task::spawn_blocking(move || shown(&text)).await.unwrap_or(Value::Null),
        None => Value::Null,
    };
    answer(
        StatusCode::OK,
        json!({
            "revision": snapshot.tag.number,
            "label": &*snapshot.tag.label,
            "digest": digest,
            "version": source.as_ref().map(|source| source.version()),
            "source": source.as_ref().map(|source| source.origin.name()),
            "file": source.as_ref().map(|source| source.name.clone()),
            "since": source.as_ref().map(|source| time(source.since_unix_ms)),
            "versions": source.as_deref().map(versions).unwrap_or_default(),
            "listeners": listeners,
            "routes": routes,
            "pools": pools,
            "config": config,
        }),
    )
}

/// `GET /admin/snapshot`, as some know it from elsewhere.
pub(super) async fn snapshot(State(shared): State<Arc<Shared>>) -> Response {
    let Some(snapshot) = shared.current.snapshot() else {
        return refusal(StatusCode::NOT_FOUND, "no_route", "no config is active");
    };
    let source = shared.source();
    answer(
        StatusCode::OK,
        json!({
            "version": source.as_ref().map(|source| source.version()),
            "created_at": source.as_ref().map(|source| time(source.since_unix_ms)),
            "source": source.as_ref().map(|source| source.origin.name()),
            "route_count": snapshot.routes.len(),
            "pool_count": snapshot.pools.len(),
        }),
    )
}

fn versions(source: &Source) -> Vec<Value> {
    let shown = source.versions.iter().rev().map(|version| {
        json!({ "version": version.version, "source": version.origin.name(), "since": time(version.since_unix_ms) })
    });
    shown.collect()
}

/// RFC 3339, to the second.
fn time(unix_ms: i64) -> String {
    let mut out = Vec::with_capacity(20);
    Civil::of_unix(u64::try_from(unix_ms / 1000).unwrap_or(0)).write_rfc3339(&mut out);
    out.push(b'Z');
    String::from_utf8_lossy(&out).into_owned()
}

fn reader(shared: &Shared) -> Reader {
    shared.desk().map_or(Reader::Local, |desk| desk.reader)
}

async fn ask(shared: &Shared, order: impl FnOnce(desk::Answer) -> Order) -> Result<Applied, Response> {
    let conflict = || shared.registry.conflicts.fetch_add(1, Ordering::Relaxed);
    let Some(desk) = shared.desk() else {
        conflict();
        let error = "the program that this proxy is part of decides what it serves";
        return Err(refusal(StatusCode::CONFLICT, "managed_by_program", error));
    };
    let stopping = || refusal(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "the proxy is stopping");
    let asked = tokio::time::timeout(ORDER_TIMEOUT, desk.ask(order)).await;
    let asked = asked.map_err(|_| {
        let error = "not done in time: it may still be; /api/v2/config/current says what is served";
        refusal(StatusCode::SERVICE_UNAVAILABLE, "overloaded", error)
    })?;
    asked.ok_or_else(stopping)?.map_err(|cause| {
        if matches!(cause, Refused::Moved { .. } | Refused::Managed) {
            conflict();
        }
        refused(cause)
    })
}

fn refused(refused: Refused) -> Response {
    let more = |name: &str, value: Value| Map::from_iter([(name.to_owned(), value)]);
    match refused {
        Refused::Invalid(found) => problems(&found),
        Refused::Moved { current } => refusal_with(
            StatusCode::CONFLICT,
            "version_moved",
            "another version is served than the expected one: look at it, then apply again",
            more("current_version", current.into()),
        ),
        Refused::Managed => refusal_with(
            StatusCode::CONFLICT,
            "managed_by_agent",
            "a fleet decides what this proxy serves: publish through its authority, or apply with break_glass=true \
             until the agent's next command, which shows as drift",
            more("next", "sealane publish FILE -m MESSAGE --watch --server URL".into()),
        ),
        Refused::Pressure { retired } => {
            let error = format!(
                "{retired} retired configs are still used by requests: try again when some of these have ended"
            );
            let refused = refusal(StatusCode::TOO_MANY_REQUESTS, "config_pressure", &error);
            ([(header::RETRY_AFTER, "5")], refused).into_response()
        }
        Refused::NoVersion(error) => refusal(StatusCode::NOT_FOUND, "no_version", &error),
        Refused::Failed(error) => refusal(StatusCode::SERVICE_UNAVAILABLE, "overloaded", &error),
    }
}

/// The config in a body: the text itself, or `{"config": …}` with a text or an object.
async fn sent(headers: &HeaderMap, body: Body) -> Result<Sent, Response> {
    let bad = |error: &str| refusal(StatusCode::BAD_REQUEST, "bad_request", error);
    let body = bytes(headers, body).await?;
    let text = String::from_utf8(body).map_err(|_| bad("the body is not UTF-8"))?;
    if text.trim().is_empty() {
        return Err(bad("send a config: its YAML or JSON as the body, or {\"config\": …}"));
    }
    let expected = match headers.get(header::IF_MATCH) {
        None => None,
        Some(tag) => Some(tag.to_str().map_err(|_| bad("`If-Match` is no version"))?.trim_matches('"').to_owned()),
    };
    // No config has a key `config`, so whatever has one is a wrapper.
    let is_wrapper = text.trim_start().starts_with('{')
        && serde_json::from_str::<BTreeMap<String, &RawValue>>(&text).is_ok_and(|map| map.contains_key("config"));
    if !is_wrapper {
        return Ok(Sent { text, expected });
    }
    let wrapped: Wrapped = serde_json::from_str(&text)
        .map_err(|error| bad(&format!("beside `config` only `expected_version` is known: {error}")))?;
    let text = match serde_json::from_str::<String>(wrapped.config.get()) {
        Ok(text) => text,
        Err(_) => wrapped.config.get().to_owned(),
    };
    Ok(Sent { text, expected: wrapped.expected_version.or(expected) })
}

async fn bytes(headers: &HeaderMap, body: Body) -> Result<Vec<u8>, Response> {
    let too_large = || {
        let error = format!("the body has more than {BODY_BYTES_MAX} bytes");
        let refused = refusal(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", &error);
        ([(header::CONNECTION, "close")], refused).into_response()
    };
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > BODY_BYTES_MAX) {
        return Err(too_large());
    }
    let read = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    match read {
        Ok(Ok(body)) => Ok(body.to_bytes().to_vec()),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => Err(too_large()),
        Ok(Err(_)) => Err(refusal(StatusCode::BAD_REQUEST, "bad_request", "the body broke off")),
        Err(_) => Err(refusal(StatusCode::REQUEST_TIMEOUT, "client_timeout", "the body did not come in time")),
    }
}

/// Which of the `known` flags a query sets: `dry_run`, `dry_run=true`, `dry_run=1`. Others are refused, so that a slip of
/// the pen never turns a rehearsal into the real thing.
fn flags<'k>(query: Option<&str>, known: &[&'k str]) -> Result<Vec<&'k str>, String> {
    let mut set = Vec::new();
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').map_or((pair, None), |(name, value)| (name, Some(decoded(value))));
        let Some(flag) = known.iter().find(|flag| **flag == name) else {
            return Err(format!("there is no parameter `{}`", decoded(name)));
        };
        match value.as_deref() {
            None | Some("true" | "1") => set.push(*flag),
            Some("false" | "0") => {}
            Some(other) => return Err(format!("`{flag}` is true or false, not `{other}`")),
        }
    }
    Ok(set)
}
