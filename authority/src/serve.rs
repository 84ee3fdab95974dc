//! Starts an authority: opens the data directory, binds, wires the tasks, and stops them again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sealane_model::plan::PlanError;
use sealane_proto::DESCRIPTOR_SET;
use sealane_proto::v1::agent_service_server::AgentServiceServer;
use sealane_proto::v1::audit_service_server::AuditServiceServer;
use sealane_proto::v1::config_service_server::ConfigServiceServer;
use sealane_proto::v1::fleet_service_server::FleetServiceServer;
use sealane_proto::v1::rollout_service_server::RolloutServiceServer;
use sealane_proto::v1::sandbox_service_server::SandboxServiceServer;
use sealane_proto::v1::trust_service_server::TrustServiceServer;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tracing::{error, info, warn};

use crate::app::App;
use crate::auth::{Auth, AuthLayer};
use crate::bucket::Bucket;
use crate::clock::{Clock, wall_ms};
use crate::content::Content;
use crate::fleet::Live;
use crate::home::{FirstStart, Home, HomeError};
use crate::http::{self, HttpTls};
use crate::incoming::{CONNECTIONS_MAX, Incoming};
use crate::metric::Counters;
use crate::pki::{KeyedCertificate, PkiError, ends_at_s};
use crate::policy::{self, PolicyError};
use crate::revoke;
use crate::rollout::board::Board;
use crate::rollout::driver::Driver;
use crate::rollout::machine::millis;
use crate::sandbox::fleet::FleetDesk;
use crate::service;
use crate::settings::{Settings, TlsFiles};
use crate::store::StoreError;
use crate::subscribe::Telling;

/// Largest message of the services that carry a config: its text and some words.
const CONFIG_MESSAGE_BYTES_MAX: usize = (64 << 20) + (64 << 10);
/// Largest message of the others, agents' reports among them.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Between pings on a gRPC connection, and how long an answer may take: a dead peer is noticed within their sum.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams of one gRPC connection.
const STREAMS_MAX: u32 = 256;
/// Longest request head, in bytes.
const HEAD_BYTES_MAX: u32 = 32 << 10;
/// Agents that may open a subscription at once, and a second after that: a fleet that comes back all at once is let in
/// over half a minute. Those who must wait come again with full jitter.
const SUBSCRIPTIONS_BURST: u32 = 500;
const SUBSCRIPTIONS_PER_SECOND: u32 = 400;
/// Refusals of agents that go into the audit log at once; one a second after that. All of them are counted.
const REFUSALS_BURST: u32 = 100;
/// What is under way may take this long to finish when the authority stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A running authority. Dropped, it is cut off as by a crash; [`Authority::stop`] lets it finish.
#[derive(Debug)]
pub struct Authority {
    grpc_addr: SocketAddr,
    http_addr: SocketAddr,
    first_start: Option<FirstStart>,
    app: Arc<App>,
    /// Ends the driver, last.
    end: CancellationToken,
    tasks: TaskTracker,
    driver: TaskTracker,
    home: Home,
}

