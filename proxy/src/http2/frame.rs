//! A frame of HTTP/2 as its header describes it, and the numbers that RFC 9113 gives to its parts.

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const HEADER_BYTES: usize = 9;
pub(super) const SETTING_BYTES: usize = 6;

/// The longest payload that a client may send.
pub(super) const FRAME_BYTES_MAX: usize = 32 << 10;

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) length: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Frame {
    pub(super) const NONE: Self = Self { length: 0, kind: DATA, flags: 0, stream: 0 };

    pub(super) fn of([a, b, c, kind, flags, stream @ ..]: [u8; HEADER_BYTES]) -> Self {
        Self {
            length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            kind,
            flags,
            // The first bit is reserved (RFC 9113 §4.1).
            stream: u32::from_be_bytes(stream) & !(1 << 31),
        }
    }
}
