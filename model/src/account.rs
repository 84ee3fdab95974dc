//! What happens to one request, told step by step with the lines of the config: which listener, which route and why,
//! why not the others, and what follows.
//!
//! It decides nothing itself: the route is [`RouteTable::explain`]'s, which is the search that proxies run. It knows no
//! live state, so it says which endpoints there are, not which one is picked.

use serde::{Deserialize, Serialize};

use crate::config::{
    Balancer, CohortKey, Config, HostCondition, HostMatch, Listener, PathMatch, Pool, Position, RateLimitKey, Rewrite,
    Route, Stage, TargetPath,
};
use crate::decide::{Decision, HeaderView, Mismatch, RequestHead, RouteTable, Tried};
use crate::selftest::{possible_pools, split_url};

/// A request that may be sent one day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Such as `GET`.
    pub method: String,
    /// Absolute.
    pub url: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
}

/// What happens to it. Serialises to the object that `explain -o json` prints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// `GET https://api.example.com/v1/users`
    pub request: String,
    /// `route`, `redirect`, `no_route`, `bad_path` or `no_listener`.
    pub decision: String,
    /// What the proxy answers by itself, when it does.
    pub status: Option<u16>,
    /// The route that takes it.
    pub route: Option<String>,
    /// The pools that it may go to.
    pub pools: Vec<Share>,
    /// What happens, in order.
    pub steps: Vec<Step>,
    /// The routes that are tried before, in the order of matching, and why each does not take it.
    pub tried: Vec<NotTaken>,
    /// Routes that were tried and are not in `tried`.
    pub tried_left_out: usize,
}

/// A pool and its share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Its id.
    pub pool: String,
    /// 0 to 100.
    pub percent: f64,
}

/// One thing that happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// `listener`, `route`, `path`, `policy`, `middleware`, `traffic`, `cache`, `pool`, `endpoint` or `test`.
    pub name: String,
    /// In words.
    pub text: String,
    /// Of the config; 0: it is a default.
    pub line: u32,
}

/// A route that does not take the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotTaken {
    /// Its id.
    pub route: String,
    /// In words.
    pub why: String,
    /// Of the config.
    pub line: u32,
}

/// Routes that an account tells of at most: those nearest to the one that takes the request.
const TRIED_MAX: usize = 100;

/// Why a request cannot be told about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// It has no scheme or no host.
    #[error("`{0}` is not an absolute URL such as `https://api.example.com/v1/users`")]
    NotAbsolute(String),
}

struct Headers<'a>(&'a [(String, String)]);

impl HeaderView for Headers<'_> {
    fn any_value(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.0.iter().filter(|(known, _)| known == name).any(|(_, value)| test(value.as_bytes()))
    }
}

/// Tells what `config` does with `asked`.
///
/// # Errors
/// When the URL cannot be read.
pub fn account(config: &Config, asked: &Asked) -> Result<Account, AskError> {
    account_with(config, &RouteTable::compile(config), asked)
}

