//! The proxy as a value: start it, give it configs, look at it, stop it.
//!
//! A config goes in in two steps: [`Proxy::prepare`] does everything that can fail (compile, load files, bind),
//! [`Proxy::activate`] only moves a pointer. Requests see one snapshot from first byte to last; connections, health and
//! counters stay through a swap.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use sealane_model::account::Asked;
use sealane_model::config::{CacheStore, Config, Position};
use sealane_model::impact::Shape;
use sealane_model::latency;
use sealane_model::parse::Reader;
use sealane_model::problem::Problem;
use tokio::sync::{mpsc, oneshot};
use tokio::time;
use tracing::info;

use crate::admin::AdminListener;
use crate::builder::Builder;
use crate::cache::{CacheStats, Purge, PurgeError};
use crate::clock::Moment;
use crate::desk::{self, Order as DeskOrder, Source};
use crate::drain;
use crate::explain::{self, ExplainError, Explained};
use crate::exposition;
use crate::health::Health;
use crate::metrics::{APPLY_EDGES_US, Count, PerThread, RevisionCells, lock, total};
use crate::serve::{self, Background};
use crate::settings::Settings;
use crate::shared::{Shared, Stage};
use crate::snapshot::problems::error;
use crate::snapshot::{CompiledListener, Snapshot, compile};
use crate::sockets::{Socket, Sockets};
use crate::tap::{Filter, Tail};
use crate::worker::{Order, WorkerHandle};

pub use crate::drain::Notice;
pub use crate::serve::StartError;

/// Which config a snapshot was compiled from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionTag {
    /// The revision; 0: a local file.
    pub number: u64,
    /// SHA-256 of what it was made from.
    pub digest: [u8; 32],
    /// As people see it: `r42`, or `file:ab12cd`.
    pub label: Arc<str>,
}

/// A running proxy. Cheap to clone; the last clone that is dropped stops it. All methods may be called from any thread
/// and any runtime.
#[derive(Clone, Debug)]
pub struct Proxy {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) orders: Vec<mpsc::Sender<Order>>,
    /// Taken by whoever waits for the end.
    pub(crate) ended: Mutex<Vec<oneshot::Receiver<()>>>,
    sockets: Sockets,
    /// What the snapshot in force listens on: names and sockets.
    listening: Mutex<Vec<(String, Arc<Socket>)>>,
    /// Held through an activation: one at a time.
    activating: tokio::sync::Mutex<()>,
    /// Snapshots that were replaced and may still be used.
    retired: Mutex<Vec<Weak<Snapshot>>>,
    /// Held through a drain.
    pub(crate) draining: tokio::sync::Mutex<()>,
    health: Health,
    admin: Option<AdminListener>,
    background: Background,
}

/// A snapshot with everything it needs, ready to be activated. Dropping it lets everything go.
#[derive(Debug)]
pub struct Prepared {
    snapshot: Snapshot,
    /// Parallel to the snapshot's listeners.
    sockets: Vec<Arc<Socket>>,
}

impl Prepared {
    /// Which config this is.
    #[must_use]
    pub fn tag(&self) -> &RevisionTag {
        &self.snapshot.tag
    }
}

/// Why a prepared snapshot is not served. The old one still is.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// An address was lost between preparing and activating.
    #[error("cannot listen on {address}")]
    Listen {
        /// As configured.
        address: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The proxy is shutting down.
    #[error("the proxy is stopping")]
    Stopping,
}

/// What a proxy measured, cumulative since the process started.
#[derive(Clone, Debug)]
pub struct Observation {
    /// What is served; `None` before the first activation.
    pub active: Option<RevisionTag>,
    /// Takes requests: something is active, and no shutdown has begun.
    pub ready: bool,
    /// Every listener of the snapshot in force is bound and accepts.
    pub listeners_ok: bool,
    /// By revision, the last 8 at most, in the order in which they were last activated.
    pub revisions: Vec<RevisionObservation>,
}

/// What was measured of the requests whose heads came in under one revision.
#[derive(Clone, Debug)]
pub struct RevisionObservation {
    /// Which.
    pub revision: RevisionTag,
    /// All requests, also those that no route took.
    pub requests: u64,
    /// Answers with 5xx, whoever made them, and answers that broke off through the upstream's fault.
    pub failed: u64,
    /// Answers with 4xx.
    pub client_errors: u64,
    /// Connections to endpoints that could not be made.
    pub connect_failures: u64,
    /// Requests by duration; see [`sealane_model::latency`].
    pub latency: Vec<u64>,
}

