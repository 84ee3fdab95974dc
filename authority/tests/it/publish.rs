//! Publishing and reading revisions.

use sealane_proto::v1;
use tonic::Code;
use tonic_types::StatusExt;

use crate::helper::{CONFIG, Running, config};

fn request(text: &str) -> v1::PublishRequest {
    v1::PublishRequest { config_yaml: text.into(), ..Default::default() }
}

#[tokio::test]
async fn an_etag_that_someone_else_moved_is_aborted() {
    let running = Running::start().await;
    let mut client = running.config();
    let first = client.publish(request(CONFIG)).await.unwrap().into_inner();
    assert_eq!(first.etag, first.revision.unwrap().digest);
    let with = |text: &str, etag: &str| v1::PublishRequest { etag: etag.into(), ..request(text) };
    let second = client.publish(with(&config(3001), &first.etag)).await.unwrap().into_inner();
    let refused = client.publish(with(&config(3002), &first.etag)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted);
    assert_eq!(refused.get_details_error_info().unwrap().reason, "ETAG_MOVED");
    client.publish(with(&config(3002), &second.etag)).await.unwrap();
    let list = client.list_revisions(v1::ListRevisionsRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.revisions.iter().map(|one| one.revision).collect::<Vec<_>>(), [3, 2, 1]);
}

