//! What a rogue agent, or whoever sits in between, may not do: state unchanged to the byte, the code counted, the same
//! snapshot serving.

use sealane_proto::v1;
use sealane_proxy::control::Control;
use sealane_proxy::proxy::Proxy;

use crate::fake::{Agent, Fleet, Signed, command, config, files, settings, start, stop};

/// A proxy that went r5, r6 and serves r6.
pub(crate) struct Bench {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) fleet: Fleet,
    pub(crate) agent: Agent,
    pub(crate) proxy: Proxy,
    pub(crate) control: Control,
    pub(crate) stable: Signed,
}

impl Bench {
    async fn new() -> Self {
        Self::of(Fleet::new("f", 1)).await
    }

    pub(crate) async fn of(fleet: Fleet) -> Self {
        let (directory, mut agent) = (tempfile::tempdir().unwrap(), Agent::start().await);
        let (proxy, control) = start(settings(directory.path(), &fleet, agent.address)).await;
        let before = fleet.release(5, &config("five"));
        let stable = fleet.release(6, &config("six"));
        for (generation, signed) in [(1, &before), (2, &stable)] {
            agent.hold(signed);
            agent.command(command(generation, &[signed], signed));
            agent.status("it", |status| status.generation == generation).await;
        }
        Self { directory, fleet, agent, proxy, control, stable }
    }

    pub(crate) async fn refuses(mut self, desired: v1::ProxyDesired, code: &str) {
        let state = || files(&self.directory.path().join("proxy"));
        let before = state();
        self.agent.command(desired);
        let status = self.agent.status("a refusal", |status| status.refused_bundles > 0).await;
        assert_eq!((status.active_revision, status.generation, status.refused_bundles), (6, 2, 1));
        let counted = format!("sealane_proxy_refused_bundles_total{{code=\"{code}\"}} 1");
        assert!(self.proxy.metrics().contains(&counted), "{}", self.proxy.metrics());
        assert_eq!(before, state(), "the state directory is the same to the byte");
        stop(self.proxy, self.control).await;
    }

    fn new_release(&self) -> Signed {
        let new = self.fleet.release(8, &config("eight"));
        self.agent.hold(&new);
        new
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tampered_release() {
    let bench = Bench::new().await;
    let new = bench.new_release();
    let mut desired = command(3, &[&bench.stable, &new], &new);
    *desired.releases[1].payload.last_mut().unwrap() ^= 1;
    bench.refuses(desired, "threshold_not_met").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn downgrade_to_unsigned() {
    let bench = Bench::new().await;
    let new = bench.new_release();
    let mut desired = command(3, &[&bench.stable, &new], &new);
    desired.releases[1].signatures.clear();
    bench.refuses(desired, "unsigned").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_by_a_stranger() {
    let bench = Bench::new().await;
    let new = Fleet::new("f", 66).release(8, &config("eight"));
    bench.agent.hold(&new);
    let desired = command(3, &[&bench.stable, &new], &new);
    bench.refuses(desired, "threshold_not_met").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cross_fleet_replay() {
    let bench = Bench::new().await;
    let new = Fleet::new("g", 1).release(8, &config("eight"));
    bench.agent.hold(&new);
    let desired = command(3, &[&bench.stable, &new], &new);
    bench.refuses(desired, "wrong_fleet").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn older_than_anything_kept() {
    let bench = Bench::new().await;
    let old = bench.fleet.release(4, &config("four"));
    bench.agent.hold(&old);
    let desired = command(3, &[&old], &old);
    bench.refuses(desired, "revision_too_old").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn same_revision_with_other_content() {
    let bench = Bench::new().await;
    let other = bench.fleet.release(6, &config("another six"));
    bench.agent.hold(&other);
    let desired = command(3, &[&other], &other);
    bench.refuses(desired, "same_revision_different_digest").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_generation_with_another_revision() {
    let bench = Bench::new().await;
    let new = bench.new_release();
    let desired = command(2, &[&new], &new);
    bench.refuses(desired, "same_generation_other_content").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_named_but_not_carried() {
    let bench = Bench::new().await;
    let new = bench.new_release();
    let desired = command(3, &[&bench.stable], &new);
    bench.refuses(desired, "release_not_carried").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grant_for_another_digest() {
    let bench = Bench::new().await;
    let new = bench.new_release();
    let mut desired = command(3, &[&bench.stable, &new], &new);
    desired.grant = Some((&bench.fleet.grant(&bench.stable, |_| {})).into());
    bench.refuses(desired, "grant_refused").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grant_that_expired_or_does_not_reach_this_proxy() {
    let bench = Bench::new().await;
    let new = bench.new_release();
    let mut desired = command(3, &[&bench.stable, &new], &new);
    desired.grant = Some((&bench.fleet.grant(&new, |grant| grant.not_after_unix_ms = 1)).into());
    bench.refuses(desired, "grant_refused").await;
    let bench = Bench::new().await;
    let new = bench.new_release();
    let mut desired = command(3, &[&bench.stable, &new], &new);
    desired.grant = Some((&bench.fleet.grant(&new, |grant| grant.cut = 0)).into());
    bench.refuses(desired, "grant_refused").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunk_swapped_for_another() {
    let bench = Bench::new().await;
    let new = bench.new_release();
    for digest in new.blobs.keys() {
        bench.agent.tamper(*digest, config("arbitrary").as_bytes());
    }
    let desired = command(3, &[&bench.stable, &new], &bench.stable);
    bench.refuses(desired, "wrong_digest").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn going_back_within_the_ring_is_no_attack() {
    let mut bench = Bench::new().await;
    let before = bench.fleet.release(5, &config("five"));
    bench.agent.command(command(3, &[&before], &before));
    let status = bench.agent.status("r5", |status| status.generation == 3).await;
    assert_eq!((status.active_revision, status.refused_bundles), (5, 0));
    stop(bench.proxy, bench.control).await;
}
