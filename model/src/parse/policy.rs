//! Policies: what holds for the requests of a route.

use std::time::Duration;

use super::fields::Fields;
use super::findings::Findings;
use super::read::{self, shown};
use super::support::Feature;
use super::tree::Node;
use crate::config::{
    Backoff, CircuitBreaker, ClientRetryCap, Hedge, HedgeDelay, Policy, PolicyId, RateLimit, RateLimitKey, Retries,
    RetryCondition,
};

const KEYS: &[&str] =
    &["timeout", "retries", "hedge", "rate_limit", "circuit_breaker", "body_size_limit", "require_tls", "id"];

/// A named policy.
pub(super) fn named(id: &str, node: &Node<'_>, findings: &mut Findings) -> Policy {
    Policy { id: Some(PolicyId(id.to_owned())), ..policy(node, KEYS, findings) }
}

/// A policy written inside a route.
pub(super) fn inline(node: &Node<'_>, findings: &mut Findings) -> Policy {
    policy(node, &KEYS[..KEYS.len() - 1], findings)
}

fn policy(node: &Node<'_>, keys: &[&'static str], findings: &mut Findings) -> Policy {
    let Some(fields) = Fields::open(node, "a policy", keys, findings) else { return Policy::default() };
    if let Some(key) = fields.key("hedge") {
        findings.uses(key, Feature::Hedge);
    }
    if let Some(key) = fields.key("rate_limit") {
        findings.uses(key, Feature::RateLimit);
    }
    if let Some(key) = fields.key("circuit_breaker") {
        findings.uses(key, Feature::CircuitBreaker);
    }
    let require_tls = fields.boolean("require_tls", false, findings);
    if let (true, Some(key)) = (require_tls, fields.key("require_tls")) {
        findings.uses(key, Feature::RequireTls);
    }
    Policy {
        id: None,
        timeout: Some(fields.duration_or_zero("timeout", Duration::ZERO, findings))
            .filter(|timeout| !timeout.is_zero()),
        retries: fields.get("retries").and_then(|node| retries(node, findings)),
        hedge: fields.get("hedge").and_then(|node| hedge(node, findings)),
        rate_limit: fields.get("rate_limit").and_then(|node| rate_limit(node, findings)),
        circuit_breaker: fields.get("circuit_breaker").and_then(|node| circuit_breaker(node, findings)),
        body_bytes_max: fields.bytes_if_any("body_size_limit", findings),
        require_tls,
    }
}

fn retries(node: &Node<'_>, findings: &mut Findings) -> Option<Retries> {
    let keys = &[
        "max_attempts",
        "budget_percent",
        "idempotent_only",
        "per_try_timeout",
        "on",
        "backoff",
        "max_backoff",
        "within",
        "per_client",
    ];
    let fields = Fields::open(node, "`retries`", keys, findings)?;
    let on = match fields.get("on") {
        Some(node) => read::list(node, "conditions", findings)
            .unwrap_or_default()
            .iter()
            .filter_map(|item| retry_condition(item, findings))
            .collect(),
        // As seed 004: what says that the endpoint did not do the work.
        None => vec![
            RetryCondition::ConnectFailure,
            RetryCondition::Reset,
            RetryCondition::Timeout,
            RetryCondition::Status(502),
            RetryCondition::Status(503),
            RetryCondition::Status(504),
        ],
    };
    Some(Retries {
        attempts_max: fields.u32("max_attempts", 1, 2, findings),
        budget_percent: fields.percent("budget_percent", 10.0, findings),
        idempotent_only: fields.boolean("idempotent_only", true, findings),
        per_try_timeout: fields.duration_if_any("per_try_timeout", findings),
        on,
        backoff: backoff(&fields, findings),
        within: fields.duration_if_any("within", findings),
        per_client: fields.get("per_client").and_then(|node| client_retry_cap(node, findings)),
    })
}

fn backoff(fields: &Fields<'_, '_>, findings: &mut Findings) -> Option<Backoff> {
    let base = fields.duration_if_any("backoff", findings);
    let max = fields.duration_if_any("max_backoff", findings);
    if let (None, Some(key)) = (fields.key("backoff"), fields.key("max_backoff")) {
        findings
            .error(key, "missing_key", "`max_backoff` bounds a `backoff` that is missing")
            .help("add `backoff: 25ms`, or remove it");
    }
    let base = base?;
    if let (Some(max), Some(key)) = (max.filter(|max| *max < base), fields.key("max_backoff")) {
        findings.error(key, "out_of_range", format!("must not be below `backoff`: {max:?} is below {base:?}"));
    }
    Some(Backoff { base, max: max.unwrap_or(Duration::from_secs(1)).max(base) })
}

fn client_retry_cap(node: &Node<'_>, findings: &mut Findings) -> Option<ClientRetryCap> {
    let fields = Fields::open(node, "`per_client`", &["key", "percent", "burst"], findings)?;
    let key = fields.get("key").map_or(Some(RateLimitKey::ClientIp), |node| {
        let key = rate_limit_key(node, findings)?;
        if matches!(key, RateLimitKey::Claim(_)) {
            findings
                .error(node, "unknown_value", "retries are not counted by claim")
                .help("write `client_ip` or `header:X-Api-Key`");
            return None;
        }
        Some(key)
    });
    Some(ClientRetryCap {
        percent: fields.percent("percent", 20.0, findings),
        burst: fields.u32("burst", 0, 3, findings),
        key: key?,
    })
}

