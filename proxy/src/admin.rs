//! The admin listener: health, metrics, what is served. On the background runtime, never on a data-plane listener.
//!
//! Beyond loopback it wants TLS and a token. On loopback it refuses what a browser could be made to send: a foreign
//! `Host`, a foreign `Origin`, a cross-site `Sec-Fetch-Site`.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex};

use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use sealane_model::config::ListenAddress;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tracing::{error, info, warn};

use crate::admin::lockout::Lockout;
use crate::clock::Moment;
use crate::exposition;
use crate::http1::request_head::host_of;
use crate::metrics::lock;
use crate::serve::StartError;
use crate::settings::AdminSettings;
use crate::shared::{Shared, Stage};

mod cache;
mod explain;
mod live;
mod lockout;
mod tls;

/// Binds and serves. Where it is bound.
pub(crate) async fn start(
    settings: &AdminSettings,
    shared: &Arc<Shared>,
    runtime: &Handle,
) -> Result<AdminListener, StartError> {
    let AdminSettings { address, flag, .. } = *settings;
    let is_protected = settings.tls.is_some() && settings.is_authenticated();
    if !address.ip().is_loopback() && !is_protected {
        if !settings.insecure {
            return Err(StartError::AdminExposed { address, flag });
        }
        warn!(%address, "the admin listener is reachable from other machines without TLS and authentication");
    }
    let tls = settings.tls.as_ref().map(|files| tls::acceptor(files, shared)).transpose();
    let tls = tls.map_err(StartError::AdminTls)?;
    let listen = |source| StartError::AdminListen { address, flag, source };
    let inherited = shared.settings.inherited.take(&ListenAddress { ip: Some(address.ip()), port: address.port() });
    // On the runtime that will drive it.
    let listener = runtime.spawn(async move {
        let Some(inherited) = inherited.into_iter().next() else { return TcpListener::bind(address).await };
        inherited.set_nonblocking(true)?;
        TcpListener::from_std(inherited)
    });
    let listener = listener.await.unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into())).map_err(listen)?;
    let local = listener.local_addr().map_err(listen)?;
    let socket = listener.as_fd().try_clone_to_owned().map_err(listen)?.into();
    let router = router(settings, shared, local.ip());
    let serving = runtime.spawn(async move {
        let served = match tls {
            Some(acceptor) => {
                axum::serve(
                    tls::TlsListener::start(listener, acceptor),
                    router.into_make_service_with_connect_info::<Caller>(),
                )
                .await
            }
            None => axum::serve(listener, router.into_make_service_with_connect_info::<Caller>()).await,
        };
        if let Err(cause) = served {
            error!(%cause, "admin listener ended");
        }
    });
    info!(address = %local, "admin listening");
    Ok(AdminListener { address: local, socket: Mutex::new(Some(socket)), serving: serving.abort_handle() })
}

/// The admin listener as it runs.
#[derive(Debug)]
pub(crate) struct AdminListener {
    pub(crate) address: SocketAddr,
    /// For a process that takes over.
    socket: Mutex<Option<std::net::TcpListener>>,
    serving: AbortHandle,
}

impl AdminListener {
    /// The listening socket, doubled; `None` once it is closed.
    pub(crate) fn double(&self) -> Option<std::net::TcpListener> {
        lock(&self.socket).as_ref()?.try_clone().ok()
    }

    /// Accepts no further connections. Requests in flight finish.
    pub(crate) fn close(&self) {
        lock(&self.socket).take();
        self.serving.abort();
    }
}

impl AdminSettings {
    fn is_authenticated(&self) -> bool {
        self.token.is_some() || self.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some())
    }
}

fn router(settings: &AdminSettings, shared: &Arc<Shared>, ip: IpAddr) -> Router {
    let open = Router::new()
        .route("/healthz", get(healthz))
        .route("/ready", get(ready))
        .route("/readyz", get(ready))
        .with_state(Arc::clone(shared));
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/api/v2/config/current", get(current))
        .route("/api/v2/drain", get(drain_state).post(drain))
        .route("/api/v2/explain", get(explain::explain))
        .route("/api/v2/samples", get(samples))
        .route("/api/v2/pools/{id}/health", get(pool_health))
        .route("/api/v2/cache/stats", get(cache::stats))
        .route("/api/v2/cache/purge", post(cache::purge))
        .route("/admin/cache/{domain}", delete(cache::purge_domain))
        .route("/api/v2/breakers", get(live::breakers))
        .route("/api/v2/traffic/canary", get(live::traffic))
        .with_state(Arc::clone(shared))
        .merge(settings.extra.clone().unwrap_or_default());
    let guarded = match &settings.token {
        Some(token) => {
            let digest: [u8; 32] = Sha256::digest(token).into();
            let lockout = Arc::new(Lockout::default());
            guarded.layer(middleware::from_fn(move |request: Request, next: Next| {
                authorize(digest, Arc::clone(&lockout), request, next)
            }))
        }
        None => guarded,
    };
    let router = guarded.merge(open).fallback(not_found).method_not_allowed_fallback(wrong_method);
    if ip.is_loopback() { router.layer(middleware::from_fn(refuse_foreign)) } else { router }
}

