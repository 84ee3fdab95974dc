//! `sealane demo`: a whole fleet in one terminal, on loopback, in one directory.
//!
//! It starts the three roles as libraries in this process, toy backends, and traffic that counts what a user would
//! have seen. From then on it is a client like any other: what it publishes goes through the authority's door.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use sealane_agent::Agent;
use sealane_authority::Authority;
use sealane_proto::v1;
use sealane_proxy::control::Control;
use sealane_proxy::proxy::Proxy;

use self::files::Configs;
use self::traffic::{Counts, Traffic};
use crate::args::Format;
use crate::backend::{Backend, BackendOptions, start_backend};
use crate::client::{ClientArgs, Server};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;
use crate::rollout::{Follow, follow};
use crate::run::failed;
use crate::signals::Signals;
use crate::words;

mod files;
mod ports;
mod start;
mod traffic;

const EXAMPLES: &str = "\
Examples:
  sealane demo                 a fleet on this machine; it prints what to type in a second terminal
  sealane demo --once          play a good release and a bad one, then exit";

/// Arguments of `sealane demo`.
#[derive(Clone, Debug, Args)]
#[command(before_help = EXAMPLES)]
pub struct DemoArgs {
    /// Work in this directory and keep it [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Play both releases, print their verdicts and the traffic counts, exit
    #[arg(long)]
    once: bool,
}

/// Regions of the demo's agents.
const REGIONS: [&str; 2] = ["eu", "us"];
/// Proxies beside each agent.
const PROXIES_PER_AGENT: usize = 3;
/// Toy backends.
const BACKENDS: u16 = 3;
/// For anything that should be there in a moment.
const SOON: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Everything that runs. Dropped or stopped, nothing of it is left.
struct Fleet {
    directory: PathBuf,
    configs: Configs,
    authority: Authority,
    agents: Vec<Agent>,
    proxies: Vec<(Proxy, Control)>,
    data: Vec<SocketAddr>,
    backends: Vec<Backend>,
    /// Bound and never listened on: a connection to it is refused, and nobody else can take it.
    _dead: socket2::Socket,
    client: ClientArgs,
}

/// Runs the demo until Ctrl-C, or once.
///
/// # Errors
/// When something does not start, or with `--once` when a release did not end as it should.
pub async fn run(args: DemoArgs, printer: &Printer) -> Result<(), Failure> {
    let temporary = match &args.dir {
        Some(_) => None,
        None => Some(
            tempfile::Builder::new()
                .prefix("sealane-demo-")
                .tempdir()
                .map_err(|error| failed("cannot make a directory", error))?,
        ),
    };
    let directory = match (&args.dir, &temporary) {
        (Some(directory), _) => directory.clone(),
        (None, Some(temporary)) => temporary.path().to_owned(),
        (None, None) => return Err(Failure::new(Exit::Failed, "no directory to work in")),
    };
    let mut signals = Signals::new().map_err(|error| failed("cannot wait for signals", error))?;
    let ended = tokio::select! {
        ended = play(&args, &directory, printer) => ended,
        _ = signals.next() => Ok(()),
    };
    printer.talk("stopped");
    ended
}

async fn play(args: &DemoArgs, directory: &Path, printer: &Printer) -> Result<(), Failure> {
    let fleet = start::fleet(directory, printer).await?;
    let traffic = Traffic::start(&fleet.data);
    describe(&fleet, args.once, printer);
    if args.once {
        let ended = once(&fleet, &traffic, printer).await;
        fleet.stop().await;
        return ended;
    }
    watch(&fleet, &traffic, printer).await
}

impl Fleet {
    async fn stop(self) {
        for (proxy, control) in self.proxies {
            control.stop().await;
            proxy.stop().await;
        }
        for agent in self.agents {
            agent.stop().await;
        }
        self.authority.stop().await;
    }
}

