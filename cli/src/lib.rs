//! The binary `sealane`: arguments in, one call or one process, output and an exit code out.
//!
//! It decides nothing about configs or rollouts: `model` judges files, the authority judges everything else. It is the
//! only crate that knows terminals, exit codes and the three roles' entries at once.

// The frame: what was asked, how it ends, how it is said.
pub mod args;
pub mod exit;
pub mod printer;

// Small things the frame and the commands share.
mod clock;
pub mod duration;
mod keyfile;
pub mod node;
mod paint;
mod table;
mod words;

// Talking to an authority.
pub mod client;

// The commands, in the order of their help.
mod admin;
pub mod agent_rollback;
pub mod audit;
pub mod authority;
pub mod backend;
pub mod cache;
pub mod check;
pub mod convert;
pub mod demo;
pub mod diff;
pub mod drain;
pub mod explain;
pub mod fleet;
pub mod fmt;
pub mod freeze;
pub mod help;
pub mod init;
pub mod key;
pub mod manual;
pub mod plan;
pub mod problems;
pub mod publish;
pub mod revision;
pub mod rollback;
pub mod rollout;
pub mod run;
pub mod sandbox;
pub mod schema;
pub mod serve;
pub mod sign;
pub mod tail;
pub mod token;
pub mod validate;
pub mod version;

mod log;
mod service;
mod signals;
mod upgrade;

use std::ffi::OsString;

use crate::args::{Cli, Command};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;

/// HTTP/2 and TLS allocate for each request and handshake, in sizes that the C library's allocator is slow with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs one command line, program name first, and says how it ended. Never panics on what the user typed.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let mut cli = match args::parse(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers; everything else is wrong usage. A closed pipe is nobody's fault.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    if let (Command::Proxy(_), None) = (&cli.command, &cli.log.log_level) {
        // Seed 004's name for it.
        cli.log.log_level = std::env::var("PROXY_LOG_LEVEL").ok().filter(|level| !level.is_empty());
    }
    let printer = Printer::new(cli.log.no_color);
    // Fails only where one is installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let ended = log::start(&cli.log, cli.command.log_level()).and_then(|()| run(cli, &printer));
    match ended {
        Ok(()) => Exit::Done,
        Err(failure) => {
            printer.failure(&failure);
            failure.exit
        }
    }
}

fn run(cli: Cli, printer: &Printer) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, "cannot start the runtime").because(error))?;
    runtime.block_on(dispatch(cli.command, printer))
}

async fn dispatch(command: Command, printer: &Printer) -> Result<(), Failure> {
    match command {
        Command::Run(args) => run::run(args, printer).await,
        Command::Demo(args) => demo::run(args, printer).await,
        Command::Authority(args) => serve::authority(args, printer).await,
        Command::Agent(args) => serve::agent(args, printer).await,
        Command::Proxy(args) => serve::proxy(args, printer).await,
        Command::Init(args) => init::run(&args, printer),
        Command::Fmt(args) => fmt::run(&args, printer),
        Command::Convert(args) => convert::run(&args, printer),
        Command::Explain(args) => explain::run(&args, printer).await,
        Command::Plan(args) => plan::run(&args, printer).await,
        Command::Diff(args) => diff::run(&args, printer).await,
        Command::Check(args) => check::run(&args, printer).await,
        Command::Schema(args) => schema::run(args, printer),
        Command::Drain(args) => drain::run(&args, printer).await,
        Command::Validate(args) => validate::run(&args, printer),
        Command::Publish(args) => publish::run(&args, printer).await,
        Command::Rollout(args) => rollout::run(&args, printer).await,
        Command::Freeze(args) => freeze::run(&args, printer).await,
        Command::Rollback(args) => rollback::run(&args, printer).await,
        Command::Revision(args) => revision::run(&args, printer).await,
        Command::Key(args) => key::run(&args, printer).await,
        Command::Sign(args) => sign::run(&args, printer),
        Command::Fleet(args) => fleet::run(&args, printer).await,
        Command::Sandbox(args) => sandbox::run(&args, printer).await,
        Command::Cache(args) => cache::run(&args, printer).await,
        Command::Tail(args) => tail::run(&args, printer).await,
        Command::Token(args) => token::run(&args, printer).await,
        Command::Audit(args) => audit::run(&args, printer).await,
        Command::Backend(args) => backend::run(&args, printer).await,
        Command::Completion(args) => manual::completion(&args, printer),
        Command::Man(args) => manual::man(&args, printer),
        Command::Help(args) => help::run(&args, printer),
        Command::Version(args) => version::run(&args, printer),
    }
}
