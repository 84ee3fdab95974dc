//! The rules of RFC 9113 that can be judged by a frame's header and those before it.

use h2::Reason;

use super::frame::{
    ACK, CONTINUATION, DATA, END_STREAM, FRAME_BYTES_MAX, Frame, GOAWAY, HEADERS, PING, PRIORITY, PUSH_PROMISE,
    RST_STREAM, SETTING_BYTES, SETTINGS, WINDOW_UPDATE,
};

/// What is remembered of a connection to judge its frames.
#[derive(Debug, Default)]
pub(super) struct Rules {
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
pub(super) const REMEMBERED_MAX: usize = 1024;

impl Rules {
    /// Judges a frame that comes within the block of a stream, or between blocks. What `h2` refuses with the right code is
    /// left to it.
    pub(super) fn judge(&mut self, frame: Frame, block: Option<u32>) -> Result<(), Reason> {
        let Frame { length, kind, flags, stream } = frame;
        if !self.begun {
            // RFC 9113 §3.4
            if kind != SETTINGS || flags & ACK != 0 {
                return Err(Reason::PROTOCOL_ERROR);
            }
            self.begun = true;
        }
        if length > FRAME_BYTES_MAX {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        // RFC 9113 §6.10
        if block.is_some() || kind == CONTINUATION {
            let is_next = kind == CONTINUATION && block == Some(stream);
            return if is_next { Ok(()) } else { Err(Reason::PROTOCOL_ERROR) };
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
            // RFC 9113 §8.4
            PUSH_PROMISE => return Err(Reason::PROTOCOL_ERROR),
            HEADERS if stream > self.highest && stream % 2 == 1 => self.opened(stream, flags & END_STREAM != 0),
            HEADERS | DATA if self.is_over(stream) => return Err(Reason::STREAM_CLOSED),
            HEADERS | DATA if flags & END_STREAM != 0 => self.ended(stream),
            RST_STREAM => self.ended(stream),
            _ => {}
        }
        Ok(())
    }

    /// Whether the client has opened this stream: its next block is trailers.
    pub(super) const fn knows(&self, stream: u32) -> bool {
        stream <= self.highest
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
