//! Addresses, hosts and endpoints.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// A block of addresses such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CidrBlock {
    /// The network address.
    pub address: IpAddr,
    /// Leading bits that must agree; at most 32 (IPv4) or 128 (IPv6).
    pub prefix_bits: u8,
}

impl CidrBlock {
    /// Whether `ip` lies in the block. An IPv4-mapped IPv6 address counts as IPv4.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        fn bits(ip: IpAddr) -> (u128, u8) {
            match ip.to_canonical() {
                IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, 32),
                IpAddr::V6(v6) => (u128::from(v6), 128),
            }
        }
        let ((net, net_width), (ip, ip_width)) = (bits(self.address), bits(ip));
        let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix_bits)).unwrap_or(0);
        net_width == ip_width && net & mask == ip & mask
    }
}

/// Where a data-plane listener binds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddress {
    /// `None`: every address, IPv6 and IPv4 (`:8080`).
    pub ip: Option<IpAddr>,
    /// The port; 0 lets the kernel choose.
    pub port: u16,
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            Some(ip) => SocketAddr::new(ip, self.port).fmt(f),
            None => write!(f, ":{}", self.port),
        }
    }
}

/// Not `:PORT`, `PORT`, `IP:PORT` or `[IPv6]:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address: write `:8080`, `127.0.0.1:8080` or `[::1]:8080`")]
pub struct ListenAddressError;

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    /// `:8080` and `8080` mean every address, `localhost:8080` means 127.0.0.1.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let port = text.strip_prefix(':').unwrap_or(text);
        if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) {
            return port.parse().map(|port| Self { ip: None, port }).map_err(|_| ListenAddressError);
        }
        let text = text.strip_prefix("localhost:").map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
        let address: SocketAddr = text.parse().map_err(|_| ListenAddressError)?;
        Ok(Self { ip: Some(address.ip()), port: address.port() })
    }
}

/// A host that a route or certificate serves. Names are lower case, without a trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostMatch {
    /// This name or address literal.
    Exact(String),
    /// `*.example.com` is kept as `example.com`: one or more labels before it, never the bare name.
    Wildcard(String),
}

/// Where an endpoint lives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address literal.
    Ip(IpAddr),
    /// A name that the proxy resolves, again and again, in the background.
    Name(String),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// How an endpoint is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain HTTP; see [`super::Http2`] for the version.
    Http,
    /// TLS.
    Https,
    /// HTTP/2 in plain text with prior knowledge.
    H2c,
}

/// What the path of an endpoint's URL does to the request's path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum TargetPath {
    /// The request's path, byte for byte (after the route's rewrite).
    #[default]
    Keep,
    /// This path instead (seed 001). The query stays.
    Replace(String),
    /// This path before the request's (seed 000). No trailing slash.
    Prepend(String),
}

/// One target of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it lives.
    pub host: Host,
    /// 1 to 65535.
    pub port: u16,
    /// How it is spoken to.
    pub scheme: Scheme,
    /// Share of the pool's traffic, 0 to 1,000,000; 0 gets none. Default 1.
    pub weight: u32,
    /// What its URL's path does.
    pub path: TargetPath,
}

/// `host:port`: with the pool's id, the stable key of live state.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses_are_read_as_people_write_them() {
        let check = |text: &str, expected: Option<&str>| {
            let shown = text.parse::<ListenAddress>().ok().map(|address| address.to_string());
            assert_eq!(shown.as_deref(), expected, "{text}");
        };
        check(":8080", Some(":8080"));
        check("8080", Some(":8080"));
        check("127.0.0.1:80", Some("127.0.0.1:80"));
        check("localhost:80", Some("127.0.0.1:80"));
        check("[::1]:80", Some("[::1]:80"));
        check("::1:80", Some("[::1]:80").filter(|_| false));
        check(":70000", None);
        check("example.com:80", None);
        check("", None);
    }

    #[test]
    fn cidr_blocks_hold_their_addresses() {
        let check = |block: &str, bits, ip: &str, expected| {
            let block = CidrBlock { address: block.parse().unwrap(), prefix_bits: bits };
            assert_eq!(block.contains(ip.parse().unwrap()), expected, "{block:?} {ip}");
        };
        check("10.0.0.0", 8, "10.255.0.1", true);
        check("10.0.0.0", 8, "11.0.0.1", false);
        check("10.0.0.0", 8, "::ffff:10.1.1.1", true);
        check("0.0.0.0", 0, "192.0.2.1", true);
        check("0.0.0.0", 0, "2001:db8::1", false);
        check("2001:db8::", 32, "2001:db8:1::1", true);
        check("2001:db8::", 32, "2001:db9::1", false);
        check("::", 0, "2001:db9::1", true);
        check("192.0.2.7", 32, "192.0.2.7", true);
        check("192.0.2.7", 32, "192.0.2.6", false);
    }
}
