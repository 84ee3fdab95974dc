//! Who may read: a viewer's token; and on loopback, nobody that a page of another site sent (DNS rebinding, CSRF).

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, StatusCode, header};

use super::{failed, problem};
use crate::app::App;
use crate::auth::{Credentials, Role, bearer};
use crate::sandbox::Actor;

/// Asks for a viewer's token.
pub(super) async fn viewer(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if !app.auth.is_dev() {
        let credentials = Credentials { bearer: bearer(request.headers()), certificate: None };
        if let Err(status) = app.auth.of_token(&credentials, app.clock.now_ms(), Role::Viewer) {
            return failed(status);
        }
    }
    next.run(request).await
}

/// Asks for a token that may change sandbox routes, and tells the handlers whose it is.
pub(super) async fn sandbox_editor(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let actor = if app.auth.is_dev() {
        "dev (admin)".to_owned()
    } else {
        let credentials = Credentials { bearer: bearer(request.headers()), certificate: None };
        match app.auth.of_token(&credentials, app.clock.now_ms(), Role::Sandbox) {
            Ok(caller) => caller.name,
            Err(status) => return failed(status),
        }
    };
    request.extensions_mut().insert(Actor(actor));
    next.run(request).await
}

/// On a loopback listener: the `Host` is loopback, and the page that asks is too.
pub(super) async fn same_site(request: Request, next: Next) -> Response {
    match stranger(request.headers(), request.uri().host()) {
        Some(why) => problem(StatusCode::FORBIDDEN, "forbidden", why),
        None => next.run(request).await,
    }
}

fn stranger(headers: &HeaderMap, uri_host: Option<&str>) -> Option<&'static str> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or(""));
    let host = text(header::HOST).or(uri_host).unwrap_or("");
    if !is_loopback(host) {
        return Some("this address answers requests for loopback hosts only");
    }
    if let Some(origin) = text(header::ORIGIN) {
        let from = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        if !from.is_some_and(is_loopback) {
            return Some("this address answers no requests from other sites");
        }
    }
    if headers.get("sec-fetch-site").is_some_and(|value| value == "cross-site") {
        return Some("this address answers no requests from other sites");
    }
    None
}

/// Whether an authority (`host` or `host:port`) is loopback.
fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(host, _)| host),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    let host = host.trim_end_matches('.');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_loopback_hosts_and_pages_are_answered() {
        for host in ["localhost", "localhost:7480", "127.0.0.1:7480", "[::1]:7480", "LOCALHOST."] {
            assert_eq!(stranger(&headers(&[("host", host)]), None), None, "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "10.0.0.1:7480", "", "localhost.evil.example:80"] {
            assert!(stranger(&headers(&[("host", host)]), None).is_some(), "{host}");
        }
        let with = |name, value| stranger(&headers(&[("host", "localhost"), (name, value)]), None);
        assert!(with("origin", "https://evil.example").is_some());
        assert!(with("origin", "null").is_some());
        assert!(with("sec-fetch-site", "cross-site").is_some());
        assert_eq!(with("origin", "http://localhost:7480"), None);
        assert_eq!(with("sec-fetch-site", "same-origin"), None);
    }
}
