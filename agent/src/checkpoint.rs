//! Whether the authority's audit log still holds what it said of itself before.
//!
//! Every timestamp document carries the head of the log's hash chain. From one head to the next this agent asks for the
//! hashes of the entries between and follows the chain itself: a log that was cut or edited meanwhile does not lead there.
//! The first head is taken as it is, and so is the first of a new epoch, which only the root role can begin: a restored
//! database has lost entries, and says so.
//!
//! It raises an alarm and counts; it changes nothing about what is served.

use std::time::Duration;

use sealane_model::audit::next_head;
use sealane_model::ids::{Digest, Epoch};
use sealane_model::timestamp::Timestamp;
use sealane_model::verify::VerifyError;
use sealane_node::disk;
use sealane_proto::v1;
use tokio_util::sync::CancellationToken;

use crate::authority::{AuthorityLink, CALL_TIMEOUT};
use crate::ledger::Ledger;
use crate::refusal::Refusals;

/// What a watcher of the log works with.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub(crate) link: AuthorityLink,
    pub(crate) ledger: Ledger,
    pub(crate) refusals: Refusals,
}

/// A head that was followed to, and the epoch in which it was seen.
pub(crate) type Checked = (Epoch, Digest);

enum Way {
    Leads,
    Broken,
    /// Not to be had now.
    Unknown,
}

impl Checkpoint {
    /// Follows the log until `cancel`.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let mut ledger = self.ledger.watch();
        // What was found broken is said once.
        let mut broken: Option<Checked> = None;
        loop {
            let wanted = ledger.borrow_and_update().seen_timestamp().and_then(head);
            let wait = match wanted.filter(|wanted| Some(*wanted) != self.ledger.state().audit) {
                Some(wanted) if broken != Some(wanted) => match self.follow(wanted).await {
                    Way::Leads => {
                        if let Err(error) = self.ledger.set_audit(wanted).await {
                            self.refusals.alarm(disk::chain(&error));
                        }
                        GAP
                    }
                    Way::Broken => {
                        self.refusals.count("audit log", &VerifyError::AuditRewritten);
                        broken = Some(wanted);
                        GAP
                    }
                    Way::Unknown => AGAIN,
                },
                _ => Duration::ZERO,
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            if wait != AGAIN {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    changed = ledger.changed() => if changed.is_err() { return },
                }
            }
        }
    }

    async fn follow(&self, (epoch, wanted): Checked) -> Way {
        let Some(mut at) = self.ledger.state().audit.filter(|(seen, _)| *seen == epoch).map(|(_, head)| head) else {
            return Way::Leads; // nothing to follow from: this is the first
        };
        for _ in 0..PAGES_MAX {
            let mut request = tonic::Request::new(v1::GetAuditProofRequest { from_head: at.to_vec() });
            request.set_timeout(CALL_TIMEOUT);
            let proof = match self.link.client().get_audit_proof(request).await {
                Ok(answer) => answer.into_inner(),
                Err(error) => {
                    tracing::debug!(error = disk::chain(&error), "cannot follow the audit log yet");
                    return Way::Unknown;
                }
            };
            if !proof.found || proof.entries.is_empty() {
                return Way::Broken;
            }
            for entry in &proof.entries {
                let Some(entry) = Digest::from_slice(entry) else { return Way::Broken };
                at = next_head(Some(&at), &entry);
                if at == wanted {
                    return Way::Leads;
                }
            }
        }
        Way::Broken
    }
}

/// The head in a timestamp document.
fn head(timestamp: &Timestamp) -> Option<Checked> {
    Some((timestamp.epoch, Digest::from_slice(&timestamp.audit_head)?))
}

/// Between two looks at the log: what comes within goes together.
const GAP: Duration = Duration::from_secs(1);
/// After the authority could not answer.
const AGAIN: Duration = Duration::from_secs(30);
/// A million entries between two heads that one agent sees.
const PAGES_MAX: usize = 100;
