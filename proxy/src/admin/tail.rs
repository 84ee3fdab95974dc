//! `/api/v2/tail`: requests as they end, one JSON object a line, until the client goes away. `{"dropped": N}` between
//! them says how many are missing.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::time::Instant;

use super::answer::refusal;
use super::explain::decoded;
use crate::shared::Shared;
use crate::tap::{Batch, Filter, Tail};

/// A watcher that asks for no end is let go after this.
const SECONDS_MAX: u64 = 24 * 60 * 60;

struct Asked {
    filter: Filter,
    lines: u64,
    seconds: u64,
}

pub(super) async fn follow(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Response {
    let asked = match asked(query.as_deref().unwrap_or_default()) {
        Ok(asked) => asked,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, "bad_request", &error),
    };
    let Some(tail) = Tail::begin(&shared, asked.filter) else {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "so many watch this proxy already");
    };
    drop(shared);
    let end = Instant::now() + Duration::from_secs(asked.seconds);
    let batches = stream::unfold((tail, asked.lines), move |(mut tail, left)| async move {
        if left == 0 {
            return None;
        }
        let batch = tokio::time::timeout_at(end, tail.next()).await.ok()?;
        let (text, lines) = cut(batch, left);
        Some((Ok::<_, std::io::Error>(Bytes::from(text)), (tail, left - lines)))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")], Body::from_stream(batches))
        .into_response()
}

/// At most `lines` of a batch, and how many that are.
fn cut(batch: Batch, lines: u64) -> (Vec<u8>, u64) {
    let Batch { mut text, lines: there, dropped } = batch;
    if there > lines {
        let ends = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
        let end = ends.take(usize::try_from(lines).unwrap_or(usize::MAX)).last().map_or(0, |at| at + 1);
        text.truncate(end);
    }
    if dropped > 0 {
        text.extend_from_slice(format!("{{\"dropped\":{dropped}}}\n").as_bytes());
    }
    (text, there.min(lines))
}

fn asked(query: &str) -> Result<Asked, String> {
    let mut asked = Asked { filter: Filter::default(), lines: u64::MAX, seconds: SECONDS_MAX };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decoded(value);
        let count = || value.parse::<u64>().map_err(|_| format!("`{name}` is a number, not `{value}`"));
        match name {
            "route" => asked.filter.route = Some(value),
            "pool" => asked.filter.pool = Some(value),
            "status" => {
                let status = Filter::status_of(&value);
                asked.filter.status =
                    Some(status.ok_or_else(|| format!("`status` is such as 404 or 5xx, not `{value}`"))?);
            }
            "host" => asked.filter.host = Some(value),
            "path_prefix" => asked.filter.path_prefix = Some(value),
            "min_duration_ms" => asked.filter.min_duration = Duration::from_millis(count()?),
            "lines" => asked.lines = count()?,
            "seconds" => asked.seconds = count()?.min(SECONDS_MAX),
            other => return Err(format!("there is no parameter `{}`", decoded(other))),
        }
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_watches_nothing() {
        assert!(asked("rout=a").is_err_and(|error| error.contains("rout")));
        assert!(asked("status=5").is_err() && asked("lines=x").is_err());
        let asked = asked("status=5xx&path_prefix=%2Fapi&lines=3").unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((asked.filter.status, asked.filter.path_prefix.as_deref()), (Some((500, 599)), Some("/api")));
        assert_eq!(asked.lines, 3);
    }

    #[test]
    fn the_last_batch_is_cut_at_a_line() {
        let batch = Batch { text: b"1\n2\n3\n".to_vec(), lines: 3, dropped: 4 };
        assert_eq!(cut(batch, 2), (b"1\n2\n{\"dropped\":4}\n".to_vec(), 2));
    }
}
