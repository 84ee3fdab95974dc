//! A sandbox route (seed 000): a regex on the path that sends a developer's requests to a backend of their own.
//!
//! It lives beside the file: added, listed and deleted one at a time through an API, and joined to whatever config is
//! served. This module says what one IS, checks what somebody sent, and makes of it the [`Route`] and [`Pool`] that the
//! rest of the program knows. It does not know where routes are kept or what the time is.
//!
//! Source: seed 000, rows S0-12 to S0-37 of the requirements, row "sandbox routes in a fleet" of the public interfaces.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::FixedState;
use serde::{Deserialize, Serialize};

use crate::config::{Config, Pool, Route, Sandboxes};
use crate::parse::{SandboxParts, duration, sandbox_id_fault, sandbox_parts};

/// Priority of a route that names none.
pub const PRIORITY_DEFAULT: i32 = 100;
/// Routes that are kept at a time, whatever their sandboxes.
pub const ROUTES_MAX: usize = 50_000;
/// Longest life that a `ttl` may give.
pub const TTL_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// A route that belongs to a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxRoute {
    /// Unique over all sandboxes, never reused, at least 1.
    pub id: u64,
    /// Whose it is.
    pub sandbox_id: String,
    /// A regex that matches anywhere in the path unless anchored.
    pub pattern: String,
    /// Where requests go; a path goes before the request's.
    pub target_url: String,
    /// Lower is tried first.
    pub priority: i32,
    /// Unix time in milliseconds after which it is no route any more; `None`: it stays until it is deleted.
    pub expires_at_ms: Option<u64>,
}

/// How long the backends of sandbox routes may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SandboxTimes {
    /// To accept a connection.
    pub connect: Duration,
    /// From the request to the head of the answer, and between two pieces of its body.
    pub response: Duration,
    /// For the whole exchange; `None`: an answer may stream for as long as it moves.
    pub total: Option<Duration>,
}

/// Those of seed 000.
impl Default for SandboxTimes {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), response: Duration::from_secs(30), total: None }
    }
}

/// What is wrong with a route that somebody sent. The texts are an interface where seed 000 has them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SandboxFault {
    /// One of the two that seed 000 asks for is missing.
    #[error("pattern and target_url are required")]
    Incomplete,
    /// No sandbox.
    #[error("sandbox_id is required")]
    NoSandbox,
    /// A sandbox id that cannot be one.
    #[error("invalid sandbox_id: {0}")]
    Sandbox(String),
    /// The regex does not compile, or would be too large.
    #[error("invalid regex pattern: {0}")]
    Pattern(String),
    /// A ttl that is none.
    #[error("invalid ttl: {0}")]
    Ttl(String),
    /// The target is no URL that a proxy can send to.
    #[error("invalid target_url: {0}")]
    Target(String),
}

/// The life of a route as a person writes it: `8h`, `1h30m`.
///
/// # Errors
/// It is no duration, is zero, or is above [`TTL_MAX`].
pub fn parse_ttl(text: &str) -> Result<Duration, SandboxFault> {
    let ttl = duration(text).map_err(SandboxFault::Ttl)?;
    match ttl {
        Duration::ZERO => Err(SandboxFault::Ttl("it is zero; leave it out for a route that stays".into())),
        ttl if ttl > TTL_MAX => Err(SandboxFault::Ttl("it is longer than a year".into())),
        ttl => Ok(ttl),
    }
}

impl SandboxRoute {
    /// Checks everything that a person may have got wrong.
    ///
    /// # Errors
    /// The first fault, in the order pattern and target missing, sandbox, pattern, target.
    pub fn check(&self) -> Result<(), SandboxFault> {
        self.compile(SandboxTimes::default()).map(drop)
    }

    /// Whether it is a route no more at this Unix time in milliseconds.
    #[must_use]
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_at_ms.is_some_and(|at_ms| at_ms <= now_ms)
    }

    /// Its place among sandbox routes: lower is tried first.
    #[must_use]
    pub fn order(&self) -> (i32, u64) {
        (self.priority, self.id)
    }

    /// The route and its pool as a config has them. The route's pool index is left to [`Places::join`].
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn compile(&self, times: SandboxTimes) -> Result<(Route, Pool), SandboxFault> {
        if self.pattern.is_empty() || self.target_url.is_empty() {
            return Err(SandboxFault::Incomplete);
        }
        if self.sandbox_id.is_empty() {
            return Err(SandboxFault::NoSandbox);
        }
        if let Some(fault) = sandbox_id_fault(&self.sandbox_id) {
            return Err(SandboxFault::Sandbox(fault));
        }
        let parts = SandboxParts {
            sandbox_id: &self.sandbox_id,
            pattern: &self.pattern,
            target_url: &self.target_url,
            priority: self.priority,
            id: self.id,
            times,
        };
        sandbox_parts(&parts)
    }
}

