//! A stored answer made into what one client gets: the whole, a part, only the head, or that it has it already.
//!
//! Composes lines and says which bytes follow; who sends them is not known here.

use std::ops::Range;
use std::sync::Arc;

use sealane_model::decide::HeaderView;

use super::body::{Body, Reader};
use super::conditional;
use super::entry::Entry;
use super::range::{self, Part};
use crate::http1::write;

/// How a stored answer comes to be served, for `Cache-Status` (RFC 9211) and the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// From the store.
    Hit,
    /// From the store, though no longer fresh.
    Stale,
    /// After the origin said that it still holds.
    Revalidated,
    /// Because the origin failed; with the status it answered, if it did.
    Error(Option<u16>),
    /// Fetched by somebody else who asked for it first.
    Collapsed,
}

/// Why a request went to the origin (RFC 9211 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forward {
    /// Nothing was stored for the resource.
    Miss,
    /// What was stored is for other requests.
    VaryMiss,
    /// What was stored is stale.
    Stale,
    /// The client wanted the origin asked.
    Request,
    /// The cache does not take such requests.
    Bypass,
    /// The cache does not take this method.
    Method,
}

impl Forward {
    const fn name(self) -> &'static str {
        match self {
            Self::Miss => "miss",
            Self::VaryMiss => "vary-miss",
            Self::Stale => "stale",
            Self::Request => "request",
            Self::Bypass => "bypass",
            Self::Method => "method",
        }
    }
}

/// What one client gets.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) status: u16,
    /// Whole lines, without those of framing and connection.
    pub(crate) lines: Vec<u8>,
    /// Bytes of the content, if that is known.
    pub(crate) length: Option<u64>,
    pub(crate) content: Reader,
}

/// Makes the answer for a request with these fields. `now_ms` is monotonic, `wall` in seconds since 1970.
pub(crate) fn serve(
    entry: &Arc<Entry>,
    request: &impl HeaderView,
    is_get: bool,
    how: How,
    now_ms: u64,
    wall: u64,
) -> Served {
    if entry.status == 200 && conditional::is_not_modified(request, entry.head(), entry.date, wall) {
        return not_modified(entry, how, now_ms);
    }
    let length = entry.body.length().or(entry.announced);
    let part = match length {
        Some(length) if is_get && entry.status == 200 => part(entry, request, length),
        _ => Part::Whole,
    };
    let gzip = entry.gzipped().filter(|_| part == Part::Whole && accepts_gzip(request));
    let stored = entry.head().view().0;
    let mut lines = Vec::with_capacity(stored.len() + 192);
    match gzip {
        Some(_) => write_gzip_lines(&mut lines, entry),
        None => lines.extend_from_slice(stored),
    }
    if matches!(entry.gzip, super::entry::Gzip::Made(_)) {
        write_vary(&mut lines, entry);
    }
    write_added(&mut lines, entry, how, now_ms);
    let body = gzip.unwrap_or(&entry.body);
    let whole = |status, lines, length, range: Option<Range<u64>>| Served {
        status,
        lines,
        length,
        content: match range {
            Some(range) => Reader::part(Arc::clone(body), range),
            None => Reader::new(Arc::clone(body)),
        },
    };
    match (part, length) {
        (Part::Bytes(range), Some(length)) => {
            let value = format!("bytes {}-{}/{length}", range.start, range.end - 1);
            write::field(&mut lines, b"Content-Range", value.as_bytes());
            whole(206, lines, Some(range.end - range.start), Some(range))
        }
        (Part::Unsatisfiable, Some(length)) => {
            write::field(&mut lines, b"Content-Range", format!("bytes */{length}").as_bytes());
            whole(416, lines, Some(0), Some(0..0))
        }
        (_, length) => {
            let length = gzip.map_or(length, |body| body.length());
            whole(entry.status, lines, length, None)
        }
    }
}

