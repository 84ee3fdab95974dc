//! The long-running roles: `sealane authority`, `agent`, `proxy`. Flags in, a library started, a signal awaited.
//! What the roles do is in their own crates.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use clap::{Args, Subcommand};
use sealane_agent::Agent;
use sealane_authority::{Authority, TlsFiles};
use sealane_model::config::ListenAddress;
use sealane_model::parse::parse_plan;
use sealane_model::plan::Plan;
use sealane_model::problem;
use sealane_model::trust::Role;
use sealane_proxy::control::cold_start::{self, COLD_START};
use sealane_proxy::control::{self, AddressError, Control, ControlSettings, Enrolment, PullSettings, Source};
use sealane_proxy::proxy::Proxy;
use sealane_proxy::settings::{ListenFlag, Program, Settings};
use tracing::{info, warn};

use crate::admin::AdminArgs;
use crate::agent_rollback::{self, RollbackArgs};
use crate::authority::AuthorityCommand;
use crate::exit::{Exit, Failure};
use crate::printer::Printer;
use crate::run::{SecretArgs, failed, proxy_settings};
use crate::service;
use crate::signals::{self, Signals, Stop};
use crate::upgrade::Upgrade;

/// Keeps, signs and rolls out the fleet's config
#[derive(Args, Clone, Debug)]
#[command(before_help = "Examples:
  sealane authority --data ./authority
  sealane authority --data /var/lib/sealane --grpc-addr 0.0.0.0:7443 --tls-name authority.internal
  sealane authority --data ./authority --dev        # no tokens, loopback only

The first start writes DIR/admin.token, DIR/trust.json, DIR/ca.pem and DIR/client.yaml.")]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, disable_help_subcommand = true)]
pub struct AuthorityArgs {
    /// Work on the data directory instead of serving it
    #[command(subcommand)]
    command: Option<AuthorityCommand>,
    /// State directory; made at the first start
    #[arg(long, value_name = "DIR", env = "SEALANE_DATA", required = true)]
    data: Option<PathBuf>,
    /// Calls need no token; loopback only
    #[arg(long, env = "SEALANE_DEV")]
    dev: bool,
    /// gRPC address
    #[arg(long, value_name = "ADDR", env = "SEALANE_GRPC_ADDR", default_value = "127.0.0.1:7443")]
    grpc_addr: SocketAddr,
    /// HTTP address: JSON API, metrics
    #[arg(long, value_name = "ADDR", env = "SEALANE_HTTP_ADDR", default_value = "127.0.0.1:7480")]
    http_addr: SocketAddr,
    /// Server certificate, PEM
    #[arg(long, value_name = "FILE", env = "SEALANE_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", env = "SEALANE_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// CA of client certificates besides the authority's own, PEM
    #[arg(long, value_name = "FILE", env = "SEALANE_CLIENT_CA", requires = "tls_cert")]
    client_ca: Option<PathBuf>,
    /// Serve TLS with a certificate for this name, issued by the authority's own CA (DIR/ca.pem)
    #[arg(long, value_name = "NAME", env = "SEALANE_TLS_NAME", value_delimiter = ',', conflicts_with = "tls_cert")]
    tls_name: Vec<String>,
    /// Lets the addresses be reachable from other machines without TLS (development only)
    #[arg(long, env = "SEALANE_INSECURE_ADMIN")]
    insecure_admin: bool,
    /// A file whose `rollout:` holds for configs that have none
    #[arg(long, value_name = "FILE", env = "SEALANE_DEFAULT_PLAN")]
    default_plan: Option<PathBuf>,
    /// People beside its author who must approve each publish (`sealane revision approve`)
    #[arg(long, value_name = "N", env = "SEALANE_REQUIRE_APPROVALS", default_value_t = 0)]
    require_approvals: u32,
    /// Folder of Rego policies (*.rego) that every config must keep before it is published
    #[arg(long, value_name = "DIR", env = "SEALANE_POLICY_DIR")]
    policy_dir: Option<PathBuf>,
}

/// What a person does at an agent's machine.
#[derive(Clone, Debug, Subcommand)]
pub enum AgentCommand {
    /// Take this agent's proxies back to last good, without asking the authority
    Rollback(RollbackArgs),
}

