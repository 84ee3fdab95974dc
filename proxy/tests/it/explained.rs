//! What `explain` tells is what the proxy does: generated configs and requests, sent through a real proxy to origins that say
//! who they are and what they received.

use std::fmt::Write as _;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::{Config as Cases, TestError, TestRunner};
use sealane_model::account::{Account, Asked, account};
use sealane_model::config::Config;
use sealane_model::parse::{Reader, parse};

use crate::support::{Client, Origin, Response, TestProxy, complete, config, ok};

/// Named pools, one origin each; behind them the origin of every route that names a URL, and that of sandbox routes.
const POOLS: usize = 3;
const ANONYMOUS: usize = POOLS;
const SANDBOX: usize = POOLS + 1;

/// A route of the file. Texts are pieces of YAML; empty: not written.
#[derive(Clone, Debug)]
struct Drawn {
    host: &'static str,
    path: &'static str,
    conditions: Vec<&'static str>,
    priority: &'static str,
    rewrite: &'static str,
    require_tls: bool,
    /// A named pool.
    pool: Option<usize>,
    /// Kind of the plan, and the other pool.
    plan: Option<(&'static str, usize)>,
}

#[derive(Clone, Debug)]
struct Written {
    routes: Vec<Drawn>,
    sandboxes: Vec<(&'static str, &'static str)>,
    sandbox_hosts: bool,
    redirects: bool,
}

#[derive(Clone, Debug)]
struct Sent {
    method: &'static str,
    host: &'static str,
    target: &'static str,
    headers: Vec<(&'static str, &'static str)>,
}

fn route() -> impl Strategy<Value = Drawn> {
    let hosts = [
        "",
        "",
        "host: a.test",
        "host: b.test",
        "host: \"*.test\"",
        "host: \"*.a.test\"",
        "host_regex: \"[ab][.]test\"",
    ];
    let paths = [
        "",
        "path: /x",
        "path: /x/y",
        "path: /",
        "path_prefix: /",
        "path_prefix: /x",
        "path_prefix: /x/",
        "path_prefix: /x/y",
        "path_regex: \"^/x/[0-9]+$\"",
        "path_regex: \"y\"",
    ];
    let conditions = ["methods: [GET, HEAD]", "methods: [POST]", "headers: { X-V: \"1\" }", "query: { d: \"1\" }"];
    let priorities = ["", "", "priority: 50", "priority: 100", "priority: 150"];
    let rewrites = [
        "",
        "",
        "rewrite: { path: /z }",
        "rewrite: { prefix: /p }",
        "rewrite: { prefix: / }",
        "rewrite: { regex: \"x\", replacement: \"q r\" }",
        "rewrite: { regex: \"/([0-9]+)\", replacement: \"/n/$1\" }",
    ];
    let plans = ["canary_weight: 0", "canary_weight: 30", "canary_weight: 100", "cohort"];
    (
        select(hosts.to_vec()),
        select(paths.to_vec()),
        subsequence(conditions.to_vec(), 0..=2),
        select(priorities.to_vec()),
        select(rewrites.to_vec()),
        prop::bool::weighted(0.1),
        prop::option::weighted(0.7, 0..POOLS),
        prop::option::weighted(0.3, (select(plans.to_vec()), 0..POOLS)),
    )
        .prop_map(|(host, path, conditions, priority, rewrite, require_tls, pool, plan)| Drawn {
            host,
            path,
            conditions,
            priority,
            rewrite,
            require_tls,
            pool,
            plan,
        })
}

fn written() -> impl Strategy<Value = Written> {
    let patterns = ["^/x", "^/x/[0-9]+$", "y$", "^/(x|other)(/.*)?$"];
    let sandbox = (select(patterns.to_vec()), select(vec!["10", "100", "200"]));
    (vec(route(), 0..7), vec(sandbox, 0..3), any::<bool>(), prop::bool::weighted(0.05)).prop_map(
        |(routes, sandboxes, sandbox_hosts, redirects)| Written { routes, sandboxes, sandbox_hosts, redirects },
    )
}

fn sent() -> impl Strategy<Value = Sent> {
    let targets = [
        "/",
        "/x",
        "/x/",
        "/x/y",
        "/x/12",
        "/x/12?d=1",
        "/xy",
        "//x//y",
        "/x/../y",
        "/%78",
        "/x%2Fy",
        "/x/%00",
        "/../x",
        "/x?d=2&d=1",
        "/x?%64=1",
        "/other/y?d=1",
        "/x/%7E?e",
        "/X",
    ];
    let headers = [("X-V", "1"), ("x-v", "2"), ("X-Cohort", "beta"), ("X-Cohort", "stable")];
    let hosts = ["a.test", "A.test.", "b.test", "c.a.test", "c.test", "elsewhere.org"];
    (
        select(vec!["GET", "POST", "DELETE"]),
        select(hosts.to_vec()),
        select(targets.to_vec()),
        subsequence(headers.to_vec(), 0..=2),
    )
        .prop_map(|(method, host, target, headers)| Sent { method, host, target, headers })
}

impl Written {
    fn yaml(&self, origins: &[Origin]) -> String {
        let mut yaml = "pools:\n".to_owned();
        for (pool, origin) in origins.iter().take(POOLS).enumerate() {
            writeln!(yaml, "  - {{ id: p{pool}, endpoints: [\"http://{}\"] }}", origin.address).unwrap();
        }
        yaml += if self.routes.is_empty() { "routes: []\n" } else { "routes:\n" };
        let (mut plans, mut chains) = (String::new(), String::new());
        for (number, route) in self.routes.iter().enumerate() {
            let target = match route.pool {
                Some(pool) => format!("pool: p{pool}"),
                None => format!("to: \"http://{}\"", origins[ANONYMOUS].address),
            };
            let tls = if route.require_tls { "policy: { require_tls: true }" } else { "" };
            let (id, chain) = (format!("id: r{number}"), format!("middleware: m{number}"));
            let parts = [&*id, route.host, route.path, route.priority, route.rewrite, tls, &chain, &target];
            let parts: Vec<&str> =
                parts.into_iter().chain(route.conditions.iter().copied()).filter(|part| !part.is_empty()).collect();
            writeln!(yaml, "  - {{ {} }}", parts.join(", ")).unwrap();
            writeln!(
                chains,
                "  - {{ id: m{number}, stages: [{{ type: header_transform, config: {{ add: {{ X-Taken-By: r{number} }} }} }}] }}"
            )
            .unwrap();
            if let (Some((kind, other)), Some(stable)) = (route.plan, route.pool) {
                let plan = match kind {
                    "cohort" => {
                        let mappings = format!("mappings: {{ beta: p{other}, stable: p{stable} }}");
                        format!("cohort_routing: {{ header: X-Cohort, {mappings} }}")
                    }
                    weight => format!("canary_pool: p{other}, {weight}"),
                };
                writeln!(plans, "  - {{ route: r{number}, stable_pool: p{stable}, {plan} }}").unwrap();
            }
        }
        for (section, lines) in [("middleware", chains), ("traffic_management", plans)] {
            if !lines.is_empty() {
                write!(yaml, "{section}:\n{lines}").unwrap();
            }
        }
        if !self.sandboxes.is_empty() {
            yaml += "sandboxes:\n";
            if self.sandbox_hosts {
                yaml += "  hosts: [\"*.test\"]\n";
            }
            yaml += "  routes:\n";
            for (number, (pattern, priority)) in self.sandboxes.iter().enumerate() {
                let target = origins[SANDBOX].address;
                writeln!(
                    yaml,
                    "    - {{ sandbox_id: s{number}, pattern: \"{pattern}\", target_url: \"http://{target}\", priority: {priority} }}"
                )
                .unwrap();
            }
        }
        if self.redirects {
            yaml += "listeners: [{ name: http, address: \"127.0.0.1:0\", redirect_to: https }]\n";
        }
        complete(&yaml)
    }
}

impl Sent {
    fn asked(&self) -> Asked {
        let headers = self.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), (*value).to_owned()));
        Asked {
            method: self.method.to_owned(),
            url: format!("http://{}{}", self.host, self.target),
            headers: headers.collect(),
        }
    }

    fn bytes(&self) -> String {
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{} {} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n{headers}\r\n", self.method, self.target, self.host)
    }
}

