//! What a config IS: desired state that is already correct.
//!
//! Only [`crate::parse`] makes a [`Config`], so everything here may rely on it: references are indexes that exist,
//! names are unique, patterns compile, durations and sizes are in range. A [`Config`] holds no live state and knows
//! nothing of sockets, files or time; secrets and certificates are *references* that a proxy resolves when it compiles
//! a snapshot.
//!
//! Source of every key, default and rule: design page "Public interfaces", Config file.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use self::middleware::{
    AcceptId, Cache, CacheRule, CacheStore, Chain, ChainId, Compression, ContentCoding, Cors, CorsOrigin, HeaderEdits,
    HeaderTransform, JwksSource, Jwt, JwtAlgorithm, Plugin, PluginId, PluginKind, PluginProtocol, PreCompress,
    Redirect, RedirectPiece, RequestId, Stage,
};
pub use self::net::{CidrBlock, Endpoint, Host, HostMatch, ListenAddress, Scheme, TargetPath};
pub use self::pool::{
    ActiveHealth, Balancer, CircuitBreaker, Connections, FailOpen, HashKey, Health, HostHeader, Http2,
    OutlierDetection, PassiveHealth, Pool, PoolId, StatusRange, UpstreamTls,
};
pub use self::route::{
    AdaptiveLimit, AdaptiveMode, AutoBrake, Backoff, ClientRetryCap, CohortKey, CohortRouting, HeaderCondition, Hedge,
    HedgeDelay, HostCondition, OverloadProtection, PathMatch, Pattern, Policy, PolicyId, QueryCondition, RateLimit,
    RateLimitKey, Retries, RetryCondition, Rewrite, Route, RouteId, TrafficPlan,
};

mod middleware;
mod net;
mod pool;
mod route;

/// Where a value stands in its source text: 1-based line and column (in characters). `0, 0` means "not written".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    /// 1-based line.
    pub line: u32,
    /// 1-based column, counted in characters.
    pub column: u32,
}

/// An index into [`Config::routes`].
pub type RouteIndex = usize;
/// An index into [`Config::pools`].
pub type PoolIndex = usize;

/// The whole desired state of one proxy.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// At least one unless only sandbox routes are served; names and addresses are unique.
    pub listeners: Vec<Listener>,
    /// Bounds on what a client may send.
    pub limits: Limits,
    /// Peers whose forwarding headers and PROXY protocol headers are believed.
    pub trusted_proxies: Vec<CidrBlock>,
    /// In file order. The order of matching is [`crate::decide`]'s. Shared with the configs that differ in other routes
    /// only, so that a copy of a large config costs little.
    pub routes: Vec<Arc<Route>>,
    /// Named pools in file order, then the anonymous ones (`route/<route id>`). Ids are unique. Shared as routes are.
    pub pools: Vec<Arc<Pool>>,
    /// Named middleware chains.
    pub middleware: Vec<Chain>,
    /// Cache store and rules.
    pub cache: Option<Cache>,
    /// External and builtin plugins.
    pub plugins: Vec<Plugin>,
    /// Certificates and client-certificate rules; listeners with `tls: true` need at least one certificate.
    pub tls: Option<Tls>,
    /// Sandbox routes.
    pub sandboxes: Option<Sandboxes>,
    /// The proxy's own admin listener. Absent in a fleet revision.
    pub admin: Option<Admin>,
    /// Access log.
    pub logging: Logging,
    /// Prometheus exposition.
    pub metrics: Metrics,
    /// OTLP traces.
    pub tracing: Option<Tracing>,
    /// Times of the graceful shutdown.
    pub shutdown: Shutdown,
    /// The recipe for rolling this config out; absent means the authority's default plan.
    pub rollout: Option<crate::plan::Plan>,
    /// The config's own tests.
    pub tests: Vec<ConfigTest>,
}

/// One address on which requests are accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Unique; defaults to the address as written.
    pub name: String,
    /// Where it binds.
    pub address: ListenAddress,
    /// Terminates TLS with [`Config::tls`].
    pub tls: bool,
    /// Answers every request with a 308 to https instead of routing it.
    pub redirect_to_https: bool,
    /// Expects a PROXY protocol v1 or v2 header from trusted peers.
    pub proxy_protocol: bool,
    /// Where it is written.
    pub at: Position,
}

/// Bounds on what a client may send. Sizes in bytes, rates in bytes per second.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Request head without the request line; above: 431. Default 64 KiB.
    pub header_bytes_max: usize,
    /// Header fields; above: 431. Default 200.
    pub headers_max: usize,
    /// Request target; above: 414. Default 8 KiB.
    pub url_bytes_max: usize,
    /// Request body; above: 413. `None`: unlimited, the default.
    pub body_bytes_max: Option<u64>,
    /// From the first byte of a head (or the accept) to its end; above: 408. Default 2 s.
    pub read_header_timeout: Duration,
    /// Between requests on a connection. Default 60 s.
    pub idle_timeout: Duration,
    /// A request body that arrives more slowly over a window ends in 408. Default 1 KiB/s; 0: off.
    pub body_rate_min: u64,
    /// A client that reads its response more slowly over a window is cut. Default 1 KiB/s; 0: off.
    pub read_rate_min: u64,
    /// Client connections of the whole proxy. Default 50,000.
    pub connections_max: usize,
    /// Client connections of one client address. Default 1,000. A trusted proxy stands for many clients and is bound by
    /// [`Self::connections_max`] alone; a client that its PROXY header names is bound as any other.
    pub connections_per_client_max: usize,
    /// What becomes of header names with underscores. Default: kept.
    pub header_underscores: Underscores,
}

