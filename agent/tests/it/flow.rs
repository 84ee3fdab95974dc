//! The way down and the way up, without anything going wrong.

use sealane_agent::{StartError, start};
use tonic::Code;

use crate::fake::{Authority, Fleet, Proxy, settings};

const CONFIG: &str = "listen: :8080\nroutes:\n  - to: http://localhost:3000\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_revision_reaches_a_proxy_with_all_its_content_and_is_reported_back() {
    let (directory, fleet) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1));
    let mut authority = Authority::start().await;
    authority.require_token("secret");
    let mut settings = settings(directory.path(), &fleet, authority.address);
    settings.token = Some("secret".into());
    let agent = start(settings).await.unwrap();
    assert_eq!(agent.id(), "eu-1");

    let first = fleet.release(1, CONFIG, |_| {});
    authority.hold(&first);
    authority.offer(fleet.desired(Some(&first), None));

    let mut proxy = Proxy::attach(&agent, &fleet, "p1", "i1").await.unwrap();
    let desired = proxy.obey("r1", |desired| desired.active_digest == first.digest.to_vec()).await;
    assert_eq!(desired.last_good_digest, first.digest.to_vec());
    assert!(desired.grant.is_none(), "a revision that finished needs no grant");
    for (digest, content) in &first.blobs {
        assert_eq!(proxy.fetch(*digest).await.unwrap(), *content);
    }
    let report = authority
        .report("active r1", |report| report.proxies.iter().any(|status| status.active_digest == first.digest.to_vec()))
        .await;
    assert_eq!((report.revision_floor, report.proxies[0].attached, report.proxies[0].ready), (1, true, true));
    assert_eq!((report.state_version, report.alarm.as_str()), (1, ""));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_is_prepared_everywhere_and_activated_where_a_grant_covers() {
    let (directory, fleet) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1));
    let authority = Authority::start().await;
    let agent = start(settings(directory.path(), &fleet, authority.address)).await.unwrap();
    let first = fleet.release(1, CONFIG, |_| {});
    let second = fleet.release(2, &format!("{CONFIG}# two\n"), |release| release.base = Some(first.digest));
    authority.hold(&first);
    authority.hold(&second);
    authority.offer(fleet.desired(Some(&first), Some((&second, vec![]))));

    let mut one = Proxy::attach(&agent, &fleet, "p1", "i1").await.unwrap();
    let both = |desired: &sealane_proto::v1::ProxyDesired| desired.releases.len() == 2;
    let desired = one.obey("both releases", both).await;
    assert_eq!(desired.active_digest, first.digest.to_vec(), "nothing is activated without a grant");

    let grant = fleet.grant(&second, 1, u64::MAX);
    authority.offer(fleet.desired(Some(&first), Some((&second, vec![grant.clone()]))));
    let granted = one.obey("r2", |desired| desired.active_digest == second.digest.to_vec()).await;
    assert_eq!(granted.grant, Some((&grant).into()));
    assert_eq!(granted.last_good_digest, first.digest.to_vec(), "r2 has not finished");
    assert!(granted.generation > desired.generation);

    let mut taken_back = fleet.desired(Some(&first), None);
    taken_back.timestamp = Some((&fleet.timestamp(&second, 3, 2)).into());
    taken_back.withdrawn = vec![second.digest.to_vec()];
    authority.offer(taken_back);
    let back = one.obey("back on r1", |desired| desired.active_digest == first.digest.to_vec()).await;
    assert!(back.generation > granted.generation, "going back is a newer command");
    assert_eq!(back.releases.len(), 1, "what was taken back is not kept ready");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_takes_this_agents_proxies_back_and_the_report_says_so() {
    let (directory, fleet) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1));
    let mut authority = Authority::start().await;
    let agent = start(settings(directory.path(), &fleet, authority.address)).await.unwrap();
    let first = fleet.release(1, CONFIG, |_| {});
    let second = fleet.release(2, "{}", |_| {});
    authority.hold(&first);
    authority.hold(&second);
    let mut proxy = Proxy::attach(&agent, &fleet, "p1", "i1").await.unwrap();
    authority.offer(fleet.desired(Some(&first), Some((&second, vec![fleet.grant(&second, 1, u64::MAX)]))));
    proxy.obey("both", |desired| desired.releases.len() == 2).await;
    proxy.obey("r2", |desired| desired.active_digest == second.digest.to_vec()).await;
    assert!(agent.rollback_local().await);
    proxy.obey("r1", |desired| desired.active_digest == first.digest.to_vec()).await;
    let report = authority.report("the roll back", |report| report.local_rollback.is_some()).await;
    let rollback = report.local_rollback.unwrap();
    assert_eq!((rollback.revision, rollback.release_digest), (2, second.digest.to_vec()));
    assert_eq!(rollback.reason.unwrap().gate, "operator");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_dies_twice_on_the_candidate_takes_the_cohort_back() {
    let (directory, fleet) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1));
    let mut authority = Authority::start().await;
    let agent = start(settings(directory.path(), &fleet, authority.address)).await.unwrap();
    let first = fleet.release(1, CONFIG, |_| {});
    let second = fleet.release(2, "{}", |_| {});
    authority.hold(&first);
    authority.hold(&second);
    authority.offer(fleet.desired(Some(&first), Some((&second, vec![fleet.grant(&second, 1, u64::MAX)]))));
    for (instance, deaths) in [("i1", 0), ("i2", 1)] {
        let mut proxy = Proxy::attach(&agent, &fleet, "p1", instance).await.unwrap();
        let on_first = first.digest.to_vec();
        let desired = proxy.obey("r1 first", |desired| desired.active_digest == on_first).await;
        if desired.releases.len() < 2 {
            proxy.obey("both", |desired| desired.releases.len() == 2).await;
        }
        proxy.obey("r2", |desired| desired.active_digest == second.digest.to_vec()).await;
        let status = authority
            .report("running r2", |report| {
                report
                    .proxies
                    .iter()
                    .any(|status| status.instance == instance && status.active_digest == second.digest.to_vec())
            })
            .await;
        assert_eq!(status.proxies[0].deaths, deaths);
        proxy.kill();
        authority.report("it went", |report| report.proxies.iter().all(|status| !status.attached)).await;
    }
    let mut proxy = Proxy::attach(&agent, &fleet, "p1", "i3").await.unwrap();
    let desired = proxy.obey("r1", |desired| desired.active_digest == first.digest.to_vec()).await;
    assert_eq!(desired.releases.len(), 1, "the candidate is not even prepared again");
    let report = authority.report("the roll back", |report| report.local_rollback.is_some()).await;
    assert_eq!(report.local_rollback.unwrap().reason.unwrap().gate, "death");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_live_proxies_with_one_id_and_strangers_are_refused() {
    let (directory, fleet) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1));
    let authority = Authority::start().await;
    let agent = start(settings(directory.path(), &fleet, authority.address)).await.unwrap();
    let _first = Proxy::attach(&agent, &fleet, "p1", "i1").await.unwrap();
    let code = |result: Result<Proxy, tonic::Status>| result.err().map(|status| status.code());
    assert_eq!(code(Proxy::attach(&agent, &fleet, "p1", "i2").await), Some(Code::AlreadyExists));
    assert_eq!(code(Proxy::attach(&agent, &fleet, "p1", "i1").await), None, "the same process may come again");
    let other = Fleet::new("g", 2);
    assert_eq!(code(Proxy::attach(&agent, &other, "p2", "i1").await), Some(Code::FailedPrecondition));
    assert_eq!(code(Proxy::attach(&agent, &fleet, "../p", "i1").await), Some(Code::InvalidArgument));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_serves_proxies_and_only_this_user_can_open_it() {
    use std::os::unix::fs::PermissionsExt;
    let (directory, fleet) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1));
    let authority = Authority::start().await;
    let agent = start(settings(directory.path(), &fleet, authority.address)).await.unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(agent.socket()), 0o600);
    assert_eq!(mode(agent.socket().parent().unwrap()), 0o700);
    let url = format!("unix:{}", agent.socket().display());
    Proxy::attach_to(&url, &fleet, "p1", "i1").await.unwrap();
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_to_serve_other_machines_without_authentication() {
    let (directory, fleet) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1));
    let base = settings(directory.path(), &fleet, "127.0.0.1:1".parse().unwrap());
    let mut open = base.clone();
    open.grpc_addr = "0.0.0.0:0".parse().unwrap();
    let error = start(open).await.unwrap_err();
    assert!(matches!(error, StartError::OpenGrpc(_)) && error.to_string().contains("https://"));
    let mut open = base.clone();
    open.http_addr = "0.0.0.0:0".parse().unwrap();
    assert!(matches!(start(open).await.unwrap_err(), StartError::OpenHttp(_)));
    let mut plain = base;
    plain.authority = "http://authority.example:7443".into();
    let error = start(plain).await.unwrap_err();
    assert!(matches!(error, StartError::Link(_)) && error.to_string().contains("https"));
}
