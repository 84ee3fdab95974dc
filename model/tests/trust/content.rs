//! Packing and opening content.

use std::collections::{HashMap, HashSet};

use sealane_model::bundle::{CHUNK_BYTES_MAX, Packed, Resource, VerifiedBundle, pack, transfer};
use sealane_model::ids::Digest;

use crate::support::{config, release_of};

fn open(packed: &Packed) -> VerifiedBundle {
    let store: HashMap<Digest, Vec<u8>> = packed.chunks.iter().cloned().collect();
    let manifest = release_of(&packed.manifest).open_manifest(&packed.manifest).unwrap();
    assert_eq!(manifest.chunks().len(), packed.chunks.len());
    manifest.open(|digest| store.get(digest).cloned()).unwrap()
}

/// A config of `lines` routes, no two alike.
fn routes(lines: usize) -> Vec<String> {
    let line =
        |n: usize| format!("  - {{ path_prefix: /shop/{n:06}/, to: \"http://10.{}.{}.1:8080\" }}\n", n % 251, n % 241);
    (0..lines).map(line).collect()
}

#[test]
fn what_is_opened_is_what_was_packed() {
    let resources = vec![
        Resource { kind: "sandbox".into(), name: "sandbox.json".into(), content: b"[]".to_vec() },
        Resource { kind: "config".into(), name: "fleet.yaml".into(), content: routes(20_000).concat().into_bytes() },
        Resource { kind: "config2".into(), name: "empty".into(), content: Vec::new() },
    ];
    let bundle = open(&pack(resources.clone()).unwrap());
    let names: Vec<_> = bundle.resources().iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["fleet.yaml", "empty", "sandbox.json"]);
    assert_eq!(bundle.resources()[0], resources[1]);
    assert_eq!(bundle.config().unwrap(), ("fleet.yaml", routes(20_000).concat().as_str()));
}

#[test]
fn a_bundle_has_exactly_one_config_and_it_is_text() {
    let config =
        |name: &str, content: &[u8]| Resource { kind: "config".into(), name: name.into(), content: content.into() };
    let two = open(&pack(vec![config("a", b""), config("b", b"")]).unwrap());
    let none = open(&pack(vec![]).unwrap());
    let binary = open(&pack(vec![config("a", &[0xff])]).unwrap());
    for bundle in [two, none, binary] {
        assert_eq!(bundle.config().unwrap_err().code(), "malformed");
    }
}

#[test]
fn a_one_line_change_in_ten_megabytes_moves_at_most_two_chunks() {
    let mut lines = routes(160_000);
    let whole = lines.concat();
    assert!(whole.len() > 10 << 20, "{}", whole.len());
    let before = pack(config(&whole)).unwrap();
    let mean = whole.len() / before.chunks.len();
    assert!((48 << 10..=80 << 10).contains(&mean), "the mean chunk has {mean} bytes");
    assert!(before.chunks.iter().all(|(_, bytes)| bytes.len() <= CHUNK_BYTES_MAX));
    let known: HashSet<Digest> = before.chunks.iter().map(|(digest, _)| *digest).collect();
    for at in [0, 1, 40_404, 80_000, 123_456, 159_999] {
        let line = std::mem::replace(&mut lines[at], "  - { path_prefix: /new/, to: \"http://10.0.0.1\" }\n".into());
        let after = pack(config(&lines.concat())).unwrap();
        let moved = after.chunks.iter().filter(|(digest, _)| !known.contains(digest)).count();
        assert!((1..=2).contains(&moved), "{moved} chunks moved for line {at}");
        lines[at] = line;
    }
}

#[test]
fn a_one_route_change_among_a_hundred_thousand_travels_in_64_kib() {
    let mut lines = routes(100_000);
    let before = pack(config(&lines.concat())).unwrap();
    let known: HashSet<Digest> = before.chunks.iter().map(|(digest, _)| *digest).collect();
    for at in [0, 50_505, 99_999] {
        let line = std::mem::replace(&mut lines[at], "  - { path_prefix: /new/, to: \"http://10.0.0.1\" }\n".into());
        let after = pack(config(&lines.concat())).unwrap();
        let wire = |bytes: &[u8]| transfer::deflate(bytes).map_or(bytes.len(), |deflated| deflated.len());
        let chunks = after.chunks.iter().filter(|(digest, _)| !known.contains(digest));
        let moved = chunks.map(|(_, bytes)| wire(bytes)).sum::<usize>() + wire(&after.manifest);
        // Release, timestamp and a grant for each stage and wave are some kilobytes more.
        assert!(moved <= 48 << 10, "{moved} bytes for line {at}");
        lines[at] = line;
    }
}

#[test]
fn packing_is_the_same_everywhere() {
    let text = routes(5_000).concat();
    assert_eq!(pack(config(&text)).unwrap(), pack(config(&text)).unwrap());
    let twice = pack(vec![
        Resource { kind: "config".into(), name: "a".into(), content: text.clone().into() },
        Resource { kind: "config".into(), name: "b".into(), content: text.clone().into() },
    ])
    .unwrap();
    assert_eq!(twice.chunks, pack(config(&text)).unwrap().chunks, "equal content is one set of chunks");
}
