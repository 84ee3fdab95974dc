//! Parses and judges the head of a request.
//!
//! Input: bytes as they came from a client. Output: a [`RequestHead`] that is safe to act on, or the reason for refusing
//! it. A head that passes has exactly one reading; see [`super::framing`] for what that takes.

use std::mem::MaybeUninit;

use sealane_model::config::Underscores;

use super::field::{FIELDS_ON_STACK, Fields, Known, heap_room, is_grpc, members, stack_room};
use super::framing::{ConnectionOptions, Framing, FramingFields, Version};

/// Bounds on a request head.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadLimits {
    /// Bytes of the head without the request line.
    pub header_bytes_max: usize,
    /// Field lines.
    pub fields_max: usize,
    /// Bytes of the request target.
    pub target_bytes_max: usize,
    /// What becomes of names with underscores.
    pub underscores: Underscores,
}

/// A request head that passed every check.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'b> {
    /// As sent.
    pub method: &'b str,
    /// Starts with `/`, or is `*`.
    pub path: &'b str,
    /// Without `?`.
    pub query: Option<&'b str>,
    /// Host and port, from the target if that is in absolute form, else from `Host`. Empty only in HTTP/1.0.
    pub authority: &'b str,
    /// As sent.
    pub version: Version,
    /// Never [`Framing::UntilClose`].
    pub framing: Framing,
    /// The client wants to go on using the connection.
    pub keep_alive: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// A well-formed request to change protocols (RFC 9110 §7.8), other than to HTTP/2.
    pub upgrade: bool,
    /// The client takes trailers.
    pub accepts_trailers: bool,
    /// The content is gRPC.
    pub grpc: bool,
    /// Bytes of the head, the blank line included.
    pub length: usize,
}

/// Why a request head was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestFault {
    /// 400, with the rule that it breaks.
    Malformed(&'static str),
    /// 414
    TargetTooLong,
    /// 431
    HeadersTooLarge,
}

impl<'b> RequestHead<'b> {
    /// Parses the head at the start of `bytes` and fills `fields`; `None`: it is not complete yet.
    ///
    /// # Errors
    /// The first rule that the head breaks. The connection must not be used further.
    pub fn parse(bytes: &'b [u8], limits: &HeadLimits, fields: &mut Fields) -> Result<Option<Self>, RequestFault> {
        let line = match RequestLine::parse(bytes, &mut stack_room(), fields) {
            Err(httparse::Error::TooManyHeaders) if limits.fields_max >= FIELDS_ON_STACK => {
                RequestLine::parse(bytes, &mut heap_room(limits.fields_max), fields)
            }
            line => line,
        };
        match line {
            Ok(Some(line)) => Self::judge(bytes, line, limits, fields).map(Some),
            Ok(None) => bounded(bytes, limits).map(|()| None),
            Err(httparse::Error::TooManyHeaders) => Err(RequestFault::HeadersTooLarge),
            Err(error) => {
                bounded(bytes, limits)?;
                Err(RequestFault::Malformed(reason(error)))
            }
        }
    }

