//! `/api/v2/explain`: which route of what is served takes a request, and why. Sends nothing.
//!
//! `url=…` (absolute), `method=…`, and `header=Name: value` as often as needed, percent-encoded; or `request_id=…` for a
//! request of the past that is still remembered.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use sealane_model::account::Asked;
use serde_json::{Value, json};

use super::answer::refusal;
use crate::explain::{self, ExplainError, Explained};
use crate::shared::Shared;

/// Headers of an asked request at most.
const HEADERS_MAX: usize = 200;

pub(super) async fn explain(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Response {
    let bad = |error: &str| refusal(StatusCode::BAD_REQUEST, "bad_request", error);
    let mut asked = Asked { method: "GET".to_owned(), ..Asked::default() };
    let mut past = None;
    for pair in query.as_deref().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decoded(value);
        match name {
            "url" => asked.url = value,
            "request_id" => past = Some(value),
            "method" => asked.method = value.to_ascii_uppercase(),
            "header" if asked.headers.len() < HEADERS_MAX => {
                let (name, value) = value.split_once(':').unwrap_or((&value, ""));
                asked.headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
            }
            "header" => return bad("too many headers"),
            other => return bad(&format!("there is no parameter `{}`", decoded(other))),
        }
    }
    let explained = match &past {
        Some(id) => explain::explain_past(&shared, id),
        None => explain::explain(&shared, &asked),
    };
    match explained {
        Ok(Explained { account, config, then }) => {
            let mut value = serde_json::to_value(&account).unwrap_or_default();
            value["revision"] = Value::from(&*config);
            value["then"] = then.map_or(Value::Null, |then| json!({ "revision": then.config, "route": then.route }));
            Json(value).into_response()
        }
        Err(error @ (ExplainError::NothingServed | ExplainError::Forgotten)) => {
            refusal(StatusCode::NOT_FOUND, "no_route", &error.to_string())
        }
        Err(error @ ExplainError::Asked(_)) => bad(&error.to_string()),
    }
}

/// The text of a component of a query. A broken escape stands for itself.
pub(super) fn decoded(text: &str) -> String {
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
