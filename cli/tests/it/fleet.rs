//! `fleet`, `token` and `audit`.

use sealane_proto::v1::*;
use serde_json::Value;

use super::fake::{Fake, Script};
use super::{code, err, out};

fn fleet() -> Fake {
    let node = |id: &str| Node { id: id.into(), region: "eu".into(), health: "healthy".into(), ..Default::default() };
    Fake::start(Script { nodes: vec![node("edge-1"), node("edge-2")], ..Default::default() })
}

#[test]
fn nodes_are_listed_by_name_and_as_json() {
    let fake = fleet();
    assert_eq!(out(&fake.run(&["fleet", "nodes", "-o", "name"])), "edge-1\nedge-2\n");
    let output = fake.run(&["fleet", "nodes", "-o", "json"]);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["nodes"][1]["id"], "edge-2");
    let output = fake.run(&["fleet", "status", "-o", "json"]);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&value["fleet_id"], &value["epoch"]), (&"fake".into(), &1.into()));
    assert!(out(&fake.run(&["fleet", "nodes", "-o", "wide"])).contains("LAST GOOD"));
}

#[test]
fn a_node_that_is_not_there_exits_4() {
    let fake = fleet();
    assert_eq!(code(&fake.run(&["fleet", "node", "edge-2"])), 0);
    for arguments in [&["fleet", "node", "edge-3"][..], &["fleet", "cordon", "edge-3"], &["fleet", "drain", "edge-3"]] {
        assert_eq!(code(&fake.run(arguments)), 4);
    }
}

#[test]
fn a_node_is_cordoned_and_takes_part_again() {
    let fake = fleet();
    assert_eq!(out(&fake.run(&["fleet", "cordon", "edge-1"])), "edge-1 is cordoned: not in a first stage\n");
    assert_eq!(out(&fake.run(&["fleet", "cordon", "edge-1", "--undo"])), "edge-1 takes part again\n");
    assert_eq!(out(&fake.run(&["fleet", "cordon", "edge-1", "--dry-run"])), "edge-1 would be cordoned\n");
}

#[test]
fn what_is_revoked_says_which_tokens_still_let_it_in() {
    let fake = fleet();
    let done = out(&fake.run(&["fleet", "revoke", "edge-1"]));
    assert!(done.starts_with("proxy edge-1: 2 of its certificates revoked, nobody accepts them any more\n"), "{done}");
    assert!(done.contains("sealane token revoke t7   edge machines\n"), "{done}");
    let dry = out(&fake.run(&["fleet", "revoke", "edge-1", "--role", "agent", "--dry-run"]));
    assert!(dry.starts_with("agent edge-1: 2 of its certificates would be revoked\n"), "{dry}");
}

#[test]
fn a_node_is_drained_by_its_name() {
    let fake = fleet();
    assert_eq!(out(&fake.run(&["fleet", "drain", "edge-1"])), "edge-1 is draining 3 connections\n");
    assert_eq!(out(&fake.run(&["fleet", "drain", "edge-1", "--dry-run"])), "edge-1 would be drained\n");
}

#[test]
fn a_secret_is_alone_on_stdout() {
    let fake = fleet();
    let output = fake.run(&["token", "create", "--role", "agent", "--region", "eu", "--ttl", "720h"]);
    assert_eq!((code(&output), out(&output)), (0, "slt_secret\n".into()));
    assert!(err(&output).contains("token t7") && !err(&output).contains("slt_secret"), "{}", err(&output));
    let output = fake.run(&["token", "create", "--role", "viewer", "-o", "json"]);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&value["text"], &value["token"]["id"]), (&"slt_secret".into(), &"t7".into()));
    assert_eq!(code(&fake.run(&["token", "create", "--role", "admin"])), 5);
    assert_eq!(out(&fake.run(&["token", "list", "-o", "name"])), "t7\n");
    assert_eq!(code(&fake.run(&["token", "revoke", "t7"])), 0);
    assert_eq!(code(&fake.run(&["token", "revoke", "t8", "--dry-run"])), 4);
}

#[test]
fn a_broken_record_is_a_failure() {
    let audit = VerifyAuditResponse { intact: true, entries: 12, broken_at: 0, head: "ab".into(), problems: vec![] };
    let fake = Fake::start(Script { audit, ..Default::default() });
    assert_eq!(out(&fake.run(&["audit", "verify"])), "intact: 12 entries, head ab\n");
    assert!(out(&fake.run(&["audit", "list"])).contains("publish"));
    let audit = VerifyAuditResponse { intact: false, entries: 12, broken_at: 7, head: "ab".into(), problems: vec![] };
    let fake = Fake::start(Script { audit, ..Default::default() });
    let output = fake.run(&["audit", "verify"]);
    assert_eq!((code(&output), out(&output)), (1, "broken at entry 7 of 12\n".into()));
}

#[test]
fn a_purge_that_a_node_did_not_do_exits_1_and_names_it() {
    let fake = fleet();
    let output = fake.run(&["cache", "purge", "--all"]);
    assert_eq!(code(&output), 1);
    assert!(out(&output).contains("edge-2") && out(&output).contains("its agent `a` is away"), "{}", out(&output));
    assert!(err(&output).contains("1 of 2 nodes did not purge"), "{}", err(&output));
    let output = fake.run(&["cache", "purge", "--host", "a.test", "--dry-run", "-o", "json"]);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((code(&output), &value["asked"], &value["nodes"][0]["purged"]), (0, &2.into(), &3.into()));
    for wrong in
        [&["cache", "purge"][..], &["cache", "purge", "--all", "--host", "a"], &["cache"], &["tail", "--status", "9xx"]]
    {
        assert_eq!(code(&fake.run(wrong)), 64, "{wrong:?}");
    }
}
