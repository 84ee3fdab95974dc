//! Cache rules, compiled for one route.

use std::sync::Arc;
use std::time::Duration;

use sealane_model::config::{self, Config, PreCompress};
use sealane_model::decide::RouteTable;
use sha2::{Digest as _, Sha256};

use super::policy::StoreRule;

/// What a rule means for the requests of one route.
#[derive(Clone, Debug)]
pub(crate) struct CompiledRule {
    /// Differs when something differs that what is stored may depend on.
    pub(crate) fingerprint: u64,
    pub(crate) takes_get: bool,
    pub(crate) takes_head: bool,
    pub(crate) store: StoreRule,
    /// In lower case; part of the key.
    pub(crate) vary: Vec<String>,
    /// Bytes of one body.
    pub(crate) body_bytes_max: u64,
    pub(crate) coalesce: Option<Duration>,
    /// How long a stale answer may be served while it is fetched anew.
    pub(crate) stale_ms: u64,
    /// How long a stale answer may be served because the origin fails.
    pub(crate) stale_if_error_ms: u64,
    /// Only answers whose length their head tells are stored.
    pub(crate) needs_length: bool,
    pub(crate) pre_compress: Option<PreCompress>,
}

/// The rules that may hold for a route, by their number in the config. Empty: none.
pub(crate) fn compile(config: &Config, route: usize, table: &RouteTable) -> Vec<Option<Arc<CompiledRule>>> {
    let Some(cache) = config.cache.as_ref().filter(|_| table.may_cache(route)) else { return Vec::new() };
    let compiled = cache.rules.iter().map(|rule| {
        rule.route.is_none_or(|wanted| wanted == route).then(|| Arc::new(compile_rule(config, cache, route, rule)))
    });
    compiled.collect()
}

fn compile_rule(config: &Config, cache: &config::Cache, route: usize, rule: &config::CacheRule) -> CompiledRule {
    let store = &cache.store;
    let takes = |method: &str| rule.methods.iter().any(|taken| taken == method);
    CompiledRule {
        fingerprint: fingerprint(config, cache, route, rule),
        takes_get: takes("GET"),
        takes_head: takes("HEAD"),
        store: StoreRule {
            status: rule.status.clone(),
            ttl: rule.ttl.map(|ttl| ttl.as_secs()),
            auth_aware: rule.auth_aware,
        },
        vary: rule.vary_headers.clone(),
        body_bytes_max: rule.entry_bytes_max.unwrap_or(store.entry_bytes_max),
        coalesce: rule.coalesce,
        stale_ms: store.stale_while_revalidate.as_millis() as u64,
        stale_if_error_ms: store.stale_if_error.max(store.stale_while_revalidate).as_millis() as u64,
        needs_length: rule.only_if_content_length,
        pre_compress: store.pre_compress.clone(),
    }
}

/// The rule for requests that no rule of the config takes, where hooks may want answers kept: by itself nothing is.
pub(crate) fn of_hooks(config: &Config, route: usize) -> CompiledRule {
    let store = config.cache.as_ref().map(|cache| cache.store.clone()).unwrap_or_default();
    CompiledRule {
        fingerprint: number(&format!("hooks {:?}", of_route(config, route))),
        takes_get: true,
        takes_head: true,
        store: StoreRule { status: Some(Vec::new()), ttl: None, auth_aware: true },
        vary: Vec::new(),
        body_bytes_max: store.entry_bytes_max,
        coalesce: None,
        stale_ms: 0,
        stale_if_error_ms: store.stale_if_error.as_millis() as u64,
        needs_length: false,
        pre_compress: store.pre_compress,
    }
}

/// A number of the rule and of everything else that decides what an endpoint is asked for on this route.
fn fingerprint(config: &Config, cache: &config::Cache, route: usize, rule: &config::CacheRule) -> u64 {
    let config::CacheRule {
        route: _,
        path,
        methods,
        status,
        ttl,
        vary_headers,
        entry_bytes_max,
        auth_aware,
        only_if_content_length: _,
        coalesce: _,
        at: _,
    } = rule;
    let text = format!(
        "{:?}",
        (
            (path, methods, status, ttl, vary_headers, entry_bytes_max, auth_aware, &cache.store.pre_compress),
            of_route(config, route),
        )
    );
    number(&text)
}

/// What of a route decides what an endpoint is asked for.
fn of_route(config: &Config, route: usize) -> impl std::fmt::Debug {
    let route = &config.routes[route];
    let chain = route.middleware.map(|chain| format!("{:?}", config.middleware[chain].stages));
    let pool = &config.pools[route.pool];
    (&route.id, &route.rewrite, &pool.id, &pool.host_header, chain)
}

fn number(text: &str) -> u64 {
    let digest = Sha256::digest(text);
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}
