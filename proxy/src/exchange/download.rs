//! The answer on its way to the client: interim heads, the head, the body.

use std::mem;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::answer::{Local, connection_line};
use crate::breaker::Outcome;
use crate::cache::entry::LinesView;
use crate::cache::fill::{AnswerHead, Judged, Task};
use crate::clock::Moment;
use crate::connection::Connection;
use crate::eject::Attempt;
use crate::error::{Failure, FailureKind};
use crate::exchange::{Exchange, fill};
use crate::hooks::{Responded, Wish};
use crate::http1::body::{Body, Coding};
use crate::http1::field::{Fields, Known, KnownSet};
use crate::http1::framing::{Framing, Version};
use crate::http1::response_head::ResponseHead;
use crate::http1::write;
use crate::http2::{is_stream_reset, is_unprocessed};
use crate::metrics::DURATION_EDGES_US;
use crate::splice::{SPLICE_BYTES_MIN, SpliceError};
use crate::worker::Worker;

/// What kind of answer was passed on.
#[derive(Debug)]
pub(super) enum Answered {
    /// A final head; the body follows.
    Final,
    /// 101: both sides talk something else now.
    Upgraded,
    /// Nothing: the client gets this, from the cache.
    Stored(Box<Local>),
}

/// Bytes of one read while a head is expected. The rest of a large body is spliced.
pub(super) const HEAD_READ_BYTES: usize = 16 << 10;
/// Interim heads of one answer.
const INTERIM_MAX: u8 = 16;
/// Lines that routes of a sandbox set.
const SANDBOX_LINES: KnownSet = KnownSet::of(&[Known::XAlbSandbox, Known::XAlbRouteId]);

