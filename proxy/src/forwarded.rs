//! Who the client is, and the header lines that tell the endpoint.
//!
//! What a peer says about others is believed only if the peer is trusted (`trusted_proxies`).

use std::net::IpAddr;

use sealane_model::config::CidrBlock;

use crate::http1::field::{Fields, Known, KnownSet, members};
use crate::http1::framing::Version;
use crate::http1::request_head::RequestHead;
use crate::http1::write;

/// The client of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    /// The nearest address that no trusted proxy stands for.
    pub(crate) ip: IpAddr,
    /// The peer is a trusted proxy.
    pub(crate) trusted_peer: bool,
}

impl Client {
    /// Finds the client of a request that came from `peer`.
    pub(crate) fn find(peer: IpAddr, trusted: &[CidrBlock], bytes: &[u8], fields: &Fields) -> Self {
        let is_trusted = |ip: IpAddr| trusted.iter().any(|block| block.contains(ip));
        if !is_trusted(peer) {
            return Self { ip: peer, trusted_peer: false };
        }
        // From the right: each trusted hop vouches for the one before it.
        let mut ip = peer;
        let lines = fields.lines().iter().rev().filter(|field| field.known == Known::XForwardedFor);
        for member in lines.flat_map(|field| field.value.of_bytes(bytes).rsplit(|&byte| byte == b',')) {
            let Some(hop) = parse_ip(member.trim_ascii()) else { break };
            ip = hop;
            if !is_trusted(hop) {
                break;
            }
        }
        Self { ip, trusted_peer: true }
    }
}

/// How often a request may pass a proxy like this one. A few in a row are usual (edge, region, sidecar); a request that
/// comes round goes on until this many are reached.
const HOPS_MAX: usize = 10;

/// Whether a request goes round in circles: `Via` names too many proxies like this one (RFC 9110 §7.6.3).
pub(crate) fn is_looping(bytes: &[u8], fields: &Fields) -> bool {
    let lines = fields.lines().iter().filter(|field| field.known == Known::Via);
    let hops = lines.flat_map(|field| members(field.value.of_bytes(bytes))).filter(|member| is_this_kind(member));
    hops.take(HOPS_MAX).count() == HOPS_MAX
}

/// How often a request may still be forwarded, where its method heeds that (RFC 9110 §7.6.2).
pub(crate) fn forwards_left(method: &str, bytes: &[u8], fields: &Fields) -> Option<u32> {
    if !matches!(method, "OPTIONS" | "TRACE") {
        return None;
    }
    let value = fields.first(Known::MaxForwards)?.value.of_bytes(bytes);
    let digits = std::str::from_utf8(value).ok().filter(|value| value.bytes().all(|byte| byte.is_ascii_digit()))?;
    // More than fit are as good as the most.
    (!digits.is_empty()).then(|| digits.parse().unwrap_or(u32::MAX))
}

/// Whether a member of `Via` (`1.1 sealane`) names a proxy like this one.
fn is_this_kind(member: &[u8]) -> bool {
    member.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty()).nth(1) == Some(PSEUDONYM)
}

/// As what the proxy names itself in `Via`.
const PSEUDONYM: &[u8] = b"sealane";

/// An address, with or without port.
fn parse_ip(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let ip = text.parse().or_else(|_| text.parse().map(|address: std::net::SocketAddr| address.ip())).ok()?;
    Some(IpAddr::to_canonical(&ip))
}

/// What the header lines say.
#[derive(Debug)]
pub(crate) struct Hop<'a> {
    /// Lines that the route does without, or sets itself.
    pub(crate) without: KnownSet,
    pub(crate) client: Client,
    pub(crate) peer: &'a str,
    pub(crate) https: bool,
    pub(crate) http2: bool,
    pub(crate) request_id: &'a [u8],
}

/// Lines that are written anew.
pub(crate) const WITHOUT: KnownSet = KnownSet::of(&[
    Known::Host,
    Known::XForwardedFor,
    Known::XForwardedProto,
    Known::XForwardedHost,
    Known::XRealIp,
    Known::Forwarded,
    Known::XRequestId,
]);

