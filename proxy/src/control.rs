//! The proxy's side of the control plane: it holds and serves what the fleet signed.
//!
//! It starts from its own disk before it dials anyone, verifies everything again under its own trust root, compiles what
//! it is told to hold, serves what it is told to serve, and says what it does. It does not know stages, gates or
//! cohorts; the data plane below ([`crate::proxy`]) does not know revisions beyond their name.
//!
//! Its commands come on one of three ways (`uplink`): it attaches to its agent, its agent calls it, or it polls an agent
//! or a folder (`poll`). One thing in, one thing out: `link` or `poll` brings the newest command and carries observations
//! away, `apply` carries it out, `store` remembers.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sealane_model::envelope::Envelope;
use sealane_model::parse::Reader;
use sealane_model::release::VerifiedRelease;
use sealane_model::trust::TrustRoot;
use sealane_model::verify::VerifyError;
use sealane_node::disk::{self, DiskError};
use sealane_node::keyring::Peers;
use sealane_node::listen::{self, Guard};
use sealane_node::member::Role;
use sealane_proto::v1;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::address::{AddressError, AgentAddress, PullUrl};
use self::apply::Applier;
use self::credentials::Credentials;
pub use self::credentials::{CredentialsError, Enrolment};
use self::folder::Folder;
use self::http_client::{HttpClient, Way};
use self::link::{Observer, Stream};
use self::metrics::ControlMetrics;
use self::poll::{Kind, Out, Poll};
use self::questions::Questions;
use self::refusal::Refusals;
use self::sandbox::{Base, Sandboxes};
pub use self::state::StateError;
use self::status::Measure;
use self::store::Store;
pub use self::store::StoreError;
use self::uplink::{AgentLink, Uplink};
use crate::proxy::Proxy;

mod address;
mod apply;
pub mod cold_start;
mod command;
mod credentials;
mod folder;
mod http_client;
mod link;
mod metrics;
mod overrule;
mod poll;
mod questions;
mod refusal;
mod sandbox;
mod state;
mod status;
mod store;
mod uplink;

/// Where a fleet proxy's commands come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// It attaches to its agent.
    Agent(AgentAddress),
    /// Its agent calls it here (push). Beyond loopback over mutual TLS.
    Listen(SocketAddr),
    /// It polls.
    Pull(PullSettings),
}

/// How a fleet proxy polls.
#[derive(Clone, Debug)]
pub struct PullSettings {
    /// What is polled.
    pub url: PullUrl,
    /// Between two polls, without the jitter.
    pub interval: Duration,
    /// At most this much longer.
    pub jitter: Duration,
    /// A folder's proxies judge waves by it themselves; `None`: only what is granted to all regions counts.
    pub region: Option<String>,
}

/// What a fleet proxy is told when it starts.
#[derive(Clone, Debug)]
pub struct ControlSettings {
    /// 1 to 128 letters, digits or any of `-_.:`; `None`: the id in the state directory, at first start host name and
    /// data port.
    pub id: Option<String>,
    /// Where its commands come from.
    pub source: Source,
    /// Its way to a certificate, for an agent on another machine.
    pub enrolment: Enrolment,
    /// The trust root document (DSSE JSON) that came by a trusted way.
    pub trust: PathBuf,
    /// State directory.
    pub data: PathBuf,
}

/// Why a proxy does not attach.
#[derive(Debug, Error)]
pub enum StartError {
    /// An id that cannot be one.
    #[error("id `{0}` is not 1 to 128 letters, digits or any of -_.:")]
    Id(String),
    /// The agent's address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Certificate, token or CA.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The control listener.
    #[error("cannot listen on `{address}` for the agent")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
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
    /// The state directory.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No entropy.
    #[error("the system gives no random bytes")]
    Entropy,
}