impl Proxy {
    /// A proxy inside another program, with hooks.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Starts threads and the admin listener. Nothing is served yet: `/healthz` is fine, `/ready` says 503.
    ///
    /// # Errors
    /// Threads or the admin listener cannot be had.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let started = serve::start(settings).await?;
        let (orders, ended) = started.workers.into_iter().map(|WorkerHandle { orders, ended }| (orders, ended)).unzip();
        let proxy = Self {
            inner: Arc::new(Inner {
                shared: started.shared,
                orders,
                ended: Mutex::new(ended),
                sockets: Sockets::default(),
                listening: Mutex::default(),
                activating: tokio::sync::Mutex::default(),
                retired: Mutex::default(),
                draining: tokio::sync::Mutex::default(),
                health: Health::default(),
                admin: started.admin,
                background: started.background,
            }),
        };
        let (inner, shared) = (Arc::downgrade(&proxy.inner), Arc::clone(&proxy.inner.shared));
        proxy.inner.background.handle().spawn(async move {
            shared.drain_asked.notified().await;
            if let Some(inner) = inner.upgrade() {
                drain::run(&inner, Notice::LoadBalancers).await;
            }
        });
        Ok(proxy)
    }

    /// Compiles a config, off the workers, and binds what it listens on that is not bound yet. Nothing of what is served
    /// changes.
    ///
    /// # Errors
    /// Every problem that this machine has with the config.
    pub async fn prepare(&self, tag: RevisionTag, config: Arc<Config>) -> Result<Prepared, Vec<Problem>> {
        let inner = Arc::clone(&self.inner);
        let started = Moment::now();
        let prepared = self.inner.background.handle().spawn(async move { inner.prepare(tag, config).await });
        let prepared = prepared.await.unwrap_or_else(|_| {
            Err(vec![error("stopping", Position::default(), "", "the proxy stopped while the config was prepared")])
        });
        let took = Moment::now().micros_since(started);
        lock(&self.inner.shared.registry.applied).record(&APPLY_EDGES_US, took);
        if prepared.is_err() {
            self.inner.shared.registry.rejected.fetch_add(1, Ordering::Relaxed);
        }
        prepared
    }

    /// Serves a prepared snapshot. Returns once every worker serves it for new request heads.
    ///
    /// # Errors
    /// The old snapshot goes on being served.
    pub async fn activate(&self, prepared: Prepared) -> Result<(), ActivateError> {
        let inner = Arc::clone(&self.inner);
        // On a task of its own: a caller that goes away does not leave half an activation.
        let activated = self.inner.background.handle().spawn(async move { inner.activate(prepared).await });
        activated.await.unwrap_or(Err(ActivateError::Stopping))
    }

    /// What this process decides for itself.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.inner.shared.settings
    }

    /// What is served.
    #[must_use]
    pub fn active(&self) -> Option<RevisionTag> {
        self.inner.shared.current.snapshot().map(|snapshot| snapshot.tag.clone())
    }

    /// The config that is served.
    #[must_use]
    pub fn config(&self) -> Option<Arc<Config>> {
        self.inner.shared.current.snapshot().map(|snapshot| Arc::clone(&snapshot.config))
    }

    /// What was measured so far.
    #[must_use]
    pub fn observe(&self) -> Observation {
        let shared = &self.inner.shared;
        let revisions = shared.registry.revisions();
        let observations = revisions.iter().map(|(tag, threads)| observe_revision(tag, threads)).collect();
        drop(revisions);
        Observation {
            active: self.active(),
            ready: shared.is_ready(),
            listeners_ok: lock(&self.inner.listening).iter().all(|(_, socket)| socket.is_listening()),
            revisions: observations,
        }
    }

    /// Names and addresses of the listeners in force.
    #[must_use]
    pub fn bound(&self) -> Vec<(String, SocketAddr)> {
        lock(&self.inner.listening).iter().map(|(name, socket)| (name.clone(), socket.local)).collect()
    }

    /// Where the admin listener is bound.
    #[must_use]
    pub fn admin(&self) -> Option<SocketAddr> {
        self.inner.admin.as_ref().map(|admin| admin.address)
    }

    /// Adds families of another part of this process to the metrics: `other` gives their Prometheus text at each scrape.
    pub fn add_metrics(&self, other: impl Fn() -> String + Send + Sync + 'static) {
        self.inner.shared.others.add(Box::new(other));
    }

    /// Prometheus text of all metrics.
    #[must_use]
    pub fn metrics(&self) -> String {
        exposition::text(&self.inner.shared)
    }

    /// Returns when every worker thread has answered: they are alive. A worker that hangs lets this wait for ever.
    pub async fn respond(&self) {
        self.inner.ask_all(Order::Adopt).await;
    }

    /// What is stored in the cache, and what it was good for.
    #[must_use]
    pub fn cache_stats(&self) -> CacheStats {
        self.inner.shared.cache_stats()
    }

    /// Takes stored answers out of the cache. How many they were.
    ///
    /// What is being fetched at the moment is not stored. Looks at every stored answer, a few milliseconds for a million.
    ///
    /// # Errors
    /// What is meant cannot be read.
    pub fn purge_cache(&self, purge: &Purge) -> Result<u64, PurgeError> {
        self.inner.shared.cache.purge(purge)
    }

    /// Recent requests, as decisions saw them: a bounded sample.
    #[must_use]
    pub fn samples(&self) -> Vec<Shape> {
        self.inner.shared.samples()
    }

    /// Which route takes a request that may be sent, and why.
    ///
    /// # Errors
    /// Nothing is served, or it is no request.
    pub fn explain(&self, asked: &Asked) -> Result<Explained, ExplainError> {
        explain::explain(&self.inner.shared, asked)
    }

    /// Which route took a request that was sent, and which would now.
    ///
    /// # Errors
    /// It is not remembered, or nothing is served.
    pub fn explain_past(&self, request_id: &str) -> Result<Explained, ExplainError> {
        explain::explain_past(&self.inner.shared, request_id)
    }

    /// Watches requests as they end. `None`: so many watch already.
    #[must_use]
    pub fn tail(&self, filter: Filter) -> Option<Tail> {
        Tail::begin(&self.inner.shared, filter)
    }

    /// Makes the caller the owner of the config: orders from the admin address come to it from now on. `reader`: for whom
    /// texts are checked before.
    #[must_use]
    pub fn take_orders(&self, reader: Reader) -> mpsc::Receiver<DeskOrder> {
        let (desk, orders) = desk::line(reader);
        self.inner.shared.set_desk(desk);
        orders
    }

    /// Says which text is served; the owner does after each activation.
    pub fn set_source(&self, source: Source) {
        self.inner.shared.set_source(source);
    }

    /// Which text is served, where the owner has said it.
    #[must_use]
    pub fn source(&self) -> Option<Arc<Source>> {
        self.inner.shared.source()
    }

    /// How many retired snapshots requests still use, where that is more than a further config should be taken with
    /// ([`Settings::retired_max`]); `None`: there is room.
    #[must_use]
    pub fn pressure(&self) -> Option<usize> {
        let retired = self.retired();
        (retired >= self.inner.shared.settings.retired_max.max(1)).then_some(retired)
    }

    /// Retired snapshots that requests still use.
    #[must_use]
    pub fn retired(&self) -> usize {
        let mut retired = lock(&self.inner.retired);
        retired.retain(|snapshot| snapshot.strong_count() > 0);
        // The one that is held for freeing it elsewhere is no request's.
        retired.iter().filter(|snapshot| snapshot.strong_count() > 1).count()
    }

    /// Opens the access log's file anew, after a rotation.
    pub fn reopen_log(&self) {
        self.inner.shared.log.reopen();
    }

    /// Shuts down in stages: not ready, a while for load balancers to notice, no new connections, requests in flight
    /// finish, what is left is closed. Times are those of the settings, else of the config in force.
    pub async fn drain(&self, notice: Notice) {
        let inner = Arc::clone(&self.inner);
        let drained = self.inner.background.handle().spawn(async move { drain::run(&inner, notice).await });
        // An error means that the runtime has ended, and with it everything that could be drained.
        let _ = drained.await;
    }

    /// Begins a drain beside everything else, once. How many connections of clients are open.
    pub(crate) fn ask_to_drain(&self) -> u64 {
        let shared = &self.inner.shared;
        shared.drain_asked.notify_one();
        shared.open_connections()
    }

    /// The listening sockets, doubled, for a process that takes over; see [`crate::handover`].
    pub(crate) fn listening_sockets(&self) -> Vec<TcpListener> {
        let data = lock(&self.inner.listening).iter().flat_map(|(_, socket)| socket.doubles()).collect::<Vec<_>>();
        let admin = self.inner.admin.as_ref().and_then(AdminListener::double);
        data.into_iter().chain(admin).collect()
    }

    /// Answers no further admin connections: another process does.
    pub(crate) fn close_admin(&self) {
        if let Some(admin) = &self.inner.admin {
            admin.close();
        }
    }

    /// Stops at once, whatever is in flight.
    pub async fn stop(&self) {
        let inner = Arc::clone(&self.inner);
        let stopped = self.inner.background.handle().spawn(async move { inner.stop(STOP_TIMEOUT).await });
        // As above.
        let _ = stopped.await;
    }
}

