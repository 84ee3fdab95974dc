//! Content of a revision: packed into a manifest and content-defined chunks, and opened again only when every digest fits.
//!
//! It does not know what the content means, nor where blobs are kept. Packing is the authority's, opening is for agents
//! and proxies, with blobs from any hands. Invariant B1: a [`VerifiedBundle`] holds exactly the bytes that were signed.

use std::collections::{BTreeMap, HashSet};

use prost::Message as _;

use crate::ids::Digest;
use crate::release::VerifiedRelease;
use crate::verify::VerifyError;

mod chunker;
pub mod file;
pub mod transfer;
mod wire;

/// Largest manifest, in bytes.
pub const MANIFEST_BYTES_MAX: usize = 8 << 20;
/// Largest chunk, in bytes.
pub const CHUNK_BYTES_MAX: usize = 256 << 10;
/// Largest content of a revision, all resources together, in bytes.
pub const CONTENT_BYTES_MAX: u64 = 256 << 20;
/// Longest kind and longest name of a resource, in bytes.
const NAME_BYTES_MAX: usize = 1024;

/// A named piece of content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// `config` or `sandbox`.
    pub kind: String,
    /// Such as `fleet.yaml`.
    pub name: String,
    /// The whole.
    pub content: Vec<u8>,
}

/// Content ready to be signed over and stored: blobs are addressed by their SHA-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Encoded manifest.
    pub manifest: Vec<u8>,
    /// Its digest.
    pub manifest_digest: Digest,
    /// Chunks, distinct by digest.
    pub chunks: Vec<(Digest, Vec<u8>)>,
}

/// Cuts content into chunks (content-defined, about 64 KiB, 16 to 256 KiB) and makes the manifest.
/// Errs when a cap is exceeded or names repeat.
pub fn pack(mut resources: Vec<Resource>) -> Result<Packed, VerifyError> {
    let total: u64 = resources.iter().map(|resource| resource.content.len() as u64).sum();
    check_total(total)?;
    resources.sort_by(|one, other| (&one.kind, &one.name).cmp(&(&other.kind, &other.name)));
    let mut entries = Vec::new();
    let mut chunks = Vec::new();
    let mut known = HashSet::new();
    for resource in resources {
        let mut refs = Vec::new();
        for chunk in chunker::chunks(&resource.content) {
            let digest = Digest::of(chunk);
            refs.push((digest, u32::try_from(chunk.len()).expect("a chunk has at most 256 KiB")));
            if known.insert(digest) {
                chunks.push((digest, chunk.to_vec()));
            }
        }
        entries.push(ResourceEntry {
            kind: resource.kind,
            name: resource.name,
            digest: Digest::of(&resource.content),
            length: resource.content.len() as u64,
            chunks: refs,
        });
    }
    check_entries(&entries)?;
    let manifest = wire::Manifest::from(entries.as_slice()).encode_to_vec();
    check_manifest_bytes(manifest.len() as u64)?;
    Ok(Packed { manifest_digest: Digest::of(&manifest), manifest, chunks })
}

/// A verified manifest: which chunks the content needs. Only [`VerifiedRelease::open_manifest`] makes one.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifiedManifest {
    release: VerifiedRelease,
    resources: Vec<ResourceEntry>,
}

/// An entry of the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceEntry {
    /// See [`Resource::kind`].
    pub kind: String,
    /// See [`Resource::name`].
    pub name: String,
    /// Of the whole.
    pub digest: Digest,
    /// Of the whole, in bytes.
    pub length: u64,
    /// In order, with lengths.
    pub chunks: Vec<(Digest, u32)>,
}

/// A release with content of which every byte was verified. Only [`VerifiedManifest::open`] makes one.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifiedBundle {
    release: VerifiedRelease,
    resources: Vec<Resource>,
}

/// Digests of the chunks that a manifest lists, distinct, once its own digest fits. Nobody vouches for it here.
///
/// # Errors
/// Other bytes than `digest` names, or an unsound manifest.
pub fn listed_chunks(manifest: &[u8], digest: &Digest) -> Result<Vec<Digest>, VerifyError> {
    check_manifest_bytes(manifest.len() as u64)?;
    check("manifest", manifest, manifest.len() as u64, digest)?;
    let entries = wire::decode(manifest)?;
    check_entries(&entries)?;
    let mut known = HashSet::new();
    let refs = entries.iter().flat_map(|entry| &entry.chunks).map(|(digest, _)| *digest);
    Ok(refs.filter(|digest| known.insert(*digest)).collect())
}

impl VerifiedRelease {
    /// Checks length, digest, caps and strict order of the manifest that the release names.
    pub fn open_manifest(&self, manifest: &[u8]) -> Result<VerifiedManifest, VerifyError> {
        let signed = self.release();
        check_manifest_bytes(signed.manifest_bytes)?;
        check("manifest", manifest, signed.manifest_bytes, &signed.manifest_digest)?;
        let resources = wire::decode(manifest)?;
        check_entries(&resources)?;
        Ok(VerifiedManifest { release: self.clone(), resources })
    }
}

impl VerifiedManifest {
    /// The release it belongs to.
    #[must_use]
    pub fn release(&self) -> &VerifiedRelease {
        &self.release
    }
    /// What it lists, strictly ascending by (kind, name).
    #[must_use]
    pub fn resources(&self) -> &[ResourceEntry] {
        &self.resources
    }

    /// Digests of the chunks that the content needs, distinct, in order of first use.
    #[must_use]
    pub fn chunks(&self) -> Vec<Digest> {
        let mut known = HashSet::new();
        self.refs().map(|(digest, _)| *digest).filter(|digest| known.insert(*digest)).collect()
    }

