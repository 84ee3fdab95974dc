//! The agent's HTTP address: health, readiness, metrics. Read only; it changes nothing.
//!
//! A loopback listener answers only to loopback names and to no other site's page, so that a browser on this machine
//! cannot be used to read it.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::get;
use axum::serve::{IncomingStream, Listener};
use sealane_model::release::Partition;
use sealane_node::keyring::Keyring;
use sealane_node::listen::{Link, Peer, is_loopback_host};
use tokio::sync::{mpsc, watch};

use crate::clock;
use crate::door::Door;
use crate::ledger::Ledger;
use crate::pull::Pull;
use crate::refusal::Refusals;
use crate::report::ReportCounts;
use crate::rollout::driver::Roster;
use crate::subscribe::Contact;

/// What can be seen of an agent.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) ledger: Ledger,
    pub(crate) refusals: Refusals,
    pub(crate) door: Door,
    pub(crate) roster: watch::Receiver<Roster>,
    pub(crate) contact: watch::Receiver<Contact>,
    pub(crate) reports: watch::Receiver<ReportCounts>,
    pub(crate) keyring: Keyring,
}

/// What protects the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Only this machine reaches it.
    Loopback,
    /// TLS, and certificates of the fleet.
    Members,
    /// Everybody, as a flag said in words.
    Open,
}

/// Who sends a request.
#[derive(Clone, Debug)]
pub(crate) struct Caller(pub(crate) Peer);

/// Connections that have passed their handshake.
#[derive(Debug)]
pub(crate) struct Accepted(pub(crate) mpsc::Receiver<Link>);

impl Listener for Accepted {
    type Io = Link;
    type Addr = Peer;

    async fn accept(&mut self) -> (Link, Peer) {
        match self.0.recv().await {
            Some(link) => {
                let peer = link.peer().clone();
                (link, peer)
            }
            None => std::future::pending().await, // the listener has ended, and with it this server soon
        }
    }

    fn local_addr(&self) -> std::io::Result<Peer> {
        Ok(Peer::Local)
    }
}

impl Connected<IncomingStream<'_, Accepted>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Accepted>) -> Self {
        Self(stream.remote_addr().clone())
    }
}

/// The routes, guarded as `reach` needs it.
pub(crate) fn router(view: View, pull: Pull, reach: Reach) -> Router {
    let door = view.door.clone();
    let router = Router::new()
        .route("/", get(index))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(view));
    let router = match reach {
        Reach::Members => router.layer(middleware::from_fn_with_state(door, members_only)),
        Reach::Loopback | Reach::Open => router,
    };
    let router = router.route("/healthz", get(|| async { "ok\n" })).merge(pull.router());
    match reach {
        Reach::Loopback => router.layer(middleware::from_fn(refuse_other_sites)),
        Reach::Members | Reach::Open => router,
    }
}

/// Beyond loopback only who has a certificate of the fleet reads.
async fn members_only(
    Shared(door): Shared<Door>,
    ConnectInfo(Caller(peer)): ConnectInfo<Caller>,
    request: Request,
    next: Next,
) -> Response {
    match peer {
        Peer::Member(..) => match door.is_over(&peer) {
            None => next.run(request).await,
            Some(why) => {
                door.turn_away(why.code(), "metrics");
                (StatusCode::UNAUTHORIZED, format!("{why}\n")).into_response()
            }
        },
        Peer::Stranger(why) => {
            door.turn_away(why.code(), "metrics");
            (StatusCode::UNAUTHORIZED, format!("{why}\n")).into_response()
        }
        Peer::Local => (StatusCode::UNAUTHORIZED, "a certificate of the fleet is needed\n").into_response(),
    }
}

async fn index() -> Html<&'static str> {
    Html(
        "<!doctype html><title>sealane agent</title><h1>sealane agent</h1><ul>\
         <li><a href=\"/healthz\">/healthz</a> the process lives</li>\
         <li><a href=\"/readyz\">/readyz</a> it has a revision for its proxies</li>\
         <li><a href=\"/metrics\">/metrics</a> Prometheus</li>\
         <li>/v1/bundle?proxy=ID for proxies that poll</li></ul>\n",
    )
}

async fn ready(Shared(view): Shared<Arc<View>>) -> Response {
    let state = view.ledger.state();
    let revision = state.stable.and_then(|digest| state.release(&digest)).map(|release| release.release().revision.0);
    let connected = view.contact.borrow().connected;
    let ready = revision.is_some() || connected;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let proxies = view.roster.borrow().proxies.iter().filter(|entry| entry.attached).count();
    let body = serde_json::json!({
        "ready": ready,
        "agent": state.agent.0,
        "authority_connected": connected,
        "stable_revision": revision,
        "proxies": proxies,
    });
    (status, Json(body)).into_response()
}

async fn metrics(Shared(view): Shared<Arc<View>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], exposition(&view)).into_response()
}

