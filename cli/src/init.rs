//! `sealane init`: a commented config to start from, which is valid and runs as it is.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::exit::{Exit, Failure};
use crate::printer::Printer;

const EXAMPLES: &str = "\
Examples:
  sealane init                  write config.yaml, which `sealane run` finds by itself
  sealane init fleet.yaml       another name
  sealane init --fleet          with stages and gates, to publish to a fleet
  sealane init -                to stdout";

/// What a file starts from.
const LOCAL: &str = include_str!("init/local.yaml");
/// What a fleet's file adds to it.
const FLEET: &str = include_str!("init/fleet.yaml");

/// Arguments of `sealane init`.
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES)]
pub struct InitArgs {
    /// The file to write; `-` is stdout [default: config.yaml]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Add stages and gates of a rollout
    #[arg(long)]
    fleet: bool,
    /// Replace a file that exists
    #[arg(long)]
    force: bool,
}

/// Runs `sealane init`.
///
/// # Errors
/// When the file exists, or cannot be written.
pub fn run(args: &InitArgs, printer: &Printer) -> Result<(), Failure> {
    let text = if args.fleet { format!("{LOCAL}\n{FLEET}") } else { LOCAL.to_owned() };
    let file = args.file.clone().unwrap_or_else(|| "config.yaml".into());
    if file.as_os_str() == "-" {
        return printer.text(&text);
    }
    write(&file, &text, args.force)?;
    let shown = file.display();
    printer.talk(&format!("wrote {shown}"));
    let next = match (args.fleet, file.as_os_str() == "config.yaml") {
        (true, _) => format!("`sealane validate {shown}`, then `sealane publish {shown} -m 'first' --watch`"),
        (false, true) => "change `to:`, then `sealane run`".to_owned(),
        (false, false) => format!("change `to:`, then `sealane run {shown}`"),
    };
    printer.hint(&next);
    Ok(())
}

fn write(file: &Path, text: &str, force: bool) -> Result<(), Failure> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true);
    if force {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    let shown = file.display();
    options.open(file).and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::new(Exit::Failed, format!("`{shown}` exists already")).hint(format!(
                "`--force` replaces it; `sealane init OTHER` writes another, `sealane validate {shown}` checks this one"
            ))
        }
        _ => Failure::new(Exit::Failed, format!("cannot write `{shown}`")).because(error),
    })
}

#[cfg(test)]
mod tests {
    use sealane_model::parse::{Reader, parse};
    use sealane_model::selftest::run_tests;

    use super::*;

    #[test]
    fn what_init_writes_is_valid_without_a_warning_and_its_tests_hold() {
        for (text, reader) in [(LOCAL.to_owned(), Reader::Local), (format!("{LOCAL}\n{FLEET}"), Reader::Fleet)] {
            let (config, warnings) = parse("f.yaml", &text, reader).unwrap();
            assert_eq!(warnings, []);
            assert_eq!(run_tests(&config), []);
            assert!(!config.tests.is_empty());
        }
    }

    #[test]
    fn a_file_that_exists_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.yaml");
        write(&file, "a", false).unwrap();
        assert!(write(&file, "b", false).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "a");
        write(&file, "b", true).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "b");
    }
}
