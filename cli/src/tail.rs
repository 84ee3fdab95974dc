//! `sealane tail`: requests of the fleet, or of one proxy, as they end.
//!
//! Lines are those of the access log, with its redaction, whether or not it is on. Nothing waits for this command: what is
//! too much is dropped at the proxy and counted.

use std::time::Duration;

use clap::Args;
use sealane_proto::v1;
use serde_json::Value;

use crate::args::{Format, OutputArgs};
use crate::client::ClientArgs;
use crate::duration;
use crate::exit::{Exit, Failure};
use crate::node::OneNodeArgs;
use crate::paint::{Paint, clean};
use crate::printer::Printer;

const EXAMPLES: &str = "\
Examples:
  sealane tail                                     requests of every node as they end
  sealane tail --status 5xx                        only failures
  sealane tail --route api --min-duration 500ms    slow requests of a route
  sealane tail --host example.com --path-prefix /v1/ --node edge-1
  sealane tail --addr 127.0.0.1:9090               one proxy, by its admin address, without a fleet
  sealane tail -o json | jq .path                  one JSON object a line, as in the access log
At most 500 a second come from each node; how many were left out is said.";

/// Arguments of `sealane tail`.
#[derive(Args, Debug)]
#[command(before_help = EXAMPLES)]
pub struct TailArgs {
    /// Only this route
    #[arg(long, value_name = "ID")]
    route: Option<String>,
    /// Only this pool
    #[arg(long, value_name = "ID")]
    pool: Option<String>,
    /// Only this status, or a class such as 5xx
    #[arg(long, value_name = "STATUS", value_parser = status)]
    status: Option<(u16, u16)>,
    /// Only this host
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Only paths that begin so
    #[arg(long, value_name = "PATH")]
    path_prefix: Option<String>,
    /// Only requests that took at least so long
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    min_duration: Option<Duration>,
    /// A node of the fleet; as often as needed [default: every node]
    #[arg(long, value_name = "ID")]
    node: Vec<String>,
    /// End after so many requests
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<u64>,
    #[command(flatten)]
    one: OneNodeArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

fn status(text: &str) -> Result<(u16, u16), String> {
    sealane_proxy::tap::Filter::status_of(text).ok_or_else(|| "a status is such as 404, a class such as 5xx".to_owned())
}

/// What was printed so far.
struct Shown<'a> {
    printer: &'a Printer,
    format: Format,
    left: u64,
    dropped: u64,
}

/// Runs `sealane tail`.
///
/// # Errors
/// [`Exit::Unfinished`] when `--timeout` is over, else as the exit table says.
pub async fn run(args: &TailArgs, printer: &Printer) -> Result<(), Failure> {
    let mut shown = Shown { printer, format: args.output.output, left: args.lines.unwrap_or(u64::MAX), dropped: 0 };
    let limit = args.client.timeout;
    let followed = async {
        match args.one.node()? {
            Some(node) => of_one(args, &node, &mut shown).await,
            None => of_fleet(args, &mut shown).await,
        }
    };
    let ended = match limit {
        Some(limit) => tokio::select! {
            ended = followed => Some(ended),
            () = tokio::time::sleep(limit) => None,
            _ = tokio::signal::ctrl_c() => Some(Ok(())),
        },
        None => tokio::select! {
            ended = followed => Some(ended),
            _ = tokio::signal::ctrl_c() => Some(Ok(())),
        },
    };
    if shown.dropped > 0 {
        printer.talk(&format!("{} requests were left out: they came too fast. Filters see all of them", shown.dropped));
    }
    // Who asks to follow for a while has what was asked for.
    ended.unwrap_or(Ok(()))
}

async fn of_one(args: &TailArgs, node: &crate::node::Node, shown: &mut Shown<'_>) -> Result<(), Failure> {
    let mut query = Vec::new();
    let mut add = |name: &str, value: Option<String>| {
        query.extend(value.map(|value| format!("{name}={}", crate::explain::escaped(&value))));
    };
    add("route", args.route.clone());
    add("pool", args.pool.clone());
    add("host", args.host.clone());
    add("path_prefix", args.path_prefix.clone());
    add("min_duration_ms", args.min_duration.map(|least| least.as_millis().to_string()));
    add("lines", args.lines.map(|lines| lines.to_string()));
    add(
        "status",
        args.status.map(|(from, to)| if from == to { from.to_string() } else { format!("{}xx", from / 100) }),
    );
    let mut lines = node.lines(&format!("/api/v2/tail?{}", query.join("&"))).await?;
    shown.printer.talk("following; Ctrl-C ends it");
    while let Some(line) = lines.next().await {
        if shown.take(&line?, "")? {
            return Ok(());
        }
    }
    if shown.left == 0 { Ok(()) } else { Err(Failure::new(Exit::Unreachable, "the proxy ended the stream")) }
}

