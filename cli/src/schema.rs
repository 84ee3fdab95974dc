//! `sealane schema`: the JSON Schema of the config file, for editors and CI.

use clap::Args;

use crate::args::Format;
use crate::exit::Failure;
use crate::printer::Printer;

const EXAMPLES: &str = "\
Examples:
  sealane schema > sealane.schema.json
  # then, as the first line of a config, for editors with a YAML language server:
  # yaml-language-server: $schema=sealane.schema.json";

/// Arguments of `sealane schema`.
#[derive(Clone, Copy, Debug, Args)]
#[command(before_help = EXAMPLES)]
pub struct SchemaArgs {}

/// Runs `sealane schema`.
///
/// # Errors
/// When stdout cannot be written.
pub fn run(_: SchemaArgs, printer: &Printer) -> Result<(), Failure> {
    printer.value(Format::Json, &sealane_model::schema::schema())
}
