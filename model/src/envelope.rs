//! The DSSE envelope: bytes, their type, their signatures. Nothing in it is trusted until [`crate::trust`] says so.
//!
//! It does not know keys' roles nor what a payload means. Envelopes come from network, disk and database; what leaves
//! is byte for byte what came. Invariant: the payload is encoded once, when it is signed, and never again.
//!
//! Source: DSSE v1, <https://github.com/secure-systems-lab/dsse/blob/master/protocol.md>.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::keys::{KeyId, SigningKey};
use crate::verify::VerifyError;

mod wire;

/// What a payload is; the domain tag of its signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PayloadType {
    /// [`crate::trust::RootDocument`]
    Root,
    /// [`crate::timestamp::Timestamp`]
    Timestamp,
    /// [`crate::release::Release`]
    Release,
    /// [`crate::grant::Grant`]
    Grant,
}

impl PayloadType {
    /// `application/vnd.sealane.<name>.v1+protobuf`
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "application/vnd.sealane.root.v1+protobuf",
            Self::Timestamp => "application/vnd.sealane.timestamp.v1+protobuf",
            Self::Release => "application/vnd.sealane.release.v1+protobuf",
            Self::Grant => "application/vnd.sealane.grant.v1+protobuf",
        }
    }

    /// The document's name in errors.
    pub(crate) fn noun(self) -> &'static str {
        match self {
            Self::Root => "trust root",
            Self::Timestamp => "timestamp",
            Self::Release => "release",
            Self::Grant => "grant",
        }
    }
}

/// An untrusted signed document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// As received.
    pub payload_type: String,
    /// As received; never re-encoded.
    pub payload: Vec<u8>,
    /// As received.
    pub signatures: Vec<Signature>,
}

/// One signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// A hint.
    pub key_id: KeyId,
    /// 64 bytes, when it is any good.
    pub bytes: Vec<u8>,
}

/// Largest envelope that is looked at, in bytes of its protobuf form.
pub const ENVELOPE_BYTES_MAX: usize = 64 << 10;

/// Most signatures in an envelope that is looked at: bounds the work of verifying one.
pub const SIGNATURES_MAX: usize = 16;

impl Envelope {
    /// Signs `payload` with each of `keys`.
    #[must_use]
    pub fn sign(payload_type: PayloadType, payload: Vec<u8>, keys: &[&SigningKey]) -> Self {
        let mut envelope = Self { payload_type: payload_type.as_str().to_owned(), payload, signatures: Vec::new() };
        for key in keys {
            envelope.add_signature(key);
        }
        envelope
    }

    /// Adds one more signature, in place of an earlier one by the same key.
    pub fn add_signature(&mut self, key: &SigningKey) {
        let key_id = key.public().id();
        let bytes = key.sign(&self.signed_bytes()).to_vec();
        self.signatures.retain(|signature| signature.key_id != key_id);
        self.signatures.push(Signature { key_id, bytes });
    }

    /// Takes signatures over from another envelope of the very same payload: those that are not here yet, as long as there
    /// is room. Whether they are any good is for [`crate::trust`] to say. Gives how many came; `None`: another payload.
    pub fn merge_signatures(&mut self, other: &Self) -> Option<usize> {
        if (&self.payload_type, &self.payload) != (&other.payload_type, &other.payload) {
            return None;
        }
        let before = self.signatures.len();
        for signature in &other.signatures {
            if self.signatures.len() < SIGNATURES_MAX && !self.signatures.contains(signature) {
                self.signatures.push(signature.clone());
            }
        }
        Some(self.signatures.len() - before)
    }

