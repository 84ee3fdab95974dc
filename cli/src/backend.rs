//! `sealane backend`: a toy origin. It answers who it is, as slowly, as large and as wrongly as it is told to.
//!
//! For trying things out and for tests, never for data that matters. [`start_backend`] runs one inside a process and
//! gives a handle that changes its behaviour while it serves.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::duration;
use crate::exit::{Exit, Failure};
use crate::printer::Printer;
use crate::signals::Signals;

const EXAMPLES: &str = "\
Examples:
  sealane backend                       server 1 on 127.0.0.1:8081
  sealane backend --id 2                server 2 on 127.0.0.1:8082
  sealane backend --id 3 --delay 200ms --error-percent 5
  curl http://127.0.0.1:8081/health";

/// Connections at a time; the rest wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 8192;
/// For a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Open requests may still be answered for this long.
const DRAIN: Duration = Duration::from_secs(5);
/// Largest answer: it is held in memory, once.
const BODY_BYTES_MAX: u64 = 256 << 20;
/// Between two tries after the system refused a connection, such as when it is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Arguments of `sealane backend`.
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES)]
pub struct BackendArgs {
    /// Its number: in its answers, and the last digit of its port
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(..=9999))]
    id: u16,
    /// Where it listens [default: 127.0.0.1:808N]
    #[arg(long, value_name = "ADDR", value_parser = parse_listen)]
    listen: Option<SocketAddr>,
    /// Wait this long before each answer
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration::parse)]
    delay: Duration,
    /// Answer this share of requests with 500, evenly spread; /health stays well
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, value_parser = parse_percent)]
    error_percent: f64,
    /// Pad each answer to this many bytes
    #[arg(long, value_name = "BYTES", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=BODY_BYTES_MAX))]
    size: u64,
}

/// What to start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackendOptions {
    /// In its answers.
    pub id: u16,
    /// Port 0: any free one.
    pub listen: SocketAddr,
    /// Before each answer.
    pub delay: Duration,
    /// 0 to 100: the share of requests answered with 500.
    pub error_percent: f64,
    /// Answers are padded to this; at most 256 MiB.
    pub size: usize,
}

impl Default for BackendOptions {
    /// Number 1, on any free port of loopback, quick and without errors.
    fn default() -> Self {
        Self {
            id: 1,
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            delay: Duration::ZERO,
            error_percent: 0.0,
            size: 0,
        }
    }
}

/// A backend that runs. Dropping it stops it at once.
#[derive(Debug)]
pub struct Backend {
    address: SocketAddr,
    behaviour: Arc<Behaviour>,
    stop: CancellationToken,
    serving: Option<JoinHandle<()>>,
}

/// What may change while it serves.
#[derive(Debug)]
struct Behaviour {
    id: u16,
    body: Bytes,
    delay_ms: AtomicU64,
    /// Hundredths of a percent.
    error_basis_points: AtomicU32,
    requests: AtomicU64,
}

/// Starts a backend on the current runtime.
///
/// # Errors
/// When the address cannot be bound.
pub async fn start_backend(options: BackendOptions) -> std::io::Result<Backend> {
    let listener = TcpListener::bind(options.listen).await?;
    let address = listener.local_addr()?;
    let mut body = format!("server {}: ok\n", options.id).into_bytes();
    if options.size > body.len() {
        body.resize(options.size.min(BODY_BYTES_MAX as usize), b'.');
    }
    let behaviour = Arc::new(Behaviour {
        id: options.id,
        body: body.into(),
        delay_ms: AtomicU64::new(millis(options.delay)),
        error_basis_points: AtomicU32::new(basis_points(options.error_percent)),
        requests: AtomicU64::new(0),
    });
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve(listener, Arc::clone(&behaviour), stop.clone()));
    Ok(Backend { address, behaviour, stop, serving: Some(serving) })
}

impl Backend {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, this share (0 to 100) of requests is answered with 500.
    pub fn set_error_percent(&self, percent: f64) {
        self.behaviour.error_basis_points.store(basis_points(percent), Ordering::Relaxed);
    }

    /// From now on, each answer waits this long.
    pub fn set_delay(&self, delay: Duration) {
        self.behaviour.delay_ms.store(millis(delay), Ordering::Relaxed);
    }

    /// Requests answered so far, without those for /health.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.behaviour.requests.load(Ordering::Relaxed)
    }

    /// Stops listening, lets open requests end for up to 5 s, and returns when all is closed.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(serving) = self.serving.take() {
            // It ends by itself; a panic in it has been reported by the runtime.
            let _ = serving.await;
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
    }
}

/// Runs `sealane backend` until it is told to stop.
///
/// # Errors
/// When the address cannot be bound.
pub async fn run(args: &BackendArgs, printer: &Printer) -> Result<(), Failure> {
    let listen = args.listen.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 8080 + args.id)));
    let options = BackendOptions {
        id: args.id,
        listen,
        delay: args.delay,
        error_percent: args.error_percent,
        size: usize::try_from(args.size).unwrap_or(0),
    };
    // Before anyone is told that it serves: whoever reads that may ask it to stop.
    let mut signals =
        Signals::new().map_err(|error| Failure::new(Exit::Failed, "cannot listen for signals").because(error))?;
    let backend = start_backend(options).await.map_err(|error| {
        Failure::new(Exit::Failed, format!("cannot listen on {listen}"))
            .because(error)
            .hint("choose another with --listen ADDR or --id N")
    })?;
    printer.talk(&format!("server {} answers on http://{}", args.id, backend.address()));
    signals.next().await;
    backend.stop().await;
    Ok(())
}

