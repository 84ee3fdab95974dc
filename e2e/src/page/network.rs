//! Pages name ports, and their readers have them free. A test that follows one runs in a network of its own where the
//! system gives one (Linux namespaces), so that pages, other tests and this machine's own services never meet.

use std::process::Stdio;

use tokio::process::Command;

use super::skipped;

/// Where a page can be followed.
#[derive(Debug)]
pub enum Network {
    /// In here: nobody else has ports.
    Own,
    /// It was followed in a network of its own, by this test in another process, and passed.
    Followed,
    /// There is none to be had, for this reason.
    Shared(String),
}

/// Set in the process that runs inside.
const INSIDE: &str = "SEALANE_E2E_OWN_NETWORK";
/// Loopback is down in a new network.
const UP: &str = "ip link set lo up 2>/dev/null || ifconfig lo up";

/// Runs the test `name` of this test program again in a network of its own, unless it already is in one.
///
/// # Panics
/// If it fails there.
pub async fn own_network(name: &str) -> Network {
    if std::env::var_os(INSIDE).is_some() {
        return Network::Own;
    }
    // Whatever a page leaves running ends with the first process in there.
    const ALL: [&str; 5] = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let as_root_in_there = [&["--user", "--map-root-user"][..], &ALL[..]].concat();
    let ways = [as_root_in_there.as_slice(), &ALL[..]];
    for way in ways {
        let tried = Command::new("unshare").args(way).args(["sh", "-c", UP]).stdin(Stdio::null()).output().await;
        if !tried.is_ok_and(|tried| tried.status.success()) {
            continue;
        }
        let here = std::env::current_exe().expect("this program");
        let run = Command::new("unshare")
            .args(way)
            .args(["sh", "-c", &format!("{{ {UP}; }} && exec \"$@\""), "sh"])
            .arg(here)
            .args([name, "--exact", "--nocapture"])
            .env(INSIDE, "1")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .expect("unshare, which was there a moment ago");
        let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        assert!(run.status.success() && said.contains("1 passed"), "{said}");
        for what in said.lines().filter_map(|line| line.strip_prefix("skipped: ")) {
            skipped(format_args!("{what}"));
        }
        return Network::Followed;
    }
    Network::Shared("no network of its own to be had: it needs `unshare` and user namespaces".to_owned())
}
