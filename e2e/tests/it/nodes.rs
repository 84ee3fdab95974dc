//! The life of the chart's pods, rehearsed with processes: an agent and a proxy that share a volume, enrol over TLS with a
//! token from a Secret, are asked for readiness, drained by the `preStop` command and started again, on an empty volume or
//! on the old one. A balancer that only knows what readiness says sends the traffic.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use sealane_e2e::fleet::{QUICK_PLAN, free_address};
use sealane_e2e::load::{self, Load};
use sealane_e2e::origin::Origin;
use sealane_e2e::process::{Finished, Process, finish};
use sealane_e2e::wait;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::program;

const SOON: Duration = Duration::from_secs(60);
/// Between two looks of the balancer at readiness; much shorter than `lb_convergence` below.
const LOOK: Duration = Duration::from_millis(50);

/// An authority with TLS from its own CA, and what the chart's Secrets hold.
struct Site {
    directory: TempDir,
    authority: Process,
    grpc: u16,
}

impl Site {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (grpc, http) = (free_address().port(), free_address());
        std::fs::write(directory.path().join("plan.yaml"), QUICK_PLAN).expect("plan file");
        let (grpc_addr, http_addr) = (format!("0.0.0.0:{grpc}"), http.to_string());
        let authority = Process::start(
            program(),
            directory.path(),
            &directory.path().join("authority.log"),
            &[
                "authority",
                "--data",
                "authority",
                "--grpc-addr",
                &grpc_addr,
                "--http-addr",
                &http_addr,
                "--tls-name",
                "localhost",
                "--default-plan",
                "plan.yaml",
            ],
        );
        let site = Self { directory, authority, grpc };
        site.until_it_answers().await;
        let token = site.cli(&["token", "create", "--role", "agent", "--region", "eu"]).await;
        assert_eq!(token.code, 0, "{token:?}");
        std::fs::write(site.path().join("token"), token.stdout).expect("the Secret");
        site
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    async fn until_it_answers(&self) {
        wait::until("the authority", SOON, async || {
            (self.cli(&["fleet", "status", "-o", "name"]).await.code == 0).then_some(())
        })
        .await;
    }

    async fn cli(&self, args: &[&str]) -> Finished {
        let client = self.path().join("authority/client.yaml").display().to_string();
        let mut all = args.to_vec();
        all.extend(["--client", &client]);
        finish(program(), self.path(), SOON, &all).await
    }

    async fn publish(&self, origin: SocketAddr) -> Finished {
        let config = format!(
            "listen: 127.0.0.1:8080\nroutes:\n  - {{ id: all, to: \"http://{origin}\" }}\n\
             shutdown: {{ lb_convergence: 1s, drain: 10s, force_close: 1s }}\n"
        );
        std::fs::write(self.path().join("fleet.yaml"), config).expect("config file");
        self.cli(&["publish", "fleet.yaml", "-m", "test", "--watch"]).await
    }
}

