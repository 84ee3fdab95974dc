//! A stored answer fetched anew in the background, while a stale one is served (RFC 5861 §3): a request without a client.
//!
//! One attempt, on an idle connection or a new one. Whatever goes wrong, the stored answer stays as it was, and the next
//! request that it is stale for tries again.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use crate::breaker::{Outcome, Permit};
use crate::cache::entry::LinesView;
use crate::cache::fill::{AnswerHead, Judged, Task};
use crate::clock::Moment;
use crate::eject::{self, Attempt};
use crate::error::{Failure, FailureKind};
use crate::exchange::fill::{Rest, feed};
use crate::exchange::{Flight, dial, head};
use crate::hooks::{Hooked, Wish};
use crate::http1::body::Body;
use crate::http1::field::{Fields, KnownSet};
use crate::http1::response_head::{Asked, ResponseHead};
use crate::http1::write;
use crate::record::Record;
use crate::request::{Picked, Request};
use crate::snapshot::Nature;
use crate::stream::Outbox;
use crate::timer::Timer;
use crate::upstream::pool::Upstream;
use crate::view::{ThreadBreaker, View};
use crate::worker::Worker;

/// A request on its way, without a client.
#[derive(Debug)]
struct Refresh {
    worker: Rc<Worker>,
    view: Rc<View>,
    pool: usize,
    endpoint: usize,
    flight: Flight,
    /// The breaker's.
    leave: Option<Permit<ThreadBreaker>>,
    timer: Timer,
    started: Moment,
    /// The request's head, which is all of it.
    sent: Vec<u8>,
    /// What the cache wants to know of the answer.
    task: Option<Task>,
    /// Hooks that want to see it.
    hooked: Option<Rc<Hooked>>,
}

/// Asks for `request`, with the edits and for the task of `record`, in a task of its own.
pub(crate) fn start(
    worker: &Rc<Worker>,
    mut record: Record,
    route: usize,
    picked: Picked,
    request: &Request<'_>,
    fields: &mut Fields,
) {
    let Picked { pool, endpoint, leave, .. } = picked;
    let Some(task) = record.edits.as_mut().and_then(|edits| edits.cache.take()) else { return };
    let mut sent = Vec::with_capacity(1024);
    head::write(&mut sent, &record, route, (pool, endpoint), request, fields);
    worker.shared.cache.counts.refreshes.fetch_add(1, Ordering::Relaxed);
    let refresh = Refresh {
        worker: Rc::clone(worker),
        view: Rc::clone(&record.view),
        pool,
        endpoint,
        flight: Flight::start(&record, pool, endpoint, worker),
        leave,
        started: Moment::now(),
        timer: Timer::new(Rc::clone(&worker.wheel)),
        sent,
        task: Some(*task),
        hooked: record.edits.as_mut().and_then(|edits| edits.hooked.take()),
    };
    tokio::task::spawn_local(refresh.run());
}

impl Refresh {
    async fn run(mut self) {
        let view = Rc::clone(&self.view);
        let (pool, endpoint) = (&view.snapshot.pools[self.pool], view.snapshot.endpoint(self.pool, self.endpoint));
        let now = self.worker.wheel.now();
        let idle = self.flight.connections.take(pool, endpoint, Nature::default(), now);
        let was_idle = idle.is_some();
        let mut fetched = self.fetch(idle).await;
        // What idled may have been closed in the meantime, which is nobody's failure.
        if was_idle && self.task.is_some() && fetched.as_ref().is_err_and(|failure| failure.kind == FailureKind::Reset)
        {
            fetched = self.fetch(None).await;
        }
        let now_ms = Moment::of_tick(self.worker.wheel.now()).millis();
        let outcome = if fetched.is_ok() { Outcome::Success } else { Outcome::Failure };
        if let Some(leave) = self.leave.take() {
            // Who changed what is logged by the next request that sees it.
            let _ = leave.report(outcome, now_ms);
        }
        match fetched {
            Ok(Some(rest)) => rest.run(&self.worker).await,
            Ok(None) => {}
            Err(failure) => {
                if failure.kind == FailureKind::Connect {
                    self.flight.connections.cells.connect_failures.add(1);
                }
                eject::note(pool, self.endpoint, Attempt::Failed, self.worker.index, now_ms);
                tracing::debug!(detail = %failure.detail, endpoint = &*endpoint.address, "refresh failed");
            }
        }
    }

