//! `publish`: what is sent, what is printed where, and every exit code of the table.

use sealane_proto::v1::*;
use serde_json::Value;
use tonic::Status;

use super::fake::{Fake, Script, ended, published, rollout};
use super::{code, err, out, sealane};

fn file() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fleet.yaml");
    std::fs::write(&path, "listen: :8080\nroutes:\n  - path_prefix: /api/\n    pool: api-v2\n").unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

fn publish(script: Script, arguments: &[&str]) -> (std::process::Output, Fake) {
    let (_folder, path) = file();
    let fake = Fake::start(script);
    let output = fake.run(&[&["publish", &path, "-m", "raise limit"], arguments].concat());
    (output, fake)
}

fn watched(states: Vec<Rollout>) -> Script {
    Script { publish: Some(Ok(published())), watches: vec![states], ..Default::default() }
}

#[test]
fn a_publish_sends_the_text_and_says_the_revision() {
    let script = Script { publish: Some(Ok(published())), ..Default::default() };
    let (output, fake) = publish(script, &["--hold", "--class", "expedited", "--etag", "e1", "--supersede"]);
    assert_eq!((code(&output), out(&output)), (0, "published r42 (abababababab)\n".into()), "{}", err(&output));
    assert!(err(&output).contains("sealane rollout watch r42"));
    let asked = fake.asked.lock().unwrap();
    let sent = &asked.published[0];
    assert!(
        sent.config_yaml.starts_with("listen: :8080\n") && sent.file == "fleet.yaml" && sent.message == "raise limit"
    );
    assert!(sent.hold && sent.supersede && sent.etag == "e1" && sent.change_class() == ChangeClass::Expedited);
    assert_eq!(sent.request_id.len(), 32);
}

#[test]
fn a_completed_rollout_exits_0_with_one_verdict_line() {
    let (output, _fake) = publish(
        watched(vec![
            rollout(1, RolloutState::Preparing, "pending", "pending"),
            rollout(2, RolloutState::Running, "activating", "pending"),
            rollout(3, RolloutState::Running, "baking", "pending"),
            rollout(4, RolloutState::Running, "passed", "baking"),
            rollout(5, RolloutState::FinalBake, "passed", "passed"),
            ended(RolloutState::Completed, "COMPLETED r42 in 21s: 6 of 6 proxies"),
        ]),
        &["--watch"],
    );
    assert_eq!((code(&output), out(&output)), (0, "COMPLETED r42 in 21s: 6 of 6 proxies\n".into()));
    insta::assert_snapshot!("publish_watch_stderr", err(&output));
}

#[test]
fn every_verdict_has_its_exit_code() {
    for (state, line, expected) in [
        (RolloutState::Completed, "COMPLETED r42 in 21s: 6 of 6 proxies", 0),
        (RolloutState::RolledBack, "ROLLED BACK r42 → r41 after 4s: error_rate 34.0% > 1% at stage canary", 8),
        (RolloutState::RolledBackPartial, "ROLLED BACK r42 → r41 after 64s: error_rate 34.0% > 1%", 8),
        (RolloutState::Aborted, "ABORTED r42 → r41 after 4s: aborted by t1", 8),
        (RolloutState::Rejected, "REJECTED r42: edge-1: routes[0].pool line 4: no such file", 3),
        (RolloutState::Held, "HELD r42 at stage half: not enough requests", 9),
        (RolloutState::Superseded, "SUPERSEDED r42: r43 was published", 7),
    ] {
        let (output, _fake) = publish(watched(vec![ended(state, line)]), &["--watch"]);
        assert_eq!((code(&output), out(&output)), (expected, format!("{line}\n")), "{}", err(&output));
    }
}

#[test]
fn a_publisher_who_asked_to_be_held_is_done_when_held() {
    let reason = Some(Reason { gate: "hold".into(), message: "held by the publisher".into(), ..Default::default() });
    let held = Rollout { reason, ..ended(RolloutState::Held, "HELD r42: held by the publisher") };
    let (output, _fake) = publish(watched(vec![held]), &["--watch", "--hold"]);
    assert_eq!((code(&output), out(&output)), (0, "HELD r42: held by the publisher\n".into()));
    let absent = Some(Reason { gate: "absent".into(), message: "3 proxies are away".into(), ..Default::default() });
    let held = Rollout { reason: absent, ..ended(RolloutState::Held, "HELD r42: 3 proxies are away") };
    let (output, _fake) = publish(watched(vec![held]), &["--watch", "--hold"]);
    assert_eq!(code(&output), 9);
}