/// A pod of the chart: its containers, its volume, its addresses.
struct Pod {
    name: String,
    volume: PathBuf,
    logs: PathBuf,
    agent: Option<Process>,
    proxy: Option<Process>,
    agent_args: Vec<String>,
    proxy_args: Vec<String>,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Pod {
    fn new(site: &Site, number: usize) -> Self {
        let name = format!("node-{number}");
        let volume = site.path().join(&name);
        let at = |part: &str| volume.join(part).display().to_string();
        let of_site = |part: &str| site.path().join(part).display().to_string();
        let (address, admin) = (free_address(), free_address());
        let agent_args = vec![
            "agent".to_owned(),
            format!("--authority=https://localhost:{}", site.grpc),
            "--region=eu".to_owned(),
            format!("--id={name}-agent"),
            format!("--data={}", at("agent")),
            format!("--trust={}", of_site("authority/trust.json")),
            format!("--ca-file={}", of_site("authority/ca.pem")),
            format!("--token-file={}", of_site("token")),
            format!("--grpc-addr={}", free_address()),
            format!("--http-addr={}", free_address()),
        ];
        let proxy_args = vec![
            "proxy".to_owned(),
            format!("--agent=unix:{}", at("agent/agent.sock")),
            format!("--id={name}-proxy"),
            format!("--data={}", at("proxy")),
            format!("--trust={}", of_site("authority/trust.json")),
            format!("--http-addr={address}"),
            format!("--admin-addr={admin}"),
            "--threads=1".to_owned(),
        ];
        std::fs::create_dir_all(&volume).expect("a volume");
        let logs = site.path().to_owned();
        Self { name, volume, logs, agent: None, proxy: None, agent_args, proxy_args, address, admin }
    }

    fn start_proxy(&mut self) {
        self.proxy = Some(self.container("proxy", &self.proxy_args));
    }

    fn start_agent(&mut self) {
        self.agent = Some(self.container("agent", &self.agent_args));
    }

    fn container(&self, role: &str, args: &[String]) -> Process {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        Process::start(program(), &self.volume, &self.logs.join(format!("{}-{role}.log", self.name)), &args)
    }

    async fn readiness(&self) -> Option<u16> {
        probe(self.admin, "ready").await
    }

    async fn until_ready(&self) {
        let what = format!("readiness of {}", self.name);
        wait::equals(&what, SOON, Some(200), async || self.readiness().await).await;
    }

    /// What the kubelet does with a pod that goes: `preStop`, then SIGTERM to both containers, each to end by itself.
    async fn delete(&mut self) {
        let admin = self.admin.to_string();
        let drained = finish(program(), &self.volume, SOON, &["drain", "--timeout", "60s", "--admin", &admin]).await;
        assert_eq!(drained.code, 0, "{drained:?}");
        for container in [self.proxy.take(), self.agent.take()] {
            let code = container.expect("it runs").stop(Signal::TERM, Duration::from_secs(75)).await;
            assert_eq!(code, 0, "{} ends by itself", self.name);
        }
    }

    /// An `emptyDir` goes with its pod.
    fn empty(&self) {
        std::fs::remove_dir_all(&self.volume).expect("a volume");
        std::fs::create_dir_all(&self.volume).expect("a volume");
    }
}

async fn probe(admin: SocketAddr, path: &str) -> Option<u16> {
    load::get(&load::client(), &format!("http://{admin}/{path}")).await.ok().map(|(status, _)| status)
}

/// Sends a request every few milliseconds to one of the pods that were ready at its last look; it never tries again.
struct Balancer {
    good: Arc<AtomicUsize>,
    failed: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Balancer {
    fn start(pods: &[Pod]) -> Self {
        let ready = Arc::new(Mutex::new(Vec::<SocketAddr>::new()));
        let (good, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let all: Vec<(SocketAddr, SocketAddr)> = pods.iter().map(|pod| (pod.address, pod.admin)).collect();
        let mut tasks = JoinSet::new();
        let seen = Arc::clone(&ready);
        tasks.spawn(async move {
            let mut looks = tokio::time::interval(LOOK);
            loop {
                looks.tick().await;
                let mut now = Vec::new();
                for (address, admin) in &all {
                    if probe(*admin, "ready").await == Some(200) {
                        now.push(*address);
                    }
                }
                *seen.lock().expect("no panic") = now;
            }
        });
        for worker in 0..4 {
            let (ready, good, failed) = (Arc::clone(&ready), Arc::clone(&good), Arc::clone(&failed));
            tasks.spawn(async move {
                let client = load::client();
                let mut ticks = tokio::time::interval(Duration::from_millis(10));
                let mut turn = worker;
                loop {
                    ticks.tick().await;
                    turn += 1;
                    let to = {
                        let ready = ready.lock().expect("no panic");
                        if ready.is_empty() { continue } else { ready[turn % ready.len()] }
                    };
                    match load::get(&client, &format!("http://{to}/")).await {
                        Ok((200, _)) => drop(good.fetch_add(1, Ordering::Relaxed)),
                        other => failed.lock().expect("no panic").push(format!("{to}: {other:?}")),
                    }
                }
            });
        }
        Self { good, failed, _tasks: tasks }
    }

    /// Waits for `more` further good answers.
    async fn served(&self, more: usize) {
        let before = self.good.load(Ordering::Relaxed);
        let enough = async || (self.good.load(Ordering::Relaxed) >= before + more).then_some(());
        wait::until("further requests", SOON, enough).await;
    }

    #[track_caller]
    fn nothing_failed(&self) {
        let failed = self.failed.lock().expect("no panic");
        assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), &failed[..failed.len().min(5)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_start_in_the_worst_order_and_a_pod_is_ready_with_its_first_revision_only() {
    let origin = Origin::start("one").await;
    let mut site = Site::start().await;
    assert_eq!(site.authority.stop(Signal::TERM, SOON).await, 0);

    let mut pod = Pod::new(&site, 1);
    pod.start_proxy();
    wait::equals("liveness of a proxy alone", SOON, Some(200), async || probe(pod.admin, "healthz").await).await;
    assert_eq!(pod.readiness().await, Some(503), "nothing to serve yet");
    pod.start_agent();
    wait::until("the agent's socket", SOON, async || pod.volume.join("agent/agent.sock").exists().then_some(())).await;
    assert_eq!(pod.readiness().await, Some(503), "still nothing to serve");

    site.authority.restart();
    site.until_it_answers().await;
    let attached = async || {
        let nodes = site.cli(&["fleet", "nodes", "-o", "name"]).await.stdout;
        nodes.contains("node-1-proxy").then_some(())
    };
    wait::until("the proxy at the authority", SOON, attached).await;
    assert_eq!(pod.readiness().await, Some(503), "nothing was published");
    let published = site.publish(origin.address()).await;
    assert_eq!(published.code, 0, "{published:?}");
    pod.until_ready().await;
    pod.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_under_load_drops_no_request_and_neither_does_losing_the_authority() {
    let origin = Origin::start("one").await;
    let mut site = Site::start().await;
    let mut pods: Vec<Pod> = (1..=3).map(|number| Pod::new(&site, number)).collect();
    for pod in &mut pods {
        pod.start_agent();
        pod.start_proxy();
    }
    let published = site.publish(origin.address()).await;
    assert_eq!(published.code, 0, "{published:?}");
    for pod in &pods {
        pod.until_ready().await;
    }
    let balancer = Balancer::start(&pods);
    balancer.served(100).await;

    // maxUnavailable: 1, maxSurge: 0, on an emptyDir: each new pod enrols again under its node's name.
    for pod in &mut pods {
        pod.delete().await;
        pod.empty();
        pod.start_agent();
        pod.start_proxy();
        pod.until_ready().await;
        balancer.served(50).await;
        balancer.nothing_failed();
    }

    // Without an authority: containers restart on the volume that they have.
    site.authority.kill().await;
    balancer.served(50).await;
    for pod in &mut pods {
        pod.delete().await;
        pod.start_proxy();
        pod.start_agent();
        pod.until_ready().await;
        balancer.served(50).await;
    }
    balancer.nothing_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authority_is_backed_up_while_it_runs_and_put_back_with_a_new_epoch() {
    let (one, two, three) = (Origin::start("one").await, Origin::start("two").await, Origin::start("three").await);
    let mut site = Site::start().await;
    let mut pod = Pod::new(&site, 1);
    pod.start_agent();
    pod.start_proxy();
    assert_eq!(site.publish(one.address()).await.code, 0);
    pod.until_ready().await;
    // Stages are judged on requests.
    let _load = Load::start(&[pod.address], Duration::from_millis(20));
    let home = site.path().to_owned();
    let command = async |args: &[&str]| {
        let finished = finish(program(), &home, SOON, args).await;
        assert_eq!(finished.code, 0, "{args:?}: {finished:?}");
    };
    command(&["authority", "backup", "copy", "--data", "authority", "--with-keys"]).await;
    // What nodes have seen and the backup does not have.
    assert_eq!(site.publish(two.address()).await.code, 0);
    let serves = async |body: &str| {
        let client = load::client();
        let expected = Ok((200, body.to_owned()));
        wait::equals("the answer", SOON, expected, async || {
            load::get(&client, &format!("http://{}/", pod.address)).await
        })
        .await;
    };
    serves("two").await;

    site.authority.kill().await;
    std::fs::rename(site.path().join("authority"), site.path().join("lost")).expect("the loss of a disk");
    command(&["authority", "restore", "copy", "--data", "authority"]).await;
    command(&["authority", "recover", "--raise-epoch", "--data", "authority"]).await;
    serves("two").await;
    site.authority.restart();
    site.until_it_answers().await;
    let back = async || {
        let status = site.cli(&["fleet", "status", "-o", "json"]).await;
        let status: serde_json::Value = serde_json::from_str(&status.stdout).ok()?;
        (status["agents"][0]["connected"] == true).then_some(())
    };
    wait::until("the agent, with the certificate that it has", SOON, back).await;
    let published = site.publish(three.address()).await;
    assert_eq!(published.code, 0, "{published:?}");
    serves("three").await;
}
