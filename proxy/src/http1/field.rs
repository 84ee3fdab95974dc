//! Header fields as spans over the bytes that were read, with the names that the proxy acts on already recognised.

use std::mem::MaybeUninit;

use sealane_model::decide::HeaderView;

/// Where some bytes lie in the buffer that was parsed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// The span of `part`, which lies in the buffer that starts at address `base`.
    fn of(part: &[u8], base: usize) -> Self {
        let start = (part.as_ptr() as usize).wrapping_sub(base) as u32;
        Self { start, end: start.wrapping_add(part.len() as u32) }
    }

    /// The bytes, in the buffer that was parsed.
    #[must_use]
    pub fn of_bytes(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.end as usize]
    }
}

/// A field line.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The name as sent.
    pub name: Span,
    /// The value without surrounding whitespace.
    pub value: Span,
    /// What the proxy knows of the name.
    pub known: Known,
}

/// Field names that the proxy acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Known {
    /// Forwarded as it is.
    Other,
    /// Taken out: named by `Connection`, or removed by the route.
    Dropped,
    /// `Host`
    Host,
    /// `Connection`
    Connection,
    /// `Keep-Alive`
    KeepAlive,
    /// `Proxy-Connection`
    ProxyConnection,
    /// `Proxy-Authorization`
    ProxyAuthorization,
    /// `Proxy-Authenticate`
    ProxyAuthenticate,
    /// `HTTP2-Settings`
    Http2Settings,
    /// `TE`
    Te,
    /// `Upgrade`
    Upgrade,
    /// `Content-Length`
    ContentLength,
    /// `Transfer-Encoding`
    TransferEncoding,
    /// `Trailer`
    Trailer,
    /// `Expect`
    Expect,
    /// `Date`
    Date,
    /// `X-Forwarded-For`
    XForwardedFor,
    /// `X-Forwarded-Proto`
    XForwardedProto,
    /// `X-Forwarded-Host`
    XForwardedHost,
    /// `X-Real-IP`
    XRealIp,
    /// `Forwarded`
    Forwarded,
    /// `Via`
    Via,
    /// `Max-Forwards`
    MaxForwards,
    /// `X-Request-Id`
    XRequestId,
    /// `traceparent`
    Traceparent,
    /// `tracestate`
    Tracestate,
    /// `X-Sandbox-ID`
    XSandboxId,
    /// `X-ALB-Sandbox`
    XAlbSandbox,
    /// `X-ALB-Route-ID`
    XAlbRouteId,
    /// `User-Agent`
    UserAgent,
    /// `Referer`
    Referer,
    /// `Content-Type`
    ContentType,
}

/// Which names may be among some fields: says no without looking at each of them. Never no for one that is there.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NameHints(u64);

impl NameHints {
    pub(crate) fn add(&mut self, name: &[u8]) {
        self.0 |= Self::bit(name);
    }

    /// Whether a field of this name, in any case, may be there.
    pub(crate) fn may_have(self, name: &[u8]) -> bool {
        self.0 & Self::bit(name) != 0
    }

    fn bit(name: &[u8]) -> u64 {
        let [first, .., last] = name else { return 1 };
        let mixed = u32::from(first | 0x20) ^ (u32::from(last | 0x20) << 2) ^ (name.len() as u32).wrapping_mul(11);
        1 << (mixed & 63)
    }
}

