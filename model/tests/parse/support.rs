//! What this version does not do is refused by name, where it would be used, and only there.

use super::{errors, pool, route, top};

#[test]
fn a_feature_that_is_off_is_not_refused() {
    let certificate = "certificates: [{ cert_file: /c, key_file: /k }]";
    for text in [
        top("listeners: [{ address: \":80\", proxy_protocol: false }]"),
        top(&format!("tls: {{ {certificate}, mtls: {{ enabled: false, ca_file: /ca }} }}")),
        top("rollout: { cold_start_gate: false }"),
        route("require_mtls: false"),
        route("policy: { require_tls: false }"),
        pool("connections: { http2: auto }"),
        pool("balancer: weighted_round_robin"),
    ] {
        assert_eq!(errors(&text), [""; 0], "{text}");
    }
}

#[test]
fn a_refused_feature_is_told_once_at_its_key() {
    // What works already is left out: the row in the table decides.
    let check = |text: String, path: &str| {
        let found = errors(&text);
        let expected = format!("not_supported_yet {path}");
        assert!(found.is_empty() || found == [expected], "{text}\n{found:?}");
    };
    check(top("listeners: [{ address: \":80\", proxy_protocol: true }]"), "listeners[0].proxy_protocol");
    check(pool("balancer: least_conn"), "pools[0].balancer");
    check(pool("balancer: ip_hash"), "pools[0].balancer");
    check(pool("balancer: random"), "pools[0].balancer");
    check(pool("balancer: p2c"), "pools[0].balancer");
    check(pool("connections: { http2: always }"), "pools[0].connections.http2");
    check("routes: [{ to: \"h2c://a:1\" }]\n".into(), "routes[0].to");
    check(route("policy: { rate_limit: { requests_per_second: 1 } }"), "routes[0].policy.rate_limit");
    check(route("policy: { require_tls: true }"), "routes[0].policy.require_tls");
    check(top("cache: []"), "cache");
    check(top("plugins: []"), "plugins");
    check(top("middleware: []"), "middleware");
    check(top("tracing: { otlp_endpoint: \"http://a:4317\" }"), "tracing");
}
