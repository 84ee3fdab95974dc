//! Where the keys of tokens come from: a file, a URL, or what an issuer's discovery document names.
//!
//! Each source keeps its keys up to date on the background runtime, for as long as a snapshot needs it, and keeps the
//! last good ones when it fails. Requests only load a pointer. A token with an unknown key id may ask for a refresh; how
//! often that is heeded is bounded, whoever asks.
//!
//! It does not know tokens; see [`crate::middleware::jwt`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use sealane_model::config::JwksSource;
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time;
use tracing::{info, warn};

use crate::clock::Moment;
use crate::jwks::fetch::{FetchError, fetch};
use crate::jwks::keys::{KeySet, KeysError, Origin};
use crate::live::Shelf;
use crate::metrics::lock;
use crate::snapshot::tls::TlsLive;
use crate::upstream::tls::own_client;

mod fetch;
pub(crate) mod keys;

/// A source of keys. Two stages with the same source share it, in one snapshot and across them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) source: JwksSource,
    pub(crate) issuer: String,
    /// PEM file of the CAs that its server is verified with; `None`: the system's.
    pub(crate) ca_file: Option<String>,
}

/// All sources of a process.
#[derive(Debug, Default)]
pub(crate) struct KeySources {
    sources: Shelf<Place, KeySource>,
}

/// The keys of one source.
pub(crate) struct KeySource {
    place: Place,
    keys: ArcSwapOption<KeySet>,
    tls: Option<Arc<rustls::ClientConfig>>,
    is_refreshed: AtomicBool,
    /// Refreshes that are over.
    attempts: watch::Sender<u64>,
    /// Wakes the refresher.
    wanted: Arc<Notify>,
    /// The attempt that the last request for a refresh waits for.
    awaited: AtomicU64,
    /// Milliseconds of [`Moment`] before which no request gets another refresh.
    demand_at_ms: AtomicU64,
    pub(crate) refreshes: AtomicU64,
    pub(crate) failures: AtomicU64,
    stamp: std::sync::Mutex<Option<Stamp>>,
}

impl std::fmt::Debug for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeySource").field("place", &self.place).finish_non_exhaustive()
    }
}

/// What tells one content of a file from another.
type Stamp = (std::time::SystemTime, u64, u64);

