//! A small HTTP/1.1 client for polling: one connection that is kept, one request at a time, everything bounded: time, heads,
//! bodies.
//!
//! It does not know what it fetches. Content is verified by whoever asked; TLS protects what is secret in it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use sealane_node::disk::DiskError;
use sealane_node::listen::{Guard, dial};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::snapshot::tls::system_roots;

/// Who is asked.
#[derive(Debug)]
pub(crate) struct HttpClient {
    /// `host:port`
    authority: String,
    way: Way,
    /// Sent as `Authorization: Bearer`.
    bearer: Option<HeaderValue>,
    kept: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

/// How a connection is protected.
#[derive(Clone)]
pub(crate) enum Way {
    /// As members of a fleet do.
    Fleet(Guard),
    /// As browsers do: a host name, and a CA that vouches for it.
    Public(Arc<rustls::ClientConfig>),
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fleet(_) => "Fleet",
            Self::Public(_) => "Public",
        })
    }
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum PullError {
    /// Nobody there, or not who should be.
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
    /// Too slow.
    #[error("no whole answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The connection broke, or the answer ended before its end.
    #[error("the answer is cut off or no HTTP")]
    Broken(#[source] hyper::Error),
    /// More than can be.
    #[error("the answer is longer than {0} bytes")]
    TooLarge(usize),
    /// Not a good status.
    #[error("it answers {status}: {words}")]
    Status { status: StatusCode, words: String },
    /// Not what was asked for.
    #[error("the answer is no {0}")]
    Malformed(&'static str),
}

impl PullError {
    /// Stable code for metrics, where the answer itself is at fault; `None`: nobody answered.
    pub(crate) fn code(&self) -> Option<&'static str> {
        match self {
            Self::TooLarge(_) => Some("too_large"),
            Self::Broken(_) => Some("truncated"),
            Self::Malformed(_) => Some("malformed"),
            Self::Timeout(_) => Some("timeout"),
            Self::Connect(_) | Self::Status { .. } => None,
        }
    }
}

/// TLS towards a file server: the system's CAs, or those in a file.
///
/// # Errors
/// The file cannot be read or holds no certificate.
pub(crate) fn public_tls(ca_file: Option<&Path>) -> Result<Arc<rustls::ClientConfig>, DiskError> {
    let roots = match ca_file {
        None => system_roots(),
        Some(path) => {
            let mut roots = rustls::RootCertStore::empty();
            let none = || DiskError::new("find a CA certificate in", path, std::io::ErrorKind::InvalidData.into());
            for certificate in CertificateDer::pem_file_iter(path).map_err(|_| none())? {
                roots.add(certificate.map_err(|_| none())?).map_err(|_| none())?;
            }
            if roots.is_empty() {
                return Err(none());
            }
            roots
        }
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has suites of the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl HttpClient {
    pub(crate) fn new(authority: &str, way: Way, token: Option<&str>) -> Self {
        let bearer = token.filter(|token| !token.is_empty()).and_then(|token| {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        Self { authority: authority.to_owned(), way, bearer, kept: Mutex::new(None) }
    }

    /// One request, within `limit`, with an answer of at most `bytes_max`. 2xx and 304 are answers.
    pub(crate) async fn ask(
        &self,
        method: Method,
        target: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
        bytes_max: usize,
        limit: Duration,
    ) -> Result<Answer, PullError> {
        let asked = timeout(limit, async {
            let mut kept = self.kept.lock().await;
            // What fails half-way leaves no connection behind: the next request must not read the rest of this answer.
            let mut sender = match kept.take().filter(|sender| !sender.is_closed()) {
                Some(sender) => sender,
                None => self.connect().await?,
            };
            sender.ready().await.map_err(PullError::Broken)?;
            let mut request = http::Request::builder()
                .method(method)
                .uri(target)
                .header(header::HOST, &self.authority)
                .body(Full::new(body))
                .map_err(|_| PullError::Malformed("target that can be asked for"))?;
            request.headers_mut().extend(headers.iter().cloned());
            if let Some(bearer) = &self.bearer {
                request.headers_mut().insert(header::AUTHORIZATION, bearer.clone());
            }
            let answer = sender.send_request(request).await.map_err(PullError::Broken)?;
            let (head, body) = answer.into_parts();
            let body = match Limited::new(body, bytes_max).collect().await {
                Ok(whole) => whole.to_bytes(),
                Err(error) => {
                    return Err(match error.downcast::<hyper::Error>() {
                        Ok(broken) => PullError::Broken(*broken),
                        Err(_) => PullError::TooLarge(bytes_max),
                    });
                }
            };
            *kept = Some(sender);
            Ok(Answer { status: head.status, headers: head.headers, body })
        });
        let answer = asked.await.unwrap_or(Err(PullError::Timeout(limit)))?;
        if answer.status.is_success() || answer.status == StatusCode::NOT_MODIFIED {
            return Ok(answer);
        }
        let words = String::from_utf8_lossy(&answer.body).chars().filter(|one| !one.is_control()).take(200).collect();
        Err(PullError::Status { status: answer.status, words })
    }

    /// Lets go of the connection: the next one shows what is to be shown then.
    pub(crate) async fn forget(&self) {
        *self.kept.lock().await = None;
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, PullError> {
        let sender = match &self.way {
            Way::Fleet(guard) => {
                let link = dial(&self.authority, guard).await.map_err(PullError::Connect)?;
                let (sender, connection) = handshake(TokioIo::new(link)).await.map_err(PullError::Broken)?;
                tokio::spawn(connection); // ends with the connection; what fails shows at the request
                sender
            }
            Way::Public(config) => {
                let stream = TcpStream::connect(&self.authority).await.map_err(PullError::Connect)?;
                let host = self.authority.rsplit_once(':').map_or(self.authority.as_str(), |(host, _)| host);
                let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(bare).map_err(|error| {
                    PullError::Connect(std::io::Error::new(std::io::ErrorKind::InvalidInput, error))
                })?;
                let stream =
                    TlsConnector::from(Arc::clone(config)).connect(name, stream).await.map_err(PullError::Connect)?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(PullError::Broken)?;
                tokio::spawn(connection);
                sender
            }
        };
        Ok(sender)
    }
}
