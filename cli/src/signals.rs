//! How a process is asked to stop, and what it does then.

use std::error::Error as _;
use std::io;

use sealane_proxy::proxy::{Notice, Proxy};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use crate::upgrade::Upgrade;

/// Which signal asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// SIGTERM: an orchestrator; load balancers need time to notice.
    Terminate,
    /// SIGINT: a person at a terminal; nobody needs to notice first.
    Interrupt,
    /// No signal: another process serves on the same sockets, and nobody notices.
    Replaced,
}

/// The two signals that ask a process to stop.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) -> Stop {
        tokio::select! {
            _ = self.terminate.recv() => Stop::Terminate,
            _ = self.interrupt.recv() => Stop::Interrupt,
        }
    }
}

/// Waits until another process serves in this one's place.
pub(crate) async fn replaced(proxy: &Proxy, upgrade: &mut Upgrade) {
    loop {
        match upgrade.asked().await.give(proxy).await {
            Ok(()) => return,
            Err(error) => {
                warn!(%error, cause = %error.source().map(ToString::to_string).unwrap_or_default(), "serving on")
            }
        }
    }
}

/// Drains a proxy: after SIGTERM in all stages of `shutdown`, after SIGINT without waiting for load balancers. A second
/// signal ends it at once.
pub(crate) async fn drain(proxy: &Proxy, stop: Stop) {
    info!(?stop, "draining; a second signal ends at once");
    let again = async {
        match Signals::new() {
            Ok(mut signals) => {
                signals.next().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    let drained = async {
        let notice = match stop {
            Stop::Terminate => Notice::LoadBalancers,
            Stop::Interrupt | Stop::Replaced => Notice::Nobody,
        };
        proxy.drain(notice).await;
    };
    tokio::select! {
        () = drained => info!("drained"),
        () = again => warn!("second signal, closing what is left"),
    }
    proxy.stop().await;
}
