//! Steady traffic that counts what users saw, proxy by proxy.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::task::JoinSet;

/// A client of one request at a time.
pub type HttpClient = Client<HttpConnector, Empty<Bytes>>;

/// A client that keeps connections.
#[must_use]
pub fn client() -> HttpClient {
    Client::builder(TokioExecutor::new()).build_http()
}

/// What came of one request: the status and the body, or why there was none.
pub async fn get(client: &HttpClient, url: &str) -> Result<(u16, String), String> {
    let uri: http::Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
    let answer = async {
        let answer = client.get(uri).await.map_err(|error| format!("{error:?}"))?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.map_err(|error| format!("body: {error:?}"))?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::time::timeout(Duration::from_secs(10), answer).await.unwrap_or_else(|_| Err("no answer within 10s".into()))
}

/// What came of one request with a body.
pub async fn post(url: &str, body: &str) -> Result<(u16, String), String> {
    let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let request = http::Request::post(url).body(Full::new(Bytes::from(body.to_owned())));
    let request = request.map_err(|error| format!("{url}: {error}"))?;
    let answer = async {
        let answer = client.request(request).await.map_err(|error| format!("{error:?}"))?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.map_err(|error| format!("body: {error:?}"))?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::time::timeout(Duration::from_secs(30), answer).await.unwrap_or_else(|_| Err("no answer within 30s".into()))
}

/// What was seen at one proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Answers below 500.
    pub good: u64,
    /// Failures, by what they were.
    pub failed: BTreeMap<String, u64>,
}

impl Seen {
    /// All failures.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }
}

/// Running traffic; stops when dropped.
#[derive(Debug)]
pub struct Load {
    seen: Vec<Arc<Mutex<Seen>>>,
    _tasks: JoinSet<()>,
}

impl Load {
    /// One request every `interval` to each of `proxies`, over kept connections.
    #[must_use]
    pub fn start(proxies: &[SocketAddr], interval: Duration) -> Self {
        let mut tasks = JoinSet::new();
        let mut seen = Vec::new();
        for proxy in proxies {
            let counts = Arc::new(Mutex::new(Seen::default()));
            seen.push(Arc::clone(&counts));
            let url = format!("http://{proxy}/");
            tasks.spawn(async move {
                let client = client();
                let mut ticks = tokio::time::interval(interval);
                ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    count(&counts, get(&client, &url).await);
                }
            });
        }
        Self { seen, _tasks: tasks }
    }

    /// One request every `interval` to `proxy`, each over a connection of its own.
    #[must_use]
    pub fn start_fresh(proxy: SocketAddr, interval: Duration) -> Self {
        let mut tasks = JoinSet::new();
        let counts = Arc::new(Mutex::new(Seen::default()));
        let seen = vec![Arc::clone(&counts)];
        tasks.spawn(async move {
            let url = format!("http://{proxy}/");
            let mut ticks = tokio::time::interval(interval);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                count(&counts, get(&client(), &url).await);
            }
        });
        Self { seen, _tasks: tasks }
    }

    /// What was seen at each proxy so far.
    ///
    /// # Panics
    /// If a traffic task panicked.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.iter().map(|seen| seen.lock().expect("no panic while counting").clone()).collect()
    }

    /// All failures so far.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.seen().iter().map(Seen::failures).sum()
    }

    /// All answers so far.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.seen().iter().map(|seen| seen.good + seen.failures()).sum()
    }
}

fn count(counts: &Mutex<Seen>, outcome: Result<(u16, String), String>) {
    let mut counts = counts.lock().expect("no panic while counting");
    match outcome {
        Ok((status, _)) if status < 500 => counts.good += 1,
        Ok((status, body)) => *counts.failed.entry(format!("{status} {body}")).or_default() += 1,
        Err(error) => *counts.failed.entry(error).or_default() += 1,
    }
}