/// As [`account`], with a table that is already compiled from `config`.
///
/// # Errors
/// When the URL cannot be read.
pub fn account_with(config: &Config, table: &RouteTable, asked: &Asked) -> Result<Account, AskError> {
    let url = split_url(&asked.url).ok_or_else(|| AskError::NotAbsolute(asked.url.clone()))?;
    let mut account = Account { request: format!("{} {}", asked.method, asked.url), ..Account::default() };
    let scheme = asked.url.split("://").next().unwrap_or_default().to_ascii_lowercase();
    if let Some(listener) = listener(config, &scheme, port_of(&asked.url)) {
        let kind = if listener.tls { "https" } else { "http" };
        account.step("listener", format!("`{}` at {} ({kind})", listener.name, listener.address), listener.at);
        if listener.redirect_to_https {
            account.step("listener", "answers every request with 308 to https".to_owned(), listener.at);
            account.decision = "redirect".to_owned();
            account.status = Some(308);
            return Ok(account);
        }
    } else if !config.listeners.is_empty() {
        account.step("listener", format!("no listener takes {scheme} requests"), Position::default());
        if scheme == "https" {
            account.decision = "no_listener".to_owned();
            return Ok(account);
        }
    }
    let headers = Headers(&asked.headers);
    let head =
        RequestHead { method: &asked.method, host: url.host, path: url.path, query: url.query, headers: &headers };
    let mut scratch = table.scratch();
    let explanation = table.explain(&head, &mut scratch);
    if explanation.path != url.path {
        account.step("path", format!("is compared as `{}`", explanation.path), Position::default());
    }
    account.tell_tried(config, &explanation.tried, &explanation.host);
    match explanation.decision {
        Decision::NoRoute => {
            account.decision = "no_route".to_owned();
            account.status = Some(404);
            account.step("route", "none matches: 404 no_route".to_owned(), Position::default());
        }
        Decision::BadPath => {
            account.decision = "bad_path".to_owned();
            account.status = Some(400);
            let text = "the path has `%00`, a broken escape, or dots that leave the root: 400 bad_request";
            account.step("route", text.to_owned(), Position::default());
        }
        Decision::Route(index) => {
            let Some(route) = config.routes.get(index) else { return Ok(account) };
            account.decision = "route".to_owned();
            account.route = Some(route.id.0.clone());
            account.step("route", format!("`{}`: {}", route.id, matches(route)), route.at);
            let mut path = Vec::new();
            table.write_path(index, &head, &TargetPath::Keep, &mut scratch, &mut path);
            let path = String::from_utf8_lossy(&path).into_owned();
            if path != url.path {
                account.step("path", format!("`{}` becomes `{path}`{}", url.path, rewrite(route)), route.at);
            }
            account.tell_route(config, index, route, asked, &explanation.path, &scheme);
        }
    }
    Ok(account)
}

impl Account {
    fn step(&mut self, name: &str, text: String, at: Position) {
        self.steps.push(Step { name: name.to_owned(), text, line: at.line });
    }

    fn tell_tried(&mut self, config: &Config, tried: &[Tried], host: &str) {
        let missed = tried.iter().filter_map(|tried| Some((config.routes.get(tried.route)?, tried.mismatch?)));
        let all: Vec<_> = missed.collect();
        self.tried_left_out = all.len().saturating_sub(TRIED_MAX);
        for (route, mismatch) in all.into_iter().skip(self.tried_left_out) {
            let why = why_not(route, mismatch, host);
            self.tried.push(NotTaken { route: route.id.0.clone(), why, line: route.at.line });
        }
    }

