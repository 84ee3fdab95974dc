//! What a config, revision, bundle, key and rollout plan ARE.
//!
//! Pure: no I/O, no async, no clock, no gRPC. It does not know how anything is stored, sent or served.

#![warn(missing_docs)]

// The config file: text in, a correct value out, and what it decides.
pub mod account;
pub mod codes;
pub mod config;
pub mod decide;
pub mod impact;
pub mod parse;
pub mod problem;
pub mod sandbox;
pub mod schema;
pub mod selftest;

// Revisions: what is signed, by whom, over what.
pub mod audit;
pub mod bundle;
pub mod envelope;
pub mod grant;
pub mod ids;
pub mod keys;
pub mod release;
pub mod timestamp;
pub mod trust;
pub mod verify;

// Rollouts: how a revision reaches the fleet, and what it is judged by.
pub mod cohort;
pub mod gate;
pub mod latency;
pub mod plan;