/// Why an authority did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The data directory.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A listener that everybody could reach in plain text.
    #[error(
        "{addr} is not a loopback address, so it needs TLS: give --tls-cert and --tls-key, or --tls-name NAME for a \
         certificate of the fleet's own CA (or --insecure-admin, for development)"
    )]
    Exposed {
        /// The address.
        addr: SocketAddr,
    },
    /// `--dev` where others can reach it.
    #[error("--dev asks nobody for a token, so it listens on loopback only, not on {addr}")]
    DevExposed {
        /// The address.
        addr: SocketAddr,
    },
    /// Two ways to a server certificate.
    #[error("either --tls-cert and --tls-key, or --tls-name, not both")]
    TwoCertificates,
    /// The address is taken, or not ours.
    #[error("cannot listen on {addr}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// A TLS file.
    #[error("cannot read `{}`", path.display())]
    TlsFile {
        /// Which.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// The server certificate could not be issued.
    #[error("cannot issue a server certificate")]
    Issue(#[source] PkiError),
    /// Certificate or key are not usable over HTTP.
    #[error(transparent)]
    HttpTls(#[from] http::HttpTlsError),
    /// Certificate or key are not usable for gRPC.
    #[error("certificate and key cannot be used")]
    GrpcTls(#[source] tonic::transport::Error),
    /// A policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The default plan.
    #[error("the default plan is not sound")]
    Plan(#[source] PlanError),
    /// The descriptor set.
    #[error("reflection cannot be served")]
    Reflection(#[source] tonic_reflection::server::Error),
}

/// TLS material of both listeners.
struct Tls {
    own: KeyedCertificate,
    /// PEM of CAs for client certificates.
    client_ca: String,
    /// Every client needs a certificate.
    required: bool,
}

/// Starts an authority and returns once both addresses answer.
///
/// # Errors
/// When the settings are not safe, the data directory is in use or not usable, or an address is taken.
pub async fn start(settings: Settings) -> Result<Authority, StartError> {
    check(&settings)?;
    raise_descriptor_limit();
    let home = Home::open(&settings.data, millis(settings.tuning.timestamp_lifetime)).await?;
    let tls = tls(&settings, &home)?;
    let grpc = bind(settings.grpc_addr).await?;
    let http = bind(settings.http_addr).await?;
    let (grpc_addr, http_addr) = (address(&grpc, settings.grpc_addr)?, address(&http, settings.http_addr)?);
    home.write_client(&server_url(&settings, grpc_addr), !settings.tls_name.is_empty())?;

    let (app, driver) = assemble(&settings, &home, tls.as_ref()).await?;
    let end = CancellationToken::new();
    let driver_task = TaskTracker::new();
    driver_task.spawn(driver.run(end.clone()));
    let tasks = TaskTracker::new();
    let http_tls = tls
        .as_ref()
        .map(|tls| {
            let client_ca = tls.required.then_some(tls.client_ca.as_str());
            HttpTls::new(&tls.own.certificate_pem, &tls.own.key_pem, client_ca)
        })
        .transpose()?;
    let router = http::router(Arc::clone(&app), http_addr.ip().is_loopback());
    tasks.spawn(http::serve(http, http_tls, router, app.stop.clone()));
    tasks.spawn(Arc::clone(&app.sandboxes).expire(app.stop.clone()));
    serve_grpc(&app, grpc, tls, &tasks).await?;
    info!(%grpc_addr, %http_addr, fleet = %home.signer.fleet(), "authority started");
    Ok(Authority {
        grpc_addr,
        http_addr,
        first_start: home.first_start.clone(),
        app,
        end,
        tasks,
        driver: driver_task,
        home,
    })
}

impl Authority {
    /// Where gRPC listens.
    #[must_use]
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc_addr
    }

    /// Where HTTP listens.
    #[must_use]
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// What the first start of this data directory made; `None` at later ones.
    #[must_use]
    pub fn first_start(&self) -> Option<&FirstStart> {
        self.first_start.as_ref()
    }

    /// The fleet's sandbox routes by HTTP, without asking for a token: for an address that only this machine reaches.
    pub fn sandbox_api(&self) -> axum::Router {
        crate::sandbox::router(Arc::clone(&self.app.sandboxes))
    }

    /// The fleet's id.
    #[must_use]
    pub fn fleet_id(&self) -> &str {
        &self.app.signer.fleet().0
    }

    /// The data directory, absolute.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.home.folder
    }

    /// Stops: streams end, requests under way finish, the database is written back, the data directory is free again.
    pub async fn stop(self) {
        self.app.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP_TIMEOUT, self.tasks.wait()).await.is_err() {
            warn!("some requests did not finish in time and are cut off");
        }
        self.end.cancel();
        self.driver.close();
        self.driver.wait().await;
        self.app.store.close().await;
        info!("authority stopped");
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.app.stop.cancel();
        self.end.cancel();
    }
}

/// As many descriptors as the system lets this process have: each agent takes one.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        warn!(%error, "cannot raise the limit of open files");
    }
    if let Some(maximum) = limit.maximum.filter(|maximum| *maximum < CONNECTIONS_MAX as u64) {
        warn!(
            maximum,
            wanted = CONNECTIONS_MAX,
            "the system allows fewer open files than agents may connect: raise the hard limit (LimitNOFILE= in a unit)"
        );
    }
}

