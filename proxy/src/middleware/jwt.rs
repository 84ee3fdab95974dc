//! Authentication by JSON Web Token: a request passes only with a bearer token that is good.
//!
//! Good tokens are remembered per thread, by the hash of the token, of the keys and of what is expected, until they
//! expire: other keys or another config verify anew. Tokens themselves are neither kept nor logged.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use aws_lc_rs::digest;
use sealane_model::config::Jwt;
use serde_json::Value;
use tokio::time;

use crate::admission::edits::FieldEdits;
use crate::admission::{Edits, Seen, Step, Then};
use crate::answer::Local;
use crate::clock::Moment;
use crate::error::Category;
use crate::jwks::{KeySource, WAIT_MAX};
use crate::middleware::jwt::token::{Claims, Reject};

pub(crate) mod token;

/// Compiled.
#[derive(Debug)]
pub(crate) struct Auth {
    expected: Jwt,
    source: Arc<KeySource>,
    /// Of what is expected.
    tag: [u8; 32],
}

/// Who a token says that the client is.
#[derive(Debug)]
pub(crate) struct Identity {
    claims: Claims,
    /// The claims that are passed on.
    edits: FieldEdits,
    /// Seconds since 1970, leeway included.
    good_until: u64,
}

/// Of one header value made from a claim.
const CLAIM_BYTES_MAX: usize = 4096;

impl Auth {
    pub(crate) fn compile(config: &Jwt, source: Arc<KeySource>) -> Self {
        let digest = digest::digest(&digest::SHA256, format!("{config:?}").as_bytes());
        let mut tag = [0; 32];
        tag.copy_from_slice(digest.as_ref());
        Self { expected: config.clone(), source, tag }
    }

    pub(crate) fn admit(&self, seen: &Seen<'_>, edits: &mut Edits) -> Step {
        self.remove_claimed(seen, edits);
        let cells = &seen.worker.cells;
        let verified = bearer(seen).and_then(|token| self.identify(token, seen));
        match verified {
            Ok(Some(identity)) => {
                edits.request.merge(&identity.edits);
                edits.identity = Some(identity);
                if !self.expected.forward_token {
                    edits.request.remove(b"Authorization");
                }
                cells.tokens_accepted.add(1);
                Step::Continue
            }
            Ok(None) => self.wait(seen).unwrap_or_else(|| {
                cells.tokens_without_keys.add(1);
                Step::Answer(Box::new(Local::refusal(Category::Internal, "there are no keys to verify tokens with")))
            }),
            Err(Reject::UnknownKey) => self.wait(seen).unwrap_or_else(|| refuse(Reject::UnknownKey, seen, edits)),
            Err(reject) => refuse(reject, seen, edits),
        }
    }

    /// What a client sends under the names of passed-on claims is no claim. Endpoints may take `_` for `-` in names, so
    /// these count as equal here.
    fn remove_claimed(&self, seen: &Seen<'_>, edits: &mut Edits) {
        if self.expected.claims_to_headers.is_empty() {
            return;
        }
        let fold = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
        for line in seen.fields.lines() {
            let name = line.name.of_bytes(seen.request.bytes);
            let looks_like =
                |header: &str| header.len() == name.len() && header.bytes().zip(name).all(|(a, b)| fold(a) == fold(*b));
            if self.expected.claims_to_headers.iter().any(|(_, header)| looks_like(header)) {
                edits.request.remove(name);
            }
        }
    }

    /// `None`: there are no keys.
    fn identify(&self, token: &[u8], seen: &Seen<'_>) -> Result<Option<Rc<Identity>>, Reject> {
        let Some(keys) = self.source.keys() else { return Ok(None) };
        let worker = seen.worker;
        let moment = seen.record.started.max(Moment::of_tick(worker.wheel.now()));
        let now = worker.unix_nanos(moment) / 1_000_000_000;
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&self.tag);
        context.update(&keys.serial.to_ne_bytes());
        context.update(token);
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        if let Some(identity) = worker.identities.get(&hash, now) {
            return Ok(Some(identity));
        }
        let claims = token::verify(token, &self.expected, &keys, now)?;
        let good_until = token::expires_at(&claims).unwrap_or(0).saturating_add(self.expected.leeway.as_secs());
        let edits = passed_on(&claims, &self.expected.claims_to_headers);
        let identity = Rc::new(Identity { claims, edits, good_until });
        worker.identities.put(hash, Rc::clone(&identity));
        Ok(Some(identity))
    }

    /// Waits for other keys; `None`: there was a look for some just now.
    fn wait(&self, seen: &Seen<'_>) -> Option<Step> {
        let mut attempts = self.source.demand(Moment::of_tick(seen.worker.wheel.now()))?;
        Some(Step::Wait(Box::pin(async move {
            // Whatever came of it, the token is looked at again.
            let _ = time::timeout(WAIT_MAX, attempts.changed()).await;
            Then::Again
        })))
    }
}

