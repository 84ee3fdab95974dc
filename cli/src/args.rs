//! The command line: what can be asked. Each command's own arguments stand in its module.
//!
//! Every option is also an environment variable: the shared ones by the name they give themselves (`SEALANE_SERVER`),
//! every other by its place (`publish --watch` is `SEALANE_PUBLISH_WATCH`), added here for the whole tree, so that no
//! command can forget it. Flag over environment over file over default.

use std::ffi::OsString;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::audit::AuditArgs;
use crate::backend::BackendArgs;
use crate::cache::CacheArgs;
use crate::check::CheckArgs;
use crate::convert::ConvertArgs;
use crate::demo::DemoArgs;
use crate::diff::DiffArgs;
use crate::drain::DrainArgs;
use crate::explain::ExplainArgs;
use crate::fleet::FleetArgs;
use crate::fmt::FmtArgs;
use crate::freeze::FreezeArgs;
use crate::help::HelpArgs;
use crate::init::InitArgs;
use crate::key::KeyArgs;
use crate::manual::{CompletionArgs, ManArgs};
use crate::plan::PlanArgs;
use crate::publish::PublishArgs;
use crate::revision::RevisionArgs;
use crate::rollback::RollbackArgs;
use crate::rollout::RolloutArgs;
use crate::run::RunArgs;
use crate::sandbox::SandboxArgs;
use crate::schema::SchemaArgs;
use crate::serve::{AgentArgs, AuthorityArgs, ProxyArgs};
use crate::sign::SignArgs;
use crate::tail::TailArgs;
use crate::token::TokenArgs;
use crate::validate::ValidateArgs;
use crate::version::VersionArgs;

const EXAMPLES: &str = "\
Examples:
  sealane validate fleet.yaml                       check a config file, without a network
  sealane publish fleet.yaml -m 'new pool' --watch  sign, publish, follow it to its verdict
  sealane rollout status                            how far it is, and what to do next
  sealane rollback --watch                          back to the last good revision, at once
  sealane fleet status                              what runs where";

/// Examples first; then usage and options.
const TEMPLATE: &str = "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}";

/// A fleet of reverse proxies that is safe to change
#[derive(Debug, Parser)]
#[command(name = "sealane", bin_name = "sealane", version, before_help = EXAMPLES, subcommand_required = true)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Cli {
    /// How much this program says about itself.
    #[command(flatten)]
    pub log: LogArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Log options")]
pub struct LogArgs {
    /// Log level: error, warn, info or debug, or pairs such as `sealane_proxy=debug,info`
    #[arg(long, value_name = "LEVEL", env = "SEALANE_LOG", global = true)]
    pub log_level: Option<String>,
    /// Log as JSON, one object a line
    #[arg(long, env = "SEALANE_LOG_JSON", global = true)]
    pub log_json: bool,
    /// No colour, on a terminal either (NO_COLOR does the same)
    #[arg(long, env = "SEALANE_NO_COLOR", global = true)]
    pub no_color: bool,
}

/// Everything that `sealane` does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve one config file, or backends named here
    Run(RunArgs),
    /// Start a whole fleet in this terminal
    Demo(DemoArgs),
    /// Keep, sign and roll out the fleet's config
    Authority(AuthorityArgs),
    /// Verify revisions and roll them out into the proxies next to it
    Agent(AgentArgs),
    /// Serve what an agent was told to roll out
    Proxy(ProxyArgs),
    /// Take a running proxy out of service gracefully
    Drain(DrainArgs),
    /// Write a commented config file to start from
    Init(InitArgs),
    /// Check a config file, without a network
    Validate(ValidateArgs),
    /// Put config files into one layout
    Fmt(FmtArgs),
    /// Print the JSON Schema of the config file
    Schema(SchemaArgs),
    /// Write a file in a small format, or in JSON, as YAML in the native format
    Convert(ConvertArgs),
    /// Say which route takes a request, and why
    Explain(ExplainArgs),
    /// Say what publishing a file would change
    Plan(PlanArgs),
    /// Say what differs between two files or revisions
    Diff(DiffArgs),
    /// Sign and publish a config as a new revision
    Publish(PublishArgs),
    /// Follow and steer rollouts
    Rollout(RolloutArgs),
    /// Let nothing widen for a while
    Freeze(FreezeArgs),
    /// Publish earlier content as a new revision, at once
    Rollback(RollbackArgs),
    /// Read published revisions
    Revision(RevisionArgs),
    /// Make keys, see whom the fleet trusts, and change that
    Key(KeyArgs),
    /// Sign a revision or a trust root with a person's key, without a network
    Sign(SignArgs),
    /// Say what is healthy, what is not, and what to type
    Check(CheckArgs),
    /// See what runs where
    Fleet(FleetArgs),
    /// Send a developer's requests to a backend of their own
    Sandbox(SandboxArgs),
    /// See and empty the caches of the nodes
    Cache(CacheArgs),
    /// Follow requests of the nodes as they end
    Tail(TailArgs),
    /// Make, list and revoke access tokens
    Token(TokenArgs),
    /// Read and check the record of every change
    Audit(AuditArgs),
    /// Run a toy origin server
    Backend(BackendArgs),
    /// Print a completion script for a shell
    Completion(CompletionArgs),
    /// Print the manual page, or write one for each command
    Man(ManArgs),
    /// Explain a command, or the code of a problem
    Help(HelpArgs),
    /// Print the version and how it was built
    Version(VersionArgs),
}