impl Known {
    /// Recognises a name (a token) in any case.
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        let Some(first) = name.first() else { return Self::Other };
        // One comparison for nearly every name.
        match (name.len(), first | 0x20) {
            (2, b't') if is(name, b"te") => Self::Te,
            (3, b'v') if is(name, b"via") => Self::Via,
            (4, b'h') if is(name, b"host") => Self::Host,
            (4, b'd') if is(name, b"date") => Self::Date,
            (6, b'e') if is(name, b"expect") => Self::Expect,
            (7, b'u') if is(name, b"upgrade") => Self::Upgrade,
            (7, b'r') if is(name, b"referer") => Self::Referer,
            (7, b't') if is(name, b"trailer") => Self::Trailer,
            (9, b'x') if is(name, b"x-real-ip") => Self::XRealIp,
            (9, b'f') if is(name, b"forwarded") => Self::Forwarded,
            (10, b'c') if is(name, b"connection") => Self::Connection,
            (10, b't') if is(name, b"tracestate") => Self::Tracestate,
            (10, b'u') if is(name, b"user-agent") => Self::UserAgent,
            (10, b'k') if is(name, b"keep-alive") => Self::KeepAlive,
            (11, b't') if is(name, b"traceparent") => Self::Traceparent,
            (12, b'm') if is(name, b"max-forwards") => Self::MaxForwards,
            (12, b'x') if is(name, b"x-request-id") => Self::XRequestId,
            (12, b'x') if is(name, b"x-sandbox-id") => Self::XSandboxId,
            (12, b'c') if is(name, b"content-type") => Self::ContentType,
            (13, b'x') if is(name, b"x-alb-sandbox") => Self::XAlbSandbox,
            (14, b'c') if is(name, b"content-length") => Self::ContentLength,
            (14, b'h') if is(name, b"http2-settings") => Self::Http2Settings,
            (14, b'x') if is(name, b"x-alb-route-id") => Self::XAlbRouteId,
            (15, b'x') if is(name, b"x-forwarded-for") => Self::XForwardedFor,
            (16, b'x') if is(name, b"x-forwarded-host") => Self::XForwardedHost,
            (16, b'p') if is(name, b"proxy-connection") => Self::ProxyConnection,
            (17, b't') if is(name, b"transfer-encoding") => Self::TransferEncoding,
            (17, b'x') if is(name, b"x-forwarded-proto") => Self::XForwardedProto,
            (18, b'p') if is(name, b"proxy-authenticate") => Self::ProxyAuthenticate,
            (19, b'p') if is(name, b"proxy-authorization") => Self::ProxyAuthorization,
            _ => Self::Other,
        }
    }
}

/// Whether a token is `text` (lower-case letters, digits and hyphens) in any case. The bit that tells upper from lower
/// case turns no other byte of a token into one of those. The length is known, so this is a few wide instructions.
fn is<const N: usize>(name: &[u8], text: &[u8; N]) -> bool {
    <[u8; N]>::try_from(name).is_ok_and(|name| name.map(|byte| byte | 0x20) == *text)
}

/// A set of [`Known`] names.
#[derive(Clone, Copy, Debug, Default)]
pub struct KnownSet(u64);

impl KnownSet {
    /// The names that belong to one hop and never pass, in either direction (RFC 9110 §7.6.1), with those that the
    /// proxy writes itself: framing and `Connection`.
    pub const HOP_BY_HOP: Self = Self::of(&[
        Known::Dropped,
        Known::Connection,
        Known::KeepAlive,
        Known::ProxyConnection,
        Known::ProxyAuthorization,
        Known::ProxyAuthenticate,
        Known::Http2Settings,
        Known::Te,
        Known::Upgrade,
        Known::ContentLength,
        Known::TransferEncoding,
    ]);

    /// The set of these names.
    #[must_use]
    pub const fn of(names: &[Known]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < names.len() {
            bits |= 1 << names[index] as u8;
            index += 1;
        }
        Self(bits)
    }

    /// Both sets together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether `name` is in the set.
    #[must_use]
    pub const fn contains(self, name: Known) -> bool {
        self.0 & (1 << name as u8) != 0
    }
}

/// The field lines of one head, in order. Kept per thread and filled anew for each head.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    lines: Vec<Field>,
    /// The names that were found, so that asking for one that is not there costs nothing.
    found: KnownSet,
}

impl Fields {
    /// The lines in order.
    #[must_use]
    pub fn lines(&self) -> &[Field] {
        &self.lines
    }