/// Verifies revisions and rolls them out into the proxies next to it
#[derive(Args, Clone, Debug)]
#[command(before_help = "Examples:
  sealane token create --role agent --region eu > agent.token
  sealane agent --authority http://127.0.0.1:7443 --region eu --trust authority/trust.json \\
      --token-file agent.token --data ./agent-eu
  sealane agent --authority https://authority:7443 --ca-file ca.pem --region eu --trust trust.json \\
      --token-file agent.token --data ./agent-eu --grpc-addr 0.0.0.0:7444 --push edge-7.internal:7445
  sealane agent rollback --data ./agent-eu          # with the authority away, too")]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, disable_help_subcommand = true)]
pub struct AgentArgs {
    #[command(subcommand)]
    command: Option<AgentCommand>,
    /// URL of the authority's gRPC address
    #[arg(long, value_name = "URL", env = "SEALANE_AUTHORITY", required = true)]
    authority: Option<String>,
    /// Region of this agent and its proxies
    #[arg(long, value_name = "REGION", env = "SEALANE_REGION", required = true)]
    region: Option<String>,
    /// The fleet's trust root (the authority's trust.json)
    #[arg(long, value_name = "FILE", env = "SEALANE_TRUST", required = true)]
    trust: Option<PathBuf>,
    /// State directory; made at the first start
    #[arg(long, value_name = "DIR", env = "SEALANE_DATA", required = true)]
    data: Option<PathBuf>,
    /// Stable name, unique in the fleet [default: host name and port, kept in the state directory]
    #[arg(long, value_name = "ID", env = "SEALANE_ID")]
    id: Option<String>,
    /// Agent token; over TLS it is exchanged for a client certificate once
    #[arg(long, value_name = "FILE", env = "SEALANE_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// CA of the authority's certificate, PEM [default: the system's roots]
    #[arg(long, value_name = "FILE", env = "SEALANE_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// gRPC address for proxies, beyond loopback over mutual TLS; DIR/agent.sock always serves them too
    #[arg(long, value_name = "ADDR", env = "SEALANE_GRPC_ADDR", default_value = "127.0.0.1:7444")]
    grpc_addr: SocketAddr,
    /// HTTP address: proxies that poll, health, metrics; beyond loopback over mutual TLS
    #[arg(long, value_name = "ADDR", env = "SEALANE_HTTP_ADDR", default_value = "127.0.0.1:7481")]
    http_addr: SocketAddr,
    /// Call the control listener of a proxy there (its --control-addr); may be repeated
    #[arg(long, value_name = "ADDR", env = "SEALANE_PUSH", value_delimiter = ',')]
    push: Vec<String>,
    /// Lets the HTTP address be reachable from other machines without TLS and a token (development only)
    #[arg(long, env = "SEALANE_INSECURE_ADMIN")]
    insecure_admin: bool,
}

/// A proxy that an agent manages
#[derive(Args, Clone, Debug)]
#[command(before_help = "Examples:
  sealane proxy --agent http://127.0.0.1:7444 --trust authority/trust.json --data ./proxy-1
  sealane proxy --agent unix:agent-eu/agent.sock --trust authority/trust.json --data ./proxy-2 \\
      --http-addr 127.0.0.1:8081 --admin-addr 127.0.0.1:9091
  sealane proxy --agent https://agent.internal:7444 --ca-file ca.pem --token-file proxy.token \\
      --trust trust.json --data ./proxy-3                      # on another machine
  sealane proxy --control-addr 0.0.0.0:7445 --ca-file ca.pem --token-file proxy.token --trust trust.json --data ./proxy-4
  sealane proxy --pull-url https://files.example.com/fleet/ --trust trust.json --data ./proxy-5")]
