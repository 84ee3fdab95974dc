//! Cross-origin resource sharing: answers preflight requests, and says in answers who may read them.
//!
//! The proxy's word alone counts: what an endpoint says of this is removed. Source: the Fetch standard, "CORS protocol".

use sealane_model::config::{self, CorsOrigin};

use crate::admission::edits::FieldEdits;
use crate::admission::{Edits, Seen, Step};
use crate::answer::{Content, Local};
use crate::http1::field::members;
use crate::http1::write;

/// Compiled.
#[derive(Debug)]
pub(crate) struct Cors {
    origins: Vec<CorsOrigin>,
    any_origin: bool,
    /// Empty: any.
    methods: Vec<String>,
    /// Lower case; `None`: any.
    headers: Option<Vec<String>>,
    credentials: bool,
    /// What every answer of the route gets, whoever asks.
    always: FieldEdits,
    /// What an answer to an allowed origin gets besides the origin's own name.
    allowed: FieldEdits,
    /// What an answer to an allowed preflight gets besides.
    preflight: FieldEdits,
}

/// What endpoints may say of this.
const OWN: [&[u8]; 6] = [
    b"Access-Control-Allow-Origin",
    b"Access-Control-Allow-Credentials",
    b"Access-Control-Allow-Methods",
    b"Access-Control-Allow-Headers",
    b"Access-Control-Expose-Headers",
    b"Access-Control-Max-Age",
];
/// Origins are short; a longer one is nobody's.
const ORIGIN_BYTES_MAX: usize = 1024;

impl Cors {
    pub(crate) fn compile(config: &config::Cors) -> Self {
        let any_origin = config.origins.contains(&CorsOrigin::Any);
        let mut always = FieldEdits::default();
        OWN.iter().for_each(|name| always.remove(name));
        if !any_origin {
            // Also where nobody is allowed: caches must not give one origin the answer of another.
            always.add(b"Vary", b"Origin");
        }
        let mut allowed = FieldEdits::default();
        if config.credentials {
            allowed.add(b"Access-Control-Allow-Credentials", b"true");
        }
        if !config.expose.is_empty() {
            allowed.add(b"Access-Control-Expose-Headers", config.expose.join(", ").as_bytes());
        }
        let mut preflight = FieldEdits::default();
        if !config.methods.is_empty() {
            preflight.add(b"Access-Control-Allow-Methods", config.methods.join(", ").as_bytes());
        }
        if let Some(headers) = config.headers.as_ref().filter(|headers| !headers.is_empty()) {
            preflight.add(b"Access-Control-Allow-Headers", headers.join(", ").as_bytes());
        }
        let max_age = config.max_age.as_secs().to_string();
        preflight.add(b"Access-Control-Max-Age", max_age.as_bytes());
        Self {
            origins: config.origins.clone(),
            any_origin,
            methods: config.methods.clone(),
            headers: config.headers.clone(),
            credentials: config.credentials,
            always,
            allowed,
            preflight,
        }
    }

    pub(crate) fn admit(&self, seen: &Seen<'_>, edits: &mut Edits) -> Step {
        edits.response.merge(&self.always);
        let mut origins = seen.sent("origin");
        let origin = origins.next().filter(|_| origins.next().is_none());
        let is_allowed = origin.is_some_and(|origin| self.allows(origin));
        if let Some(origin) = origin.filter(|_| is_allowed) {
            let named: &[u8] = if self.any_origin && !self.credentials { b"*" } else { origin };
            edits.response.add(b"Access-Control-Allow-Origin", named);
            edits.response.merge(&self.allowed);
        }
        let asked = seen.sent("access-control-request-method").next();
        match (seen.method(), origin, asked) {
            ("OPTIONS", Some(_), Some(method)) => self.answer_preflight(seen, edits, method, is_allowed),
            _ => Step::Continue,
        }
    }

    /// A preflight is answered here in any case; one that is not allowed gets an answer that says nothing, which a
    /// browser takes for a no.
    fn answer_preflight(&self, seen: &Seen<'_>, edits: &mut Edits, method: &[u8], is_allowed: bool) -> Step {
        if is_allowed {
            edits.response.merge(&self.preflight);
            if self.methods.is_empty() && is_token(method) {
                edits.response.add(b"Access-Control-Allow-Methods", method);
            }
            if self.headers.is_none()
                && let Some(wanted) = seen.sent("access-control-request-headers").next()
                && members(wanted).all(is_token)
                && !wanted.is_empty()
            {
                edits.response.add(b"Access-Control-Allow-Headers", wanted);
            }
        }
        let mut lines = Vec::with_capacity(96);
        write::field(&mut lines, b"Vary", b"Access-Control-Request-Method, Access-Control-Request-Headers");
        let content = Content::Whole(Vec::new());
        Step::Answer(Box::new(Local::Whole { status: 204, reason: None, lines, content }))
    }

    fn allows(&self, origin: &[u8]) -> bool {
        if origin.is_empty() || origin.len() > ORIGIN_BYTES_MAX {
            return false;
        }
        if self.any_origin {
            return true;
        }
        let Ok(origin) = std::str::from_utf8(origin) else { return false };
        self.origins.iter().any(|allowed| match allowed {
            CorsOrigin::Any => true,
            CorsOrigin::Exact(exact) => exact.eq_ignore_ascii_case(origin),
            CorsOrigin::Below { scheme, suffix } => is_below(origin, scheme, suffix),
        })
    }
}

/// Whether `origin` is `scheme`, labels, and `suffix`: `https://a.b.example.com` below `.example.com`.
fn is_below(origin: &str, scheme: &str, suffix: &str) -> bool {
    let (Some(start), Some(host)) = (origin.get(..scheme.len()), origin.get(scheme.len()..)) else { return false };
    let Some(at) = host.len().checked_sub(suffix.len()) else { return false };
    let (Some(labels), Some(end)) = (host.get(..at), host.get(at..)) else { return false };
    start.eq_ignore_ascii_case(scheme)
        && end.eq_ignore_ascii_case(suffix)
        && !labels.is_empty()
        && !labels.starts_with('.')
        && labels.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_below_a_name_are_told_from_those_that_only_end_like_it() {
        let check = |origin, expected| assert_eq!(is_below(origin, "https://", ".example.com"), expected, "{origin}");
        check("https://a.example.com", true);
        check("HTTPS://A.b.Example.COM", true);
        check("https://example.com", false);
        check("https://.example.com", false);
        check("https://evilexample.com", false);
        check("http://a.example.com", false);
        check("https://a.example.com.evil.com", false);
        check("https://evil.com/.example.com", false);
        check("https://evil.com?.example.com", false);
        check("https://evil.com#.example.com", false);
        check("https://evil@a.example.com", false);
        check("https://a.example.com:8443", false);
        check("null", false);
    }
}
