//! The field blocks of a connection: put together from the payloads of HEADERS and CONTINUATION, and judged by what
//! [`super::hpack`] sees in them.
//!
//! `h2` reads the same blocks afterwards. What it would not tell is told here; everything else is its business.

use h2::Reason;

use super::frame::{CONTINUATION, END_HEADERS, Frame, HEADERS};
use super::hpack::{Seen, Table};

/// The block at hand, and the table behind all of them.
#[derive(Debug)]
pub(super) struct Blocks {
    table: Table,
    frame: Frame,
    /// Of the frame's payload, what came already and what is still to come.
    payload: Vec<u8>,
    left: usize,
    /// Of the block, what is not a whole field yet.
    rest: Vec<u8>,
    /// Bytes of it with which it is read again: each time twice as many, so that a field in many frames costs its length,
    /// not its length for every frame.
    rest_wanted: usize,
    seen: Seen,
    is_trailers: bool,
    depends_on_itself: bool,
}

/// What is wrong with a message, and would be lost on its way through `h2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// Trailers with a pseudo-field (RFC 9113 §8.1). `h2` drops it.
    PseudoTrailers,
    /// A `:path` that is none (RFC 9113 §8.3.1). `h2` changes it.
    OddPath,
}

/// Bytes that a field may take, compressed. What is refused as too large for a head is far below.
const FIELD_BYTES_MAX: usize = 1 << 20;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

impl Blocks {
    pub(super) const fn new() -> Self {
        Self {
            table: Table::new(),
            frame: Frame::NONE,
            payload: Vec::new(),
            left: 0,
            rest: Vec::new(),
            rest_wanted: 0,
            seen: Seen { fields: false, changes: false, pseudo: false, odd_path: false },
            is_trailers: false,
            depends_on_itself: false,
        }
    }

    /// A frame of a block begins.
    pub(super) fn begin(&mut self, frame: Frame, is_trailers: bool) {
        (self.frame, self.left) = (frame, frame.length);
        if frame.kind == HEADERS {
            self.seen = Seen::default();
            (self.is_trailers, self.depends_on_itself) = (is_trailers, false);
        }
    }

    /// Takes a piece of the frame's payload. The stream with its flaw, if the block is complete and has one.
    ///
    /// # Errors
    /// The connection has to end: nothing after this block can be understood, or `h2` would not understand it.
    pub(super) fn take(&mut self, piece: &[u8]) -> Result<Option<(u32, Flaw)>, Reason> {
        self.left -= piece.len();
        if self.left > 0 {
            self.payload.extend_from_slice(piece);
            return Ok(None);
        }
        if self.payload.is_empty() {
            return self.take_payload(piece);
        }
        let mut payload = std::mem::take(&mut self.payload);
        payload.extend_from_slice(piece);
        self.take_payload(&payload)
    }

