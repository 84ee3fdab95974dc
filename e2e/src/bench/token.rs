//! A token and the keys that prove it (RFC 7519, 7517, 8037), for routes that ask for one.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use rcgen::{KeyPair, PublicKeyData as _, SigningKey as _};
use serde_json::json;

/// Who signs it.
pub const ISSUER: &str = "https://auth.bench";
/// Seconds since 1970: never, as far as a benchmark goes.
const EXPIRES: u64 = 4_000_000_000;

/// A key set, and a token that one of its keys has signed (Ed25519).
///
/// # Errors
/// The key cannot be made or used.
pub fn make() -> io::Result<(String, String)> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(io::Error::other)?;
    let keys = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": BASE64.encode(key.der_bytes()) }] });
    let header = json!({ "alg": "EdDSA", "kid": "k", "typ": "JWT" }).to_string();
    let claims = json!({ "iss": ISSUER, "aud": "api", "sub": "bench", "exp": EXPIRES }).to_string();
    let message = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
    let signature = key.sign(message.as_bytes()).map_err(io::Error::other)?;
    Ok((keys.to_string(), format!("{message}.{}", BASE64.encode(signature))))
}
