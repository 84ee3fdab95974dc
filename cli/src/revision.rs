//! `sealane revision`: read what was published.

use clap::{Args, Subcommand};
use sealane_proto::v1;
use sealane_proto::v1::Revision;

use crate::args::{Format, OutputArgs};
use crate::client::{ClientArgs, Server, incomplete};
use crate::exit::Failure;
use crate::paint::{Paint, clean};
use crate::printer::{Look, Printer};
use crate::table::{Cell, Table};
use crate::{clock, duration, words};

const EXAMPLES: &str = "\
Examples:
  sealane revision list
  sealane revision show r41
  sealane revision show r41 --config > fleet.yaml   the text as it was published
  sealane revision diff r40 r41";

const LIST_EXAMPLES: &str = "\
Examples:
  sealane revision list
  sealane revision list --limit 5 -o json";

const SHOW_EXAMPLES: &str = "\
Examples:
  sealane revision show                             the newest
  sealane revision show r41 --config > fleet.yaml   the text as it was published";

const DIFF_EXAMPLES: &str = "\
Examples:
  sealane revision diff r40 r41";

/// Revisions shown unless asked otherwise.
const LIST_DEFAULT: u32 = 20;
/// The authority's largest page.
const PAGE_MAX: u32 = 1000;

/// Arguments of `sealane revision`.
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct RevisionArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    command: RevisionCommand,
}