    fn tell_route(&mut self, config: &Config, index: usize, route: &Route, asked: &Asked, path: &str, scheme: &str) {
        let policy = &route.policy;
        let mut rules = Vec::new();
        rules.extend(policy.timeout.map(|timeout| format!("timeout {}", duration(timeout))));
        rules.extend(policy.retries.as_ref().map(|r| format!("at most {} attempts", r.attempts_max)));
        rules.extend(policy.hedge.as_ref().map(|_| "hedging".to_owned()));
        rules.extend(policy.rate_limit.as_ref().map(|limit| {
            let key = match &limit.key {
                RateLimitKey::ClientIp => "client address".to_owned(),
                RateLimitKey::Header(name) => format!("header `{name}`"),
                RateLimitKey::Claim(name) => format!("claim `{name}`"),
            };
            format!("{} requests/s by {key}, else 429", limit.requests_per_second)
        }));
        rules.extend(policy.body_bytes_max.map(|bytes| format!("body of at most {bytes} bytes")));
        let name = policy.id.as_ref().map_or("written in the route".to_owned(), |id| format!("`{}`", id.0));
        if policy.require_tls {
            rules.push("only over TLS".to_owned());
            if scheme != "https" {
                self.status = Some(403);
                self.step("policy", format!("{name} refuses plain requests: 403 tls_required"), route.at);
            }
        }
        if route.require_mtls {
            rules.push("only with a client certificate, else 403".to_owned());
        }
        if rules.is_empty() {
            self.step("policy", "none: no timeout, no retries, no limits".to_owned(), Position::default());
        } else {
            self.step("policy", format!("{name}: {}", rules.join(", ")), route.at);
        }
        if let Some(chain) = route.middleware.and_then(|index| config.middleware.get(index)) {
            let stages: Vec<_> = chain.stages.iter().map(stage_name).collect();
            self.step("middleware", format!("`{}`: {}", chain.id.0, stages.join(" → ")), chain.at);
        }
        self.tell_traffic(config, route, &asked.headers);
        let rule = config.cache.iter().flat_map(|cache| &cache.rules).find(|rule| {
            rule.route.is_none_or(|only| only == index)
                && covers(&rule.path, path)
                && (rule.methods.is_empty() || rule.methods.contains(&asked.method))
        });
        if let Some(rule) = rule {
            let ttl = rule.ttl.map_or("as long as the answer says".to_owned(), duration);
            let credentials = ["authorization", "cookie"];
            let known = asked.headers.iter().any(|(name, _)| credentials.contains(&name.as_str()));
            let text = match (known, rule.auth_aware) {
                (true, false) => "not used: the request has credentials".to_owned(),
                (true, true) => format!("kept {ttl}, apart for each user"),
                (false, _) => format!("answers with {:?} are kept {ttl}", rule.status),
            };
            self.step("cache", text, rule.at);
        }
        for share in self.pools.clone() {
            if let Some(pool) = config.pools.iter().find(|pool| pool.id.0 == share.pool) {
                self.tell_pool(pool, share.percent);
            }
        }
    }

    fn tell_traffic(&mut self, config: &Config, route: &Route, headers: &[(String, String)]) {
        let name = |index: usize| config.pools.get(index).map_or_else(String::new, |pool| pool.id.0.clone());
        let possible = possible_pools(route, headers);
        let canary = route.traffic.as_ref().and_then(|plan| plan.canary);
        self.pools = match (possible.as_slice(), canary) {
            ([stable, other], Some((canary, percent))) if *other == canary => {
                vec![Share { pool: name(*stable), percent: 100.0 - percent }, Share { pool: name(canary), percent }]
            }
            (all, _) => {
                let percent = 100.0 / all.len().max(1) as f64;
                all.iter().map(|index| Share { pool: name(*index), percent }).collect()
            }
        };
        let Some(plan) = &route.traffic else { return };
        if let Some(cohorts) = &plan.cohorts {
            let key = match &cohorts.key {
                CohortKey::Header(name) => format!("header `{name}`"),
                CohortKey::Cookie(name) => format!("cookie `{name}`"),
                CohortKey::HashHeader(name) => format!("hash of header `{name}`"),
                CohortKey::HashCookie(name) => format!("hash of cookie `{name}`"),
                CohortKey::HashClientIp => "hash of the client's address".to_owned(),
            };
            let text = match (possible.as_slice(), &cohorts.key) {
                ([one], CohortKey::Header(_) | CohortKey::Cookie(_)) if *one != plan.stable => {
                    format!("{key} sends it to `{}`", name(*one))
                }
                (_, CohortKey::HashHeader(_) | CohortKey::HashCookie(_)) => {
                    format!("{key} decides the side, the same for one user every time")
                }
                _ => format!("{key} names no other cohort"),
            };
            self.step("traffic", text, plan.at);
        }
        let shares: Vec<_> = self.pools.iter().map(|share| format!("{} % `{}`", share.percent, share.pool)).collect();
        self.step("traffic", shares.join(", "), plan.at);
        if let Some(overload) = &plan.overload {
            let text = format!("at most {} at once, {} wait, else 503", overload.concurrent_max, overload.queue_max);
            self.step("traffic", text, plan.at);
        }
    }

