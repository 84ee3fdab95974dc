//! Disks that are full, content that is damaged, a second authority, and a network that is cut.

use std::time::Duration;

use sealane_e2e::disk::SmallDisk;
use sealane_e2e::fleet::{Fleet, free_address};
use sealane_e2e::load::Load;
use sealane_e2e::origin::Origin;
use sealane_e2e::process::finish;
use sealane_e2e::wait;
use tempfile::TempDir;

use crate::faults::patient;
use crate::program;

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn with_a_full_disk_at_the_authority_or_an_agent_traffic_goes_on_and_so_does_the_rollout_once_there_is_room() {
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    let directory = TempDir::new().expect("a temporary directory");
    let disks = ["authority", "agent-eu"].map(|name| SmallDisk::mount(&directory.path().join(name)));
    let [Some(authority), Some(agent)] = disks else { return };
    let fleet = Fleet::start_in(directory, program(), &["eu"], 2).await;
    assert_eq!(fleet.publish(&fleet.config("one.yaml", one.address())).await.code, 0);
    fleet.wait_for_body("one").await;
    let load = Load::start(&fleet.addresses(), Duration::from_millis(20));

    // The authority's: a publish is refused in words, nothing of it stays.
    authority.fill();
    let refused = fleet.cli(&["publish", &fleet.config("two.yaml", two.address()), "-m", "two"]).await;
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.stderr.contains("full"), "{refused:?}");
    authority.free();
    assert_eq!(fleet.json(&["fleet", "status"]).await["revision_newest"], 1);

    // The agent's: it cannot take the revision in, and says so; nothing is served of it.
    agent.fill();
    assert_eq!(fleet.cli(&["publish", &fleet.config("two.yaml", two.address()), "-m", "two"]).await.code, 0);
    let said = wait::until("an alarm about the disk", SOON, async || {
        let status = fleet.cli(&["fleet", "status"]).await;
        status.stdout.contains("agent `agent-eu`: ").then_some(status.stdout)
    })
    .await;
    assert!(said.contains("No space left"), "{said}");
    let check = fleet.cli(&["check"]).await;
    assert!(check.code == 1 && check.stdout.contains("No space left"), "{check:?}");
    fleet.wait_for_body("one").await;
    // In the middle of the rollout the authority's fills up as well: it stands still, and goes on by itself.
    authority.fill();
    agent.free();
    let before = load.total();
    wait::until("traffic meanwhile", SOON, async || (load.total() > before + 100).then_some(())).await;
    authority.free();
    let verdict = fleet.verdict(2).await;
    assert_eq!(verdict.code, 0, "{verdict:?}");
    fleet.wait_for_body("two").await;
    assert_eq!(load.failures(), 0, "{:?}", load.seen());
    assert_eq!(fleet.cli(&["audit", "verify"]).await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_content_a_second_authority_and_a_cut_in_the_middle_of_a_stage_change_nothing_that_is_served() {
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    let mut fleet = Fleet::start(program(), &["eu", "us"], 1).await;
    assert_eq!(fleet.publish(&fleet.config("one.yaml", one.address())).await.code, 0);
    fleet.wait_for_body("one").await;
    let load = Load::start(&fleet.addresses(), Duration::from_millis(20));

    // A second authority on the same file.
    let (grpc, http) = (free_address().to_string(), free_address().to_string());
    let arguments = ["authority", "--data", "authority", "--grpc-addr", &grpc, "--http-addr", &http];
    let second = finish(program(), fleet.path(), SOON, &arguments).await;
    assert_ne!(second.code, 0, "{second:?}");
    assert!(second.stderr.contains("in use by another authority (process "), "{second:?}");

    // Every blob of an agent is damaged; a fresh proxy beside it asks for them all.
    let blobs = std::fs::read_dir(fleet.agents[0].data.join("blobs")).expect("blobs of the agent");
    let mut damaged = 0;
    for blob in blobs {
        let path = blob.expect("a blob").path();
        let mut bytes = std::fs::read(&path).expect("a blob");
        if let Some(byte) = bytes.last_mut() {
            *byte ^= 1;
            damaged += 1;
        }
        std::fs::write(&path, bytes).expect("a damaged blob");
    }
    assert!(damaged > 0);
    let agent = fleet.agents[0].grpc;
    fleet.add_proxy(agent, "proxy-eu-fresh");
    fleet.wait_for_body("one").await;
    let fresh = Load::start(&fleet.addresses()[2..], Duration::from_millis(20));

    // The agent of the canary is cut off in the middle of its stage: the stage waits for it, and goes on.
    let patient = std::fs::read_to_string(fleet.path().join(patient(&fleet, &two, ""))).expect("the file just written");
    let file = fleet.config_text("slow.yaml", &patient.replace("bake_time: 6s", "bake_time: 9s"));
    assert_eq!(fleet.cli(&["publish", &file, "-m", "two"]).await.code, 0);
    let canary = wait::until("a canary on r2", SOON, async || {
        let nodes = fleet.nodes().await;
        nodes.iter().find(|node| node["revision"] == 2).and_then(|node| node["agent"].as_str().map(str::to_owned))
    })
    .await;
    let cut = fleet.agents.iter().find(|agent| agent.data.ends_with(&canary)).expect("one of ours");
    cut.link.cut();
    let doing = wait::until("a stage that waits", SOON, async || {
        let status = fleet.json(&["rollout", "status", "r2"]).await;
        let doing = status["doing"].as_str().unwrap_or_default().to_owned();
        doing.contains("waiting for proxy-").then_some(doing)
    })
    .await;
    let alarm = wait::until("an alarm about the agent", SOON, async || {
        let status = fleet.cli(&["fleet", "status"]).await;
        status.stdout.contains("no subscription open").then_some(status.stdout)
    })
    .await;
    assert!(alarm.contains(&canary), "{doing}: {alarm}");
    let before = load.total();
    // Longer than what was left of the bake: time without fresh reports is no healthy time.
    wait::until("traffic meanwhile", SOON, async || (load.total() > before + 1_200).then_some(())).await;
    let state = fleet.json(&["rollout", "status", "r2"]).await;
    assert_ne!(state["state"], "completed", "{state}");
    let on_new = fleet.nodes().await.iter().filter(|node| node["revision"] == 2).count();
    assert_eq!(on_new, 1, "nothing widened: {state}");
    cut.link.mend();
    let verdict = fleet.verdict(2).await;
    assert_eq!(verdict.code, 0, "{verdict:?}");
    fleet.wait_for_body("two").await;
    assert_eq!(load.failures() + fresh.failures(), 0, "{:?} {:?}", load.seen(), fresh.seen());
}
