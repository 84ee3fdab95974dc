//! Fleets of simulated agents against one real authority: what a change, a stream and a storm cost.
//!
//! An [`agent`] speaks what a real one speaks, over a connection of its own ([`wire`]): it subscribes, verifies, fetches
//! what it does not hold, reports for its proxies. Many of them live in one process, a [`fleet`]. A [`scenario`] drives the
//! fleet and gives [`figure::Figure`]s, some with a bound. Proxies are numbers in reports: what they cost is measured
//! elsewhere.

pub mod agent;
pub mod config;
pub mod edits;
pub mod figure;
pub mod fleet;
pub mod scenario;
pub mod wire;
