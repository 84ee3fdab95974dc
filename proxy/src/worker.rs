//! One worker thread: what its connections share, and the loop that keeps its time.
//!
//! Everything here belongs to one thread. Other threads reach it through [`Order`]s only.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use futures_util::FutureExt as _;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{self, MissedTickBehavior};
use tracing::error;

use crate::access_log::{LogBuffer, LogPlan};
use crate::admission::Edits;
use crate::balance::mix;
use crate::clock::{Civil, Moment, unix_nanos};
use crate::exchange::Slot;
use crate::http1::field::Fields;
use crate::limiter::Remembered;
use crate::listener;
use crate::metrics::ThreadCells;
use crate::middleware::jwt::Identities;
use crate::shared::{Shared, Stage};
use crate::splice::Pipes;
use crate::timer::{NEVER, TICK, Wheel, ticks};
use crate::upstream::pool::AllConnections;
use crate::view::View;

/// What one thread's connections share.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) cells: Arc<ThreadCells>,
    pub(crate) wheel: Rc<Wheel>,
    pub(crate) connections: AllConnections,
    pub(crate) pipes: Rc<Pipes>,
    /// Reads land here. Borrowed within one poll only.
    pub(crate) scratch: RefCell<Box<[u8]>>,
    /// Heads and chunks are composed here. Borrowed within one poll only.
    pub(crate) out: RefCell<Vec<u8>>,
    /// The field table of the head at hand. Borrowed within one poll only.
    pub(crate) fields: RefCell<Fields>,
    /// Buckets of rate limits that this thread used.
    pub(crate) limits: Remembered,
    /// Whose tokens this thread has verified.
    pub(crate) identities: Identities,
    /// Client connections of this thread.
    pub(crate) open: Cell<usize>,
    draining_since: Cell<u64>,
    view: RefCell<Option<Rc<View>>>,
    buffers: RefCell<Vec<Vec<u8>>>,
    slots: RefCell<Vec<Slot>>,
    #[expect(clippy::vec_box, reason = "records hold the box itself, which is used again")]
    edits: RefCell<Vec<Box<Edits>>>,
    wall: RefCell<Wall>,
    log: RefCell<LogBuffer>,
    random: Cell<u64>,
}

/// Bytes of one read at most.
pub(crate) const SCRATCH_BYTES: usize = 64 << 10;
/// Buffers and slots that a thread keeps for requests to come, and the size of a buffer at most.
const BUFFERS_MAX: usize = 256;
const BUFFER_BYTES_MAX: usize = 16 << 10;
/// Ticks between two hand-overs of log lines.
const LOG_TICKS: u64 = 5;
/// How long an idle connection stays open in a drain: its next request may be on the way.
const IDLE_GRACE: Duration = Duration::from_millis(500);
/// Orders that wait for a worker.
const ORDERS_MAX: usize = 64;

/// Wall time as of the last tick, and its texts.
#[derive(Debug)]
struct Wall {
    moment: Moment,
    unix_nanos: u64,
    second: u64,
    http_date: Vec<u8>,
}