#[tokio::test]
async fn publishes_at_the_same_time_all_get_their_own_number() {
    let running = Running::start().await;
    let mut tasks = Vec::new();
    for port in 3000..3008 {
        let mut client = running.config();
        tasks.push(tokio::spawn(async move { client.publish(request(&config(port))).await.unwrap() }));
    }
    let mut numbers = Vec::new();
    for task in tasks {
        numbers.push(task.await.unwrap().into_inner().revision.unwrap().revision);
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=8).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_repeated_request_gets_the_first_answer_and_publishes_once() {
    let running = Running::start().await;
    let named = |text: &str| v1::PublishRequest { request_id: "r-1".into(), ..request(text) };
    let first = running.config().publish(named(CONFIG)).await.unwrap().into_inner();
    let second = running.config().publish(named(CONFIG)).await.unwrap().into_inner();
    assert_eq!(first, second);
    let refused = running.config().publish(named(&config(3001))).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let list = running.config().list_revisions(v1::ListRevisionsRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.revisions.len(), 1);
}

#[tokio::test]
async fn identical_content_is_a_new_revision_still() {
    let running = Running::start().await;
    assert_eq!(running.publish(CONFIG).await.revision, 1);
    assert_eq!(running.publish(CONFIG).await.revision, 2);
}

#[tokio::test]
async fn every_problem_comes_back_with_its_place() {
    let running = Running::start().await;
    let text = "listen: :8080\nroutes:\n  - path_prefix: /api/\n    pool: nowhere\n    tomato: 1\n";
    let refused = running.config().publish(request(text)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.get_details_error_info().unwrap().reason, "CONFIG_INVALID");
    let violations = refused.get_details_bad_request().unwrap().field_violations;
    assert!(violations.len() >= 2, "{violations:?}");
    let pool = violations.iter().find(|one| one.field.contains("pool")).unwrap();
    assert!(pool.description.contains("line 4 column"), "{}", pool.description);
    let validate = v1::ValidateRequest { config_yaml: text.into(), file: "dir/fleet.yaml".into() };
    let answer = running.config().validate(validate).await.unwrap().into_inner();
    assert!(!answer.valid);
    assert!(answer.problems.iter().all(|problem| problem.file == "fleet.yaml"), "{:?}", answer.problems);
    let newest = running.config().get_revision(v1::GetRevisionRequest::default()).await.unwrap_err();
    assert_eq!(newest.code(), Code::NotFound, "nothing was published");
}

#[tokio::test]
async fn a_config_whose_own_test_fails_is_not_published() {
    let running = Running::start().await;
    let tests = "tests:\n  - name: elsewhere\n    request: { url: \"http://x/api/1\" }\n    expect: { route: none }\n";
    let text = format!("{CONFIG}{tests}");
    let validate = v1::ValidateRequest { config_yaml: text.clone(), file: String::new() };
    let problems = running.config().validate(validate).await.unwrap().into_inner().problems;
    assert!(!problems.is_empty());
    assert_eq!(running.config().publish(request(&text)).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_dry_run_does_everything_but_the_publish() {
    let running = Running::start().await;
    let dry = v1::PublishRequest { dry_run: true, ..request(CONFIG) };
    let answer = running.config().publish(dry).await.unwrap().into_inner();
    assert_eq!(answer.revision.unwrap().revision, 1);
    let newest = running.config().get_revision(v1::GetRevisionRequest::default()).await.unwrap_err();
    assert_eq!(newest.code(), Code::NotFound);
}

#[tokio::test]
async fn a_plan_shows_the_difference_and_the_stages() {
    let running = Running::start().await;
    let agent = running.agent("a", "eu", &["p1", "p2", "p3", "p4", "p5", "p6"]).await;
    agent.wait("connected", |agent| agent.desired().is_some()).await;
    let first = running.baseline().await;
    let request = v1::PlanRequest { config_yaml: config(3001), file: "fleet.yaml".into(), ..Default::default() };
    let plan = running.config().plan(request).await.unwrap().into_inner();
    assert!(plan.valid);
    assert_eq!(plan.etag, first.digest);
    assert!(plan.diff.contains("-    to: http://localhost:3000\n+    to: http://localhost:3001"), "{}", plan.diff);
    let stages: Vec<(&str, u32)> = plan.stages.iter().map(|one| (one.name.as_str(), one.proxies)).collect();
    assert_eq!(stages, [("canary", 1), ("half", 3), ("all", 6)]);
    let same = v1::PlanRequest { config_yaml: CONFIG.into(), ..Default::default() };
    assert_eq!(running.config().plan(same).await.unwrap().into_inner().diff, "");
}

#[tokio::test]
async fn revisions_read_back_as_they_were_written_and_unknown_ones_are_not_found() {
    let running = Running::start().await;
    let text = format!("{CONFIG}# a comment with ünïcode that must survive\n");
    let mut named = request(&text);
    named.file = "/etc/fleet.yaml".into();
    named.message = "why".into();
    running.config().publish(named).await.unwrap();
    running.publish(&config(3001)).await;
    let get = v1::GetRevisionRequest { revision: 1, with_config: true };
    let revision = running.config().get_revision(get).await.unwrap().into_inner().revision.unwrap();
    assert_eq!((revision.config_yaml.as_str(), revision.file.as_str()), (text.as_str(), "fleet.yaml"));
    assert_eq!((revision.message.as_str(), revision.author.as_str()), ("why", "admin.token (admin)"));
    assert_eq!(revision.config_bytes, text.len() as u64);
    assert_eq!(revision.plan.unwrap().stages.len(), 3);
    let missing = v1::GetRevisionRequest { revision: 9, with_config: false };
    assert_eq!(running.config().get_revision(missing).await.unwrap_err().code(), Code::NotFound);
    let diff = v1::DiffRevisionsRequest { from: 1, to: 2 };
    let diff = running.config().diff_revisions(diff).await.unwrap().into_inner().diff;
    assert!(diff.contains("-# a comment with ünïcode"), "{diff}");
    let missing = v1::DiffRevisionsRequest { from: 1, to: 9 };
    assert_eq!(running.config().diff_revisions(missing).await.unwrap_err().code(), Code::NotFound);
    let missing = v1::RollbackRequest { to: 9, ..Default::default() };
    assert_eq!(running.config().rollback(missing).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn lists_are_paged_newest_first() {
    let running = Running::start().await;
    for port in 3000..3005 {
        running.publish(&config(port)).await;
    }
    let mut seen = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListRevisionsRequest { page_size: 2, page_token };
        let page = running.config().list_revisions(request).await.unwrap().into_inner();
        seen.extend(page.revisions.iter().map(|one| one.revision));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, [5, 4, 3, 2, 1]);
}

#[tokio::test]
async fn a_large_config_is_published_and_read_back() {
    let running = Running::start().await;
    let mut text = CONFIG.to_owned();
    while text.len() < (6 << 20) {
        text.push_str("# a line that makes the file larger than the usual limit of a message, many times over\n");
    }
    running.publish(&text).await;
    let get = v1::GetRevisionRequest { revision: 1, with_config: true };
    let revision = running.config().get_revision(get).await.unwrap().into_inner().revision.unwrap();
    assert!(revision.config_yaml == text);
}

#[tokio::test]
async fn classes_that_are_not_for_files_are_refused() {
    let running = Running::start().await;
    for class in [v1::ChangeClass::Revert, v1::ChangeClass::Sandbox] {
        let classed = v1::PublishRequest { change_class: class.into(), ..request(CONFIG) };
        assert_eq!(running.config().publish(classed).await.unwrap_err().code(), Code::InvalidArgument);
    }
}