/// The routes as the content of a sandbox revision: JSON, one route a line, by id, so that a change of one route changes
/// one line.
#[must_use]
pub fn encode<'r>(routes: impl IntoIterator<Item = &'r SandboxRoute>) -> Vec<u8> {
    let mut out = Vec::new();
    for route in routes {
        serde_json::to_writer(&mut out, &Line::from(route)).expect("strings and numbers always serialise");
        out.push(b'\n');
    }
    out
}

/// The routes in `content`, as they were signed. They may still have to be checked: see [`SandboxRoute::check`].
///
/// # Errors
/// It is not what [`encode`] writes: JSON, order, numbers, count.
pub fn decode(content: &[u8]) -> Result<Vec<SandboxRoute>, ContentFault> {
    let mut routes: Vec<SandboxRoute> = Vec::new();
    for (index, line) in content.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
        let fault = |why: String| ContentFault { line: index + 1, why };
        let line: Line<'_> = serde_json::from_slice(line).map_err(|error| fault(error.to_string()))?;
        if routes.last().map_or(0, |last| last.id) >= line.id {
            return Err(fault("ids do not grow".into()));
        }
        if routes.len() == ROUTES_MAX {
            return Err(fault(format!("there are more than {ROUTES_MAX} routes")));
        }
        routes.push(line.into());
    }
    Ok(routes)
}

/// Content that is no list of sandbox routes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sandbox routes, line {line}: {why}")]
pub struct ContentFault {
    line: usize,
    why: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    id: u64,
    sandbox_id: Cow<'a, str>,
    pattern: Cow<'a, str>,
    target_url: Cow<'a, str>,
    priority: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at_ms: Option<u64>,
}

impl<'a> From<&'a SandboxRoute> for Line<'a> {
    fn from(route: &'a SandboxRoute) -> Self {
        Self {
            id: route.id,
            sandbox_id: Cow::Borrowed(&route.sandbox_id),
            pattern: Cow::Borrowed(&route.pattern),
            target_url: Cow::Borrowed(&route.target_url),
            priority: route.priority,
            expires_at_ms: route.expires_at_ms,
        }
    }
}

impl From<Line<'_>> for SandboxRoute {
    fn from(line: Line<'_>) -> Self {
        Self {
            id: line.id,
            sandbox_id: line.sandbox_id.into_owned(),
            pattern: line.pattern.into_owned(),
            target_url: line.target_url.into_owned(),
            priority: line.priority,
            expires_at_ms: line.expires_at_ms,
        }
    }
}

/// Sandbox routes as configs have them, each at its place among those that are joined to a config. The last one takes the
/// place of one that goes, so that a change moves two routes at most and what was made of the others can be used again.
/// Places say nothing about the order of matching, which is by priority and id.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// By place.
    placed: Vec<Placed>,
    /// By id.
    place_of: HashMap<u64, usize, FixedState>,
}

#[derive(Clone, Debug)]
struct Placed {
    id: u64,
    /// With the number of its pool in the config that it was joined to last.
    route: Arc<Route>,
    pool: Arc<Pool>,
}

impl Places {
    /// Gives a route, as [`SandboxRoute::compile`] makes it, a place; one with the same id goes.
    pub fn put(&mut self, id: u64, (route, pool): (Route, Pool)) {
        let placed = Placed { id, route: Arc::new(route), pool: Arc::new(pool) };
        match self.place_of.get(&id) {
            Some(&place) => self.placed[place] = placed,
            None => {
                self.place_of.insert(id, self.placed.len());
                self.placed.push(placed);
            }
        }
    }

    /// Takes a route away.
    pub fn remove(&mut self, id: u64) {
        let Some(place) = self.place_of.remove(&id) else { return };
        self.placed.swap_remove(place);
        if let Some(moved) = self.placed.get(place) {
            self.place_of.insert(moved.id, place);
        }
    }

