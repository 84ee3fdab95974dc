//! Pull: the calls that an attached proxy makes, as plain HTTP requests for one that polls. Convert, ask, convert.
//!
//! A proxy that polls and reports holds a session, as one that attached holds a stream: both end in the same driver, which
//! does not know the difference. A session that nobody used for [`LEASE`] ends as a stream that broke.
//!
//! `GET /v1/bundle?proxy=ID&…` answers what to hold and serve ([`v1::PullBundle`]), with an `ETag`; `GET /v1/blobs/HEX` a
//! manifest or chunk; `POST /v1/report` takes a [`v1::ProxyStatus`] and answers the newest `ETag`, so that a change is
//! fetched at once and not at the next poll; `POST /v1/enrol` is for a certificate.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use prost::Message;
use sealane_model::ids::{Digest, ProxyId};
use sealane_node::listen::Peer;
use sealane_proto::{convert, v1};
use serde::Deserialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::http::Caller;
use crate::rollout::driver::{Ask, Attached};
use crate::service::{ProxyControl, attach_status, observe_status};

/// The sessions of those that poll. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Pull {
    control: ProxyControl,
    sessions: Arc<Mutex<BTreeMap<ProxyId, Session>>>,
}

#[derive(Debug)]
struct Session {
    instance: String,
    attached: Attached,
    peer: Peer,
    used: Instant,
}

/// Who polls.
#[derive(Clone, Debug, Deserialize)]
struct Hello {
    proxy: String,
    #[serde(default)]
    instance: String,
    #[serde(default)]
    build: String,
    #[serde(default)]
    fleet: String,
    #[serde(default)]
    generation: u64,
    #[serde(default)]
    root_version: u32,
}

/// A refusal, in words.
struct Refused(Status);

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self(status)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = match self.0.code() {
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::InvalidArgument => StatusCode::BAD_REQUEST,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::AlreadyExists | Code::FailedPrecondition => StatusCode::CONFLICT,
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, format!("{}\n", self.0.message())).into_response()
    }
}

impl Pull {
    pub(crate) fn new(control: ProxyControl) -> Self {
        Self { control, sessions: Arc::default() }
    }

    /// The routes.
    pub(crate) fn router(self) -> Router {
        Router::new()
            .route("/v1/bundle", get(bundle))
            .route("/v1/blobs/{digest}", get(blob))
            .route("/v1/report", post(report))
            .route("/v1/enrol", post(enrol))
            .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
            .with_state(self)
    }

