//! What of a rollout goes into the audit log: what people asked for, grants, and verdicts. The steps on the way are in the
//! rollout's own events.

use sealane_model::ids::{Digest, Revision};
use serde_json::json;

use super::event::{Event, What};
use super::machine::{Command, Verb};
use crate::store::audit::AuditEntry;

/// Of an event; `None`: it is a step on the way.
pub(super) fn of_event(revision: u64, digest: Digest, event: &Event) -> Option<AuditEntry> {
    let (action, detail) = match &event.what {
        What::Completed { line, .. } => ("completed", json!({ "verdict": line })),
        What::RollingBack { reason, .. } => {
            ("rolling_back", json!({ "gate": reason.gate, "reason": reason.message, "nodes": reason.nodes }))
        }
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