    fn tell_pool(&mut self, pool: &Pool, percent: f64) {
        let balancer = match &pool.balancer {
            Balancer::RoundRobin => "round_robin",
            Balancer::WeightedRoundRobin => "weighted_round_robin",
            Balancer::LeastConnections => "least_conn",
            Balancer::Random => "random",
            Balancer::PowerOfTwoChoices => "p2c",
            Balancer::IpHash => "ip_hash",
            Balancer::ConsistentHash(_) => "consistent_hash",
        };
        let share = if percent < 100.0 { format!(" for {percent} %") } else { String::new() };
        let breaker = if pool.circuit_breaker.is_some() { ", circuit breaker" } else { "" };
        let health = match (&pool.health.active, &pool.health.passive) {
            (None, None) => "",
            (Some(_), _) => ", health checks",
            (None, Some(_)) => ", passive health",
        };
        self.step("pool", format!("`{}`{share}: {balancer}{health}{breaker}", pool.id), pool.at);
        let total: u64 = pool.endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).sum();
        for endpoint in pool.endpoints.iter().take(10) {
            let percent = 100.0 * f64::from(endpoint.weight) / total.max(1) as f64;
            let share = match &pool.balancer {
                Balancer::RoundRobin | Balancer::WeightedRoundRobin if pool.endpoints.len() > 1 => {
                    format!(" gets {percent:.0} %")
                }
                _ => String::new(),
            };
            self.step("endpoint", format!("{endpoint}{share}"), pool.at);
        }
        if pool.endpoints.len() > 10 {
            self.step("endpoint", format!("and {} more", pool.endpoints.len() - 10), pool.at);
        }
    }

    /// For people: the steps, then the routes that were passed over.
    #[must_use]
    pub fn text(&self, file: &str) -> String {
        let place = |line: u32| if line == 0 { String::new() } else { format!("  ({file}:{line})") };
        let mut out = format!("{}\n", self.request);
        for step in &self.steps {
            out.push_str(&format!("  {:<11}{}{}\n", step.name, step.text, place(step.line)));
        }
        if let (Some(status), "route") = (self.status, self.decision.as_str()) {
            out.push_str(&format!("  {:<11}{status}\n", "answer"));
        }
        if !self.tried.is_empty() {
            out.push_str("not taken by\n");
            if self.tried_left_out > 0 {
                out.push_str(&format!("  … {} more before these\n", self.tried_left_out));
            }
            for tried in &self.tried {
                out.push_str(&format!("  {:<24} {}{}\n", tried.route, tried.why, place(tried.line)));
            }
        }
        out
    }
}

/// The listener that a request of this scheme and port comes to: that of the port, else the first of the scheme.
fn listener<'c>(config: &'c Config, scheme: &str, port: Option<u16>) -> Option<&'c Listener> {
    let fits = |listener: &&Listener| listener.tls == (scheme == "https");
    let exact = config.listeners.iter().filter(fits).find(|listener| Some(listener.address.port) == port);
    exact.or_else(|| config.listeners.iter().find(fits))
}

fn port_of(url: &str) -> Option<u16> {
    let rest = url.split_once("://")?.1;
    let authority = rest.split(['/', '?', '#']).next()?;
    authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok())
}

fn host(route: &Route) -> Option<String> {
    route.host.as_ref().map(|host| match host {
        HostCondition::Name(HostMatch::Exact(name)) => format!("host is `{name}`"),
        HostCondition::Name(HostMatch::Wildcard(base)) => format!("host is below `*.{base}`"),
        HostCondition::Regex(pattern) => format!("host matches `{}`", pattern.as_str()),
    })
}

fn path(path: &PathMatch) -> Option<String> {
    match path {
        PathMatch::Any => None,
        PathMatch::Exact(path) => Some(format!("path is `{path}`")),
        PathMatch::Prefix(prefix) => Some(format!("path starts with `{prefix}`")),
        PathMatch::Regex(pattern) => Some(format!("path matches `{}`", pattern.as_str())),
    }
}

