//! A disk that takes nothing more.

use sealane_agent::start;

use crate::fake::{Authority, Fleet, Proxy, settings};

#[tokio::test(flavor = "multi_thread")]
async fn with_a_full_disk_it_says_so_serves_what_is_there_and_goes_on_when_there_is_room() {
    let (directory, fleet) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1));
    let mut authority = Authority::start().await;
    let agent = start(settings(directory.path(), &fleet, authority.address)).await.unwrap();
    let (first, second) = (fleet.release(1, "{}", |_| {}), fleet.release(2, "# two\n", |_| {}));
    authority.hold(&first);
    authority.hold(&second);
    authority.offer(fleet.desired(Some(&first), None));
    authority.report("r1", |report| report.state_version == 1).await;
    // No blob can be written where there is no directory: as good as a full disk, and works for root too.
    let (blobs, away) = (directory.path().join("agent/blobs"), directory.path().join("agent/away"));
    std::fs::rename(&blobs, &away).unwrap();
    std::fs::write(&blobs, b"").unwrap();
    authority.offer(fleet.desired(Some(&second), None));
    let report = authority.report("the alarm", |report| !report.alarm.is_empty()).await;
    assert!(report.alarm.contains("blobs") && report.refused.is_empty(), "{}", report.alarm);
    let mut proxy = Proxy::attach(&agent, &fleet, "p1", "i1").await.unwrap();
    proxy.obey("r1", |desired| desired.active_digest == first.digest.to_vec()).await;
    std::fs::remove_file(&blobs).unwrap();
    std::fs::rename(&away, &blobs).unwrap();
    proxy.obey("r2", |desired| desired.active_digest == second.digest.to_vec()).await;
    agent.stop().await;
}
