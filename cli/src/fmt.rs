//! `sealane fmt`: one layout for config files. Meaning, comments and order stay.

use std::path::PathBuf;

use clap::Args;
use sealane_model::parse::format::format;

use crate::exit::{Exit, Failure};
use crate::printer::Printer;
use crate::problems::{self, Source};

const EXAMPLES: &str = "\
Examples:
  sealane fmt fleet.yaml            rewrite the file
  sealane fmt --check fleet.yaml    exit 1 if it would change, for CI
  sealane fmt - < fleet.yaml        to stdout";

/// Arguments of `sealane fmt`.
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES)]
pub struct FmtArgs {
    /// Config files; `-` is stdin, printed to stdout
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Change nothing, fail if something would change
    #[arg(long, visible_alias = "dry-run")]
    check: bool,
}

/// Runs `sealane fmt`.
///
/// # Errors
/// [`Exit::Invalid`] for what is no YAML or JSON; [`Exit::Failed`] under `--check` when a file would change.
pub fn run(args: &FmtArgs, printer: &Printer) -> Result<(), Failure> {
    let mut would_change = 0;
    for file in &args.files {
        let source = Source::read(file)?;
        let formatted = format(&source.shown, &source.text).map_err(|found| {
            printer.talk_text(&problems::pictures(&found, &source.text, printer.talks_in_colour()));
            Failure::new(Exit::Invalid, format!("{} was not changed", source.shown))
        })?;
        if args.check {
            if formatted != source.text {
                would_change += 1;
                printer.data(&source.shown)?;
            }
        } else if file.as_os_str() == "-" {
            printer.text(&formatted)?;
        } else if formatted != source.text {
            write(file, &formatted)?;
            printer.talk(&format!("changed {}", source.shown));
        }
    }
    if would_change > 0 {
        return Err(Failure::new(Exit::Failed, "not in the common layout").hint("`sealane fmt FILE` puts it right"));
    }
    Ok(())
}

/// Beside the file, then in its place, so that nobody reads half of it.
fn write(file: &std::path::Path, text: &str) -> Result<(), Failure> {
    let refused = |error| Failure::new(Exit::Failed, format!("cannot write `{}`", file.display())).because(error);
    // A link stays a link: what it leads to is replaced.
    let target = std::fs::canonicalize(file).map_err(refused)?;
    let folder = target.parent().unwrap_or_else(|| std::path::Path::new("."));
    let permissions = std::fs::metadata(&target).map_err(refused)?.permissions();
    let mut beside = tempfile::NamedTempFile::new_in(folder).map_err(refused)?;
    std::io::Write::write_all(&mut beside, text.as_bytes()).map_err(refused)?;
    std::fs::set_permissions(beside.path(), permissions).map_err(refused)?;
    beside.persist(&target).map_err(|error| refused(error.error))?;
    Ok(())
}
