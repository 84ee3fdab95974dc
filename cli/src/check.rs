//! `sealane check`: what is healthy, what is not, and what to type. `--pre` asks this machine only, before a start.
//!
//! Everything it says comes from somewhere else: the model's parser, the operating system, the authority's own view.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use clap::Args;
use sealane_model::config::Config;
use sealane_model::parse::{Reader, parse};
use sealane_model::problem::{Problem, Severity};
use sealane_model::selftest::run_tests;
use serde::Serialize;

use crate::args::{Format, OutputArgs};
use crate::client::ClientArgs;
use crate::clock;
use crate::exit::{Exit, Failure};
use crate::paint::{Paint, clean};
use crate::printer::Printer;
use crate::problems::Source;
use crate::validate::certificates;

mod fleet;

const EXAMPLES: &str = "\
Examples:
  sealane check                         this machine, and the fleet where there is one
  sealane check --pre config.yaml       before a start: file, ports, certificates, permissions, clock, limits
  sealane check --pre --data ./data     may the state be written there
  sealane check -o json                 [{state, name, message, next}]; exit 1 when something is bad";

/// Open files below which a busy proxy runs out of them.
const FILES_MIN: u64 = 4096;
/// 2025-01-01: a clock before this makes every certificate and timestamp invalid.
const CLOCK_MIN: i64 = 1_735_689_600;

/// For a certificate that ends.
const RENEW: &str = "put a newer one in its place, such as with `certbot renew`: `sealane run` takes it up by itself; \
                     `openssl x509 -enddate -noout -in FILE` shows its end";

/// Arguments of `sealane check`.
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES)]
pub struct CheckArgs {
    /// The config file [default: config.yml, then config.yaml, where there is one]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// This machine only: may a proxy start here
    #[arg(long)]
    pre: bool,
    /// A data directory that must be writable
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    Warning,
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    state: State,
    name: &'static str,
    message: String,
    /// What to type; may be empty.
    next: String,
}

/// What was found so far.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, name: &'static str, message: impl Into<String>) {
        self.0.push(Finding { state: State::Ok, name, message: message.into(), next: String::new() });
    }

    fn warning(&mut self, name: &'static str, message: impl Into<String>, next: impl Into<String>) {
        self.0.push(Finding { state: State::Warning, name, message: message.into(), next: next.into() });
    }

    fn bad(&mut self, name: &'static str, message: impl Into<String>, next: impl Into<String>) {
        self.0.push(Finding { state: State::Bad, name, message: message.into(), next: next.into() });
    }
}

/// Runs `sealane check`.
///
/// # Errors
/// [`Exit::Failed`] when something is bad.
pub async fn run(args: &CheckArgs, printer: &Printer) -> Result<(), Failure> {
    let mut found = Findings::default();
    let here = || ["config.yml", "config.yaml"].into_iter().map(PathBuf::from).find(|path| path.is_file());
    match args.file.clone().or_else(here) {
        Some(file) => check_file(&file, args.pre, &mut found),
        None => found.ok("config", "no file here to look at"),
    }
    if let Some(data) = &args.data {
        check_data(data, &mut found);
    }
    check_clock(&mut found);
    check_open_files(&mut found);
    if !args.pre {
        fleet::check(args, printer, &mut found).await;
    }
    show(&found.0, args.output.output, printer)?;
    let bad = found.0.iter().filter(|finding| finding.state == State::Bad).count();
    if bad > 0 {
        let words = match bad {
            1 => "1 thing is not as it should be".to_owned(),
            more => format!("{more} things are not as they should be"),
        };
        return Err(Failure::new(Exit::Failed, words));
    }
    Ok(())
}

fn show(found: &[Finding], format: Format, printer: &Printer) -> Result<(), Failure> {
    match format {
        Format::Json | Format::Yaml => printer.value(format, &serde_json::to_value(found).unwrap_or_default()),
        Format::Name => printer.text(
            &found.iter().filter(|it| it.state == State::Bad).map(|it| format!("{}\n", it.name)).collect::<String>(),
        ),
        Format::Human | Format::Wide => {
            let look = printer.look(format);
            let mut out = String::new();
            for Finding { state, name, message, next } in found {
                let (word, paint) = match state {
                    State::Ok => ("ok", Paint::Good),
                    State::Warning => ("warning", Paint::Careful),
                    State::Bad => ("bad", Paint::Bad),
                };
                let word = paint.apply(look.colour, &format!("{word:<8}"));
                out.push_str(&format!("{word}{name:<13}{}\n", clean(message)));
                if !next.is_empty() {
                    out.push_str(&format!("{:21}→ {}\n", "", clean(next)));
                }
            }
            printer.text(&out)
        }
    }
}

