//! A small fleet's keys and documents, all from fixed entropy.

use prost::Message;
use sealane_model::bundle::{Packed, Resource, pack};
use sealane_model::envelope::Envelope;
use sealane_model::grant::Grant;
use sealane_model::ids::{Digest, Epoch, FleetId, Revision};
use sealane_model::keys::SigningKey;
use sealane_model::plan::Plan;
use sealane_model::release::{CAPABILITIES, ChangeClass, Partition, Release, SCHEMA, VerifiedRelease};
use sealane_model::timestamp::Timestamp;
use sealane_model::trust::{PlanFloor, Role, RoleKeys, RootDocument, RootKey, TrustRoot};

pub(crate) const NOW_UNIX_MS: i64 = 1_760_000_000_000;

pub(crate) fn fleet() -> FleetId {
    FleetId("eu-shop".into())
}

/// The same seed gives the same key.
pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_entropy([seed; 32])
}

pub(crate) fn root_key(key: &SigningKey) -> RootKey {
    RootKey { key: key.public(), offline: false, comment: String::new() }
}

/// Root 1 of 2 keys; release 2 of 3; timestamp 1 of 1. Keys 1–2, 11–13, 21.
pub(crate) fn document() -> RootDocument {
    let keys = [1, 2, 11, 12, 13, 21].map(|seed| root_key(&key(seed)));
    let role = |role, seeds: &[u8], threshold| RoleKeys {
        role,
        key_ids: seeds.iter().map(|seed| key(*seed).public().id()).collect(),
        threshold,
    };
    RootDocument {
        fleet: fleet(),
        version: 1,
        keys: keys.into(),
        roles: vec![
            role(Role::Root, &[1, 2], 1),
            role(Role::Release, &[11, 12, 13], 2),
            role(Role::Timestamp, &[21], 1),
        ],
        plan_floor: PlanFloor::default(),
        created_at_unix_ms: NOW_UNIX_MS,
        epoch_max: None,
    }
}

pub(crate) fn root() -> TrustRoot {
    TrustRoot::pinned(&document().sign(&[&key(1)])).unwrap()
}

/// A root in which one key has every role with threshold 1.
pub(crate) fn easy_root() -> TrustRoot {
    TrustRoot::pinned(&RootDocument::single_key(fleet(), &key(1).public(), NOW_UNIX_MS).sign(&[&key(1)])).unwrap()
}

pub(crate) fn config(text: &str) -> Vec<Resource> {
    vec![Resource { kind: "config".into(), name: "fleet.yaml".into(), content: text.into() }]
}

pub(crate) fn release(revision: u64, packed: &Packed) -> Release {
    Release {
        fleet: fleet(),
        epoch: Epoch(1),
        revision: Revision(revision),
        partition: Partition::Config,
        manifest_digest: packed.manifest_digest,
        manifest_bytes: packed.manifest.len() as u64,
        base: None,
        capabilities: CAPABILITIES.iter().map(|one| (*one).to_owned()).collect(),
        schema_min: SCHEMA,
        schema_max: SCHEMA,
        plan: Plan::default(),
        change_class: ChangeClass::Standard,
        author: "ana".into(),
        message: "more checkout servers".into(),
        created_at_unix_ms: NOW_UNIX_MS,
        producer: "sealane 0.1.0".into(),
    }
}

/// A release of `text` as revision `revision`, signed by two of the three release keys.
pub(crate) fn signed_release(revision: u64, text: &str) -> Envelope {
    release(revision, &pack(config(text)).unwrap()).sign(&[&key(11), &key(12)])
}

pub(crate) fn verified(revision: u64, text: &str) -> VerifiedRelease {
    root().verify_release(&signed_release(revision, text)).unwrap()
}

pub(crate) fn timestamp() -> Timestamp {
    Timestamp {
        fleet: fleet(),
        epoch: Epoch(1),
        heads: vec![(Partition::Config, Revision(41), Digest([41; 32]))],
        time_unix_ms: NOW_UNIX_MS,
        expires_unix_ms: NOW_UNIX_MS + 60_000,
        grant_sequence_min: 7,
        root_version: 1,
        audit_head: vec![3; 32],
    }
}

pub(crate) fn grant(release: &VerifiedRelease) -> Grant {
    Grant {
        fleet: fleet(),
        epoch: release.release().epoch,
        revision: release.release().revision,
        release_digest: release.digest(),
        wave: 0,
        stage: 1,
        cut: u64::MAX / 10,
        regions: vec!["eu".into()],
        sequence: 8,
        not_after_unix_ms: NOW_UNIX_MS + 60_000,
        proxy: None,
    }
}

/// The manifest as anyone could write it; tags as in `sealane/v1/bundle.proto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ForgedManifest {
    #[prost(message, repeated, tag = "1")]
    pub(crate) resources: Vec<ForgedResource>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ForgedResource {
    #[prost(string, tag = "1")]
    pub(crate) kind: String,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) digest: Vec<u8>,
    #[prost(uint64, tag = "4")]
    pub(crate) length: u64,
    #[prost(message, repeated, tag = "5")]
    pub(crate) chunks: Vec<ForgedChunk>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ForgedChunk {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) digest: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub(crate) length: u32,
}

/// A verified release of whatever manifest bytes: what a careless or hostile signer could make.
pub(crate) fn release_of(manifest: &[u8]) -> VerifiedRelease {
    let packed = Packed { manifest: manifest.to_vec(), manifest_digest: Digest::of(manifest), chunks: Vec::new() };
    root().verify_release(&release(42, &packed).sign(&[&key(11), &key(12)])).unwrap()
}