/// Appends the lines that tell the endpoint of this hop.
pub(crate) fn write_lines(out: &mut Vec<u8>, hop: &Hop<'_>, bytes: &[u8], head: &RequestHead<'_>, fields: &Fields) {
    let proto: &[u8] = if hop.https { b"https" } else { b"http" };
    let kept = |known| fields.first(known).filter(|_| hop.client.trusted_peer).map(|field| field.value.of_bytes(bytes));
    let wanted = |known| !hop.without.contains(known);
    if wanted(Known::XForwardedFor) {
        out.extend_from_slice(b"X-Forwarded-For: ");
        if hop.client.trusted_peer {
            write_list(out, Known::XForwardedFor, bytes, fields);
        }
        out.extend_from_slice(hop.peer.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if wanted(Known::XForwardedProto) {
        write::field(out, b"X-Forwarded-Proto", kept(Known::XForwardedProto).unwrap_or(proto));
    }
    let host = kept(Known::XForwardedHost).unwrap_or(head.authority.as_bytes());
    // A client of HTTP/1.0 may have named none.
    if wanted(Known::XForwardedHost) && !host.is_empty() {
        write::field(out, b"X-Forwarded-Host", host);
    }
    if wanted(Known::XRealIp) {
        out.extend_from_slice(b"X-Real-IP: ");
        match kept(Known::XRealIp) {
            Some(ip) => out.extend_from_slice(ip),
            None if hop.client.trusted_peer => {
                use std::io::Write as _;
                // Writing to a vector cannot fail.
                let _ = write!(out, "{}", hop.client.ip);
            }
            None => out.extend_from_slice(hop.peer.as_bytes()),
        }
        out.extend_from_slice(b"\r\n");
    }
    if hop.client.trusted_peer && fields.first(Known::Forwarded).is_some() {
        out.extend_from_slice(b"Forwarded: ");
        write_list(out, Known::Forwarded, bytes, fields);
        // An IPv6 address is quoted and in brackets (RFC 7239 §6).
        let (open, close): (&[u8], &[u8]) = if hop.peer.contains(':') { (b"\"[", b"]\"") } else { (b"", b"") };
        for part in [b"for=", open, hop.peer.as_bytes(), close, b";proto=", proto, b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    if wanted(Known::XRequestId) {
        write::field(out, b"X-Request-Id", hop.request_id);
    }
    out.extend_from_slice(match head.version {
        _ if hop.http2 => b"Via: 2.0 sealane\r\n",
        Version::Http10 => b"Via: 1.0 sealane\r\n",
        Version::Http11 => b"Via: 1.1 sealane\r\n",
    });
}

/// Appends the members of all lines of a list, each with a comma after it.
fn write_list(out: &mut Vec<u8>, known: Known, bytes: &[u8], fields: &Fields) {
    for field in fields.lines().iter().filter(|field| field.known == known) {
        for member in members(field.value.of_bytes(bytes)) {
            out.extend_from_slice(member);
            out.extend_from_slice(b", ");
        }
    }
}

/// Whether an id that a trusted peer sent may go on: short and harmless in headers, logs and JSON.
pub(crate) fn is_request_id(id: &[u8]) -> bool {
    (1..=128).contains(&id.len()) && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:+/=".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::request_head::HeadLimits;
    use sealane_model::config::Underscores;

    const LIMITS: HeadLimits =
        HeadLimits { header_bytes_max: 65536, fields_max: 100, target_bytes_max: 8192, underscores: Underscores::Keep };

    fn trusted() -> Vec<CidrBlock> {
        vec![CidrBlock { address: "10.0.0.0".parse().unwrap(), prefix_bits: 8 }]
    }

    #[test]
    fn the_client_is_the_nearest_hop_that_is_not_trusted() {
        let check = |peer: &str, lines: &str, expected: &str| {
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
            let mut fields = Fields::default();
            RequestHead::parse(text.as_bytes(), &LIMITS, &mut fields).unwrap().unwrap();
            let client = Client::find(peer.parse().unwrap(), &trusted(), text.as_bytes(), &fields);
            assert_eq!(client.ip.to_string(), expected, "{peer} {lines}");
        };
        check("192.0.2.1", "", "192.0.2.1");
        check("192.0.2.1", "X-Forwarded-For: 1.2.3.4\r\n", "192.0.2.1");
        check("10.0.0.1", "", "10.0.0.1");
        check("10.0.0.1", "X-Forwarded-For: 1.2.3.4\r\n", "1.2.3.4");
        check("10.0.0.1", "X-Forwarded-For: 6.6.6.6, 1.2.3.4, 10.0.0.2\r\n", "1.2.3.4");
        check("10.0.0.1", "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 1.2.3.4:99\r\n", "1.2.3.4");
        check("10.0.0.1", "X-Forwarded-For: 1.2.3.4, nonsense\r\n", "10.0.0.1");
        check("10.0.0.1", "X-Forwarded-For: 10.0.0.3, 10.0.0.2\r\n", "10.0.0.3");
    }

    #[test]
    fn a_request_loops_when_via_names_too_many_proxies_like_this_one() {
        let check = |lines: &str, expected: bool| {
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
            let mut fields = Fields::default();
            RequestHead::parse(text.as_bytes(), &LIMITS, &mut fields).unwrap().unwrap();
            assert_eq!(is_looping(text.as_bytes(), &fields), expected, "{lines}");
        };
        check("", false);
        check(&"Via: 1.1 sealane\r\n".repeat(HOPS_MAX - 1), false);
        check(&"Via: 1.1 sealane\r\n".repeat(HOPS_MAX), true);
        check(&format!("Via: {}\r\n", "2.0 sealane, 1.1 other,".repeat(HOPS_MAX)), true);
        check(&format!("Via: {}\r\n", "1.1 other (sealane), 1.1 sealane2, sealane,".repeat(HOPS_MAX)), false);
    }

    #[test]
    fn lines_of_untrusted_peers_are_replaced_and_those_of_trusted_ones_go_on() {
        let text = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Proto: https\r\n\
                    X-Real-IP: 9.9.9.9\r\nForwarded: for=1.1.1.1\r\n\r\n";
        let lines = |peer: &str| {
            let mut fields = Fields::default();
            let head = RequestHead::parse(text.as_bytes(), &LIMITS, &mut fields).unwrap().unwrap();
            let client = Client::find(peer.parse().unwrap(), &trusted(), text.as_bytes(), &fields);
            let hop = Hop { without: KnownSet::default(), client, peer, https: false, http2: false, request_id: b"id" };
            let mut out = Vec::new();
            write_lines(&mut out, &hop, text.as_bytes(), &head, &fields);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            lines("192.0.2.1"),
            "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\n\
             X-Real-IP: 192.0.2.1\r\nX-Request-Id: id\r\nVia: 1.1 sealane\r\n"
        );
        assert_eq!(
            lines("10.0.0.1"),
            "X-Forwarded-For: 1.1.1.1, 10.0.0.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: a\r\n\
             X-Real-IP: 9.9.9.9\r\nForwarded: for=1.1.1.1, for=10.0.0.1;proto=http\r\nX-Request-Id: id\r\n\
             Via: 1.1 sealane\r\n"
        );
    }
}
