//! How the end of a message body is found (RFC 9112 §6), and the refusals that keep it unambiguous.

use super::field::{Fields, Known, KnownSet, members};

/// The protocol version of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    Empty,
    /// After this many bytes; at least one.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection. Responses only.
    UntilClose,
}

/// What the framing fields of a head say, each of them at most once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FramingFields {
    pub(super) content_length: Option<u64>,
    pub(super) chunked: bool,
}

impl FramingFields {
    /// Reads `Content-Length` and `Transfer-Encoding`. Stricter than RFC 9112 §6.3, which lets equal lengths be merged
    /// and lets Transfer-Encoding win over Content-Length: what another implementation may read differently is refused.
    pub(super) fn read(bytes: &[u8], fields: &Fields, version: Version) -> Result<Self, &'static str> {
        let mut found = Self::default();
        if !fields.had_any(KnownSet::of(&[Known::ContentLength, Known::TransferEncoding])) {
            return Ok(found);
        }
        for field in fields.lines() {
            match field.known {
                Known::ContentLength => {
                    if found.content_length.is_some() {
                        return Err("several content-length fields");
                    }
                    found.content_length = Some(length(field.value.of_bytes(bytes)).ok_or("invalid content-length")?);
                }
                Known::TransferEncoding => {
                    if found.chunked {
                        return Err("several transfer-encoding fields");
                    }
                    if !field.value.of_bytes(bytes).eq_ignore_ascii_case(b"chunked") {
                        return Err("transfer-encoding is not chunked");
                    }
                    found.chunked = true;
                }
                _ => {}
            }
        }
        if found.chunked && found.content_length.is_some() {
            return Err("content-length with transfer-encoding");
        }
        if found.chunked && version == Version::Http10 {
            return Err("transfer-encoding in an http/1.0 message");
        }
        Ok(found)
    }
}

/// Digits only, no sign, no space, no list, no overflow.
fn length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    value.iter().try_fold(0u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
}

/// What the `Connection` fields of a head say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ConnectionOptions {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
}

/// More options than this in one head are an attempt to make the proxy work.
const OPTIONS_MAX: usize = 64;

impl ConnectionOptions {
    /// Reads `Connection` and takes out the fields that it names (RFC 9110 §7.6.1). Framing and `Host` stay: they are
    /// judged, not forwarded. Fields that the proxy adds are written afterwards, so they cannot be named away.
    pub(super) fn read(bytes: &[u8], fields: &mut Fields) -> Result<Self, &'static str> {
        let mut found = Self::default();
        if !fields.had_any(KnownSet::of(&[Known::Connection])) {
            return Ok(found);
        }
        let mut options = 0;
        for index in 0..fields.lines().len() {
            let field = fields.lines()[index];
            if field.known != Known::Connection {
                continue;
            }
            for option in members(field.value.of_bytes(bytes)) {
                options += 1;
                if options > OPTIONS_MAX {
                    return Err("too many connection options");
                }
                match option {
                    _ if option.eq_ignore_ascii_case(b"close") => found.close = true,
                    _ if option.eq_ignore_ascii_case(b"keep-alive") => found.keep_alive = true,
                    _ if option.eq_ignore_ascii_case(b"upgrade") => found.upgrade = true,
                    // `TE` and `Connection` are handled by name already.
                    _ if matches!(Known::of(option), Known::Te | Known::Connection) => {}
                    _ => fields.drop_where(bytes, |name| name.eq_ignore_ascii_case(option)),
                }
            }
        }
        Ok(found)
    }

    /// Whether the connection persists after this message (RFC 9112 §9.3).
    pub(super) const fn persists(self, version: Version) -> bool {
        match version {
            Version::Http11 => !self.close,
            Version::Http10 => self.keep_alive && !self.close,
        }
    }
}
