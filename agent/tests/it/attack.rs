//! Everything that must be refused: state unchanged to the byte, the code counted, proxies left alone.

use std::collections::BTreeMap;

use sealane_agent::{Agent, start};
use sealane_model::envelope::Envelope;
use sealane_proto::v1;

use crate::fake::{Authority, Fleet, Proxy, Signed, files, settings};

/// A fleet on r5 that has seen r6 rolled out and taken back.
pub(crate) struct Bench {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) fleet: Fleet,
    pub(crate) authority: Authority,
    pub(crate) agent: Agent,
    pub(crate) stable: Signed,
    pub(crate) aborted: Signed,
    pub(crate) proxy: Proxy,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::of(Fleet::new("f", 1)).await
    }

    pub(crate) async fn of(fleet: Fleet) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut authority = Authority::start().await;
        let agent = start(settings(directory.path(), &fleet, authority.address)).await.unwrap();
        let stable = fleet.release(5, "# five\n", |_| {});
        let aborted = fleet.release(6, "# six\n", |release| release.base = Some(stable.digest));
        authority.hold(&stable);
        authority.hold(&aborted);
        authority.offer(fleet.desired(Some(&stable), Some((&aborted, vec![]))));
        authority.report("r6", |report| report.state_version == 6).await;
        let mut over = fleet.desired(Some(&stable), None);
        over.state_version = 7;
        over.timestamp = Some((&fleet.timestamp(&aborted, 7, 10)).into());
        over.withdrawn = vec![aborted.digest.to_vec()];
        authority.offer(over);
        authority.report("r6 is over", |report| report.state_version == 7).await;
        let mut proxy = Proxy::attach(&agent, &fleet, "p1", "i1").await.unwrap();
        proxy.obey("r5", |desired| desired.active_digest == stable.digest.to_vec()).await;
        Self { directory, fleet, authority, agent, stable, aborted, proxy }
    }

    pub(crate) fn state(&self) -> BTreeMap<String, sealane_model::ids::Digest> {
        files(&self.directory.path().join("agent"))
    }

    /// A good next state to spoil.
    pub(crate) fn next(&self, signed: &Signed, grants: Vec<Envelope>) -> v1::DesiredState {
        let mut desired = self.fleet.desired(Some(&self.stable), Some((signed, grants)));
        desired.state_version = 8;
        desired.timestamp = Some((&self.fleet.timestamp(signed, 8, 10)).into());
        desired
    }

    pub(crate) async fn refuses(mut self, desired: v1::DesiredState, code: &str) {
        let (before, told) = (self.state(), self.proxy.desired.borrow().clone());
        self.authority.offer(desired);
        let report = self.authority.report("a refusal", |report| !report.refused.is_empty()).await;
        let counted: Vec<_> = report.refused.iter().map(|refused| (refused.code.as_str(), refused.count)).collect();
        assert_eq!(counted, [(code, 1)], "{}", report.alarm);
        assert!(!report.alarm.is_empty());
        assert_eq!(report.state_version, 7);
        assert_eq!(before, self.state(), "the state directory is the same to the byte");
        let metrics = crate::http::get(self.agent.http_addr(), "/metrics", "localhost").await;
        let line = format!("sealane_agent_refused_bundles_total{{code=\"{code}\"}} 1");
        assert!(metrics.contains(&line), "{metrics}");
        assert_eq!(told, *self.proxy.desired.borrow(), "the proxy was told nothing");
        self.agent.stop().await;
    }
}

pub(crate) fn spoil(envelope: Option<v1::Envelope>, change: impl FnOnce(&mut v1::Envelope)) -> Option<v1::Envelope> {
    let mut envelope = envelope.unwrap();
    change(&mut envelope);
    Some(envelope)
}

