//! Pools and their endpoints.

use std::time::Duration;

use super::address;
use super::endpoint::{endpoints, equal_weights};
use super::fields::Fields;
use super::findings::Findings;
use super::header::{cookie_name, header_name};
use super::path::request_target;
use super::policy::{circuit_breaker, threshold};
use super::read::{self, shown};
use super::support::Feature;
use super::tree::{Node, Value};
use crate::config::{
    ActiveHealth, Balancer, Connections, Endpoint, FailOpen, HashKey, Health, HostHeader, Http2, OutlierDetection,
    PassiveHealth, Pool, PoolId, Position, StatusRange, UpstreamTls,
};

/// What starts the ids of anonymous pools.
pub(super) const ANONYMOUS: &str = PoolId::ANONYMOUS;

/// A pool of these endpoints with every default.
pub(super) fn plain(id: PoolId, endpoints: Vec<Endpoint>, at: Position) -> Pool {
    Pool {
        id,
        endpoints,
        balancer: Balancer::RoundRobin,
        host_header: HostHeader::Preserve,
        connections: Connections::default(),
        tls: UpstreamTls::default(),
        health: Health::default(),
        circuit_breaker: None,
        outlier_detection: None,
        fail_open: FailOpen::default(),
        expose_upstream_errors: false,
        at,
    }
}

/// A named pool: a mapping, or just its endpoints.
pub(super) fn named(id: &str, node: &Node<'_>, findings: &mut Findings) -> Pool {
    if id.starts_with(ANONYMOUS) {
        findings
            .error(node.get("id").unwrap_or(node), "bad_id", format!("ids that start with `{ANONYMOUS}` are taken"))
            .help("they name the pools that `to` makes; choose another id");
    }
    let id = PoolId(id.to_owned());
    if !matches!(node.value, Value::Map(_)) {
        return of_endpoints(id, node, findings);
    }
    let keys = &[
        "id",
        "endpoints",
        "balancer",
        "hash",
        "host_header",
        "connections",
        "tls",
        "health",
        "circuit_breaker",
        "outlier_detection",
        "fail_open",
    ];
    let Some(fields) = Fields::open(node, "a pool", keys, findings) else { return plain(id, Vec::new(), node.at()) };
    let endpoints = match fields.require("endpoints", "a list of addresses", findings) {
        Some(node) => endpoints(node, findings),
        None => Vec::new(),
    };
    let balancer = balancer(&fields, &endpoints, findings);
    if let Some(key) = fields.key("circuit_breaker") {
        findings.uses(key, Feature::CircuitBreaker);
    }
    if let Some(key) = fields.key("outlier_detection") {
        findings.uses(key, Feature::OutlierDetection);
    }
    Pool {
        balancer,
        host_header: fields.get("host_header").and_then(|node| host_header(node, findings)).unwrap_or_default(),
        connections: fields.get("connections").map(|node| connections(node, findings)).unwrap_or_default(),
        tls: fields.get("tls").map(|node| upstream_tls(node, findings)).unwrap_or_default(),
        health: fields.get("health").map(|node| health(node, findings)).unwrap_or_default(),
        circuit_breaker: fields.get("circuit_breaker").and_then(|node| circuit_breaker(node, findings)),
        outlier_detection: fields.get("outlier_detection").and_then(|node| outlier_detection(node, findings)),
        fail_open: fields.get("fail_open").and_then(|node| fail_open(node, findings)).unwrap_or_default(),
        ..plain(id, endpoints, node.at())
    }
}

/// The anonymous pool of a route's `to`.
pub(super) fn of_endpoints(id: PoolId, node: &Node<'_>, findings: &mut Findings) -> Pool {
    let endpoints = endpoints(node, findings);
    let balancer = if equal_weights(&endpoints) { Balancer::RoundRobin } else { Balancer::WeightedRoundRobin };
    Pool { balancer, ..plain(id, endpoints, node.at()) }
}

fn balancer(fields: &Fields<'_, '_>, endpoints: &[Endpoint], findings: &mut Findings) -> Balancer {
    let node = fields.get("balancer");
    let words = &[
        ("round_robin", Balancer::RoundRobin),
        ("weighted_round_robin", Balancer::WeightedRoundRobin),
        ("least_conn", Balancer::LeastConnections),
        ("ip_hash", Balancer::IpHash),
        ("random", Balancer::Random),
        ("p2c", Balancer::PowerOfTwoChoices),
        // The key is filled in below.
        ("consistent_hash", Balancer::ConsistentHash(HashKey::Header(String::new()))),
    ];
    let balancer = match node {
        Some(node) => read::one_of(node, words, findings).unwrap_or_default(),
        None if equal_weights(endpoints) => Balancer::RoundRobin,
        None => Balancer::WeightedRoundRobin,
    };
    let feature = match balancer {
        Balancer::RoundRobin | Balancer::WeightedRoundRobin => None,
        Balancer::LeastConnections => Some(Feature::BalancerLeastConnections),
        Balancer::Random => Some(Feature::BalancerRandom),
        Balancer::PowerOfTwoChoices => Some(Feature::BalancerPowerOfTwoChoices),
        Balancer::IpHash => Some(Feature::BalancerIpHash),
        Balancer::ConsistentHash(_) => Some(Feature::BalancerConsistentHash),
    };
    if let (Some(node), Some(feature)) = (node, feature) {
        findings.uses(node, feature);
    }
    if let (Some(node), Balancer::RoundRobin, false) = (node, &balancer, equal_weights(endpoints)) {
        findings
            .error(node, "conflicting_keys", "`round_robin` has no use for weights that differ")
            .help("use `weighted_round_robin`, or remove the weights")
            .suggest("weighted_round_robin");
    }
    if let Balancer::ConsistentHash(_) = balancer {
        let hash = fields.require("hash", "what to hash, such as `{ header: X-User }`", findings);
        return hash.and_then(|node| hash_key(node, findings)).map_or(Balancer::RoundRobin, Balancer::ConsistentHash);
    }
    if let Some(key) = fields.key("hash") {
        findings
            .error(key, "conflicting_keys", "`hash` works only with `balancer: consistent_hash`")
            .help("set the balancer or remove `hash`");
    }
    balancer
}

