//! A revision as one file that people hand around: everything that is needed to verify it offline, or to sign it.
//!
//! Plain JSON around the signed documents; nothing in it is trusted. With its chunks beside it in files it is the head of
//! a folder for static pull. It does not know where files are.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{CHUNK_BYTES_MAX, CONTENT_BYTES_MAX, MANIFEST_BYTES_MAX, Resource, VerifiedBundle};
use crate::envelope::Envelope;
use crate::ids::Digest;
use crate::release::ClaimedRelease;
use crate::trust::{TrustRoot, chain};
use crate::verify::VerifyError;

/// A revision to hand around.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleFile {
    /// Trust roots from the first on.
    pub roots: Vec<Envelope>,
    /// The release.
    pub release: Envelope,
    /// The newest timestamp document when it was written.
    pub timestamp: Option<Envelope>,
    /// Grants of its rollout.
    pub grants: Vec<Envelope>,
    /// Manifest bytes.
    pub manifest: Vec<u8>,
    /// Chunks by digest; empty where they are in files beside it.
    pub chunks: HashMap<Digest, Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
struct Json<'a> {
    format: String,
    #[serde(borrow)]
    roots: Vec<&'a RawValue>,
    #[serde(borrow)]
    release: &'a RawValue,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow, default)]
    grants: Vec<&'a RawValue>,
    manifest: String,
    #[serde(default)]
    chunks: Vec<String>,
}

/// The word that says what the file is.
const FORMAT: &str = "sealane-bundle/1";
/// Content in base64, manifest and documents.
const JSON_BYTES_MAX: u64 = CONTENT_BYTES_MAX / 3 * 4 + (32 << 20);

impl BundleFile {
    /// Whether `text` says of itself that it is such a file.
    #[must_use]
    pub fn looks_like(text: &str) -> bool {
        text.trim_start().starts_with('{') && text.get(..200).unwrap_or(text).contains(FORMAT)
    }

    /// Its text.
    #[must_use]
    pub fn to_json(&self) -> String {
        let raw = |envelope: &Envelope| RawValue::from_string(envelope.to_json()).expect("an envelope's JSON is JSON");
        let roots: Vec<_> = self.roots.iter().map(raw).collect();
        let grants: Vec<_> = self.grants.iter().map(raw).collect();
        let (release, timestamp) = (raw(&self.release), self.timestamp.as_ref().map(raw));
        let mut chunks: Vec<(&Digest, &Vec<u8>)> = self.chunks.iter().collect();
        chunks.sort();
        let json = Json {
            format: FORMAT.to_owned(),
            roots: roots.iter().map(|one| &**one).collect(),
            release: &release,
            timestamp: timestamp.as_deref(),
            grants: grants.iter().map(|one| &**one).collect(),
            manifest: STANDARD.encode(&self.manifest),
            chunks: chunks.into_iter().map(|(_, bytes)| STANDARD.encode(bytes)).collect(),
        };
        let mut text = serde_json::to_string_pretty(&json).expect("strings always serialise");
        text.push('\n');
        text
    }

    /// From that text; the caps of bundles hold.
    ///
    /// # Errors
    /// What is no such file, or is larger than a bundle may be.
    pub fn from_json(text: &str) -> Result<Self, VerifyError> {
        const MALFORMED: VerifyError = VerifyError::Malformed { what: "bundle file" };
        if text.len() as u64 > JSON_BYTES_MAX {
            return Err(VerifyError::TooLarge { what: "bundle file", bytes: text.len() as u64, max: JSON_BYTES_MAX });
        }
        let json: Json<'_> = serde_json::from_str(text).map_err(|_| MALFORMED)?;
        if json.format != FORMAT {
            return Err(VerifyError::Malformed { what: "bundle file: its format" });
        }
        let envelope = |raw: &&RawValue| Envelope::from_json(raw.get());
        let decode = |text: &str, what, max: usize| {
            let bytes = STANDARD.decode(text).map_err(|_| MALFORMED)?;
            match bytes.len() <= max {
                true => Ok(bytes),
                false => Err(VerifyError::TooLarge { what, bytes: bytes.len() as u64, max: max as u64 }),
            }
        };
        let mut chunks = HashMap::new();
        for text in &json.chunks {
            let bytes = decode(text, "chunk", CHUNK_BYTES_MAX)?;
            chunks.insert(Digest::of(&bytes), bytes);
        }
        Ok(Self {
            roots: json.roots.iter().map(envelope).collect::<Result<_, _>>()?,
            release: envelope(&json.release)?,
            timestamp: json.timestamp.as_ref().map(envelope).transpose()?,
            grants: json.grants.iter().map(envelope).collect::<Result<_, _>>()?,
            manifest: decode(&json.manifest, "manifest", MANIFEST_BYTES_MAX)?,
            chunks,
        })
    }

    /// Verifies everything against a root that a person trusts: the chain of roots from there, the release, every byte of
    /// content. Gives the newest root too. The timestamp and the grants are not asked for: they are short-lived.
    ///
    /// # Errors
    /// The first thing that is not as it should be.
    pub fn verify(&self, trusted: &TrustRoot) -> Result<(VerifiedBundle, TrustRoot), VerifyError> {
        let held = [trusted.clone()];
        let newest = chain::follow(&held, self.roots.iter().cloned())?.pop().unwrap_or_else(|| trusted.clone());
        let release = newest.verify_release(&self.release)?;
        let bundle = release.open_manifest(&self.manifest)?.open(|digest| self.chunks.get(digest).cloned())?;
        Ok((bundle, newest))
    }

    /// The statement and the content that it names, trusting nobody: what a person looks at before signing.
    ///
    /// # Errors
    /// What does not fit together.
    pub fn claimed(&self) -> Result<(ClaimedRelease, Vec<Resource>), VerifyError> {
        let claimed = ClaimedRelease::read(&self.release)?;
        let content = claimed.content(&self.manifest, |digest| self.chunks.get(digest).cloned())?;
        Ok((claimed, content))
    }
}
