//! One direction of a body: decoded from the framing it came with, framed anew for the other side.

use super::chunked::ChunkDecoder;
use super::framing::Framing;
use super::write;

/// What of a body is still to come.
#[derive(Clone, Debug)]
pub enum Body {
    /// Nothing.
    Done,
    /// This many bytes; at least one.
    Length(u64),
    /// Chunks.
    Chunked(ChunkDecoder),
    /// Everything until the connection ends.
    UntilClose,
}

/// How the other side is told where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// By a length or by the end of the connection: data goes out as it is.
    Identity,
    /// By the last chunk.
    Chunked,
}

/// What came of feeding some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fed {
    /// Bytes that belonged to the body; what follows them does not.
    pub consumed: usize,
    /// Bytes of content among them.
    pub content: u64,
}

impl Body {
    /// The body that `framing` announces.
    #[must_use]
    pub fn expected(framing: Framing) -> Self {
        match framing {
            Framing::Empty => Self::Done,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(ChunkDecoder::default()),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Whether nothing more is to come.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Takes what belongs to the body from the start of `input` and appends it to `out` in `coding`, the end included
    /// once it is reached.
    ///
    /// # Errors
    /// The rule of the chunked coding that the body breaks.
    pub fn feed(&mut self, input: &[u8], coding: Coding, out: &mut Vec<u8>) -> Result<Fed, &'static str> {
        let fed = match self {
            Self::Done => return Ok(Fed { consumed: 0, content: 0 }),
            Self::Length(_) | Self::UntilClose => {
                let consumed = self.advance(input.len());
                write::content(out, coding, &input[..consumed]);
                Fed { consumed, content: consumed as u64 }
            }
            Self::Chunked(decoder) => {
                let mut content = 0;
                let consumed = decoder.decode(input, |data| {
                    content += data.len() as u64;
                    write::content(out, coding, data);
                })?;
                if decoder.is_done() {
                    if coding == Coding::Chunked {
                        out.extend_from_slice(b"0\r\n");
                        decoder.write_trailers(out)?;
                        out.extend_from_slice(b"\r\n");
                    }
                    *self = Self::Done;
                }
                return Ok(Fed { consumed, content });
            }
        };
        if self.is_done() && coding == Coding::Chunked {
            out.extend_from_slice(b"0\r\n\r\n");
        }
        Ok(fed)
    }

    /// Takes up to `available` bytes of content that are sent on without looking at them. Not for chunks.
    pub fn advance(&mut self, available: usize) -> usize {
        match self {
            Self::Length(left) => {
                let taken = usize::try_from(*left).map_or(available, |left| left.min(available));
                *left -= taken as u64;
                if *left == 0 {
                    *self = Self::Done;
                }
                taken
            }
            Self::UntilClose => available,
            Self::Done | Self::Chunked(_) => 0,
        }
    }

    /// The sender closed the connection. Whether that ends the body; if so, the end is appended to `out`.
    #[must_use]
    pub fn close(&mut self, coding: Coding, out: &mut Vec<u8>) -> bool {
        match self {
            Self::UntilClose => {
                *self = Self::Done;
                if coding == Coding::Chunked {
                    out.extend_from_slice(b"0\r\n\r\n");
                }
                true
            }
            Self::Done => true,
            Self::Length(_) | Self::Chunked(_) => false,
        }
    }
}
