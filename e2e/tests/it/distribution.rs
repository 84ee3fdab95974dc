//! The ways from an agent to a proxy, each with real processes: attached from another machine, pushed, polled, and from a
//! folder. "Another machine" is an address that is not loopback, so that every hop is mutual TLS.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use sealane_e2e::fleet::{QUICK_PLAN, free_address};
use sealane_e2e::load::{self, Load};
use sealane_e2e::origin::Origin;
use sealane_e2e::process::{Finished, Process, finish};
use sealane_e2e::wait;
use serde_json::Value;

use crate::program;

pub(crate) const SOON: Duration = Duration::from_secs(60);

/// An authority that serves TLS, and an agent that others reach.
pub(crate) struct Fleet {
    pub(crate) authority: Process,
    pub(crate) agent: Process,
    /// Ports of the agent.
    pub(crate) grpc: u16,
    pub(crate) http: u16,
    root: tempfile::TempDir,
}

/// A proxy and its data plane.
pub(crate) struct Proxy {
    pub(crate) process: Process,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) admin: std::net::SocketAddr,
}

impl Fleet {
    pub(crate) async fn start(push: &[String]) -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().to_owned();
        std::fs::write(path.join("plan.yaml"), QUICK_PLAN).expect("plan file");
        let (authority_port, http) = (free_address().port(), free_address());
        let args = [
            "authority".to_owned(),
            "--data=authority".to_owned(),
            format!("--grpc-addr=0.0.0.0:{authority_port}"),
            format!("--http-addr={http}"),
            "--tls-name=localhost".to_owned(),
            "--default-plan=plan.yaml".to_owned(),
        ];
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let authority = Process::start(program(), &path, &path.join("authority.log"), &args);
        wait::until("the client file", SOON, async || path.join("authority/client.yaml").is_file().then_some(())).await;
        wait::until("the authority", SOON, async || (cli(&path, &["fleet", "status"]).await.code == 0).then_some(()))
            .await;
        for role in ["agent", "proxy"] {
            let token = cli(&path, &["token", "create", "--role", role, "--region", "eu"]).await;
            assert_eq!(token.code, 0, "{token:?}");
            std::fs::write(path.join(format!("{role}.token")), token.stdout.trim()).expect("token file");
        }
        let (grpc, http) = (free_address().port(), free_address().port());
        let mut args = vec![
            "agent".to_owned(),
            format!("--authority=https://localhost:{authority_port}"),
            "--ca-file=authority/ca.pem".to_owned(),
            "--region=eu".to_owned(),
            "--trust=authority/trust.json".to_owned(),
            "--token-file=agent.token".to_owned(),
            "--data=agent".to_owned(),
            "--id=agent-eu".to_owned(),
            format!("--grpc-addr=0.0.0.0:{grpc}"),
            format!("--http-addr=0.0.0.0:{http}"),
        ];
        args.extend(push.iter().map(|address| format!("--push={address}")));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let agent = Process::start(program(), &path, &path.join("agent.log"), &args);
        Self { authority, agent, grpc, http, root }
    }

    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn proxy(&self, id: &str, source: &str, more: &[&str]) -> Proxy {
        self.proxy_in(id, id, source, more)
    }

    /// The same with its state in another directory than that of its name.
    pub(crate) fn proxy_in(&self, data: &str, id: &str, source: &str, more: &[&str]) -> Proxy {
        let (address, admin) = (free_address(), free_address());
        let mut args = vec![
            "proxy".to_owned(),
            source.to_owned(),
            "--trust=authority/trust.json".to_owned(),
            format!("--data={data}"),
            format!("--id={id}"),
            format!("--http-addr={address}"),
            format!("--admin-addr={admin}"),
            "--threads=1".to_owned(),
        ];
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let process = Process::start(program(), self.path(), &self.path().join(format!("{data}.log")), &args);
        Proxy { process, address, admin }
    }

    pub(crate) async fn publish(&self, name: &str, origin: &Origin) -> Finished {
        let text = format!(
            "listen: 127.0.0.1:8080\nroutes:\n  - id: all\n    path_prefix: /\n    to: http://{}\n",
            origin.address()
        );
        let file = self.path().join(name);
        std::fs::write(&file, text).expect("config file");
        cli(self.path(), &["publish", &file.display().to_string(), "-m", name, "--watch"]).await
    }

    pub(crate) async fn nodes(&self, count: usize) {
        wait::equals("proxies that the authority sees", SOON, count, async || {
            let listed = cli(self.path(), &["fleet", "nodes", "-o", "json"]).await;
            let value: Value = serde_json::from_str(&listed.stdout).unwrap_or_default();
            value["nodes"].as_array().map_or(0, Vec::len)
        })
        .await;
    }

    pub(crate) fn logs(&self) -> String {
        format!("{}\n{}", self.authority.log_text(), self.agent.log_text())
    }
}

pub(crate) const ENROL: &[&str] = &["--ca-file=authority/ca.pem", "--token-file=proxy.token"];

