//! `sealane run`: one proxy from one file, or from backends named on the command line, with no fleet.
//!
//! It reads the text, hands it to the parser and the result to the proxy, and does so again whenever the file (or a
//! certificate it names) changes or a SIGHUP arrives. With `--data` it serves sandbox routes beside it. A broken edit is refused with every problem and its line, and
//! what was serving goes on. It knows nothing of how a request is served.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use sealane_authority::sandbox::SandboxError;
use sealane_model::config::{Certificate, Config, ListenAddress, Listener, Position, Tls, TlsVersion};
use sealane_model::ids::Digest;
use sealane_model::parse::{Reader, parse};
use sealane_model::problem::{self, Problem, Severity};
use sealane_model::sandbox::{self, Places, SandboxTimes};
use sealane_proxy::desk::{Order, Origin};
use sealane_proxy::files::{self, Stamp};
use sealane_proxy::proxy::{Prepared, Proxy, RevisionTag};
use sealane_proxy::settings::{ListenFlag, Settings};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{info, warn};

use self::alb::Alb;
use self::orders::History;
use self::sandboxes::{Command, Sandboxes, Serve};
use self::source::{Source, Text};
use crate::admin::AdminArgs;
use crate::exit::{Exit, Failure};
use crate::printer::Printer;
use crate::service;
use crate::signals::{self, Stop};
use crate::upgrade::Upgrade;

mod alb;
mod orders;
mod sandboxes;
pub(crate) mod source;

/// Serves one config file, or backends named here
#[derive(Args, Clone, Debug)]
#[command(before_help = "Examples:
  sealane run config.yaml
  sealane run --to http://localhost:3000
  sealane run --to http://localhost:3000 --to http://localhost:3001 --listen :8000
  sealane run --data ./data     # routes by API: curl -X POST localhost:9090/routes -d \
      '{\"sandbox_id\":\"s1\",\"pattern\":\"^/api/\",\"target_url\":\"http://localhost:3000\"}'")]
pub struct RunArgs {
    /// Config file, YAML or JSON; without one and without --to: config.yml, then config.yaml
    file: Option<PathBuf>,
    /// The same as FILE
    #[arg(long, hide = true, conflicts_with = "file")]
    confpath: Option<PathBuf>,
    /// A backend for everything; several share the load
    #[arg(long, value_name = "URL", conflicts_with = "file", env = "SEALANE_TO", value_delimiter = ',')]
    to: Vec<String>,
    /// Address of the first listener, instead of the file's
    #[arg(long, value_name = "ADDR", env = "SEALANE_LISTEN")]
    listen: Option<ListenAddress>,
    /// Admin address: health, metrics, admin API; without a host it is loopback; `off` for none [default: the file's, else 127.0.0.1:9090]
    #[arg(long, value_name = "ADDR", env = "SEALANE_ADMIN")]
    admin: Option<String>,
    /// Keep sandbox routes in DIR/sealane.db and serve them; they are changed on the admin address (/routes)
    #[arg(long, value_name = "DIR", env = "SEALANE_DATA")]
    data: Option<PathBuf>,
    /// Lets the admin address be reachable from other machines without TLS and a token (development only)
    #[arg(long, env = "SEALANE_INSECURE_ADMIN")]
    insecure_admin: bool,
    /// A Unix socket through which a new process takes over the listening sockets of this one, without a refused
    /// connection: start it with the same flags, or send this one SIGUSR2
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

/// What references to secrets in a config may read.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct SecretArgs {
    /// Where `${file:PATH}` in a config may lead; without it, nowhere
    #[arg(long, value_name = "DIR", env = "SEALANE_SECRETS_DIR")]
    secrets_dir: Option<PathBuf>,
    /// Lets `${env:NAME}` in a config name any variable, not only SEALANE_SECRET_…
    #[arg(long, env = "SEALANE_ALLOW_ENV")]
    allow_env: bool,
}

impl SecretArgs {
    pub(crate) fn apply(self, settings: &mut Settings) {
        (settings.secrets_dir, settings.allow_env) = (self.secrets_dir, self.allow_env);
    }
}