    fn take_payload(&mut self, payload: &[u8]) -> Result<Option<(u32, Flaw)>, Reason> {
        let fragment = self.fragment(payload)?;
        let is_last = self.frame.flags & END_HEADERS != 0;
        let garbled = |_| Reason::COMPRESSION_ERROR;
        if self.rest.is_empty() {
            let read = self.table.read(fragment, &mut self.seen).map_err(garbled)?;
            self.rest.extend_from_slice(&fragment[read..]);
            self.rest_wanted = 2 * self.rest.len();
        } else {
            self.rest.extend_from_slice(fragment);
            if is_last || self.rest.len() >= self.rest_wanted {
                let read = self.table.read(&self.rest, &mut self.seen).map_err(garbled)?;
                self.rest.drain(..read);
                self.rest_wanted = 2 * self.rest.len();
            }
        }
        if !is_last {
            let fits = self.rest.len() <= FIELD_BYTES_MAX;
            return if fits { Ok(None) } else { Err(Reason::ENHANCE_YOUR_CALM) };
        }
        let is_whole = self.rest.is_empty();
        self.rest = Vec::new();
        self.table.release();
        if !is_whole {
            return Err(Reason::COMPRESSION_ERROR);
        }
        // `h2` ends the stream without having read its block, and would read the next one with another table.
        if self.depends_on_itself && self.seen.changes {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let flaw = match self.seen {
            Seen { pseudo: true, .. } if self.is_trailers => Flaw::PseudoTrailers,
            Seen { odd_path: true, .. } if !self.is_trailers => Flaw::OddPath,
            _ => return Ok(None),
        };
        Ok(Some((self.frame.stream, flaw)))
    }

    /// The payload without padding and priority.
    fn fragment<'a>(&mut self, payload: &'a [u8]) -> Result<&'a [u8], Reason> {
        let Frame { kind, flags, stream, .. } = self.frame;
        if kind == CONTINUATION {
            return Ok(payload);
        }
        let padded = if flags & PADDED == 0 {
            Some((payload, 0))
        } else {
            payload.split_first().map(|(&padding, rest)| (rest, usize::from(padding)))
        };
        let fragment = padded.and_then(|(mut rest, padding)| {
            if flags & PRIORITY != 0 {
                let (dependency, after) = rest.split_first_chunk::<4>()?;
                let (_weight, after) = after.split_first()?;
                self.depends_on_itself = u32::from_be_bytes(*dependency) & !(1 << 31) == stream;
                rest = after;
            }
            rest.get(..rest.len().checked_sub(padding)?)
        });
        // RFC 9113 §6.2
        fragment.ok_or(Reason::PROTOCOL_ERROR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &[u8] = b"\x82\x86\x84\x41\x04test";

    /// What becomes of these frames of blocks: kind, flags, stream, payload. Each comes in pieces of any size.
    fn check(frames: &[(u8, u8, u32, &[u8])], is_trailers: bool, expected: Result<Option<(u32, Flaw)>, Reason>) {
        for step in [1, 3, usize::MAX] {
            let mut blocks = Blocks::new();
            let mut last = Ok(None);
            for &(kind, flags, stream, payload) in frames {
                blocks.begin(Frame { length: payload.len(), kind, flags, stream }, is_trailers);
                if payload.is_empty() {
                    last = blocks.take(payload);
                }
                for piece in payload.chunks(step.min(payload.len().max(1))) {
                    last = last.and_then(|_| blocks.take(piece));
                }
            }
            assert_eq!(last, expected, "{frames:?} in pieces of {step}");
        }
    }

    #[test]
    fn a_block_is_read_whole_however_it_is_cut_and_wrapped() {
        check(&[(HEADERS, END_HEADERS, 1, GET)], false, Ok(None));
        check(
            &[(HEADERS, 0, 1, &GET[..6]), (CONTINUATION, 0, 1, b""), (CONTINUATION, 4, 1, &GET[6..])],
            false,
            Ok(None),
        );
        let wrapped = [&[3, 0, 0, 0, 5, 16][..], GET, &[0; 3]].concat();
        check(&[(HEADERS, END_HEADERS | PADDED | PRIORITY, 1, &wrapped)], false, Ok(None));
        check(&[(HEADERS, END_HEADERS, 1, b"")], false, Ok(None));
    }

    #[test]
    fn what_cannot_be_read_ends_the_connection() {
        let compression = Err(Reason::COMPRESSION_ERROR);
        check(&[(HEADERS, END_HEADERS, 1, &GET[..6])], false, compression);
        check(&[(HEADERS, 0, 1, &GET[..6]), (CONTINUATION, 4, 1, b"")], false, compression);
        check(&[(HEADERS, 0, 1, GET), (CONTINUATION, 4, 1, &[0x80])], false, compression);
        check(&[(HEADERS, 0, 1, GET), (CONTINUATION, 4, 1, &[0x20])], false, compression);
        let padding = Err(Reason::PROTOCOL_ERROR);
        check(&[(HEADERS, END_HEADERS | PADDED, 1, b"\x05\x82")], false, padding);
        check(&[(HEADERS, END_HEADERS | PADDED, 1, b"")], false, padding);
        check(&[(HEADERS, END_HEADERS | PRIORITY, 1, b"\0\0\0\0")], false, padding);
        let large = vec![b'a'; FIELD_BYTES_MAX];
        let begun = b"\x00\x01a\x7f\x80\x80\x80\x01";
        let calm = Err(Reason::ENHANCE_YOUR_CALM);
        check(&[(HEADERS, 0, 1, begun), (CONTINUATION, 0, 1, &large)], false, calm);
    }

    #[test]
    fn a_field_in_many_frames_is_not_read_again_with_each_of_them() {
        let mut blocks = Blocks::new();
        // A name, and a value of which a byte comes with each frame.
        let begun = [&b"\x00\x7f\x81\x01"[..], &[b'a'; 256], b"\x7f\x80\x80\x04"].concat();
        blocks.begin(Frame { length: begun.len(), kind: HEADERS, flags: 0, stream: 1 }, false);
        blocks.take(&begun).unwrap();
        let mut readings = 0;
        for _ in 0..10_000 {
            let wanted = blocks.rest_wanted;
            blocks.begin(Frame { length: 1, kind: CONTINUATION, flags: 0, stream: 1 }, false);
            blocks.take(b"b").unwrap();
            readings += usize::from(blocks.rest_wanted != wanted);
        }
        assert!((1..10).contains(&readings), "{readings}");
    }

    #[test]
    fn a_head_that_h2_does_not_read_may_not_change_the_table() {
        let on_itself = |block: &[u8]| [&[0, 0, 0, 1, 16][..], block].concat();
        check(&[(HEADERS, END_HEADERS | PRIORITY, 1, &on_itself(GET))], false, Err(Reason::PROTOCOL_ERROR));
        check(&[(HEADERS, END_HEADERS | PRIORITY, 1, &on_itself(b"\x82\x86\x84"))], false, Ok(None));
        check(&[(HEADERS, END_HEADERS | PRIORITY, 3, &on_itself(GET))], false, Ok(None));
    }

    #[test]
    fn flaws_that_h2_hides_are_told() {
        let ended = END_HEADERS;
        check(&[(HEADERS, ended, 5, b"\x82")], true, Ok(Some((5, Flaw::PseudoTrailers))));
        check(&[(HEADERS, ended, 5, b"\x00\x01a\x01b")], true, Ok(None));
        check(
            &[(HEADERS, 0, 5, b"\x00\x01a"), (CONTINUATION, ended, 5, b"\x01b\x84")],
            true,
            Ok(Some((5, Flaw::PseudoTrailers))),
        );
        check(&[(HEADERS, ended, 7, b"\x82\x04\x02/#")], false, Ok(Some((7, Flaw::OddPath))));
        check(&[(HEADERS, ended, 7, b"\x82\x84")], false, Ok(None));
    }
}