fn check(settings: &Settings) -> Result<(), StartError> {
    if settings.tls.is_some() && !settings.tls_name.is_empty() {
        return Err(StartError::TwoCertificates);
    }
    for addr in [settings.grpc_addr, settings.http_addr] {
        if addr.ip().is_loopback() {
            continue;
        }
        if settings.dev {
            return Err(StartError::DevExposed { addr });
        }
        if !settings.has_tls() {
            if !settings.insecure_admin {
                return Err(StartError::Exposed { addr });
            }
            warn!(%addr, "listening in plain text on an address that others can reach");
        }
    }
    policy::check(settings.policy_dir.as_deref())?;
    settings.default_plan.as_ref().map_or(Ok(()), |plan| plan.check().map_err(StartError::Plan))
}

async fn assemble(settings: &Settings, home: &Home, tls: Option<&Tls>) -> Result<(Arc<App>, Driver), StartError> {
    let certificates = [("ca", Some(home.ca.pem())), ("server", tls.map(|tls| tls.own.certificate_pem.as_str()))];
    let certificate_ends = certificates.into_iter().filter_map(|(name, pem)| Some((name, ends_at_s(pem?)?))).collect();
    let store = home.store.clone();
    let (_, _, newest_event_ms) = store.rollout_counters().await?;
    let clock = Clock::starting_at_least(newest_event_ms);
    let mut live = Live::default();
    live.set_cordoned(store.cordoned().await?);
    live.set_freezes(store.freezes(clock.now_ms()).await?);
    let live = Arc::new(Mutex::new(live));
    let signer = Arc::clone(&home.signer);
    let board = Arc::new(Board::new());
    let counters = Arc::new(Counters::default());
    let auth = Auth::new(&store.tokens().await?, &store.agent_certificates().await?, settings.dev, tls.is_some());
    let (driver, rollouts) = Driver::start(
        store.clone(),
        Arc::clone(&live),
        Arc::clone(&signer),
        Arc::clone(&board),
        Arc::clone(&counters),
        clock,
        settings.tuning.rollout,
        settings.tuning.tick,
    )
    .await?;
    let app = App {
        store,
        signer,
        ca: Arc::clone(&home.ca),
        auth: Arc::new(auth),
        live,
        sandboxes: Arc::new(
            FleetDesk::open(home.store.clone(), Arc::clone(&home.signer), Arc::clone(&board), clock).await?,
        ),
        board,
        telling: Telling::default(),
        content: Content::new(home.store.clone()),
        questions: Arc::default(),
        rollouts,
        counters,
        clock,
        default_plan: settings.default_plan.clone().unwrap_or_default(),
        approvals_min: settings.approvals_min,
        certificate_ends,
        refusals: Bucket::new(1, REFUSALS_BURST),
        subscriptions: Bucket::new(SUBSCRIPTIONS_PER_SECOND, SUBSCRIPTIONS_BURST),
        policy_dir: settings.policy_dir.clone(),
        folder: home.folder.clone(),
        trust_change: tokio::sync::Mutex::new(()),
        tuning: settings.tuning,
        stop: CancellationToken::new(),
    };
    revoke::enforce(&app).await?;
    Ok((Arc::new(app), driver))
}

