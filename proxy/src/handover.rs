//! A restart without loss: a new process takes the listening sockets of the one that runs, which then drains.
//!
//! Over a Unix socket of the same user. The new process connects and gets every listening socket (`SCM_RIGHTS`); until it
//! says that it serves, the old one goes on accepting on the same sockets, so that no connection is refused at any
//! moment, and a new process that dies leaves everything as it was. Nothing in here decides when to drain.
//!
//! On the wire: from the new process `t`; per socket one byte `s` with the descriptor; `e`; from the new process `r` when it serves; `d` back.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixListener;
use tracing::{info, warn};

use crate::proxy::Proxy;
use crate::settings::Inherited;

/// Why sockets are not handed over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The Unix socket cannot be had.
    #[error("cannot offer a hand-over at `{}`", path.display())]
    Offer {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The process that runs did not hand over.
    #[error("the process that serves at `{}` did not hand over its sockets", path.display())]
    Take {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The new process did not come to serve.
    #[error("the process that asked to take over did not come to serve")]
    Abandoned(#[source] io::Error),
}

/// How long a new process has from its sockets to serving.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// Of each step that needs no work.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// Sockets of one hand-over.
const SOCKETS_MAX: usize = 4096;

/// A process that may be taken over from.
#[derive(Debug)]
pub struct Offer {
    listener: UnixListener,
    path: PathBuf,
}

/// A new process that asks for the sockets.
#[derive(Debug)]
pub struct Successor {
    stream: UnixStream,
    path: PathBuf,
}

impl Offer {
    /// Listens at `path` (mode 0600), in place of a socket that nobody listens on any more. Must be called on a runtime.
    ///
    /// # Errors
    /// The path cannot be bound, or another process listens there.
    pub fn listen(path: &Path) -> Result<Self, HandoverError> {
        let offer = |source| HandoverError::Offer { path: path.to_owned(), source };
        if UnixStream::connect(path).is_ok() {
            return Err(offer(io::ErrorKind::AddrInUse.into()));
        }
        remove(path).map_err(offer)?;
        let listener = UnixListener::bind(path).map_err(offer)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(offer)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Waits for a process of the same user that asks to take over.
    pub async fn asked(&self) -> Successor {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    if let Some(stream) = admit(stream).await {
                        return Successor { stream, path: self.path.clone() };
                    }
                }
                Err(error) => {
                    warn!(%error, "cannot accept at the hand-over socket");
                    tokio::time::sleep(STEP_TIMEOUT).await;
                }
            }
        }
    }
}

/// A process of the same user that asks; one that only looks whether anybody listens does not.
pub(crate) async fn admit(mut stream: tokio::net::UnixStream) -> Option<UnixStream> {
    if !stream.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw()) {
        warn!("a process of another user asked to take over and was refused");
        return None;
    }
    let asked = tokio::time::timeout(STEP_TIMEOUT, stream.read_u8()).await;
    if !matches!(asked, Ok(Ok(b't'))) {
        return None;
    }
    stream.into_std().ok()
}

impl Successor {
    /// Hands over the sockets of `proxy` and waits until the new process serves; then the admin listener here is closed,
    /// and what is left is to drain `proxy`.
    ///
    /// # Errors
    /// The new process did not come to serve; `proxy` serves on as before.
    pub async fn give(self, proxy: &Proxy) -> Result<(), HandoverError> {
        let sockets = proxy.listening_sockets();
        info!(sockets = sockets.len(), "handing over to a new process");
        let given = tokio::task::spawn_blocking(move || give(&self.stream, &sockets, &self.path));
        given.await.unwrap_or_else(|_| Err(io::ErrorKind::Other.into())).map_err(HandoverError::Abandoned)?;
        proxy.close_admin();
        Ok(())
    }
}

fn give(mut stream: &UnixStream, sockets: &[TcpListener], path: &Path) -> io::Result<()> {
    send(stream, sockets)?;
    stream.set_read_timeout(Some(READY_TIMEOUT))?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    if answer != *b"r" {
        return Err(io::Error::other("unexpected answer"));
    }
    // Room for the successor's own offer.
    remove(path)?;
    stream.write_all(b"d")
}

/// Sends sockets, and that these were all. Blocks.
pub(crate) fn send(mut stream: &UnixStream, sockets: &[TcpListener]) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(STEP_TIMEOUT))?;
    for socket in sockets {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [socket.as_fd()];
        if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other("no room for a descriptor"));
        }
        sendmsg(stream, &[IoSlice::new(b"s")], &mut control, SendFlags::NOSIGNAL)?;
    }
    stream.write_all(b"e")
}

/// The sockets of the process that ran before, and the promise to tell it once they are served.
#[derive(Debug)]
pub struct Takeover {
    stream: UnixStream,
    path: PathBuf,
    /// For [`crate::settings::Settings::inherited`].
    pub sockets: Inherited,
}

/// Takes the sockets of the process that offers a hand-over at `path`; `None`: there is none.
///
/// # Errors
/// There is one, but it does not hand over.
pub fn take(path: &Path) -> Result<Option<Takeover>, HandoverError> {
    let Ok(stream) = UnixStream::connect(path) else { return Ok(None) };
    let sockets = receive(&stream).map_err(|source| HandoverError::Take { path: path.to_owned(), source })?;
    info!(sockets = sockets.len(), "took over the listening sockets of the process before");
    Ok(Some(Takeover { stream, path: path.to_owned(), sockets: Inherited::new(sockets) }))
}

/// Asks for sockets and takes them. Blocks.
pub(crate) fn receive(stream: &UnixStream) -> io::Result<Vec<TcpListener>> {
    stream.set_write_timeout(Some(STEP_TIMEOUT))?;
    stream.set_read_timeout(Some(STEP_TIMEOUT))?;
    (&*stream).write_all(b"t")?;
    let mut sockets = Vec::new();
    loop {
        let mut kind = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let read = recvmsg(stream, &mut [IoSliceMut::new(&mut kind)], &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                sockets.extend(descriptors.map(TcpListener::from));
            }
        }
        match (read, kind[0]) {
            (1, b's') if sockets.len() <= SOCKETS_MAX => {}
            (1, b'e') => return Ok(sockets),
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Takeover {
    /// Tells the old process that this one serves; it drains then. Blocks for a moment.
    ///
    /// # Errors
    /// The old process is gone, or does not answer.
    pub fn ready(self) -> Result<(), HandoverError> {
        let said = (|| {
            (&self.stream).write_all(b"r")?;
            let mut answer = [0];
            (&self.stream).read_exact(&mut answer)
        })();
        said.map_err(|source| HandoverError::Take { path: self.path, source })
    }
}

/// Removes a socket's file, if there is one.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
