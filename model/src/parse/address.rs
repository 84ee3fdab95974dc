//! Addresses, URLs, host names and address blocks.
//!
//! Pure text → value, with the problem told at the node it came from. Names are never looked up: whether a host exists
//! is a state at run time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::findings::Findings;
use super::read::{shown, text};
use super::tree::Node;
use crate::config::{CidrBlock, Host, HostMatch, ListenAddress, Scheme};

/// A URL without userinfo, query and fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) scheme: Scheme,
    pub(super) host: Host,
    pub(super) port: u16,
    /// As written: empty or starts with `/`.
    pub(super) path: String,
    /// Everything before the path, as written.
    pub(super) origin: String,
}

/// What is wrong with an address, before it is told.
struct Wrong {
    code: &'static str,
    message: String,
    help: String,
    suggestion: Option<String>,
}

impl Wrong {
    fn new(code: &'static str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: help.into(), suggestion: None }
    }

    fn suggest(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = Some(suggestion.into());
        self
    }

    /// The suggestion is for a piece of what was written: this comes before it and that behind, inside its quotes.
    fn within(mut self, before: &str, behind: &str) -> Self {
        self.suggestion = self.suggestion.map(|piece| format!("\"{before}{}{behind}\"", piece.trim_matches('"')));
        self
    }

    fn tell(self, node: &Node<'_>, findings: &mut Findings) {
        findings.error(node, self.code, self.message).help(self.help).suggest_any(self.suggestion);
    }
}

const ADDRESS_FORMS: &str = "write `host:port`, `http://host`, `https://host`, `h2c://host:port` or `\"[::1]:80\"`";

/// Where a data-plane listener binds: `:8080`, `0.0.0.0:8080`, `[::1]:8080`.
pub(super) fn listen(node: &Node<'_>, findings: &mut Findings) -> Option<ListenAddress> {
    let value = text(node, "an address such as `:8080`", findings)?;
    listen_address(value).map_err(|wrong| wrong.tell(node, findings)).ok()
}

fn listen_address(value: &str) -> Result<ListenAddress, Wrong> {
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        let message = format!("`{}` is a port, not an address", shown(value));
        return Err(Wrong::new("bad_address", message, format!("write `\":{value}\"` for every address"))
            .suggest(format!("\":{value}\"")));
    }
    if let Some((scheme, rest)) = value.split_once("://") {
        let message = format!("a listener's address has no scheme, found `{}`", shown(scheme));
        let rest = rest.trim_end_matches('/');
        return Err(Wrong::new("bad_address", message, format!("write `{}`", shown(rest))).suggest(rest));
    }
    let (host, port) = split_port(value)?;
    let Some(port) = port else {
        let message = format!("`{}` has no port", shown(value));
        return Err(Wrong::new("bad_address", message, "write `:8080` or `127.0.0.1:8080`"));
    };
    let ip = match host {
        "" | "*" => None,
        "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        _ => Some(ip(host).ok_or_else(|| {
            let message = format!("`{}` is not an IP address", shown(host));
            Wrong::new(
                "bad_address",
                message,
                "a listener binds an address of this machine, such as `127.0.0.1:8080`, or all: `:8080`",
            )
        })?),
    };
    Ok(ListenAddress { ip, port })
}

/// Where the admin listener binds; without a host: loopback.
pub(super) fn admin(node: &Node<'_>, findings: &mut Findings) -> Option<SocketAddr> {
    let listen = listen(node, findings)?;
    Some(SocketAddr::new(listen.ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), listen.port))
}

/// `host:port`, or a URL whose port defaults to its scheme's.
pub(super) fn target(node: &Node<'_>, findings: &mut Findings) -> Option<Target> {
    let value = text(node, "an address such as `http://localhost:3000`", findings)?;
    parse_target(value).map_err(|wrong| wrong.tell(node, findings)).ok()
}

