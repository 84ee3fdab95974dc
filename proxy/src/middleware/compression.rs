//! Compresses answers for clients that take it, whoever answers.
//!
//! What is compressed is another representation: its validator is weak, caches are told that it varies, and its length is
//! not known before its end (RFC 9110 §8.8.3, §12.5.5). What was compressed already, is a part, or must not be
//! transformed (RFC 9111 §5.2.2.6) is left alone. Content goes on as it comes: whatever is fed comes out at once. Which
//! coding a client gets is decided in [`coding`]; [`encoder`] does the work.

use std::io;
use std::task::{Context, Poll, ready};

use sealane_model::config::{self, ContentCoding};
use sealane_model::decide::HeaderView;

pub(crate) use self::encoder::Encoder;
use crate::admission::edits::{self, FieldEdits};
use crate::admission::{Edits, Seen};
use crate::answer::Source;
use crate::http1::field::members;

mod coding;
mod encoder;

/// Compiled.
#[derive(Debug)]
pub(crate) struct Compression {
    /// `text/html`, or `text/` for all below.
    types: Vec<String>,
    length_min: u64,
    level: u32,
    /// In order of preference.
    codings: Vec<ContentCoding>,
}

/// An answer, as far as compression looks at it.
pub(crate) struct Subject<'a> {
    pub(crate) status: u16,
    /// Of its content, if it is known.
    pub(crate) length: Option<u64>,
    pub(crate) lines: &'a dyn HeaderView,
}

/// Fields that say something of the content's bytes as they were.
const DIGESTS: [&str; 4] = ["content-digest", "repr-digest", "digest", "content-md5"];

impl Compression {
    pub(crate) fn compile(config: &config::Compression) -> Self {
        let types = config.types.iter().map(|text| text.strip_suffix('*').unwrap_or(text).to_owned());
        Self {
            types: types.collect(),
            length_min: config.length_min,
            level: config.level,
            codings: config.codings.clone(),
        }
    }

    /// Notes what the client takes.
    pub(crate) fn look(&self, seen: &Seen<'_>, edits: &mut Edits) {
        edits.coding = coding::choose(&self.codings, seen.sent("accept-encoding"));
    }

    /// Begins to compress an answer, if it is to be; its fields are edited accordingly. `taken`: what the client takes.
    pub(crate) fn begin(
        &self,
        subject: &Subject<'_>,
        taken: Option<ContentCoding>,
        edits: &mut FieldEdits,
    ) -> Option<Encoder> {
        if !self.fits(subject) {
            return None;
        }
        let varies =
            |value: &[u8]| members(value).any(|name| name == b"*" || name.eq_ignore_ascii_case(b"accept-encoding"));
        if !subject.lines.any_value("vary", &mut |value| varies(value)) {
            edits.add(b"Vary", b"Accept-Encoding");
        }
        let coding = taken?;
        // Without memory for it the answer goes on as it is.
        let encoder = Encoder::new(coding, self.level).ok()?;
        edits.set(b"Content-Encoding", coding::name(coding).as_bytes());
        edits.remove(b"Accept-Ranges");
        let mut weak = Vec::new();
        subject.lines.any_value("etag", &mut |value| {
            if value.starts_with(b"\"") {
                weak = [b"W/", value].concat();
            }
            true
        });
        if !weak.is_empty() {
            edits.set(b"ETag", &weak);
        }
        Some(encoder)
    }

    fn fits(&self, subject: &Subject<'_>) -> bool {
        let has = |name: &str| subject.lines.any_value(name, &mut |_| true);
        let is_whole = matches!(subject.status, 200..=203 | 300.. ) && !matches!(subject.status, 304);
        let is_long = subject.length.is_none_or(|length| length >= self.length_min.max(1));
        let fits_type = || {
            let mut fits = false;
            subject.lines.any_value("content-type", &mut |value| {
                fits = self.takes_type(value);
                true
            });
            fits
        };
        let no_transform = |value: &[u8]| members(value).any(|member| member.eq_ignore_ascii_case(b"no-transform"));
        is_whole
            && is_long
            && fits_type()
            && !subject.lines.any_value("content-encoding", &mut |value| !value.eq_ignore_ascii_case(b"identity"))
            && !has("content-range")
            && !subject.lines.any_value("cache-control", &mut |value| no_transform(value))
            && !DIGESTS.iter().any(|name| has(name))
    }

    fn takes_type(&self, value: &[u8]) -> bool {
        let end = memchr::memchr(b';', value).unwrap_or(value.len());
        let found = value[..end].trim_ascii();
        self.types.iter().any(|text| {
            let text = text.as_bytes();
            let start = if text.ends_with(b"/") { found.get(..text.len()) } else { Some(found) };
            start.is_some_and(|start| start.eq_ignore_ascii_case(text))
        })
    }
}

/// Content that comes in pieces, compressed on its way.
pub(crate) struct Compressed {
    pub(crate) source: Box<dyn Source>,
    pub(crate) encoder: Encoder,
    pub(crate) piece: Vec<u8>,
}

impl Source for Compressed {
    fn poll_piece(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<io::Result<bool>> {
        self.piece.clear();
        let more = ready!(self.source.poll_piece(cx, &mut self.piece))?;
        self.encoder.feed(&self.piece, !more, out)?;
        Poll::Ready(Ok(more))
    }
}

/// Whole lines, as decisions look at them.
pub(crate) struct Lines<'a>(pub(crate) &'a [u8]);

impl HeaderView for Lines<'_> {
    fn any_value(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        edits::lines(self.0)
            .any(|line| edits::name_of(line).eq_ignore_ascii_case(name.as_bytes()) && test(edits::value_of(line)))
    }
}