fn exposition(view: &View) -> String {
    let state = view.ledger.state();
    let revision = |digest: Option<_>| {
        digest.and_then(|digest| state.release(&digest)).map_or(0, |release| release.release().revision.0)
    };
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, String)]| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let one = |value: String| [(String::new(), value)];
    let version = format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    family("sealane_agent_build", "gauge", "Constant 1, labelled with the version.", &[(version, "1".into())]);
    let connected = u8::from(view.contact.borrow().connected).to_string();
    family("sealane_agent_authority_connected", "gauge", "Whether the authority's stream is open.", &one(connected));
    let refused: Vec<_> = view
        .refusals
        .counts()
        .into_iter()
        .map(|(code, count)| (format!("{{code=\"{code}\"}}"), count.to_string()))
        .collect();
    family("sealane_agent_refused_bundles_total", "counter", "Documents and content refused, by code.", &refused);
    let strangers: Vec<_> = view
        .door
        .counts()
        .into_iter()
        .map(|(code, count)| (format!("{{code=\"{code}\"}}"), count.to_string()))
        .collect();
    let help = "Connections and calls of proxies turned away, by code.";
    family("sealane_agent_refused_peers_total", "counter", help, &strangers);
    let floor = state.floors.get(&Partition::Config).map_or(0, |floor| floor.revision.0).to_string();
    family("sealane_agent_revision_floor", "gauge", "Nothing below this revision is accepted.", &one(floor));
    let revisions = [
        ("{role=\"stable\"}".to_owned(), revision(state.stable).to_string()),
        (
            "{role=\"candidate\"}".to_owned(),
            revision(state.candidate.as_ref().map(|candidate| candidate.digest)).to_string(),
        ),
    ];
    family("sealane_agent_revision", "gauge", "Revision held; 0: none.", &revisions);
    let rolled_back = u8::from(state.rolled_back.is_some()).to_string();
    family("sealane_agent_rolled_back", "gauge", "Whether this agent took its proxies back.", &one(rolled_back));
    let stale = state.seen_timestamp().is_some_and(|timestamp| clock::unix_ms() > timestamp.expires_unix_ms);
    let stale = u8::from(stale).to_string();
    family("sealane_agent_stale", "gauge", "Whether the timestamp document has expired.", &one(stale));
    let seconds = |unix_ms: i64| (String::new(), (unix_ms / 1000).to_string());
    let until: Vec<_> =
        state.seen_timestamp().map(|timestamp| seconds(timestamp.expires_unix_ms)).into_iter().collect();
    let help = "When the newest timestamp document expires; nothing widens after that.";
    family("sealane_agent_timestamp_expiry_timestamp_seconds", "gauge", help, &until);
    let until: Vec<_> = view.keyring.expiry_unix_ms().map(seconds).into_iter().collect();
    let help = "When this agent's certificate of the fleet's CA expires; absent without one.";
    family("sealane_agent_certificate_expiry_timestamp_seconds", "gauge", help, &until);
    let proxies = view.roster.borrow().proxies.clone();
    let count = |wanted: bool| proxies.iter().filter(|entry| entry.attached == wanted).count().to_string();
    let attached = [("{attached=\"true\"}".to_owned(), count(true)), ("{attached=\"false\"}".to_owned(), count(false))];
    family("sealane_agent_proxies", "gauge", "Proxies of this agent.", &attached);
    let reports = *view.reports.borrow();
    let reports = [
        ("{result=\"answered\"}".to_owned(), reports.answered.to_string()),
        ("{result=\"failed\"}".to_owned(), reports.failed.to_string()),
    ];
    family("sealane_agent_reports_total", "counter", "Reports to the authority.", &reports);
    text
}

async fn refuse_other_sites(request: Request, next: Next) -> Response {
    match foreign(request.headers(), request.uri().host()) {
        Some(why) => (StatusCode::FORBIDDEN, format!("{why}\n")).into_response(),
        None => next.run(request).await,
    }
}

/// Why a request did not come from this machine's own user.
fn foreign(headers: &HeaderMap, target_host: Option<&str>) -> Option<&'static str> {
    let text = |name| headers.get(name).map(|value: &header::HeaderValue| value.to_str().unwrap_or("?"));
    let host = text(header::HOST).or(target_host).unwrap_or("");
    if !is_loopback_host(without_port(host)) {
        return Some("this address answers only to loopback names");
    }
    let same_site =
        |origin: &str| origin.split_once("://").is_some_and(|(_, authority)| is_loopback_host(without_port(authority)));
    if text(header::ORIGIN).is_some_and(|origin| !same_site(origin)) {
        return Some("another site's page may not ask this address");
    }
    let fetch_site = headers.get("sec-fetch-site").map(|value| value.to_str().unwrap_or("?"));
    if fetch_site.is_some_and(|site| site == "cross-site") {
        return Some("another site's page may not ask this address");
    }
    None
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) | None => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&'static str, &str)], allowed: bool) {
        let map = headers
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        assert_eq!(foreign(&map, None).is_none(), allowed, "{headers:?}");
    }

    #[test]
    fn only_loopback_names_and_pages_may_ask() {
        check(&[("host", "127.0.0.1:7481")], true);
        check(&[("host", "localhost")], true);
        check(&[("host", "[::1]:7481")], true);
        check(&[("host", "evil.example:7481")], false);
        check(&[], false);
        check(&[("host", "localhost:7481"), ("origin", "http://localhost:3000")], true);
        check(&[("host", "localhost:7481"), ("origin", "https://evil.example")], false);
        check(&[("host", "localhost:7481"), ("origin", "null")], false);
        check(&[("host", "localhost:7481"), ("sec-fetch-site", "cross-site")], false);
        check(&[("host", "localhost.evil.example")], false);
    }
}
