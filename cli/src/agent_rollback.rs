//! `sealane agent rollback`: a person at an agent's machine takes its proxies back, whether or not the authority is there.

use std::path::PathBuf;

use clap::Args;
use sealane_proto::v1;
use sealane_proto::v1::agent_local_service_client::AgentLocalServiceClient;
use tonic::Code;
use tonic::transport::Endpoint;

use crate::args::OutputArgs;
use crate::exit::{Exit, Failure};
use crate::printer::Printer;
use crate::words;

/// Arguments of `sealane agent rollback`.
#[derive(Args, Clone, Debug)]
#[command(before_help = "Examples:
  sealane agent rollback --data ./agent-eu --dry-run
  sealane agent rollback --data ./agent-eu      the agent whose state directory this is")]
pub struct RollbackArgs {
    /// State directory of the agent; its socket is in it
    #[arg(long, value_name = "DIR", env = "SEALANE_DATA")]
    data: PathBuf,
    /// Say what would be taken back, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// Asks the agent over its socket.
pub(crate) async fn run(args: &RollbackArgs, printer: &Printer) -> Result<(), Failure> {
    let socket = std::path::absolute(args.data.join("agent.sock"))
        .map_err(|error| Failure::new(Exit::Failed, "cannot find the agent's socket").because(error))?;
    let away = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::Unreachable, format!("no agent answers at {}: {error}", socket.display()))
            .hint("name the --data directory of an agent that runs on this machine, and be its user")
    };
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).map_err(|error| away(&error))?;
    let channel = endpoint.connect().await.map_err(|error| away(&error))?;
    let answer =
        AgentLocalServiceClient::new(channel).roll_back(v1::AgentRollBackRequest { dry_run: args.dry_run }).await;
    let answer = answer
        .map_err(|status| match status.code() {
            Code::FailedPrecondition => Failure::new(Exit::Failed, status.message())
                .hint("publish a mended config: until one has been good, each goes to all at once"),
            _ => away(&status.message().to_owned()),
        })?
        .into_inner();
    let line = match answer.rolled_back {
        true if args.dry_run => format!(
            "this agent's proxies would go back from {} to {}",
            words::revision(answer.revision),
            words::revision(answer.last_good)
        ),
        true => format!(
            "took this agent's proxies back from {} to {}; the authority hears of it as soon as it is there",
            words::revision(answer.revision),
            words::revision(answer.last_good)
        ),
        false => format!("no revision is under way here; the proxies are on {}", words::revision(answer.last_good)),
    };
    let names = || vec![words::revision(answer.last_good)];
    printer.show(args.output.output, "AgentRollBackResponse", &answer, names, |_| line + "\n")
}
