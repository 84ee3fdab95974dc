//! An answer's content on its way into the cache: read to its end at the endpoint's pace, whoever reads it here.
//!
//! What follows the head goes on in a task of its own, so that neither a slow client nor one that goes away holds up
//! those who wait for the same answer.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, ready};

use crate::cache::fill::Filling;
use crate::clock::Moment;
use crate::eject::{self, Attempt};
use crate::error::{Failure, FailureKind};
use crate::exchange::Flight;
use crate::http1::body::{Body, Coding};
use crate::timer::Timer;
use crate::upstream::pool::Upstream;
use crate::view::View;
use crate::worker::Worker;

/// What is still to be read, and from where.
#[derive(Debug)]
pub(super) struct Rest {
    pub(super) view: Rc<View>,
    pub(super) pool: usize,
    pub(super) endpoint: usize,
    pub(super) upstream: Upstream,
    pub(super) body: Body,
    /// The endpoint goes on using the connection.
    pub(super) keeps: bool,
    pub(super) flight: Flight,
    pub(super) filling: Box<Filling>,
}

impl Rest {
    /// Reads it, in a task of its own.
    pub(super) fn read_on(self, worker: &Rc<Worker>) {
        let worker = Rc::clone(worker);
        tokio::task::spawn_local(async move { self.run(&worker).await });
    }

    /// Reads it.
    pub(super) async fn run(mut self, worker: &Rc<Worker>) {
        let timer = Timer::new(Rc::clone(&worker.wheel));
        while !self.body.is_done() {
            if let Err(failure) = self.piece(worker, &timer).await {
                if failure.kind.is_upstream() {
                    let pool = &self.view.snapshot.pools[self.pool];
                    let now_ms = Moment::of_tick(worker.wheel.now()).millis();
                    eject::note(pool, self.endpoint, Attempt::Failed, worker.index, now_ms);
                }
                tracing::debug!(detail = %failure.detail, "answer not stored");
                return;
            }
        }
        let Self { view, pool, upstream, keeps, flight, filling, .. } = self;
        filling.complete();
        if keeps {
            flight.connections.keep(upstream, &view.snapshot.pools[pool], worker.wheel.now());
        }
    }

    async fn piece(&mut self, worker: &Rc<Worker>, timer: &Timer) -> Result<(), Failure> {
        let deadline = worker.wheel.now() + self.view.snapshot.pools[self.pool].read_ticks + 1;
        poll_fn(|cx| {
            let room = ready!(self.filling.poll_room(cx));
            room.map_err(|_| Failure::rule(FailureKind::ClientGone, "nobody reads it"))?;
            let mut scratch = worker.scratch.borrow_mut();
            let read = match self.upstream.stream.poll_read(cx, &mut scratch) {
                Poll::Ready(read) => read.map_err(|error| Failure::io(FailureKind::Reset, error))?,
                Poll::Pending if worker.wheel.now() >= deadline => {
                    let rule = "the endpoint sent no more of its answer";
                    return Poll::Ready(Err(Failure::rule(FailureKind::UpstreamTimeout, rule)));
                }
                Poll::Pending => {
                    timer.arm(cx, deadline);
                    return Poll::Pending;
                }
            };
            if read == 0 {
                return Poll::Ready(Err(Failure::rule(FailureKind::Reset, "the answer's body ended early")));
            }
            let mut out = worker.out.borrow_mut();
            let whole = feed(&mut self.body, &mut self.filling, &scratch[..read], &mut out)?;
            self.keeps &= whole;
            Poll::Ready(Ok(()))
        })
        .await
    }
}

/// Takes in what belongs to the body. Whether that was everything. `out` is room.
pub(super) fn feed(body: &mut Body, filling: &mut Filling, read: &[u8], out: &mut Vec<u8>) -> Result<bool, Failure> {
    if matches!(body, Body::Chunked(_)) {
        out.clear();
        let fed = body.feed(read, Coding::Identity, out);
        let fed = fed.map_err(|rule| Failure::rule(FailureKind::Malformed, rule))?;
        filling.data(out);
        return Ok(fed.consumed == read.len());
    }
    let taken = body.advance(read.len());
    filling.data(&read[..taken]);
    Ok(taken == read.len())
}
