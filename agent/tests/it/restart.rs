//! What holds when everything above is away, and when the disk lies.

use sealane_agent::start;

use crate::fake::{Authority, Fleet, Proxy, files, settings};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_restarts_alone_serves_its_proxies_from_the_ledger() {
    let (directory, fleet) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1));
    let mut authority = Authority::start().await;
    let settings = settings(directory.path(), &fleet, authority.address);
    let agent = start(settings.clone()).await.unwrap();
    let first = fleet.release(1, "{}", |_| {});
    authority.hold(&first);
    authority.offer(fleet.desired(Some(&first), None));
    let mut proxy = Proxy::attach(&agent, &fleet, "p1", "i1").await.unwrap();
    let before = proxy.obey("r1", |desired| !desired.active_digest.is_empty()).await;
    authority.report("r1 is taken in", |report| report.state_version == 1).await;
    agent.stop().await;
    authority.stop();

    let agent = start(settings).await.unwrap();
    let mut proxy = Proxy::attach(&agent, &fleet, "p1", "i1").await.unwrap();
    let after = proxy.obey("r1 again", |desired| desired.active_digest == first.digest.to_vec()).await;
    assert!(after.generation > before.generation, "generations only grow, over a restart too");
    for (digest, content) in &first.blobs {
        assert_eq!(proxy.fetch(*digest).await.unwrap(), *content);
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_blob_is_not_served_and_comes_again_from_the_authority() {
    let (directory, fleet) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1));
    let mut authority = Authority::start().await;
    let agent = start(settings(directory.path(), &fleet, authority.address)).await.unwrap();
    let first = fleet.release(1, "{}", |_| {});
    authority.hold(&first);
    authority.offer(fleet.desired(Some(&first), None));
    authority.report("r1 is taken in", |report| report.state_version == 1).await;
    let mut proxy = Proxy::attach(&agent, &fleet, "p1", "i1").await.unwrap();
    for (digest, content) in &first.blobs {
        let path = directory.path().join("agent/blobs").join(digest.to_string());
        std::fs::write(&path, b"rotten").unwrap();
        assert_eq!(proxy.fetch(*digest).await.unwrap(), *content);
        assert_eq!(std::fs::read(&path).unwrap(), *content, "repaired");
    }
    let unknown = sealane_model::ids::Digest::of(b"not part of anything");
    assert_eq!(proxy.fetch(unknown).await.unwrap_err().code(), tonic::Code::NotFound);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_blob_that_a_new_revision_shares_is_fetched_again_at_once() {
    let (directory, fleet) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1));
    let mut authority = Authority::start().await;
    let agent = start(settings(directory.path(), &fleet, authority.address)).await.unwrap();
    let first = fleet.release(1, "# the same\n", |_| {});
    authority.hold(&first);
    authority.offer(fleet.desired(Some(&first), None));
    authority.report("r1 is taken in", |report| report.state_version == 1).await;
    for digest in first.blobs.keys() {
        std::fs::write(directory.path().join("agent/blobs").join(digest.to_string()), b"rotten").unwrap();
    }
    let second = fleet.release(2, "# the same\n", |release| release.base = Some(first.digest));
    authority.hold(&second);
    authority.offer(fleet.desired(Some(&second), None));
    let report = authority.report("r2 is taken in", |report| report.state_version == 2).await;
    assert_eq!(report.refused, [], "what is wrong with this disk is nobody's forgery");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_is_opened_again_and_says_what_is_held() {
    let (directory, fleet) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1));
    let mut authority = Authority::start().await;
    let agent = start(settings(directory.path(), &fleet, authority.address)).await.unwrap();
    let first = fleet.release(3, "{}", |_| {});
    authority.hold(&first);
    authority.offer(fleet.desired(Some(&first), None));
    authority.report("r3 is taken in", |report| report.state_version == 3).await;
    let address = authority.stop();
    let mut again = loop {
        // The port is free a moment later.
        if std::net::TcpListener::bind(address).is_ok() {
            break Authority::start_at(address).await;
        }
        tokio::task::yield_now().await;
    };
    let hellos = crate::fake::wait(&mut again.hellos, "a hello", |hellos| !hellos.is_empty()).await;
    assert_eq!((hellos[0].revision_floor, hellos[0].root_version, hellos[0].region.as_str()), (3, 1, "eu"));
    again.report("a report", |report| report.revision_floor == 3).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_good_ring_is_bounded_and_what_nothing_needs_is_removed() {
    let (directory, fleet) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1));
    let mut authority = Authority::start().await;
    let agent = start(settings(directory.path(), &fleet, authority.address)).await.unwrap();
    for revision in 1..=9 {
        let signed = fleet.release(revision, &format!("# {revision}\n"), |_| {});
        authority.hold(&signed);
        authority.offer(fleet.desired(Some(&signed), None));
        authority.report("it is taken in", |report| report.state_version == revision).await;
    }
    agent.stop().await;
    let blobs = files(&directory.path().join("agent/blobs"));
    assert_eq!(blobs.len(), 12, "six revisions of one manifest and one chunk");
}
