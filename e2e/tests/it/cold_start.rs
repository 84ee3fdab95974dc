//! One canary is started from disk, in a process of its own, before a change spreads.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sealane_e2e::fleet::Fleet;
use sealane_e2e::load::Load;
use sealane_e2e::origin::Origin;
use sealane_e2e::wait;
use tempfile::TempDir;

use crate::faults::patient;
use crate::program;

const SOON: Duration = Duration::from_secs(30);

/// What the program's file is from now on; what runs does not notice, a start does.
fn replace(file: &Path, text: &str) {
    let beside = file.with_extension("new");
    std::fs::write(&beside, text).expect("a script");
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o755)).expect("a script that can be started");
    std::fs::rename(&beside, file).expect("to put it in place");
}

/// A file of the program that a test may replace.
fn own_program(directory: &TempDir) -> PathBuf {
    let own = directory.path().join("sealane");
    if std::fs::hard_link(program(), &own).is_err() {
        std::fs::copy(program(), &own).expect("a copy of the program");
    }
    own
}

/// The change is taken back; the verdict line.
async fn taken_back(fleet: &Fleet, revision: u64, upstream: &Origin) -> String {
    let file = patient(fleet, upstream, "  cold_start_gate: true\n");
    let published = fleet.cli(&["publish", &file, "-m", "change"]).await;
    assert_eq!(published.code, 0, "{published:?}");
    let verdict = fleet.verdict(revision).await;
    assert_eq!(verdict.code, 8, "{verdict:?}");
    assert!(verdict.stdout.contains("would not start from disk"), "{verdict:?}");
    verdict.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cold_start_gate_passes_what_starts_from_disk_and_takes_back_what_does_not() {
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    let directory = TempDir::new().expect("a temporary directory");
    let own = own_program(&directory);
    let mut fleet = Fleet::start_in(directory, &own, &["eu"], 2).await;
    fleet.program = program().to_owned();
    assert_eq!(fleet.publish(&fleet.config("one.yaml", one.address())).await.code, 0);
    fleet.wait_for_body("one").await;
    let load = Load::start(&fleet.addresses(), Duration::from_millis(20));

    let good = fleet.publish(&patient(&fleet, &two, "  cold_start_gate: true\n")).await;
    assert_eq!(good.code, 0, "{good:?}");
    fleet.wait_for_body("two").await;
    let served =
        |proxy: &sealane_e2e::fleet::Proxy| proxy.process.log_text().matches("started from disk, with").count();
    assert_eq!(fleet.proxies.iter().map(served).sum::<usize>(), 1, "one canary was started once");
    assert_eq!(load.failures(), 0, "the fresh process takes over and leaves without a failure: {:?}", load.seen());

    // A file of the program that does not start any more, as after a broken upgrade: only a restart notices.
    replace(&own, "#!/bin/sh\nexit 7\n");
    let line = taken_back(&fleet, 3, &one).await;
    assert!(line.contains("a fresh process ended before it served") && line.contains("exit status: 7"), "{line}");
    fleet.wait_for_body("two").await;
    assert_eq!(load.failures(), 0, "{:?}", load.seen());

    // One that starts, serves, and dies a moment later.
    let real = program().display();
    replace(&own, &format!("#!/bin/sh\n\"{real}\" \"$@\" &\nsleep 2.5\nkill -9 $!\n"));
    let line = taken_back(&fleet, 4, &one).await;
    assert!(line.contains("a fresh process ended while it served"), "{line}");
    fleet.wait_for_body("two").await;

    // The program is whole again, but what is on disk is not; what runs does not notice.
    std::fs::remove_file(&own).expect("the script");
    std::fs::copy(program(), &own).expect("a copy of the program");
    let file = patient(&fleet, &one, "  cold_start_gate: true\n");
    assert_eq!(fleet.cli(&["publish", &file, "-m", "five", "--hold"]).await.code, 0);
    wait::equals("the state", SOON, "held".to_owned(), async || {
        fleet.json(&["rollout", "status"]).await["state"].as_str().unwrap_or_default().to_owned()
    })
    .await;
    for proxy in &fleet.proxies {
        let blobs = std::fs::read_dir(proxy.data.join("blobs")).expect("blobs of the proxy");
        blobs.for_each(|blob| std::fs::remove_file(blob.expect("a blob").path()).expect("a blob to remove"));
    }
    assert_eq!(fleet.cli(&["rollout", "promote"]).await.code, 0);
    let verdict = fleet.verdict(5).await;
    assert_eq!(verdict.code, 8, "{verdict:?}");
    assert!(verdict.stdout.contains("would not start from disk"), "{verdict:?}");
}
