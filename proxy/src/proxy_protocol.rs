//! The PROXY protocol header, versions 1 and 2, that a trusted load balancer puts before a connection's bytes.
//!
//! Source: haproxy.org, "The PROXY protocol". Exactly the header's bytes are taken off the socket, so that whatever
//! follows (TLS, HTTP) is untouched.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use tokio::io::Interest;
use tokio::net::TcpStream;

/// What every version 2 header starts with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Longest header of version 1, CRLF included.
const V1_BYTES_MAX: usize = 107;
/// Of a header of version 2, what comes before its addresses, and what addresses take at most. Extensions may follow, up to
/// 64 KiB in all; nothing of them is used.
const V2_FIXED_BYTES: usize = 16;
const V2_ADDRESS_BYTES_MAX: usize = 36;
/// Read at once; more than either needs to be understood.
const PIECE_BYTES: usize = 1024;

/// Takes the header off `tcp`. The client's address, or `None` where the header names none (health checks).
///
/// # Errors
/// There is no header, or it is malformed.
pub(crate) async fn read(tcp: &TcpStream) -> io::Result<Option<SocketAddr>> {
    let mut buffer = [0; PIECE_BYTES];
    let mut seen = 0;
    loop {
        let peeked = tcp.peek(&mut buffer).await?;
        if peeked == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some((length, source)) = parse(&buffer[..peeked]).map_err(invalid)? {
            let mut taken = 0;
            while taken < length {
                tcp.ready(Interest::READABLE).await?;
                match tcp.try_read(&mut buffer[..(length - taken).min(PIECE_BYTES)]) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(read) => taken += read,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            return Ok(source);
        }
        // Peeking does not wait for more than it saw.
        if peeked == seen {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        seen = peeked;
    }
}

fn invalid(rule: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, rule)
}

/// The length of the header at the start of `bytes`, and the source that it names; `None`: more of it is needed for that.
fn parse(bytes: &[u8]) -> Result<Option<(usize, Option<SocketAddr>)>, &'static str> {
    let signature = &SIGNATURE[..bytes.len().min(SIGNATURE.len())];
    if bytes.starts_with(signature) {
        return if bytes.len() < V2_FIXED_BYTES { Ok(None) } else { parse_v2(bytes) };
    }
    let Some(end) = memchr::memmem::find(&bytes[..bytes.len().min(V1_BYTES_MAX)], b"\r\n") else {
        let may_follow = bytes.len() < V1_BYTES_MAX && b"PROXY ".starts_with(&bytes[..bytes.len().min(6)]);
        return if may_follow { Ok(None) } else { Err("no PROXY header") };
    };
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| "malformed PROXY header")?;
    parse_v1(line).map(|source| Some((end + 2, source)))
}

/// `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443`
fn parse_v1(line: &str) -> Result<Option<SocketAddr>, &'static str> {
    let mut words = line.split(' ');
    if words.next() != Some("PROXY") {
        return Err("no PROXY header");
    }
    let family = words.next();
    if family == Some("UNKNOWN") {
        return Ok(None);
    }
    let [source, destination, source_port, destination_port] = std::array::from_fn(|_| words.next().unwrap_or(""));
    let ip = |text: &str| text.parse::<IpAddr>().ok().filter(|ip| ip.is_ipv4() == (family == Some("TCP4")));
    let port = |text: &str| text.parse::<u16>().ok().filter(|_| !text.starts_with('+'));
    match (family, ip(source), ip(destination), port(source_port), port(destination_port), words.next()) {
        (Some("TCP4" | "TCP6"), Some(ip), Some(_), Some(port), Some(_), None) => Ok(Some(SocketAddr::new(ip, port))),
        _ => Err("malformed PROXY header"),
    }
}