pub struct ProxyArgs {
    /// The agent: http://HOST:PORT on this machine, https://HOST:PORT, or unix:PATH
    #[arg(long, value_name = "URL", env = "SEALANE_AGENT", conflicts_with_all = ["control_addr", "pull_url"])]
    agent: Option<String>,
    /// Wait here for the agent to call (its --push); beyond loopback over mutual TLS
    #[arg(long, value_name = "ADDR", env = "SEALANE_CONTROL_ADDR", conflicts_with = "pull_url")]
    control_addr: Option<SocketAddr>,
    /// Poll: an agent's HTTP address (a URL without a path), or a folder of `sealane revision export --dir` (with one)
    #[arg(long, value_name = "URL", env = "SEALANE_PULL_URL")]
    pull_url: Option<String>,
    /// Whether --pull-url is used
    #[arg(long, value_name = "BOOL", env = "SEALANE_ENABLE_PULL", action = clap::ArgAction::Set)]
    #[arg(default_value_t = true, num_args = 0..=1, default_missing_value = "true", hide_default_value = true)]
    enable_pull: bool,
    /// Between two polls, in milliseconds; an agent's news come at once nevertheless
    #[arg(long, value_name = "MS", env = "SEALANE_PULL_INTERVAL_MS", default_value_t = 5000)]
    #[arg(value_parser = clap::value_parser!(u64).range(50..=3_600_000))]
    pull_interval_ms: u64,
    /// Region of a proxy that polls a folder: it takes part in that region's waves
    #[arg(long, value_name = "REGION", env = "SEALANE_REGION")]
    region: Option<String>,
    /// The fleet's CA (the authority's ca.pem), for an agent on another machine; or the CA of a file server
    #[arg(long, value_name = "FILE", env = "SEALANE_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// Token of role proxy; exchanged for a client certificate once (also PULL_TOKEN)
    #[arg(long, value_name = "FILE", env = "SEALANE_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// A release key that the trust root must know (raw, hex, base64 or PEM)
    #[arg(long, value_name = "FILE", env = "SEALANE_PUBLIC_KEY_FILE")]
    public_key_file: Option<PathBuf>,
    /// The fleet's trust root (the authority's trust.json)
    #[arg(long, value_name = "FILE", env = "SEALANE_TRUST")]
    trust: Option<PathBuf>,
    /// State directory; made at the first start
    #[arg(long, value_name = "DIR", env = "SEALANE_DATA")]
    data: Option<PathBuf>,
    /// Stable name, unique in the fleet [default: host name and data port, kept in the state directory]
    #[arg(long, value_name = "ID", env = "SEALANE_ID")]
    id: Option<String>,
    /// Address of the first plain listener, instead of the revision's
    #[arg(long, value_name = "ADDR", env = "SEALANE_HTTP_ADDR")]
    http_addr: Option<ListenAddress>,
    /// Address of the first TLS listener, instead of the revision's
    #[arg(long, value_name = "ADDR", env = "SEALANE_TLS_ADDR")]
    tls_addr: Option<ListenAddress>,
    /// Serve this config file, without a fleet (also PROXY_CONFIG_FILE)
    #[arg(long, value_name = "FILE", env = "SEALANE_CONFIG_FILE", conflicts_with_all = ["agent", "control_addr", "pull_url"])]
    config_file: Option<PathBuf>,
    /// Admin address: health, metrics; without a host it is loopback; `off` for none [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDR", env = "SEALANE_ADMIN_ADDR")]
    admin_addr: Option<String>,
    /// Whether there is an admin listener
    #[arg(long, value_name = "BOOL", env = "SEALANE_ENABLE_ADMIN", action = clap::ArgAction::Set)]
    #[arg(default_value_t = true, num_args = 0..=1, default_missing_value = "true", hide_default_value = true)]
    enable_admin: bool,
    /// Bearer token that the admin API asks for (also ADMIN_TOKEN)
    #[arg(long, value_name = "TOKEN", env = "SEALANE_ADMIN_TOKEN")]
    admin_token: Option<String>,
    /// Lets the admin address be reachable from other machines without TLS and a token (development only)
    #[arg(long, env = "SEALANE_INSECURE_ADMIN")]
    insecure_admin: bool,
    /// The Unix socket through which a new process takes over this one's listening sockets, without a refused
    /// connection; `off` for none [default: DATA/handover.sock]
    #[arg(long, value_name = "PATH", env = "SEALANE_HANDOVER")]
    handover: Option<PathBuf>,
    /// Worker threads [default: one per core]
    #[arg(long, env = "SEALANE_THREADS")]
    threads: Option<usize>,
    #[command(flatten)]
    admin_access: AdminArgs,
    #[command(flatten)]
    secrets: SecretArgs,
}

