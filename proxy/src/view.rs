//! One thread's view of the snapshot in force: the snapshot, the scratch of its route table, and the thread's own cells
//! and connections for its routes and endpoints, found once and kept by index.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use sealane_model::decide::Scratch;

use crate::metrics::{LaneCells, RevisionCells};
use crate::snapshot::{CompiledListener, Snapshot};
use crate::upstream::pool::Connections;
use crate::worker::Worker;

/// What a request holds from its first byte to its last (invariant S1).
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) version: u64,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) scratch: RefCell<Scratch>,
    pub(crate) revision: Arc<RevisionCells>,
    /// By route.
    lanes: Box<[OnceCell<Arc<LaneCells>>]>,
    /// Requests that no route took.
    unrouted: Arc<LaneCells>,
    /// By [`crate::snapshot::CompiledPool::first_endpoint`] and the endpoint's index.
    connections: Box<[OnceCell<Rc<Connections>>]>,
}

impl View {
    pub(crate) fn new(version: u64, snapshot: Arc<Snapshot>, worker: &Worker) -> Self {
        let registry = &worker.shared.registry;
        let none = Arc::from("");
        Self {
            version,
            scratch: RefCell::new(snapshot.table.scratch()),
            revision: registry.revision(worker.index, &snapshot.tag),
            lanes: (0..snapshot.routes.len()).map(|_| OnceCell::new()).collect(),
            unrouted: registry.lane(worker.index, &none, &none, usize::MAX),
            connections: (0..snapshot.endpoints).map(|_| OnceCell::new()).collect(),
            snapshot,
        }
    }

    /// The thread's counts of a route.
    pub(crate) fn lane(&self, route: Option<usize>, worker: &Worker) -> &LaneCells {
        let Some(route) = route else { return &self.unrouted };
        self.lanes[route].get_or_init(|| {
            let compiled = &self.snapshot.routes[route];
            let pool = &self.snapshot.pools[compiled.pool].id;
            worker.shared.registry.lane(worker.index, &compiled.id, pool, self.snapshot.config.metrics.series_max)
        })
    }

    /// The thread's connections to an endpoint.
    pub(crate) fn connections(&self, pool: usize, endpoint: usize, worker: &Worker) -> &Rc<Connections> {
        let compiled = &self.snapshot.pools[pool];
        self.connections[compiled.first_endpoint + endpoint].get_or_init(|| {
            let series_max = self.snapshot.config.metrics.series_max;
            worker.connections.of(worker, compiled, &compiled.endpoints[endpoint], series_max)
        })
    }

    /// What the snapshot says of a listening socket; `None`: it no longer listens there.
    pub(crate) fn listener(&self, socket: u32) -> Option<&CompiledListener> {
        self.snapshot.listeners.iter().find(|listener| listener.socket == socket)
    }
}
