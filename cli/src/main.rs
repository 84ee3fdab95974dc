//! The binary `sealane`: everything is in the library, so that tests and other programs can call it.

use std::process::ExitCode;

fn main() -> ExitCode {
    sealane_cli::main(std::env::args_os()).into()
}
