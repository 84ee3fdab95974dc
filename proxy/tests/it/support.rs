//! What the tests share.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sealane_model::config::Config;
use sealane_model::parse::{Reader, parse};
use sealane_model::problem::Problem;
use sealane_proxy::proxy::{Proxy, RevisionTag};
use sealane_proxy::settings::Settings;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

pub(crate) mod http2;

/// Nothing here takes longer on a healthy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Fails instead of hanging.
pub(crate) async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("gave up waiting for {what}"))
}

/// Waits until `probe` gives a value.
pub(crate) async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(Instant::now() < deadline, "gave up waiting for {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Lets the proxy read what was sent, so that what follows comes in a read of its own. Nobody tells when it has; where it
/// has not, what is tested holds all the same.
pub(crate) async fn apart() {
    sleep(Duration::from_millis(5)).await;
}

pub(crate) fn config(yaml: &str) -> Arc<Config> {
    match parse("test.yaml", yaml, Reader::Local) {
        Ok((config, _)) => Arc::new(config),
        Err(problems) => panic!("{problems:#?}\n{yaml}"),
    }
}

pub(crate) fn tag(number: u64) -> RevisionTag {
    RevisionTag { number, digest: [number as u8; 32], label: Arc::from(format!("r{number}")) }
}

pub(crate) fn settings() -> Settings {
    Settings { threads: 2, node: "node-1".to_owned(), ..Settings::default() }
}

/// A running proxy with one config after another.
pub(crate) struct TestProxy {
    pub(crate) proxy: Proxy,
    pub(crate) revision: AtomicUsize,
}

impl TestProxy {
    /// `yaml` without listeners gets a plain one; without `logging`, no access log.
    pub(crate) async fn start(yaml: &str) -> Self {
        Self::with(settings(), yaml).await
    }

    pub(crate) async fn with(settings: Settings, yaml: &str) -> Self {
        let proxy = Proxy::start(settings).await.unwrap();
        let proxy = Self { proxy, revision: AtomicUsize::new(0) };
        proxy.serve(yaml).await;
        proxy
    }

    pub(crate) async fn serve(&self, yaml: &str) {
        self.try_serve(yaml).await.unwrap();
    }

    pub(crate) async fn try_serve(&self, yaml: &str) -> Result<(), Vec<Problem>> {
        self.serve_edited(yaml, |_| {}).await
    }

    /// With what parsing does not let through yet.
    pub(crate) async fn serve_edited(&self, yaml: &str, edit: impl FnOnce(&mut Config)) -> Result<(), Vec<Problem>> {
        let number = self.revision.fetch_add(1, Ordering::Relaxed) as u64 + 1;
        let mut config = config(&complete(yaml));
        edit(Arc::get_mut(&mut config).unwrap());
        let prepared = self.proxy.prepare(tag(number), config).await?;
        self.proxy.activate(prepared).await.unwrap();
        Ok(())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.proxy.bound()[0].1
    }

    pub(crate) async fn client(&self) -> Client<TcpStream> {
        Client::connect(self.address()).await
    }

    /// One request on a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> Response {
        self.client().await.get(path).await
    }

    /// A request is counted when its answer has been sent, so a client may be early.
    pub(crate) async fn until_metric(&self, series: &str, value: f64) {
        until(series, async || (self.metric(series) == Some(value)).then_some(())).await;
    }

    pub(crate) fn metric(&self, series: &str) -> Option<f64> {
        metric(&self.proxy.metrics(), series)
    }
}