/// `{ header: NAME }` or `{ cookie: NAME }`.
pub(super) fn hash_key(node: &Node<'_>, findings: &mut Findings) -> Option<HashKey> {
    let fields = Fields::open(node, "`hash`", &["header", "cookie"], findings)?;
    match fields.at_most_one(&["header", "cookie"], findings) {
        Some(("header", node)) => Some(HashKey::Header(header_name(node, findings)?)),
        Some((_, node)) => Some(HashKey::Cookie(cookie_name(node, findings)?)),
        None => {
            fields.require("header", "the name of a header, or `cookie: …`", findings);
            None
        }
    }
}

fn host_header(node: &Node<'_>, findings: &mut Findings) -> Option<HostHeader> {
    let value = read::text(node, "`preserve`, `endpoint` or a name", findings)?;
    match value {
        "preserve" => Some(HostHeader::Preserve),
        "endpoint" => Some(HostHeader::Endpoint),
        name if address::is_authority(name) => Some(HostHeader::Name(name.to_ascii_lowercase())),
        _ => {
            findings
                .error(node, "bad_host", format!("`{}` cannot be sent as `Host`", shown(value)))
                .help("write `preserve`, `endpoint` or a name such as `app.internal`");
            None
        }
    }
}

fn connections(node: &Node<'_>, findings: &mut Findings) -> Connections {
    let default = Connections::default();
    let keys = &[
        "connect_timeout",
        "read_timeout",
        "write_timeout",
        "response_header_timeout",
        "max_idle",
        "max_connections",
        "idle_timeout",
        "max_age",
        "http2",
    ];
    let Some(fields) = Fields::open(node, "`connections`", keys, findings) else { return default };
    let words = &[("auto", Http2::Auto), ("always", Http2::Always), ("never", Http2::Never)];
    let http2 = fields.one_of("http2", words, default.http2, findings);
    if let (Http2::Always, Some(node)) = (http2, fields.get("http2")) {
        findings.uses(node, Feature::Http2Upstream);
    }
    Connections {
        connect_timeout: fields.duration("connect_timeout", default.connect_timeout, findings),
        read_timeout: fields.duration("read_timeout", default.read_timeout, findings),
        write_timeout: fields.duration("write_timeout", default.write_timeout, findings),
        response_header_timeout: fields.duration_if_any("response_header_timeout", findings),
        idle_max: fields.usize("max_idle", 0, default.idle_max, findings),
        connections_max: fields.key("max_connections").map(|_| fields.usize("max_connections", 1, 1, findings)),
        idle_timeout: fields.duration("idle_timeout", default.idle_timeout, findings),
        age_max: fields.duration_if_any("max_age", findings),
        http2,
    }
}

fn upstream_tls(node: &Node<'_>, findings: &mut Findings) -> UpstreamTls {
    let keys = &["ca_file", "sni", "cert_file", "key_file", "insecure_skip_verify"];
    let Some(fields) = Fields::open(node, "`tls` of a pool", keys, findings) else { return UpstreamTls::default() };
    let sni = fields.text("sni", "a server name", findings).filter(|sni| {
        let good = address::is_authority(sni) && !sni.contains(':');
        if let (false, Some(node)) = (good, fields.get("sni")) {
            findings.error(node, "bad_host", format!("`{}` is not a server name", shown(sni)));
        }
        good
    });
    let client_certificate = match (fields.key("cert_file"), fields.key("key_file")) {
        (None, None) => None,
        _ => {
            let cert = fields.require_text("cert_file", "the PEM file of the client certificate", findings);
            let key = fields.require_text("key_file", "the PEM file of its key", findings);
            cert.zip(key).map(|(cert, key)| (cert.to_owned(), key.to_owned()))
        }
    };
    let insecure_skip_verify = fields.boolean("insecure_skip_verify", false, findings);
    if let (true, Some(key)) = (insecure_skip_verify, fields.key("insecure_skip_verify")) {
        findings
            .warning(key, "insecure_skip_verify", "any certificate is accepted from these endpoints")
            .help("give the CA that signed it: `ca_file: …`");
    }
    UpstreamTls {
        ca_file: fields.text("ca_file", "the path of a PEM file", findings).map(Into::into),
        sni: sni.map(str::to_ascii_lowercase),
        client_certificate,
        insecure_skip_verify,
        at: node.at(),
    }
}

