//! The HTTP/1.1 codec: pure functions over bytes, on both sides of the proxy.
//!
//! A head is parsed into a table of spans over the bytes that were read ([`field::Fields`]), judged once
//! ([`request_head`], [`response_head`]) and written again from the table ([`mod@write`]): nothing is copied on trust, so
//! only one interpretation of a message ever leaves. Bodies are decoded ([`chunked`], [`body`]) and framed anew.
//!
//! Knows nothing of sockets, time, routes or pools. `httparse` does the tokenising underneath; what it lets through and
//! RFC 9112 or this proxy does not is refused here.

pub mod body;
pub mod chunked;
pub mod field;
pub mod framing;
pub mod request_head;
pub mod response_head;
pub mod write;

#[cfg(test)]
mod tests;
