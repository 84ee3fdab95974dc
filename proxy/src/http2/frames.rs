//! The frames that a client sends, found in the bytes of its connection, and judged before `h2` gets them: by their headers
//! ([`super::rules`]), by settings, and by their field blocks ([`super::blocks`]).
//!
//! `h2` refuses nearly all of that too, but with PROTOCOL_ERROR where RFC 9113 names another code, and clients and their
//! developers go by the code. Knows nothing of streams' contents or time.

use h2::Reason;

use super::PREFACE;
use super::blocks::{Blocks, Flaw};
use super::frame::{CONTINUATION, DATA, END_HEADERS, Frame, HEADER_BYTES, HEADERS, SETTING_BYTES, SETTINGS};
use super::rules::Rules;

const INITIAL_WINDOW_SIZE: u16 = 4;
const WINDOW_MAX: u32 = (1 << 31) - 1;

/// What was seen in a client's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// A frame's header.
    Frame(Frame),
    /// The block of this stream's HEADERS is complete, and has a flaw.
    Flaw(u32, Flaw),
}

/// Finds the frames in what is read, however it is cut.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes to pass over: the preface, or the rest of a frame.
    skip: usize,
    /// A frame's header, or a setting.
    piece: [u8; HEADER_BYTES],
    filled: usize,
    /// Of the frame at hand.
    kind: u8,
    /// Between HEADERS and the last CONTINUATION: the stream.
    block: Option<u32>,
    rules: Rules,
    blocks: Blocks,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self {
            skip: PREFACE.len(),
            piece: [0; HEADER_BYTES],
            filled: 0,
            kind: DATA,
            block: None,
            rules: Rules::default(),
            blocks: Blocks::new(),
        }
    }

    /// Tells `seen` of each frame whose header ends in `bytes`, and of each flaw that becomes certain in them.
    ///
    /// # Errors
    /// A rule is broken: its code, and how many bytes may be passed on, which complete nothing that is wrong.
    pub(super) fn read(&mut self, bytes: &[u8], mut seen: impl FnMut(Seen)) -> Result<(), (usize, Reason)> {
        let mut at = 0;
        while at < bytes.len() {
            let start = at;
            if self.skip > 0 {
                let passed = self.skip.min(bytes.len() - at);
                let piece = &bytes[at..at + passed];
                match self.kind {
                    SETTINGS => piece.iter().try_for_each(|&byte| self.setting(byte)),
                    HEADERS | CONTINUATION => self.blocks.take(piece).map(|flaw| tell(flaw, &mut seen)),
                    _ => Ok(()),
                }
                .map_err(|reason| (start, reason))?;
                self.skip -= passed;
                at += passed;
                continue;
            }
            let taken = (HEADER_BYTES - self.filled).min(bytes.len() - at);
            self.piece[self.filled..self.filled + taken].copy_from_slice(&bytes[at..at + taken]);
            self.filled += taken;
            at += taken;
            if self.filled < HEADER_BYTES {
                break;
            }
            self.filled = 0;
            let frame = Frame::of(self.piece);
            let is_trailers = self.rules.knows(frame.stream);
            self.rules.judge(frame, self.block).map_err(|reason| (start, reason))?;
            (self.skip, self.kind) = (frame.length, frame.kind);
            seen(Seen::Frame(frame));
            if matches!(frame.kind, HEADERS | CONTINUATION) {
                self.block = (frame.flags & END_HEADERS == 0).then_some(frame.stream);
                self.blocks.begin(frame, is_trailers);
                if frame.length == 0 {
                    let flaw = self.blocks.take(&[]).map_err(|reason| (start, reason))?;
                    tell(flaw, &mut seen);
                }
            }
        }
        Ok(())
    }

    /// Whether something is not complete that should be soon. The time of DATA is its stream's business.
    pub(super) const fn is_partial(&self) -> bool {
        self.block.is_some() || self.filled > 0 || (self.skip > 0 && self.kind != DATA)
    }

    /// Takes a byte of SETTINGS.
    fn setting(&mut self, byte: u8) -> Result<(), Reason> {
        self.piece[self.filled] = byte;
        self.filled += 1;
        if self.filled < SETTING_BYTES {
            return Ok(());
        }
        self.filled = 0;
        let [a, b, value @ .., _, _, _] = self.piece;
        // RFC 9113 §6.5.2
        if u16::from_be_bytes([a, b]) == INITIAL_WINDOW_SIZE && u32::from_be_bytes(value) > WINDOW_MAX {
            return Err(Reason::FLOW_CONTROL_ERROR);
        }
        Ok(())
    }
}

