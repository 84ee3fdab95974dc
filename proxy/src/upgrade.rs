//! A connection after 101: bytes go both ways until both sides are done. What was read already goes first.
//!
//! Once one side has ended its sending, the other has `limits.idle_timeout` between two bytes: a peer that has gone without a
//! word would hold both connections for as long as a silent relay may last.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{io, mem};

use crate::connection::{After, Connection};
use crate::error::{Failure, FailureKind};
use crate::exchange::Exchange;
use crate::stream::{Outbox, Stream};
use crate::timer::ticks;
use crate::worker::Worker;

/// Without a byte in either direction, the connection ends.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Relays until both sides have ended, or one fails.
pub(crate) async fn relay(
    exchange: &mut Exchange,
    connection: &mut Connection,
    worker: &Rc<Worker>,
) -> Result<After, Failure> {
    let Some(mut upstream) = exchange.upstream.take() else {
        return Err(Failure::rule(FailureKind::Reset, "no connection to relay to"));
    };
    let mut up = Direction::new(mem::take(&mut exchange.to_upstream), mem::take(&mut connection.inbox));
    let mut down = Direction::new(mem::take(&mut connection.outbox), mem::take(&mut exchange.from_upstream));
    let half_closed_ticks = exchange.record.view.snapshot.limits.idle.min(ticks(IDLE_TIMEOUT));
    let mut last = worker.wheel.now();
    let relayed: io::Result<()> = poll_fn(|cx| {
        let up_done = up.poll(cx, &mut connection.stream, &mut upstream.stream, worker)?;
        let down_done = down.poll(cx, &mut upstream.stream, &mut connection.stream, worker)?;
        exchange.record.request_bytes += mem::take(&mut up.moved);
        let moved_down = mem::take(&mut down.moved);
        exchange.record.response_bytes += moved_down;
        if up_done.is_ready() && down_done.is_ready() {
            return Poll::Ready(Ok(()));
        }
        let now = worker.wheel.now();
        if mem::take(&mut up.active) | mem::take(&mut down.active) {
            last = now;
        }
        let is_half_closed = up.ended != Ended::No || down.ended != Ended::No;
        let patience = if is_half_closed { half_closed_ticks } else { ticks(IDLE_TIMEOUT) };
        let deadline = last.saturating_add(patience);
        if now >= deadline {
            return Poll::Ready(Ok(()));
        }
        connection.timer.arm(cx, deadline);
        Poll::Pending
    })
    .await;
    // The answer was 101; how the relay ends is the peers' business.
    if let Err(error) = relayed {
        tracing::debug!(%error, "relay ended");
    }
    Ok(After::Close)
}

/// Bytes from one side to the other.
#[derive(Debug)]
struct Direction {
    outbox: Outbox,
    ended: Ended,
    moved: u64,
    active: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    No,
    /// The source has, the sink was not told.
    Source,
    Both,
}

impl Direction {
    fn new(mut outbox: Outbox, first: Vec<u8>) -> Self {
        let moved = first.len() as u64;
        outbox.queue(&first);
        Self { outbox, ended: Ended::No, moved, active: false }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Stream,
        sink: &mut Stream,
        worker: &Worker,
    ) -> Poll<io::Result<()>> {
        loop {
            if !self.outbox.is_empty() {
                ready!(self.outbox.poll_drain(cx, sink))?;
            }
            match self.ended {
                Ended::Both => return Poll::Ready(Ok(())),
                Ended::Source => {
                    ready!(sink.poll_shutdown(cx))?;
                    self.ended = Ended::Both;
                    continue;
                }
                Ended::No => {}
            }
            let mut scratch = worker.scratch.borrow_mut();
            let read = ready!(source.poll_read(cx, &mut scratch))?;
            self.active = true;
            if read == 0 {
                self.ended = Ended::Source;
            }
            self.moved += read as u64;
            self.outbox.send(cx, sink, &scratch[..read])?;
        }
    }
}
