//! Answers that the proxy makes itself: refusals, redirects, metrics on a data-plane listener.
//!
//! Refusals are JSON; the fields are an interface (see [`crate::error::Category`]).

use crate::access_log::json_string;
use crate::connection::After;
use crate::error::Category;
use crate::http1::framing::{Framing, Version};
use crate::http1::request_head::RequestHead;
use crate::http1::write;
use crate::record::Record;
use crate::worker::Worker;

/// What of the request decides how it is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// `HEAD`: no body is sent.
    pub(crate) head: bool,
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
        Self { head: head.method == "HEAD", version: head.version, after }
    }

    /// For a request whose head cannot be believed.
    pub(crate) const LAST: Self = Self { head: false, version: Version::Http11, after: After::Linger };
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
}

impl<'a> Refusal<'a> {
    pub(crate) const fn of(category: Category) -> Self {
        Self { category, rule: "", path: None, upstream: None }
    }

    pub(crate) const fn rule(category: Category, rule: &'a str) -> Self {
        Self { category, rule, path: None, upstream: None }
    }

    /// Composes the answer and notes it in `record`.
    pub(crate) fn compose(&self, worker: &Worker, record: &mut Record, manner: Manner) -> Vec<u8> {
        record.status = self.category.status();
        record.reason = Some(self.category);
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
        if self.category.status() == 503 {
            write::field(&mut lines, b"Retry-After", b"1");
        }
        compose(worker, record, manner, &lines, &body)
    }
}

/// A 308 to the same address under https.
pub(crate) fn redirect(worker: &Worker, record: &mut Record, manner: Manner, location: &str) -> Vec<u8> {
    record.status = 308;
    let mut lines = Vec::new();
    write::field(&mut lines, b"Location", location.as_bytes());
    compose(worker, record, manner, &lines, b"")
}

/// A 200 with a body.
pub(crate) fn ok(worker: &Worker, record: &mut Record, manner: Manner, content_type: &str, body: &[u8]) -> Vec<u8> {
    record.status = 200;
    let mut lines = Vec::new();
    write::field(&mut lines, b"Content-Type", content_type.as_bytes());
    compose(worker, record, manner, &lines, body)
}

fn compose(worker: &Worker, record: &mut Record, manner: Manner, lines: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(256 + lines.len() + body.len());
    out.extend_from_slice(b"HTTP/1.1 ");
    write::decimal(&mut out, u64::from(record.status));
    out.push(b' ');
    out.extend_from_slice(reason(record.status).as_bytes());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(lines);
    out.extend_from_slice(b"Content-Length: ");
    write::decimal(&mut out, body.len() as u64);
    out.extend_from_slice(b"\r\nDate: ");
    worker.write_http_date(&mut out);
    out.extend_from_slice(b"\r\n");
    connection_line(&mut out, manner.version, manner.after == After::Reuse);
    out.extend_from_slice(b"\r\n");
    if !manner.head {
        out.extend_from_slice(body);
        record.response_bytes = body.len() as u64;
    }
    out
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