/// Why a route takes a request, in its own conditions.
fn matches(route: &Route) -> String {
    let mut reasons: Vec<String> = host(route).into_iter().chain(path(&route.path)).collect();
    if !route.methods.is_empty() {
        reasons.push(format!("method is {}", route.methods.join(" or ")));
    }
    reasons.extend(route.headers.iter().map(|header| format!("header `{}` is as asked", header.name)));
    reasons.extend(route.query.iter().map(|query| format!("query `{}` is as asked", query.name)));
    if reasons.is_empty() {
        reasons.push("takes everything".to_owned());
    }
    if route.priority != 100 {
        reasons.push(format!("priority {}", route.priority));
    }
    reasons.join(", ")
}

fn why_not(route: &Route, mismatch: Mismatch, asked_host: &str) -> String {
    match mismatch {
        Mismatch::Host => match host(route) {
            Some(wanted) => format!("{wanted}, not `{asked_host}`").replacen("is", "must be", 1),
            None => "the host is not one of its own".to_owned(),
        },
        Mismatch::Path => {
            path(&route.path).map_or("the path is another".to_owned(), |wanted| format!("not so: {wanted}"))
        }
        Mismatch::Method => format!("method must be {}", route.methods.join(" or ")),
        Mismatch::Header(index) => route.headers.get(index).map_or_else(String::new, |header| {
            let secret =
                ["authorization", "cookie", "proxy-authorization", "x-api-key"].contains(&header.name.as_str());
            let value = if secret { "the value that is asked for".to_owned() } else { format!("`{}`", header.value) };
            format!("header `{}` must be {value}", header.name)
        }),
        Mismatch::Query(index) => route
            .query
            .get(index)
            .map_or_else(String::new, |query| format!("query `{}` must be `{}`", query.name, query.value)),
    }
}

fn rewrite(route: &Route) -> &'static str {
    match &route.rewrite {
        Some(Rewrite::Path(_)) => " by `rewrite.path`",
        Some(Rewrite::Prefix(_)) => " by `rewrite.prefix`",
        Some(Rewrite::Regex { .. }) => " by `rewrite.regex`",
        None => "",
    }
}

fn stage_name(stage: &Stage) -> &'static str {
    match stage {
        Stage::RequestId(_) => "request_id",
        Stage::Auth(_) => "auth",
        Stage::RateLimit { .. } => "rate_limit",
        Stage::HeaderTransform(_) => "header_transform",
        Stage::Cors(_) => "cors",
        Stage::Compression(_) => "compression",
        Stage::Redirect(_) => "redirect",
        Stage::Plugin(_) => "plugin",
        Stage::Tracing => "tracing",
        Stage::AccessLog { .. } => "access_log",
    }
}

/// Whether a path condition holds, asked of the code that decides.
fn covers(wanted: &PathMatch, path: &str) -> bool {
    match wanted {
        PathMatch::Any => true,
        PathMatch::Exact(exact) => exact == path,
        PathMatch::Prefix(prefix) => {
            let base = prefix.trim_end_matches('/');
            path.starts_with(prefix.as_str()) && (prefix.ends_with('/') || path.len() == base.len())
                || path.strip_prefix(base).is_some_and(|rest| rest.starts_with('/'))
        }
        PathMatch::Regex(pattern) => regex::Regex::new(pattern.as_str()).is_ok_and(|regex| regex.is_match(path)),
    }
}

fn duration(duration: std::time::Duration) -> String {
    let millis = duration.as_millis();
    if millis.is_multiple_of(60_000) && millis > 0 {
        format!("{}m", millis / 60_000)
    } else if millis.is_multiple_of(1_000) {
        format!("{}s", millis / 1_000)
    } else {
        format!("{millis}ms")
    }
}
