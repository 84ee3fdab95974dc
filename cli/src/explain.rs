//! `sealane explain`: which route takes a request and why, in a file, on a running proxy, or in the fleet.
//!
//! The decision is the model's, the one that proxies run; nothing is sent.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use sealane_model::account::{Account, Asked, NotTaken, Share, Step, account};
use sealane_model::parse::{Reader, parse};
use sealane_proto::v1;
use serde_json::Value;

use crate::args::{Format, OutputArgs};
use crate::client::ClientArgs;
use crate::exit::{Exit, Failure};
use crate::printer::Printer;
use crate::problems::{self, Source};
use crate::words;

const EXAMPLES: &str = "\
Examples:
  sealane explain https://api.example.com/v1/users --file fleet.yaml
  sealane explain http://localhost:8080/x -X POST -H 'X-Version: v2' --file config.yaml
  sealane explain http://localhost:8080/x --admin 127.0.0.1:9090    what a running proxy would do
  sealane explain https://api.example.com/ --node edge-1            what a node of the fleet would do
  sealane explain https://api.example.com/ --revision r41           what a revision would do
  sealane explain --request-id 7f3a…                                a request of the past, while the proxy remembers it
  sealane explain --request-id 7f3a… --fleet                        the same, asked of every node of the fleet
Without --file, --admin, --node and --revision: config.yml or config.yaml of this directory, else the proxy at 127.0.0.1:9090.";

/// Largest answer of an admin address.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// How long a proxy may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Where a proxy's admin address is unless told otherwise.
const ADMIN_DEFAULT: &str = "127.0.0.1:9090";

