//! Hosts in a Rust program, each with its backends, balancer, timeouts, retries and health checks; one of them by path.
//!
//! `cargo run -p sealane-proxy --example domains`

#![expect(clippy::print_stdout, reason = "a program says what it does")]

use sealane_proxy::proxy::{Notice, Proxy, RevisionTag};

/// A host and its backends, nothing else said.
pub(crate) const BASIC: &str = "
routes:
  - { host: api.example.com, to: ['http://localhost:3001', 'http://localhost:3002'] }
";

/// Everything that can be said of one, the balancers beside it, and a host whose paths go to different backends.
pub(crate) const FULL: &str = "
routes:
  - { id: api, host: api.example.com, pool: api, policy: { retries: { max_attempts: 3, on: [connect_failure, reset] } } }
  - { host: app.example.com, pool: app }
  - { host: www.example.com, path_prefix: /api/, to: 'http://api-service:3000' }
  - { host: www.example.com, path_prefix: /auth/, pool: auth }
  - { host: www.example.com, path_prefix: /, to: 'http://frontend:8080' }
pools:
  - id: api
    endpoints: [{ address: 'https://backend1.local', weight: 3 }, { address: 'https://backend2.local', weight: 1 }]
    balancer: weighted_round_robin
    host_header: backend.internal      # preserve: the client's; endpoint, the default: the backend's own
    connections: { connect_timeout: 10s, read_timeout: 30s, write_timeout: 10s, max_idle: 32, idle_timeout: 90s }
    health:
      active: { path: /health, interval: 10s, timeout: 5s, expected_status: 200-499, fail_threshold: 3, success_threshold: 2 }
  - id: app
    endpoints: [{ address: '10.0.0.1:8080', weight: 5 }, { address: '10.0.0.2:8080', weight: 3 }, '10.0.0.3:8080']
    balancer: weighted_round_robin     # round_robin, least_conn, ip_hash, random, p2c, consistent_hash
    health: { active: { interval: 10s } }      # without a path: a TCP connection is enough
  - { id: auth, endpoints: ['auth-service:4000'], host_header: auth.internal }
";

/// Adds a listener to a config.
pub(crate) fn listening(routes: &str, address: &str) -> String {
    format!("listen: '{address}'\n{routes}")
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proxy = Proxy::builder().serve("domains", &listening(BASIC, ":8080")).await?;
    // Domains come and go with the next config; requests in flight end on the one that they began with.
    proxy.serve("domains", &listening(FULL, ":8080")).await?;
    println!("serving {}", proxy.active().as_ref().map_or("nothing", |RevisionTag { label, .. }| label));
    tokio::signal::ctrl_c().await?;
    proxy.drain(Notice::Nobody).await;
    Ok(())
}
