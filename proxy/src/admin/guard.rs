//! Who is let in at the admin listener: not too often, not a guesser, with the token, and no foreign page's browser.
//!
//! In this order: rate, lock-out, token. It does not know what is asked for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use axum::extract::Request;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;

use super::answer::refusal;
use super::lockout::Lockout;
use super::tls;
use crate::clock::Moment;
use crate::http1::request_head::host_of;
use crate::metrics::lock;

/// Who an admin connection comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller(IpAddr);

impl Connected<IncomingStream<'_, TcpListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self(stream.remote_addr().ip())
    }
}

impl Connected<IncomingStream<'_, tls::TlsListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, tls::TlsListener>) -> Self {
        Self(stream.remote_addr().ip())
    }
}

fn caller(request: &Request) -> IpAddr {
    let caller = request.extensions().get::<ConnectInfo<Caller>>();
    caller.map_or(IpAddr::from([0, 0, 0, 0]), |ConnectInfo(Caller(ip))| *ip)
}

/// Lets in whoever has the token. Guessing is what [`Lockout`] ends.
pub(super) async fn authorize(digest: [u8; 32], lockout: Arc<Lockout>, request: Request, next: Next) -> Response {
    let caller = caller(&request);
    let now_ms = Moment::now().millis();
    if let Some(locked_ms) = lockout.locked_ms(caller, now_ms) {
        return later(locked_ms, "too many wrong tokens from this address");
    }
    let sent = request.headers().get(header::AUTHORIZATION).map(http::HeaderValue::as_bytes);
    if is_bearer(sent, digest) {
        return next.run(request).await;
    }
    if sent.is_some() {
        lockout.guessed_wrong(caller, now_ms);
    }
    let refused = refusal(StatusCode::UNAUTHORIZED, "unauthorized", "a bearer token is required");
    ([(header::WWW_AUTHENTICATE, "Bearer")], refused).into_response()
}

/// Whether a scrape with this `Authorization` may see metrics. A token that is asked for but not set lets nobody in.
pub(crate) fn may_scrape(token_env: Option<&str>, authorization: Option<&[u8]>) -> bool {
    let Some(name) = token_env else { return true };
    let Ok(token) = std::env::var(name) else { return false };
    !token.is_empty() && is_bearer(authorization, Sha256::digest(token).into())
}

/// Compares digests, so that time tells nothing about the token.
fn is_bearer(authorization: Option<&[u8]>, digest: [u8; 32]) -> bool {
    let token = authorization.and_then(|value| value.strip_prefix(b"Bearer "));
    token.is_some_and(|token| <[u8; 32]>::from(Sha256::digest(token)) == digest)
}

/// How often one address may ask for something that costs: so many a second, and twice as many at once.
#[derive(Debug)]
pub(super) struct Rate {
    per_second: u32,
    by_address: Mutex<HashMap<IpAddr, Bucket>>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Thousandths of a request.
    tokens: u64,
    at_ms: u64,
}

/// Addresses that are remembered; when there are more, those whose bucket is full are forgotten, and if none is, all
/// newcomers share one bucket.
const ADDRESSES_MAX: usize = 1024;
/// Their bucket.
const SHARED: IpAddr = IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED);

impl Rate {
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second, by_address: Mutex::default() }
    }

    /// `None`: it may. Else how many milliseconds to wait.
    fn take(&self, address: IpAddr, now_ms: u64) -> Option<u64> {
        let rate = u64::from(self.per_second);
        let full = rate * 2 * 1000;
        let mut by_address = lock(&self.by_address);
        if !by_address.contains_key(&address) && by_address.len() >= ADDRESSES_MAX {
            by_address.retain(|_, bucket| bucket.tokens + now_ms.saturating_sub(bucket.at_ms) * rate < full);
        }
        let is_full = by_address.len() >= ADDRESSES_MAX;
        let key = if by_address.contains_key(&address) || !is_full { address } else { SHARED };
        let bucket = by_address.entry(key).or_insert(Bucket { tokens: full, at_ms: now_ms });
        bucket.tokens = full.min(bucket.tokens + now_ms.saturating_sub(bucket.at_ms) * rate);
        bucket.at_ms = now_ms;
        if bucket.tokens >= 1000 {
            bucket.tokens -= 1000;
            return None;
        }
        Some((1000 - bucket.tokens).div_ceil(rate.max(1)))
    }
}

/// Lets an address in as often as `rate` says; 0 a second: always.
pub(super) async fn limit(rate: Arc<Rate>, request: Request, next: Next) -> Response {
    if rate.per_second > 0
        && let Some(wait_ms) = rate.take(caller(&request), Moment::now().millis())
    {
        return later(wait_ms, "too many requests from this address");
    }
    next.run(request).await
}

fn later(wait_ms: u64, error: &str) -> Response {
    let seconds = wait_ms.div_ceil(1000).max(1).to_string();
    ([(header::RETRY_AFTER, seconds)], refusal(StatusCode::TOO_MANY_REQUESTS, "rate_limited", error)).into_response()
}

/// Refuses what a page of another site could make a browser on this machine send.
pub(super) async fn refuse_foreign(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text("host").or_else(|| request.uri().authority().map(http::uri::Authority::as_str));
    let own_origin = |origin: &str| origin.split_once("://").is_some_and(|(_, authority)| Some(authority) == host);
    if !host.is_some_and(|host| is_loopback(host_of(host))) {
        return refusal(StatusCode::FORBIDDEN, "misdirected", "only loopback names are served here");
    }
    if headers.contains_key("origin") && !text("origin").is_some_and(own_origin) {
        return refusal(StatusCode::FORBIDDEN, "bad_request", "cross-origin requests are refused");
    }
    if headers.contains_key("sec-fetch-site") && !matches!(text("sec-fetch-site"), Some("same-origin" | "none")) {
        return refusal(StatusCode::FORBIDDEN, "bad_request", "cross-site requests are refused");
    }
    next.run(request).await
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost") || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_ask_so_often_and_others_are_not_held_up() {
        let rate = Rate::new(5);
        let (busy, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        for _ in 0..10 {
            assert_eq!(rate.take(busy, 0), None);
        }
        assert_eq!(rate.take(busy, 0), Some(200));
        assert_eq!(rate.take(other, 0), None);
        assert_eq!(rate.take(busy, 200), None);
        assert!(rate.take(busy, 200).is_some());
    }

    #[test]
    fn a_flood_of_addresses_takes_bounded_memory() {
        let rate = Rate::new(1);
        let refused =
            (0..10_000u32).filter(|number| rate.take(IpAddr::from(number.to_be_bytes()), 0).is_some()).count();
        assert!(lock(&rate.by_address).len() <= ADDRESSES_MAX + 1);
        assert!(refused > 8_000, "newcomers share a bucket: {refused}");
        // What has been quiet is forgotten, and there is room again.
        assert_eq!(rate.take(IpAddr::from([200, 0, 0, 1]), 10_000), None);
    }
}
