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

        /// Bytes that wait for the sink.
        pub(crate) fn held(&self) -> u64 {
            self.held as u64
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

        pub(crate) fn held(&self) -> u64 {
            match *self {}
        }
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::future::poll_fn;
    use std::rc::Rc;
    use std::task::Poll;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::Pipes;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (one, listener.accept().await.unwrap().0)
    }

    /// What a slow sink takes shows although nothing leaves the source meanwhile.
    #[tokio::test]
    async fn what_leaves_the_pipe_shows() {
        const BYTES: u64 = 64 << 20;
        let ((mut origin, source), (sink, mut client)) = (pair().await, pair().await);
        let feeding = tokio::spawn(async move {
            let piece = vec![7; 1 << 20];
            for _ in 0..BYTES >> 20 {
                origin.write_all(&piece).await.unwrap();
            }
            origin
        });
        let pipes = Rc::new(Pipes::default());
        let mut splice = pipes.splice().unwrap();
        let mut left = BYTES;
        // Until the client's buffers are full and the pipe holds something.
        let mut last = (left, 0);
        loop {
            tokio::task::yield_now().await;
            let done = poll_fn(|cx| Poll::Ready(splice.poll(cx, &source, &sink, &mut left).is_ready())).await;
            assert!(!done, "more than all buffers hold");
            if splice.held() > 0 && last == (left, splice.held()) {
                break;
            }
            last = (left, splice.held());
        }
        // The client takes all of it, and then the rest.
        let reading = tokio::spawn(async move {
            let (mut buffer, mut read) = (vec![0; 1 << 16], 0);
            while read < BYTES {
                let length = client.read(&mut buffer).await.unwrap();
                assert!(length > 0 && buffer[..length].iter().all(|&byte| byte == 7));
                read += length as u64;
            }
        });
        let mut sent = 0;
        let (start_left, start_held) = (left, splice.held());
        poll_fn(|cx| {
            let (before_left, before_held) = (left, splice.held());
            let polled = splice.poll(cx, &source, &sink, &mut left);
            sent += before_held + (before_left - left) - splice.held();
            polled.map(|moved| assert!(moved.is_ok()))
        })
        .await;
        assert_eq!((sent, left, splice.held()), (start_left + start_held, 0, 0));
        reading.await.unwrap();
        feeding.await.unwrap();
    }
}
