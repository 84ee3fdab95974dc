//! `sealane sandbox`: routes of developers' sandboxes, straight to every proxy of the fleet.

use std::time::Duration;

use clap::{Args, Subcommand};
use sealane_proto::v1;

use crate::args::{Format, OutputArgs};
use crate::client::{ClientArgs, Server, incomplete};
use crate::exit::{Exit, Failure};
use crate::paint::clean;
use crate::printer::Printer;
use crate::table::Table;
use crate::{clock, duration};

const EXAMPLES: &str = "\
Examples:
  sealane sandbox add alice '^/api/users(/.*)?$' http://alice-laptop:8080 --ttl 8h
  sealane sandbox list
  sealane sandbox rm 7
  sealane sandbox rm --sandbox alice";

const ADD_EXAMPLES: &str = "\
Examples:
  sealane sandbox add alice '^/api/users(/.*)?$' http://alice-laptop:8080
  sealane sandbox add alice '^/api/' http://10.0.3.7:8080 --priority 10 --ttl 8h";

const LIST_EXAMPLES: &str = "\
Examples:
  sealane sandbox list
  sealane sandbox list alice -o json";

const RM_EXAMPLES: &str = "\
Examples:
  sealane sandbox rm 7
  sealane sandbox rm --sandbox alice";

/// Routes that one answer may hold.
const PAGE: u32 = 1000;

/// Arguments of `sealane sandbox`.
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct SandboxArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    command: SandboxCommand,
}

