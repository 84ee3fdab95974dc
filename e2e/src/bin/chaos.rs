//! A real fleet under traffic, with parts killed at random while good and bad changes are rolled out. The same seed plays
//! the same faults: `cargo run -p sealane-e2e --bin chaos -- --seed 7 --minutes 5`.
//!
//! It fails when a good change does not complete, a bad one does, or a proxy that nobody killed refuses a request that the
//! change does not explain.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use sealane_e2e::fleet::Fleet;
use sealane_e2e::load::Load;
use sealane_e2e::origin::Origin;
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

/// What happens while a change is rolled out; two of them at a time.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Nothing,
    KillAuthority,
    KillAgent,
    KillProxy,
}

const FAULTS: [Fault; 4] = [Fault::Nothing, Fault::KillAuthority, Fault::KillAgent, Fault::KillProxy];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (mut seed, mut minutes) = (1, 1);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{name} needs a number"))?;
        match name.as_str() {
            "--seed" => seed = value.parse()?,
            "--minutes" => minutes = value.parse()?,
            other => bail!("`{other}` is not --seed or --minutes"),
        }
    }
    say(&format!("seed {seed}, {minutes} minutes"));
    run(Dice(seed), Duration::from_secs(60 * minutes)).await.with_context(|| format!("with --seed {seed}"))
}

async fn run(mut dice: Dice, length: Duration) -> anyhow::Result<()> {
    let program: PathBuf = std::env::current_exe()?.with_file_name("sealane-under-test");
    ensure!(program.exists(), "build it first: cargo build -p sealane-e2e");
    let origins = [Origin::start("one").await, Origin::start("two").await];
    let broken = Origin::start("broken").await;
    broken.answer(500);
    let mut fleet = Fleet::start(&program, &["eu", "us"], 2).await;
    ensure!(fleet.publish(&fleet.config("first.yaml", origins[0].address())).await.code == 0, "the first revision");
    fleet.wait_for_body("one").await;
    let load = Load::start(&fleet.addresses(), Duration::from_millis(20));
    let end = Instant::now() + length;
    let (mut revision, mut good) = (1, 0);
    while Instant::now() < end {
        revision += 1;
        let is_bad = dice.below(4) == 0;
        let next = 1 - good;
        let upstream = if is_bad { broken.address() } else { origins[next].address() };
        let faults = [FAULTS[dice.below(4) as usize], FAULTS[dice.below(4) as usize]];
        say(&format!("r{revision}: {}, {faults:?}", if is_bad { "bad" } else { "good" }));
        let published = fleet.cli(&["publish", &fleet.config("next.yaml", upstream), "-m", "chaos"]).await;
        ensure!(published.code == 0, "publish: {published:?}");
        for fault in faults {
            tokio::time::sleep(Duration::from_millis(dice.below(3_000))).await;
            strike(&mut fleet, &mut dice, fault).await;
        }
        let verdict = fleet.verdict(revision).await;
        say(verdict.stdout.trim());
        if is_bad {
            ensure!(verdict.code == 8, "a bad change was not taken back: {verdict:?}");
        } else if verdict.code == 0 {
            good = next;
        } else {
            // A proxy that was killed twice on it takes a good change back, too.
            ensure!(verdict.stdout.contains("died") || verdict.stdout.contains("goodbye"), "{verdict:?}");
        }
        fleet.wait_for_body(["one", "two"][good]).await;
    }
    say(&format!("{revision} revisions, {} requests, {} failures", load.total(), load.failures()));
    Ok(())
}

async fn strike(fleet: &mut Fleet, dice: &mut Dice, fault: Fault) {
    match fault {
        Fault::Nothing => {}
        Fault::KillAuthority => {
            fleet.authority.kill().await;
            fleet.authority.restart();
            fleet.wait_for_authority().await;
        }
        Fault::KillAgent => {
            let at = dice.below(fleet.agents.len() as u64) as usize;
            fleet.agents[at].process.kill().await;
            fleet.agents[at].process.restart();
        }
        Fault::KillProxy => {
            let at = dice.below(fleet.proxies.len() as u64) as usize;
            fleet.proxies[at].process.kill().await;
            fleet.proxies[at].process.restart();
        }
    }
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