impl Worker {
    fn new(index: usize, shared: Arc<Shared>) -> Self {
        let mut seed = [0; 8];
        if getrandom::fill(&mut seed).is_err() {
            seed = unix_nanos().to_ne_bytes();
        }
        let worker = Self {
            index,
            cells: Arc::clone(&shared.registry.threads[index]),
            wheel: Rc::new(Wheel::new()),
            connections: AllConnections::default(),
            pipes: Rc::default(),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice()),
            out: RefCell::new(Vec::with_capacity(SCRATCH_BYTES + SCRATCH_BYTES / 2)),
            fields: RefCell::default(),
            limits: Remembered::default(),
            identities: Identities::default(),
            open: Cell::new(0),
            draining_since: Cell::new(NEVER),
            view: RefCell::default(),
            buffers: RefCell::new(Vec::with_capacity(BUFFERS_MAX)),
            slots: RefCell::new(Vec::with_capacity(BUFFERS_MAX)),
            edits: RefCell::default(),
            wall: RefCell::new(Wall { moment: Moment::now(), unix_nanos: 0, second: u64::MAX, http_date: Vec::new() }),
            log: RefCell::new(LogBuffer::new(shared.log.clone())),
            random: Cell::new(u64::from_ne_bytes(seed)),
            shared,
        };
        worker.tick();
        worker
    }

    /// The view of the snapshot in force; `None` before the first one.
    pub(crate) fn view(&self) -> Option<Rc<View>> {
        let version = self.shared.current.version();
        if let Some(view) = self.view.borrow().as_ref().filter(|view| view.version == version) {
            return Some(Rc::clone(view));
        }
        self.refresh(version)
    }

    #[cold]
    fn refresh(&self, version: u64) -> Option<Rc<View>> {
        let snapshot = self.shared.current.snapshot()?;
        self.cells.views_refreshed.add(1);
        let view = Rc::new(View::new(version, snapshot, self));
        let old = self.view.replace(Some(Rc::clone(&view)));
        drop(old);
        Some(view)
    }

    /// No new connections, and answers say that theirs ends.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining_since.get() != NEVER
    }

    /// The tick at which idle connections close, because of a drain.
    pub(crate) fn idle_end(&self) -> u64 {
        self.draining_since.get().saturating_add(ticks(IDLE_GRACE))
    }

    /// An empty buffer, used before if there is one.
    pub(crate) fn take_buffer(&self) -> Vec<u8> {
        self.buffers.borrow_mut().pop().unwrap_or_default()
    }

    /// Gives a buffer back.
    pub(crate) fn give_buffer(&self, mut buffer: Vec<u8>) {
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() < BUFFERS_MAX && (1..=BUFFER_BYTES_MAX).contains(&buffer.capacity()) {
            buffer.clear();
            buffers.push(buffer);
        }
    }

    /// Room for an exchange, used before if there is some.
    pub(crate) fn take_slot(&self) -> Slot {
        self.slots.borrow_mut().pop().unwrap_or_default()
    }

    /// Gives the room back.
    pub(crate) fn give_slot(&self, mut slot: Slot) {
        slot.clear();
        let mut slots = self.slots.borrow_mut();
        if slots.len() < BUFFERS_MAX {
            slots.push(slot);
        }
    }

    /// Edits that want nothing, used before if there are some.
    pub(crate) fn take_edits(&self) -> Box<Edits> {
        self.edits.borrow_mut().pop().unwrap_or_default()
    }

    /// Gives edits back.
    pub(crate) fn give_edits(&self, mut edits: Box<Edits>) {
        edits.clear();
        let mut kept = self.edits.borrow_mut();
        if kept.len() < BUFFERS_MAX {
            kept.push(edits);
        }
    }

    /// The value of `Date`, as of this second.
    pub(crate) fn write_http_date(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.wall.borrow().http_date);
    }

    /// Wall time of a recent moment, in nanoseconds since 1970.
    pub(crate) fn unix_nanos(&self, moment: Moment) -> u64 {
        let wall = self.wall.borrow();
        (wall.unix_nanos + moment.nanos()).saturating_sub(wall.moment.nanos())
    }

    /// Runs a task of this thread. A panic in it ends it alone, and is counted.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let cells = Arc::clone(&self.cells);
        tokio::task::spawn_local(async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                cells.panics.add(1);
                let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
                error!(panic = text.unwrap_or("of an unknown kind"), "a task of a connection panicked");
            }
        });
    }

    /// Any number. Not for secrets.
    pub(crate) fn random(&self) -> u64 {
        let next = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(next);
        mix(next)
    }

    /// Appends a line to the access log.
    pub(crate) fn log_line(&self, plan: &Arc<LogPlan>, compose: impl FnOnce(&mut Vec<u8>)) {
        self.log.borrow_mut().line(plan, &self.cells.log_lines_dropped, compose);
    }

    fn tick(&self) {
        let now = Moment::now();
        let tick = now.nanos() / TICK.as_nanos() as u64;
        let mut wall = self.wall.borrow_mut();
        (wall.moment, wall.unix_nanos) = (now, unix_nanos());
        let second = wall.unix_nanos / 1_000_000_000;
        let new_second = second != wall.second;
        if new_second {
            wall.second = second;
            wall.http_date.clear();
            Civil::of_unix(second).write_http_date(&mut wall.http_date);
        }
        drop(wall);
        if new_second {
            self.connections.sweep(tick);
        }
        if tick.is_multiple_of(LOG_TICKS) {
            self.flush_log();
        }
        self.wheel.advance(tick);
    }

    fn flush_log(&self) {
        self.log.borrow_mut().flush(&self.cells.log_lines_dropped);
    }
}

/// What other threads ask of a worker.
#[derive(Debug)]
pub(crate) enum Order {
    /// Accept on these sockets of one address.
    Listen { socket: u32, listeners: Vec<std::net::TcpListener> },
    /// Stop accepting on it; its connections go on.
    Unlisten { socket: u32, done: oneshot::Sender<()> },
    /// Serve the snapshot in force for every request head from now on, and say so.
    Adopt(oneshot::Sender<()>),
    /// Look at the stage of the shutdown.
    StageChanged(oneshot::Sender<()>),
    /// End, whatever is in flight.
    Stop,
}

