//! An agent from start to stop: open the ledger, bind, wire the tasks, wait for them.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::StreamExt;
use sealane_model::envelope::Envelope;
use sealane_model::trust::TrustRoot;
use sealane_model::verify::VerifyError;
use sealane_node::blobs::Blobs;
use sealane_node::disk::{self, DiskError};
use sealane_node::keyring::{KeyringError, Peers};
use sealane_node::listen::{self, Guard, Link, Peer};
use sealane_proto::v1::agent_local_service_server::AgentLocalServiceServer;
use sealane_proto::v1::proxy_control_service_server::ProxyControlServiceServer;
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;

use crate::authority::{AuthorityLink, LinkError};
use crate::checkpoint::Checkpoint;
use crate::door::Door;
use crate::http::{self, Accepted, Caller, Reach, View};
use crate::intake::Intake;
use crate::ledger::{Ledger, LedgerError};
use crate::local::Local;
use crate::pull::Pull;
use crate::push::{self, Target, TargetError};
use crate::questions::Questions;
use crate::refusal::Refusals;
use crate::report::{ReportCounts, Reporter};
use crate::rollout::driver::{Ask, Driver, Roster};
use crate::service::ProxyControl;
use crate::settings::{Settings, is_name};
use crate::subscribe::{Contact, Subscription};

/// A running agent. Dropping it lets it run; [`Agent::stop`] ends it.
#[derive(Debug)]
pub struct Agent {
    id: String,
    grpc_addr: SocketAddr,
    http_addr: SocketAddr,
    socket: PathBuf,
    asks: mpsc::Sender<Ask>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

/// Why an agent does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Proxies would attach without authentication.
    #[error(
        "cannot serve proxies on {0}: other machines' proxies need certificates, which come from an authority that is reached over https://; or use a loopback address or the Unix socket"
    )]
    OpenGrpc(SocketAddr),
    /// A control listener.
    #[error(transparent)]
    Push(#[from] TargetError),
    /// Commands would travel without authentication.
    #[error(
        "cannot push to `{0}`: a proxy on another machine needs a certificate, which comes from an authority that is reached over https://"
    )]
    OpenPush(String),
    /// TLS cannot be served.
    #[error("cannot serve TLS")]
    Tls(#[from] KeyringError),
    /// Health and metrics would be open.
    #[error(
        "cannot serve HTTP on {0} without TLS and authentication, for which the authority must be reached over https://: use a loopback address, or --insecure-admin for development"
    )]
    OpenHttp(SocketAddr),
    /// A name that cannot be one.
    #[error("{what} `{name}` is not 1 to 128 letters, digits or any of -_.:")]
    Name {
        /// `id` or `region`.
        what: &'static str,
        /// As given.
        name: String,
    },
    /// The trust root file.
    #[error("the trust root `{}` does not verify", path.display())]
    Trust {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: VerifyError,
    },
    /// A file.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The link to the authority.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// An address is taken or not ours.
    #[error("cannot listen on `{address}`")]
    Bind {
        /// Address or socket path.
        address: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// No entropy.
    #[error("the system gives no random bytes")]
    Entropy,
}

