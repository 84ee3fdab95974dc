//! People steer: hold, promote, pause, resume, abort, retry, queue, supersede, roll back.

use sealane_model::plan::Plan;
use sealane_proto::v1::{self, RolloutCommand, RolloutState};
use std::time::Duration;
use tonic::Code;

use crate::helper::{Agent, Behaviour, CONFIG, Running, config, quick_plan};

/// A fleet of six on r1, and bakes that never end by themselves.
async fn patient() -> (Running, Agent) {
    let mut plan = quick_plan();
    plan.stages[0].bake = Duration::from_secs(600);
    fleet(plan).await
}

async fn fleet(plan: Plan) -> (Running, Agent) {
    let running = Running::with(|settings| settings.default_plan = Some(plan)).await;
    let agent = running.agent("a", "eu", &["p1", "p2", "p3", "p4", "p5", "p6"]).await;
    agent.wait("connected", |agent| agent.desired().is_some()).await;
    running.baseline().await;
    (running, agent)
}

fn command() -> Option<RolloutCommand> {
    Some(RolloutCommand::default())
}

#[tokio::test]
async fn a_promote_takes_a_persons_word_for_the_open_stage() {
    let (running, agent) = patient().await;
    running.publish(&config(3001)).await;
    running.until(2, |one| one.stages.first().is_some_and(|stage| stage.state == "baking")).await;
    assert_eq!(agent.active().iter().filter(|one| **one == 2).count(), 1, "only the canary serves r2");
    let request = v1::RolloutServicePromoteRequest { command: command() };
    running.rollouts().promote(request).await.unwrap();
    running.until_state(2, RolloutState::Completed).await;
}

#[tokio::test]
async fn an_abort_takes_the_canary_back_and_names_who_did_it() {
    let (running, agent) = patient().await;
    running.publish(&config(3001)).await;
    running.until_state(2, RolloutState::Running).await;
    let command = RolloutCommand { message: "smells".into(), ..Default::default() };
    let request = v1::RolloutServiceAbortRequest { command: Some(command) };
    running.rollouts().abort(request.clone()).await.unwrap();
    let rollout = running.until_state(2, RolloutState::Aborted).await;
    assert!(rollout.verdict_line.starts_with("ABORTED r2 → r1 after "), "{}", rollout.verdict_line);
    assert!(rollout.verdict_line.contains("aborted by admin.token (admin) (smells)"), "{}", rollout.verdict_line);
    agent.wait("everyone is back", |agent| agent.active() == [1; 6]).await;
    let refused = running.rollouts().abort(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_pause_stops_widening_and_a_resume_goes_on() {
    let mut plan = quick_plan();
    plan.stages[0].bake = Duration::from_millis(700);
    let (running, _agent) = fleet(plan).await;
    running.publish(&config(3001)).await;
    running.until(2, |one| one.stages.first().is_some_and(|stage| stage.state == "baking")).await;
    let paused = running.rollouts().pause(v1::RolloutServicePauseRequest { command: command() }).await.unwrap();
    assert_eq!(paused.into_inner().rollout.unwrap().state(), RolloutState::Paused);
    let promote = v1::RolloutServicePromoteRequest { command: command() };
    let refused = running.rollouts().promote(promote).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, "r2 is paused: resume it first"));
    running.rollouts().resume(v1::RolloutServiceResumeRequest { command: command() }).await.unwrap();
    let rollout = running.until_state(2, RolloutState::Completed).await;
    assert_eq!(rollout.stages.iter().filter(|stage| stage.state == "passed").count(), 3);
}

#[tokio::test]
async fn a_bad_canary_is_taken_back_even_while_paused() {
    let (running, agent) = patient().await;
    running.publish(&config(3001)).await;
    running.until(2, |one| one.stages.first().is_some_and(|stage| stage.state == "baking")).await;
    running.rollouts().pause(v1::RolloutServicePauseRequest { command: command() }).await.unwrap();
    agent.behave(2, Behaviour { fails: 90, ..Behaviour::default() });
    running.until_state(2, RolloutState::RolledBack).await;
}