async fn healthz() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    if shared.is_ready() {
        return Json(json!({ "status": "ready" })).into_response();
    }
    let reason = if shared.current.version() == 0 { "no config is active" } else { "shutting down" };
    let body = Json(json!({ "status": "not_ready", "reason": reason }));
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

async fn metrics(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let snapshot = shared.current.snapshot();
    if let Some(snapshot) = snapshot {
        let metrics = &snapshot.config.metrics;
        if !metrics.enabled {
            return refusal(StatusCode::NOT_FOUND, "no_route", "metrics are off");
        }
        let sent = headers.get(header::AUTHORIZATION).map(http::HeaderValue::as_bytes);
        if !may_scrape(metrics.token_env.as_deref(), sent) {
            return refusal(StatusCode::UNAUTHORIZED, "unauthorized", "a bearer token is required");
        }
    }
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let (content_type, text) = exposition::answer(&shared, accept);
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

/// Recent requests, as decisions saw them.
async fn samples(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let shapes: Vec<_> = shared.registry.threads.iter().flat_map(|cells| cells.samples.shapes()).collect();
    Json(json!({ "requests": shapes }))
}

async fn current(State(shared): State<Arc<Shared>>) -> Response {
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
    Json(json!({
        "revision": snapshot.tag.number,
        "label": &*snapshot.tag.label,
        "digest": digest,
        "listeners": listeners,
        "routes": routes,
        "pools": pools,
    }))
    .into_response()
}

/// Begins a drain, once; says how far it is.
async fn drain(State(shared): State<Arc<Shared>>) -> Response {
    shared.drain_asked.notify_one();
    (StatusCode::ACCEPTED, drain_state(State(shared)).await).into_response()
}

async fn drain_state(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let stage = match shared.stage() {
        Stage::Serving => "serving",
        Stage::Leaving => "leaving",
        Stage::Draining => "draining",
        Stage::Drained => "drained",
    };
    Json(json!({ "stage": stage, "connections": shared.open_connections() }))
}

async fn pool_health(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    let snapshot = shared.current.snapshot();
    let pool = snapshot.as_ref().and_then(|snapshot| snapshot.pools.iter().find(|pool| *pool.id == id));
    let Some(pool) = pool else {
        return refusal(StatusCode::NOT_FOUND, "no_route", "no such pool");
    };
    let now_ms = Moment::now().millis();
    let endpoints: Vec<Value> = pool
        .endpoints
        .iter()
        .map(|endpoint| {
            let (failures, ejected_until_ms) = endpoint.live.passive_state();
            json!({
                "address": &*endpoint.address,
                "healthy": endpoint.live.is_available(now_ms),
                "probes_healthy": endpoint.live.is_probed_healthy(),
                "consecutive_failures": failures,
                "ejected_for_ms": ejected_until_ms.saturating_sub(now_ms),
            })
        })
        .collect();
    let healthy = pool.endpoints.iter().filter(|endpoint| endpoint.live.is_available(now_ms)).count();
    Json(json!({ "pool": id, "healthy": healthy, "total": endpoints.len(), "endpoints": endpoints })).into_response()
}

/// `Allow` is added by the router.
async fn wrong_method() -> Response {
    refusal(StatusCode::METHOD_NOT_ALLOWED, "bad_request", "method not allowed")
}

async fn not_found() -> Response {
    refusal(StatusCode::NOT_FOUND, "no_route", "no such admin path")
}

fn refusal(status: StatusCode, category: &str, error: &str) -> Response {
    (status, Json(json!({ "error": error, "category": category, "error_category": category }))).into_response()
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

async fn authorize(digest: [u8; 32], lockout: Arc<Lockout>, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<ConnectInfo<Caller>>();
    let caller = caller.map_or(IpAddr::from([0, 0, 0, 0]), |ConnectInfo(Caller(ip))| *ip);
    let now_ms = Moment::now().millis();
    if let Some(locked_ms) = lockout.locked_ms(caller, now_ms) {
        let seconds = locked_ms.div_ceil(1000).to_string();
        let refusal = refusal(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "too many wrong tokens from this address");
        return ([(header::RETRY_AFTER, seconds)], refusal).into_response();
    }
    let sent = request.headers().get(header::AUTHORIZATION).map(http::HeaderValue::as_bytes);
    if is_bearer(sent, digest) {
        return next.run(request).await;
    }
    if sent.is_some() {
        lockout.guessed_wrong(caller, now_ms);
    }
    refusal(StatusCode::UNAUTHORIZED, "unauthorized", "a bearer token is required")
}

/// Who an admin connection comes from.
#[derive(Clone, Copy, Debug)]
struct Caller(IpAddr);

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

/// Refuses what a page of another site could make a browser on this machine send.
async fn refuse_foreign(request: Request, next: Next) -> Response {
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
