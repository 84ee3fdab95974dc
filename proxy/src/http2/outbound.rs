//! The body that is sent to a peer on a stream. It comes in as HTTP/1.1 has it and goes out as DATA and trailers, as far as
//! the peer's windows allow.

use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::{Reason, SendStream};

use super::{SEND_BUFFER_BYTES, heads, io_error};
use crate::http1::body::Body;

/// One direction of a stream: what is sent to the peer.
#[derive(Debug)]
pub(super) struct Outbound {
    send: SendStream<Bytes>,
    /// What is still to come. [`Body::UntilClose`]: a tunnel.
    body: Body,
}

impl Outbound {
    pub(super) const fn new(send: SendStream<Bytes>, body: Body) -> Self {
        Self { send, body }
    }

    /// Whether the peer has been told the end.
    pub(super) const fn is_done(&self) -> bool {
        self.body.is_done()
    }

    /// Takes from `bytes` what may be sent now. What follows the end of the body is nobody's and taken too.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() || self.body.is_done() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let room = self.room(cx, bytes.len())?;
        let taken = match &mut self.body {
            Body::Chunked(decoder) => {
                // Sizes and trailers need no room.
                let mut content = Vec::with_capacity(room.min(bytes.len()));
                let decoded = decoder.decode_up_to(bytes, room, |data| content.extend_from_slice(data));
                let taken = decoded.map_err(|rule| io::Error::new(io::ErrorKind::InvalidData, rule))?;
                let trailers = if decoder.is_done() { Some(heads::trailers(decoder)?) } else { None };
                match trailers {
                    None if content.is_empty() => {}
                    None => self.data(content.into(), false)?,
                    Some(None) => {
                        self.body = Body::Done;
                        self.data(content.into(), true)?;
                    }
                    Some(Some(trailers)) => {
                        self.body = Body::Done;
                        if !content.is_empty() {
                            self.data(content.into(), false)?;
                        }
                        self.send.send_trailers(trailers).map_err(io_error)?;
                    }
                }
                taken
            }
            Body::Length(_) | Body::UntilClose => {
                let taken = self.body.advance(room.min(bytes.len()));
                if taken > 0 {
                    let ended = self.body.is_done();
                    self.data(Bytes::copy_from_slice(&bytes[..taken]), ended)?;
                }
                taken
            }
            Body::Done => bytes.len(),
        };
        if taken == 0 { Poll::Pending } else { Poll::Ready(Ok(taken)) }
    }

    /// Ends a tunnel. A body ends by itself.
    pub(super) fn shut_down(&mut self) -> io::Result<()> {
        if matches!(self.body, Body::UntilClose) {
            self.body = Body::Done;
            self.data(Bytes::new(), true)?;
        }
        Ok(())
    }

    pub(super) fn reset(&mut self, reason: Reason) {
        self.send.send_reset(reason);
    }

    /// Whether the peer has reset the stream; if not, the task is woken when it does.
    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.send.poll_reset(cx).map(|_| ())
    }

    fn data(&mut self, data: Bytes, ended: bool) -> io::Result<()> {
        self.send.send_data(data, ended).map_err(io_error)
    }

    /// Bytes that the peer's windows take now, up to `wanted`; if none, the task is woken when they do.
    fn room(&mut self, cx: &mut Context<'_>, wanted: usize) -> io::Result<usize> {
        self.send.reserve_capacity(wanted.min(SEND_BUFFER_BYTES));
        let room = self.send.capacity();
        if room > 0 {
            return Ok(room);
        }
        match self.send.poll_capacity(cx) {
            Poll::Pending => Ok(0),
            Poll::Ready(Some(room)) => room.map_err(io_error),
            Poll::Ready(None) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}
