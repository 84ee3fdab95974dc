//! The trust root changes under a running fleet, and nodes that start anew can still take in what is served.

use std::time::Duration;

use sealane_e2e::fleet::Fleet;
use sealane_e2e::load::Load;
use sealane_e2e::origin::Origin;
use sealane_e2e::process::Finished;

use crate::program;

fn done(finished: Finished) -> Finished {
    assert_eq!(finished.code, 0, "{finished:?}");
    finished
}

#[tokio::test(flavor = "multi_thread")]
async fn after_two_signatures_are_asked_for_a_fresh_agent_takes_in_what_was_served_before() {
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    let mut fleet = Fleet::start(program(), &["eu"], 1).await;
    done(fleet.publish(&fleet.config("one.yaml", one.address())).await);
    fleet.wait_for_body("one").await;
    let load = Load::start(&fleet.addresses(), Duration::from_millis(20));

    // 1 → 2: the authority's own key is replaced in one call, and signs what is served once more.
    done(fleet.cli(&["key", "rotate"]).await);
    // 2 → 3: a person's key is trusted.
    done(fleet.cli(&["key", "generate", "--out", "ana.pem"]).await);
    done(fleet.cli(&["key", "rotate", "--add-release", "ana.pub"]).await);
    // Two signatures cannot be asked for before what is served has them; it is said what to type.
    let refused = fleet.cli(&["key", "rotate", "--threshold", "release=2"]).await;
    assert_ne!(refused.code, 0, "{refused:?}");
    for part in ["r1, which the fleet serves, has 1 of the 2", "sealane revision approve r1 --key FILE"] {
        assert!(refused.stderr.contains(part), "`{part}` is missing: {refused:?}");
    }
    // Signed where there is no network, from a file.
    done(fleet.cli(&["revision", "export", "r1", "--out", "r1.json"]).await);
    done(
        sealane_e2e::process::finish(
            program(),
            fleet.path(),
            Duration::from_secs(30),
            &["sign", "r1.json", "--key", "ana.pem"],
        )
        .await,
    );
    done(fleet.cli(&["revision", "approve", "r1", "--signature", "r1.json"]).await);
    // 3 → 4.
    done(fleet.cli(&["key", "rotate", "--threshold", "release=2"]).await);

    // A fresh agent that knows root 4 alone, with a fresh proxy: they serve it.
    fleet.add_agent("us", 1).await;
    fleet.wait_for_body("one").await;
    let verified = fleet.cli(&["revision", "export", "r1", "--out", "again.json"]).await;
    done(verified);
    let arguments = ["revision", "verify", "again.json", "--trust", "authority/trust.json", "-o", "json"];
    let verified =
        done(sealane_e2e::process::finish(program(), fleet.path(), Duration::from_secs(30), &arguments).await);
    let verified: serde_json::Value = serde_json::from_str(&verified.stdout).expect("JSON");
    assert_eq!((&verified["root_version"], &verified["valid"]), (&4.into(), &true.into()), "{verified}");

    // A change waits for the second signature, then goes everywhere, and nobody noticed any of this.
    let waits = done(fleet.cli(&["publish", &fleet.config("two.yaml", two.address()), "-m", "two"]).await);
    assert!(format!("{}{}", waits.stdout, waits.stderr).contains("1 more signature"), "{waits:?}");
    done(fleet.cli(&["revision", "approve", "r2", "--key", "ana.pem"]).await);
    let second = Load::start(&fleet.addresses()[1..], Duration::from_millis(20));
    done(fleet.verdict(2).await);
    fleet.wait_for_body("two").await;
    assert_eq!(load.failures() + second.failures(), 0, "{:?}", load.seen());

    // A stolen key goes at once. What it signed is not vouched for, and both commands say so until people have signed.
    done(fleet.cli(&["key", "rotate", "--replace", "--even-if-unsigned"]).await);
    let status = done(fleet.cli(&["fleet", "status"]).await);
    assert!(!status.stdout.contains("agents that start anew wait"), "the new key of the authority signed: {status:?}");
}
