//! What may be tried again after a failed attempt, where, and at whose expense.
//!
//! Only while the client has seen nothing of an answer, and only what can be sent again in full. In this order: a
//! connection that went stale while it idled is no attempt at all; a connection that could not be made moves on once to
//! each other endpoint; everything else is up to the route's policy and its budget.

use std::rc::Rc;

use sealane_model::config::RetryCondition;
use tracing::info;

use crate::balance::Pick;
use crate::clock::Moment;
use crate::connection::Peer;
use crate::error::{Failure, FailureKind};
use crate::exchange::{Exchange, Flight, head};
use crate::forwarded::Client;
use crate::http1::field::{FieldView, Fields};
use crate::http1::request_head::RequestHead;
use crate::metrics::RetryOutcome;
use crate::request::{Request, decide_head};
use crate::stream::Outbox;
use crate::timer::NEVER;
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
        if self.answered || !self.is_replayable() {
            self.note_failure(&failure, worker);
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
            FailureKind::Connect => {
                self.tried.push(self.endpoint as u32);
                if self.move_on(peer, worker) {
                    return Ok(());
                }
                // Every endpoint was tried; the policy may start over.
                self.tried.clear();
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
            | FailureKind::ClientTooLarge => Err(failure),
        }
    }

    /// Whether an answer with this status is not passed on, because another attempt is allowed, and paid for.
    pub(super) fn wants_another(&mut self, status: u16, worker: &Worker) -> bool {
        let retries = self.route().retries.as_ref();
        if !retries.is_some_and(|retries| retries.policy.on.contains(&RetryCondition::Status(status))) {
            if status < 500 {
                self.note_success(worker);
            }
            return false;
        }
        self.is_replayable() && self.pays_for_another(worker)
    }

    fn retry(
        &mut self,
        condition: RetryCondition,
        failure: Failure,
        peer: &Peer,
        worker: &Worker,
    ) -> Result<(), Failure> {
        let retries = self.route().retries.as_ref();
        if retries.is_some_and(|retries| retries.policy.on.contains(&condition)) && self.pays_for_another(worker) {
            self.next_attempt(peer, worker);
            return Ok(());
        }
        Err(failure)
    }

    /// Whether the policy allows one more attempt and its budget has one left, which is then spent.
    fn pays_for_another(&self, worker: &Worker) -> bool {
        let Some(retries) = &self.route().retries else { return false };
        let policy = &retries.policy;
        if policy.attempts_max <= 1 || (policy.idempotent_only && !self.idempotent) {
            return false;
        }
        let outcome = if u32::from(self.record.attempts) >= policy.attempts_max {
            RetryOutcome::Exhausted
        } else if !retries.budget.take(policy.budget_percent, Moment::of_tick(worker.wheel.now()).millis()) {
            RetryOutcome::Budget
        } else {
            return true;
        };
        self.count_retry(outcome, worker);
        false
    }

    /// Everything that was sent is at hand, and what was not sent is still to come from the client.
    const fn is_replayable(&self) -> bool {
        !self.streamed
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
            rotation: &view.snapshot.routes[self.route].rotation,
            now: Moment::of_tick(worker.wheel.now()),
            random: worker.random(),
            hash: self.hash,
            tried: &self.tried,
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
        let now = worker.wheel.now();
        self.progress = now;
        let pool = &self.record.view.snapshot.pools[self.pool];
        if let Some(upstream) = self.flight.connections.take(pool, &pool.endpoints[self.endpoint], self.nature, now) {
            self.upstream = Some(upstream);
            self.to_upstream.queue(&self.sent);
        }
    }

    /// The head depends on the endpoint: writes it again from what the client sent.
    fn write_head_anew(&mut self, peer: &Peer) {
        let mut fields = Fields::default();
        let view = Rc::clone(&self.record.view);
        let Ok(Some(head)) = RequestHead::parse(&self.raw_head, &view.snapshot.head_limits, &mut fields) else {
            return;
        };
        let Some(body_at) = memchr::memmem::find(&self.sent, b"\r\n\r\n") else { return };
        let body = self.sent[body_at + 4..].to_vec();
        let client = Client::find(peer.ip, &view.snapshot.trusted, &self.raw_head, &fields);
        let request = Request { bytes: &self.raw_head, head: &head, peer, client };
        // Matching again leaves in the scratch what the path is written from; the route is the same.
        let decided = FieldView { bytes: &self.raw_head, fields: &fields };
        view.snapshot.table.decide(&decide_head(&request, &decided), &mut view.scratch.borrow_mut());
        self.sent.clear();
        head::write(&mut self.sent, &self.record, self.route, (self.pool, self.endpoint), &request, &mut fields);
        self.sent.extend_from_slice(&body);
    }

    fn note_failure(&mut self, failure: &Failure, worker: &Worker) {
        if failure.kind == FailureKind::Connect {
            self.flight.connections.cells.connect_failures.add(1);
            self.record.view.revision.connect_failures.add(1);
        }
        if failure.kind.is_upstream() && failure.kind != FailureKind::Status {
            self.note_endpoint_failure(worker);
        }
    }

    pub(super) fn note_endpoint_failure(&self, worker: &Worker) {
        let now_ms = Moment::of_tick(worker.wheel.now()).millis();
        if let Some(duration) = self.compiled_endpoint().live.failed(self.pool().passive.as_ref(), now_ms) {
            let endpoint = &*self.compiled_endpoint().address;
            info!(pool = &*self.pool().id, endpoint, ?duration, "endpoint ejected");
        }
    }

    fn note_success(&self, worker: &Worker) {
        if let Some(retries) = &self.route().retries {
            retries.budget.succeeded(worker.index);
            if self.record.attempts > 1 {
                self.count_retry(RetryOutcome::Success, worker);
            }
        }
    }

    fn count_retry(&self, outcome: RetryOutcome, worker: &Worker) {
        self.record.view.lane(Some(self.route), worker).retries[outcome as usize].add(1);
    }
}
