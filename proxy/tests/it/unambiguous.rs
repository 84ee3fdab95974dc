//! Whatever a client or an endpoint sends, what leaves the proxy has one reading: a reader that takes nothing but the
//! strictest form of RFC 9112 reads it to its end. Bytes are mutated by seed; a failure names its seed.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{TestProxy, mutate, patiently, to};

const REQUESTS: &[&str] = &[
    "GET /a?b=c HTTP/1.1\r\nHost: test\r\nX: y\r\nCookie: a=b\r\n\r\nGET /2 HTTP/1.1\r\nHost: test\r\n\r\n",
    "POST /b HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhelloGET /2 HTTP/1.1\r\nHost: test\r\n\r\n",
    "POST /c HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nT: 1\r\n\r\nGET /2 HTTP/1.1\r\nHost: test\r\n\r\n",
    "POST /d HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n5c\r\nGPOST / HTTP/1.1\r\n\r\n0\r\n\r\n",
    "GET http://other:80/e HTTP/1.1\r\nHost: test\r\nConnection: close, x-a\r\nX-A: b\r\nTE: trailers\r\n\r\n",
    "POST /f HTTP/1.0\r\nHost: test\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabcGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
];

const ANSWERS: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nT: 1\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nhi",
    "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"a\"\r\n\r\n",
];

/// A message's first line, and its fields with names in lower case.
type Head = (String, Vec<(String, String)>);

/// Reads messages as strictly as can be.
struct Strict<'a>(&'a [u8]);

impl<'a> Strict<'a> {
    fn line(&mut self) -> Result<Option<&'a str>, String> {
        let Some(end) = self.0.iter().position(|&byte| byte == b'\n') else { return Ok(None) };
        let line = self.0[..end].strip_suffix(b"\r").ok_or("bare lf")?;
        self.0 = &self.0[end + 1..];
        if line.iter().any(|&byte| byte != b'\t' && (byte < b' ' || byte == 0x7f)) {
            return Err(format!("control byte in {line:?}"));
        }
        // Bytes above 0x7f may stand in values; what they are does not matter here.
        Ok(Some(std::str::from_utf8(line).unwrap_or("x: bytes")))
    }

    /// `None`: it is not all there.
    fn head(&mut self) -> Result<Option<Head>, String> {
        let Some(first) = self.line()? else { return Ok(None) };
        let mut fields = Vec::new();
        loop {
            match self.line()? {
                None => return Ok(None),
                Some("") => return Ok(Some((first.to_owned(), fields))),
                Some(line) => {
                    let (name, value) = line.split_once(':').ok_or_else(|| format!("no colon in {line:?}"))?;
                    if name.is_empty()
                        || !name.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(&byte))
                    {
                        return Err(format!("name {name:?}"));
                    }
                    fields.push((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()));
                }
            }
        }
    }

    /// Reads the body that `head` announces. False: it is not all there.
    fn body(&mut self, (first, fields): &Head, bodiless: bool) -> Result<bool, String> {
        let of = |name: &str| {
            fields.iter().filter(|(other, _)| other == name).map(|(_, value)| &**value).collect::<Vec<_>>()
        };
        match (&*of("content-length"), &*of("transfer-encoding")) {
            _ if bodiless => Ok(true),
            ([], []) => Ok(true),
            ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
                let length: usize = length.parse().map_err(|_| "length")?;
                let there = self.0.len() >= length;
                self.0 = &self.0[length.min(self.0.len())..];
                Ok(there)
            }
            ([], ["chunked"]) => self.chunks(),
            other => Err(format!("framing of {first:?}: {other:?}")),
        }
    }

    fn chunks(&mut self) -> Result<bool, String> {
        loop {
            let Some(size) = self.line()? else { return Ok(false) };
            if size.is_empty() || size.len() > 8 || !size.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(format!("chunk size {size:?}"));
            }
            let size = usize::from_str_radix(size, 16).map_err(|_| "size")?;
            if size == 0 {
                while let Some(line) = self.line()? {
                    let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
                    if ["content-length", "transfer-encoding", "host"].contains(&&*name) {
                        return Err(format!("trailer {line:?}"));
                    }
                    if line.is_empty() {
                        return Ok(true);
                    }
                }
                return Ok(false);
            }
            if self.0.len() < size + 2 {
                return Ok(false);
            }
            if &self.0[size..size + 2] != b"\r\n" {
                return Err("chunk without an end".to_owned());
            }
            self.0 = &self.0[size + 2..];
        }
    }
}