/// As [`target`], but a scheme must be written.
pub(super) fn url(node: &Node<'_>, findings: &mut Findings) -> Option<Target> {
    let value = text(node, "a URL such as `http://localhost:3000`", findings)?;
    if !value.contains("://") {
        findings
            .error(node, "bad_address", format!("`{}` is not a URL", shown(value)))
            .help("start it with `http://` or `https://`")
            .suggest(format!("http://{value}"));
        return None;
    }
    target(node, findings)
}

/// As [`url`], of a text that is in no file; or what is wrong with it.
pub(super) fn check_url(value: &str) -> Result<Target, String> {
    if value.len() > URL_BYTES_MAX {
        return Err(format!("it is longer than {URL_BYTES_MAX} bytes"));
    }
    if !value.contains("://") {
        return Err(format!("`{}` is not a URL: start it with `http://` or `https://`", shown(value)));
    }
    parse_target(value).map_err(|Wrong { message, help, .. }| format!("{message}: {help}"))
}

/// Longest URL that [`check_url`] takes.
const URL_BYTES_MAX: usize = 8 << 10;

/// Whether a client can ask for this `http://` or `https://` URL, written without query and fragment.
pub(super) fn is_web_url(value: &str) -> bool {
    value.contains("://") && parse_target(value).is_ok_and(|target| target.scheme != Scheme::H2c)
}

fn parse_target(value: &str) -> Result<Target, Wrong> {
    let (scheme, rest, start) = match value.split_once("://") {
        None => (Scheme::Http, value, 0),
        Some((name, rest)) => {
            let scheme = match name.to_ascii_lowercase().as_str() {
                "http" => Scheme::Http,
                "https" => Scheme::Https,
                "h2c" => Scheme::H2c,
                other => {
                    let ours = match other {
                        "ws" | "tcp" => Some("http"),
                        "wss" | "tls" | "ssl" | "grpcs" | "h2" => Some("https"),
                        "grpc" => Some("h2c"),
                        _ => None,
                    };
                    let message = format!("the scheme `{}` is not known", shown(name));
                    let wrong = Wrong::new("bad_address", message, ADDRESS_FORMS);
                    return Err(match ours {
                        Some(ours) => wrong.suggest(format!("{ours}://{rest}")),
                        None => wrong,
                    });
                }
            };
            (scheme, rest, name.len() + 3)
        }
    };
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_end);
    let origin = value.get(..start + authority_end).unwrap_or(value).to_owned();
    if authority.contains('@') {
        return Err(Wrong::new(
            "userinfo_in_address",
            "a user name or password cannot be part of an address",
            "remove what stands before `@`; credentials belong in a header that a chain adds from a secret",
        ));
    }
    if let Some(at) = path.find(['?', '#']) {
        let (what, code) = if path.as_bytes().get(at) == Some(&b'?') {
            ("query", "query_in_address")
        } else {
            ("fragment", "fragment_in_address")
        };
        return Err(Wrong::new(
            code,
            format!("a {what} cannot be part of an endpoint's address"),
            "remove it: the request's own is forwarded",
        )
        .suggest(value.get(..start + authority_end + at).unwrap_or(value)));
    }
    if path.bytes().any(|b| !(0x21..=0x7e).contains(&b)) {
        let message = format!("`{}` has characters that must be percent-encoded", shown(path));
        return Err(Wrong::new("bad_address", message, "write `%20` for a blank, and so on"));
    }
    let (host, port) = split_port(authority).map_err(|wrong| match value.get(..start).unwrap_or_default() {
        "" => wrong,
        scheme => wrong.within(scheme, path),
    })?;
    let host = endpoint_host(host)?;
    let port = match (port, scheme, start) {
        (Some(0), _, _) => {
            return Err(Wrong::new("bad_address", "port 0 cannot be connected to", "write a port from 1 to 65535"));
        }
        (Some(port), _, _) => port,
        (None, Scheme::Https, _) => 443,
        (None, _, 0) => {
            let message = format!("`{}` has no port", shown(value));
            return Err(Wrong::new("bad_address", message, ADDRESS_FORMS).suggest(format!("{value}:80")));
        }
        (None, Scheme::Http | Scheme::H2c, _) => 80,
    };
    Ok(Target { scheme, host, port, path: path.to_owned(), origin })
}

