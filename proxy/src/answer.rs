//! Answers that the proxy makes itself: refusals, redirects, metrics on a data-plane listener, and what the stages of a
//! route answer ([`Local`]).
//!
//! Refusals are JSON; the fields are an interface (see [`crate::error::Category`]). Every answer carries what the route's
//! stages want in answers.

use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::{fmt, io};

use std::sync::Arc;

use crate::access_log::json_string;
use crate::admission::edits;
use crate::connection::After;
use crate::error::Category;
use crate::http1::body::Coding;
use crate::http1::framing::{Framing, Version};
use crate::http1::request_head::RequestHead;
use crate::http1::write;
use crate::middleware::compression::{Compressed, Lines, Subject};
use crate::record::Record;
use crate::worker::Worker;

/// What of the request decides how it is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// `HEAD`: no body is sent.
    pub(crate) head: bool,
    /// gRPC clients read the status from trailers.
    pub(crate) grpc: bool,
    pub(crate) version: Version,
    /// What becomes of the connection.
    pub(crate) after: After,
}

impl Manner {
    /// For a request whose head was read: the connection goes on if the client wants to and no body is on its way.
    pub(crate) fn of(head: &RequestHead<'_>, worker: &Worker) -> Self {
        let after = match head.framing {
            _ if worker.is_draining() => After::Linger,
            Framing::Empty if head.keep_alive => After::Reuse,
            Framing::Empty => After::Close,
            Framing::Length(_) | Framing::Chunked | Framing::UntilClose => After::Linger,
        };
        Self { head: head.method == "HEAD", grpc: head.grpc, version: head.version, after }
    }

    /// For a request whose head cannot be believed.
    pub(crate) const LAST: Self = Self { head: false, grpc: false, version: Version::Http11, after: After::Linger };
}

/// Why a request is refused.
#[derive(Debug)]
pub(crate) struct Refusal<'a> {
    pub(crate) category: Category,
    /// The rule that was broken, added to `error` where the fault is the client's.
    pub(crate) rule: &'a str,
    /// The path, where that helps.
    pub(crate) path: Option<&'a str>,
    /// The endpoint and what it did, where the pool exposes that.
    pub(crate) upstream: Option<(&'a str, &'a str)>,
    /// The pool whose breaker is open, and for how many seconds.
    pub(crate) circuit: Option<(Arc<str>, u64)>,
}

impl<'a> Refusal<'a> {
    pub(crate) const fn of(category: Category) -> Self {
        Self { category, rule: "", path: None, upstream: None, circuit: None }
    }

    pub(crate) const fn rule(category: Category, rule: &'a str) -> Self {
        Self { category, rule, path: None, upstream: None, circuit: None }
    }

    /// Composes the answer and notes it in `record`.
    pub(crate) fn compose(&self, worker: &Worker, record: &mut Record, manner: Manner) -> Vec<u8> {
        record.status = self.category.status();
        record.reason = Some(self.category);
        if manner.grpc {
            return self.compose_grpc(worker, record, manner);
        }
        let mut body = Vec::with_capacity(256);
        let mut member = |name: &str, text: &str| {
            body.push(if body.is_empty() { b'{' } else { b',' });
            json_string(&mut body, name);
            body.push(b':');
            json_string(&mut body, text);
        };
        let id = String::from_utf8_lossy(record.request_id());
        match self.rule {
            "" => member("error", self.category.message()),
            rule => member("error", &format!("{}: {rule}", self.category.message())),
        }
        member("category", self.category.name());
        member("request_id", &id);
        member("error_category", self.category.name());
        if let Some(path) = self.path {
            member("path", path);
        }
        if let Some((target, detail)) = self.upstream {
            member("target", target);
            member("detail", detail);
        }
        body.extend_from_slice(b"}\n");
        let mut lines = Vec::new();
        write::field(&mut lines, b"Content-Type", b"application/json");
        write::field(&mut lines, b"X-Request-Id", record.request_id());
        if let Some((pool, seconds)) = &self.circuit {
            let pool: Vec<u8> = pool.bytes().map(|byte| if byte.is_ascii_graphic() { byte } else { b'_' }).collect();
            write::field(&mut lines, b"X-Proxy-Circuit-Open", &pool);
            write::field(&mut lines, b"Retry-After", seconds.to_string().as_bytes());
        } else if self.category.status() == 503 {
            write::field(&mut lines, b"Retry-After", b"1");
        }
        compose(worker, record, record.status, manner, &lines, &body)
    }

    /// An answer whose only head says what trailers would ("trailers-only").
    fn compose_grpc(&self, worker: &Worker, record: &mut Record, manner: Manner) -> Vec<u8> {
        let mut lines = Vec::new();
        write::field(&mut lines, b"Content-Type", b"application/grpc");
        lines.extend_from_slice(b"grpc-status: ");
        write::decimal(&mut lines, u64::from(self.category.grpc_status()));
        lines.extend_from_slice(b"\r\ngrpc-message: ");
        let (name, message) = (self.category.name(), self.category.message());
        let separator = if self.rule.is_empty() { "" } else { ": " };
        for part in [name, ": ", message, separator, self.rule] {
            percent_encode(&mut lines, part);
        }
        lines.extend_from_slice(b"\r\n");
        write::field(&mut lines, b"X-Request-Id", record.request_id());
        compose(worker, record, 200, manner, &lines, b"")
    }
}