async fn serve(listener: TcpListener, behaviour: Arc<Behaviour>, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    // Open connections end with this task, also when it is aborted.
    let _closing = stop.clone().drop_guard();
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(stream, Arc::clone(&behaviour), stop.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    // Whoever is not done by then is cut off.
    let _ = tokio::time::timeout(DRAIN, connections.wait()).await;
}

async fn connection(stream: TcpStream, behaviour: Arc<Behaviour>, stop: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new());
    let service = service_fn(move |request| answer(request, Arc::clone(&behaviour)));
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            tokio::time::timeout(DRAIN, serving).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = %error, "connection ended");
    }
}

async fn answer(request: Request<Incoming>, behaviour: Arc<Behaviour>) -> Result<Response<Full<Bytes>>, Infallible> {
    let health = request.uri().path() == "/health";
    // Read to the end, so that the connection can be used again; nothing is kept.
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    let (status, body) = if health {
        (StatusCode::OK, Bytes::from_static(b"ok\n"))
    } else {
        let delay_ms = behaviour.delay_ms.load(Ordering::Relaxed);
        if delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        }
        match behaviour.next_fails() {
            true => (StatusCode::INTERNAL_SERVER_ERROR, Bytes::from(format!("server {}: error\n", behaviour.id))),
            false => (StatusCode::OK, behaviour.body.clone()),
        }
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert("content-type", http::HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert("x-backend", http::HeaderValue::from(behaviour.id));
    Ok(response)
}

impl Behaviour {
    /// Counts a request and says whether it fails: of any 10,000 in a row exactly the share asked for, evenly spread.
    fn next_fails(&self) -> bool {
        let share = u64::from(self.error_basis_points.load(Ordering::Relaxed));
        let number = self.requests.fetch_add(1, Ordering::Relaxed) % 10_000;
        (number + 1) * share / 10_000 != number * share / 10_000
    }
}

fn millis(delay: Duration) -> u64 {
    u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)
}

/// Out of range counts as the nearest bound.
fn basis_points(percent: f64) -> u32 {
    (percent.clamp(0.0, 100.0) * 100.0).round() as u32
}

fn parse_percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err(format!("`{text}` is not a share from 0 to 100")),
    }
}

/// `127.0.0.1:9000`, `[::1]:9000`, `localhost:9000`, or `:9000` for every address.
fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let full = match text.strip_prefix(':') {
        Some(port) => format!("0.0.0.0:{port}"),
        None => text.replacen("localhost:", "127.0.0.1:", 1),
    };
    full.parse().map_err(|_| format!("`{text}` is not an address such as 127.0.0.1:9000 or :9000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behaviour(percent: f64) -> Behaviour {
        Behaviour {
            id: 1,
            body: Bytes::new(),
            delay_ms: AtomicU64::new(0),
            error_basis_points: AtomicU32::new(basis_points(percent)),
            requests: AtomicU64::new(0),
        }
    }

    #[test]
    fn errors_are_spread_evenly() {
        for (percent, of_hundred) in [(0.0, 0), (5.0, 5), (33.0, 33), (100.0, 100)] {
            let behaviour = behaviour(percent);
            let failed = (0..100).filter(|_| behaviour.next_fails()).count();
            assert_eq!(failed, of_hundred, "{percent} %");
        }
        let quarter = behaviour(25.0);
        let pattern: Vec<bool> = (0..8).map(|_| quarter.next_fails()).collect();
        assert_eq!(pattern, [false, false, false, true, false, false, false, true]);
    }

    #[test]
    fn an_address_may_leave_the_host_out() {
        assert_eq!(parse_listen(":9000").unwrap().to_string(), "0.0.0.0:9000");
        assert_eq!(parse_listen("localhost:9000").unwrap().to_string(), "127.0.0.1:9000");
        assert!(parse_listen("9000").is_err());
        assert!(parse_percent("101").is_err());
    }

    async fn get(address: SocketAddr, path: &str) -> (StatusCode, String, String) {
        let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http();
        let request = Request::get(format!("http://{address}{path}")).body(Full::<Bytes>::default()).unwrap();
        let response = client.request(request).await.unwrap();
        let backend = response.headers()["x-backend"].to_str().unwrap().to_owned();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, backend, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn it_answers_who_it_is_and_fails_when_told_to() {
        let backend = start_backend(BackendOptions { id: 7, ..Default::default() }).await.unwrap();
        let address = backend.address();
        assert_eq!(get(address, "/x").await, (StatusCode::OK, "7".into(), "server 7: ok\n".into()));
        backend.set_error_percent(100.0);
        assert_eq!(get(address, "/x").await.0, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(get(address, "/health").await.0, StatusCode::OK, "health stays well");
        backend.set_error_percent(0.0);
        assert_eq!(get(address, "/x").await.0, StatusCode::OK);
        assert_eq!(backend.requests(), 3);
        backend.stop().await;
        assert!(TcpStream::connect(address).await.is_err(), "closed");
    }

    #[tokio::test]
    async fn answers_are_padded_to_the_size_asked_for() {
        let backend = start_backend(BackendOptions { size: 1000, ..Default::default() }).await.unwrap();
        let (_, _, body) = get(backend.address(), "/").await;
        assert_eq!(body.len(), 1000);
        assert!(body.starts_with("server 1: ok\n"));
    }
}
