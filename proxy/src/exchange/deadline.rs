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
use crate::unread::unread;
use crate::worker::Worker;

/// Between two looks at whether a client that waits for an answer is still there.
const LOOK: Duration = Duration::from_secs(1);
/// How long a client that sends no more is waited with for its answer.
const HALF_CLOSED_GRACE: Duration = Duration::from_secs(5);
/// What a body may start late by, before its rate counts.
const BODY_GRACE: Duration = Duration::from_secs(5);
/// The longest pause of a body, however fast it was before.
const BODY_PAUSE_MAX: Duration = Duration::from_secs(30);
/// What a client may take to read, before its rate counts. Its kernel tells of what it has read in steps of up to what a
/// receive buffer holds.
const READ_GRACE: Duration = Duration::from_secs(60);
/// The longest pause of a client that reads, however much it has read before.
const READ_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Between two looks at how much a client that does not take more has read of what it was sent ([`unread`]).
const READ_LOOK: Duration = Duration::from_secs(5);

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
    /// What the kernel took for the client, or from it.
    bytes: u64,
    /// What the client acknowledged, as far as that was looked at.
    read: u64,
    /// What the kernel held for it at the last look.
    held: Option<u64>,
    /// Tick of the next look.
    look: u64,
}

impl Pace {
    pub(super) fn new(now: u64) -> Self {
        Self { since: now, bytes: 0, read: 0, held: None, look: now + ticks(READ_LOOK) }
    }

    /// Starts counting anew: the client was not what the exchange waited for.
    pub(super) fn restart(&mut self, now: u64) {
        *self = Self::new(now);
    }

    pub(super) const fn moved(&mut self, bytes: u64) {
        self.bytes += bytes;
        if let Some(held) = &mut self.held {
            *held += bytes;
        }
    }

    /// The kernel holds so much for the client. Whether the client has read since the last look.
    fn looked(&mut self, held: Option<u64>, now: u64) -> bool {
        self.look = now + ticks(READ_LOOK);
        let before = std::mem::replace(&mut self.held, held);
        let read = before.zip(held).map_or(0, |(before, held)| before.saturating_sub(held));
        self.read += read;
        read > 0
    }

    /// When a client that must move `rate_min` bytes a second is late.
    fn deadline(&self, grace: Duration, rate_min: u64) -> u64 {
        // What is read makes room for what is taken: the same bytes do not count twice.
        let Some(seconds) = self.bytes.max(self.read).checked_div(rate_min) else { return NEVER };
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
        if waiting == Waiting::ClientReads
            && now >= self.pace.look
            && self.pace.looked(connection.stream.tcp().and_then(unread), now)
        {
            self.progress = now;
        }
        let (deadline, failure) = self.deadline(waiting);
        if now >= deadline {
            return Poll::Ready(Err(failure));
        }
        let looks = !self.answered && waiting == Waiting::UpstreamSends;
        let gone = connection.stream.poll_gone(cx).is_ready();
        if gone || (looks && connection.timer.is_due() && self.is_client_gone(connection, now)) {
            return Poll::Ready(Err(Failure::rule(FailureKind::ClientGone, "the client closed the connection")));
        }
        let look = match waiting {
            Waiting::ClientReads => self.pace.look,
            _ if looks => now + ticks(LOOK),
            Waiting::ClientSends | Waiting::UpstreamReads | Waiting::UpstreamSends => NEVER,
        };
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

    #[test]
    fn what_a_client_reads_counts_though_its_socket_takes_no_more() {
        let second = ticks(Duration::from_secs(1));
        let grace = Duration::from_secs(60);
        let mut pace = Pace::new(0);
        assert!(!pace.looked(Some(4_000_000), 5 * second), "the first look only sets the mark");
        assert!(pace.looked(Some(4_000_000 - 50 * 1024), 10 * second));
        assert_eq!(pace.deadline(grace, 1024), 110 * second);
        assert!(!pace.looked(Some(4_000_000 - 50 * 1024), 15 * second));
        // The kernel takes what now has room.
        pace.moved(30 * 1024);
        assert!(!pace.looked(Some(4_000_000 - 20 * 1024), 20 * second));
        assert_eq!(pace.deadline(grace, 1024), 110 * second, "not counted twice");
        assert!(pace.looked(Some(4_000_000 - 30 * 1024), 25 * second));
        assert_eq!(pace.deadline(grace, 1024), 120 * second);
        // Where the system does not say, what the socket takes counts alone.
        assert!(!pace.looked(None, 30 * second) && !pace.looked(None, 35 * second));
    }
}
