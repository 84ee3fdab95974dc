//! The load: so many connections, each with one request after the other, on a thread of its own.
//!
//! It must cost less than what it measures. Connections own no buffer: answers are read into one of the thread, and bodies
//! that come plain are thrown away inside the kernel.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::ready;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use memchr::memmem;
use rustix::net::RecvFlags;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::place::Place;

/// What is asked for, and how.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where.
    pub address: SocketAddr,
    /// Which answer; see [`super::origin`].
    pub path: &'static str,
    /// Further lines of the request, each with its end.
    pub lines: Arc<str>,
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
    pub fn start(self, place: &Place) -> io::Result<Running> {
        let shared = Arc::new(Shared::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let of_thread = Arc::clone(&shared);
        let place = place.clone();
        let thread = std::thread::Builder::new().name("load".to_owned()).spawn(move || {
            place.enter();
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
        let outcome = match load.way {
            Way::Http2 { streams } => drive_http2(&load, streams, &shared).await,
            Way::KeepAlive | Way::Fresh => match connect(&load).await {
                Ok(wire) => drive_http1(wire, &load, started, &shared).await,
                Err(error) => Err(error),
            },
        };
        if outcome.is_err() && !shared.is_over() {
            shared.note(started, &outcome);
            sleep(PAUSE).await;
        }
    }
}

async fn connect_plain(load: &Load) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(load.address).await?;
    tcp.set_nodelay(true)?;
    // Ports are used again at once: no connection of a load waits for a minute after its end.
    tcp.set_zero_linger()?;
    Ok(tcp)
}

async fn connect_tls(load: &Load) -> io::Result<TlsStream<TcpStream>> {
    let connector = TlsConnector::from(load.tls.clone().ok_or(io::ErrorKind::Unsupported)?);
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    connector.connect(name, connect_plain(load).await?).await
}

async fn connect(load: &Load) -> io::Result<Wire> {
    Ok(match load.tls {
        None => Wire::Plain(connect_plain(load).await?),
        Some(_) => Wire::Tls(Box::new(connect_tls(load).await?)),
    })
}

/// Bytes of one read.
const SCRATCH_BYTES: usize = 256 << 10;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
}

/// A connection of HTTP/1.1.
#[derive(Debug)]
enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.write_all(bytes).await,
            Self::Tls(tls) => {
                tls.write_all(bytes).await?;
                tls.flush().await
            }
        }
    }

    /// Reads once, and lets `look` see it.
    async fn read<R>(&mut self, mut look: impl FnMut(&[u8]) -> R) -> io::Result<R> {
        std::future::poll_fn(|cx| {
            SCRATCH.with_borrow_mut(|scratch| {
                let mut room = ReadBuf::new(scratch);
                match self {
                    Self::Plain(tcp) => ready!(Pin::new(tcp).poll_read(cx, &mut room))?,
                    Self::Tls(tls) => ready!(Pin::new(tls).poll_read(cx, &mut room))?,
                }
                if room.filled().is_empty() {
                    return std::task::Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                std::task::Poll::Ready(Ok(look(room.filled())))
            })
        })
        .await
    }

    /// Takes `left` bytes and forgets them.
    async fn skip(&mut self, mut left: usize) -> io::Result<()> {
        while left > 0 {
            let taken = match self {
                Self::Plain(tcp) => {
                    let skip = || {
                        SCRATCH.with_borrow_mut(|scratch| {
                            let most = left.min(scratch.len());
                            Ok(rustix::net::recv(&*tcp, &mut scratch[..most], RecvFlags::TRUNC)?.1)
                        })
                    };
                    tcp.async_io(Interest::READABLE, skip).await?
                }
                Self::Tls(_) => self.read(<[u8]>::len).await?,
            };
            if taken == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left = left.saturating_sub(taken);
        }
        Ok(())
    }

    async fn read_answer(&mut self) -> io::Result<()> {
        let mut head = Vec::new();
        let left = loop {
            let left = self
                .read(|bytes| {
                    if head.is_empty()
                        && let Some(left) = left_of(bytes).transpose()
                    {
                        return left.map(Some);
                    }
                    head.extend_from_slice(bytes);
                    left_of(&head)
                })
                .await??;
            if let Some(left) = left {
                break left;
            }
        };
        self.skip(left).await
    }
}

/// Bytes of an answer that are yet to come; `None`: its head is not complete.
fn left_of(bytes: &[u8]) -> io::Result<Option<usize>> {
    const LENGTH: &[u8] = b"content-length:";
    let Some(end) = memmem::find(bytes, b"\r\n\r\n") else { return Ok(None) };
    let head = &bytes[..end];
    if !head.starts_with(b"HTTP/1.1 200") {
        return Err(io::Error::other(String::from_utf8_lossy(head).into_owned()));
    }
    let length = head.split(|&byte| byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(LENGTH.len())?;
        name.eq_ignore_ascii_case(LENGTH).then(|| std::str::from_utf8(value).ok()?.trim().parse::<usize>().ok())?
    });
    let length = length.ok_or_else(|| io::Error::other("an answer without a length"))?;
    Ok(Some((end + 4 + length).saturating_sub(bytes.len())))
}

async fn drive_http1(mut wire: Wire, load: &Load, mut started: Instant, shared: &Shared) -> io::Result<()> {
    let fresh = load.way == Way::Fresh;
    let request = request(load);
    loop {
        wire.send(request.as_bytes()).await?;
        let outcome = wire.read_answer().await;
        shared.note(started, &outcome);
        outcome?;
        if fresh || shared.is_over() {
            return Ok(());
        }
        started = Instant::now();
    }
}

fn request(load: &Load) -> String {
    let close = if load.way == Way::Fresh { "Connection: close\r\n" } else { "" };
    format!(
        "GET {} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) load/1.0\r\nAccept: text/html,\
         application/json;q=0.9,*/*;q=0.8\r\nAccept-Encoding: gzip, br\r\n{}{close}\r\n",
        load.path, load.lines
    )
}

/// How long an answer may take where only that it comes is of interest.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections that have had one answer each and idle from then on.
///
/// # Errors
/// One of them had none.
pub async fn idle(load: &Load) -> io::Result<impl Sized> {
    let request = request(load);
    let mut open = Vec::with_capacity(load.connections);
    for number in 1..=load.connections {
        let one = async {
            let mut wire = connect(load).await?;
            wire.send(request.as_bytes()).await?;
            wire.read_answer().await.map(|()| wire)
        };
        let answered = timeout(ANSWER_TIMEOUT, one).await;
        let late = |_| io::Error::other(format!("connection number {number} had no answer"));
        open.push(answered.map_err(late)??);
    }
    Ok(open)
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
