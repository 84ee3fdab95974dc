//! Connections between members of a fleet: dialled or accepted, plain on loopback or over TLS, and who is at the other end.
//!
//! It does not know what is said over them. Plain connections are for one machine: whoever can open them is its user.
//! A handshake has a deadline, and so many connections are held at a time.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls_pki_types::{ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use tonic::transport::server::Connected;

use crate::keyring::{Certified, Keyring, KeyringError, Peers, Stranger};
use crate::member::Role;
use crate::revoked::Revoked;

/// Who is at the other end.
#[derive(Clone, Debug)]
pub enum Peer {
    /// Somebody on this machine.
    Local,
    /// A member of the fleet.
    Member(Arc<Certified>),
    /// Nobody that is known; may enrol.
    Stranger(Arc<Stranger>),
}

/// A connection.
#[derive(Debug)]
pub struct Link {
    stream: Stream,
    peer: Peer,
    _place: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Accepted(Box<server::TlsStream<TcpStream>>),
    Dialled(Box<client::TlsStream<TcpStream>>),
}

/// What protects a connection.
#[derive(Clone, Debug)]
pub enum Guard {
    /// Nothing: for one machine.
    Loopback,
    /// Nothing, although others can reach it: everybody is a stranger.
    Open,
    /// TLS between members. The bytes name the protocol inside, such as `h2`.
    Tls(Keyring, Peers, &'static [u8]),
}

impl Guard {
    /// Who is at the other end of a connection without TLS.
    fn plain_peer(&self) -> Peer {
        match self {
            Self::Loopback => Peer::Local,
            Self::Open | Self::Tls(..) => Peer::Stranger(Arc::new(Stranger::NoCertificate)),
        }
    }
}

impl Connected for Link {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl Link {
    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

/// Dials `authority` (`host:port`). `Peers::Judged` may give a link to a stranger.
///
/// # Errors
/// No connection within 5 s, or who answers is not who should.
pub async fn dial(authority: &str, guard: &Guard) -> io::Result<Link> {
    let dialling = async {
        let stream = TcpStream::connect(authority).await?;
        stream.set_nodelay(true)?;
        let Guard::Tls(keyring, peers, alpn) = guard else {
            return Ok(Link { stream: Stream::Plain(stream), peer: guard.plain_peer(), _place: None });
        };
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(bare).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let connected = TlsConnector::from(keyring.client(*peers, alpn)).connect(name, stream).await?;
        let peer = judge(keyring, connected.get_ref().1.peer_certificates());
        Ok(Link { stream: Stream::Dialled(Box::new(connected)), peer, _place: None })
    };
    timeout(HANDSHAKE_TIMEOUT, dialling).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Accepts until the receiver is dropped. Each handshake runs by itself; `refused` hears of those that were turned away,
/// with a code and words.
///
/// # Errors
/// There is nothing to show in a handshake.
pub fn accept(
    listener: TcpListener,
    guard: Guard,
    refused: impl Fn(&'static str, &str) + Clone + Send + 'static,
) -> Result<mpsc::Receiver<Link>, KeyringError> {
    let tls = match &guard {
        Guard::Loopback | Guard::Open => None,
        Guard::Tls(keyring, peers, alpn) => Some((TlsAcceptor::from(keyring.server(*peers, alpn)?), keyring.clone())),
    };
    let plain = guard.plain_peer();
    let (ready, links) = mpsc::channel(READY_MAX);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    tokio::spawn(async move {
        loop {
            let stream = tokio::select! {
                () = ready.closed() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_AGAIN).await;
                        continue;
                    }
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                refused("too_many_connections", "too many connections: one more was closed");
                continue;
            };
            let (ready, tls, refused, peer) = (ready.clone(), tls.clone(), refused.clone(), plain.clone());
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true); // a matter of speed only
                let Some((acceptor, keyring)) = tls else {
                    let link = Link { stream: Stream::Plain(stream), peer, _place: Some(place) };
                    let _ = ready.send(link).await; // the listener's owner has gone
                    return;
                };
                match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                    Ok(Ok(accepted)) => {
                        let peer = judge(&keyring, accepted.get_ref().1.peer_certificates());
                        let stream = Stream::Accepted(Box::new(accepted));
                        let _ = ready.send(Link { stream, peer, _place: Some(place) }).await;
                    }
                    Ok(Err(error)) => {
                        let code = Stranger::behind(&error).map_or("handshake", |stranger| stranger.code());
                        refused(code, &error.to_string());
                    }
                    Err(_) => refused("handshake_timeout", "a TLS handshake took too long"),
                }
            });
        }
    });
    Ok(links)
}

fn judge(keyring: &Keyring, certificates: Option<&[rustls_pki_types::CertificateDer<'static>]>) -> Peer {
    match keyring.judge(certificates.unwrap_or_default(), UnixTime::now()) {
        Ok(shown) => Peer::Member(Arc::new(shown)),
        Err(stranger) => Peer::Stranger(Arc::new(stranger)),
    }
}

impl Peer {
    /// Why the certificate that was good in the handshake is so no more.
    #[must_use]
    pub fn is_over(&self, revoked: &Revoked, now_unix_ms: i64) -> Option<Stranger> {
        match self {
            Self::Member(shown) if revoked.contains(&shown.fingerprint) => Some(Stranger::Revoked),
            Self::Member(shown) if now_unix_ms >= shown.until_unix_ms => Some(Stranger::Expired),
            Self::Member(_) | Self::Local | Self::Stranger(_) => None,
        }
    }

    /// Whether this peer may speak as `role` with the id `id` in `region` at `now_unix_ms`; why not: a code and words.
    ///
    /// # Errors
    /// It may not.
    pub fn speaks_for(
        &self,
        role: Role,
        region: &str,
        id: &str,
        revoked: &Revoked,
        now_unix_ms: i64,
    ) -> Result<(), (&'static str, String)> {
        let member = match self {
            Self::Local => return Ok(()),
            Self::Member(shown) => &shown.member,
            Self::Stranger(why) => return Err((why.code(), why.to_string())),
        };
        if let Some(over) = self.is_over(revoked, now_unix_ms) {
            return Err((over.code(), over.to_string()));
        }
        if member.role != role {
            let other = Stranger::OtherRole(member.role);
            return Err((other.code(), other.to_string()));
        }
        if member.region != region {
            return Err(("certificate_other_region", format!("its certificate is for region `{}`", member.region)));
        }
        if member.id != id {
            return Err(("certificate_other_id", format!("its certificate belongs to `{}`, not `{id}`", member.id)));
        }
        Ok(())
    }
}

impl AsyncRead for Link {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, into),
            Stream::Accepted(stream) => Pin::new(stream).poll_read(context, into),
            Stream::Dialled(stream) => Pin::new(stream).poll_read(context, into),
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Accepted(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Dialled(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Accepted(stream) => Pin::new(stream).poll_flush(context),
            Stream::Dialled(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Accepted(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Dialled(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// Whether an address is only reachable from this machine.
#[must_use]
pub fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Whether a URL's host is this machine.
#[must_use]
pub fn is_loopback_host(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// For connecting and the handshake together.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Accepted and not taken yet.
const READY_MAX: usize = 64;
/// Held at a time by one listener: every proxy that one agent takes, and some that come back meanwhile.
const CONNECTIONS_MAX: usize = 4_096;
/// After an accept that failed: file descriptors may have run out.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
