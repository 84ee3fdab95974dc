//! One probe: a connection, and where a path is given, a GET over it.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use sealane_model::config::Scheme;

use crate::snapshot::{CompiledEndpoint, Nature, Wanted};
use crate::stream::Transport;
use crate::upstream::dial::{self, Dialed};

/// Bytes of an answer's head that are looked at.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Field lines of an answer's head.
const FIELDS_MAX: usize = 128;

/// Probes. The status of the answer; `None`: a connection was enough.
///
/// # Errors
/// What went wrong, in words.
pub(super) async fn probe(endpoint: &CompiledEndpoint, path: Option<&str>) -> Result<Option<u16>, String> {
    // Of an endpoint that may choose, HTTP/1.1 is enough to know.
    let wanted = match endpoint.wanted(Nature::default()) {
        Wanted::Http2 => Wanted::Http2,
        Wanted::Http1 | Wanted::Either => Wanted::Http1,
    };
    let Dialed { transport, http2 } =
        dial::connect(endpoint, wanted).await.map_err(|failure| failure.detail.to_string())?;
    let Some(path) = path else { return Ok(None) };
    if http2 {
        return ask_http2(transport, endpoint, path).await.map(Some);
    }
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: sealane-health\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        endpoint.host_value
    );
    ask(transport, &request).await.map(Some)
}

async fn ask_http2(transport: Transport, endpoint: &CompiledEndpoint, path: &str) -> Result<u16, String> {
    let (requests, connection) = h2::client::handshake(transport).await.map_err(|error| error.to_string())?;
    let scheme = if endpoint.scheme == Scheme::Https { "https" } else { "http" };
    let request = http::Request::get(format!("{scheme}://{}{path}", endpoint.host_value))
        .header("user-agent", "sealane-health")
        .header("accept", "*/*")
        .body(())
        .map_err(|error| error.to_string())?;
    let asked = async {
        let mut requests = requests.ready().await.map_err(|error| error.to_string())?;
        let (answer, _) = requests.send_request(request, true).map_err(|error| error.to_string())?;
        Ok(answer.await.map_err(|error| error.to_string())?.status().as_u16())
    };
    tokio::select! {
        biased;
        status = asked => status,
        ended = connection => Err(ended.err().map_or_else(|| "connection closed".to_owned(), |error| error.to_string())),
    }
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Result<u16, String> {
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut bytes = Vec::with_capacity(1024);
    loop {
        let read = stream.read_buf(&mut bytes).await.map_err(|error| error.to_string())?;
        let mut room = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut response = httparse::Response::new(&mut room);
        match response.parse(&bytes) {
            Ok(httparse::Status::Complete(_)) => return Ok(response.code.unwrap_or_default()),
            Ok(httparse::Status::Partial) if read > 0 && bytes.len() < HEAD_BYTES_MAX => {}
            Ok(httparse::Status::Partial) => return Err("incomplete answer".to_owned()),
            Err(error) => return Err(format!("no http answer: {error}")),
        }
    }
}
