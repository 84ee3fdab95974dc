//! A change reaches the fleet in stages, and a bad one goes back by itself.

use std::time::Duration;

use sealane_e2e::fleet::Fleet;
use sealane_e2e::load::Load;
use sealane_e2e::origin::Origin;

use crate::program;

#[tokio::test(flavor = "multi_thread")]
async fn a_good_change_completes_and_a_bad_one_is_rolled_back_after_only_the_canary_saw_it() {
    let (one, two, broken) = (Origin::start("one").await, Origin::start("two").await, Origin::start("broken").await);
    broken.answer(500);
    let fleet = Fleet::start(program(), &["eu", "us"], 2).await;
    let first = fleet.publish(&fleet.config("first.yaml", one.address())).await;
    assert_eq!(first.code, 0, "{first:?}");
    assert!(first.stdout.starts_with("COMPLETED r1"), "{first:?}");
    fleet.wait_for_body("one").await;

    let load = Load::start(&fleet.addresses(), Duration::from_millis(20));
    let good = fleet.publish(&fleet.config("good.yaml", two.address())).await;
    assert_eq!(good.code, 0, "{good:?}");
    assert!(good.stdout.starts_with("COMPLETED r2"), "{good:?}");
    assert_eq!(load.failures(), 0, "{:?}", load.seen());
    fleet.wait_for_body("two").await;

    let bad = fleet.publish(&fleet.config("bad.yaml", broken.address())).await;
    assert_eq!(bad.code, 8, "{bad:?}");
    assert!(bad.stdout.starts_with("ROLLED BACK r3 → r2"), "{bad:?}");
    assert!(bad.stdout.contains("error_rate") && bad.stdout.contains("canary"), "{bad:?}");
    assert_eq!(bad.stdout.lines().count(), 1, "exactly one verdict line: {bad:?}");
    let hit = load.seen().iter().filter(|seen| seen.failures() > 0).count();
    assert_eq!(hit, 1, "only the canary saw it: {:?}", load.seen());
    fleet.wait_for_body("two").await;

    let status = fleet.json(&["rollout", "status", "r3"]).await;
    assert_eq!(status["state"], "rolled_back");
    assert_eq!(status["reason"]["gate"], "error_rate");
    assert_eq!(status["reason"]["stage"], "canary");
    assert!(status["reason"]["nodes"].as_array().is_some_and(|nodes| nodes.len() == 1), "{status}");

    // What moved, which gate, and why: in the log, too.
    let log = fleet.authority.log_text();
    let moved = log.lines().find(|line| line.contains("rollout moved") && line.contains("rolling_back"));
    assert!(moved.is_some_and(|line| line.contains("error_rate") && line.contains("canary")), "{log}");
    // In one command: how the last rollout ended, and what to type next.
    let page = fleet.cli(&["fleet", "status"]).await.stdout;
    assert!(page.contains("last       ROLLED BACK r3 → r2") && page.contains("next       correct the file"), "{page}");

    let back = fleet.cli(&["rollback", "--to", "r1", "--watch"]).await;
    assert_eq!(back.code, 0, "{back:?}");
    fleet.wait_for_body("one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_one_proxy_cannot_compile_is_rejected_before_any_traffic() {
    let origin = Origin::start("ok").await;
    let fleet = Fleet::start(program(), &["eu"], 2).await;
    let config = fleet.config("first.yaml", origin.address());
    assert_eq!(fleet.publish(&config).await.code, 0);
    fleet.wait_for_body("ok").await;

    // The CA file exists for the first proxy alone.
    let authority = fleet.path().join("authority/ca.pem");
    std::fs::copy(authority, fleet.path().join("proxy-eu-0/upstream-ca.pem")).expect("a certificate to copy");
    let text = format!(
        "listen: 127.0.0.1:8080\nroutes:\n  - id: all\n    path_prefix: /\n    pool: main\npools:\n  - id: main\n    endpoints: [\"https://{}\"]\n    tls: {{ ca_file: upstream-ca.pem }}\n",
        origin.address()
    );
    let load = Load::start(&fleet.addresses(), Duration::from_millis(20));
    let rejected = fleet.publish(&fleet.config_text("tls.yaml", &text)).await;
    assert_eq!(rejected.code, 3, "{rejected:?}");
    assert!(rejected.stdout.starts_with("REJECTED r2"), "{rejected:?}");
    let said = format!("{}{}", rejected.stdout, rejected.stderr);
    for part in ["proxy-eu-1", "pools[main].tls.ca_file", "line 9"] {
        assert!(said.contains(part), "`{part}` is missing: {rejected:?}");
    }
    assert!(!said.contains("proxy-eu-0"), "{rejected:?}");
    assert_eq!(load.failures(), 0, "{:?}", load.seen());
    let nodes = fleet.nodes().await;
    assert!(nodes.iter().all(|node| node["revision"] == 1), "{nodes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_publish_waits_for_promote_and_an_abort_takes_everything_back() {
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    let fleet = Fleet::start(program(), &["eu"], 2).await;
    assert_eq!(fleet.publish(&fleet.config("one.yaml", one.address())).await.code, 0);
    let load = Load::start(&fleet.addresses(), Duration::from_millis(20));

    let held = fleet.cli(&["publish", &fleet.config("two.yaml", two.address()), "-m", "two", "--hold"]).await;
    assert_eq!(held.code, 0, "{held:?}");
    sealane_e2e::wait::equals("the state", Duration::from_secs(30), "held".to_owned(), async || {
        fleet.json(&["rollout", "status"]).await["state"].as_str().unwrap_or_default().to_owned()
    })
    .await;
    fleet.wait_for_body("one").await;
    let promoted = fleet.cli(&["rollout", "promote"]).await;
    assert_eq!(promoted.code, 0, "{promoted:?}");
    let done = fleet.cli(&["rollout", "watch"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    fleet.wait_for_body("two").await;

    let third = fleet.cli(&["publish", &fleet.config("one.yaml", one.address()), "-m", "again", "--hold"]).await;
    assert_eq!(third.code, 0, "{third:?}");
    let aborted = fleet.cli(&["rollout", "abort"]).await;
    assert_eq!(aborted.code, 0, "{aborted:?}");
    let verdict = fleet.cli(&["rollout", "watch"]).await;
    assert_eq!(verdict.code, 8, "{verdict:?}");
    assert!(verdict.stdout.starts_with("ABORTED r3"), "{verdict:?}");
    fleet.wait_for_body("two").await;
    assert_eq!(load.failures(), 0, "{:?}", load.seen());
}
