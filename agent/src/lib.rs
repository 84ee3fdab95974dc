//! The agent: receives signed revisions, verifies and keeps them, rolls them out into the proxies next to it, reports.
//!
//! It deliberately does not know how revisions are made or judged (the authority does), nor what a config means (the
//! proxy compiles it). With the authority away it serves its proxies from the ledger; with the agent away they serve
//! from their own disk.

// A process from start to stop, and what it is told.
mod serve;
mod settings;

// The life of a desired state: subscribe → verify → fetch → ledger → rollout → report.
mod checkpoint;
mod fetch;
mod intake;
mod ledger;
mod local;
mod plan_floor;
mod questions;
mod report;
mod rollout;
mod subscribe;

// The ways to a proxy: it attaches, it is called, or it polls.
mod pull;
mod push;
mod service;

// What these stand on.
mod authority;
mod clock;
mod door;
mod http;
mod refusal;

pub use authority::LinkError;
pub use ledger::{LedgerError, RecordError};
pub use push::TargetError;
pub use serve::{Agent, StartError, start};
pub use settings::Settings;
