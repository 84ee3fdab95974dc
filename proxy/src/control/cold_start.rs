//! A start from disk with everything above away, tried before a change spreads: a fresh process of this program, from
//! its file as it is now, takes this one's listening sockets, reads the state directory, serves traffic for a while and
//! never speaks to an agent. This one serves on beside it, so that a fresh process that dies takes only its own
//! connections along.
//!
//! Two halves that meet at a Unix socket: [`attempt`] where the change runs, [`Asked`] in the fresh process. On the wire,
//! after the sockets as in [`crate::handover`], all from the fresh process: `r` it serves; `k` it has served for
//! [`SERVES`]; `x` and a sentence: it cannot. The one that asks says nothing; when it goes, the fresh one drains and ends.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sealane_model::ids::Digest;
use sealane_node::disk;
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::store::Store;
use super::{sandboxes_from_disk, serve_kept};
use crate::handover;
use crate::proxy::Proxy;
use crate::settings::{Inherited, Program};

/// The variable that tells a fresh process what it is for: the release's digest, a colon, the socket's path.
pub const COLD_START: &str = "SEALANE_COLD_START";
/// How long the fresh process serves traffic.
const SERVES: Duration = Duration::from_secs(3);
/// From its start until it serves.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
/// From the end of its time until what is left of it is killed.
const ENDS_WITHIN: Duration = Duration::from_secs(60);
/// Longest sentence that is read of why it cannot.
const WHY_BYTES_MAX: u64 = 2_000;

/// Tries it: `Err` is one sentence for a person. Dropping the future has the fresh process drain and end.
pub(crate) async fn attempt(program: &Program, proxy: &Proxy, data: &Path, digest: &Digest) -> Result<(), String> {
    let path = data.join("cold-start.sock");
    let listener = listen(&path).map_err(|error| format!("cannot listen at `{}`: {error}", path.display()))?;
    let begun = Instant::now();
    let mut asked = Command::new(&program.path);
    asked
        .args(&program.arguments)
        .env(COLD_START, format!("{digest}:{}", path.display()))
        .stdin(std::process::Stdio::null());
    for variable in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        asked.env_remove(variable);
    }
    let name = program.path.display();
    let child = asked.kill_on_drop(true).spawn().map_err(|error| format!("`{name}` does not start: {error}"))?;
    let (mut ended, _ends) = watch(child);
    let served = AtomicBool::new(false);
    let heard = tokio::select! {
        heard = listen_to(&listener, proxy, &served) => heard,
        status = &mut ended => Err(Silent::Ended(status.ok())),
    };
    drop(listener);
    let _ = std::fs::remove_file(&path); // a stale one is removed before the next time, too
    let status = match heard {
        Ok(()) => return Ok(()),
        Err(Silent::Cannot(why)) => return Err(why),
        Err(Silent::TooLate) => {
            return Err(format!("a fresh process did not serve within {} s", STARTS_WITHIN.as_secs()));
        }
        Err(Silent::Ended(status)) => status,
        Err(Silent::Left) => timeout(Duration::from_secs(5), ended).await.ok().and_then(Result::ok),
    };
    let status = status.map_or_else(|| "it hung up".to_owned(), |status| status.to_string());
    let how = if served.load(Ordering::Relaxed) { "while it served" } else { "before it served" };
    Err(format!("a fresh process ended {how}, {:.1} s after its start: {status}", begun.elapsed().as_secs_f64()))
}

/// What was heard instead of a good end.
enum Silent {
    Cannot(String),
    TooLate,
    Ended(Option<ExitStatus>),
    /// It hung up.
    Left,
}

async fn listen_to(listener: &UnixListener, proxy: &Proxy, served: &AtomicBool) -> Result<(), Silent> {
    let starts = async {
        let mut stream = lend(listener, proxy).await.map_err(|_| Silent::Left)?;
        match stream.read_u8().await {
            Ok(b'r') => Ok(stream),
            Ok(b'x') => {
                let mut why = Vec::new();
                let _ = stream.take(WHY_BYTES_MAX).read_to_end(&mut why).await; // what came is said
                Err(Silent::Cannot(String::from_utf8_lossy(&why).into_owned()))
            }
            Ok(_) | Err(_) => Err(Silent::Left),
        }
    };
    let mut stream = timeout(STARTS_WITHIN, starts).await.unwrap_or(Err(Silent::TooLate))?;
    served.store(true, Ordering::Relaxed);
    match timeout(SERVES + ENDS_WITHIN, stream.read_u8()).await {
        Ok(Ok(b'k')) => Ok(()),
        _ => Err(Silent::Left),
    }
}

