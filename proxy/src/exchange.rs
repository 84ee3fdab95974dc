//! One request and its answer between a client and an endpoint: attempts, the answer's head, both bodies.
//!
//! Begins with the first attempt already sent where a connection was idle ([`Exchange::begin`]), and goes on in
//! [`Exchange::run`]: attempt until there is an answer to pass on ([`retry`] says what may be tried again), then both
//! bodies ([`upload`], [`download`]). Nothing is allocated, spawned or locked on the way of a plain request; what is rare
//! is boxed or kept in vectors that stay empty.

use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{future::poll_fn, mem};

use sealane_model::config::Scheme;

use crate::answer::{Local, Manner, Refusal};
use crate::breaker::Permit;
use crate::clock::Moment;
use crate::connection::{After, Connection};
use crate::eject::Attempt;
use crate::error::{Category, Failure, FailureKind};
use crate::exchange::deadline::Pace;
use crate::exchange::download::Answered;
use crate::http1::body::{Body, Coding};
use crate::http1::field::Fields;
use crate::http1::framing::{Framing, Version};
use crate::http1::response_head::Asked;
use crate::live::EndpointLive;
use crate::middleware::compression::Encoder;
use crate::record::Record;
use crate::request::{Picked, Request};
use crate::snapshot::{CompiledEndpoint, CompiledPool, CompiledRoute, Nature, Wanted};
use crate::splice::Splice;
use crate::stream::Outbox;
use crate::timer::NEVER;
use crate::upgrade;
use crate::upstream::dial::{self, Dialed};
use crate::upstream::pool::{Connections, Upstream};
use crate::view::{ThreadBreaker, View};
use crate::worker::Worker;

mod compress;
mod deadline;
mod download;
mod fill;
mod head;
mod hedge;
mod hooks;
pub(crate) mod refresh;
mod retry;
mod upload;

/// Attempts of one request that count as none.
const FREE_ATTEMPTS_MAX: u8 = 8;

/// A request in flight.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) record: Record,
    asked: Asked,
    version: Version,
    /// The client wants to go on using the connection.
    keep_alive: bool,
    expects_continue: bool,
    idempotent: bool,
    /// A safe read without a body, not raced yet.
    hedgeable: bool,
    /// Attempts beside another one.
    hedges: u8,
    /// Who the client is, where its retries are bounded.
    client_key: u64,
    /// Before the next attempt.
    pause: Option<Duration>,
    /// What the endpoint is asked in, where that depends on the request.
    nature: Nature,
    route: usize,
    pool: usize,
    endpoint: usize,
    hash: u64,
    /// Endpoints that could not be connected to.
    tried: Vec<u32>,
    /// Interim heads that were passed on.
    interim: u8,
    /// Attempts left that count as none, because the endpoint did not look at the one before.
    free_attempts: u8,

    /// The breaker's, for the attempt at hand; gone when its outcome is known.
    leave: Option<Permit<ThreadBreaker>>,
    flight: Flight,
    pub(crate) upstream: Option<Upstream>,
    pub(crate) to_upstream: Outbox,
    /// What was sent so far, for another attempt; whole as long as `streamed` is false.
    sent: Vec<u8>,
    /// The request's head as it came, where another endpoint needs another head.
    raw_head: Vec<u8>,
    /// Body bytes went out that `sent` does not hold.
    streamed: bool,

    upload: Body,
    upload_coding: Coding,
    /// Why the rest of the request body is not sent, though there is one.
    upload_ended: bool,
    /// The start of an answer's head.
    pub(crate) from_upstream: Vec<u8>,
    /// And it is to be judged before more is read.
    prefetched: bool,
    /// The answer's head was passed on: there is no other answer now.
    answered: bool,
    /// What the client was told.
    keeps_client: bool,
    /// The endpoint goes on using the connection.
    keeps_upstream: bool,
    download: Body,
    download_coding: Coding,
    splice: Option<Box<Splice>>,
    /// The answer is compressed on its way.
    encoder: Option<Box<Encoder>>,

    /// The client's fault, found before the first attempt.
    refused: Option<Box<Failure>>,
    attempt_started: Moment,
    /// Tick of the last progress.
    progress: u64,
    /// Ticks.
    total_deadline: u64,
    try_deadline: u64,
    /// Tick at which the client was first seen to send no more.
    half_closed: Option<u64>,
    pace: Pace,
}

