//! Generated configs: many routes, and the same with one of them changed.

use std::fmt::Write as _;

/// A config of so many routes over a hundred hosts and ten pools. Route `changed.0` goes to pool `changed.1`.
#[must_use]
pub fn routes(count: usize, changed: Option<(usize, usize)>) -> String {
    let mut text = String::from("listen: 127.0.0.1:8080\npools:\n");
    for pool in 0..POOLS {
        let _ = writeln!(text, "  - {{ id: pool-{pool}, endpoints: [\"127.0.0.1:{}\"] }}", 20_000 + pool);
    }
    text.push_str("routes:\n");
    for route in 0..count {
        let pool = changed.filter(|(at, _)| *at == route).map_or(route % POOLS, |(_, pool)| pool);
        let host = route % 100;
        let _ = writeln!(
            text,
            "  - {{ id: r{route}, host: h{host}.example.com, path_prefix: /service/{route}/, pool: pool-{pool} }}"
        );
    }
    text
}

/// Straight to all, and done once all have confirmed: what is measured is the way, not the care.
pub const PLAN: &str = "rollout:
  stages:
    - { name: all, fleet_percent: 100, bake_time: 1s }
  health_gates:
    - { metric: rejected_nodes, threshold: 0 }
  min_requests: 1
  final_bake: 0s
";

const POOLS: usize = 10;
