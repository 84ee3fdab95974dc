//! A start with everything above away.

use crate::fake::{Agent, Fleet, command, config, settings, start, stop};

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_starts_alone_serves_its_last_good_revision_and_not_the_candidate() {
    let (directory, fleet, mut agent) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1), Agent::start().await);
    let settings = settings(directory.path(), &fleet, agent.address);
    let (proxy, control) = start(settings.clone()).await;
    let (first, second) = (fleet.release(1, &config("one")), fleet.release(2, &config("two")));
    agent.hold(&first);
    agent.hold(&second);
    agent.command(command(7, &[&first, &second], &second));
    agent.status("active r2", |status| status.generation == 7 && status.active_revision == 2).await;
    // As good as killed: nothing more is written.
    stop(proxy, control).await;
    agent.stop();

    let (proxy, control) = start(settings.clone()).await;
    assert_eq!(proxy.active().unwrap().number, 1, "before anyone was asked");
    assert!(proxy.observe().ready);
    assert_eq!((control.status().generation, control.status().last_good_revision), (7, 1));
    stop(proxy, control).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_above_the_generation_it_knew_and_ignores_older_commands() {
    let (directory, fleet, mut agent) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1), Agent::start().await);
    let mut settings = settings(directory.path(), &fleet, agent.address);
    let (proxy, control) = start(settings.clone()).await;
    let (first, second) = (fleet.release(1, &config("one")), fleet.release(2, &config("two")));
    agent.hold(&first);
    agent.command(command(7, &[&first], &first));
    agent.status("r1", |status| status.generation == 7).await;
    stop(proxy, control).await;

    let mut agent = Agent::start().await;
    agent.hold(&first);
    agent.hold(&second);
    settings.source =
        sealane_proxy::control::Source::Agent(sealane_proxy::control::AgentAddress::Http(agent.address.to_string()));
    agent.command(command(6, &[&second], &second));
    let (proxy, control) = start(settings).await;
    let status = agent.status("an observation", |_| true).await;
    assert_eq!(agent.hellos.borrow()[0].generation, 7);
    assert_eq!((status.active_revision, status.refused_bundles), (1, 0));
    agent.command(command(8, &[&second], &second));
    let status = agent.status("r2", |status| status.generation == 8).await;
    assert_eq!((status.active_revision, status.refused_bundles), (2, 0), "an old command is not an attack");
    stop(proxy, control).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_bundle_on_disk_falls_back_to_the_one_before() {
    let (directory, fleet, mut agent) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1), Agent::start().await);
    let settings = settings(directory.path(), &fleet, agent.address);
    let (proxy, control) = start(settings.clone()).await;
    let (first, second) = (fleet.release(1, &config("one")), fleet.release(2, &config("two")));
    for (generation, signed) in [(1, &first), (2, &second)] {
        agent.hold(signed);
        agent.command(command(generation, &[signed], signed));
        agent.status("it", |status| status.generation == generation).await;
    }
    stop(proxy, control).await;
    agent.stop();
    for digest in second.blobs.keys() {
        std::fs::write(directory.path().join("proxy/blobs").join(digest.to_string()), b"rotten").unwrap();
    }
    let (proxy, control) = start(settings).await;
    assert_eq!(proxy.active().unwrap().number, 1);
    assert_eq!(control.status().last_good_revision, 1);
    stop(proxy, control).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_state_falls_back_to_the_one_before_and_two_damaged_ones_say_how_to_go_on() {
    let (directory, fleet, mut agent) = (tempfile::tempdir().unwrap(), Fleet::new("f", 1), Agent::start().await);
    let settings = settings(directory.path(), &fleet, agent.address);
    let (proxy, control) = start(settings.clone()).await;
    let (first, second) = (fleet.release(1, &config("one")), fleet.release(2, &config("two")));
    for (generation, signed) in [(1, &first), (2, &second)] {
        agent.hold(signed);
        agent.command(command(generation, &[signed], signed));
        agent.status("it", |status| status.generation == generation).await;
    }
    stop(proxy, control).await;
    agent.stop();
    let data = directory.path().join("proxy");
    std::fs::write(data.join("state"), b"sealane-proxy-state 1 00\n{}").unwrap();
    let (proxy, control) = start(settings.clone()).await;
    assert!(proxy.active().is_some());
    stop(proxy, control).await;
    std::fs::write(data.join("state"), b"").unwrap();
    std::fs::write(data.join("state.previous"), b"").unwrap();
    let proxy = sealane_proxy::proxy::Proxy::start(sealane_proxy::settings::Settings {
        threads: 1,
        ..sealane_proxy::settings::Settings::default()
    })
    .await
    .unwrap();
    let error = sealane_proxy::control::attach(proxy.clone(), settings).await.unwrap_err();
    assert!(error.to_string().contains("move the state directory away"), "{error}");
    proxy.stop().await;
}
