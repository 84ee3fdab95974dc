//! The response cache in a Rust program: bounds, rules, purging and statistics.
//!
//! `cargo run -p sealane-proxy --example cache -- http://localhost:3000`
//!
//! Beside the program, whoever runs it purges by hand on the admin address: `DELETE /admin/cache/{domain}`.

#![expect(clippy::print_stdout, reason = "a program says what it does")]

use sealane_proxy::cache::{CacheStats, Purge, PurgeError};
use sealane_proxy::proxy::{Notice, Proxy};

/// Bounds of the whole, and what is cached for how long.
pub(crate) const CACHE: &str = "
cache:
  store:
    max_total: 256MB
    max_entries: 10000
    max_entry: 4MB
    pre_compress: { level: 6, min_length: 256 }
    stale_while_revalidate: 30s
  rules:
    - { path_prefix: /api/v1/, ttl: 10m, methods: [GET], status: [200] }
    - { path_prefix: /static/, ttl: 24h, max_size: 10MB }
    - { path_prefix: /, ttl: 5m }
";

/// Takes out one answer, those of a host, then everything. How many each time.
pub(crate) fn purge(proxy: &Proxy) -> Result<[u64; 3], PurgeError> {
    let one = proxy.purge_cache(&Purge::Url("http://api.example.com/api/v1/users".to_owned()))?;
    let host = proxy.purge_cache(&Purge::Host("api.example.com".to_owned()))?;
    let all = proxy.purge_cache(&Purge::All)?;
    Ok([one, host, all])
}

/// In words.
pub(crate) fn statistics(proxy: &Proxy) -> String {
    let CacheStats { entries, bytes, hits, misses, .. } = proxy.cache_stats();
    format!("cache: {entries} entries, {bytes} bytes, {hits} hits, {misses} misses")
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let backend = std::env::args().nth(1).ok_or("usage: cache URL")?;
    let config =
        format!("listen: ':8080'\nadmin: {{ address: '127.0.0.1:9090' }}\nroutes: [{{ to: '{backend}' }}]\n{CACHE}");
    let proxy = Proxy::builder().serve("cache", &config).await?;
    tokio::signal::ctrl_c().await?;
    println!("{}", statistics(&proxy));
    purge(&proxy)?;
    proxy.drain(Notice::Nobody).await;
    Ok(())
}
