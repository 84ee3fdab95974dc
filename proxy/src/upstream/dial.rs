//! Makes connections to endpoints. Boxed by its callers: a connection is made once for many requests.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time;

use crate::error::{Detail, Failure, FailureKind};
use crate::snapshot::{CompiledEndpoint, Target, Wanted};
use crate::stream::Transport;

/// How long one address of a name has the field to itself before the next is tried too (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);

/// A connection just made.
#[derive(Debug)]
pub(crate) struct Dialed {
    pub(crate) transport: Transport,
    /// HTTP/2 is spoken over it.
    pub(crate) http2: bool,
}

/// Connects to an endpoint, TLS included, to speak the wanted version. The caller bounds the time.
///
/// # Errors
/// [`FailureKind::Connect`]: the endpoint saw no request.
pub(crate) async fn connect(endpoint: &CompiledEndpoint, wanted: Wanted) -> Result<Dialed, Failure> {
    let tcp = connect_tcp(endpoint).await?;
    // Heads and small bodies leave in one write; waiting for more would only delay them.
    tcp.set_nodelay(true).map_err(|error| Failure::io(FailureKind::Connect, error))?;
    let Some(tls) = &endpoint.tls else {
        return Ok(Dialed { transport: Transport::Plain(tcp), http2: wanted == Wanted::Http2 });
    };
    let stream = tls.connector(wanted).connect(tls.name.clone(), tcp).await.map_err(|error| {
        let text = format!("tls handshake with {}: {error}", endpoint.address);
        Failure { kind: FailureKind::Connect, detail: Detail::Text(text) }
    })?;
    let http2 = wanted == Wanted::Http2 || stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok(Dialed { transport: Transport::Tls(Box::new(stream.into())), http2 })
}

async fn connect_tcp(endpoint: &CompiledEndpoint) -> Result<TcpStream, Failure> {
    match &endpoint.target {
        Target::Ip(ip) => connect_one(*ip, endpoint).await.map_err(|error| failure(endpoint, &[(*ip, error)])),
        Target::Name(name) => {
            let addresses = name.addresses();
            match addresses.as_slice() {
                [] => {
                    let text = format!("cannot resolve {}", endpoint.address);
                    Err(Failure { kind: FailureKind::Connect, detail: Detail::Text(text) })
                }
                [ip] => connect_one(*ip, endpoint).await.map_err(|error| failure(endpoint, &[(*ip, error)])),
                several => race(several, endpoint).await,
            }
        }
    }
}

async fn connect_one(ip: IpAddr, endpoint: &CompiledEndpoint) -> io::Result<TcpStream> {
    TcpStream::connect(SocketAddr::new(ip, endpoint.port)).await
}

/// Tries the addresses in order, the next one when the one before fails or takes its time. The first connection wins.
async fn race(addresses: &[IpAddr], endpoint: &CompiledEndpoint) -> Result<TcpStream, Failure> {
    let mut rest = addresses.iter().copied();
    let mut tries = FuturesUnordered::new();
    let mut errors = Vec::new();
    loop {
        if let Some(ip) = rest.next() {
            tries.push(async move { connect_one(ip, endpoint).await.map_err(|error| (ip, error)) });
        }
        let tried = if rest.len() == 0 {
            tries.next().await
        } else {
            match time::timeout(STAGGER, tries.next()).await {
                Ok(tried) => tried,
                Err(_) => continue,
            }
        };
        match tried {
            Some(Ok(tcp)) => return Ok(tcp),
            Some(Err(error)) => errors.push(error),
            None => return Err(failure(endpoint, &errors)),
        }
    }
}

fn failure(endpoint: &CompiledEndpoint, errors: &[(IpAddr, io::Error)]) -> Failure {
    let mut text = format!("connect to {}", endpoint.address);
    for (ip, error) in errors {
        // Writing to a string cannot fail.
        let _ = match &endpoint.target {
            Target::Ip(_) => write!(text, ": {error}"),
            Target::Name(_) => write!(text, ": {ip}: {error}"),
        };
    }
    Failure { kind: FailureKind::Connect, detail: Detail::Text(text) }
}
