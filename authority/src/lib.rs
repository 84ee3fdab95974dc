//! The authority: drafts in, signed revisions out, rolled out over the fleet stage by stage, with a record of who did what.
//!
//! It does not know how a proxy compiles or serves a config, and it trusts no agent with more than the report of its own
//! proxies. Modules in reading order; the life of a config change is in `publish`, that of a rollout in `rollout`.

// A process and its directory.
mod backup;
mod bucket;
mod clock;
mod error;
mod file;
mod home;
mod incoming;
mod pki;
mod serve;
mod settings;

// The life of a config change: accepted, signed, stored.
mod app;
mod approve;
mod content;
mod policy;
mod publish;
mod revision;
mod revoke;
mod signer;
mod store;
mod trust;

// Sandbox routes, which need no rollout.
pub mod sandbox;

// Its rollout: the live view, the machine, the agents' streams.
mod fleet;
mod questions;
mod rollout;
mod slim;
mod subscribe;

// What others see: gRPC, HTTP, and who may.
mod auth;
mod http;
mod inspect;
mod metric;
mod overview;
mod service;

pub use backup::{BackedUp, BackupError, Keys, RecoverOrder, Recovered, Restored, backup, recover, restore};
pub use home::{FirstStart, HomeError};
pub use http::HttpTlsError;
pub use pki::PkiError;
pub use policy::PolicyError;
pub use rollout::machine::Timing;
pub use serve::{Authority, StartError, start};
pub use settings::{Settings, TlsFiles, Tuning};
pub use store::StoreError;
