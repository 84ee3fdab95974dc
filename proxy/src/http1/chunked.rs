//! Decodes the chunked transfer coding (RFC 9112 §7.1), strictly: hexadecimal sizes, CRLF everywhere, extensions bounded
//! and dropped, trailers bounded, parsed and kept apart from framing.

use super::field::{Known, KnownSet};

/// A decoder for one body. Feed it what is read, in pieces of any size.
#[derive(Clone, Debug, Default)]
pub struct ChunkDecoder {
    state: State,
    /// Bytes left of the chunk, or its size so far.
    left: u64,
    digits: u8,
    /// Extension bytes of the whole body.
    extension_bytes: u16,
    /// Trailer lines as sent, until the blank line.
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    /// White space before an extension.
    Blank,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the start of a trailer line or the blank line.
    TrailerStart,
    TrailerLine,
    TrailerLf,
    EndLf,
    Done,
}

/// Hexadecimal digits of a size: up to 2^60 bytes.
const DIGITS_MAX: u8 = 15;
/// Extension bytes of a whole body; nobody uses them but to make proxies work.
const EXTENSION_BYTES_MAX: u16 = 4096;
/// Trailer bytes.
const TRAILER_BYTES_MAX: usize = 16 << 10;
/// Trailer lines.
const TRAILERS_MAX: usize = 64;

impl ChunkDecoder {
    /// Decodes from the start of `input`, passes each piece of data to `data`, and returns how many bytes belonged to
    /// the body. [`Self::is_done`] tells whether it is complete.
    ///
    /// # Errors
    /// The rule that the body breaks. The connection must not be used further.
    pub fn decode(&mut self, input: &[u8], data: impl FnMut(&[u8])) -> Result<usize, &'static str> {
        self.decode_up_to(input, usize::MAX, data)
    }

    /// As [`Self::decode`], but stops before it would pass more than `data_max` bytes of data.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn decode_up_to(
        &mut self,
        input: &[u8],
        mut data_max: usize,
        mut data: impl FnMut(&[u8]),
    ) -> Result<usize, &'static str> {
        let mut at = 0;
        while at < input.len() && self.state != State::Done {
            let byte = input[at];
            match self.state {
                State::Data => {
                    let available = data_max.min(input.len() - at);
                    let length = usize::try_from(self.left).map_or(available, |left| left.min(available));
                    if length == 0 {
                        return Ok(at);
                    }
                    data_max -= length;
                    data(&input[at..at + length]);
                    self.left -= length as u64;
                    at += length;
                    if self.left == 0 {
                        self.state = State::DataCr;
                    }
                    continue;
                }
                State::TrailerLine => {
                    let line = &input[at..];
                    let length = memchr::memchr(b'\r', line).unwrap_or(line.len());
                    self.keep_trailer(&line[..length])?;
                    at += length;
                    if at < input.len() {
                        self.state = State::TrailerLf;
                        at += 1;
                    }
                    continue;
                }
                _ => self.step(byte)?,
            }
            at += 1;
        }
        Ok(at)
    }

    /// Whether the last chunk and the trailers have been decoded.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Appends the trailer fields that may be forwarded, as lines.
    ///
    /// # Errors
    /// Malformed trailers, or framing among them.
    pub fn write_trailers(&self, out: &mut Vec<u8>) -> Result<(), &'static str> {
        if self.trailers.is_empty() {
            return Ok(());
        }
        let mut room = [httparse::EMPTY_HEADER; TRAILERS_MAX];
        let Ok(httparse::Status::Complete((_, trailers))) = httparse::parse_headers(&self.trailers, &mut room) else {
            return Err("invalid trailers");
        };
        for trailer in trailers {
            let known = Known::of(trailer.name.as_bytes());
            if matches!(known, Known::ContentLength | Known::TransferEncoding | Known::Host) {
                return Err("framing in trailers");
            }
            if !NOT_IN_TRAILERS.contains(known) {
                super::write::field(out, trailer.name.as_bytes(), trailer.value);
            }
        }
        Ok(())
    }

    fn step(&mut self, byte: u8) -> Result<(), &'static str> {
        self.state = match (self.state, byte) {
            (State::Size, b'\r') if self.digits > 0 => State::SizeLf,
            (State::Size, b';') if self.digits > 0 => State::Extension,
            // "Bad" white space may stand before an extension, and nowhere else (RFC 9112 §7.1.1).
            (State::Size | State::Blank, b' ' | b'\t') if self.digits > 0 => {
                self.count_extension_byte()?;
                State::Blank
            }
            (State::Blank, b';') => State::Extension,
            (State::Blank, _) => return Err("invalid chunk size"),
            (State::Size, _) => {
                let digit = (byte as char).to_digit(16).ok_or("invalid chunk size")?;
                self.digits += 1;
                if self.digits > DIGITS_MAX {
                    return Err("chunk size too large");
                }
                self.left = self.left << 4 | u64::from(digit);
                State::Size
            }
            (State::Extension, b'\r') => State::SizeLf,
            (State::Extension, b'\t' | b' '..=0x7e | 0x80..) => {
                self.count_extension_byte()?;
                State::Extension
            }
            (State::Extension, _) => return Err("invalid chunk extension"),
            (State::SizeLf, b'\n') => {
                self.digits = 0;
                if self.left == 0 { State::TrailerStart } else { State::Data }
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size,
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::TrailerStart, _) => {
                self.keep_trailer(&[byte])?;
                State::TrailerLine
            }
            (State::TrailerLf, b'\n') => {
                self.keep_trailer(b"\r\n")?;
                State::TrailerStart
            }
            (State::EndLf, b'\n') => {
                if !self.trailers.is_empty() {
                    self.keep_trailer(b"\r\n")?;
                }
                State::Done
            }
            _ => return Err("invalid line ending in a chunked body"),
        };
        Ok(())
    }

    const fn count_extension_byte(&mut self) -> Result<(), &'static str> {
        self.extension_bytes += 1;
        if self.extension_bytes > EXTENSION_BYTES_MAX { Err("chunk extensions too long") } else { Ok(()) }
    }

    fn keep_trailer(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        if self.trailers.len() + bytes.len() > TRAILER_BYTES_MAX {
            return Err("trailers too large");
        }
        if memchr::memchr(b'\n', bytes).is_some_and(|at| at == 0 || bytes[at - 1] != b'\r') {
            return Err("invalid line ending in trailers");
        }
        self.trailers.extend_from_slice(bytes);
        Ok(())
    }
}

/// What a trailer may not change after the fact: hop-by-hop fields and those on which the proxy has already acted.
const NOT_IN_TRAILERS: KnownSet = KnownSet::HOP_BY_HOP.and(KnownSet::of(&[
    Known::Trailer,
    Known::Expect,
    Known::XForwardedFor,
    Known::XForwardedProto,
    Known::XForwardedHost,
    Known::XRealIp,
    Known::Forwarded,
    Known::XRequestId,
    Known::XSandboxId,
    Known::XAlbSandbox,
    Known::XAlbRouteId,
]));
