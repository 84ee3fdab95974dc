//! A fleet of real processes on loopback: one authority, agents by region, proxies by agent.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::load;
use crate::process::{Finished, Process, finish};
use crate::relay::Relay;
use crate::wait;

/// A rollout plan that is quick enough for tests: canary, half, all.
pub const QUICK_PLAN: &str = "rollout:
  stages:
    - { name: canary, fleet_percent: 10, bake_time: 2s }
    - { name: half, fleet_percent: 50, bake_time: 2s }
    - { name: all, fleet_percent: 100, bake_time: 1s }
  health_gates:
    - { metric: error_rate, threshold: 0.01 }
    - { metric: p95_latency, threshold: 500ms }
    - { metric: rejected_nodes, threshold: 0 }
  min_requests: 20
  final_bake: 1s
";

/// An agent and its proxies.
#[derive(Debug)]
pub struct Agent {
    /// The process.
    pub process: Process,
    /// Its state directory.
    pub data: PathBuf,
    /// Where its HTTP address is.
    pub http: SocketAddr,
    /// Where its proxies find it.
    pub grpc: SocketAddr,
    /// Its way to the authority.
    pub link: Relay,
}

/// A proxy.
#[derive(Debug)]
pub struct Proxy {
    /// The process.
    pub process: Process,
    /// Its id.
    pub id: String,
    /// Its state directory.
    pub data: PathBuf,
    /// Its data plane.
    pub address: SocketAddr,
    /// Its admin address.
    pub admin: SocketAddr,
}

/// A running fleet; every process is killed when it is dropped.
#[derive(Debug)]
pub struct Fleet {
    /// The program under test.
    pub program: PathBuf,
    /// The authority.
    pub authority: Process,
    /// Its gRPC address.
    pub grpc: SocketAddr,
    /// Its HTTP address.
    pub http: SocketAddr,
    /// In the order of the regions given.
    pub agents: Vec<Agent>,
    /// In the order of agents, `per_agent` each.
    pub proxies: Vec<Proxy>,
    directory: TempDir,
}

/// For anything that should be there in a moment.
const SOON: Duration = Duration::from_secs(30);

/// Ports for [`free_address`]: below those that the system gives to outgoing connections and to port 0, so that nobody takes
/// one between the look and its use.
const PORTS: std::ops::Range<u16> = 10_240..32_000;

/// A loopback address that nobody listens on, and that this process is not given again soon.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test processes that run at the same time begin at different places.
    let start = std::process::id().wrapping_mul(977);
    let count = u32::from(PORTS.end - PORTS.start);
    let free = (0..count).find_map(|_| {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % count;
        let address = SocketAddr::from(([127, 0, 0, 1], PORTS.start + offset as u16));
        std::net::TcpListener::bind(address).is_ok().then_some(address)
    });
    free.expect("a free port")
}

impl Fleet {
    /// Starts an authority, one agent for each region and `per_agent` proxies beside each, and waits until all are seen.
    ///
    /// # Panics
    /// If something does not start.
    pub async fn start(program: &Path, regions: &[&str], per_agent: usize) -> Self {
        Self::start_in(TempDir::new().expect("a temporary directory"), program, regions, per_agent).await
    }

    /// The same in a directory that a test has made ready. The authority's state is in `authority`, an agent's in
    /// `agent-REGION`, a proxy's in `proxy-REGION-N/state`.
    ///
    /// # Panics
    /// If something does not start.
    pub async fn start_in(directory: TempDir, program: &Path, regions: &[&str], per_agent: usize) -> Self {
        let root = directory.path();
        let (grpc, http) = (free_address(), free_address());
        std::fs::write(root.join("plan.yaml"), QUICK_PLAN).expect("plan file");
        let authority = Process::start(
            program,
            root,
            &root.join("authority.log"),
            &[
                "authority",
                "--data",
                "authority",
                "--grpc-addr",
                &grpc.to_string(),
                "--http-addr",
                &http.to_string(),
                "--default-plan",
                "plan.yaml",
            ],
        );
        let mut fleet = Self {
            program: program.to_owned(),
            authority,
            grpc,
            http,
            agents: Vec::new(),
            proxies: Vec::new(),
            directory,
        };
        fleet.wait_for_authority().await;
        for region in regions {
            fleet.add_agent(region, per_agent).await;
        }
        let expected = regions.len() * per_agent;
        wait::equals("proxies that the authority sees", SOON, expected, async || fleet.nodes().await.len()).await;
        fleet
    }

    /// The fleet's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Waits until the authority answers.
    pub async fn wait_for_authority(&self) {
        let client = load::client();
        let url = format!("http://{}/healthz", self.http);
        wait::until("the authority's health", SOON, async || {
            load::get(&client, &url).await.ok().filter(|(status, _)| *status == 200)
        })
        .await;
    }

