//! What all threads of a proxy share.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use sealane_model::impact::Shape;
use tokio::sync::Notify;

use crate::access_log::LogWriter;
use crate::cache::{Cache, CacheStats};
use crate::current::Current;
use crate::desk::{Desk, Source};
use crate::exposition::Others;
use crate::live::Live;
use crate::metrics::{Registry, lock};
use crate::settings::Settings;
use crate::tap::Taps;

/// What all threads of a proxy share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) current: Current,
    pub(crate) live: Live,
    pub(crate) registry: Registry,
    pub(crate) log: LogWriter,
    pub(crate) clients: Clients,
    pub(crate) cache: Arc<Cache>,
    pub(crate) others: Others,
    /// Who watches requests as they end.
    pub(crate) taps: Taps,
    /// Who owns the config; `None`: the program that this is part of.
    desk: Mutex<Option<Desk>>,
    source: Mutex<Option<Arc<Source>>>,
    stage: AtomicU8,
    /// Somebody asked this process to drain.
    pub(crate) drain_asked: Notify,
}

/// How far a shutdown has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// No shutdown.
    Serving,
    /// Not ready any more, so that load balancers go elsewhere; still accepting.
    Leaving,
    /// No new connections; requests in flight finish, then their connections close.
    Draining,
    /// The workers have ended.
    Drained,
}

impl Shared {
    pub(crate) fn new(settings: Settings, log: LogWriter) -> Self {
        let threads = settings.worker_threads();
        Self {
            settings,
            current: Current::default(),
            live: Live::new(threads),
            registry: Registry::new(threads),
            log,
            clients: Clients::default(),
            cache: Arc::default(),
            others: Others::default(),
            taps: Taps::default(),
            desk: Mutex::default(),
            source: Mutex::default(),
            stage: AtomicU8::new(0),
            drain_asked: Notify::new(),
        }
    }

    pub(crate) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Serving,
            1 => Stage::Leaving,
            2 => Stage::Draining,
            _ => Stage::Drained,
        }
    }

    /// What is stored, and what became of requests to cached routes.
    pub(crate) fn cache_stats(&self) -> CacheStats {
        let threads = &self.registry.threads;
        let hits = threads.iter().map(|cells| cells.cache_hits.value()).sum();
        let misses = threads.iter().map(|cells| cells.cache_misses.value()).sum();
        self.cache.stats(hits, misses)
    }

    /// The way to whoever owns the config.
    pub(crate) fn desk(&self) -> Option<Desk> {
        lock(&self.desk).clone()
    }

    pub(crate) fn set_desk(&self, desk: Desk) {
        *lock(&self.desk) = Some(desk);
    }

    /// The text of what is served, where its owner has said it.
    pub(crate) fn source(&self) -> Option<Arc<Source>> {
        lock(&self.source).clone()
    }

    pub(crate) fn set_source(&self, source: Source) {
        *lock(&self.source) = Some(Arc::new(source));
    }

    /// Recent requests, as decisions saw them.
    pub(crate) fn samples(&self) -> Vec<Shape> {
        self.registry.threads.iter().flat_map(|cells| cells.samples.shapes()).collect()
    }

    /// Stages only go forward.
    pub(crate) fn enter(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::AcqRel);
    }

    /// Client connections that are open.
    pub(crate) fn open_connections(&self) -> u64 {
        self.registry.threads.iter().map(|cells| cells.connections_open.value()).sum()
    }

    /// Whether this proxy should get requests.
    pub(crate) fn is_ready(&self) -> bool {
        self.stage() == Stage::Serving && self.current.version() > 0
    }
}

/// Client connections, counted in all and by client address.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    open: AtomicUsize,
    by_client: [Mutex<HashMap<IpAddr, u32>>; SHARDS],
}

const SHARDS: usize = 16;

/// The place of one connection, given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit(Seat);

impl Permit {
    /// Lets a connection in, unless that would be one too many in all or for its client address.
    pub(crate) fn take(shared: &Arc<Shared>, client: IpAddr, all_max: usize, client_max: usize) -> Option<Self> {
        let open = &shared.clients.open;
        if open.fetch_add(1, Ordering::Relaxed) >= all_max {
            open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let seat = Seat::take(shared, client, client_max);
        if seat.is_none() {
            open.fetch_sub(1, Ordering::Relaxed);
        }
        seat.map(Self)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.shared.clients.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The place of one connection among those of its client, given back when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    shared: Arc<Shared>,
    client: IpAddr,
}

impl Seat {
    /// One more connection of this client, unless that would be one too many.
    pub(crate) fn take(shared: &Arc<Shared>, client: IpAddr, client_max: usize) -> Option<Self> {
        let mut clients = lock(shared.clients.shard(client));
        let open = clients.entry(client).or_insert(0);
        if *open as usize >= client_max {
            return None;
        }
        *open += 1;
        Some(Self { shared: Arc::clone(shared), client })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut clients = lock(self.shared.clients.shard(self.client));
        if let Some(open) = clients.get_mut(&self.client) {
            *open -= 1;
            if *open == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

impl Clients {
    fn shard(&self, client: IpAddr) -> &Mutex<HashMap<IpAddr, u32>> {
        let byte = match client {
            IpAddr::V4(ip) => ip.octets().iter().fold(0, |sum: u8, byte| sum.wrapping_mul(31).wrapping_add(*byte)),
            IpAddr::V6(ip) => ip.octets().iter().fold(0, |sum: u8, byte| sum.wrapping_mul(31).wrapping_add(*byte)),
        };
        &self.by_client[usize::from(byte) % SHARDS]
    }
}
