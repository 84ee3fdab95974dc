//! Edits of headers, and which headers a config may not touch.

use crate::config::{HeaderEdits, HeaderTransform};
use crate::parse::fields::Fields;
use crate::parse::findings::Findings;
use crate::parse::header::{header_name, header_values, is_header_name};
use crate::parse::read::{self, shown};
use crate::parse::tree::{Node, Spot, Value};

/// Headers that carry credentials: their values must come from a secret.
const CREDENTIAL_HEADERS: &[&str] = &["authorization", "cookie", "proxy-authorization", "x-api-key"];
/// Headers that say where a message ends or belong to one connection: the proxy writes them itself (RFC 9110 §7.6.1).
const OWN_HEADERS: &[&str] = &[
    "connection",
    "content-length",
    "date",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

pub(super) fn header_transform(node: &Node<'_>, findings: &mut Findings) -> Option<HeaderTransform> {
    let keys = &["add", "set", "remove", "request", "response"];
    let fields = Fields::open(node, "`config` of `header_transform`", keys, findings)?;
    let plain = ["add", "set", "remove"].into_iter().find_map(|name| fields.key(name));
    let request = match (fields.get("request"), plain) {
        (Some(_), Some(key)) => {
            findings
                .error(key, "conflicting_keys", format!("`{}` and `request` mean the same headers", key.text))
                .help("move it into `request`");
            HeaderEdits::default()
        }
        (Some(node), None) => edits(&Fields::open(node, "`request`", &["add", "set", "remove"], findings)?, findings),
        (None, _) => edits(&fields, findings),
    };
    let response = match fields.get("response") {
        Some(node) => edits(&Fields::open(node, "`response`", &["add", "set", "remove"], findings)?, findings),
        None => HeaderEdits::default(),
    };
    Some(HeaderTransform { request, response })
}

fn edits(fields: &Fields<'_, '_>, findings: &mut Findings) -> HeaderEdits {
    let values = |name: &str, findings: &mut Findings| {
        let Some(node) = fields.get(name) else { return Vec::new() };
        check_values(node, findings);
        header_values(node, findings)
    };
    let (add, set) = (values("add", findings), values("set", findings));
    let mut remove = Vec::new();
    if let Some(node) = fields.get("remove") {
        for item in read::list(node, "headers", findings).unwrap_or_default() {
            let Some(name) = header_name(item, findings) else { continue };
            if check_name(item, &name, findings) {
                remove.push(name);
            }
        }
    }
    HeaderEdits { add, set, remove }
}

/// Headers that may be written, and credentials as references to secrets, never literals.
fn check_values(node: &Node<'_>, findings: &mut Findings) {
    let Value::Map(entries) = &node.value else { return };
    for (name, value) in entries {
        check_name(name, &name.text, findings);
        if !CREDENTIAL_HEADERS.iter().any(|secret| name.text.eq_ignore_ascii_case(secret)) {
            continue;
        }
        findings.allow_secret(value);
        let text = value.scalar().unwrap_or_default();
        if !text.is_empty() && !text.contains("${env:") && !text.contains("${file:") {
            findings
                .error(value, "secret_literal", "a credential must not be part of a config")
                .help("write `${env:SEALANE_SECRET_NAME}` or `${file:/path}`; each node resolves it");
        }
    }
}

/// Whether a config may write or remove this header.
fn check_name(spot: &impl Spot, name: &str, findings: &mut Findings) -> bool {
    let own = OWN_HEADERS.iter().any(|own| name.eq_ignore_ascii_case(own));
    if own {
        let found =
            findings.error(spot, "bad_header_name", format!("`{}` is written by the proxy itself", shown(name)));
        if name.eq_ignore_ascii_case("host") {
            found.help("set `host_header` of the pool");
        }
    }
    !own
}

/// The name of a header that the proxy writes for this config, as written.
pub(super) fn own_header(node: &Node<'_>, findings: &mut Findings) -> Option<String> {
    let name = read::text(node, "the name of a header", findings)?;
    if !is_header_name(name) {
        findings.error(node, "bad_header_name", format!("`{}` cannot be the name of a header", shown(name)));
        return None;
    }
    check_name(node, name, findings).then(|| name.to_owned())
}
