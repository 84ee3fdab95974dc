//! Push: this agent calls the control listeners of its proxies, for networks in which a proxy cannot reach its agent.
//!
//! Only who opens the connection differs: on it the proxy makes the very calls that it would make had it dialled
//! ([`crate::service`]), so that there is one protocol. Plain on loopback; otherwise TLS in which both show a certificate.
//! A proxy without one may do nothing but enrol.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use sealane_node::backoff::Backoff;
use sealane_node::keyring::{Keyring, Peers};
use sealane_node::listen::{Guard, Link, Peer, dial, is_loopback_host};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Server;
use tonic::transport::server::Connected;

use crate::service::ProxyControl;

/// A control listener to call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    authority: String,
    tls: bool,
}

/// What is no control listener.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TargetError {
    /// Neither `host:port` nor a URL of it.
    #[error("`{0}` is no address to push to, such as edge-1.internal:7445")]
    Malformed(String),
    /// Commands would travel without authentication.
    #[error("`{0}` is not on this machine, so it is pushed to over TLS: leave http:// out")]
    Plain(String),
}

impl Target {
    pub(crate) fn parse(text: &str) -> Result<Self, TargetError> {
        let malformed = || TargetError::Malformed(text.to_owned());
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest.trim_end_matches('/')),
            None => (None, text),
        };
        let (host, port) = rest.rsplit_once(':').ok_or_else(malformed)?;
        if host.is_empty() || host.contains('/') || port.parse::<u16>().is_err() {
            return Err(malformed());
        }
        let loopback = is_loopback_host(host);
        let tls = match scheme {
            Some("https") => true,
            Some("http") if loopback => false,
            Some("http") => return Err(TargetError::Plain(text.to_owned())),
            None => !loopback,
            Some(_) => return Err(malformed()),
        };
        Ok(Self { authority: rest.to_owned(), tls })
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls
    }
}

/// Keeps a connection to one control listener, until `cancel`.
pub(crate) async fn run(target: Target, control: ProxyControl, keyring: Keyring, cancel: CancellationToken) {
    let guard = if target.tls { Guard::Tls(keyring, Peers::Judged, b"h2") } else { Guard::Loopback };
    let mut backoff = Backoff::new(LAST);
    let mut told = String::new();
    loop {
        let dialled = tokio::select! {
            () = cancel.cancelled() => return,
            dialled = dial(&target.authority, &guard) => dialled,
        };
        let reason = match dialled {
            Ok(link) => {
                tracing::info!(address = target.authority, peer = ?link.peer(), "calling a proxy");
                serve(link, control.clone(), &cancel).await;
                backoff.reset();
                "the connection ended".to_owned()
            }
            Err(error) => error.to_string(),
        };
        if reason != told {
            tracing::warn!(address = target.authority, reason, "a proxy to push to is away");
            told = reason;
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(FIRST + backoff.wait()) => {}
        }
    }
}

/// Serves one connection to its end.
async fn serve(link: Link, control: ProxyControl, cancel: &CancellationToken) {
    let gone = CancellationToken::new();
    let watched = Watched { link, _gone: gone.clone().drop_guard() };
    // The stream of connections goes on after the one: its end would end that one too.
    let incoming = stream::iter([Ok::<_, std::io::Error>(watched)]).chain(stream::pending());
    let ended = async {
        tokio::select! {
            () = gone.cancelled() => {}
            () = cancel.cancelled() => {}
        }
    };
    let served = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_service(control.into_server())
        .serve_with_incoming_shutdown(incoming, ended)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a pushed connection ended");
    }
}

/// A connection that says when it is gone.
struct Watched {
    link: Link,
    _gone: DropGuard,
}

impl Connected for Watched {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.link.peer().clone()
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.link).poll_read(context, into)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.link).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.link).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.link).poll_shutdown(context)
    }
}

/// Between two connections to one listener, at least; at most this and [`LAST`].
const FIRST: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_this_machine_a_proxy_is_called_over_tls() {
        let check = |text: &str, tls: bool| assert_eq!(Target::parse(text).map(|target| target.tls), Ok(tls), "{text}");
        check("127.0.0.1:7445", false);
        check("localhost:7445", false);
        check("[::1]:7445", false);
        check("http://127.0.0.1:7445/", false);
        check("https://127.0.0.1:7445", true);
        check("edge-1.internal:7445", true);
        check("10.0.0.7:7445", true);
        assert!(matches!(Target::parse("http://10.0.0.7:7445"), Err(TargetError::Plain(_))));
        for bad in ["", "edge-1", "edge-1:", ":7445", "ftp://edge-1:1", "edge-1:7445/path"] {
            assert!(matches!(Target::parse(bad), Err(TargetError::Malformed(_))), "{bad}");
        }
    }
}