/// How long stopping waits for the workers' threads.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at whether a retired snapshot is still used.
const RETIRE_LOOK: Duration = Duration::from_millis(500);
/// How long preparing waits for names that were never resolved; they go on resolving in the background.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long preparing waits for keys of tokens that were never fetched; fetching goes on in the background.
const KEYS_TIMEOUT: Duration = Duration::from_secs(3);

impl Inner {
    async fn prepare(self: Arc<Self>, tag: RevisionTag, config: Arc<Config>) -> Result<Prepared, Vec<Problem>> {
        let shared = Arc::clone(&self.shared);
        let compiled = tokio::task::spawn_blocking(move || {
            let before = shared.current.snapshot();
            compile::compile(tag, config, &shared.settings, &shared.live, before.as_deref())
        });
        let mut snapshot = compiled.await.unwrap_or_else(|cause| {
            Err(vec![error("internal", Position::default(), "", format!("compiling failed: {cause}"))])
        })?;
        let live = &self.shared.live;
        let _ = time::timeout(RESOLVE_TIMEOUT, live.names.resolve_new()).await;
        let _ = time::timeout(KEYS_TIMEOUT, live.key_sources.start_new(self.background.handle())).await;
        let threads = self.orders.len();
        let bound = snapshot
            .listeners
            .iter()
            .map(|listener| self.bind(listener, threads).map_err(|cause| cannot_listen(listener, &cause)));
        let (sockets, problems): (Vec<_>, Vec<_>) = bound.partition(Result::is_ok);
        if !problems.is_empty() {
            return Err(problems.into_iter().filter_map(Result::err).collect());
        }
        let sockets: Vec<Arc<Socket>> = sockets.into_iter().flatten().collect();
        assign(&mut snapshot, &sockets);
        Ok(Prepared { snapshot, sockets })
    }

