//! Verifies a token (RFC 7519 in the compact form of RFC 7515) against keys and what is expected of it.
//!
//! The header of a token chooses among the keys that are there and says nothing else: keys that it embeds or links to
//! are not looked at, and extensions that it calls critical are not known here (RFC 7515 §4.1.11, RFC 8725).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sealane_model::config::Jwt;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::jwks::keys::{KeySet, algorithm};

/// What a token claims.
pub(crate) type Claims = Map<String, Value>;

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reject {
    /// There is none, or several.
    Missing,
    /// It is no token.
    Malformed,
    /// It is signed in a way that is not allowed.
    Algorithm,
    /// No key has its key id. Another look at the source may help.
    UnknownKey,
    /// It was not signed with a key that is trusted.
    Signature,
    Expired,
    NotYetValid,
    Issuer,
    Audience,
}

impl Reject {
    /// In the order of their discriminants.
    pub(crate) const ALL: [Self; 9] = [
        Self::Missing,
        Self::Malformed,
        Self::Algorithm,
        Self::UnknownKey,
        Self::Signature,
        Self::Expired,
        Self::NotYetValid,
        Self::Issuer,
        Self::Audience,
    ];

    /// In metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
        }
    }

    /// What the client is told.
    pub(crate) const fn message(self) -> &'static str {
        match self {
            Self::Missing => "a bearer token is required",
            Self::Malformed => "the token is malformed",
            Self::Algorithm => "the token is signed in a way that is not accepted",
            Self::UnknownKey => "the token is signed with an unknown key",
            Self::Signature => "the token's signature is wrong",
            Self::Expired => "the token has expired",
            Self::NotYetValid => "the token is not valid yet",
            Self::Issuer => "the token is from another issuer",
            Self::Audience => "the token is for another audience",
        }
    }
}

/// Longer ones are not looked at.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// Keys that a token without key id is tried with.
const KEYS_TRIED_MAX: usize = 8;

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
    /// Of a JWS with an unencoded payload (RFC 7797), which no token has.
    b64: Option<Value>,
}

/// The claims of a token that is good at `now` (seconds since 1970).
pub(crate) fn verify(token: &[u8], expected: &Jwt, keys: &KeySet, now: u64) -> Result<Claims, Reject> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Reject::Malformed);
    }
    let token = std::str::from_utf8(token).map_err(|_| Reject::Malformed)?;
    let (message, signature) = token.rsplit_once('.').ok_or(Reject::Malformed)?;
    let (header, payload) = message.split_once('.').ok_or(Reject::Malformed)?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Reject::Malformed);
    let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| Reject::Malformed)?;
    if header.crit.is_some() || header.b64.is_some() {
        return Err(Reject::Malformed);
    }
    let used = algorithm(&header.alg).ok_or(Reject::Algorithm)?;
    if !expected.algorithms.is_empty() && !expected.algorithms.contains(&used) {
        return Err(Reject::Algorithm);
    }
    let Unique(claims) = serde_json::from_slice(&decode(payload)?).map_err(|_| Reject::Malformed)?;
    let signature = decode(signature)?;
    let kid = header.kid.as_deref();
    if keys.named(kid).next().is_none() {
        // Not worth a look at the source if it would be refused all the same.
        return Err(check(&claims, expected, now).err().unwrap_or(Reject::UnknownKey));
    }
    let mut fitting = keys.named(kid).filter(|key| key.allows(used)).take(KEYS_TRIED_MAX).peekable();
    if fitting.peek().is_none() {
        return Err(Reject::Algorithm);
    }
    if !fitting.any(|key| key.verifies(used, message.as_bytes(), &signature)) {
        return Err(Reject::Signature);
    }
    check(&claims, expected, now)?;
    Ok(claims)
}

/// Claims, each there once: of two with one name the endpoint may believe the other one (RFC 7519 §4).
struct Unique(Claims);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Unique;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("claims")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Unique, A::Error> {
                let mut claims = Claims::new();
                while let Some((name, value)) = members.next_entry::<String, Value>()? {
                    if claims.insert(name, value).is_some() {
                        return Err(A::Error::custom("a claim is there twice"));
                    }
                }
                Ok(Unique(claims))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// When a token is over, in seconds since 1970.
pub(crate) fn expires_at(claims: &Claims) -> Option<u64> {
    seconds(claims.get("exp")?)
}

fn check(claims: &Claims, expected: &Jwt, now: u64) -> Result<(), Reject> {
    let leeway = expected.leeway.as_secs();
    // A token that never ends could not be taken back.
    let expires_at = expires_at(claims).ok_or(Reject::Expired)?;
    if now >= expires_at.saturating_add(leeway) {
        return Err(Reject::Expired);
    }
    if let Some(not_before) = claims.get("nbf")
        && seconds(not_before).is_none_or(|not_before| now.saturating_add(leeway) < not_before)
    {
        return Err(Reject::NotYetValid);
    }
    if claims.get("iss").and_then(Value::as_str) != Some(&*expected.issuer) {
        return Err(Reject::Issuer);
    }
    let is_expected = |value: &Value| value.as_str().is_some_and(|it| expected.audiences.iter().any(|one| one == it));
    let audience_fits = expected.audiences.is_empty()
        || match claims.get("aud") {
            Some(Value::Array(all)) => all.iter().any(is_expected),
            Some(one) => is_expected(one),
            None => false,
        };
    if audience_fits { Ok(()) } else { Err(Reject::Audience) }
}

/// A NumericDate: whole or broken seconds.
fn seconds(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().filter(|it| (0.0..1e15).contains(it)).map(|it| it as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_is_there_twice_spoils_the_token() {
        let read = |text: &str| serde_json::from_str::<Unique>(text).map(|unique| unique.0.len()).ok();
        assert_eq!(read(r#"{"sub":"a","aud":["x"]}"#), Some(2));
        assert_eq!(read(r#"{"sub":"a","sub":"b"}"#), None);
        assert_eq!(read(r#"{"sub":"a","s\u0075b":"b"}"#), None);
        assert_eq!(read("[]"), None);
    }
}
