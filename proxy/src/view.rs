//! One thread's view of the snapshot in force: the snapshot, the scratch of its route table, and the thread's own cells
//! and connections for its routes and endpoints, found once and kept by index.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use sealane_model::decide::Scratch;

use crate::breaker::Breaker;
use crate::metrics::{LaneCells, RevisionCells};
use crate::snapshot::{CompiledBreaker, CompiledListener, Snapshot};
use crate::traffic::stage::{CompiledTraffic, ThreadTraffic};
use crate::upstream::pool::Connections;
use crate::worker::Worker;

/// What a request holds from its first byte to its last (invariant S1).
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) version: u64,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) scratch: RefCell<Scratch>,
    pub(crate) revision: Arc<RevisionCells>,
    /// By [`crate::snapshot::CompiledRoute::first_target`] and the target's index.
    lanes: Box<[OnceCell<Arc<LaneCells>>]>,
    /// As the lanes.
    breakers: Box<[OnceCell<ThreadBreaker>]>,
    /// By [`CompiledTraffic::number`].
    traffic: Box<[OnceCell<ThreadTraffic>]>,
    /// Requests that no route took.
    unrouted: Arc<LaneCells>,
    /// By [`crate::snapshot::CompiledPool::first_endpoint`] and the endpoint's index.
    connections: Box<[OnceCell<Rc<Connections>>]>,
}

/// A thread's own way to a breaker that all threads share: cloning it touches no line of theirs.
#[derive(Clone, Debug)]
#[expect(clippy::redundant_allocation, reason = "the count of the inner one is shared by all threads")]
pub(crate) struct ThreadBreaker(Rc<Arc<Breaker>>);

impl AsRef<Breaker> for ThreadBreaker {
    fn as_ref(&self) -> &Breaker {
        &self.0
    }
}

impl View {
    pub(crate) fn new(version: u64, snapshot: Arc<Snapshot>, worker: &Worker) -> Self {
        let registry = &worker.shared.registry;
        let none = Arc::from("");
        Self {
            version,
            scratch: RefCell::new(snapshot.table.scratch()),
            revision: registry.revision(worker.index, &snapshot.tag),
            lanes: (0..snapshot.targets).map(|_| OnceCell::new()).collect(),
            traffic: (0..snapshot.traffic_plans).map(|_| OnceCell::new()).collect(),
            breakers: (0..snapshot.targets).map(|_| OnceCell::new()).collect(),
            unrouted: registry.lane(worker.index, &none, &none),
            connections: (0..snapshot.endpoints).map(|_| OnceCell::new()).collect(),
            snapshot,
        }
    }

    /// The thread's counts of a route and one of its targets.
    pub(crate) fn lane(&self, route: Option<usize>, target: usize, worker: &Worker) -> &LaneCells {
        let Some(route) = route else { return &self.unrouted };
        let compiled = &self.snapshot.routes[route];
        self.lanes[compiled.first_target + target].get_or_init(|| {
            let pool = &self.snapshot.pools[compiled.targets[target].pool].id;
            worker.shared.registry.lane(worker.index, &compiled.id, pool)
        })
    }

    /// The breaker of a route's target, where there is one.
    pub(crate) fn breaker(&self, route: usize, target: usize) -> Option<(&CompiledBreaker, &ThreadBreaker)> {
        let route = &self.snapshot.routes[route];
        let compiled = route.targets[target].breaker.as_ref()?;
        let handle = self.breakers[route.first_target + target]
            .get_or_init(|| ThreadBreaker(Rc::new(Arc::clone(&compiled.live))));
        Some((compiled, handle))
    }

    /// The thread's way to what a traffic plan remembers.
    pub(crate) fn traffic(&self, compiled: &CompiledTraffic) -> &ThreadTraffic {
        self.traffic[compiled.number].get_or_init(|| ThreadTraffic(Rc::new(Arc::clone(&compiled.live))))
    }

    /// The thread's connections to an endpoint.
    pub(crate) fn connections(&self, pool: usize, endpoint: usize, worker: &Worker) -> &Rc<Connections> {
        let compiled = &self.snapshot.pools[pool];
        self.connections[compiled.first_endpoint + endpoint]
            .get_or_init(|| worker.connections.of(worker, compiled, &compiled.endpoints[endpoint]))
    }

    /// What the snapshot says of a listening socket; `None`: it no longer listens there.
    pub(crate) fn listener(&self, socket: u32) -> Option<&CompiledListener> {
        self.snapshot.listeners.iter().find(|listener| listener.socket == socket)
    }
}
