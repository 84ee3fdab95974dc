//! Middleware chains, cache and plugins.

use std::time::Duration;

use super::{PathMatch, Position, RouteIndex};

/// A chain's id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChainId(pub String);

/// A plugin's id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PluginId(pub String);

/// Stages that a request passes in the order written.
#[derive(Clone, Debug, PartialEq)]
pub struct Chain {
    /// Unique.
    pub id: ChainId,
    /// In order.
    pub stages: Vec<Stage>,
    /// Where it is written.
    pub at: Position,
}

/// A step on the request or response.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// Places the request id.
    RequestId,
    /// Verifies a JWT.
    Auth(Jwt),
    /// The token bucket of a policy.
    RateLimit(super::RateLimit),
    /// Adds and removes request headers.
    HeaderTransform(HeaderEdits),
    /// Calls a plugin, an index into [`super::Config::plugins`].
    Plugin(usize),
    /// A span for the request.
    Tracing,
    /// An access-log line for the request.
    AccessLog,
}

/// How a JWT is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwt {
    /// Expected `iss`.
    pub issuer: String,
    /// Expected `aud`.
    pub audience: Option<String>,
    /// Where keys come from.
    pub jwks: JwksSource,
}

/// Where keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwksSource {
    /// The issuer's discovery document.
    Discovery,
    /// A file.
    File(String),
    /// A URL.
    Url(String),
}

/// Header edits, in order: remove, then set, then add.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Added beside what is there.
    pub add: Vec<(String, String)>,
    /// Replaces what is there.
    pub set: Vec<(String, String)>,
    /// Lower-case names.
    pub remove: Vec<String>,
}

/// Cache store and rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Cache {
    /// Bounds of the store.
    pub store: CacheStore,
    /// The first rule that fits holds.
    pub rules: Vec<CacheRule>,
}

/// Bounds of the store. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheStore {
    /// All entries. Default 256 MiB.
    pub total_bytes_max: u64,
    /// Default 10,000.
    pub entries_max: u64,
    /// One entry. Default 4 MiB.
    pub entry_bytes_max: u64,
    /// How long a stale answer may be served while a fresh one is fetched.
    pub stale_while_revalidate: Duration,
    /// Stored gzip variants.
    pub pre_compress: Option<PreCompress>,
}

/// Stored gzip variants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreCompress {
    /// 1 to 9.
    pub level: u32,
    /// Bodies below are left alone.
    pub length_min: u64,
}

/// What is cached and for how long.
#[derive(Clone, Debug, PartialEq)]
pub struct CacheRule {
    /// Requests of this route; `None`: by `path` alone.
    pub route: Option<RouteIndex>,
    /// Requests with this path.
    pub path: PathMatch,
    /// Upper case. Default GET and HEAD.
    pub methods: Vec<String>,
    /// Statuses that are stored.
    pub status: Vec<u16>,
    /// Freshness where the answer states none.
    pub ttl: Option<Duration>,
    /// Lower-case names that take part in the key.
    pub vary_headers: Vec<String>,
    /// One entry.
    pub entry_bytes_max: Option<u64>,
    /// Answers to requests with credentials are stored per credential.
    pub auth_aware: bool,
    /// One request fetches for all that wait, at most this long.
    pub coalesce: Option<Duration>,
    /// Where it is written.
    pub at: Position,
}

/// An external or builtin filter.
#[derive(Clone, Debug, PartialEq)]
pub struct Plugin {
    /// Unique.
    pub id: PluginId,
    /// What it is.
    pub kind: PluginKind,
    /// Without an answer: refuse the request (`true`) or go on.
    pub fail_closed: bool,
    /// Where it is written.
    pub at: Position,
}

/// What a plugin is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PluginKind {
    /// A gRPC server.
    ExternalGrpc {
        /// `host:port`.
        address: String,
        /// Of one call.
        timeout: Duration,
    },
    /// Part of the proxy.
    Builtin {
        /// Its name.
        name: String,
    },
}