fn parse_v2(bytes: &[u8]) -> Result<Option<(usize, Option<SocketAddr>)>, &'static str> {
    let length = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    let understood = length.min(V2_FIXED_BYTES + V2_ADDRESS_BYTES_MAX);
    let Some(rest) = bytes.get(V2_FIXED_BYTES..understood) else { return Ok(None) };
    let port = |at: usize| rest.get(at..at + 2).map(|port| u16::from_be_bytes([port[0], port[1]]));
    let source = match (bytes[12], bytes[13] >> 4) {
        // LOCAL: the balancer speaks for itself.
        (0x20, _) => None,
        (0x21, 1) => rest.first_chunk::<4>().zip(port(8)).map(|(ip, port)| SocketAddr::from((*ip, port))),
        (0x21, 2) => {
            rest.first_chunk::<16>().zip(port(32)).map(|(ip, port)| SocketAddr::from((Ipv6Addr::from(*ip), port)))
        }
        (0x21, _) => None,
        _ => return Err("malformed PROXY header"),
    };
    if bytes[12] == 0x21 && matches!(bytes[13] >> 4, 1 | 2) && source.is_none() {
        return Err("malformed PROXY header");
    }
    Ok(Some((length, source)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_headers_are_parsed_whole_or_not_at_all() {
        let check = |line: &str, expected: Result<Option<&str>, ()>| {
            let bytes = format!("{line}\r\nGET /");
            let parsed = parse(bytes.as_bytes()).map_err(|_| ());
            let expected = expected.map(|source| Some((line.len() + 2, source.map(|source| source.parse().unwrap()))));
            assert_eq!(parsed, expected, "{line}");
            for end in 0..line.len() + 2 {
                assert!(!matches!(parse(&bytes.as_bytes()[..end]), Ok(Some(_))), "{line} cut at {end}");
            }
        };
        check("PROXY TCP4 192.0.2.1 192.0.2.2 56324 443", Ok(Some("192.0.2.1:56324")));
        check("PROXY TCP6 2001:db8::1 ::1 1 2", Ok(Some("[2001:db8::1]:1")));
        check("PROXY UNKNOWN", Ok(None));
        check("PROXY UNKNOWN ffff:: ffff:: 1 2", Ok(None));
        check("PROXY TCP4 2001:db8::1 ::1 1 2", Err(()));
        check("PROXY TCP4 192.0.2.1 192.0.2.2 99999 443", Err(()));
        check("PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3", Err(()));
        check("PROXY TCP4 192.0.2.1 192.0.2.2 +1 2", Err(()));
        check("GET / HTTP/1.1", Err(()));
    }

    #[test]
    fn version_2_headers_are_parsed_whole_or_not_at_all() {
        let header = |command: u8, family: u8, rest: &[u8]| {
            let mut bytes = SIGNATURE.to_vec();
            bytes.extend([command, family, (rest.len() >> 8) as u8, rest.len() as u8]);
            bytes.extend(rest);
            bytes
        };
        let v4 = header(0x21, 0x11, &[192, 0, 2, 1, 192, 0, 2, 2, 0, 80, 1, 187]);
        for end in 0..v4.len() {
            assert_eq!(parse(&v4[..end]), Ok(None), "cut at {end}");
        }
        assert_eq!(parse(&v4), Ok(Some((v4.len(), Some("192.0.2.1:80".parse().unwrap())))));
        assert_eq!(parse(&header(0x20, 0, &[])), Ok(Some((16, None))));
        assert!(parse(&header(0x21, 0x11, &[1, 2, 3])).is_err());
        assert!(parse(&header(0x31, 0x11, &[0; 12])).is_err());
        // Extensions are passed over, however long they are.
        let mut addresses = vec![0; usize::from(u16::MAX)];
        addresses[..12].copy_from_slice(&v4[16..]);
        let long = header(0x21, 0x11, &addresses);
        let source = Some("192.0.2.1:80".parse().unwrap());
        assert_eq!(parse(&long[..V2_FIXED_BYTES + V2_ADDRESS_BYTES_MAX]), Ok(Some((long.len(), source))));
        assert_eq!(parse(&long[..V2_FIXED_BYTES + V2_ADDRESS_BYTES_MAX - 1]), Ok(None));
    }
}
