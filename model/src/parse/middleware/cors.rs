//! Cross-origin resource sharing.

use std::time::Duration;

use crate::config::{Cors, CorsOrigin};
use crate::parse::fields::Fields;
use crate::parse::findings::Findings;
use crate::parse::header::{is_header_name, methods};
use crate::parse::read::{self, shown};
use crate::parse::tree::Node;

pub(super) fn cors(node: &Node<'_>, findings: &mut Findings) -> Option<Cors> {
    let keys = &["origins", "methods", "headers", "expose", "credentials", "max_age"];
    let fields = Fields::open(node, "`config` of `cors`", keys, findings)?;
    let what = "origins such as `https://app.example.com`";
    let listed = fields.require("origins", &format!("a list of {what}"), findings)?;
    let all = read::texts(listed, what, findings);
    if all.is_empty() {
        findings.error(listed, "empty_value", "no origin is left").help("name one, or remove the stage");
    }
    let origins: Vec<_> = all.into_iter().filter_map(|(node, text)| origin(node, text, findings)).collect();
    let credentials = fields.boolean("credentials", false, findings);
    if credentials && origins.contains(&CorsOrigin::Any) {
        findings
            .error(listed, "conflicting_keys", "with `credentials`, `*` would let every site act for its visitors")
            .help("name the origins");
    }
    let methods = match fields.get("methods") {
        Some(node) if any(node) => Vec::new(),
        Some(node) => methods(node, findings),
        None => ["GET", "HEAD", "POST"].map(str::to_owned).to_vec(),
    };
    let headers = match fields.get("headers") {
        Some(node) if any(node) => None,
        Some(node) => Some(names(node, findings).iter().map(|name| name.to_ascii_lowercase()).collect()),
        None => Some(Vec::new()),
    };
    Some(Cors {
        origins,
        methods,
        headers,
        expose: fields.get("expose").map(|node| names(node, findings)).unwrap_or_default(),
        credentials,
        max_age: fields.duration_or_zero("max_age", Duration::from_secs(600), findings),
    })
}

/// `*`, alone or as the one item of a list.
fn any(node: &Node<'_>) -> bool {
    match &node.value {
        crate::parse::tree::Value::List(items) => items.len() == 1 && items[0].scalar() == Some("*"),
        _ => node.scalar() == Some("*"),
    }
}

fn names(node: &Node<'_>, findings: &mut Findings) -> Vec<String> {
    let mut names = Vec::new();
    for (node, name) in read::texts(node, "headers", findings) {
        if is_header_name(name) && name != "*" {
            names.push(name.to_owned());
        } else {
            findings.error(node, "bad_header_name", format!("`{}` cannot be the name of a header", shown(name)));
        }
    }
    names
}

fn origin(node: &Node<'_>, text: &str, findings: &mut Findings) -> Option<CorsOrigin> {
    if text == "*" {
        return Some(CorsOrigin::Any);
    }
    let lower = text.to_ascii_lowercase();
    let fault = match lower.split_once("://") {
        None => "an origin starts with its scheme",
        Some((scheme, _)) if !is_scheme(scheme) => "an origin starts with its scheme",
        Some((_, host)) if host.contains(['/', '?', '#', '@']) => "an origin ends with its host and port",
        Some((_, host)) if !is_host(host.strip_prefix("*.").unwrap_or(host)) => "this is not a host",
        Some((scheme, host)) => {
            return Some(match host.strip_prefix('*') {
                Some(suffix) => CorsOrigin::Below { scheme: format!("{scheme}://"), suffix: suffix.to_owned() },
                // Browsers leave the scheme's own port out.
                None => CorsOrigin::Exact(without_default_port(scheme, host)),
            });
        }
    };
    findings
        .error(node, "bad_origin", format!("`{}` is not an origin: {fault}", shown(text)))
        .help("write `https://app.example.com`, `https://*.example.com` or `*`");
    None
}

fn is_scheme(scheme: &str) -> bool {
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
}

/// A host with or without port.
fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (host, "0"),
    };
    let literal = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let good = match literal {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
    };
    good && port.parse::<u16>().is_ok()
}

fn without_default_port(scheme: &str, host: &str) -> String {
    let port = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => "",
    };
    let host = if port.is_empty() { host } else { host.strip_suffix(port).unwrap_or(host) };
    format!("{scheme}://{host}")
}
