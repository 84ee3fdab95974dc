//! ed25519 keys and their ids.
//!
//! It does not know what a key may sign (see [`crate::trust`]) nor where keys are kept. Entropy and PEM text come from
//! the caller. Invariant: a [`PublicKey`] is a point of large order in its one canonical encoding, so that one key has
//! one id.

use std::fmt;

use ed25519_dalek::Signer as _;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, KeypairBytes};
use thiserror::Error;

use crate::ids::Digest;

/// Lower-case hex SHA-256 of the public key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub String);

/// A public key that is not weak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(ed25519_dalek::VerifyingKey);

/// A signing key. `Debug` shows the id only; wiped when dropped.
pub struct SigningKey(ed25519_dalek::SigningKey);

/// Why a key was not accepted.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum KeyError {
    /// Not 32 bytes of a point of the curve, or not its canonical encoding.
    #[error("not an ed25519 public key")]
    Malformed,
    /// A point of small order.
    #[error("weak ed25519 public key")]
    Weak,
    /// Not PKCS#8 PEM of an ed25519 key.
    #[error("not an ed25519 private key in PKCS#8 PEM")]
    MalformedPem,
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PublicKey {
    /// From 32 bytes. Errs when they are no point of the curve in canonical encoding, or one of small order.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let bytes: &[u8; 32] = bytes.try_into().map_err(|_| KeyError::Malformed)?;
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::Malformed)?;
        if key.is_weak() {
            return Err(KeyError::Weak);
        }
        // A second encoding of the same point would be a second id for one key.
        if key.to_edwards().compress().as_bytes() != bytes {
            return Err(KeyError::Malformed);
        }
        Ok(Self(key))
    }

    /// 32 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> KeyId {
        KeyId(Digest::of(self.0.as_bytes()).to_string())
    }

    /// Whether `signature` is this key's over `message`, by the strict rules (RFC 8032, no malleability, no small order).
    pub(crate) fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let Ok(signature) = ed25519_dalek::Signature::from_slice(signature) else { return false };
        self.0.verify_strict(message, &signature).is_ok()
    }
}

impl SigningKey {
    /// From 32 bytes of entropy.
    #[must_use]
    pub fn from_entropy(entropy: [u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(&entropy))
    }

    /// From PKCS#8 PEM, with or without the public half (RFC 8410, RFC 5958).
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        ed25519_dalek::SigningKey::from_pkcs8_pem(pem).map(Self).map_err(|_| KeyError::MalformedPem)
    }

    /// PKCS#8 PEM, to be written with mode 0600. Without the public half, so that OpenSSL reads it.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let pair = KeypairBytes { secret_key: self.0.to_bytes(), public_key: None };
        let pem = pair.to_pkcs8_pem(LineEnding::LF).expect("32 bytes always encode");
        pem.as_str().to_owned()
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public().id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_pem_and_debug_keeps_its_secret() {
        let key = SigningKey::from_entropy([7; 32]);
        let pem = key.to_pem();
        assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n"));
        let again = SigningKey::from_pem(&pem).unwrap();
        assert_eq!(again.public(), key.public());
        assert_eq!(format!("{key:?}"), format!("SigningKey({})", key.public().id()));
        assert_eq!(SigningKey::from_pem("-----BEGIN PRIVATE KEY-----\n").unwrap_err(), KeyError::MalformedPem);
    }

    #[test]
    fn reads_the_key_of_rfc_8410() {
        let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        let key = SigningKey::from_pem(pem).unwrap();
        assert_eq!(&key.public().to_bytes()[..4], [0x19, 0xbf, 0x44, 0x09]);
        assert_eq!(key.to_pem(), pem);
    }

    #[test]
    fn weak_malformed_and_non_canonical_keys_are_refused() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(PublicKey::from_bytes(&identity), Err(KeyError::Weak));
        assert_eq!(PublicKey::from_bytes(&[0; 32]), Err(KeyError::Weak), "a point of order 4");
        assert_eq!(PublicKey::from_bytes(&[1; 31]), Err(KeyError::Malformed));
        // Every y of p to p+18 is a second encoding of a small y: none may pass.
        for low in 0xed..=0xff {
            let mut bytes = [0xff; 32];
            bytes[0] = low;
            bytes[31] = 0x7f;
            assert!(PublicKey::from_bytes(&bytes).is_err(), "{low:#x}");
            bytes[31] = 0xff;
            assert!(PublicKey::from_bytes(&bytes).is_err(), "{low:#x}, odd x");
        }
    }
}
