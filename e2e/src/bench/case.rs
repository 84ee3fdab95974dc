//! What is measured, and one round of it at one peer.

use std::fs;
use std::io;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::time::{interval, sleep};

use super::client::{self, Load, Seen, Way};
use super::cost;
use super::peer::{self, Kind, Peer, Surroundings};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// HTTP/1.1 keepalive, 100 bytes.
    Small,
    /// 10 KiB.
    Medium,
    /// 1 MiB.
    Large,
    /// TLS 1.3 keepalive, 100 bytes.
    Tls,
    /// A full TLS handshake for each request.
    Handshake,
    /// HTTP/2 over TLS to an HTTP/1.1 origin, 100 bytes.
    Http2,
    /// A new plain connection for each request.
    Connect,
    /// Memory of plain connections that have had an answer and idle.
    Idle,
    /// `Small` through a chain of request id, JWT, rate limit, header edits and access log, over `Small`; Sealane only.
    Chain,
    /// `Medium` from the cache over `Medium`; Sealane only.
    Cache,
    /// `Small` while snapshots are swapped ten times a second, against `Small` without; Sealane only.
    Swap,
    /// Data system calls of a small request; needs strace.
    Syscalls,
}

/// A case as it is asked for and reported.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// What is measured.
    pub case: Case,
    /// What it is called.
    pub name: &'static str,
    /// What its figure is.
    pub what: &'static str,
    /// What may not be exceeded.
    pub budgets: &'static [Budget],
}

/// What a figure may be at most.
#[derive(Clone, Copy, Debug)]
pub enum Budget {
    /// Times the figure of this peer.
    Of(&'static str, f64),
    /// Itself.
    Figure(f64),
}

/// Every case in order.
pub const CASES: [Described; 12] = {
    use Budget::{Figure, Of};
    const fn of(case: Case, name: &'static str, what: &'static str, budgets: &'static [Budget]) -> Described {
        Described { case, name, what, budgets }
    }
    [
        // First: later, memory that other cases needed would be used again.
        of(Case::Idle, "idle", "KiB per idle connection", &[Figure(2.5)]),
        of(Case::Small, "small", "CPU µs per request, keepalive, 100 B", &[Of("nginx", 0.72)]),
        of(Case::Medium, "medium", "CPU µs per request, keepalive, 10 KiB", &[Of("nginx", 0.78)]),
        of(Case::Large, "large", "CPU µs per request, keepalive, 1 MiB", &[Of("nginx", 0.45), Of("haproxy", 0.8)]),
        of(Case::Tls, "tls", "CPU µs per request, TLS 1.3 keepalive, 100 B", &[Of("nginx", 0.65)]),
        of(Case::Handshake, "handshake", "CPU µs per full TLS handshake and request", &[Of("nginx", 0.55)]),
        of(Case::Http2, "h2", "CPU µs per request, HTTP/2 over TLS, 100 B", &[Of("nginx", 0.70)]),
        of(Case::Connect, "connect", "CPU µs per request on a connection of its own, 100 B", &[]),
        of(Case::Chain, "chain", "CPU through a chain of middleware over CPU without, 100 B", &[Figure(1.6)]),
        of(Case::Cache, "cache", "CPU of a cache hit over CPU of a proxied request, 10 KiB", &[Figure(0.5)]),
        of(Case::Swap, "swap", "p99 with ten swaps a second over p99 without", &[Figure(1.05)]),
        of(Case::Syscalls, "syscalls", "data system calls per keepalive request, 100 B", &[Figure(4.2)]),
    ]
};

/// One round.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figure {
    /// What the case is about.
    pub value: f64,
    /// Requests a second.
    pub per_second: f64,
    /// Microseconds.
    pub p50: u32,
    /// Microseconds.
    pub p99: u32,
    /// Resident set of the peer in KiB.
    pub resident_kib: u64,
    /// Requests without a good answer.
    pub failed: u64,
}

