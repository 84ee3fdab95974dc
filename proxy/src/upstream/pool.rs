//! Idle upstream connections of one thread, last in first out, bounded per endpoint.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use crate::http2::multiplexed::Multiplexed;
use crate::live::{EndpointLive, Slot};
use crate::metrics::EndpointCells;
use crate::snapshot::{CompiledEndpoint, CompiledPool, Nature, Wanted};
use crate::stream::Stream;
use crate::worker::Worker;

/// A connection to an endpoint.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) stream: Stream,
    /// It served a request before, so its end before an answer says nothing about the endpoint.
    pub(crate) reused: bool,
    connect_key: u64,
    born: u64,
    /// `None`: the connection is shared, and counted once.
    _slot: Option<Slot>,
}

impl Upstream {
    /// A connection just made.
    pub(crate) const fn new(stream: Stream, endpoint: &CompiledEndpoint, slot: Slot, now: u64) -> Self {
        Self { stream, reused: false, connect_key: endpoint.connect_key, born: now, _slot: Some(slot) }
    }
}

/// The thread's connections to one endpoint.
#[derive(Debug)]
pub(crate) struct Connections {
    /// Gone when no snapshot names the endpoint any more.
    live: Weak<EndpointLive>,
    pub(crate) cells: Arc<EndpointCells>,
    idle: RefCell<Vec<Idle>>,
    /// Those that several requests share.
    pub(crate) http2: Multiplexed,
    /// Of the pool, as last seen.
    idle_ticks: Cell<u64>,
}

#[derive(Debug)]
struct Idle {
    upstream: Upstream,
    /// Tick after which it is closed.
    until: u64,
}

impl Connections {
    /// A connection that is still open and was made under the settings that hold now: a place on a shared one, or the one
    /// that was used last.
    pub(crate) fn take(
        &self,
        pool: &CompiledPool,
        endpoint: &CompiledEndpoint,
        nature: Nature,
        now: u64,
    ) -> Option<Upstream> {
        match endpoint.wanted(nature) {
            Wanted::Http1 => self.take_own(pool, endpoint, now),
            Wanted::Http2 => self.take_shared(pool, endpoint, now),
            Wanted::Either => self.take_shared(pool, endpoint, now).or_else(|| self.take_own(pool, endpoint, now)),
        }
    }

    /// A place on a shared connection.
    pub(crate) fn take_shared(&self, pool: &CompiledPool, endpoint: &CompiledEndpoint, now: u64) -> Option<Upstream> {
        self.idle_ticks.set(pool.idle_ticks);
        let (stream, reused) = self.http2.take(pool, endpoint, now)?;
        let stream = Stream::Http2Endpoint(Box::new(stream));
        Some(Upstream { stream, reused, connect_key: endpoint.connect_key, born: now, _slot: None })
    }

    fn take_own(&self, pool: &CompiledPool, endpoint: &CompiledEndpoint, now: u64) -> Option<Upstream> {
        loop {
            let mut idle = self.idle.borrow_mut().pop()?;
            let upstream = &mut idle.upstream;
            if idle.until > now
                && upstream.connect_key == endpoint.connect_key
                && now - upstream.born <= pool.age_max_ticks
                && upstream.stream.is_idle()
            {
                upstream.reused = true;
                return Some(idle.upstream);
            }
        }
    }

    /// Keeps a connection for the next request.
    pub(crate) fn keep(&self, upstream: Upstream, pool: &CompiledPool, now: u64) {
        if matches!(upstream.stream, Stream::Http2Endpoint(_)) {
            // Its place is given back.
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let idle_max = pool.idle_max.min(self.fair_share(pool));
        if idle.len() < idle_max && now - upstream.born <= pool.age_max_ticks {
            idle.push(Idle { upstream, until: now.saturating_add(pool.idle_ticks) });
        }
    }

    /// How many may idle here, where connections are bounded.
    fn fair_share(&self, pool: &CompiledPool) -> usize {
        if pool.connections_max == usize::MAX {
            return usize::MAX;
        }
        self.live.upgrade().map_or(0, |live| live.idle_share(pool.connections_max))
    }

    /// Closes what went stale: the next connection to the endpoint is a new one.
    pub(crate) fn close_idle(&self) {
        self.idle.take();
        self.http2.close_idle();
    }

    fn sweep(&self, now: u64) {
        self.idle.borrow_mut().retain_mut(|idle| idle.until > now && idle.upstream.stream.is_idle());
        self.http2.sweep(now, self.idle_ticks.get());
    }
}

/// The thread's connections to all endpoints, whatever snapshot they were made under.
#[derive(Debug, Default)]
pub(crate) struct AllConnections(RefCell<HashMap<u64, Rc<Connections>>>);

impl AllConnections {
    /// Those to one endpoint.
    pub(crate) fn of(&self, worker: &Worker, pool: &CompiledPool, endpoint: &CompiledEndpoint) -> Rc<Connections> {
        let mut all = self.0.borrow_mut();
        let connections = all.entry(endpoint.live.serial).or_insert_with(|| {
            let cells = worker.shared.registry.endpoint(worker.index, &pool.id, &endpoint.address);
            Rc::new(Connections {
                live: Arc::downgrade(&endpoint.live),
                cells,
                idle: RefCell::default(),
                http2: Multiplexed::default(),
                idle_ticks: Cell::new(pool.idle_ticks),
            })
        });
        Rc::clone(connections)
    }

    /// Closes connections that idled too long, that the endpoint closed, and those to endpoints that no snapshot names.
    pub(crate) fn sweep(&self, now: u64) {
        self.0.borrow_mut().retain(|_, connections| {
            connections.sweep(now);
            connections.live.strong_count() > 0
        });
    }

    /// Closes all idle connections.
    pub(crate) fn close_idle(&self) {
        self.0.borrow().values().for_each(|connections| connections.close_idle());
    }
}
