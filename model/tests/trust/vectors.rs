//! Golden vectors: signed documents of every released wire version still open, and today's code still writes the newest
//! ones byte for byte. `vectors/v1` was made from the fixed entropy of [`crate::support`].

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use sealane_model::bundle::{Packed, Resource, pack};
use sealane_model::cohort::{cut, rank};
use sealane_model::envelope::Envelope;
use sealane_model::grant::Grant;
use sealane_model::ids::{Digest, ProxyId, Revision};
use sealane_model::release::{Floor, Partition, Release};
use sealane_model::timestamp::Timestamp;
use sealane_model::trust::TrustRoot;

use crate::support::{document, grant, key, release, root, timestamp};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/v1")
}

/// Every file of the folder, by name.
fn make() -> Vec<(String, Vec<u8>)> {
    let mut text = String::from("listen: :8080\nroutes:\n");
    for n in 0..2_000 {
        text += &format!("  - {{ path_prefix: /shop/{n}/, to: \"http://10.0.{}.{}:8080\" }}\n", n / 250, n % 250);
    }
    let packed: Packed = pack(vec![
        Resource { kind: "config".into(), name: "fleet.yaml".into(), content: text.into() },
        Resource { kind: "sandbox".into(), name: "sandbox.json".into(), content: b"[]\n".to_vec() },
    ])
    .unwrap();
    let signed = Release { base: Some(Digest([40; 32])), ..release(41, &packed) }.sign(&[&key(11), &key(13)]);
    let verified = root().verify_release(&signed).unwrap();
    let ranks =
        [rank(&verified.digest(), &ProxyId("edge-1".into())), rank(&verified.digest(), &ProxyId("edge-2".into()))];
    let grant = Grant {
        cut: cut(50.0, &ranks).unwrap(),
        regions: vec!["*".into()],
        proxy: Some(ProxyId("edge-1".into())),
        ..grant(&verified)
    };
    let timestamp = Timestamp { heads: vec![(Partition::Config, Revision(41), verified.digest())], ..timestamp() };
    let mut files = vec![
        ("trust.json".to_owned(), document().sign(&[&key(1)]).to_json().into_bytes()),
        ("release.bin".to_owned(), signed.to_bytes()),
        ("grant.bin".to_owned(), grant.sign(&[&key(21)]).to_bytes()),
        ("timestamp.bin".to_owned(), timestamp.sign(&[&key(21)]).to_bytes()),
        ("manifest.bin".to_owned(), packed.manifest),
    ];
    files.extend(packed.chunks.into_iter().map(|(digest, bytes)| (format!("chunks/{digest}"), bytes)));
    files
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap()
}

#[test]
fn documents_of_wire_version_1_still_open() {
    let root =
        TrustRoot::pinned(&Envelope::from_json(std::str::from_utf8(&read("trust.json")).unwrap()).unwrap()).unwrap();
    assert_eq!(*root.document(), document());
    let release = root.verify_release(&Envelope::from_bytes(&read("release.bin")).unwrap()).unwrap();
    assert_eq!(Floor::admit(None, &release).unwrap().revision, Revision(41));
    assert_eq!(release.release().base, Some(Digest([40; 32])));
    let timestamp = root.verify_timestamp(&Envelope::from_bytes(&read("timestamp.bin")).unwrap(), None).unwrap();
    let timestamp = timestamp.timestamp();
    assert_eq!(timestamp.heads, [(Partition::Config, Revision(41), release.digest())]);
    let grant = root.verify_grant(&Envelope::from_bytes(&read("grant.bin")).unwrap()).unwrap();
    let grant = grant.grant();
    assert_eq!(grant.check(&release, timestamp.grant_sequence_min, timestamp.time_unix_ms), Ok(()));
    let covered = ["edge-1", "edge-2"].map(|proxy| grant.covers(&ProxyId(proxy.into()), "eu"));
    assert_eq!(covered.iter().filter(|covered| **covered).count(), 1, "half of two");

    let manifest = release.open_manifest(&read("manifest.bin")).unwrap();
    assert!(manifest.chunks().len() > 2);
    let bundle = manifest.open(|digest| std::fs::read(folder().join(format!("chunks/{digest}"))).ok()).unwrap();
    let (name, text) = bundle.config().unwrap();
    assert_eq!((name, text.lines().count()), ("fleet.yaml", 2_002));
}

#[test]
fn today_s_code_writes_wire_version_1_byte_for_byte() {
    let made: HashMap<_, _> = make().into_iter().collect();
    for (name, bytes) in &made {
        assert!(read(name) == *bytes, "{name} is written in another way than it was");
    }
    let chunks = std::fs::read_dir(folder().join("chunks")).unwrap().count();
    assert_eq!(chunks + 5, made.len(), "a chunk too many");
}

#[test]
#[ignore = "writes the vectors; only for a new wire version"]
fn write_the_vectors() {
    std::fs::create_dir_all(folder().join("chunks")).unwrap();
    for (name, bytes) in make() {
        std::fs::write(folder().join(name), bytes).unwrap();
    }
}
