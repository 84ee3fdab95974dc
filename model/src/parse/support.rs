//! What this version of the proxy can do: the one table that says which parsed features are refused.
//!
//! A feature is refused where it would be used; the values around it are checked all the same.

/// Something a config may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Feature {
    BalancerConsistentHash,
    BalancerIpHash,
    BalancerLeastConnections,
    BalancerPowerOfTwoChoices,
    BalancerRandom,
    Cache,
    CircuitBreaker,
    Hedge,
    Http2Upstream,
    Middleware,
    Mtls,
    OutlierDetection,
    Plugins,
    ProxyProtocol,
    RateLimit,
    RequireTls,
    SandboxHosts,
    SandboxTtl,
    Tracing,
    TrafficManagement,
}

/// One row.
#[derive(Debug)]
pub(super) struct Support {
    feature: Feature,
    /// As a message calls it.
    pub(super) name: &'static str,
    /// Whether this version does it.
    pub(super) works: bool,
    /// What to do until then.
    pub(super) instead: &'static str,
}

const fn row(feature: Feature, name: &'static str, works: bool, instead: &'static str) -> Support {
    Support { feature, name, works, instead }
}

const REMOVE: &str = "remove it for now";
const BALANCERS: &str = "use `round_robin` or `weighted_round_robin` for now";

const TABLE: &[Support] = &[
    row(Feature::BalancerConsistentHash, "balancer `consistent_hash`", true, BALANCERS),
    row(Feature::BalancerIpHash, "balancer `ip_hash`", true, BALANCERS),
    row(Feature::BalancerLeastConnections, "balancer `least_conn`", true, BALANCERS),
    row(Feature::BalancerPowerOfTwoChoices, "balancer `p2c`", true, BALANCERS),
    row(Feature::BalancerRandom, "balancer `random`", true, BALANCERS),
    row(Feature::Cache, "`cache`", true, REMOVE),
    row(Feature::CircuitBreaker, "`circuit_breaker`", true, REMOVE),
    row(Feature::Hedge, "`hedge`", true, REMOVE),
    row(
        Feature::Http2Upstream,
        "HTTP/2 to endpoints",
        true,
        "use `http://` or `https://` without `http2: always` for now",
    ),
    row(Feature::Middleware, "`middleware`", true, REMOVE),
    row(Feature::Mtls, "asking clients for certificates", true, REMOVE),
    row(Feature::OutlierDetection, "`outlier_detection`", true, REMOVE),
    row(Feature::Plugins, "`plugins`", true, REMOVE),
    row(Feature::ProxyProtocol, "`proxy_protocol`", true, REMOVE),
    row(Feature::RateLimit, "`rate_limit`", true, REMOVE),
    row(
        Feature::RequireTls,
        "`require_tls`",
        true,
        "serve plain text from a listener with `redirect_to: https` for now",
    ),
    row(Feature::SandboxHosts, "`sandboxes.hosts`", true, REMOVE),
    row(
        Feature::SandboxTtl,
        "`ttl` of a sandbox route in a file",
        true,
        "add the route through the API to let it expire",
    ),
    row(Feature::Tracing, "`tracing`", true, REMOVE),
    row(Feature::TrafficManagement, "`traffic_management`", true, REMOVE),
];

/// The row of a feature.
pub(super) fn support(feature: Feature) -> &'static Support {
    TABLE.iter().find(|row| row.feature == feature).expect("a test walks every feature")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_has_exactly_one_row() {
        // The last variant: variants are numbered in order.
        let count = Feature::TrafficManagement as usize + 1;
        assert_eq!(TABLE.len(), count);
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.feature as usize, index, "rows are in the order of the features");
        }
    }
}
