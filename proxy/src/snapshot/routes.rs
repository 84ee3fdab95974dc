//! Routes, compiled.

use std::sync::Arc;

use sealane_model::config::{self, Config};

use super::{CompiledRetries, CompiledRoute, CompiledSandbox};
use crate::access_log::json_members;
use crate::admission::Chains;
use crate::http1::write;
use crate::live::Live;
use crate::timer::ticks;

pub(super) fn compile(config: &Config, chains: &Chains, route: &config::Route, live: &Live) -> CompiledRoute {
    let body_bytes_max = [config.limits.body_bytes_max, route.policy.body_bytes_max];
    CompiledRoute {
        id: Arc::from(route.id.0.as_str()),
        log_members: json_members(&[("route", &route.id.0), ("pool", &config.pools[route.pool].id.0)]),
        pool: route.pool,
        rotation: live.rotation(&route.id.0, &config.pools[route.pool].id.0),
        timeout: route.policy.timeout.map(ticks),
        retries: route.policy.retries.as_ref().map(|policy| CompiledRetries {
            policy: policy.clone(),
            per_try: policy.per_try_timeout.map(ticks),
            budget: live.budget(&route.id.0),
        }),
        body_bytes_max: body_bytes_max.into_iter().flatten().min().unwrap_or(u64::MAX),
        require_tls: route.policy.require_tls,
        require_mtls: route.require_mtls,
        admission: chains.admission(route, live),
        sandbox: route.sandbox.as_ref().map(|(id, number)| sandbox(id, *number)),
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
