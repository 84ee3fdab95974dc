//! A client's stream, shown as a connection in HTTP/1.1 on which one request was sent.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};

use super::guard::Gauge;
use super::heads::{self, Kind};
use super::inbound::{Inbound, Shown};
use super::io_error;
use super::outbound::Outbound;

/// A client's stream.
#[derive(Debug)]
pub(crate) struct ClientStream {
    inbound: Inbound,
    respond: SendResponse<Bytes>,
    /// Once the answer's head was sent.
    outbound: Option<Outbound>,
    kind: Kind,
    /// What is known of the connection.
    gauge: Rc<Gauge>,
}

impl ClientStream {
    pub(super) const fn new(
        receive: RecvStream,
        respond: SendResponse<Bytes>,
        kind: Kind,
        shown: Shown,
        gauge: Rc<Gauge>,
    ) -> Self {
        Self { inbound: Inbound::new(receive, shown), respond, outbound: None, kind, gauge }
    }

    /// Reads the request's body.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.gauge.flaw(self.respond.stream_id().as_u32()).is_some() {
            self.reset_with(Reason::PROTOCOL_ERROR);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "malformed trailers")));
        }
        self.inbound.poll_read(cx, buffer)
    }

    /// Writes the answer. Heads come whole, at the start of `bytes`.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(outbound) = &mut self.outbound {
            return outbound.poll_write(cx, bytes);
        }
        let heads::Taken { head, body, length } = heads::response(bytes, self.kind)?;
        if head.status().is_informational() {
            self.respond.send_informational(head).map_err(io_error)?;
            return Poll::Ready(Ok(length));
        }
        let send = self.respond.send_response(head, body.is_done()).map_err(io_error)?;
        let outbound = self.outbound.insert(Outbound::new(send, body));
        match outbound.poll_write(cx, &bytes[length..])? {
            Poll::Ready(written) => Poll::Ready(Ok(length + written)),
            Poll::Pending => Poll::Ready(Ok(length)),
        }
    }

    /// Ends the answer, where that does not end by itself.
    pub(crate) fn poll_shutdown(&mut self) -> Poll<io::Result<()>> {
        Poll::Ready(self.outbound.as_mut().map_or(Ok(()), Outbound::shut_down))
    }

    /// Ready when the client has given the request up; otherwise the task is woken when it does.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.outbound {
            None => self.respond.poll_reset(cx).map(|_| ()),
            Some(outbound) if outbound.is_done() => Poll::Pending,
            Some(outbound) => {
                ready!(outbound.poll_reset(cx));
                Poll::Ready(())
            }
        }
    }

    /// Tells the client that the answer is not complete.
    pub(crate) fn reset(&mut self) {
        self.reset_with(Reason::INTERNAL_ERROR);
    }

    fn reset_with(&mut self, reason: Reason) {
        match &mut self.outbound {
            Some(outbound) if outbound.is_done() => {}
            Some(outbound) => outbound.reset(reason),
            None => self.respond.send_reset(reason),
        }
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        self.gauge.forget(self.respond.stream_id().as_u32());
    }
}
