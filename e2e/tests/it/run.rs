//! `sealane run`: one proxy, no fleet.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use sealane_e2e::fleet::free_address;
use sealane_e2e::load::{self, Load};
use sealane_e2e::origin::Origin;
use sealane_e2e::process::{Process, finish};
use sealane_e2e::wait;

use crate::program;

const SOON: Duration = Duration::from_secs(30);

fn run(directory: &Path, args: &[&str]) -> Process {
    let mut all = vec!["run", "--admin", "127.0.0.1:0"];
    all.extend(args);
    Process::start(program(), directory, &directory.join("run.log"), &all)
}

async fn wait_for(url: &str, expected: (u16, &str)) {
    let client = load::client();
    wait::equals(url, SOON, Ok((expected.0, expected.1.to_owned())), async || load::get(&client, url).await).await;
}

/// Only what the config says decides where requests go.
#[tokio::test(flavor = "multi_thread")]
async fn proxies_that_the_environment_names_are_not_used() {
    let directory = tempfile::tempdir().expect("a directory");
    let origin = Origin::start("straight").await;
    let (listen, nobody) = (free_address(), free_address());
    std::fs::write(directory.path().join("config.yaml"), config(&listen.to_string(), &origin.address().to_string()))
        .expect("a file");
    let names = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"];
    let mut args: Vec<String> = names.iter().map(|name| format!("{name}=http://{nobody}")).collect();
    args.push(program().display().to_string());
    args.extend(["run", "--admin", "127.0.0.1:0", "config.yaml"].map(str::to_owned));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let _process =
        Process::start(Path::new("/usr/bin/env"), directory.path(), &directory.path().join("run.log"), &args);
    wait_for(&format!("http://{listen}/"), (200, "straight")).await;
}