#[tokio::test(flavor = "multi_thread")]
async fn tampered_release() {
    let bench = Bench::new().await;
    let new = bench.fleet.release(8, "# eight\n", |_| {});
    bench.authority.hold(&new);
    let mut desired = bench.next(&new, vec![]);
    let candidate = desired.candidate.as_mut().unwrap();
    candidate.release = spoil(candidate.release.take(), |envelope| *envelope.payload.last_mut().unwrap() ^= 1);
    bench.refuses(desired, "threshold_not_met").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn downgrade_to_unsigned() {
    let bench = Bench::new().await;
    let new = bench.fleet.release(8, "# eight\n", |_| {});
    bench.authority.hold(&new);
    let mut desired = bench.next(&new, vec![]);
    let candidate = desired.candidate.as_mut().unwrap();
    candidate.release = spoil(candidate.release.take(), |envelope| envelope.signatures.clear());
    bench.refuses(desired, "unsigned").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_by_a_stranger() {
    let bench = Bench::new().await;
    let new = Fleet::new("f", 66).release(8, "# eight\n", |_| {});
    bench.authority.hold(&new);
    let desired = bench.next(&new, vec![]);
    bench.refuses(desired, "threshold_not_met").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cross_fleet_replay() {
    let bench = Bench::new().await;
    // The same key, another fleet: what a shared signing key would allow.
    let new = Fleet::new("g", 1).release(8, "# eight\n", |_| {});
    bench.authority.hold(&new);
    let desired = bench.next(&new, vec![]);
    bench.refuses(desired, "wrong_fleet").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cross_type_replay() {
    let bench = Bench::new().await;
    let new = bench.fleet.release(8, "# eight\n", |_| {});
    bench.authority.hold(&new);
    let mut desired = bench.next(&new, vec![]);
    desired.candidate.as_mut().unwrap().release = Some((&bench.fleet.grant(&new, 11, u64::MAX)).into());
    bench.refuses(desired, "wrong_type").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_revision() {
    let bench = Bench::new().await;
    let old = bench.fleet.release(4, "# four\n", |_| {});
    bench.authority.hold(&old);
    let mut desired = bench.next(&old, vec![]);
    desired.timestamp = Some((&bench.fleet.timestamp(&bench.aborted, 8, 10)).into());
    bench.refuses(desired, "revision_too_old").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn same_revision_with_other_content() {
    let bench = Bench::new().await;
    let other = bench.fleet.release(6, "# another six\n", |_| {});
    bench.authority.hold(&other);
    let mut desired = bench.next(&other, vec![]);
    desired.timestamp = Some((&bench.fleet.timestamp(&bench.aborted, 8, 10)).into());
    bench.refuses(desired, "same_revision_different_digest").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn absurdly_high_revision() {
    let bench = Bench::new().await;
    let high = bench.fleet.release(2_000_000, "# high\n", |_| {});
    bench.authority.hold(&high);
    let desired = bench.next(&high, vec![]);
    bench.refuses(desired, "revision_too_high").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn older_timestamp() {
    let bench = Bench::new().await;
    let new = bench.fleet.release(8, "# eight\n", |_| {});
    bench.authority.hold(&new);
    let mut desired = bench.next(&new, vec![]);
    desired.timestamp = Some((&bench.fleet.timestamp(&bench.stable, 5, 0)).into());
    bench.refuses(desired, "timestamp_rolled_back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_timestamp() {
    let bench = Bench::new().await;
    let new = bench.fleet.release(8, "# eight\n", |_| {});
    bench.authority.hold(&new);
    let mut desired = bench.next(&new, vec![]);
    desired.timestamp = None;
    bench.refuses(desired, "unsigned").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grant_for_another_digest() {
    let bench = Bench::new().await;
    let new = bench.fleet.release(8, "# eight\n", |_| {});
    bench.authority.hold(&new);
    let desired = bench.next(&new, vec![bench.fleet.grant(&bench.aborted, 11, u64::MAX)]);
    bench.refuses(desired, "grant_refused").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grant_replayed_after_abort() {
    let bench = Bench::new().await;
    let new = bench.fleet.release(8, "# eight\n", |_| {});
    bench.authority.hold(&new);
    let desired = bench.next(&new, vec![bench.fleet.grant(&new, 9, u64::MAX)]);
    bench.refuses(desired, "grant_refused").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunk_swapped_for_another() {
    let bench = Bench::new().await;
    let new = bench.fleet.release(8, "# eight\n", |_| {});
    bench.authority.hold(&new);
    for digest in new.blobs.keys() {
        bench.authority.tamper(*digest, b"# arbitrary content\n");
    }
    let desired = bench.next(&new, vec![]);
    bench.refuses(desired, "wrong_digest").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_taken_back_revision_offered_as_finished() {
    let bench = Bench::new().await;
    let mut desired = bench.fleet.desired(Some(&bench.aborted), None);
    desired.timestamp = Some((&bench.fleet.timestamp(&bench.aborted, 8, 10)).into());
    bench.refuses(desired, "malformed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn root_replaced() {
    let bench = Bench::new().await;
    let mut desired = bench.next(&bench.stable, vec![]);
    let stranger = Fleet::new("f", 66);
    let mut document = sealane_model::trust::TrustRoot::pinned(&stranger.root).unwrap().document().clone();
    document.version = 2;
    desired.roots = vec![(&document.sign(&[&stranger.key])).into()];
    bench.refuses(desired, "threshold_not_met").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_goes_on_after_every_refusal() {
    let mut bench = Bench::new().await;
    let new = bench.fleet.release(8, "# eight\n", |_| {});
    bench.authority.hold(&new);
    let mut bad = bench.next(&new, vec![]);
    bad.timestamp = None;
    bench.authority.offer(bad);
    bench.authority.report("a refusal", |report| !report.refused.is_empty()).await;
    let good = bench.next(&new, vec![bench.fleet.grant(&new, 11, u64::MAX)]);
    bench.authority.offer(good);
    bench.proxy.obey("both", |desired| desired.releases.len() == 2).await;
    bench.proxy.obey("r8", |desired| desired.active_digest == new.digest.to_vec()).await;
    bench.agent.stop().await;
}