/// 304 with what RFC 9110 §15.4.5 asks for.
fn not_modified(entry: &Arc<Entry>, how: How, now_ms: u64) -> Served {
    const SENT: [&str; 7] =
        ["cache-control", "content-location", "date", "etag", "expires", "vary", "cdn-cache-control"];
    let mut lines = Vec::with_capacity(256);
    let mut tagged = false;
    for (name, _, line) in entry.head().view().lines() {
        let is = |text: &str| name.eq_ignore_ascii_case(text.as_bytes());
        if SENT.iter().any(|sent| is(sent)) {
            tagged |= is("etag");
            lines.extend_from_slice(line);
        }
    }
    if !tagged {
        let modified = entry.head().view().lines().find(|(name, ..)| name.eq_ignore_ascii_case(b"last-modified"));
        lines.extend_from_slice(modified.map_or(b"", |(.., line)| line));
    }
    write_added(&mut lines, entry, how, now_ms);
    Served { status: 304, lines, length: Some(0), content: Reader::part(Arc::clone(&entry.body), 0..0) }
}

fn part(entry: &Arc<Entry>, request: &impl HeaderView, length: u64) -> Part {
    let mut part = Part::Whole;
    let mut lines = 0;
    request.any_value("range", &mut |value| {
        lines += 1;
        part = range::parse(value, length);
        false
    });
    let holds = lines == 1 && part != Part::Whole && conditional::range_holds(request, entry.head());
    if holds { part } else { Part::Whole }
}

/// `Age`, `Cache-Status` and `X-Cache`.
fn write_added(lines: &mut Vec<u8>, entry: &Entry, how: How, now_ms: u64) {
    let age = entry.policy.age_ms(now_ms) / 1000;
    lines.extend_from_slice(b"Age: ");
    write::decimal(lines, age);
    lines.extend_from_slice(b"\r\n");
    lines.extend_from_slice(b"Cache-Status: sealane; ");
    let ttl = entry.policy.ttl(now_ms);
    match how {
        How::Hit | How::Stale => {
            lines.extend_from_slice(b"hit; ttl=");
            if ttl < 0 {
                lines.push(b'-');
            }
            write::decimal(lines, ttl.unsigned_abs());
            lines.extend_from_slice(b"\r\nX-Cache: HIT\r\n");
        }
        How::Revalidated => lines.extend_from_slice(b"fwd=stale; fwd-status=304\r\nX-Cache: HIT\r\n"),
        How::Error(status) => {
            lines.extend_from_slice(b"fwd=stale; ");
            if let Some(status) = status {
                lines.extend_from_slice(format!("fwd-status={status}; ").as_bytes());
            }
            lines.extend_from_slice(format!("ttl={ttl}; detail=stale-if-error\r\nX-Cache: HIT\r\n").as_bytes());
        }
        How::Collapsed => lines.extend_from_slice(b"fwd=miss; collapsed\r\nX-Cache: HIT\r\n"),
    }
}

/// The rest of a `Cache-Status` line of an answer that came from the origin.
fn write_forward(lines: &mut Vec<u8>, forward: Forward, stored: bool) {
    lines.extend_from_slice(b"fwd=");
    lines.extend_from_slice(forward.name().as_bytes());
    lines.extend_from_slice(if stored { b"; stored\r\n" } else { b"\r\n" });
    lines.extend_from_slice(b"X-Cache: MISS\r\n");
}

/// The lines that the client gets beside those of an answer that is being stored.
pub(crate) fn filled_lines(entry: &Entry, forward: Forward) -> Vec<u8> {
    let mut lines = b"Cache-Status: sealane; ".to_vec();
    write_forward(&mut lines, forward, true);
    if matches!(entry.gzip, super::entry::Gzip::Made(_)) {
        write_vary(&mut lines, entry);
    }
    lines
}

/// The line for an answer that came from the origin and is not stored.
pub(crate) fn forwarded_line(forward: Forward) -> Vec<u8> {
    let mut lines = b"Cache-Status: sealane; ".to_vec();
    write_forward(&mut lines, forward, false);
    lines
}

/// The stored lines as they are for compressed content: its coding, and an entity tag that is no longer strong.
fn write_gzip_lines(lines: &mut Vec<u8>, entry: &Entry) {
    for (name, value, line) in entry.head().view().lines() {
        let is = |text: &str| name.eq_ignore_ascii_case(text.as_bytes());
        if is("etag") && value.starts_with(b"\"") {
            lines.extend_from_slice(b"ETag: W/");
            lines.extend_from_slice(value);
            lines.extend_from_slice(b"\r\n");
        } else if !is("content-md5") && !is("digest") && !is("content-digest") && !is("accept-ranges") {
            lines.extend_from_slice(line);
        }
    }
    lines.extend_from_slice(b"Content-Encoding: gzip\r\n");
}

