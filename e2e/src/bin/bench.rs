//! `cargo run --release -p sealane-e2e --bin bench`: Sealane beside the proxies that are installed, in interleaved rounds.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the report is for a terminal")]

use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context as _, bail};
use sealane_e2e::bench::case::{self, CASES, Case, Setting};
use sealane_e2e::bench::origin;
use sealane_e2e::bench::peer::{self, Kind, Surroundings};
use sealane_e2e::bench::place::Place;
use sealane_e2e::bench::relay;
use sealane_e2e::bench::report::{self, Rounds};

const USAGE: &str = "\
usage: bench [--rounds N] [--seconds S] [--idle N] [--program PATH]... [CASE]...

  --rounds N      rounds per peer and case (5)
  --seconds S     of one round (2)
  --idle N        idle connections (10000)
  --program PATH  the sealane to measure (the one built beside this program); given again, a further one beside it

cases: idle small medium large tls handshake h2 connect chain cache swap syscalls (all)
Peers: nginx, haproxy and envoy, those that are installed, and a relay of bytes that knows no HTTP, as the floor.";

struct Asked {
    rounds: usize,
    seconds: f64,
    idle: usize,
    programs: Vec<PathBuf>,
    cases: Vec<String>,
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let words: Vec<String> = env::args().skip(1).collect();
    // How this program starts itself as a peer.
    if let [command, address, origin] = &*words
        && command == "relay"
    {
        return Ok(runtime.block_on(relay::run(address.parse()?, origin.parse()?))?);
    }
    let Some(asked) = asked(words)? else {
        println!("{USAGE}");
        return Ok(());
    };
    runtime.block_on(run(&asked))
}

fn asked(words: Vec<String>) -> anyhow::Result<Option<Asked>> {
    let mut asked = Asked { rounds: 5, seconds: 2.0, idle: 10_000, programs: Vec::new(), cases: Vec::new() };
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value\n\n{USAGE}"));
        match word.as_str() {
            "--rounds" => asked.rounds = value()?.parse()?,
            "--seconds" => asked.seconds = value()?.parse()?,
            "--idle" => asked.idle = value()?.parse()?,
            "--program" => asked.programs.push(value()?.into()),
            "-h" | "--help" => return Ok(None),
            name if CASES.iter().any(|known| known.name == name) => asked.cases.push(word),
            other => bail!("`{other}` is neither an option nor a case\n\n{USAGE}"),
        }
    }
    if asked.programs.is_empty() {
        asked.programs.push(env::current_exe()?.with_file_name("sealane-under-test"));
    }
    Ok(Some(asked))
}

async fn run(asked: &Asked) -> anyhow::Result<()> {
    if cfg!(debug_assertions) {
        eprintln!("this is a debug build: its figures say nothing; run it with --release");
    }
    allow_descriptors(asked.idle);
    let directory = tempfile::tempdir()?;
    let places = Place::apart();
    let apart = places.0.is_some();
    let (around, certificate) = Surroundings::make(directory.path(), origin::start(&places.1)?, places)?;
    let mut peers = Vec::new();
    for (number, program) in asked.programs.iter().enumerate() {
        if !program.is_file() {
            bail!("{} is not there: cargo build --release -p sealane-e2e", program.display());
        }
        let name = if number == 0 { "sealane".to_owned() } else { format!("sealane {}", number + 1) };
        println!("{name}: {}", program.display());
        peers.push(peer::sealane(&name, program, &around).await?);
    }
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
    peers.push(peer::relay(&env::current_exe()?, &around).await?);
    let (tls, tls_http2) = case::client_configs(certificate.as_bytes())?;
    let setting = Setting {
        duration: Duration::from_secs_f64(asked.seconds),
        idle_connections: asked.idle,
        tls,
        tls_http2,
        around,
    };
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "{} rounds of {} s each, interleaved; one worker per proxy{}; load of the machine before: {}",
        asked.rounds,
        asked.seconds,
        if apart { ", on a CPU of its own" } else { "" },
        load.split_whitespace().next().unwrap_or("unknown")
    );
    for described in &CASES {
        if !asked.cases.is_empty() && !asked.cases.iter().any(|wanted| wanted == described.name) {
            continue;
        }
        let mut all: Vec<Rounds> = peers
            .iter()
            .map(|peer| Rounds { peer: peer.name.clone(), own: peer.kind == Kind::Own, figures: Vec::new() })
            .collect();
        // Memory that a process has had once it keeps: there is one first time.
        let rounds = if described.case == Case::Idle { 1 } else { asked.rounds };
        for _ in 0..rounds {
            for (peer, rounds) in peers.iter().zip(&mut all) {
                rounds.figures.extend(case::round(described.case, peer, &setting).await?);
            }
        }
        if all.iter().all(|rounds| rounds.figures.is_empty()) {
            println!("\nskipped {}: strace is not installed", described.name);
            continue;
        }
        print!("{}", report::table(described, &all));
    }
    Ok(())
}

/// Connections that idle need descriptors here too. Best effort: where the system does not allow as many, opening them fails.
fn allow_descriptors(connections: usize) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = connections as u64 + 1000;
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(limit.maximum.map_or(wanted, |most| most.min(wanted)));
        let _ = setrlimit(Resource::Nofile, limit);
    }
}