    /// The bytes of the protobuf `sealane.v1.Envelope`, for disk and database.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        wire::Envelope::from(self).encode_to_vec()
    }

    /// From those bytes; refuses more than [`ENVELOPE_BYTES_MAX`] of them and more than [`SIGNATURES_MAX`] signatures.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, VerifyError> {
        cap(bytes.len(), ENVELOPE_BYTES_MAX)?;
        let envelope: Self =
            wire::Envelope::decode(bytes).map_err(|_| VerifyError::Malformed { what: "envelope" })?.into();
        envelope.check_caps()?;
        Ok(envelope)
    }

    /// The DSSE JSON form (`payloadType`, base64 `payload`, `signatures[{keyid, sig}]`), for files that people handle.
    #[must_use]
    pub fn to_json(&self) -> String {
        let json = Json {
            payload_type: self.payload_type.clone(),
            payload: STANDARD.encode(&self.payload),
            signatures: self
                .signatures
                .iter()
                .map(|signature| JsonSignature {
                    keyid: signature.key_id.0.clone(),
                    sig: STANDARD.encode(&signature.bytes),
                })
                .collect(),
        };
        let mut text = serde_json::to_string_pretty(&json).expect("strings always serialise");
        text.push('\n');
        text
    }

    /// From that form; base64 may be the standard or the URL-safe one. The same caps hold.
    pub fn from_json(text: &str) -> Result<Self, VerifyError> {
        const MALFORMED: VerifyError = VerifyError::Malformed { what: "envelope" };
        cap(text.len(), JSON_BYTES_MAX)?;
        let json: Json = serde_json::from_str(text).map_err(|_| MALFORMED)?;
        let decode = |text: &str| STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).map_err(|_| MALFORMED);
        let mut signatures = Vec::new();
        for signature in &json.signatures {
            signatures.push(Signature { key_id: KeyId(signature.keyid.clone()), bytes: decode(&signature.sig)? });
        }
        let envelope = Self { payload_type: json.payload_type, payload: decode(&json.payload)?, signatures };
        envelope.check_caps()?;
        Ok(envelope)
    }

    /// Refuses what is above [`ENVELOPE_BYTES_MAX`] or [`SIGNATURES_MAX`], before any signature work.
    pub(crate) fn check_caps(&self) -> Result<(), VerifyError> {
        if self.signatures.len() > SIGNATURES_MAX {
            return Err(VerifyError::TooMany {
                what: "signatures",
                count: self.signatures.len() as u64,
                max: SIGNATURES_MAX as u64,
            });
        }
        cap(self.bytes_len(), ENVELOPE_BYTES_MAX)
    }

    /// The length of [`Self::to_bytes`], without making them: what passes the cap here can be stored and read back.
    fn bytes_len(&self) -> usize {
        let wrapped = |len: usize| 1 + prost::length_delimiter_len(len) + len;
        let field = |len: usize| if len == 0 { 0 } else { wrapped(len) };
        let signatures = self.signatures.iter().map(|one| wrapped(field(one.key_id.0.len()) + field(one.bytes.len())));
        field(self.payload_type.len()) + field(self.payload.len()) + signatures.sum::<usize>()
    }

    /// DSSE's pre-authentication encoding: `DSSEv1 SP len(type) SP type SP len(payload) SP payload`.
    pub(crate) fn signed_bytes(&self) -> Vec<u8> {
        let head = format!("DSSEv1 {} {} {} ", self.payload_type.len(), self.payload_type, self.payload.len());
        [head.as_bytes(), &self.payload].concat()
    }
}

fn cap(bytes: usize, max: usize) -> Result<(), VerifyError> {
    if bytes <= max {
        return Ok(());
    }
    Err(VerifyError::TooLarge { what: "envelope", bytes: bytes as u64, max: max as u64 })
}

/// Base64 makes four characters of three bytes; names and white space come on top.
const JSON_BYTES_MAX: usize = 2 * ENVELOPE_BYTES_MAX;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Json {
    payload_type: String,
    payload: String,
    signatures: Vec<JsonSignature>,
}

#[derive(Serialize, Deserialize)]
struct JsonSignature {
    #[serde(default)]
    keyid: String,
    sig: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_the_encoding_of_the_dsse_specification() {
        let envelope = Envelope {
            payload_type: "http://example.com/HelloWorld".into(),
            payload: b"hello world".into(),
            signatures: Vec::new(),
        };
        assert_eq!(envelope.signed_bytes(), b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }

    #[test]
    fn a_key_signs_once() {
        let key = SigningKey::from_entropy([1; 32]);
        let mut envelope = Envelope::sign(PayloadType::Grant, vec![1], &[&key]);
        envelope.add_signature(&key);
        assert_eq!(envelope.signatures.len(), 1);
        assert!(key.public().signed(&envelope.signed_bytes(), &envelope.signatures[0].bytes));
    }

    #[test]
    fn the_cap_is_on_the_bytes_that_are_stored() {
        let key = SigningKey::from_entropy([1; 32]);
        let mut sizes: Vec<usize> = vec![0, 1, 127, 128, 20_000];
        sizes.extend(ENVELOPE_BYTES_MAX - 300..ENVELOPE_BYTES_MAX);
        for payload in sizes {
            let mut envelope = Envelope::sign(PayloadType::Grant, vec![1; payload], &[&key]);
            envelope.signatures.push(Signature { key_id: KeyId(String::new()), bytes: Vec::new() });
            let bytes = envelope.to_bytes();
            assert_eq!(envelope.bytes_len(), bytes.len());
            assert_eq!(envelope.check_caps().is_ok(), Envelope::from_bytes(&bytes).is_ok());
        }
    }

    #[test]
    fn reads_either_base64() {
        let envelope = Envelope { payload_type: "t".into(), payload: vec![0xfb, 0xff], signatures: Vec::new() };
        let json = envelope.to_json();
        assert!(json.contains("\"+/8=\""));
        assert_eq!(Envelope::from_json(&json.replace("+/8=", "-_8=")), Ok(envelope));
    }
}
