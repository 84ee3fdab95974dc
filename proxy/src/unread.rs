//! How much of what was sent on a TCP connection its peer has not acknowledged yet.
//!
//! A socket says that it takes more only once about a third of what it holds has gone. With buffers of megabytes, a client
//! that reads slowly shows nothing for minutes; the kernel's own count shows every step. It is asked for by netlink
//! (`sock_diag(7)`), which costs four system calls: for connections that have waited for seconds, never for a request.

use tokio::net::TcpStream;

/// Bytes that the kernel holds for the peer. `None`: the system does not say (it is not Linux, or the process may not open
/// netlink sockets).
pub(crate) fn unread(tcp: &TcpStream) -> Option<u64> {
    #[cfg(target_os = "linux")]
    return linux::unread(tcp.local_addr().ok()?, tcp.peer_addr().ok()?);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = tcp;
        None
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::net::{IpAddr, SocketAddr};

    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

    /// `SOCK_DIAG_BY_FAMILY`: the type of the question, and of an answer that is none of an error.
    const BY_FAMILY: u16 = 20;
    /// `NLM_F_REQUEST`
    const REQUEST: u16 = 1;
    /// Of `nlmsghdr`, `inet_diag_req_v2` and `inet_diag_msg`.
    const HEADER_BYTES: usize = 16;
    const QUESTION_BYTES: usize = HEADER_BYTES + 56;
    const ANSWER_BYTES: usize = HEADER_BYTES + 72;
    /// Of `idiag_wqueue` in an answer.
    const QUEUE_AT: usize = HEADER_BYTES + 60;

    pub(super) fn unread(local: SocketAddr, peer: SocketAddr) -> Option<u64> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::SOCK_DIAG)).ok()?;
        // The kernel answers in the call that asks.
        send(&socket, &question(local, peer), SendFlags::empty()).ok()?;
        let mut answer = [0; 512];
        let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty()).ok()?;
        let answer = answer.get(..length).filter(|answer| answer.len() >= ANSWER_BYTES)?;
        let kind = u16::from_ne_bytes([answer[4], answer[5]]);
        let queue = answer[QUEUE_AT..].first_chunk().map(|queue| u64::from(u32::from_ne_bytes(*queue)));
        queue.filter(|_| kind == BY_FAMILY)
    }

    fn question(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(QUESTION_BYTES);
        bytes.extend((QUESTION_BYTES as u32).to_ne_bytes());
        bytes.extend(BY_FAMILY.to_ne_bytes());
        bytes.extend(REQUEST.to_ne_bytes());
        // Sequence number and sender: there is one question.
        bytes.extend([0; 8]);
        let family = if local.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let tcp = 6;
        bytes.extend([family.as_raw() as u8, tcp, 0, 0]);
        let any_state = u32::MAX;
        bytes.extend(any_state.to_ne_bytes());
        bytes.extend(local.port().to_be_bytes());
        bytes.extend(peer.port().to_be_bytes());
        for ip in [local.ip(), peer.ip()] {
            match ip {
                IpAddr::V4(ip) => bytes.extend(ip.octets().iter().chain(&[0; 12])),
                IpAddr::V6(ip) => bytes.extend(ip.octets()),
            }
        }
        let any_interface = 0_u32;
        bytes.extend(any_interface.to_ne_bytes());
        let no_cookie = u64::MAX;
        bytes.extend(no_cookie.to_ne_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    async fn check(listen: IpAddr, to: IpAddr) {
        let listener = TcpListener::bind(SocketAddr::new(listen, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut client = TcpStream::connect(SocketAddr::new(to, port)).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        if unread(&accepted).is_none() {
            // The system does not say: nobody relies on it.
            return;
        }
        let mut sent = 0;
        while let Ok(written) = accepted.try_write(&[7; 1 << 16]) {
            sent += written as u64;
        }
        let held = unread(&accepted).unwrap();
        assert!(held > 0 && held <= sent, "{held} of {sent}");
        // The socket does not take more yet, but the count tells that the client has read.
        let mut piece = vec![0; 256 << 10];
        client.read_exact(&mut piece).await.unwrap();
        while unread(&accepted).unwrap() == held {
            tokio::task::yield_now().await;
        }
        let mut rest = vec![0; usize::try_from(sent).unwrap() - piece.len()];
        client.read_exact(&mut rest).await.unwrap();
        while unread(&accepted).unwrap() > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_a_client_has_not_read_is_counted_by_the_kernel() {
        check(Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()).await;
        check(Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()).await;
        check(Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into()).await;
    }
}