    /// Starts an agent with an enrolment token of its own, and its proxies.
    ///
    /// # Panics
    /// If something does not start.
    pub async fn add_agent(&mut self, region: &str, proxies: usize) {
        let root = self.path().to_owned();
        let token = self.cli(&["token", "create", "--role", "agent", "--region", region]).await;
        assert_eq!(token.code, 0, "{token:?}");
        std::fs::write(root.join(format!("{region}.token")), token.stdout.trim()).expect("token file");
        let name = format!("agent-{region}");
        let (grpc, http) = (free_address(), free_address());
        let link = Relay::start(self.grpc).await;
        let process = Process::start(
            &self.program,
            &root,
            &root.join(format!("{name}.log")),
            &[
                "agent",
                "--authority",
                &format!("http://{}", link.address()),
                "--region",
                region,
                "--trust",
                "authority/trust.json",
                "--token-file",
                &format!("{region}.token"),
                "--data",
                &name,
                "--id",
                &name,
                "--grpc-addr",
                &grpc.to_string(),
                "--http-addr",
                &http.to_string(),
            ],
        );
        self.agents.push(Agent { process, data: root.join(&name), http, grpc, link });
        for number in 0..proxies {
            self.add_proxy(grpc, &format!("proxy-{region}-{number}"));
        }
    }

    /// Starts a proxy beside the agent that listens at `agent`.
    ///
    /// # Panics
    /// If it does not start.
    pub fn add_proxy(&mut self, agent: SocketAddr, id: &str) {
        let root = self.path().to_owned();
        let (address, admin) = (free_address(), free_address());
        // A directory of its own, so that a relative path in a config can exist for one proxy and not for another.
        let home = root.join(id);
        std::fs::create_dir_all(&home).expect("a directory for the proxy");
        let process = Process::start(
            &self.program,
            &home,
            &root.join(format!("{id}.log")),
            &[
                "proxy",
                "--agent",
                &format!("http://{agent}"),
                "--trust",
                "../authority/trust.json",
                "--data",
                "state",
                "--id",
                id,
                "--http-addr",
                &address.to_string(),
                "--admin-addr",
                &admin.to_string(),
                "--threads",
                "1",
            ],
        );
        self.proxies.push(Proxy { process, data: home.join("state"), id: id.to_owned(), address, admin });
    }

    /// Runs a command of the CLI against this fleet's authority.
    pub async fn cli(&self, args: &[&str]) -> Finished {
        self.cli_within(Duration::from_secs(120), args).await
    }

    /// The same with a deadline.
    pub async fn cli_within(&self, deadline: Duration, args: &[&str]) -> Finished {
        let client = self.path().join("authority/client.yaml");
        let mut all = args.to_vec();
        let client = client.display().to_string();
        all.extend(["--client", &client]);
        finish(&self.program, self.path(), deadline, &all).await
    }

    /// A command's JSON.
    ///
    /// # Panics
    /// If it fails or prints something else.
    pub async fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.extend(["-o", "json"]);
        let finished = self.cli(&all).await;
        assert_eq!(finished.code, 0, "{args:?}: {finished:?}");
        serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}: {finished:?}"))
    }

    /// The nodes that the authority sees; none while it is away.
    pub async fn nodes(&self) -> Vec<Value> {
        let finished = self.cli(&["fleet", "nodes", "-o", "json"]).await;
        let Ok(value) = serde_json::from_str::<Value>(&finished.stdout) else { return Vec::new() };
        value["nodes"].as_array().cloned().unwrap_or_default()
    }

    /// Writes a config file of the fleet that sends everything to `upstream`.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn config(&self, name: &str, upstream: SocketAddr) -> String {
        self.config_text(
            name,
            &format!("listen: 127.0.0.1:8080\nroutes:\n  - id: all\n    path_prefix: /\n    to: http://{upstream}\n"),
        )
    }

    /// Writes a file into the fleet's directory and gives its name.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn config_text(&self, name: &str, text: &str) -> String {
        let path = self.path().join(name);
        std::fs::write(&path, text).expect("config file");
        path.display().to_string()
    }

    /// Publishes and follows to the verdict.
    pub async fn publish(&self, file: &str) -> Finished {
        self.cli(&["publish", file, "-m", "test", "--watch"]).await
    }

    /// Follows a rollout to its verdict, for a minute at most.
    ///
    /// # Panics
    /// Without a verdict, with everything that tells why.
    pub async fn verdict(&self, revision: u64) -> Finished {
        let watched = self.cli(&["rollout", "watch", &revision.to_string(), "--timeout", "60s"]).await;
        if watched.code == 9 {
            let status = self.cli(&["rollout", "status", &revision.to_string()]).await.stdout;
            let nodes = self.cli(&["fleet", "status", "-o", "wide"]).await.stdout;
            let logs: String = std::iter::once(&self.authority)
                .chain(self.agents.iter().map(|agent| &agent.process))
                .map(|process| process.log_text() + "\n")
                .collect();
            panic!("no verdict for r{revision}\n{status}\n{nodes}\n{logs}");
        }
        watched
    }

    /// Data-plane addresses.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.proxies.iter().map(|proxy| proxy.address).collect()
    }

    /// Waits until every proxy answers `body`.
    pub async fn wait_for_body(&self, body: &str) {
        let client = load::client();
        for proxy in &self.proxies {
            wait::equals(&format!("the answer of {}", proxy.id), SOON, Ok((200, body.to_owned())), async || {
                load::get(&client, &format!("http://{}/", proxy.address)).await
            })
            .await;
        }
    }
}
