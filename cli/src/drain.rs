//! `sealane drain`: takes a running proxy out of service gracefully and waits until its last request is over.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::args::{Format, OutputArgs};
use crate::duration;
use crate::exit::{Exit, Failure};
use crate::node::NodeArgs;
use crate::printer::Printer;

const EXAMPLES: &str = "\
Examples:
  sealane drain                              the proxy on this machine; returns when it is empty
  sealane drain --admin 127.0.0.1:9091       another one
  sealane drain --no-wait                    only begin

Readiness goes first, load balancers get `shutdown.lb_convergence` to notice, then no new connections are taken and
requests in flight finish. A drained proxy stays so until it is stopped or started again; made for preStop hooks.";

/// Arguments of `sealane drain`.
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES)]
pub struct DrainArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Begin, but do not wait
    #[arg(long, env = "SEALANE_DRAIN_NO_WAIT")]
    no_wait: bool,
    /// Say how far it is, change nothing
    #[arg(long, env = "SEALANE_DRAIN_DRY_RUN")]
    dry_run: bool,
    /// How long to wait at most
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration::parse, env = "SEALANE_TIMEOUT")]
    timeout: Duration,
    #[command(flatten)]
    output: OutputArgs,
}

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// Runs `sealane drain`.
///
/// # Errors
/// The proxy cannot be reached, refuses, or is not empty in time.
pub async fn run(args: &DrainArgs, printer: &Printer) -> Result<(), Failure> {
    let node = args.node.node()?;
    if args.dry_run {
        return show(&node.get("/api/v2/drain").await?, args, printer);
    }
    let mut state = node.post("/api/v2/drain", &json!({})).await?;
    let waited = async {
        let mut told = String::new();
        while !args.no_wait && state["stage"] != "drained" {
            let stage = state["stage"].as_str().unwrap_or_default().to_owned();
            if stage != told {
                printer.talk(&format!("{stage}, {} connections open", state["connections"]));
                told = stage;
            }
            tokio::time::sleep(LOOK).await;
            state = match node.get("/api/v2/drain").await {
                Ok(state) => state,
                // It was stopped meanwhile: nothing is left to wait for.
                Err(failure) if failure.exit == Exit::Unreachable => json!({ "stage": "drained", "connections": 0 }),
                Err(failure) => return Err(failure),
            };
        }
        Ok(state)
    };
    let state = tokio::time::timeout(args.timeout, waited).await.map_err(|_| {
        Failure::new(Exit::Unfinished, "still draining").hint("it goes on; look again with --dry-run")
    })??;
    show(&state, args, printer)
}

fn show(state: &Value, args: &DrainArgs, printer: &Printer) -> Result<(), Failure> {
    match args.output.output {
        Format::Human | Format::Wide | Format::Name => {
            let stage = state["stage"].as_str().unwrap_or("unknown");
            printer.data(&format!("{stage}, {} connections open", state["connections"]))
        }
        format @ (Format::Json | Format::Yaml) => printer.value(format, state),
    }
}
