//! Families of breakers, ejections and traffic plans.

use std::collections::HashSet;

use super::{Page, label, rows};
use crate::breaker::State;
use crate::clock::Moment;
use crate::hedge::HedgeOutcome;
use crate::outlier::Reason;
use crate::snapshot::Snapshot;
use crate::traffic::split::Variant;

/// Breakers of the snapshot, up to the bound on series.
pub(super) fn breakers(page: &mut Page, snapshot: &Snapshot) {
    let now_ms = Moment::now().millis();
    let breakers: Vec<_> = snapshot
        .targets()
        .filter_map(|(route, target)| {
            let look = {
                let breaker = target.breaker.as_ref()?;
                breaker.live.look(&breaker.plan, now_ms)
            };
            let pool = label(&snapshot.pools[target.pool].id);
            Some((format!("route=\"{}\",pool=\"{pool}\"", label(&route.id)), look))
        })
        .take(rows(snapshot, State::ALL.len()))
        .collect();
    page.family("proxy_breaker_state", "gauge", "1 for the state that a breaker is in.");
    for (labels, look) in &breakers {
        for state in State::ALL {
            let is = u8::from(look.state == state);
            page.line(format_args!("proxy_breaker_state{{{labels},state=\"{}\"}} {is}", state.name()));
        }
    }
    page.family("proxy_breaker_open", "gauge", "Whether a breaker is open.");
    for (labels, look) in &breakers {
        page.line(format_args!("proxy_breaker_open{{{labels}}} {}", u8::from(look.state == State::Open)));
    }
    page.family("proxy_breaker_trips_total", "counter", "Times that a breaker opened.");
    for (labels, look) in &breakers {
        page.line(format_args!("proxy_breaker_trips_total{{{labels}}} {}", look.trips));
    }
    page.family("proxy_circuit_open_total", "counter", "Attempts that a breaker refused.");
    for (labels, look) in &breakers {
        page.line(format_args!("proxy_circuit_open_total{{{labels}}} {}", look.refused));
    }
}

/// What was ejected, and what passed although everything was.
pub(super) fn ejections(page: &mut Page, snapshot: &Snapshot) {
    let mut seen = HashSet::new();
    let pools: Vec<_> = snapshot
        .pools
        .iter()
        .take(rows(snapshot, Reason::ALL.len()))
        .filter(|pool| seen.insert(&pool.id))
        .map(|pool| (label(&pool.id), pool))
        .collect();
    page.family("proxy_outlier_ejections_total", "counter", "Endpoints that were ejected.");
    for (id, pool) in &pools {
        if pool.passive.is_none() && pool.outlier.is_none() {
            continue;
        }
        for reason in Reason::ALL {
            let (reason, ejections) = (reason.name(), pool.live.ejections(reason));
            page.line(format_args!("proxy_outlier_ejections_total{{pool=\"{id}\",reason=\"{reason}\"}} {ejections}"));
        }
    }
    page.family("proxy_outlier_fail_open_total", "counter", "Requests passed although no endpoint was healthy.");
    for (id, pool) in &pools {
        page.line(format_args!("proxy_outlier_fail_open_total{{pool=\"{id}\"}} {}", pool.live.trickled()));
    }
}

/// What came of hedges.
pub(super) fn hedges(page: &mut Page, snapshot: &Snapshot) {
    let hedging = snapshot.routes.iter().filter_map(|route| Some((label(&route.id), route.hedge.as_ref()?)));
    let hedging: Vec<_> = hedging.take(rows(snapshot, HedgeOutcome::ALL.len())).collect();
    if hedging.is_empty() {
        return;
    }
    page.family(
        "proxy_hedges_total",
        "counter",
        "Further endpoints asked, answers of theirs that came first, and hedges the budget refused.",
    );
    for (route, hedge) in &hedging {
        for outcome in HedgeOutcome::ALL {
            let (name, count) = (outcome.name(), hedge.live.outcomes(outcome));
            page.line(format_args!("proxy_hedges_total{{route=\"{route}\",outcome=\"{name}\"}} {count}"));
        }
    }
    page.family(
        "proxy_hedge_delay_seconds",
        "gauge",
        "How long an endpoint may take before another is asked; 0: not known yet.",
    );
    for (route, hedge) in &hedging {
        let delay = hedge.live.delay(hedge.after).unwrap_or_default().as_secs_f64();
        page.line(format_args!("proxy_hedge_delay_seconds{{route=\"{route}\"}} {delay}"));
    }
}

/// What traffic plans did: sides, brakes, limits.
pub(super) fn traffic(page: &mut Page, snapshot: &Snapshot) {
    if snapshot.traffic_plans == 0 {
        return;
    }
    let now_ms = Moment::now().millis();
    let plans: Vec<_> = snapshot
        .routes
        .iter()
        .filter_map(|route| Some((label(&route.id), route.traffic.as_ref()?)))
        .take(rows(snapshot, 3))
        .collect();
    let variants = [Variant::Stable, Variant::Canary, Variant::Cohort];
    page.family("proxy_variant_requests_total", "counter", "Requests by the side that they were sent to.");
    for (route, plan) in &plans {
        for variant in variants {
            let (name, requests) = (variant.name(), plan.live.sums(variant).requests);
            page.line(format_args!("proxy_variant_requests_total{{route=\"{route}\",variant=\"{name}\"}} {requests}"));
        }
    }
    page.family("proxy_variant_errors_total", "counter", "Requests that failed by the side that they were sent to.");
    for (route, plan) in &plans {
        for variant in variants {
            let (name, errors) = (variant.name(), plan.live.sums(variant).errors);
            page.line(format_args!("proxy_variant_errors_total{{route=\"{route}\",variant=\"{name}\"}} {errors}"));
        }
    }
    page.family("proxy_canary_weight", "gauge", "Percent of requests that go to the canary; 0 while it is taken out.");
    for (route, plan) in &plans {
        let braked = plan.brake.is_some() && plan.live.is_braked(now_ms);
        let weight = plan.split.canary.filter(|_| !braked).map_or(0.0, |(_, share)| share.percent());
        page.line(format_args!("proxy_canary_weight{{route=\"{route}\"}} {weight}"));
    }
    page.family("proxy_canary_brakes_total", "counter", "Times that the canary was taken out.");
    for (route, plan) in &plans {
        page.line(format_args!("proxy_canary_brakes_total{{route=\"{route}\"}} {}", plan.live.brakes()));
    }
    let limited: Vec<_> =
        plans.iter().filter_map(|(route, plan)| Some((route, plan.overload.as_ref()?, &plan.live.limiter))).collect();
    page.family("proxy_overload_in_flight", "gauge", "Requests in flight.");
    for (route, _, limiter) in &limited {
        page.line(format_args!("proxy_overload_in_flight{{route=\"{route}\"}} {}", limiter.load().0));
    }
    page.family("proxy_overload_queue_depth", "gauge", "Requests that wait for a place.");
    for (route, _, limiter) in &limited {
        page.line(format_args!("proxy_overload_queue_depth{{route=\"{route}\"}} {}", limiter.load().1));
    }
    page.family("proxy_overload_limit", "gauge", "Requests that may be in flight.");
    for (route, overload, limiter) in &limited {
        let limit = limiter.effective(overload.concurrent_max);
        page.line(format_args!("proxy_overload_limit{{route=\"{route}\"}} {limit}"));
    }
    page.family("proxy_overload_reject_total", "counter", "Requests turned away, at once or after waiting.");
    for (route, _, limiter) in &limited {
        page.line(format_args!("proxy_overload_reject_total{{route=\"{route}\"}} {}", limiter.rejected()));
    }
}