/// Starts an agent. It serves its proxies from the ledger at once, whether or not the authority is there.
pub async fn start(settings: Settings) -> Result<Agent, StartError> {
    check(&settings)?;
    let trust = read_trust(&settings.trust)?;
    let data = settings.data.clone();
    let (id, host) = (settings.id.clone(), host_name());
    let opened = move || {
        let ledger = Ledger::open(&data, &trust, id.as_deref(), &host)?;
        let blobs = Blobs::open(&data.join("blobs"))?;
        Ok::<_, StartError>((ledger, blobs))
    };
    let (ledger, blobs) = opened()?;
    let id = ledger.state().agent.0.clone();
    let link = AuthorityLink::new(&settings, &id, &ledger.state().fleet().0)?;
    let targets = targets(&settings, &link)?;
    let reach = reach(&settings, &link)?;
    let instance = instance()?;

    let grpc = bind(settings.grpc_addr).await?;
    let http = bind(settings.http_addr).await?;
    let socket = settings.socket.clone().unwrap_or_else(|| settings.data.join("agent.sock"));
    let unix = bind_unix(&socket).await?;
    let grpc_addr = local_addr(&grpc)?;
    let http_addr = local_addr(&http)?;

    let (cancel, tasks, refusals) = (CancellationToken::new(), TaskTracker::new(), Refusals::default());
    let (asks, asked) = mpsc::channel(ASKS_MAX);
    let (offers_in, offers) = watch::channel(None);
    let (contact_in, contact) = watch::channel(Contact::default());
    let (taken_in, taken) = watch::channel(0);
    let (roster_in, roster) = watch::channel(Roster::default());
    let (reports_in, reports) = watch::channel(ReportCounts::default());

    let region = settings.region.clone();
    let questions = Questions::new(link.clone(), &id, &instance);
    let subscription = Subscription {
        link: link.clone(),
        ledger: ledger.clone(),
        refusals: refusals.clone(),
        questions: questions.clone(),
        region: region.clone(),
        instance: instance.clone(),
        offers: offers_in,
        contact: contact_in,
    };
    let intake = Intake {
        ledger: ledger.clone(),
        blobs: blobs.clone(),
        link: link.clone(),
        refusals: refusals.clone(),
        checked: crate::intake::sandbox::Checked::default(),
        taken: taken_in,
    };
    let driver = Driver::new(ledger.clone(), refusals.clone(), &region, roster_in);
    let reporter = Reporter {
        link: link.clone(),
        ledger: ledger.clone(),
        refusals: refusals.clone(),
        instance,
        roster: roster.clone(),
        contact: contact.clone(),
        taken,
        sent: reports_in,
    };
    let door = Door::new(&settings.region, link.keyring());
    let view = View {
        ledger: ledger.clone(),
        refusals,
        door: door.clone(),
        roster,
        contact: contact.clone(),
        reports,
        keyring: link.keyring().clone(),
    };
    let checkpoint = Checkpoint { link: link.clone(), ledger: ledger.clone(), refusals: view.refusals.clone() };
    let local = Local { asks: asks.clone(), ledger: ledger.clone() };
    let keyring = link.keyring().clone();
    let control = ProxyControl {
        door: door.clone(),
        refusals: view.refusals.clone(),
        asks: asks.clone(),
        questions,
        ledger,
        blobs,
        link,
        repairs: Arc::new(Semaphore::new(REPAIRS_AT_ONCE)),
        tasks: tasks.clone(),
        cancel: cancel.clone(),
    };

    tasks.spawn(driver.run(asked, contact, cancel.clone()));
    tasks.spawn(intake.run(offers, cancel.clone()));
    tasks.spawn(subscription.run(cancel.clone()));
    tasks.spawn(reporter.run(cancel.clone()));
    tasks.spawn(checkpoint.run(cancel.clone()));
    let guard = |protected: bool, alpn| match protected {
        true => Guard::Tls(keyring.clone(), Peers::Judged, alpn),
        false => Guard::Loopback,
    };
    let turned_away = move |code, words: &str| door.turn_away(code, words);
    let grpc = listen::accept(grpc, guard(!listen::is_loopback(&grpc_addr), b"h2"), turned_away.clone())?;
    let http_guard = if reach == Reach::Open { Guard::Open } else { guard(reach == Reach::Members, b"http/1.1") };
    let http = Accepted(listen::accept(http, http_guard, turned_away)?);
    let pull = Pull::new(control.clone());
    for target in targets {
        tasks.spawn(push::run(target, control.clone(), keyring.clone(), cancel.clone()));
    }
    tasks.spawn(serve_tcp(control.clone(), grpc, cancel.clone()));
    tasks.spawn(serve_unix(control, local, unix, cancel.clone()));
    tasks.spawn(pull.clone().expire(cancel.clone()));
    tasks.spawn(serve_http(http::router(view, pull, reach), http, cancel.clone()));
    tracing::info!(id, region, %grpc_addr, %http_addr, socket = %socket.display(), "agent started");
    Ok(Agent { id, grpc_addr, http_addr, socket, asks, cancel, tasks })
}

impl Agent {
    /// Its id: as set, as persisted, or the host name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where proxies attach over TCP.
    #[must_use]
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc_addr
    }

    /// Health and metrics.
    #[must_use]
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Where proxies attach over a Unix socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Takes this agent's proxies back from the candidate, without asking the authority; the report says so. Gives
    /// `false` when there is no candidate to take back.
    pub async fn rollback_local(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        if self.asks.send(Ask::RollBack(reply)).await.is_err() {
            return false;
        }
        answer.await.unwrap_or(false)
    }

    /// Ends every task and closes every stream. Proxies go on with what they have.
    pub async fn stop(self) {
        self.cancel.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
        let _ = std::fs::remove_file(&self.socket); // a stale one is replaced at the next start
    }
}

