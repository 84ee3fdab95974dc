//! The protobuf form of the manifest, tags as in `sealane/v1/bundle.proto`.

use prost::Message;

use super::ResourceEntry;
use crate::ids::Digest;
use crate::verify::VerifyError;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Manifest {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<WireResource>,
}

#[derive(Clone, PartialEq, Message)]
struct WireResource {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(bytes = "vec", tag = "3")]
    digest: Vec<u8>,
    #[prost(uint64, tag = "4")]
    length: u64,
    #[prost(message, repeated, tag = "5")]
    chunks: Vec<ChunkRef>,
}

#[derive(Clone, PartialEq, Message)]
struct ChunkRef {
    #[prost(bytes = "vec", tag = "1")]
    digest: Vec<u8>,
    #[prost(uint32, tag = "2")]
    length: u32,
}

impl From<&[ResourceEntry]> for Manifest {
    fn from(entries: &[ResourceEntry]) -> Self {
        let chunk = |(digest, length): &(Digest, u32)| ChunkRef { digest: digest.to_vec(), length: *length };
        let resource = |entry: &ResourceEntry| WireResource {
            kind: entry.kind.clone(),
            name: entry.name.clone(),
            digest: entry.digest.to_vec(),
            length: entry.length,
            chunks: entry.chunks.iter().map(chunk).collect(),
        };
        Self { resources: entries.iter().map(resource).collect() }
    }
}

/// The entries as they are written; their order and sums are not looked at here.
pub(super) fn decode(manifest: &[u8]) -> Result<Vec<ResourceEntry>, VerifyError> {
    let message = Manifest::decode(manifest).map_err(|_| VerifyError::Malformed { what: "manifest" })?;
    message.resources.into_iter().map(entry).collect()
}

fn entry(wire: WireResource) -> Result<ResourceEntry, VerifyError> {
    let digest = |bytes: &[u8]| Digest::from_slice(bytes).ok_or(VerifyError::Malformed { what: "manifest: a digest" });
    let mut chunks = Vec::new();
    for one in &wire.chunks {
        chunks.push((digest(&one.digest)?, one.length));
    }
    Ok(ResourceEntry { digest: digest(&wire.digest)?, length: wire.length, chunks, kind: wire.kind, name: wire.name })
}