/// Runs an authority until a signal asks to stop.
///
/// # Errors
/// As the authority's start.
pub async fn authority(args: AuthorityArgs, printer: &Printer) -> Result<(), Failure> {
    if let Some(command) = &args.command {
        return crate::authority::run(command, printer).await;
    }
    let data = args.data.ok_or_else(|| Failure::usage("--data DIR is missing"))?;
    let default_plan = args.default_plan.as_deref().map(|path| plan_of(path, printer)).transpose()?;
    let tls = args.tls_cert.zip(args.tls_key).map(|(cert, key)| TlsFiles { cert, key, client_ca: args.client_ca });
    let settings = sealane_authority::Settings {
        data,
        grpc_addr: args.grpc_addr,
        http_addr: args.http_addr,
        dev: args.dev,
        tls,
        tls_name: args.tls_name,
        insecure_admin: args.insecure_admin,
        default_plan,
        approvals_min: args.require_approvals,
        policy_dir: args.policy_dir,
        tuning: sealane_authority::Tuning::default(),
    };
    let mut signals = stop_signals()?;
    let authority =
        sealane_authority::start(settings).await.map_err(|error| failed("cannot start the authority", error))?;
    announce(&authority, printer);
    service::ready();
    let watchdog = tokio::spawn(service::keep_plain_watchdog());
    signals.next().await;
    service::stopping();
    watchdog.abort();
    info!("stopping; agents and proxies go on with what they have");
    authority.stop().await;
    Ok(())
}

/// Says what listens where, and after the first start what was written.
fn announce(authority: &Authority, printer: &Printer) {
    info!(address = %authority.grpc_addr(), "gRPC listening");
    info!(address = %authority.http_addr(), "HTTP listening");
    let Some(first) = authority.first_start() else { return };
    let mut lines = vec![
        "first start, written:".to_owned(),
        format!("  admin token  {}", first.admin_token.display()),
        format!("  trust root   {}", first.trust.display()),
        format!("  client file  {}", first.client.display()),
    ];
    if printer.is_live() {
        lines.push(format!("  token        {}", first.token));
    }
    lines.push(format!("hint: sealane publish fleet.yaml -m \"first\" --watch --client {}", first.client.display()));
    printer.talk(&lines.join("\n"));
}

/// The plan of a file that holds `rollout:`.
fn plan_of(path: &Path, printer: &Printer) -> Result<Plan, Failure> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::new(Exit::Invalid, format!("cannot read `{name}`")).because(error))?;
    parse_plan(&name, &text).map_err(|problems| {
        printer.talk_text(&problem::render(&problems, &text, printer.talks_in_colour()));
        Failure::quiet(Exit::Invalid)
    })
}

/// Runs an agent until a signal asks to stop.
///
/// # Errors
/// As the agent's start.
pub async fn agent(args: AgentArgs, printer: &Printer) -> Result<(), Failure> {
    if let Some(AgentCommand::Rollback(args)) = &args.command {
        return agent_rollback::run(args, printer).await;
    }
    let (Some(authority), Some(region), Some(trust), Some(data)) = (args.authority, args.region, args.trust, args.data)
    else {
        return Err(Failure::usage("--authority, --region, --trust and --data are needed"));
    };
    let settings = sealane_agent::Settings {
        id: args.id,
        token_file: args.token_file,
        ca_file: args.ca_file,
        grpc_addr: args.grpc_addr,
        http_addr: args.http_addr,
        push: args.push,
        insecure_admin: args.insecure_admin,
        ..sealane_agent::Settings::new(&region, &authority, trust, data)
    };
    let mut signals = stop_signals()?;
    let agent: Agent = sealane_agent::start(settings).await.map_err(|error| failed("cannot start the agent", error))?;
    info!(id = %agent.id(), proxies = %agent.grpc_addr(), http = %agent.http_addr(), "agent listening");
    service::ready();
    let watchdog = tokio::spawn(service::keep_plain_watchdog());
    signals.next().await;
    service::stopping();
    watchdog.abort();
    info!("stopping; proxies go on with what they have");
    agent.stop().await;
    Ok(())
}