impl Command {
    /// The log level where none is asked for: a command that answers and ends logs only what went wrong.
    #[must_use]
    pub fn log_level(&self) -> &'static str {
        match self {
            Self::Run(_) | Self::Authority(_) | Self::Agent(_) | Self::Proxy(_) | Self::Backend(_) => "info",
            Self::Init(_)
            | Self::Help(_)
            | Self::Schema(_)
            | Self::Drain(_)
            | Self::Fmt(_)
            | Self::Convert(_)
            | Self::Explain(_)
            | Self::Plan(_)
            | Self::Diff(_)
            | Self::Check(_)
            | Self::Validate(_)
            | Self::Publish(_)
            | Self::Rollout(_)
            | Self::Freeze(_)
            | Self::Rollback(_)
            | Self::Revision(_)
            | Self::Fleet(_)
            | Self::Sandbox(_)
            | Self::Cache(_)
            | Self::Tail(_)
            | Self::Token(_)
            | Self::Audit(_)
            | Self::Key(_)
            | Self::Sign(_)
            | Self::Completion(_)
            | Self::Man(_)
            | Self::Version(_) => "warn",
            // Everything of it ends at once: that its parts miss each other then is no news.
            Self::Demo(_) => "error",
        }
    }
}

/// How an answer is printed. (Plain comments: a described value would make every help page three times as long.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    // For people
    #[default]
    Human,
    // For people, with every column
    Wide,
    // The gRPC message as JSON; one object a line when watching
    Json,
    // The same as YAML
    Yaml,
    // Names only, one a line
    Name,
}

/// The option that chooses it.
#[derive(Clone, Copy, Debug, Args)]
pub struct OutputArgs {
    /// How to print the answer: for people, or the gRPC message, one object a line when watching
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t, env = "SEALANE_OUTPUT", global = true)]
    pub output: Format,
}

/// The whole command line as clap knows it, for parsing, completion and the manual.
#[must_use]
pub fn command() -> clap::Command {
    complete(Cli::command(), "SEALANE")
}

/// Parses a command line, program name first.
///
/// # Errors
/// clap's: wrong usage, or a request for help or the version.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = command();
    let mut matches = command.try_get_matches_from_mut(arguments.into_iter().map(with_two_dashes))?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

/// Flags that have one dash in the programs they come from.
const ONE_DASH: [&str; 7] =
    ["confpath", "config-file", "http-addr", "tls-addr", "admin-addr", "enable-admin", "admin-token"];

/// `-confpath` and its like have one dash in the programs they come from.
fn with_two_dashes(argument: OsString) -> OsString {
    match argument.to_str() {
        Some(text)
            if text
                .strip_prefix('-')
                .and_then(|rest| rest.split('=').next())
                .is_some_and(|name| ONE_DASH.contains(&name)) =>
        {
            format!("-{text}").into()
        }
        _ => argument,
    }
}

fn complete(command: clap::Command, prefix: &str) -> clap::Command {
    command
        .help_template(TEMPLATE)
        .mut_args(|argument| {
            let Some(long) = argument.get_long().filter(|long| !["help", "version"].contains(long)) else {
                return argument;
            };
            let name = format!("{prefix}_{}", long.to_uppercase().replace('-', "_"));
            let name = argument.get_env().map_or_else(|| name.into(), std::ffi::OsStr::to_owned);
            // An empty variable is one that is not set, as everywhere in a shell.
            if std::env::var_os(&name).is_some_and(|value| value.is_empty()) {
                return argument.env(clap::builder::Resettable::Reset);
            }
            let argument = argument.env(name);
            // A value may be a secret's place or long; help shows the variable's name only.
            let argument = argument.hide_env_values(true);
            match argument.get_action() {
                ArgAction::SetTrue => argument.value_parser(BoolishValueParser::new()),
                _ => argument,
            }
        })
        .mut_subcommands(|subcommand| {
            let prefix = format!("{prefix}_{}", subcommand.get_name().to_uppercase().replace('-', "_"));
            complete(subcommand, &prefix)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every(command: &clap::Command, check: &mut impl FnMut(&clap::Command)) {
        check(command);
        command.get_subcommands().for_each(|subcommand| every(subcommand, check));
    }

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn the_flag_with_one_dash_is_understood() {
        for words in [vec!["sealane", "run", "-confpath", "a.yaml"], vec!["sealane", "run", "-confpath=a.yaml"]] {
            let parsed = parse(words.into_iter().map(OsString::from)).unwrap();
            assert!(matches!(parsed.command, Command::Run(_)));
        }
    }

    #[test]
    fn every_option_is_an_environment_variable() {
        every(&command(), &mut |command| {
            for argument in command.get_arguments().filter(|argument| argument.get_long().is_some()) {
                if ["help", "version"].contains(&argument.get_id().as_str()) {
                    continue;
                }
                let name = argument.get_env().unwrap_or_else(|| panic!("--{} has none", argument.get_id()));
                assert!(name.to_str().unwrap().starts_with("SEALANE_"), "{name:?}");
            }
        });
    }

    #[test]
    fn every_command_starts_its_help_with_examples() {
        every(&command(), &mut |command| {
            let help = command.get_before_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.starts_with("Examples:\n  sealane"), "{}", command.get_name());
        });
    }
}