/// What becomes of a request's header whose name has an underscore. Some endpoints (CGI and what came after it) cannot tell
/// `X_Real_IP` from `X-Real-IP`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underscores {
    /// It goes on as it is.
    #[default]
    Keep,
    /// It is left out.
    Drop,
    /// The request is refused with 400.
    Refuse,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes_max: 64 << 10,
            headers_max: 200,
            url_bytes_max: 8 << 10,
            body_bytes_max: None,
            read_header_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(60),
            body_rate_min: 1 << 10,
            read_rate_min: 1 << 10,
            connections_max: 50_000,
            connections_per_client_max: 1_000,
            header_underscores: Underscores::Keep,
        }
    }
}

/// Certificates and client-certificate rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Tls {
    /// Least protocol version that is spoken.
    pub min_version: TlsVersion,
    /// In file order; the first is the default for unknown names.
    pub certificates: Vec<Certificate>,
    /// Client certificates.
    pub mtls: Option<Mtls>,
}

/// A TLS protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2
    V1_2,
    /// TLS 1.3
    V1_3,
}

/// A certificate chain and its key, by reference.
#[derive(Clone, Debug, PartialEq)]
pub struct Certificate {
    /// The server name it serves: exact or `*.name`; `None`: the names inside the certificate.
    pub sni: Option<HostMatch>,
    /// PEM file of the chain, leaf first.
    pub cert_file: String,
    /// PEM file of the private key.
    pub key_file: String,
    /// Where it is written.
    pub at: Position,
}

/// Client certificates.
#[derive(Clone, Debug, PartialEq)]
pub struct Mtls {
    /// PEM file of the client CAs.
    pub ca_file: String,
    /// Refuse the handshake without a certificate; otherwise one is asked for.
    pub require_client_cert: bool,
    /// Where it is written.
    pub at: Position,
}

/// Sandbox routes (seed 000): regex routes that belong to a sandbox.
#[derive(Clone, Debug, PartialEq)]
pub struct Sandboxes {
    /// Whether sandbox routes are served at all, also those that do not stand in the file.
    pub enabled: bool,
    /// Hosts on which sandbox routes go by priority; elsewhere they come after every route of the file.
    pub hosts: Vec<HostMatch>,
    /// Indexes of the sandbox routes in [`Config::routes`].
    pub routes: Vec<RouteIndex>,
    /// Those of the file that live for a while, counted from when the file was written; see [`crate::sandbox::end`].
    pub lives: Vec<(RouteIndex, Duration)>,
    /// Those whose time is over: no request meets them.
    pub ended: Vec<RouteIndex>,
}

/// On, everywhere behind the file, with no routes.
impl Default for Sandboxes {
    fn default() -> Self {
        Self { enabled: true, hosts: Vec::new(), routes: Vec::new(), lives: Vec::new(), ended: Vec::new() }
    }
}

/// The proxy's own admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it binds; a missing host means loopback.
    pub address: SocketAddr,
}

/// Access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logging {
    /// Where lines go.
    pub access: AccessSink,
    /// How a line looks.
    pub format: LogFormat,
    /// Writes query strings as `?<redacted>`. Default true.
    pub redact_query: bool,
    /// Lower-case names of request headers whose values are logged. Those of `redact_headers`, and credentials in any
    /// case, as `[redacted]`.
    pub headers: Vec<String>,
    /// Lower-case names of headers whose values are never logged.
    pub redact_headers: Vec<String>,
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            access: AccessSink::Stdout,
            format: LogFormat::Json,
            redact_query: true,
            headers: Vec::new(),
            redact_headers: vec!["authorization".into(), "cookie".into()],
        }
    }
}

/// Where access-log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessSink {
    /// No access log.
    Off,
    /// Standard output.
    Stdout,
    /// A file, appended to and reopened on SIGUSR1.
    File(String),
}

/// How an access-log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Combined log format.
    Text,
}

/// Prometheus exposition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Serve metrics at all.
    pub enabled: bool,
    /// Serve the metrics path on the data-plane listeners too (seed 001).
    pub on_data_plane: bool,
    /// Names made of paths, such as `index_request_count` for `/index`, beside the others (seed 001).
    pub path_names: bool,
    /// The path on either listener.
    pub path: String,
    /// Bound on label sets per family; further ones are folded into `other` and counted.
    pub series_max: usize,
    /// Environment variable that holds the bearer token that scrapes must carry.
    pub token_env: Option<String>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            enabled: true,
            on_data_plane: false,
            path_names: false,
            path: "/metrics".into(),
            series_max: 2000,
            token_env: None,
        }
    }
}

/// OTLP traces.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracing {
    /// OTLP over gRPC.
    pub otlp_endpoint: String,
    /// Share of requests that are sampled, 0 to 100.
    pub sample_percent: f64,
}

/// Times of the graceful shutdown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// Readiness fails, connections are still accepted. Default 10 s.
    pub lb_convergence: Duration,
    /// In-flight requests may finish. Default 30 s.
    pub drain: Duration,
    /// After the drain, what is left is closed within this time. Default 5 s.
    pub force_close: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            lb_convergence: Duration::from_secs(10),
            drain: Duration::from_secs(30),
            force_close: Duration::from_secs(5),
        }
    }
}

/// One of the config's own tests: this request must be decided so.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigTest {
    /// Shown when it fails.
    pub name: String,
    /// Method, default `GET`.
    pub method: String,
    /// Absolute URL.
    pub url: String,
    /// Request headers.
    pub headers: Vec<(String, String)>,
    /// Expected route; `Some(None)` means "no route matches".
    pub route: Option<Option<RouteId>>,
    /// Expected pool.
    pub pool: Option<PoolId>,
    /// Where it is written.
    pub at: Position,
}
