//! `cargo run --release -p sealane-e2e --bin scale`: thousands of simulated agents against one real authority.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the report is for a terminal")]

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use sealane_e2e::scale::figure::Figure;
use sealane_e2e::scale::scenario::{self, Size};
use sealane_e2e::scale::{edits, wire};

const USAGE: &str = "\
usage: scale [CASE] [--agents N] [--proxies N] [--routes N] [--program PATH]

cases:
  propagation   1,000 agents with 10 proxies each: publish → confirmed everywhere
  change        100 agents and 100,000 routes: what a change of one route costs
  storm         10,000 agents: memory of their streams, and all of them coming back at once
  edits         10,000 sandbox routes in one proxy: what an edit and a match cost
  all           these, one after the other (the default)

  --agents N      in place of the case's number
  --proxies N     of each agent
  --routes N      of the config; of sandboxes
  --program PATH  the sealane to measure (the one built beside this program)

Ends with 1 when a bound is broken.";

struct Asked {
    case: String,
    agents: Option<usize>,
    proxies: Option<usize>,
    routes: Option<usize>,
    program: PathBuf,
}

fn main() -> anyhow::Result<ExitCode> {
    let Some(asked) = asked()? else {
        println!("{USAGE}");
        return Ok(ExitCode::SUCCESS);
    };
    if cfg!(debug_assertions) {
        eprintln!("this is a debug build: its times say nothing; run it with --release");
    }
    if !asked.program.is_file() {
        bail!("{} is not there: cargo build --release -p sealane-e2e", asked.program.display());
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(&asked))
}

async fn run(asked: &Asked) -> anyhow::Result<ExitCode> {
    let mut all_hold = true;
    for (case, agents, proxies, routes) in CASES {
        if asked.case != "all" && asked.case != case {
            continue;
        }
        let size = Size {
            agents: asked.agents.unwrap_or(agents),
            proxies: asked.proxies.unwrap_or(proxies),
            routes: asked.routes.unwrap_or(routes),
        };
        // Both ends of each connection, one process each, and what they need beside.
        wire::raise_descriptor_limit(size.agents as u64 + 1_000)?;
        println!("\n{case}");
        let figures = match case {
            "storm" => scenario::storm(&asked.program, size).await,
            "edits" => edits::edits(&asked.program, size.routes).await,
            _ => scenario::change(&asked.program, size).await,
        };
        let figures = figures.with_context(|| format!("case {case}"))?;
        figures.iter().for_each(|figure| println!("  {figure}"));
        all_hold &= figures.iter().all(Figure::holds);
    }
    Ok(if all_hold { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Name, agents, proxies of each, routes.
const CASES: [(&str, usize, usize, usize); 4] = [
    ("propagation", 1_000, 10, 1_000),
    ("change", 100, 10, 100_000),
    ("storm", 10_000, 1, 1_000),
    ("edits", 0, 0, 10_000),
];

fn asked() -> anyhow::Result<Option<Asked>> {
    let beside = env::current_exe()?.with_file_name("sealane-under-test");
    let mut asked = Asked { case: "all".to_owned(), agents: None, proxies: None, routes: None, program: beside };
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value\n\n{USAGE}"));
        match word.as_str() {
            "--agents" => asked.agents = Some(value()?.parse()?),
            "--proxies" => asked.proxies = Some(value()?.parse()?),
            "--routes" => asked.routes = Some(value()?.parse()?),
            "--program" => asked.program = value()?.into(),
            "-h" | "--help" => return Ok(None),
            "all" => asked.case = word,
            name if CASES.iter().any(|(case, ..)| *case == name) => asked.case = word,
            other => bail!("`{other}` is neither an option nor a case\n\n{USAGE}"),
        }
    }
    Ok(Some(asked))
}