    /// Whether a line had one of these names when the head was parsed; it may have been taken out since.
    #[must_use]
    pub(crate) const fn had_any(&self, names: KnownSet) -> bool {
        self.found.0 & names.0 != 0
    }

    /// The first line with this name.
    #[must_use]
    pub fn first(&self, known: Known) -> Option<&Field> {
        if !self.found.contains(known) {
            return None;
        }
        self.lines.iter().find(|field| field.known == known)
    }

    /// Takes out every line for which `test` holds for the name.
    pub fn drop_where(&mut self, bytes: &[u8], mut test: impl FnMut(&[u8]) -> bool) {
        self.found.0 |= 1 << Known::Dropped as u8;
        for field in &mut self.lines {
            if !matches!(field.known, Known::Host | Known::ContentLength | Known::TransferEncoding)
                && test(field.name.of_bytes(bytes))
            {
                field.known = Known::Dropped;
            }
        }
    }

    /// Fills the table from what `httparse` found in `bytes`.
    pub(super) fn fill(&mut self, bytes: &[u8], headers: &[httparse::Header<'_>]) {
        let base = bytes.as_ptr() as usize;
        let mut found = 0;
        self.lines.clear();
        self.lines.extend(headers.iter().map(|header| {
            let known = Known::of(header.name.as_bytes());
            found |= 1 << known as u8;
            Field { name: Span::of(header.name.as_bytes(), base), value: Span::of(header.value, base), known }
        }));
        self.found = KnownSet(found);
    }

    /// Whether every line of a head that ends at `head_end` ends in CRLF. `httparse` also takes a bare LF.
    pub(super) fn lines_end_in_crlf(&self, bytes: &[u8], head_end: usize) -> bool {
        let crlf_before = |position: usize| position >= 2 && bytes[position - 2] == b'\r';
        self.lines.iter().all(|field| crlf_before(field.name.start as usize))
            && crlf_before(head_end)
            && crlf_before(head_end - 2)
    }
}

/// The lines of a head as decisions look at them.
#[derive(Debug)]
pub struct FieldView<'a> {
    /// The buffer that was parsed.
    pub bytes: &'a [u8],
    /// Its lines.
    pub fields: &'a Fields,
}

impl HeaderView for FieldView<'_> {
    fn any_value(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.fields.lines().iter().any(|field| {
            field.name.of_bytes(self.bytes).eq_ignore_ascii_case(name.as_bytes())
                && test(field.value.of_bytes(self.bytes))
        })
    }
}

/// Room for `httparse` on the stack; heads with more fields get a vector.
pub(super) const FIELDS_ON_STACK: usize = 100;
/// Above what any configuration may ask for, so that the vector stays bounded.
pub(crate) const FIELDS_MAX: usize = 10_000;

/// Uninitialised room on the stack.
pub(super) const fn stack_room<'a>() -> [MaybeUninit<httparse::Header<'a>>; FIELDS_ON_STACK] {
    [const { MaybeUninit::uninit() }; FIELDS_ON_STACK]
}

/// Uninitialised room for one field more than `fields_max`.
pub(super) fn heap_room<'a>(fields_max: usize) -> Vec<MaybeUninit<httparse::Header<'a>>> {
    vec![MaybeUninit::uninit(); fields_max.min(FIELDS_MAX) + 1]
}

/// Whether a `Content-Type` is that of gRPC: `application/grpc`, alone or with a subtype or parameters.
#[must_use]
pub fn is_grpc(content_type: &[u8]) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    content_type.get(..GRPC.len()).is_some_and(|start| start.eq_ignore_ascii_case(GRPC))
        && matches!(content_type.get(GRPC.len()), None | Some(b'+' | b';' | b' '))
}

/// The members of a comma-separated list, trimmed, without empty ones (RFC 9110 §5.6.1).
pub fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}