pub(crate) async fn cli(root: &Path, args: &[&str]) -> Finished {
    let client: PathBuf = root.join("authority/client.yaml");
    let client = client.display().to_string();
    let mut all = args.to_vec();
    all.extend(["--client", &client]);
    finish(program(), root, Duration::from_secs(120), &all).await
}

pub(crate) async fn answers(proxy: &Proxy, body: &str) {
    let client = load::client();
    let url = format!("http://{}/", proxy.address);
    let found = tokio::time::timeout(
        SOON,
        wait::equals("the proxy's answer", SOON * 2, Ok((200, body.to_owned())), async || {
            load::get(&client, &url).await
        }),
    );
    assert!(found.await.is_ok(), "no answer `{body}`: {}", proxy.process.log_text());
}

pub(crate) async fn metric(address: std::net::SocketAddr, name: &str) -> f64 {
    let text = load::get(&load::client(), &format!("http://{address}/metrics")).await.map(|(_, text)| text);
    let text = text.unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
}

pub(crate) async fn is_last_good(proxy: &Proxy, revision: f64) {
    wait::equals("the last good revision", SOON, revision, async || {
        metric(proxy.admin, "sealane_proxy_revision{role=\"last_good\"}").await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_on_other_machines_attach_poll_and_are_called_over_mutual_tls_and_count_in_rollouts() {
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    let control = free_address().port();
    let mut fleet = Fleet::start(&[format!("https://127.0.0.1:{control}")]).await;
    let attached = fleet.proxy("attached", &format!("--agent=https://127.0.0.1:{}", fleet.grpc), ENROL);
    let pushed = fleet.proxy("pushed", &format!("--control-addr=0.0.0.0:{control}"), ENROL);
    let mut polls = fleet.proxy("polls", &format!("--pull-url=https://127.0.0.1:{}", fleet.http), ENROL);
    fleet.nodes(3).await;
    let published = fleet.publish("one.yaml", &one).await;
    assert_eq!(published.code, 0, "{published:?}\n{}", fleet.logs());
    for proxy in [&attached, &pushed, &polls] {
        answers(proxy, "one").await;
    }
    // A second revision goes through its stages: all three prepare, confirm and report in time.
    let load = Load::start(&[attached.address, pushed.address, polls.address], Duration::from_millis(20));
    let published = fleet.publish("two.yaml", &two).await;
    assert_eq!(published.code, 0, "{published:?}\n{}", fleet.logs());
    for proxy in [&attached, &pushed, &polls] {
        answers(proxy, "two").await;
    }
    assert_eq!(load.failures(), 0, "{:?}", load.seen());
    drop(load);
    assert!(fleet.path().join("polls/identity/proxy.pem").is_file());
    let audit = cli(fleet.path(), &["audit", "list", "-o", "json"]).await;
    assert!(audit.stdout.contains("enrol_proxy"), "{audit:?}");

    // Everything above goes away: a restart serves from disk.
    is_last_good(&polls, 2.0).await;
    fleet.agent.stop(Signal::TERM, SOON).await;
    fleet.authority.stop(Signal::TERM, SOON).await;
    polls.process.kill().await;
    polls.process.restart();
    answers(&polls, "two").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_without_a_token_or_of_another_id_gets_nothing_from_an_agent_on_another_machine() {
    let fleet = Fleet::start(&[]).await;
    let known = fleet.proxy("known", &format!("--agent=https://127.0.0.1:{}", fleet.grpc), ENROL);
    fleet.nodes(1).await;
    let bare =
        fleet.proxy("bare", &format!("--agent=https://127.0.0.1:{}", fleet.grpc), &["--ca-file=authority/ca.pem"]);
    wait::until("the sentence that says what to do", SOON, async || {
        bare.process.log_text().contains("--token-file").then_some(())
    })
    .await;
    // One that shows another's certificate.
    std::fs::create_dir_all(fleet.path().join("thief/identity")).expect("a directory");
    std::fs::copy(fleet.path().join("known/identity/proxy.pem"), fleet.path().join("thief/identity/proxy.pem"))
        .expect("the certificate of another");
    let thief = fleet.proxy("thief", &format!("--agent=https://127.0.0.1:{}", fleet.grpc), ENROL);
    wait::until("the refusal", SOON, async || thief.process.log_text().contains("belongs to `known`").then_some(()))
        .await;
    let plain = load::get(&load::client(), &format!("http://127.0.0.1:{}/metrics", fleet.http)).await;
    assert!(plain.is_err(), "{plain:?}");
    fleet.nodes(1).await;
    drop(known);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_behind_any_file_server_is_polled_verified_and_not_needed_to_serve_on() {
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    let fleet = sealane_e2e::fleet::Fleet::start(program(), &["eu"], 1).await;
    assert_eq!(fleet.publish(&fleet.config("one.yaml", one.address())).await.code, 0);
    let folder = fleet.path().join("folder");
    let export = async |what: &str| {
        let exported = fleet.cli(&["revision", "export", what, "--dir", &folder.display().to_string()]).await;
        assert_eq!(exported.code, 0, "{exported:?}");
    };
    export("r1").await;
    let trust = fleet.path().join("authority/trust.json").display().to_string();
    let verified = finish(
        program(),
        fleet.path(),
        SOON,
        &["revision", "verify", &folder.display().to_string(), "--trust", &trust],
    )
    .await;
    assert_eq!(verified.code, 0, "{verified:?}");
    let server = folder::serve(folder.clone()).await;
    let (address, admin) = (free_address(), free_address());
    let args = [
        "proxy".to_owned(),
        format!("--pull-url=http://{}/bundle.json", server.address),
        "--pull-interval-ms=100".to_owned(),
        "--trust=authority/trust.json".to_owned(),
        "--data=static".to_owned(),
        "--id=static".to_owned(),
        format!("--http-addr={address}"),
        format!("--admin-addr={admin}"),
        "--threads=1".to_owned(),
    ];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let process = Process::start(program(), fleet.path(), &fleet.path().join("static.log"), &args);
    let mut proxy = Proxy { process, address, admin };
    answers(&proxy, "one").await;
    let old = std::fs::read(folder.join("bundle.json")).expect("the head");
    let load = Load::start(&fleet.addresses(), Duration::from_millis(20));
    assert_eq!(fleet.publish(&fleet.config("two.yaml", two.address())).await.code, 0);
    drop(load);
    export("r2").await;
    answers(&proxy, "two").await;
    assert_eq!(fleet.nodes().await.len(), 1, "who polls a folder is unobserved");

    // Replayed, truncated and endless heads, and a forged one: each is counted, and nothing changes.
    let state = || std::fs::read(fleet.path().join("static/state")).expect("the state");
    wait::equals("the state of r2", SOON, true, async || metric(proxy.admin, "sealane_proxy_generation").await >= 2.0)
        .await;
    is_last_good(&proxy, 2.0).await;
    let before = state();
    let good = std::fs::read(folder.join("bundle.json")).expect("the head");
    let refused = "sealane_proxy_refused_bundles_total{code=";
    for (what, code, body) in [
        ("replayed", "timestamp_rolled_back", folder::Body::Whole(old)),
        ("forged", "malformed", folder::Body::Whole(b"{\"format\":\"sealane-bundle/1\"}".to_vec())),
        ("truncated", "truncated", folder::Body::Truncated(good.clone())),
        ("endless", "too_large", folder::Body::Endless),
    ] {
        server.answer_with(Some(body));
        wait::until(&format!("the {what} head to be counted"), SOON, async || {
            (metric(proxy.admin, &format!("{refused}\"{code}\"")).await >= 1.0).then_some(())
        })
        .await;
        assert_eq!(state(), before, "{what}: {}", proxy.process.log_text());
        answers(&proxy, "two").await;
    }
    // The folder is gone, then the process too.
    drop(server);
    answers(&proxy, "two").await;
    proxy.process.kill().await;
    proxy.process.restart();
    answers(&proxy, "two").await;
}

/// A file server that can lie.
mod folder {
    use std::net::SocketAddr;
    use std::path::PathBuf;
    use std::sync::{Arc, Mutex, PoisonError};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    /// What it answers for the head in place of the file.
    #[derive(Clone)]
    pub(super) enum Body {
        Whole(Vec<u8>),
        Truncated(Vec<u8>),
        Endless,
    }

    pub(super) struct Server {
        pub(super) address: SocketAddr,
        lie: Arc<Mutex<Option<Body>>>,
        task: tokio::task::JoinHandle<()>,
    }

    impl Server {
        pub(super) fn answer_with(&self, body: Option<Body>) {
            *self.lie.lock().unwrap_or_else(PoisonError::into_inner) = body;
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    pub(super) async fn serve(root: PathBuf) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let lie = Arc::new(Mutex::new(None));
        let shared = Arc::clone(&lie);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let lie = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let root = root.clone();
                tokio::spawn(async move {
                    let _ = answer(stream, root, lie).await; // the proxy hangs up on what it refuses
                });
            }
        });
        Server { address, lie, task }
    }

    async fn answer(mut stream: TcpStream, root: PathBuf, lie: Option<Body>) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let path = head.split(' ').nth(1).unwrap_or("/").trim_start_matches('/').to_owned();
        let lie = lie.filter(|_| path == "bundle.json");
        let file = std::fs::read(root.join(&path));
        let (status, bytes, length) = match (&lie, file) {
            (Some(Body::Whole(bytes)), _) => ("200 OK", bytes.clone(), bytes.len()),
            (Some(Body::Truncated(bytes)), _) => ("200 OK", bytes[..bytes.len() / 2].to_vec(), bytes.len()),
            (Some(Body::Endless), _) => ("200 OK", Vec::new(), usize::MAX / 2),
            (None, Ok(bytes)) => ("200 OK", bytes.clone(), bytes.len()),
            (None, Err(_)) => ("404 Not Found", Vec::new(), 0),
        };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
        stream.write_all(answer.as_bytes()).await?;
        stream.write_all(&bytes).await?;
        if matches!(lie, Some(Body::Endless)) {
            loop {
                stream.write_all(&[b'x'; 65_536]).await?;
            }
        }
        stream.shutdown().await
    }
}