/// An attached proxy. Dropping it lets it run; [`Control::stop`] ends it.
#[derive(Debug)]
pub struct Control {
    id: String,
    uplink: Uplink,
    status: watch::Sender<v1::ProxyStatus>,
    seen: watch::Receiver<v1::ProxyStatus>,
    attached: watch::Receiver<bool>,
    drain: watch::Receiver<bool>,
    measure: Measure,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

/// Serves the last good revision from disk, if there is one, then attaches to the agent and stays attached.
///
/// # Errors
/// Settings, trust root or state directory are not usable. An agent that is away is no error.
pub async fn attach(proxy: Proxy, settings: ControlSettings) -> Result<Control, StartError> {
    if let Some(id) = settings.id.as_ref().filter(|id| !is_name(id)) {
        return Err(StartError::Id(id.clone()));
    }
    let trust = read_trust(&settings.trust)?;
    let flag = proxy.settings().http_listen.as_ref().or(proxy.settings().tls_listen.as_ref());
    let default_id = default_id(flag.map(|flag| flag.address.port));
    let store = Store::open(&settings.data, &trust, settings.id.as_deref(), &default_id)?;
    let instance = instance()?;
    let refusals = Refusals::default();

    let mut sandboxes = sandboxes_from_disk(&store);
    let (last_good, base) = match start_from_disk(&proxy, &store, &mut sandboxes).await {
        Some((release, config)) => (Some(release), Some(config)),
        None => (None, None),
    };
    let state = store.state();
    let id = state.id.clone();
    let first = v1::ProxyStatus {
        proxy_id: id.clone(),
        build: env!("CARGO_PKG_VERSION").to_owned(),
        instance: instance.clone(),
        generation: state.generation,
        last_good_digest: last_good.as_ref().map(|good| good.digest().to_vec()).unwrap_or_default(),
        last_good_revision: last_good.as_ref().map_or(0, |good| good.release().revision.0),
        sandbox_revision: sandboxes.revision,
        ..v1::ProxyStatus::default()
    };
    let hello = v1::AttachRequest {
        proxy_id: id.clone(),
        build: env!("CARGO_PKG_VERSION").to_owned(),
        instance,
        generation: state.generation,
        root_version: state.trust().document().version,
        fleet_id: state.fleet().0.clone(),
        newest: state.at_floor().map(|release| release.envelope().into()),
    };
    let (status, seen) = watch::channel(first);
    let (desired, commands) = watch::channel(None);
    let (sandbox, sandbox_offers) = watch::channel(None);
    let (attached_in, attached) = watch::channel(false);
    let fleet = state.fleet().0.clone();
    let store = Arc::new(Mutex::new(store));
    let uplink = uplink(&settings, &fleet, &hello, &store, &refusals).await?;
    let (drain_in, drain) = watch::channel(false);
    let orders = proxy.take_orders(Reader::Fleet);
    let measure = Measure { proxy: proxy.clone(), refusals: refusals.clone() };
    let applier = Applier {
        proxy,
        store,
        uplink: uplink.clone(),
        refusals,
        status: status.clone(),
        drain: drain_in,
        prepared: std::collections::BTreeMap::new(),
        refused: None,
        newest: None,
        sandbox_offers,
        sandbox_again: false,
        sandboxes,
        base,
        rehearsal: None,
        overruled: None,
    };
    let metrics = ControlMetrics {
        status: seen.clone(),
        attached: attached.clone(),
        refusals: measure.refusals.clone(),
        keyring: uplink.credentials().map(|credentials| credentials.keyring().clone()),
        polls: match &uplink {
            Uplink::Poll(poll) => Some(Arc::clone(&poll.counts)),
            Uplink::Agent(_) => None,
        },
    };
    measure.proxy.add_metrics(move || metrics.text());
    let observer =
        Observer { uplink: uplink.clone(), status: seen.clone(), attached: attached.clone(), measure: measure.clone() };
    let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
    tasks.spawn(applier.run(commands, orders, cancel.clone()));
    match &uplink {
        Uplink::Agent(link) => {
            let (questions, asked) = mpsc::channel(questions::WAITING_MAX);
            let answering = Questions {
                proxy: measure.proxy.clone(),
                link: Arc::clone(link),
                id: id.clone(),
                instance: hello.instance.clone(),
                tails: Arc::default(),
            };
            tasks.spawn(answering.run(asked, cancel.clone()));
            let link = Arc::clone(link);
            let stream =
                Stream { link, hello, status: seen.clone(), desired, sandbox, questions, attached: attached_in };
            tasks.spawn(stream.run(cancel.clone()))
        }
        // Nobody can ask what only polls.
        Uplink::Poll(poll) => {
            let out = Out { status: seen.clone(), desired, sandbox, attached: attached_in };
            tasks.spawn(Arc::clone(poll).run(out, cancel.clone()))
        }
    };
    tasks.spawn(observer.run(cancel.clone()));
    Ok(Control { id, uplink, status, seen, attached, drain, measure, cancel, tasks })
}

impl Control {
    /// The proxy's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether the stream to the agent is open.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        *self.attached.borrow()
    }

