//! The name that was probably meant.

/// Keys of other proxies and what they are called here. Only used where our key is known.
const ELSEWHERE: &[(&str, &str)] = &[
    ("allow_credentials", "credentials"),
    ("allow_headers", "headers"),
    ("allow_methods", "methods"),
    ("allow_origins", "origins"),
    ("allowed_headers", "headers"),
    ("allowed_methods", "methods"),
    ("allowed_origins", "origins"),
    ("aud", "audience"),
    ("audiences", "audience"),
    ("backend", "pool"),
    ("backends", "pools"),
    ("backends", "endpoints"),
    ("bind", "listen"),
    ("client_max_body_size", "body_size_limit"),
    ("client_max_body_size", "max_body_bytes"),
    ("claim_headers", "claims_to_headers"),
    ("clock_skew", "leeway"),
    ("cluster", "pool"),
    ("clusters", "pools"),
    ("domain", "host"),
    ("domains", "host"),
    ("entryPoints", "listeners"),
    ("failTimeout", "ejection_duration"),
    ("expose_headers", "expose"),
    ("exposed_headers", "expose"),
    ("fail_timeout", "ejection_duration"),
    ("fallback", "to"),
    ("from", "path"),
    ("health_check", "health"),
    ("health_checks", "health"),
    ("healthcheck", "health"),
    ("hostname", "host"),
    ("hosts", "endpoints"),
    ("hosts", "host"),
    ("iss", "issuer"),
    ("jwks", "jwks_file"),
    ("jwks_uri", "jwks_url"),
    ("keepalive", "max_idle"),
    ("keepalive_timeout", "idle_timeout"),
    ("lb", "balancer"),
    ("lb_algorithm", "balancer"),
    ("lb_policy", "balancer"),
    ("lb_endpoints", "endpoints"),
    ("load_balancer", "balancer"),
    ("load_balancing", "balancer"),
    ("loadBalancer", "balancer"),
    ("location", "routes"),
    ("locations", "routes"),
    ("max_fails", "consecutive_failures"),
    ("middlewares", "middleware"),
    ("num_retries", "max_attempts"),
    ("outlierDetection", "outlier_detection"),
    ("port", "listen"),
    ("prefix", "path_prefix"),
    ("prefix_rewrite", "rewrite"),
    ("proxy_connect_timeout", "connect_timeout"),
    ("proxy_pass", "to"),
    ("proxy_read_timeout", "read_timeout"),
    ("proxy_send_timeout", "write_timeout"),
    ("rate", "requests_per_second"),
    ("rps", "requests_per_second"),
    ("regex", "path_regex"),
    ("retry", "retries"),
    ("retry_policy", "retries"),
    ("reverse_proxy", "to"),
    ("server", "routes"),
    ("server_name", "host"),
    ("server_name", "sni"),
    ("servers", "endpoints"),
    ("servers", "listeners"),
    ("services", "pools"),
    ("ssl_certificate", "cert_file"),
    ("ssl_certificate_key", "key_file"),
    ("targets", "endpoints"),
    ("target", "to"),
    ("status_code", "status"),
    ("upstream", "to"),
    ("upstream", "pool"),
    ("upstreams", "pools"),
    ("uri", "path"),
    ("url", "address"),
    ("url", "to"),
    ("vhosts", "routes"),
    ("virtual_hosts", "routes"),
];

/// Keys that are often written one level too high, and where they belong.
const HOMES: &[(&str, &str)] = &[
    ("bake_time", "`rollout.stages[]`"),
    ("balancer", "`pools[]`"),
    ("body_size_limit", "a policy: `policy: { body_size_limit: … }`"),
    ("cert_file", "`tls.certificates[]`"),
    ("circuit_breaker", "a pool or a policy"),
    ("connect_timeout", "`pools[].connections`"),
    ("endpoints", "`pools[]`"),
    ("fail_threshold", "`pools[].health.active`"),
    ("health", "`pools[]`"),
    ("health_gates", "`rollout`"),
    ("hedge", "a policy: `policy: { hedge: … }`"),
    ("host", "`routes[]`"),
    ("host_header", "`pools[]`"),
    ("key_file", "`tls.certificates[]`"),
    ("max_attempts", "`retries` of a policy"),
    ("max_body_bytes", "`limits`"),
    ("methods", "`routes[]`"),
    ("path", "`routes[]`"),
    ("path_prefix", "`routes[]`"),
    ("path_regex", "`routes[]`"),
    ("rate_limit", "a policy: `policy: { rate_limit: … }`"),
    ("read_timeout", "`pools[].connections`"),
    ("require_tls", "a policy: `policy: { require_tls: … }`"),
    ("retries", "a policy: `policy: { retries: … }`"),
    ("stages", "`rollout`"),
    ("timeout", "a policy: `policy: { timeout: … }`"),
    ("to", "`routes[]`: indent it like the other keys of its route"),
    ("write_timeout", "`pools[].connections`"),
];

/// Longest name that is compared; a longer one was not mistyped.
const NAME_CHARS_MAX: usize = 64;

/// The nearest of `names`: at most one edit in three characters away.
pub(super) fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name: Vec<char> = name.chars().take(NAME_CHARS_MAX + 1).flat_map(char::to_lowercase).collect();
    let bound = (name.len() / 3).max(1);
    if name.is_empty() || name.len() > NAME_CHARS_MAX {
        return None;
    }
    names
        .filter(|other| other.len().abs_diff(name.len()) <= 4 * bound)
        .filter_map(|other| Some((distance(&name, other, bound)?, other)))
        .min()
        .map(|(_, other)| other)
}

/// What another proxy's key is called here, if `known` has it.
pub(super) fn from_elsewhere(key: &str, known: &[&'static str]) -> Option<&'static str> {
    ELSEWHERE
        .iter()
        .find(|(theirs, ours)| theirs.eq_ignore_ascii_case(key) && known.contains(ours))
        .map(|(_, ours)| *ours)
}

/// Where a key belongs that is not known where it was written.
pub(super) fn home(key: &str) -> Option<&'static str> {
    HOMES.iter().find(|(name, _)| *name == key).map(|(_, home)| *home)
}

/// The key that was probably meant, and where it belongs.
pub(super) fn home_of_nearest(key: &str) -> Option<(&'static str, &'static str)> {
    let near = nearest(key, HOMES.iter().map(|(name, _)| *name).filter(|name| name.len() > 3))?;
    Some((near, home(near)?))
}

/// Insertions, removals, replacements and swaps of neighbours between two names; `None` above `bound`.
fn distance(name: &[char], other: &str, bound: usize) -> Option<usize> {
    let other: Vec<char> = other.chars().flat_map(char::to_lowercase).collect();
    if other.len().abs_diff(name.len()) > bound {
        return None;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in name.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let mut cost = (above[j] + usize::from(a != b)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == other[j - 1] && name[i - 1] == *b {
                cost = cost.min(before[j - 1] + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().filter(|distance| *distance <= bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_name_is_found_and_a_far_one_is_not() {
        let names = ["pool", "policy", "path_prefix", "methods"];
        let check = |name: &str, expected: Option<&str>| {
            assert_eq!(nearest(name, names.iter().copied()), expected, "{name}");
        };
        check("pol", Some("pool"));
        check("polciy", Some("policy"));
        check("pathPrefix", Some("path_prefix"));
        check("method", Some("methods"));
        check("Methods", Some("methods"));
        check("upstream", None);
        check("", None);
        check(&"x".repeat(10_000), None);
    }
}
