//! Fetches a small JSON document over http or https, bounded in size. The caller bounds the time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A document, and how long its server says that it stays fresh.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) bytes: Bytes,
    pub(super) fresh_for: Option<Duration>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("not an http or https address")]
    Address,
    #[error("cannot connect to {host}")]
    Connect {
        host: String,
        #[source]
        source: std::io::Error,
    },
    #[error("no answer")]
    Exchange(#[source] hyper::Error),
    #[error("answer with status {0}")]
    Status(StatusCode),
    #[error("no whole document of at most {DOCUMENT_BYTES_MAX} bytes")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Of one document.
const DOCUMENT_BYTES_MAX: usize = 1 << 20;

/// Fetches a document. Redirects are not followed: keys come from where the config says.
pub(super) async fn fetch(url: &str, tls: &Arc<ClientConfig>) -> Result<Document, FetchError> {
    let uri: Uri = url.parse().map_err(|_| FetchError::Address)?;
    let host = uri.host().ok_or(FetchError::Address)?.trim_start_matches('[').trim_end_matches(']');
    let https = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(FetchError::Address),
    };
    let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
    let failed = |source| FetchError::Connect { host: host.to_owned(), source };
    let tcp = TcpStream::connect((host, port)).await.map_err(failed)?;
    if https {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| FetchError::Address)?;
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await.map_err(failed)?;
        ask(stream, &uri).await
    } else {
        ask(tcp, &uri).await
    }
}

async fn ask(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, uri: &Uri) -> Result<Document, FetchError> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(FetchError::Exchange)?;
    // Ends with the sender; what it has to say, the answer says.
    let driver = tokio::spawn(connection);
    let document = async {
        let authority = uri.authority().map_or("", http::uri::Authority::as_str);
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let request = Request::get(uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str))
            .header(header::HOST, host)
            .header(header::USER_AGENT, "sealane")
            .header(header::ACCEPT, "application/json, application/jwk-set+json")
            .body(Empty::<Bytes>::new())
            .map_err(|_| FetchError::Address)?;
        let answer = sender.send_request(request).await.map_err(FetchError::Exchange)?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status(answer.status()));
        }
        let fresh_for = answer.headers().get(header::CACHE_CONTROL).and_then(|value| max_age(value.to_str().ok()?));
        let body = Limited::new(answer.into_body(), DOCUMENT_BYTES_MAX).collect().await.map_err(FetchError::Body)?;
        Ok(Document { bytes: body.to_bytes(), fresh_for })
    }
    .await;
    driver.abort();
    document
}

fn max_age(cache_control: &str) -> Option<Duration> {
    let mut directives = cache_control.split(',').map(str::trim);
    let seconds = directives.find_map(|directive| directive.strip_prefix("max-age="))?;
    seconds.trim_matches('"').parse().ok().map(Duration::from_secs)
}
