//! What survives: restarts in the middle, a kill, an edited audit log, a second authority.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use sealane_authority::{HomeError, StartError, start};
use sealane_proto::v1::{self, RolloutState};
use sqlx::Connection;

use crate::helper::{Agent, CONFIG, Running, config, quick_plan, settings};

#[tokio::test]
async fn the_first_start_leaves_what_a_person_and_an_agent_need() {
    let running = Running::start().await;
    let first = running.authority.first_start().unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&first.admin_token), 0o600);
    for entry in std::fs::read_dir(running.authority.data().join("keys")).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    assert_eq!(first.token, running.token);
    assert!(!format!("{first:?}").contains(&first.token), "a secret in a debug line");
    let client = std::fs::read_to_string(&first.client).unwrap();
    let server = format!("server: \"http://{}\"", running.authority.grpc_addr());
    assert!(client.contains(&server), "{client}");
    assert!(client.contains("token_file: \"/"), "{client}");
    assert_eq!(running.trust().fleet().0, running.authority.fleet_id());
    let other = Running::start().await;
    assert_ne!(running.authority.fleet_id(), other.authority.fleet_id());
}

#[tokio::test]
async fn a_first_start_that_was_cut_off_is_a_first_start_again() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    std::fs::create_dir(folder.path().join("keys")).unwrap();
    for left in ["keys/fleet.pem", "keys/.fleet.pem.tmp", "admin.token", "trust.json", "ca.pem"] {
        std::fs::write(folder.path().join(left), "half of").unwrap();
    }
    let running = Running::of(Arc::clone(&folder), settings(folder.path())).await;
    assert!(running.authority.first_start().is_some());
    running.publish(CONFIG).await;
    running.trust();
}

#[tokio::test]
async fn a_second_authority_on_the_same_directory_is_refused_and_told_who_has_it() {
    let running = Running::start().await;
    let refused = start(settings(running.folder.path())).await.unwrap_err();
    assert!(matches!(refused, StartError::Home(HomeError::Held { .. })), "{refused:?}");
    assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
    let running = running.restart().await;
    running.publish(CONFIG).await;
}

#[tokio::test]
async fn a_restart_in_the_middle_of_a_rollout_goes_on() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let patient = || {
        let mut settings = settings(folder.path());
        let mut plan = quick_plan();
        plan.stages[1].bake = Duration::from_millis(1500);
        settings.default_plan = Some(plan);
        settings
    };
    let running = Running::of(Arc::clone(&folder), patient()).await;
    let token = running.make_token("agent", "eu").await;
    let proxies = ["p1", "p2", "p3", "p4", "p5", "p6"];
    let agent = Agent::join(running.wire(&token), &running.trust(), "a", "eu", &proxies);
    agent.wait("connected", |agent| agent.desired().is_some()).await;
    running.baseline().await;
    running.publish(&config(3001)).await;
    let before = running.until(2, |one| one.stage == "half" && one.stages[1].state == "baking").await;
    let mut fixed = patient();
    fixed.grpc_addr = running.authority.grpc_addr();
    running.authority.stop().await;

    let running = Running::of(folder, fixed).await;
    let after = running.rollout(2).await;
    assert_eq!((after.stage.as_str(), after.state()), ("half", RolloutState::Running));
    assert_eq!(after.state_version, before.state_version, "nothing was decided while it was away");
    let rollout = running.until_state(2, RolloutState::Completed).await;
    assert_eq!(rollout.stages.iter().filter(|stage| stage.state == "passed").count(), 3);
    agent.wait("everyone serves r2", |agent| agent.active() == [2; 6]).await;
}

#[tokio::test]
async fn ended_rollouts_read_the_same_after_a_restart() {
    let running = Running::start().await;
    let agent = running.agent("a", "eu", &["p1", "p2"]).await;
    agent.wait("connected", |agent| agent.desired().is_some()).await;
    running.baseline().await;
    running.publish(&config(3001)).await;
    let before = running.until_state(2, RolloutState::Completed).await;
    let running = running.restart().await;
    let after = running.rollout(2).await;
    assert_eq!(after.verdict_line, before.verdict_line);
    assert_eq!(after.stages, before.stages);
    assert_eq!((after.state(), after.gates), (before.state(), before.gates));
    let list = running.rollouts().list(v1::RolloutServiceListRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.rollouts.iter().map(|one| one.revision).collect::<Vec<_>>(), [2, 1]);
}

