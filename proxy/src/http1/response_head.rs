//! Parses and judges the head of a response.
//!
//! Input: bytes as they came from an endpoint. A head that may be read in two ways is a fault of the upstream: the client
//! gets a 502 and the connection is closed.

use std::mem::MaybeUninit;

use super::field::{Fields, heap_room, stack_room};
use super::framing::{ConnectionOptions, Framing, FramingFields, Version};

/// What of the request decides how its response is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Any other request.
    Ordinary,
    /// `HEAD`: the response has no body whatever its fields say.
    Head,
    /// An upgrade: 101 is an answer.
    Upgrade,
}

/// A response head that passed every check.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'b> {
    /// 100 to 999.
    pub status: u16,
    /// May be empty.
    pub reason: &'b str,
    /// How the body ends.
    pub framing: Framing,
    /// `Content-Length`, also where there is no body (HEAD, 304).
    pub content_length: Option<u64>,
    /// The endpoint goes on using the connection.
    pub keep_alive: bool,
    /// Bytes of the head, the blank line included.
    pub length: usize,
}

/// Bytes of a response head.
pub const RESPONSE_HEAD_BYTES_MAX: usize = 256 << 10;
/// Field lines of a response.
const RESPONSE_FIELDS_MAX: usize = 1000;

impl<'b> ResponseHead<'b> {
    /// Parses the head at the start of `bytes` and fills `fields`; `None`: it is not complete yet.
    ///
    /// # Errors
    /// The first rule that the head breaks.
    pub fn parse(bytes: &'b [u8], asked: Asked, fields: &mut Fields) -> Result<Option<Self>, &'static str> {
        let line = match StatusLine::parse(bytes, &mut stack_room(), fields) {
            Err(httparse::Error::TooManyHeaders) => {
                StatusLine::parse(bytes, &mut heap_room(RESPONSE_FIELDS_MAX), fields)
            }
            line => line,
        };
        match line {
            Ok(Some(line)) if line.length <= RESPONSE_HEAD_BYTES_MAX => {
                Self::judge(bytes, line, asked, fields).map(Some)
            }
            Ok(None) if bytes.len() <= RESPONSE_HEAD_BYTES_MAX => Ok(None),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => Err("response head too large"),
            Err(_) => Err("invalid response head"),
        }
    }

    /// An interim response (RFC 9110 §15.2), after which another head follows.
    #[must_use]
    pub const fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }

    fn judge(bytes: &'b [u8], line: StatusLine<'b>, asked: Asked, fields: &mut Fields) -> Result<Self, &'static str> {
        let StatusLine { status, reason, version, length } = line;
        if !fields.lines_end_in_crlf(bytes, length) {
            return Err("line does not end in crlf");
        }
        let FramingFields { content_length, chunked } = FramingFields::read(bytes, fields, version)?;
        let options = ConnectionOptions::read(bytes, fields)?;
        let framing = match status {
            0..100 => return Err("invalid status"),
            101 if asked != Asked::Upgrade => return Err("101 to a request that asked for no upgrade"),
            101 if !options.upgrade => return Err("101 without connection: upgrade"),
            100..200 | 204 | 304 => Framing::Empty,
            _ if asked == Asked::Head => Framing::Empty,
            _ if chunked => Framing::Chunked,
            _ => match content_length {
                Some(0) => Framing::Empty,
                Some(length) => Framing::Length(length),
                None => Framing::UntilClose,
            },
        };
        Ok(Self {
            status,
            reason,
            framing,
            content_length: content_length.filter(|_| status >= 200 && status != 204),
            keep_alive: options.persists(version) && framing != Framing::UntilClose,
            length,
        })
    }
}

/// The status line as `httparse` sees it.
struct StatusLine<'b> {
    status: u16,
    reason: &'b str,
    version: Version,
    length: usize,
}

impl<'b> StatusLine<'b> {
    fn parse(
        bytes: &'b [u8],
        room: &mut [MaybeUninit<httparse::Header<'b>>],
        fields: &mut Fields,
    ) -> Result<Option<Self>, httparse::Error> {
        let mut response = httparse::Response::new(&mut []);
        let parsed =
            httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, bytes, room)?;
        let httparse::Status::Complete(length) = parsed else {
            return Ok(None);
        };
        fields.fill(bytes, response.headers);
        Ok(Some(Self {
            status: response.code.unwrap_or_default(),
            reason: response.reason.unwrap_or_default(),
            version: if response.version == Some(0) { Version::Http10 } else { Version::Http11 },
            length,
        }))
    }
}