/// Runs a proxy beside an agent until a signal asks to stop, then drains it.
///
/// # Errors
/// As the proxy's start.
pub async fn proxy(args: ProxyArgs, printer: &Printer) -> Result<(), Failure> {
    let seed = SeedVariables::read(|name| std::env::var(name).ok());
    let asked = args.admin_addr.as_deref().or(seed.admin_address.as_deref()).unwrap_or("127.0.0.1:9090");
    let admin = match asked {
        _ if !args.enable_admin => None,
        "off" => None,
        text => Some(crate::run::admin_address(text)?),
    };
    let mut own = proxy_settings(args.threads, admin, "--admin-addr", args.insecure_admin);
    own.http_listen = args.http_addr.map(|address| ListenFlag { address, flag: "--http-addr" });
    own.tls_listen = args.tls_addr.map(|address| ListenFlag { address, flag: "--tls-addr" });
    own.trace_endpoint = seed.trace_endpoint.as_deref().and_then(trace_endpoint);
    args.secrets.apply(&mut own);
    args.admin_access.apply(&mut own)?;
    if let Some(id) = &args.id {
        own.node.clone_from(id);
    }
    if let Some(admin) = own.admin.as_mut().filter(|admin| admin.token.is_none()) {
        admin.token = args.admin_token.or_else(|| seed.admin_token.clone()).filter(|token| !token.is_empty());
    }
    let pull_url = args.pull_url.filter(|_| args.enable_pull);
    let from_a_fleet = args.agent.is_some() || args.control_addr.is_some() || pull_url.is_some();
    if let Some(file) = args.config_file.or_else(|| seed.config_file.clone().filter(|_| !from_a_fleet)) {
        seed.warn_of_unused();
        return crate::run::serve_file(file, own, seed.certificate, printer).await;
    }
    let usage = |error: AddressError| Failure::usage(error.to_string());
    let source = match (args.agent, args.control_addr, pull_url) {
        (Some(agent), _, _) => Some(Source::Agent(agent.parse().map_err(usage)?)),
        (None, Some(address), _) => Some(Source::Listen(address)),
        (None, None, Some(url)) => Some(Source::Pull(PullSettings {
            url: url.parse().map_err(usage)?,
            interval: Duration::from_millis(args.pull_interval_ms),
            jitter: seed.pull_jitter()?,
            region: args.region,
        })),
        (None, None, None) => None,
    };
    let (Some(source), Some(trust), Some(data)) = (source, args.trust, args.data) else {
        return Err(Failure::usage("nothing says where the config comes from, or --trust and --data are missing")
            .hint(
                "sealane proxy (--agent URL | --control-addr ADDR | --pull-url URL) --trust FILE --data DIR   \
             (or: sealane proxy --config-file FILE)",
            ));
    };
    if let Some(key_file) = &args.public_key_file {
        pinned_key(&trust, key_file)?;
    }
    let enrolment = Enrolment { ca_file: args.ca_file, token_file: args.token_file, token: seed.pull_token.clone() };
    let settings = ControlSettings { id: args.id, source, enrolment, trust, data };
    if let Ok(value) = std::env::var(COLD_START) {
        return cold_start(&value, own, &settings).await;
    }
    let mut signals = stop_signals()?;
    let handover = match args.handover {
        Some(path) if path.as_os_str() == "off" => None,
        Some(path) => Some(path),
        None => Some(settings.data.join("handover.sock")),
    };
    let mut upgrade = Upgrade::begin(handover.as_deref())?;
    own.inherited = upgrade.inherited.clone();
    own.program = upgrade.program().map(|path| Program { path, arguments: std::env::args_os().skip(1).collect() });
    let proxy = Proxy::start(own).await.map_err(|error| failed("cannot start the proxy", error))?;
    let mut control = attach(&proxy, &settings).await?;
    info!(id = %control.id(), "proxy started");
    // First: the process before ends once it is told, and a service manager must know by then which process is the main one.
    service::ready();
    upgrade.serving()?;
    let watchdog = tokio::spawn(service::keep_watchdog(proxy.clone()));
    let stop = loop {
        tokio::select! {
            stop = signals.next() => break stop,
            successor = upgrade.asked() => {
                // The state directory is the new process's from now on; what is served here stays.
                control.stop().await;
                match successor.give(&proxy).await {
                    Ok(()) => {
                        signals::drain(&proxy, Stop::Replaced).await;
                        return Ok(());
                    }
                    Err(error) => {
                        warn!(%error, "serving on");
                        control = attach(&proxy, &settings).await?;
                    }
                }
            }
        }
    };
    service::stopping();
    watchdog.abort();
    control.say_goodbye().await;
    signals::drain(&proxy, stop).await;
    control.stop().await;
    Ok(())
}

