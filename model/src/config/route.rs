//! Routes, the policies they follow and their traffic plans.

use std::fmt;
use std::hash::{BuildHasher as _, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::FixedState;

use super::{CircuitBreaker, HostMatch, PoolIndex, Position};

/// A route's id: written, or `<host or *><path>` (`#2` on repeats).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteId(pub String);

impl fmt::Display for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A policy's id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyId(pub String);

/// A regex that compiles under the `regex` crate's syntax and the size limit for user patterns.
///
/// It knows its hash: tables are made anew with each change, and look each pattern up several times.
#[derive(Clone)]
pub struct Pattern {
    text: Arc<str>,
    hash: u64,
}

impl Pattern {
    /// That it compiles was checked.
    pub(crate) fn new(text: &str) -> Self {
        Self { text: text.into(), hash: FixedState::default().hash_one(text) }
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.text).finish()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && (Arc::ptr_eq(&self.text, &other.text) || self.text == other.text)
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// That it compiled is the proof; its size limit is the caller's.
impl From<&regex::Regex> for Pattern {
    fn from(regex: &regex::Regex) -> Self {
        Self::new(regex.as_str())
    }
}

/// A rule that sends matching requests to a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Unique.
    pub id: RouteId,
    /// Hosts it serves; `None`: any.
    pub host: Option<HostCondition>,
    /// Paths it serves.
    pub path: PathMatch,
    /// Methods it serves, upper case; empty: any.
    pub methods: Vec<String>,
    /// Headers that must have these values.
    pub headers: Vec<HeaderCondition>,
    /// Query parameters that must have these values.
    pub query: Vec<QueryCondition>,
    /// Lower is tried first. Default 100.
    pub priority: i32,
    /// What happens to the path.
    pub rewrite: Option<Rewrite>,
    /// Where it sends requests when no traffic plan says otherwise.
    pub pool: PoolIndex,
    /// What holds for its requests; the default policy when none is named.
    pub policy: Policy,
    /// Its chain, an index into [`super::Config::middleware`].
    pub middleware: Option<usize>,
    /// A client certificate is needed.
    pub require_mtls: bool,
    /// Canary, cohorts, overload.
    pub traffic: Option<TrafficPlan>,
    /// Sandbox id and numeric route id, for routes that came from a sandbox.
    pub sandbox: Option<(String, u64)>,
    /// Where it is written.
    pub at: Position,
}

/// A route's host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostCondition {
    /// Exact or wildcard.
    Name(HostMatch),
    /// A regex that must match the whole name.
    Regex(Pattern),
}

/// A route's path, compared with the normalised copy of the request's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathMatch {
    /// Every path.
    Any,
    /// This path.
    Exact(String),
    /// `/api/`: below it. `/api`: it and below it, never `/apix`.
    Prefix(String),
    /// Matches anywhere in the path unless anchored.
    Regex(Pattern),
}

/// A header that must have this value in one of its field lines.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderCondition {
    /// Lower case.
    pub name: String,
    /// Compared byte for byte.
    pub value: String,
}

/// A query parameter that must have this value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QueryCondition {
    /// Percent-decoded.
    pub name: String,
    /// Percent-decoded.
    pub value: String,
}

/// What happens to the path before it is forwarded. The query stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// This path.
    Path(String),
    /// The route's matched prefix is replaced by this.
    Prefix(String),
    /// Each match is replaced; `$1` and `${name}` insert groups.
    Regex {
        /// What is replaced.
        regex: Pattern,
        /// By what.
        replacement: String,
    },
}

/// What holds for the requests of a route.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// `None`: written inline, or the default policy.
    pub id: Option<PolicyId>,
    /// From the request's head to the end of the response head and between body bytes over all tries; `None`: no bound.
    pub timeout: Option<Duration>,
    /// Off by default.
    pub retries: Option<Retries>,
    /// Hedged requests for safe reads.
    pub hedge: Option<Hedge>,
    /// Token bucket.
    pub rate_limit: Option<RateLimit>,
    /// Breaker of (route, pool); replaces the pool's.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// Request body in bytes; above: 413.
    pub body_bytes_max: Option<u64>,
    /// Plain-text requests get 403 `tls_required`.
    pub require_tls: bool,
}

/// Retries of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Retries {
    /// Tries in all, the first included; at least 1.
    pub attempts_max: u32,
    /// Retries as a share of successes, 0 to 100, never below 3 a second. Default 10.
    pub budget_percent: f64,
    /// Only GET, HEAD, OPTIONS, TRACE, PUT and DELETE. Default true.
    pub idempotent_only: bool,
    /// Of one try; `None`: the route's timeout alone.
    pub per_try_timeout: Option<Duration>,
    /// What is retried.
    pub on: Vec<RetryCondition>,
    /// Pause before a further try; `None`: none.
    pub backoff: Option<Backoff>,
    /// Since the request's head: after that no further try begins; `None`: no bound of its own.
    pub within: Option<Duration>,
    /// Bound on the retries of one client.
    pub per_client: Option<ClientRetryCap>,
}