/// Says what listens where, and what to type next.
fn describe(fleet: &Fleet, once: bool, printer: &Printer) {
    let list = |addresses: &[SocketAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join("  ");
    let backends: Vec<SocketAddr> = fleet.backends.iter().map(Backend::address).collect();
    printer.talk("");
    printer.talk(&format!("  directory   {}", fleet.directory.display()));
    printer.talk(&format!(
        "  authority   gRPC {}   HTTP http://{}",
        fleet.authority.grpc_addr(),
        fleet.authority.http_addr()
    ));
    for (index, region) in REGIONS.iter().enumerate() {
        let from = index * PROXIES_PER_AGENT;
        printer.talk(&format!("  region {region}   proxies  {}", list(&fleet.data[from..from + PROXIES_PER_AGENT])));
    }
    let admins: Vec<SocketAddr> = fleet.proxies.iter().filter_map(|(proxy, _)| proxy.admin()).collect();
    printer.talk(&format!("  admin       {}", list(&admins)));
    printer.talk(&format!("  backends    {}", list(&backends)));
    printer.talk(&format!("  traffic     {} requests a second to each proxy", traffic::PER_SECOND));
    printer.talk("");
    if once {
        return;
    }
    let program = std::env::current_exe().map_or_else(|_| "sealane".into(), |path| path.display().to_string());
    let at = |name: &str| fleet.directory.join(name).display().to_string();
    let client = at("client.yaml");
    printer.talk("In a second terminal, a change that is fine, and one that is not:");
    printer.talk("");
    printer.talk(&format!("  {program} publish {} -m good --watch --client {client}", at("good.yaml")));
    printer.talk(&format!("  {program} publish {} -m bad --watch --client {client}", at("bad.yaml")));
    printer.talk("");
    printer.talk("What runs where, and a request of your own:");
    printer.talk("");
    printer.talk(&format!("  {program} fleet status --client {client}"));
    if let Some(first) = fleet.data.first() {
        printer.talk(&format!("  curl -i http://{first}/"));
    }
    printer.talk("");
    if let (Some(data), Some(admin), Some(backend)) = (fleet.data.first(), admins.first(), backends.first()) {
        printer.talk("A route of your own, served by every proxy at once:");
        printer.talk("");
        printer.talk(&format!(
            "  curl -X POST http://{admin}/routes -d '{{\"sandbox_id\":\"me\",\"pattern\":\"^/\",\"target_url\":\"http://{backend}\",\"priority\":1}}'"
        ));
        printer.talk(&format!("  curl -i -H 'Host: {}' http://{data}/", files::SANDBOX_HOST));
        printer.talk("");
    }
    printer.talk("Ctrl-C ends everything.");
    printer.talk("");
}

/// Publishes the good release, then the bad one; both must end as they should.
async fn once(fleet: &Fleet, traffic: &Traffic, printer: &Printer) -> Result<(), Failure> {
    let server = fleet.client.connect(printer).await?;
    let good = release(fleet, &server, &fleet.configs.good, traffic, printer).await?;
    let bad = release(fleet, &server, &fleet.configs.bad, traffic, printer).await?;
    let mut wrong = Vec::new();
    if good.exit != Exit::Done || good.counts.failed() > 0 {
        wrong.push(format!("the good release should have completed without a failed request: {}", good.summary()));
    }
    // The roll back is over when every proxy serves last good again, so the canary alone can have failed.
    if bad.exit != Exit::RolledBack || bad.counts.proxies_with_failures() != 1 {
        wrong.push(format!("the bad release should have been rolled back from one canary: {}", bad.summary()));
    }
    if wrong.is_empty() { Ok(()) } else { Err(Failure::new(Exit::Failed, wrong.join("; "))) }
}

/// How a release went, and what users saw meanwhile.
struct Played {
    exit: Exit,
    counts: Counts,
}

impl Played {
    fn summary(&self) -> String {
        format!(
            "{} requests, {} failed, at {} of {} proxies",
            self.counts.sent(),
            self.counts.failed(),
            self.counts.proxies_with_failures(),
            self.counts.proxies.len()
        )
    }
}

async fn release(
    fleet: &Fleet,
    server: &Server,
    file: &Path,
    traffic: &Traffic,
    printer: &Printer,
) -> Result<Played, Failure> {
    let before = traffic.counts();
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    printer.talk(&format!("publish {name}"));
    let revision = publish(server, file, &name).await?;
    let wanted = Follow { revision, text: None, hold_is_done: false };
    let exit = match follow(server, wanted, Format::Human, printer).await {
        Ok(()) => Exit::Done,
        Err(failure) if failure.sentence().is_none() => failure.exit,
        Err(failure) => return Err(failure),
    };
    let played = Played { exit, counts: traffic.counts().since(&before) };
    printer.data(&format!("traffic during r{revision}: {}", played.summary()))?;
    debug_assert_eq!(played.counts.proxies.len(), fleet.data.len());
    Ok(played)
}

/// Publishes a file and gives its revision.
async fn publish(server: &Server, file: &Path, message: &str) -> Result<u64, Failure> {
    let config_yaml =
        std::fs::read_to_string(file).map_err(|error| failed("cannot read the demo's own file", error))?;
    let request = v1::PublishRequest {
        config_yaml,
        file: message.to_owned(),
        message: message.to_owned(),
        request_id: words::request_id()?,
        ..Default::default()
    };
    let answer = server.call(server.config().publish(request)).await?;
    answer.revision.map(|revision| revision.revision).ok_or_else(|| crate::client::incomplete("revision"))
}

/// Tells each rollout that somebody starts from another terminal, and what the traffic saw of it.
async fn watch(fleet: &Fleet, traffic: &Traffic, printer: &Printer) -> Result<(), Failure> {
    let server = fleet.client.connect(printer).await?;
    let mut told = newest(&server).await?;
    loop {
        let revision = newest(&server).await?;
        if revision <= told {
            tokio::time::sleep(LOOK * 4).await;
            continue;
        }
        told = revision;
        let before = traffic.counts();
        printer.talk(&format!("{} was published", words::revision(revision)));
        let wanted = Follow { revision, text: None, hold_is_done: false };
        match follow(&server, wanted, Format::Human, printer).await {
            Ok(()) => {}
            Err(failure) if failure.sentence().is_none() => {}
            Err(failure) => return Err(failure),
        }
        let seen = Played { exit: Exit::Done, counts: traffic.counts().since(&before) };
        printer.talk(&format!("traffic meanwhile: {}", seen.summary()));
        printer.talk("");
    }
}

async fn newest(server: &Server) -> Result<u64, Failure> {
    let fleet = server.call(server.fleet().get_fleet(v1::GetFleetRequest {})).await?;
    Ok(fleet.revision_newest)
}
