//! Listening sockets: one per worker thread and address (`SO_REUSEPORT`), and the loop that accepts on one of them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use sealane_model::config::ListenAddress;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time;
use tracing::warn;

use crate::connection;
use crate::shared::Permit;
use crate::worker::Worker;

/// Connections that wait to be accepted, per socket.
const BACKLOG: i32 = 4096;
/// After an error of accept that concerns the process (no descriptors), before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Binds one socket per thread to an address. Returns where they listen, which tells the port if that was 0.
///
/// # Errors
/// The address is taken, also by sockets that would share it: half of the traffic must not go elsewhere silently.
pub(crate) fn bind(address: &ListenAddress, threads: usize) -> io::Result<(SocketAddr, Vec<std::net::TcpListener>)> {
    let wanted = SocketAddr::new(address.ip.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED)), address.port);
    match bind_to(wanted, threads) {
        // A machine without IPv6.
        Err(error) if address.ip.is_none() && error.kind() != io::ErrorKind::AddrInUse => {
            bind_to(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port), threads)
        }
        bound => bound,
    }
}

fn bind_to(wanted: SocketAddr, threads: usize) -> io::Result<(SocketAddr, Vec<std::net::TcpListener>)> {
    // A socket that does not share finds out whether anybody else has the address.
    let probe = socket(wanted, false)?;
    probe.listen(1)?;
    let local = probe.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    drop(probe);
    let sockets = (0..threads).map(|_| {
        let socket = socket(local, true)?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    });
    Ok((local, sockets.collect::<io::Result<_>>()?))
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `:8080` serves IPv4 too; a written IPv6 address does not.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // Connections of an earlier process in TIME_WAIT do not hold the address.
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// What is accepted on it sends without waiting for more to send. On Linux, connections inherit that from the socket, which
/// saves a system call for each.
pub(crate) fn send_at_once(listener: &std::net::TcpListener) {
    #[cfg(target_os = "linux")]
    if let Err(error) = socket2::SockRef::from(listener).set_tcp_nodelay(true) {
        warn!(%error, "connections may send late");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = listener;
}

/// Accepts connections on one socket for ever.
pub(crate) async fn accept(worker: Rc<Worker>, listener: Rc<TcpListener>, socket: u32) {
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) => admit(&worker, tcp, peer, socket),
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                warn!(%error, "cannot accept connections");
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Accepts what waits on a socket that is about to be closed: those connections would be reset.
pub(crate) fn accept_waiting(worker: &Rc<Worker>, listener: &TcpListener, socket: u32) {
    let mut cx = Context::from_waker(Waker::noop());
    while let Poll::Ready(Ok((tcp, peer))) = listener.poll_accept(&mut cx) {
        admit(worker, tcp, peer, socket);
    }
}

fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

fn admit(worker: &Rc<Worker>, tcp: TcpStream, peer: SocketAddr, socket: u32) {
    worker.cells.connections_accepted.add(1);
    let Some(view) = worker.view() else { return };
    let Some(listener) = view.listener(socket) else { return };
    let limits = &view.snapshot.limits;
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    // A trusted proxy stands for many clients.
    let is_proxy = view.snapshot.trusted.iter().any(|block| block.contains(peer.ip()));
    let client_max = if is_proxy { usize::MAX } else { limits.connections_per_client_max };
    let permit = Permit::take(&worker.shared, peer.ip(), limits.connections_max, client_max);
    let Some(permit) = permit else {
        worker.cells.connections_refused.add(1);
        if !listener.tls {
            // As far as the socket takes it; nobody waits for such a client.
            let _ = tcp.try_write(OVERLOADED);
        }
        return;
    };
    #[cfg(not(target_os = "linux"))]
    // Fails only on a socket that is gone already.
    let _ = tcp.set_nodelay(true);
    worker.spawn(connection::serve(Rc::clone(worker), tcp, peer, socket, permit));
}

/// What a client of a plain listener is told that has one connection too many.
pub(crate) const OVERLOADED: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 87\r\n\
Connection: close\r\nRetry-After: 1\r\n\r\n\
{\"error\":\"too many connections\",\"category\":\"overloaded\",\"error_category\":\"overloaded\"}\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_of_a_connection_has_the_length_it_says() {
        let text = std::str::from_utf8(OVERLOADED).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{}", body.len());
    }

    #[test]
    fn a_taken_address_is_an_error_although_sockets_could_share_it() {
        let address = ListenAddress { ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), port: 0 };
        let (local, _sockets) = bind(&address, 2).unwrap();
        let again = ListenAddress { ip: Some(local.ip()), port: local.port() };
        assert_eq!(bind(&again, 2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let everywhere = ListenAddress { ip: None, port: local.port() };
        assert_eq!(bind(&everywhere, 2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn accepted_connections_send_at_once() {
        let address = ListenAddress { ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), port: 0 };
        let (local, sockets) = bind(&address, 1).unwrap();
        let listener = sockets.into_iter().next().unwrap();
        send_at_once(&listener);
        let listener = TcpListener::from_std(listener).unwrap();
        let _client = TcpStream::connect(local).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        #[cfg(not(target_os = "linux"))]
        accepted.set_nodelay(true).unwrap();
        assert!(accepted.nodelay().unwrap());
    }

    #[test]
    fn an_address_without_host_serves_ipv4_too() {
        let (local, _sockets) = bind(&ListenAddress { ip: None, port: 0 }, 1).unwrap();
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, local.port())).unwrap();
    }
}