async fn serve_grpc(
    app: &Arc<App>,
    listener: TcpListener,
    tls: Option<Tls>,
    tasks: &TaskTracker,
) -> Result<(), StartError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let config = ConfigServiceServer::new(service::config::Config(Arc::clone(app)))
        .max_decoding_message_size(CONFIG_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(CONFIG_MESSAGE_BYTES_MAX);
    let rollouts = RolloutServiceServer::new(service::rollout::Rollouts(Arc::clone(app)))
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let fleet = FleetServiceServer::new(service::fleet::Fleet(Arc::clone(app)))
        .max_encoding_message_size(CONFIG_MESSAGE_BYTES_MAX);
    let audit =
        AuditServiceServer::new(service::audit::Audit(Arc::clone(app))).max_encoding_message_size(MESSAGE_BYTES_MAX);
    let trust =
        TrustServiceServer::new(service::trust::Trust(Arc::clone(app))).max_encoding_message_size(MESSAGE_BYTES_MAX);
    let agents = AgentServiceServer::new(service::agent::Agents(Arc::clone(app)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let sandboxes = SandboxServiceServer::new(service::sandbox::Sandboxes(Arc::clone(app)))
        .max_encoding_message_size(CONFIG_MESSAGE_BYTES_MAX);
    health.set_serving::<SandboxServiceServer<service::sandbox::Sandboxes>>().await;
    health.set_serving::<ConfigServiceServer<service::config::Config>>().await;
    health.set_serving::<RolloutServiceServer<service::rollout::Rollouts>>().await;
    health.set_serving::<FleetServiceServer<service::fleet::Fleet>>().await;
    health.set_serving::<AuditServiceServer<service::audit::Audit>>().await;
    health.set_serving::<TrustServiceServer<service::trust::Trust>>().await;
    health.set_serving::<AgentServiceServer<service::agent::Agents>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = Routes::new(health_service)
        .add_service(reflection().build_v1().map_err(StartError::Reflection)?)
        .add_service(reflection().build_v1alpha().map_err(StartError::Reflection)?)
        .add_service(config)
        .add_service(rollouts)
        .add_service(fleet)
        .add_service(audit)
        .add_service(sandboxes)
        .add_service(trust)
        .add_service(agents);

    let mut server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(HEAD_BYTES_MAX)
        .max_concurrent_streams(STREAMS_MAX);
    if let Some(tls) = tls {
        let config = ServerTlsConfig::new()
            .identity(Identity::from_pem(&tls.own.certificate_pem, &tls.own.key_pem))
            .client_ca_root(Certificate::from_pem(&tls.client_ca))
            .client_auth_optional(!tls.required)
            .timeout(KEEPALIVE_TIMEOUT);
        server = server.tls_config(config).map_err(StartError::GrpcTls)?;
    }
    let router = server.layer(AuthLayer { auth: Arc::clone(&app.auth), clock: app.clock }).add_routes(routes);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(Duration::from_secs(60)));
    let incoming = Incoming::new(incoming, CONNECTIONS_MAX);
    let stop = app.stop.clone();
    tasks.spawn(async move {
        if let Err(error) = router.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await {
            error!(error = crate::error::chain(&error), "the gRPC listener ended");
        }
    });
    Ok(())
}

async fn bind(addr: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(addr).await.map_err(|source| StartError::Bind { addr, source })
}

fn address(listener: &TcpListener, addr: SocketAddr) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|source| StartError::Bind { addr, source })
}

fn tls(settings: &Settings, home: &Home) -> Result<Option<Tls>, StartError> {
    if !settings.has_tls() {
        return Ok(None);
    }
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).map_err(|source| StartError::TlsFile { path: path.clone(), source })
    };
    let mut client_ca = home.ca.pem().to_owned();
    let mut required = false;
    let own = match &settings.tls {
        Some(TlsFiles { cert, key, client_ca: more }) => {
            if let Some(path) = more {
                client_ca.push('\n');
                client_ca.push_str(&read(path)?);
                required = true;
            }
            KeyedCertificate { certificate_pem: read(cert)?, key_pem: read(key)? }
        }
        None => home.ca.issue_server(&settings.tls_name, wall_ms()).map_err(StartError::Issue)?,
    };
    Ok(Some(Tls { own, client_ca, required }))
}

/// What clients on this machine should dial.
fn server_url(settings: &Settings, addr: SocketAddr) -> String {
    let scheme = if settings.has_tls() { "https" } else { "http" };
    let host = match settings.tls_name.first() {
        Some(name) if name.contains(':') => format!("[{name}]"),
        Some(name) => name.clone(),
        None if addr.ip().is_unspecified() => "127.0.0.1".to_owned(),
        None if addr.is_ipv6() => format!("[{}]", addr.ip()),
        None => addr.ip().to_string(),
    };
    format!("{scheme}://{host}:{}", addr.port())
}

#[cfg(test)]
mod tests;
