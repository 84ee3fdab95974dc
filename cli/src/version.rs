//! `sealane version`: which program this is, and how it was built, as far as the build said.

use clap::Args;
use serde_json::json;

use crate::args::{Format, OutputArgs};
use crate::exit::Failure;
use crate::printer::Printer;

const EXAMPLES: &str = "\
Examples:
  sealane version
  sealane version -o json";

/// Of the package.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Given by whoever builds a release, or found by the build script; may be empty.
const COMMIT: Option<&str> = option_env!("SEALANE_BUILD_COMMIT");
const BUILT: Option<&str> = option_env!("SEALANE_BUILD_TIME");

/// Arguments of `sealane version`.
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES)]
pub struct VersionArgs {
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs `sealane version`.
///
/// # Errors
/// When stdout cannot be written.
pub fn run(args: &VersionArgs, printer: &Printer) -> Result<(), Failure> {
    let target = format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH);
    let [commit, built] = [COMMIT, BUILT].map(|fact| fact.filter(|text| !text.is_empty()));
    let facts: Vec<String> =
        [commit.map(|commit| format!("commit {commit}")), built.map(|built| format!("built {built}"))]
            .into_iter()
            .flatten()
            .chain([target.clone()])
            .collect();
    match args.output.output {
        Format::Human | Format::Wide => printer.data(&format!("sealane {VERSION} ({})", facts.join(", "))),
        Format::Name => printer.data(VERSION),
        format @ (Format::Json | Format::Yaml) => {
            let value = json!({ "version": VERSION, "commit": commit, "built": built, "target": target });
            printer.value(format, &value)
        }
    }
}
