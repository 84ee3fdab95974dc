//! Names and values of headers and cookies, and methods.

use super::fields::mapping;
use super::findings::Findings;
use super::read::{self, shown};
use super::tree::Node;

/// A header's name in lower case.
pub(super) fn header_name(node: &Node<'_>, findings: &mut Findings) -> Option<String> {
    let name = read::text(node, "the name of a header", findings)?;
    if !is_header_name(name) {
        findings.error(node, "bad_header_name", format!("`{}` cannot be the name of a header", shown(name)));
        return None;
    }
    Some(name.to_ascii_lowercase())
}

/// A cookie's name.
pub(super) fn cookie_name(node: &Node<'_>, findings: &mut Findings) -> Option<String> {
    let name = read::text(node, "the name of a cookie", findings)?;
    if !is_header_name(name) {
        findings.error(node, "bad_cookie_name", format!("`{}` cannot be the name of a cookie", shown(name)));
        return None;
    }
    Some(name.to_owned())
}

/// A mapping of header names to values; names in lower case.
pub(super) fn header_values(node: &Node<'_>, findings: &mut Findings) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for (key, node) in mapping(node, "headers", findings).unwrap_or_default() {
        if !is_header_name(&key.text) {
            findings.error(key, "bad_header_name", format!("`{}` cannot be the name of a header", shown(&key.text)));
            continue;
        }
        let name = key.text.to_ascii_lowercase();
        if all.iter().any(|(known, _)| *known == name) {
            findings
                .error(key, "duplicate_key", format!("the header `{name}` is written twice"))
                .help("names of headers do not differ by upper and lower case");
            continue;
        }
        let Some(value) = read::text(node, "the value of a header", findings) else { continue };
        if value.chars().any(|c| c.is_control() && c != '\t') || value.trim() != value {
            findings
                .error(node, "bad_header_value", format!("`{}` cannot be the value of a header", shown(value)))
                .help("no line breaks or control characters, no blanks at either end");
            continue;
        }
        all.push((name, value.to_owned()));
    }
    all
}

/// Whether `name` is a token as of RFC 9110, section 5.6.2.
pub(super) fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Registered at IANA (RFC 9110, section 16.1), and those that caches and clients are known to use beside them.
const METHODS: [&str; 45] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "CONNECT",
    "OPTIONS",
    "TRACE",
    "PATCH",
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "COPY",
    "LABEL",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "NOTIFY",
    "ORDERPATCH",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "QUERY",
    "REBIND",
    "REPORT",
    "SEARCH",
    "SUBSCRIBE",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UNSUBSCRIBE",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
    "VIEW",
    "BAN",
];

/// Methods in upper case, each once.
///
/// A method of one's own is allowed, and is more often a slip.
pub(super) fn methods(node: &Node<'_>, findings: &mut Findings) -> Vec<String> {
    let mut methods = Vec::new();
    for (item, method) in read::texts(node, "methods", findings) {
        if !is_header_name(method) {
            findings.error(item, "unknown_value", format!("`{}` cannot be a method", shown(method)));
            continue;
        }
        let written = method;
        let method = method.to_ascii_uppercase();
        if !METHODS.contains(&&*method) {
            let near = findings.nearest(written, METHODS.iter().copied());
            let found = findings.warning(item, "unknown_method", format!("`{}` is no known method", shown(written)));
            match near {
                Some(near) => found.help(format!("did you mean `{near}`?")).suggest(near),
                None => found.help("requests with it meet the route; keep it if your clients really send it"),
            };
        }
        if methods.contains(&method) {
            findings.warning(item, "repeated_value", format!("`{method}` is written twice"));
        } else {
            methods.push(method);
        }
    }
    methods
}
