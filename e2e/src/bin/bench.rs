//! `cargo run --release -p sealane-e2e --bin bench`: Sealane beside the proxies that are installed, in interleaved rounds.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the report is for a terminal")]

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context as _, bail};
use sealane_e2e::bench::case::{self, CASES, Setting};
use sealane_e2e::bench::origin;
use sealane_e2e::bench::peer::{self, Surroundings};
use sealane_e2e::bench::report::{self, Rounds};

const USAGE: &str = "\
usage: bench [--rounds N] [--seconds S] [--idle N] [--program PATH] [CASE]...

  --rounds N      rounds per peer and case (5)
  --seconds S     of one round (2)
  --idle N        idle connections (5000)
  --program PATH  the sealane to measure (the one built beside this program)

cases: small medium large tls handshake h2 connect idle swap syscalls (all)
Peers: nginx, haproxy and envoy, those that are installed.";

struct Asked {
    rounds: usize,
    seconds: f64,
    idle: usize,
    program: PathBuf,
    cases: Vec<String>,
}

fn main() -> anyhow::Result<()> {
    let Some(asked) = asked()? else {
        println!("{USAGE}");
        return Ok(());
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(&asked))
}

fn asked() -> anyhow::Result<Option<Asked>> {
    let beside = env::current_exe()?.with_file_name("sealane-under-test");
    let mut asked = Asked { rounds: 5, seconds: 2.0, idle: 5000, program: beside, cases: Vec::new() };
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value\n\n{USAGE}"));
        match word.as_str() {
            "--rounds" => asked.rounds = value()?.parse()?,
            "--seconds" => asked.seconds = value()?.parse()?,
            "--idle" => asked.idle = value()?.parse()?,
            "--program" => asked.program = value()?.into(),
            "-h" | "--help" => return Ok(None),
            name if CASES.iter().any(|(_, known, ..)| *known == name) => asked.cases.push(word),
            other => bail!("`{other}` is neither an option nor a case\n\n{USAGE}"),
        }
    }
    Ok(Some(asked))
}

async fn run(asked: &Asked) -> anyhow::Result<()> {
    if cfg!(debug_assertions) {
        eprintln!("this is a debug build: its figures say nothing; run it with --release");
    }
    if !asked.program.is_file() {
        bail!("{} is not there: cargo build --release -p sealane-e2e", asked.program.display());
    }
    let directory = tempfile::tempdir()?;
    let (setting, around) = prepare(asked, directory.path())?;
    let mut peers = vec![peer::sealane(&asked.program, &around).await?];
    for (name, found) in [
        ("nginx", peer::nginx(&around).await),
        ("haproxy", peer::haproxy(&around).await),
        ("envoy", peer::envoy(&around).await),
    ] {
        match found {
            Ok(Some(peer)) => peers.push(peer),
            Ok(None) => println!("skipped {name}: not installed"),
            Err(error) => println!("skipped {name}: {error}"),
        }
    }
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "{} rounds of {} s each, one worker per proxy, interleaved; load of the machine before: {}",
        asked.rounds,
        asked.seconds,
        load.split_whitespace().next().unwrap_or("unknown")
    );
    for (case, name, what, budget) in CASES {
        if !asked.cases.is_empty() && !asked.cases.iter().any(|wanted| wanted == name) {
            continue;
        }
        let mut all: Vec<Rounds> = peers.iter().map(|peer| Rounds { peer: peer.name, figures: Vec::new() }).collect();
        for _ in 0..asked.rounds {
            for (peer, rounds) in peers.iter().zip(&mut all) {
                rounds.figures.extend(case::round(case, peer, &setting).await?);
            }
        }
        if all.iter().all(|rounds| rounds.figures.is_empty()) {
            println!("\nskipped {name}: strace is not installed");
            continue;
        }
        print!("{}", report::table(name, what, budget, &all));
    }
    Ok(())
}

/// A certificate, an origin, and how to reach what comes between.
fn prepare(asked: &Asked, directory: &Path) -> anyhow::Result<(Setting, Surroundings)> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    fs::write(&certificate, made.cert.pem())?;
    fs::write(&key, made.signing_key.serialize_pem())?;
    let around = Surroundings { directory: directory.to_owned(), certificate, key, origin: origin::start()? };
    let (tls, tls_http2) = case::client_configs(made.cert.pem().as_bytes())?;
    let setting = Setting {
        duration: Duration::from_secs_f64(asked.seconds),
        idle_connections: asked.idle,
        tls,
        tls_http2,
        around: around.clone(),
    };
    Ok((setting, around))
}
