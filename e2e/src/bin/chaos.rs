//! A real fleet under traffic, with faults in pairs while good and bad changes are rolled out. The same seed plays the same
//! faults: `cargo run -p sealane-e2e --bin chaos -- --seed 7 --minutes 5`; `--pair cut-agent,kill-authority` plays one pair
//! again and again.
//!
//! It fails when a good change does not complete without a reason among the faults, a bad one does, a proxy that nobody
//! killed refuses a request that the change does not explain, or the audit log does not verify in the end.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use sealane_e2e::disk::SmallDisk;
use sealane_e2e::fleet::{Fleet, free_address};
use sealane_e2e::load::{Load, Seen};
use sealane_e2e::origin::Origin;
use sealane_e2e::process::finish;
use tempfile::TempDir;
use tokio::time::Instant;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// What is rolled out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Good,
    /// Its backend answers 500.
    Failing,
    /// Its backend is slower.
    Slow,
    /// A route is missing.
    LostRoute,
}

/// What happens meanwhile; two of them at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Nothing,
    KillAuthority,
    KillAgent,
    KillProxy,
    /// The network between an agent and the authority, for a few seconds.
    CutAgent,
    /// Every blob of an agent changes on disk.
    DamageBlobs,
    /// Another authority is started on the same files.
    SecondAuthority,
    /// The authority's disk is full for a few seconds.
    FillAuthority,
    /// An agent's is.
    FillAgent,
}

const FAULTS: [(&str, Fault); 9] = [
    ("nothing", Fault::Nothing),
    ("kill-authority", Fault::KillAuthority),
    ("kill-agent", Fault::KillAgent),
    ("kill-proxy", Fault::KillProxy),
    ("cut-agent", Fault::CutAgent),
    ("damage-blobs", Fault::DamageBlobs),
    ("second-authority", Fault::SecondAuthority),
    ("fill-authority", Fault::FillAuthority),
    ("fill-agent", Fault::FillAgent),
];

/// The fleet and what can be done to it.
struct Stage {
    fleet: Fleet,
    authority_disk: Option<SmallDisk>,
    agent_disk: Option<SmallDisk>,
    /// Ids of proxies that were killed: their clients may have seen it.
    killed: BTreeSet<usize>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (mut seed, mut minutes, mut pair) = (1, 1, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--seed" => seed = value.parse()?,
            "--minutes" => minutes = value.parse()?,
            "--pair" => pair = Some(parse_pair(&value)?),
            other => bail!("`{other}` is none of --seed, --minutes, --pair"),
        }
    }
    say(&format!("seed {seed}, {minutes} minutes"));
    run(Dice(seed), Duration::from_secs(60 * minutes), pair).await.with_context(|| format!("with --seed {seed}"))
}

fn parse_pair(text: &str) -> anyhow::Result<[Fault; 2]> {
    let find = |name: &str| {
        let found = FAULTS.iter().find(|(known, _)| *known == name).map(|(_, fault)| *fault);
        found.with_context(|| format!("`{name}` is none of {}", FAULTS.map(|(name, _)| name).join(", ")))
    };
    let (one, two) = text.split_once(',').unwrap_or((text, "nothing"));
    Ok([find(one)?, find(two)?])
}

async fn run(mut dice: Dice, length: Duration, pair: Option<[Fault; 2]>) -> anyhow::Result<()> {
    let program: PathBuf = std::env::current_exe()?.with_file_name("sealane-under-test");
    ensure!(program.exists(), "build it first: cargo build -p sealane-e2e");
    let origins = [Origin::start("one").await, Origin::start("two").await];
    let (broken, slow) = (Origin::start("broken").await, Origin::start("slow").await);
    broken.answer(500);
    slow.delay(Duration::from_millis(50));
    let directory = TempDir::new()?;
    let authority_disk = SmallDisk::mount(&directory.path().join("authority"));
    let agent_disk = SmallDisk::mount(&directory.path().join("agent-eu"));
    let fleet = Fleet::start_in(directory, &program, &["eu", "us"], 3).await;
    let mut stage = Stage { fleet, authority_disk, agent_disk, killed: BTreeSet::new() };
    ensure!(stage.publish("first.yaml", origins[0].address(), "/").await == 0, "the first revision");
    stage.fleet.verdict(1).await;
    stage.fleet.wait_for_body("one").await;
    let end = Instant::now() + length;
    let (mut revision, mut good) = (1, 0);
    while Instant::now() < end {
        let load = Load::start(&stage.fleet.addresses(), Duration::from_millis(20));
        stage.killed.clear();
        revision += 1;
        let next = 1 - good;
        let change = match dice.below(8) {
            0 => Change::Failing,
            1 => Change::Slow,
            2 => Change::LostRoute,
            _ => Change::Good,
        };
        let (upstream, prefix) = match change {
            Change::Good => (origins[next].address(), "/"),
            Change::Failing => (broken.address(), "/"),
            Change::Slow => (slow.address(), "/"),
            Change::LostRoute => (origins[next].address(), "/elsewhere"),
        };
        let mut any = || FAULTS[dice.below(FAULTS.len() as u64) as usize].1;
        let faults = pair.unwrap_or([any(), any()]);
        say(&format!("r{revision}: {change:?}, {faults:?}"));
        ensure!(stage.publish("next.yaml", upstream, prefix).await == 0, "publish r{revision}");
        for fault in faults {
            tokio::time::sleep(Duration::from_millis(dice.below(3_000))).await;
            stage.strike(&mut dice, fault).await?;
        }
        let verdict = stage.fleet.verdict(revision).await;
        say(verdict.stdout.trim());
        match (change, verdict.code) {
            (Change::Good, 0) => good = next,
            // A proxy that was killed twice on it takes a good change back, too.
            (Change::Good, _) => {
                let excused = ["died", "goodbye", "not ready"].iter().any(|word| verdict.stdout.contains(word));
                ensure!(excused && !stage.killed.is_empty(), "{verdict:?}");
            }
            (_, code) => ensure!(code == 8, "a bad change was not taken back: {verdict:?}"),
        }
        stage.fleet.wait_for_body(["one", "two"][good]).await;
        stage.judge(change, &load.seen())?;
        say(&format!("  {} requests, {} failures", load.total(), load.failures()));
    }
    let audit = stage.fleet.cli(&["audit", "verify"]).await;
    ensure!(audit.code == 0, "the audit log does not verify: {audit:?}");
    say(&format!("{revision} revisions"));
    Ok(())
}

