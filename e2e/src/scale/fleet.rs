//! A real authority with simulated agents.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use sealane_model::envelope::Envelope;
use sealane_model::trust::TrustRoot;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::agent::{Agent, World};
use super::config::PLAN;
use super::wire::Meter;
use crate::bench::cost::{self, Cost};
use crate::fleet::free_address;
use crate::load;
use crate::process::{Finished, Process, finish};

/// Where the simulated agents are.
const REGION: &str = "eu";
/// Between two looks.
const LOOK: Duration = Duration::from_millis(2);

/// The authority and those who subscribed to it.
#[derive(Debug)]
pub struct ScaleFleet {
    /// The program under test.
    pub program: PathBuf,
    /// The authority.
    pub authority: Process,
    /// Its gRPC address.
    pub grpc: SocketAddr,
    /// Its HTTP address.
    pub http: SocketAddr,
    /// What the agents share.
    pub world: Arc<World>,
    /// By agent.
    pub meters: Vec<Arc<Meter>>,
    agents: JoinSet<()>,
    directory: TempDir,
}

impl ScaleFleet {
    /// Starts an authority. There are no agents yet; each will have `proxies`, and every `verify_every`-th verifies all.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(program: &Path, proxies: usize, verify_every: usize) -> anyhow::Result<Self> {
        let directory = TempDir::new()?;
        let root = directory.path();
        let (grpc, http) = (free_address(), free_address());
        std::fs::write(root.join("plan.yaml"), PLAN)?;
        let (grpc_text, http_text) = (grpc.to_string(), http.to_string());
        let arguments = [
            "authority",
            "--data",
            "authority",
            "--grpc-addr",
            &grpc_text,
            "--http-addr",
            &http_text,
            "--default-plan",
            "plan.yaml",
        ];
        let authority = Process::start(program, root, &root.join("authority.log"), &arguments);
        wait_for_health(http).await?;
        let trust = std::fs::read_to_string(root.join("authority/trust.json"))?;
        let trust = TrustRoot::pinned(&Envelope::from_json(&trust)?)?;
        let client = root.join("authority/client.yaml");
        let token = ["token", "create", "--role", "agent", "--region", REGION, "--client", &client.to_string_lossy()];
        let token = finish(program, root, Duration::from_secs(30), &token).await;
        ensure!(token.code == 0, "no token for agents: {token:?}");
        let token = format!("Bearer {}", token.stdout.trim()).parse().context("a token that can be sent")?;
        let world = Arc::new(World::new(grpc, token, REGION.to_owned(), trust, proxies, verify_every));
        Ok(Self {
            program: program.to_owned(),
            authority,
            grpc,
            http,
            world,
            meters: Vec::new(),
            agents: JoinSet::new(),
            directory,
        })
    }

    /// Adds agents, which dial at once; see [`Self::wait_for_agents`].
    pub fn add_agents(&mut self, count: usize) {
        for _ in 0..count {
            let agent = Agent::new(Arc::clone(&self.world), self.meters.len());
            self.meters.push(Arc::clone(&agent.meter));
            self.agents.spawn(agent.run());
        }
    }

    /// Waits until every agent's stream has brought a desired state; how long it took.
    ///
    /// # Errors
    /// Not within `deadline`.
    pub async fn wait_for_agents(&self, deadline: Duration) -> anyhow::Result<Duration> {
        let wanted = self.meters.len();
        self.wait("agents with an open stream", wanted, deadline, || {
            self.world.progress.subscribed.load(Ordering::Relaxed)
        })
        .await
    }

    /// Waits until the authority knows that every proxy runs `revision`; how long it took.
    ///
    /// # Errors
    /// Not within `deadline`.
    pub async fn wait_for_revision(&self, revision: u64, deadline: Duration) -> anyhow::Result<Duration> {
        self.wait("agents on the revision", self.meters.len(), deadline, || self.world.progress.confirmed(revision))
            .await
    }

    async fn wait(
        &self,
        what: &str,
        wanted: usize,
        deadline: Duration,
        look: impl Fn() -> usize,
    ) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        loop {
            let seen = look();
            if seen >= wanted {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() > deadline {
                let faults = self.world.progress.faults();
                bail!("{seen} of {wanted} {what} after {deadline:?}; {faults:?}; {}", self.authority.log_tail());
            }
            sleep(LOOK).await;
        }
    }

    /// Publishes a config; its revision's verdict is for [`Self::completed`].
    ///
    /// # Errors
    /// It is refused.
    pub async fn publish(&self, text: &str) -> anyhow::Result<()> {
        std::fs::write(self.path().join("fleet.yaml"), text)?;
        let published = self.cli(&["publish", "fleet.yaml", "-m", "scale"]).await;
        ensure!(published.code == 0, "not published: {published:?}");
        Ok(())
    }

    /// Follows the rollout of a revision to its end.
    ///
    /// # Errors
    /// It does not complete within two minutes.
    pub async fn completed(&self, revision: u64) -> anyhow::Result<()> {
        let watched = self.cli(&["rollout", "watch", &revision.to_string(), "--timeout", "120s"]).await;
        ensure!(watched.code == 0, "r{revision} did not complete: {watched:?}; {}", self.authority.log_tail());
        Ok(())
    }

    /// Runs a command of the CLI against this authority.
    pub async fn cli(&self, arguments: &[&str]) -> Finished {
        let client = self.path().join("authority/client.yaml").display().to_string();
        let mut all = arguments.to_vec();
        all.extend(["--client", &client]);
        finish(&self.program, self.path(), Duration::from_secs(180), &all).await
    }

    /// A series of the authority's metrics, by its whole name with labels.
    ///
    /// # Errors
    /// The authority does not answer or has no such series.
    pub async fn metric(&self, series: &str) -> anyhow::Result<f64> {
        let (_, text) = load::get(&load::client(), &format!("http://{}/metrics", self.http))
            .await
            .map_err(|error| anyhow::anyhow!("no metrics: {error}"))?;
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
        value.with_context(|| format!("no series `{series}` in the authority's metrics"))
    }

    /// What the authority has cost.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.authority.id().map(cost::of).unwrap_or_default()
    }

    /// The most that the authority's resident set ever was, in MiB.
    #[must_use]
    pub fn resident_peak_mib(&self) -> f64 {
        let status = self.authority.id().map(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")));
        let status = status.and_then(Result::ok).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
        peak.unwrap_or(0.0) / 1024.0
    }

    /// The authority's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Waits until an authority answers.
///
/// # Errors
/// Not within half a minute.
pub async fn wait_for_health(http: SocketAddr) -> anyhow::Result<()> {
    let client = load::client();
    let end = Instant::now() + Duration::from_secs(30);
    while !matches!(load::get(&client, &format!("http://{http}/healthz")).await, Ok((200, _))) {
        ensure!(Instant::now() < end, "the authority does not answer on {http}");
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
