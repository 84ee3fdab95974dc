//! How long an exchange waits, and for whom.
//!
//! Deadlines are ticks of the thread's wheel. The connection's one timer is set to the nearest, or to the next look at
//! whether the client is still there.

use std::task::{Context, Poll};
use std::time::Duration;

use crate::connection::{ClientEnd, Connection};
use crate::error::{Failure, FailureKind};
use crate::exchange::Exchange;
use crate::timer::{NEVER, ticks};
use crate::worker::Worker;

/// Between two looks at whether a client that waits for an answer is still there.
const LOOK: Duration = Duration::from_secs(1);
/// How long a client that sends no more is waited with for its answer.
const HALF_CLOSED_GRACE: Duration = Duration::from_secs(5);
/// What a body may start late by, before its rate counts.
const BODY_GRACE: Duration = Duration::from_secs(5);
/// The longest pause of a body, however fast it was before.
const BODY_PAUSE_MAX: Duration = Duration::from_secs(30);
/// What a client may take to read what the kernel holds for it, before its rate counts. The kernel takes more only once a
/// third of what it holds has been read: with buffers of megabytes, a slow client shows no progress for long.
const READ_GRACE: Duration = Duration::from_secs(60);
/// The longest pause of a client that reads, however much the kernel took for it before.
const READ_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Whom an exchange waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// The client takes no more of the answer.
    ClientReads,
    /// The client has not sent the rest of the body.
    ClientSends,
    /// The endpoint takes no more of the request.
    UpstreamReads,
    /// The endpoint has not answered, or not to the end.
    UpstreamSends,
}

/// How much the client moved since when.
#[derive(Debug)]
pub(super) struct Pace {
    since: u64,
    bytes: u64,
}

impl Pace {
    pub(super) const fn new(now: u64) -> Self {
        Self { since: now, bytes: 0 }
    }

    /// Starts counting anew: the client was not what the exchange waited for.
    pub(super) const fn restart(&mut self, now: u64) {
        self.since = now;
        self.bytes = 0;
    }

    pub(super) const fn moved(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// When a client that must move `rate_min` bytes a second is late.
    fn deadline(&self, grace: Duration, rate_min: u64) -> u64 {
        let Some(seconds) = self.bytes.checked_div(rate_min) else { return NEVER };
        self.since + ticks(grace) + ticks(Duration::from_secs(seconds))
    }
}

impl Exchange {
    /// Nothing moves: fails if a deadline has come, else sets the timer.
    pub(super) fn poll_deadline<T>(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
        worker: &Worker,
    ) -> Poll<Result<T, Failure>> {
        let now = worker.wheel.now();
        let waiting = self.waiting(connection);
        let (deadline, failure) = self.deadline(waiting);
        if now >= deadline {
            return Poll::Ready(Err(failure));
        }
        let looks = !self.answered && waiting == Waiting::UpstreamSends;
        let gone = connection.stream.poll_gone(cx).is_ready();
        if gone || (looks && connection.timer.is_due() && self.is_client_gone(connection, now)) {
            return Poll::Ready(Err(Failure::rule(FailureKind::ClientGone, "the client closed the connection")));
        }
        let look = if looks { now + ticks(LOOK) } else { NEVER };
        connection.timer.arm(cx, deadline.min(look));
        Poll::Pending
    }

    /// Whether nobody waits for the answer any more. A client that sends no more has [`HALF_CLOSED_GRACE`]: an endpoint does
    /// not go on for long for one that has closed, and one that only ended its sending side gets a usual answer.
    fn is_client_gone(&mut self, connection: &Connection, now: u64) -> bool {
        match connection.client_end() {
            ClientEnd::Open => false,
            ClientEnd::Closed => true,
            ClientEnd::Half => now >= *self.half_closed.get_or_insert(now) + ticks(HALF_CLOSED_GRACE),
        }
    }

    fn waiting(&self, connection: &Connection) -> Waiting {
        let splice_waits = self.splice.as_ref().is_some_and(|splice| splice.held() > 0);
        let uploads = !self.upload.is_done() && !self.upload_ended;
        if !connection.outbox.is_empty() || (splice_waits && !uploads) {
            Waiting::ClientReads
        } else if !self.to_upstream.is_empty() || (splice_waits && uploads) {
            Waiting::UpstreamReads
        // A client that waits for `100 Continue` is not late, and an answered one may take its time.
        } else if uploads && !self.answered && !(self.expects_continue && !self.streamed && self.interim == 0) {
            Waiting::ClientSends
        } else {
            Waiting::UpstreamSends
        }
    }

    /// The nearest deadline, and what it means when it comes.
    fn deadline(&self, waiting: Waiting) -> (u64, Failure) {
        let snapshot = &self.record.view.snapshot;
        let pool = self.pool();
        let (deadline, kind, rule) = match waiting {
            Waiting::ClientReads => (
                self.pace.deadline(READ_GRACE, snapshot.limits.read_rate_min).min(
                    match snapshot.limits.read_rate_min {
                        0 => self.progress.saturating_add(snapshot.limits.idle),
                        _ => self.progress + ticks(READ_PAUSE_MAX),
                    },
                ),
                FailureKind::ClientSlow,
                "the client read too slowly",
            ),
            // Messages come when there is something to say.
            Waiting::ClientSends if self.nature.grpc => (
                self.progress.saturating_add(snapshot.limits.idle),
                FailureKind::ClientSlow,
                "the client sent nothing for too long",
            ),
            Waiting::ClientSends => (
                self.pace
                    .deadline(BODY_GRACE, snapshot.limits.body_rate_min)
                    .min(self.progress + ticks(BODY_PAUSE_MAX)),
                FailureKind::ClientSlow,
                "the body arrived too slowly",
            ),
            Waiting::UpstreamReads => (
                self.progress + pool.write_ticks,
                FailureKind::UpstreamTimeout,
                "the endpoint took no more of the request",
            ),
            Waiting::UpstreamSends if self.answered => (
                self.progress + pool.read_ticks,
                FailureKind::UpstreamTimeout,
                "the endpoint sent no more of its answer",
            ),
            Waiting::UpstreamSends => {
                (self.progress + pool.response_header_ticks, FailureKind::UpstreamTimeout, "no answer in time")
            }
        };
        let total = match self.route().timeout {
            Some(timeout) if self.answered => self.progress.saturating_add(timeout),
            _ => self.total_deadline,
        };
        let attempt = if self.answered { NEVER } else { self.try_deadline };
        if total < deadline && total <= attempt {
            return (total + 1, Failure::rule(FailureKind::RequestTimeout, "the request's time is over"));
        }
        if attempt < deadline {
            return (attempt + 1, Failure::rule(FailureKind::UpstreamTimeout, "the attempt's time is over"));
        }
        (deadline.saturating_add(1), Failure::rule(kind, rule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_gives_grace_and_then_time_by_what_has_moved() {
        let second = ticks(Duration::from_secs(1));
        let mut pace = Pace::new(100);
        assert_eq!(pace.deadline(Duration::from_secs(5), 1024), 100 + 5 * second);
        pace.moved(10 * 1024);
        assert_eq!(pace.deadline(Duration::from_secs(5), 1024), 100 + 15 * second);
        assert_eq!(pace.deadline(Duration::from_secs(5), 0), NEVER, "off");
        pace.restart(500);
        assert_eq!(pace.deadline(Duration::from_secs(5), 1024), 500 + 5 * second);
    }
}
