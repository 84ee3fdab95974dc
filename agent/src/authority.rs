//! The link to the authority: one channel, its credentials, and the client calls made over it.
//!
//! It does not know what the calls mean. Over TLS it enrols once and renews itself ([`sealane_node::identity`]), and puts
//! the certificate on the keyring for the listeners; on plain loopback it sends the bearer token.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sealane_node::disk::{self, DiskError};
use sealane_node::identity::{self, Identity, IdentityError};
use sealane_node::keyring::{Keyring, KeyringError};
use sealane_node::listen::is_loopback_host;
use sealane_node::said::{is_transport, said};
use sealane_proto::v1;
use sealane_proto::v1::agent_service_client::AgentServiceClient;
use thiserror::Error;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::settings::Settings;

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
    identity_file: PathBuf,
    keyring: Keyring,
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
    /// First contact needs a token.
    #[error("an agent enrols with a token: give --token-file (`sealane token create --role agent`)")]
    NoToken,
    /// The authority said no.
    #[error("the authority did not sign the certificate request")]
    Refused(#[source] Box<tonic::Status>),
    /// Own certificate.
    #[error("cannot enrol with the authority")]
    Identity(#[from] IdentityError),
    /// Own certificate, for the listeners.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
}

impl AuthorityLink {
    /// Checks the settings; does not dial yet.
    pub(crate) fn new(settings: &Settings, agent_id: &str, fleet: &str) -> Result<Self, LinkError> {
        let url = settings.authority.trim_end_matches('/').to_owned();
        let uri: http::Uri = url.parse().map_err(|_| LinkError::Url(url.clone()))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(LinkError::Url(url)),
        };
        let host = uri.host().ok_or_else(|| LinkError::Url(url.clone()))?;
        if !tls && !is_loopback_host(host) {
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
            identity_file: settings.data.join("identity/agent.pem"),
            keyring: Keyring::new(fleet),
            agent_id: agent_id.to_owned(),
            region: settings.region.clone(),
            asked_unix_ms: AtomicI64::new(0),
            current: Mutex::new((Endpoint::from_static("http://[::1]:1").connect_lazy(), Bearer(None))),
        };
        if tls {
            shared.keyring.revoked().keep_in(&settings.data.join("identity/revoked"))?;
        }
        let identity = Identity::load(&shared.identity_file)?;
        shared.put_on_keyring(identity.as_ref())?;
        let bearer = shared.bearer(identity.is_some())?;
        let channel = shared.channel(identity.as_ref())?;
        shared.current = Mutex::new((channel, bearer));
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What this agent shows, and whom it accepts, on connections to proxies of other machines.
    pub(crate) fn keyring(&self) -> &Keyring {
        &self.shared.keyring
    }

    /// Whether there is an authority that hands out certificates.
    pub(crate) fn is_tls(&self) -> bool {
        self.shared.tls
    }

    /// The authority's address, as set.
    pub(crate) fn url(&self) -> &str {
        &self.shared.url
    }

    /// Why a call did not work, in a sentence: what, where, and what to do.
    pub(crate) fn why(&self, status: &tonic::Status) -> String {
        let Shared { url, region, token_file, .. } = &*self.shared;
        let said = said(status);
        if is_transport(status) {
            let hint = match said.contains("certificate") || said.contains("unknownissuer") {
                true => "give --ca-file the CA that signed its certificate",
                false => "it is tried again; if it stays so, start the authority or mend --authority and the network",
            };
            return format!("cannot reach the authority at {url}: {said} ({hint})");
        }
        match status.code() {
            // It says itself what to do: the certificate goes first.
            tonic::Code::Unauthenticated if said.contains("was revoked") => {
                format!("the authority at {url} does not let this agent in: {said}")
            }
            tonic::Code::Unauthenticated => {
                let file = token_file.as_ref().map_or("--token-file".to_owned(), |file| file.display().to_string());
                format!(
                    "the authority at {url} does not let this agent in: {said} (make a token with `sealane token create \
                     --role agent --region {region}` and write it to {file}; it is read again with each try)"
                )
            }
            tonic::Code::PermissionDenied => format!(
                "the authority at {url} does not let this agent in: {said} (start it with the --id and --region that its \
                 token or certificate is for, or make it a token of its own)"
            ),
            tonic::Code::AlreadyExists => {
                format!(
                    "the authority at {url} knows a live agent of this id: {said} (give each agent an --id of its own)"
                )
            }
            // What speaks HTTP, and not gRPC.
            _ if said.contains("compression flag") || said.contains("invalid content") => format!(
                "what answers at {url} is no authority: it speaks HTTP and not gRPC (--authority names the gRPC address, \
                 port 7443 by default)"
            ),
            tonic::Code::Unimplemented => {
                format!(
                    "what answers at {url} is no authority: {said} (--authority names the gRPC address, port 7443 by default)"
                )
            }
            _ => format!("the authority at {url} said: {said} (it is tried again)"),
        }
    }

    /// The same of the preparations.
    pub(crate) fn why_not(&self, error: &LinkError) -> String {
        match error {
            LinkError::Refused(status) => self.why(status),
            error => disk::chain(error),
        }
    }

    /// A client with the present credentials.
    pub(crate) fn client(&self) -> Client {
        let (channel, bearer) = self.shared.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        AgentServiceClient::with_interceptor(channel, bearer).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Before each new stream: reads the token again, and over TLS enrols or renews when it is time.
    pub(crate) async fn refresh(&self, now_unix_ms: i64) -> Result<(), LinkError> {
        let shared = &self.shared;
        let held = if shared.tls { Identity::load(&shared.identity_file)? } else { None };
        let mut identity = held.filter(|held| !held.has_expired(now_unix_ms));
        let due = shared.tls && identity.as_ref().is_none_or(|held| held.is_due(now_unix_ms));
        if due {
            shared.asked_unix_ms.store(now_unix_ms, Ordering::Relaxed);
            match self.enrol(identity.as_ref()).await {
                Ok(enrolled) => {
                    identity = enrolled;
                    shared.put_on_keyring(identity.as_ref())?;
                }
                // A certificate that still holds is good enough until the authority answers.
                Err(error) if identity.is_some() => {
                    tracing::warn!(
                        reason = self.why_not(&error),
                        "cannot renew this agent's certificate yet, the one it has still holds"
                    );
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
            && matches!(Identity::load(&self.shared.identity_file), Ok(Some(held)) if held.is_due(now_unix_ms))
    }

    /// Passes a proxy's request for a certificate on.
    pub(crate) async fn enrol_proxy(
        &self,
        request: v1::EnrolProxyRequest,
    ) -> Result<v1::EnrolProxyResponse, tonic::Status> {
        if !self.shared.tls {
            return Err(tonic::Status::failed_precondition(
                "this agent reaches its authority without TLS, so there are no certificates to be had",
            ));
        }
        let mut request = tonic::Request::new(request);
        request.set_timeout(CALL_TIMEOUT);
        match tokio::time::timeout(CALL_TIMEOUT, self.client().enrol_proxy(request)).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(tonic::Status::unavailable("the authority does not answer")),
        }
    }

    /// `None` when the authority does not hand out certificates: then the token goes over TLS.
    async fn enrol(&self, held: Option<&Identity>) -> Result<Option<Identity>, LinkError> {
        let shared = &self.shared;
        // Renewing, the certificate speaks for itself; the token may have been for one use.
        let bearer = shared.bearer(held.is_some())?;
        if held.is_none() && bearer.0.is_none() {
            return Err(LinkError::NoToken);
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
            Err(status) => return Err(LinkError::Refused(Box::new(status))),
        };
        let identity = request.finish(&answer.certificate_pem, &answer.ca_pem)?;
        identity.store(&shared.identity_file)?;
        tracing::info!(not_after_unix_ms = answer.not_after_unix_ms, "enrolled with the authority");
        Ok(Some(identity))
    }
}

impl Shared {
    fn put_on_keyring(&self, identity: Option<&Identity>) -> Result<(), LinkError> {
        let Some(identity) = identity else { return Ok(()) };
        if let Some(ca_pem) = identity.ca_pem() {
            self.keyring.trust(ca_pem)?;
            self.keyring.show(identity)?;
        }
        Ok(())
    }

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
                tls = tls.identity(tonic::transport::Identity::from_pem(identity.pem(), identity.pem()));
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

fn read_text(path: &std::path::Path) -> Result<String, DiskError> {
    std::fs::read_to_string(path).map_err(|source| DiskError::new("read", path, source))
}

/// A manifest has at most 8 MiB; the rest is for its frame.
const MESSAGE_BYTES_MAX: usize = 9 << 20;
/// For connecting and for a unary call.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait between two attempts at the authority.
pub(crate) const BACKOFF_LAST: Duration = Duration::from_secs(10);
/// Between two tries to renew a certificate that still holds.
const RENEW_AGAIN_MS: i64 = 600_000;
const KEEP_ALIVE: Duration = Duration::from_secs(10);