    /// Takes away those that are not to `stay`, by id.
    pub fn retain(&mut self, mut stay: impl FnMut(u64) -> bool) {
        let gone: Vec<u64> = self.placed.iter().map(|placed| placed.id).filter(|id| !stay(*id)).collect();
        gone.into_iter().for_each(|id| self.remove(id));
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.placed.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.placed.is_empty()
    }

    /// Joins those whose id passes `is_live` to a config: behind its own routes and pools, with a pool each. A config that
    /// switches sandboxes off stays as it is. Costs what copying pointers costs, as long as the config has as many pools as
    /// the one before.
    pub fn join(&mut self, config: &mut Config, is_live: impl Fn(u64) -> bool) {
        let sandboxes = config.sandboxes.get_or_insert_with(Sandboxes::default);
        if !sandboxes.enabled {
            return;
        }
        config.routes.reserve(self.placed.len());
        config.pools.reserve(self.placed.len());
        sandboxes.routes.reserve(self.placed.len());
        for placed in self.placed.iter_mut().filter(|placed| is_live(placed.id)) {
            if placed.route.pool != config.pools.len() {
                Arc::make_mut(&mut placed.route).pool = config.pools.len();
            }
            sandboxes.routes.push(config.routes.len());
            config.routes.push(Arc::clone(&placed.route));
            config.pools.push(Arc::clone(&placed.pool));
        }
    }
}

