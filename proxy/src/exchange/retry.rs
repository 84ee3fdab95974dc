//! What may be tried again after a failed attempt, where, and at whose expense.
//!
//! Only while the client has seen nothing of an answer, and only what can be sent again in full. In this order: a
//! connection that went stale while it idled is no attempt at all; a connection that could not be made moves on once to
//! each other endpoint; everything else is up to the route's policy and its budget.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use sealane_model::config::{Backoff, RateLimitKey, RetryCondition};
use sealane_model::decide::HeaderView as _;
use tokio::time;
use tracing::{info, warn};

use crate::balance::{Pick, fnv};
use crate::breaker::{Change, Outcome};
use crate::clock::Moment;
use crate::connection::{Connection, Peer};
use crate::eject::{self, Attempt};
use crate::error::{Failure, FailureKind};
use crate::exchange::{Exchange, Flight, head};
use crate::forwarded::Client;
use crate::http1::field::{FieldView, Fields};
use crate::http1::request_head::RequestHead;
use crate::metrics::{RetryOutcome, retry_reason};
use crate::request::{Request, decide_head, take_leave};
use crate::snapshot::CompiledRetries;
use crate::stream::Outbox;
use crate::timer::{NEVER, ticks};
use crate::worker::Worker;

impl Exchange {
    /// Makes ready for another attempt.
    ///
    /// # Errors
    /// The failure, if there is to be none.
    pub(super) fn try_again(&mut self, failure: Failure, peer: &Peer, worker: &Worker) -> Result<(), Failure> {
        let stale = failure.kind == FailureKind::Reset
            && self.idempotent
            && self.upstream.as_ref().is_some_and(|upstream| upstream.reused);
        let free = (stale || failure.kind == FailureKind::Unprocessed)
            && self.from_upstream.is_empty()
            && self.interim == 0
            && self.free_attempts > 0;
        self.upstream = None;
        self.trace_failure(&failure);
        if self.answered || !self.is_replayable() {
            self.note_failure(&failure, worker);
            self.report_failure(&failure, worker);
            return Err(failure);
        }
        if free {
            self.free_attempts -= 1;
            if stale {
                // What idled beside it is as old.
                self.flight.connections.close_idle();
            }
            self.rewind(worker);
            return Ok(());
        }
        self.note_failure(&failure, worker);
        match failure.kind {
            FailureKind::Connect | FailureKind::Exhausted => {
                self.tried.push(self.endpoint as u32);
                // The attempt goes on, and so does the breaker's leave for it.
                if self.move_on(peer, worker) {
                    return Ok(());
                }
                // Every endpoint was tried; the policy may start over.
                self.tried.clear();
                if failure.kind == FailureKind::Exhausted {
                    // More attempts would not help.
                    self.report_failure(&failure, worker);
                    return Err(failure);
                }
                self.retry(RetryCondition::ConnectFailure, failure, peer, worker)
            }
            FailureKind::Reset | FailureKind::Unprocessed | FailureKind::Malformed => {
                self.retry(RetryCondition::Reset, failure, peer, worker)
            }
            FailureKind::UpstreamTimeout => self.retry(RetryCondition::Timeout, failure, peer, worker),
            // The budget has paid already.
            FailureKind::Status => {
                self.next_attempt(peer, worker);
                Ok(())
            }
            FailureKind::RequestTimeout
            | FailureKind::ClientGone
            | FailureKind::ClientSlow
            | FailureKind::ClientMalformed
            | FailureKind::ClientTooLarge => {
                self.report_failure(&failure, worker);
                Err(failure)
            }
        }
    }

    /// Whether an answer with this status is not passed on, because another attempt is allowed, and paid for.
    /// `retry_after`: how long the endpoint asks to be left alone.
    pub(super) fn wants_another(&mut self, status: u16, retry_after: Option<Duration>, worker: &Worker) -> bool {
        if let Some(trace) = &mut self.record.trace {
            trace.answered(status);
        }
        let retries = self.route().retries.as_ref();
        let condition = RetryCondition::Status(status);
        if !retries.is_some_and(|retries| retries.policy.on.contains(&condition)) {
            if status < 500 {
                self.note_success(worker);
            }
            return false;
        }
        self.is_replayable() && self.pays_for_another(condition, retry_after, worker)
    }