#[test]
fn watching_as_json_prints_one_rollout_a_line() {
    let (output, _fake) = publish(
        watched(vec![
            rollout(1, RolloutState::Preparing, "pending", "pending"),
            rollout(1, RolloutState::Preparing, "pending", "pending"),
            ended(RolloutState::RolledBack, "ROLLED BACK r42 → r41 after 4s"),
        ]),
        &["--watch", "-o", "json"],
    );
    assert_eq!(code(&output), 8);
    let states: Vec<String> = out(&output)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["state"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(states, ["preparing", "rolled_back"], "the same state is not printed twice");
    assert!(out(&output).contains("\"verdict_line\":\"ROLLED BACK r42 → r41 after 4s\""));
}

#[test]
fn a_watch_that_runs_out_of_time_exits_9_and_the_rollout_goes_on() {
    let states = vec![rollout(1, RolloutState::Running, "baking", "pending")];
    let (output, _fake) = publish(watched(states), &["--watch", "--timeout", "600ms"]);
    assert_eq!((code(&output), out(&output)), (9, String::new()));
    assert!(err(&output).contains("the rollout goes on") && err(&output).contains("sealane rollout watch r42"));
}

#[test]
fn problems_of_the_authority_show_the_line_of_this_file() {
    let problem = Problem {
        code: "missing_reference".into(),
        severity: "error".into(),
        message: "no pool named `api-v2`".into(),
        file: "fleet.yaml".into(),
        line: 4,
        column: 11,
        end_column: 17,
        path: "routes[0].pool".into(),
        ..Default::default()
    };
    let script = Script {
        publish: Some(Err(Status::invalid_argument("the config has 1 error"))),
        problems: vec![problem],
        ..Default::default()
    };
    let (output, _fake) = publish(script.clone(), &[]);
    assert_eq!((code(&output), out(&output)), (3, String::new()));
    let said = err(&output);
    assert!(said.contains("    pool: api-v2") && said.contains("^^^^^^"), "{said}");
    assert!(said.contains("fleet.yaml was not published: 1 error"), "{said}");

    let (output, _fake) = publish(script, &["-o", "json"]);
    assert_eq!(code(&output), 3);
    let problems: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&problems[0]["line"], &problems[0]["code"]), (&4.into(), &"missing_reference".into()));
}

#[test]
fn refusals_have_their_exit_codes() {
    for (status, expected) in [
        (Status::aborted("r43 was published meanwhile"), 7),
        (Status::permission_denied("role viewer may not publish"), 5),
        (Status::unavailable("no"), 6),
        (Status::internal("disk full"), 1),
    ] {
        let (output, _fake) = publish(Script { publish: Some(Err(status.clone())), ..Default::default() }, &[]);
        assert_eq!(code(&output), expected, "{}", err(&output));
        assert!(err(&output).contains(status.message()), "{}", err(&output));
    }
}

#[test]
fn a_publish_that_broke_off_is_repeated_under_the_same_id() {
    let script = Script { publish: Some(Err(Status::unavailable("going down"))), ..Default::default() };
    let (_output, fake) = publish(script, &[]);
    let asked = fake.asked.lock().unwrap();
    assert_eq!(asked.published.len(), 2);
    assert_eq!(asked.published[0].request_id, asked.published[1].request_id);
}

#[test]
fn a_token_is_sent_from_wherever_it_is_set_and_never_shown() {
    let (folder, path) = file();
    let script = Script { token: Some("slt_abc".into()), publish: Some(Ok(published())), ..Default::default() };
    let fake = Fake::start(script);
    let arguments = ["publish", &path, "-m", "x", "--server", &fake.url];
    let output = sealane().args(arguments).output().unwrap();
    assert_eq!(code(&output), 5);
    assert!(err(&output).contains("--token-file"), "{}", err(&output));

    let output = sealane().args(arguments).env("SEALANE_TOKEN", "slt_wrong").output().unwrap();
    assert_eq!(code(&output), 5);
    assert!(!err(&output).contains("slt_wrong"));
    let output = sealane().args(arguments).env("SEALANE_TOKEN", "slt_abc").output().unwrap();
    assert_eq!(code(&output), 0, "{}", err(&output));

    // client.yaml: server and token file, relative to it.
    std::fs::create_dir(folder.path().join("sealane")).unwrap();
    std::fs::write(folder.path().join("sealane/admin.token"), "slt_abc\n").unwrap();
    let client = format!("server: {}\ntoken_file: admin.token\n", fake.url);
    std::fs::write(folder.path().join("sealane/client.yaml"), client).unwrap();
    let output = sealane().args(["publish", &path, "-m", "x"]).env("XDG_CONFIG_HOME", folder.path()).output().unwrap();
    assert_eq!(code(&output), 0, "{}", err(&output));
}