/// Arguments of `sealane explain`.
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES)]
pub struct ExplainArgs {
    /// The request's URL, with scheme and host
    #[arg(value_name = "URL", required_unless_present = "request_id")]
    url: Option<String>,
    /// A request of the past, by the id of its log line, where the proxy still remembers it
    #[arg(long, value_name = "ID", conflicts_with_all = ["url", "header", "file", "revision"])]
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    request_id: Option<String>,
    /// A request header; as often as needed
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// The request's method
    #[arg(short = 'X', long, value_name = "METHOD", default_value = "GET")]
    method: String,
    /// A config file; `-` is stdin
    #[arg(long, value_name = "FILE", conflicts_with_all = ["admin", "node", "revision"])]
    file: Option<PathBuf>,
    /// Admin address of a running proxy
    #[arg(long, value_name = "ADDR", conflicts_with_all = ["node", "revision"])]
    admin: Option<String>,
    /// A node of the fleet: the revision that it serves
    #[arg(long, value_name = "ID")]
    node: Option<String>,
    /// Ask every node of the fleet for the request of `--request-id`
    #[arg(long, requires = "request_id", conflicts_with_all = ["admin", "node"])]
    fleet: bool,
    /// A revision such as r42
    #[arg(long, value_name = "REV", value_parser = words::parse_revision)]
    revision: Option<u64>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs `sealane explain`.
///
/// # Errors
/// [`Exit::Usage`] for a URL that is none, [`Exit::Invalid`] for a file that is not valid, else as the exit table says.
pub async fn run(args: &ExplainArgs, printer: &Printer) -> Result<(), Failure> {
    let asked = asked(args)?;
    let here = || ["config.yml", "config.yaml"].into_iter().map(PathBuf::from).find(|path| path.is_file());
    let (told, file) = if args.fleet || (args.request_id.is_some() && args.node.is_some()) {
        in_fleet(args, &asked, printer).await?
    } else if let Some(file) = &args.file {
        in_file(file, &asked, printer)?
    } else if let Some(admin) = &args.admin {
        (on_proxy(admin, args.request_id.as_deref(), &asked).await?, "its config".to_owned())
    } else if args.request_id.is_some() {
        (on_proxy(ADMIN_DEFAULT, args.request_id.as_deref(), &asked).await?, "its config".to_owned())
    } else if args.node.is_some() || args.revision.is_some() {
        in_fleet(args, &asked, printer).await?
    } else if let Some(file) = here() {
        in_file(&file, &asked, printer)?
    } else {
        (on_proxy(ADMIN_DEFAULT, None, &asked).await?, "its config".to_owned())
    };
    match args.output.output {
        Format::Human | Format::Wide => printer.text(&told.text(&file)),
        Format::Name => printer.data(told.route.as_deref().unwrap_or(&told.decision)),
        format @ (Format::Json | Format::Yaml) => {
            let value = serde_json::to_value(&told).unwrap_or_default();
            printer.value(format, &value)
        }
    }
}

fn asked(args: &ExplainArgs) -> Result<Asked, Failure> {
    let mut headers = Vec::new();
    for header in &args.header {
        let (name, value) = header
            .split_once(':')
            .ok_or_else(|| Failure::usage(format!("`{header}` is no header")).hint("write `-H 'Name: value'`"))?;
        headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
    }
    // `curl example.com/x` works, so this does too.
    let given = args.url.clone().unwrap_or_default();
    if given.starts_with('/') {
        let hint = format!("sealane explain http://localhost:8080{given}   (what a client asks for, with its host)");
        return Err(Failure::usage(format!("`{given}` has no host")).hint(hint));
    }
    let url = if given.contains("://") { given } else { format!("http://{given}") };
    Ok(Asked { method: args.method.to_ascii_uppercase(), url, headers })
}

fn in_file(file: &Path, asked: &Asked, printer: &Printer) -> Result<(Account, String), Failure> {
    let source = Source::read(file)?;
    let (config, _) = parse(&source.shown, &source.text, Reader::Local).map_err(|found| {
        printer.talk_text(&problems::pictures(&found, &source.text, printer.talks_in_colour()));
        Failure::new(Exit::Invalid, format!("{} is not valid", source.shown))
    })?;
    let told = account(&config, asked).map_err(|error| Failure::usage(error.to_string()))?;
    Ok((told, source.shown))
}

/// Asks a proxy's admin address.
async fn on_proxy(admin: &str, request_id: Option<&str>, asked: &Asked) -> Result<Account, Failure> {
    let query = match request_id {
        Some(id) => format!("request_id={}", escaped(id)),
        None => {
            let mut query = format!("url={}&method={}", escaped(&asked.url), escaped(&asked.method));
            for (name, value) in &asked.headers {
                query.push_str(&format!("&header={}", escaped(&format!("{name}: {value}"))));
            }
            query
        }
    };
    let body = ask_admin(admin, &format!("/api/v2/explain?{query}")).await?;
    serde_json::from_slice(&body)
        .map_err(|error| Failure::new(Exit::Failed, format!("{admin} is no admin address of a proxy")).because(error))
}

/// What a proxy's admin address answers to a GET.
pub(crate) async fn ask_admin(admin: &str, path: &str) -> Result<bytes::Bytes, Failure> {
    let base = admin.trim_end_matches('/');
    let base = if base.contains("://") { base.to_owned() } else { format!("http://{base}") };
    let unreachable = || {
        Failure::new(Exit::Unreachable, format!("cannot ask the proxy at {base}"))
            .hint("name the admin address of a proxy that runs, such as 127.0.0.1:9090; `--file FILE` explains a file")
    };
    let url = format!("{base}{path}");
    let mut request = http::Request::get(url);
    if let Ok(token) = std::env::var("SEALANE_ADMIN_TOKEN")
        && !token.is_empty()
    {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| Failure::usage(format!("`{admin}` is no address")).because(error))?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let answer = tokio::time::timeout(ANSWER_TIME, client.request(request)).await;
    let answer = answer.map_err(|_| unreachable())?.map_err(|error| unreachable().because(error))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect();
    let body = tokio::time::timeout(ANSWER_TIME, body).await.map_err(|_| unreachable())?;
    let body = body.map_err(|error| unreachable().because(error))?.to_bytes();
    if status == http::StatusCode::UNAUTHORIZED {
        return Err(Failure::new(Exit::NotAllowed, format!("the proxy at {base} wants a token"))
            .hint("put it into SEALANE_ADMIN_TOKEN"));
    }
    if !status.is_success() {
        let said: Option<Value> = serde_json::from_slice(&body).ok();
        let said = said.as_ref().and_then(|value| value["error"].as_str()).unwrap_or("it did not say why");
        let exit = if status == http::StatusCode::BAD_REQUEST { Exit::Usage } else { Exit::NotFound };
        return Err(Failure::new(exit, format!("the proxy at {base} answered {}: {said}", status.as_u16())));
    }
    Ok(body)
}

async fn in_fleet(args: &ExplainArgs, asked: &Asked, printer: &Printer) -> Result<(Account, String), Failure> {
    let server = args.client.connect(printer).await?;
    let request = v1::ExplainRequest {
        url: asked.url.clone(),
        method: asked.method.clone(),
        headers: asked
            .headers
            .iter()
            .map(|(name, value)| v1::ExplainHeader { name: name.clone(), value: value.clone() })
            .collect(),
        revision: args.revision.unwrap_or(0),
        node: args.node.clone().unwrap_or_default(),
        config_yaml: String::new(),
        request_id: args.request_id.clone().unwrap_or_default(),
    };
    let answer = server.call(server.config().explain(request)).await?;
    let file = match answer.node.as_str() {
        "" => format!("{} {}", words::revision(answer.revision), answer.file),
        node => format!("{} on {node}", answer.file),
    };
    if !answer.then_config.is_empty() {
        let route = if answer.then_route.is_empty() { "no route" } else { &answer.then_route };
        printer
            .talk(&format!("{} took it by {}: {route}; what follows is decided now", answer.node, answer.then_config));
    }
    Ok((of_wire(answer), file))
}

fn of_wire(answer: v1::ExplainResponse) -> Account {
    Account {
        request: answer.request,
        decision: answer.decision,
        status: u16::try_from(answer.status).ok().filter(|status| *status > 0),
        route: Some(answer.route).filter(|route| !route.is_empty()),
        pools: answer.pools.into_iter().map(|it| Share { pool: it.pool, percent: it.percent }).collect(),
        steps: answer.steps.into_iter().map(|it| Step { name: it.name, text: it.text, line: it.line }).collect(),
        tried: answer
            .not_taken
            .into_iter()
            .map(|it| NotTaken { route: it.route, why: it.why, line: it.line })
            .collect(),
        tried_left_out: answer.not_taken_left_out as usize,
    }
}

/// As a component of a query.
pub(crate) fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