#[tokio::test]
async fn a_hold_prepares_everywhere_and_waits_for_a_promote() {
    let (running, agent) = fleet(quick_plan()).await;
    let request = v1::PublishRequest { config_yaml: config(3001), hold: true, ..Default::default() };
    running.config().publish(request).await.unwrap();
    let held = running.until_state(2, RolloutState::Held).await;
    assert_eq!((held.prepared, held.active), (6, 0));
    assert_eq!(held.reason.unwrap().message, "held by the publisher");
    assert_eq!(agent.active(), [1; 6]);
    running.rollouts().promote(v1::RolloutServicePromoteRequest { command: command() }).await.unwrap();
    running.until_state(2, RolloutState::Completed).await;
}

#[tokio::test]
async fn a_second_publish_waits_its_turn() {
    let (running, _agent) = patient().await;
    running.publish(&config(3001)).await;
    running.until_state(2, RolloutState::Running).await;
    running.publish(&config(3002)).await;
    assert_eq!(running.rollout(3).await.state(), RolloutState::Queued);
    let promote = v1::RolloutServicePromoteRequest { command: command() };
    running.rollouts().promote(promote.clone()).await.unwrap();
    running.until_state(2, RolloutState::Completed).await;
    running.until_state(3, RolloutState::Running).await;
    running.rollouts().promote(promote).await.unwrap();
    let rollout = running.until_state(3, RolloutState::Completed).await;
    assert_eq!(rollout.last_good, 2);
}

#[tokio::test]
async fn a_superseding_publish_takes_the_canaries_back_first() {
    let (running, agent) = patient().await;
    running.publish(&config(3001)).await;
    running.until_state(2, RolloutState::Running).await;
    running.publish(&config(3002)).await;
    let request = v1::PublishRequest { config_yaml: config(3003), supersede: true, ..Default::default() };
    running.config().publish(request).await.unwrap();
    let two = running.until_state(2, RolloutState::Superseded).await;
    assert!(two.verdict_line.contains("superseded by r4"), "{}", two.verdict_line);
    let three = running.until_state(3, RolloutState::Superseded).await;
    assert!(three.verdict_line.contains("before it began"), "{}", three.verdict_line);
    running.until_state(4, RolloutState::Running).await;
    assert!(agent.active().iter().all(|one| [1, 4].contains(one)), "{:?}", agent.active());
}

#[tokio::test]
async fn a_rollback_publishes_earlier_content_as_a_new_revision_straight_to_all() {
    let (running, agent) = fleet(quick_plan()).await;
    running.publish(&config(3001)).await;
    running.until_state(2, RolloutState::Completed).await;
    let request = v1::RollbackRequest::default();
    let revision = running.config().rollback(request).await.unwrap().into_inner().revision.unwrap();
    assert_eq!((revision.revision, revision.content_of), (3, 1));
    assert_eq!(revision.change_class(), v1::ChangeClass::Revert);
    let rollout = running.until_state(3, RolloutState::Completed).await;
    assert_eq!(rollout.stages.len(), 1);
    agent.wait("everyone serves r3", |agent| agent.active() == [3; 6]).await;
    let request = v1::GetRevisionRequest { revision: 3, with_config: true };
    let read = running.config().get_revision(request).await.unwrap().into_inner().revision.unwrap();
    assert_eq!(read.config_yaml, CONFIG);
}

#[tokio::test]
async fn a_rollback_does_not_wait_behind_a_rollout_under_way() {
    let (running, agent) = patient().await;
    running.publish(&config(3001)).await;
    running.until_state(2, RolloutState::Running).await;
    let answer = running.config().rollback(v1::RollbackRequest::default()).await.unwrap().into_inner();
    assert_eq!(answer.revision.unwrap().content_of, 1);
    running.until_state(2, RolloutState::Superseded).await;
    running.until_state(3, RolloutState::Completed).await;
    agent.wait("everyone serves r3", |agent| agent.active() == [3; 6]).await;
}