/// Where an exchange lives while it is in flight, so that an idle connection need not hold the room for one. Slots are used
/// again and again.
#[derive(Debug, Default)]
pub(crate) struct Slot(Box<Option<Exchange>>);

impl Slot {
    /// Sees the exchange through, if there is one. What becomes of the client's connection.
    pub(crate) async fn run(&mut self, connection: &mut Connection, worker: &Rc<Worker>) -> After {
        match self.0.as_mut() {
            Some(exchange) => exchange.run(connection, worker).await,
            None => After::Reset,
        }
    }

    /// Lets go of everything the exchange held.
    pub(crate) fn clear(&mut self) {
        *self.0 = None;
    }
}

/// A request that an endpoint is working on, counted as such.
#[derive(Debug)]
struct Flight {
    connections: Rc<Connections>,
    /// Where the balancer asks for it, with the thread's number.
    busy: Option<(Arc<EndpointLive>, usize)>,
}

impl Flight {
    fn start(record: &Record, pool: usize, endpoint: usize, worker: &Worker) -> Self {
        let connections = Rc::clone(record.view.connections(pool, endpoint, worker));
        connections.cells.in_flight.add(1);
        let live = &record.view.snapshot.endpoint(pool, endpoint).live;
        let busy = live.busy_cell(worker.index).map(|busy| {
            busy.add(1);
            (Arc::clone(live), worker.index)
        });
        Self { connections, busy }
    }
}

impl Flight {
    /// The same, counted once more.
    fn again(&self) -> Self {
        self.connections.cells.in_flight.add(1);
        let busy = self.busy.as_ref().map(|(live, thread)| (Arc::clone(live), *thread));
        if let Some(busy) = busy.as_ref().and_then(|(live, thread)| live.busy_cell(*thread)) {
            busy.add(1);
        }
        Self { connections: Rc::clone(&self.connections), busy }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.connections.cells.in_flight.subtract(1);
        if let Some(busy) = self.busy.as_ref().and_then(|(live, thread)| live.busy_cell(*thread)) {
            busy.subtract(1);
        }
    }
}