/// Ends the routes of the file whose `ttl` is over, `age` after the file was written. How long until the next one ends.
pub fn end(config: &mut Config, age: Duration) -> Option<Duration> {
    let sandboxes = config.sandboxes.as_mut()?;
    let (over, lives): (Vec<_>, Vec<_>) = sandboxes.lives.iter().partition(|(_, life)| *life <= age);
    sandboxes.ended = over.into_iter().map(|(route, _)| route).collect();
    lives.into_iter().map(|(_, life)| life.saturating_sub(age)).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{Reader, parse};

    fn joined(config: &mut Config, routes: &[&SandboxRoute], times: SandboxTimes) {
        let mut places = Places::default();
        routes.iter().for_each(|route| places.put(route.id, route.compile(times).unwrap()));
        places.join(config, |_| true);
    }

    fn route(pattern: &str, target_url: &str) -> SandboxRoute {
        SandboxRoute {
            id: 7,
            sandbox_id: "sandbox-1".into(),
            pattern: pattern.into(),
            target_url: target_url.into(),
            priority: 10,
            expires_at_ms: None,
        }
    }

    #[test]
    fn what_a_person_got_wrong_is_said_in_the_words_of_the_seed() {
        let says = |route: &SandboxRoute| route.check().unwrap_err().to_string();
        assert_eq!(says(&route("", "http://a")), "pattern and target_url are required");
        assert_eq!(says(&route("^/a", "")), "pattern and target_url are required");
        assert_eq!(
            says(&SandboxRoute { sandbox_id: String::new(), ..route("a", "http://a") }),
            "sandbox_id is required"
        );
        assert!(says(&route("(", "http://a")).starts_with("invalid regex pattern: "));
        assert!(says(&route("(?=a)", "http://a")).contains("look-around"));
        for target in ["localhost:80", "ftp://a", "http://u:p@a", "http://a?x=1", "http://", "http://a b"] {
            assert!(says(&route("^/a", target)).starts_with("invalid target_url: "), "{target}");
        }
        let spaced = SandboxRoute { sandbox_id: "a b".into(), ..route("a", "http://a") };
        assert!(says(&spaced).starts_with("invalid sandbox_id: "));
        assert_eq!(route("^/api(/.*)?$", "https://httpbin.org/base/").check(), Ok(()));
    }

    #[test]
    fn content_comes_back_as_it_was_and_nothing_else_is_taken_for_it() {
        let routes = [
            route("^/\u{e4}\"\\n", "http://a"),
            SandboxRoute { id: 9, expires_at_ms: Some(5), ..route("b", "http://b") },
        ];
        let content = encode(&routes);
        assert_eq!(decode(&content).unwrap(), routes);
        assert_eq!(decode(b"").unwrap(), []);
        assert!(decode(&[content.as_slice(), content.as_slice()].concat()).is_err(), "ids must grow");
        let zero = encode(&[SandboxRoute { id: 0, ..route("a", "http://a") }]);
        for bad in [&b"{}\n"[..], b"x", b"[]", &zero, b"{\"id\":1,\"more\":2}"] {
            assert!(decode(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn joined_routes_come_behind_those_of_the_file_with_a_pool_each() {
        let text = "listen: :8080\nroutes: [{ to: http://a }]\n";
        let (mut config, _) = parse("f", text, Reader::Local).unwrap();
        let times = SandboxTimes { total: Some(Duration::from_secs(1)), ..SandboxTimes::default() };
        joined(&mut config, &[&route("^/x", "http://b/base")], times);
        let sandbox = &config.routes[1];
        assert_eq!((sandbox.id.0.as_str(), sandbox.pool, sandbox.priority), ("sandbox/sandbox-1/7", 1, 10));
        assert_eq!(sandbox.policy.timeout, Some(Duration::from_secs(1)));
        assert_eq!(config.pools[1].connections.connect_timeout, Duration::from_secs(5));
        assert_eq!(config.sandboxes.unwrap().routes, [1]);
    }

    #[test]
    fn a_route_of_the_file_ends_with_its_ttl_and_the_others_stay() {
        use crate::decide::{Decision, HeaderView, RequestHead, RouteTable};
        struct NoHeaders;
        impl HeaderView for NoHeaders {
            fn any_value(&self, _: &str, _: &mut dyn FnMut(&[u8]) -> bool) -> bool {
                false
            }
        }
        let text = "sandboxes: { routes: [
            { sandbox_id: s, pattern: ^/a, target_url: \"http://a\", ttl: 1h },
            { sandbox_id: s, pattern: ^/b, target_url: \"http://b\", ttl: 3h },
            { sandbox_id: s, pattern: ^/, target_url: \"http://c\", priority: 200 } ] }\n";
        let (mut config, _) = parse("f", text, Reader::Local).unwrap();
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let decided = |config: &Config, path: &str| {
            let table = RouteTable::compile(config);
            let head = RequestHead { method: "GET", host: "h", path, query: None, headers: &NoHeaders };
            table.decide(&head, &mut table.scratch())
        };
        assert_eq!(end(&mut config, Duration::ZERO), Some(hours(1)));
        assert_eq!(decided(&config, "/a"), Decision::Route(0));
        assert_eq!(end(&mut config, hours(2)), Some(hours(1)));
        assert_eq!((decided(&config, "/a"), decided(&config, "/b")), (Decision::Route(2), Decision::Route(1)));
        assert_eq!(end(&mut config, hours(3)), None);
        assert_eq!(decided(&config, "/b"), Decision::Route(2));
    }

    #[test]
    fn a_route_that_goes_moves_one_other_at_most() {
        let (base, _) = parse("f", "listen: :8080\nroutes: [{ to: http://a }]\n", Reader::Local).unwrap();
        let mut places = Places::default();
        let mut joined = |put: &[u64], removed: &[u64]| {
            for id in put {
                places.put(*id, route("^/", "http://b").compile(SandboxTimes::default()).unwrap());
            }
            removed.iter().for_each(|id| places.remove(*id));
            let mut config = base.clone();
            places.join(&mut config, |id| id != 10);
            for (index, route) in config.routes.iter().enumerate() {
                assert_eq!(route.pool, index, "each has a pool of its own");
            }
            let ids: Vec<u64> = places.placed.iter().map(|placed| placed.id).collect();
            assert!(ids.iter().enumerate().all(|(place, id)| places.place_of[id] == place));
            (ids, config.routes)
        };
        let (ids, before) = joined(&[1, 2, 3, 4], &[]);
        assert_eq!(ids, [1, 2, 3, 4]);
        let (ids, after) = joined(&[], &[2]);
        assert_eq!(ids, [1, 4, 3]);
        assert!([1, 3].iter().all(|index| Arc::ptr_eq(&before[*index], &after[*index])), "those that stay are shared");
        assert_eq!(joined(&[9, 3], &[]).0, [1, 4, 3, 9]);
        let (ids, routes) = joined(&[10, 11], &[1, 4, 9, 7]);
        assert_eq!((ids, routes.len()), (vec![11, 10, 3], 3), "what is not live is not joined");
        assert!(joined(&[], &[3, 10, 11]).0.is_empty());
    }

    #[test]
    fn a_config_that_switches_sandboxes_off_is_joined_by_none() {
        let text = "routes: [{ to: http://a }]\nsandboxes: { enabled: false }\n";
        let (mut config, _) = parse("f", text, Reader::Local).unwrap();
        joined(&mut config, &[&route("^/x", "http://b")], SandboxTimes::default());
        assert_eq!(config.routes.len(), 1);
    }
}
