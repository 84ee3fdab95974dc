//! Steady traffic to every proxy of the demo, counted by the one who sends it: what users would have seen.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::task::JoinSet;

/// Requests a second to one proxy.
pub(crate) const PER_SECOND: u64 = 40;
/// Between two of them.
const INTERVAL: Duration = Duration::from_millis(1000 / PER_SECOND);
/// After this a request counts as failed.
const DEADLINE: Duration = Duration::from_secs(5);

/// Counts of one proxy.
#[derive(Debug, Default)]
struct Seen {
    sent: AtomicU64,
    failed: AtomicU64,
}

/// What was seen at each proxy, so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Requests and failed ones, by proxy.
    pub(crate) proxies: Vec<(u64, u64)>,
}

impl Counts {
    /// What came after `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let proxies =
            self.proxies.iter().zip(&earlier.proxies).map(|(now, then)| (now.0 - then.0, now.1 - then.1)).collect();
        Self { proxies }
    }

    pub(crate) fn sent(&self) -> u64 {
        self.proxies.iter().map(|(sent, _)| sent).sum()
    }

    pub(crate) fn failed(&self) -> u64 {
        self.proxies.iter().map(|(_, failed)| failed).sum()
    }

    /// Proxies that answered a failure.
    pub(crate) fn proxies_with_failures(&self) -> usize {
        self.proxies.iter().filter(|(_, failed)| *failed > 0).count()
    }
}

/// Running traffic; stops when dropped.
#[derive(Debug)]
pub(crate) struct Traffic {
    seen: Vec<Arc<Seen>>,
    _tasks: JoinSet<()>,
}

impl Traffic {
    pub(crate) fn start(proxies: &[SocketAddr]) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let mut tasks = JoinSet::new();
        let mut seen = Vec::new();
        for proxy in proxies {
            let counts = Arc::new(Seen::default());
            seen.push(Arc::clone(&counts));
            tasks.spawn(send(client.clone(), *proxy, counts));
        }
        Self { seen, _tasks: tasks }
    }

    pub(crate) fn counts(&self) -> Counts {
        // Failures first: a request is counted as sent before it can fail.
        let proxies = self
            .seen
            .iter()
            .map(|seen| {
                let failed = seen.failed.load(Ordering::Acquire);
                (seen.sent.load(Ordering::Acquire), failed)
            })
            .collect();
        Counts { proxies }
    }
}

async fn send(client: Client<HttpConnector, Empty<Bytes>>, proxy: SocketAddr, seen: Arc<Seen>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let Ok(uri) = format!("http://{proxy}/cart").parse::<http::Uri>() else { return };
    loop {
        ticks.tick().await;
        let answered = tokio::time::timeout(DEADLINE, async {
            let answer = client.get(uri.clone()).await.ok()?;
            let status = answer.status();
            answer.into_body().collect().await.ok()?;
            Some(status)
        });
        let failed = !matches!(answered.await, Ok(Some(status)) if status.is_success());
        seen.sent.fetch_add(1, Ordering::Release);
        if failed {
            seen.failed.fetch_add(1, Ordering::Release);
        }
    }
}
