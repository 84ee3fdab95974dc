//! Attacks on what a release names: manifest and chunks.

use std::collections::HashMap;

use prost::Message as _;
use sealane_model::bundle::{
    CHUNK_BYTES_MAX, CONTENT_BYTES_MAX, MANIFEST_BYTES_MAX, Packed, Resource, VerifiedManifest, pack,
};
use sealane_model::ids::Digest;
use sealane_model::verify::VerifyError;

use crate::support::{ForgedChunk, ForgedManifest, ForgedResource, config, key, release, release_of, root};

fn resource(name: &str, content: &[u8]) -> Resource {
    Resource { kind: "config".into(), name: name.into(), content: content.into() }
}

fn manifest_of(packed: &Packed) -> VerifiedManifest {
    let envelope = release(42, packed).sign(&[&key(11), &key(12)]);
    root().verify_release(&envelope).unwrap().open_manifest(&packed.manifest).unwrap()
}

fn store(packed: &Packed) -> HashMap<Digest, Vec<u8>> {
    packed.chunks.iter().cloned().collect()
}

#[test]
fn mix_and_match_of_resources() {
    let (ours, theirs) = (pack(config("ours")).unwrap(), pack(config("mine")).unwrap());
    let release = release_of(&ours.manifest);
    assert_eq!(
        release.open_manifest(&theirs.manifest),
        Err(VerifyError::WrongDigest {
            what: "manifest",
            expected: ours.manifest_digest,
            actual: theirs.manifest_digest
        })
    );
    let (right, wrong) = (ours.chunks[0].0, theirs.chunks[0].0);
    assert_eq!(
        manifest_of(&ours).open(|_| Some(theirs.chunks[0].1.clone())),
        Err(VerifyError::WrongDigest { what: "chunk", expected: right, actual: wrong })
    );
    // Every chunk is genuine, but they do not make the whole that was signed.
    let mut forged = ForgedManifest::decode(ours.manifest.as_slice()).unwrap();
    forged.resources[0].chunks[0].digest = wrong.to_vec();
    let forged = release_of(&forged.encode_to_vec()).open_manifest(&forged.encode_to_vec()).unwrap();
    assert_eq!(
        forged.open(|_| Some(theirs.chunks[0].1.clone())),
        Err(VerifyError::WrongDigest { what: "resource", expected: right, actual: wrong })
    );
}

#[test]
fn omitted_resource() {
    let packed = pack(vec![resource("a", b"1"), resource("b", b"2")]).unwrap();
    let mut short = ForgedManifest::decode(packed.manifest.as_slice()).unwrap();
    short.resources.pop();
    let short = short.encode_to_vec();
    assert_eq!(
        release_of(&packed.manifest).open_manifest(&short),
        Err(VerifyError::WrongLength {
            what: "manifest",
            expected: packed.manifest.len() as u64,
            actual: short.len() as u64
        })
    );
    let mut store = store(&packed);
    store.remove(&packed.chunks[1].0);
    assert_eq!(
        manifest_of(&packed).open(|digest| store.get(digest).cloned()),
        Err(VerifyError::Missing { what: "chunk", digest: packed.chunks[1].0 })
    );
}

#[test]
fn endless_data() {
    let packed = pack(config("listen: :80")).unwrap();
    let mut longer = packed.chunks[0].1.clone();
    longer.push(b'!');
    assert_eq!(
        manifest_of(&packed).open(|_| Some(longer.clone())),
        Err(VerifyError::WrongLength { what: "chunk", expected: 11, actual: 12 })
    );
    assert_eq!(manifest_of(&packed).chunk_bytes(&packed.chunks[0].0), Some(11), "nobody need fetch more");

    let mut huge = release(1, &packed);
    huge.manifest_bytes = MANIFEST_BYTES_MAX as u64 + 1;
    let huge = root().verify_release(&huge.sign(&[&key(11), &key(12)])).unwrap();
    assert_eq!(huge.open_manifest(&packed.manifest).unwrap_err().code(), "too_large");

    let too_large = |what, bytes, max| VerifyError::TooLarge { what, bytes, max };
    let chunk = |length: usize| ForgedChunk { digest: vec![length as u8; 32], length: length as u32 };
    assert_eq!(
        open(vec![forged("a", vec![chunk(CHUNK_BYTES_MAX + 1)])]),
        too_large("chunk", CHUNK_BYTES_MAX as u64 + 1, CHUNK_BYTES_MAX as u64)
    );
    let chunks = vec![chunk(CHUNK_BYTES_MAX); (CONTENT_BYTES_MAX as usize / CHUNK_BYTES_MAX) / 2];
    let one_more = [chunks.clone(), vec![chunk(CHUNK_BYTES_MAX)]].concat();
    assert_eq!(
        open(vec![forged("a", chunks), forged("b", one_more)]),
        too_large("content", CONTENT_BYTES_MAX + CHUNK_BYTES_MAX as u64, CONTENT_BYTES_MAX)
    );
}

fn forged(name: &str, chunks: Vec<ForgedChunk>) -> ForgedResource {
    ForgedResource {
        kind: "config".into(),
        name: name.into(),
        digest: vec![0; 32],
        length: chunks.iter().map(|chunk| u64::from(chunk.length)).sum(),
        chunks,
    }
}

/// What is said to a manifest of these resources whose release is signed as it should be.
fn open(resources: Vec<ForgedResource>) -> VerifyError {
    let bytes = ForgedManifest { resources }.encode_to_vec();
    release_of(&bytes).open_manifest(&bytes).unwrap_err()
}

#[test]
fn duplicate_or_unsorted_names() {
    let unsorted = |name: &str| VerifyError::UnsortedManifest { name: name.into() };
    assert_eq!(open(vec![forged("a", vec![]), forged("a", vec![])]), unsorted("config/a"));
    assert_eq!(open(vec![forged("b", vec![]), forged("a", vec![])]), unsorted("config/a"));
    let mut sandbox = forged("a", vec![]);
    sandbox.kind = "sandbox".into();
    assert_eq!(open(vec![sandbox, forged("b", vec![])]), unsorted("config/b"), "the kind orders first");
    assert_eq!(pack(vec![resource("a", b"1"), resource("a", b"2")]).unwrap_err(), unsorted("config/a"));
}

#[test]
fn unsound_manifests() {
    let malformed = |what| VerifyError::Malformed { what };
    assert_eq!(open(vec![forged("", vec![])]), malformed("manifest: a name"));
    assert_eq!(open(vec![forged("a\nb", vec![])]), malformed("manifest: a name"));
    assert_eq!(open(vec![forged(&"a".repeat(1025), vec![])]), malformed("manifest: a name"));
    let chunk = |length| ForgedChunk { digest: vec![7; 32], length };
    let length = malformed("manifest: length of a chunk");
    assert_eq!(open(vec![forged("a", vec![chunk(0)])]), length);
    assert_eq!(open(vec![forged("a", vec![chunk(1), chunk(2)])]), length, "one digest, two lengths");
    let mut longer = forged("a", vec![chunk(5)]);
    longer.length = 6;
    assert_eq!(open(vec![longer]), VerifyError::WrongLength { what: "resource", expected: 6, actual: 5 });
    let mut nameless = forged("a", vec![chunk(5)]);
    nameless.chunks[0].digest.pop();
    assert_eq!(open(vec![nameless]), malformed("manifest: a digest"));
}