    /// What it tells its agent, with what is measured now.
    #[must_use]
    pub fn status(&self) -> v1::ProxyStatus {
        self.measure.fill(self.seen.borrow().clone())
    }

    /// Returns once the agent has asked this proxy to stop gracefully.
    pub async fn drain_requested(&self) {
        let mut drain = self.drain.clone();
        if drain.wait_for(|drain| *drain).await.is_err() {
            std::future::pending().await
        }
    }

    /// Says goodbye: from now on this process may end without counting as a death. It goes on observing.
    pub async fn say_goodbye(&self) {
        self.status.send_modify(|status| status.draining = true);
        if !self.is_attached() {
            return;
        }
        let observer = Observer {
            uplink: self.uplink.clone(),
            status: self.seen.clone(),
            attached: self.attached.clone(),
            measure: self.measure.clone(),
        };
        if !observer.observe().await {
            tracing::warn!("the agent did not hear the goodbye");
        }
    }

    /// Says goodbye and detaches. The data plane goes on serving what it serves.
    pub async fn stop(self) {
        self.say_goodbye().await;
        self.cancel.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!("the last command did not end in time");
        }
    }
}

/// Serves the newest revision of the last-good ring that this machine can serve. A broken one is an error in the log,
/// not in the start.
async fn start_from_disk(proxy: &Proxy, store: &Store, sandboxes: &mut Sandboxes) -> Option<(VerifiedRelease, Base)> {
    let state = store.state();
    for digest in &state.ring {
        let Some(kept) = state.kept.get(digest) else { continue };
        let revision = kept.release.release().revision;
        match serve_kept(proxy, store, &kept.release, sandboxes).await {
            Ok(config) => {
                tracing::info!(%revision, sandboxes = sandboxes.revision, "serving the last good revision from disk");
                return Some((kept.release.clone(), config));
            }
            Err(why) => tracing::error!(%revision, why, "a last good revision cannot be served, trying the one before"),
        }
    }
    None
}

/// The sandbox routes that are kept. Broken ones are an error in the log: the config is served without them.
fn sandboxes_from_disk(store: &Store) -> Sandboxes {
    let Some(kept) = &store.state().sandbox else { return Sandboxes::default() };
    let opened = store.open_kept(&kept.release).map_err(|error| disk::chain(&error));
    let opened = opened.and_then(|bundle| Sandboxes::default().open(&bundle).map_err(|error| disk::chain(&error)));
    opened.unwrap_or_else(|why| {
        tracing::error!(why, "the sandbox routes on disk cannot be served");
        Sandboxes::default()
    })
}

async fn serve_kept(
    proxy: &Proxy,
    store: &Store,
    release: &VerifiedRelease,
    sandboxes: &mut Sandboxes,
) -> Result<Base, String> {
    let words = |problems: Vec<sealane_model::problem::Problem>| {
        problems.into_iter().map(|problem| problem.message).collect::<Vec<_>>().join("; ")
    };
    let bundle = store.open_kept(release).map_err(|error| disk::chain(&error))?;
    let config = apply::read(&bundle).await.map_err(words)?;
    let base = Base::of(&bundle, config);
    let (joined, _) = sandboxes.join(&base);
    let prepared = proxy.prepare(apply::tag(release), Arc::new(joined)).await.map_err(words)?;
    proxy.activate(prepared).await.map_err(|error| disk::chain(&error))?;
    Ok(base)
}

