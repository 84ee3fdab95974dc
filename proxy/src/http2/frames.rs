//! The frames that a client sends, found in the bytes of its connection, and the rules of RFC 9113 that can be judged by a
//! frame's header alone, or by a setting.
//!
//! `h2` refuses all of that too, but with PROTOCOL_ERROR where the RFC names another code, and clients and their
//! developers go by the code. So what is wrong is seen here, before `h2` gets it. Knows nothing of field blocks, streams'
//! contents or time.

use h2::Reason;

use super::PREFACE;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const HEADER_BYTES: usize = 9;
const SETTING_BYTES: usize = 6;
const INITIAL_WINDOW_SIZE: u16 = 4;
const WINDOW_MAX: u32 = (1 << 31) - 1;

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) length: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Frame {
    fn of([a, b, c, kind, flags, stream @ ..]: [u8; HEADER_BYTES]) -> Self {
        Self {
            length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            kind,
            flags,
            // The first bit is reserved (RFC 9113 §4.1).
            stream: u32::from_be_bytes(stream) & WINDOW_MAX,
        }
    }
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
    /// Between HEADERS and the last CONTINUATION.
    in_block: bool,
    rules: Rules,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self {
            skip: PREFACE.len(),
            piece: [0; HEADER_BYTES],
            filled: 0,
            kind: DATA,
            in_block: false,
            rules: Rules::default(),
        }
    }

    /// Tells `seen` of each frame whose header ends in `bytes`.
    ///
    /// # Errors
    /// A rule is broken: its code, and how many bytes may be passed on, which complete nothing that is wrong.
    pub(super) fn read(&mut self, bytes: &[u8], mut seen: impl FnMut(Frame)) -> Result<(), (usize, Reason)> {
        let mut at = 0;
        while at < bytes.len() {
            let start = at;
            if self.skip > 0 {
                let passed = self.skip.min(bytes.len() - at);
                if self.kind == SETTINGS {
                    for piece in bytes[at..at + passed].iter() {
                        self.setting(*piece).map_err(|reason| (start, reason))?;
                    }
                }
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
            self.rules.judge(frame, self.in_block).map_err(|reason| (start, reason))?;
            (self.skip, self.kind) = (frame.length, frame.kind);
            if matches!(frame.kind, HEADERS | CONTINUATION) {
                self.in_block = frame.flags & END_HEADERS == 0;
            }
            seen(frame);
        }
        Ok(())
    }

    /// Whether something is not complete that should be soon. The time of DATA is its stream's business.
    pub(super) const fn is_partial(&self) -> bool {
        self.in_block || self.filled > 0 || (self.skip > 0 && self.kind != DATA)
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

/// What is remembered of a connection to judge its frames.
#[derive(Debug, Default)]
struct Rules {
    /// SETTINGS came, as the first frame.
    begun: bool,
    /// The highest stream that the client opened.
    highest: u32,
    /// Streams that the client opened and has not ended, in order. Those that the proxy has ended stay: what was on its
    /// way is no fault.
    open: Vec<u32>,
    /// Ranges of streams below the highest that never were: first and last.
    skipped: Vec<(u32, u32)>,
    /// Of streams up to this one nothing is known any more.
    forgotten: u32,
}

/// Streams and ranges that are remembered. Many more than may be in use at a time.
const REMEMBERED_MAX: usize = 1024;

impl Rules {
    /// Judges a frame. What `h2` refuses with the right code is left to it.
    fn judge(&mut self, frame: Frame, in_block: bool) -> Result<(), Reason> {
        let Frame { length, kind, flags, stream } = frame;
        if !self.begun {
            // RFC 9113 §3.4
            if kind != SETTINGS || flags & ACK != 0 {
                return Err(Reason::PROTOCOL_ERROR);
            }
            self.begun = true;
        }
        if in_block {
            return Ok(());
        }
        let fits = match kind {
            PRIORITY => length == 5,
            RST_STREAM | WINDOW_UPDATE => length == 4,
            SETTINGS if flags & ACK != 0 => length == 0,
            SETTINGS => length.is_multiple_of(SETTING_BYTES),
            PING => length == 8,
            GOAWAY => length >= 8,
            _ => true,
        };
        if !fits {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        match kind {
            HEADERS if stream > self.highest && stream % 2 == 1 => self.opened(stream, flags & END_STREAM != 0),
            HEADERS | DATA if self.is_over(stream) => return Err(Reason::STREAM_CLOSED),
            HEADERS | DATA if flags & END_STREAM != 0 => self.ended(stream),
            RST_STREAM => self.ended(stream),
            _ => {}
        }
        Ok(())
    }

    fn opened(&mut self, stream: u32, ended: bool) {
        let next = if self.highest == 0 { 1 } else { self.highest + 2 };
        if stream > next {
            if self.skipped.len() == REMEMBERED_MAX {
                let (_, last) = self.skipped.remove(0);
                self.forgotten = self.forgotten.max(last);
            }
            self.skipped.push((next, stream - 2));
        }
        self.highest = stream;
        if !ended {
            if self.open.len() == REMEMBERED_MAX {
                self.forgotten = self.forgotten.max(self.open.remove(0));
            }
            self.open.push(stream);
        }
    }

    fn ended(&mut self, stream: u32) {
        if let Some(index) = self.open.iter().rposition(|&open| open == stream) {
            self.open.remove(index);
        }
    }

    /// Whether the client itself has ended this stream (RFC 9113 §5.1).
    fn is_over(&self, stream: u32) -> bool {
        stream % 2 == 1
            && stream <= self.highest
            && stream > self.forgotten
            && !self.open.contains(&stream)
            && !self.skipped.iter().any(|&(first, last)| (first..=last).contains(&stream))
    }
}

#[cfg(test)]
mod tests {
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
            (DATA, 1, 1, 70_000),
            (PING, 0, 0, 8),
        ];
        let mut bytes = PREFACE.to_vec();
        for (kind, flags, stream, length) in frames {
            bytes.extend(frame(kind, flags, stream, &vec![7; length]));
        }
        for step in [1, 2, 9, 10, 1000, usize::MAX] {
            let mut found = Frames::new();
            let mut seen = Vec::new();
            for piece in bytes.chunks(step.min(bytes.len())) {
                found.read(piece, |frame| seen.push((frame.kind, frame.flags, frame.stream, frame.length))).unwrap();
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
        assert!(read(&frame(HEADERS, 0, 1, b"abc")));
        assert!(!read(&frame(CONTINUATION, END_HEADERS, 1, b"abc")));
        assert!(!read(&frame(DATA, 0, 1, &[0; 100])[..50]), "a body has a time of its own");
    }

    #[test]
    fn broken_rules_have_the_codes_of_the_rfc_and_nothing_wrong_is_passed_on() {
        let open = |flags| frame(HEADERS, flags | END_HEADERS, 1, b"x");
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
        let headers = |stream| frame(HEADERS, END_HEADERS, stream, b"x");
        // Left to `h2`: streams that never were, and even ones.
        check(&[headers(7), headers(3)]);
        check(&[headers(2)]);
        check(&[headers(5), frame(DATA, 0, 9, b"x")]);
        check(&[headers(1), frame(DATA, 0, 1, b"x"), frame(HEADERS, END_HEADERS | END_STREAM, 1, b"trailers")]);
        check(&[headers(1), frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), frame(PRIORITY, 0, 1, &[0; 5])]);
        check(&[frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff])]);
        // Within a block only CONTINUATION is right, which `h2` sees to.
        check(&[frame(HEADERS, 0, 1, b"x"), frame(PING, 0, 0, b"")]);
        // Streams without an end, more than are remembered.
        let many = 2 * REMEMBERED_MAX as u32;
        check(&(0..many).map(|index| headers(1 + 4 * index)).chain([frame(DATA, 0, 1, b"x")]).collect::<Vec<_>>());
    }
}
