//! `tests:` — what a config says about its own decisions. They are run by [`crate::selftest`].

use super::address;
use super::fields::{Fields, Names};
use super::findings::Findings;
use super::header::{header_values, is_header_name};
use super::read::{self, shown};
use super::tree::Node;
use crate::config::{ConfigTest, PoolId, RouteId};

/// The tests of a list. `pools` has the anonymous ones too.
pub(super) fn tests(
    node: &Node<'_>,
    routes: &mut Names<'_>,
    pools: &mut Names<'_>,
    findings: &mut Findings,
) -> Vec<ConfigTest> {
    let items = read::list(node, "tests", findings).unwrap_or_default();
    items.iter().filter_map(|item| test(item, routes, pools, findings)).collect()
}

fn test(node: &Node<'_>, routes: &mut Names<'_>, pools: &mut Names<'_>, findings: &mut Findings) -> Option<ConfigTest> {
    let fields = Fields::open(node, "a test", &["name", "request", "expect"], findings)?;
    let name = fields.require_text("name", "what the test shows", findings);
    let request = fields.require("request", "`{ url: … }`", findings);
    let expect = fields.require("expect", "`{ route: … }` or `{ pool: … }`", findings);
    let request = request.and_then(|node| Fields::open(node, "`request`", &["url", "method", "headers"], findings));
    let request = request.and_then(|request| {
        let url = request.require("url", "such as `https://api.example.com/v1/users`", findings);
        let url = url.and_then(|node| absolute_url(node, findings));
        let method = match request.get("method") {
            Some(node) => {
                let method = read::text(node, "a method", findings)?;
                if !is_header_name(method) {
                    findings.error(node, "unknown_value", format!("`{}` cannot be a method", shown(method)));
                }
                method.to_ascii_uppercase()
            }
            None => "GET".into(),
        };
        let headers = request.get("headers").map(|node| header_values(node, findings)).unwrap_or_default();
        Some((url?, method, headers))
    });
    let expect = expect.and_then(|node| Fields::open_nullable(node, "`expect`", &["route", "pool"], "route", findings));
    let expect = expect.map(|expect| {
        if expect.key("route").is_none() && expect.key("pool").is_none() {
            findings
                .error(expect.node, "missing_key", "`expect` expects nothing")
                .below("route")
                .help("add `route: …` or `pool: …`; `route: null` means that no route matches");
        }
        let route = expect.get_or_null("route").map(|node| {
            if node.is_null() {
                return None;
            }
            let known = routes.find(node, findings).is_some();
            node.scalar().filter(|_| known).map(|id| RouteId(id.to_owned()))
        });
        let pool = expect.get("pool").and_then(|node| {
            let known = pools.find(node, findings).is_some();
            node.scalar().filter(|_| known).map(|id| PoolId(id.to_owned()))
        });
        (route, pool)
    });
    let ((url, method, headers), (route, pool)) = (request?, expect?);
    Some(ConfigTest { name: name?.to_owned(), method, url, headers, route, pool, at: node.at() })
}

fn absolute_url(node: &Node<'_>, findings: &mut Findings) -> Option<String> {
    let value = read::text(node, "a URL such as `https://api.example.com/v1/users`", findings)?;
    let origin_and_path = value.split(['?', '#']).next().unwrap_or(value);
    if !address::is_web_url(origin_and_path) || value.bytes().any(|b| !(0x21..=0x7e).contains(&b)) {
        findings
            .error(node, "bad_url", format!("`{}` is not a URL that a client can ask for", shown(value)))
            .help("write `https://api.example.com/v1/users?debug=1`");
        return None;
    }
    Some(value.to_owned())
}
