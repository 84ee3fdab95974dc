//! The files of seeds 001 and 002.

use std::time::Duration;

use sealane_model::config::{HostHeader, PathMatch, TargetPath};

use super::samples::{SEED_001, SEED_002};
use super::{good, problems, refuses};

#[test]
fn seed_001_replaces_the_path_by_that_of_each_url() {
    let config = good(SEED_001);
    assert_eq!(problems(SEED_001), []);
    assert_eq!(config.listeners[0].address.port, 8000);
    assert!(config.metrics.on_data_plane);
    let routes: Vec<_> = config.routes.iter().map(|route| (route.id.0.as_str(), &route.path, route.pool)).collect();
    let exact = |path: &str| PathMatch::Exact(path.into());
    assert_eq!(routes, [("*/index", &exact("/index"), 0), ("*/home", &exact("/home"), 1)]);
    let pool = &config.pools[0];
    assert_eq!((pool.id.0.as_str(), &pool.host_header), ("route/*/index", &HostHeader::Endpoint));
    assert_eq!(pool.endpoints[1].to_string(), "localhost:5002");
    assert_eq!(pool.endpoints[1].path, TargetPath::Replace("/index-proxied".into()));
}

#[test]
fn seed_001_takes_the_root_for_every_path() {
    let config = good("port: 80\nendpoints:\n- from: /\n  pool: [http://a:1]\n");
    assert_eq!(config.routes[0].path, PathMatch::Prefix("/".into()));
    assert_eq!(config.pools[0].endpoints[0].path, TargetPath::Keep);
}

#[test]
fn seed_002_takes_the_path_of_each_url_for_its_health_path() {
    let config = good(SEED_002);
    assert_eq!(problems(SEED_002), []);
    assert_eq!(config.listeners[0].address.port, 8080);
    assert_eq!((config.routes.len(), &config.routes[0].path), (1, &PathMatch::Any));
    let pool = &config.pools[0];
    assert_eq!(pool.host_header, HostHeader::Preserve);
    assert!(pool.endpoints.iter().all(|endpoint| endpoint.path == TargetPath::Keep));
    let active = pool.health.active.as_ref().unwrap();
    assert_eq!(active.endpoint_paths, ["/health", "/health", "/health"]);
    assert_eq!((active.timeout, active.interval), (Duration::from_secs(3), Duration::from_secs(5)));
    assert_eq!((active.fail_threshold, active.success_threshold), (1, 1));
    assert_eq!(pool.fail_open.requests_per_second, 0.0);
}

#[test]
fn seed_002_accepts_upstreams_and_checks_by_connecting_without_a_path() {
    let config = good("port: 80\nupstreams: [\"http://a:1\", \"http://b:1\"]\n");
    let active = config.pools[0].health.active.as_ref().unwrap();
    assert_eq!((active.path.as_deref(), active.endpoint_paths.len()), (None, 0));
}

#[test]
fn small_formats_are_as_strict_as_the_native_one() {
    refuses("port: x\nbackends: [\"http://a:1\"]\n", &["wrong_type port"]);
    refuses("port: 0\nbackends: [\"http://a:1\"]\n", &["out_of_range port"]);
    refuses("port: 80\nbackends: []\n", &["empty_list backends"]);
    refuses("port: 80\nbackends: [a:1]\n", &["bad_address backends[0]"]);
    refuses("port: 80\nbackends: [\"http://a:1\", \"http://a:1/x\"]\n", &["duplicate_endpoint backends[1]"]);
    refuses("port: 80\nbackends: [\"http://a:1\"]\nhealthCheckTimeout: 3s\n", &["wrong_type healthCheckTimeout"]);
    refuses("port: 80\nbackends: [\"http://a:1\"]\nroutes: []\n", &["unknown_key routes"]);
    refuses("port: 80\nendpoints: [{ from: x, pool: [\"http://a:1\"] }]\n", &["bad_path endpoints[0].from"]);
    refuses("port: 80\nendpoints: [{ from: /x }]\n", &["missing_key endpoints[0].pool"]);
    let twice =
        "port: 80\nendpoints:\n- { from: /x, pool: [\"http://a:1\"] }\n- { from: /x, pool: [\"http://a:1\"] }\n";
    refuses(twice, &["duplicate_id endpoints[1].from"]);
    refuses("port: 80\n", &["unknown_key port", "missing_reference routes"]);
}