    /// The host without port, an IPv6 literal without brackets: what routes are matched against.
    #[must_use]
    pub fn host(&self) -> &'b str {
        host_of(self.authority)
    }

    fn judge(
        bytes: &'b [u8],
        line: RequestLine<'b>,
        limits: &HeadLimits,
        fields: &mut Fields,
    ) -> Result<Self, RequestFault> {
        let RequestLine { method, target, version, length } = line;
        if target.len() > limits.target_bytes_max {
            return Err(RequestFault::TargetTooLong);
        }
        if method.len() > METHOD_BYTES_MAX {
            return Err(RequestFault::Malformed("method too long"));
        }
        let head_start = fields.lines().first().map_or(length - 2, |field| field.name.start as usize);
        if fields.lines().len() > limits.fields_max || length - head_start > limits.header_bytes_max {
            return Err(RequestFault::HeadersTooLarge);
        }
        if !fields.lines_end_in_crlf(bytes, length) {
            return Err(RequestFault::Malformed("line does not end in crlf"));
        }
        let has_underscore = |name: &[u8]| memchr::memchr(b'_', name).is_some();
        match limits.underscores {
            Underscores::Keep => {}
            Underscores::Drop => fields.drop_where(bytes, has_underscore),
            Underscores::Refuse if fields.lines().iter().any(|line| has_underscore(line.name.of_bytes(bytes))) => {
                return Err(RequestFault::Malformed("underscore in a header name"));
            }
            Underscores::Refuse => {}
        }
        let (path, query, target_authority) = split_target(method, target).map_err(RequestFault::Malformed)?;
        let host = host_field(bytes, fields, version).map_err(RequestFault::Malformed)?;
        let framing = FramingFields::read(bytes, fields, version).map_err(RequestFault::Malformed)?;
        let options = ConnectionOptions::read(bytes, fields).map_err(RequestFault::Malformed)?;
        let framing = match framing {
            FramingFields { chunked: true, .. } => Framing::Chunked,
            FramingFields { content_length: Some(length @ 1..), .. } => Framing::Length(length),
            FramingFields { .. } => Framing::Empty,
        };
        let http11 = version == Version::Http11;
        let value_is = |known, test: &dyn Fn(&[u8]) -> bool| {
            fields.first(known).is_some_and(|field| test(field.value.of_bytes(bytes)))
        };
        Ok(Self {
            method,
            path,
            query,
            authority: target_authority.unwrap_or(host),
            version,
            framing,
            keep_alive: options.persists(version),
            expects_continue: http11
                && framing != Framing::Empty
                && value_is(Known::Expect, &|value| value.eq_ignore_ascii_case(b"100-continue")),
            upgrade: http11
                && options.upgrade
                && method == "GET"
                && framing == Framing::Empty
                && value_is(Known::Upgrade, &may_upgrade_to),
            accepts_trailers: http11
                && value_is(Known::Te, &|value| members(value).any(|member| member.eq_ignore_ascii_case(b"trailers"))),
            grpc: method == "POST" && value_is(Known::ContentType, &is_grpc),
            length,
        })
    }
}

/// The request line as `httparse` sees it.
struct RequestLine<'b> {
    method: &'b str,
    target: &'b str,
    version: Version,
    length: usize,
}

impl<'b> RequestLine<'b> {
    fn parse(
        bytes: &'b [u8],
        room: &mut [MaybeUninit<httparse::Header<'b>>],
        fields: &mut Fields,
    ) -> Result<Option<Self>, httparse::Error> {
        let mut request = httparse::Request::new(&mut []);
        let httparse::Status::Complete(length) = request.parse_with_uninit_headers(bytes, room)? else {
            return Ok(None);
        };
        fields.fill(bytes, request.headers);
        Ok(Some(Self {
            method: request.method.unwrap_or_default(),
            target: request.path.unwrap_or_default(),
            version: if request.version == Some(0) { Version::Http10 } else { Version::Http11 },
            length,
        }))
    }
}

/// Of a method: registered ones have up to 17.
const METHOD_BYTES_MAX: usize = 40;

/// Whether a head that is not complete may still fit.
fn bounded(bytes: &[u8], limits: &HeadLimits) -> Result<(), RequestFault> {
    /// Method, version and spaces.
    const LINE_REST_MAX: usize = 64;
    if bytes.len() <= limits.header_bytes_max.min(limits.target_bytes_max) {
        return Ok(());
    }
    match memchr::memchr(b'\n', bytes.get(2..).unwrap_or_default()) {
        None if bytes.len() > limits.target_bytes_max + LINE_REST_MAX => Err(RequestFault::TargetTooLong),
        Some(line_end) if line_end > limits.target_bytes_max + LINE_REST_MAX => Err(RequestFault::TargetTooLong),
        Some(line_end) if bytes.len() - line_end > limits.header_bytes_max => Err(RequestFault::HeadersTooLarge),
        _ => Ok(()),
    }
}

fn reason(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "invalid header name",
        httparse::Error::HeaderValue => "invalid header value",
        httparse::Error::NewLine => "invalid line ending",
        httparse::Error::Token => "invalid request line",
        httparse::Error::Version => "unsupported http version",
        httparse::Error::Status | httparse::Error::TooManyHeaders => "invalid request head",
    }
}

/// Path, query and, in absolute form, authority.
type Target<'b> = (&'b str, Option<&'b str>, Option<&'b str>);

