//! One probe: a connection, and where a path is given, a GET over it.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::snapshot::CompiledEndpoint;
use crate::stream::Stream;
use crate::upstream::dial;

/// Bytes of an answer's head that are looked at.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Field lines of an answer's head.
const FIELDS_MAX: usize = 128;

/// Probes. The status of the answer; `None`: a connection was enough.
///
/// # Errors
/// What went wrong, in words.
pub(super) async fn probe(endpoint: &CompiledEndpoint, path: Option<&str>) -> Result<Option<u16>, String> {
    let stream = dial::connect(endpoint).await.map_err(|failure| failure.detail.to_string())?;
    let Some(path) = path else { return Ok(None) };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: sealane-health\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        endpoint.host_value
    );
    match stream {
        Stream::Plain(tcp) => ask(tcp, &request).await,
        Stream::Tls(tls) => ask(tls, &request).await,
    }
    .map(Some)
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