#[derive(Debug, Subcommand)]
enum SandboxCommand {
    /// Add a route; every proxy serves it within a second
    #[command(before_help = ADD_EXAMPLES)]
    Add(AddArgs),
    /// List routes in the order of matching
    #[command(before_help = LIST_EXAMPLES)]
    List {
        /// Of this sandbox only
        #[arg(value_name = "SANDBOX")]
        sandbox: Option<String>,
    },
    /// Delete a route, or a sandbox with all its routes
    #[command(before_help = RM_EXAMPLES)]
    Rm {
        /// The route's id, as `sandbox list` shows it
        #[arg(value_name = "ID", required_unless_present = "sandbox", conflicts_with = "sandbox")]
        id: Option<u64>,
        /// All routes of this sandbox
        #[arg(long, value_name = "SANDBOX")]
        sandbox: Option<String>,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
struct AddArgs {
    /// Whose route it is
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// A regex on the path; it matches anywhere unless anchored with ^ and $
    #[arg(value_name = "PATTERN")]
    pattern: String,
    /// Where its requests go; a path in it goes before the request's
    #[arg(value_name = "URL")]
    target: String,
    /// Lower is tried first [default: 100]
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    priority: Option<i32>,
    /// How long it stays [default: until it is deleted]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    ttl: Option<Duration>,
    /// Say what would happen, change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs `sealane sandbox`.
///
/// # Errors
/// As the exit table says.
pub async fn run(args: &SandboxArgs, printer: &Printer) -> Result<(), Failure> {
    let server = args.client.connect(printer).await?;
    let format = args.output.output;
    match &args.command {
        SandboxCommand::Add(wanted) => add(&server, wanted, format, printer).await,
        SandboxCommand::List { sandbox } => list(&server, sandbox.as_deref(), format, printer).await,
        SandboxCommand::Rm { id: Some(id), dry_run, .. } => remove(&server, *id, *dry_run, format, printer).await,
        SandboxCommand::Rm { sandbox, dry_run, .. } => {
            remove_all(&server, sandbox.as_deref().unwrap_or_default(), *dry_run, format, printer).await
        }
    }
}

async fn add(server: &Server, wanted: &AddArgs, format: Format, printer: &Printer) -> Result<(), Failure> {
    if wanted.dry_run {
        let route = sealane_model::sandbox::SandboxRoute {
            id: 1,
            sandbox_id: wanted.sandbox.clone(),
            pattern: wanted.pattern.clone(),
            target_url: wanted.target.clone(),
            priority: wanted.priority.unwrap_or(sealane_model::sandbox::PRIORITY_DEFAULT),
            expires_at_ms: None,
        };
        route.check().map_err(|fault| Failure::usage(fault.to_string()))?;
        let same = all(server, Some(&wanted.sandbox)).await?.into_iter().find(|one| one.pattern == wanted.pattern);
        if let Some(same) = same {
            let message = format!("the sandbox has this pattern already, as route {}", same.id);
            return Err(Failure::usage(message).hint(format!("sealane sandbox rm {}", same.id)));
        }
        printer.talk(&format!("would add a route to sandbox {}", clean(&wanted.sandbox)));
        return Ok(());
    }
    let request = v1::AddSandboxRouteRequest {
        sandbox_id: wanted.sandbox.clone(),
        pattern: wanted.pattern.clone(),
        target_url: wanted.target.clone(),
        priority: wanted.priority,
        ttl: wanted.ttl.map(sealane_proto::convert::wire_duration),
    };
    let answer = server.call(server.sandbox().add_sandbox_route(request)).await?;
    let route = answer.route.as_ref().ok_or_else(|| incomplete("route"))?;
    let names = || vec![route.id.to_string()];
    printer.show(format, "AddSandboxRouteResponse", &answer, names, |_| {
        format!(
            "route {} of sandbox {} added, sandbox revision {}\n",
            route.id,
            clean(&route.sandbox_id),
            answer.revision
        )
    })
}

async fn list(server: &Server, sandbox: Option<&str>, format: Format, printer: &Printer) -> Result<(), Failure> {
    let routes = all(server, sandbox).await?;
    let answer = v1::ListSandboxRoutesResponse { routes, next_page_token: String::new() };
    let names = || answer.routes.iter().map(|route| route.id.to_string()).collect();
    printer.show(format, "ListSandboxRoutesResponse", &answer, names, |look| {
        let now = clock::now();
        let mut table = Table::new(["ID", "SANDBOX", "PRIORITY", "PATTERN", "TARGET", "ENDS"]);
        for route in &answer.routes {
            let ends = route.expires_at.as_ref().map_or_else(
                || "never".to_owned(),
                |at| {
                    let left = u64::try_from(at.seconds - now.as_second()).unwrap_or(0);
                    format!("in {}", duration::show(Duration::from_secs(left)))
                },
            );
            table.row([
                route.id.to_string().into(),
                (&route.sandbox_id).into(),
                route.priority.to_string().into(),
                (&route.pattern).into(),
                (&route.target_url).into(),
                ends.into(),
            ]);
        }
        table.render(look.colour)
    })
}

async fn all(server: &Server, sandbox: Option<&str>) -> Result<Vec<v1::SandboxRoute>, Failure> {
    let mut routes = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListSandboxRoutesRequest {
            sandbox_id: sandbox.unwrap_or_default().to_owned(),
            page_size: PAGE,
            page_token,
        };
        let page = server.call(server.sandbox().list_sandbox_routes(request)).await?;
        routes.extend(page.routes);
        if page.next_page_token.is_empty() {
            return Ok(routes);
        }
        page_token = page.next_page_token;
    }
}

async fn remove(server: &Server, id: u64, dry_run: bool, format: Format, printer: &Printer) -> Result<(), Failure> {
    if dry_run {
        if !all(server, None).await?.iter().any(|route| route.id == id) {
            return Err(Failure::new(Exit::NotFound, format!("no sandbox route {id}"))
                .hint("`sealane sandbox list` shows them"));
        }
        printer.talk(&format!("would delete route {id}"));
        return Ok(());
    }
    let request = v1::DeleteSandboxRouteRequest { id };
    let answer = server.call(server.sandbox().delete_sandbox_route(request)).await?;
    let names = || vec![id.to_string()];
    printer.show(format, "DeleteSandboxRouteResponse", &answer, names, |_| format!("route {id} is deleted\n"))
}

async fn remove_all(
    server: &Server,
    sandbox: &str,
    dry_run: bool,
    format: Format,
    printer: &Printer,
) -> Result<(), Failure> {
    if sandbox.is_empty() {
        return Err(Failure::usage("--sandbox is empty").hint("sealane sandbox rm --sandbox alice"));
    }
    if dry_run {
        let count = all(server, Some(sandbox)).await?.len();
        printer.talk(&format!("would delete {count} routes of sandbox {}", clean(sandbox)));
        return Ok(());
    }
    let request = v1::DeleteSandboxRequest { sandbox_id: sandbox.to_owned() };
    let answer = server.call(server.sandbox().delete_sandbox(request)).await?;
    let names = || vec![sandbox.to_owned()];
    printer.show(format, "DeleteSandboxResponse", &answer, names, |_| {
        format!("sandbox {} is deleted, with {} routes\n", clean(sandbox), answer.deleted)
    })
}
