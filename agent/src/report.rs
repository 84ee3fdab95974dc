//! What is, upward: the whole observed state of this agent and its proxies, at once on a change and otherwise as often
//! as the authority asks. A lost report does not matter, the next one is whole again.

use std::time::Duration;

use sealane_model::release::Partition;
use sealane_node::backoff::Backoff;
use sealane_proto::v1;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::authority::{AuthorityLink, BACKOFF_LAST, CALL_TIMEOUT};
use crate::clock;
use crate::intake::STALE;
use crate::ledger::{Ledger, LocalRollback};
use crate::refusal::Refusals;
use crate::rollout::driver::{Roster, RosterEntry};
use crate::subscribe::Contact;

/// What a reporter works with.
#[derive(Debug)]
pub(crate) struct Reporter {
    pub(crate) link: AuthorityLink,
    pub(crate) ledger: Ledger,
    pub(crate) refusals: Refusals,
    pub(crate) instance: String,
    pub(crate) roster: watch::Receiver<Roster>,
    pub(crate) contact: watch::Receiver<Contact>,
    pub(crate) taken: watch::Receiver<u64>,
    pub(crate) sent: watch::Sender<ReportCounts>,
}

/// Reports since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReportCounts {
    pub(crate) answered: u64,
    pub(crate) failed: u64,
}

/// What, when it changes, is reported at once.
#[derive(PartialEq)]
struct Facts {
    changes: u64,
    taken: u64,
    connected: bool,
    rolled_back: Option<LocalRollback>,
    refused: u64,
}

impl Reporter {
    /// Reports until `cancel`.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let mut ledger = self.ledger.watch();
        let mut backoff = Backoff::new(BACKOFF_LAST);
        let mut failing = false;
        loop {
            let facts = self.facts();
            let after = match self.report().await {
                Ok(next) => {
                    backoff.reset();
                    failing = false;
                    self.sent.send_modify(|sent| sent.answered += 1);
                    next
                }
                Err(status) => {
                    if !failing {
                        tracing::warn!(reason = self.link.why(&status), "cannot report to the authority");
                        failing = true;
                    }
                    self.sent.send_modify(|sent| sent.failed += 1);
                    GAP + backoff.wait()
                }
            };
            let due = Instant::now() + after;
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(GAP) => {}
            }
            while !failing && self.facts() == facts && Instant::now() < due {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = tokio::time::sleep_until(due) => {}
                    changed = self.roster.changed() => if changed.is_err() { return },
                    changed = self.contact.changed() => if changed.is_err() { return },
                    changed = self.taken.changed() => if changed.is_err() { return },
                    changed = ledger.changed() => if changed.is_err() { return },
                }
            }
            if failing {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = tokio::time::sleep_until(due) => {}
                    // The authority is back, or gone: either way it is time to try.
                    changed = self.contact.changed() => if changed.is_err() { return },
                }
            }
        }
    }

    fn facts(&self) -> Facts {
        Facts {
            changes: self.roster.borrow().changes,
            taken: *self.taken.borrow(),
            connected: self.contact.borrow().connected,
            rolled_back: self.ledger.state().rolled_back.clone(),
            refused: self.refusals.counts().iter().map(|(_, count)| count).sum(),
        }
    }

    async fn report(&self) -> Result<Duration, tonic::Status> {
        let mut request = tonic::Request::new(self.build());
        request.set_timeout(CALL_TIMEOUT);
        let mut client = self.link.client();
        let answer = match tokio::time::timeout(CALL_TIMEOUT, client.report(request)).await {
            Ok(answer) => answer?.into_inner(),
            Err(_) => return Err(tonic::Status::deadline_exceeded("it does not answer")),
        };
        let next = Duration::from_millis(u64::from(answer.next_report_ms));
        Ok(next.clamp(GAP, NEXT_MAX))
    }

    fn build(&self) -> v1::ReportRequest {
        let state = self.ledger.state();
        let floor = state.floors.get(&Partition::Config);
        let proxies = self.roster.borrow().proxies.clone();
        let refused = self.refusals.counts();
        v1::ReportRequest {
            agent_id: state.agent.0.clone(),
            instance: self.instance.clone(),
            state_version: *self.taken.borrow(),
            epoch: floor.map_or(0, |floor| floor.epoch.0),
            revision_floor: floor.map_or(0, |floor| floor.revision.0),
            proxies: proxies.iter().map(RosterEntry::status).collect(),
            refused: refused
                .into_iter()
                .map(|(code, count)| v1::RefusedCount { code: code.to_owned(), count })
                .collect(),
            alarm: self.alarm(),
            local_rollback: state.rolled_back.as_ref().map(local_rollback),
        }
    }

    fn alarm(&self) -> String {
        let state = self.ledger.state();
        match state.seen_timestamp() {
            Some(timestamp) if clock::unix_ms() > timestamp.expires_unix_ms => STALE.to_owned(),
            Some(_) | None => self.refusals.newest(),
        }
    }
}

fn local_rollback(rollback: &LocalRollback) -> v1::LocalRollback {
    let digest = sealane_model::ids::Digest::from_hex(&rollback.digest);
    v1::LocalRollback {
        release_digest: digest.map(sealane_model::ids::Digest::to_vec).unwrap_or_default(),
        revision: rollback.revision,
        reason: Some(v1::Reason {
            gate: rollback.gate.clone(),
            nodes: rollback.nodes.clone(),
            message: rollback.message.clone(),
            ..v1::Reason::default()
        }),
    }
}

/// At most five reports a second.
const GAP: Duration = Duration::from_millis(200);
/// Whatever the authority asks for, it hears from us this often.
const NEXT_MAX: Duration = Duration::from_secs(30);