fn config(listen: &str, upstream: &str) -> String {
    format!("listen: {listen}\nroutes:\n  - to: http://{upstream}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_of_changing_the_file_swaps_the_snapshot_and_drops_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let origins = [Origin::start("a").await, Origin::start("b").await];
    let listen = free_address();
    let text = |origin: usize| config(&listen.to_string(), &origins[origin].address().to_string());
    let at = |name: &str| directory.path().join(name);
    // Kubernetes' layout: config.yaml → ..data/config.yaml, ..data → a directory of its own for each version.
    for (version, origin) in [("v0", 0), ("v1", 1)] {
        std::fs::create_dir(at(version)).expect("a directory");
        std::fs::write(at(version).join("config.yaml"), text(origin)).expect("a file");
    }
    std::os::unix::fs::symlink("v0", at("..data")).expect("a link");
    std::os::unix::fs::symlink("..data/config.yaml", at("config.yaml")).expect("a link");
    let mut process = run(directory.path(), &["config.yaml"]);
    let url = format!("http://{listen}/");
    wait_for(&url, (200, "a")).await;
    let load = Load::start(&[listen], Duration::from_millis(5));

    std::os::unix::fs::symlink("v1", at("..next")).expect("a link");
    std::fs::rename(at("..next"), at("..data")).expect("a rename");
    wait_for(&url, (200, "b")).await;

    std::fs::write(at("new.yaml"), text(0)).expect("a file");
    std::fs::rename(at("new.yaml"), at("config.yaml")).expect("a rename");
    wait_for(&url, (200, "a")).await;

    std::fs::write(at("config.yaml"), text(1)).expect("a file");
    wait_for(&url, (200, "b")).await;

    std::fs::write(at("config.yaml"), "listen: 1\nroutes:\n  - too: http://x\n  - to: ftp://y\n").expect("a file");
    wait::until("the refusal in the log", SOON, async || process.log_text().contains("config refused").then_some(()))
        .await;
    let log = process.log_text();
    for place in ["config.yaml:3", "config.yaml:4"] {
        assert!(log.contains(place), "every problem with its line, `{place}`: {log}");
    }
    wait_for(&url, (200, "b")).await;

    std::fs::write(at("config.yaml"), text(0)).expect("a file");
    process.signal(Signal::HUP);
    wait_for(&url, (200, "a")).await;
    assert_eq!(load.failures(), 0, "{:?}", load.seen());
    drop(load);
    assert_eq!(process.stop(Signal::INT, SOON).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_on_the_command_line_need_no_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let origins = [Origin::start("a").await, Origin::start("b").await];
    let listen = free_address();
    let to = |origin: usize| format!("http://{}", origins[origin].address());
    let _process =
        run(directory.path(), &["--listen", &listen.to_string(), "--threads", "1", "--to", &to(0), "--to", &to(1)]);
    let client = load::client();
    let url = format!("http://{listen}/");
    wait::until("an answer", SOON, async || load::get(&client, &url).await.ok()).await;
    let mut bodies = Vec::new();
    for _ in 0..4 {
        bodies.push(load::get(&client, &url).await.expect("an answer").1);
    }
    assert!(bodies == ["b", "a", "b", "a"] || bodies == ["a", "b", "a", "b"], "exact rotation: {bodies:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_small_formats_run_as_they_are() {
    let directory = tempfile::tempdir().expect("a directory");
    let origins = [Origin::start("a").await, Origin::start("b").await];
    let (first, second) = (free_address().port(), free_address().port());
    std::fs::write(
        directory.path().join("seed-001.yaml"),
        format!(
            "port: {first}\nendpoints:\n  - from: /index\n    pool:\n      - http://{}/index-proxied\n",
            origins[0].address()
        ),
    )
    .expect("a file");
    std::fs::write(
        directory.path().join("config.yml"),
        format!(
            "port: {second}\nhealthCheckTimeout: 3\nhealthCheckPeriod: 5\nbackends:\n  - http://{}/health\n  - http://{}/health\n",
            origins[0].address(),
            origins[1].address()
        ),
    )
    .expect("a file");
    let _one = run(directory.path(), &["seed-001.yaml"]);
    wait_for(&format!("http://127.0.0.1:{first}/index"), (200, "a")).await;
    let client = load::client();
    let (status, body) = load::get(&client, &format!("http://127.0.0.1:{first}/other")).await.expect("an answer");
    assert_eq!(status, 404, "{body}");
    let (status, metrics) = load::get(&client, &format!("http://127.0.0.1:{first}/metrics")).await.expect("an answer");
    assert!(status == 200 && metrics.contains("proxy_requests_total"), "{status} {metrics}");

    // Without a name, `config.yml` in the working directory.
    let _two = Process::start(
        program(),
        directory.path(),
        &directory.path().join("two.log"),
        &["run", "--admin", "off", "--threads", "1"],
    );
    let url = format!("http://127.0.0.1:{second}/");
    wait::until("an answer", SOON, async || load::get(&client, &url).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_says_what_to_do() {
    let directory = tempfile::tempdir().expect("a directory");
    let nothing = finish(program(), directory.path(), SOON, &["run"]).await;
    assert_eq!(nothing.code, 64, "{nothing:?}");
    assert!(nothing.stderr.contains("hint: sealane run --to"), "{nothing:?}");
    let missing = finish(program(), directory.path(), SOON, &["run", "absent.yaml"]).await;
    assert_eq!(missing.code, 3, "{missing:?}");
    std::fs::write(directory.path().join("empty.yaml"), "").expect("a file");
    let empty = finish(program(), directory.path(), SOON, &["run", "empty.yaml"]).await;
    assert_eq!(empty.code, 3, "{empty:?}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken_address = taken.local_addr().expect("an address").to_string();
    let busy = finish(
        program(),
        directory.path(),
        SOON,
        &["run", "--admin", "off", "--listen", &taken_address, "--to", "http://127.0.0.1:1"],
    )
    .await;
    assert_ne!(busy.code, 0, "{busy:?}");
    assert!(busy.stderr.contains(&taken_address), "{busy:?}");
    let broken = "listen: :8080\nroutes:\n  - pool: none\n    path: x\n";
    std::fs::write(directory.path().join("broken.yaml"), broken).expect("a file");
    let invalid = finish(program(), directory.path(), SOON, &["validate", "broken.yaml", "-o", "json"]).await;
    assert_eq!(invalid.code, 3, "{invalid:?}");
    let problems: serde_json::Value = serde_json::from_str(&invalid.stdout).expect("JSON");
    assert!(problems.as_array().is_some_and(|problems| problems.len() >= 2), "{problems}");
}

/// Waits for a port that a process listens on.
async fn listening(process: &Process, what: &str) -> SocketAddr {
    wait::until(what, SOON, async || {
        let log = process.log_text();
        let (_, after) = log.rsplit_once(&format!("{what} address="))?;
        after.split_whitespace().next()?.parse().ok()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_program_takes_over_under_load_and_nothing_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let origin = Origin::start("a").await;
    let listen = free_address();
    let text = config(&listen.to_string(), &origin.address().to_string());
    std::fs::write(directory.path().join("config.yaml"), text).expect("a file");
    let first = run(directory.path(), &["config.yaml", "--handover", "handover.sock"]);
    let url = format!("http://{listen}/");
    wait_for(&url, (200, "a")).await;
    let load = Load::start(&[listen], Duration::from_millis(5));
    let fresh = Load::start_fresh(listen, Duration::from_millis(5));

    let mut second = run(directory.path(), &["config.yaml", "--handover", "handover.sock"]);
    assert_eq!(first.ended(SOON).await, 0, "the first one drains and ends by itself: {}", second.log_text());
    let before = load.total();
    wait::until("requests to the second", SOON, async || (load.total() > before + 50).then_some(())).await;
    assert_eq!((load.failures(), fresh.failures()), (0, 0), "{:?} {:?}", load.seen(), fresh.seen());
    drop((load, fresh));
    assert_eq!(second.stop(Signal::INT, SOON).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_keeps_the_socket() {
    let directory = tempfile::tempdir().expect("a directory");
    let origin = Origin::start("a").await;
    let kept = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    let listen = kept.local_addr().expect("its address");
    let text = config(&listen.to_string(), &origin.address().to_string());
    std::fs::write(directory.path().join("config.yaml"), text).expect("a file");
    // Descriptor 3, as systemd passes it.
    let script =
        format!("exec 3<&0 0</dev/null; LISTEN_FDS=1 exec {} run config.yaml --admin off", program().display());
    let start = || {
        let socket = std::os::fd::OwnedFd::from(kept.try_clone().expect("a double"));
        Process::start_with_input(
            Path::new("/bin/sh"),
            directory.path(),
            &directory.path().join("run.log"),
            &["-c", &script],
            socket.into(),
        )
    };
    let mut process = start();
    let url = format!("http://{listen}/");
    wait_for(&url, (200, "a")).await;
    assert_eq!(process.stop(Signal::INT, SOON).await, 0);
    // Between two processes a connection waits; nothing is refused.
    let waiting = tokio::spawn(async move { load::get(&load::client(), &url).await });
    let mut process = start();
    assert_eq!(waiting.await.expect("no panic"), Ok((200, "a".to_owned())));
    assert_eq!(process.stop(Signal::INT, SOON).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_takes_a_running_proxy_out_of_service_and_waits() {
    let directory = tempfile::tempdir().expect("a directory");
    let origin = Origin::start("a").await;
    let listen = free_address();
    let text = format!(
        "{}shutdown: {{ lb_convergence: 100ms }}\n",
        config(&listen.to_string(), &origin.address().to_string())
    );
    std::fs::write(directory.path().join("config.yaml"), text).expect("a file");
    let mut process = run(directory.path(), &["config.yaml"]);
    wait_for(&format!("http://{listen}/"), (200, "a")).await;
    let admin = listening(&process, "admin listening").await.to_string();
    let drained = finish(program(), directory.path(), SOON, &["drain", "--admin", &admin, "-o", "json"]).await;
    assert_eq!(drained.code, 0, "{}", drained.stderr);
    let state: serde_json::Value = serde_json::from_str(&drained.stdout).expect("JSON");
    assert_eq!((&state["stage"], &state["connections"]), (&"drained".into(), &0.into()));
    assert!(tokio::net::TcpStream::connect(listen).await.is_err());
    assert_eq!(process.stop(Signal::TERM, SOON).await, 0);
    let nobody = finish(program(), directory.path(), SOON, &["drain", "--admin", &admin]).await;
    assert_eq!(nobody.code, 6, "{}", nobody.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_serves_a_file_by_the_flags_of_seed_004() {
    let directory = tempfile::tempdir().expect("a directory");
    let origin = Origin::start("a").await;
    let (listen, admin) = (free_address(), free_address());
    std::fs::write(directory.path().join("c.yaml"), config(":1", &origin.address().to_string())).expect("a file");
    let args = [
        "proxy",
        "-config-file",
        "c.yaml",
        "-http-addr",
        &listen.to_string(),
        "-admin-addr",
        &admin.to_string(),
        "-enable-admin=true",
        "-admin-token",
        "devtoken",
    ];
    let mut process = Process::start(program(), directory.path(), &directory.path().join("proxy.log"), &args);
    wait_for(&format!("http://{listen}/"), (200, "a")).await;
    let client = load::client();
    let (status, _) = load::get(&client, &format!("http://{admin}/api/v2/config/current")).await.expect("an answer");
    assert_eq!(status, 401, "the admin API asks for its token");
    assert_eq!(process.stop(Signal::INT, SOON).await, 0);

    let nothing = finish(program(), directory.path(), SOON, &["proxy"]).await;
    assert!(nothing.code == 64 && nothing.stderr.contains("--config-file FILE"), "{nothing:?}");
    let bare =
        finish(program(), directory.path(), SOON, &["proxy", "--config-file", "c.yaml", "--tls-addr", ":0"]).await;
    assert!(bare.code == 64 && bare.stderr.contains("PROXY_TLS_CERT"), "{bare:?}");
}