/// Where the admin listener is unless the file or a flag says otherwise.
const ADMIN_DEFAULT: ([u8; 4], u16) = ([127, 0, 0, 1], 9090);
/// Between two looks at the file.
const POLL: Duration = Duration::from_millis(250);
/// Longest sleep until a sandbox route expires: a machine that was suspended notices then.
const EXPIRY_LOOK: Duration = Duration::from_secs(60);

/// Serves until a signal asks to stop.
///
/// # Errors
/// Usage where there is nothing to serve, invalid where the config cannot be, failed where an address is taken.
pub async fn run(args: RunArgs, printer: &Printer) -> Result<(), Failure> {
    let alb = Alb::read(|name| std::env::var(name).ok())?;
    let file = args.file.clone().or_else(|| args.confpath.clone());
    let database = alb.database(args.data.as_ref(), file.is_some() || !args.to.is_empty());
    let source = Source::choose(file, args.to.clone(), database.is_some())?;
    let database = database.map(|path| (path, alb.times));
    let handover = args.handover.clone();
    serve(source, |config| settings(&args, &alb, config), database, None, handover, printer).await
}

/// Serves a file with settings that do not come from `sealane run`. `certificate`: PEM files of certificate and key for
/// a file that names none.
pub(crate) async fn serve_file(
    file: PathBuf,
    settings: Settings,
    certificate: Option<(String, String)>,
    printer: &Printer,
) -> Result<(), Failure> {
    let wants_tls = settings.tls_listen.is_some();
    let settings_for = |config: &Config| match wants_tls && !config.listeners.iter().any(|listener| listener.tls) {
        true => Err(Failure::usage("--tls-addr is set and there is no certificate")
            .hint("write `tls: { certificates: … }` in the file, or set PROXY_TLS_CERT and PROXY_TLS_KEY")),
        false => Ok(settings),
    };
    serve(Source::File(file), settings_for, None, certificate, None, printer).await
}

async fn serve(
    source: Source,
    settings_for: impl FnOnce(&Config) -> Result<Settings, Failure>,
    database: Option<(PathBuf, SandboxTimes)>,
    certificate: Option<(String, String)>,
    handover: Option<PathBuf>,
    printer: &Printer,
) -> Result<(), Failure> {
    let text = source.read()?;
    let config = checked(&text, certificate.as_ref(), printer);
    let config = config.map_err(|problems| refused(&text, &problems, printer))?;
    let mut upgrade = Upgrade::begin(handover.as_deref())?;
    let mut settings = settings_for(&config)?;
    settings.inherited = upgrade.inherited.clone();
    let sandboxes = match &database {
        Some((path, times)) => Some(Sandboxes::open(path, *times).await?),
        None => None,
    };
    let (desk, commands) = sandboxes::line();
    if sandboxes.is_some()
        && let Some(admin) = &mut settings.admin
    {
        admin.extra = Some(sandboxes::api(desk));
    }
    let proxy = Proxy::start(settings).await.map_err(|error| failed("cannot start the proxy", error))?;
    let orders = proxy.take_orders(Reader::Local);
    let front = Front::new(proxy, Arc::new(config), tag(&text, Origin::File));
    let (digest, printer) = (text.digest(), *printer);
    let mut served = Served {
        printer,
        front,
        sandboxes,
        commands,
        orders,
        history: History::default(),
        source,
        certificate,
        digest,
        stamps: Vec::new(),
        is_pressed: false,
    };
    let config = Config::clone(&served.front.config);
    if let Err(problems) = served.activate(&text, config, Origin::File).await {
        served.front.proxy.stop().await;
        return Err(refused(&text, &problems, &printer));
    }
    served.announce();
    // First: the process before ends once it is told, and a service manager must know by then which process is the main one.
    service::ready();
    upgrade.serving()?;
    let proxy = served.front.proxy.clone();
    let stop = tokio::select! {
        stop = served.follow() => stop?,
        () = signals::replaced(&proxy, &mut upgrade) => Stop::Replaced,
        () = service::keep_watchdog(proxy.clone()) => Stop::Terminate,
    };
    // What was replaced is not what the service manager knows any more: from it the word would stop the new process.
    if stop != Stop::Replaced {
        service::stopping();
    }
    // Nobody answers from here on: who asks is told so.
    served.commands.close();
    served.orders.close();
    signals::drain(&served.front.proxy, stop).await;
    if let Some(sandboxes) = &served.sandboxes {
        sandboxes.close().await;
    }
    info!("stopped");
    Ok(())
}

