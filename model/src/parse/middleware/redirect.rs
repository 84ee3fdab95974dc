//! Redirects.

use crate::config::{Redirect, RedirectPiece};
use crate::parse::fields::Fields;
use crate::parse::findings::Findings;
use crate::parse::read::{self, shown};
use crate::parse::tree::Node;

const STATUSES: &[(&str, u16)] = &[("301", 301), ("302", 302), ("303", 303), ("307", 307), ("308", 308)];
const PIECES: &[(&str, RedirectPiece)] = &[
    ("scheme", RedirectPiece::Scheme),
    ("host", RedirectPiece::Host),
    ("authority", RedirectPiece::Authority),
    ("path", RedirectPiece::Path),
    ("query", RedirectPiece::Query),
];

pub(super) fn redirect(node: &Node<'_>, findings: &mut Findings) -> Option<Redirect> {
    let fields = Fields::open(node, "`config` of `redirect`", &["status", "to", "https", "host", "path"], findings)?;
    let status = fields.get("status").and_then(|node| read::one_of(node, STATUSES, findings)).unwrap_or(308);
    let parts = ["https", "host", "path"].into_iter().find_map(|name| fields.key(name));
    match (fields.get("to"), parts) {
        (Some(_), Some(key)) => {
            findings
                .error(key, "conflicting_keys", format!("`to` says where already, so `{}` cannot", key.text))
                .help("keep `to`, or write `https`, `host` and `path` without it");
            None
        }
        (Some(node), None) => {
            let text = read::text(node, "a target such as `https://{host}{path}{query}`", findings)?;
            Some(Redirect { status, to: target(node, text, findings)? })
        }
        (None, Some(_)) => {
            let scheme = match fields.boolean("https", false, findings) {
                true => RedirectPiece::Text("https".to_owned()),
                false => RedirectPiece::Scheme,
            };
            let mut to = vec![scheme, RedirectPiece::Text("://".to_owned())];
            match fields.get("host") {
                Some(node) => to.push(RedirectPiece::Text(host(node, findings)?)),
                None if to[0] == RedirectPiece::Scheme => to.push(RedirectPiece::Authority),
                // The port was that of plain text.
                None => to.push(RedirectPiece::Host),
            }
            match fields.get("path") {
                Some(node) => {
                    let text = read::text(node, "a path such as `/new{path}`", findings)?;
                    if !text.starts_with('/') && !text.starts_with("{path}") {
                        findings.error(node, "bad_path", format!("`{}` does not start with `/`", shown(text)));
                        return None;
                    }
                    to.extend(pieces(node, text, findings)?);
                    if !text.contains('?') && !text.contains("{query}") {
                        to.push(RedirectPiece::Query);
                    }
                }
                None => to.extend([RedirectPiece::Path, RedirectPiece::Query]),
            }
            Some(Redirect { status, to })
        }
        (None, None) => {
            fields.require("to", "where to, such as `https://{host}{path}{query}`", findings);
            None
        }
    }
}

fn host(node: &Node<'_>, findings: &mut Findings) -> Option<String> {
    let text = read::text(node, "a host", findings)?;
    let good = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b));
    if !good {
        findings
            .error(node, "bad_host", format!("`{}` is not a host", shown(text)))
            .help("write a name, with a port if need be; `to` takes whole URLs");
    }
    good.then(|| text.to_owned())
}

/// A target: a URL, or a path on the same host. Where it leads must not be up to the client, so the host is written or
/// is the request's.
fn target(node: &Node<'_>, text: &str, findings: &mut Findings) -> Option<Vec<RedirectPiece>> {
    let rest = ["http://", "https://", "{scheme}://"].into_iter().find_map(|start| text.strip_prefix(start));
    let fault = match rest {
        Some(rest) if rest.is_empty() || rest.starts_with(['/', '?']) || rest.starts_with("{path}") => {
            Some("the host is missing")
        }
        Some(_) => None,
        None if text.starts_with('/') && !text.starts_with("//") => None,
        None if text.starts_with("{path}") => None,
        None => Some("it starts neither with a scheme nor with a slash"),
    };
    if let Some(fault) = fault {
        findings
            .error(node, "bad_address", format!("`{}` is not a target: {fault}", shown(text)))
            .help("write `https://{host}{path}{query}`, `https://example.com/` or `/path`");
        return None;
    }
    pieces(node, text, findings)
}

fn pieces(node: &Node<'_>, text: &str, findings: &mut Findings) -> Option<Vec<RedirectPiece>> {
    if let Some(bad) = text.chars().find(|c| c.is_control() || c.is_whitespace() || !c.is_ascii()) {
        findings
            .error(node, "bad_address", format!("{bad:?} cannot be part of a target"))
            .help("write it percent-encoded");
        return None;
    }
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        if !before.is_empty() {
            pieces.push(RedirectPiece::Text(before.to_owned()));
        }
        let (name, after) = after.split_once('}').map_or((after, None), |(name, after)| (name, Some(after)));
        let known = PIECES.iter().find(|(known, _)| *known == name);
        let (Some((_, piece)), Some(after)) = (known, after) else {
            let known = PIECES.iter().map(|(name, _)| format!("`{{{name}}}`")).collect::<Vec<_>>().join(", ");
            findings
                .error(node, "unknown_value", format!("`{{{}}}` stands for nothing", shown(name)))
                .help(format!("known: {known}"));
            return None;
        };
        pieces.push(piece.clone());
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(RedirectPiece::Text(rest.to_owned()));
    }
    Some(pieces)
}
