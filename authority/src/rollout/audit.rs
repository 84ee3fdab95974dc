//! What of a rollout goes into the audit log: what people asked for, grants, and verdicts. The steps on the way are in the
//! rollout's own events.

use sealane_model::ids::{Digest, Revision};
use serde_json::{Value, json};

use super::event::{Event, GateRecord, Reason, What};
use super::machine::{Command, Verb};
use crate::store::audit::AuditEntry;

/// Of an event; `None`: it is a step on the way.
pub(super) fn of_event(revision: u64, digest: Digest, event: &Event) -> Option<AuditEntry> {
    let (action, detail) = match &event.what {
        What::Completed { line, gates, .. } => {
            ("completed", json!({ "verdict": line, "gates": judged(gates), "evidence": event.evidence }))
        }
        What::RollingBack { reason, gates, .. } => ("rolling_back", why(reason, gates, event.evidence)),
        What::Held { reason, gates } => ("held", why(reason, gates, event.evidence)),
        What::Ended { line, .. } => ("ended", json!({ "verdict": line })),
        What::Rejected { line, .. } => ("rejected", json!({ "verdict": line })),
        What::StageOpened(opened) => (
            "grant",
            json!({ "sequence": opened.sequence, "wave": opened.wave, "stage": opened.stage,
                    "proxies": opened.cohort.len() }),
        ),
        _ => return None,
    };
    Some(AuditEntry {
        at_ms: event.at_ms,
        actor: "authority".to_owned(),
        action,
        subject: Revision(revision).to_string(),
        digest: Some(digest),
        detail,
    })
}

/// A verdict with what it rests on. `evidence` is how many of the rollout's stored entries: `sealane rollout explain` judges
/// them again.
fn why(reason: &Reason, gates: &[GateRecord], evidence: u64) -> Value {
    json!({
        "gate": reason.gate, "stage": reason.stage, "reason": reason.message, "nodes": reason.nodes,
        "gates": judged(gates), "evidence": evidence,
    })
}

fn judged(gates: &[GateRecord]) -> Value {
    let gate = |one: &GateRecord| json!({ "gate": one.gate, "value": one.value, "limit": one.limit, "sample": one.sample, "outcome": one.outcome });
    gates.iter().map(gate).collect()
}

/// Of a command.
pub(super) fn of_command(command: &Command, now_ms: u64) -> AuditEntry {
    AuditEntry {
        at_ms: now_ms,
        actor: command.actor.clone(),
        action: match command.verb {
            Verb::Pause => "pause",
            Verb::Resume => "resume",
            Verb::Promote => "promote",
            Verb::Abort => "abort",
            Verb::Retry => "retry",
        },
        subject: command.revision.map_or_else(String::new, |revision| Revision(revision).to_string()),
        digest: None,
        detail: json!({ "message": command.message }),
    }
}