fn retry_condition(node: &Node<'_>, findings: &mut Findings) -> Option<RetryCondition> {
    let what = "`connect_failure`, `reset`, `timeout` or a status";
    let value = read::text(node, what, findings)?;
    if let Some(status) = value.parse::<u16>().ok().filter(|_| value.len() == 3 && !value.starts_with('+')) {
        if (400..=599).contains(&status) {
            return Some(RetryCondition::Status(status));
        }
        findings.error(node, "out_of_range", format!("only answers with 400 to 599 can be retried, not {status}"));
        return None;
    }
    read::one_of(
        node,
        &[
            ("connect_failure", RetryCondition::ConnectFailure),
            ("reset", RetryCondition::Reset),
            ("timeout", RetryCondition::Timeout),
            ("502", RetryCondition::Status(502)),
            ("503", RetryCondition::Status(503)),
            ("504", RetryCondition::Status(504)),
        ],
        findings,
    )
}

fn hedge(node: &Node<'_>, findings: &mut Findings) -> Option<Hedge> {
    let fields = Fields::open(node, "`hedge`", &["after", "max_extra"], findings)?;
    let after = fields.require("after", "a duration, or a quantile such as `p95`", findings)?;
    let extra_max = fields.u32("max_extra", 1, 1, findings);
    let value = read::text(after, "a duration, or a quantile such as `p95`", findings)?;
    let after = match value.strip_prefix('p') {
        Some(digits) => {
            let percent = digits.parse::<f64>().ok().filter(|p| *p > 0.0 && *p < 100.0);
            let Some(percent) = percent.filter(|_| digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')) else {
                findings
                    .error(after, "unknown_value", format!("`{}` is not a quantile", shown(value)))
                    .help("write `p50`, `p95`, `p99`, or a duration");
                return None;
            };
            HedgeDelay::Quantile(percent / 100.0)
        }
        None => HedgeDelay::Fixed(read::duration_above_zero(after, findings)?),
    };
    Some(Hedge { after, extra_max })
}

/// A token bucket, of a policy or of a stage.
pub(super) fn rate_limit(node: &Node<'_>, findings: &mut Findings) -> Option<RateLimit> {
    let fields = Fields::open(node, "`rate_limit`", &["requests_per_second", "burst", "key"], findings)?;
    let rate = fields.require("requests_per_second", "a number", findings)?;
    let requests_per_second = read::number(rate, 0.0..=1e9, findings);
    if requests_per_second == Some(0.0) {
        findings.error(rate, "out_of_range", "must be above 0").help("use a smaller `burst` or no route at all");
    }
    let key = fields.get("key").map_or(Some(RateLimitKey::ClientIp), |node| rate_limit_key(node, findings));
    let requests_per_second = requests_per_second?;
    // Without a burst: the requests of one second.
    let default_burst = requests_per_second.ceil().clamp(1.0, f64::from(u32::MAX)) as u32;
    Some(RateLimit { requests_per_second, burst: fields.u32("burst", 1, default_burst, findings), key: key? })
}

fn rate_limit_key(node: &Node<'_>, findings: &mut Findings) -> Option<RateLimitKey> {
    let value = read::text(node, "`client_ip`, `header:NAME` or `claim:NAME`", findings)?;
    match value.split_once(':') {
        None if value == "client_ip" => Some(RateLimitKey::ClientIp),
        Some(("header", name)) if super::header::is_header_name(name) => {
            Some(RateLimitKey::Header(name.to_ascii_lowercase()))
        }
        Some(("claim", name)) if !name.trim().is_empty() => Some(RateLimitKey::Claim(name.to_owned())),
        _ => {
            findings
                .error(node, "unknown_value", format!("`{}` is not a key for limits", shown(value)))
                .help("write `client_ip`, `header:X-Api-Key` or `claim:sub`");
            None
        }
    }
}

/// A breaker, of a pool or of a policy.
pub(super) fn circuit_breaker(node: &Node<'_>, findings: &mut Findings) -> Option<CircuitBreaker> {
    let keys = &["error_threshold_percent", "min_requests", "open_duration", "window", "half_open_requests"];
    let fields = Fields::open(node, "`circuit_breaker`", keys, findings)?;
    let half_open = fields.get("half_open_requests").and_then(|node| read::integer(node, 1..=100, findings));
    Some(CircuitBreaker {
        error_threshold_percent: threshold(&fields, "error_threshold_percent", findings).unwrap_or(50.0),
        requests_min: fields.u32("min_requests", 1, 20, findings),
        open_duration: fields.duration("open_duration", Duration::from_secs(30), findings),
        window: fields.duration("window", Duration::from_secs(10), findings),
        half_open_requests: half_open.map_or(5, |number| number as u32),
    })
}

/// A share of failures that is too many: none at all would be too many at 0.
pub(super) fn threshold(fields: &Fields<'_, '_>, name: &str, findings: &mut Findings) -> Option<f64> {
    let node = fields.get(name)?;
    let percent = read::percent(node, findings)?;
    if percent == 0.0 {
        findings.error(node, "out_of_range", "must be above 0: at 0 there would be too many failures without one");
        return None;
    }
    Some(percent)
}
