//! A byte stream, plain or TLS or one of HTTP/2, of either side; [`Outbox`], what it has not taken yet; and [`Transport`],
//! what lies below HTTP.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::http2::client_stream::ClientStream;
use crate::http2::endpoint_stream::EndpointStream;

/// A connection's bytes.
#[derive(Debug)]
pub(crate) enum Stream {
    /// TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
    /// A client's stream of an HTTP/2 connection, in the shape of HTTP/1.1.
    Http2Client(Box<ClientStream>),
    /// A stream of an HTTP/2 connection to an endpoint, in the shape of HTTP/1.1.
    Http2Endpoint(Box<EndpointStream>),
}

impl Stream {
    /// Reads into `buffer`; 0 is the end.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut room = ReadBuf::new(buffer);
        match self {
            Self::Plain(tcp) => ready!(Pin::new(tcp).poll_read(cx, &mut room))?,
            Self::Tls(tls) => ready!(Pin::new(tls).poll_read(cx, &mut room))?,
            Self::Http2Client(stream) => return stream.poll_read(cx, buffer),
            Self::Http2Endpoint(stream) => return stream.poll_read(cx, buffer),
        }
        Poll::Ready(Ok(room.filled().len()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
            Self::Http2Client(stream) => stream.poll_write(cx, bytes),
            Self::Http2Endpoint(stream) => stream.poll_write(cx, bytes),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) | Self::Http2Client(_) | Self::Http2Endpoint(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    /// Says that nothing more will be sent.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::Http2Client(stream) => stream.poll_shutdown(),
            Self::Http2Endpoint(stream) => stream.poll_shutdown(),
        }
    }

    /// The connection below; `None`: others share it.
    pub(crate) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(tcp) => Some(tcp),
            Self::Tls(tls) => Some(tls.get_ref().0),
            Self::Http2Client(_) | Self::Http2Endpoint(_) => None,
        }
    }

    /// Ready when the peer has said that it wants nothing more of this stream; otherwise the task is woken when it does.
    /// Only streams of HTTP/2 can say so.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Http2Client(stream) => stream.poll_gone(cx),
            Self::Plain(_) | Self::Tls(_) | Self::Http2Endpoint(_) => Poll::Pending,
        }
    }

    /// The connection, if nothing lies over it.
    pub(crate) fn plain(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(tcp) => Some(tcp),
            Self::Tls(_) | Self::Http2Client(_) | Self::Http2Endpoint(_) => None,
        }
    }

    /// Makes the peer see a reset instead of an orderly end when the stream is dropped.
    pub(crate) fn reset_on_drop(&mut self) {
        match self {
            Self::Http2Client(stream) => stream.reset(),
            other => {
                // Fails only on a socket that is gone already.
                let _ = other.tcp().map(TcpStream::set_zero_linger);
            }
        }
    }

    /// Whether an idle connection is still open and silent, as far as this thread has been told. Costs no system call
    /// on a plain connection that is.
    pub(crate) fn is_idle(&mut self) -> bool {
        let mut byte = [0];
        match self {
            Self::Plain(tcp) => {
                matches!(tcp.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            Self::Tls(_) => self.poll_read(&mut Context::from_waker(Waker::noop()), &mut byte).is_pending(),
            // Other requests share the connection; nobody keeps the stream.
            Self::Http2Client(_) | Self::Http2Endpoint(_) => false,
        }
    }
}

/// A connection of its own, below whatever version of HTTP.
#[derive(Debug)]
pub(crate) enum Transport {
    /// TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// The connection below.
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }
}

impl From<Transport> for Stream {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Plain(tcp) => Self::Plain(tcp),
            Transport::Tls(tls) => Self::Tls(tls),
        }
    }
}

impl TryFrom<Stream> for Transport {
    type Error = ();

    /// # Errors
    /// The stream shares a connection with others.
    fn try_from(stream: Stream) -> Result<Self, ()> {
        match stream {
            Stream::Plain(tcp) => Ok(Self::Plain(tcp)),
            Stream::Tls(tls) => Ok(Self::Tls(tls)),
            Stream::Http2Client(_) | Stream::Http2Endpoint(_) => Err(()),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

/// Bytes that a stream has not taken yet. Bounded by use: more is added only to an empty one.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    /// TLS has records that the socket did not take.
    unflushed: bool,
}

impl Outbox {
    /// Whether everything is with the kernel.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.unflushed
    }

    /// Sends what `stream` takes of `bytes` now and keeps the rest.
    pub(crate) fn send(&mut self, cx: &mut Context<'_>, stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
        if !self.is_empty() {
            self.bytes.extend_from_slice(bytes);
            return Ok(());
        }
        let mut sent = 0;
        while sent < bytes.len() {
            match stream.poll_write(cx, &bytes[sent..])? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => sent += written,
                Poll::Pending => {
                    self.bytes.extend_from_slice(&bytes[sent..]);
                    self.sent = 0;
                    return Ok(());
                }
            }
        }
        self.unflushed = stream.poll_flush(cx)?.is_pending();
        Ok(())
    }

    /// Keeps bytes to be sent by [`Self::poll_drain`].
    pub(crate) fn queue(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Goes on sending. Ready when everything is with the kernel.
    pub(crate) fn poll_drain(&mut self, cx: &mut Context<'_>, stream: &mut Stream) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            match ready!(stream.poll_write(cx, &self.bytes[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.sent += written,
            }
        }
        self.bytes.clear();
        self.sent = 0;
        self.unflushed = true;
        ready!(stream.poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Gives the buffer's memory back.
    pub(crate) fn release(&mut self) {
        if self.is_empty() {
            self.bytes = Vec::new();
        }
    }
}