/// `host:port`, `host`, `[ipv6]:port` or `[ipv6]`.
fn split_port(value: &str) -> Result<(&str, Option<u16>), Wrong> {
    if value.parse::<Ipv6Addr>().is_ok() || value.matches(':').count() > 1 && !value.starts_with('[') {
        let message = format!("the bare IPv6 address `{}` needs brackets", shown(value));
        let wrong = Wrong::new("bare_ipv6", message, "write it in brackets and quotes, such as `\"[::1]:80\"`");
        let with_port = value
            .rsplit_once(':')
            .filter(|(host, port)| host.parse::<Ipv6Addr>().is_ok() && port.bytes().all(|b| b.is_ascii_digit()));
        return Err(match with_port {
            Some((host, port)) => wrong.suggest(format!("\"[{host}]:{port}\"")),
            None if value.parse::<Ipv6Addr>().is_ok() => wrong.suggest(format!("\"[{value}]:80\"")),
            None => wrong,
        });
    }
    let (host, port) = if let Some(rest) = value.strip_prefix('[') {
        let Some((inside, after)) = rest.split_once(']') else {
            return Err(Wrong::new("bad_address", format!("`{}` has no `]`", shown(value)), ADDRESS_FORMS));
        };
        let whole = value.get(..inside.len() + 2).unwrap_or(value);
        match after.strip_prefix(':') {
            Some(port) => (whole, Some(port)),
            None if after.is_empty() => (whole, None),
            None => {
                return Err(Wrong::new("bad_address", format!("`{}` is not an address", shown(value)), ADDRESS_FORMS));
            }
        }
    } else {
        match value.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (value, None),
        }
    };
    let Some(digits) = port else { return Ok((host, None)) };
    let port = digits.parse::<u16>().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
    match port {
        Some(port) => Ok((host, Some(port))),
        None => Err(Wrong::new(
            "bad_address",
            format!("`{}` is not a port", shown(digits)),
            "a port is a number up to 65535",
        )),
    }
}

/// An address literal, IPv6 with brackets.
fn ip(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inside) => inside.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

fn endpoint_host(host: &str) -> Result<Host, Wrong> {
    if let Some(ip) = ip(host) {
        return Ok(Host::Ip(ip));
    }
    match name_problem(host) {
        None => Ok(Host::Name(host.to_ascii_lowercase())),
        Some(problem) => {
            Err(Wrong::new("bad_address", format!("`{}` is not a host: {problem}", shown(host)), ADDRESS_FORMS))
        }
    }
}

/// Why `name` is not a host name; `None`: it is one.
fn name_problem(name: &str) -> Option<&'static str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        return Some("it is empty");
    }
    if name.len() > 253 {
        return Some("it is longer than 253 characters");
    }
    if !name.is_ascii() {
        return Some("write it in Punycode (`xn--…`)");
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > 63 {
            return Some("each part between dots has 1 to 63 characters");
        }
        if !label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
            return Some("only letters, digits, `-`, `_` and dots can stand in it");
        }
    }
    let last = name.rsplit('.').next().unwrap_or_default();
    last.bytes().all(|b| b.is_ascii_digit()).then_some("a name cannot end in a number, and this is no IPv4 address")
}

/// Whether `host` has what only a regex has (seed 004 writes regexes there).
pub(super) fn looks_like_regex(host: &str) -> bool {
    !host.starts_with('[')
        && (host.contains(['\\', '^', '$', '(', ')', '[', ']', '{', '}', '|', '+', '?']) || host.starts_with(".*"))
}