/// The way up. Beyond this machine it needs credentials.
async fn uplink(
    settings: &ControlSettings,
    fleet: &str,
    hello: &v1::AttachRequest,
    store: &Arc<Mutex<Store>>,
    refusals: &Refusals,
) -> Result<Uplink, StartError> {
    let credentials = || {
        let opened = Credentials::open(&hello.proxy_id, fleet, &settings.data, &settings.enrolment);
        opened.map(|credentials| Some(Arc::new(credentials)))
    };
    let link = match &settings.source {
        Source::Agent(AgentAddress::Unix(path)) => AgentLink::socket(path.clone()),
        Source::Agent(AgentAddress::Http(authority)) => AgentLink::dial(authority.clone(), None),
        Source::Agent(AgentAddress::Https(authority)) => AgentLink::dial(authority.clone(), credentials()?),
        Source::Listen(address) => {
            let credentials = if listen::is_loopback(address) { None } else { credentials()? };
            let listener = bind(*address).await?;
            AgentLink::accept(listener, credentials, refusals.clone())?
        }
        Source::Pull(pull) => {
            let credentials = match &pull.url {
                PullUrl::Agent { tls: true, .. } => credentials()?,
                PullUrl::Agent { tls: false, .. } | PullUrl::Folder { .. } => None,
            };
            return Ok(Uplink::Poll(Arc::new(poll(settings, pull, credentials, hello, store, refusals)?)));
        }
    };
    Ok(Uplink::Agent(Arc::new(link)))
}

fn poll(
    settings: &ControlSettings,
    pull: &PullSettings,
    credentials: Option<Arc<Credentials>>,
    hello: &v1::AttachRequest,
    store: &Arc<Mutex<Store>>,
    refusals: &Refusals,
) -> Result<Poll, StartError> {
    let (authority, way, token, kind) = match &pull.url {
        PullUrl::Agent { authority, .. } => {
            let guard = match &credentials {
                Some(credentials) => Guard::Tls(credentials.keyring().clone(), Peers::Only(Role::Agent), b"http/1.1"),
                None => Guard::Loopback,
            };
            (authority, Way::Fleet(guard), None, Kind::Agent(hello.clone()))
        }
        PullUrl::Folder { authority, tls, base } => {
            let way = match tls {
                true => Way::Public(http_client::public_tls(settings.enrolment.ca_file.as_deref())?),
                false => Way::Fleet(Guard::Loopback),
            };
            let folder = Folder::new(base.clone(), pull.region.clone(), Arc::clone(store));
            (authority, way, settings.enrolment.token.as_deref(), Kind::Folder(folder))
        }
    };
    Ok(Poll {
        talk: HttpClient::new(authority, way.clone(), token),
        content: HttpClient::new(authority, way, token),
        kind,
        interval: pull.interval,
        jitter: pull.jitter,
        credentials,
        refusals: refusals.clone(),
        wake: Notify::new(),
        tag: std::sync::Mutex::new(None),
        counts: Arc::default(),
    })
}

/// A process that this one replaces may hold the address for a moment still.
async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    let mut tries = 0;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && tries < BIND_TRIES => {
                tries += 1;
                tokio::time::sleep(BIND_AGAIN).await;
            }
            Err(source) => return Err(StartError::Bind { address, source }),
        }
    }
}

fn read_trust(path: &Path) -> Result<TrustRoot, StartError> {
    let text = std::fs::read_to_string(path).map_err(|source| DiskError::new("read", path, source))?;
    Envelope::from_json(&text)
        .and_then(|envelope| TrustRoot::pinned(&envelope))
        .map_err(|source| StartError::Trust { path: path.to_owned(), source })
}

/// Host name and data port: several proxies of one machine are told apart by their port.
fn default_id(port: Option<u16>) -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host = if is_name(&host) { host } else { "proxy".to_owned() };
    let port = port.unwrap_or(DEFAULT_PORT);
    format!("{}-{port}", &host[..host.len().min(NAME_BYTES_MAX - 6)])
}

fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
}

fn instance() -> Result<String, StartError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| StartError::Entropy)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn unix_ms() -> i64 {
    i64::try_from(crate::clock::unix_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

const NAME_BYTES_MAX: usize = 128;
/// Of the smallest config.
const DEFAULT_PORT: u16 = 8080;
/// Longest wait between two attempts at an agent: asking it often costs little, and a restart is noticed soon.
const BACKOFF_LAST: Duration = Duration::from_secs(2);
const BIND_TRIES: u32 = 30;
const BIND_AGAIN: Duration = Duration::from_millis(100);
/// For a command under way after a stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_of_one_machine_are_told_apart_by_their_port() {
        assert!(default_id(Some(8081)).ends_with("-8081"));
        assert!(is_name(&default_id(None)));
    }
}