/// The proxy, and the config that sandbox routes are joined to.
struct Front {
    proxy: Proxy,
    /// Without sandbox routes from the database. What is served unless it was just being tried.
    config: Arc<Config>,
    tag: RevisionTag,
    /// When the file was written, Unix time in milliseconds: from there the lives of its sandbox routes count.
    born_ms: Option<i64>,
    /// How old the file was, in milliseconds, when its routes were looked at last.
    looked_at_ms: AtomicU64,
}

impl Front {
    fn new(proxy: Proxy, config: Arc<Config>, tag: RevisionTag) -> Self {
        Self { proxy, config, tag, born_ms: None, looked_at_ms: AtomicU64::new(0) }
    }

    /// `base` without the sandbox routes of the file whose time is over.
    fn current(&self, base: &Config, born_ms: Option<i64>) -> Config {
        let mut config = base.clone();
        let age_ms = age_ms(born_ms);
        sandbox::end(&mut config, Duration::from_millis(age_ms));
        self.looked_at_ms.store(age_ms, Ordering::Relaxed);
        config
    }

    /// How long until a sandbox route of the file ends.
    fn next_end(&self) -> Option<Duration> {
        let looked_at = Duration::from_millis(self.looked_at_ms.load(Ordering::Relaxed));
        let age = Duration::from_millis(age_ms(self.born_ms));
        let lives = self.config.sandboxes.iter().flat_map(|sandboxes| &sandboxes.lives);
        lives.filter(|(_, life)| *life > looked_at).map(|(_, life)| life.saturating_sub(age)).min()
    }
}

fn age_ms(born_ms: Option<i64>) -> u64 {
    let now_ms = crate::clock::now().as_millisecond();
    born_ms.map_or(0, |born_ms| u64::try_from(now_ms.saturating_sub(born_ms)).unwrap_or(0))
}

impl Serve for Front {
    type Ready = Prepared;

    fn takes_sandboxes(&self) -> bool {
        self.config.sandboxes.as_ref().is_none_or(|sandboxes| sandboxes.enabled)
    }

    async fn prepare(&self, routes: &mut Places) -> Result<Prepared, SandboxError> {
        let mut config = self.current(&self.config, self.born_ms);
        routes.join(&mut config, |_| true);
        self.proxy.prepare(self.tag.clone(), Arc::new(config)).await.map_err(|problems| {
            SandboxError::Unservable(problems.first().map_or_else(String::new, |problem| problem.message.clone()))
        })
    }

    async fn activate(&self, ready: Prepared) -> Result<(), SandboxError> {
        self.proxy.activate(ready).await.map_err(|error| SandboxError::Unservable(error.to_string()))
    }
}

fn tag(text: &Text, origin: Origin) -> RevisionTag {
    let digest = text.digest();
    RevisionTag { number: 0, digest: digest.0, label: format!("{}:{}", origin.name(), digest.short()).into() }
}

/// A running proxy and the text it came from.
struct Served {
    printer: Printer,
    front: Front,
    /// With `--data`.
    sandboxes: Option<Sandboxes>,
    commands: mpsc::Receiver<Command>,
    /// Configs that come over the admin address.
    orders: mpsc::Receiver<Order>,
    history: History,
    source: Source,
    /// Files of a certificate for a config that names none.
    certificate: Option<(String, String)>,
    /// Of the text that was tried last, good or bad.
    digest: Digest,
    /// What the watched files looked like when it was tried.
    stamps: Vec<(PathBuf, Option<Stamp>)>,
    /// A change of the file waits until fewer retired snapshots are used; said once.
    is_pressed: bool,
}