pub(crate) fn metric(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

pub(crate) fn complete(yaml: &str) -> String {
    let mut yaml = yaml.to_owned();
    if !yaml.contains("listen") {
        yaml.push_str("\nlisten: 127.0.0.1:0\n");
    }
    if !yaml.contains("logging") {
        yaml.push_str("\nlogging: { access: off }\n");
    }
    yaml
}

/// A config whose only route goes to these origins.
pub(crate) fn to(origins: &[SocketAddr]) -> String {
    let origins: Vec<_> = origins.iter().map(|origin| format!("\"http://{origin}\"")).collect();
    format!("routes:\n  - id: all\n    to: [{}]\n", origins.join(", "))
}

/// A raw client.
pub(crate) struct Client<S> {
    pub(crate) stream: S,
    /// Read, not used yet.
    pub(crate) buffer: Vec<u8>,
}

impl Client<TcpStream> {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        patiently("sending", self.stream.write_all(bytes.as_ref())).await.unwrap();
        patiently("sending", self.stream.flush()).await.unwrap();
    }

    pub(crate) async fn get(&mut self, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
        self.response().await
    }

    /// Sends and reads one response.
    pub(crate) async fn ask(&mut self, bytes: impl AsRef<[u8]>) -> Response {
        self.send(bytes).await;
        self.response().await
    }

    pub(crate) async fn response(&mut self) -> Response {
        self.response_to(false).await
    }

    /// The response to a HEAD request.
    pub(crate) async fn head_response(&mut self) -> Response {
        self.response_to(true).await
    }

    async fn response_to(&mut self, head_request: bool) -> Response {
        patiently("a response", self.read_response(head_request)).await
    }

    async fn read_response(&mut self, head_request: bool) -> Response {
        let head_end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.fill().await, "connection closed before a response: {:?}", self.text());
        };
        let head = String::from_utf8(self.buffer.drain(..head_end).collect()).unwrap();
        let mut response = Response::parse(&head);
        if head_request || response.status < 200 || [204, 304].contains(&response.status) {
            return response;
        }
        if response.header("transfer-encoding") == Some("chunked") {
            self.read_chunks(&mut response).await;
        } else if let Some(length) = response.header("content-length") {
            let length: usize = length.parse().unwrap();
            while self.buffer.len() < length {
                if !self.fill().await {
                    response.truncated = true;
                    break;
                }
            }
            let length = length.min(self.buffer.len());
            response.body = self.buffer.drain(..length).collect();
        } else {
            response.truncated = !self.fill_to_end().await;
            response.body = std::mem::take(&mut self.buffer);
        }
        response
    }

    async fn read_chunks(&mut self, response: &mut Response) {
        loop {
            let Some(line) = self.line().await else {
                response.truncated = true;
                return;
            };
            let length = usize::from_str_radix(&line, 16).unwrap();
            if length == 0 {
                while let Some(line) = self.line().await {
                    if line.is_empty() {
                        return;
                    }
                    response.trailers.push(line);
                }
                response.truncated = true;
                return;
            }
            while self.buffer.len() < length + 2 {
                if !self.fill().await {
                    response.truncated = true;
                    return;
                }
            }
            response.body.extend(self.buffer.drain(..length));
            assert_eq!(self.buffer.drain(..2).collect::<Vec<_>>(), b"\r\n");
        }
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..at + 2).collect();
                return Some(String::from_utf8(line[..at].to_vec()).unwrap());
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// Reads until at least `length` bytes are there.
    pub(crate) async fn read_exact(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            assert!(patiently("bytes", self.fill()).await, "closed after {:?}", self.text());
        }
        self.buffer.drain(..length).collect()
    }

    /// Reads until what was read ends so.
    pub(crate) async fn read_until(&mut self, end: &[u8]) {
        while !self.buffer.ends_with(end) {
            assert!(patiently("bytes", self.fill()).await, "closed after {:?}", self.text());
        }
        self.buffer.clear();
    }

    /// Whether the peer closes now, in order or by a reset, without another byte.
    pub(crate) async fn is_closed(&mut self) -> bool {
        patiently("the end", async { !self.fill().await && self.buffer.is_empty() }).await
    }

    /// Reads more; false at the end.
    async fn fill(&mut self) -> bool {
        self.stream.read_buf(&mut self.buffer).await.is_ok_and(|read| read > 0)
    }

    /// Reads to the end; false if that is a reset.
    async fn fill_to_end(&mut self) -> bool {
        loop {
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[derive(Debug, Default)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<String>,
    /// The connection ended before the body did, or by a reset.
    pub(crate) truncated: bool,
}

impl Response {
    fn parse(head: &str) -> Self {
        let mut lines = head.trim_end().split("\r\n");
        let mut words = lines.next().unwrap().splitn(3, ' ');
        assert_eq!(words.next(), Some("HTTP/1.1"), "{head}");
        let status = words.next().unwrap().parse().unwrap();
        let headers = lines.map(|line| line.split_once(": ").unwrap());
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { status, headers, ..Self::default() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        let first = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} twice: {:?}", self.headers);
        first
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.text()))
    }

    pub(crate) fn category(&self) -> String {
        let json = self.json();
        assert_eq!(json["category"], json["error_category"]);
        assert!(!json["request_id"].as_str().unwrap().is_empty());
        assert!(!json["error"].as_str().unwrap().is_empty());
        json["category"].as_str().unwrap().to_owned()
    }
}

/// A request as an origin sees it, raw.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn line(&self) -> &str {
        self.head.split("\r\n").next().unwrap()
    }

    pub(crate) fn headers(&self, name: &str) -> Vec<&str> {
        let lines = self.head.split("\r\n").skip(1).filter_map(|line| line.split_once(": "));
        lines.filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers(name);
        assert!(found.len() <= 1, "{name} twice in {}", self.head);
        found.first().copied()
    }
}