    /// Up to the answer's head, and what is still to be read of it then.
    async fn fetch(&mut self, idle: Option<Upstream>) -> Result<Option<Rest>, Failure> {
        let mut upstream = match idle {
            Some(upstream) => upstream,
            None => self.connect().await?,
        };
        let mut outbox = Outbox::default();
        outbox.queue(&self.sent);
        let view = Rc::clone(&self.view);
        let pool = &view.snapshot.pools[self.pool];
        let deadline = self.worker.wheel.now() + pool.response_header_ticks + 1;
        let mut start = Vec::new();
        let head = poll_fn(|cx| {
            if let Poll::Ready(Err(error)) = outbox.poll_drain(cx, &mut upstream.stream) {
                return Poll::Ready(Err(Failure::io(FailureKind::Reset, error)));
            }
            loop {
                let mut scratch = self.worker.scratch.borrow_mut();
                let read = match upstream.stream.poll_read(cx, &mut scratch) {
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Err(Failure::rule(FailureKind::Reset, "closed before an answer")));
                    }
                    Poll::Ready(Ok(read)) => read,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::io(FailureKind::Reset, error))),
                    Poll::Pending if self.worker.wheel.now() >= deadline => {
                        return Poll::Ready(Err(Failure::rule(FailureKind::UpstreamTimeout, "no answer in time")));
                    }
                    Poll::Pending => {
                        self.timer.arm(cx, deadline);
                        return Poll::Pending;
                    }
                };
                start.extend_from_slice(&scratch[..read]);
                drop(scratch);
                let mut fields = self.worker.fields.borrow_mut();
                loop {
                    match ResponseHead::parse(&start, Asked::Ordinary, &mut fields) {
                        Err(rule) => return Poll::Ready(Err(Failure::rule(FailureKind::Malformed, rule))),
                        Ok(None) => break,
                        Ok(Some(head)) if head.is_interim() => {
                            let length = head.length;
                            start.drain(..length);
                        }
                        Ok(Some(_)) => return Poll::Ready(Ok(())),
                    }
                }
            }
        });
        head.await?;
        self.judge(upstream, &start)
    }

    async fn connect(&self) -> Result<Upstream, Failure> {
        let deadline = self.worker.wheel.now() + self.view.snapshot.pools[self.pool].connect_ticks + 1;
        let mut dial =
            pin!(dial(&self.view, self.pool, self.endpoint, Nature::default(), &self.flight.connections, &self.worker));
        poll_fn(|cx| {
            if let Poll::Ready(upstream) = dial.as_mut().poll(cx) {
                return Poll::Ready(upstream);
            }
            if self.worker.wheel.now() >= deadline {
                return Poll::Ready(Err(Failure::rule(FailureKind::Connect, "connecting took too long")));
            }
            self.timer.arm(cx, deadline);
            Poll::Pending
        })
        .await
    }

    /// Lets the cache look at the answer that `start` begins with.
    fn judge(&mut self, upstream: Upstream, start: &[u8]) -> Result<Option<Rest>, Failure> {
        let mut fields = self.worker.fields.borrow_mut();
        let head = ResponseHead::parse(start, Asked::Ordinary, &mut fields);
        let Some((head, task)) = head.ok().flatten().zip(self.task.take()) else { return Ok(None) };
        self.flight.connections.cells.requests.add(1);
        let (pool, now) = (&self.view.snapshot.pools[self.pool], Moment::now());
        let answered = Attempt::Answered { status: head.status, latency_us: now.micros_since(self.started) };
        eject::note(pool, self.endpoint, answered, self.worker.index, now.millis());
        let mut lines = Vec::with_capacity(head.length);
        write::fields(&mut lines, start, head.length, &fields, KnownSet::HOP_BY_HOP);
        drop(fields);
        let (mut status, mut wish) = (head.status, Wish::None);
        if let Some(hooked) = &self.hooked {
            let responded = hooked.respond(&pool.endpoints[self.endpoint].address, status, LinesView(&lines));
            lines = responded.lines(LinesView(&lines));
            status = responded.status;
            wish = responded.wish;
        }
        let (judged, _) = task.judge(
            &self.worker,
            &AnswerHead {
                status,
                lines: LinesView(&lines),
                framing: head.framing,
                content_length: head.content_length,
                wish,
            },
        );
        let mut body = Body::expected(head.framing);
        let content = &start[head.length..];
        let rest = match judged {
            // It is of no use: neither the content nor, while that is still coming, the connection.
            Judged::Pass(_) => None,
            Judged::Serve(_) => {
                if head.keep_alive && body.is_done() && content.is_empty() {
                    let pool = &self.view.snapshot.pools[self.pool];
                    self.flight.connections.keep(upstream, pool, self.worker.wheel.now());
                }
                None
            }
            Judged::Store(mut filling, _) => {
                let whole = feed(&mut body, &mut filling, content, &mut Vec::new())?;
                Some(Rest {
                    view: Rc::clone(&self.view),
                    pool: self.pool,
                    endpoint: self.endpoint,
                    upstream,
                    body,
                    keeps: head.keep_alive && whole,
                    flight: self.flight.again(),
                    filling,
                })
            }
        };
        Ok(rest)
    }
}
