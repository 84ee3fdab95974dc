//! `sealane fleet`: what runs where, keeping a node out of first stages, and taking one out of service.

use clap::{Args, Subcommand};
use sealane_proto::v1;
use sealane_proto::v1::{GetFleetResponse, Node};

use crate::args::{Format, OutputArgs};
use crate::client::{ClientArgs, Server, incomplete};
use crate::exit::{Exit, Failure};
use crate::paint::{Paint, clean};
use crate::printer::{Look, Printer};
use crate::table::{Cell, Table};
use crate::{clock, duration, words};

const EXAMPLES: &str = "\
Examples:
  sealane fleet status             one page: agents, nodes, rollout, alarms
  sealane fleet nodes -o wide
  sealane fleet node edge-1        one node, with its problems
  sealane fleet cordon edge-1      keep it out of first stages; --undo lifts it
  sealane fleet drain edge-1       take it out of service gracefully
  sealane fleet revoke edge-1      nobody accepts its certificates any more";

const STATUS_EXAMPLES: &str = "\
Examples:
  sealane fleet status
  sealane fleet status --watch     again whenever it changes
  sealane fleet status -o json";

const NODES_EXAMPLES: &str = "\
Examples:
  sealane fleet nodes
  sealane fleet nodes -o name";

const NODE_EXAMPLES: &str = "\
Examples:
  sealane fleet node edge-1";

const CORDON_EXAMPLES: &str = "\
Examples:
  sealane fleet cordon edge-1
  sealane fleet cordon edge-1 --undo";

const DRAIN_EXAMPLES: &str = "\
Examples:
  sealane fleet drain edge-1       returns once it has begun
  sealane fleet drain edge-1 --dry-run

Out of service it stays until its process is started again. On its own machine: sealane drain.";

const REVOKE_EXAMPLES: &str = "\
Examples:
  sealane fleet revoke edge-1 --dry-run
  sealane fleet revoke edge-1                     a proxy or an agent, whichever has the name
  sealane fleet revoke eu-1 --role agent

Its streams end within seconds, and what it serves it serves on: to stop it, stop its process. To let it in again, remove
`identity` in its data directory and start it with a token.";

/// The authority's largest page.
const PAGE_MAX: u32 = 10_000;
/// Rows of a table on the one page of a large fleet: those that want a look first. `-o wide` shows all.
const ROWS_MAX: usize = 50;
/// Between two looks of a watch.
const WATCH_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);
/// Nodes that one command reads; a fleet is smaller.
const NODES_MAX: usize = 1_000_000;

/// Arguments of `sealane fleet`.
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct FleetArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    command: FleetCommand,
}

