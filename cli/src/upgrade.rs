//! One process after the other: sockets from a service manager or from the process before, and the offer to the process
//! after. What is handed over and how is [`sealane_proxy::handover`]'s.

use std::path::{Path, PathBuf};
use std::process::Command;

use sealane_proxy::handover::{self, Offer, Successor, Takeover};
use sealane_proxy::settings::Inherited;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use crate::exit::{Exit, Failure};
use crate::run::failed;

/// What this process got at its start, and the way to the next one.
#[derive(Debug)]
pub(crate) struct Upgrade {
    path: Option<PathBuf>,
    takeover: Option<Takeover>,
    /// For the proxy's settings.
    pub(crate) inherited: Inherited,
    offer: Option<Offer>,
    asked: Signal,
    /// As it was called when this process started: the file behind it may be another one by now.
    program: Option<PathBuf>,
}

impl Upgrade {
    /// Takes the sockets that there are: the service manager's (`LISTEN_FDS`), and those of a process that offers a
    /// hand-over at `path`.
    ///
    /// # Errors
    /// A descriptor that is no listening TCP socket, or a process that does not hand over.
    pub(crate) fn begin(path: Option<&Path>) -> Result<Self, Failure> {
        let takeover =
            path.map(handover::take).transpose().map_err(|error| failed("cannot take over", error))?.flatten();
        let inherited = takeover.as_ref().map(|takeover| takeover.sockets.clone()).unwrap_or_default();
        let mut passed = listenfd::ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..passed.len() {
            let socket = passed.take_tcp_listener(index).map_err(|error| {
                Failure::new(Exit::Failed, format!("descriptor {} of LISTEN_FDS is no TCP listening socket", index + 3))
                    .hint("in the .socket unit use ListenStream= with addresses, and Accept=no")
                    .because(error)
            })?;
            sockets.extend(socket);
        }
        inherited.add(sockets);
        Ok(Self {
            path: path.map(Path::to_owned),
            takeover,
            inherited,
            offer: None,
            asked: signal(SignalKind::user_defined2()).map_err(|error| failed("cannot wait for signals", error))?,
            program: std::env::current_exe().ok(),
        })
    }

    /// This process serves: the one before may drain, and the one after may ask.
    ///
    /// # Errors
    /// The hand-over socket cannot be had.
    pub(crate) fn serving(&mut self) -> Result<(), Failure> {
        for address in self.inherited.left() {
            warn!(%address, "a socket was passed to this process, but no listener has its address");
        }
        if let Some(takeover) = self.takeover.take()
            && let Err(error) = takeover.ready()
        {
            // This one serves all the same.
            warn!(%error, "the process before is gone already");
        }
        let offer = self.path.as_deref().map(Offer::listen).transpose();
        self.offer = offer.map_err(|error| failed("cannot offer a hand-over", error))?;
        Ok(())
    }

    /// Waits for a process that asks to take over. SIGUSR2 starts one: the same command line, from the program's file as
    /// it is now.
    pub(crate) async fn asked(&mut self) -> Successor {
        loop {
            let Some(offer) = &self.offer else { return std::future::pending().await };
            tokio::select! {
                successor = offer.asked() => return successor,
                _ = self.asked.recv() => self.start_next(),
            }
        }
    }

    /// The program's file.
    pub(crate) fn program(&self) -> Option<PathBuf> {
        self.program.clone()
    }

    fn start_next(&self) {
        let Some(program) = &self.program else {
            warn!("cannot tell which program to start");
            return;
        };
        let mut next = Command::new(program);
        next.args(std::env::args_os().skip(1));
        // What a service manager said to this process by its id: the next one has another, and would think that it is not
        // meant, such as by the watchdog. Sockets it gets from this one.
        for variable in ["WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            next.env_remove(variable);
        }
        match next.spawn() {
            Ok(child) => info!(pid = child.id(), program = %program.display(), "new process started"),
            Err(error) => warn!(%error, program = %program.display(), "cannot start a new process"),
        }
    }
}
