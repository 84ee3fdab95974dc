//! Hedged requests: while one endpoint takes its time over a safe read, another is asked too. The first good answer wins.
//!
//! The endpoints race for a whole response head; nothing of an answer reaches the client before the race is over. Who
//! loses is cut off, and counts as nobody's failure. Hedges are paid for out of the route's retry budget, so that they
//! cannot make an overload worse.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use sealane_model::config::RetryCondition;
use tokio::time;

use crate::balance::Pick;
use crate::breaker::{Outcome, Permit};
use crate::clock::Moment;
use crate::connection::Connection;
use crate::eject::{self, Attempt};
use crate::error::{Failure, FailureKind};
use crate::exchange::download::Answered;
use crate::exchange::{Exchange, Flight, dial};
use crate::hedge::HedgeOutcome;
use crate::http1::response_head::{Asked, ResponseHead};
use crate::http2::{is_stream_reset, is_unprocessed};
use crate::request::take_leave;
use crate::snapshot::CompiledHedge;
use crate::stream::Outbox;
use crate::timer::TICK;
use crate::upstream::pool::{Connections, Upstream};
use crate::view::ThreadBreaker;
use crate::worker::Worker;

/// Bytes that an endpoint may send before its head is complete.
const HEAD_BYTES_MAX: usize = 256 << 10;

/// One endpoint in the race.
struct Racer {
    endpoint: usize,
    /// `None`: the exchange's own.
    flight: Option<Flight>,
    leave: Option<Permit<ThreadBreaker>>,
    started: Moment,
    /// What it is sent, where that differs from what the exchange sends.
    sent: Option<Vec<u8>>,
    way: Way,
}

/// How far it has come.
enum Way {
    Connecting(Pin<Box<dyn Future<Output = Result<Upstream, Failure>>>>),
    Asked { upstream: Upstream, outbox: Outbox, read: Vec<u8> },
}

/// How one endpoint's race ended.
struct Finish {
    racer: Racer,
    /// The status of its answer.
    result: Result<u16, Failure>,
}

impl Exchange {
    /// Whether this request may be asked for twice.
    pub(super) fn is_hedged(&self) -> bool {
        self.hedgeable && self.route().hedge.is_some()
    }

    /// An attempt on one endpoint, and on further ones when that takes too long.
    pub(super) async fn race(&mut self, connection: &mut Connection, worker: &Rc<Worker>) -> Result<Answered, Failure> {
        // Once for a request, however often it is tried.
        self.hedgeable = false;
        let view = Rc::clone(&self.record.view);
        let Some(hedge) = &view.snapshot.routes[self.route].hedge else { return Err(no_racer()) };
        let delay = hedge.live.delay(hedge.after);
        let mut extra = if delay.is_some() { hedge.extra_max } else { 0 };
        let mut racers = vec![self.first_racer(worker)];
        let mut alarm = pin!(time::sleep(delay.unwrap_or_default()));
        let finish = poll_fn(|cx| {
            loop {
                if let Some(finish) = self.poll_racers(cx, &mut racers, worker) {
                    return Poll::Ready(Ok(finish));
                }
                if extra == 0 || alarm.as_mut().poll(cx).is_pending() {
                    return self.poll_deadline(cx, connection, worker);
                }
                extra -= 1;
                match self.another_racer(hedge, &racers, connection, worker) {
                    Some(racer) => racers.push(racer),
                    None => extra = 0,
                }
                if let Some(delay) = delay.filter(|_| extra > 0) {
                    let now = alarm.deadline();
                    alarm.as_mut().reset(now + delay);
                }
            }
        })
        .await;
        let Finish { racer, result } = finish.inspect_err(|_| self.take_back(&mut racers))?;
        let won = racer.flight.is_some() && result.is_ok();
        let now = Moment::now();
        for loser in &racers {
            hedge.live.took(worker.index, now.micros_since(loser.started));
        }
        drop(racers);
        self.adopt(racer);
        // A connection that went stale ends the attempt, not the request's chance of a race.
        self.hedgeable = result.is_err() && self.hedges == 0;
        if won {
            hedge.live.count(worker.index, HedgeOutcome::Won);
        }
        result?;
        self.progress = worker.wheel.now();
        self.prefetched = true;
        poll_fn(|cx| self.poll_answer(cx, connection, worker)).await
    }