#[derive(Debug, Subcommand)]
enum RevisionCommand {
    /// List revisions, newest first
    #[command(before_help = LIST_EXAMPLES)]
    List {
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = LIST_DEFAULT, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show a revision
    #[command(before_help = SHOW_EXAMPLES)]
    Show {
        /// Such as r42 [default: the newest]
        #[arg(value_name = "REV", value_parser = words::parse_revision)]
        revision: Option<u64>,
        /// Print the config's text, as it was published
        #[arg(long)]
        config: bool,
    },
    /// Show what changed between two revisions
    #[command(before_help = DIFF_EXAMPLES)]
    Diff {
        /// The older
        #[arg(value_name = "A", value_parser = words::parse_revision)]
        from: u64,
        /// The newer
        #[arg(value_name = "B", value_parser = words::parse_revision)]
        to: u64,
    },
}

/// Runs `sealane revision`.
///
/// # Errors
/// As the exit table says.
pub async fn run(args: &RevisionArgs, printer: &Printer) -> Result<(), Failure> {
    let server = args.client.connect(printer).await?;
    let format = args.output.output;
    match &args.command {
        RevisionCommand::List { limit } => list(&server, *limit, format, printer).await,
        RevisionCommand::Show { revision, config } => {
            show(&server, revision.unwrap_or(0), *config, format, printer).await
        }
        RevisionCommand::Diff { from, to } => diff(&server, *from, *to, format, printer).await,
    }
}

async fn list(server: &Server, limit: u32, format: Format, printer: &Printer) -> Result<(), Failure> {
    let mut all = v1::ListRevisionsResponse::default();
    loop {
        let missing = limit - u32::try_from(all.revisions.len()).unwrap_or(u32::MAX).min(limit);
        let request =
            v1::ListRevisionsRequest { page_size: missing.min(PAGE_MAX), page_token: all.next_page_token.clone() };
        let page = server.call(server.config().list_revisions(request)).await?;
        let empty = page.revisions.is_empty();
        all.revisions.extend(page.revisions);
        all.etag = page.etag;
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() || empty || all.revisions.len() >= limit as usize {
            break;
        }
    }
    all.revisions.truncate(limit as usize);
    let names = || all.revisions.iter().map(name).collect();
    printer.show(format, "ListRevisionsResponse", &all, names, |look| {
        if all.revisions.is_empty() {
            return "no revisions yet\n".into();
        }
        let mut table = Table::new(["REVISION", "STATE", "CREATED", "AUTHOR", "MESSAGE"]);
        if look.wide {
            for column in ["CLASS", "DIGEST", "BYTES", "FILE", "CREATED AT"] {
                table.column(column);
            }
        }
        let now = clock::now();
        for revision in &all.revisions {
            let mut cells: Vec<Cell> = vec![
                name(revision).into(),
                state(revision),
                duration::ago(revision.created_at.as_ref(), now).into(),
                (&revision.author).into(),
                (&revision.message).into(),
            ];
            if look.wide {
                cells.extend([
                    words::class(revision.change_class()).into(),
                    revision.digest.get(..12).unwrap_or(&revision.digest).into(),
                    revision.config_bytes.to_string().into(),
                    (&revision.file).into(),
                    duration::instant(revision.created_at.as_ref()).into(),
                ]);
            }
            table.row(cells);
        }
        table.render(look.colour)
    })
}

async fn show(server: &Server, revision: u64, config: bool, format: Format, printer: &Printer) -> Result<(), Failure> {
    let request = v1::GetRevisionRequest { revision, with_config: config };
    let answer = server.call(server.config().get_revision(request)).await?;
    let etag = answer.etag;
    let revision = answer.revision.ok_or_else(|| incomplete("revision"))?;
    if config && matches!(format, Format::Human | Format::Wide) {
        // Byte for byte, so that it can be published again.
        return printer.text(&revision.config_yaml);
    }
    printer.show(format, "Revision", &revision, || vec![name(&revision)], |look| page(&revision, &etag, look))
}

fn page(revision: &Revision, etag: &str, look: Look) -> String {
    let mut out = format!("{}\n", Paint::Strong.apply(look.colour, &name(revision)));
    let mut field = |name: &str, value: &str| {
        if !value.is_empty() {
            out.push_str(&format!("  {:<13}{}\n", format!("{name}:"), clean(value)));
        }
    };
    field("state", &revision.state.replace('_', " "));
    field("message", &revision.message);
    field("author", &revision.author);
    let created = duration::instant(revision.created_at.as_ref());
    field("created", &format!("{created} ({})", duration::ago(revision.created_at.as_ref(), clock::now())));
    field("class", &words::class(revision.change_class()));
    if revision.content_of > 0 {
        field("content of", &words::revision(revision.content_of));
    }
    field("file", &format!("{} ({} bytes)", revision.file, revision.config_bytes));
    field("digest", &revision.digest);
    field("base digest", &revision.base_digest);
    field("epoch", &revision.epoch.to_string());
    field("etag", etag);
    if let Some(plan) = &revision.plan {
        let stages = plan.stages.iter().map(|stage| {
            let bake = duration::show(std::time::Duration::from_millis(stage.bake_ms));
            format!("{} {}% {bake}", stage.name, words::short(stage.fleet_percent))
        });
        field("stages", &stages.collect::<Vec<_>>().join(", "));
        let gates =
            plan.gates.iter().map(|gate| format!("{} {}", gate.metric, words::limit(&gate.metric, gate.threshold)));
        field("gates", &gates.collect::<Vec<_>>().join(", "));
    }
    out
}

async fn diff(server: &Server, from: u64, to: u64, format: Format, printer: &Printer) -> Result<(), Failure> {
    let answer = server.call(server.config().diff_revisions(v1::DiffRevisionsRequest { from, to })).await?;
    let names = || vec![words::revision(from), words::revision(to)];
    if answer.diff.is_empty() && matches!(format, Format::Human | Format::Wide) {
        printer.talk(&format!("r{from} and r{to} have the same content"));
        return Ok(());
    }
    printer.show(format, "DiffRevisionsResponse", &answer, names, |look| {
        if !look.colour {
            return answer.diff.clone();
        }
        answer.diff.lines().map(|line| diff_paint(line).apply(true, &clean(line)) + "\n").collect()
    })
}

fn diff_paint(line: &str) -> Paint {
    match line.as_bytes() {
        [b'+', b'+', b'+', ..] | [b'-', b'-', b'-', ..] => Paint::Strong,
        [b'+', ..] => Paint::Good,
        [b'-', ..] => Paint::Bad,
        [b'@', ..] => Paint::Quiet,
        _ => Paint::Plain,
    }
}

fn name(revision: &Revision) -> String {
    words::revision(revision.revision)
}

fn state(revision: &Revision) -> Cell {
    let paint = match revision.state.as_str() {
        "completed" => Paint::Good,
        "rejected" | "aborted" => Paint::Bad,
        state if state.starts_with("roll") => Paint::Bad,
        "held" | "paused" | "superseded" => Paint::Careful,
        _ => Paint::Plain,
    };
    Cell::painted(&revision.state.replace('_', " "), paint)
}
