//! A stream to an endpoint, shown as a connection in HTTP/1.1 over which one request is sent.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};

use super::heads::{self, Kind, Switch};
use super::inbound::Inbound;
use super::io_error;
use super::multiplexed::Place;
use super::outbound::Outbound;

/// A stream to an endpoint.
#[derive(Debug)]
pub(crate) struct EndpointStream {
    place: Place,
    state: State,
    /// The answer's head, read in part.
    head: Vec<u8>,
    read: usize,
}

#[derive(Debug)]
enum State {
    /// The request's head was not written yet.
    New(SendRequest<Bytes>),
    /// The answer's head has not come.
    Asked { outbound: Outbound, response: ResponseFuture, kind: Kind, switch: Option<Switch> },
    /// The answer's body is on its way.
    Answered { outbound: Outbound, inbound: Inbound },
    /// Nothing was asked, nothing will come.
    Failed,
}

impl EndpointStream {
    pub(super) const fn new(request: SendRequest<Bytes>, place: Place) -> Self {
        Self { place, state: State::New(request), head: Vec::new(), read: 0 }
    }

    /// Writes the request. The head comes whole, at the start of `bytes`.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.state {
            State::New(_) => {}
            State::Asked { outbound, .. } | State::Answered { outbound, .. } => return outbound.poll_write(cx, bytes),
            State::Failed => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
        let State::New(mut request) = std::mem::replace(&mut self.state, State::Failed) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let (heads::Taken { head, body, length }, kind, switch) = heads::request(bytes, self.place.scheme())?;
        if kind == Kind::Tunnel && !request.is_extended_connect_protocol_enabled() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the endpoint takes no upgrades over http/2",
            )));
        }
        let (response, send) = match request.send_request(head, body.is_done()) {
            Ok(sent) => sent,
            Err(error) => {
                self.place.retire();
                return Poll::Ready(Err(io_error(error)));
            }
        };
        let mut outbound = Outbound::new(send, body);
        let written = match outbound.poll_write(cx, &bytes[length..])? {
            Poll::Ready(written) => length + written,
            Poll::Pending => length,
        };
        self.state = State::Asked { outbound, response, kind, switch };
        Poll::Ready(Ok(written))
    }

    /// Reads the answer; 0 is its end.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.read == self.head.len() && !matches!(self.state, State::Answered { .. }) {
            match self.poll_head(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        let rest = &self.head[self.read..];
        let taken = rest.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&rest[..taken]);
        self.read += taken;
        if self.read < self.head.len() {
            return Poll::Ready(Ok(taken));
        }
        if !self.head.is_empty() {
            self.head = Vec::new();
            self.read = 0;
        }
        let State::Answered { inbound, .. } = &mut self.state else { return Poll::Ready(Ok(taken)) };
        // What there is of the body leaves with the head.
        match inbound.poll_read(cx, &mut buffer[taken..]) {
            Poll::Ready(Ok(read)) => Poll::Ready(Ok(taken + read)),
            Poll::Pending | Poll::Ready(Err(_)) if taken > 0 => Poll::Ready(Ok(taken)),
            other => other,
        }
    }

    /// Writes the next head of the answer where it is read from.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let State::Asked { response, kind, switch, .. } = &mut self.state else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if let Poll::Ready(Some(interim)) = response.poll_informational(cx) {
            let interim = interim.map_err(io_error)?;
            heads::write_response(&mut self.head, interim.status(), interim.headers(), (*kind, None), false);
            return Poll::Ready(Ok(()));
        }
        let (answer, receive) = match Pin::new(response).poll(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(answer) => answer.map_err(io_error)?.into_parts(),
        };
        let ended = receive.is_end_stream();
        let shown =
            heads::write_response(&mut self.head, answer.status, &answer.headers, (*kind, switch.as_ref()), ended);
        let State::Asked { outbound, .. } = std::mem::replace(&mut self.state, State::Failed) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        self.state = State::Answered { outbound, inbound: Inbound::new(receive, shown) };
        Poll::Ready(Ok(()))
    }

    /// Ends a tunnel's direction to the endpoint.
    pub(crate) fn poll_shutdown(&mut self) -> Poll<io::Result<()>> {
        Poll::Ready(match &mut self.state {
            State::Asked { outbound, .. } | State::Answered { outbound, .. } => outbound.shut_down(),
            State::New(_) | State::Failed => Ok(()),
        })
    }
}
