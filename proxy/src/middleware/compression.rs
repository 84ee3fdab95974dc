//! Compresses answers for clients that take gzip, whoever answers.
//!
//! What is compressed is another representation: its validator is weak, caches are told that it varies, and its length is
//! not known before its end (RFC 9110 §8.8.3, §12.5.5). What was compressed already, is a part, or must not be
//! transformed (RFC 9111 §5.2.2.6) is left alone. Content goes on as it comes: whatever is fed comes out at once.

use std::task::{Context, Poll, ready};
use std::{fmt, io};

use flate2::{Compress, Crc, FlushCompress, Status};
use sealane_model::config;
use sealane_model::decide::HeaderView;

use crate::admission::edits::{self, FieldEdits};
use crate::admission::{Edits, Seen};
use crate::answer::Source;
use crate::http1::field::members;

/// Compiled.
#[derive(Debug)]
pub(crate) struct Compression {
    /// `text/html`, or `text/` for all below.
    types: Vec<String>,
    length_min: u64,
    level: u32,
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
        Self { types: types.collect(), length_min: config.length_min, level: config.level }
    }

    /// Notes whether the client takes gzip.
    pub(crate) fn look(&self, seen: &Seen<'_>, edits: &mut Edits) {
        edits.takes_gzip = takes_gzip(seen.sent("accept-encoding"));
    }

    /// Begins to compress an answer, if it is to be; its fields are edited accordingly. `taken`: the client takes gzip.
    pub(crate) fn begin(&self, subject: &Subject<'_>, taken: bool, edits: &mut FieldEdits) -> Option<Gzip> {
        if !self.fits(subject) {
            return None;
        }
        let varies =
            |value: &[u8]| members(value).any(|name| name == b"*" || name.eq_ignore_ascii_case(b"accept-encoding"));
        if !subject.lines.any_value("vary", &mut |value| varies(value)) {
            edits.add(b"Vary", b"Accept-Encoding");
        }
        if !taken {
            return None;
        }
        edits.set(b"Content-Encoding", b"gzip");
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
        Some(Gzip::new(self.level))
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

/// Whether gzip is acceptable, and nothing else is wanted more (RFC 9110 §12.5.3).
fn takes_gzip<'a>(lines: impl Iterator<Item = &'a [u8]>) -> bool {
    let (mut gzip, mut any, mut identity) = (None, None, None);
    for member in lines.flat_map(members) {
        let mut parts = member.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
        let coding = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix(b"q=").or_else(|| part.strip_prefix(b"Q=")));
        let weight = match weight {
            None => 1000,
            Some(text) => match std::str::from_utf8(text).ok().and_then(|text| text.parse::<f32>().ok()) {
                Some(weight) if (0.0..=1.0).contains(&weight) => (weight * 1000.0) as u32,
                _ => 0,
            },
        };
        if coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip") {
            gzip = Some(weight);
        } else if coding == b"*" {
            any = Some(weight);
        } else if coding.eq_ignore_ascii_case(b"identity") {
            identity = Some(weight);
        }
    }
    let gzip = gzip.or(any).unwrap_or(0);
    gzip > 0 && identity.unwrap_or(0) <= gzip
}

/// One content on its way into gzip (RFC 1952).
pub(crate) struct Gzip {
    compress: Compress,
    crc: Crc,
    is_begun: bool,
}

impl fmt::Debug for Gzip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gzip").field("bytes", &self.crc.amount()).finish_non_exhaustive()
    }
}

impl Gzip {
    fn new(level: u32) -> Self {
        Self { compress: Compress::new(flate2::Compression::new(level), false), crc: Crc::new(), is_begun: false }
    }

    /// Appends what becomes of `input` to `out`, so that the client can read all of it; with `last`, the end too.
    pub(crate) fn feed(&mut self, mut input: &[u8], last: bool, out: &mut Vec<u8>) {
        if !self.is_begun {
            self.is_begun = true;
            out.extend_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]);
        }
        self.crc.update(input);
        if !input.is_empty() || last {
            let flush = if last { FlushCompress::Finish } else { FlushCompress::Sync };
            loop {
                out.reserve(input.len() / 2 + 1024);
                let before = self.compress.total_in();
                // Fails on a compressor that has ended only, and this one has not.
                let Ok(status) = self.compress.compress_vec(input, out, flush) else { break };
                input = &input[(self.compress.total_in() - before) as usize..];
                let has_room = out.len() < out.capacity();
                if status == Status::StreamEnd || (!last && input.is_empty() && has_room) {
                    break;
                }
            }
        }
        if last {
            out.extend_from_slice(&self.crc.sum().to_le_bytes());
            out.extend_from_slice(&self.crc.amount().to_le_bytes());
        }
    }
}

/// Content that comes in pieces, compressed on its way.
pub(crate) struct Gzipped {
    pub(crate) source: Box<dyn Source>,
    pub(crate) gzip: Gzip,
    pub(crate) piece: Vec<u8>,
}

impl Source for Gzipped {
    fn poll_piece(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<io::Result<bool>> {
        self.piece.clear();
        let more = ready!(self.source.poll_piece(cx, &mut self.piece))?;
        self.gzip.feed(&self.piece, !more, out);
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

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn gzip_is_taken_when_it_is_acceptable_and_not_less_wanted_than_nothing() {
        let check = |value: &str, expected| assert_eq!(takes_gzip([value.as_bytes()].into_iter()), expected, "{value}");
        check("gzip", true);
        check("br, GZIP;q=0.5", true);
        check("x-gzip", true);
        check("*", true);
        check("*;q=0", false);
        check("*, gzip;q=0", false);
        check("gzip;q=0", false);
        check("gzip; q=0.000", false);
        check("gzip;q=nonsense", false);
        check("gzip;q=0.5, identity", false);
        check("gzip;q=0.5, identity;q=0.1", true);
        check("deflate, br", false);
        check("gzipped", false);
        check("", false);
        assert!(!takes_gzip(std::iter::empty()));
    }

    #[test]
    fn what_is_fed_can_be_read_at_once_and_the_whole_is_what_it_was() {
        let text: Vec<u8> = (0..200_000u32).flat_map(|number| (number % 977).to_string().into_bytes()).collect();
        for size in [1, 7, 1000, 65_536, text.len()] {
            let mut gzip = Gzip::new(5);
            let mut out = Vec::new();
            let fed = &text[..text.len().min(size * 300)];
            for piece in fed.chunks(size) {
                gzip.feed(piece, false, &mut out);
            }
            let mut partial = vec![0; fed.len()];
            flate2::read::GzDecoder::new(&out[..]).read_exact(&mut partial).unwrap();
            assert_eq!(partial, fed, "pieces of {size}");
            gzip.feed(b"", true, &mut out);
            let mut whole = Vec::new();
            flate2::read::GzDecoder::new(&out[..]).read_to_end(&mut whole).unwrap();
            assert_eq!(whole, fed, "pieces of {size}");
        }
        let mut out = Vec::new();
        Gzip::new(9).feed(b"", true, &mut out);
        let mut whole = Vec::new();
        flate2::read::GzDecoder::new(&out[..]).read_to_end(&mut whole).unwrap();
        assert!(whole.is_empty());
    }
}
