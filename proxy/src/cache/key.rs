//! What a stored answer is found by: scheme, host and the target as it was sent, then whatever else keeps answers apart.
//!
//! Every part carries its length, so no value can pass for another part. The first three alone name the resource, for
//! invalidation and purges.

use std::ops::Range;

use sealane_model::decide::HeaderView;
use sha2::{Digest as _, Sha256};

use super::vary::normalised;

/// Fields that servers take for a part of the target, or for the method, though nothing says so: a request that carries
/// one only ever gets what was stored for requests that carried the same.
const TAKEN_FOR_TARGET: [&str; 32] = [
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-scheme",
    "x-forwarded-port",
    "x-forwarded-server",
    "x-forwarded-prefix",
    "x-forwarded-path",
    "x-forwarded-uri",
    "x-forwarded-ssl",
    "x-forwarded-by",
    "x-forwarded",
    "x-host",
    "x-http-host-override",
    "x-original-url",
    "x-original-host",
    "x-original-uri",
    "x-rewrite-url",
    "x-scheme",
    "x-url-scheme",
    "front-end-https",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "forwarded",
    // Servers behind CGI, WSGI and the like cannot tell these from those with hyphens, and nobody rewrites them.
    "x_forwarded_host",
    "x_forwarded_proto",
    "x_forwarded_scheme",
    "x_forwarded_port",
    "x_host",
    "x_original_url",
    "x_rewrite_url",
    "x_http_method_override",
];

/// How all of them begin, in lower case.
pub(super) const TAKEN_INITIALS: [u8; 2] = [b'x', b'f'];

/// A key, and where the part of it ends that names the resource.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyRef<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) uri_end: usize,
}

impl<'a> KeyRef<'a> {
    /// The part that names the resource.
    pub(crate) fn uri(self) -> &'a [u8] {
        &self.bytes[..self.uri_end]
    }
}

/// What a key is made of.
#[derive(Debug)]
pub(crate) struct Parts<'a, H> {
    /// What the endpoint is told.
    pub(crate) https: bool,
    /// Host and port as sent.
    pub(crate) authority: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    /// Of the rule and of what it was compiled with; differs when stored answers must not be used any more.
    pub(crate) fingerprint: u64,
    /// Of what else decides who answers, such as the pool.
    pub(crate) variant: u64,
    /// By credentials.
    pub(crate) auth_aware: bool,
    /// Of the rule, in lower case.
    pub(crate) vary: &'a [String],
    /// The peer is trusted: what it says of earlier hops reaches the endpoint.
    pub(crate) trusted_peer: bool,
    /// A field's name begins with one of [`TAKEN_INITIALS`].
    pub(crate) may_be_taken: bool,
    pub(crate) headers: &'a H,
}

impl<H: HeaderView> Parts<'_, H> {
    /// Appends the key to `out`, which is empty. Where the part that names the resource ends.
    pub(crate) fn write(&self, out: &mut Vec<u8>) -> usize {
        write_uri(out, self.https, self.authority, self.path, self.query);
        let uri_end = out.len();
        out.extend_from_slice(&self.fingerprint.to_le_bytes());
        out.extend_from_slice(&self.variant.to_le_bytes());
        let partition = if self.auth_aware { credentials(self.headers) } else { None };
        match partition {
            Some(digest) => part(out, &digest),
            None => part(out, b""),
        }
        for name in self.vary {
            field(out, self.headers, name);
        }
        for name in TAKEN_FOR_TARGET.into_iter().filter(|_| self.may_be_taken) {
            // The proxy writes these itself for peers that it does not trust.
            let rewritten = matches!(name, "x-forwarded-host" | "x-forwarded-proto" | "forwarded");
            if (!rewritten || self.trusted_peer) && self.headers.any_value(name, &mut |_| true) {
                part(out, name.as_bytes());
                field(out, self.headers, name);
            }
        }
        uri_end
    }
}