/// A toy origin. Ends with the test's runtime, or when dropped.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Origin {
    /// Answers each request with the bytes that `answer` gives; an answer that says `Connection: close` is the last.
    pub(crate) async fn start(answer: impl Fn(&Seen) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), answer).await
    }

    pub(crate) async fn at(address: SocketAddr, answer: impl Fn(&Seen) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let log = Arc::clone(&seen);
        let answer = Arc::new(answer);
        let mut origin = Self::scripted_at(address, move |mut connection| {
            let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
            async move {
                while let Some(request) = connection.request().await {
                    let bytes = answer(&request);
                    log.lock().unwrap().push(request);
                    connection.send(&bytes).await;
                    if find(&bytes, b"Connection: close").is_some() || bytes.is_empty() {
                        return;
                    }
                }
            }
        })
        .await;
        origin.seen = seen;
        origin
    }

    /// Answers every request with 200 and this body.
    pub(crate) async fn fixed(body: &'static str) -> Self {
        Self::start(move |_| ok(body)).await
    }

    /// Runs `script` on each connection.
    pub(crate) async fn scripted<F: Future<Output = ()> + Send + 'static>(
        script: impl Fn(OriginConnection) -> F + Send + Sync + 'static,
    ) -> Self {
        Self::scripted_at("127.0.0.1:0".parse().unwrap(), script).await
    }

    async fn scripted_at<F: Future<Output = ()> + Send + 'static>(
        address: SocketAddr,
        script: impl Fn(OriginConnection) -> F + Send + Sync + 'static,
    ) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener: TcpListener = socket.listen(1024).unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            // Ends its connections with itself.
            let mut running = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                counter.fetch_add(1, Ordering::Relaxed);
                running.spawn(script(OriginConnection { stream, buffer: Vec::new() }));
            }
        });
        Self { address, connections, seen: Arc::default(), task }
    }

    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// A 200 with a length.
pub(crate) fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// A connection at an origin.
pub(crate) struct OriginConnection {
    pub(crate) stream: TcpStream,
    pub(crate) buffer: Vec<u8>,
}

impl OriginConnection {
    /// The next head, raw, up to and without the blank line.
    pub(crate) async fn head(&mut self) -> Option<String> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..at + 4).collect();
                return Some(String::from_utf8_lossy(&head[..at]).into_owned());
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// The next request with its body, decoded.
    pub(crate) async fn request(&mut self) -> Option<Seen> {
        let head = self.head().await?;
        let mut seen = Seen { head, body: Vec::new() };
        if let Some(length) = seen.header("content-length").map(|length| length.parse::<usize>().unwrap()) {
            while self.buffer.len() < length {
                if !self.fill().await {
                    return None;
                }
            }
            seen.body = self.buffer.drain(..length).collect();
        } else if seen.header("transfer-encoding") == Some("chunked") {
            seen.body = self.chunks().await?.concat();
        }
        Some(seen)
    }

    /// Raw chunks up to the last one; trailers are left unread but for the blank line.
    pub(crate) async fn chunks(&mut self) -> Option<Vec<Vec<u8>>> {
        let mut chunks = Vec::new();
        loop {
            let line = self.line().await?;
            let length = usize::from_str_radix(&line, 16).unwrap();
            if length == 0 {
                while !self.line().await?.is_empty() {}
                return Some(chunks);
            }
            while self.buffer.len() < length + 2 {
                if !self.fill().await {
                    return None;
                }
            }
            chunks.push(self.buffer.drain(..length).collect());
            assert_eq!(self.buffer.drain(..2).collect::<Vec<_>>(), b"\r\n");
        }
    }

    pub(crate) async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..at + 2).collect();
                return Some(String::from_utf8(line[..at].to_vec()).unwrap());
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    pub(crate) async fn read_exact(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < length {
            if !self.fill().await {
                return None;
            }
        }
        Some(self.buffer.drain(..length).collect())
    }

    pub(crate) async fn fill(&mut self) -> bool {
        self.stream.read_buf(&mut self.buffer).await.is_ok_and(|read| read > 0)
    }

    /// A peer that is gone does not matter here.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }
}

/// Bytes that no accident reproduces.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// `text` with a few edits of the kind that parsers of HTTP/1 differ about.
pub(crate) fn mutate(text: &str, seed: u64) -> Vec<u8> {
    mutate_bytes(text.as_bytes(), b"\r\n\t :;,0123\x00\x7f\x80-+aA", seed)
}

/// `bytes` with a few edits: others of `alphabet` put in place or between, some left out, pieces doubled.
pub(crate) fn mutate_bytes(bytes: &[u8], alphabet: &[u8], seed: u64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for edit in noise(24, seed).chunks(6).take(1 + seed as usize % 4) {
        let at = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % bytes.len().max(1);
        let byte = alphabet[usize::from(edit[3]) % alphabet.len()];
        match edit[2] % 4 {
            _ if bytes.is_empty() => bytes.push(byte),
            0 => bytes[at] = byte,
            1 => bytes.insert(at, byte),
            2 => drop(bytes.remove(at)),
            _ => {
                let end = (at + usize::from(edit[4] % 40)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
    bytes
}

/// An address on which nobody listens, and nobody will while this lives.
pub(crate) struct Nobody {
    pub(crate) address: SocketAddr,
    _socket: tokio::net::TcpSocket,
}

pub(crate) fn nobody() -> Nobody {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    Nobody { address: socket.local_addr().unwrap(), _socket: socket }
}
