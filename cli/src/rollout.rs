//! `sealane rollout`: list, look at, follow and steer rollouts. Every decision is the authority's.

mod explain;
mod follow;
mod progress;
mod status;

use clap::{Args, Subcommand};
use sealane_proto::v1;
use sealane_proto::v1::RolloutState;

use crate::args::{Format, OutputArgs};
use crate::client::{ClientArgs, Server, incomplete};
use crate::exit::{Exit, Failure};
use crate::paint::clean;
use crate::printer::Printer;
use crate::table::{Cell, Table};
use crate::{clock, duration, words};
pub(crate) use follow::{Follow, follow};

const EXAMPLES: &str = "\
Examples:
  sealane rollout status                     the newest: stages, gates, problems, what to do next
  sealane rollout watch r42                  follow it to its verdict
  sealane rollout pause                      stay where it is; `resume` goes on
  sealane rollout abort r42 -m 'wrong pool'  back to last good, everywhere";

const LIST_EXAMPLES: &str = "\
Examples:
  sealane rollout list
  sealane rollout list --limit 5 -o json";

const STATUS_EXAMPLES: &str = "\
Examples:
  sealane rollout status          the newest
  sealane rollout status r42 -o json";

const WATCH_EXAMPLES: &str = "\
Examples:
  sealane rollout watch           the newest
  sealane rollout watch r42 --timeout 30m
  sealane rollout watch -o json   one object a line, one line a change";

const PAUSE_EXAMPLES: &str = "\
Examples:
  sealane rollout pause -m 'lunch'";

const RESUME_EXAMPLES: &str = "\
Examples:
  sealane rollout resume r42";

const PROMOTE_EXAMPLES: &str = "\
Examples:
  sealane rollout promote r42 -m 'looked at the graphs'";

const ABORT_EXAMPLES: &str = "\
Examples:
  sealane rollout abort -m 'wrong pool'
  sealane rollout abort r42 --dry-run";

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  sealane rollout explain         the newest
  sealane rollout explain r42 -o json";

const RETRY_EXAMPLES: &str = "\
Examples:
  sealane rollout retry r42";

/// Rollouts shown unless asked otherwise.
const LIST_DEFAULT: u32 = 20;
/// The authority's largest page.
const PAGE_MAX: u32 = 1000;

/// Arguments of `sealane rollout`.
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct RolloutArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    command: RolloutCommand,
}

#[derive(Debug, Subcommand)]
enum RolloutCommand {
    /// List rollouts, newest first
    #[command(before_help = LIST_EXAMPLES)]
    List {
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = LIST_DEFAULT, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show how far a rollout is, and what to do next
    #[command(before_help = STATUS_EXAMPLES)]
    Status(Which),
    /// Follow a rollout to its verdict
    #[command(before_help = WATCH_EXAMPLES)]
    Watch(Which),
    /// Stay where it is; nothing is widened, nothing taken back
    #[command(before_help = PAUSE_EXAMPLES)]
    Pause(Steer),
    /// Go on after a pause
    #[command(before_help = RESUME_EXAMPLES)]
    Resume(Steer),
    /// Go on from the stage that is open or held, on your word
    #[command(before_help = PROMOTE_EXAMPLES)]
    Promote(Steer),
    /// Stop, and take every proxy back to last good
    #[command(before_help = ABORT_EXAMPLES)]
    Abort(Steer),
    /// Start a held rollout's stage again
    #[command(before_help = RETRY_EXAMPLES)]
    Retry(Steer),
    /// Judge the stored evidence again, and say whether it comes to what was decided
    #[command(before_help = EXPLAIN_EXAMPLES)]
    Explain(Which),
}

#[derive(Debug, Args)]
struct Which {
    /// Such as r42 [default: the newest]
    #[arg(value_name = "REV", value_parser = words::parse_revision)]
    revision: Option<u64>,
}

#[derive(Debug, Args)]
struct Steer {
    /// Such as r42 [default: the one under way]
    #[arg(value_name = "REV", value_parser = words::parse_revision)]
    revision: Option<u64>,
    /// Why; kept in the audit record
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    message: String,
    /// Say what would happen, change nothing
    #[arg(long)]
    dry_run: bool,
}

/// What a person can tell a rollout to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Pause,
    Resume,
    Promote,
    Abort,
    Retry,
}

/// Runs `sealane rollout`.
///
/// # Errors
/// As the exit table says; a watch fails with the exit code of its verdict.
pub async fn run(args: &RolloutArgs, printer: &Printer) -> Result<(), Failure> {
    let server = args.client.connect(printer).await?;
    let format = args.output.output;
    match &args.command {
        RolloutCommand::List { limit } => list(&server, *limit, format, printer).await,
        RolloutCommand::Status(which) => {
            let rollout = get(&server, which.revision).await?;
            status::print(&rollout, format, printer)
        }
        RolloutCommand::Watch(which) => {
            let wanted = Follow { revision: which.revision.unwrap_or(0), text: None, hold_is_done: false };
            follow(&server, wanted, format, printer).await
        }
        RolloutCommand::Explain(which) => {
            let request = v1::RolloutServiceExplainRequest { revision: which.revision.unwrap_or(0) };
            let answer = server.call(server.rollout().explain(request)).await?;
            explain::print(&answer, format, printer)
        }
        RolloutCommand::Pause(how) => steer(&server, Step::Pause, how, format, printer).await,
        RolloutCommand::Resume(how) => steer(&server, Step::Resume, how, format, printer).await,
        RolloutCommand::Promote(how) => steer(&server, Step::Promote, how, format, printer).await,
        RolloutCommand::Abort(how) => steer(&server, Step::Abort, how, format, printer).await,
        RolloutCommand::Retry(how) => steer(&server, Step::Retry, how, format, printer).await,
    }
}

