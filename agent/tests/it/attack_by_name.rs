//! The rest of the design page's list of attacks, each by its name there: state unchanged to the byte, the code counted
//! and reported, proxies left alone. The first ones are in [`crate::attack`], rotation in [`crate::rotation`].

use std::time::Duration;

use prost::Message;
use sealane_agent::start;
use sealane_model::bundle::transfer;
use sealane_model::envelope::{Envelope, Signature};
use sealane_model::ids::{Digest, Epoch, FleetId, Revision};
use sealane_model::keys::KeyId;
use sealane_model::release::{ChangeClass, Partition};
use sealane_model::timestamp::Timestamp;
use sealane_model::trust::PlanFloor;
use sealane_proto::v1;

use crate::attack::{Bench, spoil};
use crate::fake::{Authority, Fleet, Proxy, Signed, audit_head, settings};

/// A good next release whose manifest says something else.
fn with_manifest(bench: &Bench, resources: Vec<v1::Resource>, chunks: &[&[u8]]) -> Signed {
    let manifest = v1::Manifest { resources }.encode_to_vec();
    let digest = Digest::of(&manifest);
    let mut signed = bench.fleet.release(8, "# eight\n", |release| {
        release.manifest_digest = digest;
        release.manifest_bytes = manifest.len() as u64;
    });
    signed.blobs = chunks.iter().map(|chunk| (Digest::of(chunk), chunk.to_vec())).collect();
    signed.blobs.insert(digest, manifest);
    bench.authority.hold(&signed);
    signed
}

