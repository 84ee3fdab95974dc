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
    RequestId(RequestId),
    /// Verifies a JWT.
    Auth(Box<Jwt>),
    /// A token bucket of its own, or that of a policy.
    RateLimit {
        /// The bucket.
        limit: super::RateLimit,
        /// The policy that it was taken from: a route with that policy counts a request once.
        policy: Option<super::PolicyId>,
    },
    /// Edits headers of the request and of the answer.
    HeaderTransform(HeaderTransform),
    /// Cross-origin resource sharing.
    Cors(Cors),
    /// Compresses answers.
    Compression(Compression),
    /// Answers with a redirect.
    Redirect(Redirect),
    /// Calls a plugin, an index into [`super::Config::plugins`].
    Plugin(usize),
    /// A span for the request.
    Tracing,
    /// An access-log line for the request.
    AccessLog {
        /// The share of requests that get a line, 0 to 100. Answers with 5xx always do. Default 100.
        sample_percent: f64,
    },
}

/// Where the request id comes from and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId {
    /// The field that carries it, as written. Default `X-Request-Id`.
    pub header: String,
    /// Whose ids are taken over.
    pub accept: AcceptId,
    /// Answers carry it. Default true.
    pub response: bool,
}

impl Default for RequestId {
    fn default() -> Self {
        Self { header: "X-Request-Id".to_owned(), accept: AcceptId::Any, response: true }
    }
}

/// Whose request ids are taken over, if they are well formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptId {
    /// Everybody's.
    Any,
    /// Those of peers in `trusted_proxies`.
    Trusted,
    /// Nobody's.
    Never,
}

/// How a JWT is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwt {
    /// Expected `iss`.
    pub issuer: String,
    /// `aud` must hold one of these; empty: it is not looked at.
    pub audiences: Vec<String>,
    /// Where keys come from.
    pub jwks: JwksSource,
    /// PEM file of the CAs that the keys' server is verified with; `None`: the system's.
    pub ca_file: Option<String>,
    /// What a token may be signed with; empty: whatever its key is for.
    pub algorithms: Vec<JwtAlgorithm>,
    /// How far clocks may be apart. Default 60 s.
    pub leeway: Duration,
    /// Claims that are passed on: claim, header (as written). What a client sent under these names is removed.
    pub claims_to_headers: Vec<(String, String)>,
    /// The token is passed on. Default true.
    pub forward_token: bool,
}

/// An algorithm that a token may be signed with (RFC 7518 §3.1, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JwtAlgorithm {
    /// HMAC with SHA-256. Keys from a file only, like all HMAC.
    Hs256,
    /// HMAC with SHA-384.
    Hs384,
    /// HMAC with SHA-512.
    Hs512,
    /// RSA PKCS#1 v1.5 with SHA-256.
    Rs256,
    /// RSA PKCS#1 v1.5 with SHA-384.
    Rs384,
    /// RSA PKCS#1 v1.5 with SHA-512.
    Rs512,
    /// RSA PSS with SHA-256.
    Ps256,
    /// RSA PSS with SHA-384.
    Ps384,
    /// RSA PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256.
    Es256,
    /// ECDSA on P-384.
    Es384,
    /// ECDSA on P-521.
    Es512,
    /// Ed25519.
    EdDsa,
}

/// Where keys come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum JwksSource {
    /// The issuer's discovery document.
    Discovery,
    /// A file.
    File(String),
    /// A URL.
    Url(String),
}

/// Edits of headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderTransform {
    /// Of the request that the endpoint sees.
    pub request: HeaderEdits,
    /// Of the answer.
    pub response: HeaderEdits,
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

/// Cross-origin resource sharing, as the Fetch standard has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Who may ask. Never empty.
    pub origins: Vec<CorsOrigin>,
    /// Upper case. Default GET, HEAD and POST; empty: any.
    pub methods: Vec<String>,
    /// Lower-case names of headers that may be sent; `None`: any.
    pub headers: Option<Vec<String>>,
    /// Headers that scripts may read, as written.
    pub expose: Vec<String>,
    /// Cookies and credentials go along. Never with [`CorsOrigin::Any`].
    pub credentials: bool,
    /// How long a browser may remember. Default 10 min.
    pub max_age: Duration,
}

/// Who may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsOrigin {
    /// `*`
    Any,
    /// `https://app.example.com`, lower case.
    Exact(String),
    /// `https://*.example.com`, lower case: every origin below, at any depth.
    Below {
        /// `https://`
        scheme: String,
        /// `.example.com`, with the port where there is one.
        suffix: String,
    },
}

/// Compresses answers on their way to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compression {
    /// Types of content, lower case: `text/html`, or `text/*`.
    pub types: Vec<String>,
    /// Answers below are left alone. Bytes; default 1024.
    pub length_min: u64,
    /// 1 (fast) to 9 (small). Default 5.
    pub level: u32,
    /// What answers may be compressed with, the most wanted first. Never empty, nothing twice. Default all.
    pub codings: Vec<ContentCoding>,
}

/// A coding of content (RFC 9110 §8.4.1, RFC 7932, RFC 8878).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentCoding {
    /// `br`
    Brotli,
    /// `zstd`
    Zstd,
    /// `gzip`
    Gzip,
}

/// A redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308 (default).
    pub status: u16,
    /// `Location`, in pieces.
    pub to: Vec<RedirectPiece>,
}

/// A piece of a redirect's target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedirectPiece {
    /// As it is.
    Text(String),
    /// `{scheme}`: `http` or `https`.
    Scheme,
    /// `{host}`: without port.
    Host,
    /// `{authority}`: with port.
    Authority,
    /// `{path}`: starts with a slash.
    Path,
    /// `{query}`: with its question mark, or nothing.
    Query,
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
    /// How long a stale answer may be served because the origin fails, where the answer itself does not say.
    pub stale_if_error: Duration,
    /// Stored gzip variants.
    pub pre_compress: Option<PreCompress>,
}

impl Default for CacheStore {
    fn default() -> Self {
        Self {
            total_bytes_max: 256 << 20,
            entries_max: 10_000,
            entry_bytes_max: 4 << 20,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            pre_compress: None,
        }
    }
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
    /// GET, HEAD or both, which is the default.
    pub methods: Vec<String>,
    /// Statuses that are stored. `None`: those that the answer itself makes cacheable (RFC 9111 §3); `ttl` then counts
    /// for 200 alone.
    pub status: Option<Vec<u16>>,
    /// Freshness where the answer states none.
    pub ttl: Option<Duration>,
    /// Lower-case names that take part in the key.
    pub vary_headers: Vec<String>,
    /// One entry.
    pub entry_bytes_max: Option<u64>,
    /// Answers to requests with credentials are stored per credential.
    pub auth_aware: bool,
    /// Only answers whose length is known from their head are stored.
    pub only_if_content_length: bool,
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

/// What an external plugin speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PluginProtocol {
    /// `sealane.plugin.v1.FilterService`.
    Sealane,
    /// `envoy.service.auth.v3.Authorization`.
    ExtAuthz,
}

/// What a plugin is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PluginKind {
    /// A gRPC server.
    ExternalGrpc {
        /// `http://host:port`, or `https://host:port`.
        origin: String,
        /// PEM file of the CAs that an `https` server is verified with; `None`: the system's.
        ca_file: Option<String>,
        /// Of one call, connecting included.
        timeout: Duration,
        /// What it speaks.
        protocol: PluginProtocol,
        /// It sees `Authorization` and `Cookie`.
        pass_credentials: bool,
    },
    /// Part of the proxy.
    Builtin {
        /// Its name.
        name: String,
    },
}
