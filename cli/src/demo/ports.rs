//! Addresses for the demo: the default port where it is free, another where it is taken.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// A loopback address that nobody listens on now. There is a short while until the caller binds it.
pub(crate) fn free(preferred: u16) -> io::Result<SocketAddr> {
    let at = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|listener| listener.local_addr());
    // Somebody on every address has the port too, although loopback alone could still be bound.
    let everywhere = TcpListener::bind((Ipv4Addr::UNSPECIFIED, preferred));
    match everywhere {
        Ok(listener) => {
            drop(listener);
            at(preferred).or_else(|_| at(0))
        }
        Err(_) => at(0),
    }
}

/// A port that refuses connections for as long as this is held.
#[derive(Debug)]
pub(crate) struct Dead {
    pub(crate) socket: socket2::Socket,
    pub(crate) address: SocketAddr,
}

/// Binds a port without listening on it: nobody else gets it, and every connection to it is refused.
pub(crate) fn dead() -> io::Result<Dead> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    let address = socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("no address"))?;
    Ok(Dead { socket, address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_port_refuses_connections() {
        let dead = dead().unwrap();
        let error = std::net::TcpStream::connect(dead.address).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_taken_port_is_passed_over() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let address = free(port).unwrap();
        assert_ne!(address.port(), port);
    }
}
