//! What agents and proxies both stand on: durable files, content by digest, waits between attempts, and certificates by
//! which the members of one fleet know each other over TLS.
//!
//! It deliberately does not know configs, rollouts, or what is said over a connection: bytes go in and out, and who is at
//! the other end.

#![warn(missing_docs)]

pub mod backoff;
pub mod blobs;
pub mod disk;
pub mod identity;
pub mod keyring;
pub mod listen;
pub mod member;
pub mod revoked;
pub mod said;
