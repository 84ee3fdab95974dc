//! `rollout`, `rollback` and `revision`.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use sealane_proto::v1::*;
use serde_json::Value;

use super::fake::{Fake, Script, ended, rollout};
use super::{code, err, out};

#[test]
fn a_status_says_reason_and_what_to_type_next() {
    let reason = Reason {
        gate: "error_rate".into(),
        value: 0.34,
        limit: 0.01,
        sample: 118,
        stage: "canary".into(),
        nodes: vec!["edge-1".into()],
        ..Default::default()
    };
    let held = Rollout { reason: Some(reason), ..rollout(3, RolloutState::Held, "failed", "pending") };
    let fake = Fake::start(Script { rollouts: vec![held], ..Default::default() });
    let output = fake.run(&["rollout", "status"]);
    assert_eq!(code(&output), 0);
    assert!(out(&output).contains("error_rate 34.0% > 1% at stage canary"), "{}", out(&output));
    assert!(err(&output).contains("sealane rollout promote r42"), "{}", err(&output));

    let output = fake.run(&["rollout", "status", "r42", "-o", "json"]);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&value["revision"], &value["state"]), (&42.into(), &"held".into()));
    assert_eq!((&value["reason"]["gate"], &value["reason"]["sample"]), (&"error_rate".into(), &118.into()));
    assert!(err(&output).is_empty(), "{}", err(&output));
    assert_eq!(out(&fake.run(&["rollout", "status", "42", "-o", "name"])), "r42\n");
    assert!(out(&fake.run(&["rollout", "list", "-o", "yaml"])).contains("state: held"));
}

#[test]
fn a_revision_that_is_not_there_exits_4() {
    let fake = Fake::start(Script::default());
    for arguments in [&["rollout", "status", "r9"][..], &["rollout", "watch", "r9"], &["revision", "show", "r9"]] {
        let output = fake.run(arguments);
        assert_eq!((code(&output), out(&output)), (4, String::new()), "{}", err(&output));
    }
}

#[test]
fn a_person_steers_a_rollout() {
    let running = rollout(3, RolloutState::Running, "baking", "pending");
    let fake = Fake::start(Script { rollouts: vec![running], ..Default::default() });
    for verb in ["pause", "resume", "promote", "abort", "retry"] {
        let output = fake.run(&["rollout", verb, "r42", "-m", "because"]);
        assert_eq!(code(&output), 0, "{}", err(&output));
    }
    assert_eq!(code(&fake.run(&["rollout", "abort", "--dry-run"])), 0);
    assert_eq!(code(&fake.run(&["rollout", "retry", "--dry-run"])), 1, "it is not held");
    let asked = fake.asked.lock().unwrap();
    let verbs: Vec<_> = asked.commands.iter().map(|(verb, _)| *verb).collect();
    assert_eq!(verbs, ["pause", "resume", "promote", "abort", "retry"], "a dry run sends nothing");
    assert!(asked.commands.iter().all(|(_, sent)| sent.revision == 42 && sent.message == "because"));
}

#[test]
fn a_watch_goes_on_after_the_stream_broke_and_repeats_nothing() {
    let preparing = rollout(1, RolloutState::Preparing, "pending", "pending");
    let baking = rollout(3, RolloutState::Running, "baking", "pending");
    let done = ended(RolloutState::Completed, "COMPLETED r42 in 21s: 6 of 6 proxies");
    let watches = vec![vec![preparing, baking.clone()], vec![baking.clone()], vec![baking, done]];
    let fake = Fake::start(Script { watches, ..Default::default() });
    let output = fake.run(&["rollout", "watch", "r42"]);
    assert_eq!((code(&output), out(&output)), (0, "COMPLETED r42 in 21s: 6 of 6 proxies\n".into()));
    let said = err(&output);
    let mut lines: Vec<&str> = said.lines().filter(|line| !line.contains("is away")).collect();
    let all = lines.len();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), all, "{said}");
    assert_eq!(fake.asked.lock().unwrap().watches, 3);
}

#[test]
fn a_watch_survives_a_restart_of_the_authority() {
    let baking = rollout(3, RolloutState::Running, "baking", "pending");
    let first = Fake::start(Script { watches: vec![vec![baking.clone()]], ..Default::default() });
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_sealane"))
        .args(["rollout", "watch", "r42", "--server", &first.url, "--timeout", "50s"])
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "r42 stage canary: baking 3s");
    let address = first.address;
    drop(first);
    assert!(said.next().unwrap().unwrap().contains("is away"));

    let done = ended(RolloutState::Completed, "COMPLETED r42 in 30s: 6 of 6 proxies");
    let _second = Fake::start_on(address, Script { watches: vec![vec![baking, done]], ..Default::default() });
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), out(&output)), (0, "COMPLETED r42 in 30s: 6 of 6 proxies\n".into()));
    let rest: Vec<String> = said.map(Result::unwrap).collect();
    assert_eq!(rest, ["r42 stage canary: passed", "r42 stage all: passed"], "nothing is told twice");
}

#[test]
fn earlier_content_is_published_as_a_new_revision() {
    let revision = Revision { revision: 43, name: "r43".into(), ..Default::default() };
    let fake = Fake::start(Script { revision: Some(revision), ..Default::default() });
    let output = fake.run(&["rollback", "--to", "r40"]);
    assert_eq!((code(&output), out(&output)), (0, "published r43 with the content of r40\n".into()));
    let output = fake.run(&["rollback", "--to", "r40", "-o", "json"]);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["content_of"], 40);
}

#[test]
fn a_published_text_comes_back_byte_for_byte() {
    let text = "listen: :8080\r\n# no line break at the end";
    let revision = Revision { revision: 3, name: "r3".into(), config_yaml: text.into(), ..Default::default() };
    let fake = Fake::start(Script { revision: Some(revision), ..Default::default() });
    assert_eq!(out(&fake.run(&["revision", "show", "r3", "--config"])), text);
    assert_eq!(out(&fake.run(&["revision", "list", "-o", "name"])), "r3\nr2\nr1\n", "over several pages");
    assert_eq!(out(&fake.run(&["revision", "list", "-o", "name", "--limit", "2"])), "r3\nr2\n");
    assert!(out(&fake.run(&["revision", "diff", "r1", "r2"])).ends_with("-a\n+b\n"));
}