/// How long and from where.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Of one round.
    pub duration: Duration,
    /// Connections that idle.
    pub idle_connections: usize,
    /// Resumes nothing, so that each handshake is a full one.
    pub tls: Arc<ClientConfig>,
    /// The same with HTTP/2 offered.
    pub tls_http2: Arc<ClientConfig>,
    /// Files and origin.
    pub around: Surroundings,
}

/// A line that browsers send.
const COOKIE: &str = "Cookie: sid=abcdef0123456789; theme=dark\r\n";
/// Before a round is measured.
const WARM_UP: Duration = Duration::from_millis(500);

/// One round of `case` at `peer`; `None`: this peer has no such thing.
///
/// # Errors
/// The load cannot be started.
pub async fn round(case: Case, peer: &Peer, setting: &Setting) -> io::Result<Option<Figure>> {
    let with = |path, connections, way, tls: Option<&Arc<ClientConfig>>, lines: &Arc<str>| Load {
        address: if tls.is_some() { peer.secure } else { peer.plain },
        path,
        lines: Arc::clone(lines),
        connections,
        way,
        tls: tls.cloned(),
    };
    let (cookie, none): (Arc<str>, Arc<str>) = (COOKIE.into(), "".into());
    let load = |path, connections, way, tls| with(path, connections, way, tls, &cookie);
    let kept = |path| load(path, 64, Way::KeepAlive, None);
    let tls = Some(&setting.tls);
    if peer.kind == Kind::Relay && !matches!(case, Case::Small | Case::Medium | Case::Large) {
        return Ok(None);
    }
    match case {
        Case::Small => cpu(peer, setting, kept("/s")).await.map(Some),
        Case::Medium => cpu(peer, setting, kept("/m")).await.map(Some),
        Case::Large => cpu(peer, setting, load("/l", 16, Way::KeepAlive, None)).await.map(Some),
        Case::Tls => cpu(peer, setting, load("/s", 64, Way::KeepAlive, tls)).await.map(Some),
        Case::Handshake => cpu(peer, setting, load("/s", 8, Way::Fresh, tls)).await.map(Some),
        Case::Connect => cpu(peer, setting, load("/s", 16, Way::Fresh, None)).await.map(Some),
        Case::Http2 => {
            let load = load("/s", 8, Way::Http2 { streams: 16 }, Some(&setting.tls_http2));
            cpu(peer, setting, load).await.map(Some)
        }
        Case::Idle => idle(peer, &load("/s", setting.idle_connections, Way::KeepAlive, None)).await.map(Some),
        Case::Chain if peer.kind == Kind::Own => {
            let lines: Arc<str> = format!("{COOKIE}{}", setting.around.authorization).into();
            let chain = with("/s/chain", 64, Way::KeepAlive, None, &lines);
            over(peer, setting, chain, kept("/s")).await.map(Some)
        }
        Case::Cache if peer.kind == Kind::Own => {
            // Answers to requests with cookies are not stored.
            let bare = |path| with(path, 64, Way::KeepAlive, None, &none);
            over(peer, setting, bare("/m/cached"), bare("/m")).await.map(Some)
        }
        Case::Chain | Case::Cache => Ok(None),
        Case::Swap => swap(peer, setting, load("/s", 32, Way::KeepAlive, None)).await,
        Case::Syscalls => syscalls(peer, setting, kept("/s")).await,
    }
}

/// What a request costs one way over what it costs another way.
async fn over(peer: &Peer, setting: &Setting, one: Load, other: Load) -> io::Result<Figure> {
    let (one, other) = (cpu(peer, setting, one).await?, cpu(peer, setting, other).await?);
    Ok(Figure { value: one.value / other.value, failed: one.failed + other.failed, ..one })
}

async fn cpu(peer: &Peer, setting: &Setting, load: Load) -> io::Result<Figure> {
    let running = load.start(&setting.around.load)?;
    sleep(WARM_UP).await;
    let before = cost::of(peer.pid());
    let seen = running.measure(setting.duration).await;
    let after = cost::of(peer.pid());
    Ok(figure((after.cpu_us - before.cpu_us) / seen.done as f64, &seen, setting.duration, after.resident_kib))
}

