//! `sealane completion` and `sealane man`: written from the command line's own definition, so that they cannot differ.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

use crate::args;
use crate::exit::{Exit, Failure};
use crate::printer::Printer;

const COMPLETION_EXAMPLES: &str = "\
Examples:
  sealane completion bash > /etc/bash_completion.d/sealane
  sealane completion zsh > \"${fpath[1]}/_sealane\"
  sealane completion fish > ~/.config/fish/completions/sealane.fish";

const MAN_EXAMPLES: &str = "\
Examples:
  sealane man | man -l -
  sealane man --out /usr/local/share/man/man1   one page for each command";

/// Arguments of `sealane completion`.
#[derive(Debug, Args)]
#[command(before_help = COMPLETION_EXAMPLES)]
pub struct CompletionArgs {
    /// Whose script
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

/// Arguments of `sealane man`.
#[derive(Debug, Args)]
#[command(before_help = MAN_EXAMPLES)]
pub struct ManArgs {
    /// Write a page for each command there
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Runs `sealane completion`.
///
/// # Errors
/// When stdout cannot be written.
pub fn completion(args: &CompletionArgs, printer: &Printer) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut args::command(), "sealane", &mut script);
    printer.bytes(&script)
}

/// Runs `sealane man`.
///
/// # Errors
/// When stdout or the directory cannot be written.
pub fn man(args: &ManArgs, printer: &Printer) -> Result<(), Failure> {
    match &args.out {
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(with_examples(args::command()))
                .render(&mut page)
                .map_err(|error| Failure::new(Exit::Failed, "cannot write the manual page").because(error))?;
            printer.bytes(&page)
        }
        Some(folder) => {
            let refused =
                |error| Failure::new(Exit::Failed, format!("cannot write to `{}`", folder.display())).because(error);
            std::fs::create_dir_all(folder).map_err(refused)?;
            clap_mangen::generate_to(with_examples(args::command()), folder).map_err(refused)?;
            printer.talk(&format!("wrote the manual pages to {}", folder.display()));
            Ok(())
        }
    }
}

/// A manual page has its examples at the end, and the exit codes.
fn with_examples(command: clap::Command) -> clap::Command {
    let examples = command.get_before_help().map(ToString::to_string).unwrap_or_default();
    let codes: String = Exit::MEANINGS.iter().map(|(exit, means)| format!("  {:<3} {means}\n", *exit as u8)).collect();
    command.after_help(format!("{examples}\n\nExit codes:\n{codes}")).mut_subcommands(with_examples)
}