fn tell(flaw: Option<(u32, Flaw)>, seen: &mut impl FnMut(Seen)) {
    if let Some((stream, flaw)) = flaw {
        seen(Seen::Flaw(stream, flaw));
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{
        ACK, END_STREAM, FRAME_BYTES_MAX, GOAWAY, PING, PRIORITY, PUSH_PROMISE, RST_STREAM, WINDOW_UPDATE,
    };
    use super::super::rules::REMEMBERED_MAX;
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = payload.len();
        let mut bytes = vec![(length >> 16) as u8, (length >> 8) as u8, length as u8, kind, flags];
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn begun() -> Vec<u8> {
        [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let frames = [
            (SETTINGS, 0, 0, 12),
            (HEADERS, 0, 1, 300),
            (CONTINUATION, END_HEADERS, 1, 5),
            (DATA, 1, 1, 30_000),
            (PING, 0, 0, 8),
        ];
        let mut bytes = PREFACE.to_vec();
        for (kind, flags, stream, length) in frames {
            bytes.extend(frame(kind, flags, stream, &vec![0x82; length]));
        }
        for step in [1, 2, 9, 10, 1000, usize::MAX] {
            let mut found = Frames::new();
            let mut seen = Vec::new();
            for piece in bytes.chunks(step.min(bytes.len())) {
                found
                    .read(piece, |found| match found {
                        Seen::Frame(frame) => seen.push((frame.kind, frame.flags, frame.stream, frame.length)),
                        Seen::Flaw(..) => panic!("{found:?}"),
                    })
                    .unwrap();
            }
            assert_eq!(seen, frames, "{step}");
            assert!(!found.is_partial(), "{step}");
        }
    }

    #[test]
    fn a_header_block_is_partial_until_its_last_frame() {
        let mut frames = Frames::new();
        let mut read = |bytes: &[u8]| {
            frames.read(bytes, |_| {}).unwrap();
            frames.is_partial()
        };
        assert!(!read(&begun()));
        assert!(read(&frame(HEADERS, 0, 1, b"\x82")));
        assert!(!read(&frame(CONTINUATION, END_HEADERS, 1, b"\x84")));
        assert!(!read(&frame(DATA, 0, 1, &[0; 100])[..50]), "a body has a time of its own");
    }

    #[test]
    fn broken_rules_have_the_codes_of_the_rfc_and_nothing_wrong_is_passed_on() {
        let open = |flags| frame(HEADERS, flags | END_HEADERS, 1, b"\x82");
        let window = |value: u32| [&[0, 4][..], &value.to_be_bytes()].concat();
        let check = |before: Vec<u8>, wrong: Vec<u8>, reason: Reason| {
            for step in [1, 7, usize::MAX] {
                let bytes = [&begun()[..], &before, &wrong, &frame(PING, 0, 0, &[0; 8])].concat();
                let good = begun().len() + before.len();
                let mut frames = Frames::new();
                let mut passed = 0;
                let found = bytes.chunks(step.min(bytes.len())).find_map(|piece| match frames.read(piece, |_| {}) {
                    Ok(()) => {
                        passed += piece.len();
                        None
                    }
                    Err((length, reason)) => {
                        passed += length;
                        Some(reason)
                    }
                });
                assert_eq!(found, Some(reason), "{wrong:?}");
                assert!((good..good + wrong.len()).contains(&passed), "{wrong:?}: {passed} after {good}");
            }
        };
        let size = Reason::FRAME_SIZE_ERROR;
        check(vec![], frame(PRIORITY, 0, 1, &[0; 4]), size);
        check(open(0), frame(RST_STREAM, 0, 1, &[0; 3]), size);
        check(vec![], frame(SETTINGS, 0, 0, &[0; 5]), size);
        check(vec![], frame(SETTINGS, ACK, 0, &[0; 6]), size);
        check(vec![], frame(PING, 0, 0, &[0; 7]), size);
        check(vec![], frame(GOAWAY, 0, 0, &[0; 7]), size);
        check(vec![], frame(WINDOW_UPDATE, 0, 0, &[0; 5]), size);
        check(vec![], frame(SETTINGS, 0, 0, &window(1 << 31)), Reason::FLOW_CONTROL_ERROR);
        let closed = Reason::STREAM_CLOSED;
        check(open(END_STREAM), frame(DATA, 0, 1, b"x"), closed);
        check(open(END_STREAM), open(END_STREAM), closed);
        check([open(0), frame(DATA, END_STREAM, 1, b"")].concat(), frame(DATA, 0, 1, b"x"), closed);
        check([open(0), frame(RST_STREAM, 0, 1, &[0; 4])].concat(), open(END_STREAM), closed);
        check(open(0), frame(HEADERS, END_HEADERS, 3, &[0x80]), Reason::COMPRESSION_ERROR);
        let protocol = Reason::PROTOCOL_ERROR;
        check(frame(HEADERS, 0, 1, b"\x82"), frame(PING, 0, 0, &[0; 8]), protocol);
        check(frame(HEADERS, 0, 1, b"\x82"), frame(CONTINUATION, END_HEADERS, 3, &[0x80]), protocol);
        check(open(0), frame(CONTINUATION, END_HEADERS, 1, &[0x80]), protocol);
        check(open(0), frame(DATA, 0, 1, &[0; FRAME_BYTES_MAX + 1]), size);
        check(open(0), frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82]), protocol);
    }

    #[test]
    fn a_connection_begins_with_settings() {
        for wrong in [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, ACK, 0, &[])] {
            let read = Frames::new().read(&[PREFACE, &wrong].concat(), |_| {});
            assert_eq!(read, Err((PREFACE.len(), Reason::PROTOCOL_ERROR)));
        }
    }

    #[test]
    fn what_is_no_fault_of_the_client_is_passed_on() {
        let check = |frames: &[Vec<u8>]| {
            let mut bytes = begun();
            frames.iter().for_each(|frame| bytes.extend(frame));
            assert_eq!(Frames::new().read(&bytes, |_| {}), Ok(()), "{frames:?}");
        };
        let headers = |stream| frame(HEADERS, END_HEADERS, stream, b"\x82");
        // Left to `h2`: streams that never were, and even ones.
        check(&[headers(7), headers(3)]);
        check(&[headers(2)]);
        check(&[headers(5), frame(DATA, 0, 9, b"x")]);
        check(&[headers(1), frame(DATA, 0, 1, b"x"), frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x00\x01a\x01b")]);
        check(&[headers(1), frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), frame(PRIORITY, 0, 1, &[0; 5])]);
        check(&[frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff])]);
        // Streams without an end, more than are remembered.
        let many = 2 * REMEMBERED_MAX as u32;
        check(&(0..many).map(|index| headers(1 + 4 * index)).chain([frame(DATA, 0, 1, b"x")]).collect::<Vec<_>>());
    }
}
