//! The body that a peer sends on a stream, as HTTP/1.1 has it: as it is where its length was announced, in chunks where not.

use std::io;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use h2::RecvStream;

use super::io_error;
use crate::http1::write;

/// How the body is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// Its length is known, or it is a tunnel: the bytes alone.
    Bare,
    /// With a size before each piece, and trailers after the last one.
    Chunked,
}

/// One direction of a stream: what the peer sends.
#[derive(Debug)]
pub(super) struct Inbound {
    receive: RecvStream,
    shown: Shown,
    state: State,
    /// Received, not read yet. The peer may send as much again only once it has been.
    piece: Bytes,
    /// What is read before more of the body: sizes, line ends, trailers.
    frame: Vec<u8>,
    framed: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Data,
    Trailers,
    Done,
}

impl Inbound {
    pub(super) const fn new(receive: RecvStream, shown: Shown) -> Self {
        Self { receive, shown, state: State::Data, piece: Bytes::new(), frame: Vec::new(), framed: 0 }
    }

    /// Reads as much as there is and fits; 0 is the end.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut filled = 0;
        loop {
            filled += self.take_framing(&mut buffer[filled..]);
            if filled == buffer.len() {
                return Poll::Ready(Ok(filled));
            }
            if !self.piece.is_empty() {
                filled += self.take_content(&mut buffer[filled..])?;
                continue;
            }
            match self.poll_more(cx) {
                Poll::Ready(Ok(true)) => {}
                // An error is told again by the next read.
                Poll::Pending | Poll::Ready(Err(_)) if filled > 0 => return Poll::Ready(Ok(filled)),
                Poll::Ready(Ok(false)) => return Poll::Ready(Ok(filled)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn take_framing(&mut self, buffer: &mut [u8]) -> usize {
        let rest = &self.frame[self.framed..];
        let taken = rest.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&rest[..taken]);
        self.framed += taken;
        if self.framed == self.frame.len() {
            self.frame.clear();
            self.framed = 0;
        }
        taken
    }

    fn take_content(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let taken = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..taken]);
        self.receive.flow_control().release_capacity(taken).map_err(io_error)?;
        if self.piece.is_empty() {
            self.piece = Bytes::new();
            if self.shown == Shown::Chunked {
                self.frame.extend_from_slice(b"\r\n");
            }
        }
        Ok(taken)
    }

    /// Gets the next piece or the end; false: there is nothing more.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        match self.state {
            State::Done => Poll::Ready(Ok(false)),
            State::Data => match self.receive.poll_data(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Some(Ok(piece))) => {
                    if !piece.is_empty() && self.shown == Shown::Chunked {
                        write::hexadecimal(&mut self.frame, piece.len());
                        self.frame.extend_from_slice(b"\r\n");
                    }
                    self.piece = piece;
                    Poll::Ready(Ok(true))
                }
                Poll::Ready(Some(Err(error))) => Poll::Ready(Err(io_error(error))),
                Poll::Ready(None) => {
                    self.state = if self.shown == Shown::Chunked { State::Trailers } else { State::Done };
                    Poll::Ready(Ok(true))
                }
            },
            State::Trailers => match self.receive.poll_trailers(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Err(error)) => Poll::Ready(Err(io_error(error))),
                Poll::Ready(Ok(trailers)) => {
                    self.frame.extend_from_slice(b"0\r\n");
                    for (name, value) in trailers.iter().flatten() {
                        write::field(&mut self.frame, name.as_str().as_bytes(), value.as_bytes());
                    }
                    self.frame.extend_from_slice(b"\r\n");
                    self.state = State::Done;
                    Poll::Ready(Ok(true))
                }
            },
        }
    }
}