/// Why a refresh failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RefreshError {
    #[error("cannot read the file")]
    Read(#[source] std::io::Error),
    #[error("cannot fetch `{url}`")]
    Fetch {
        url: String,
        #[source]
        source: FetchError,
    },
    #[error("took longer than {} s", FETCH_TIMEOUT.as_secs())]
    Slow,
    #[error("`{url}` is no discovery document")]
    Discovery {
        url: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("the discovery document is that of `{0}`")]
    OtherIssuer(String),
    #[error("the discovery document names keys in plain text")]
    PlainText,
    #[error("unusable keys")]
    Keys(#[source] KeysError),
}

/// Of one refresh.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two refreshes of what comes from the network, where its server does not say.
const FRESH: Duration = Duration::from_secs(300);
/// The bounds of what its server may say.
const FRESH_MIN: Duration = Duration::from_secs(60);
const FRESH_MAX: Duration = Duration::from_secs(3600);
/// After a failure, doubled with each one that follows.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Between two looks at a file.
const FILE_LOOK: Duration = Duration::from_secs(1);
/// Between two refreshes that requests ask for.
const DEMAND_MS: u64 = 10_000;
/// How long a request waits for one.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(6);

/// Key sets are told apart by these.
static SERIAL: AtomicU64 = AtomicU64::new(0);

#[derive(Deserialize)]
struct DiscoveryDocument {
    issuer: String,
    jwks_uri: String,
}

impl KeySources {
    /// The source for `place`. A file is read at once.
    ///
    /// # Errors
    /// Why a file, or the CA, is of no use.
    pub(crate) fn take(&self, place: Place, tls: &TlsLive) -> Result<Arc<KeySource>, String> {
        let client = match &place.source {
            JwksSource::File(_) => None,
            JwksSource::Url(_) | JwksSource::Discovery => Some(own_client(place.ca_file.as_deref(), tls)?),
        };
        let source = self.sources.take(&place.clone(), place.clone(), || KeySource::new(place.clone(), client));
        if let (JwksSource::File(path), None) = (&place.source, &*source.keys.load()) {
            source.read(path).map_err(|cause| describe(&cause))?;
        }
        Ok(source)
    }

    /// Starts to keep new sources up to date, and waits for their first attempts.
    pub(crate) async fn start_new(&self, runtime: &Handle) {
        let held = self.sources.held();
        for source in &held {
            if !source.is_refreshed.swap(true, Ordering::Relaxed) {
                runtime.spawn(refresh(Arc::downgrade(source), Arc::clone(&source.wanted)));
            }
        }
        for source in held {
            // The sender lives in the source.
            let _ = source.attempts.subscribe().wait_for(|attempts| *attempts > 0).await;
        }
    }

    /// Sources that are in use.
    pub(crate) fn held(&self) -> Vec<Arc<KeySource>> {
        self.sources.held()
    }

    pub(crate) fn tidy(&self) {
        self.sources.tidy();
    }
}

impl KeySource {
    fn new(place: Place, tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        Self {
            place,
            keys: ArcSwapOption::empty(),
            tls,
            is_refreshed: AtomicBool::new(false),
            attempts: watch::Sender::new(0),
            wanted: Arc::default(),
            awaited: AtomicU64::new(0),
            demand_at_ms: AtomicU64::new(0),
            refreshes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            stamp: std::sync::Mutex::default(),
        }
    }

    /// The last good keys; `None`: there were none yet.
    pub(crate) fn keys(&self) -> Option<Arc<KeySet>> {
        self.keys.load_full()
    }

    /// As people know it: a path or a URL.
    pub(crate) fn name(&self) -> &str {
        match &self.place.source {
            JwksSource::File(path) => path,
            JwksSource::Url(url) => without_query(url),
            JwksSource::Discovery => &self.place.issuer,
        }
    }

    /// Asks for a refresh now. What resolves when it is over; `None`: there was one just now.
    pub(crate) fn demand(&self, now: Moment) -> Option<watch::Receiver<u64>> {
        let (now_ms, due_ms) = (now.millis(), self.demand_at_ms.load(Ordering::Relaxed));
        let awaited = self.awaited.load(Ordering::Acquire);
        let mut attempts = self.attempts.subscribe();
        let done = *attempts.borrow_and_update();
        if awaited > done {
            // One is on its way.
            return Some(attempts);
        }
        if now_ms < due_ms
            || self
                .demand_at_ms
                .compare_exchange(due_ms, now_ms + DEMAND_MS, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
        {
            return None;
        }
        self.awaited.store(done + 1, Ordering::Release);
        self.wanted.notify_one();
        Some(attempts)
    }

    /// One attempt. How long until the next.
    async fn attempt(&self) -> Result<Duration, RefreshError> {
        match (&self.place.source, &self.tls) {
            (JwksSource::File(path), _) => {
                let path = path.clone();
                self.read(&path)?;
                Ok(FILE_LOOK)
            }
            (JwksSource::Url(url), Some(tls)) => self.load(url, tls).await,
            (JwksSource::Discovery, Some(tls)) => {
                let url = format!("{}/.well-known/openid-configuration", self.place.issuer.trim_end_matches('/'));
                let document =
                    fetch(&url, tls).await.map_err(|source| RefreshError::Fetch { url: url.clone(), source })?;
                let found: DiscoveryDocument = serde_json::from_slice(&document.bytes)
                    .map_err(|source| RefreshError::Discovery { url, source })?;
                // OpenID Connect Discovery 1.0 §4.3
                if found.issuer != self.place.issuer {
                    return Err(RefreshError::OtherIssuer(found.issuer.chars().take(200).collect()));
                }
                if self.place.issuer.starts_with("https://") && !found.jwks_uri.starts_with("https://") {
                    return Err(RefreshError::PlainText);
                }
                self.load(&found.jwks_uri, tls).await
            }
            (JwksSource::Url(_) | JwksSource::Discovery, None) => Ok(FRESH),
        }
    }

    async fn load(&self, url: &str, tls: &Arc<rustls::ClientConfig>) -> Result<Duration, RefreshError> {
        let document = fetch(url, tls)
            .await
            .map_err(|source| RefreshError::Fetch { url: without_query(url).to_owned(), source })?;
        self.store(&document.bytes, Origin::Network)?;
        Ok(document.fresh_for.unwrap_or(FRESH).clamp(FRESH_MIN, FRESH_MAX))
    }

    /// Reads a file, if it is not the one that was read.
    fn read(&self, path: &str) -> Result<(), RefreshError> {
        let stamp = stamp(path).map_err(RefreshError::Read)?;
        if *lock(&self.stamp) == Some(stamp) {
            return Ok(());
        }
        let text = read_bounded(path).map_err(RefreshError::Read)?;
        self.store(&text, Origin::File)?;
        *lock(&self.stamp) = Some(stamp);
        Ok(())
    }

    fn store(&self, text: &[u8], origin: Origin) -> Result<(), RefreshError> {
        let new = KeySet::parse(text, origin, SERIAL.fetch_add(1, Ordering::Relaxed)).map_err(RefreshError::Keys)?;
        self.refreshes.fetch_add(1, Ordering::Relaxed);
        if self.keys.load().as_ref().is_none_or(|old| !old.equals(&new)) {
            info!(source = self.name(), keys = new.len(), "keys of tokens loaded");
            self.keys.store(Some(Arc::new(new)));
        }
        Ok(())
    }
}

impl Drop for KeySource {
    fn drop(&mut self) {
        // The refresher sees that nobody is left.
        self.wanted.notify_one();
    }
}

/// Keeps a source up to date until it is gone.
async fn refresh(source: Weak<KeySource>, wanted: Arc<Notify>) {
    let mut backoff = BACKOFF_MIN;
    let mut failing = false;
    loop {
        let Some(held) = source.upgrade() else { return };
        let attempt = time::timeout(FETCH_TIMEOUT, held.attempt()).await.unwrap_or(Err(RefreshError::Slow));
        let pause = match attempt {
            Ok(pause) => {
                if failing {
                    info!(source = held.name(), "keys of tokens can be had again");
                }
                (backoff, failing) = (BACKOFF_MIN, false);
                pause
            }
            Err(cause) => {
                held.failures.fetch_add(1, Ordering::Relaxed);
                // Said once per streak.
                if !failing {
                    warn!(source = held.name(), cause = describe(&cause), "keys of tokens cannot be refreshed");
                }
                failing = true;
                let pause = backoff;
                backoff = (backoff * 2).min(BACKOFF_MAX);
                pause
            }
        };
        held.attempts.send_modify(|attempts| *attempts += 1);
        drop(held);
        // Either is a reason to look again.
        let _ = time::timeout(pause, wanted.notified()).await;
    }
}

fn stamp(path: &str) -> std::io::Result<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path)?;
    Ok((metadata.modified()?, metadata.len(), metadata.ino()))
}

/// A file of at most 1 MiB.
fn read_bounded(path: &str) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    const BYTES_MAX: u64 = 1 << 20;
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > BYTES_MAX {
        return Err(std::io::Error::other("larger than 1 MiB"));
    }
    Ok(text)
}

/// A URL without what may be a key to it.
fn without_query(url: &str) -> &str {
    url.split('?').next().unwrap_or(url)
}

/// An error with its causes.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
