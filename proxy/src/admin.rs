//! The admin listener: health, metrics, what is served. On the background runtime, never on a data-plane listener.
//!
//! Beyond loopback it wants TLS and a token. On loopback it refuses what a browser could be made to send: a foreign
//! `Host`, a foreign `Origin`, a cross-site `Sec-Fetch-Site`.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{self, Next};
use sealane_model::config::ListenAddress;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tracing::{error, info, warn};

use self::api::Access;
use self::guard::{Caller, Rate};
use self::lockout::Lockout;
use crate::metrics::lock;
use crate::serve::StartError;
use crate::settings::AdminSettings;
use crate::shared::Shared;

pub(crate) use self::guard::may_scrape;

mod answer;
mod api;
mod cache;
mod config;
mod drain;
mod explain;
mod guard;
mod live;
mod lockout;
mod openapi;
mod pools;
mod probe;
mod tail;
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

/// Layers from the inside out: what is asked, how often, by whom, from where; and an id on every answer.
fn router(settings: &AdminSettings, shared: &Arc<Shared>, ip: IpAddr) -> Router {
    let rate = Arc::new(Rate::new(settings.rate_per_second));
    let limit = move |request: Request, next: Next| guard::limit(Arc::clone(&rate), request, next);
    let own = |access: Access| {
        let routes = api::routes(|its| its == access).layer(DefaultBodyLimit::max(SMALL_BYTES_MAX));
        routes.layer(middleware::from_fn(answer::speak_json)).with_state(Arc::clone(shared))
    };
    let lockout = Arc::new(Lockout::default());
    let protect = |router: Router| match &settings.token {
        Some(token) => {
            let (digest, lockout): ([u8; 32], _) = (Sha256::digest(token).into(), Arc::clone(&lockout));
            router.layer(middleware::from_fn(move |request: Request, next: Next| {
                guard::authorize(digest, Arc::clone(&lockout), request, next)
            }))
        }
        None => router,
    };
    let limited = protect(own(Access::Limited)).layer(middleware::from_fn(limit));
    let guarded = protect(own(Access::Guarded).merge(settings.extra.clone().unwrap_or_default())).merge(limited);
    let open = api::routes(|access| access == Access::Open).with_state(Arc::clone(shared));
    let router = guarded.merge(open).fallback(answer::not_found).method_not_allowed_fallback(answer::wrong_method);
    let router = if ip.is_loopback() { router.layer(middleware::from_fn(guard::refuse_foreign)) } else { router };
    router.layer(middleware::from_fn(answer::identify))
}

/// Largest body of what is no config, in bytes.
const SMALL_BYTES_MAX: usize = 64 << 10;