/// The pause before a further try: any time up to `base`, doubled with each try (exponential, full jitter), or what the
/// endpoint's `Retry-After` says. An endpoint that asks for more than `max` is not tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Bound of the first pause.
    pub base: Duration,
    /// Bound of every pause. Default 1 s.
    pub max: Duration,
}

/// Bound on the retries of one client, so that it cannot use up the budget of all.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientRetryCap {
    /// Who is one client; never a claim.
    pub key: RateLimitKey,
    /// Share of the budget that one client may use, 0 to 100. Default 20.
    pub percent: f64,
    /// Retries in about ten seconds that each client may have in any case. Default 3.
    pub burst: u32,
}

/// What is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryCondition {
    /// The connection could not be made.
    ConnectFailure,
    /// The connection ended before a response head.
    Reset,
    /// No response head within the per-try timeout.
    Timeout,
    /// This status.
    Status(u16),
}

/// A second try of a slow safe read, while the first goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct Hedge {
    /// When.
    pub after: HedgeDelay,
    /// Further tries at most.
    pub extra_max: u32,
}

/// When a hedge starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HedgeDelay {
    /// After this time.
    Fixed(Duration),
    /// After this quantile (0 to 1) of the route's recent latencies.
    Quantile(f64),
}

/// A token bucket per key.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimit {
    /// Refill.
    pub requests_per_second: f64,
    /// Size of the bucket; at least 1.
    pub burst: u32,
    /// What shares a bucket.
    pub key: RateLimitKey,
}

/// What shares a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RateLimitKey {
    /// The client's address.
    ClientIp,
    /// A header's value (lower-case name).
    Header(String),
    /// A claim of the verified JWT.
    Claim(String),
}

/// How a route's traffic is split and protected.
#[derive(Clone, Debug, PartialEq)]
pub struct TrafficPlan {
    /// The stable side.
    pub stable: PoolIndex,
    /// The canary and its share of requests, 0 to 100.
    pub canary: Option<(PoolIndex, f64)>,
    /// Requests that name their side.
    pub cohorts: Option<CohortRouting>,
    /// Takes the canary out when it does worse.
    pub auto_brake: Option<AutoBrake>,
    /// Bounds concurrency.
    pub overload: Option<OverloadProtection>,
    /// Where it is written.
    pub at: Position,
}

/// Requests that name their side. A value that is mapped goes to its pool; any other value picks its side by its hash,
/// always the same one; a request without a value takes part in the exact split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CohortRouting {
    /// What names the cohort.
    pub key: CohortKey,
    /// Cohort to pool.
    pub mappings: Vec<(String, PoolIndex)>,
}

/// What names the cohort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CohortKey {
    /// A header's value (lower-case name).
    Header(String),
    /// A cookie's value.
    Cookie(String),
    /// The hash of a header's value picks the side, sticky.
    HashHeader(String),
    /// The hash of a cookie's value picks the side, sticky.
    HashCookie(String),
    /// The hash of the client's address picks the side, sticky.
    HashClientIp,
}

/// Takes the canary out when it does worse than stable.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoBrake {
    /// Canary errors over stable errors that trip it.
    pub error_rate_multiplier: f64,
    /// Canary requests in the window below which it is not judged.
    pub requests_min: u32,
    /// What is judged: the requests of this time. Default 1 min.
    pub window: Duration,
    /// How long the canary stays out.
    pub cooloff: Duration,
}

/// Bounds a route's concurrency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverloadProtection {
    /// Requests in flight.
    pub concurrent_max: u32,
    /// Requests that may wait.
    pub queue_max: u32,
    /// How long one waits; above: 503 `overloaded`.
    pub queue_timeout: Duration,
    /// Lowers the bound while latency grows.
    pub adaptive: Option<AdaptiveLimit>,
}

/// Finds the bound on requests in flight between `concurrent_min` and the plan's `concurrent_max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdaptiveLimit {
    /// How.
    pub mode: AdaptiveMode,
    /// Never below this. Default 10.
    pub concurrent_min: u32,
}

/// How a bound on requests in flight follows latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdaptiveMode {
    /// By the ratio of the latency of the long run to that of now.
    Gradient,
    /// One more while answers come within this time, a tenth less while they do not.
    Aimd(Duration),
}