async fn get(server: &Server, revision: Option<u64>) -> Result<v1::Rollout, Failure> {
    let request = v1::RolloutServiceGetRequest { revision: revision.unwrap_or(0) };
    let answer = server.call(server.rollout().get(request)).await?;
    answer.rollout.ok_or_else(|| incomplete("rollout"))
}

async fn list(server: &Server, limit: u32, format: Format, printer: &Printer) -> Result<(), Failure> {
    let mut all = v1::RolloutServiceListResponse::default();
    loop {
        let missing = limit - u32::try_from(all.rollouts.len()).unwrap_or(u32::MAX).min(limit);
        let request =
            v1::RolloutServiceListRequest { page_size: missing.min(PAGE_MAX), page_token: all.next_page_token.clone() };
        let page = server.call(server.rollout().list(request)).await?;
        let empty = page.rollouts.is_empty();
        all.rollouts.extend(page.rollouts);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() || empty || all.rollouts.len() >= limit as usize {
            break;
        }
    }
    all.rollouts.truncate(limit as usize);
    let names = || all.rollouts.iter().map(|rollout| words::revision(rollout.revision)).collect();
    printer.show(format, "RolloutServiceListResponse", &all, names, |look| {
        if all.rollouts.is_empty() {
            return "no rollouts yet\n".into();
        }
        let mut table = Table::new(["REVISION", "STATE", "STAGE", "ACTIVE", "CHANGED", "MESSAGE"]);
        if look.wide {
            for column in ["CLASS", "AUTHOR", "STARTED", "REASON"] {
                table.column(column);
            }
        }
        let now = clock::now();
        for rollout in &all.rollouts {
            let state = rollout.state();
            let mut cells: Vec<Cell> = vec![
                words::revision(rollout.revision).into(),
                Cell::painted(&words::state(state), words::state_paint(state)),
                (&rollout.stage).into(),
                format!("{}/{}", rollout.active, rollout.proxies).into(),
                duration::ago(rollout.changed_at.as_ref(), now).into(),
                (&rollout.message).into(),
            ];
            if look.wide {
                cells.extend([
                    words::class(rollout.change_class()).into(),
                    (&rollout.author).into(),
                    duration::instant(rollout.started_at.as_ref()).into(),
                    rollout.reason.as_ref().map(words::reason).unwrap_or_default().into(),
                ]);
            }
            table.row(cells);
        }
        table.render(look.colour)
    })
}

async fn steer(server: &Server, step: Step, how: &Steer, format: Format, printer: &Printer) -> Result<(), Failure> {
    let revision = how.revision.unwrap_or(0);
    if how.dry_run {
        let rollout = get(server, how.revision).await?;
        if !step.applies_to(rollout.state()) {
            return Err(Failure::new(
                Exit::Failed,
                format!("r{} is {}: nothing to {}", rollout.revision, words::state(rollout.state()), step.verb()),
            ));
        }
        let line = format!("would {} r{}, which is {}", step.verb(), rollout.revision, where_it_is(&rollout));
        return printer.show(format, "Rollout", &rollout, || vec![words::revision(rollout.revision)], |_| line + "\n");
    }
    let command = Some(v1::RolloutCommand {
        revision,
        state_version: 0,
        request_id: words::request_id()?,
        message: how.message.clone(),
    });
    let mut client = server.rollout();
    let rollout = match step {
        Step::Pause => server.call(client.pause(v1::RolloutServicePauseRequest { command })).await?.rollout,
        Step::Resume => server.call(client.resume(v1::RolloutServiceResumeRequest { command })).await?.rollout,
        Step::Promote => server.call(client.promote(v1::RolloutServicePromoteRequest { command })).await?.rollout,
        Step::Abort => server.call(client.abort(v1::RolloutServiceAbortRequest { command })).await?.rollout,
        Step::Retry => server.call(client.retry(v1::RolloutServiceRetryRequest { command })).await?.rollout,
    };
    let rollout = rollout.ok_or_else(|| incomplete("rollout"))?;
    let name = words::revision(rollout.revision);
    printer.show(
        format,
        "Rollout",
        &rollout,
        || vec![name.clone()],
        |_| format!("{name} is {}\n", where_it_is(&rollout)),
    )?;
    if let (Format::Human | Format::Wide, Some(next)) = (format, words::next_step(&rollout)) {
        printer.hint(&next);
    }
    Ok(())
}

/// `running at stage canary`
fn where_it_is(rollout: &v1::Rollout) -> String {
    let state = words::state(rollout.state());
    match rollout.stage.is_empty() || rollout.state() == RolloutState::Completed {
        true => state,
        false => format!("{state} at stage {}", clean(&rollout.stage)),
    }
}

impl Step {
    fn verb(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Promote => "promote",
            Self::Abort => "abort",
            Self::Retry => "retry",
        }
    }

    /// What a dry run can say; the authority has the last word.
    fn applies_to(self, state: RolloutState) -> bool {
        let open = matches!(
            state,
            RolloutState::Queued | RolloutState::Preparing | RolloutState::Running | RolloutState::FinalBake
        );
        match self {
            Self::Pause => open,
            Self::Resume => state == RolloutState::Paused,
            Self::Promote => open || state == RolloutState::Held,
            Self::Abort => open || matches!(state, RolloutState::Held | RolloutState::Paused),
            Self::Retry => state == RolloutState::Held,
        }
    }
}
