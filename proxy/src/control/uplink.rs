//! The way up, whichever it is: attached (this proxy dials its agent), pushed (its agent dials it), or polling over HTTP.
//!
//! Above it nothing differs: what is to be held comes in, observations and requests for content go out.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use sealane_model::ids::Digest;
use sealane_node::keyring::{Peers, Stranger};
use sealane_node::listen::{self, Guard, Link, Peer, dial};
use sealane_proto::v1;
use sealane_proto::v1::proxy_control_service_client::ProxyControlServiceClient;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::credentials::{Credentials, CredentialsError};
use super::http_client::PullError;
use super::poll::Poll;
use super::refusal::Refusals;
use super::unix_ms;

/// The client of the agent's `ProxyControlService`.
pub(crate) type Client = ProxyControlServiceClient<Channel>;

/// The way up. Clones share it.
#[derive(Clone, Debug)]
pub(crate) enum Uplink {
    /// gRPC, on a connection that either side opened.
    Agent(Arc<AgentLink>),
    /// HTTP.
    Poll(Arc<Poll>),
}

/// Content that was not to be had.
#[derive(Debug, Error)]
pub(crate) enum FetchError {
    /// The agent's word.
    #[error("the agent does not give it")]
    Agent(#[source] Box<tonic::Status>),
    /// Over HTTP.
    #[error(transparent)]
    Http(#[from] PullError),
}

impl Uplink {
    /// What it enrols with, beyond this machine.
    pub(crate) fn credentials(&self) -> Option<&Arc<Credentials>> {
        match self {
            Self::Agent(link) => link.credentials.as_ref(),
            Self::Poll(poll) => poll.credentials.as_ref(),
        }
    }

    /// A manifest or a chunk; its digest is for the caller to check.
    pub(crate) async fn fetch(&self, digest: Digest) -> Result<Vec<u8>, FetchError> {
        match self {
            Self::Agent(link) => {
                let mut request = tonic::Request::new(v1::FetchChunkRequest { digest: digest.to_vec() });
                request.set_timeout(FETCH_TIMEOUT);
                let answer = link.client().fetch_chunk(request).await;
                Ok(answer.map_err(|status| FetchError::Agent(Box::new(status)))?.into_inner().content)
            }
            Self::Poll(poll) => Ok(poll.blob(digest).await?),
        }
    }

    /// One observation; `false` when it did not arrive.
    pub(crate) async fn observe(&self, status: v1::ProxyStatus) -> bool {
        match self {
            Self::Agent(link) => {
                let mut client = link.client();
                let request = v1::ObserveRequest { status: Some(status) };
                matches!(timeout(CALL_TIMEOUT, client.observe(request)).await, Ok(Ok(_)))
            }
            Self::Poll(poll) => poll.report(status).await,
        }
    }
}

/// gRPC to the agent.
#[derive(Debug)]
pub(crate) struct AgentLink {
    way: Way,
    channel: Mutex<Channel>,
    /// Beyond this machine.
    credentials: Option<Arc<Credentials>>,
    /// Who is at the other end of the newest connection.
    peer: Arc<Mutex<Option<Peer>>>,
}

/// How a connection comes about.
#[derive(Clone, Debug)]
enum Way {
    Socket(PathBuf),
    Dial(String, Guard),
    /// The next one that the agent opened.
    Accept(Arc<tokio::sync::Mutex<mpsc::Receiver<Link>>>),
}

impl AgentLink {
    /// Over a Unix socket.
    pub(crate) fn socket(path: PathBuf) -> Self {
        Self::new(Way::Socket(path), None)
    }

    /// To `host:port`; over TLS where there are credentials.
    pub(crate) fn dial(authority: String, credentials: Option<Arc<Credentials>>) -> Self {
        let guard = guard(credentials.as_deref());
        Self::new(Way::Dial(authority, guard), credentials)
    }

    /// On connections that the agent opens.
    pub(crate) fn accept(
        listener: TcpListener,
        credentials: Option<Arc<Credentials>>,
        refusals: Refusals,
    ) -> Result<Self, CredentialsError> {
        let refused = move |code, words: &str| refusals.count("connection", code, &words);
        let links = listen::accept(listener, guard(credentials.as_deref()), refused)?;
        Ok(Self::new(Way::Accept(Arc::new(tokio::sync::Mutex::new(links))), credentials))
    }

    fn new(way: Way, credentials: Option<Arc<Credentials>>) -> Self {
        let peer = Arc::default();
        let channel = Mutex::new(channel(&way, &peer));
        Self { way, channel, credentials, peer }
    }

    /// A client that takes manifests.
    pub(crate) fn client(&self) -> Client {
        let channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ProxyControlServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Before a stream: a certificate, where one is needed and due.
    pub(crate) async fn enrol(&self) -> Result<(), CredentialsError> {
        let Some(credentials) = &self.credentials else { return Ok(()) };
        let new = credentials.ensure(async |request| {
            let answer = timeout(ENROL_TIMEOUT, self.client().enrol_proxy(request)).await;
            match answer {
                Ok(Ok(answer)) => Ok(answer.into_inner()),
                Ok(Err(status)) => Err(status.message().to_owned()),
                Err(_) => Err("the agent does not answer".to_owned()),
            }
        });
        if new.await? {
            // The connection is still that of a stranger, or of the old certificate.
            self.hang_up();
        }
        Ok(())
    }

    /// Takes in which certificates nobody accepts any more.
    pub(crate) fn take_revoked(&self, listed: &v1::RevokedCertificates) {
        if let Some(credentials) = &self.credentials
            && credentials.take_revoked(listed)
        {
            tracing::warn!("certificates of the fleet were revoked: who shows them is turned away");
        }
    }

    /// Why the agent's certificate, good in the handshake, is so no more. Then the connection is given up.
    pub(crate) fn is_over(&self) -> Option<Stranger> {
        let credentials = self.credentials.as_ref()?;
        let peer = self.peer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let over = peer?.is_over(credentials.keyring().revoked(), unix_ms());
        if over.is_some() {
            self.hang_up();
        }
        over
    }

    /// The next call opens a connection of its own.
    fn hang_up(&self) {
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = channel(&self.way, &self.peer);
    }

    /// Whether the stream should end so that the next one shows a new certificate.
    pub(crate) fn renewal_is_due(&self) -> bool {
        self.credentials.as_ref().is_some_and(|credentials| credentials.is_due())
    }
}

fn guard(credentials: Option<&Credentials>) -> Guard {
    match credentials {
        Some(credentials) => {
            Guard::Tls(credentials.keyring().clone(), Peers::Only(sealane_node::member::Role::Agent), b"h2")
        }
        None => Guard::Loopback,
    }
}

fn channel(way: &Way, peer: &Arc<Mutex<Option<Peer>>>) -> Channel {
    let peer = Arc::clone(peer);
    let met = move |link: &Link| *peer.lock().unwrap_or_else(PoisonError::into_inner) = Some(link.peer().clone());
    let endpoint = Endpoint::from_static("http://agent")
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    match way.clone() {
        Way::Socket(path) => endpoint.connect_with_connector_lazy(service_fn(move |_| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        })),
        Way::Dial(authority, guard) => endpoint.connect_with_connector_lazy(service_fn(move |_| {
            let (authority, guard, met) = (authority.clone(), guard.clone(), met.clone());
            async move { dial(&authority, &guard).await.inspect(met).map(TokioIo::new) }
        })),
        Way::Accept(links) => endpoint.connect_with_connector_lazy(service_fn(move |_| {
            let (links, met) = (Arc::clone(&links), met.clone());
            async move {
                let mut links = links.lock().await;
                let mut next = links.recv().await;
                // An agent that called more than once means its newest call.
                while let Ok(newer) = links.try_recv() {
                    next = Some(newer);
                }
                next.inspect(met).map(TokioIo::new).ok_or(std::io::Error::from(std::io::ErrorKind::NotConnected))
            }
        })),
    }
}

/// A manifest has at most 8 MiB; the rest is for its frame.
const MESSAGE_BYTES_MAX: usize = 9 << 20;
/// For one chunk or manifest.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// The agent asks the authority.
const ENROL_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(6);
const KEEP_ALIVE: Duration = Duration::from_secs(5);
