//! Listening sockets that another process opened: a service manager's (`LISTEN_FDS`), or those of the process before this
//! one ([`crate::handover`]). A listener whose address one of them has takes it instead of binding.
//!
//! It does not know where they came from, nor who accepts on them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use sealane_model::config::ListenAddress;

use crate::metrics::lock;

/// Sockets that nobody has taken yet. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Inherited(Arc<Mutex<Vec<TcpListener>>>);

impl Inherited {
    /// These sockets, which must be listening.
    #[must_use]
    pub fn new(sockets: Vec<TcpListener>) -> Self {
        Self(Arc::new(Mutex::new(sockets)))
    }

    /// Adds further ones.
    pub fn add(&self, sockets: Vec<TcpListener>) {
        lock(&self.0).extend(sockets);
    }

    /// Those that listen on an address; they are this caller's now.
    pub(crate) fn take(&self, wanted: &ListenAddress) -> Vec<TcpListener> {
        let mut all = lock(&self.0);
        let (taken, left): (Vec<_>, Vec<_>) =
            all.drain(..).partition(|socket| socket.local_addr().is_ok_and(|local| has(local, wanted)));
        *all = left;
        taken
    }

    /// Addresses that nobody took.
    #[must_use]
    pub fn left(&self) -> Vec<SocketAddr> {
        lock(&self.0).iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }
}

fn has(local: SocketAddr, wanted: &ListenAddress) -> bool {
    let everywhere = |ip: IpAddr| ip.is_unspecified();
    local.port() == wanted.port
        && match wanted.ip {
            None => everywhere(local.ip()),
            Some(ip) => {
                ip.to_canonical() == local.ip().to_canonical()
                    || (ip == Ipv4Addr::UNSPECIFIED && everywhere(local.ip()))
            }
        }
}

/// Shares sockets out among threads: each thread gets at least one, and every socket has a thread that accepts on it.
///
/// # Errors
/// A socket cannot be doubled: no descriptors.
pub(crate) fn share_out(sockets: Vec<TcpListener>, threads: usize) -> std::io::Result<Vec<Vec<TcpListener>>> {
    let mut shares: Vec<Vec<TcpListener>> = (0..threads).map(|_| Vec::new()).collect();
    let count = sockets.len();
    for thread in count..threads {
        shares[thread].push(sockets[thread % count].try_clone()?);
    }
    for (index, socket) in sockets.into_iter().enumerate() {
        socket.set_nonblocking(true)?;
        shares[index % threads].push(socket);
    }
    Ok(shares)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening() -> (TcpListener, SocketAddr) {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    #[test]
    fn a_listener_takes_the_sockets_of_its_address_and_no_others() {
        let ((first, address), (second, other)) = (listening(), listening());
        let inherited = Inherited::new(vec![first, second]);
        let wanted = ListenAddress { ip: Some(address.ip()), port: address.port() };
        assert!(
            inherited.take(&ListenAddress { ip: None, port: address.port() }).is_empty(),
            "loopback is not everywhere"
        );
        assert_eq!(inherited.take(&wanted).len(), 1);
        assert!(inherited.take(&wanted).is_empty());
        assert_eq!(inherited.left(), [other]);
    }

    #[test]
    fn everywhere_is_everywhere_however_it_is_written() {
        let local = |text: &str| text.parse().unwrap();
        for (socket, ip, expected) in [
            ("[::]:80", None, true),
            ("0.0.0.0:80", None, true),
            ("[::]:80", Some(IpAddr::from([0, 0, 0, 0])), true),
            ("127.0.0.1:80", Some(IpAddr::from([127, 0, 0, 1])), true),
            ("127.0.0.2:80", Some(IpAddr::from([127, 0, 0, 1])), false),
            ("[::]:81", None, false),
        ] {
            assert_eq!(has(local(socket), &ListenAddress { ip, port: 80 }), expected, "{socket} for {ip:?}");
        }
    }

    #[test]
    fn every_thread_accepts_and_every_socket_is_accepted_on() {
        for (sockets, threads) in [(1, 3), (3, 1), (2, 2), (5, 2)] {
            let shares = share_out((0..sockets).map(|_| listening().0).collect(), threads).unwrap();
            assert!(shares.len() == threads && shares.iter().all(|share| !share.is_empty()));
            let total: usize = shares.iter().map(Vec::len).sum();
            assert_eq!(total, sockets.max(threads));
        }
    }
}
