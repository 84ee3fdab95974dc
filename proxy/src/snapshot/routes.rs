//! Routes, compiled.

use std::sync::Arc;

use sealane_model::config::{self, Config};

use super::pools::same;
use super::{
    CompiledBreaker, CompiledHedge, CompiledPool, CompiledRetries, CompiledRoute, CompiledSandbox, CompiledTarget,
    Snapshot,
};
use crate::access_log::json_members;
use crate::admission::Admission;
use crate::breaker::BreakerPlan;
use crate::http1::write;
use crate::live::Live;
use crate::timer::ticks;
use crate::traffic::split::Split;
use crate::traffic::stage::CompiledTraffic;

/// The budget of hedges where no retries say otherwise.
const HEDGE_BUDGET_PERCENT: f64 = 10.0;

/// The route of an earlier snapshot, where it is the same at the same place, asks nothing of requests before they pass, and
/// sends them to the same pool; so many targets belong to the routes before it.
pub(super) fn again(
    before: &Snapshot,
    config: &Config,
    index: usize,
    first_target: usize,
    pools: &[Arc<CompiledPool>],
) -> Option<Arc<CompiledRoute>> {
    let (route, made) = (&config.routes[index], before.routes.get(index)?);
    let is_same = made.first_target == first_target
        && made.admission.is_none()
        && route.traffic.is_none()
        && config.limits.body_bytes_max == before.config.limits.body_bytes_max
        && same(before.config.routes.get(index)?, route)
        && Arc::ptr_eq(before.pools.get(route.pool)?, &pools[route.pool]);
    is_same.then(|| Arc::clone(made))
}

/// Compiles a route; so many targets and traffic plans belong to the routes before it.
pub(super) fn compile(
    config: &Config,
    index: usize,
    (first_target, number): (usize, usize),
    admission: Option<Box<Admission>>,
    live: &Live,
) -> CompiledRoute {
    let route = &config.routes[index];
    let body_bytes_max = [config.limits.body_bytes_max, route.policy.body_bytes_max];
    CompiledRoute {
        id: Arc::from(route.id.0.as_str()),
        targets: targets(config, route, live),
        first_target,
        timeout: route.policy.timeout.map(ticks),
        retries: route.policy.retries.as_ref().map(|policy| CompiledRetries {
            policy: policy.clone(),
            per_try: policy.per_try_timeout.map(ticks),
            budget: live.budget(&route.id.0),
        }),
        hedge: route.policy.hedge.as_ref().map(|hedge| CompiledHedge {
            after: hedge.after,
            extra_max: hedge.extra_max,
            budget: live.budget(&route.id.0),
            budget_percent: route
                .policy
                .retries
                .as_ref()
                .map_or(HEDGE_BUDGET_PERCENT, |retries| retries.budget_percent),
            live: live.hedges(&route.id.0),
        }),
        body_bytes_max: body_bytes_max.into_iter().flatten().min().unwrap_or(u64::MAX),
        require_tls: route.policy.require_tls,
        require_mtls: route.require_mtls,
        traffic: route.traffic.as_ref().map(|plan| Box::new(traffic(&route.id.0, plan, number, live))),
        admission,
        sandbox: route.sandbox.as_ref().map(|(id, number)| sandbox(id, *number)),
    }
}

/// Each pool that the route's requests may go to, once.
fn targets(config: &Config, route: &config::Route, live: &Live) -> Vec<CompiledTarget> {
    let mut pools = vec![route.pool];
    if let Some(plan) = &route.traffic {
        let canary = plan.canary.map(|(pool, _)| pool);
        let mapped = plan.cohorts.iter().flat_map(|cohorts| cohorts.mappings.iter().map(|(_, pool)| *pool));
        for pool in [plan.stable].into_iter().chain(canary).chain(mapped) {
            if !pools.contains(&pool) {
                pools.push(pool);
            }
        }
    }
    let target = |pool: usize| {
        let config = &config.pools[pool];
        let (route_id, pool_id) = (&route.id.0, &config.id.0);
        // The policy's breaker replaces the pool's.
        let breaker = route.policy.circuit_breaker.as_ref().or(config.circuit_breaker.as_ref());
        CompiledTarget {
            pool,
            log_members: json_members(&[("route", route_id), ("pool", pool_id)]),
            rotation: live.rotation(route_id, pool_id),
            breaker: breaker.map(|breaker| CompiledBreaker {
                plan: BreakerPlan::from(breaker),
                live: live.breaker(route_id, pool_id),
            }),
        }
    };
    pools.into_iter().map(target).collect()
}

fn traffic(route: &str, plan: &config::TrafficPlan, number: usize, live: &Live) -> CompiledTraffic {
    let mappings = plan.cohorts.iter().flat_map(|cohorts| cohorts.mappings.iter().cloned());
    CompiledTraffic {
        split: Split::new(route, plan.stable, plan.canary, mappings),
        cohort: plan.cohorts.as_ref().map(|cohorts| cohorts.key.clone()),
        brake: plan.auto_brake.clone(),
        overload: plan.overload.clone(),
        live: live.traffic(route),
        number,
    }
}

fn sandbox(id: &str, number: u64) -> CompiledSandbox {
    let number = number.to_string();
    let lines = |sandbox_name: &[u8]| {
        let mut lines = Vec::new();
        write::field(&mut lines, sandbox_name, id.as_bytes());
        write::field(&mut lines, b"X-ALB-Route-ID", number.as_bytes());
        lines
    };
    CompiledSandbox { request_lines: lines(b"X-Sandbox-ID"), response_lines: lines(b"X-ALB-Sandbox") }
}
