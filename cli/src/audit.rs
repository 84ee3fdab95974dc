//! `sealane audit`: the hash-chained record of every change.

use clap::{Args, Subcommand};
use sealane_proto::v1;

use crate::args::{Format, OutputArgs};
use crate::client::{ClientArgs, Server};
use crate::duration;
use crate::exit::{Exit, Failure};
use crate::printer::Printer;
use crate::table::Table;

const EXAMPLES: &str = "\
Examples:
  sealane audit list
  sealane audit list -o json | jq -r '.entries[].action'
  sealane audit verify             check that nothing was edited or removed";

const LIST_EXAMPLES: &str = "\
Examples:
  sealane audit list
  sealane audit list --limit 1000 -o json";

const VERIFY_EXAMPLES: &str = "\
Examples:
  sealane audit verify";

/// Entries shown unless asked otherwise.
const LIST_DEFAULT: u32 = 100;
/// The authority's largest page.
const PAGE_MAX: u32 = 1000;

/// Arguments of `sealane audit`.
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct AuditArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// List entries, oldest first
    #[command(before_help = LIST_EXAMPLES)]
    List {
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = LIST_DEFAULT, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Check the chain
    #[command(before_help = VERIFY_EXAMPLES)]
    Verify,
}

/// Runs `sealane audit`.
///
/// # Errors
/// As the exit table says; a broken chain is [`Exit::Failed`].
pub async fn run(args: &AuditArgs, printer: &Printer) -> Result<(), Failure> {
    let server = args.client.connect(printer).await?;
    let format = args.output.output;
    match &args.command {
        AuditCommand::List { limit } => list(&server, *limit, format, printer).await,
        AuditCommand::Verify => verify(&server, format, printer).await,
    }
}

async fn list(server: &Server, limit: u32, format: Format, printer: &Printer) -> Result<(), Failure> {
    let mut all = v1::ListAuditResponse::default();
    loop {
        let missing = limit - u32::try_from(all.entries.len()).unwrap_or(u32::MAX).min(limit);
        let request =
            v1::ListAuditRequest { page_size: missing.min(PAGE_MAX), page_token: all.next_page_token.clone() };
        let page = server.call(server.audit().list_audit(request)).await?;
        let empty = page.entries.is_empty();
        all.entries.extend(page.entries);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() || empty || all.entries.len() >= limit as usize {
            break;
        }
    }
    all.entries.truncate(limit as usize);
    let names = || all.entries.iter().map(|entry| entry.sequence.to_string()).collect();
    printer.show(format, "ListAuditResponse", &all, names, |look| {
        let mut table = Table::new(["SEQUENCE", "AT", "ACTOR", "ACTION", "SUBJECT"]);
        if look.wide {
            for column in ["DIGEST", "HASH", "DETAIL"] {
                table.column(column);
            }
        }
        for entry in &all.entries {
            let mut cells = vec![
                entry.sequence.to_string().into(),
                duration::instant(entry.at.as_ref()).into(),
                (&entry.actor).into(),
                (&entry.action).into(),
                (&entry.subject).into(),
            ];
            if look.wide {
                let start = |text: &str| text.get(..12).unwrap_or(text).to_owned();
                cells.extend([start(&entry.digest).into(), start(&entry.hash).into(), (&entry.detail).into()]);
            }
            table.row(cells);
        }
        table.render(look.colour)
    })?;
    if !all.next_page_token.is_empty() && matches!(format, Format::Human | Format::Wide) {
        printer.talk(&format!("there are more than {limit}; --limit N shows more"));
    }
    Ok(())
}

async fn verify(server: &Server, format: Format, printer: &Printer) -> Result<(), Failure> {
    let answer = server.call(server.audit().verify_audit(v1::VerifyAuditRequest {})).await?;
    let word = if answer.intact { "intact" } else { "broken" };
    printer.show(
        format,
        "VerifyAuditResponse",
        &answer,
        || vec![word.into()],
        |_| match answer.intact {
            true => format!("intact: {} entries, head {}\n", answer.entries, crate::paint::clean(&answer.head)),
            false => format!("broken at entry {} of {}\n", answer.broken_at, answer.entries),
        },
    )?;
    match answer.intact {
        true => Ok(()),
        false => Err(Failure::new(Exit::Failed, "the audit record does not follow from itself: it was edited")
            .hint(format!("entry {} is the first that does not follow; compare with a backup", answer.broken_at))),
    }
}