    /// The exact length of a chunk in bytes, so that nobody fetches more; `None` for one that is not listed.
    #[must_use]
    pub fn chunk_bytes(&self, chunk: &Digest) -> Option<u32> {
        self.refs().find(|(digest, _)| digest == chunk).map(|(_, length)| *length)
    }

    /// Puts the content together from chunks, checking each one's length and digest and each whole's. `chunk` may give
    /// anything; it is asked for each use of a chunk.
    pub fn open(&self, mut chunk: impl FnMut(&Digest) -> Option<Vec<u8>>) -> Result<VerifiedBundle, VerifyError> {
        let mut resources = Vec::new();
        for entry in &self.resources {
            let mut content = Vec::new();
            for (digest, length) in &entry.chunks {
                let bytes = chunk(digest).ok_or(VerifyError::Missing { what: "chunk", digest: *digest })?;
                check("chunk", &bytes, u64::from(*length), digest)?;
                content.extend_from_slice(&bytes);
            }
            check("resource", &content, entry.length, &entry.digest)?;
            resources.push(Resource { kind: entry.kind.clone(), name: entry.name.clone(), content });
        }
        Ok(VerifiedBundle { release: self.release.clone(), resources })
    }

    fn refs(&self) -> impl Iterator<Item = &(Digest, u32)> {
        self.resources.iter().flat_map(|entry| &entry.chunks)
    }
}

impl VerifiedBundle {
    /// The release it belongs to.
    #[must_use]
    pub fn release(&self) -> &VerifiedRelease {
        &self.release
    }
    /// The config file's name and text. Errs when there is none, more than one, or it is not UTF-8.
    pub fn config(&self) -> Result<(&str, &str), VerifyError> {
        let mut configs = self.resources.iter().filter(|resource| resource.kind == "config");
        let (Some(config), None) = (configs.next(), configs.next()) else {
            return Err(VerifyError::Malformed { what: "bundle: there must be exactly one config" });
        };
        let text = std::str::from_utf8(&config.content)
            .map_err(|_| VerifyError::Malformed { what: "bundle: the config is not UTF-8" })?;
        Ok((&config.name, text))
    }
    /// The sandbox routes. Errs when there is anything beside them: a sandbox revision changes nothing else.
    pub fn sandbox(&self) -> Result<&[u8], VerifyError> {
        match self.resources.as_slice() {
            [only] if only.kind == SANDBOX_KIND => Ok(&only.content),
            _ => Err(VerifyError::Malformed { what: "bundle: there must be sandbox routes and nothing else" }),
        }
    }
    /// All content.
    #[must_use]
    pub fn resources(&self) -> &[Resource] {
        &self.resources
    }
}

/// [`Resource::kind`] of sandbox routes.
pub const SANDBOX_KIND: &str = "sandbox";

/// Length before digest: too many bytes are not even hashed.
fn check(what: &'static str, bytes: &[u8], length: u64, expected: &Digest) -> Result<(), VerifyError> {
    if bytes.len() as u64 != length {
        return Err(VerifyError::WrongLength { what, expected: length, actual: bytes.len() as u64 });
    }
    let actual = Digest::of(bytes);
    if actual != *expected {
        return Err(VerifyError::WrongDigest { what, expected: *expected, actual });
    }
    Ok(())
}

/// Caps, strict order and sums: what a list of entries must keep, on both sides of the wire.
fn check_entries(entries: &[ResourceEntry]) -> Result<(), VerifyError> {
    let mut total = 0_u64;
    let mut before: Option<(&str, &str)> = None;
    let mut lengths: BTreeMap<&Digest, u32> = BTreeMap::new();
    for entry in entries {
        let name = (entry.kind.as_str(), entry.name.as_str());
        if [name.0, name.1]
            .iter()
            .any(|part| part.is_empty() || part.len() > NAME_BYTES_MAX || part.contains(char::is_control))
        {
            return Err(VerifyError::Malformed { what: "manifest: a name" });
        }
        if before.is_some_and(|before| before >= name) {
            return Err(VerifyError::UnsortedManifest { name: format!("{}/{}", entry.kind, entry.name) });
        }
        before = Some(name);
        let mut sum = 0_u64;
        for (digest, length) in &entry.chunks {
            if *length as usize > CHUNK_BYTES_MAX {
                return Err(too_large("chunk", u64::from(*length), CHUNK_BYTES_MAX as u64));
            }
            if *length == 0 || *lengths.entry(digest).or_insert(*length) != *length {
                return Err(VerifyError::Malformed { what: "manifest: length of a chunk" });
            }
            sum += u64::from(*length); // at most 8 MiB of references, each under 2^32
        }
        if sum != entry.length {
            return Err(VerifyError::WrongLength { what: "resource", expected: entry.length, actual: sum });
        }
        total += sum;
        check_total(total)?;
    }
    Ok(())
}

fn check_manifest_bytes(bytes: u64) -> Result<(), VerifyError> {
    if bytes <= MANIFEST_BYTES_MAX as u64 {
        return Ok(());
    }
    Err(too_large("manifest", bytes, MANIFEST_BYTES_MAX as u64))
}

fn check_total(bytes: u64) -> Result<(), VerifyError> {
    if bytes <= CONTENT_BYTES_MAX { Ok(()) } else { Err(too_large("content", bytes, CONTENT_BYTES_MAX)) }
}

fn too_large(what: &'static str, bytes: u64, max: u64) -> VerifyError {
    VerifyError::TooLarge { what, bytes, max }
}