/// Others on the way must know that there are two forms of it.
fn write_vary(lines: &mut Vec<u8>, entry: &Entry) {
    let varies = entry.head().any_value("vary", &mut |value| {
        value.split(|&byte| byte == b',').any(|member| member.trim_ascii().eq_ignore_ascii_case(b"accept-encoding"))
    });
    if !varies {
        lines.extend_from_slice(b"Vary: Accept-Encoding\r\n");
    }
}

/// Whether the client takes gzip (RFC 9110 §12.5.3).
pub(crate) fn accepts_gzip(request: &impl HeaderView) -> bool {
    let mut named = None;
    let mut any = false;
    request.any_value("accept-encoding", &mut |value| {
        for member in value.split(|&byte| byte == b',') {
            let mut parts = member.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
            let coding = parts.next().unwrap_or_default();
            let refused = parts.any(|part| {
                let weight = part.strip_prefix(b"q=").or_else(|| part.strip_prefix(b"Q="));
                weight.is_some_and(|weight| weight.iter().all(|byte| matches!(byte, b'0' | b'.')))
            });
            if coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip") {
                named = Some(!refused);
            } else if coding == b"*" {
                any = !refused;
            }
        }
        false
    });
    named.unwrap_or(any)
}

/// Whether content with this head is worth compressing, and may be.
pub(crate) fn is_compressible(head: &impl HeaderView) -> bool {
    let encoded = head.any_value("content-encoding", &mut |value| !value.eq_ignore_ascii_case(b"identity"));
    let no_transform = head.any_value("cache-control", &mut |value| {
        memchr::memmem::find(&value.to_ascii_lowercase(), b"no-transform").is_some()
    });
    let ranged = head.any_value("content-range", &mut |_| true);
    let text = head.any_value("content-type", &mut |value| {
        let essence = value.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
        essence.starts_with(b"text/")
            || essence.ends_with(b"+json")
            || essence.ends_with(b"+xml")
            || [
                &b"application/json"[..],
                b"application/javascript",
                b"application/x-javascript",
                b"application/xml",
                b"application/wasm",
                b"application/manifest+json",
                b"image/svg+xml",
                b"application/x-ndjson",
                b"font/ttf",
                b"font/otf",
                b"image/bmp",
                b"application/vnd.ms-fontobject",
            ]
            .contains(&&*essence)
    });
    text && !encoded && !no_transform && !ranged
}

/// Compresses, for the threads beside the workers.
pub(crate) fn gzip(body: &Body, level: u32) -> Option<Vec<u8>> {
    use std::io::Write as _;
    let pieces = body.pieces()?;
    let length = body.length()?;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    for piece in pieces {
        encoder.write_all(piece).ok()?;
    }
    let compressed = encoder.finish().ok()?;
    // What does not get smaller is not worth its place.
    (compressed.len() as u64 * 10 < length * 9).then_some(compressed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::tests::Lines;

    #[test]
    fn gzip_is_taken_where_it_is_not_refused() {
        let check = |value: &str, expected| {
            assert_eq!(accepts_gzip(&Lines(&[("accept-encoding", value)])), expected, "{value}");
        };
        check("gzip", true);
        check("br, GZIP;q=0.5", true);
        check("gzip;q=0", false);
        check("gzip; q=0.000", false);
        check("*", true);
        check("*;q=0", false);
        check("gzip;q=0, *", false);
        check("br", false);
        check("", false);
    }

    #[test]
    fn only_text_that_may_be_changed_is_compressed() {
        let check =
            |lines: &[(&str, &str)], expected| assert_eq!(is_compressible(&Lines(lines)), expected, "{lines:?}");
        check(&[("content-type", "text/html; charset=utf-8")], true);
        check(&[("content-type", "application/problem+json")], true);
        check(&[("content-type", "image/png")], false);
        check(&[("content-type", "text/html"), ("content-encoding", "br")], false);
        check(&[("content-type", "text/html"), ("cache-control", "max-age=5, No-Transform")], false);
        check(&[], false);
    }
}
