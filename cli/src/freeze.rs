//! `sealane freeze`: times in which no change widens. A roll back never asks.

use std::time::Duration;

use clap::{Args, Subcommand};
use sealane_proto::v1;

use crate::args::OutputArgs;
use crate::client::{ClientArgs, incomplete};
use crate::exit::Failure;
use crate::paint::clean;
use crate::printer::Printer;
use crate::table::{Cell, Table};
use crate::{clock, duration};

const EXAMPLES: &str = "\
Examples:
  sealane freeze add --for 12h -m 'sale day'     nothing widens; roll backs go on
  sealane freeze list
  sealane freeze rm f3
  sealane publish fix.yaml -m 'incident 12' --override-freeze";

const ADD_EXAMPLES: &str = "\
Examples:
  sealane freeze add --for 12h -m 'sale day'
  sealane freeze add --in 48h --for 12h -m 'sale day'";

const LIST_EXAMPLES: &str = "\
Examples:
  sealane freeze list -o json";

const REMOVE_EXAMPLES: &str = "\
Examples:
  sealane freeze rm f3";

/// Arguments of `sealane freeze`.
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct FreezeArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    command: FreezeCommand,
}

#[derive(Debug, Subcommand)]
enum FreezeCommand {
    /// Let nothing widen for a while
    #[command(before_help = ADD_EXAMPLES)]
    Add {
        /// How long
        #[arg(long = "for", value_name = "DURATION", value_parser = duration::parse)]
        length: Duration,
        /// When it begins, from now [default: now]
        #[arg(long = "in", value_name = "DURATION", value_parser = duration::parse, default_value = "0s", hide_default_value = true)]
        after: Duration,
        /// Why; people who wait read it
        #[arg(short, long, value_name = "TEXT")]
        message: String,
    },
    /// List those that hold now or later
    #[command(before_help = LIST_EXAMPLES)]
    List,
    /// Lift one
    #[command(before_help = REMOVE_EXAMPLES)]
    Rm {
        /// Its id, as `freeze list` shows it
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// Runs `sealane freeze`.
///
/// # Errors
/// As the exit table says.
pub async fn run(args: &FreezeArgs, printer: &Printer) -> Result<(), Failure> {
    let server = args.client.connect(printer).await?;
    let format = args.output.output;
    match &args.command {
        FreezeCommand::Add { length, after, message } => {
            let at = |later: Duration| {
                let at = clock::now().checked_add(later).ok()?;
                Some(prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() })
            };
            let until = at(after.saturating_add(*length)).ok_or_else(|| Failure::usage("--for is too long"))?;
            let from = at(*after).filter(|_| !after.is_zero());
            let request = v1::AddFreezeRequest { from, until: Some(until), reason: message.clone() };
            let answer = server.call(server.rollout().add_freeze(request)).await?;
            let freeze = answer.freeze.ok_or_else(|| incomplete("freeze"))?;
            let until = duration::instant(freeze.until.as_ref());
            let line = format!("{}: nothing widens until {until}; roll backs go on\n", clean(&freeze.id));
            printer.show(format, "Freeze", &freeze, || vec![freeze.id.clone()], |_| line)
        }
        FreezeCommand::List => {
            let all = server.call(server.rollout().list_freezes(v1::ListFreezesRequest {})).await?;
            let names = || all.freezes.iter().map(|freeze| freeze.id.clone()).collect();
            printer.show(format, "ListFreezesResponse", &all, names, |look| {
                if all.freezes.is_empty() {
                    return "no freezes\n".into();
                }
                let mut table = Table::new(["ID", "FROM", "UNTIL", "NOW", "BY", "REASON"]);
                for freeze in &all.freezes {
                    let cells: [Cell; 6] = [
                        (&freeze.id).into(),
                        duration::instant(freeze.from.as_ref()).into(),
                        duration::instant(freeze.until.as_ref()).into(),
                        if freeze.active { "frozen".to_owned() } else { String::new() }.into(),
                        (&freeze.actor).into(),
                        (&freeze.reason).into(),
                    ];
                    table.row(cells);
                }
                table.render(look.colour)
            })
        }
        FreezeCommand::Rm { id } => {
            let answer =
                server.call(server.rollout().remove_freeze(v1::RemoveFreezeRequest { id: id.clone() })).await?;
            let line = format!("{} is lifted\n", clean(id));
            printer.show(format, "RemoveFreezeResponse", &answer, || vec![id.clone()], |_| line)
        }
    }
}