    async fn activate(self: Arc<Self>, prepared: Prepared) -> Result<(), ActivateError> {
        let _one_at_a_time = self.activating.lock().await;
        if self.shared.stage() >= Stage::Draining {
            return Err(ActivateError::Stopping);
        }
        let Prepared { mut snapshot, mut sockets } = prepared;
        for (listener, socket) in snapshot.listeners.iter().zip(&mut sockets) {
            // A snapshot between this one's preparing and now did not want it.
            if socket.is_closed() {
                *socket = self
                    .bind(listener, self.orders.len())
                    .map_err(|source| ActivateError::Listen { address: listener.address.to_string(), source })?;
            }
        }
        assign(&mut snapshot, &sockets);
        let names: Vec<String> = snapshot.listeners.iter().map(|listener| listener.name.clone()).collect();
        let snapshot = Arc::new(snapshot);
        let admissions = snapshot.routes.iter().filter_map(|route| route.admission.as_ref());
        let fingerprints = admissions.flat_map(|admission| admission.fingerprints()).collect();
        let default = self.shared.settings.hooks.may_cache().then(CacheStore::default);
        let store = snapshot.config.cache.as_ref().map(|cache| &cache.store).or(default.as_ref());
        self.shared.cache.adopt(store, fingerprints);
        self.shared.registry.make_room(&snapshot);
        if let Some(before) = self.shared.current.swap(Arc::clone(&snapshot)) {
            {
                let mut retired = lock(&self.retired);
                retired.retain(|snapshot| snapshot.strong_count() > 0);
                retired.push(Arc::downgrade(&before));
            }
            self.background.handle().spawn(retire(before));
        }
        self.shared.registry.swaps.fetch_add(1, Ordering::Relaxed);
        self.ask_all(Order::Adopt).await;
        self.listen(&sockets).await;
        let before = {
            let mut listening = lock(&self.listening);
            let after = names.into_iter().zip(sockets.iter().map(Arc::clone)).collect();
            std::mem::replace(&mut *listening, after)
        };
        for (_, socket) in before.iter().filter(|(_, old)| !sockets.iter().any(|new| new.id == old.id)) {
            socket.close();
            self.ask_all(|done| Order::Unlisten { socket: socket.id, done }).await;
        }
        self.health.reconcile(&snapshot, self.background.handle());
        self.shared.live.tidy();
        info!(revision = &*snapshot.tag.label, routes = snapshot.routes.len(), "snapshot activated");
        Ok(())
    }