/// The token of the one `Authorization` line (RFC 6750 §2.1).
fn bearer<'a>(seen: &Seen<'a>) -> Result<&'a [u8], Reject> {
    const SCHEME: &[u8] = b"bearer ";
    let mut lines = seen.sent("authorization");
    let value = lines.next().ok_or(Reject::Missing)?;
    if lines.next().is_some() {
        return Err(Reject::Malformed);
    }
    match value.split_at_checked(SCHEME.len()) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(SCHEME) => Ok(token.trim_ascii()),
        _ => Err(Reject::Missing),
    }
}

/// 401 (RFC 6750 §3): what is wrong is said only to who sent a token.
fn refuse(reject: Reject, seen: &Seen<'_>, edits: &mut Edits) -> Step {
    seen.worker.cells.tokens_refused[reject as usize].add(1);
    let challenge = match reject {
        Reject::Missing => "Bearer".to_owned(),
        _ => format!("Bearer error=\"invalid_token\", error_description=\"{}\"", reject.message()),
    };
    edits.response.set(b"WWW-Authenticate", challenge.as_bytes());
    Step::Answer(Box::new(Local::refusal(Category::Unauthorized, reject.message())))
}

fn passed_on(claims: &Claims, headers: &[(String, String)]) -> FieldEdits {
    let mut edits = FieldEdits::default();
    for (claim, header) in headers {
        edits.remove(header.as_bytes());
        let Some(text) = lookup(claims, claim).and_then(text) else { continue };
        // A value that cannot be a header is left out rather than bent.
        if text.len() <= CLAIM_BYTES_MAX && !text.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
            edits.add(header.as_bytes(), text.trim().as_bytes());
        }
    }
    edits
}

/// A claim by its name, or one inside of another by `outer.inner`.
fn lookup<'c>(claims: &'c Claims, name: &str) -> Option<&'c Value> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    let mut names = name.split('.');
    let mut value = claims.get(names.next()?)?;
    for name in names {
        value = value.get(name)?;
    }
    Some(value)
}

/// A value as a header says it; lists with commas.
fn text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Bool(_) | Value::Number(_) => Some(Cow::Owned(value.to_string())),
        Value::Array(items) => {
            let items: Option<Vec<_>> = items.iter().map(text).collect();
            Some(Cow::Owned(items?.join(",")))
        }
        Value::Object(_) => Some(Cow::Owned(value.to_string())),
    }
}

impl Identity {
    /// What the token says of something.
    pub(crate) fn claim(&self, name: &str) -> Option<Cow<'_, str>> {
        lookup(&self.claims, name).and_then(text)
    }
}

/// The identities of tokens that were good, of one thread: two halves, the older of which is forgotten when the younger
/// is full.
#[derive(Debug, Default)]
pub(crate) struct Identities(RefCell<Halves>);

#[derive(Debug, Default)]
struct Halves {
    young: HashMap<[u8; 32], Rc<Identity>>,
    old: HashMap<[u8; 32], Rc<Identity>>,
}

/// Identities in one half.
const HALF_MAX: usize = 1024;

impl Identities {
    fn get(&self, hash: &[u8; 32], now: u64) -> Option<Rc<Identity>> {
        let mut halves = self.0.borrow_mut();
        if let Some(identity) = halves.young.get(hash) {
            return (now < identity.good_until).then(|| Rc::clone(identity));
        }
        let identity = halves.old.remove(hash).filter(|identity| now < identity.good_until)?;
        halves.put(*hash, Rc::clone(&identity));
        Some(identity)
    }

    fn put(&self, hash: [u8; 32], identity: Rc<Identity>) {
        self.0.borrow_mut().put(hash, identity);
    }
}

impl Halves {
    fn put(&mut self, hash: [u8; 32], identity: Rc<Identity>) {
        if self.young.len() >= HALF_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, identity);
    }
}