/// Splits a request target (RFC 9112 §3.2).
fn split_target<'b>(method: &str, target: &'b str) -> Result<Target<'b>, &'static str> {
    if memchr::memchr(b'#', target.as_bytes()).is_some() {
        return Err("fragment in the request target");
    }
    if target == "*" && method == "OPTIONS" {
        return Ok((target, None, None));
    }
    if method == "CONNECT" {
        return Err("connect is not served");
    }
    if target.starts_with('/') {
        let (path, query) = split_query(target);
        return Ok((path, query, None));
    }
    let (scheme, rest) = target.split_once("://").ok_or("invalid request target")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err("invalid scheme in the request target");
    }
    let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if !is_authority(authority) {
        return Err("invalid authority in the request target");
    }
    let (path, query) = split_query(rest);
    Ok((if path.is_empty() { "/" } else { path }, query, Some(authority)))
}

fn split_query(target: &str) -> (&str, Option<&str>) {
    match memchr::memchr(b'?', target.as_bytes()) {
        Some(at) => (&target[..at], Some(&target[at + 1..])),
        None => (target, None),
    }
}

/// The value of `Host` (RFC 9112 §3.2): exactly one in HTTP/1.1, at most one in HTTP/1.0.
fn host_field<'b>(bytes: &'b [u8], fields: &Fields, version: Version) -> Result<&'b str, &'static str> {
    let mut hosts = fields.lines().iter().filter(|field| field.known == Known::Host);
    let Some(host) = hosts.next() else {
        return if version == Version::Http10 { Ok("") } else { Err("missing host") };
    };
    if hosts.next().is_some() {
        return Err("several host fields");
    }
    let host = std::str::from_utf8(host.value.of_bytes(bytes)).map_err(|_| "invalid host")?;
    if is_authority(host) { Ok(host) } else { Err("invalid host") }
}

/// `uri-host [ ":" port ]` (RFC 3986 §3.2), never empty, without user information and without commas, which lists of
/// hosts would hide behind.
#[must_use]
pub fn is_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((literal, "")) => (literal, ""),
            Some((literal, rest)) => match rest.strip_prefix(':') {
                Some(port) => (literal, port),
                None => return false,
            },
            None => return false,
        },
        None => split_port(text),
    };
    let allowed = if text.starts_with('[') { is_in_literal } else { is_in_host };
    !host.is_empty() && host.bytes().all(allowed) && is_port(port)
}

/// Digits of a 16-bit number, or nothing (RFC 3986 §3.2.3).
fn is_port(text: &str) -> bool {
    text.is_empty()
        || (text.bytes().all(|byte| byte.is_ascii_digit()) && text.len() <= 5 && text.parse::<u16>().is_ok())
}

const fn is_in_host(byte: u8) -> bool {
    /// By byte.
    const ALLOWED: [bool; 256] = {
        let mut allowed = [false; 256];
        let mut byte = 0u8;
        while byte < 128 {
            allowed[byte as usize] = byte.is_ascii_alphanumeric()
                || matches!(
                    byte,
                    b'-' | b'.'
                        | b'_'
                        | b'~'
                        | b'%'
                        | b'!'
                        | b'$'
                        | b'&'
                        | b'\''
                        | b'('
                        | b')'
                        | b'*'
                        | b'+'
                        | b';'
                        | b'='
                );
            byte += 1;
        }
        allowed
    };
    ALLOWED[byte as usize]
}

const fn is_in_literal(byte: u8) -> bool {
    byte == b':' || is_in_host(byte)
}

fn split_port(authority: &str) -> (&str, &str) {
    match memchr::memchr(b':', authority.as_bytes()) {
        Some(at) => (&authority[..at], &authority[at + 1..]),
        None => (authority, ""),
    }
}

/// The host of an authority, without port and brackets.
#[must_use]
pub fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => split_port(authority).0,
    }
}

/// HTTP and TLS are not switched to inside a connection: an upgrade to `h2c` would carry requests past the proxy.
fn may_upgrade_to(value: &[u8]) -> bool {
    let mut protocols = members(value).peekable();
    protocols.peek().is_some()
        && protocols.all(|protocol| {
            let name = protocol.split(|&byte| byte == b'/').next().unwrap_or(protocol);
            ![&b"h2c"[..], b"h2", b"http", b"tls"].iter().any(|taken| name.eq_ignore_ascii_case(taken))
        })
}