    /// Ends sessions that nobody uses any more, until `cancel`.
    pub(crate) async fn expire(self, cancel: CancellationToken) {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = tick.tick() => {}
            }
            let mut over = Vec::new();
            self.lock().retain(|proxy, session| {
                let (id, number) = (proxy.clone(), session.attached.session);
                let lives = session.used.elapsed() < LEASE && session.attached.commands.has_changed().is_ok();
                let ends = match self.control.door.is_over(&session.peer) {
                    Some(_) => Some(Ask::SendAway(id, number)),
                    None => (!lives).then_some(Ask::Detach(id, number)),
                };
                let stays = ends.is_none();
                over.extend(ends);
                stays
            });
            for ask in over {
                let _ = self.control.asks.send(ask).await; // no driver: the agent is stopping
            }
        }
    }

    /// The session of the process that polls; a new one where there is none.
    async fn session(&self, hello: &Hello, peer: &Peer) -> Result<(), Status> {
        let proxy = ProxyId(hello.proxy.clone());
        {
            let mut sessions = self.lock();
            let held = sessions.get_mut(&proxy);
            let same = held.filter(|one| one.instance == hello.instance && one.attached.commands.has_changed().is_ok());
            if let Some(session) = same {
                session.used = Instant::now();
                session.peer = peer.clone();
                return Ok(());
            }
        }
        let request = v1::AttachRequest {
            proxy_id: hello.proxy.clone(),
            build: hello.build.clone(),
            instance: hello.instance.clone(),
            generation: hello.generation,
            root_version: hello.root_version,
            fleet_id: hello.fleet.clone(),
            newest: None,
        };
        let attached = self.control.ask(|reply| Ask::Attach(request, reply)).await?.map_err(attach_status)?;
        let (instance, peer) = (hello.instance.clone(), peer.clone());
        let session = Session { instance, attached, peer, used: Instant::now() };
        self.lock().insert(proxy, session);
        Ok(())
    }

    /// What this proxy should hold and serve now, and its tag. `None`: nothing yet.
    fn current(&self, proxy: &str, root_version: u32) -> Option<(Vec<u8>, String)> {
        let desired = self.lock().get(&ProxyId(proxy.to_owned()))?.attached.commands.borrow().clone();
        let state = self.control.ledger.state();
        let newer = state.roots.iter().filter(|root| root.document().version > root_version);
        let sandbox = state.sandbox.as_ref().map(|sandbox| v1::SandboxOffer {
            roots: newer.map(|root| root.envelope().into()).collect(),
            release: Some(sandbox.release().envelope().into()),
        });
        let revoked = self.control.door.follow_revoked().borrow().clone();
        let revoked = (!revoked.is_empty()).then(|| convert::revoked_list(&revoked));
        let desired = desired.map(|desired| v1::ProxyDesired::clone(&desired));
        let bundle = v1::PullBundle { desired, sandbox, revoked };
        let bytes = bundle.encode_to_vec();
        let tag = format!("\"{}\"", Digest::of(&bytes));
        (!bytes.is_empty()).then_some((bytes, tag))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ProxyId, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn bundle(
    State(pull): State<Pull>,
    ConnectInfo(Caller(peer)): ConnectInfo<Caller>,
    Query(hello): Query<Hello>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    pull.control.door.admit(Some(&peer), &hello.proxy)?;
    pull.session(&hello, &peer).await?;
    let Some((bytes, tag)) = pull.current(&hello.proxy, hello.root_version) else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let held = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let etag = (header::ETAG, value(&tag));
    if held.is_some_and(|held| held.split(',').any(|one| one.trim() == tag)) {
        return Ok((StatusCode::NOT_MODIFIED, [etag]).into_response());
    }
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
    let private = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(([etag, kind, private], bytes).into_response())
}

async fn blob(
    State(pull): State<Pull>,
    ConnectInfo(Caller(peer)): ConnectInfo<Caller>,
    Path(hex): Path<String>,
) -> Result<Response, Refused> {
    pull.control.door.admit_any(Some(&peer))?;
    let digest =
        Digest::from_hex(&hex).ok_or_else(|| Status::invalid_argument("a blob's name is 64 hex digits of SHA-256"))?;
    let content = pull.control.read(digest).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], content).into_response())
}

async fn report(
    State(pull): State<Pull>,
    ConnectInfo(Caller(peer)): ConnectInfo<Caller>,
    Query(query): Query<BTreeMap<String, String>>,
    body: Bytes,
) -> Result<Response, Refused> {
    let status = v1::ProxyStatus::decode(body).map_err(|_| Status::invalid_argument("the body is no ProxyStatus"))?;
    let proxy = status.proxy_id.clone();
    pull.control.door.admit(Some(&peer), &proxy)?;
    let instance = status.instance.clone();
    let observed = pull.control.ask(|reply| Ask::Observe(Box::new(status), reply)).await?;
    observed.map_err(observe_status)?;
    if let Some(session) = pull.lock().get_mut(&ProxyId(proxy.clone())).filter(|one| one.instance == instance) {
        session.used = Instant::now();
    }
    let root_version = query.get("root_version").and_then(|text| text.parse().ok()).unwrap_or(0);
    match pull.current(&proxy, root_version) {
        Some((_, tag)) => Ok((StatusCode::NO_CONTENT, [(header::ETAG, value(&tag))]).into_response()),
        None => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

async fn enrol(State(pull): State<Pull>, body: Bytes) -> Result<Response, Refused> {
    let request = v1::EnrolProxyRequest::decode(body)
        .map_err(|_| Status::invalid_argument("the body is no EnrolProxyRequest"))?;
    let answer = pull.control.link.enrol_proxy(request).await?;
    Ok(([(header::CONTENT_TYPE, PROTOBUF)], answer.encode_to_vec()).into_response())
}

fn value(tag: &str) -> HeaderValue {
    HeaderValue::from_str(tag).unwrap_or(HeaderValue::from_static("\"\""))
}

/// A session that was not used for this long ends.
const LEASE: Duration = Duration::from_secs(10);
const PROTOBUF: &str = "application/x-protobuf";
/// A status with all its counts is a few tens of KiB.
const REQUEST_BYTES_MAX: usize = 1 << 20;