/// The way to a worker.
#[derive(Debug)]
pub(crate) struct WorkerHandle {
    pub(crate) orders: mpsc::Sender<Order>,
    /// Resolves when the thread has ended.
    pub(crate) ended: oneshot::Receiver<()>,
}

/// Starts a worker thread.
pub(crate) fn start(index: usize, shared: Arc<Shared>) -> io::Result<WorkerHandle> {
    let (orders, received) = mpsc::channel(ORDERS_MAX);
    let (end, ended) = oneshot::channel();
    // A runtime of the thread's own takes its tasks without a set of local tasks on top; it cannot leave its thread.
    let (say, built) = std::sync::mpsc::sync_channel::<io::Result<()>>(1);
    thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => runtime,
            Err(error) => return drop(say.send(Err(error))),
        };
        // The receiver waits for it.
        let _ = say.send(Ok(()));
        runtime.block_on(async move {
            let worker = Rc::new(Worker::new(index, shared));
            tokio::task::spawn_local(keep_time(Rc::clone(&worker)));
            obey(&worker, received).await;
            worker.flush_log();
        });
        // The receiver may be gone: then nobody waits.
        let _ = end.send(());
    })?;
    built.recv().map_err(io::Error::other)??;
    Ok(WorkerHandle { orders, ended })
}

async fn keep_time(worker: Rc<Worker>) {
    let mut ticks = time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        worker.tick();
    }
}

/// Carries out orders. Who gave one may not wait for it to be done: an answer that nobody takes is no error.
async fn obey(worker: &Rc<Worker>, mut orders: mpsc::Receiver<Order>) {
    let mut accepting: HashMap<u32, Vec<Accepting>> = HashMap::new();
    while let Some(order) = orders.recv().await {
        match order {
            Order::Listen { socket, listeners } => {
                for listener in listeners {
                    listener::send_at_once(&listener);
                    match TcpListener::from_std(listener) {
                        Ok(listener) => {
                            accepting.entry(socket).or_default().push(Accepting::start(worker, listener, socket));
                        }
                        Err(cause) => error!(%cause, socket, "cannot accept on a listening socket"),
                    }
                }
            }
            Order::Unlisten { socket, done } => {
                for accepting in accepting.remove(&socket).into_iter().flatten() {
                    accepting.end(worker).await;
                }
                let _ = done.send(());
            }
            Order::Adopt(done) => {
                worker.view();
                let _ = done.send(());
            }
            Order::StageChanged(done) => {
                if worker.shared.stage() >= Stage::Draining {
                    worker.draining_since.set(worker.wheel.now());
                    for accepting in accepting.drain().flat_map(|(_, accepting)| accepting) {
                        accepting.end(worker).await;
                    }
                    worker.connections.close_idle();
                    worker.wheel.wake_all();
                }
                let _ = done.send(());
            }
            Order::Stop => return,
        }
    }
}

/// A socket that is accepted on.
#[derive(Debug)]
struct Accepting {
    socket: u32,
    listener: Rc<TcpListener>,
    task: JoinHandle<()>,
}

impl Accepting {
    fn start(worker: &Rc<Worker>, listener: TcpListener, socket: u32) -> Self {
        let listener = Rc::new(listener);
        let task = listener::accept(Rc::clone(worker), Rc::clone(&listener), socket);
        Self { socket, listener, task: tokio::task::spawn_local(task) }
    }

    /// Serves the connections that wait to be accepted, then closes the socket.
    async fn end(self, worker: &Rc<Worker>) {
        self.task.abort();
        // Ends as soon as it is aborted, and lets go of the socket.
        let _ = self.task.await;
        listener::accept_waiting(worker, &self.listener, self.socket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_log::LogWriter;
    use crate::settings::Settings;

    #[test]
    fn a_panic_ends_one_task_and_is_counted() {
        let shared = Arc::new(Shared::new(Settings::default(), LogWriter::start().unwrap()));
        let worker = Rc::new(Worker::new(0, shared));
        let (end, ended) = oneshot::channel();
        let cells = Arc::clone(&worker.cells);
        let work = async move {
            let clumsy = Rc::clone(&worker);
            worker.spawn(async move {
                let _borrowed = clumsy.scratch.borrow_mut();
                panic!("on purpose");
            });
            let other = Rc::clone(&worker);
            worker.spawn(async move {
                other.scratch.borrow_mut()[0] = 1;
                end.send(()).unwrap();
            });
            ended.await.unwrap();
        };
        Builder::new_current_thread().build_local(LocalOptions::default()).unwrap().block_on(work);
        assert_eq!(cells.panics.value(), 1);
    }
}