/// Answers with its number, the request line, and which route it came by.
async fn origin(number: usize) -> Origin {
    Origin::start(move |seen| ok(&format!("{number}|{}|{}", seen.line(), seen.header("x-taken-by").unwrap_or(""))))
        .await
}

/// The path that the account says endpoints see.
fn told_path(account: &Account, sent: &Sent) -> String {
    let before = sent.target.split('?').next().unwrap();
    let rewritten = account.steps.iter().filter(|step| step.name == "path").find_map(|step| {
        let (_, path) = step.text.split_once("` becomes `")?;
        path.split('`').next()
    });
    rewritten.unwrap_or(before).to_owned()
}

/// Compares what was told with what came.
fn check(config: &Config, account: &Account, sent: &Sent, answer: &Response) -> Result<(), TestCaseError> {
    if account.decision != "route" || account.status.is_some() {
        prop_assert_eq!(Some(answer.status), account.status, "{}", account.decision);
        return Ok(());
    }
    prop_assert_eq!(answer.status, 200);
    let route = account.route.as_deref().unwrap();
    let [number, line, taken_by] = answer.text().split('|').collect::<Vec<_>>()[..] else {
        return Err(TestCaseError::fail(answer.text().to_owned()));
    };
    let pool = match number.parse::<usize>().unwrap() {
        ANONYMOUS | SANDBOX => format!("route/{route}"),
        pool => format!("p{pool}"),
    };
    let shares: Vec<_> = account.pools.iter().filter(|share| share.percent > 0.0).collect();
    prop_assert!(shares.iter().any(|share| share.pool == pool), "{} is not among {:?}", pool, shares);
    match answer.header("x-alb-route-id") {
        Some(id) => prop_assert!(route.starts_with("sandbox/") && route.ends_with(&format!("/{id}")), "{}", id),
        None => prop_assert_eq!(taken_by, route),
    }
    prop_assert!(config.routes.iter().any(|known| known.id.0 == route));
    let query = sent.target.split_once('?').map_or_else(String::new, |(_, query)| format!("?{query}"));
    prop_assert_eq!(line, format!("{} {}{query} HTTP/1.1", sent.method, told_path(account, sent)));
    Ok(())
}

