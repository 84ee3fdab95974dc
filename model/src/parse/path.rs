//! Paths: of routes, rewrites and health checks.

use super::findings::Findings;
use super::read::{self, shown};
use super::tree::Node;

/// A path to compare requests with. One that no request can have is refused; any other is brought into the form of
/// matching by [`crate::decide`].
pub(super) fn matched_path(node: &Node<'_>, findings: &mut Findings) -> Option<String> {
    let value = read::text(node, "a path such as `/api/`", findings)?;
    let path = shaped_path(node, value, findings)?;
    if !can_be_asked_for(path) {
        findings
            .error(node, "bad_path", format!("`{}` matches nothing: requests for it are refused", shown(path)))
            .help("no `%00`, no `%` without two hex digits, and no `..` that leave the root");
        return None;
    }
    Some(path.to_owned())
}

/// A path without query: starts with `/`, and every character may stand in a request line.
pub(super) fn plain_path(node: &Node<'_>, findings: &mut Findings) -> Option<String> {
    let path = request_target(node, findings)?;
    shaped_path(node, &path, findings).map(str::to_owned)
}

/// `value` if it is the path of a URL alone.
fn shaped_path<'v>(node: &Node<'_>, value: &'v str, findings: &mut Findings) -> Option<&'v str> {
    let (problem, help, right) = if value.starts_with(['“', '”', '„', '‘', '’', '«']) {
        let bare = value.trim_matches(['“', '”', '„', '‘', '’', '«', '»']);
        ("is in typographic quotes, which are text to YAML", "", Some(bare.to_owned()))
    } else if let Some((_, rest)) = value.split_once("://") {
        (
            "is a URL, not a path",
            "the host goes into `host`",
            rest.find('/').and_then(|at| rest.get(at..)).map(str::to_owned),
        )
    } else if !value.starts_with('/') {
        ("does not start with `/`", "", Some(format!("/{value}")))
    } else if let Some((path, _)) = value.split_once('#') {
        ("has a fragment", "clients never send what follows `#`", Some(path.to_owned()))
    } else if let Some((path, _)) = value.split_once('?') {
        (
            "has a query",
            "a route matches one with `query: { name: value }`, and a rewrite keeps the request's",
            Some(path.to_owned()),
        )
    } else if value.chars().any(char::is_control) {
        ("has control characters", "", None)
    } else {
        return Some(value);
    };
    let found = findings.error(node, "bad_path", format!("`{}` {problem}", shown(value)));
    match &right {
        Some(right) if help.is_empty() => found.help(format!("write `{right}`")),
        Some(_) | None => found.help(help),
    };
    found.suggest_any(right);
    None
}

/// Whether a request for this path is not refused: whole escapes, no `%00`, no dots that leave the root.
fn can_be_asked_for(path: &str) -> bool {
    let mut depth = 0_usize;
    for segment in path.split('/').skip(1) {
        let mut rest = segment;
        while let Some((_, after)) = rest.split_once('%') {
            let code = after.get(..2).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
            if code.is_none_or(|hex| hex == "00") {
                return false;
            }
            rest = &after[2..];
        }
        match segment.replace("%2e", ".").replace("%2E", ".").as_str() {
            "" | "." => {}
            ".." => match depth.checked_sub(1) {
                Some(above) => depth = above,
                None => return false,
            },
            _ => depth += 1,
        }
    }
    true
}

/// A path, with a query or without, that may stand in a request line.
pub(super) fn request_target(node: &Node<'_>, findings: &mut Findings) -> Option<String> {
    let value = read::text(node, "a path such as `/health`", findings)?;
    shaped_path(node, value.split('?').next().unwrap_or(value), findings)?;
    if value.bytes().any(|b| !(0x21..=0x7e).contains(&b)) || value.contains('#') {
        let right = encoded(value);
        findings
            .error(node, "bad_path", format!("`{}` has characters that must be percent-encoded", shown(value)))
            .help(format!("write `{right}`"))
            .suggest(right);
        return None;
    }
    Some(value.to_owned())
}

fn encoded(path: &str) -> String {
    path.bytes()
        .map(|b| if (0x21..=0x7e).contains(&b) && b != b'#' { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_every_request_is_refused_for_match_nothing() {
        let check = |path: &str, expected: bool| assert_eq!(can_be_asked_for(path), expected, "{path}");
        check("/", true);
        check("/a//b/./c/../", true);
        check("/caf\u{e9}/%41%2F", true);
        check("/.well-known/..x", true);
        check("/a/..", true);
        check("/..", false);
        check("/a/../..", false);
        check("/%2e%2E", false);
        check("/%00", false);
        check("/%", false);
        check("/%4", false);
        check("/%zz", false);
        check("/%\u{e9}", false);
    }
}
