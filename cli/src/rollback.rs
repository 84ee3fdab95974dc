//! `sealane rollback`: earlier content as a new revision, straight to every proxy. History is not rewritten.

use clap::Args;
use sealane_proto::v1;

use crate::args::{Format, OutputArgs};
use crate::client::{ClientArgs, incomplete};
use crate::exit::Failure;
use crate::printer::Printer;
use crate::rollout::{Follow, follow};
use crate::words;

const EXAMPLES: &str = "\
Examples:
  sealane rollback --watch              to the last good revision before the newest
  sealane rollback --to r40 -m 'r41 leaks' --watch
  sealane rollback --dry-run            say which one it would be";

/// Arguments of `sealane rollback`.
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES)]
pub struct RollbackArgs {
    /// Whose content, such as r40 [default: the last good revision before the newest]
    #[arg(long, value_name = "REV", value_parser = words::parse_revision)]
    to: Option<u64>,
    /// Why; kept with the revision
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    message: String,
    /// Follow it to its verdict
    #[arg(long)]
    watch: bool,
    /// Say what would happen, change nothing
    #[arg(long, conflicts_with = "watch")]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs `sealane rollback`.
///
/// # Errors
/// As the exit table says.
pub async fn run(args: &RollbackArgs, printer: &Printer) -> Result<(), Failure> {
    let server = args.client.connect(printer).await?;
    let format = args.output.output;
    let request = v1::RollbackRequest {
        to: args.to.unwrap_or(0),
        message: args.message.clone(),
        request_id: words::request_id()?,
        dry_run: args.dry_run,
    };
    let answer = server.call(server.config().rollback(request)).await?;
    let revision = answer.revision.ok_or_else(|| incomplete("revision"))?;
    let name = words::revision(revision.revision);
    let content = match revision.content_of {
        0 => String::new(),
        content_of => format!(" with the content of r{content_of}"),
    };
    if args.watch {
        if matches!(format, Format::Human | Format::Wide) {
            printer.talk(&format!("published {name}{content}"));
        }
        let wanted = Follow { revision: revision.revision, text: None, hold_is_done: false };
        return follow(&server, wanted, format, printer).await;
    }
    let line = match args.dry_run {
        true => format!("{name} would be published{content}"),
        false => format!("published {name}{content}"),
    };
    printer.show(format, "Revision", &revision, || vec![name.clone()], |_| line + "\n")?;
    if !args.dry_run && matches!(format, Format::Human | Format::Wide) {
        printer.hint(&format!("`sealane rollout watch {name}` follows it to its verdict"));
    }
    Ok(())
}
