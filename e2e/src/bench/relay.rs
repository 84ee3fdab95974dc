//! A relay that copies bytes from one connection to another and knows nothing of HTTP: what a proxy that reads and writes
//! sockets cannot go far below on the machine at hand.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};

/// Bytes of one read.
const BUFFER_BYTES: usize = 64 << 10;

/// Relays every connection to `origin`, for ever.
///
/// # Errors
/// The address is taken, or no connection can be accepted.
pub async fn run(address: SocketAddr, origin: SocketAddr) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (mut client, _) = listener.accept().await?;
        tokio::spawn(async move {
            let Ok(mut upstream) = TcpStream::connect(origin).await else { return };
            // Only latency gets worse without it.
            let _ = (client.set_nodelay(true), upstream.set_nodelay(true));
            // However it ends, both ends see it.
            let _ = copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER_BYTES, BUFFER_BYTES).await;
        });
    }
}
