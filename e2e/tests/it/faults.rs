//! `kill -9` of every part, and restarts with everything above away.

use std::time::Duration;

use sealane_e2e::fleet::Fleet;
use sealane_e2e::load::{self, Load};
use sealane_e2e::origin::Origin;
use sealane_e2e::wait;

use crate::program;

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_authority_at_any_moment_of_a_rollout_fails_no_request_and_the_rollout_goes_on() {
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    let mut fleet = Fleet::start(program(), &["eu", "us"], 2).await;
    assert_eq!(fleet.publish(&fleet.config("one.yaml", one.address())).await.code, 0);
    fleet.wait_for_body("one").await;
    let load = Load::start(&fleet.addresses(), Duration::from_millis(20));

    let (mut upstream, mut next) = (&two, &one);
    for (revision, state) in [(2, "preparing"), (3, "running"), (4, "final_bake")] {
        let file = fleet.config("next.yaml", upstream.address());
        let published = fleet.cli(&["publish", &file, "-m", state]).await;
        assert_eq!(published.code, 0, "{published:?}");
        wait::until(&format!("state {state} or later"), SOON, async || {
            let status = fleet.json(&["rollout", "status", &revision.to_string()]).await;
            let now = status["state"].as_str().unwrap_or_default().to_owned();
            (now == state || (state == "preparing" && now == "running")).then_some(())
        })
        .await;
        fleet.authority.kill().await;
        let before = load.total();
        wait::until("traffic while the authority is away", SOON, async || (load.total() > before + 100).then_some(()))
            .await;
        fleet.authority.restart();
        fleet.wait_for_authority().await;
        let verdict = fleet.verdict(revision).await;
        assert_eq!(verdict.code, 0, "{verdict:?}");
        assert!(verdict.stdout.starts_with(&format!("COMPLETED r{revision}")), "{verdict:?}");
        (upstream, next) = (next, upstream);
    }
    assert_eq!(load.failures(), 0, "{:?}", load.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_proxy_starts_from_disk_alone_and_its_agent_brings_it_to_where_the_rollout_stands() {
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    let mut fleet = Fleet::start(program(), &["eu"], 2).await;
    assert_eq!(fleet.publish(&fleet.config("one.yaml", one.address())).await.code, 0);
    fleet.wait_for_body("one").await;

    // Everything above away.
    fleet.authority.kill().await;
    fleet.agents[0].process.kill().await;
    fleet.proxies[0].process.kill().await;
    fleet.proxies[0].process.restart();
    fleet.wait_for_body("one").await;

    // The agent alone comes back, from its disk; then the authority, and a new revision reaches the proxy.
    fleet.agents[0].process.restart();
    fleet.authority.restart();
    fleet.wait_for_authority().await;
    wait::equals("live proxies", SOON, 2, async || {
        fleet.nodes().await.iter().filter(|node| node["health"] == "healthy").count()
    })
    .await;
    let load = Load::start(&fleet.addresses(), Duration::from_millis(20));
    let published = fleet.publish(&fleet.config("two.yaml", two.address())).await;
    assert_eq!(published.code, 0, "{published:?}");
    fleet.wait_for_body("two").await;
    assert_eq!(load.failures(), 0, "{:?}", load.seen());
    drop(load);

    fleet.proxies[1].process.kill().await;
    fleet.proxies[1].process.restart();
    fleet.wait_for_body("two").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_is_killed_in_its_bake_comes_back_on_last_good_and_is_tried_once_more() {
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    let mut fleet = Fleet::start(program(), &["eu"], 3).await;
    assert_eq!(fleet.publish(&fleet.config("one.yaml", one.address())).await.code, 0);
    fleet.wait_for_body("one").await;
    let load = Load::start(&fleet.addresses(), Duration::from_millis(20));
    let slow = format!(
        "{}rollout:\n  stages:\n    - {{ name: canary, fleet_percent: 10, bake_time: 4s }}\n    - {{ name: all, fleet_percent: 100 }}\n  min_requests: 20\n  final_bake: 1s\n",
        std::fs::read_to_string(fleet.config("two.yaml", two.address())).expect("the file just written")
    );
    let file = fleet.config_text("two.yaml", &slow);
    assert_eq!(fleet.cli(&["publish", &file, "-m", "two"]).await.code, 0);
    let canary = wait::until("a canary on r2", SOON, async || {
        let nodes = fleet.nodes().await;
        nodes.iter().find(|node| node["revision"] == 2).and_then(|node| node["id"].as_str().map(str::to_owned))
    })
    .await;
    let canary = fleet.proxies.iter_mut().find(|proxy| proxy.id == canary).expect("one of ours");
    canary.process.kill().await;
    canary.process.restart();
    let verdict = fleet.verdict(2).await;
    assert_eq!(verdict.code, 0, "{verdict:?}");
    fleet.wait_for_body("two").await;
    let nodes_hit = load.seen().iter().filter(|seen| seen.failures() > 0).count();
    assert!(nodes_hit <= 1, "only the killed proxy refused connections: {:?}", load.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_an_agent_in_mid_rollout_fails_no_request_and_the_rollout_goes_on() {
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    let mut fleet = Fleet::start(program(), &["eu", "us"], 2).await;
    assert_eq!(fleet.publish(&fleet.config("one.yaml", one.address())).await.code, 0);
    fleet.wait_for_body("one").await;
    let load = Load::start(&fleet.addresses(), Duration::from_millis(20));
    assert_eq!(fleet.cli(&["publish", &fleet.config("two.yaml", two.address()), "-m", "two"]).await.code, 0);
    wait::until("a stage that is open", SOON, async || {
        (fleet.json(&["rollout", "status", "2"]).await["state"] == "running").then_some(())
    })
    .await;
    for agent in &mut fleet.agents {
        agent.process.kill().await;
        agent.process.restart();
    }
    let verdict = fleet.verdict(2).await;
    assert_eq!(verdict.code, 0, "{verdict:?}");
    fleet.wait_for_body("two").await;
    assert_eq!(load.failures(), 0, "{:?}", load.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn restarting_everything_with_the_authority_away_serves_traffic() {
    let one = Origin::start("one").await;
    let mut fleet = Fleet::start(program(), &["eu", "us"], 1).await;
    assert_eq!(fleet.publish(&fleet.config("one.yaml", one.address())).await.code, 0);
    fleet.wait_for_body("one").await;
    fleet.authority.kill().await;
    for agent in &mut fleet.agents {
        agent.process.kill().await;
    }
    for proxy in &mut fleet.proxies {
        proxy.process.kill().await;
    }
    for agent in &mut fleet.agents {
        agent.process.restart();
    }
    for proxy in &mut fleet.proxies {
        proxy.process.restart();
    }
    fleet.wait_for_body("one").await;
    let client = load::client();
    for proxy in &fleet.proxies {
        let ready = load::get(&client, &format!("http://{}/readyz", proxy.admin)).await;
        assert!(matches!(ready, Ok((200, _))), "{ready:?}");
    }
}

/// A config for `upstream` whose canary bakes for a while; `more` goes into its `rollout:`.
pub(crate) fn patient(fleet: &Fleet, upstream: &Origin, more: &str) -> String {
    let text = std::fs::read_to_string(fleet.config("base.yaml", upstream.address())).expect("the file just written");
    let rollout = format!(
        "rollout:\n  stages:\n    - {{ name: canary, fleet_percent: 10, bake_time: 6s }}\n    - {{ name: all, fleet_percent: 100 }}\n  min_requests: 20\n  final_bake: 1s\n{more}"
    );
    fleet.config_text("patient.yaml", &format!("{text}{rollout}"))
}

/// Published, and how it ended.
async fn judged(fleet: &Fleet, file: &str) -> serde_json::Value {
    let published = fleet.cli(&["publish", file, "-m", "change"]).await;
    assert_eq!(published.code, 0, "{published:?}");
    let verdict = fleet.verdict(2).await;
    let status = fleet.json(&["rollout", "status", "r2"]).await;
    assert_eq!(verdict.code, 8, "{verdict:?} {status}");
    let explained = fleet.json(&["rollout", "explain", "r2"]).await;
    assert_eq!(explained["agrees"], true, "{explained}");
    status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_is_slower_than_the_others_is_taken_back_though_every_threshold_holds() {
    let (one, slow) = (Origin::start("one").await, Origin::start("slow").await);
    // A tenth of the threshold, and every request of the canary: a busy test machine is slow now and then, on both sides.
    slow.delay(Duration::from_millis(50));
    let fleet = Fleet::start(program(), &["eu"], 4).await;
    assert_eq!(fleet.publish(&fleet.config("one.yaml", one.address())).await.code, 0);
    fleet.wait_for_body("one").await;
    let load = Load::start(&fleet.addresses(), Duration::from_millis(20));
    let status = judged(&fleet, &patient(&fleet, &slow, "")).await;
    assert_eq!(status["reason"]["gate"], "compare_slow", "{status}");
    fleet.wait_for_body("one").await;
    assert_eq!(load.failures(), 0, "{:?}", load.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_the_change_loses_takes_it_back() {
    let one = Origin::start("one").await;
    let fleet = Fleet::start(program(), &["eu"], 4).await;
    assert_eq!(fleet.publish(&fleet.config("one.yaml", one.address())).await.code, 0);
    fleet.wait_for_body("one").await;
    let _load = Load::start(&fleet.addresses(), Duration::from_millis(20));
    let file = patient(&fleet, &one, "");
    let lost = std::fs::read_to_string(fleet.path().join(&file)).expect("the file just written");
    let file = fleet.config_text("lost.yaml", &lost.replace("path_prefix: /", "path_prefix: /elsewhere"));
    let status = judged(&fleet, &file).await;
    assert_eq!(status["reason"]["gate"], "compare_4xx", "{status}");
    fleet.wait_for_body("one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_without_traffic_is_taken_back_and_without_any_traffic_it_is_held() {
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    let fleet = Fleet::start(program(), &["eu"], 3).await;
    assert_eq!(fleet.publish(&fleet.config("one.yaml", one.address())).await.code, 0);
    fleet.wait_for_body("one").await;
    let file = patient(&fleet, &two, "  progress_deadline: 8s\n");
    assert_eq!(fleet.cli(&["publish", &file, "-m", "quiet"]).await.code, 0);
    wait::until("a hold for want of data", SOON, async || {
        let status = fleet.json(&["rollout", "status", "r2"]).await;
        (status["state"] == "held" && status["reason"]["gate"] == "no_data").then_some(())
    })
    .await;
    assert_eq!(fleet.cli(&["rollout", "abort"]).await.code, 0);
    fleet.verdict(2).await;

    assert_eq!(fleet.cli(&["publish", &file, "-m", "starved"]).await.code, 0);
    let canary = wait::until("a canary on r3", SOON, async || {
        let nodes = fleet.nodes().await;
        nodes.iter().find(|node| node["revision"] == 3).and_then(|node| node["id"].as_str().map(str::to_owned))
    })
    .await;
    let others: Vec<_> = fleet.proxies.iter().filter(|proxy| proxy.id != canary).map(|proxy| proxy.address).collect();
    let _load = Load::start(&others, Duration::from_millis(20));
    let verdict = fleet.verdict(3).await;
    assert_eq!(verdict.code, 8, "{verdict:?}");
    assert!(verdict.stdout.contains("starved"), "{verdict:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_dies_twice_takes_the_change_back() {
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    let mut fleet = Fleet::start(program(), &["eu"], 3).await;
    assert_eq!(fleet.publish(&fleet.config("one.yaml", one.address())).await.code, 0);
    fleet.wait_for_body("one").await;
    let file = patient(&fleet, &two, "");
    assert_eq!(fleet.cli(&["publish", &file, "-m", "two"]).await.code, 0);
    for _ in 0..2 {
        let canary = wait::until("a canary on r2", SOON, async || {
            let nodes = fleet.nodes().await;
            let canary = nodes.iter().find(|node| node["revision"] == 2 && node["health"] == "healthy");
            canary.and_then(|node| node["id"].as_str().map(str::to_owned))
        })
        .await;
        let canary = fleet.proxies.iter_mut().find(|proxy| proxy.id == canary).expect("one of ours");
        canary.process.kill().await;
        canary.process.restart();
        let (admin, client) = (canary.admin, load::client());
        wait::until("the canary on last good", SOON, async || {
            let ready = load::get(&client, &format!("http://{admin}/readyz")).await;
            matches!(ready, Ok((200, _))).then_some(())
        })
        .await;
    }
    let verdict = fleet.verdict(2).await;
    assert_eq!(verdict.code, 8, "{verdict:?}");
    fleet.wait_for_body("one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_at_an_agent_takes_its_proxies_back_with_the_authority_away() {
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    let mut fleet = Fleet::start(program(), &["eu"], 2).await;
    assert_eq!(fleet.publish(&fleet.config("one.yaml", one.address())).await.code, 0);
    fleet.wait_for_body("one").await;
    let load = Load::start(&fleet.addresses(), Duration::from_millis(20));
    let file = patient(&fleet, &two, "");
    assert_eq!(fleet.cli(&["publish", &file, "-m", "two"]).await.code, 0);
    wait::until("a canary on r2", SOON, async || {
        fleet.nodes().await.iter().any(|node| node["revision"] == 2).then_some(())
    })
    .await;
    fleet.authority.kill().await;
    let data = fleet.agents[0].data.display().to_string();
    let arguments = ["agent", "rollback", "--data", &data];
    let dry = [&arguments[..], &["--dry-run"]].concat();
    let dry = sealane_e2e::process::finish(&fleet.program, fleet.path(), SOON, &dry).await;
    assert!(dry.code == 0 && dry.stdout.contains("would go back from r2 to r1"), "{dry:?}");
    let back = sealane_e2e::process::finish(&fleet.program, fleet.path(), SOON, &arguments).await;
    assert_eq!(back.code, 0, "{back:?}");
    assert!(back.stdout.contains("from r2 to r1"), "{back:?}");
    fleet.wait_for_body("one").await;
    fleet.authority.restart();
    fleet.wait_for_authority().await;
    let verdict = fleet.verdict(2).await;
    assert_eq!(verdict.code, 8, "{verdict:?}");
    assert!(verdict.stdout.contains("an operator took this agent's proxies back"), "{verdict:?}");
    assert_eq!(load.failures(), 0, "{:?}", load.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_takes_a_first_revision_back_to_nothing() {
    let origin = Origin::start("one").await;
    let mut fleet = Fleet::start(program(), &["eu"], 2).await;
    // A proxy that is away keeps the first revision from being good.
    fleet.proxies[1].process.kill().await;
    let file = fleet.config("one.yaml", origin.address());
    assert_eq!(fleet.cli(&["publish", &file, "-m", "one"]).await.code, 0);
    let data = fleet.agents[0].data.display().to_string();
    let arguments = ["agent", "rollback", "--data", &data];
    wait::until("a refusal", SOON, async || {
        let back = sealane_e2e::process::finish(&fleet.program, fleet.path(), SOON, &arguments).await;
        back.stderr.contains("nothing to go back to").then_some(())
    })
    .await;
    fleet.proxies[1].process.restart();
    fleet.wait_for_body("one").await;
}