    fn bind(&self, listener: &CompiledListener, threads: usize) -> std::io::Result<Arc<Socket>> {
        self.sockets.bind(listener, threads, &self.shared.settings.inherited)
    }

    /// Lets go of all listening sockets but those that the workers have.
    pub(crate) fn close_sockets(&self) {
        lock(&self.listening).iter().for_each(|(_, socket)| socket.close());
    }

    /// Hands sockets that nobody accepts on yet to the workers.
    async fn listen(&self, sockets: &[Arc<Socket>]) {
        for socket in sockets {
            let Some(shares) = socket.give_out() else { continue };
            for (orders, listeners) in self.orders.iter().zip(shares) {
                // A worker that has ended needs no socket.
                let _ = orders.send(Order::Listen { socket: socket.id, listeners }).await;
            }
        }
    }

    /// Gives every worker an order and waits until all have carried it out.
    pub(crate) async fn ask_all(&self, order: impl Fn(oneshot::Sender<()>) -> Order) {
        let mut answers = Vec::with_capacity(self.orders.len());
        for orders in &self.orders {
            let (done, answer) = oneshot::channel();
            if orders.send(order(done)).await.is_ok() {
                answers.push(answer);
            }
        }
        for answer in answers {
            // A worker that ends carries out nothing more.
            let _ = answer.await;
        }
    }

    /// Ends the workers, whatever they are doing.
    pub(crate) async fn stop(&self, timeout: Duration) {
        self.shared.enter(Stage::Draining);
        self.close_sockets();
        for orders in &self.orders {
            // One that has ended already needs no order.
            let _ = orders.send(Order::Stop).await;
        }
        let ended = std::mem::take(&mut *lock(&self.ended));
        let all = async {
            for ended in ended {
                // A thread that is gone has ended.
                let _ = ended.await;
            }
        };
        if time::timeout(timeout, all).await.is_err() {
            tracing::error!("workers did not end in time");
        }
        self.shared.enter(Stage::Drained);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for orders in &self.orders {
            // A full queue ends with its sender.
            let _ = orders.try_send(Order::Stop);
        }
    }
}

/// Holds a snapshot until its last request is over, so that freeing it never falls to a worker.
async fn retire(snapshot: Arc<Snapshot>) {
    while Arc::strong_count(&snapshot) > 1 {
        time::sleep(RETIRE_LOOK).await;
    }
}

/// Tells the snapshot which sockets its listeners have.
fn assign(snapshot: &mut Snapshot, sockets: &[Arc<Socket>]) {
    for (listener, socket) in snapshot.listeners.iter_mut().zip(sockets) {
        listener.socket = socket.id;
        if listener.tls && listener.address.port == 0 && snapshot.https_port == Some(0) {
            snapshot.https_port = Some(socket.local.port());
        }
    }
}

fn cannot_listen(listener: &CompiledListener, cause: &std::io::Error) -> Problem {
    let set_by = listener.flag.map_or_else(|| format!("listener `{}`", listener.name), |flag| format!("`{flag}`"));
    let message = format!("cannot listen on {} (set by {set_by}): {cause}", listener.address);
    error("cannot_listen", listener.at, format!("listeners[{}].address", listener.name), message)
}

fn observe_revision(tag: &RevisionTag, threads: &PerThread<RevisionCells>) -> RevisionObservation {
    let sum = |count: fn(&RevisionCells) -> &Count| total(threads, count);
    RevisionObservation {
        revision: tag.clone(),
        requests: sum(|cells| &cells.requests),
        failed: sum(|cells| &cells.failed),
        client_errors: sum(|cells| &cells.client_errors),
        connect_failures: sum(|cells| &cells.connect_failures),
        latency: (0..latency::BUCKETS).map(|bucket| total(threads, |cells| &cells.latency[bucket])).collect(),
    }
}
