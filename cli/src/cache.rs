//! `sealane cache`: what the caches of the fleet hold, and taking something out of all of them; or of one proxy.

use std::time::Duration;

use clap::{Args, Subcommand};
use sealane_proto::convert::wire_duration;
use sealane_proto::v1;
use serde_json::{Map, Value, json};

use crate::args::{Format, OutputArgs};
use crate::client::ClientArgs;
use crate::duration;
use crate::exit::{Exit, Failure};
use crate::node::OneNodeArgs;
use crate::paint::clean;
use crate::printer::Printer;
use crate::table::{Cell, Table};
use crate::words;

const EXAMPLES: &str = "\
Examples:
  sealane cache stats                                    every node of the fleet
  sealane cache stats --addr 127.0.0.1:9090              one proxy, by its admin address, without a fleet
  sealane cache purge --url https://example.com/a        one URL with its variants, on every node
  sealane cache purge --prefix example.com/assets/       everything below it
  sealane cache purge --host example.com --node edge-1   a host, on one node
  sealane cache purge --all                              everything";

/// Arguments of `sealane cache`.
#[derive(Args, Debug)]
#[command(before_help = EXAMPLES, subcommand_required = true, disable_help_subcommand = true)]
pub struct CacheArgs {
    #[command(subcommand)]
    command: CacheCommand,
}

/// What is done with caches.
#[derive(Debug, Subcommand)]
enum CacheCommand {
    /// What is stored, and what it was good for
    Stats(StatsArgs),
    /// Take stored answers out; each node says what it did
    Purge(PurgeArgs),
}

#[derive(Args, Debug)]
#[command(before_help = "Examples:
  sealane cache stats
  sealane cache stats --node edge-1 -o json
  sealane cache stats --addr 127.0.0.1:9090")]
struct StatsArgs {
    #[command(flatten)]
    nodes: NodesArgs,
    #[command(flatten)]
    one: OneNodeArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args, Debug)]
#[command(before_help = "Examples:
  sealane cache purge --url https://example.com/a
  sealane cache purge --prefix example.com/assets/
  sealane cache purge --all --dry-run
  sealane cache purge --host example.com --addr 127.0.0.1:9090
Exit 0: every node that was asked has purged. Exit 1: not every one; the table says which and why.")]
struct PurgeArgs {
    #[command(flatten)]
    what: WhatArgs,
    #[command(flatten)]
    nodes: NodesArgs,
    #[command(flatten)]
    one: OneNodeArgs,
    /// Say which nodes would be asked, change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct WhatArgs {
    /// One URL, with all its variants
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Everything below it, such as example.com/assets/
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// Everything of a host
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Everything
    #[arg(long)]
    all: bool,
}

#[derive(Args, Debug)]
struct NodesArgs {
    /// A node of the fleet; as often as needed [default: every node]
    #[arg(long, value_name = "ID")]
    node: Vec<String>,
    /// How long a node may take to answer
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration::parse)]
    wait: Duration,
}

/// Runs `sealane cache`.
///
/// # Errors
/// [`Exit::Failed`] when a node that was asked did not purge, else as the exit table says.
pub async fn run(args: &CacheArgs, printer: &Printer) -> Result<(), Failure> {
    match &args.command {
        CacheCommand::Stats(args) => stats(args, printer).await,
        CacheCommand::Purge(args) => purge(args, printer).await,
    }
}

async fn stats(args: &StatsArgs, printer: &Printer) -> Result<(), Failure> {
    if let Some(node) = args.one.node()? {
        let stats = node.get("/api/v2/cache/stats").await?;
        return one(&stats, args.output.output, printer);
    }
    let server = args.client.connect(printer).await?;
    let request =
        v1::GetCacheStatsRequest { nodes: args.nodes.node.clone(), timeout: Some(wire_duration(args.nodes.wait)) };
    let answer = server.call(server.fleet().get_cache_stats(request)).await?;
    let names = || answer.nodes.iter().map(|node| node.node.clone()).collect();
    printer.show(args.output.output, "GetCacheStatsResponse", &answer, names, |look| {
        let mut table =
            Table::new(["NODE", "ENTRIES", "BYTES", "HITS", "MISSES", "HIT_%", "EVICTED", "PURGED", "PROBLEM"]);
        for node in &answer.nodes {
            let stats = node.stats.unwrap_or_default();
            let asked = stats.hits + stats.misses;
            let percent =
                if asked == 0 { "-".to_owned() } else { format!("{:.1}", 100.0 * stats.hits as f64 / asked as f64) };
            let cells = [
                node.node.clone(),
                format!("{}/{}", stats.entries, stats.max_entries),
                format!("{}/{}", stats.total_bytes, stats.max_total_bytes),
                stats.hits.to_string(),
                stats.misses.to_string(),
                percent,
                stats.evictions.to_string(),
                stats.purged.to_string(),
                node.error.clone(),
            ];
            table.row(cells.map(Cell::from));
        }
        let summary = format!("{} of {} nodes answered\n", answer.answered, answer.asked);
        table.render(look.colour) + &summary
    })
}

