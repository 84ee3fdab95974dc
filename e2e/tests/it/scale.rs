//! What a change costs the authority and its agents, counted: nothing may grow with agents times the config's size.

use std::time::Duration;

use sealane_e2e::scale::config;
use sealane_e2e::scale::fleet::ScaleFleet;
use tokio::time::Instant;

const AGENTS: usize = 50;
const DEADLINE: Duration = Duration::from_secs(120);
/// The most that may go to an agent for a change of one route, in bytes.
const CHANGE_BYTES_MAX: u64 = 64 * 1024;

/// Manifests and chunks packed, desired states put together, timestamp documents signed.
async fn counts(fleet: &ScaleFleet) -> [u64; 3] {
    let mut counts = [0; 3];
    for (count, series) in counts.iter_mut().zip([
        "sealane_chunks_packed_total",
        "sealane_desired_states_made_total",
        "sealane_timestamps_signed_total",
    ]) {
        *count = fleet.metric(series).await.expect("the counters of the authority") as u64;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_one_route_is_packed_signed_and_put_together_once_for_all_agents() {
    let mut fleet = ScaleFleet::start(super::program(), 10, 10).await.unwrap();
    fleet.add_agents(AGENTS);
    fleet.wait_for_agents(DEADLINE).await.unwrap();
    fleet.publish(&config::routes(4_000, None)).await.unwrap();
    fleet.wait_for_revision(1, DEADLINE).await.unwrap();
    fleet.completed(1).await.unwrap();

    let (begun, before) = (Instant::now(), counts(&fleet).await);
    let received: Vec<u64> = fleet.meters.iter().map(|meter| meter.received()).collect();
    fleet.publish(&config::routes(4_000, Some((2_000, 7)))).await.unwrap();
    fleet.wait_for_revision(2, DEADLINE).await.unwrap();
    let most = fleet.meters.iter().zip(received).map(|(meter, before)| meter.received() - before).max().unwrap();
    assert!(most <= CHANGE_BYTES_MAX, "{most} bytes went to one agent");
    fleet.completed(2).await.unwrap();

    let after = counts(&fleet).await;
    let [packed, made, signed] = [0, 1, 2].map(|at| after[at] - before[at]);
    // The manifest, and a chunk, or two where the change moved an edge between chunks.
    assert!((2..=4).contains(&packed), "{packed} blobs were packed for {AGENTS} agents");
    // For the candidate, its grant and its end, and once more where a second went by meanwhile.
    let seconds = begun.elapsed().as_secs() + 1;
    assert!(made < AGENTS as u64 && made <= 6 + 2 * seconds, "{made} states in {seconds} s for {AGENTS} agents");
    assert!(signed <= made + seconds, "{signed} signatures in {seconds} s, with {made} states");
    assert_eq!(fleet.world.progress.faults(), Vec::<String>::new());
}