    fn retry(
        &mut self,
        condition: RetryCondition,
        failure: Failure,
        peer: &Peer,
        worker: &Worker,
    ) -> Result<(), Failure> {
        self.report_failure(&failure, worker);
        let retries = self.route().retries.as_ref();
        if retries.is_some_and(|retries| retries.policy.on.contains(&condition))
            && self.pays_for_another(condition, None, worker)
        {
            self.next_attempt(peer, worker);
            return Ok(());
        }
        Err(failure)
    }

    /// Whether the policy allows one more attempt, the breaker gives its leave, and the budget has one left, which is
    /// then spent.
    fn pays_for_another(&mut self, condition: RetryCondition, retry_after: Option<Duration>, worker: &Worker) -> bool {
        let reason = retry_reason(condition);
        let view = Rc::clone(&self.record.view);
        let Some(retries) = &view.snapshot.routes[self.route].retries else { return false };
        let policy = &retries.policy;
        if policy.attempts_max <= 1 || (policy.idempotent_only && !self.idempotent) {
            return false;
        }
        if u32::from(self.record.attempts) >= policy.attempts_max {
            self.count_retry(reason, RetryOutcome::Exhausted, worker);
            return false;
        }
        let pause = match &policy.backoff {
            Some(backoff) if retry_after.is_some_and(|asked| asked > backoff.max) => return false,
            Some(backoff) => {
                let jitter = full_jitter(backoff, u32::from(self.record.attempts), worker.random());
                Some(jitter.max(retry_after.unwrap_or_default()))
            }
            None => None,
        };
        let spent = Duration::from_micros(Moment::now().micros_since(self.record.started));
        if policy.within.is_some_and(|within| spent + pause.unwrap_or_default() >= within) {
            return false;
        }
        // An open breaker stops retries, too; a leave that is not used after all goes back.
        let Ok(leave) = take_leave(worker, &mut self.record, self.route) else { return false };
        let client = policy.per_client.as_ref().map(|cap| (self.client_key, cap));
        let now_ms = Moment::of_tick(worker.wheel.now()).millis();
        if !retries.budget.take_for(policy.budget_percent, client, now_ms) {
            self.count_retry(reason, RetryOutcome::Budget, worker);
            self.record.retry_budget_exhausted = true;
            return false;
        }
        self.record.retry_reason = Some(reason);
        self.leave = leave;
        self.pause = pause;
        true
    }

    /// Everything that was sent is at hand, and what was not sent is still to come from the client.
    const fn is_replayable(&self) -> bool {
        !self.streamed
    }

