//! External plugins: one channel to each, kept across snapshots, with a breaker and bounds of its own.
//!
//! Calls run on the background runtime; the request that asked waits for the outcome in the task of its connection (see
//! [`crate::middleware::plugin`]). What a plugin says is judged in [`answer`]: nothing of it reaches a request unchecked.
//! It does not know chains, nor what becomes of a request without an answer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sealane_model::config::{CircuitBreaker, PluginProtocol};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::breaker::{Breaker, BreakerPlan, Outcome, Permit};
use crate::clock::Moment;
use crate::live::Shelf;
use crate::metrics::{DURATION_EDGES_US, lock};
use crate::plugin::answer::Verdict;
use crate::snapshot::tls::TlsLive;

pub(crate) mod answer;
mod ext_authz;
mod filter;

/// What makes two plugins the same, across snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PluginKey {
    pub(crate) id: String,
    pub(crate) origin: String,
    pub(crate) ca_file: Option<String>,
}

/// The way to a plugin, shared by all threads and snapshots.
#[derive(Debug)]
pub(crate) struct PluginLive {
    pub(crate) key: PluginKey,
    channel: Channel,
    background: Handle,
    breaker: Arc<Breaker>,
    plan: BreakerPlan,
    /// Failed calls in a row.
    failures: AtomicU32,
    places: Arc<Semaphore>,
    pub(crate) counts: PluginCounts,
}

/// What came of calls.
#[derive(Debug, Default)]
pub(crate) struct PluginCounts {
    calls: [AtomicU64; CallResult::ALL.len()],
    /// Requests that went on without an answer, by result.
    bypassed: [AtomicU64; CallResult::ALL.len()],
    pub(crate) refused: AtomicU64,
    pub(crate) short_circuits: AtomicU64,
    pub(crate) denied_mutations: AtomicU64,
    durations: Mutex<Durations>,
}

/// Calls by duration.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Durations {
    pub(crate) counts: [u64; DURATION_EDGES_US.len() + 1],
    pub(crate) sum_us: u64,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallResult {
    /// With an answer that is of use.
    Ok,
    /// Not within the plugin's timeout.
    Timeout,
    /// There is no connection, or the plugin answered with an error.
    Unavailable,
    /// The answer is of no use.
    Invalid,
    /// It was not made: the breaker is open.
    BreakerOpen,
    /// It was not made: too many are under way.
    Busy,
}

impl CallResult {
    pub(crate) const ALL: [Self; 6] =
        [Self::Ok, Self::Timeout, Self::Unavailable, Self::Invalid, Self::BreakerOpen, Self::Busy];

    /// The name in logs and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::Invalid => "invalid",
            Self::BreakerOpen => "breaker_open",
            Self::Busy => "busy",
        }
    }
}

