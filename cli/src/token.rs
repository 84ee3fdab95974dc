//! `sealane token`: make, list and revoke access tokens. A secret goes to stdout, alone, and nowhere else.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use sealane_proto::v1;

use crate::args::{Format, OutputArgs};
use crate::client::{ClientArgs, Server, incomplete};
use crate::exit::{Exit, Failure};
use crate::paint::{Paint, clean};
use crate::printer::Printer;
use crate::table::{Cell, Table};
use crate::{clock, duration};

const EXAMPLES: &str = "\
Examples:
  sealane token create --role publisher --ttl 720h > ci.token
  sealane token create --role agent --region eu > agent.token
  sealane token list
  sealane token revoke t7";

const CREATE_EXAMPLES: &str = "\
Examples:
  sealane token create --role publisher --ttl 720h --comment CI > ci.token
  sealane token create --role agent --region eu > agent.token
  sealane token create --role proxy --region eu --ttl 24h > proxy.token";

const LIST_EXAMPLES: &str = "\
Examples:
  sealane token list
  sealane token list -o json";

const REVOKE_EXAMPLES: &str = "\
Examples:
  sealane token revoke t7";

/// Arguments of `sealane token`.
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct TokenArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token; its secret is printed once
    #[command(before_help = CREATE_EXAMPLES)]
    Create(CreateArgs),
    /// List tokens, without their secrets
    #[command(before_help = LIST_EXAMPLES)]
    List,
    /// Make a token worthless, at once
    #[command(before_help = REVOKE_EXAMPLES)]
    Revoke {
        /// Its id, as `token list` shows it
        #[arg(value_name = "ID")]
        id: String,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// What it may do
    #[arg(long, value_name = "ROLE", value_enum)]
    role: Role,
    /// The region that an agent or a proxy enrols in
    #[arg(long, value_name = "REGION", required_if_eq_any([("role", "agent"), ("role", "proxy")]))]
    region: Option<String>,
    /// How long it is good for [default: until revoked]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    ttl: Option<Duration>,
    /// What it is for
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    comment: String,
    /// Say what would happen, change nothing
    #[arg(long)]
    dry_run: bool,
}

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Read
    Viewer,
    /// Read and steer rollouts
    Operator,
    /// Publish as well
    Publisher,
    /// Publish through a freeze as well, and end one early
    Incident,
    /// Everything
    Admin,
    /// Enrol and run an agent
    Agent,
    /// Enrol a proxy on another machine than its agent
    Proxy,
    /// Change sandbox routes
    Sandbox,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Publisher => "publisher",
            Self::Incident => "incident",
            Self::Admin => "admin",
            Self::Agent => "agent",
            Self::Proxy => "proxy",
            Self::Sandbox => "sandbox",
        }
    }
}

/// Runs `sealane token`.
///
/// # Errors
/// As the exit table says.
pub async fn run(args: &TokenArgs, printer: &Printer) -> Result<(), Failure> {
    let server = args.client.connect(printer).await?;
    let format = args.output.output;
    match &args.command {
        TokenCommand::Create(wanted) => create(&server, wanted, format, printer).await,
        TokenCommand::List => list(&server, format, printer).await,
        TokenCommand::Revoke { id, dry_run } => revoke(&server, id, *dry_run, format, printer).await,
    }
}

async fn create(server: &Server, wanted: &CreateArgs, format: Format, printer: &Printer) -> Result<(), Failure> {
    if wanted.region.is_some() && !matches!(wanted.role, Role::Agent | Role::Proxy) {
        return Err(Failure::usage("--region goes with --role agent and --role proxy only"));
    }
    if wanted.ttl.is_some_and(|ttl| ttl.is_zero()) {
        return Err(
            Failure::usage("--ttl 0s would be worthless").hint("leave --ttl out for a token that does not expire")
        );
    }
    let lasts = wanted.ttl.map_or_else(|| "until revoked".into(), |ttl| format!("for {}", duration::show(ttl)));
    if wanted.dry_run {
        printer.talk(&format!("would make a token of role {}, good {lasts}", wanted.role.name()));
        return Ok(());
    }
    let request = v1::CreateTokenRequest {
        role: wanted.role.name().into(),
        region: wanted.region.clone().unwrap_or_default(),
        ttl: wanted.ttl.map(sealane_proto::convert::wire_duration),
        comment: wanted.comment.clone(),
    };
    let answer = server.call(server.fleet().create_token(request)).await?;
    let token = answer.token.as_ref().ok_or_else(|| incomplete("token"))?;
    match format {
        Format::Json | Format::Yaml => {
            printer.show(format, "CreateTokenResponse", &answer, Vec::new, |_| String::new())
        }
        Format::Human | Format::Wide | Format::Name => {
            printer.talk(&format!(
                "token {} of role {}, good {lasts}; this is its only showing",
                clean(&token.id),
                wanted.role.name()
            ));
            printer.data(&answer.text)
        }
    }
}

async fn list(server: &Server, format: Format, printer: &Printer) -> Result<(), Failure> {
    let all = server.call(server.fleet().list_tokens(v1::ListTokensRequest {})).await?;
    let names = || all.tokens.iter().map(|token| token.id.clone()).collect();
    printer.show(format, "ListTokensResponse", &all, names, |look| {
        let mut table = Table::new(["ID", "ROLE", "REGION", "STATE", "CREATED", "EXPIRES", "COMMENT"]);
        let now = clock::now();
        for token in &all.tokens {
            let expired = token.expires_at.as_ref().is_some_and(|at| at.seconds <= now.as_second());
            let state = match (token.revoked, expired) {
                (true, _) => Cell::painted("revoked", Paint::Bad),
                (false, true) => Cell::painted("expired", Paint::Careful),
                (false, false) => Cell::painted("good", Paint::Good),
            };
            let expires = token.expires_at.as_ref().map_or_else(|| "never".into(), |at| duration::instant(Some(at)));
            table.row([
                (&token.id).into(),
                (&token.role).into(),
                (&token.region).into(),
                state,
                duration::ago(token.created_at.as_ref(), now).into(),
                expires.into(),
                (&token.comment).into(),
            ]);
        }
        table.render(look.colour)
    })
}

async fn revoke(server: &Server, id: &str, dry_run: bool, format: Format, printer: &Printer) -> Result<(), Failure> {
    if dry_run {
        let all = server.call(server.fleet().list_tokens(v1::ListTokensRequest {})).await?;
        if !all.tokens.iter().any(|token| token.id == id) {
            return Err(
                Failure::new(Exit::NotFound, format!("no token `{id}`")).hint("`sealane token list` shows them")
            );
        }
        printer.talk(&format!("would revoke {id}"));
        return Ok(());
    }
    let request = v1::RevokeTokenRequest { id: id.to_owned() };
    let answer = server.call(server.fleet().revoke_token(request)).await?;
    printer.show(
        format,
        "RevokeTokenResponse",
        &answer,
        || vec![id.to_owned()],
        |_| format!("{} is revoked\n", clean(id)),
    )
}
