//! The `sealane` program under another name, so that this package's tests can start it.

fn main() -> std::process::ExitCode {
    sealane_cli::main(std::env::args_os()).into()
}
