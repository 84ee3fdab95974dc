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
