//! `/api/v2/explain`: which route of what is served takes a request, and why. Sends nothing.
//!
//! `url=…` (absolute), `method=…`, and `header=Name: value` as often as needed, percent-encoded; or `request_id=…` for a
//! request of the past that is still remembered.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use sealane_model::account::{Asked, account_with};
use serde_json::Value;

use super::refusal;
use crate::shared::Shared;

/// Headers of an asked request at most.
const HEADERS_MAX: usize = 200;

pub(super) async fn explain(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Response {
    let Some(snapshot) = shared.current.snapshot() else {
        return refusal(StatusCode::NOT_FOUND, "no_route", "no config is active");
    };
    let mut asked = Asked { method: "GET".to_owned(), ..Asked::default() };
    for pair in query.as_deref().unwrap_or_default().split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decoded(value);
        match name {
            "url" => asked.url = value,
            "request_id" => match remembered(&shared, &value) {
                Some(found) => asked = found,
                None => {
                    let error = "this proxy does not remember that request: it keeps a sample of the latest ones";
                    return refusal(StatusCode::NOT_FOUND, "no_route", error);
                }
            },
            "method" => asked.method = value.to_ascii_uppercase(),
            "header" if asked.headers.len() < HEADERS_MAX => {
                let (name, value) = value.split_once(':').unwrap_or((&value, ""));
                asked.headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
            }
            _ => {}
        }
    }
    match account_with(&snapshot.config, &snapshot.table, &asked) {
        Ok(account) => {
            let mut value = serde_json::to_value(&account).unwrap_or_default();
            value["revision"] = Value::from(&*snapshot.tag.label);
            Json(value).into_response()
        }
        Err(error) => refusal(StatusCode::BAD_REQUEST, "bad_request", &error.to_string()),
    }
}

/// A request that was sampled, as far as it is remembered.
fn remembered(shared: &Shared, id: &str) -> Option<Asked> {
    let shapes = shared.registry.threads.iter().flat_map(|cells| cells.samples.shapes());
    let shape = shapes.into_iter().find(|shape| !id.is_empty() && shape.request_id == id)?;
    let query: Vec<String> = shape.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    let host = if shape.host.contains(':') { format!("[{}]", shape.host) } else { shape.host };
    let headers = shape.headers.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    Some(Asked { method: shape.method, url: format!("http://{host}{}{query}", shape.path), headers })
}

/// The text of a component of a query. A broken escape stands for itself.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.filter(|_| byte == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (byte, escaped) {
            (_, Some(escaped)) => {
                out.push(escaped);
                at += 3;
                continue;
            }
            (b'+', None) => out.push(b' '),
            (other, None) => out.push(other),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}