impl Exchange {
    /// Sends the request and reads until a final head has been passed on, as far as the client takes it.
    pub(super) fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
        worker: &Rc<Worker>,
    ) -> Poll<Result<Answered, Failure>> {
        if mem::take(&mut self.prefetched) {
            let bytes = mem::take(&mut self.from_upstream);
            if let Some(answered) = self.judge(cx, connection, worker, &bytes)? {
                return Poll::Ready(Ok(answered));
            }
        }
        loop {
            self.poll_upload(cx, connection, worker)?;
            // Interim heads that the client has not taken.
            if !connection.outbox.is_empty() && self.poll_client_takes(cx, connection, worker)?.is_pending() {
                return self.poll_deadline(cx, connection, worker);
            }
            let Some(upstream) = &mut self.upstream else { return Poll::Ready(Err(truncated())) };
            let mut scratch = worker.scratch.borrow_mut();
            let read = match upstream.stream.poll_read(cx, &mut scratch[..HEAD_READ_BYTES]) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(Failure::rule(FailureKind::Reset, "connection closed before an answer")));
                }
                Poll::Ready(Ok(read)) => read,
                Poll::Ready(Err(error)) if is_unprocessed(&error) => {
                    return Poll::Ready(Err(Failure::io(FailureKind::Unprocessed, error)));
                }
                Poll::Ready(Err(error)) => {
                    // Not because the connection idled too long.
                    upstream.reused &= !is_stream_reset(&error);
                    return Poll::Ready(Err(Failure::io(FailureKind::Reset, error)));
                }
                Poll::Pending => {
                    drop(scratch);
                    return self.poll_deadline(cx, connection, worker);
                }
            };
            self.progress = worker.wheel.now();
            let judged = if self.from_upstream.is_empty() {
                self.judge(cx, connection, worker, &scratch[..read])
            } else {
                let mut bytes = mem::take(&mut self.from_upstream);
                bytes.extend_from_slice(&scratch[..read]);
                self.judge(cx, connection, worker, &bytes)
            };
            if let Some(answered) = judged? {
                return Poll::Ready(Ok(answered));
            }
        }
    }

    /// Judges what came from the endpoint and passes it on. `None`: a final head is not complete yet.
    fn judge(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
        worker: &Rc<Worker>,
        mut bytes: &[u8],
    ) -> Result<Option<Answered>, Failure> {
        let mut fields = worker.fields.borrow_mut();
        loop {
            let head = ResponseHead::parse(bytes, self.asked, &mut fields);
            let Some(head) = head.map_err(|rule| Failure::rule(FailureKind::Malformed, rule))? else {
                self.from_upstream.extend_from_slice(bytes);
                return Ok(None);
            };
            if !head.is_interim() {
                return self.pass_final(cx, connection, worker, bytes, &head, &mut fields).map(Some);
            }
            self.interim += 1;
            if self.interim > INTERIM_MAX {
                return Err(Failure::rule(FailureKind::Malformed, "too many interim answers"));
            }
            // `100 Continue` is for clients that wait for it, and HTTP/1.0 knows none of these (RFC 9110 §15.2).
            if self.version == Version::Http11 && (head.status != 100 || self.expects_continue) {
                let mut out = worker.out.borrow_mut();
                out.clear();
                write_status_line(&mut out, &head);
                write::fields(&mut out, bytes, head.length, &fields, KnownSet::HOP_BY_HOP);
                out.extend_from_slice(b"\r\n");
                connection.send(cx, &out).map_err(|error| Failure::io(FailureKind::ClientGone, error))?;
            }
            bytes = &bytes[head.length..];
            if bytes.is_empty() {
                return Ok(None);
            }
        }
    }

    fn pass_final(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
        worker: &Rc<Worker>,
        bytes: &[u8],
        head: &ResponseHead<'_>,
        fields: &mut Fields,
    ) -> Result<Answered, Failure> {
        self.note_answer(worker, head.status);
        let retry_after = if matches!(head.status, 429 | 503) { retry_after(bytes, fields) } else { None };
        if self.wants_another(head.status, retry_after, worker) {
            return Err(Failure::rule(FailureKind::Status, "the answer's status is to be retried"));
        }
        let responded = self.call_hooks(worker, bytes, head, fields);
        if let Some(task) = self.record.edits.as_mut().and_then(|edits| edits.cache.take())
            && let Some(local) = self.judge_for_cache(worker, *task, responded.as_ref(), bytes, head, fields)?
        {
            return Ok(Answered::Stored(Box::new(local)));
        }
        let shown = self.take_response(worker, responded, head);
        self.record.status = shown.status;
        self.answered = true;
        let upgraded = head.status == 101;
        self.frame_download(worker, head);
        let before = self.response_edits_before_compression();
        let compressed = self.choose_compression(worker, bytes, head, fields);
        let length = shown.content_length.filter(|_| !compressed);

        let mut out = worker.out.borrow_mut();
        out.clear();
        self.write_head(&mut out, worker, bytes, &shown, length, fields);
        let body = &bytes[head.length..];
        if upgraded {
            self.from_upstream.extend_from_slice(body);
        } else {
            let fed = self.feed_download(worker, body, &mut out);
            // The client has seen nothing yet: a broken start of a body is still a 502.
            let fed = match fed {
                Ok(fed) => fed,
                Err(rule) => {
                    self.answered = false;
                    self.forget_compression(before);
                    return Err(Failure::rule(FailureKind::Malformed, rule));
                }
            };
            self.record.response_bytes += fed.content;
            // Bytes after an answer are nobody's: the connection is not used again.
            self.keeps_upstream &= fed.consumed == body.len();
        }
        self.pace.restart(worker.wheel.now());
        connection.send(cx, &out).map_err(|error| Failure::io(FailureKind::ClientGone, error))?;
        if self.download.is_done() && !upgraded {
            self.release_upstream(worker);
        }
        Ok(if upgraded { Answered::Upgraded } else { Answered::Final })
    }

    /// Lets the cache look at the answer. What the client gets instead of it, if it gets something else.
    fn judge_for_cache(
        &mut self,
        worker: &Rc<Worker>,
        task: Task,
        responded: Option<&Responded>,
        bytes: &[u8],
        head: &ResponseHead<'_>,
        fields: &Fields,
    ) -> Result<Option<Local>, Failure> {
        let mut out = worker.out.borrow_mut();
        out.clear();
        write::fields(&mut out, bytes, head.length, fields, KnownSet::HOP_BY_HOP);
        let mut status = head.status;
        if let Some(responded) = responded {
            *out = responded.lines(LinesView(&out));
            status = responded.status;
        }
        let (judged, note) = task.judge(
            worker,
            &AnswerHead {
                status,
                lines: LinesView(&out),
                framing: head.framing,
                content_length: head.content_length,
                wish: responded.map_or(Wish::None, |responded| responded.wish),
            },
        );
        let edits = self.record.edit(worker);
        // That it waited in vain is more than what it then came to.
        if !note.is_empty() && edits.notes.cache != "coalesce_breakaway" {
            edits.notes.cache = note;
        }
        let (filling, local) = match judged {
            Judged::Pass(lines) => {
                for (name, value, _) in LinesView(&lines).lines() {
                    edits.response.add(name, value);
                }
                return Ok(None);
            }
            Judged::Store(filling, local) => (Some(filling), local),
            Judged::Serve(local) => (None, local),
        };
        self.frame_download(worker, head);
        let body = &bytes[head.length..];
        match filling {
            Some(mut filling) => {
                self.keeps_upstream &= fill::feed(&mut self.download, &mut filling, body, &mut out)?;
                if self.download.is_done() {
                    filling.complete();
                    self.release_upstream(worker);
                } else if let Some(upstream) = self.upstream.take() {
                    let rest = fill::Rest {
                        view: Rc::clone(&self.record.view),
                        pool: self.pool,
                        endpoint: self.endpoint,
                        upstream,
                        body: mem::replace(&mut self.download, Body::Done),
                        keeps: self.keeps_upstream,
                        flight: self.flight.again(),
                        filling,
                    };
                    rest.read_on(worker);
                }
            }
            None => {
                // Content that nobody wants is not waited for.
                self.keeps_upstream &= self.download.is_done() && body.is_empty();
                self.release_upstream(worker);
            }
        }
        Ok(Some(local))
    }

    /// Counts the answer for the endpoint.
    fn note_answer(&mut self, worker: &Worker, status: u16) {
        let upstream_us = Moment::now().micros_since(self.attempt_started);
        self.record.upstream_us = Some(upstream_us);
        let connections = &self.flight.connections;
        connections.cells.requests.add(1);
        connections.cells.duration_us.record(&DURATION_EDGES_US, upstream_us);
        self.note_attempt(Attempt::Answered { status, latency_us: upstream_us }, worker);
        if let Some(hedge) = &self.route().hedge {
            hedge.live.took(worker.index, upstream_us);
        }
        self.report(if status >= 500 { Outcome::Failure } else { Outcome::Success }, worker);
    }

    /// Decides how the body reaches the client, and what becomes of the connections.
    fn frame_download(&mut self, worker: &Worker, head: &ResponseHead<'_>) {
        self.download = Body::expected(head.framing);
        self.keeps_upstream = head.keep_alive;
        let unknown_length = matches!(head.framing, Framing::Chunked | Framing::UntilClose);
        self.download_coding =
            if unknown_length && self.version == Version::Http11 { Coding::Chunked } else { Coding::Identity };
        // An endpoint that refuses before it has the whole body will not read the rest.
        if !self.upload.is_done() && head.status >= 300 {
            self.upload_ended = true;
        }
        let ends_with_connection = unknown_length && self.download_coding == Coding::Identity;
        self.keeps_client = self.keep_alive && !ends_with_connection && !self.upload_ended && !worker.is_draining();
    }

    fn write_head(
        &self,
        out: &mut Vec<u8>,
        worker: &Worker,
        bytes: &[u8],
        head: &ResponseHead<'_>,
        length: Option<u64>,
        fields: &mut Fields,
    ) {
        write_status_line(out, head);
        let edits = self.record.edits.as_ref().map(|edits| &edits.response);
        if let Some(edits) = edits.filter(|edits| edits.removes_any()) {
            fields.drop_where(bytes, |name| edits.removes(name));
        }
        let sandbox = self.route().sandbox.as_ref();
        let without = if sandbox.is_some() { KnownSet::HOP_BY_HOP.and(SANDBOX_LINES) } else { KnownSet::HOP_BY_HOP };
        write::fields(out, bytes, head.length, fields, without);
        if let Some(sandbox) = sandbox {
            out.extend_from_slice(&sandbox.response_lines);
        }
        if let Some(edits) = edits {
            out.extend_from_slice(edits.lines());
        }
        if fields.first(Known::Date).is_none() {
            out.extend_from_slice(b"Date: ");
            worker.write_http_date(out);
            out.extend_from_slice(b"\r\n");
        }
        if head.status == 101 {
            out.extend_from_slice(b"Connection: Upgrade\r\n");
            if let Some(protocol) = fields.first(Known::Upgrade) {
                write::field(out, b"Upgrade", protocol.value.of_bytes(bytes));
            }
            out.extend_from_slice(b"\r\n");
            return;
        }
        if let Some(length) = length {
            out.extend_from_slice(b"Content-Length: ");
            write::decimal(out, length);
            out.extend_from_slice(b"\r\n");
        } else if self.download_coding == Coding::Chunked {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        connection_line(out, self.version, self.keeps_client);
        out.extend_from_slice(b"\r\n");
    }

    /// Moves both bodies until the answer's is with the client's kernel.
    pub(super) fn poll_bodies(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
        worker: &Worker,
    ) -> Poll<Result<(), Failure>> {
        loop {
            self.poll_upload(cx, connection, worker)?;
            if !connection.outbox.is_empty() && self.poll_client_takes(cx, connection, worker)?.is_pending() {
                return self.poll_deadline(cx, connection, worker);
            }
            if self.download.is_done() {
                return Poll::Ready(Ok(()));
            }
            if self.poll_download_piece(cx, connection, worker)?.is_pending() {
                return self.poll_deadline(cx, connection, worker);
            }
        }
    }

    fn poll_download_piece(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
        worker: &Worker,
    ) -> Poll<Result<(), Failure>> {
        if let Body::Length(left) = self.download
            && (left > SPLICE_BYTES_MIN || self.splice.is_some())
            && self.encoder.is_none()
            && self.upload.is_done()
            && self.is_plain(connection)
            && let Some(moved) = self.poll_splice_down(cx, connection, worker, left)
        {
            return moved;
        }
        let Some(upstream) = &mut self.upstream else { return Poll::Ready(Err(truncated())) };
        let mut scratch = worker.scratch.borrow_mut();
        let read = ready!(upstream.stream.poll_read(cx, &mut scratch));
        let read = &scratch[..read.map_err(|error| Failure::io(FailureKind::Reset, error))?];
        self.progress = worker.wheel.now();
        let mut out = worker.out.borrow_mut();
        out.clear();
        let bytes = if read.is_empty() {
            // A truncated body is never a complete answer.
            if !self.close_download(&mut out) {
                return Poll::Ready(Err(truncated()));
            }
            &out[..]
        } else if self.download_coding == Coding::Identity && !matches!(self.download, Body::Chunked(_)) {
            let taken = self.download.advance(read.len());
            self.record.response_bytes += taken as u64;
            self.keeps_upstream &= taken == read.len();
            &read[..taken]
        } else {
            let fed = self.feed_download(worker, read, &mut out);
            let fed = fed.map_err(|rule| Failure::rule(FailureKind::Malformed, rule))?;
            self.record.response_bytes += fed.content;
            self.keeps_upstream &= fed.consumed == read.len();
            &out[..]
        };
        self.pace.restart(self.progress);
        connection.send(cx, bytes).map_err(|error| Failure::io(FailureKind::ClientGone, error))?;
        if self.download.is_done() {
            self.release_upstream(worker);
        }
        Poll::Ready(Ok(()))
    }

    /// `None`: not this way.
    fn poll_splice_down(
        &mut self,
        cx: &mut Context<'_>,
        connection: &Connection,
        worker: &Worker,
        left: u64,
    ) -> Option<Poll<Result<(), Failure>>> {
        let mut splice = match mem::take(&mut self.splice) {
            Some(splice) => splice,
            None => Box::new(worker.pipes.splice()?),
        };
        let source = self.upstream.as_ref()?.stream.plain()?;
        let sink = connection.stream.plain()?;
        let held = splice.held();
        let mut after = left;
        let moved = splice.poll(cx, source, sink, &mut after);
        self.record.response_bytes += left - after;
        let sent = held + (left - after) - splice.held();
        if sent > 0 || after < left {
            self.progress = worker.wheel.now();
        }
        // The pipe holds more than a slow client takes in the time it is given: what leaves it counts.
        if held > 0 {
            self.pace.moved(sent);
        } else {
            self.pace.restart(worker.wheel.now());
        }
        self.download = Body::Length(after);
        Some(match moved {
            Poll::Pending => {
                self.splice = Some(splice);
                Poll::Pending
            }
            Poll::Ready(Ok(())) => {
                self.download = Body::Done;
                self.release_upstream(worker);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(SpliceError::Source(_))) => Poll::Ready(Err(truncated())),
            Poll::Ready(Err(SpliceError::Sink(error))) => Poll::Ready(Err(Failure::io(FailureKind::ClientGone, error))),
        })
    }

    /// Goes on sending what the client has not taken.
    fn poll_client_takes(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
        worker: &Worker,
    ) -> Result<Poll<()>, Failure> {
        let waited = connection.outbox.len();
        let drained = connection.outbox.poll_drain(cx, &mut connection.stream);
        let moved = waited - connection.outbox.len();
        if moved > 0 {
            self.progress = worker.wheel.now();
            self.pace.moved(moved as u64);
        }
        match drained {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Ok(())) => Ok(Poll::Ready(())),
            Poll::Ready(Err(error)) => Err(Failure::io(FailureKind::ClientGone, error)),
        }
    }

    /// The answer is complete: keeps the connection to the endpoint if both sides agree on where it ended.
    fn release_upstream(&mut self, worker: &Worker) {
        let reusable =
            self.keeps_upstream && self.upload.is_done() && !self.upload_ended && self.to_upstream.is_empty();
        if let Some(upstream) = mem::take(&mut self.upstream).filter(|_| reusable) {
            self.flight.connections.keep(upstream, self.pool(), worker.wheel.now());
        }
    }
}

/// The seconds of `Retry-After` (RFC 9110 §10.2.3). A date says nothing here: clocks differ.
fn retry_after(bytes: &[u8], fields: &Fields) -> Option<Duration> {
    let lines = fields.lines().iter();
    let value = lines
        .filter(|line| line.name.of_bytes(bytes).eq_ignore_ascii_case(b"retry-after"))
        .map(|line| line.value.of_bytes(bytes))
        .next()?;
    std::str::from_utf8(value).ok()?.parse().ok().map(Duration::from_secs)
}

fn truncated() -> Failure {
    Failure::rule(FailureKind::Reset, "the answer's body ended early")
}

fn write_status_line(out: &mut Vec<u8>, head: &ResponseHead<'_>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    write::decimal(out, u64::from(head.status));
    out.push(b' ');
    out.extend_from_slice(head.reason.as_bytes());
    out.extend_from_slice(b"\r\n");
}