#[tokio::test]
async fn the_audit_log_shows_who_did_what_and_finds_an_edit() {
    let running = Running::start().await;
    running.publish(CONFIG).await;
    running.make_token("viewer", "").await;
    let list = running.audit().list_audit(v1::ListAuditRequest::default()).await.unwrap().into_inner().entries;
    let actions: Vec<&str> = list.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["first_start", "publish", "completed", "token_create"]);
    assert_eq!((list[1].actor.as_str(), list[1].subject.as_str()), ("admin.token (admin)", "r1"));
    let text = format!("{list:?}");
    assert!(!text.contains("sealane_"), "a secret in the audit log");
    let verdict = running.audit().verify_audit(v1::VerifyAuditRequest::default()).await.unwrap().into_inner();
    assert_eq!((verdict.intact, verdict.entries, verdict.broken_at), (true, 4, 0));
    assert_eq!(verdict.head, list[3].hash);

    let url = format!("sqlite://{}", running.folder.path().join("authority.db").display());
    let mut raw = sqlx::SqliteConnection::connect(&url).await.unwrap();
    let refused = sqlx::query("UPDATE audit SET actor = 'nobody' WHERE sequence = 2").execute(&mut raw).await;
    assert!(refused.unwrap_err().to_string().contains("append-only"));
    sqlx::query("DROP TRIGGER audit_stays").execute(&mut raw).await.unwrap();
    sqlx::query("UPDATE audit SET actor = 'nobody' WHERE sequence = 2").execute(&mut raw).await.unwrap();
    let verdict = running.audit().verify_audit(v1::VerifyAuditRequest::default()).await.unwrap().into_inner();
    assert_eq!((verdict.intact, verdict.broken_at), (false, 2));
}

#[tokio::test]
async fn edits_of_other_tables_are_found_by_what_the_audit_log_says_of_them() {
    let running = Running::start().await;
    running.publish(CONFIG).await;
    running.make_token("viewer", "").await;
    let verify =
        || async { running.audit().verify_audit(v1::VerifyAuditRequest::default()).await.unwrap().into_inner() };
    assert!(verify().await.intact);
    let url = format!("sqlite://{}", running.folder.path().join("authority.db").display());
    let mut raw = sqlx::SqliteConnection::connect(&url).await.unwrap();
    let mut edit = async |sql: &'static str| sqlx::query(sql).execute(&mut raw).await.unwrap();
    edit("UPDATE token SET role = 'admin' WHERE role = 'viewer'").await;
    edit("INSERT INTO token SELECT 'mine', zeroblob(32), role, region, comment, created_at_ms, NULL, NULL FROM token LIMIT 1").await;
    let verdict = verify().await;
    assert_eq!((verdict.intact, verdict.broken_at), (false, 0), "the chain itself is whole");
    let said = verdict.problems.join("\n");
    for part in ["was made with role viewer, and has role admin now", "token mine (admin) is in no entry"] {
        assert!(said.contains(part), "`{part}` is missing: {said}");
    }
    // A revision's columns are not what was signed: it is not shown, let alone served.
    edit("DROP TRIGGER release_stays").await;
    edit("UPDATE release SET author = 'somebody else'").await;
    let read = running.config().get_revision(v1::GetRevisionRequest { revision: 1, ..Default::default() }).await;
    let refused = read.unwrap_err();
    assert!(refused.message().contains("says something else than what was signed"), "{}", refused.message());
}

/// Run by [`a_kill_at_any_time_keeps_what_was_accepted`] in a process of its own.
#[tokio::test]
#[ignore = "the victim of another test"]
async fn victim() {
    let Ok(folder) = std::env::var("SEALANE_TEST_VICTIM") else { return };
    let authority = start(settings(std::path::Path::new(&folder))).await.unwrap();
    let token = std::fs::read_to_string(authority.data().join("admin.token")).unwrap();
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", authority.grpc_addr())).unwrap();
    let bearer = crate::helper::Bearer(token.trim().to_owned());
    let wire = tonic::service::interceptor::InterceptedService::new(channel.connect_lazy(), bearer);
    let mut client = v1::config_service_client::ConfigServiceClient::new(wire);
    for port in 3000..60_000 {
        let request = v1::PublishRequest { config_yaml: config(port), ..Default::default() };
        let answer = client.publish(request).await.unwrap().into_inner();
        println!("accepted {}", answer.etag);
    }
}

#[tokio::test]
async fn a_kill_at_any_time_keeps_what_was_accepted() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let mut accepted: Vec<String> = Vec::new();
    for round in 1..=3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "storage::victim", "--ignored", "--nocapture"])
            .env("SEALANE_TEST_VICTIM", folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            if let Some((_, etag)) = line.unwrap().split_once("accepted ") {
                accepted.push(etag.to_owned());
            }
            if accepted.len() >= round * 7 {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let running = Running::of(Arc::clone(&folder), settings(folder.path())).await;
    let request = v1::ListRevisionsRequest { page_size: 1000, ..Default::default() };
    let list = running.config().list_revisions(request).await.unwrap().into_inner().revisions;
    for etag in &accepted {
        assert!(list.iter().any(|one| one.digest == *etag), "{etag} was accepted and is gone");
    }
    let numbers: Vec<u64> = list.iter().rev().map(|one| one.revision).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "numbers are given once");
    let verdict = running.audit().verify_audit(v1::VerifyAuditRequest::default()).await.unwrap().into_inner();
    assert!(verdict.intact);
    // Rollouts go on where they were: the first completed, the second waits for a proxy, the others for their turn.
    running.until_state(1, RolloutState::Completed).await;
    let second = running.until(2, |one| one.doing == "waiting for a proxy").await;
    assert_eq!(second.state(), RolloutState::Preparing);
    assert_eq!(running.rollout(3).await.state(), RolloutState::Queued);
}