#[test]
fn what_explain_tells_is_what_the_proxy_does() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (origins, proxy) = runtime.block_on(async {
        let mut origins = Vec::new();
        for number in 0..=SANDBOX {
            origins.push(origin(number).await);
        }
        (origins, TestProxy::start("routes: []").await)
    });
    let cases = Cases { cases: 200, failure_persistence: None, ..Cases::default() };
    let mut decided = std::collections::BTreeMap::<String, usize>::new();
    let counts = std::cell::RefCell::new(&mut decided);
    let outcome = TestRunner::new_with_rng(
        cases,
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    )
    .run(&(written(), vec(sent(), 1..24)), |(written, requests)| {
        let yaml = written.yaml(&origins);
        // Some combinations mean nothing and are refused.
        prop_assume!(parse("test.yaml", &yaml, Reader::Local).is_ok());
        let config = config(&yaml);
        runtime.block_on(async {
            proxy.serve(&yaml).await;
            // A redirect closes nothing, a refusal may: one connection as long as it lasts.
            for sent in &requests {
                let account =
                    account(&config, &sent.asked()).map_err(|error| TestCaseError::fail(error.to_string()))?;
                *counts.borrow_mut().entry(account.decision.clone()).or_default() += 1;
                let mut client = Client::connect(proxy.address()).await;
                let answer = client.ask(sent.bytes()).await;
                check(&config, &account, sent, &answer).map_err(|failed| {
                    TestCaseError::fail(format!("{failed}\n{sent:?}\n{}\n{yaml}", account.text("test.yaml")))
                })?;
                let live = proxy.proxy.explain(&sent.asked()).unwrap();
                prop_assert_eq!(&live.account, &account, "a running proxy tells the same");
            }
            Ok(())
        })
    });
    if let Err(TestError::Fail(reason, (written, requests))) = &outcome {
        panic!("{reason}\nwith {} requests of\n{written:#?}", requests.len());
    }
    outcome.unwrap();
    // What was drawn means something.
    for (decision, least) in [("route", 500), ("no_route", 50), ("bad_path", 20), ("redirect", 20)] {
        assert!(decided.get(decision).copied().unwrap_or(0) >= least, "{decision}: {decided:?}");
    }
}
