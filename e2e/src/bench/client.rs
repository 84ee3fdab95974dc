//! The load: so many connections, each with one request after the other, on a thread of its own.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;

/// What is asked for, and how.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where.
    pub address: SocketAddr,
    /// Which answer; see [`super::origin`].
    pub path: &'static str,
    /// At the same time.
    pub connections: usize,
    /// The way.
    pub way: Way,
    /// For TLS.
    pub tls: Option<Arc<ClientConfig>>,
}

/// How requests reach the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Requests one after the other on a kept connection.
    KeepAlive,
    /// Each request on a connection of its own; over TLS with a full handshake.
    Fresh,
    /// HTTP/2, so many streams on each connection.
    Http2 {
        /// At the same time.
        streams: usize,
    },
}

/// A running load.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    done: AtomicU64,
    failed: AtomicU64,
    stop: AtomicBool,
    measuring: AtomicBool,
    /// Microseconds.
    latencies: Mutex<Vec<u32>>,
}

/// What a load saw while it was measured.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Answers.
    pub done: u64,
    /// Requests without a good answer.
    pub failed: u64,
    /// Microseconds, sorted.
    pub latencies: Vec<u32>,
}

impl Seen {
    /// The latency in microseconds that `share` (0 to 1) of the requests did not exceed; 0 without requests.
    #[must_use]
    pub fn quantile(&self, share: f64) -> u32 {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get((last as f64 * share).round() as usize).copied().unwrap_or(0)
    }
}

impl Load {
    /// Starts it.
    ///
    /// # Errors
    /// No thread.
    pub fn start(self) -> io::Result<Running> {
        let shared = Arc::new(Shared::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("load".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let tasks: Vec<_> =
                    (0..self.connections).map(|_| tokio::spawn(drive(self.clone(), Arc::clone(&of_thread)))).collect();
                for task in tasks {
                    // A task that panicked shows as missing requests.
                    let _ = task.await;
                }
            });
        })?;
        Ok(Running { shared, thread: Some(thread) })
    }
}

impl Running {
    /// Lets it run for `duration`; what it saw in that time.
    ///
    /// # Panics
    /// If a task of the load panicked.
    pub async fn measure(&self, duration: Duration) -> Seen {
        let shared = &self.shared;
        let (done, failed) = (shared.done.load(Ordering::Relaxed), shared.failed.load(Ordering::Relaxed));
        shared.latencies.lock().expect("no panic while counting").clear();
        shared.measuring.store(true, Ordering::Relaxed);
        sleep(duration).await;
        shared.measuring.store(false, Ordering::Relaxed);
        let mut latencies = std::mem::take(&mut *shared.latencies.lock().expect("no panic while counting"));
        latencies.sort_unstable();
        Seen {
            done: shared.done.load(Ordering::Relaxed) - done,
            failed: shared.failed.load(Ordering::Relaxed) - failed,
            latencies,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It ends after its last requests; one that panicked has ended.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn note(&self, started: Instant, outcome: &io::Result<()>) {
        if outcome.is_err() {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.done.fetch_add(1, Ordering::Relaxed);
        if self.measuring.load(Ordering::Relaxed)
            && let Ok(mut latencies) = self.latencies.lock()
        {
            latencies.push(u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// After a failure, so that a proxy that is gone is not asked as fast as possible.
const PAUSE: Duration = Duration::from_millis(10);

async fn drive(load: Load, shared: Arc<Shared>) {
    while !shared.is_over() {
        let started = Instant::now();
        let outcome = match (load.way, &load.tls) {
            (Way::Http2 { streams }, _) => drive_http2(&load, streams, &shared).await,
            (_, None) => match connect(&load).await {
                Ok(tcp) => drive_http1(tcp, &load, started, &shared).await,
                Err(error) => Err(error),
            },
            (_, Some(_)) => match connect_tls(&load).await {
                Ok(tls) => drive_http1(tls, &load, started, &shared).await,
                Err(error) => Err(error),
            },
        };
        if outcome.is_err() && !shared.is_over() {
            shared.note(started, &outcome);
            sleep(PAUSE).await;
        }
    }
}

async fn connect(load: &Load) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(load.address).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

async fn connect_tls(load: &Load) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let connector = TlsConnector::from(load.tls.clone().ok_or(io::ErrorKind::Unsupported)?);
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    connector.connect(name, connect(load).await?).await
}

async fn drive_http1(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    load: &Load,
    mut started: Instant,
    shared: &Shared,
) -> io::Result<()> {
    let fresh = load.way == Way::Fresh;
    let close = if fresh { "Connection: close\r\n" } else { "" };
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) load/1.0\r\nAccept: text/html,\
         application/json;q=0.9,*/*;q=0.8\r\nAccept-Encoding: gzip, br\r\nCookie: sid=abcdef0123456789; theme=dark\r\n{close}\r\n",
        load.path
    );
    let mut buffer = vec![0; 64 << 10];
    loop {
        stream.write_all(request.as_bytes()).await?;
        let outcome = read_answer(&mut stream, &mut buffer).await;
        shared.note(started, &outcome);
        outcome?;
        if fresh || shared.is_over() {
            return Ok(());
        }
        started = Instant::now();
    }
}

async fn read_answer(stream: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    let mut left = loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += read;
        let Some(end) = buffer[..filled].windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
        if !head.starts_with("http/1.1 200") {
            return Err(io::Error::other(head));
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        let length = length.ok_or_else(|| io::Error::other("an answer without a length"))?;
        break (end + 4 + length).saturating_sub(filled);
    };
    while left > 0 {
        match stream.read(buffer).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => left = left.saturating_sub(read),
        }
    }
    Ok(())
}

async fn drive_http2(load: &Load, streams: usize, shared: &Arc<Shared>) -> io::Result<()> {
    let tls = connect_tls(load).await?;
    let (sender, connection) = h2::client::handshake(tls).await.map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let tasks: Vec<_> =
        (0..streams).map(|_| tokio::spawn(drive_stream(sender.clone(), load.path, Arc::clone(shared)))).collect();
    drop(sender);
    let mut outcome = Ok(());
    for task in tasks {
        if let Ok(Err(error)) = task.await {
            outcome = Err(error);
        }
    }
    connection.abort();
    outcome
}

async fn drive_stream(
    mut sender: h2::client::SendRequest<Bytes>,
    path: &'static str,
    shared: Arc<Shared>,
) -> io::Result<()> {
    while !shared.is_over() {
        let started = Instant::now();
        let outcome = ask_http2(&mut sender, path).await.map_err(io::Error::other);
        shared.note(started, &outcome);
        outcome?;
    }
    Ok(())
}

async fn ask_http2(
    sender: &mut h2::client::SendRequest<Bytes>,
    path: &str,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut ready = sender.clone().ready().await?;
    let request = http::Request::get(format!("https://localhost{path}")).body(())?;
    let answer = ready.send_request(request, true)?.0.await?;
    if answer.status() != 200 {
        return Err(answer.status().to_string().into());
    }
    let mut body = answer.into_body();
    while let Some(data) = body.data().await {
        let length = data?.len();
        body.flow_control().release_capacity(length)?;
    }
    Ok(())
}