/// Gives the sockets to the fresh process once it is there.
async fn lend(listener: &UnixListener, proxy: &Proxy) -> io::Result<UnixStream> {
    loop {
        let (stream, _) = listener.accept().await?;
        let Some(stream) = handover::admit(stream).await else { continue };
        let sockets = proxy.listening_sockets();
        let lent = tokio::task::spawn_blocking(move || {
            handover::send(&stream, &sockets)?;
            stream.set_nonblocking(true)?;
            Ok::<_, io::Error>(stream)
        });
        return UnixStream::from_std(lent.await.map_err(io::Error::other)??);
    }
}

/// Reaps the child, and kills it when it does not end in time after it should. The guard's drop says that it should.
fn watch(mut child: tokio::process::Child) -> (oneshot::Receiver<ExitStatus>, tokio_util::sync::DropGuard) {
    let (sender, ended) = oneshot::channel();
    let ends = CancellationToken::new();
    let should_end = ends.clone();
    tokio::spawn(async move {
        let status = tokio::select! {
            status = child.wait() => status,
            () = should_end.cancelled() => match timeout(ENDS_WITHIN, child.wait()).await {
                Ok(status) => status,
                Err(_) => {
                    tracing::warn!("a fresh process that should have ended is killed");
                    let _ = child.kill().await; // it may have ended just now
                    return;
                }
            },
        };
        if let Ok(status) = status {
            let _ = sender.send(status); // nobody may be waiting
        }
    });
    (ended, ends.drop_guard())
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    handover::remove(path)?;
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Why a fresh process cannot do what it was started for.
#[derive(Debug, Error)]
pub enum ColdStartError {
    /// The variable makes no sense.
    #[error("`{COLD_START}` is set by a proxy for a process of its own, and is no such value: unset it")]
    Malformed,
    /// The one that asked is away.
    #[error("the process that asked for a cold start is away")]
    Away(#[source] io::Error),
    /// It does not start from disk.
    #[error("it does not start from disk: {0}")]
    Cannot(String),
}

/// The fresh process's half.
#[derive(Debug)]
pub struct Asked {
    stream: std::os::unix::net::UnixStream,
    digest: Digest,
    /// For [`crate::settings::Settings::inherited`].
    pub sockets: Inherited,
}

impl Asked {
    /// Meets the process that asked and takes its sockets. Blocks for a moment.
    ///
    /// # Errors
    /// Nobody asked like this, or not any more.
    pub fn begin(value: &str) -> Result<Self, ColdStartError> {
        let (digest, path) = value.split_once(':').ok_or(ColdStartError::Malformed)?;
        let digest = Digest::from_hex(digest).ok_or(ColdStartError::Malformed)?;
        let stream = std::os::unix::net::UnixStream::connect(path).map_err(ColdStartError::Away)?;
        let sockets = handover::receive(&stream).map_err(ColdStartError::Away)?;
        Ok(Self { stream, digest, sockets: Inherited::new(sockets) })
    }

    /// Serves the release from `data` on a proxy that was started with [`Asked::sockets`], until it has served long
    /// enough or the one that asked is gone. What is left then is to drain.
    ///
    /// # Errors
    /// It does not start; the one that asked knows why.
    pub async fn serve(self, proxy: &Proxy, data: &Path) -> Result<(), ColdStartError> {
        let Self { stream, digest, .. } = self;
        stream.set_nonblocking(true).map_err(ColdStartError::Away)?;
        let mut stream = UnixStream::from_std(stream).map_err(ColdStartError::Away)?;
        if let Err(why) = start(proxy, data, &digest).await {
            let said = async {
                stream.write_u8(b'x').await?;
                stream.write_all(why.as_bytes()).await?;
                stream.shutdown().await
            };
            said.await.map_err(ColdStartError::Away)?;
            return Err(ColdStartError::Cannot(why));
        }
        stream.write_u8(b'r').await.map_err(ColdStartError::Away)?;
        tracing::info!("started from disk, with everything above away: serving for a while");
        tokio::select! {
            () = tokio::time::sleep(SERVES) => stream.write_u8(b'k').await.map_err(ColdStartError::Away)?,
            _ = stream.read_u8() => tracing::info!("the process that asked is gone"),
        }
        Ok(())
    }
}

/// As a start of this proxy would, were the release its last good one.
async fn start(proxy: &Proxy, data: &Path, digest: &Digest) -> Result<(), String> {
    let store = Store::look(data).map_err(|error| disk::chain(&error))?;
    let kept = store.state().kept.get(digest).ok_or("it is not in the state on disk")?;
    serve_kept(proxy, &store, &kept.release, &mut sandboxes_from_disk(&store)).await.map(drop)
}
