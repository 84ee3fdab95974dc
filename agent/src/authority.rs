//! The link to the authority: one channel, its credentials, and the client calls made over it.
//!
//! It does not know what the calls mean. Over TLS it enrols once ([`identity`]) and renews itself; on plain loopback it
//! sends the bearer token.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sealane_proto::v1;
use sealane_proto::v1::agent_service_client::AgentServiceClient;
use thiserror::Error;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use self::identity::Identity;
pub use self::identity::IdentityError;
use crate::disk::{self, DiskError};
use crate::settings::Settings;

mod identity;

/// The client of the authority's `AgentService`.
pub(crate) type Client = AgentServiceClient<InterceptedService<Channel, Bearer>>;

/// The link. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct AuthorityLink {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    url: String,
    tls: bool,
    ca_pem: Option<String>,
    token: Option<String>,
    token_file: Option<PathBuf>,
    identity_directory: PathBuf,
    agent_id: String,
    region: String,
    /// When a certificate was asked for last.
    asked_unix_ms: AtomicI64,
    current: Mutex<(Channel, Bearer)>,
}

/// Why there is no link.
#[derive(Debug, Error)]
pub enum LinkError {
    /// Not a URL that can be dialled.
    #[error("`{0}` is not an authority URL such as http://127.0.0.1:7443 or https://authority:7443")]
    Url(String),
    /// A token would travel in clear text.
    #[error("the authority `{0}` is not on this machine and has no TLS; use https:// and --ca-file")]
    Plain(String),
    /// Nothing to verify the server by.
    #[error("an https authority needs --ca-file, the CA that signed its certificate")]
    NoCa,
    /// A token that cannot be sent.
    #[error("the token holds characters that cannot be sent")]
    Token,
    /// A file.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// TLS settings.
    #[error("cannot set up TLS to the authority")]
    Tls(#[source] tonic::transport::Error),
    /// Enrolment.
    #[error("cannot enrol with the authority")]
    Identity(#[from] IdentityError),
}

impl AuthorityLink {
    /// Checks the settings; does not dial yet.
    pub(crate) fn new(settings: &Settings, agent_id: &str) -> Result<Self, LinkError> {
        let url = settings.authority.trim_end_matches('/').to_owned();
        let uri: http::Uri = url.parse().map_err(|_| LinkError::Url(url.clone()))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(LinkError::Url(url)),
        };
        let host = uri.host().ok_or_else(|| LinkError::Url(url.clone()))?;
        if !tls && !is_loopback(host) {
            return Err(LinkError::Plain(url));
        }
        let ca_pem = match &settings.ca_file {
            Some(path) => Some(read_text(path)?),
            None if tls => return Err(LinkError::NoCa),
            None => None,
        };
        let mut shared = Shared {
            url,
            tls,
            ca_pem,
            token: settings.token.clone(),
            token_file: settings.token_file.clone(),
            identity_directory: settings.data.join("identity"),
            agent_id: agent_id.to_owned(),
            region: settings.region.clone(),
            asked_unix_ms: AtomicI64::new(0),
            current: Mutex::new((Endpoint::from_static("http://[::1]:1").connect_lazy(), Bearer(None))),
        };
        let identity = Identity::load(&shared.identity_directory)?;
        let bearer = shared.bearer(identity.is_some())?;
        let channel = shared.channel(identity.as_ref())?;
        shared.current = Mutex::new((channel, bearer));
        Ok(Self { shared: Arc::new(shared) })
    }

    /// A client with the present credentials.
    pub(crate) fn client(&self) -> Client {
        let (channel, bearer) = self.shared.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        AgentServiceClient::with_interceptor(channel, bearer).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Before each new stream: reads the token again, and over TLS enrols or renews when it is time.
    pub(crate) async fn refresh(&self, now_unix_ms: i64) -> Result<(), LinkError> {
        let shared = &self.shared;
        let held = if shared.tls { Identity::load(&shared.identity_directory)? } else { None };
        let mut identity = held.filter(|held| !held.has_expired(now_unix_ms));
        let due = shared.tls && identity.as_ref().is_none_or(|held| held.is_due(now_unix_ms));
        if due {
            shared.asked_unix_ms.store(now_unix_ms, Ordering::Relaxed);
            match self.enrol(identity.as_ref()).await {
                Ok(enrolled) => identity = enrolled,
                // A certificate that still holds is good enough until the authority answers.
                Err(error) if identity.is_some() => {
                    tracing::warn!(error = disk::chain(&error), "cannot renew this agent's certificate yet");
                }
                Err(error) => return Err(error),
            }
        }
        let bearer = shared.bearer(identity.is_some())?;
        let changed = due || bearer.0 != shared.current.lock().unwrap_or_else(PoisonError::into_inner).1.0;
        if changed {
            let channel = shared.channel(identity.as_ref())?;
            *shared.current.lock().unwrap_or_else(PoisonError::into_inner) = (channel, bearer);
        }
        Ok(())
    }

    /// Whether the certificate should be renewed now; always false on plain loopback, and for a while after a try.
    pub(crate) fn renewal_is_due(&self, now_unix_ms: i64) -> bool {
        let asked_unix_ms = self.shared.asked_unix_ms.load(Ordering::Relaxed);
        self.shared.tls
            && now_unix_ms.saturating_sub(asked_unix_ms) > RENEW_AGAIN_MS
            && matches!(Identity::load(&self.shared.identity_directory), Ok(Some(held)) if held.is_due(now_unix_ms))
    }

    /// `None` when the authority does not hand out certificates: then the token goes over TLS.
    async fn enrol(&self, held: Option<&Identity>) -> Result<Option<Identity>, LinkError> {
        let shared = &self.shared;
        // Renewing, the certificate speaks for itself; the token may have been for one use.
        let bearer = shared.bearer(held.is_some())?;
        if held.is_none() && bearer.0.is_none() {
            return Err(IdentityError::NoToken.into());
        }
        let request = identity::Request::new(&shared.agent_id)?;
        let channel = shared.channel(held)?;
        let mut call = tonic::Request::new(v1::EnrolRequest {
            agent_id: shared.agent_id.clone(),
            region: shared.region.clone(),
            certificate_request_pem: request.pem().to_owned(),
        });
        call.set_timeout(CALL_TIMEOUT);
        let answer = match AgentServiceClient::with_interceptor(channel, bearer).enrol(call).await {
            Ok(answer) => answer.into_inner(),
            Err(status) if status.code() == tonic::Code::Unimplemented => return Ok(held.cloned()),
            Err(status) => return Err(IdentityError::Refused(Box::new(status)).into()),
        };
        let identity = request.finish(&answer.certificate_pem)?;
        identity.store(&shared.identity_directory)?;
        tracing::info!(not_after_unix_ms = answer.not_after_unix_ms, "enrolled with the authority");
        Ok(Some(identity))
    }
}

impl Shared {
    fn channel(&self, identity: Option<&Identity>) -> Result<Channel, LinkError> {
        let mut endpoint = Endpoint::from_shared(self.url.clone())
            .map_err(|_| LinkError::Url(self.url.clone()))?
            .connect_timeout(CALL_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(CALL_TIMEOUT)
            .keep_alive_while_idle(true);
        if self.tls {
            let mut tls = ClientTlsConfig::new();
            if let Some(pem) = &self.ca_pem {
                tls = tls.ca_certificate(Certificate::from_pem(pem));
            }
            if let Some(identity) = identity {
                tls = tls.identity(identity.for_tls());
            }
            endpoint = endpoint.tls_config(tls).map_err(LinkError::Tls)?;
        }
        Ok(endpoint.connect_lazy())
    }

    /// The token goes along on plain loopback, and over TLS while there is no certificate.
    fn bearer(&self, enrolled: bool) -> Result<Bearer, LinkError> {
        if enrolled {
            return Ok(Bearer(None));
        }
        let token = match &self.token_file {
            Some(path) => Some(read_text(path)?.trim().to_owned()),
            None => self.token.clone(),
        };
        let Some(token) = token.filter(|token| !token.is_empty()) else { return Ok(Bearer(None)) };
        let mut value = MetadataValue::try_from(format!("Bearer {token}")).map_err(|_| LinkError::Token)?;
        value.set_sensitive(true);
        Ok(Bearer(Some(value)))
    }
}

/// Adds the bearer token to each call.
#[derive(Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Bearer(…)" } else { "Bearer(none)" })
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// Whether a URL's host is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn read_text(path: &std::path::Path) -> Result<String, DiskError> {
    std::fs::read_to_string(path).map_err(|source| DiskError::new("read", path, source))
}

/// A manifest has at most 8 MiB; the rest is for its frame.
const MESSAGE_BYTES_MAX: usize = 9 << 20;
/// For connecting and for a unary call.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two tries to renew a certificate that still holds.
const RENEW_AGAIN_MS: i64 = 600_000;
const KEEP_ALIVE: Duration = Duration::from_secs(10);