impl Exchange {
    /// Writes the head for the picked endpoint, with what there is of the body, and sends it if a connection is idle.
    /// Returns how many bytes of the request it took.
    #[expect(clippy::too_many_arguments, reason = "what a request is made of, once")]
    pub(crate) fn begin(
        slot: &mut Slot,
        cx: &mut Context<'_>,
        worker: &Worker,
        mut record: Record,
        route: usize,
        picked: Picked,
        request: &Request<'_>,
        fields: &mut Fields,
    ) -> usize {
        let head = request.head;
        let Picked { leave, pool, endpoint, hash } = picked;
        record.endpoint = Some((pool, endpoint));
        record.attempts = 1;
        if let Some(trace) = &mut record.trace {
            trace.attempt(worker, (pool, endpoint), Moment::now());
        }
        let mut upload = Body::expected(head.framing);
        let upload_coding = if head.framing == Framing::Chunked { Coding::Chunked } else { Coding::Identity };

        let mut out = worker.out.borrow_mut();
        out.clear();
        head::write(&mut out, &record, route, (pool, endpoint), request, fields);
        let body = &request.bytes[head.length..];
        let fed = upload.feed(body, upload_coding, &mut out);
        let consumed = head.length + fed.map_or(0, |fed| fed.consumed);
        record.request_bytes = fed.map_or(0, |fed| fed.content);

        let now = worker.wheel.now();
        let snapshot = &record.view.snapshot;
        let compiled = &snapshot.routes[route];
        let mut sent = worker.take_buffer();
        sent.extend_from_slice(&out);
        let mut raw_head = Vec::new();
        if snapshot.pools[pool].head_differs {
            raw_head = worker.take_buffer();
            raw_head.extend_from_slice(&request.bytes[..head.length]);
        }
        let per_try = compiled.retries.as_ref().and_then(|retries| retries.per_try);
        let exchange = slot.0.insert(Self {
            asked: if head.upgrade {
                Asked::Upgrade
            } else if head.method == "HEAD" {
                Asked::Head
            } else {
                Asked::Ordinary
            },
            version: head.version,
            keep_alive: head.keep_alive,
            expects_continue: head.expects_continue,
            nature: Nature { upgrade: head.upgrade, grpc: head.grpc },
            free_attempts: FREE_ATTEMPTS_MAX,
            idempotent: matches!(head.method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"),
            hedgeable: matches!(head.method, "GET" | "HEAD") && head.framing == Framing::Empty && !head.upgrade,
            hedges: 0,
            client_key: compiled.retries.as_ref().map_or(0, |retries| retry::client_key(retries, request, fields)),
            pause: None,
            route,
            pool,
            endpoint,
            hash,
            tried: Vec::new(),
            interim: 0,
            leave,
            flight: Flight::start(&record, pool, endpoint, worker),
            upstream: None,
            to_upstream: Outbox::default(),
            sent,
            raw_head,
            streamed: false,
            upload,
            upload_coding,
            upload_ended: false,
            from_upstream: Vec::new(),
            prefetched: false,
            answered: false,
            keeps_client: false,
            keeps_upstream: false,
            download: Body::Done,
            download_coding: Coding::Identity,
            splice: None,
            encoder: None,
            refused: None,
            attempt_started: record.started,
            progress: now,
            // A stage may have waited since.
            total_deadline: compiled.timeout.map_or(NEVER, |ticks| record.started.tick() + ticks + 1),
            try_deadline: per_try.map_or(NEVER, |ticks| now + ticks + 1),
            half_closed: None,
            pace: Pace::new(now),
            record,
        });
        if let Err(rule) = fed {
            exchange.refused = Some(Box::new(Failure::rule(FailureKind::ClientMalformed, rule)));
        } else if exchange.record.request_bytes > exchange.route().body_bytes_max {
            exchange.refused = Some(Box::new(Failure::rule(FailureKind::ClientTooLarge, "")));
        } else {
            exchange.send_on_idle_connection(cx, worker, &out);
        }
        consumed
    }

    /// Sees the exchange through. What becomes of the client's connection.
    async fn run(&mut self, connection: &mut Connection, worker: &Rc<Worker>) -> After {
        let after = match self.forward(connection, worker).await {
            Ok(after) => after,
            Err(failure) => self.give_up(connection, worker, failure).await,
        };
        self.record.finish(worker, Moment::now());
        worker.give_buffer(mem::take(&mut self.sent));
        worker.give_buffer(mem::take(&mut self.raw_head));
        after
    }

    async fn forward(&mut self, connection: &mut Connection, worker: &Rc<Worker>) -> Result<After, Failure> {
        let answered = loop {
            match self.attempt(connection, worker).await {
                Ok(answered) => break answered,
                Err(failure) => self.try_again(failure, &connection.peer, worker)?,
            }
        };
        match answered {
            Answered::Final => {}
            Answered::Upgraded => return Box::pin(upgrade::relay(self, connection, worker)).await,
            Answered::Stored(local) => return Ok(Box::pin(self.answer_locally(connection, worker, *local)).await),
        }
        poll_fn(|cx| self.poll_bodies(cx, connection, worker)).await?;
        Ok(match (self.keeps_client, self.upload.is_done()) {
            (true, true) => After::Reuse,
            (false, true) => After::Close,
            (_, false) => After::Linger,
        })
    }

    /// One attempt, up to an answer's head.
    async fn attempt(&mut self, connection: &mut Connection, worker: &Rc<Worker>) -> Result<Answered, Failure> {
        if let Some(failure) = self.refused.take() {
            return Err(*failure);
        }
        if self.pause.is_some() {
            self.wait_before_attempt(connection, worker).await?;
        }
        if self.is_hedged() {
            return Box::pin(self.race(connection, worker)).await;
        }
        if self.upstream.is_none() {
            self.connect(connection, worker).await?;
        }
        poll_fn(|cx| self.poll_answer(cx, connection, worker)).await
    }

    /// Makes a connection to the endpoint. Boxed: rare.
    fn connect<'a>(
        &'a mut self,
        connection: &'a mut Connection,
        worker: &'a Worker,
    ) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + 'a>> {
        Box::pin(async move {
            let view = Rc::clone(&self.record.view);
            let connect_deadline = worker.wheel.now() + self.pool().connect_ticks + 1;
            let deadline = connect_deadline.min(self.total_deadline).min(self.try_deadline);
            let connections = Rc::clone(&self.flight.connections);
            let mut dial = pin!(dial(&view, self.pool, self.endpoint, self.nature, &connections, worker));
            let upstream = poll_fn(|cx| {
                if let Poll::Ready(upstream) = dial.as_mut().poll(cx) {
                    return Poll::Ready(upstream);
                }
                if connection.stream.poll_gone(cx).is_ready() {
                    return Poll::Ready(Err(Failure::rule(FailureKind::ClientGone, "the client gave the request up")));
                }
                let now = worker.wheel.now();
                if now >= self.total_deadline {
                    return Poll::Ready(Err(Failure::rule(FailureKind::RequestTimeout, "no time left to connect")));
                }
                if now >= deadline {
                    return Poll::Ready(Err(Failure::rule(FailureKind::Connect, "connecting took too long")));
                }
                connection.timer.arm(cx, deadline);
                Poll::Pending
            })
            .await?;
            self.upstream = Some(upstream);
            self.progress = worker.wheel.now();
            self.to_upstream.queue(&self.sent);
            Ok(())
        })
    }

    /// Sends what was composed if a connection to the endpoint is idle; otherwise the attempt connects first.
    fn send_on_idle_connection(&mut self, cx: &mut Context<'_>, worker: &Worker, bytes: &[u8]) {
        let now = worker.wheel.now();
        let pool = &self.record.view.snapshot.pools[self.pool];
        while let Some(mut upstream) =
            self.flight.connections.take(pool, &pool.endpoints[self.endpoint], self.nature, now)
        {
            if self.to_upstream.send(cx, &mut upstream.stream, bytes).is_ok() {
                self.upstream = Some(upstream);
                return;
            }
            self.to_upstream = Outbox::default();
        }
    }

    /// There is no answer to pass on, or no more of it.
    async fn give_up(&mut self, connection: &mut Connection, worker: &Rc<Worker>, failure: Failure) -> After {
        self.upstream = None;
        if !self.answered
            && (failure.kind.is_upstream() || failure.kind == FailureKind::RequestTimeout)
            && let Some(edits) = &mut self.record.edits
            && let Some(local) = edits.cache.take().and_then(|task| task.on_failure(worker))
        {
            edits.notes.cache = "stale";
            return Box::pin(self.answer_locally(connection, worker, local)).await;
        }
        let category = failure.kind.category();
        if self.answered && failure.kind.is_upstream() {
            self.note_attempt(Attempt::Failed, worker);
            self.tell_hooks(&failure);
        }
        if self.answered || category == Category::ClientClosed {
            self.record.reason = Some(category);
            if !self.answered {
                self.record.status = category.status();
            }
            tracing::debug!(category = category.name(), detail = %failure.detail, "exchange ended early");
            return if category == Category::ClientClosed { After::Close } else { After::Reset };
        }
        let bytes = self.compose_refusal(worker, &failure);
        Box::pin(connection.send_all(worker, bytes)).await;
        if self.keep_alive && self.upload.is_done() && !worker.is_draining() { After::Reuse } else { After::Linger }
    }

    /// The client gets what the cache has.
    async fn answer_locally(&mut self, connection: &mut Connection, worker: &Rc<Worker>, local: Local) -> After {
        self.answered = true;
        let after = self.after_answer(worker);
        let manner = Manner { head: self.asked == Asked::Head, grpc: self.nature.grpc, version: self.version, after };
        let (bytes, content, after) = local.compose(worker, &mut self.record, manner);
        if connection.send_answer(worker, bytes, content, &mut self.record).await { after } else { After::Reset }
    }

    /// What becomes of the client's connection after an answer of the proxy's own.
    fn after_answer(&self, worker: &Worker) -> After {
        if self.upload.is_done() && !worker.is_draining() {
            if self.keep_alive { After::Reuse } else { After::Close }
        } else {
            After::Linger
        }
    }

    fn compose_refusal(&mut self, worker: &Worker, failure: &Failure) -> Vec<u8> {
        let view = Rc::clone(&self.record.view);
        let detail = failure.detail.to_string();
        let category = failure.kind.category();
        let endpoint = view.snapshot.endpoint(self.pool, self.endpoint);
        tracing::debug!(category = category.name(), detail, endpoint = &*endpoint.address, "request failed");
        let rule = if failure.kind.is_upstream() || category == Category::RequestTimeout { "" } else { &detail };
        let exposed = failure.kind.is_upstream() && view.snapshot.pools[self.pool].expose_errors;
        let refusal =
            Refusal { upstream: exposed.then_some((&*endpoint.address, &detail)), ..Refusal::rule(category, rule) };
        let after = if self.keep_alive && self.upload.is_done() && !worker.is_draining() {
            After::Reuse
        } else {
            After::Linger
        };
        let manner = Manner { head: self.asked == Asked::Head, grpc: self.nature.grpc, version: self.version, after };
        refusal.compose(worker, &mut self.record, manner)
    }

    fn route(&self) -> &CompiledRoute {
        &self.record.view.snapshot.routes[self.route]
    }

    fn pool(&self) -> &CompiledPool {
        &self.record.view.snapshot.pools[self.pool]
    }

    fn compiled_endpoint(&self) -> &CompiledEndpoint {
        &self.pool().endpoints[self.endpoint]
    }

    /// Both sides are plain TCP, so that bodies can be spliced.
    fn is_plain(&self, connection: &Connection) -> bool {
        self.compiled_endpoint().scheme != Scheme::Https && connection.stream.plain().is_some()
    }
}

