//! Keys change hands: each new root is vouched for by the one before.

use sealane_agent::start;
use sealane_model::keys::SigningKey;
use sealane_model::trust::{RootDocument, TrustRoot};

use crate::fake::{Authority, Fleet, Proxy, settings};

/// Version 2 of a fleet's root: the old key keeps only the past.
fn rotate(fleet: &Fleet, entropy: u8) -> (Fleet, sealane_model::envelope::Envelope) {
    let old = TrustRoot::pinned(&fleet.root).unwrap();
    let key = SigningKey::from_entropy([entropy; 32]);
    let mut document = RootDocument::single_key(old.fleet().clone(), &key.public(), 0);
    document.version = 2;
    let root = document.sign(&[&fleet.key, &key]);
    (Fleet { key, second: None, root: root.clone(), name: fleet.name.clone() }, root)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_root_is_taken_in_passed_on_and_the_old_key_signs_nothing_new() {
    let (directory, old) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1));
    let mut authority = Authority::start().await;
    let agent_settings = settings(directory.path(), &old, authority.address);
    let agent = start(agent_settings.clone()).await.unwrap();
    let first = old.release(1, "{}", |_| {});
    authority.hold(&first);
    authority.offer(old.desired(Some(&first), None));
    authority.report("r1", |report| report.state_version == 1).await;

    let (new, root) = rotate(&old, 2);
    let second = new.release(2, "# two\n", |_| {});
    authority.hold(&second);
    let mut desired = new.desired(Some(&second), None);
    desired.roots = vec![(&root).into()];
    authority.offer(desired);
    authority.report("r2", |report| report.state_version == 2).await;
    let mut proxy = Proxy::attach(&agent, &old, "p1", "i1").await.unwrap();
    let told = proxy.obey("r2", |desired| desired.active_digest == second.digest.to_vec()).await;
    assert_eq!(told.roots, [(&root).into()], "a proxy that knows version 1 gets the one that follows");

    let third = old.release(3, "# three\n", |_| {});
    authority.hold(&third);
    let mut stolen = old.desired(Some(&third), None);
    stolen.timestamp = Some((&new.timestamp(&third, 3, 0)).into());
    authority.offer(stolen);
    let report = authority.report("a refusal", |report| !report.refused.is_empty()).await;
    assert_eq!(report.refused[0].code, "threshold_not_met");
    agent.stop().await;

    // What was accepted under the old root stays good over a restart, and the old trust file does not turn time back.
    let agent = start(agent_settings).await.unwrap();
    let mut proxy = Proxy::attach(&agent, &old, "p1", "i2").await.unwrap();
    proxy.obey("r2", |desired| desired.active_digest == second.digest.to_vec()).await;
    agent.stop().await;
}
