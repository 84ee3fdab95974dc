//! A config compiled inside this process: immutable, shared by all threads, owning no mutable state.
//!
//! Everything that can be resolved once is resolved in [`compile`]: references, names, header lines, ticks, TLS. State
//! that changes is only pointed at, in [`crate::live`].

use std::sync::Arc;

use sealane_model::config::{
    Balancer, CidrBlock, Config, HedgeDelay, HostHeader, Http2, OutlierDetection, PassiveHealth, Retries, Scheme,
    TargetPath,
};
use sealane_model::decide::RouteTable;
use sealane_model::impact::Compared;

use crate::access_log::LogPlan;
use crate::admission::Admission;
use crate::breaker::{Breaker, BreakerPlan};
use crate::hedge::HedgeLive;
use crate::http1::request_head::HeadLimits;
use crate::live::{Budget, EndpointLive, PoolLive, Rotation};
use crate::proxy::RevisionTag;
use crate::snapshot::schedule::Schedule;
use crate::snapshot::tls::ServerTls;
use crate::trace::TracePlan;
use crate::traffic::stage::CompiledTraffic;
use crate::upstream::resolve::Name;
use crate::upstream::tls::UpstreamTls;

pub(crate) mod compile;
pub(crate) mod pools;
pub(crate) mod problems;
pub(crate) mod routes;
pub(crate) mod schedule;
pub(crate) mod secrets;
pub(crate) mod tls;

/// The whole.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) tag: RevisionTag,
    pub(crate) config: Arc<Config>,
    pub(crate) table: RouteTable,
    /// There are cache rules.
    pub(crate) caches: bool,
    /// What samples of requests keep of headers and queries.
    pub(crate) compared: Compared,
    /// Parallel to the config's.
    pub(crate) routes: Vec<Arc<CompiledRoute>>,
    /// Parallel to the config's.
    pub(crate) pools: Vec<Arc<CompiledPool>>,
    pub(crate) listeners: Vec<CompiledListener>,
    pub(crate) tls: Option<ServerTls>,
    /// The port of the first TLS listener, unless it is 443: where redirects go.
    pub(crate) https_port: Option<u16>,
    pub(crate) trusted: Vec<CidrBlock>,
    pub(crate) head_limits: HeadLimits,
    pub(crate) limits: TickLimits,
    pub(crate) log: Arc<LogPlan>,
    pub(crate) traces: Arc<TracePlan>,
    /// Members of a log line that are the same for all requests.
    pub(crate) log_members: Vec<u8>,
    /// Endpoints of all pools.
    pub(crate) endpoints: usize,
    /// Targets of all routes.
    pub(crate) targets: usize,
    /// Traffic plans of all routes.
    pub(crate) traffic_plans: usize,
}

/// The config's limits in the units of the hot path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TickLimits {
    pub(crate) read_header: u64,
    pub(crate) idle: u64,
    /// Bytes a second; 0: off.
    pub(crate) body_rate_min: u64,
    /// Bytes a second; 0: off.
    pub(crate) read_rate_min: u64,
    pub(crate) connections_max: usize,
    pub(crate) connections_per_client_max: usize,
}

/// A route.
#[derive(Debug)]
pub(crate) struct CompiledRoute {
    pub(crate) id: Arc<str>,
    /// Where its requests may go, each pool once: the one without a traffic plan's say first.
    pub(crate) targets: Vec<CompiledTarget>,
    /// Number of its first target among those of all routes.
    pub(crate) first_target: usize,
    /// Ticks.
    pub(crate) timeout: Option<u64>,
    pub(crate) retries: Option<CompiledRetries>,
    pub(crate) hedge: Option<CompiledHedge>,
    /// Request body in bytes.
    pub(crate) body_bytes_max: u64,
    pub(crate) require_tls: bool,
    pub(crate) require_mtls: bool,
    pub(crate) traffic: Option<Box<CompiledTraffic>>,
    /// What it does with a request before it may pass; `None`: nothing.
    pub(crate) admission: Option<Box<Admission>>,
    pub(crate) sandbox: Option<CompiledSandbox>,
}

/// A pool that a route's requests may go to.
#[derive(Debug)]
pub(crate) struct CompiledTarget {
    pub(crate) pool: usize,
    /// The members of a log line that name route and pool.
    pub(crate) log_members: Vec<u8>,
    pub(crate) rotation: Arc<Rotation>,
    pub(crate) breaker: Option<CompiledBreaker>,
}

/// The breaker of a (route, pool).
#[derive(Debug)]
pub(crate) struct CompiledBreaker {
    pub(crate) plan: BreakerPlan,
    pub(crate) live: Arc<Breaker>,
}

/// A route's hedges.
#[derive(Debug)]
pub(crate) struct CompiledHedge {
    pub(crate) after: HedgeDelay,
    pub(crate) extra_max: u32,
    /// That of the route's retries.
    pub(crate) budget: Arc<Budget>,
    pub(crate) budget_percent: f64,
    pub(crate) live: Arc<HedgeLive>,
}

