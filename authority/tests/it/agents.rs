//! Agents: who may speak for whom, what they hear, what happens when they fall silent.

use sealane_authority::{RecoverOrder, Recovered};
use sealane_model::ids::Digest;
use sealane_proto::v1::agent_service_client::AgentServiceClient;
use sealane_proto::v1::{self, RolloutState};
use std::time::Duration;
use tonic::Code;

use crate::helper::{CONFIG, Running, config};

fn hello(agent: &str, region: &str, instance: &str) -> v1::SubscribeRequest {
    v1::SubscribeRequest {
        agent_id: agent.into(),
        region: region.into(),
        instance: instance.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn beacons_come_on_the_stream_that_carries_config() {
    let running = Running::start().await;
    let agent = running.agent("a", "eu", &["p1"]).await;
    agent.wait("three beacons", |agent| agent.beacons() >= 3).await;
}

#[tokio::test]
async fn two_live_agents_with_one_id_are_refused() {
    let running = Running::start().await;
    let token = running.make_token("agent", "eu").await;
    let mut client = AgentServiceClient::new(running.wire(&token));
    let first = client.subscribe(hello("a", "eu", "one")).await.unwrap();
    let refused = client.subscribe(hello("a", "eu", "two")).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    drop(first);
    crate::helper::until("the first one is gone", async || {
        client.subscribe(hello("a", "eu", "two")).await.ok().map(|_| ())
    })
    .await;
}

#[tokio::test]
async fn an_agent_speaks_for_the_region_of_its_token_only() {
    let running = Running::start().await;
    let token = running.make_token("agent", "eu").await;
    let mut client = AgentServiceClient::new(running.wire(&token));
    let refused = client.subscribe(hello("a", "us", "one")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let refused = client.subscribe(hello("a b", "eu", "one")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn content_is_fetched_by_digest_and_verifies() {
    let running = Running::start().await;
    let agent = running.agent("a", "eu", &["p1"]).await;
    running.publish(CONFIG).await;
    running.until_state(1, RolloutState::Completed).await;
    agent.wait("stable", |agent| agent.desired().is_some_and(|desired| desired.stable.is_some())).await;
    let token = running.make_token("agent", "eu").await;
    let mut client = AgentServiceClient::new(running.wire(&token));
    let stable = agent.desired().unwrap().stable.unwrap();
    let release = running.trust().verify_release(&stable.into()).unwrap();
    let mut contents = Vec::new();
    let manifest_digest = release.release().manifest_digest;
    let request = v1::GetChunkRequest { digest: manifest_digest.to_vec(), deflate: false };
    let manifest = client.get_chunk(request).await.unwrap().into_inner().content;
    let manifest = release.open_manifest(&manifest).unwrap();
    for digest in manifest.chunks() {
        let request = v1::GetChunkRequest { digest: digest.to_vec(), deflate: false };
        contents.push((digest, client.get_chunk(request).await.unwrap().into_inner().content));
    }
    let find = |digest: &Digest| contents.iter().find(|(one, _)| one == digest).map(|(_, content)| content.to_vec());
    let bundle = manifest.open(find).unwrap();
    assert_eq!(bundle.config().unwrap(), ("config.yaml", CONFIG));
    let missing = v1::GetChunkRequest { digest: Digest::of(b"nothing").to_vec(), deflate: false };
    assert_eq!(client.get_chunk(missing).await.unwrap_err().code(), Code::NotFound);
    let bad = v1::GetChunkRequest { digest: vec![1, 2, 3], deflate: false };
    assert_eq!(client.get_chunk(bad).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_silent_canary_holds_the_rollout_and_lets_it_go_on_when_it_returns() {
    let running = Running::with(|settings| {
        settings.tuning.rollout.silence = Duration::from_millis(300);
        settings.tuning.rollout.fresh = Duration::from_millis(200);
        let mut plan = crate::helper::quick_plan();
        plan.stages[0].bake = Duration::from_millis(800);
        settings.default_plan = Some(plan);
    })
    .await;
    let agent = running.agent("a", "eu", &["p1", "p2", "p3"]).await;
    agent.wait("connected", |agent| agent.desired().is_some()).await;
    running.baseline().await;
    running.publish(&config(3001)).await;
    running.until(2, |one| one.stages.first().is_some_and(|stage| stage.state == "baking")).await;
    agent.silence(true);
    let held = running.until_state(2, RolloutState::Held).await;
    assert_eq!(held.reason.unwrap().gate, "silence");
    agent.silence(false);
    running.until_state(2, RolloutState::Completed).await;
}

#[tokio::test]
async fn an_agent_that_goes_back_by_itself_takes_the_rollout_back() {
    let running = Running::with(|settings| {
        let mut plan = crate::helper::quick_plan();
        plan.stages[0].bake = Duration::from_secs(600);
        settings.default_plan = Some(plan);
    })
    .await;
    let agent = running.agent("a", "eu", &["p1", "p2"]).await;
    agent.wait("connected", |agent| agent.desired().is_some()).await;
    running.baseline().await;
    let revision = running.publish(&config(3001)).await;
    running.until_state(2, RolloutState::Running).await;
    let token = running.make_token("agent", "us").await;
    let mut client = AgentServiceClient::new(running.wire(&token));
    let rollback = v1::LocalRollback {
        release_digest: Digest::from_hex(&revision.digest).unwrap().to_vec(),
        revision: 2,
        reason: Some(v1::Reason { gate: "death".into(), message: "p9 died twice".into(), ..Default::default() }),
    };
    let report = v1::ReportRequest {
        agent_id: "b".into(),
        instance: "one".into(),
        local_rollback: Some(rollback),
        ..Default::default()
    };
    client.report(report).await.unwrap();
    let rollout = running.until_state(2, RolloutState::RolledBack).await;
    assert!(rollout.verdict_line.ends_with(": p9 died twice at stage canary"), "{}", rollout.verdict_line);
    assert_eq!(rollout.reason.unwrap().gate, "death");
}

#[tokio::test]
async fn regions_go_one_wave_after_the_other() {
    use sealane_model::plan::Wave;
    let running = Running::with(|settings| {
        let mut plan = crate::helper::quick_plan();
        plan.waves = vec![
            Wave { name: "first".into(), regions: vec!["eu".into()] },
            Wave { name: "rest".into(), regions: vec!["*".into()] },
        ];
        settings.default_plan = Some(plan);
    })
    .await;
    let eu = running.agent("a", "eu", &["p1", "p2"]).await;
    let us = running.agent("b", "us", &["p3", "p4"]).await;
    eu.wait("connected", |agent| agent.desired().is_some()).await;
    us.wait("connected", |agent| agent.desired().is_some()).await;
    running.baseline().await;
    running.publish(&config(3001)).await;
    let first = running.until(2, |one| one.wave == "first" && one.state() == RolloutState::Running).await;
    assert_eq!(us.active(), [1, 1]);
    assert_eq!(first.stages.iter().filter(|stage| stage.wave == "rest").count(), 3);
    let rollout = running.until_state(2, RolloutState::Completed).await;
    assert!(rollout.verdict_line.ends_with(": 4 of 4 proxies"), "{}", rollout.verdict_line);
    let merged: Vec<&v1::StageStatus> = rollout.stages.iter().filter(|stage| !stage.merged.is_empty()).collect();
    assert_eq!(merged[0].merged, ["half"], "canary and half are the same proxy");
}

#[tokio::test]
async fn a_cordoned_node_sits_out_every_stage_but_the_last() {
    let running = Running::with(|settings| {
        let mut plan = crate::helper::quick_plan();
        plan.stages[0].bake = Duration::from_secs(600);
        settings.default_plan = Some(plan);
    })
    .await;
    let agent = running.agent("a", "eu", &["p1", "p2", "p3"]).await;
    agent.wait("connected", |agent| agent.desired().is_some()).await;
    running.baseline().await;
    for node in ["p1", "p2"] {
        let request = v1::FleetServiceCordonRequest { node: node.into(), cordoned: true };
        let answer = running.fleet().cordon(request).await.unwrap().into_inner();
        assert!(answer.node.unwrap().cordoned);
    }
    agent.wait("told", |agent| agent.desired().is_some_and(|desired| desired.cordoned == ["p1", "p2"])).await;
    running.publish(&config(3001)).await;
    let rollout = running.until_state(2, RolloutState::Running).await;
    assert_eq!(rollout.stages[0].proxies, 1);
    let fleet = running.fleet().get_fleet(v1::GetFleetRequest::default()).await.unwrap().into_inner();
    assert_eq!(fleet.nodes.iter().filter(|node| node.cordoned).count(), 2);
    let unknown = v1::FleetServiceCordonRequest { node: "nobody".into(), cordoned: true };
    assert_eq!(running.fleet().cordon(unknown).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn the_fleets_page_names_what_needs_a_person() {
    let running = Running::start().await;
    running.publish(CONFIG).await;
    let token = running.make_token("agent", "eu").await;
    let mut client = AgentServiceClient::new(running.wire(&token));
    let report = |agent: &str, proxy: &str| v1::ReportRequest {
        agent_id: agent.into(),
        instance: "one".into(),
        proxies: vec![v1::ProxyStatus { proxy_id: proxy.into(), ..Default::default() }],
        refused: vec![v1::RefusedCount { code: "revision_too_old".into(), count: 3 }],
        alarm: "revision r1 is below the floor".into(),
        ..Default::default()
    };
    client.report(report("a", "p1")).await.unwrap();
    client.report(report("b", "p1")).await.unwrap();
    let fleet = running.fleet().get_fleet(v1::GetFleetRequest::default()).await.unwrap().into_inner();
    let has = |words: &str| fleet.alarms.iter().any(|alarm| alarm.contains(words));
    for words in [
        "agent `a` has no subscription open",
        "agent `a` refused 3 bundles: revision_too_old",
        "agent `a`: revision r1 is below the floor",
        "proxy `p1` is not ready",
        "proxy `p1` belongs to agent `a` and is also reported by agent `b`",
    ] {
        assert!(has(words), "{words}: {:#?}", fleet.alarms);
    }
    assert_eq!((fleet.agents.len(), fleet.nodes.len()), (2, 1));
}

#[tokio::test]
async fn a_restored_database_publishes_nothing_until_the_epoch_is_raised() {
    let running = Running::start().await;
    running.publish(CONFIG).await;
    let token = running.make_token("agent", "eu").await;
    let mut client = AgentServiceClient::new(running.wire(&token));
    let report = v1::ReportRequest {
        agent_id: "a".into(),
        instance: "one".into(),
        epoch: 1,
        revision_floor: 7,
        ..Default::default()
    };
    client.report(report.clone()).await.unwrap();
    let request = v1::PublishRequest { config_yaml: config(3001), ..Default::default() };
    let refused = running.config().publish(request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("raise-epoch"), "{}", refused.message());

    let folder = std::sync::Arc::clone(&running.folder);
    let settings = crate::helper::settings(folder.path());
    running.authority.stop().await;
    let recovered = sealane_authority::recover(folder.path(), RecoverOrder::default()).await.unwrap();
    assert_eq!(recovered, Recovered::Raised { epoch: 2 });
    let running = Running::of(folder, settings).await;
    AgentServiceClient::new(running.wire(&token)).report(report).await.unwrap();
    let revision = running.config().publish(request).await.unwrap().into_inner().revision.unwrap();
    assert_eq!((revision.revision, revision.epoch), (2, 2));
}

#[tokio::test]
async fn what_an_agent_refuses_is_an_alarm_and_in_the_audit_log() {
    let running = Running::start().await;
    let token = running.make_token("agent", "eu").await;
    let mut client = AgentServiceClient::new(running.wire(&token));
    let refused = vec![v1::RefusedCount { code: "wrong_fleet".into(), count: 2 }];
    let proxy = v1::ProxyStatus {
        proxy_id: "p1".into(),
        refused: vec![v1::RefusedCount { code: "root_not_next".into(), count: 1 }],
        ready: true,
        ..Default::default()
    };
    let report = v1::ReportRequest {
        agent_id: "a".into(),
        instance: "one".into(),
        refused,
        alarm: "refused desired state: document of fleet `g` in fleet `f`".into(),
        proxies: vec![proxy],
        ..Default::default()
    };
    client.report(report.clone()).await.unwrap();
    client.report(report).await.unwrap();
    let list = running.audit().list_audit(v1::ListAuditRequest::default()).await.unwrap().into_inner().entries;
    let found: Vec<_> = list.iter().filter(|entry| entry.action == "refused").collect();
    assert_eq!(found.len(), 1, "once, not with every report");
    assert!(found[0].actor == "a (agent)" && found[0].detail.contains("wrong_fleet"), "{found:?}");
    let fleet = running.fleet().get_fleet(v1::GetFleetRequest::default()).await.unwrap().into_inner();
    for words in ["agent `a` refused 2 bundles: wrong_fleet", "proxy `p1` refused 1 bundles: root_not_next"] {
        assert!(fleet.alarms.iter().any(|alarm| alarm.starts_with(words)), "{words}: {:?}", fleet.alarms);
    }
}

#[tokio::test]
async fn forged_health_report() {
    // An agent with good credentials speaks for a proxy that is another agent's: its word does not count, and shows.
    let running = Running::start().await;
    let _honest = running.agent("a", "eu", &["p1"]).await;
    running.baseline().await;
    running.until(1, |one| one.state() == RolloutState::Completed).await;
    let token = running.make_token("agent", "eu").await;
    let mut client = AgentServiceClient::new(running.wire(&token));
    let forged = v1::ProxyStatus { proxy_id: "p1".into(), active_revision: 999, ready: false, ..Default::default() };
    let report = v1::ReportRequest {
        agent_id: "rogue".into(),
        instance: "one".into(),
        proxies: vec![forged],
        ..Default::default()
    };
    let deadline = tokio::time::Instant::now() + crate::helper::DEADLINE;
    let fleet = loop {
        client.report(report.clone()).await.unwrap();
        let fleet = running.fleet().get_fleet(v1::GetFleetRequest::default()).await.unwrap().into_inner();
        if fleet.alarms.iter().any(|alarm| alarm.contains("is also reported by agent `rogue`")) {
            break fleet;
        }
        assert!(tokio::time::Instant::now() < deadline, "{:?}", fleet.alarms);
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let node = fleet.nodes.iter().find(|node| node.id == "p1").unwrap();
    assert_eq!((node.agent.as_str(), node.health.as_str(), node.revision), ("a", "healthy", 1));
}

#[tokio::test]
async fn the_fleet_is_watched_as_a_whole_and_listed_in_pages() {
    let running = Running::start().await;
    let mut watch = running.fleet().watch(v1::FleetServiceWatchRequest::default()).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap().fleet.unwrap();
    assert_eq!((first.nodes.len(), first.revision_newest), (0, 0));
    let _agent = running.agent("a", "eu", &["p1", "p2", "p3"]).await;
    running.publish(CONFIG).await;
    let seen = async {
        loop {
            let fleet = watch.message().await.unwrap().unwrap().fleet.unwrap();
            let is_healthy = fleet.nodes.iter().all(|node| node.health == "healthy" && node.revision == 1);
            if fleet.nodes.len() == 3 && is_healthy && fleet.revision_last_good == 1 {
                return fleet;
            }
        }
    };
    let fleet = tokio::time::timeout(crate::helper::DEADLINE, seen).await.unwrap();
    assert_eq!(fleet.alarms, Vec::<String>::new());
    let request = v1::ListNodesRequest { page_size: 2, page_token: String::new() };
    let page = running.fleet().list_nodes(request).await.unwrap().into_inner();
    assert_eq!(page.nodes.iter().map(|node| node.id.as_str()).collect::<Vec<_>>(), ["p1", "p2"]);
    let request = v1::ListNodesRequest { page_size: 2, page_token: page.next_page_token };
    let page = running.fleet().list_nodes(request).await.unwrap().into_inner();
    assert_eq!((page.nodes[0].id.as_str(), page.next_page_token.as_str()), ("p3", ""));
}