impl Served {
    /// Compiles and swaps. On `Err` the old snapshot serves on.
    async fn activate(&mut self, text: &Text, config: Config, origin: Origin) -> Result<(), Vec<Problem>> {
        let files = watched(&self.source, &config);
        let looks = |path: &PathBuf| (path.clone(), Stamp::of(path));
        if origin == Origin::File {
            self.stamps = files.iter().map(looks).collect();
        }
        let (tag, base) = (tag(text, origin), Arc::new(config.clone()));
        let born_ms = self.born_ms(origin);
        let prepared = self.prepare_as(tag.clone(), config, born_ms).await?;
        let activated = self.front.proxy.activate(prepared).await;
        activated.map_err(|error| vec![local_problem(text, &error.to_string())])?;
        (self.front.config, self.front.tag, self.front.born_ms) = (base, tag, born_ms);
        if origin != Origin::File {
            // What the file looked like when it was read last still counts: a change of it wins.
            let known = std::mem::take(&mut self.stamps);
            let stamp = |path: &PathBuf| known.iter().find(|(its, _)| its == path).cloned();
            self.stamps = files.iter().map(|path| stamp(path).unwrap_or_else(|| looks(path))).collect();
        }
        self.remember(text, origin);
        Ok(())
    }

    /// Compiles and lets go of it again.
    async fn prepare(&mut self, text: &Text, config: Config) -> Result<(), Vec<Problem>> {
        let born_ms = self.born_ms(Origin::Applied);
        self.prepare_as(tag(text, Origin::Applied), config, born_ms).await.map(drop)
    }

    async fn prepare_as(
        &mut self,
        tag: RevisionTag,
        config: Config,
        born_ms: Option<i64>,
    ) -> Result<Prepared, Vec<Problem>> {
        let mut config = self.front.current(&config, born_ms);
        if let Some(sandboxes) = &mut self.sandboxes {
            sandboxes.join(&mut config);
        }
        self.front.proxy.prepare(tag, Arc::new(config)).await
    }

    /// From when the lives of a text's own sandbox routes count.
    fn born_ms(&self, origin: Origin) -> Option<i64> {
        match origin {
            Origin::File => self.source.written_ms(),
            _ => Some(crate::clock::now().as_millisecond()),
        }
    }

    /// Says where it listens.
    fn announce(&self) {
        for (name, address) in self.front.proxy.bound() {
            info!(listener = name, %address, "data plane listening");
        }
        let Some(address) = self.front.proxy.admin() else { return };
        let serves = if self.sandboxes.is_some() { "health, metrics, sandbox routes" } else { "health, metrics" };
        let reach = if address.ip().is_loopback() { "this machine only" } else { "other machines too" };
        info!(%address, reach, "admin plane listening ({serves})");
    }

    /// Follows the file until a signal asks to stop.
    async fn follow(&mut self) -> Result<Stop, Failure> {
        let mut hangup = signal(SignalKind::hangup()).map_err(|error| failed("cannot wait for signals", error))?;
        let mut stop = signals::Signals::new().map_err(|error| failed("cannot wait for signals", error))?;
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut seen_changed: Option<Vec<Option<Stamp>>> = None;
        loop {
            let end = self.front.next_end();
            let expiry = self.sandboxes.as_ref().and_then(Sandboxes::next_expiry);
            tokio::select! {
                stop = stop.next() => return Ok(stop),
                Some(command) = self.commands.recv() => {
                    if let Some(sandboxes) = &mut self.sandboxes {
                        sandboxes.carry_out(command, &self.front).await;
                    }
                }
                () = tokio::time::sleep(end.unwrap_or(EXPIRY_LOOK).min(EXPIRY_LOOK)), if end.is_some() => {
                    if self.front.next_end() == Some(Duration::ZERO) {
                        self.end_routes().await;
                    }
                }
                () = tokio::time::sleep(expiry.unwrap_or(EXPIRY_LOOK).min(EXPIRY_LOOK)), if expiry.is_some() => {
                    if let Some(sandboxes) = &mut self.sandboxes {
                        sandboxes.expire(&self.front).await;
                    }
                }
                Some(order) = self.orders.recv() => self.obey(order).await,
                _ = hangup.recv() => {
                    info!("hangup received, reading the config again");
                    service::reloading();
                    self.reload(true).await;
                    service::ready();
                }
                _ = poll.tick() => {
                    let now: Vec<_> = self.stamps.iter().map(|(path, _)| Stamp::of(path)).collect();
                    if now.iter().eq(self.stamps.iter().map(|(_, stamp)| stamp)) {
                        seen_changed = None;
                    } else if seen_changed.as_ref() == Some(&now) {
                        // The same new look twice: whoever writes has finished.
                        seen_changed = None;
                        self.reload(false).await;
                    } else {
                        seen_changed = Some(now);
                    }
                }
            }
        }
    }