/// A proxy of this state directory asks whether it would start from disk: this process shows it, and ends.
async fn cold_start(value: &str, own: Settings, settings: &ControlSettings) -> Result<(), Failure> {
    let asked = cold_start::Asked::begin(value).map_err(|error| failed("cannot try a start from disk", error))?;
    let own = Settings { admin: None, inherited: asked.sockets.clone(), ..own };
    let proxy = Proxy::start(own).await.map_err(|error| failed("cannot start the proxy", error))?;
    let served = asked.serve(&proxy, &settings.data).await;
    signals::drain(&proxy, Stop::Replaced).await;
    served.map_err(|error| failed("cannot try a start from disk", error))
}

async fn attach(proxy: &Proxy, settings: &ControlSettings) -> Result<Control, Failure> {
    let attached = control::attach(proxy.clone(), settings.clone()).await;
    attached.map_err(|error| failed("cannot start the proxy", error))
}

/// The trust root must list this key among those of the release role.
fn pinned_key(trust: &Path, key_file: &Path) -> Result<(), Failure> {
    let root = crate::key::read_root(trust)?;
    let bytes = std::fs::read(key_file)
        .map_err(|error| Failure::new(Exit::Invalid, format!("cannot read `{}`", key_file.display())).because(error))?;
    let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
    let document = root.document();
    let release = document.roles.iter().filter(|role| role.role == Role::Release).flat_map(|role| &role.key_ids);
    let known = release.filter_map(|id| document.keys.iter().find(|one| one.key.id() == *id));
    let is_it = known.map(|one| one.key.to_bytes()).any(|key| {
        let base64 = base64::engine::general_purpose::STANDARD.encode(key);
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        // The DER of an ed25519 key ends with the key's own bytes.
        let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = base64::engine::general_purpose::STANDARD.decode(body).unwrap_or_default();
        bytes == key || text == base64 || text.eq_ignore_ascii_case(&hex) || der.ends_with(&key)
    });
    if is_it {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Invalid,
        format!("the key in `{}` is no release key of the trust root `{}`", key_file.display(), trust.display()),
    ))
}

/// What spans can be sent to: OTLP over gRPC. `None`, with a warning: an endpoint of Jaeger's Thrift protocol.
fn trace_endpoint(text: &str) -> Option<String> {
    if text.contains(":14268") || text.trim_end_matches('/').ends_with("/api/traces") {
        warn!(
            "PROXY_TRACE_ENDPOINT names a Thrift endpoint (14268), and traces are sent as OTLP: nothing is exported; \
             name the collector's OTLP port (4317 for gRPC, beside 4318 for HTTP)"
        );
        return None;
    }
    Some(if text.contains("://") { text.to_owned() } else { format!("http://{text}") })
}

/// The environment variables of seed 004's README, below the flags. An empty one is not set.
#[derive(Debug, Default, PartialEq, Eq)]
struct SeedVariables {
    config_file: Option<PathBuf>,
    admin_address: Option<String>,
    admin_token: Option<String>,
    /// PEM files of the first TLS listener's certificate and key.
    certificate: Option<(String, String)>,
    /// The collector of traces.
    trace_endpoint: Option<String>,
    /// Longest addition to the interval between two polls, in milliseconds.
    pull_jitter_ms: Option<String>,
    /// Enrols at an agent; goes to a file server as it is.
    pull_token: Option<String>,
    /// Set, and of no use to this version; with what takes its place.
    unused: Vec<(&'static str, &'static str)>,
}

