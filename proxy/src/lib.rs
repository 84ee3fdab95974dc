//! The data plane: listen, route, pick an endpoint, forward, record.
//!
//! A request runs on one thread from its first byte to its last, in one task, without channels, locks or spawns. A
//! config comes in as a value ([`proxy::Proxy::prepare`], [`proxy::Proxy::activate`]) and becomes an immutable snapshot;
//! this crate does not know where configs come from, who signed them, or what a rollout is (only [`control`] talks to an
//! agent, about exactly that). It reads no command line and no config file.
//!
//! Modules in the order in which a reader meets them.

// A process, its threads and what they share.
pub mod builder;
pub mod desk;
mod drain;
pub mod handover;
pub mod hooks;
mod inherit;
mod judge;
pub mod proxy;
mod serve;
pub mod settings;
mod shared;
mod worker;

// A config on its way in.
mod current;
pub mod files;
mod live;
mod snapshot;
mod sockets;
mod view;

// A request on its way through.
mod admission;
mod answer;
mod balance;
mod breaker;
mod connection;
mod eject;
mod exchange;
mod forwarded;
mod hedge;
mod limiter;
mod listener;
mod middleware;
mod proxy_protocol;
mod record;
mod request;
mod trace;
mod traffic;
mod upgrade;

// What requests are made of.
mod clock;
pub mod error;
pub mod http1;
mod http2;
mod splice;
mod stream;
mod timer;
mod unread;
mod upstream;

// Answers that are kept.
pub mod cache;

// What goes on beside them.
mod access_log;
mod admin;
pub mod explain;
mod exposition;
mod fold;
mod health;
mod jwks;
mod metrics;
mod outlier;
mod plugin;
mod sample;
pub mod tap;

// Attached to a fleet: the only part that talks to an agent.
pub mod control;
