//! The keys of a JWK set (RFC 7517), each with the algorithms that it may verify.
//!
//! What a key verifies is up to the key, never to a token: its type and curve, and its `alg` where it has one. A shared
//! secret verifies only what its own `alg` names, and only if it came from a file.

use std::fmt;

use aws_lc_rs::{hmac, signature};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sealane_model::config::JwtAlgorithm as Algorithm;
use serde::Deserialize;

/// Keys that verify signatures.
#[derive(Debug)]
pub(crate) struct KeySet {
    keys: Vec<Key>,
    /// Unique in the process; another one may verify other tokens.
    pub(crate) serial: u64,
}

/// One of them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) kid: Option<String>,
    algorithms: Vec<Algorithm>,
    material: Material,
}

#[derive(PartialEq, Eq)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point.
    Ec(Vec<u8>),
    Ed25519(Vec<u8>),
    Secret(Vec<u8>),
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa { .. } => "RSA",
            Self::Ec(_) => "EC",
            Self::Ed25519(_) => "Ed25519",
            Self::Secret(_) => "secret",
        })
    }
}

/// Where a set came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// This machine.
    File,
    /// The network: no shared secrets.
    Network,
}

/// Why a set is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeysError {
    #[error("not a JWK set")]
    Syntax(#[source] serde_json::Error),
    #[error("more than {KEYS_MAX} keys")]
    TooMany,
    #[error("no key that can verify a token among {found}")]
    None { found: usize },
}

/// Of one set.
const KEYS_MAX: usize = 256;
/// RSA below is weak, above a burden (RFC 7518 §3.3).
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    used_for: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
}

impl KeySet {
    /// Reads a set. Keys that cannot verify are left out.
    ///
    /// # Errors
    /// It is no set, or none of its keys can verify.
    pub(crate) fn parse(text: &[u8], origin: Origin, serial: u64) -> Result<Self, KeysError> {
        let set: JwkSet = serde_json::from_slice(text).map_err(KeysError::Syntax)?;
        let found = set.keys.len();
        if found > KEYS_MAX {
            return Err(KeysError::TooMany);
        }
        let read = |key| Key::read(serde_json::from_value(key).ok()?, origin);
        let keys: Vec<Key> = set.keys.into_iter().filter_map(read).collect();
        if keys.is_empty() {
            return Err(KeysError::None { found });
        }
        Ok(Self { keys, serial })
    }

    /// Whether both verify the same.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        self.keys == other.keys
    }

    /// Keys.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Those that a token with this key id, or none, may be signed with.
    pub(crate) fn named<'a>(&'a self, kid: Option<&'a str>) -> impl Iterator<Item = &'a Key> {
        self.keys.iter().filter(move |key| kid.is_none() || key.kid.as_deref() == kid)
    }
}

impl Key {
    fn read(jwk: Jwk, origin: Origin) -> Option<Self> {
        if jwk.used_for.as_deref().is_some_and(|used_for| used_for != "sig")
            || jwk.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify"))
        {
            return None;
        }
        let field = |value: &Option<String>| URL_SAFE_NO_PAD.decode(value.as_deref()?.trim_end_matches('=')).ok();
        let (material, fit): (_, &[Algorithm]) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => {
                let n = field(&jwk.n)?;
                let n = n[n.iter().position(|&byte| byte != 0)?..].to_vec();
                if !RSA_BYTES.contains(&n.len()) {
                    return None;
                }
                (Material::Rsa { n, e: field(&jwk.e)? }, RSA)
            }
            ("EC", Some(curve)) => {
                let (size, fit): (usize, &[Algorithm]) = match curve {
                    "P-256" => (32, &[Algorithm::Es256]),
                    "P-384" => (48, &[Algorithm::Es384]),
                    "P-521" => (66, &[Algorithm::Es512]),
                    _ => return None,
                };
                let (x, y) = (field(&jwk.x)?, field(&jwk.y)?);
                if x.len() != size || y.len() != size {
                    return None;
                }
                (Material::Ec([&[4][..], &x, &y].concat()), fit)
            }
            ("OKP", Some("Ed25519")) => {
                let x = field(&jwk.x).filter(|x| x.len() == 32)?;
                (Material::Ed25519(x), &[Algorithm::EdDsa])
            }
            // Without `alg`, a public key that somebody took for a secret could verify.
            ("oct", _) if origin == Origin::File && jwk.alg.is_some() => {
                let secret = field(&jwk.k).filter(|secret| secret.len() >= 32)?;
                (Material::Secret(secret), HMAC)
            }
            _ => return None,
        };
        let algorithms: Vec<_> = match jwk.alg.as_deref() {
            Some(alg) => fit
                .iter()
                .copied()
                .filter(|fit| name(*fit) == alg || (alg == "Ed25519" && *fit == Algorithm::EdDsa))
                .collect(),
            None => fit.to_vec(),
        };
        (!algorithms.is_empty()).then_some(Self { kid: jwk.kid, algorithms, material })
    }

    /// Whether a token may be signed so with this key.
    pub(crate) fn allows(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// Whether `signature` is that of `message`. `algorithm` must be [`Self::allows`]ed.
    pub(crate) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        if !self.allows(algorithm) {
            return false;
        }
        match (&self.material, algorithm) {
            (Material::Rsa { n, e }, algorithm) => {
                let parameters = match algorithm {
                    Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
                    Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                signature::RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok()
            }
            (Material::Ec(point), algorithm) => {
                let algorithm: &'static dyn signature::VerificationAlgorithm = match algorithm {
                    Algorithm::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
                    Algorithm::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
                    Algorithm::Es512 => &signature::ECDSA_P521_SHA512_FIXED,
                    _ => return false,
                };
                signature::UnparsedPublicKey::new(algorithm, point).verify(message, signature).is_ok()
            }
            (Material::Ed25519(point), _) => {
                signature::UnparsedPublicKey::new(&signature::ED25519, point).verify(message, signature).is_ok()
            }
            (Material::Secret(secret), algorithm) => {
                let algorithm = match algorithm {
                    Algorithm::Hs256 => hmac::HMAC_SHA256,
                    Algorithm::Hs384 => hmac::HMAC_SHA384,
                    Algorithm::Hs512 => hmac::HMAC_SHA512,
                    _ => return false,
                };
                hmac::verify(&hmac::Key::new(algorithm, secret), message, signature).is_ok()
            }
        }
    }
}