fn health(node: &Node<'_>, findings: &mut Findings) -> Health {
    let Some(fields) = Fields::open(node, "`health`", &["active", "passive"], findings) else {
        return Health::default();
    };
    Health {
        active: fields.get("active").and_then(|node| active(node, findings)),
        passive: fields.get("passive").and_then(|node| passive(node, findings)),
    }
}

fn active(node: &Node<'_>, findings: &mut Findings) -> Option<ActiveHealth> {
    let keys = &["path", "interval", "timeout", "expected_status", "fail_threshold", "success_threshold"];
    let fields = Fields::open(node, "`active`", keys, findings)?;
    let default = default_active();
    let path = fields.get("path").and_then(|node| request_target(node, findings));
    let expected_status = fields.get("expected_status").and_then(|node| status_range(node, findings));
    Some(ActiveHealth {
        path,
        interval: fields.duration("interval", default.interval, findings),
        timeout: fields.duration("timeout", default.timeout, findings),
        expected_status: expected_status.unwrap_or(default.expected_status),
        fail_threshold: fields.u32("fail_threshold", 1, default.fail_threshold, findings),
        success_threshold: fields.u32("success_threshold", 1, default.success_threshold, findings),
        endpoint_paths: Vec::new(),
    })
}

/// Active checks where nothing else is written.
pub(super) fn default_active() -> ActiveHealth {
    ActiveHealth {
        path: None,
        endpoint_paths: Vec::new(),
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(1),
        expected_status: StatusRange { first: 200, last: 399 },
        fail_threshold: 3,
        success_threshold: 2,
    }
}

fn status_range(node: &Node<'_>, findings: &mut Findings) -> Option<StatusRange> {
    let value = read::text(node, "a range of statuses such as `200-399`", findings)?;
    let (first, last) = value.split_once('-').unwrap_or((value, value));
    let status = |text: &str| text.parse::<u16>().ok().filter(|status| text.len() == 3 && (100..=599).contains(status));
    match status(first).zip(status(last)) {
        Some((first, last)) if first <= last => Some(StatusRange { first, last }),
        _ => {
            findings
                .error(node, "bad_status", format!("`{}` is not a range of statuses", shown(value)))
                .help("write `200` or `200-399`, from 100 to 599");
            None
        }
    }
}

fn passive(node: &Node<'_>, findings: &mut Findings) -> Option<PassiveHealth> {
    let fields = Fields::open(node, "`passive`", &["consecutive_failures", "ejection_duration"], findings)?;
    Some(PassiveHealth {
        consecutive_failures: fields.u32("consecutive_failures", 1, 5, findings),
        ejection_duration: fields.duration("ejection_duration", Duration::from_secs(30), findings),
    })
}

fn outlier_detection(node: &Node<'_>, findings: &mut Findings) -> Option<OutlierDetection> {
    let keys = &[
        "consecutive_failures",
        "error_rate_threshold",
        "min_requests",
        "latency_multiplier",
        "interval",
        "ejection_duration",
        "max_ejection_duration",
        "max_ejection_percent",
    ];
    let fields = Fields::open(node, "`outlier_detection`", keys, findings)?;
    let judges = ["consecutive_failures", "error_rate_threshold", "latency_multiplier"];
    if judges.iter().all(|judge| fields.key(judge).is_none()) {
        findings
            .error(node, "missing_key", "`outlier_detection` judges nothing")
            .below("consecutive_failures")
            .help("add `consecutive_failures: 5` or `error_rate_threshold: 50`");
    }
    let latency_multiplier =
        fields.get("latency_multiplier").and_then(|node| read::number(node, 1.0..=1000.0, findings));
    let ejection_duration = fields.duration("ejection_duration", Duration::from_secs(30), findings);
    let longest = fields.duration("max_ejection_duration", Duration::from_secs(600), findings);
    Some(OutlierDetection {
        consecutive_failures: fields.u32_if_any("consecutive_failures", 1, findings),
        error_rate_threshold_percent: threshold(&fields, "error_rate_threshold", findings),
        requests_min: fields.u32("min_requests", 1, 20, findings),
        latency_multiplier,
        interval: fields.duration("interval", Duration::from_secs(10), findings),
        ejection_duration,
        ejection_duration_max: longest.max(ejection_duration),
        ejection_max_percent: fields.percent("max_ejection_percent", 50.0, findings),
    })
}

fn fail_open(node: &Node<'_>, findings: &mut Findings) -> Option<FailOpen> {
    let fields = Fields::open(node, "`fail_open`", &["requests_per_second"], findings)?;
    let rate = fields.get("requests_per_second").and_then(|node| read::number(node, 0.0..=1e6, findings));
    Some(FailOpen { requests_per_second: rate.unwrap_or(FailOpen::default().requests_per_second) })
}