/// Appends the part that names a resource.
pub(crate) fn write_uri(out: &mut Vec<u8>, https: bool, authority: &str, path: &str, query: Option<&str>) {
    out.push(u8::from(https));
    let default_port = if https { ":443" } else { ":80" };
    let authority = authority.strip_suffix(default_port).unwrap_or(authority);
    let authority = authority.strip_suffix(':').unwrap_or(authority);
    length(out, authority.len());
    out.extend(authority.bytes().map(|byte| byte.to_ascii_lowercase()));
    length(out, path.len() + query.map_or(0, |query| query.len() + 1));
    out.extend_from_slice(path.as_bytes());
    if let Some(query) = query {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
}

/// Whether the request carries credentials.
pub(crate) fn has_credentials(headers: &impl HeaderView) -> bool {
    headers.any_value("authorization", &mut |_| true) || headers.any_value("cookie", &mut |_| true)
}

/// A digest of the credentials; they themselves are not kept.
fn credentials(headers: &impl HeaderView) -> Option<[u8; 32]> {
    let mut digest = Sha256::new();
    let mut any = false;
    for name in ["authorization", "cookie"] {
        headers.any_value(name, &mut |value| {
            any = true;
            digest.update([name.len() as u8]);
            digest.update((value.len() as u64).to_le_bytes());
            digest.update(value);
            false
        });
    }
    any.then(|| digest.finalize().into())
}

fn field(out: &mut Vec<u8>, headers: &impl HeaderView, name: &str) {
    let at = out.len();
    out.extend_from_slice(&[0; 5]);
    let there = normalised(headers, name, out);
    let length = (out.len() - at - 5) as u32;
    out[at] = u8::from(there);
    out[at + 1..at + 5].copy_from_slice(&length.to_le_bytes());
}

fn part(out: &mut Vec<u8>, bytes: &[u8]) {
    length(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&(length as u32).to_le_bytes());
}

/// The resource that a key names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resource<'a> {
    pub(crate) https: bool,
    /// In lower case, without the scheme's default port.
    pub(crate) authority: &'a [u8],
    pub(crate) target: &'a [u8],
    pub(crate) fingerprint: u64,
}

impl<'a> Resource<'a> {
    /// Reads the start of a key that [`Parts::write`] made.
    pub(crate) fn of(key: &'a [u8]) -> Option<Self> {
        let (scheme, rest) = key.split_first()?;
        let (authority, rest) = take(rest)?;
        let (target, rest) = take(rest)?;
        let fingerprint = u64::from_le_bytes(rest.get(..8)?.try_into().ok()?);
        Some(Self { https: *scheme == 1, authority, target, fingerprint })
    }

    /// The host, without port.
    pub(crate) fn host(&self) -> &'a [u8] {
        let authority = self.authority;
        let range: Range<usize> = match authority.strip_prefix(b"[") {
            Some(rest) => 1..1 + memchr::memchr(b']', rest).unwrap_or(rest.len()),
            None => 0..memchr::memchr(b':', authority).unwrap_or(authority.len()),
        };
        &authority[range]
    }
}

