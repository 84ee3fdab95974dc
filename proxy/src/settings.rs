//! A proxy process's own flags, as a value. Where they come from (command line, environment) is the caller's business.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use sealane_model::config::{AccessSink, ListenAddress, Shutdown};

use crate::hooks::Hooks;

pub use crate::inherit::Inherited;

/// What a process decides for itself, whatever config it serves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Worker threads; 0: one per core.
    pub threads: usize,
    /// This proxy's id, for logs and reports.
    pub node: String,
    /// The admin listener; `None`: none. A config's own `admin:` is for the caller to put here.
    pub admin: Option<AdminSettings>,
    /// Replaces the address of the config's first plain listener; makes one if the config has none.
    pub http_listen: Option<ListenFlag>,
    /// Replaces the address of the config's first TLS listener.
    pub tls_listen: Option<ListenFlag>,
    /// Replaces the config's `logging.access`.
    pub access_log: Option<AccessSink>,
    /// Replaces the config's `tracing.otlp_endpoint`.
    pub trace_endpoint: Option<String>,
    /// Where `${file:…}` may lead; `None`: nowhere.
    pub secrets_dir: Option<PathBuf>,
    /// `${env:…}` may name any variable, not only `SEALANE_SECRET_…`.
    pub allow_env: bool,
    /// Replaces the config's `shutdown`.
    pub shutdown: Option<Shutdown>,
    /// Listening sockets that another process opened.
    pub inherited: Inherited,
    /// What the program that uses this crate does with requests and answers.
    pub hooks: Hooks,
    /// Retired snapshots that requests may still use while a further config is taken; see [`crate::proxy::Proxy::retired`].
    pub retired_max: usize,
    /// How a fresh process of this program is started, to try a start from disk; `None`: content on disk is only read.
    pub program: Option<Program>,
}

/// How a fresh process of this program is started.
#[derive(Clone, Debug)]
pub struct Program {
    /// The file, which may be another one by now than the one that runs.
    pub path: PathBuf,
    /// Without the program's own name.
    pub arguments: Vec<OsString>,
}

/// Retired snapshots that are held at a time before further configs have to wait.
pub const RETIRED_MAX: usize = 10;
/// Configs that one address may send over the admin address a second.
pub const ADMIN_RATE: u32 = 5;

impl Default for Settings {
    fn default() -> Self {
        Self {
            threads: 0,
            node: "local".to_owned(),
            admin: None,
            http_listen: None,
            tls_listen: None,
            access_log: None,
            trace_endpoint: None,
            secrets_dir: None,
            allow_env: false,
            shutdown: None,
            inherited: Inherited::default(),
            hooks: Hooks::default(),
            program: None,
            retired_max: RETIRED_MAX,
        }
    }
}

impl Settings {
    /// Worker threads, at least one.
    pub(crate) fn worker_threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }
}

/// An address that a flag set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenFlag {
    /// Where to listen.
    pub address: ListenAddress,
    /// The flag, for error messages, such as `--http-addr`.
    pub flag: &'static str,
}

/// The admin listener.
#[derive(Clone)]
pub struct AdminSettings {
    /// Where it binds.
    pub address: SocketAddr,
    /// The flag or key that set it, for error messages.
    pub flag: &'static str,
    /// Bearer token that every request but health must carry; `None`: none is asked for.
    pub token: Option<String>,
    /// Terminates TLS.
    pub tls: Option<AdminTls>,
    /// How often one address may check, apply or roll back a config, a second; twice as often at once. 0: no limit.
    pub rate_per_second: u32,
    /// Serves beyond loopback without TLS and authentication. Warned about at each start.
    pub insecure: bool,
    /// Routes served besides the proxy's own, behind the same protection. They win over nothing: a clash panics at start.
    pub extra: Option<axum::Router>,
}

impl std::fmt::Debug for AdminSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminSettings")
            .field("address", &self.address)
            .field("token", &self.token.as_ref().map(|_| "<redacted>"))
            .field("tls", &self.tls)
            .field("rate_per_second", &self.rate_per_second)
            .field("insecure", &self.insecure)
            .finish_non_exhaustive()
    }
}

/// Files of the admin listener's TLS.
#[derive(Clone, Debug)]
pub struct AdminTls {
    /// PEM file of the chain.
    pub cert_file: String,
    /// PEM file of the key.
    pub key_file: String,
    /// PEM file of client CAs; with one, a client certificate is needed.
    pub client_ca_file: Option<String>,
}