impl PluginCounts {
    pub(crate) fn note_bypass(&self, result: CallResult) {
        self.bypassed[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn calls(&self, result: CallResult) -> u64 {
        self.calls[result as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn bypassed(&self, result: CallResult) -> u64 {
        self.bypassed[result as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn durations(&self) -> Durations {
        *lock(&self.durations)
    }

    fn note(&self, result: CallResult) {
        self.calls[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn note_duration(&self, us: u64) {
        let mut durations = lock(&self.durations);
        let place = DURATION_EDGES_US.partition_point(|edge| *edge < us);
        durations.counts[place] += 1;
        durations.sum_us += us;
    }
}

/// What a plugin is told of a request. Owned, for it leaves the request's thread.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) request_id: String,
    pub(crate) route: Arc<str>,
    pub(crate) method: String,
    pub(crate) https: bool,
    pub(crate) http2: bool,
    pub(crate) host: String,
    /// As the endpoint will see it, without the query.
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) client: std::net::IpAddr,
    /// Bytes of the body, if that is known.
    pub(crate) size: Option<u64>,
    pub(crate) unix_nanos: u64,
    pub(crate) node: String,
    pub(crate) revision: Arc<str>,
}

/// All plugins of a process.
#[derive(Debug, Default)]
pub(crate) struct Plugins(Shelf<PluginKey, PluginLive>);

/// Calls of one plugin that are under way at the same time.
const CALLS_MAX: usize = 1000;
/// Of one answer on the wire.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// Failed calls in a row that open the breaker.
const FAILURES_MAX: u32 = 5;
const OPEN: Duration = Duration::from_secs(2);
/// Calls that find out for a half-open breaker.
const PROBES: u32 = 3;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

impl Plugins {
    /// The way to a plugin. Connects with the first call. Must be called on the background runtime.
    ///
    /// # Errors
    /// Why its address or CA is of no use.
    pub(crate) fn take(&self, key: PluginKey, tls: &TlsLive) -> Result<Arc<PluginLive>, String> {
        if let Some(live) = self.0.held().into_iter().find(|live| live.key == key) {
            return Ok(live);
        }
        let live = PluginLive::new(key.clone(), tls)?;
        Ok(self.0.take(&key.clone(), key, || live))
    }

    /// Those in use, one for each id, in the order of their ids.
    pub(crate) fn held(&self) -> Vec<Arc<PluginLive>> {
        let by_id: HashMap<String, _> = self.0.held().into_iter().map(|live| (live.key.id.clone(), live)).collect();
        let mut held: Vec<_> = by_id.into_values().collect();
        held.sort_by(|a, b| a.key.id.cmp(&b.key.id));
        held
    }

    pub(crate) fn tidy(&self) {
        self.0.tidy();
    }
}

impl PluginLive {
    fn new(key: PluginKey, tls: &TlsLive) -> Result<Self, String> {
        let background = Handle::try_current().map_err(|cause| cause.to_string())?;
        let mut endpoint = Endpoint::from_shared(key.origin.clone())
            .map_err(|cause| format!("`{}` cannot be an address: {cause}", key.origin))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT);
        if key.origin.starts_with("https://") {
            let config = match &key.ca_file {
                Some(file) => {
                    let pem = std::fs::read(file).map_err(|cause| format!("cannot read `{file}`: {cause}"))?;
                    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
                }
                None => ClientTlsConfig::new().trust_anchors(tls.system_roots().roots.clone()),
            };
            endpoint = endpoint.tls_config(config).map_err(|cause| format!("its TLS cannot be used: {cause}"))?;
        }
        let breaker = CircuitBreaker {
            // It opens by failures in a row, never by their share.
            requests_min: u32::MAX,
            open_duration: OPEN,
            half_open_requests: PROBES,
            error_threshold_percent: 100.0,
            window: Duration::from_secs(10),
        };
        let _entered = background.enter();
        Ok(Self {
            key,
            channel: endpoint.connect_lazy(),
            plan: BreakerPlan::from(&breaker),
            breaker: Arc::default(),
            failures: AtomicU32::new(0),
            places: Arc::new(Semaphore::new(CALLS_MAX)),
            counts: PluginCounts::default(),
            background,
        })
    }

    /// Calls the plugin. The call ends when what is given back is dropped.
    ///
    /// # Errors
    /// Why it is not called.
    pub(crate) fn call(
        self: &Arc<Self>,
        protocol: PluginProtocol,
        timeout: Duration,
        subject: impl FnOnce() -> Subject,
    ) -> Result<Call, CallResult> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return Err(self.noted(CallResult::Busy)) };
        let Some(leave) = Permit::take(Arc::clone(&self.breaker), self.plan, Moment::now().millis()) else {
            return Err(self.noted(CallResult::BreakerOpen));
        };
        let (live, subject) = (Arc::clone(self), subject());
        Ok(Call(self.background.spawn(async move {
            let _place = place;
            let started = Moment::now();
            let asked = async {
                match protocol {
                    PluginProtocol::Sealane => filter::ask(live.channel.clone(), &live.key.id, subject).await,
                    PluginProtocol::ExtAuthz => ext_authz::ask(live.channel.clone(), subject).await,
                }
            };
            let outcome = time::timeout(timeout, asked).await.unwrap_or(Err(CallResult::Timeout));
            live.note(leave, started, outcome.as_ref().map_or_else(|result| *result, |_| CallResult::Ok));
            if let Ok(verdict) = &outcome {
                live.counts.denied_mutations.fetch_add(u64::from(verdict.denied), Ordering::Relaxed);
                live.counts.short_circuits.fetch_add(u64::from(verdict.respond.is_some()), Ordering::Relaxed);
            }
            outcome
        })))
    }

    pub(crate) fn breaker_state(&self) -> crate::breaker::State {
        self.breaker.state(Moment::now().millis())
    }

    fn note(&self, leave: Permit<Arc<Breaker>>, started: Moment, result: CallResult) {
        let now = Moment::now();
        self.noted(result);
        self.counts.note_duration(now.micros_since(started));
        let outcome = if result == CallResult::Ok { Outcome::Success } else { Outcome::Failure };
        let was_probe = leave.is_probe();
        leave.report(outcome, now.millis());
        if outcome == Outcome::Success {
            self.failures.store(0, Ordering::Relaxed);
        } else if self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES_MAX
            && !was_probe
            && self.breaker.trip(&self.plan, now.millis())
        {
            self.failures.store(0, Ordering::Relaxed);
            tracing::warn!(plugin = self.key.id, reason = result.name(), "the breaker of a plugin opened");
        }
    }

    fn noted(&self, result: CallResult) -> CallResult {
        self.counts.note(result);
        result
    }
}

/// A call that is under way.
#[derive(Debug)]
pub(crate) struct Call(JoinHandle<Result<Verdict, CallResult>>);

impl Call {
    /// What came of it.
    pub(crate) async fn outcome(mut self) -> Result<Verdict, CallResult> {
        (&mut self.0).await.unwrap_or(Err(CallResult::Unavailable))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a status of gRPC says of a call.
fn failed(status: &tonic::Status) -> CallResult {
    match status.code() {
        tonic::Code::DeadlineExceeded => CallResult::Timeout,
        // A message that is too large, or none.
        tonic::Code::OutOfRange | tonic::Code::Internal | tonic::Code::DataLoss => CallResult::Invalid,
        _ => CallResult::Unavailable,
    }
}
