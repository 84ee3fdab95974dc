//! The request body on its way to the endpoint.

use std::mem;
use std::task::{Context, Poll};

use crate::connection::Connection;
use crate::error::{Failure, FailureKind};
use crate::exchange::Exchange;
use crate::http1::body::{Body, Coding};
use crate::splice::{SPLICE_BYTES_MIN, SpliceError};
use crate::stream::Outbox;
use crate::worker::Worker;

impl Exchange {
    /// Moves what can be moved of the request, without waiting. When this returns and there is more to send, whoever it
    /// waits for has the task's waker.
    ///
    /// # Errors
    /// The client's faults. An endpoint that takes no more is none: it may be about to answer.
    pub(super) fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
        worker: &Worker,
    ) -> Result<(), Failure> {
        while !self.upload_ended {
            let Some(upstream) = &mut self.upstream else { return Ok(()) };
            if !self.to_upstream.is_empty() {
                let waited = self.to_upstream.len();
                match self.to_upstream.poll_drain(cx, &mut upstream.stream) {
                    Poll::Pending => {
                        if self.to_upstream.len() < waited {
                            self.progress = worker.wheel.now();
                        }
                        return Ok(());
                    }
                    Poll::Ready(Ok(())) => {
                        self.progress = worker.wheel.now();
                        self.pace.restart(self.progress);
                    }
                    Poll::Ready(Err(_)) => {
                        self.upload_ended = true;
                        self.to_upstream = Outbox::default();
                        return Ok(());
                    }
                }
            }
            if self.upload.is_done() {
                return Ok(());
            }
            if self.poll_upload_piece(cx, connection, worker)?.is_pending() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn poll_upload_piece(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
        worker: &Worker,
    ) -> Result<Poll<()>, Failure> {
        if let Body::Length(left) = self.upload
            && (left > SPLICE_BYTES_MIN || self.splice.is_some())
            && self.is_plain(connection)
            && let Some(moved) = self.poll_splice_up(cx, connection, worker, left)
        {
            return moved;
        }
        let mut scratch = worker.scratch.borrow_mut();
        let read = match connection.stream.poll_read(cx, &mut scratch) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Ok(0)) => return Err(Failure::rule(FailureKind::ClientGone, "the body ended early")),
            Poll::Ready(Ok(read)) => &scratch[..read],
            Poll::Ready(Err(error)) => return Err(Failure::io(FailureKind::ClientGone, error)),
        };
        let Some(upstream) = &mut self.upstream else { return Ok(Poll::Pending) };
        let mut out = worker.out.borrow_mut();
        let (consumed, content, bytes) = if self.upload_coding == Coding::Identity {
            let taken = self.upload.advance(read.len());
            (taken, taken as u64, &read[..taken])
        } else {
            out.clear();
            let fed = self.upload.feed(read, self.upload_coding, &mut out);
            let fed = fed.map_err(|rule| Failure::rule(FailureKind::ClientMalformed, rule))?;
            (fed.consumed, fed.content, &out[..])
        };
        self.streamed = true;
        self.record.request_bytes += content;
        if self.record.request_bytes > self.record.view.snapshot.routes[self.route].body_bytes_max {
            return Err(Failure::rule(FailureKind::ClientTooLarge, ""));
        }
        // What follows the body is the next request.
        connection.inbox.extend_from_slice(&read[consumed..]);
        self.progress = worker.wheel.now();
        self.pace.moved(content);
        if self.to_upstream.send(cx, &mut upstream.stream, bytes).is_err() {
            self.upload_ended = true;
        }
        Ok(Poll::Ready(()))
    }

    /// `None`: not this way.
    fn poll_splice_up(
        &mut self,
        cx: &mut Context<'_>,
        connection: &Connection,
        worker: &Worker,
        left: u64,
    ) -> Option<Result<Poll<()>, Failure>> {
        let mut splice = match mem::take(&mut self.splice) {
            Some(splice) => splice,
            None => Box::new(worker.pipes.splice()?),
        };
        let source = connection.stream.plain()?;
        let sink = self.upstream.as_ref()?.stream.plain()?;
        let mut after = left;
        let moved = splice.poll(cx, source, sink, &mut after);
        if after < left {
            self.streamed = true;
            self.record.request_bytes += left - after;
            self.progress = worker.wheel.now();
            self.pace.moved(left - after);
        }
        // A length of zero is still a body until the pipe is empty.
        self.upload = Body::Length(after);
        Some(match moved {
            Poll::Pending => {
                self.splice = Some(splice);
                Ok(Poll::Pending)
            }
            Poll::Ready(Ok(())) => {
                self.upload = Body::Done;
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Err(SpliceError::Source(error))) => Err(Failure::io(FailureKind::ClientGone, error)),
            Poll::Ready(Err(SpliceError::Sink(_))) => {
                self.upload_ended = true;
                Ok(Poll::Ready(()))
            }
        })
    }
}