#[derive(Debug, Subcommand)]
enum FleetCommand {
    /// Show agents, nodes, the rollout and alarms on one page
    #[command(before_help = STATUS_EXAMPLES)]
    Status {
        /// Show it again whenever it changes, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// List nodes
    #[command(before_help = NODES_EXAMPLES)]
    Nodes,
    /// Show one node
    #[command(before_help = NODE_EXAMPLES)]
    Node {
        /// Its id
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Keep a node out of new cohorts' first stages
    #[command(before_help = CORDON_EXAMPLES)]
    Cordon {
        /// Its id
        #[arg(value_name = "ID")]
        id: String,
        /// Lift it
        #[arg(long)]
        undo: bool,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Take a node out of service gracefully
    #[command(before_help = DRAIN_EXAMPLES)]
    Drain {
        /// Its id
        #[arg(value_name = "ID")]
        id: String,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Take back every certificate of an agent or proxy
    #[command(before_help = REVOKE_EXAMPLES)]
    Revoke {
        /// Its id
        #[arg(value_name = "ID")]
        id: String,
        /// agent or proxy, where both have that id
        #[arg(long, value_parser = ["agent", "proxy"])]
        role: Option<String>,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// Runs `sealane fleet`.
///
/// # Errors
/// As the exit table says.
pub async fn run(args: &FleetArgs, printer: &Printer) -> Result<(), Failure> {
    let server = args.client.connect(printer).await?;
    let format = args.output.output;
    match &args.command {
        FleetCommand::Status { watch: false } => status(&server, format, printer).await,
        FleetCommand::Status { watch: true } => watch(&server, format, printer).await,
        FleetCommand::Nodes => nodes(&server, format, printer).await,
        FleetCommand::Node { id } => {
            let node = find(&server, id).await?;
            printer.show(format, "Node", &node, || vec![node.id.clone()], |look| page(&node, look, clock::now()))
        }
        FleetCommand::Drain { id, dry_run } => drain(&server, id, *dry_run, format, printer).await,
        FleetCommand::Revoke { id, role, dry_run } => {
            revoke(&server, id, role.as_deref(), *dry_run, format, printer).await
        }
        FleetCommand::Cordon { id, undo, dry_run } => cordon(&server, id, !undo, *dry_run, format, printer).await,
    }
}

async fn status(server: &Server, format: Format, printer: &Printer) -> Result<(), Failure> {
    let fleet = server.call(server.fleet().get_fleet(v1::GetFleetRequest {})).await?;
    let names = || fleet.nodes.iter().map(|node| node.id.clone()).collect();
    printer.show(format, "GetFleetResponse", &fleet, names, |look| overview(&fleet, look, clock::now()))
}

/// The page again and again: in place on a terminal, one after the other elsewhere, one object a line as JSON.
async fn watch(server: &Server, format: Format, printer: &Printer) -> Result<(), Failure> {
    let started = tokio::time::Instant::now();
    let mut last = None;
    loop {
        let fleet = server.call(server.fleet().get_fleet(v1::GetFleetRequest {})).await?;
        let shown = overview(&fleet, printer.look(format), clock::now());
        let steady = without_ages(&fleet);
        if last.as_ref() != Some(&steady) {
            match format {
                Format::Json | Format::Yaml => {
                    printer.value_of_many(format, &sealane_proto::json::to_json("GetFleetResponse", &fleet))?;
                }
                Format::Name => {
                    printer.text(&fleet.nodes.iter().map(|node| node.id.clone() + "\n").collect::<String>())?;
                }
                Format::Human | Format::Wide if printer.is_live() => {
                    printer.text(&format!("\u{1b}[H\u{1b}[2J{shown}"))?
                }
                Format::Human | Format::Wide => printer.text(&format!("{shown}\n"))?,
            }
            last = Some(steady);
        }
        if server.time_limit.is_some_and(|limit| started.elapsed() >= limit) {
            return Ok(());
        }
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

/// What counts as a change: not when somebody was heard, nor how much traffic there was.
fn without_ages(fleet: &GetFleetResponse) -> GetFleetResponse {
    let mut fleet = fleet.clone();
    fleet.agents.iter_mut().for_each(|agent| agent.heard_at = None);
    for node in &mut fleet.nodes {
        (node.heard_at, node.requests, node.failed) = (None, 0, 0);
    }
    fleet
}

fn overview(fleet: &GetFleetResponse, look: Look, now: jiff::Timestamp) -> String {
    let mut out = String::new();
    let mut field = |name: &str, value: &str, paint: Paint| {
        out.push_str(&format!("{name:<11}{}\n", paint.apply(look.colour, &clean(value))));
    };
    field("fleet", &format!("{} (epoch {})", fleet.fleet_id, fleet.epoch), Paint::Plain);
    let newest = words::revision(fleet.revision_newest);
    field(
        "revision",
        &format!("{newest} newest, {} last good", words::revision(fleet.revision_last_good)),
        Paint::Plain,
    );
    match &fleet.rollout {
        None => field("rollout", "none under way", Paint::Quiet),
        Some(rollout) => {
            let mut line = format!("{} {}", words::revision(rollout.revision), words::state(rollout.state()));
            if !rollout.stage.is_empty() {
                line.push_str(&format!(" at stage {}", rollout.stage));
            }
            line.push_str(&format!(", {} of {} active", rollout.active, rollout.proxies));
            if !rollout.doing.is_empty() {
                line.push_str(&format!(": {}", rollout.doing));
            }
            field("rollout", &line, words::state_paint(rollout.state()));
        }
    }
    if let Some(last) = fleet.last_rollout.as_ref().filter(|last| !last.verdict_line.is_empty()) {
        let when = duration::ago(last.changed_at.as_ref(), now);
        field("last", &format!("{} ({when})", last.verdict_line), words::state_paint(last.state()));
    }
    let healthy = fleet.nodes.iter().filter(|node| node.health == "healthy").count();
    let connected = fleet.agents.iter().filter(|agent| agent.connected).count();
    field("agents", &format!("{connected} of {} connected", fleet.agents.len()), Paint::Plain);
    field("nodes", &format!("{healthy} of {} healthy", fleet.nodes.len()), Paint::Plain);
    for alarm in &fleet.alarms {
        field("alarm", alarm, Paint::Bad);
    }
    // What is under way goes before what is over.
    if let Some(next) = fleet.rollout.as_ref().or(fleet.last_rollout.as_ref()).and_then(words::next_step) {
        field("next", &next, Paint::Plain);
    }
    if !fleet.agents.is_empty() {
        let mut table = Table::new(["AGENT", "REGION", "STATE", "HEARD", "PROXIES", "FLOOR", "BUILD"]);
        let (agents, left_out) = first_rows(&fleet.agents, look, |agent| agent.connected && agent.alarm.is_empty());
        for agent in agents {
            let connected = match agent.connected {
                true => Cell::painted("connected", Paint::Good),
                false => Cell::painted("away", Paint::Bad),
            };
            table.row([
                (&agent.id).into(),
                (&agent.region).into(),
                connected,
                duration::ago(agent.heard_at.as_ref(), now).into(),
                agent.proxies.to_string().into(),
                words::revision(agent.revision_floor).into(),
                (&agent.build).into(),
            ]);
        }
        out.push('\n');
        out.push_str(&table.render(look.colour));
        out.push_str(&and_more(left_out, "agents", "sealane fleet status -o wide"));
    }
    if !fleet.nodes.is_empty() {
        let (nodes, left_out) = first_rows(&fleet.nodes, look, |node| node.health == "healthy");
        out.push('\n');
        out.push_str(&node_table(nodes, look, now));
        out.push_str(&and_more(left_out, "nodes", "sealane fleet nodes"));
    }
    out
}

/// Those that want a look first, as many as a page holds, and how many are left out.
fn first_rows<T>(all: &[T], look: Look, is_fine: impl Fn(&T) -> bool) -> (Vec<&T>, usize) {
    if look.wide || all.len() <= ROWS_MAX {
        return (all.iter().collect(), 0);
    }
    let (fine, bad): (Vec<&T>, Vec<&T>) = all.iter().partition(|one| is_fine(one));
    (bad.into_iter().chain(fine).take(ROWS_MAX).collect(), all.len() - ROWS_MAX)
}

fn and_more(left_out: usize, what: &str, command: &str) -> String {
    if left_out == 0 { String::new() } else { format!("and {left_out} more {what}: `{command}` lists them\n") }
}

async fn nodes(server: &Server, format: Format, printer: &Printer) -> Result<(), Failure> {
    let all = v1::ListNodesResponse { nodes: every_node(server).await?, next_page_token: String::new() };
    let names = || all.nodes.iter().map(|node| node.id.clone()).collect();
    printer.show(format, "ListNodesResponse", &all, names, |look| match all.nodes.is_empty() {
        true => "no nodes yet\n".into(),
        false => node_table(&all.nodes, look, clock::now()),
    })
}

async fn every_node(server: &Server) -> Result<Vec<Node>, Failure> {
    let mut nodes = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListNodesRequest { page_size: PAGE_MAX, page_token };
        let page = server.call(server.fleet().list_nodes(request)).await?;
        let empty = page.nodes.is_empty();
        nodes.extend(page.nodes);
        page_token = page.next_page_token;
        if page_token.is_empty() || empty || nodes.len() >= NODES_MAX {
            return Ok(nodes);
        }
    }
}

async fn find(server: &Server, id: &str) -> Result<Node, Failure> {
    every_node(server).await?.into_iter().find(|node| node.id == id).ok_or_else(|| {
        Failure::new(Exit::NotFound, format!("no node `{id}`")).hint("`sealane fleet nodes -o name` lists them")
    })
}

async fn drain(server: &Server, id: &str, dry_run: bool, format: Format, printer: &Printer) -> Result<(), Failure> {
    let request = v1::FleetServiceDrainRequest { node: id.to_owned(), timeout: None, dry_run };
    let answer = server.call(server.fleet().drain(request)).await?;
    let word = match (dry_run, answer.connections) {
        (true, _) => "would be drained".to_owned(),
        (false, 1) => "is draining 1 connection".to_owned(),
        (false, connections) => format!("is draining {connections} connections"),
    };
    let line = format!("{} {word}\n", clean(id));
    printer.show(format, "FleetServiceDrainResponse", &answer, || vec![id.to_owned()], |_| line)
}

async fn revoke(
    server: &Server,
    id: &str,
    role: Option<&str>,
    dry_run: bool,
    format: Format,
    printer: &Printer,
) -> Result<(), Failure> {
    let role = role.unwrap_or_default().to_owned();
    let request = v1::FleetServiceRevokeRequest { node: id.to_owned(), role, dry_run };
    let answer = server.call(server.fleet().revoke(request)).await?;
    printer.show(
        format,
        "FleetServiceRevokeResponse",
        &answer,
        || vec![id.to_owned()],
        |_| revoked(id, &answer, dry_run),
    )
}

/// What was taken back, and what would still let somebody in.
fn revoked(id: &str, answer: &v1::FleetServiceRevokeResponse, dry_run: bool) -> String {
    let (id, role) = (clean(id), clean(&answer.role));
    let mut out = match (answer.certificates, dry_run) {
        (0, _) => format!("{role} {id}: its certificates were revoked before\n"),
        (count, true) => format!("{role} {id}: {count} of its certificates would be revoked\n"),
        (count, false) => format!("{role} {id}: {count} of its certificates revoked, nobody accepts them any more\n"),
    };
    if !answer.tokens.is_empty() {
        out += &format!("with these tokens somebody can still enrol as {role} in {}:\n", clean(&answer.region));
        for token in &answer.tokens {
            out += &format!("  sealane token revoke {}   {}\n", clean(&token.id), clean(&token.comment));
        }
    }
    out
}

async fn cordon(
    server: &Server,
    id: &str,
    cordoned: bool,
    dry_run: bool,
    format: Format,
    printer: &Printer,
) -> Result<(), Failure> {
    let (node, word) = if dry_run {
        (find(server, id).await?, if cordoned { "would be cordoned" } else { "would take part again" })
    } else {
        let request = v1::FleetServiceCordonRequest { node: id.to_owned(), cordoned };
        let answer = server.call(server.fleet().cordon(request)).await?;
        let node = answer.node.ok_or_else(|| incomplete("node"))?;
        let word = if node.cordoned { "is cordoned: not in a first stage" } else { "takes part again" };
        (node, word)
    };
    let line = format!("{} {word}\n", clean(&node.id));
    printer.show(format, "Node", &node, || vec![node.id.clone()], |_| line)
}

fn node_table<'n>(nodes: impl IntoIterator<Item = &'n Node>, look: Look, now: jiff::Timestamp) -> String {
    let mut table = Table::new(["NODE", "REGION", "HEALTH", "REVISION", "PREPARED", "HEARD", "AGENT"]);
    if look.wide {
        for column in ["LAST GOOD", "ADDRESS", "REQUESTS", "FAILED", "REFUSED", "BUILD"] {
            table.column(column);
        }
    }
    for node in nodes {
        let mut cells: Vec<Cell> = vec![
            (&node.id).into(),
            (&node.region).into(),
            health(node),
            words::revision(node.revision).into(),
            words::revision(node.prepared).into(),
            duration::ago(node.heard_at.as_ref(), now).into(),
            (&node.agent).into(),
        ];
        if look.wide {
            cells.extend([
                words::revision(node.last_good).into(),
                (&node.data_address).into(),
                node.requests.to_string().into(),
                node.failed.to_string().into(),
                node.refused_bundles.to_string().into(),
                (&node.build).into(),
            ]);
        }
        table.row(cells);
    }
    table.render(look.colour)
}

fn health(node: &Node) -> Cell {
    let paint = match node.health.as_str() {
        "healthy" => Paint::Good,
        "draining" | "drift" => Paint::Careful,
        _ => Paint::Bad,
    };
    let word = node.health.replace('_', " ");
    if node.cordoned {
        Cell::painted(&format!("{word}, cordoned"), Paint::Careful)
    } else {
        Cell::painted(&word, paint)
    }
}

fn page(node: &Node, look: Look, now: jiff::Timestamp) -> String {
    let mut out = format!("{}\n", Paint::Strong.apply(look.colour, &clean(&node.id)));
    let mut field = |name: &str, value: &str| {
        if !value.is_empty() {
            out.push_str(&format!("  {:<12}{}\n", format!("{name}:"), clean(value)));
        }
    };
    let cordoned = if node.cordoned { ", cordoned" } else { "" };
    field("health", &format!("{}{cordoned}", node.health.replace('_', " ")));
    field("heard", &duration::ago(node.heard_at.as_ref(), now));
    field("revision", &words::revision(node.revision));
    field("prepared", &words::revision(node.prepared));
    field("last good", &words::revision(node.last_good));
    field("region", &node.region);
    field("agent", &node.agent);
    field("address", &node.data_address);
    field("requests", &format!("{}, of which {} failed", node.requests, node.failed));
    if node.refused_bundles > 0 {
        field("refused", &format!("{} bundles", node.refused_bundles));
    }
    field("build", &node.build);
    for problem in &node.problems {
        let place =
            if problem.line > 0 { format!("{} line {}", problem.path, problem.line) } else { problem.path.clone() };
        field("problem", &format!("{place}: {}", problem.message));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_page_says_what_runs_where() {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let node = |id: &str, health: &str| Node {
            id: id.into(),
            agent: "agent-eu".into(),
            region: "eu".into(),
            revision: 41,
            prepared: 42,
            health: health.into(),
            heard_at: at(999),
            ..Default::default()
        };
        let fleet = GetFleetResponse {
            fleet_id: "demo".into(),
            epoch: 1,
            revision_newest: 42,
            revision_last_good: 41,
            agents: vec![v1::Agent {
                id: "agent-eu".into(),
                region: "eu".into(),
                connected: true,
                heard_at: at(1_000),
                proxies: 2,
                revision_floor: 41,
                build: "0.1.0".into(),
                ..Default::default()
            }],
            nodes: vec![node("edge-1", "healthy"), Node { cordoned: true, ..node("edge-2", "not_ready") }],
            rollout: None,
            alarms: vec!["edge-2 has not been ready for 40s".into()],
            last_rollout: None,
        };
        let now = jiff::Timestamp::new(1_000, 0).unwrap();
        insta::assert_snapshot!(overview(&fleet, Look { colour: false, wide: false }, now));
    }

    #[test]
    fn the_page_of_a_large_fleet_is_short_and_begins_with_what_is_wrong() {
        let node = |number: usize| Node {
            id: format!("edge-{number}"),
            health: if number == 9_000 { "silent".into() } else { "healthy".into() },
            ..Default::default()
        };
        let fleet = GetFleetResponse { nodes: (0..10_000).map(node).collect(), ..Default::default() };
        let page = |wide| overview(&fleet, Look { colour: false, wide }, jiff::Timestamp::UNIX_EPOCH);
        let short = page(false);
        assert!(short.lines().count() < ROWS_MAX + 10, "{short}");
        assert!(short.find("edge-9000").unwrap() < short.find("edge-0 ").unwrap(), "{short}");
        assert!(short.ends_with("and 9950 more nodes: `sealane fleet nodes` lists them\n"), "{short}");
        assert!(page(true).lines().count() > 10_000);
    }
}
