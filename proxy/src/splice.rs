//! Moves bytes of large plain bodies from socket to socket inside the kernel (`splice(2)` through a pipe), on Linux.

/// Bodies with more left than this are spliced.
pub(crate) const SPLICE_BYTES_MIN: u64 = 32 << 10;

/// Why moving stopped.
#[derive(Debug)]
pub(crate) enum SpliceError {
    /// The side that sends.
    Source(std::io::Error),
    /// The side that takes.
    Sink(std::io::Error),
}

#[cfg(not(target_os = "linux"))]
pub(crate) use self::elsewhere::{Pipes, Splice};
#[cfg(target_os = "linux")]
pub(crate) use self::linux::{Pipes, Splice};

#[cfg(target_os = "linux")]
mod linux {
    use std::cell::{Cell, RefCell};
    use std::io;
    use std::os::fd::OwnedFd;
    use std::rc::Rc;
    use std::task::{Context, Poll, ready};

    use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
    use tokio::io::Interest;
    use tokio::net::TcpStream;

    use super::SpliceError;

    /// Wanted size of a pipe; what the system gives is used.
    const PIPE_BYTES: usize = 1 << 20;
    /// Empty pipes that a thread keeps.
    const IDLE_MAX: usize = 16;
    /// Times the source is read in one go, before others have their turn.
    const ROUNDS_MAX: usize = 16;
    /// Pipes that a thread has in use; further bodies are copied.
    const IN_USE_MAX: usize = 256;

    /// The pipes of a thread.
    #[derive(Debug, Default)]
    pub(crate) struct Pipes {
        idle: RefCell<Vec<Pipe>>,
        in_use: Cell<usize>,
    }

    #[derive(Debug)]
    struct Pipe {
        read: OwnedFd,
        write: OwnedFd,
    }

    impl Pipe {
        fn new() -> io::Result<Self> {
            let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
            // A smaller pipe only takes more rounds.
            let _ = fcntl_setpipe_size(&write, PIPE_BYTES);
            Ok(Self { read, write })
        }
    }

    impl Pipes {
        /// A pipe for one body; `None`: copy instead.
        pub(crate) fn splice(self: &Rc<Self>) -> Option<Splice> {
            if self.in_use.get() >= IN_USE_MAX {
                return None;
            }
            let pipe = self.idle.borrow_mut().pop().map_or_else(Pipe::new, Ok).ok()?;
            self.in_use.set(self.in_use.get() + 1);
            Some(Splice { pipes: Rc::clone(self), pipe: Some(pipe), held: 0 })
        }
    }

    /// A pipe in use for one body.
    #[derive(Debug)]
    pub(crate) struct Splice {
        pipes: Rc<Pipes>,
        pipe: Option<Pipe>,
        /// Bytes in the pipe.
        held: usize,
    }

    impl Splice {
        /// Moves until `left` bytes have gone from `source` to `sink`, counting it down as they leave the source.
        pub(crate) fn poll(
            &mut self,
            cx: &mut Context<'_>,
            source: &TcpStream,
            sink: &TcpStream,
            left: &mut u64,
        ) -> Poll<Result<(), SpliceError>> {
            let Some(pipe) = &self.pipe else { return Poll::Ready(Ok(())) };
            let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
            for _ in 0..ROUNDS_MAX {
                while self.held > 0 {
                    let moved =
                        sink.try_io(Interest::WRITABLE, || Ok(splice(&pipe.read, None, sink, None, self.held, flags)?));
                    match moved {
                        Ok(moved) => self.held -= moved,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            ready!(sink.poll_write_ready(cx)).map_err(SpliceError::Sink)?;
                        }
                        Err(error) => return Poll::Ready(Err(SpliceError::Sink(error))),
                    }
                }
                if *left == 0 {
                    return Poll::Ready(Ok(()));
                }
                let length = usize::try_from(*left).unwrap_or(PIPE_BYTES).min(PIPE_BYTES);
                let moved =
                    source.try_io(Interest::READABLE, || Ok(splice(source, None, &pipe.write, None, length, flags)?));
                match moved {
                    Ok(0) => return Poll::Ready(Err(SpliceError::Source(io::ErrorKind::UnexpectedEof.into()))),
                    Ok(moved) => {
                        *left -= moved as u64;
                        self.held = moved;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready!(source.poll_read_ready(cx)).map_err(SpliceError::Source)?;
                    }
                    Err(error) => return Poll::Ready(Err(SpliceError::Source(error))),
                }
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }

        /// Whether bytes wait for the sink.
        pub(crate) fn waits_for_sink(&self) -> bool {
            self.held > 0
        }
    }

    impl Drop for Splice {
        fn drop(&mut self) {
            self.pipes.in_use.set(self.pipes.in_use.get() - 1);
            // A pipe with somebody's bytes in it is closed.
            if let Some(pipe) = self.pipe.take().filter(|_| self.held == 0) {
                let mut idle = self.pipes.idle.borrow_mut();
                if idle.len() < IDLE_MAX {
                    idle.push(pipe);
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::rc::Rc;
    use std::task::{Context, Poll};

    use tokio::net::TcpStream;

    use super::SpliceError;

    /// No pipes: bodies are copied.
    #[derive(Debug, Default)]
    pub(crate) struct Pipes;

    impl Pipes {
        /// Always: copy instead.
        pub(crate) fn splice(self: &Rc<Self>) -> Option<Splice> {
            None
        }
    }

    /// Cannot be made.
    #[derive(Debug)]
    pub(crate) enum Splice {}

    impl Splice {
        pub(crate) fn poll(
            &mut self,
            _cx: &mut Context<'_>,
            _source: &TcpStream,
            _sink: &TcpStream,
            _left: &mut u64,
        ) -> Poll<Result<(), SpliceError>> {
            match *self {}
        }

        pub(crate) fn waits_for_sink(&self) -> bool {
            match *self {}
        }
    }
}