/// A host that a route or certificate serves: exact, `*.name`, or an address literal.
pub(super) fn host_match(node: &Node<'_>, findings: &mut Findings) -> Option<HostMatch> {
    let value = text(node, "a host such as `api.example.com`", findings)?;
    parse_host_match(value).map_err(|wrong| wrong.tell(node, findings)).ok()
}

fn parse_host_match(value: &str) -> Result<HostMatch, Wrong> {
    if let Some((scheme, rest)) = value.split_once("://") {
        let host = rest.split(['/', ':']).next().unwrap_or_default();
        let message = format!("a host has no scheme, found `{}`", shown(scheme));
        return Err(Wrong::new("bad_host", message, format!("write `{}`", shown(host))).suggest(host));
    }
    let bare = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(value);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(HostMatch::Exact(ip.to_string()));
    }
    if let Some((host, port)) = value.rsplit_once(':')
        && port.bytes().all(|b| b.is_ascii_digit())
    {
        let message = format!("a host has no port, found `{}`", shown(port));
        return Err(Wrong::new("bad_host", message, "every port of a listener is meant").suggest(host));
    }
    if let Some((host, _)) = value.split_once('/') {
        let message = format!("a host has no path, found `{}`", shown(value));
        return Err(Wrong::new("bad_host", message, "write the path as `path_prefix` or `path`").suggest(host));
    }
    if value == "*" {
        return Err(Wrong::new("bad_host", "`*` alone is no host", "leave `host` out to serve any host"));
    }
    let (name, wildcard) = match value.strip_prefix("*.") {
        Some(name) => (name, true),
        None => (value, false),
    };
    if name.contains('*') {
        return Err(Wrong::new(
            "bad_host",
            format!("`{}`: a `*` can only stand for the first parts", shown(value)),
            "write `*.example.com`, or use `host_regex`",
        ));
    }
    if let Some(problem) = name_problem(name) {
        return Err(Wrong::new(
            "bad_host",
            format!("`{}` is not a host: {problem}", shown(value)),
            "write `api.example.com` or `*.example.com`",
        ));
    }
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    Ok(if wildcard { HostMatch::Wildcard(name) } else { HostMatch::Exact(name) })
}

/// `10.0.0.0/8`, or one address.
pub(super) fn cidr(node: &Node<'_>, findings: &mut Findings) -> Option<CidrBlock> {
    let value = text(node, "an address block such as `10.0.0.0/8`", findings)?;
    let (address, bits) = match value.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (value, None),
    };
    let parsed = address.parse::<IpAddr>().ok().and_then(|address| {
        let width: u8 = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => width,
            Some(bits) => bits.parse::<u8>().ok().filter(|bits| *bits <= width)?,
        };
        Some(CidrBlock { address, prefix_bits: bits })
    });
    let Some(block) = parsed else {
        findings
            .error(node, "bad_cidr", format!("`{}` is not an address block", shown(value)))
            .help("write `10.0.0.0/8`, `2001:db8::/32` or one address");
        return None;
    };
    let network = network_address(block);
    if network != block.address {
        let right = format!("{network}/{}", block.prefix_bits);
        findings
            .error(node, "bad_cidr", format!("`{}` has bits set behind its prefix", shown(value)))
            .help(format!("write `{right}`"))
            .suggest(right);
        return None;
    }
    Some(block)
}

fn network_address(block: CidrBlock) -> IpAddr {
    match block.address {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(block.prefix_bits)).unwrap_or(0);
            IpAddr::V4((u32::from(ip) & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(block.prefix_bits)).unwrap_or(0);
            IpAddr::V6((u128::from(ip) & mask).into())
        }
    }
}

/// A name to send as `Host`, with an optional port, or to verify as server name.
pub(super) fn is_authority(value: &str) -> bool {
    split_port(value).is_ok_and(|(host, _)| endpoint_host(host).is_ok())
}

#[cfg(test)]
mod tests;