    /// Waits before the next attempt, as long as the client does.
    pub(super) fn wait_before_attempt<'a>(
        &'a mut self,
        connection: &'a mut Connection,
        worker: &'a Worker,
    ) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + 'a>> {
        let pause = self.pause.take().unwrap_or_default();
        Box::pin(async move {
            let mut wait = pin!(time::sleep(pause));
            // Nobody is late meanwhile but the whole.
            let per_try = mem::replace(&mut self.try_deadline, NEVER);
            let waited = poll_fn(|cx| {
                if wait.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ok(()));
                }
                self.progress = worker.wheel.now();
                self.poll_deadline(cx, connection, worker)
            })
            .await;
            self.try_deadline = per_try.saturating_add(ticks(pause));
            self.attempt_started = Moment::now();
            self.progress = worker.wheel.now();
            waited
        })
    }

    fn next_attempt(&mut self, peer: &Peer, worker: &Worker) {
        self.record.attempts = self.record.attempts.saturating_add(1);
        let per_try = self.route().retries.as_ref().and_then(|retries| retries.per_try);
        self.try_deadline = per_try.map_or(NEVER, |ticks| worker.wheel.now() + ticks + 1);
        // Somewhere else, if there is somewhere else.
        self.tried.push(self.endpoint as u32);
        if !self.move_on(peer, worker) {
            self.rewind(worker);
        }
        self.tried.clear();
    }

    /// Picks an endpoint that was not tried; whether there is one.
    fn move_on(&mut self, peer: &Peer, worker: &Worker) -> bool {
        let view = Rc::clone(&self.record.view);
        let pool = &view.snapshot.pools[self.pool];
        let pick = Pick {
            rotation: &view.snapshot.routes[self.route].targets[self.record.target].rotation,
            now: Moment::of_tick(worker.wheel.now()),
            random: worker.random(),
            hash: self.hash,
            tried: &self.tried,
            trickled: Cell::default(),
        };
        let Ok(endpoint) = pick.endpoint(pool) else { return false };
        self.endpoint = endpoint;
        self.record.endpoint = Some((self.pool, endpoint));
        self.flight = Flight::start(&self.record, self.pool, endpoint, worker);
        if pool.head_differs {
            self.write_head_anew(peer);
        }
        self.rewind(worker);
        true
    }

    /// Back to before anything was sent.
    fn rewind(&mut self, worker: &Worker) {
        self.to_upstream = Outbox::default();
        self.from_upstream.clear();
        self.upload_ended = false;
        self.splice = None;
        self.attempt_started = Moment::now();
        self.trace_attempt(worker);
        let now = worker.wheel.now();
        self.progress = now;
        let pool = &self.record.view.snapshot.pools[self.pool];
        if let Some(upstream) = self.flight.connections.take(pool, &pool.endpoints[self.endpoint], self.nature, now) {
            self.upstream = Some(upstream);
            self.to_upstream.queue(&self.sent);
        }
    }

    /// Ends the span of the attempt at hand.
    fn trace_failure(&mut self, failure: &Failure) {
        if let Some(trace) = &mut self.record.trace {
            // An answer that is to be retried says itself what it was.
            let error = if failure.kind == FailureKind::Status { "" } else { failure.kind.category().name() };
            trace.end_attempt(error, Moment::now());
        }
    }

    /// Begins the span of another attempt, and names it in what is sent.
    fn trace_attempt(&mut self, worker: &Worker) {
        if let Some(trace) = &mut self.record.trace {
            trace.event("retry", "attempt", self.record.attempts.to_string());
            trace.attempt(worker, (self.pool, self.endpoint), self.attempt_started);
            trace.rename(&mut self.sent);
        }
    }

    /// The head depends on the endpoint: writes it again from what the client sent.
    fn write_head_anew(&mut self, peer: &Peer) {
        if let Some(sent) = self.head_for(self.endpoint, peer) {
            self.sent = sent;
        }
    }

    /// What another endpoint is sent: its own head, and what there is of the body.
    pub(super) fn head_for(&self, endpoint: usize, peer: &Peer) -> Option<Vec<u8>> {
        let mut fields = Fields::default();
        let view = Rc::clone(&self.record.view);
        let head = RequestHead::parse(&self.raw_head, &view.snapshot.head_limits, &mut fields).ok()??;
        let body_at = memchr::memmem::find(&self.sent, b"\r\n\r\n")? + 4;
        let client = Client::find(peer.ip, &view.snapshot.trusted, &self.raw_head, &fields);
        let request = Request { bytes: &self.raw_head, head: &head, peer, client };
        // Matching again leaves in the scratch what the path is written from; the route is the same.
        let decided = FieldView { bytes: &self.raw_head, fields: &fields };
        view.snapshot.table.decide(&decide_head(&request, &decided), &mut view.scratch.borrow_mut());
        let mut sent = Vec::with_capacity(self.sent.len() + 256);
        head::write(&mut sent, &self.record, self.route, (self.pool, endpoint), &request, &mut fields);
        sent.extend_from_slice(&self.sent[body_at..]);
        Some(sent)
    }

    fn note_failure(&mut self, failure: &Failure, worker: &Worker) {
        self.tell_hooks(failure);
        if failure.kind == FailureKind::Connect {
            self.flight.connections.cells.connect_failures.add(1);
            self.record.view.revision.connect_failures.add(1);
        }
        if self.blames_endpoint(failure) {
            let category = match failure.kind {
                FailureKind::UpstreamTimeout | FailureKind::RequestTimeout => 0,
                FailureKind::Connect => 1,
                _ => 2,
            };
            self.flight.connections.cells.errors[category].add(1);
            self.note_attempt(Attempt::Failed, worker);
        }
    }

    /// Tells the breaker that the attempt at hand failed, if it was the endpoints' fault.
    fn report_failure(&mut self, failure: &Failure, worker: &Worker) {
        self.report(if self.blames_endpoint(failure) { Outcome::Failure } else { Outcome::Unknown }, worker);
    }

    fn blames_endpoint(&self, failure: &Failure) -> bool {
        match failure.kind {
            // Its answer was noted.
            FailureKind::Status => false,
            // Nobody can answer what has not been asked.
            FailureKind::RequestTimeout => self.upload.is_done() || self.upload_ended || !self.to_upstream.is_empty(),
            kind => kind.is_upstream(),
        }
    }

    /// Tells the breaker how the attempt at hand ended.
    pub(super) fn report(&mut self, outcome: Outcome, worker: &Worker) {
        let Some(leave) = self.leave.take() else { return };
        self.note_change(leave.report(outcome, Moment::of_tick(worker.wheel.now()).millis()));
    }

    /// Says what a breaker did.
    pub(super) fn note_change(&self, change: Option<Change>) {
        let (route, pool) = (&*self.route().id, &*self.pool().id);
        match change {
            Some(Change::Opened) => warn!(route, pool, "circuit opened"),
            Some(Change::Closed) => info!(route, pool, "circuit closed"),
            None => {}
        }
    }

    /// Notes how an attempt on the endpoint ended.
    pub(super) fn note_attempt(&self, attempt: Attempt, worker: &Worker) {
        let now_ms = Moment::of_tick(worker.wheel.now()).millis();
        eject::note(self.pool(), self.endpoint, attempt, worker.index, now_ms);
    }

    fn note_success(&self, worker: &Worker) {
        if let Some(retries) = &self.route().retries {
            retries.budget.succeeded(worker.index);
            if self.record.attempts - self.hedges > 1 {
                self.count_retry(self.record.retry_reason.unwrap_or_default(), RetryOutcome::Success, worker);
            }
        } else if let Some(hedge) = &self.route().hedge {
            hedge.budget.succeeded(worker.index);
        }
    }

    fn count_retry(&self, reason: usize, outcome: RetryOutcome, worker: &Worker) {
        let lane = self.record.view.lane(Some(self.route), self.record.target, worker);
        lane.retries[reason][outcome as usize].add(1);
    }
}