async fn purge(args: &PurgeArgs, printer: &Printer) -> Result<(), Failure> {
    let what = args.what.what();
    if let Some(node) = args.one.node()? {
        if args.dry_run {
            return Err(Failure::usage("--dry-run says which nodes of a fleet would be asked; --addr names the one"));
        }
        let (name, value) = match what {
            v1::cache_purge::What::Url(url) => ("url", Value::from(url)),
            v1::cache_purge::What::Prefix(prefix) => ("prefix", Value::from(prefix)),
            v1::cache_purge::What::Host(host) => ("host", Value::from(host)),
            v1::cache_purge::What::All(all) => ("all", Value::from(all)),
        };
        let body = Value::Object(Map::from_iter([(name.to_owned(), value)]));
        let purged = node.post("/api/v2/cache/purge", &body).await?;
        return one(&purged, args.output.output, printer);
    }
    let server = args.client.connect(printer).await?;
    let request = v1::PurgeCacheRequest {
        what: Some(v1::CachePurge { what: Some(what) }),
        nodes: args.nodes.node.clone(),
        timeout: Some(wire_duration(args.nodes.wait)),
        dry_run: args.dry_run,
    };
    let answer = server.call(server.fleet().purge_cache(request)).await?;
    let names = || answer.nodes.iter().filter(|node| node.error.is_empty()).map(|node| node.node.clone()).collect();
    printer.show(args.output.output, "PurgeCacheResponse", &answer, names, |look| {
        page(&answer, args.dry_run, look.colour)
    })?;
    let missing = answer.asked - answer.answered;
    if args.dry_run {
        printer.hint("without --dry-run these nodes are asked");
    } else if missing > 0 {
        let sentence = format!("{missing} of {} did not purge", words::nodes(answer.asked));
        return Err(Failure::new(Exit::Failed, sentence)
            .hint("purge again when they are back: `sealane check` says why they are away"));
    }
    Ok(())
}

fn page(answer: &v1::PurgeCacheResponse, dry_run: bool, colour: bool) -> String {
    let mut table = Table::new(["NODE", "AGENT", "PURGED", "PROBLEM"]);
    for node in &answer.nodes {
        let purged = if dry_run || !node.error.is_empty() { "-".to_owned() } else { node.purged.to_string() };
        table.row([node.node.clone(), node.agent.clone(), purged, node.error.clone()].map(Cell::from));
    }
    let summary = match dry_run {
        true => format!("{} would be asked\n", words::nodes(answer.asked)),
        false => format!(
            "{} of {} purged, {} stored answers in all\n",
            answer.answered,
            words::nodes(answer.asked),
            answer.purged
        ),
    };
    table.render(colour) + &summary
}

impl WhatArgs {
    fn what(&self) -> v1::cache_purge::What {
        use v1::cache_purge::What;
        let one =
            [self.url.clone().map(What::Url), self.prefix.clone().map(What::Prefix), self.host.clone().map(What::Host)];
        // clap asks for exactly one.
        one.into_iter().flatten().next().unwrap_or(What::All(self.all))
    }
}

/// What one proxy said.
fn one(answer: &Value, format: Format, printer: &Printer) -> Result<(), Failure> {
    match format {
        Format::Json | Format::Yaml => printer.value(format, answer),
        Format::Human | Format::Wide | Format::Name => {
            let none = Map::new();
            let lines = answer.as_object().unwrap_or(&none).iter();
            printer
                .text(&lines.map(|(name, value)| format!("{name:<16}{}\n", clean(&shown(value)))).collect::<String>())
        }
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| json!(value).to_string(), str::to_owned)
}