fn take(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_at_checked(4)?;
    let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::tests::Lines;

    fn parts<'a>(headers: &'a Lines<'a>) -> Parts<'a, Lines<'a>> {
        Parts {
            https: false,
            authority: "a.example",
            path: "/x",
            query: None,
            fingerprint: 7,
            variant: 0,
            auth_aware: false,
            vary: &[],
            trusted_peer: false,
            may_be_taken: true,
            headers,
        }
    }

    fn key(parts: &Parts<'_, Lines<'_>>) -> Vec<u8> {
        let mut out = Vec::new();
        parts.write(&mut out);
        out
    }

    #[test]
    fn keys_keep_apart_what_names_another_answer() {
        let none = Lines(&[]);
        let base = parts(&none);
        let vary = ["accept".to_owned()];
        let html = Lines(&[("accept", "text/html")]);
        let others = [
            Parts { https: true, ..parts(&none) },
            Parts { authority: "b.example", ..parts(&none) },
            Parts { authority: "a.example:81", ..parts(&none) },
            Parts { path: "/X", ..parts(&none) },
            Parts { path: "/x/", ..parts(&none) },
            Parts { path: "//x", ..parts(&none) },
            Parts { path: "/%78", ..parts(&none) },
            Parts { query: Some(""), ..parts(&none) },
            Parts { query: Some("a=1"), ..parts(&none) },
            Parts { fingerprint: 8, ..parts(&none) },
            Parts { variant: 1, ..parts(&none) },
            Parts { vary: &vary, ..parts(&none) },
            Parts { vary: &vary, ..parts(&html) },
        ];
        let mut seen = vec![key(&base)];
        for other in &others {
            assert!(!seen.contains(&key(other)), "{other:?}");
            seen.push(key(other));
        }
        assert_eq!(key(&Parts { authority: "A.EXAMPLE:80", ..parts(&none) }), key(&base));
        assert_eq!(key(&parts(&html)), key(&base), "what no rule names is not in the key");
    }

    #[test]
    fn values_cannot_forge_the_borders_between_parts() {
        let vary = ["a".to_owned(), "b".to_owned()];
        let with = |lines: &[(&str, &str)]| {
            let lines = Lines(lines);
            key(&Parts { vary: &vary, ..parts(&lines) })
        };
        assert_ne!(with(&[("a", "1|2"), ("b", "")]), with(&[("a", "1"), ("b", "2|")]));
        assert_ne!(with(&[("a", "1")]), with(&[("a", "1"), ("b", "")]));
        let none = Lines(&[]);
        let path = key(&Parts { path: "/x?q", ..parts(&none) });
        let mut with_zero = Parts { path: "/x", query: Some("q"), ..parts(&none) };
        assert_eq!(path, key(&with_zero), "the same target bytes");
        with_zero.query = Some("q\0");
        assert_ne!(path, key(&with_zero));
    }

    #[test]
    fn credentials_partition_and_are_not_kept() {
        let with = |lines: &[(&str, &str)]| {
            let lines = Lines(lines);
            key(&Parts { auth_aware: true, ..parts(&lines) })
        };
        let alice = with(&[("authorization", "Bearer alice-secret")]);
        assert_ne!(alice, with(&[("authorization", "Bearer bob")]));
        assert_ne!(alice, with(&[]));
        assert_ne!(with(&[("cookie", "a=1")]), with(&[("cookie", "a=2")]));
        assert_ne!(with(&[("cookie", "a=1")]), with(&[("authorization", "a=1")]));
        assert!(memchr::memmem::find(&alice, b"alice-secret").is_none());
    }

    #[test]
    fn fields_that_servers_take_for_the_target_are_in_the_key() {
        let none = Lines(&[]);
        let base = key(&parts(&none));
        for name in TAKEN_FOR_TARGET {
            let lines = [(name, "evil.example")];
            let lines = Lines(&lines);
            assert_ne!(key(&Parts { trusted_peer: true, ..parts(&lines) }), base, "{name}");
        }
        let lines = Lines(&[("x-forwarded-host", "evil.example"), ("forwarded", "host=evil.example")]);
        assert_eq!(key(&parts(&lines)), base, "the endpoint does not see these from strangers");
    }

    #[test]
    fn all_that_servers_take_for_the_target_begins_as_is_looked_for() {
        assert_eq!(TAKEN_FOR_TARGET.iter().find(|name| !TAKEN_INITIALS.contains(&name.as_bytes()[0])), None);
    }

    #[test]
    fn the_resource_can_be_read_back() {
        let none = Lines(&[]);
        let check = |authority: &'static str, host: &[u8]| {
            let key = key(&Parts { authority, query: Some("a=1"), ..parts(&none) });
            let resource = Resource::of(&key).unwrap();
            assert_eq!((resource.host(), resource.target), (host, &b"/x?a=1"[..]));
            assert_eq!((resource.https, resource.fingerprint), (false, 7));
        };
        check("A.example:8080", b"a.example");
        check("[::1]:8080", b"::1");
        assert_eq!(Resource::of(b"\x00\xff\xff\xff\xff"), None);
    }
}
