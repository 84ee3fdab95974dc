//! What is not signed by this fleet is not served, and nothing beyond loopback is open.

use std::time::Duration;

use rustix::process::Signal;
use sealane_e2e::fleet::{Fleet, free_address};
use sealane_e2e::load;
use sealane_e2e::origin::Origin;
use sealane_e2e::process::{Process, finish};
use sealane_e2e::wait;

use crate::program;

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_and_a_proxy_of_another_fleet_take_nothing_from_this_one() {
    let origin = Origin::start("one").await;
    let mut fleet = Fleet::start(program(), &["eu"], 1).await;
    assert_eq!(fleet.publish(&fleet.config("one.yaml", origin.address())).await.code, 0);
    fleet.wait_for_body("one").await;

    // A second fleet's trust root, in the hands of an agent that talks to the first fleet's authority.
    let (grpc, http) = (free_address(), free_address());
    let mut other = Process::start(
        program(),
        fleet.path(),
        &fleet.path().join("other.log"),
        &["authority", "--data", "other", "--grpc-addr", &grpc.to_string(), "--http-addr", &http.to_string()],
    );
    let trust = fleet.path().join("other/trust.json");
    wait::until("the other fleet's trust root", SOON, async || trust.is_file().then_some(())).await;
    other.stop(Signal::TERM, SOON).await;
    let (grpc, http) = (free_address(), free_address());
    let agent = Process::start(
        program(),
        fleet.path(),
        &fleet.path().join("stranger.log"),
        &[
            "agent",
            "--authority",
            &format!("http://{}", fleet.grpc),
            "--region",
            "eu",
            "--trust",
            "other/trust.json",
            "--token-file",
            "eu.token",
            "--data",
            "stranger",
            "--id",
            "stranger",
            "--grpc-addr",
            &grpc.to_string(),
            "--http-addr",
            &http.to_string(),
        ],
    );
    let client = load::client();
    wait::until("refused bundles in the stranger's metrics", SOON, async || {
        let (_, text) = load::get(&client, &format!("http://{http}/metrics")).await.ok()?;
        text.lines()
            .find(|line| line.starts_with("sealane_agent_refused_bundles_total{") && !line.ends_with(" 0"))
            .map(|_| ())
    })
    .await;
    // An alarm that a person sees in one command, with what to type.
    let alarm = wait::until("an alarm in `fleet status`", SOON, async || {
        let status = fleet.cli(&["fleet", "status"]).await;
        status.stdout.lines().find(|line| line.contains("agent `stranger` refused")).map(str::to_owned)
    })
    .await;
    let code = alarm.split("sealane help ").nth(1).and_then(|rest| rest.split('`').next()).unwrap_or_default();
    let help = finish(program(), fleet.path(), SOON, &["help", code]).await;
    assert!(help.code == 0 && help.stdout.contains("next:"), "{alarm} {help:?}");
    let check = fleet.cli(&["check"]).await;
    assert!(check.code == 1 && check.stdout.contains("agent `stranger` refused"), "{check:?}");
    drop(agent);

    // A proxy with the other fleet's trust root beside the first fleet's agent serves nothing.
    let proxy = &mut fleet.proxies[0];
    proxy.process.kill().await;
    let home = fleet.path().join("foreign");
    std::fs::create_dir_all(&home).expect("a directory");
    let address = free_address();
    let admin = free_address();
    let agent_url = std::fs::read_to_string(fleet.path().join("proxy-eu-0.log")).map(|_| ()).ok();
    assert!(agent_url.is_some());
    let socket = fleet.agents[0].data.join("agent.sock");
    let foreign = Process::start(
        program(),
        &home,
        &fleet.path().join("foreign.log"),
        &[
            "proxy",
            "--agent",
            &format!("unix:{}", socket.display()),
            "--trust",
            "../other/trust.json",
            "--data",
            "state",
            "--id",
            "foreign",
            "--http-addr",
            &address.to_string(),
            "--admin-addr",
            &admin.to_string(),
            "--threads",
            "1",
        ],
    );
    wait::until("a refusal in the foreign proxy's log", SOON, async || {
        let log = foreign.log_text();
        assert!(!log.contains("activated"), "{log}");
        log.contains("fleet").then_some(())
    })
    .await;
    assert!(load::get(&client, &format!("http://{address}/")).await.is_err(), "it serves nothing");
    let ready = load::get(&client, &format!("http://{admin}/readyz")).await;
    assert!(matches!(ready, Ok((503, _))), "{ready:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_an_authority_wants_tls_and_agents_enrol_with_their_token() {
    let directory = tempfile::tempdir().expect("a directory");
    let port = free_address().port();
    let everywhere = format!("0.0.0.0:{port}");
    let http = free_address().to_string();
    let refused = finish(
        program(),
        directory.path(),
        SOON,
        &["authority", "--data", "a", "--grpc-addr", &everywhere, "--http-addr", &http],
    )
    .await;
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.stderr.contains("--tls-name"), "it says how to go on: {refused:?}");

    let _authority = Process::start(
        program(),
        directory.path(),
        &directory.path().join("authority.log"),
        &["authority", "--data", "a", "--grpc-addr", &everywhere, "--http-addr", &http, "--tls-name", "localhost"],
    );
    let client_file = directory.path().join("a/client.yaml").display().to_string();
    let token = wait::until("a token over TLS", SOON, async || {
        let args = ["token", "create", "--role", "agent", "--region", "eu", "--client", &client_file];
        let finished = finish(program(), directory.path(), SOON, &args).await;
        (finished.code == 0).then_some(finished.stdout)
    })
    .await;
    std::fs::write(directory.path().join("eu.token"), token.trim()).expect("token file");
    let agent = Process::start(
        program(),
        directory.path(),
        &directory.path().join("agent.log"),
        &[
            "agent",
            "--authority",
            &format!("https://localhost:{port}"),
            "--ca-file",
            "a/ca.pem",
            "--region",
            "eu",
            "--trust",
            "a/trust.json",
            "--token-file",
            "eu.token",
            "--data",
            "agent",
            "--id",
            "agent-eu",
            "--grpc-addr",
            &free_address().to_string(),
            "--http-addr",
            &free_address().to_string(),
        ],
    );
    wait::until("an agent that is connected over mTLS", SOON, async || {
        let args = ["fleet", "status", "-o", "json", "--client", &client_file];
        let finished = finish(program(), directory.path(), SOON, &args).await;
        let status: serde_json::Value = serde_json::from_str(&finished.stdout).ok()?;
        (status["agents"][0]["connected"] == true).then_some(())
    })
    .await;
    drop(agent);
}
