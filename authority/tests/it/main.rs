//! A real authority on a real database and real sockets, with simulated agents.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod agents;
mod auth;
mod backups;
mod helper;
mod http;
mod life;
mod people;
mod publish;
mod steer;
mod storage;
mod tls;