/// Makes a connection to an endpoint, or waits for one that can be shared. The caller bounds the time.
async fn dial(
    view: &View,
    pool: usize,
    endpoint: usize,
    nature: Nature,
    connections: &Connections,
    worker: &Worker,
) -> Result<Upstream, Failure> {
    let pool = &view.snapshot.pools[pool];
    let endpoint = &pool.endpoints[endpoint];
    let wanted = endpoint.wanted(nature);
    // Requests that can share a connection do not each make one.
    let turn = match wanted {
        Wanted::Http1 => None,
        Wanted::Either if !connections.http2.is_chosen() => None,
        Wanted::Either | Wanted::Http2 => Some(poll_fn(|cx| connections.http2.poll_turn(cx)).await),
    };
    if turn.is_some()
        && let Some(upstream) = connections.take(pool, endpoint, nature, worker.wheel.now())
    {
        return Ok(upstream);
    }
    let Some(slot) = endpoint.live.take_connection(pool.connections_max) else {
        return Err(Failure::rule(FailureKind::Exhausted, "the endpoint has as many connections as it may"));
    };
    let Dialed { transport, http2 } = dial::connect(endpoint, wanted).await?;
    connections.cells.connections_opened.add(1);
    if wanted == Wanted::Either {
        connections.http2.note_choice(http2);
    }
    if !http2 {
        return Ok(Upstream::new(transport.into(), endpoint, slot, worker.wheel.now()));
    }
    connections.http2.open(worker, transport, endpoint, slot).await?;
    let taken = connections.take_shared(pool, endpoint, worker.wheel.now());
    taken.ok_or_else(|| Failure::rule(FailureKind::Connect, "the connection ended at once"))
}
