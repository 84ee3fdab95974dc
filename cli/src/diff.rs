//! `sealane diff`: what differs between two files, two revisions, or one of each, in the config's own words.

use std::path::Path;

use clap::Args;
use sealane_model::config::Config;
use sealane_model::parse::changes::{self, Change};
use sealane_model::parse::{Reader, parse};
use sealane_proto::v1;

use crate::args::{Format, OutputArgs};
use crate::client::{ClientArgs, incomplete};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;
use crate::problems::{self, Source};
use crate::words;

const EXAMPLES: &str = "\
Examples:
  sealane diff old.yaml new.yaml
  sealane diff r41 r42
  sealane diff r42 fleet.yaml              the newest revision and a file
  sealane diff r41 r42 --detailed-exitcode exit 2 when they differ
  sealane revision diff r41 r42            line by line";

/// Arguments of `sealane diff`.
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES)]
pub struct DiffArgs {
    /// The older: a file, or a revision such as r41
    #[arg(value_name = "A")]
    from: String,
    /// The newer
    #[arg(value_name = "B")]
    to: String,
    /// Exit 2 when they differ, 0 when they do not
    #[arg(long)]
    detailed_exitcode: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// A config and where it came from.
struct Side {
    name: String,
    text: String,
    config: Config,
}

/// Runs `sealane diff`.
///
/// # Errors
/// [`Exit::Changes`] under `--detailed-exitcode` when they differ; else as the exit table says.
pub async fn run(args: &DiffArgs, printer: &Printer) -> Result<(), Failure> {
    let before = side(&args.from, args, printer).await?;
    let after = side(&args.to, args, printer).await?;
    let found = changes::changes(Some((&before.text, &before.config)), (&after.text, &after.config));
    show(&found, &after.name, args.output.output, printer)?;
    if found.is_empty() && matches!(args.output.output, Format::Human | Format::Wide) {
        printer.talk(&format!("{} and {} say the same", before.name, after.name));
    }
    if args.detailed_exitcode && !found.is_empty() {
        return Err(Failure::quiet(Exit::Changes));
    }
    Ok(())
}

fn show(found: &[Change], file: &str, format: Format, printer: &Printer) -> Result<(), Failure> {
    match format {
        Format::Human | Format::Wide => printer.text(&changes::text(found, file)),
        Format::Json | Format::Yaml => printer.value(format, &serde_json::to_value(found).unwrap_or_default()),
        Format::Name => {
            let names = found.iter().map(|change| format!("{} {}", change.what, change.id).trim().to_owned() + "\n");
            let mut names: Vec<String> = names.collect();
            names.dedup();
            printer.text(&names.concat())
        }
    }
}

/// A file where there is one, else a revision.
async fn side(name: &str, args: &DiffArgs, printer: &Printer) -> Result<Side, Failure> {
    let revision = words::parse_revision(name).ok().filter(|_| !Path::new(name).exists());
    let (shown, text) = match revision {
        None => {
            let source = Source::read(Path::new(name))?;
            (source.shown, source.text)
        }
        Some(revision) => {
            let server = args.client.connect(printer).await?;
            let request = v1::GetRevisionRequest { revision, with_config: true };
            let answer = server.call(server.config().get_revision(request)).await?;
            let revision = answer.revision.ok_or_else(|| incomplete("revision"))?;
            (words::revision(revision.revision), revision.config_yaml)
        }
    };
    let (config, _) = parse(&shown, &text, Reader::Local).map_err(|found| {
        printer.talk_text(&problems::pictures(&found, &text, printer.talks_in_colour()));
        Failure::new(Exit::Invalid, format!("{shown} is not valid"))
    })?;
    Ok(Side { name: shown, text, config })
}
