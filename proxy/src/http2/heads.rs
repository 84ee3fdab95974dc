//! Heads from one version to the other.
//!
//! From HTTP/2, a head is written as HTTP/1.1 and judged like any other. To HTTP/2, a head that the proxy composed is taken
//! apart again. Fields that belong to a connection do not cross (RFC 9113 §8.2.2).

use std::io;
use std::mem::MaybeUninit;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use h2::ext::Protocol;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header, request};

use super::inbound::Shown;
use crate::http1::body::Body;
use crate::http1::chunked::ChunkDecoder;
use crate::http1::framing::Framing;
use crate::http1::write;

/// What a request is, as far as its answer is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ordinary,
    /// Its answer has no body.
    Head,
    /// An extended CONNECT (RFC 8441): once it is granted, bytes go both ways.
    Tunnel,
}

/// Appends a client's request head as HTTP/1.1.
///
/// # Errors
/// The request is malformed in a way that `h2` lets pass: no `:path`, a scheme that is not HTTP's (RFC 9113 §8.3.1), a
/// value that begins or ends with a space (§8.2.1), or a `:protocol` that is none (RFC 8441 §4).
pub(super) fn write_request(
    out: &mut Vec<u8>,
    request: &request::Parts,
    ended: bool,
    nonce: impl FnOnce() -> [u8; 16],
) -> Result<(Kind, Shown), ()> {
    let request::Parts { method, uri, headers, extensions, .. } = request;
    let protocol = extensions.get::<Protocol>();
    // `http` keeps no scheme where there is no authority.
    let is_http = |scheme| scheme == Some("http") || scheme == Some("https");
    if uri.authority().is_some() && !is_http(uri.scheme_str()) && (method != Method::CONNECT || protocol.is_some()) {
        return Err(());
    }
    if protocol.is_some_and(|protocol| !is_protocol(protocol.as_str())) {
        return Err(());
    }
    let kind = match method {
        _ if protocol.is_some() => Kind::Tunnel,
        &Method::HEAD => Kind::Head,
        _ => Kind::Ordinary,
    };
    // The first request of a WebSocket is a GET in HTTP/1.1.
    out.extend_from_slice(if kind == Kind::Tunnel { b"GET" } else { method.as_str().as_bytes() });
    out.push(b' ');
    match uri.path_and_query() {
        Some(target) => out.extend_from_slice(target.as_str().as_bytes()),
        None if method == Method::CONNECT => {
            out.extend_from_slice(uri.authority().map_or("", |authority| authority.as_str()).as_bytes());
        }
        None => return Err(()),
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    // A `Host` that says otherwise stays, and two of them are refused (RFC 9113 §8.3.1).
    if let Some(authority) = uri.authority() {
        write::field(out, b"host", authority.as_str().as_bytes());
    }
    let mut cookies = false;
    let mut length = false;
    for (name, value) in headers {
        if let [b' ' | b'\t', ..] | [.., b' ' | b'\t'] = value.as_bytes() {
            return Err(());
        }
        match *name {
            // An authority that is the same was written already.
            header::HOST if is_authority(uri, value) => continue,
            header::COOKIE => {
                cookies = true;
                continue;
            }
            // A tunnel has no body.
            header::CONTENT_LENGTH | header::SEC_WEBSOCKET_KEY if kind == Kind::Tunnel => continue,
            header::CONTENT_LENGTH => length = true,
            _ => {}
        }
        write::field(out, name.as_str().as_bytes(), value.as_bytes());
    }
    if cookies {
        // Crumbs are one field again (RFC 9113 §8.2.3).
        out.extend_from_slice(b"cookie: ");
        for (index, crumb) in headers.get_all(header::COOKIE).iter().enumerate() {
            if index > 0 {
                out.extend_from_slice(b"; ");
            }
            out.extend_from_slice(crumb.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
    let shown = match protocol {
        Some(protocol) => {
            // Names the offer, as a client of HTTP/1.1 would.
            out.extend_from_slice(b"connection: upgrade\r\n");
            write::field(out, b"upgrade", protocol.as_str().as_bytes());
            if protocol.as_str().eq_ignore_ascii_case("websocket") {
                // The key is HTTP/1.1's (RFC 8441 §5): this hop makes its own.
                write::field(out, b"sec-websocket-key", BASE64.encode(nonce()).as_bytes());
            }
            Shown::Bare
        }
        None if ended || length => Shown::Bare,
        None => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
            Shown::Chunked
        }
    };
    out.extend_from_slice(b"\r\n");
    Ok((kind, shown))
}

/// What may be upgraded to (RFC 9110 §7.8): a token, and perhaps a version. `h2` takes any text, which would be written into
/// a line of its own here.
fn is_protocol(text: &str) -> bool {
    // A method is a token, too.
    text.splitn(2, '/').all(|part| Method::from_bytes(part.as_bytes()).is_ok())
}

fn is_authority(uri: &Uri, host: &HeaderValue) -> bool {
    uri.authority().is_some_and(|authority| authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()))
}

/// Appends an endpoint's answer as HTTP/1.1. `ended`: no body follows.
pub(super) fn write_response(
    out: &mut Vec<u8>,
    status: StatusCode,
    headers: &HeaderMap,
    (kind, switch): (Kind, Option<&Switch>),
    ended: bool,
) -> Shown {
    let granted = switch.is_some() && status.is_success();
    out.extend_from_slice(b"HTTP/1.1 ");
    if granted {
        out.extend_from_slice(b"101 Switching Protocols\r\n");
    } else {
        out.extend_from_slice(status.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(status.canonical_reason().unwrap_or("").as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    for (name, value) in headers {
        if granted && matches!(*name, header::CONTENT_LENGTH | header::TRANSFER_ENCODING) {
            continue;
        }
        write::field(out, name.as_str().as_bytes(), value.as_bytes());
    }
    let shown = if granted || is_bodiless(kind, status) || headers.contains_key(header::CONTENT_LENGTH) {
        Shown::Bare
    } else if ended {
        out.extend_from_slice(b"content-length: 0\r\n");
        Shown::Bare
    } else {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        Shown::Chunked
    };
    if let Some(switch) = switch.filter(|_| granted) {
        out.extend_from_slice(b"connection: upgrade\r\n");
        write::field(out, b"upgrade", switch.protocol.as_bytes());
        if let Some(key) = &switch.key {
            write::field(out, b"sec-websocket-accept", accept_of(key.as_bytes()).as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
    shown
}

/// What of an upgrade HTTP/2 does not carry.
#[derive(Debug)]
pub(super) struct Switch {
    protocol: HeaderValue,
    /// Of a WebSocket.
    key: Option<HeaderValue>,
}

/// The proof that the key of a WebSocket was seen (RFC 6455 §4.2.2).
fn accept_of(key: &[u8]) -> String {
    let mut text = key.trim_ascii().to_vec();
    text.extend_from_slice(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &text);
    BASE64.encode(digest)
}

fn is_bodiless(kind: Kind, status: StatusCode) -> bool {
    kind == Kind::Head || status.is_informational() || matches!(status.as_u16(), 204 | 304)
}

/// A head that the proxy composed, taken apart for HTTP/2.
#[derive(Debug)]
pub(super) struct Taken<T> {
    pub(super) head: T,
    /// The body that follows.
    pub(super) body: Body,
    /// Bytes of the head, the blank line included.
    pub(super) length: usize,
}

/// Takes apart the answer at the start of `bytes`, to a request of this kind.
pub(super) fn response(bytes: &[u8], kind: Kind) -> io::Result<Taken<Response<()>>> {
    let mut room = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut heap;
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let length = match config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut room) {
        Err(httparse::Error::TooManyHeaders) => {
            heap = vec![MaybeUninit::uninit(); FIELDS_ON_HEAP_MAX];
            parsed = httparse::Response::new(&mut []);
            complete(config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut heap))?
        }
        other => complete(other)?,
    };
    let status = StatusCode::from_u16(parsed.code.unwrap_or_default()).map_err(|_| not_a_head())?;
    let Fields { mut headers, framing, .. } = Fields::take(bytes, length, parsed.headers)?;
    let granted = kind == Kind::Tunnel && status == StatusCode::SWITCHING_PROTOCOLS;
    let body = match framing {
        _ if granted => Body::UntilClose,
        _ if is_bodiless(kind, status) => Body::Done,
        framing => Body::expected(framing),
    };
    if body.is_done() && is_grpc(&headers) {
        // The trailers of an answer without messages are its head.
        headers.remove(header::CONTENT_LENGTH);
    }
    let mut head = Response::new(());
    *head.status_mut() = match kind {
        Kind::Tunnel if granted => StatusCode::OK,
        // Success would say that there is a tunnel (RFC 8441 §4).
        Kind::Tunnel if status.is_success() => StatusCode::BAD_GATEWAY,
        _ => status,
    };
    if granted {
        headers.remove(header::SEC_WEBSOCKET_ACCEPT);
    }
    *head.headers_mut() = headers;
    Ok(Taken { head, body, length })
}

/// Takes apart the request at the start of `bytes`, for an endpoint that is spoken to in this scheme.
pub(super) fn request(bytes: &[u8], scheme: &str) -> io::Result<(Taken<Request<()>>, Kind, Option<Switch>)> {
    let mut room = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut heap;
    let mut parsed = httparse::Request::new(&mut []);
    let length = match parsed.parse_with_uninit_headers(bytes, &mut room) {
        Err(httparse::Error::TooManyHeaders) => {
            heap = vec![MaybeUninit::uninit(); FIELDS_ON_HEAP_MAX];
            parsed = httparse::Request::new(&mut []);
            complete(parsed.parse_with_uninit_headers(bytes, &mut heap))?
        }
        other => complete(other)?,
    };
    let mut method = Method::from_bytes(parsed.method.unwrap_or_default().as_bytes()).map_err(|_| not_a_head())?;
    let target = parsed.path.unwrap_or("/");
    let Fields { mut headers, framing, host, upgrade } = Fields::take(bytes, length, parsed.headers)?;
    let mut uri = Uri::builder().scheme(scheme).path_and_query(target);
    if let Some(host) = host {
        uri = uri.authority(host.as_bytes());
    }
    let mut kind = if method == Method::HEAD { Kind::Head } else { Kind::Ordinary };
    let mut body = Body::expected(framing);
    let mut switch = None;
    if let Some(protocol) = upgrade {
        kind = Kind::Tunnel;
        method = Method::CONNECT;
        body = Body::UntilClose;
        switch = Some(Switch { protocol, key: headers.remove(header::SEC_WEBSOCKET_KEY) });
    }
    let uri = uri.build().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let mut head = Request::new(());
    (*head.method_mut(), *head.uri_mut()) = (method, uri);
    *head.headers_mut() = headers;
    if let Some(switch) = &switch {
        let protocol = switch.protocol.to_str().map_err(|_| not_a_head())?;
        head.extensions_mut().insert(Protocol::from(protocol));
    }
    Ok((Taken { head, body, length }, kind, switch))
}

/// The trailers of a chunked body, if there are any.
pub(super) fn trailers(decoder: &ChunkDecoder) -> io::Result<Option<HeaderMap>> {
    let mut lines = Vec::new();
    decoder.write_trailers(&mut lines).map_err(|rule| io::Error::new(io::ErrorKind::InvalidData, rule))?;
    if lines.is_empty() {
        return Ok(None);
    }
    lines.extend_from_slice(b"\r\n");
    let mut room = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let Ok(httparse::Status::Complete((length, parsed))) = httparse::parse_headers(&lines, &mut room) else {
        return Err(not_a_head());
    };
    Ok(Some(Fields::take(&lines, length, parsed)?.headers))
}

/// The field lines of a head without what belongs to the connection, and what that said.
struct Fields {
    headers: HeaderMap,
    framing: Framing,
    host: Option<HeaderValue>,
    upgrade: Option<HeaderValue>,
}

impl Fields {
    fn take(bytes: &[u8], length: usize, lines: &[httparse::Header<'_>]) -> io::Result<Self> {
        // All values share one copy.
        let shared = Bytes::copy_from_slice(&bytes[..length]);
        let mut found =
            Self { headers: HeaderMap::with_capacity(lines.len()), framing: Framing::Empty, host: None, upgrade: None };
        for line in lines {
            let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| not_a_head())?;
            let value = if line.value.is_empty() {
                Bytes::new()
            } else {
                shared.slice_ref(shared_part(&shared, bytes, line.value))
            };
            let value = HeaderValue::from_maybe_shared(value).map_err(|_| not_a_head())?;
            match name {
                header::HOST => found.host = Some(value),
                header::UPGRADE => found.upgrade = Some(value),
                header::TRANSFER_ENCODING => found.framing = Framing::Chunked,
                header::CONNECTION => {}
                header::CONTENT_LENGTH => {
                    let length = value.to_str().ok().and_then(|value| value.parse().ok()).ok_or_else(not_a_head)?;
                    found.framing = if length == 0 { Framing::Empty } else { Framing::Length(length) };
                    found.headers.append(name, value);
                }
                _ if matches!(name.as_str(), "keep-alive" | "proxy-connection") => {}
                _ => {
                    found.headers.append(name, value);
                }
            }
        }
        Ok(found)
    }
}

/// Where `part` of `bytes` lies in the copy.
fn shared_part<'a>(shared: &'a Bytes, bytes: &[u8], part: &[u8]) -> &'a [u8] {
    let start = part.as_ptr() as usize - bytes.as_ptr() as usize;
    &shared[start..start + part.len()]
}

/// Whether the content is gRPC.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| crate::http1::field::is_grpc(value.as_bytes()))
}

fn complete(parsed: Result<httparse::Status<usize>, httparse::Error>) -> io::Result<usize> {
    match parsed {
        Ok(httparse::Status::Complete(length)) => Ok(length),
        Ok(httparse::Status::Partial) | Err(_) => Err(not_a_head()),
    }
}

fn not_a_head() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "head cannot be sent in http/2")
}

/// Room for fields on the stack; heads with more get a vector.
const FIELDS_MAX: usize = 100;
const FIELDS_ON_HEAP_MAX: usize = crate::http1::field::FIELDS_MAX + 100;
