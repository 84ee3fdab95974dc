//! The proxy's side of the control plane: attached to an agent, it holds and serves what the fleet signed.
//!
//! It starts from its own disk before it dials anyone, verifies everything again under its own trust root, compiles what
//! it is told to hold, serves what it is told to serve, and says what it does. It does not know stages, gates or
//! cohorts; the data plane below ([`crate::proxy`]) does not know revisions beyond their name.
//!
//! One thing in, one thing out: `link` brings the newest command and carries observations away, `apply` carries it
//! out, `store` remembers.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sealane_model::envelope::Envelope;
use sealane_model::release::VerifiedRelease;
use sealane_model::trust::TrustRoot;
use sealane_model::verify::VerifyError;
use sealane_proto::v1;
use thiserror::Error;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Endpoint};

use self::apply::Applier;
pub use self::disk::DiskError;
use self::link::{Observer, Stream};
use self::metrics::ControlMetrics;
use self::refusal::Refusals;
use self::sandbox::{Base, Sandboxes};
pub use self::state::StateError;
use self::status::Measure;
use self::store::Store;
pub use self::store::StoreError;
use crate::proxy::Proxy;

mod apply;
mod backoff;
mod blobs;
pub mod cold_start;
mod command;
mod disk;
mod link;
mod metrics;
mod refusal;
mod sandbox;
mod state;
mod status;
mod store;

/// What a fleet proxy is told when it starts.
#[derive(Clone, Debug)]
pub struct ControlSettings {
    /// 1 to 128 letters, digits or any of `-_.:`; `None`: the id in the state directory, at first start host name and
    /// data port.
    pub id: Option<String>,
    /// Where its agent is.
    pub agent: AgentAddress,
    /// The trust root document (DSSE JSON) that came by a trusted way.
    pub trust: PathBuf,
    /// State directory.
    pub data: PathBuf,
}

/// Where an agent is: on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentAddress {
    /// `http://127.0.0.1:7444`
    Http(String),
    /// A Unix socket.
    Unix(PathBuf),
}

/// An address that is not an agent's.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AddressError {
    /// Neither form.
    #[error("`{0}` is not an agent address such as http://127.0.0.1:7444 or unix:/run/sealane/agent.sock")]
    Malformed(String),
    /// Commands would travel without authentication.
    #[error(
        "the agent `{0}` is not on this machine: until proxies have certificates they attach on loopback or over a Unix socket"
    )]
    Remote(String),
}

impl std::str::FromStr for AgentAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let malformed = || AddressError::Malformed(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(malformed()) } else { Ok(Self::Unix(PathBuf::from(path))) };
        }
        let uri: http::Uri = text.parse().map_err(|_| malformed())?;
        let host = uri.host().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(malformed)?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let loopback = bare.eq_ignore_ascii_case("localhost")
            || bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
        if loopback {
            Ok(Self::Http(text.trim_end_matches('/').to_owned()))
        } else {
            Err(AddressError::Remote(text.to_owned()))
        }
    }
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
    channel: Channel,
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
    let channel = channel(&settings.agent)?;
    let instance = instance()?;
    let refusals = Refusals::default();

    let sandboxes = sandboxes_from_disk(&store);
    let (last_good, base) = match start_from_disk(&proxy, &store, &sandboxes).await {
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
    let (drain_in, drain) = watch::channel(false);
    let measure = Measure { proxy: proxy.clone(), refusals: refusals.clone() };
    let applier = Applier {
        proxy,
        store: Arc::new(Mutex::new(store)),
        channel: channel.clone(),
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
    };
    let metrics =
        ControlMetrics { status: seen.clone(), attached: attached.clone(), refusals: measure.refusals.clone() };
    measure.proxy.add_metrics(move || metrics.text());
    let stream =
        Stream { channel: channel.clone(), hello, status: seen.clone(), desired, sandbox, attached: attached_in };
    let observer = Observer {
        channel: channel.clone(),
        status: seen.clone(),
        attached: attached.clone(),
        measure: measure.clone(),
    };
    let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
    tasks.spawn(applier.run(commands, cancel.clone()));
    tasks.spawn(stream.run(cancel.clone()));
    tasks.spawn(observer.run(cancel.clone()));
    Ok(Control { id, channel, status, seen, attached, drain, measure, cancel, tasks })
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
            channel: self.channel.clone(),
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
async fn start_from_disk(proxy: &Proxy, store: &Store, sandboxes: &Sandboxes) -> Option<(VerifiedRelease, Base)> {
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
    sandboxes: &Sandboxes,
) -> Result<Base, String> {
    let words = |problems: Vec<sealane_model::problem::Problem>| {
        problems.into_iter().map(|problem| problem.message).collect::<Vec<_>>().join("; ")
    };
    let bundle = store.open_kept(release).map_err(|error| disk::chain(&error))?;
    let config = apply::read(&bundle).await.map_err(words)?;
    let base = Base::of(release, config);
    let (joined, _) = sandboxes.join(&base);
    let prepared = proxy.prepare(apply::tag(release), Arc::new(joined)).await.map_err(words)?;
    proxy.activate(prepared).await.map_err(|error| disk::chain(&error))?;
    Ok(base)
}

fn channel(agent: &AgentAddress) -> Result<Channel, AddressError> {
    let address = match agent {
        AgentAddress::Http(url) => url.clone(),
        AgentAddress::Unix(path) => format!("unix:{}", path.display()),
    };
    let endpoint = Endpoint::from_shared(address.clone()).map_err(|_| AddressError::Malformed(address))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .connect_lazy())
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
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// For a command under way after a stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_on_this_machine() {
        let check = |text: &str| text.parse::<AgentAddress>();
        assert_eq!(check("http://127.0.0.1:7444"), Ok(AgentAddress::Http("http://127.0.0.1:7444".into())));
        assert_eq!(check("http://localhost:7444/"), Ok(AgentAddress::Http("http://localhost:7444".into())));
        assert!(check("http://[::1]:7444").is_ok());
        assert_eq!(check("unix:/run/agent.sock"), Ok(AgentAddress::Unix("/run/agent.sock".into())));
        assert_eq!(check("unix:///run/agent.sock"), Ok(AgentAddress::Unix("/run/agent.sock".into())));
        assert!(matches!(check("http://agent.example:7444"), Err(AddressError::Remote(_))));
        for bad in ["", "unix:", "127.0.0.1:7444", "https://localhost:7444", "ftp://localhost"] {
            assert!(matches!(check(bad), Err(AddressError::Malformed(_))), "{bad}");
        }
    }

    #[test]
    fn proxies_of_one_machine_are_told_apart_by_their_port() {
        assert!(default_id(Some(8081)).ends_with("-8081"));
        assert!(is_name(&default_id(None)));
    }
}