fn check_file(file: &Path, before_start: bool, found: &mut Findings) {
    let shown = file.display().to_string();
    let source = match Source::read(file) {
        Ok(source) => source,
        Err(failure) => {
            found.bad("config", failure.sentence().unwrap_or_default(), format!("`sealane init {shown}` writes one"));
            return;
        }
    };
    let (config, warnings) = match parse(&shown, &source.text, Reader::Local) {
        Ok(parsed) => parsed,
        Err(problems) => {
            let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
            let message = format!("{shown} has {errors} error{}", if errors == 1 { "" } else { "s" });
            found.bad("config", message, format!("sealane validate {shown}"));
            return;
        }
    };
    let failed = run_tests(&config).len();
    if failed > 0 {
        found.bad("config", format!("{failed} tests of {shown} fail"), format!("sealane validate {shown}"));
    } else if warnings.is_empty() {
        found.ok("config", format!("{shown} is valid"));
    } else {
        let message = format!("{shown} is valid, with {} warnings", warnings.len());
        found.warning("config", message, format!("sealane validate {shown}"));
    }
    check_certificates(&config, &shown, found);
    for listener in &config.listeners {
        let ip = listener.address.ip.unwrap_or(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
        check_port(&listener.address.to_string(), SocketAddr::new(ip, listener.address.port), before_start, found);
    }
    let admin = config.admin.as_ref().map_or(SocketAddr::from(([127, 0, 0, 1], 9090)), |admin| admin.address);
    check_port(&format!("admin {admin}"), admin, before_start, found);
}

fn check_certificates(config: &Config, shown: &str, found: &mut Findings) {
    let Some(tls) = &config.tls else { return };
    // On the machine that serves a missing or expired file is no hint but a fault.
    let problems = certificates::check(config, (shown, ""), clock::now().as_second());
    for Problem { code, message, .. } in &problems {
        match code.as_str() {
            "certificate_expires_soon" => found.warning("certificates", message, RENEW),
            "certificate_expired" => found.bad("certificates", message, RENEW),
            _ => found.bad("certificates", message, "check its path and who may read it"),
        }
    }
    if problems.is_empty() && !tls.certificates.is_empty() {
        found.ok("certificates", format!("{} readable, none expires within 30 days", tls.certificates.len()));
    }
    for certificate in &tls.certificates {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&certificate.key_file).map(|metadata| metadata.permissions().mode());
        if mode.is_ok_and(|mode| mode & 0o004 != 0) {
            let message = format!("every user of this machine can read `{}`", certificate.key_file);
            found.warning("certificates", message, format!("chmod 600 {}", certificate.key_file));
        }
    }
}

fn check_port(shown: &str, address: SocketAddr, before_start: bool, found: &mut Findings) {
    match TcpListener::bind(address) {
        Ok(_) => found.ok("ports", format!("{shown} can be bound")),
        Err(cause) if cause.kind() == std::io::ErrorKind::AddrInUse && !before_start => {
            found.ok("ports", format!("{shown} is in use, as it is while a proxy runs"));
        }
        Err(cause) => {
            let next = match cause.kind() {
                std::io::ErrorKind::AddrInUse => {
                    format!("`ss -ltnp 'sport = :{}'` names who has it; stop it or choose another port", address.port())
                }
                std::io::ErrorKind::PermissionDenied => {
                    "choose a port from 1024 on, or give the program the right: `setcap cap_net_bind_service=+ep`"
                        .to_owned()
                }
                _ => "choose an address of this machine: `ip address`".to_owned(),
            };
            found.bad("ports", format!("{shown} cannot be bound: {cause}"), next);
        }
    }
}

fn check_data(data: &Path, found: &mut Findings) {
    let shown = data.display();
    let written = std::fs::create_dir_all(data).and_then(|()| tempfile::tempfile_in(data));
    match written {
        Ok(_) => found.ok("data", format!("{shown} can be written")),
        Err(cause) => found.bad(
            "data",
            format!("{shown} cannot be written: {cause}"),
            format!("let the user that runs sealane own it: chown -R USER {shown}"),
        ),
    }
}

fn check_clock(found: &mut Findings) {
    let now = clock::now();
    if now.as_second() < CLOCK_MIN {
        let message = format!("this machine believes that it is {now}: certificates and timestamps will be refused");
        found.bad("clock", message, "set it: `timedatectl set-ntp true`");
    } else {
        found.ok("clock", format!("{}", now.strftime("%Y-%m-%d %H:%M:%S UTC")));
    }
}

fn check_open_files(found: &mut Findings) {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    // Name of three words, soft limit, hard limit, unit.
    let Some(soft) = line.and_then(|line| line.split_whitespace().nth(3)) else { return };
    match soft.parse::<u64>() {
        Ok(files) if files < FILES_MIN => found.warning(
            "open files",
            format!("a process may open {files}: each request takes two"),
            "raise it: `ulimit -n 65536`, or LimitNOFILE= of the service",
        ),
        _ => found.ok("open files", format!("a process may open {soft}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(found: &Findings, name: &str) -> Vec<(State, String)> {
        found.0.iter().filter(|it| it.name == name).map(|it| (it.state, it.message.clone())).collect()
    }

    #[test]
    fn a_port_that_is_taken_is_bad_before_a_start_and_says_who_to_ask() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let mut found = Findings::default();
        check_port("x", address, true, &mut found);
        assert_eq!(found.0[0].state, State::Bad);
        assert!(found.0[0].next.contains("ss -ltnp"), "{}", found.0[0].next);
        check_port("x", address, false, &mut found);
        assert_eq!(found.0[1].state, State::Ok);
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut found = Findings::default();
        check_data(folder.path(), &mut found);
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        check_data(&file.join("below"), &mut found);
        assert_eq!(named(&found, "data").iter().map(|it| it.0).collect::<Vec<_>>(), [State::Ok, State::Bad]);
    }
}