async fn of_fleet(args: &TailArgs, shown: &mut Shown<'_>) -> Result<(), Failure> {
    let server = args.client.connect(shown.printer).await?;
    let (from, to) = args.status.unwrap_or_default();
    let filter = v1::TailFilter {
        route: args.route.clone().unwrap_or_default(),
        pool: args.pool.clone().unwrap_or_default(),
        status_from: from.into(),
        status_to: to.into(),
        host: args.host.clone().unwrap_or_default(),
        path_prefix: args.path_prefix.clone().unwrap_or_default(),
        min_duration_ms: args.min_duration.map_or(0, |least| u32::try_from(least.as_millis()).unwrap_or(u32::MAX)),
    };
    let request = v1::TailRequest { filter: Some(filter), nodes: args.node.clone() };
    let mut stream = server.call(server.fleet().tail(request)).await?;
    let mut followed = 0_usize;
    loop {
        let response = match stream.message().await {
            Ok(Some(response)) => response,
            Ok(None) => return Err(Failure::new(Exit::Unreachable, "the authority ended the stream")),
            Err(status) => return Err(server.failure(&status)),
        };
        if !response.problem.is_empty() {
            shown.printer.warn(&format!("{}: {}", response.node, response.problem));
        } else if response.lines.is_empty() && response.dropped == 0 {
            followed += 1;
            if followed == 1 {
                shown.printer.talk(&format!("following {} and what joins; Ctrl-C ends it", response.node));
            }
        }
        shown.dropped += response.dropped;
        for line in &response.lines {
            if shown.take(line, &response.node)? {
                return Ok(());
            }
        }
    }
}

impl Shown<'_> {
    /// Prints a line of a node; whether it was the last one.
    fn take(&mut self, line: &str, node: &str) -> Result<bool, Failure> {
        let Ok(mut value) = serde_json::from_str::<Value>(line) else { return Ok(false) };
        if let Some(dropped) = value["dropped"].as_u64() {
            self.dropped += dropped;
            return Ok(false);
        }
        if !node.is_empty() {
            // What the fleet calls it; the node itself may not know.
            value["node"] = node.into();
        }
        match self.format {
            Format::Json => self.printer.value_of_many(Format::Json, &value)?,
            Format::Yaml => self.printer.value_of_many(Format::Yaml, &value)?,
            Format::Name => self.printer.data(value["request_id"].as_str().unwrap_or_default())?,
            Format::Human | Format::Wide => {
                let look = self.printer.look(self.format);
                self.printer.text(&human(&value, look.colour, look.wide))?;
            }
        }
        self.left = self.left.saturating_sub(1);
        Ok(self.left == 0)
    }
}

/// One request on one line.
fn human(value: &Value, colour: bool, wide: bool) -> String {
    let text = |name: &str| clean(value[name].as_str().unwrap_or_default());
    let status = value["status"].as_u64().unwrap_or(0);
    let paint = match status {
        500.. | 0 => Paint::Bad,
        400..=499 => Paint::Careful,
        _ => Paint::Good,
    };
    let time = text("timestamp");
    let time = time.split('T').nth(1).unwrap_or_default().trim_end_matches('Z');
    let to = match (text("route"), text("endpoint")) {
        (route, _) if route.is_empty() => "no route".to_owned(),
        (route, endpoint) if endpoint.is_empty() => route,
        (route, endpoint) => format!("{route} → {endpoint}"),
    };
    let reason = text("reason");
    let reason = if reason.is_empty() { reason } else { format!(" ({reason})") };
    let more = if wide {
        format!("  {} {} {}", text("remote_addr"), text("revision"), text("request_id"))
    } else {
        String::new()
    };
    format!(
        "{time} {:<12} {} {:>9.3} ms  {} {}{}  {to}{reason}{more}\n",
        text("node"),
        paint.apply(colour, &format!("{status:03}")),
        value["duration_ms"].as_f64().unwrap_or(0.0),
        text("method"),
        text("host"),
        text("path"),
    )
}