fn figure(value: f64, seen: &Seen, duration: Duration, resident_kib: u64) -> Figure {
    Figure {
        value,
        per_second: seen.done as f64 / duration.as_secs_f64(),
        p50: seen.quantile(0.5),
        p99: seen.quantile(0.99),
        resident_kib,
        failed: seen.failed,
    }
}

async fn idle(peer: &Peer, load: &Load) -> io::Result<Figure> {
    let before = cost::of(peer.pid()).resident_kib;
    let open = client::idle(load).await.map_err(|error| io::Error::other(format!("{}: {error}", peer.name)))?;
    let resident_kib = cost::of(peer.pid()).resident_kib;
    drop(open);
    let value = resident_kib.saturating_sub(before) as f64 / load.connections as f64;
    Ok(Figure { value, resident_kib, ..Figure::default() })
}

/// Between two swaps. The file is looked at every quarter of a second, twice before it is read.
const SWAP_INTERVAL: Duration = Duration::from_millis(100);

async fn swap(peer: &Peer, setting: &Setting, load: Load) -> io::Result<Option<Figure>> {
    let Some(config) = peer.config.clone() else { return Ok(None) };
    let running = load.start(&setting.around.load)?;
    sleep(WARM_UP).await;
    let without = running.measure(setting.duration).await;
    let (around, plain, secure, pid) = (setting.around.clone(), peer.plain, peer.secure, peer.pid());
    let swapping = tokio::spawn(async move {
        let mut ticks = interval(SWAP_INTERVAL);
        for version in 1.. {
            ticks.tick().await;
            fs::write(&config, peer::sealane_config(&around, plain, secure, version))?;
            if let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) {
                rustix::process::kill_process(pid, rustix::process::Signal::HUP)?;
            }
        }
        Ok::<(), io::Error>(())
    });
    let with = running.measure(setting.duration).await;
    swapping.abort();
    let ratio = f64::from(with.quantile(0.99)) / f64::from(without.quantile(0.99).max(1));
    Ok(Some(figure(ratio, &with, setting.duration, cost::of(peer.pid()).resident_kib)))
}

/// System calls that move data or wait for it.
const DATA_CALLS: &str = "read,write,readv,writev,recvfrom,sendto,recvmsg,sendmsg,splice,sendfile";

async fn syscalls(peer: &Peer, setting: &Setting, load: Load) -> io::Result<Option<Figure>> {
    let Some(strace) = peer::installed("strace") else { return Ok(None) };
    let running = load.start(&setting.around.load)?;
    sleep(WARM_UP).await;
    let mut command = Command::new(strace);
    command.args(["-f", "-c", "-U", "calls,name", "-e", &format!("trace={DATA_CALLS}")]);
    for pid in cost::family(peer.pid()) {
        command.args(["-p", &pid.to_string()]);
    }
    let tracing = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    sleep(WARM_UP).await;
    let seen = running.measure(setting.duration).await;
    if let Some(pid) = rustix::process::Pid::from_raw(tracing.id().cast_signed()) {
        rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    }
    let waiting = tokio::task::spawn_blocking(move || tracing.wait_with_output());
    let output = waiting.await.map_err(io::Error::other)??;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let calls: f64 = text
        .lines()
        .filter(|line| !line.contains("total"))
        .filter_map(|line| line.split_whitespace().next()?.parse::<f64>().ok())
        .sum();
    // The trace runs a little longer than the count: requests of the same rate fill it.
    let per_second = seen.done as f64 / setting.duration.as_secs_f64();
    let traced = per_second * (setting.duration + WARM_UP).as_secs_f64();
    Ok(Some(figure(calls / traced, &seen, setting.duration, 0)))
}

/// Client configs that trust `certificate` (PEM) and resume nothing.
///
/// # Errors
/// The certificate cannot be used.
pub fn client_configs(certificate: &[u8]) -> io::Result<(Arc<ClientConfig>, Arc<ClientConfig>)> {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject as _;
    let certificate = CertificateDer::from_pem_slice(certificate).map_err(io::Error::other)?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    let mut http2 = config.clone();
    http2.alpn_protocols = vec![b"h2".to_vec()];
    Ok((Arc::new(config), Arc::new(http2)))
}