/// The hash of who the client is, where the retries of one client are bounded. Who names nobody is anonymous, together.
pub(super) fn client_key(retries: &CompiledRetries, request: &Request<'_>, fields: &Fields) -> u64 {
    let Some(cap) = &retries.policy.per_client else { return 0 };
    match &cap.key {
        RateLimitKey::Header(name) => {
            let mut key = 0;
            FieldView { bytes: request.bytes, fields }.any_value(name, &mut |value| {
                key = fnv(value);
                true
            });
            key
        }
        RateLimitKey::ClientIp | RateLimitKey::Claim(_) => match request.client.ip {
            std::net::IpAddr::V4(ip) => fnv(&ip.octets()),
            std::net::IpAddr::V6(ip) => fnv(&ip.octets()),
        },
    }
}

/// Any time up to the base, doubled with each attempt, up to the maximum.
fn full_jitter(backoff: &Backoff, attempts: u32, random: u64) -> Duration {
    let bound = backoff.base.saturating_mul(1 << attempts.saturating_sub(1).min(20)).min(backoff.max);
    Duration::from_nanos(random % (bound.as_nanos() as u64 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_any_time_up_to_a_bound_that_doubles() {
        let backoff = Backoff { base: Duration::from_millis(25), max: Duration::from_millis(100) };
        let longest = |attempts| {
            let pauses = (0..10_000).map(|random| full_jitter(&backoff, attempts, random * 999_983));
            pauses.max().unwrap().as_millis()
        };
        assert_eq!([1, 2, 3, 4, 60].map(longest), [24, 49, 99, 99, 99]);
    }
}
