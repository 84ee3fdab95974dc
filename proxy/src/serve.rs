//! Starts what a proxy consists of: the background runtime, the log writer, the workers, the admin listener.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::{io, thread};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::warn;

use crate::access_log::LogWriter;
use crate::admin::{self, AdminListener};
use crate::judge;
use crate::metrics::lock;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::worker::{self, WorkerHandle};

/// Why a proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Threads or runtimes cannot be had.
    #[error("cannot start {what}")]
    Thread {
        /// What for.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The admin listener's address cannot be had.
    #[error("cannot listen on {address} for admin ({flag})")]
    AdminListen {
        /// Where.
        address: SocketAddr,
        /// The flag or key that set it.
        flag: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The admin listener would be reachable from elsewhere without TLS and authentication.
    #[error(
        "the admin address {address} ({flag}) is reachable from other machines: give it TLS and a token, bind it to \
         127.0.0.1, or pass --insecure-admin"
    )]
    AdminExposed {
        /// Where.
        address: SocketAddr,
        /// The flag or key that set it.
        flag: &'static str,
    },
    /// The admin listener's certificate, key or client CA cannot be used.
    #[error("cannot use the admin listener's TLS files: {0}")]
    AdminTls(String),
}

/// What was started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) shared: Arc<Shared>,
    pub(crate) workers: Vec<WorkerHandle>,
    pub(crate) admin: Option<AdminListener>,
    pub(crate) background: Background,
}

/// Threads of the runtime for everything that is not a request.
const BACKGROUND_THREADS: usize = 2;

pub(crate) async fn start(settings: Settings) -> Result<Started, StartError> {
    raise_descriptor_limit();
    let thread = |what| move |source| StartError::Thread { what, source };
    let background = Background::start().await.map_err(thread("the background runtime"))?;
    let log = LogWriter::start().map_err(thread("the access log's writer"))?;
    let shared = Arc::new(Shared::new(settings, log));
    let admin = match &shared.settings.admin {
        Some(settings) => Some(admin::start(settings, &shared, background.handle()).await?),
        None => None,
    };
    let resolving = Arc::downgrade(&shared);
    background.handle().spawn(async move {
        while let Some(shared) = resolving.upgrade() {
            shared.live.names.resolve_all().await;
        }
    });
    background.handle().spawn(judge::run(Arc::downgrade(&shared)));
    let workers = (0..shared.settings.worker_threads()).map(|index| worker::start(index, Arc::clone(&shared)));
    let workers = workers.collect::<io::Result<_>>().map_err(thread("a worker"))?;
    Ok(Started { shared, workers, admin, background })
}

/// As many descriptors as the system lets this process have: a connection takes one, or two.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "cannot raise the limit of open files");
    }
}

/// The runtime of probes, names, admin and compiling, on threads of its own. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Background {
    handle: Handle,
    end: Mutex<Option<oneshot::Sender<()>>>,
}

impl Background {
    async fn start() -> io::Result<Self> {
        let (end, ended) = oneshot::channel::<()>();
        let (started, starting) = oneshot::channel();
        // A runtime may not be dropped inside another one: this one lives and ends on a thread of its own.
        thread::Builder::new().name("background".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(BACKGROUND_THREADS)
                .thread_name("background")
                .enable_all()
                .build();
            match runtime {
                Ok(runtime) => {
                    // Whoever waited may be gone; then the sender of `end` is too.
                    let _ = started.send(Ok(runtime.handle().clone()));
                    let _ = runtime.block_on(ended);
                    runtime.shutdown_background();
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        })?;
        let handle = starting.await.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?;
        Ok(Self { handle, end: Mutex::new(Some(end)) })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(lock(&self.end).take());
    }
}
