//! A TCP relay between two parts of a fleet that a test can cut: what a partition looks like to both.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A running relay; stops when dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    cut: Arc<watch::Sender<bool>>,
    task: JoinHandle<()>,
}

/// How long a connection that comes while it is cut is left hanging before it is closed.
const HANGS: Duration = Duration::from_secs(2);

impl Relay {
    /// Relays to `target`.
    ///
    /// # Panics
    /// If no port is free.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let cut = Arc::new(watch::Sender::new(false));
        let task = tokio::spawn(accept(listener, target, Arc::clone(&cut)));
        Self { address, cut, task }
    }

    /// Where to connect instead.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing passes, and what was open is lost.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// From now on new connections pass.
    pub fn mend(&self) {
        self.cut.send_replace(false);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, cut: Arc<watch::Sender<bool>>) {
    while let Ok((mut near, _)) = listener.accept().await {
        let mut is_cut = cut.subscribe();
        tokio::spawn(async move {
            if *is_cut.borrow() {
                tokio::time::sleep(HANGS).await;
                return;
            }
            let Ok(mut far) = TcpStream::connect(target).await else { return };
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                _ = is_cut.wait_for(|cut| *cut) => {}
            }
        });
    }
}