fn resource(name: &str, content: &[u8]) -> v1::Resource {
    let digest = Digest::of(content).to_vec();
    v1::Resource {
        kind: "config".into(),
        name: name.into(),
        digest: digest.clone(),
        length: content.len() as u64,
        chunks: vec![v1::ChunkRef { digest, length: content.len() as u32 }],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn arbitrary_content() {
    let bench = Bench::new().await;
    let mut desired = bench.next(&bench.aborted, vec![]);
    let garbage = v1::Envelope {
        payload_type: "application/vnd.sealane.release.v1+protobuf".into(),
        payload: vec![0xff; 1000],
        signatures: vec![v1::Signature { key_id: "00".into(), signature: vec![0; 64] }],
    };
    desired.candidate.as_mut().unwrap().release = Some(garbage);
    bench.refuses(desired, "threshold_not_met").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn same_signature_counted_twice() {
    let bench = Bench::of(Fleet::two_of_two("f", 1)).await;
    let new = bench.fleet.release(8, "# eight\n", |_| {});
    let mut desired = bench.next(&new, vec![]);
    let candidate = desired.candidate.as_mut().unwrap();
    candidate.release = spoil(candidate.release.take(), |envelope| {
        envelope.signatures.truncate(1);
        envelope.signatures.push(envelope.signatures[0].clone());
    });
    bench.refuses(desired, "threshold_not_met").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_key_ids_for_one_key() {
    let bench = Bench::of(Fleet::two_of_two("f", 1)).await;
    let new = bench.fleet.release(8, "# eight\n", |_| {});
    let mut envelope = new.envelope.clone();
    let other = bench.fleet.second.as_ref().unwrap().public().id();
    envelope.signatures.truncate(1);
    envelope.signatures.push(Signature { key_id: other, bytes: envelope.signatures[0].bytes.clone() });
    envelope.signatures.push(Signature { key_id: KeyId("ab".into()), bytes: envelope.signatures[0].bytes.clone() });
    let mut desired = bench.next(&new, vec![]);
    desired.candidate.as_mut().unwrap().release = Some((&envelope).into());
    bench.refuses(desired, "threshold_not_met").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn withheld_revision() {
    // Someone in between shows the fleet as it was before r6, with documents that were good then.
    let bench = Bench::new().await;
    let mut desired = bench.fleet.desired(Some(&bench.stable), None);
    desired.state_version = 8;
    desired.timestamp = Some((&bench.fleet.timestamp(&bench.stable, 9, 10)).into());
    bench.refuses(desired, "timestamp_rolled_back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mix_and_match_of_resources() {
    let bench = Bench::new().await;
    let new = bench.fleet.release(8, "# eight\n", |_| {});
    bench.authority.hold(&new);
    // The content of another honest revision under the name of this one's.
    let (digest, _) = new.blobs.iter().find(|(_, bytes)| bytes.as_slice() == b"# eight\n").unwrap();
    let (_, other) = bench.stable.blobs.iter().find(|(_, bytes)| bytes.as_slice() == b"# five\n").unwrap();
    bench.authority.tamper(*digest, other);
    let desired = bench.next(&new, vec![]);
    bench.refuses(desired, "wrong_digest").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn omitted_resource() {
    let bench = Bench::new().await;
    let mut cut = resource("fleet.yaml", b"# whole\n");
    cut.length += 10;
    let new = with_manifest(&bench, vec![cut], &[b"# whole\n"]);
    let desired = bench.next(&new, vec![]);
    bench.refuses(desired, "wrong_length").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_data() {
    let bench = Bench::new().await;
    let new = bench.fleet.release(8, "# eight\n", |release| release.manifest_bytes = 1 << 40);
    bench.authority.hold(&new);
    let desired = bench.next(&new, vec![]);
    bench.refuses(desired, "too_large").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn decompression_bomb() {
    let bench = Bench::new().await;
    let new = bench.fleet.release(8, "# eight\n", |_| {});
    bench.authority.hold(&new);
    let (digest, _) = new.blobs.iter().find(|(_, bytes)| bytes.as_slice() == b"# eight\n").unwrap();
    bench.authority.pack(*digest, transfer::deflate(&vec![0; 64 << 20]).unwrap());
    let desired = bench.next(&new, vec![]);
    bench.refuses(desired, "too_large").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicate_or_unsorted_names() {
    let bench = Bench::new().await;
    let twice = vec![resource("b", b"# b\n"), resource("a", b"# a\n")];
    let new = with_manifest(&bench, twice, &[b"# a\n", b"# b\n"]);
    let desired = bench.next(&new, vec![]);
    bench.refuses(desired, "unsorted_manifest").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_critical_field() {
    let bench = Bench::new().await;
    let new = bench.fleet.release(8, "# eight\n", |release| release.capabilities = vec!["quantum.v9".into()]);
    bench.authority.hold(&new);
    let desired = bench.next(&new, vec![]);
    bench.refuses(desired, "missing_capability").await;
}

fn careful() -> PlanFloor {
    PlanFloor {
        stages_min: 2,
        bake_min: Duration::from_secs(60),
        first_share_max_bp: Some(500),
        change_classes: vec![ChangeClass::Standard, ChangeClass::Revert],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn skipped_canary_by_a_stolen_authority_key() {
    let bench = Bench::of(Fleet::with_floor("f", 1, careful())).await;
    let straight = bench.fleet.release(8, "# eight\n", |release| drop(release.plan.stages.drain(..3)));
    bench.authority.hold(&straight);
    let desired = bench.next(&straight, vec![bench.fleet.grant(&straight, 11, u64::MAX)]);
    bench.refuses(desired, "below_plan_floor").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn skipped_canary_by_a_stolen_authority_key_that_calls_it_a_revert() {
    let bench = Bench::of(Fleet::with_floor("f", 1, careful())).await;
    let revert = bench.fleet.release(8, "# eight\n", |release| release.change_class = ChangeClass::Revert);
    bench.authority.hold(&revert);
    let desired = bench.next(&revert, vec![bench.fleet.grant(&revert, 11, u64::MAX)]);
    bench.refuses(desired, "below_plan_floor").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_set_back() {
    let bench = Bench::new().await;
    let new = bench.fleet.release(8, "# eight\n", |_| {});
    bench.authority.hold(&new);
    let mut desired = bench.next(&new, vec![]);
    desired.timestamp = Some((&bench.fleet.timestamp(&new, 6, 10)).into());
    bench.refuses(desired, "timestamp_rolled_back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_set_back_so_that_void_grants_are_good_again() {
    let bench = Bench::new().await;
    let new = bench.fleet.release(8, "# eight\n", |_| {});
    bench.authority.hold(&new);
    let mut desired = bench.next(&new, vec![bench.fleet.grant(&new, 9, u64::MAX)]);
    desired.timestamp = Some((&bench.fleet.timestamp(&new, 8, 9)).into());
    bench.refuses(desired, "timestamp_rolled_back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_leader() {
    // A second authority that still lives in epoch 0, while the fleet has gone on to epoch 1.
    let mut bench = Bench::new().await;
    let of_epoch = |epoch, signed: &Signed, time| {
        let timestamp = Timestamp {
            fleet: FleetId("f".into()),
            epoch: Epoch(epoch),
            heads: vec![(Partition::Config, Revision(signed.revision), signed.digest)],
            time_unix_ms: time,
            expires_unix_ms: i64::MAX / 2,
            grant_sequence_min: 10,
            root_version: 1,
            audit_head: vec![],
        };
        timestamp.sign(&[&bench.fleet.key])
    };
    let new = bench.fleet.release(7, "# seven\n", |release| release.epoch = Epoch(1));
    bench.authority.hold(&new);
    let mut desired = bench.fleet.desired(Some(&new), None);
    desired.state_version = 8;
    desired.timestamp = Some((&of_epoch(1, &new, 8)).into());
    bench.authority.offer(desired);
    bench.authority.report("epoch 1", |report| report.epoch == 1).await;
    bench.proxy.obey("r7", |desired| desired.active_digest == new.digest.to_vec()).await;

    let before = bench.state();
    let stale = bench.fleet.release(9, "# nine of the stale leader\n", |_| {});
    bench.authority.hold(&stale);
    let mut desired = bench.fleet.desired(Some(&stale), None);
    desired.state_version = 9;
    desired.timestamp = Some((&of_epoch(0, &stale, 9)).into());
    bench.authority.offer(desired);
    let report = bench.authority.report("a refusal", |report| !report.refused.is_empty()).await;
    assert_eq!(report.refused[0].code, "timestamp_rolled_back");
    // Even with today's timestamp its release is of the past.
    let mut desired = bench.fleet.desired(Some(&stale), None);
    desired.state_version = 10;
    desired.timestamp = Some((&of_epoch(1, &new, 10)).into());
    bench.authority.offer(desired);
    let report = bench.authority.report("another", |report| report.refused.len() == 2).await;
    assert!(report.refused.iter().any(|one| one.code == "revision_too_old"), "{:?}", report.refused);
    assert_eq!(before, bench.state());
    bench.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_that_the_root_role_has_not_allowed() {
    let fleet = Fleet::new("f", 1);
    let mut document = sealane_model::trust::TrustRoot::pinned(&fleet.root).unwrap().document().clone();
    document.epoch_max = Some(Epoch(1));
    let root = document.sign(&[&fleet.key]);
    let bench = Bench::of(Fleet { root, ..fleet }).await;
    let high = bench.fleet.release(1, "# one of epoch 2\n", |release| release.epoch = Epoch(2));
    bench.authority.hold(&high);
    let mut desired = bench.next(&high, vec![]);
    desired.timestamp = Some((&bench.fleet.timestamp(&bench.aborted, 8, 10)).into());
    bench.refuses(desired, "epoch_not_allowed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_state_wiped() {
    // The agent lost its ledger; its proxy has not. What it has taken in stands above the old revision that is offered.
    let (directory, fleet) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1));
    let mut authority = Authority::start().await;
    let agent = start(settings(directory.path(), &fleet, authority.address)).await.unwrap();
    let before = fleet.release(6, "# six\n", |_| {});
    let seen = fleet.release(7, "# seven\n", |release| release.base = Some(before.digest));
    let url = format!("http://{}", agent.grpc_addr());
    let _proxy = Proxy::attach_with(&url, &fleet, "p1", "i1", Some(&seen.envelope)).await.unwrap();
    let report = authority.report("the floor", |report| report.revision_floor == 7).await;
    assert_eq!(report.refused, []);

    let old = fleet.release(5, "# five\n", |_| {});
    authority.hold(&old);
    authority.offer(fleet.desired(Some(&old), None));
    let report = authority.report("a refusal", |report| !report.refused.is_empty()).await;
    assert_eq!((report.refused[0].code.as_str(), report.revision_floor), ("revision_too_old", 7));
    // What the newest was based on is where the fleet may stand: a rollout that was taken back leaves it there.
    authority.hold(&before);
    let mut desired = fleet.desired(Some(&before), None);
    desired.state_version = 8;
    desired.timestamp = Some((&fleet.timestamp(&seen, 8, 0)).into());
    authority.offer(desired);
    authority.report("r6", |report| report.state_version == 8).await;
    // A stranger's release says nothing.
    let forged = Fleet::new("f", 66).release(900, "# high\n", |_| {});
    let _other = Proxy::attach_with(&url, &fleet, "p2", "i2", Some(&forged.envelope)).await.unwrap();
    let next = fleet.release(8, "# eight\n", |_| {});
    authority.hold(&next);
    let mut desired = fleet.desired(Some(&next), None);
    desired.state_version = 9;
    authority.offer(desired);
    let report = authority.report("r8", |report| report.state_version == 9).await;
    assert_eq!(report.revision_floor, 8);
    agent.stop().await;
}

fn with_audit(fleet: &Fleet, signed: &Signed, time: i64, audit: &[Digest]) -> Envelope {
    let timestamp = Timestamp {
        fleet: FleetId("f".into()),
        epoch: Epoch(0),
        heads: vec![(Partition::Config, Revision(signed.revision), signed.digest)],
        time_unix_ms: time,
        expires_unix_ms: i64::MAX / 2,
        grant_sequence_min: 0,
        root_version: 1,
        audit_head: audit_head(audit).unwrap().to_vec(),
    };
    timestamp.sign(&[&fleet.key])
}

#[tokio::test(flavor = "multi_thread")]
async fn history_rewritten_in_the_audit_log() {
    let (directory, fleet) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1));
    let mut authority = Authority::start().await;
    let agent = start(settings(directory.path(), &fleet, authority.address)).await.unwrap();
    let first = fleet.release(1, "# one\n", |_| {});
    authority.hold(&first);
    let entries: Vec<Digest> = (0..4_u8).map(|number| Digest::of(&[number])).collect();
    let offer = |version: i64, log: &[Digest], audit: &[Digest]| {
        authority.audit(log);
        let mut desired = fleet.desired(Some(&first), None);
        desired.state_version = version as u64;
        desired.timestamp = Some((&with_audit(&fleet, &first, version, audit)).into());
        authority.offer(desired);
    };
    let followed = |head: &[Digest]| {
        let (path, head) = (directory.path().join("agent/ledger"), audit_head(head).unwrap().to_string());
        async move {
            let wait = async {
                while !std::fs::read_to_string(&path).unwrap_or_default().contains(&head) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(15), wait).await.expect("the log is followed");
        }
    };
    offer(1, &entries[..2], &entries[..2]);
    followed(&entries[..2]).await;
    offer(2, &entries[..3], &entries[..3]);
    followed(&entries[..3]).await;
    // An entry in the middle is another one now.
    let mut rewritten = entries.clone();
    rewritten[1] = Digest::of(b"nothing happened");
    offer(3, &rewritten, &rewritten);
    let report = authority.report("a refusal", |report| !report.refused.is_empty()).await;
    assert_eq!((report.refused[0].code.as_str(), report.state_version), ("audit_rewritten", 3));
    assert!(report.alarm.contains("cut or rewritten"), "{}", report.alarm);
    agent.stop().await;
}