impl Stage {
    async fn publish(&self, name: &str, upstream: SocketAddr, prefix: &str) -> i32 {
        let text = format!(
            "listen: 127.0.0.1:8080\nroutes:\n  - {{ id: all, path_prefix: {prefix}, to: \"http://{upstream}\" }}\n\
             rollout:\n  stages:\n    - {{ name: canary, fleet_percent: 10, bake_time: 6s }}\n    - {{ name: all, \
             fleet_percent: 100, bake_time: 1s }}\n  min_requests: 20\n  final_bake: 1s\n"
        );
        let file = self.fleet.config_text(name, &text);
        self.fleet.cli(&["publish", &file, "-m", "chaos"]).await.code
    }

    async fn strike(&mut self, dice: &mut Dice, fault: Fault) -> anyhow::Result<()> {
        let a_while = Duration::from_millis(500 + dice.below(4_000));
        let agent = dice.below(self.fleet.agents.len() as u64) as usize;
        match fault {
            Fault::Nothing => {}
            Fault::KillAuthority => {
                self.fleet.authority.kill().await;
                self.fleet.authority.restart();
                self.fleet.wait_for_authority().await;
            }
            Fault::KillAgent => {
                self.fleet.agents[agent].process.kill().await;
                self.fleet.agents[agent].process.restart();
            }
            Fault::KillProxy => {
                let at = dice.below(self.fleet.proxies.len() as u64) as usize;
                self.killed.insert(at);
                self.fleet.proxies[at].process.kill().await;
                self.fleet.proxies[at].process.restart();
            }
            Fault::CutAgent => {
                self.fleet.agents[agent].link.cut();
                tokio::time::sleep(a_while).await;
                self.fleet.agents[agent].link.mend();
            }
            Fault::DamageBlobs => damage(&self.fleet.agents[agent].data.join("blobs"))?,
            Fault::SecondAuthority => {
                let (grpc, http) = (free_address().to_string(), free_address().to_string());
                let arguments = ["authority", "--data", "authority", "--grpc-addr", &grpc, "--http-addr", &http];
                let second = finish(&self.fleet.program, self.fleet.path(), Duration::from_secs(30), &arguments).await;
                ensure!(second.code != 0 && second.stderr.contains("in use"), "{second:?}");
            }
            Fault::FillAuthority => fill(self.authority_disk.as_ref(), a_while).await,
            Fault::FillAgent => fill(self.agent_disk.as_ref(), a_while).await,
        }
        Ok(())
    }

    /// Only the canary's clients, and those of killed proxies, may have noticed.
    fn judge(&self, change: Change, seen: &[Seen]) -> anyhow::Result<()> {
        let hit: Vec<usize> =
            (0..seen.len()).filter(|at| seen[*at].failures() > 0 && !self.killed.contains(at)).collect();
        let allowed = usize::from(change == Change::Failing);
        ensure!(hit.len() <= allowed, "proxies {hit:?} failed requests without a cause: {seen:?}");
        Ok(())
    }
}

fn damage(blobs: &std::path::Path) -> anyhow::Result<()> {
    for blob in std::fs::read_dir(blobs)? {
        let path = blob?.path();
        let Ok(mut bytes) = std::fs::read(&path) else { continue }; // gone meanwhile
        if let Some(byte) = bytes.last_mut() {
            *byte ^= 1;
        }
        std::fs::write(&path, bytes)?;
    }
    Ok(())
}

async fn fill(disk: Option<&SmallDisk>, a_while: Duration) {
    if let Some(disk) = disk {
        disk.fill();
        tokio::time::sleep(a_while).await;
        disk.free();
    }
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