const RSA: &[Algorithm] =
    &[Algorithm::Rs256, Algorithm::Rs384, Algorithm::Rs512, Algorithm::Ps256, Algorithm::Ps384, Algorithm::Ps512];
const HMAC: &[Algorithm] = &[Algorithm::Hs256, Algorithm::Hs384, Algorithm::Hs512];
const NAMES: &[(&str, Algorithm)] = &[
    ("HS256", Algorithm::Hs256),
    ("HS384", Algorithm::Hs384),
    ("HS512", Algorithm::Hs512),
    ("RS256", Algorithm::Rs256),
    ("RS384", Algorithm::Rs384),
    ("RS512", Algorithm::Rs512),
    ("PS256", Algorithm::Ps256),
    ("PS384", Algorithm::Ps384),
    ("PS512", Algorithm::Ps512),
    ("ES256", Algorithm::Es256),
    ("ES384", Algorithm::Es384),
    ("ES512", Algorithm::Es512),
    ("EdDSA", Algorithm::EdDsa),
    // RFC 9864
    ("Ed25519", Algorithm::EdDsa),
];

/// The algorithm of a name in a token's header. Names are exact: `none` in any spelling is not among them.
pub(crate) fn algorithm(text: &str) -> Option<Algorithm> {
    NAMES.iter().find(|(name, _)| *name == text).map(|(_, algorithm)| *algorithm)
}

fn name(algorithm: Algorithm) -> &'static str {
    NAMES.iter().find(|(_, known)| *known == algorithm).map_or("", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7515, appendices A.1 to A.3; RFC 8037, appendix A: key, its algorithm, message, signature.
    const VECTORS: [(&str, &str, &str); 4] = [
        (
            r#"{"kty":"oct","alg":"HS256","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}"#,
            "HS256",
            "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        ),
        (
            r#"{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}"#,
            "RS256",
            "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        ),
        (
            r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#,
            "ES256",
            "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
        (
            r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
            "EdDSA",
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
        ),
    ];

    fn set(keys: &str, origin: Origin) -> Result<KeySet, KeysError> {
        KeySet::parse(format!("{{\"keys\":[{keys}]}}").as_bytes(), origin, 0)
    }

    #[test]
    fn the_vectors_of_the_rfcs_verify_and_nothing_else_does() {
        for (key, alg, token) in VECTORS {
            let set = set(key, Origin::File).unwrap();
            let (message, text) = token.rsplit_once('.').unwrap();
            let signature = URL_SAFE_NO_PAD.decode(text).unwrap();
            let key = set.named(None).next().unwrap();
            let used = algorithm(alg).unwrap();
            assert!(key.verifies(used, message.as_bytes(), &signature), "{alg}");
            for (name, other) in NAMES.iter().filter(|(_, other)| *other != used) {
                assert!(!key.verifies(*other, message.as_bytes(), &signature), "{alg} as {name}");
            }
            let mut forged = signature.clone();
            forged[7] ^= 1;
            assert!(!key.verifies(used, message.as_bytes(), &forged));
            assert!(!key.verifies(used, b"other", &signature));
            assert!(!key.verifies(used, message.as_bytes(), b""));
        }
    }

    #[test]
    fn keys_for_other_uses_weak_ones_and_secrets_from_the_network_are_left_out() {
        let ec = r#""kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#;
        let check = |key: &str, origin, expected| {
            assert_eq!(set(key, origin).is_ok(), expected, "{key}");
        };
        check(&format!("{{{ec}}}"), Origin::Network, true);
        check(&format!("{{{ec},\"use\":\"sig\",\"key_ops\":[\"verify\"]}}"), Origin::Network, true);
        check(&format!("{{{ec},\"use\":\"enc\"}}"), Origin::Network, false);
        check(&format!("{{{ec},\"key_ops\":[\"sign\"]}}"), Origin::Network, false);
        check(&format!("{{{ec},\"alg\":\"HS256\"}}"), Origin::File, false);
        check(&format!("{{{ec},\"alg\":\"ES384\"}}"), Origin::File, false);
        let secret = format!(r#""kty":"oct","k":"{}""#, "A".repeat(64));
        check(&format!("{{{secret},\"alg\":\"HS256\"}}"), Origin::File, true);
        check(&format!("{{{secret},\"alg\":\"HS256\"}}"), Origin::Network, false);
        check(&format!("{{{secret}}}"), Origin::File, false);
        check(r#"{"kty":"oct","k":"c2hvcnQ","alg":"HS256"}"#, Origin::File, false);
        check(r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#, Origin::File, false);
        check(r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#, Origin::File, false);
        check("", Origin::File, false);
        check("17", Origin::File, false);
        assert!(matches!(KeySet::parse(b"{}", Origin::File, 0), Err(KeysError::Syntax(_))));
        let many = vec![format!("{{{ec}}}"); KEYS_MAX + 1].join(",");
        assert!(matches!(set(&many, Origin::File), Err(KeysError::TooMany)));
    }
}
