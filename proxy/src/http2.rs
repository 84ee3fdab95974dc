//! HTTP/2 on both sides, shown to the rest of the proxy as HTTP/1.1.
//!
//! One stream of an HTTP/2 connection looks like a connection of its own ([`crate::stream::Stream`]) that carries one
//! message each way in HTTP/1.1: what is read from it is a head or a body in that shape, and what is written to it must be.
//! So one judge, one router and one exchange serve every mix of versions, and no rule exists twice. What HTTP/2 adds is
//! here: the connection's own limits and its end ([`server`], [`guard`]), and the connections to endpoints that many
//! requests share ([`multiplexed`]).
//!
//! Frames, HPACK, flow control and stream states are the `h2` crate's. It refuses what RFC 9113 §8 calls malformed
//! (connection-specific fields, pseudo-fields out of place, lengths that do not fit). Where it answers with another code than
//! the RFC names, or repairs in silence what has to be refused, a client's bytes are judged before it sees them ([`frames`]).

use std::io;

mod blocks;
pub(crate) mod client_stream;
pub(crate) mod endpoint_stream;
mod frame;
mod frames;
pub(crate) mod guard;
mod heads;
mod hpack;
mod huffman;
mod inbound;
pub(crate) mod multiplexed;
mod outbound;
mod rules;
pub(crate) mod server;

/// What a client that knows HTTP/2 sends first (RFC 9113 §3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the first bytes of a connection say of the version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// The whole preface is there.
    Http2,
    /// It may become one.
    Undecided,
    /// Anything else.
    Http1,
}

impl Opening {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        if bytes.starts_with(PREFACE) {
            Self::Http2
        } else if PREFACE.starts_with(bytes) {
            Self::Undecided
        } else {
            Self::Http1
        }
    }
}

/// Bytes that one stream may have in `h2` without the peer having taken them.
const SEND_BUFFER_BYTES: usize = 128 << 10;

/// What `h2` says, as an error of a byte stream. [`is_unprocessed`] finds it again.
fn io_error(error: h2::Error) -> io::Error {
    let kind = if error.is_reset() || error.is_go_away() {
        io::ErrorKind::ConnectionReset
    } else {
        error.get_io().map_or(io::ErrorKind::InvalidData, io::Error::kind)
    };
    io::Error::new(kind, error)
}

/// Whether the endpoint says that it has not looked at the request, so that it may be sent again whatever it asks for
/// (RFC 9113 §8.7): the stream was refused, or lies beyond the last one of a GOAWAY.
pub(crate) fn is_unprocessed(error: &io::Error) -> bool {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<h2::Error>()) else { return false };
    (error.is_reset() && error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM))
        || (error.is_go_away() && error.is_remote())
}

/// Whether the peer ended one stream, and not the connection below.
pub(crate) fn is_stream_reset(error: &io::Error) -> bool {
    error.get_ref().and_then(|inner| inner.downcast_ref::<h2::Error>()).is_some_and(h2::Error::is_reset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_is_decided_as_soon_as_it_can_be() {
        for end in 0..PREFACE.len() {
            assert_eq!(Opening::of(&PREFACE[..end]), Opening::Undecided, "{end}");
        }
        assert_eq!(Opening::of(PREFACE), Opening::Http2);
        assert_eq!(Opening::of(&[PREFACE, b"\0\0"].concat()), Opening::Http2);
        for other in [&b"GET"[..], b"PRI / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nSN", b"\r\n", b"PR1"] {
            assert_eq!(Opening::of(other), Opening::Http1);
        }
    }
}
