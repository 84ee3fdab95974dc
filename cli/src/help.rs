//! `sealane help`: the help of a command, or the page of a problem's code. Offline, from the model's own table.

use clap::Args;
use sealane_model::codes;

use crate::args;
use crate::exit::{Exit, Failure};
use crate::printer::Printer;

const EXAMPLES: &str = "\
Examples:
  sealane help publish             the help of a command
  sealane help missing_reference   what a problem's code means and how to mend it
  sealane help codes               every code, one a line";

/// Arguments of `sealane help`.
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES)]
pub struct HelpArgs {
    /// A command, a code such as `unknown_key`, or `codes`
    #[arg(value_name = "TOPIC")]
    topic: Vec<String>,
}

/// Runs `sealane help`.
///
/// # Errors
/// [`Exit::NotFound`] for a topic that does not exist.
pub fn run(args: &HelpArgs, printer: &Printer) -> Result<(), Failure> {
    let mut command = args::command();
    // Built, so that a subcommand knows its whole name.
    command.build();
    let mut found = &mut command;
    for (index, word) in args.topic.iter().enumerate() {
        if found.find_subcommand(word).is_none() {
            return match (index, args.topic.len()) {
                (0, 1) => code(word, printer),
                _ => Err(unknown(&args.topic.join(" "))),
            };
        }
        found = found.find_subcommand_mut(word).expect("just found");
    }
    printer.text(&found.render_help().to_string())
}

fn code(word: &str, printer: &Printer) -> Result<(), Failure> {
    if word == "codes" {
        let width = codes::CODES.iter().map(|row| row.code.len()).max().unwrap_or(0);
        let problems = codes::CODES.iter().map(|row| (row.code, row.means));
        let refused = codes::REFUSALS.iter().map(|row| (row.code, row.means));
        let lines = problems.chain(refused).map(|(code, means)| format!("{code:width$}  {means}\n"));
        return printer.text(&lines.collect::<String>());
    }
    // As it stands in a problem: `error[unknown_key]`.
    let name = word.trim_start_matches("error").trim_start_matches("warning").trim_matches(['[', ']', '`']);
    let name = name.to_ascii_lowercase().replace('-', "_");
    let problem = codes::find(&name).map(codes::Code::page);
    let refused = codes::find_refusal(&name).map(|row| row.page());
    match problem.into_iter().chain(refused).collect::<Vec<_>>() {
        pages if pages.is_empty() => Err(unknown(word)),
        pages => printer.text(&pages.join("\n")),
    }
}

fn unknown(topic: &str) -> Failure {
    let failure = Failure::new(Exit::NotFound, format!("there is no command and no code `{topic}`"));
    match codes::nearest(topic) {
        Some(near) => failure.hint(format!("did you mean `sealane help {near}`?")),
        None => failure.hint("`sealane help` lists the commands, `sealane help codes` the codes"),
    }
}