/// Requests that came whole. An incomplete one at the end is a connection that was cut.
fn requests(bytes: &[u8]) -> Result<Vec<Head>, String> {
    let mut reader = Strict(bytes);
    let mut found = Vec::new();
    while !reader.0.is_empty() {
        let Some(head) = reader.head()? else { break };
        let words: Vec<_> = head.0.split(' ').collect();
        if words.len() != 3 || words[2] != "HTTP/1.1" || !(words[1].starts_with('/') || words[1] == "*") {
            return Err(format!("request line {:?}", head.0));
        }
        if head.1.iter().filter(|(name, _)| name == "host").count() != 1 {
            return Err(format!("hosts of {head:?}"));
        }
        if !reader.body(&head, false)? {
            break;
        }
        found.push(head);
    }
    Ok(found)
}

/// What an endpoint got, of all its connections, one after the other.
type Got = Arc<Mutex<Vec<Vec<u8>>>>;

/// Keeps the bytes of each connection and answers whenever a head and what follows has come.
async fn recorder(answer: impl Fn() -> Vec<u8> + Send + Sync + 'static) -> (std::net::SocketAddr, Got) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let got = Got::default();
    let (log, answer) = (Arc::clone(&got), Arc::new(answer));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let index = {
                let mut log = log.lock().unwrap();
                log.push(Vec::new());
                log.len() - 1
            };
            let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
            tokio::spawn(async move {
                let mut answered = 0;
                let mut buffer = vec![0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    let complete = {
                        let mut log = log.lock().unwrap();
                        log[index].extend(&buffer[..read]);
                        requests(&log[index]).map_or(0, |found| found.len())
                    };
                    while answered < complete {
                        answered += 1;
                        if stream.write_all(&answer()).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    (address, got)
}

/// Sends `bytes`, then no more, and reads to the end; a reset is an end.
async fn exchange(proxy: &TestProxy, bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let mut answers = Vec::new();
    let orderly = patiently("the end", async {
        // The proxy may have closed before everything was sent.
        let _ = client.write_all(bytes).await;
        let _ = client.shutdown().await;
        client.read_to_end(&mut answers).await.is_ok()
    })
    .await;
    (answers, orderly)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_client_sends_an_endpoint_gets_unambiguous_requests() {
    let (address, got) = recorder(|| b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi".to_vec()).await;
    let proxy = TestProxy::start(&to(&[address])).await;
    for seed in 0..1500u64 {
        let bytes = mutate(REQUESTS[seed as usize % REQUESTS.len()], seed);
        exchange(&proxy, &bytes).await;
        // The newest connections: the proxy keeps few, and what was read of older ones was looked at before.
        for connection in got.lock().unwrap().iter().rev().take(4) {
            let found = requests(connection);
            let shown = || [&bytes, connection].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            assert!(found.is_ok(), "seed {seed}: {found:?} of {:?}", shown());
        }
    }
    let forwarded: usize = got.lock().unwrap().iter().map(|bytes| requests(bytes).map_or(0, |found| found.len())).sum();
    assert!(forwarded > 500, "{forwarded}");
    assert_eq!(proxy.metric("proxy_panics_total"), Some(0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_an_endpoint_sends_a_client_gets_unambiguous_answers() {
    let next: Arc<Mutex<Vec<u8>>> = Arc::default();
    let said = Arc::clone(&next);
    let (address, _) = recorder(move || said.lock().unwrap().clone()).await;
    // What an endpoint leaves out is not waited for long.
    let yaml = format!(
        "routes: [{{ pool: p }}]\npools: [{{ id: p, endpoints: ['{address}'], connections: {{ read_timeout: 20ms }} }}]"
    );
    let proxy = TestProxy::start(&yaml).await;
    let mut whole = 0;
    for seed in 0..900u64 {
        *next.lock().unwrap() = mutate(ANSWERS[seed as usize % ANSWERS.len()], seed);
        let (bytes, orderly) = exchange(&proxy, b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await;
        let shown = || {
            (String::from_utf8_lossy(&next.lock().unwrap()).into_owned(), String::from_utf8_lossy(&bytes).into_owned())
        };
        let mut reader = Strict(&bytes);
        loop {
            let head = reader.head().unwrap_or_else(|why| panic!("seed {seed}: {why} in {:?}", shown()));
            let Some(head) = head else {
                assert!(!orderly || bytes.is_empty(), "seed {seed}: half a head in {:?}", shown());
                break;
            };
            let status: u16 = head.0[9..12].parse().unwrap();
            if status < 200 {
                continue;
            }
            let there = reader
                .body(&head, matches!(status, 204 | 304))
                .unwrap_or_else(|why| panic!("seed {seed}: {why} in {:?}", shown()));
            // A body that was cut must show: less than was announced, or no last chunk.
            whole += usize::from(there);
            let announced = head.1.iter().any(|(name, _)| name == "content-length" || name == "transfer-encoding");
            if there && announced {
                assert!(reader.0.is_empty(), "seed {seed}: {:?} after {:?}", reader.0, shown());
            }
            break;
        }
    }
    assert!(whole > 200, "{whole}");
    assert_eq!(proxy.metric("proxy_panics_total"), Some(0.0));
}
