//! The rest of the design page's list of attacks, as far as they reach a proxy, each by its name there. What needs the
//! timestamp document (a withheld revision, a clock set back, a grant taken back) ends at the agent, which has it.

use prost::Message;
use sealane_model::envelope::Signature;
use sealane_model::ids::{Digest, Epoch};
use sealane_model::keys::KeyId;
use sealane_model::trust::TrustRoot;
use sealane_proto::v1;

use crate::attack::Bench;
use crate::fake::{Fleet, Signed, command, config};

async fn bench() -> Bench {
    Bench::of(Fleet::new("f", 1)).await
}

/// A good next release whose manifest says something else.
fn with_manifest(bench: &Bench, resources: Vec<v1::Resource>, chunks: &[&[u8]]) -> Signed {
    let manifest = v1::Manifest { resources }.encode_to_vec();
    let digest = Digest::of(&manifest);
    let mut signed = bench.fleet.release_as(8, &config("eight"), |release| {
        release.manifest_digest = digest;
        release.manifest_bytes = manifest.len() as u64;
    });
    signed.blobs = chunks.iter().map(|chunk| (Digest::of(chunk), chunk.to_vec())).collect();
    signed.blobs.insert(digest, manifest);
    bench.agent.hold(&signed);
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
    let bench = bench().await;
    let new = bench.fleet.release(8, &config("eight"));
    let mut desired = command(3, &[&bench.stable, &new], &bench.stable);
    desired.releases[1].payload = vec![0xff; 1000];
    bench.refuses(desired, "threshold_not_met").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn same_signature_counted_twice() {
    let bench = Bench::of(Fleet::two_of_two("f", 1)).await;
    let new = bench.fleet.release(8, &config("eight"));
    let mut desired = command(3, &[&bench.stable, &new], &new);
    desired.releases[1].signatures.truncate(1);
    let same = desired.releases[1].signatures[0].clone();
    desired.releases[1].signatures.push(same);
    bench.refuses(desired, "threshold_not_met").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_key_ids_for_one_key() {
    let bench = Bench::of(Fleet::two_of_two("f", 1)).await;
    let mut new = bench.fleet.release(8, &config("eight"));
    let other = bench.fleet.second.as_ref().unwrap().public().id();
    new.envelope.signatures.truncate(1);
    let bytes = new.envelope.signatures[0].bytes.clone();
    new.envelope.signatures.push(Signature { key_id: other, bytes: bytes.clone() });
    new.envelope.signatures.push(Signature { key_id: KeyId("ab".into()), bytes });
    let desired = command(3, &[&bench.stable, &new], &new);
    bench.refuses(desired, "threshold_not_met").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cross_type_replay() {
    let bench = bench().await;
    let mut desired = command(3, &[&bench.stable], &bench.stable);
    desired.releases.push((&bench.fleet.grant(&bench.stable, |_| {})).into());
    bench.refuses(desired, "wrong_type").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn absurdly_high_revision() {
    let bench = bench().await;
    let high = bench.fleet.release(2_000_000, &config("high"));
    bench.agent.hold(&high);
    let desired = command(3, &[&bench.stable, &high], &high);
    bench.refuses(desired, "revision_too_high").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mix_and_match_of_resources() {
    let bench = bench().await;
    let new = bench.fleet.release(8, &config("eight"));
    bench.agent.hold(&new);
    let chunk = |signed: &Signed, note: &str| {
        let text = config(note);
        signed.blobs.iter().find(|(_, bytes)| bytes.as_slice() == text.as_bytes()).map(|(digest, _)| *digest).unwrap()
    };
    bench.agent.tamper(chunk(&new, "eight"), config("six").as_bytes());
    let desired = command(3, &[&bench.stable, &new], &bench.stable);
    bench.refuses(desired, "wrong_digest").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn omitted_resource() {
    let bench = bench().await;
    let mut cut = resource("fleet.yaml", b"listen: :0\n");
    cut.length += 10;
    let new = with_manifest(&bench, vec![cut], &[b"listen: :0\n"]);
    let desired = command(3, &[&bench.stable, &new], &bench.stable);
    bench.refuses(desired, "wrong_length").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_data() {
    let bench = bench().await;
    let new = bench.fleet.release_as(8, &config("eight"), |release| release.manifest_bytes = 1 << 40);
    bench.agent.hold(&new);
    let desired = command(3, &[&bench.stable, &new], &bench.stable);
    bench.refuses(desired, "too_large").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicate_or_unsorted_names() {
    let bench = bench().await;
    let twice = vec![resource("a", b"a: 1\n"), resource("a", b"a: 1\n")];
    let new = with_manifest(&bench, twice, &[b"a: 1\n"]);
    let desired = command(3, &[&bench.stable, &new], &bench.stable);
    bench.refuses(desired, "unsorted_manifest").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_critical_field() {
    let bench = bench().await;
    let new = bench.fleet.release_as(8, &config("eight"), |release| release.capabilities = vec!["quantum.v9".into()]);
    bench.agent.hold(&new);
    let desired = command(3, &[&bench.stable, &new], &new);
    bench.refuses(desired, "missing_capability").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn root_replaced() {
    let bench = bench().await;
    let stranger = Fleet::new("f", 66);
    let mut document = TrustRoot::pinned(&stranger.root).unwrap().document().clone();
    document.version = 2;
    let mut desired = command(3, &[&bench.stable], &bench.stable);
    desired.roots = vec![(&document.sign(&[&stranger.key])).into()];
    bench.refuses(desired, "threshold_not_met").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_key_after_rotation() {
    let bench = bench().await;
    let (_, root) = bench.fleet.rotate(2);
    let new = bench.fleet.release(8, &config("eight"));
    bench.agent.hold(&new);
    let mut desired = command(3, &[&bench.stable, &new], &new);
    desired.roots = vec![(&root).into()];
    bench.refuses(desired, "threshold_not_met").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_leader() {
    let mut bench = bench().await;
    let new = bench.fleet.release_as(7, &config("seven of epoch 1"), |release| release.epoch = Epoch(1));
    bench.agent.hold(&new);
    bench.agent.command(command(3, &[&new], &new));
    bench.agent.status("r7", |status| status.generation == 3 && status.active_revision == 7).await;
    let stale = bench.fleet.release(9, &config("nine of epoch 0"));
    bench.agent.hold(&stale);
    bench.agent.command(command(4, &[&stale], &stale));
    let status = bench.agent.status("a refusal", |status| status.refused_bundles > 0).await;
    assert_eq!((status.active_revision, status.refused[0].code.as_str()), (7, "revision_too_old"));
    crate::fake::stop(bench.proxy, bench.control).await;
}
