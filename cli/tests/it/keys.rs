//! Keys, signatures, exported revisions and audit logs, all without a network.

use std::path::Path;

use sealane_model::audit::{Entry, next_head};
use sealane_model::bundle::file::BundleFile;
use sealane_model::bundle::{Resource, pack};
use sealane_model::ids::{Epoch, FleetId, Revision};
use sealane_model::keys::SigningKey;
use sealane_model::plan::Plan;
use sealane_model::release::{CAPABILITIES, ChangeClass, Partition, Release, SCHEMA};
use sealane_model::trust::{Role, RootDocument, RootKey};

use crate::sealane;

/// A fleet whose releases need the authority's key and `person`'s, with r7 signed by the authority alone.
fn half_signed(folder: &Path, person: &SigningKey) {
    let key = SigningKey::from_entropy([1; 32]);
    let mut document = RootDocument::single_key(FleetId("shop".into()), &key.public(), 0);
    document.keys.push(RootKey { key: person.public(), offline: true, comment: "ana".into() });
    for role in document.roles.iter_mut().filter(|role| role.role == Role::Release) {
        role.key_ids.push(person.public().id());
        role.threshold = 2;
    }
    let root = document.sign(&[&key]);
    let content = b"listen: :8080\nroutes: [{ to: http://localhost:3000 }]\n".to_vec();
    let packed = pack(vec![Resource { kind: "config".into(), name: "fleet.yaml".into(), content }]).unwrap();
    let release = Release {
        fleet: FleetId("shop".into()),
        epoch: Epoch(1),
        revision: Revision(7),
        partition: Partition::Config,
        manifest_digest: packed.manifest_digest,
        manifest_bytes: packed.manifest.len() as u64,
        base: None,
        capabilities: CAPABILITIES.iter().map(|one| (*one).to_owned()).collect(),
        schema_min: SCHEMA,
        schema_max: SCHEMA,
        plan: Plan::default(),
        change_class: ChangeClass::Standard,
        author: "bob".into(),
        message: "more servers".into(),
        created_at_unix_ms: 0,
        producer: "test".into(),
    };
    let file = BundleFile {
        roots: vec![root.clone()],
        release: release.sign(&[&key]),
        timestamp: None,
        grants: Vec::new(),
        manifest: packed.manifest,
        chunks: packed.chunks.into_iter().collect(),
    };
    std::fs::write(folder.join("r7.json"), file.to_json()).unwrap();
    std::fs::write(folder.join("trust.json"), root.to_json()).unwrap();
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_person_makes_a_key_signs_a_revision_and_anybody_verifies_it() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| sealane().current_dir(folder.path()).args(args).output().unwrap();
    let made = run(&["key", "generate", "--out", "ana.pem", "--comment", "Ana, laptop"]);
    assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    let again = run(&["key", "generate", "--out", "ana.pem"]);
    assert_eq!(again.status.code(), Some(1), "a key is never overwritten");
    let pem = std::fs::read_to_string(folder.path().join("ana.pem")).unwrap();
    let shown = run(&["key", "show", "ana.pub"]);
    assert!(text(&shown.stdout).contains("sealane-ed25519 ") && text(&shown.stdout).contains("Ana, laptop"));
    assert!(text(&shown.stdout).starts_with(text(&made.stdout).trim()), "the id is the same");
    let person = SigningKey::from_pem(&pem).unwrap();
    half_signed(folder.path(), &person);

    let refused = run(&["revision", "verify", "r7.json", "--trust", "trust.json"]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("1 of 2 keys"), "{}", text(&refused.stderr));
    let dry = run(&["sign", "r7.json", "--key", "ana.pem", "--trust", "trust.json", "--dry-run"]);
    assert!(text(&dry.stderr).contains("more servers"), "{}", text(&dry.stderr));
    let signed = run(&["sign", "r7.json", "--key", "ana.pem", "--trust", "trust.json"]);
    assert_eq!(signed.status.code(), Some(0), "{}", text(&signed.stderr));
    let good = run(&["revision", "verify", "r7.json", "--trust", "trust.json", "-o", "json"]);
    assert_eq!(good.status.code(), Some(0), "{}", text(&good.stderr));
    let value: serde_json::Value = serde_json::from_slice(&good.stdout).unwrap();
    assert_eq!((value["revision"].as_u64(), value["trusted"].as_bool()), (Some(7), Some(true)));
    assert_eq!(value["signed_by"].as_array().unwrap().len(), 2);
    for output in [&made, &shown, &signed, &good] {
        let all = text(&output.stdout) + &text(&output.stderr);
        assert!(!all.contains("PRIVATE KEY") && !pem.lines().nth(1).is_some_and(|line| all.contains(line)));
    }
}

#[test]
fn a_stranger_s_key_and_a_changed_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| sealane().current_dir(folder.path()).args(args).output().unwrap();
    half_signed(folder.path(), &SigningKey::from_entropy([2; 32]));
    std::fs::write(folder.path().join("x.pem"), SigningKey::from_entropy([66; 32]).to_pem()).unwrap();
    let stranger = run(&["sign", "r7.json", "--key", "x.pem", "--trust", "trust.json"]);
    assert_eq!(stranger.status.code(), Some(5), "{}", text(&stranger.stderr));
    // One byte of the content is another.
    let path = folder.path().join("r7.json");
    let mut file = BundleFile::from_json(&std::fs::read_to_string(&path).unwrap()).unwrap();
    file.chunks = file
        .chunks
        .into_values()
        .map(|bytes| [b"#", bytes.as_slice()].concat())
        .map(|bytes| (sealane_model::ids::Digest::of(&bytes), bytes))
        .collect();
    std::fs::write(&path, file.to_json()).unwrap();
    let changed = run(&["sign", "r7.json", "--key", "x.pem"]);
    assert_eq!(changed.status.code(), Some(3), "{}", text(&changed.stderr));
    assert!(text(&changed.stderr).contains("missing"), "{}", text(&changed.stderr));
    let nonsense = run(&["revision", "verify", "x.pem"]);
    assert_eq!(nonsense.status.code(), Some(3), "{}", text(&nonsense.stderr));
}

#[test]
fn an_exported_audit_log_is_checked_line_by_line() {
    let folder = tempfile::tempdir().unwrap();
    let mut head = None;
    let mut lines = Vec::new();
    for sequence in 1..=3_u64 {
        let mut entry = Entry {
            sequence,
            at_unix_ms: 1,
            actor: "ana".into(),
            action: "publish".into(),
            subject: format!("r{sequence}"),
            digest: String::new(),
            detail: "{}".into(),
            hash: String::new(),
        };
        head = Some(next_head(head.as_ref(), &entry.digest()));
        entry.hash = head.unwrap().to_string();
        lines.push(serde_json::to_string(&entry).unwrap());
    }
    let path = folder.path().join("audit.jsonl");
    let verify = |lines: &[String], more: &[&str]| {
        std::fs::write(&path, lines.join("\n")).unwrap();
        sealane().args(["audit", "verify"]).arg(&path).args(more).output().unwrap()
    };
    let head = head.unwrap().to_string();
    assert_eq!(verify(&lines, &["--head", &head]).status.code(), Some(0));
    let cut = verify(&lines[..2], &["--head", &head]);
    assert_eq!(cut.status.code(), Some(1), "{}", text(&cut.stderr));
    let edited = vec![lines[0].clone(), lines[1].replace("ana", "bob"), lines[2].clone()];
    let found = verify(&edited, &[]);
    assert_eq!(found.status.code(), Some(1));
    assert!(text(&found.stderr).contains("entry 2"), "{}", text(&found.stderr));
}
