//! The program's own log: to stderr, as lines or as JSON. What a command answers never goes through here.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::args::LogArgs;
use crate::exit::Failure;

/// Starts logging; `default` is the level where none was asked for.
///
/// # Errors
/// Wrong usage when `--log-level` does not parse.
pub(crate) fn start(args: &LogArgs, default: &str) -> Result<(), Failure> {
    let wanted = args.log_level.as_deref().unwrap_or(default);
    let filter = EnvFilter::try_new(wanted).map_err(|error| {
        Failure::usage(format!("`{wanted}` is not a log level"))
            .because(error)
            .hint("use error, warn, info or debug, or pairs such as sealane_proxy=debug,info")
    })?;
    let colour = !args.no_color && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour && std::io::stderr().is_terminal());
    // Fails only where a log runs already, as in a test that calls twice.
    let _ = if args.log_json { builder.json().try_init() } else { builder.try_init() };
    Ok(())
}