    /// What the exchange has begun, as a racer.
    fn first_racer(&mut self, worker: &Rc<Worker>) -> Racer {
        let way = match self.upstream.take() {
            Some(upstream) => Way::Asked { upstream, outbox: mem::take(&mut self.to_upstream), read: Vec::new() },
            None => self.connecting(self.endpoint, &Rc::clone(&self.flight.connections), worker),
        };
        Racer {
            endpoint: self.endpoint,
            flight: None,
            leave: self.leave.take(),
            started: self.attempt_started,
            sent: None,
            way,
        }
    }

    /// One more racer, if there is an endpoint that does not race yet, and the budget has one left.
    fn another_racer(
        &mut self,
        hedge: &CompiledHedge,
        racers: &[Racer],
        connection: &Connection,
        worker: &Rc<Worker>,
    ) -> Option<Racer> {
        let view = Rc::clone(&self.record.view);
        let pool = &view.snapshot.pools[self.pool];
        let now = worker.wheel.now();
        let racing: Vec<u32> = racers.iter().map(|racer| racer.endpoint as u32).collect();
        let pick = Pick {
            rotation: &view.snapshot.routes[self.route].targets[self.record.target].rotation,
            now: Moment::of_tick(now),
            random: worker.random(),
            hash: self.hash,
            tried: &racing,
            trickled: Cell::default(),
        };
        let endpoint = pick.endpoint(pool).ok()?;
        let state = self.record.breaker;
        let Ok(leave) = take_leave(worker, &mut self.record, self.route) else {
            self.record.breaker = state;
            return None;
        };
        if !hedge.budget.take(hedge.budget_percent, Moment::of_tick(now).millis()) {
            hedge.live.count(worker.index, HedgeOutcome::Budget);
            return None;
        }
        hedge.live.count(worker.index, HedgeOutcome::Sent);
        self.record.attempts = self.record.attempts.saturating_add(1);
        self.hedges = self.hedges.saturating_add(1);
        let sent = if pool.head_differs { self.head_for(endpoint, &connection.peer) } else { None };
        let flight = Flight::start(&self.record, self.pool, endpoint, worker);
        let way = match flight.connections.take(pool, &pool.endpoints[endpoint], self.nature, now) {
            Some(upstream) => {
                let mut outbox = Outbox::default();
                outbox.queue(sent.as_ref().unwrap_or(&self.sent));
                Way::Asked { upstream, outbox, read: Vec::new() }
            }
            None => self.connecting(endpoint, &flight.connections, worker),
        };
        Some(Racer { endpoint, flight: Some(flight), leave, started: Moment::now(), sent, way })
    }

    fn connecting(&self, endpoint: usize, connections: &Rc<Connections>, worker: &Rc<Worker>) -> Way {
        let (view, pool, nature) = (Rc::clone(&self.record.view), self.pool, self.nature);
        let (connections, worker) = (Rc::clone(connections), Rc::clone(worker));
        let ticks = view.snapshot.pools[pool].connect_ticks;
        let limit = TICK.saturating_mul(u32::try_from(ticks).unwrap_or(u32::MAX));
        Way::Connecting(Box::pin(async move {
            match time::timeout(limit, dial(&view, pool, endpoint, nature, &connections, &worker)).await {
                Ok(upstream) => upstream,
                Err(_) => Err(Failure::rule(FailureKind::Connect, "connecting took too long")),
            }
        }))
    }

    /// Moves the race on. The end of it: the first good answer, or the last one's failure.
    fn poll_racers(&self, cx: &mut Context<'_>, racers: &mut Vec<Racer>, worker: &Rc<Worker>) -> Option<Finish> {
        let mut index = 0;
        while index < racers.len() {
            let Poll::Ready(result) = self.poll_racer(cx, &mut racers[index], worker) else {
                index += 1;
                continue;
            };
            let racer = racers.remove(index);
            let good = result.as_ref().is_ok_and(|&status| self.is_good(status));
            if good || racers.is_empty() {
                return Some(Finish { racer, result });
            }
            self.note_lost(racer, &result, worker);
        }
        None
    }

