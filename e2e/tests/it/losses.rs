//! The authority is killed while a rollout goes back.

use std::time::Duration;

use sealane_e2e::fleet::Fleet;
use sealane_e2e::load::Load;
use sealane_e2e::origin::Origin;
use sealane_e2e::wait;

use crate::program;

const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_killed_while_a_rollout_goes_back_takes_it_back_all_the_same() {
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    let mut fleet = Fleet::start(program(), &["eu", "us"], 1).await;
    assert_eq!(fleet.publish(&fleet.config("one.yaml", one.address())).await.code, 0);
    fleet.wait_for_body("one").await;
    let load = Load::start(&fleet.addresses(), Duration::from_millis(20));
    let file = crate::faults::patient(&fleet, &two, "");
    assert_eq!(fleet.cli(&["publish", &file, "-m", "two"]).await.code, 0);
    let canary = wait::until("a canary on r2", SOON, async || {
        let nodes = fleet.nodes().await;
        nodes.iter().find(|node| node["revision"] == 2).and_then(|node| node["agent"].as_str().map(str::to_owned))
    })
    .await;
    // Its agent is cut off, so that going back takes until it is heard again.
    let at = fleet.agents.iter().position(|agent| agent.data.ends_with(&canary)).expect("one of ours");
    fleet.agents[at].link.cut();
    assert_eq!(fleet.cli(&["rollout", "abort"]).await.code, 0);
    let going_back = async |fleet: &Fleet| {
        wait::until("a rollout that goes back", SOON, async || {
            (fleet.json(&["rollout", "status", "r2"]).await["state"] == "rolling_back").then_some(())
        })
        .await;
    };
    going_back(&fleet).await;
    for _ in 0..2 {
        fleet.authority.kill().await;
        fleet.authority.restart();
        fleet.wait_for_authority().await;
        going_back(&fleet).await;
    }
    fleet.agents[at].link.mend();
    let verdict = fleet.verdict(2).await;
    assert_eq!(verdict.code, 8, "{verdict:?}");
    assert!(verdict.stdout.starts_with("ABORTED r2"), "{verdict:?}");
    fleet.wait_for_body("one").await;
    assert_eq!(load.failures(), 0, "{:?}", load.seen());
    // And the fleet takes the next change.
    assert_eq!(fleet.publish(&fleet.config("two.yaml", two.address())).await.code, 0);
    fleet.wait_for_body("two").await;
}
