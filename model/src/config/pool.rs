//! Pools: groups of equal targets, and how they are reached, watched and protected.

use std::fmt;
use std::time::Duration;

use super::{Endpoint, Position};

/// A pool's id, the stable key of its live state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolId(pub String);

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PoolId {
    /// What ids of pools start with that were written as a route's URLs.
    pub(crate) const ANONYMOUS: &str = "route/";
}

/// A group of equal targets.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Unique.
    pub id: PoolId,
    /// At least one; `host:port` is unique within the pool.
    pub endpoints: Vec<Endpoint>,
    /// How an endpoint is picked.
    pub balancer: Balancer,
    /// The `Host` that endpoints see.
    pub host_header: HostHeader,
    /// Timeouts and bounds of connections.
    pub connections: Connections,
    /// For `https` endpoints.
    pub tls: UpstreamTls,
    /// Health checks.
    pub health: Health,
    /// Breaker of every route that uses this pool, unless the route's policy has one.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// Ejects endpoints that do worse than their siblings.
    pub outlier_detection: Option<OutlierDetection>,
    /// What is let through when no endpoint is healthy.
    pub fail_open: FailOpen,
    /// Answers of a refused connection name the target (seed 000).
    pub expose_upstream_errors: bool,
    /// Where it is written.
    pub at: Position,
}

impl Pool {
    /// Whether it was written as the URLs of a route, and has no name of its own.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.id.0.starts_with(PoolId::ANONYMOUS)
    }
}

/// How an endpoint is picked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Balancer {
    /// Exact rotation from index 0, one counter per (route, pool).
    #[default]
    RoundRobin,
    /// Smooth weighted rotation: a schedule compiled into the snapshot.
    WeightedRoundRobin,
    /// Fewest requests in flight.
    LeastConnections,
    /// Uniform.
    Random,
    /// The less busy of two at random.
    PowerOfTwoChoices,
    /// By client address.
    IpHash,
    /// On a ring, by header or cookie.
    ConsistentHash(HashKey),
}

/// What a consistent hash is taken of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// A header's value (lower-case name).
    Header(String),
    /// A cookie's value.
    Cookie(String),
}

/// The `Host` that endpoints see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostHeader {
    /// The client's.
    #[default]
    Preserve,
    /// The endpoint's `host:port` (port left out when it is the scheme's default).
    Endpoint,
    /// This name.
    Name(String),
}

/// Timeouts and bounds of upstream connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connections {
    /// TCP and TLS. Default 10 s.
    pub connect_timeout: Duration,
    /// Between two reads of a response. Default 30 s.
    pub read_timeout: Duration,
    /// Between two writes of a request. Default 10 s.
    pub write_timeout: Duration,
    /// From the end of the request to the response head; `None`: as `read_timeout`.
    pub response_header_timeout: Option<Duration>,
    /// Idle connections kept per endpoint. Default 32.
    pub idle_max: usize,
    /// Connections to one endpoint at a time, idle ones among them; `None`: no bound.
    pub connections_max: Option<usize>,
    /// How long an idle connection is kept. Default 90 s.
    pub idle_timeout: Duration,
    /// Age after which a connection is not reused; `None`: no bound.
    pub age_max: Option<Duration>,
    /// The version spoken to endpoints.
    pub http2: Http2,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(10),
            response_header_timeout: None,
            idle_max: 32,
            connections_max: None,
            idle_timeout: Duration::from_secs(90),
            age_max: None,
            http2: Http2::Auto,
        }
    }
}

/// The HTTP version spoken to endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Http2 {
    /// ALPN over TLS; in plain text HTTP/1.1, but prior knowledge for `application/grpc`.
    #[default]
    Auto,
    /// Prior knowledge in plain text, `h2` only over TLS.
    Always,
    /// HTTP/1.1 only.
    Never,
}

/// For `https` endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// PEM file of CAs; `None`: the system's roots.
    pub ca_file: Option<String>,
    /// Server name to ask for and verify; `None`: the endpoint's host.
    pub sni: Option<String>,
    /// PEM files of the client certificate and its key.
    pub client_certificate: Option<(String, String)>,
    /// Accept any certificate. Warned about at every start.
    pub insecure_skip_verify: bool,
    /// Where it is written.
    pub at: Position,
}

/// Health checks. Off unless configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Probes.
    pub active: Option<ActiveHealth>,
    /// Watching real requests.
    pub passive: Option<PassiveHealth>,
}

/// Probes of each endpoint, at once at start, concurrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveHealth {
    /// Path to GET; `None`: a TCP connect is enough.
    pub path: Option<String>,
    /// Per-endpoint paths that replace `path` (seed 002), parallel to the pool's endpoints; empty: none.
    pub endpoint_paths: Vec<String>,
    /// Between two probes. Default 5 s.
    pub interval: Duration,
    /// Of one probe. Default 1 s.
    pub timeout: Duration,
    /// Statuses that count as healthy. Default 200-399.
    pub expected_status: StatusRange,
    /// Failures in a row until unhealthy. Default 3.
    pub fail_threshold: u32,
    /// Successes in a row until healthy again. Default 2.
    pub success_threshold: u32,
}

/// An inclusive range of statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange {
    /// At least 100.
    pub first: u16,
    /// At most 599, not below `first`.
    pub last: u16,
}

/// Ejection after failures of real requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassiveHealth {
    /// Failures in a row. Default 5.
    pub consecutive_failures: u32,
    /// First ejection; doubles with each further one. Default 30 s.
    pub ejection_duration: Duration,
}

/// Opens after too many failures; one per (route, pool).
#[derive(Clone, Debug, PartialEq)]
pub struct CircuitBreaker {
    /// Share of failures, 0 to 100.
    pub error_threshold_percent: f64,
    /// Requests in the window below which it stays closed.
    pub requests_min: u32,
    /// How long it stays open. Default 30 s.
    pub open_duration: Duration,
    /// What is judged: the requests of this time. Default 10 s.
    pub window: Duration,
    /// Successes that close a half-open breaker, and requests that may try at the same time: 1 to 100. Default 5.
    pub half_open_requests: u32,
}

/// Ejects endpoints that do worse than their siblings.
#[derive(Clone, Debug, PartialEq)]
pub struct OutlierDetection {
    /// Failures in a row; `None`: not judged.
    pub consecutive_failures: Option<u32>,
    /// Share of failures, above 0 to 100, over three intervals; `None`: not judged.
    pub error_rate_threshold_percent: Option<f64>,
    /// Requests in three intervals below which the share of failures is not judged. Default 20.
    pub requests_min: u32,
    /// An endpoint whose 95th percentile of latency is above this many times the median of its siblings', three intervals
    /// in a row with at least 50 requests, is ejected; `None`: not judged.
    pub latency_multiplier: Option<f64>,
    /// Between two looks at error rate and latency. Default 10 s.
    pub interval: Duration,
    /// First ejection; doubles with each further one. Default 30 s.
    pub ejection_duration: Duration,
    /// Longest ejection. Default 10 min.
    pub ejection_duration_max: Duration,
    /// At most this share of the pool is ejected, whatever ejects, and never all of it; 0 to 100. Default 50.
    pub ejection_max_percent: f64,
}

/// What is let through when no endpoint is healthy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FailOpen {
    /// Requests per second over the whole proxy; 0: none. Default 1.
    pub requests_per_second: f64,
}

impl Default for FailOpen {
    fn default() -> Self {
        Self { requests_per_second: 1.0 }
    }
}