    /// Ends the sandbox routes of the file whose time is over.
    async fn end_routes(&mut self) {
        let mut config = self.front.current(&self.front.config, self.front.born_ms);
        if let Some(sandboxes) = &mut self.sandboxes {
            sandboxes.join(&mut config);
        }
        let prepared = self.front.proxy.prepare(self.front.tag.clone(), Arc::new(config)).await;
        match prepared {
            Ok(prepared) => match self.front.proxy.activate(prepared).await {
                Ok(()) => info!("sandbox routes of the file ended"),
                Err(error) => warn!(%error, "sandbox routes of the file not ended"),
            },
            Err(problems) => warn!(problems = problems.len(), "sandbox routes of the file not ended"),
        }
    }

    /// Tries the text again. `always`: also when it did not change, because a file it names may have.
    async fn reload(&mut self, always: bool) {
        let certificates_changed = self.stamps.iter().skip(1).any(|(path, stamp)| Stamp::of(path) != *stamp);
        for (path, stamp) in &mut self.stamps {
            *stamp = Stamp::of(path);
        }
        let text = match self.source.read() {
            Ok(text) => text,
            Err(error) => {
                warn!(%error, "config not read, the old one serves on");
                return;
            }
        };
        let is_new = text.digest() != self.digest || always;
        if !is_new && !certificates_changed {
            return;
        }
        if let Some(retired) = self.front.proxy.pressure() {
            if !std::mem::replace(&mut self.is_pressed, true) {
                warn!(retired, "retired configs are still used by requests: the change waits until some of these end");
            }
            self.stamps.iter_mut().for_each(|(_, stamp)| *stamp = None);
            return;
        }
        self.is_pressed = false;
        // New certificates go into whatever is served; a new text of the file goes before what was applied.
        let (text, origin) = match self.history.current() {
            Some((applied, origin)) if !is_new => (applied.clone(), origin),
            Some((_, origin)) if origin != Origin::File => {
                info!("the file is served again, in place of what was applied");
                (text, Origin::File)
            }
            Some(_) | None => (text, Origin::File),
        };
        if is_new {
            self.digest = text.digest();
        }
        let outcome = match checked(&text, self.certificate.as_ref(), &self.printer) {
            Ok(config) => self.activate(&text, config, origin).await,
            Err(problems) => Err(problems),
        };
        match outcome {
            Ok(()) => info!(config = text.name, digest = text.digest().short(), "config swapped"),
            Err(problems) => {
                self.printer.talk_text(&problem::render(&problems, &text.text, self.printer.talks_in_colour()));
                warn!(config = text.name, problems = problems.len(), "config refused, the old one serves on");
            }
        }
    }
}

/// Parses, applies the flags, runs the file's own tests. Warnings are talked about; errors are returned.
fn checked(text: &Text, certificate: Option<&(String, String)>, printer: &Printer) -> Result<Config, Vec<Problem>> {
    let (mut config, warnings) = parse(&text.name, &text.text, Reader::Local)?;
    if let Some(files) = certificate {
        add_certificate(&mut config, files);
    }
    let failed = failed_tests(&text.name, &config);
    if failed.iter().any(|problem| problem.severity == Severity::Error) {
        return Err(failed);
    }
    if !warnings.is_empty() {
        printer.talk_text(&problem::render(&warnings, &text.text, printer.talks_in_colour()));
    }
    if config.rollout.is_some() {
        info!("the file's rollout is for a fleet and is not used here");
    }
    Ok(config)
}