#[tokio::test]
async fn a_rollback_without_anything_good_before_says_so() {
    let running = Running::start().await;
    let refused = running.config().rollback(v1::RollbackRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    running.publish(CONFIG).await;
    let refused = running.config().rollback(v1::RollbackRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_retry_starts_a_held_stage_again() {
    let mut plan = quick_plan();
    plan.progress_deadline = Duration::from_millis(600);
    let (running, agent) = fleet(plan).await;
    for revision in [1, 2] {
        agent.behave(revision, Behaviour { idle: true, ..Behaviour::default() });
    }
    running.publish(&config(3001)).await;
    let held = running.until_state(2, RolloutState::Held).await;
    assert_eq!(held.reason.unwrap().gate, "no_data", "silence is not success");
    assert!(held.doing.starts_with("HELD r2 at stage canary: "), "{}", held.doing);
    for revision in [1, 2] {
        agent.behave(revision, Behaviour::default());
    }
    running.rollouts().retry(v1::RolloutServiceRetryRequest { command: command() }).await.unwrap();
    running.until_state(2, RolloutState::Completed).await;
    let explained = running.rollouts().explain(v1::RolloutServiceExplainRequest { revision: 2 }).await;
    let explained = explained.unwrap().into_inner();
    assert!(explained.agrees, "{explained:?}");
    let decisions: Vec<&str> = explained.decisions.iter().map(|one| one.decision.as_str()).collect();
    assert_eq!((decisions.first(), decisions.last()), (Some(&"held"), Some(&"completed")), "{decisions:?}");
}

#[tokio::test]
async fn a_canary_that_gets_no_traffic_while_the_others_do_is_taken_back_and_the_evidence_says_why() {
    let (running, agent) = fleet(quick_plan()).await;
    agent.behave(2, Behaviour { idle: true, ..Behaviour::default() });
    running.publish(&config(3001)).await;
    let back = running.until_state(2, RolloutState::RolledBack).await;
    assert_eq!(back.reason.unwrap().gate, "starved");
    let explained = running.rollouts().explain(v1::RolloutServiceExplainRequest { revision: 2 }).await;
    let explained = explained.unwrap().into_inner();
    assert!(explained.agrees && explained.decisions[0].verdict == "fail", "{explained:?}");
}

#[tokio::test]
async fn a_command_for_another_state_version_is_refused() {
    let (running, _agent) = patient().await;
    running.publish(&config(3001)).await;
    running.until_state(2, RolloutState::Running).await;
    let command = RolloutCommand { revision: 2, state_version: 1, ..Default::default() };
    let request = v1::RolloutServiceAbortRequest { command: Some(command) };
    let refused = running.rollouts().abort(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted);
}

#[tokio::test]
async fn a_repeated_command_gets_the_first_answer() {
    let (running, _agent) = patient().await;
    running.publish(&config(3001)).await;
    running.until_state(2, RolloutState::Running).await;
    let command = RolloutCommand { request_id: "once".into(), ..Default::default() };
    let request = v1::RolloutServicePauseRequest { command: Some(command) };
    let first = running.rollouts().pause(request.clone()).await.unwrap().into_inner();
    running.rollouts().resume(v1::RolloutServiceResumeRequest { command: self::command() }).await.unwrap();
    let second = running.rollouts().pause(request).await.unwrap().into_inner();
    assert_eq!(first, second);
    assert_ne!(running.rollout(2).await.state(), RolloutState::Paused);
}

#[tokio::test]
async fn commands_without_a_rollout_say_so() {
    let running = Running::start().await;
    let refused = running.rollouts().abort(v1::RolloutServiceAbortRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, "no rollout is under way"));
    let command = RolloutCommand { revision: 9, ..Default::default() };
    let request = v1::RolloutServiceAbortRequest { command: Some(command) };
    assert_eq!(running.rollouts().abort(request).await.unwrap_err().code(), Code::NotFound);
    let request = v1::RolloutServiceGetRequest { revision: 9 };
    assert_eq!(running.rollouts().get(request).await.unwrap_err().code(), Code::NotFound);
    let request = v1::RolloutServiceWatchRequest::default();
    assert_eq!(running.rollouts().watch(request).await.unwrap_err().code(), Code::NotFound);
}