fn check(settings: &Settings) -> Result<(), StartError> {
    let names = settings.id.iter().map(|id| ("id", id)).chain([("region", &settings.region)]);
    for (what, name) in names {
        if !is_name(name) {
            return Err(StartError::Name { what, name: name.clone() });
        }
    }
    Ok(())
}

/// Whom to call. Beyond loopback there must be certificates.
fn targets(settings: &Settings, link: &AuthorityLink) -> Result<Vec<Target>, StartError> {
    let mut targets = Vec::new();
    for text in &settings.push {
        let target = Target::parse(text)?;
        if target.is_tls() && !link.is_tls() {
            return Err(StartError::OpenPush(text.clone()));
        }
        targets.push(target);
    }
    Ok(targets)
}

/// What protects the HTTP address. Beyond loopback there must be certificates, here and for proxies.
fn reach(settings: &Settings, link: &AuthorityLink) -> Result<Reach, StartError> {
    if !listen::is_loopback(&settings.grpc_addr) && !link.is_tls() {
        return Err(StartError::OpenGrpc(settings.grpc_addr));
    }
    match settings.insecure_admin {
        _ if listen::is_loopback(&settings.http_addr) => Ok(Reach::Loopback),
        false if link.is_tls() => Ok(Reach::Members),
        false => Err(StartError::OpenHttp(settings.http_addr)),
        true => {
            tracing::warn!(address = %settings.http_addr, "health and metrics are open to other machines");
            Ok(Reach::Open)
        }
    }
}

fn read_trust(path: &Path) -> Result<TrustRoot, StartError> {
    let text = std::fs::read_to_string(path).map_err(|source| DiskError::new("read", path, source))?;
    Envelope::from_json(&text)
        .and_then(|envelope| TrustRoot::pinned(&envelope))
        .map_err(|source| StartError::Trust { path: path.to_owned(), source })
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if is_name(&name) { name } else { "agent".to_owned() }
}

fn instance() -> Result<String, StartError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| StartError::Entropy)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| StartError::Bind { address: address.to_string(), source })
}

fn local_addr(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|source| StartError::Bind { address: "its own address".to_owned(), source })
}

/// A socket that only this user can open; one that a dead process left is replaced.
async fn bind_unix(path: &Path) -> Result<UnixListener, StartError> {
    let failed = |source| StartError::Bind { address: path.display().to_string(), source };
    if let Some(parent) = path.parent() {
        disk::create_dir(parent)?;
    }
    if UnixStream::connect(path).await.is_ok() {
        return Err(failed(std::io::Error::from(std::io::ErrorKind::AddrInUse)));
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => {
            std::fs::remove_file(path).map_err(failed)?;
        }
        Ok(_) | Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

async fn serve_tcp(control: ProxyControl, links: mpsc::Receiver<Link>, cancel: CancellationToken) {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ProxyControlServiceServer<ProxyControl>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(sealane_proto::DESCRIPTOR_SET)
        .build_v1()
        .expect("our own build wrote the descriptor set");
    let served = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(control.into_server())
        .serve_with_incoming_shutdown(ReceiverStream::new(links).map(Ok::<_, std::io::Error>), cancel.cancelled_owned())
        .await;
    log_end("gRPC", served);
}

async fn serve_unix(control: ProxyControl, local: Local, listener: UnixListener, cancel: CancellationToken) {
    let served = Server::builder()
        .add_service(InterceptedService::new(control.into_server(), on_this_machine))
        .add_service(AgentLocalServiceServer::new(local))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), cancel.cancelled_owned())
        .await;
    log_end("Unix socket", served);
}

/// Only this user opens the socket.
fn on_this_machine(mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
    request.extensions_mut().insert(Peer::Local);
    Ok(request)
}

async fn serve_http(router: Router, listener: Accepted, cancel: CancellationToken) {
    let service = router.into_make_service_with_connect_info::<Caller>();
    let served = axum::serve(listener, service).with_graceful_shutdown(cancel.cancelled_owned()).await;
    log_end("HTTP", served);
}

fn log_end<E: std::error::Error + 'static>(listener: &'static str, served: Result<(), E>) {
    if let Err(error) = served {
        tracing::error!(listener, error = disk::chain(&error), "a listener ended");
    }
}

/// Calls that wait for the driver; more wait at their own stream.
const ASKS_MAX: usize = 256;
/// Damaged blobs that are fetched again at a time.
const REPAIRS_AT_ONCE: usize = 4;
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// For streams to end after a stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
