//! Runs a config's own tests: each request must be decided as the config says.
//!
//! Pure: nothing is sent. It asks [`crate::decide`], as a proxy does.

use crate::config::{CohortKey, Config, ConfigTest, PoolIndex, Route};
use crate::decide::{Decision, HeaderView, RequestHead, RouteTable, Scratch};
use crate::problem::{Problem, Severity};

/// Runs every test of `config`. A problem has the code `test_failed`, the test's place and the path `tests[i]`; its
/// `file` is empty, for the caller to fill in.
#[must_use]
pub fn run_tests(config: &Config) -> Vec<Problem> {
    if config.tests.is_empty() {
        return Vec::new();
    }
    let table = RouteTable::compile(config);
    let mut scratch = table.scratch();
    let failed = |(index, test): (usize, &ConfigTest)| {
        let message = failure(test, config, &table, &mut scratch)?;
        Some(Problem {
            code: "test_failed".into(),
            severity: Severity::Error,
            message: format!("test `{}`: {message}", test.name),
            file: String::new(),
            line: test.at.line,
            column: test.at.column,
            end_column: test.at.column + 1,
            path: format!("tests[{index}]"),
            help: format!("`sealane explain {}` shows what was tried", test.url),
            suggestion: None,
        })
    };
    config.tests.iter().enumerate().filter_map(failed).collect()
}

/// Why a test fails; `None`: it holds.
fn failure(test: &ConfigTest, config: &Config, table: &RouteTable, scratch: &mut Scratch) -> Option<String> {
    let Some(url) = split_url(&test.url) else { return Some("its URL cannot be read".into()) };
    let head = RequestHead {
        method: &test.method,
        host: url.host,
        path: url.path,
        query: url.query,
        headers: &TestHeaders(&test.headers),
    };
    let route = match table.decide(&head, scratch) {
        Decision::Route(index) => config.routes.get(index),
        Decision::NoRoute => None,
        Decision::BadPath => return Some("the path is refused with 400".into()),
    };
    let decided = route.map_or("no route".into(), |route| format!("route `{}`", route.id));
    match &test.route {
        Some(None) if route.is_some() => return Some(format!("expected no route, found {decided}")),
        Some(Some(id)) if route.is_none_or(|route| route.id != *id) => {
            return Some(format!("expected route `{id}`, found {decided}"));
        }
        Some(_) | None => {}
    }
    let pool = test.pool.as_ref()?;
    let Some(route) = route else { return Some(format!("expected pool `{pool}`, found no route")) };
    let ids: Vec<_> = possible_pools(route, &test.headers)
        .into_iter()
        .filter_map(|index| config.pools.get(index))
        .map(|pool| &pool.id)
        .collect();
    if ids.contains(&pool) {
        return None;
    }
    let found = ids.iter().map(|id| format!("`{id}`")).collect::<Vec<_>>().join(" or ");
    Some(format!("expected pool `{pool}`, found {found} by {decided}"))
}

/// The pools that a request may go to: one, unless a share of requests goes to a canary.
pub(crate) fn possible_pools(route: &Route, headers: &[(String, String)]) -> Vec<PoolIndex> {
    let Some(traffic) = &route.traffic else { return vec![route.pool] };
    if let Some(cohorts) = &traffic.cohorts {
        let values = |name: &str| {
            let name = name.to_owned();
            headers.iter().filter(move |(known, _)| *known == name).map(|(_, value)| value.as_str())
        };
        let cookie = |name: &str| {
            values("cookie")
                .flat_map(|value| value.split(';'))
                .filter_map(|pair| pair.trim().split_once('='))
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value)
        };
        let cohort = match &cohorts.key {
            CohortKey::Header(name) => values(name).next(),
            CohortKey::Cookie(name) => cookie(name),
            CohortKey::HashHeader(name) => values(name).next(),
            CohortKey::HashCookie(name) => cookie(name),
            CohortKey::HashClientIp => None,
        };
        let pool = cohort.and_then(|cohort| cohorts.mappings.iter().find(|(known, _)| known == cohort));
        if let Some((_, pool)) = pool {
            return vec![*pool];
        }
    }
    match traffic.canary {
        Some((canary, percent)) if percent >= 100.0 => vec![canary],
        Some((canary, percent)) if percent > 0.0 => vec![traffic.stable, canary],
        Some(_) | None => vec![traffic.stable],
    }
}

struct TestHeaders<'a>(&'a [(String, String)]);

impl HeaderView for TestHeaders<'_> {
    fn any_value(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.0.iter().filter(|(known, _)| known == name).any(|(_, value)| test(value.as_bytes()))
    }
}

/// The parts of an absolute URL that a request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UrlParts<'u> {
    /// Without port; an IPv6 literal without brackets.
    pub(crate) host: &'u str,
    /// Starts with `/`.
    pub(crate) path: &'u str,
    /// Without `?`.
    pub(crate) query: Option<&'u str>,
}

/// Splits `scheme://host[:port][/path][?query][#fragment]`. Needs a scheme and a host.
pub(crate) fn split_url(url: &str) -> Option<UrlParts<'_>> {
    let (_, rest) = url.split_once("://")?;
    let rest = rest.split('#').next().unwrap_or_default();
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, Some(query)),
        None => (rest, None),
    };
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let host = match authority.strip_prefix('[') {
        Some(inside) => inside.split_once(']')?.0,
        None => authority.split(':').next().unwrap_or_default(),
    };
    (!host.is_empty()).then_some(UrlParts { host, path, query })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_split_into_what_a_request_carries() {
        let check = |url: &str, expected: Option<(&str, &str, Option<&str>)>| {
            let parts = split_url(url).map(|parts| (parts.host, parts.path, parts.query));
            assert_eq!(parts, expected, "{url}");
        };
        check("https://a.b:8443/x/y?z=1#f", Some(("a.b", "/x/y", Some("z=1"))));
        check("http://a", Some(("a", "/", None)));
        check("http://a?x", Some(("a", "/", Some("x"))));
        check("http://[::1]:80/p", Some(("::1", "/p", None)));
        check("/x", None);
        check("http://", None);
        check("http:///x", None);
    }
}