/// As gRPC wants it of `grpc-message`.
fn percent_encode(out: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            out.push(byte);
        } else {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
}

/// What a stage answers.
#[derive(Debug)]
pub(crate) enum Local {
    /// A refusal, as JSON.
    Refusal {
        category: Category,
        /// Added to `error`; may be empty.
        rule: &'static str,
    },
    /// Any other answer.
    Whole {
        status: u16,
        /// Why the proxy answers itself, where that is a refusal.
        reason: Option<Category>,
        /// Whole lines, without those that say how the content ends, `Date` and `Connection`.
        lines: Vec<u8>,
        content: Content,
    },
}

/// The content of an answer of the proxy's own.
pub(crate) enum Content {
    /// All of it.
    Whole(Vec<u8>),
    /// It comes in pieces.
    Pieces {
        /// Of all pieces together, if that is known.
        length: Option<u64>,
        source: Box<dyn Source>,
    },
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(content) => write!(f, "{} bytes", content.len()),
            Self::Pieces { length, .. } => write!(f, "pieces of {length:?} bytes"),
        }
    }
}

/// Where content that comes in pieces comes from.
pub(crate) trait Source {
    /// Appends the next piece to `out`, at most about 64 KiB; whether there is more. An error breaks the answer off.
    fn poll_piece(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<io::Result<bool>>;
}

/// Content on its way to a client, framed for it.
pub(crate) struct Streamed {
    source: Box<dyn Source>,
    coding: Coding,
    /// Bytes that are still to come, if that is known.
    left: Option<u64>,
    bytes: u64,
    piece: Vec<u8>,
}

impl fmt::Debug for Streamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streamed").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Streamed {
    /// Appends the next piece as the client is to see it to `out`; whether there is more.
    pub(crate) fn poll_piece(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<io::Result<bool>> {
        match self.coding {
            Coding::Identity => {
                let start = out.len();
                let more = ready!(self.source.poll_piece(cx, out))?;
                self.count((out.len() - start) as u64, more)?;
                Poll::Ready(Ok(more))
            }
            Coding::Chunked => {
                self.piece.clear();
                let more = ready!(self.source.poll_piece(cx, &mut self.piece))?;
                self.count(self.piece.len() as u64, more)?;
                write::content(out, self.coding, &self.piece);
                if !more {
                    out.extend_from_slice(b"0\r\n\r\n");
                }
                Poll::Ready(Ok(more))
            }
        }
    }

    /// Never more or less than was announced.
    fn count(&mut self, bytes: u64, more: bool) -> io::Result<()> {
        self.bytes += bytes;
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(bytes).ok_or(io::ErrorKind::InvalidData)?;
            if !more && *left > 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Content that was given out.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Local {
    pub(crate) const fn refusal(category: Category, rule: &'static str) -> Self {
        Self::Refusal { category, rule }
    }

    /// Composes the answer and notes it in `record`: its bytes, the content if that comes in pieces, and what becomes of
    /// the connection.
    pub(crate) fn compose(
        self,
        worker: &Worker,
        record: &mut Record,
        manner: Manner,
    ) -> (Vec<u8>, Option<Streamed>, After) {
        match self {
            Self::Refusal { category, rule } => {
                (Refusal::rule(category, rule).compose(worker, record, manner), None, manner.after)
            }
            Self::Whole { status, reason: Some(category), .. } if manner.grpc => {
                (record.status, record.reason) = (status, Some(category));
                (Refusal::of(category).compose_grpc(worker, record, manner), None, manner.after)
            }
            Self::Whole { status, reason, lines, content } => {
                (record.status, record.reason) = (status, reason);
                let content = compressed(record, manner, &lines, content);
                match content {
                    Content::Whole(content) => {
                        (compose(worker, record, status, manner, &lines, &content), None, manner.after)
                    }
                    Content::Pieces { length, source } => {
                        compose_pieces(worker, record, manner, &lines, length, source)
                    }
                }
            }
        }
    }
}

/// The content of an answer as the route's compression wants it, with the lines that say so.
fn compressed(record: &mut Record, manner: Manner, lines: &[u8], content: Content) -> Content {
    let view = Rc::clone(&record.view);
    let admission = record.route.and_then(|route| view.snapshot.routes[route].admission.as_ref());
    let Some(compression) = admission.and_then(|admission| admission.compression()) else { return content };
    let Some(edits) = record.edits.as_mut().filter(|_| manner.version == Version::Http11) else { return content };
    let length = match &content {
        Content::Whole(content) => Some(content.len() as u64),
        Content::Pieces { length, .. } => *length,
    };
    let subject = Subject { status: record.status, length, lines: &Lines(lines) };
    let before = edits.response.clone();
    let Some(mut encoder) = compression.begin(&subject, edits.coding, &mut edits.response) else { return content };
    match content {
        Content::Whole(content) => {
            let mut packed = Vec::with_capacity(content.len() / 2);
            if encoder.feed(&content, true, &mut packed).is_err() {
                edits.response = before;
                return Content::Whole(content);
            }
            Content::Whole(packed)
        }
        Content::Pieces { source, .. } => {
            Content::Pieces { length: None, source: Box::new(Compressed { source, encoder, piece: Vec::new() }) }
        }
    }
}

/// A 308 to the same address under https.
pub(crate) fn redirect(worker: &Worker, record: &mut Record, manner: Manner, location: &str) -> Vec<u8> {
    record.status = 308;
    let mut lines = Vec::new();
    write::field(&mut lines, b"Location", location.as_bytes());
    compose(worker, record, 308, manner, &lines, b"")
}

/// A 200 with a body.
pub(crate) fn ok(worker: &Worker, record: &mut Record, manner: Manner, content_type: &str, body: &[u8]) -> Vec<u8> {
    record.status = 200;
    let mut lines = Vec::new();
    write::field(&mut lines, b"Content-Type", content_type.as_bytes());
    compose(worker, record, 200, manner, &lines, body)
}

fn compose(worker: &Worker, record: &mut Record, status: u16, manner: Manner, lines: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(256 + lines.len() + body.len());
    write_head(&mut out, worker, record, status, manner, lines, Ends::After(body.len() as u64));
    if !manner.head {
        out.extend_from_slice(body);
        record.response_bytes = body.len() as u64;
    }
    out
}

/// Content that leaves together with its head, about.
const AT_ONCE_BYTES: u64 = 64 << 10;

fn compose_pieces(
    worker: &Worker,
    record: &mut Record,
    mut manner: Manner,
    lines: &[u8],
    length: Option<u64>,
    source: Box<dyn Source>,
) -> (Vec<u8>, Option<Streamed>, After) {
    let ends = match (length, manner.version) {
        (Some(length), _) => Ends::After(length),
        (None, Version::Http11) => Ends::WithLastChunk,
        (None, Version::Http10) => Ends::WithConnection,
    };
    if ends == Ends::WithConnection && manner.after == After::Reuse {
        manner.after = After::Close;
    }
    let coding = if ends == Ends::WithLastChunk { Coding::Chunked } else { Coding::Identity };
    let mut out = worker.take_buffer();
    let at_once = length.filter(|_| !manner.head).map_or(0, |length| length.min(AT_ONCE_BYTES));
    out.reserve(256 + lines.len() + at_once as usize);
    write_head(&mut out, worker, record, record.status, manner, lines, ends);
    let streamed = Streamed { source, coding, left: length, bytes: 0, piece: Vec::new() };
    (out, (!manner.head).then_some(streamed), manner.after)
}

/// How content ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    After(u64),
    WithLastChunk,
    WithConnection,
}

fn write_head(
    out: &mut Vec<u8>,
    worker: &Worker,
    record: &Record,
    status: u16,
    manner: Manner,
    lines: &[u8],
    ends: Ends,
) {
    out.extend_from_slice(b"HTTP/1.1 ");
    write::decimal(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
    match record.edits.as_ref().map(|edits| &edits.response) {
        None => out.extend_from_slice(lines),
        Some(edits) if !edits.removes_any() => {
            out.extend_from_slice(lines);
            out.extend_from_slice(edits.lines());
        }
        Some(edits) => {
            let kept = edits::lines(lines).filter(|line| !edits.removes(edits::name_of(line)));
            kept.for_each(|line| out.extend_from_slice(line));
            out.extend_from_slice(edits.lines());
        }
    }
    match ends {
        // There is no content, and no length of it, in answers with these (RFC 9110 §8.6).
        Ends::After(_) if status == 204 || status == 304 => {}
        Ends::After(length) => {
            out.extend_from_slice(b"Content-Length: ");
            write::decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
        Ends::WithLastChunk => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Ends::WithConnection => {}
    }
    // A stored answer is as old as it says.
    let is_date = |line: &[u8]| line.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"date:"));
    if !is_date(lines) && !memchr::memchr_iter(b'\n', lines).any(|end| is_date(&lines[end + 1..])) {
        out.extend_from_slice(b"Date: ");
        worker.write_http_date(out);
        out.extend_from_slice(b"\r\n");
    }
    connection_line(out, manner.version, manner.after == After::Reuse);
    out.extend_from_slice(b"\r\n");
}

/// Says what becomes of the connection where the version does not say it already (RFC 9112 §9.3).
pub(crate) fn connection_line(out: &mut Vec<u8>, version: Version, persists: bool) {
    match (version, persists) {
        (Version::Http11, true) => {}
        (Version::Http10, true) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        (_, false) => out.extend_from_slice(b"Connection: close\r\n"),
    }
}

fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("")
}