    fn poll_racer(&self, cx: &mut Context<'_>, racer: &mut Racer, worker: &Rc<Worker>) -> Poll<Result<u16, Failure>> {
        loop {
            match &mut racer.way {
                Way::Connecting(dial) => match dial.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
                    Poll::Ready(Ok(upstream)) => {
                        let mut outbox = Outbox::default();
                        outbox.queue(racer.sent.as_ref().unwrap_or(&self.sent));
                        racer.way = Way::Asked { upstream, outbox, read: Vec::new() };
                    }
                },
                Way::Asked { upstream, outbox, read } => {
                    if !outbox.is_empty()
                        && let Poll::Ready(Err(error)) = outbox.poll_drain(cx, &mut upstream.stream)
                    {
                        return Poll::Ready(Err(Failure::io(FailureKind::Reset, error)));
                    }
                    let mut scratch = worker.scratch.borrow_mut();
                    match upstream.stream.poll_read(cx, &mut scratch[..super::download::HEAD_READ_BYTES]) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Ok(0)) => {
                            let rule = "connection closed before an answer";
                            return Poll::Ready(Err(Failure::rule(FailureKind::Reset, rule)));
                        }
                        Poll::Ready(Ok(count)) => read.extend_from_slice(&scratch[..count]),
                        Poll::Ready(Err(error)) if is_unprocessed(&error) => {
                            return Poll::Ready(Err(Failure::io(FailureKind::Unprocessed, error)));
                        }
                        Poll::Ready(Err(error)) => {
                            upstream.reused &= !is_stream_reset(&error);
                            return Poll::Ready(Err(Failure::io(FailureKind::Reset, error)));
                        }
                    }
                    drop(scratch);
                    match final_status(read, self.asked, worker) {
                        Ok(Some(status)) => return Poll::Ready(Ok(status)),
                        Ok(None) if read.len() <= HEAD_BYTES_MAX => {}
                        Ok(None) => {
                            let rule = "the head of the answer is too large";
                            return Poll::Ready(Err(Failure::rule(FailureKind::Malformed, rule)));
                        }
                        Err(rule) => return Poll::Ready(Err(Failure::rule(FailureKind::Malformed, rule))),
                    }
                }
            }
        }
    }

    /// An answer that ends the race while others still run.
    fn is_good(&self, status: u16) -> bool {
        let retries = self.route().retries.as_ref();
        status < 500 && !retries.is_some_and(|retries| retries.policy.on.contains(&RetryCondition::Status(status)))
    }

    /// An endpoint failed while others still race.
    fn note_lost(&self, mut racer: Racer, result: &Result<u16, Failure>, worker: &Worker) {
        let latency_us = Moment::now().micros_since(racer.started);
        let attempt = match result {
            Ok(status) => Attempt::Answered { status: *status, latency_us },
            Err(_) => Attempt::Failed,
        };
        let now_ms = Moment::of_tick(worker.wheel.now()).millis();
        eject::note(self.pool(), racer.endpoint, attempt, worker.index, now_ms);
        if let Some(leave) = racer.leave.take() {
            self.note_change(leave.report(Outcome::Failure, now_ms));
        }
    }

    /// Goes on with this one alone.
    fn adopt(&mut self, racer: Racer) {
        let Racer { endpoint, flight, leave, started, sent, way } = racer;
        self.endpoint = endpoint;
        self.record.endpoint = Some((self.pool, endpoint));
        self.leave = leave;
        self.attempt_started = started;
        if let Some(flight) = flight {
            self.flight = flight;
        }
        if let Some(sent) = sent {
            self.sent = sent;
        }
        if let Way::Asked { upstream, outbox, read } = way {
            self.upstream = Some(upstream);
            self.to_upstream = outbox;
            self.from_upstream = read;
        }
    }

    /// The race is called off: what is left is what the first endpoint was asked.
    fn take_back(&mut self, racers: &mut Vec<Racer>) {
        if let Some(first) = mem::take(racers).into_iter().next() {
            self.adopt(first);
        }
    }
}

/// The status of the final head in `bytes`; `None`: it is not complete.
fn final_status(bytes: &[u8], asked: Asked, worker: &Worker) -> Result<Option<u16>, &'static str> {
    let mut fields = worker.fields.borrow_mut();
    let mut at = 0;
    loop {
        let Some(head) = ResponseHead::parse(&bytes[at..], asked, &mut fields)? else { return Ok(None) };
        if !head.is_interim() {
            return Ok(Some(head.status));
        }
        at += head.length;
        if at == bytes.len() {
            return Ok(None);
        }
    }
}

const fn no_racer() -> Failure {
    Failure::rule(FailureKind::Connect, "nothing to race")
}