/// Variables of seed 004's program that have no use here, and what to do instead.
const UNUSED: [(&str, &str); 10] = [
    ("PROXY_METRICS_ADDRESS", "metrics are on the admin address"),
    ("ADMIN_TLS_CERT_FILE", ADMIN_ON_LOOPBACK),
    ("ADMIN_CERT_FILE", ADMIN_ON_LOOPBACK),
    ("ADMIN_TLS_KEY_FILE", ADMIN_ON_LOOPBACK),
    ("ADMIN_KEY_FILE", ADMIN_ON_LOOPBACK),
    ("ADMIN_CLIENT_CA_FILE", ADMIN_ON_LOOPBACK),
    ("ALLOW_UNSIGNED_ADMIN_CONFIG", "a fleet's proxy takes signed revisions only"),
    ("ROLLOUT_LOCKED_BAKE_MS", ROLLOUT_IN_CONFIG),
    ("ROLLOUT_ERROR_WINDOW_MS", ROLLOUT_IN_CONFIG),
    ("ROLLOUT_ERROR_PERCENT", ROLLOUT_IN_CONFIG),
];
const ADMIN_ON_LOOPBACK: &str = "the admin address has no TLS of its own: keep it on loopback";
const ROLLOUT_IN_CONFIG: &str = "stages, bake times and gates stand under `rollout:` of the config";

impl SeedVariables {
    fn read(get: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        Self {
            config_file: get("PROXY_CONFIG_FILE").map(PathBuf::from),
            admin_address: get("PROXY_ADMIN_ADDRESS"),
            admin_token: get("ADMIN_TOKEN"),
            certificate: get("PROXY_TLS_CERT").zip(get("PROXY_TLS_KEY")),
            trace_endpoint: get("PROXY_TRACE_ENDPOINT"),
            pull_jitter_ms: get("PULL_JITTER_MS"),
            pull_token: get("PULL_TOKEN"),
            unused: UNUSED.into_iter().filter(|(name, _)| get(name).is_some()).collect(),
        }
    }

    /// 500 ms unless set.
    fn pull_jitter(&self) -> Result<Duration, Failure> {
        let Some(text) = &self.pull_jitter_ms else { return Ok(Duration::from_millis(500)) };
        let ms = text.parse::<u64>().ok().filter(|ms| *ms <= 3_600_000);
        let ms =
            ms.ok_or_else(|| Failure::usage(format!("PULL_JITTER_MS: `{text}` is not 0 to 3600000 milliseconds")))?;
        Ok(Duration::from_millis(ms))
    }

    fn warn_of_unused(&self) {
        for (name, instead) in &self.unused {
            tracing::warn!("{name} is set, and has no use here: {instead}");
        }
    }
}

fn stop_signals() -> Result<Signals, Failure> {
    Signals::new().map_err(|error| failed("cannot wait for signals", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thrift_endpoint_of_traces_is_taken_and_not_used() {
        assert_eq!(trace_endpoint("http://jaeger:14268/api/traces"), None);
        assert_eq!(trace_endpoint("otel:4317").as_deref(), Some("http://otel:4317"));
        assert_eq!(trace_endpoint("https://otel:4317").as_deref(), Some("https://otel:4317"));
    }

    #[test]
    fn the_variables_of_seed_004_are_understood_and_what_has_no_use_is_said() {
        let read = |pairs: &[(&str, &str)]| {
            SeedVariables::read(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
        };
        assert_eq!(read(&[("PROXY_CONFIG_FILE", ""), ("ADMIN_TOKEN", "")]), SeedVariables::default());
        let all = read(&[
            ("PROXY_CONFIG_FILE", "c.yaml"),
            ("PROXY_ADMIN_ADDRESS", ":9090"),
            ("ADMIN_TOKEN", "t"),
            ("PROXY_TLS_CERT", "c.pem"),
            ("PROXY_TLS_KEY", "k.pem"),
            ("PROXY_METRICS_ADDRESS", ":9091"),
            ("ROLLOUT_ERROR_PERCENT", "5"),
        ]);
        assert_eq!(all.config_file, Some("c.yaml".into()));
        assert_eq!(all.certificate, Some(("c.pem".into(), "k.pem".into())));
        assert_eq!((all.admin_address.as_deref(), all.admin_token.as_deref()), (Some(":9090"), Some("t")));
        let unused: Vec<&str> = all.unused.iter().map(|(name, _)| *name).collect();
        assert_eq!(unused, ["PROXY_METRICS_ADDRESS", "ROLLOUT_ERROR_PERCENT"]);
        // A key without its certificate is of no use.
        assert_eq!(read(&[("PROXY_TLS_KEY", "k.pem")]).certificate, None);
    }
}
