//! The life of a revision: published, prepared, staged, judged, finished or taken back.

use sealane_proto::v1::{self, RolloutState};

use crate::helper::{Behaviour, CONFIG, Running, config};

#[tokio::test]
async fn the_first_revision_completes_at_once_without_proxies_and_says_so() {
    let running = Running::start().await;
    let revision = running.publish(CONFIG).await;
    assert_eq!((revision.revision, revision.name.as_str()), (1, "r1"));
    let rollout = running.until_state(1, RolloutState::Completed).await;
    assert!(rollout.verdict_line.starts_with("COMPLETED r1 in "), "{}", rollout.verdict_line);
    assert!(rollout.verdict_line.ends_with("no proxy is connected yet"), "{}", rollout.verdict_line);
    let agent = running.agent("a", "eu", &["p1", "p2"]).await;
    agent.wait("late proxies serve r1", |agent| agent.active() == [1, 1]).await;
}

#[tokio::test]
async fn a_revision_goes_through_every_stage_and_completes() {
    let running = Running::start().await;
    let one = running.agent("a", "eu", &["p1", "p2", "p3"]).await;
    let two = running.agent("b", "us", &["p4", "p5", "p6"]).await;
    one.wait("connected", |agent| agent.desired().is_some()).await;
    two.wait("connected", |agent| agent.desired().is_some()).await;
    running.baseline().await;
    one.wait("r1", |agent| agent.active() == [1, 1, 1]).await;

    running.publish(&config(3001)).await;
    let running_state = running.until_state(2, RolloutState::Running).await;
    assert_eq!(running_state.last_good, 1);
    let rollout = running.until_state(2, RolloutState::Completed).await;
    assert!(rollout.verdict_line.starts_with("COMPLETED r2 in "), "{}", rollout.verdict_line);
    assert!(rollout.verdict_line.ends_with(": 6 of 6 proxies"), "{}", rollout.verdict_line);
    let states: Vec<(&str, &str, u32)> =
        rollout.stages.iter().map(|stage| (stage.name.as_str(), stage.state.as_str(), stage.proxies)).collect();
    assert_eq!(states, [("canary", "passed", 1), ("half", "passed", 3), ("all", "passed", 6)]);
    assert_eq!(rollout.verdict, "pass");
    one.wait("everyone serves r2", |agent| agent.active() == [2, 2, 2]).await;
    two.wait("everyone serves r2", |agent| agent.active() == [2, 2, 2]).await;
    let newest = running.config().get_revision(v1::GetRevisionRequest::default()).await.unwrap().into_inner();
    assert_eq!(newest.revision.unwrap().state, "completed");
}

#[tokio::test]
async fn failing_requests_on_the_canary_take_it_back_with_the_reason() {
    let running = Running::start().await;
    let agent = running.agent("a", "eu", &["p1", "p2", "p3", "p4", "p5", "p6"]).await;
    agent.wait("connected", |agent| agent.desired().is_some()).await;
    running.baseline().await;
    agent.behave(2, Behaviour { fails: 34, ..Behaviour::default() });
    running.publish(&config(3001)).await;
    let rollout = running.until_state(2, RolloutState::RolledBack).await;
    assert!(rollout.verdict_line.starts_with("ROLLED BACK r2 → r1 after "), "{}", rollout.verdict_line);
    assert!(rollout.verdict_line.ends_with(": error_rate 34.0% > 1% at stage canary"), "{}", rollout.verdict_line);
    let reason = rollout.reason.unwrap();
    assert_eq!((reason.gate.as_str(), reason.value, reason.limit), ("error_rate", 0.34, 0.01));
    assert_eq!((reason.stage.as_str(), reason.nodes.len()), ("canary", 1));
    assert_eq!(rollout.stages[0].state, "failed");
    agent.wait("everyone is back", |agent| agent.active() == [1; 6]).await;
    let desired = agent.desired().unwrap();
    assert_eq!(desired.withdrawn.len(), 1);
    assert!(desired.candidate.is_none());

    // What is published next is judged by itself.
    running.publish(&config(3002)).await;
    running.until_state(3, RolloutState::Completed).await;
}

#[tokio::test]
async fn a_node_that_cannot_compile_it_rejects_it_before_any_traffic() {
    let running = Running::start().await;
    let agent = running.agent("a", "eu", &["p1", "p2"]).await;
    agent.wait("connected", |agent| agent.desired().is_some()).await;
    running.baseline().await;
    agent.behave(2, Behaviour { refuses: true, ..Behaviour::default() });
    running.publish(&config(3001)).await;
    let rollout = running.until_state(2, RolloutState::Rejected).await;
    assert_eq!(rollout.verdict_line, "REJECTED r2: p1: listeners[0].address line 1: address in use (and 1 more)");
    let problem = rollout.problems[0].problem.clone().unwrap();
    assert_eq!((rollout.problems[0].node.as_str(), rollout.problems[0].agent.as_str()), ("p1", "a"));
    assert_eq!(
        (problem.path.as_str(), problem.line, problem.code.as_str()),
        ("listeners[0].address", 1, "cannot_bind")
    );
    assert_eq!(agent.active(), [1, 1]);
}
