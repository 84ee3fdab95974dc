//! Config → [`Snapshot`], or every problem that this machine has with it.

use std::sync::Arc;

use sealane_model::config::{Config, ListenAddress, Listener, Position};
use sealane_model::decide::RouteTable;
use sealane_model::impact::Compared;
use sealane_model::problem::Problem;

use super::{CompiledListener, Snapshot, TickLimits, pools, routes, tls};
use crate::access_log::{LogPlan, json_members};
use crate::admission::Chains;
use crate::http1::field::FIELDS_MAX;
use crate::http1::request_head::HeadLimits;
use crate::live::Live;
use crate::proxy::RevisionTag;
use crate::settings::{ListenFlag, Settings};
use crate::snapshot::problems::error;
use crate::timer::ticks;
use crate::trace::TracePlan;
use crate::upstream::tls::own_client;

/// Share of the traces that are sampled where only a flag names a collector.
const SAMPLE_PERCENT: f64 = 1.0;

/// Compiles. Reads files and may take a while: never on a worker. What `before` has and the config wants unchanged, at
/// the same place, is used again: a small change of a large config costs little.
///
/// # Errors
/// Every problem, each with the line of what it is about.
pub(crate) fn compile(
    tag: RevisionTag,
    config: Arc<Config>,
    settings: &Settings,
    live: &Live,
    before: Option<&Snapshot>,
) -> Result<Snapshot, Vec<Problem>> {
    let mut found = Vec::new();
    let tls = tls::compile(&config, &live.tls).unwrap_or_else(|problems| {
        found.extend(problems);
        None
    });
    let mut endpoints = 0;
    let mut compiled_pools = Vec::with_capacity(config.pools.len());
    for (index, pool) in config.pools.iter().enumerate() {
        let made = match before.and_then(|before| pools::again(before, index, pool, endpoints)) {
            Some(made) => Ok(made),
            None => pools::compile(pool, endpoints, live).map(Arc::new),
        };
        match made {
            Ok(pool) => {
                endpoints += pool.endpoints.len();
                compiled_pools.push(pool);
            }
            Err(problems) => found.extend(problems),
        }
    }
    let traces = traces(&config, settings, live).map_err(|problem| found.push(problem));
    let chains = Chains::compile(&config, settings, live).map_err(|problems| found.extend(problems));
    let (Ok(chains), Ok(traces), true) = (chains, traces, found.is_empty()) else { return Err(found) };
    let table = match before {
        Some(before) => RouteTable::compile_after(&config, &before.table),
        None => RouteTable::compile(&config),
    };
    let (mut targets, mut traffic_plans) = (0, 0);
    let routes: Vec<_> = (0..config.routes.len())
        .map(|index| {
            let admission = chains.admission(&config, index, &table, live);
            let again = before
                .filter(|_| admission.is_none())
                .and_then(|before| routes::again(before, &config, index, targets, &compiled_pools));
            let route = again.unwrap_or_else(|| {
                Arc::new(routes::compile(&config, index, (targets, traffic_plans), admission, live))
            });
            targets += route.targets.len();
            traffic_plans += usize::from(route.traffic.is_some());
            route
        })
        .collect();
    let limits = &config.limits;
    let listeners = listeners(&config, settings);
    let https_port = listeners.iter().find(|listener| listener.tls).map(|listener| listener.address.port);
    Ok(Snapshot {
        log_members: json_members(&[("revision", &tag.label), ("node", &settings.node)]),
        tag,
        routes,
        table,
        caches: settings.hooks.may_cache() || config.cache.as_ref().is_some_and(|cache| !cache.rules.is_empty()),
        compared: Compared::of(&config),
        pools: compiled_pools,
        listeners,
        https_port: https_port.filter(|&port| port != 443),
        tls,
        trusted: config.trusted_proxies.clone(),
        head_limits: HeadLimits {
            header_bytes_max: limits.header_bytes_max,
            fields_max: limits.headers_max.min(FIELDS_MAX),
            target_bytes_max: limits.url_bytes_max,
            underscores: limits.header_underscores,
        },
        limits: TickLimits {
            read_header: ticks(limits.read_header_timeout),
            idle: ticks(limits.idle_timeout),
            body_rate_min: limits.body_rate_min,
            read_rate_min: limits.read_rate_min,
            connections_max: limits.connections_max,
            connections_per_client_max: limits.connections_per_client_max,
        },
        log: Arc::new(LogPlan::new(&config.logging, settings)),
        traces: Arc::new(traces),
        endpoints,
        targets,
        traffic_plans,
        config,
    })
}

/// What requests' traces are for: the collector that a flag or the config names.
fn traces(config: &Config, settings: &Settings, live: &Live) -> Result<TracePlan, Problem> {
    let configured = config.tracing.as_ref();
    let url = settings.trace_endpoint.as_ref().or(configured.map(|tracing| &tracing.otlp_endpoint));
    let unusable = |message| error("collector_unusable", Position::default(), "tracing.otlp_endpoint", message);
    let exporter = url.map(|url| {
        let tls = url.starts_with("https://").then(|| own_client(None, &live.tls)).transpose()?;
        live.exporters.take(url, &settings.node, tls)
    });
    Ok(TracePlan {
        exporter: exporter.transpose().map_err(unusable)?,
        sample_percent: configured.map_or(SAMPLE_PERCENT, |tracing| tracing.sample_percent),
        redact_query: config.logging.redact_query,
    })
}

/// The config's listeners, with the addresses that flags set in place of those of the first plain and the first TLS one.
fn listeners(config: &Config, settings: &Settings) -> Vec<CompiledListener> {
    let mut listeners: Vec<_> = config.listeners.iter().map(compile_listener).collect();
    for (flag, wants_tls) in [(&settings.http_listen, false), (&settings.tls_listen, true)] {
        let Some(ListenFlag { address, flag }) = flag else { continue };
        match listeners.iter_mut().find(|listener| listener.tls == wants_tls) {
            Some(listener) => (listener.address, listener.flag) = (address.clone(), Some(*flag)),
            None if wants_tls => {}
            None => listeners.push(flag_listener(address.clone(), flag)),
        }
    }
    listeners
}

fn compile_listener(listener: &Listener) -> CompiledListener {
    CompiledListener {
        socket: 0,
        name: listener.name.clone(),
        address: listener.address.clone(),
        flag: None,
        tls: listener.tls,
        redirect_to_https: listener.redirect_to_https,
        proxy_protocol: listener.proxy_protocol,
        at: listener.at,
    }
}

fn flag_listener(address: ListenAddress, flag: &'static str) -> CompiledListener {
    CompiledListener {
        socket: 0,
        name: "http".to_owned(),
        address,
        flag: Some(flag),
        tls: false,
        redirect_to_https: false,
        proxy_protocol: false,
        at: Position::default(),
    }
}
