//! Pools, compiled.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use sealane_model::config::{self, Balancer, Endpoint, Host, HostHeader, Scheme, TargetPath};
use sealane_model::problem::Problem;

use super::schedule::Schedule;
use super::{CompiledEndpoint, CompiledPool, Snapshot, Target};
use crate::access_log::json_members;
use crate::live::Live;
use crate::timer::ticks;
use crate::upstream::tls::PoolTls;

/// The pool of an earlier snapshot, where it is the same at the same place and reads no files, which may have changed;
/// `first_endpoint` endpoints belong to the pools before it.
pub(super) fn again(
    before: &Snapshot,
    index: usize,
    pool: &Arc<config::Pool>,
    first_endpoint: usize,
) -> Option<Arc<CompiledPool>> {
    let made = before.pools.get(index)?;
    let reads_files = pool.tls.ca_file.is_some() || pool.tls.client_certificate.is_some();
    let is_same = !reads_files && made.first_endpoint == first_endpoint && same(before.config.pools.get(index)?, pool);
    is_same.then(|| Arc::clone(made))
}

/// Whether two parts of configs are equal. Mostly they are one and the same.
pub(super) fn same<T: PartialEq>(one: &Arc<T>, other: &Arc<T>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

/// Compiles a pool; `first_endpoint` endpoints belong to the pools before it.
pub(crate) fn compile(pool: &config::Pool, first_endpoint: usize, live: &Live) -> Result<CompiledPool, Vec<Problem>> {
    let needs_tls = pool.endpoints.iter().any(|endpoint| endpoint.scheme == Scheme::Https);
    let tls = needs_tls.then(|| PoolTls::compile(pool, &live.tls)).transpose().map_err(|problem| vec![problem])?;
    let mut problems = Vec::new();
    let mut endpoints = Vec::with_capacity(pool.endpoints.len());
    for endpoint in &pool.endpoints {
        match compile_endpoint(pool, endpoint, tls.as_ref(), live) {
            Ok(endpoint) => endpoints.push(endpoint),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    if matches!(pool.balancer, Balancer::LeastConnections | Balancer::PowerOfTwoChoices) {
        endpoints.iter().for_each(|endpoint| endpoint.live.count_busy());
    }
    if pool.outlier_detection.is_some() {
        endpoints.iter().for_each(|endpoint| endpoint.live.watch());
    }
    let weights: Vec<u32> = pool.endpoints.iter().map(|endpoint| endpoint.weight).collect();
    let connections = &pool.connections;
    Ok(CompiledPool {
        id: Arc::from(pool.id.0.as_str()),
        first_endpoint,
        schedule: match pool.balancer {
            Balancer::WeightedRoundRobin => Schedule::weighted(&weights),
            _ => Schedule::even(&weights),
        },
        balancer: pool.balancer.clone(),
        host_header: pool.host_header.clone(),
        head_differs: endpoints.len() > 1
            && (pool.host_header == HostHeader::Endpoint
                || pool.endpoints.iter().any(|endpoint| endpoint.path != TargetPath::Keep)),
        endpoints,
        connect_ticks: ticks(connections.connect_timeout),
        read_ticks: ticks(connections.read_timeout),
        write_ticks: ticks(connections.write_timeout),
        response_header_ticks: ticks(connections.response_header_timeout.unwrap_or(connections.read_timeout)),
        idle_max: connections.idle_max,
        connections_max: connections.connections_max.unwrap_or(usize::MAX),
        idle_ticks: ticks(connections.idle_timeout),
        age_max_ticks: connections.age_max.map_or(u64::MAX, ticks),
        passive: pool.health.passive.clone(),
        outlier: pool.outlier_detection.clone(),
        trickle_per_second: pool.fail_open.requests_per_second,
        expose_errors: pool.expose_upstream_errors,
        live: live.pool(&pool.id.0),
    })
}

fn compile_endpoint(
    pool: &config::Pool,
    endpoint: &Endpoint,
    tls: Option<&PoolTls>,
    live: &Live,
) -> Result<CompiledEndpoint, Problem> {
    let address = endpoint.to_string();
    let tls = tls.filter(|_| endpoint.scheme == Scheme::Https);
    let mut connect_key = DefaultHasher::new();
    (endpoint.scheme, pool.connections.http2 as u8, tls.map(|tls| tls.key)).hash(&mut connect_key);
    let default_port = if endpoint.scheme == Scheme::Https { 443 } else { 80 };
    Ok(CompiledEndpoint {
        target: match &endpoint.host {
            Host::Ip(ip) => Target::Ip(*ip),
            Host::Name(name) => Target::Name(live.names.name(name)),
        },
        port: endpoint.port,
        scheme: endpoint.scheme,
        http2: pool.connections.http2,
        tls: tls.map(|tls| tls.endpoint(pool, &endpoint.host)).transpose()?,
        path: endpoint.path.clone(),
        weight: endpoint.weight,
        connect_key: connect_key.finish(),
        live: live.endpoint(&pool.id.0, &address),
        host_value: if endpoint.port == default_port { endpoint.host.to_string() } else { address.clone() },
        log_member: json_members(&[("endpoint", &address)]),
        address: Arc::from(address),
    })
}