/// Gives a config without a certificate this one, and a TLS listener.
fn add_certificate(config: &mut Config, (cert_file, key_file): &(String, String)) {
    let tls =
        config.tls.get_or_insert_with(|| Tls { min_version: TlsVersion::V1_2, certificates: Vec::new(), mtls: None });
    if !tls.certificates.is_empty() {
        return;
    }
    tls.certificates.push(Certificate {
        sni: None,
        cert_file: cert_file.clone(),
        key_file: key_file.clone(),
        at: Position::default(),
    });
    if !config.listeners.iter().any(|listener| listener.tls) {
        config.listeners.push(Listener {
            name: "https".to_owned(),
            address: ListenAddress { ip: None, port: 8443 },
            tls: true,
            redirect_to_https: false,
            proxy_protocol: false,
            at: Position::default(),
        });
    }
}

/// What the file's own tests found wrong, with the file's name.
fn failed_tests(file: &str, config: &Config) -> Vec<Problem> {
    let mut problems = sealane_model::selftest::run_tests(config);
    problems.iter_mut().for_each(|problem| problem.file = file.to_owned());
    problems
}

fn settings(args: &RunArgs, alb: &Alb, config: &Config) -> Result<Settings, Failure> {
    let admin = match args.admin.as_deref().or(alb.admin.as_deref()) {
        Some("off") => None,
        Some(text) => Some(admin_address(text)?),
        None => Some(match &config.admin {
            Some(admin) => admin.address,
            None => SocketAddr::from(ADMIN_DEFAULT),
        }),
    };
    let mut settings = proxy_settings(args.threads, admin, "--admin", args.insecure_admin);
    args.admin_access.apply(&mut settings)?;
    let flag = args.listen.clone().map(|address| ListenFlag { address, flag: "--listen" });
    let variable = alb.listen.clone().map(|address| ListenFlag { address, flag: "ALB_LISTEN_ADDR" });
    settings.http_listen = flag.or(variable);
    args.secrets.clone().apply(&mut settings);
    Ok(settings)
}

/// The proxy settings that every role shares. `flag` is what sets the admin address.
pub(crate) fn proxy_settings(
    threads: Option<usize>,
    admin: Option<SocketAddr>,
    flag: &'static str,
    insecure: bool,
) -> Settings {
    Settings {
        threads: threads.unwrap_or(0),
        admin: admin.map(|address| crate::admin::settings(address, flag, insecure)),
        ..Settings::default()
    }
}

/// An admin address without a host means loopback.
pub(crate) fn admin_address(text: &str) -> Result<SocketAddr, Failure> {
    let address: ListenAddress =
        text.parse().map_err(|error| Failure::usage(format!("admin address `{text}`")).because(error))?;
    Ok(SocketAddr::new(address.ip.unwrap_or(std::net::Ipv4Addr::LOCALHOST.into()), address.port))
}

/// The config file first, then the certificate files it names.
fn watched(source: &Source, config: &Config) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = match source {
        Source::File(path) => vec![path.clone()],
        Source::Backends(_) | Source::Sandboxes => Vec::new(),
    };
    files.extend(files::named(config));
    files
}

fn local_problem(text: &Text, message: &str) -> Problem {
    Problem {
        code: "activation_failed".into(),
        severity: Severity::Error,
        message: message.to_owned(),
        file: text.name.clone(),
        line: 0,
        column: 0,
        end_column: 0,
        path: String::new(),
        help: String::new(),
        suggestion: None,
    }
}

/// Says every problem; the failure itself has nothing to add.
fn refused(text: &Text, problems: &[Problem], printer: &Printer) -> Failure {
    printer.talk_text(&problem::render(problems, &text.text, printer.talks_in_colour()));
    Failure::quiet(Exit::Invalid)
}

/// An unexpected failure with its cause.
pub(crate) fn failed(what: &str, cause: impl Error + Send + Sync + 'static) -> Failure {
    Failure::new(Exit::Failed, what).because(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_address_without_a_host_is_loopback() {
        assert_eq!(admin_address(":9090").unwrap(), SocketAddr::from(ADMIN_DEFAULT));
        assert_eq!(admin_address("0.0.0.0:9090").unwrap().to_string(), "0.0.0.0:9090");
        assert!(admin_address("host:9090").is_err());
    }
}
