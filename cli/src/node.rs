//! Talking to one process's HTTP address, such as a proxy's admin address: one request, one JSON answer.
//!
//! It does not know what is asked; [`crate::client`] talks to the authority.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::exit::{Exit, Failure};

/// Which process, and how to speak to it.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Admin options")]
pub struct NodeArgs {
    /// Admin address of the proxy: HOST:PORT, or a URL with http:// or https://
    #[arg(long, value_name = "ADDR", env = "SEALANE_ADMIN", default_value = "127.0.0.1:9090")]
    admin: String,
    /// File with the admin token
    #[arg(long, value_name = "FILE", env = "SEALANE_ADMIN_TOKEN_FILE")]
    admin_token_file: Option<PathBuf>,
    /// CA of an https admin address, PEM
    #[arg(long, value_name = "FILE", env = "SEALANE_ADMIN_CA_FILE")]
    admin_ca_file: Option<PathBuf>,
}

/// One proxy, instead of a fleet.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Options for one proxy without a fleet")]
pub struct OneNodeArgs {
    /// Admin address of one proxy, instead of the fleet: HOST:PORT, or a URL with http:// or https://
    #[arg(long, value_name = "ADDR", env = "SEALANE_ADMIN", conflicts_with = "node")]
    addr: Option<String>,
    /// File with the admin token
    #[arg(long, value_name = "FILE", env = "SEALANE_ADMIN_TOKEN_FILE")]
    admin_token_file: Option<PathBuf>,
    /// CA of an https admin address, PEM
    #[arg(long, value_name = "FILE", env = "SEALANE_ADMIN_CA_FILE")]
    admin_ca_file: Option<PathBuf>,
}

impl OneNodeArgs {
    /// The proxy, where one is named.
    pub(crate) fn node(&self) -> Result<Option<Node>, Failure> {
        let Some(addr) = &self.addr else { return Ok(None) };
        let args = NodeArgs {
            admin: addr.clone(),
            admin_token_file: self.admin_token_file.clone(),
            admin_ca_file: self.admin_ca_file.clone(),
        };
        args.node().map(Some)
    }
}

/// A process's HTTP address.
#[derive(Debug)]
pub(crate) struct Node {
    uri: Uri,
    token: Option<String>,
    roots: RootCertStore,
}

/// Bytes of an answer at most.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Of one request.
const TIMEOUT: Duration = Duration::from_secs(30);

impl NodeArgs {
    /// Reads what the flags name.
    pub(crate) fn node(&self) -> Result<Node, Failure> {
        let text = if self.admin.contains("://") { self.admin.clone() } else { format!("http://{}", self.admin) };
        let uri: Uri = text.parse().map_err(|_| Failure::usage(format!("`{}` is no address", self.admin)))?;
        if uri.host().is_none() || !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(Failure::usage(format!("`{}` is no address such as 127.0.0.1:9090", self.admin)));
        }
        let unreadable = |file: &PathBuf| Failure::new(Exit::Failed, format!("cannot read `{}`", file.display()));
        let token = match &self.admin_token_file {
            Some(file) => {
                Some(std::fs::read_to_string(file).map_err(|error| unreadable(file).because(error))?.trim().to_owned())
            }
            None => None,
        };
        let mut roots = RootCertStore::empty();
        if let Some(file) = &self.admin_ca_file {
            let found = CertificateDer::pem_file_iter(file).map_err(|error| unreadable(file).because(error))?;
            roots.add_parsable_certificates(found.flatten());
        }
        Ok(Node { uri, token, roots })
    }
}

impl Node {
    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.ask(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.ask(Method::POST, path, Some(body)).await
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let asked = tokio::time::timeout(TIMEOUT, self.exchange(method, path, body)).await;
        asked.unwrap_or_else(|_| Err(self.unreachable("no answer in time")))
    }

    /// An answer that goes on, line by line.
    pub(crate) async fn lines(&self, path: &str) -> Result<Lines, Failure> {
        let asked = tokio::time::timeout(TIMEOUT, self.request(Method::GET, path, None)).await;
        let answer = asked.unwrap_or_else(|_| Err(self.unreachable("no answer in time")))?;
        if answer.status().is_success() {
            return Ok(Lines { body: answer.into_body(), buffer: Vec::new() });
        }
        self.read(answer).await?;
        Err(self.unreachable("an answer without an end"))
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let answer = self.request(method, path, body).await?;
        self.read(answer).await
    }

    async fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Response<Incoming>, Failure> {
        let host = self.uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let secure = self.uri.scheme_str() == Some("https");
        let port = self.uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tcp =
            TcpStream::connect((host, port)).await.map_err(|error| self.unreachable("no connection").because(error))?;
        let authority = self.uri.authority().map(ToString::to_string).unwrap_or_default();
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, authority);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let request = request.body(Full::new(bytes)).map_err(|error| Failure::usage("not a request").because(error))?;
        if !secure {
            return self.send(tcp, request).await;
        }
        let config = rustls::ClientConfig::builder().with_root_certificates(self.roots.clone()).with_no_client_auth();
        let name =
            ServerName::try_from(host.to_owned()).map_err(|error| Failure::usage("no name for TLS").because(error))?;
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
        let tls = connector.connect(name, tcp).await.map_err(|error| self.unreachable("TLS failed").because(error))?;
        self.send(tls, request).await
    }

    async fn send(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Failure> {
        let lost = |error: hyper::Error| self.unreachable("the connection broke off").because(error);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        // It ends with the answer.
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(lost)
    }

    async fn read(&self, answer: Response<Incoming>) -> Result<Value, Failure> {
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| self.unreachable("the answer broke off").because(error))?.to_bytes();
        let value: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if status.is_success() {
            return Ok(value);
        }
        let why = value["error"].as_str().unwrap_or("it did not say why").to_owned();
        let exit = match status {
            StatusCode::NOT_FOUND => Exit::NotFound,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Exit::NotAllowed,
            StatusCode::CONFLICT => Exit::Conflict,
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Exit::Invalid,
            _ => Exit::Failed,
        };
        Err(Failure::new(exit, format!("{} answered {status}: {why}", self.uri)))
    }

    fn unreachable(&self, why: &str) -> Failure {
        Failure::new(Exit::Unreachable, format!("cannot reach {}: {why}", self.uri))
            .hint("is the proxy running, and is this its admin address? --admin names another one")
    }
}

/// Lines as they come.
#[derive(Debug)]
pub(crate) struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next one, without its end; `None`: there are no more.
    pub(crate) async fn next(&mut self) -> Option<Result<String, Failure>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                return Some(Ok(String::from_utf8_lossy(&line[..end]).into_owned()));
            }
            if self.buffer.len() > ANSWER_BYTES_MAX {
                return Some(Err(Failure::new(Exit::Failed, "a line has no end")));
            }
            match self.body.frame().await? {
                Ok(frame) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| &data[..])),
                Err(error) => {
                    return Some(Err(Failure::new(Exit::Unreachable, "the answer broke off").because(error)));
                }
            }
        }
    }
}