/// A route's retries.
#[derive(Debug)]
pub(crate) struct CompiledRetries {
    pub(crate) policy: Retries,
    /// Ticks.
    pub(crate) per_try: Option<u64>,
    pub(crate) budget: Arc<Budget>,
}

/// Whole lines for routes that came from a sandbox.
#[derive(Debug)]
pub(crate) struct CompiledSandbox {
    pub(crate) request_lines: Vec<u8>,
    pub(crate) response_lines: Vec<u8>,
}

/// A pool.
#[derive(Debug)]
pub(crate) struct CompiledPool {
    pub(crate) id: Arc<str>,
    pub(crate) endpoints: Vec<CompiledEndpoint>,
    /// Number of this pool's first endpoint among those of all pools.
    pub(crate) first_endpoint: usize,
    pub(crate) balancer: Balancer,
    pub(crate) schedule: Schedule,
    pub(crate) host_header: HostHeader,
    /// What is sent depends on the endpoint, so that another one needs another head.
    pub(crate) head_differs: bool,
    pub(crate) connect_ticks: u64,
    pub(crate) read_ticks: u64,
    pub(crate) write_ticks: u64,
    pub(crate) response_header_ticks: u64,
    pub(crate) idle_max: usize,
    /// Connections to one endpoint at a time.
    pub(crate) connections_max: usize,
    pub(crate) idle_ticks: u64,
    pub(crate) age_max_ticks: u64,
    pub(crate) passive: Option<PassiveHealth>,
    pub(crate) outlier: Option<OutlierDetection>,
    pub(crate) trickle_per_second: f64,
    pub(crate) expose_errors: bool,
    pub(crate) live: Arc<PoolLive>,
}

/// An endpoint.
#[derive(Clone, Debug)]
pub(crate) struct CompiledEndpoint {
    /// `host:port`.
    pub(crate) address: Arc<str>,
    /// Its member of a log line.
    pub(crate) log_member: Vec<u8>,
    pub(crate) target: Target,
    pub(crate) port: u16,
    pub(crate) scheme: Scheme,
    pub(crate) http2: Http2,
    pub(crate) tls: Option<UpstreamTls>,
    pub(crate) path: TargetPath,
    pub(crate) weight: u32,
    /// Differs when connections made for another snapshot must not be used.
    pub(crate) connect_key: u64,
    pub(crate) live: Arc<EndpointLive>,
    /// What `Host` says of it: the port only if it is not the scheme's default.
    pub(crate) host_value: String,
}

/// What of a request decides which version an endpoint is asked in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nature {
    /// It asks for another protocol.
    pub(crate) upgrade: bool,
    /// Its content is gRPC.
    pub(crate) grpc: bool,
}

/// The version to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Http1,
    Http2,
    /// What the TLS handshake agrees on.
    Either,
}

impl CompiledEndpoint {
    /// The version that a request wants of this endpoint (the contract's `http2` rule).
    pub(crate) fn wanted(&self, nature: Nature) -> Wanted {
        match (self.scheme, self.http2) {
            (Scheme::H2c, _) | (_, Http2::Always) => Wanted::Http2,
            (_, Http2::Never) => Wanted::Http1,
            (Scheme::Https, Http2::Auto) if nature.upgrade => Wanted::Http1,
            (Scheme::Https, Http2::Auto) => Wanted::Either,
            (Scheme::Http, Http2::Auto) if nature.grpc => Wanted::Http2,
            (Scheme::Http, Http2::Auto) => Wanted::Http1,
        }
    }
}

/// Where an endpoint's addresses come from.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Ip(std::net::IpAddr),
    Name(Arc<Name>),
}

/// A listener.
#[derive(Clone, Debug)]
pub(crate) struct CompiledListener {
    /// The listening socket, known once it is bound (see [`crate::listener`]).
    pub(crate) socket: u32,
    pub(crate) name: String,
    pub(crate) address: sealane_model::config::ListenAddress,
    /// The flag that set the address, where one did.
    pub(crate) flag: Option<&'static str>,
    pub(crate) tls: bool,
    pub(crate) redirect_to_https: bool,
    pub(crate) proxy_protocol: bool,
    pub(crate) at: sealane_model::config::Position,
}

impl CompiledRoute {
    /// The pool of requests that no traffic plan sends elsewhere.
    pub(crate) fn pool(&self) -> usize {
        self.targets[0].pool
    }

    /// The target with this pool.
    pub(crate) fn target_of(&self, pool: usize) -> Option<usize> {
        self.targets.iter().position(|target| target.pool == pool)
    }
}

impl Snapshot {
    /// Every pair of a route and a pool that its requests may go to.
    pub(crate) fn targets(&self) -> impl Iterator<Item = (&CompiledRoute, &CompiledTarget)> + Clone {
        self.routes.iter().flat_map(|route| route.targets.iter().map(move |target| (&**route, target)))
    }

    pub(crate) fn endpoint(&self, pool: usize, endpoint: usize) -> &CompiledEndpoint {
        &self.pools[pool].endpoints[endpoint]
    }
}
