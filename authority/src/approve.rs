//! Revisions that wait for people: signatures of keys outside the authority, and approvals of others than the author.
//! When nothing is missing the rollout begins.
//!
//! Invariants: a rollout begins only when the newest trust root's release threshold is met and enough people other than
//! the author said yes; never when a newer revision's rollout has begun.

use prost::Message;
use sealane_model::envelope::{Envelope, Signature};
use sealane_model::ids::Revision;
use sealane_model::keys::KeyId;
use sealane_model::trust::Role;
use sealane_proto::v1;
use serde_json::json;
use thiserror::Error;

use crate::app::App;
use crate::publish::PublishError;
use crate::revision::{self, ReadError, find};
use crate::rollout::event::Event;
use crate::rollout::subject::Subject;
use crate::store::StoreError;
use crate::store::approval::NewApproval;
use crate::store::audit::AuditEntry;
use crate::store::idempotency::Receipt;
use crate::store::release::ReleaseRow;
use crate::trust;

/// Longest message, in characters.
const MESSAGE_MAX: usize = 2_000;

/// What a person brings.
#[derive(Clone, Debug)]
pub(crate) struct ApproveOrder {
    pub(crate) revision: u64,
    /// The release with more signatures; `None`: a word alone.
    pub(crate) release: Option<Envelope>,
    pub(crate) message: String,
    pub(crate) actor: String,
    pub(crate) receipt: Option<Receipt>,
    pub(crate) dry_run: bool,
}

/// Why it was not taken.
#[derive(Debug, Error)]
pub(crate) enum ApproveError {
    #[error("{0} waits for nobody")]
    NotPending(Revision),
    #[error(
        "the rollout of {newer}, which is newer than {revision}, has begun: publish the content of {revision} again"
    )]
    Overtaken { revision: Revision, newer: Revision },
    #[error("what was signed is another release than {0}: export it again")]
    OtherPayload(Revision),
    #[error("no release key of the newest trust root made the signature that came: see `sealane key show`")]
    UnknownSignature,
    #[error("{actor} published {revision}: somebody else must approve it")]
    OwnWork { actor: String, revision: Revision },
    #[error("`message` has more than {MESSAGE_MAX} characters")]
    LongMessage,
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is missing, one sentence each; nothing: the rollout may begin.
pub(crate) fn waits_for(app: &App, envelope: &Envelope, approvals: usize, approvals_min: u32) -> Vec<String> {
    let mut missing = Vec::new();
    let (signed, due) = app.signer.root().signers(envelope, Role::Release);
    if signed.len() < due as usize {
        let more = due as usize - signed.len();
        missing.push(format!("{more} more signature{} by release keys", if more == 1 { "" } else { "s" }));
    }
    if approvals < approvals_min as usize {
        let more = approvals_min as usize - approvals;
        missing.push(format!("{more} more approval{} by others than its author", if more == 1 { "" } else { "s" }));
    }
    missing
}

/// Takes in signatures and a word, and begins the rollout when nothing is missing.
pub(crate) async fn approve(app: &App, order: ApproveOrder) -> Result<v1::ApproveResponse, ApproveError> {
    if order.message.chars().count() > MESSAGE_MAX {
        return Err(ApproveError::LongMessage);
    }
    if let Some(answer) = crate::publish::first_answer(app, order.receipt.as_ref()).await? {
        return Ok(answer);
    }
    let row = find(app, order.revision).await?;
    let name = Revision(row.revision);
    let taken = if app.store.has_begun(row.revision).await? && order.release.is_some() {
        co_sign(app, row, &order).await
    } else {
        match judge(app, &row, &order).await {
            Ok(judged) => return store(app, row, judged, order).await,
            Err(error) => Err(error),
        }
    };
    match taken {
        Ok(answer) => Ok(answer),
        Err(error) => {
            if matches!(error, ApproveError::UnknownSignature | ApproveError::OwnWork { .. }) && !order.dry_run {
                refuse(app, &order.actor, name, &error).await?;
            }
            Err(error)
        }
    }
}

struct Judged {
    queued: Event,
    approval: NewApproval,
    envelope: Envelope,
    waits_for: Vec<String>,
}

async fn judge(app: &App, row: &ReleaseRow, order: &ApproveOrder) -> Result<Judged, ApproveError> {
    let (store, name) = (&app.store, Revision(row.revision));
    let pending = store.pending(row.revision).await?.ok_or(ApproveError::NotPending(name))?;
    if store.has_begun(row.revision).await? {
        return Err(ApproveError::NotPending(name));
    }
    if let Some(newer) = store.newest_begun().await?.filter(|newest| *newest > row.revision) {
        return Err(ApproveError::Overtaken { revision: name, newer: Revision(newer) });
    }
    let (envelope, signatures) = merged(app, row, order)?;
    let own = row.author == order.actor;
    if own && pending.approvals_min > 0 && signatures.is_empty() {
        return Err(ApproveError::OwnWork { actor: order.actor.clone(), revision: name });
    }
    let mut approvals = store.approvals(row.revision).await?;
    if !own && !approvals.contains(&order.actor) {
        approvals.push(order.actor.clone());
    }
    let waits_for = waits_for(app, &envelope, approvals.len(), pending.approvals_min);
    let at_ms = app.clock.now_ms();
    let entry = |action, detail| AuditEntry {
        at_ms,
        actor: order.actor.clone(),
        action,
        subject: name.to_string(),
        digest: Some(row.digest),
        detail,
    };
    let keys: Vec<&str> = signatures.iter().map(|one| one.key_id.0.as_str()).collect();
    let mut audit = vec![entry(
        "approve",
        json!({ "message": order.message, "signed_by": keys, "counts": !own, "waits_for": waits_for }),
    )];
    if waits_for.is_empty() {
        audit.push(entry("release", json!({ "approved_by": approvals, "author": row.author })));
    }
    let queued = Event::from_json(&pending.event.1)
        .map_err(|error| StoreError::Damaged { what: format!("what {name} waits for: {error}") })?;
    let queued = Event { at_ms, ..queued };
    let approval = NewApproval {
        revision: row.revision,
        actor: order.actor.clone(),
        message: order.message.clone(),
        signatures,
        counts: !own,
        event: waits_for.is_empty().then(|| (queued.what.kind().to_owned(), queued.to_json())),
        audit,
        receipt: None,
        at_ms,
    };
    Ok(Judged { queued, approval, envelope, waits_for })
}

/// The stored release with what was brought, and which signatures of that are new and good.
fn merged(app: &App, row: &ReleaseRow, order: &ApproveOrder) -> Result<(Envelope, Vec<Signature>), ApproveError> {
    let root = app.signer.root();
    let mut envelope = row.envelope.clone();
    let before = root.signers(&envelope, Role::Release).0;
    let Some(offered) = &order.release else { return Ok((envelope, Vec::new())) };
    envelope.merge_signatures(offered).ok_or(ApproveError::OtherPayload(Revision(row.revision)))?;
    let after = root.signers(&envelope, Role::Release).0;
    let fresh: Vec<_> = after.iter().filter(|id| !before.contains(id)).collect();
    // The ones that are there already may come again.
    let is_new = |one: &&Signature| !row.envelope.signatures.contains(one);
    if fresh.is_empty() && offered.signatures.iter().any(|one| is_new(&one)) {
        return Err(ApproveError::UnknownSignature);
    }
    // What is kept is named by the key that made it, whatever stood beside it.
    let made_by = |id: &KeyId| {
        let mut alone = envelope.clone();
        let found = envelope.signatures.iter().find(|one| {
            alone.signatures = vec![(*one).clone()];
            root.signers(&alone, Role::Release).0 == [id.clone()]
        });
        found.map(|one| Signature { key_id: id.clone(), bytes: one.bytes.clone() })
    };
    let signatures = fresh.into_iter().filter_map(made_by).collect();
    Ok((envelope, signatures))
}

/// Adds signatures to a revision whose rollout has begun and that nodes are offered: the next trust root may ask for them.
async fn co_sign(app: &App, row: ReleaseRow, order: &ApproveOrder) -> Result<v1::ApproveResponse, ApproveError> {
    if !trust::is_offered(app, row.revision).await? {
        return Err(ApproveError::NotPending(Revision(row.revision)));
    }
    let (envelope, signatures) = merged(app, &row, order)?;
    if signatures.is_empty() {
        return Err(ApproveError::NotPending(Revision(row.revision)));
    }
    let signed = ReleaseRow { envelope, ..row };
    let answer = v1::ApproveResponse { revision: Some(revision::view(app, &signed, false).await?) };
    if order.dry_run {
        return Ok(answer);
    }
    let at_ms = app.clock.now_ms();
    let keys: Vec<&str> = signatures.iter().map(|one| one.key_id.0.as_str()).collect();
    let entry = AuditEntry {
        at_ms,
        actor: order.actor.clone(),
        action: "co_sign",
        subject: Revision(signed.revision).to_string(),
        digest: Some(signed.digest),
        detail: json!({ "message": order.message, "signed_by": keys }),
    };
    let approval = NewApproval {
        revision: signed.revision,
        actor: order.actor.clone(),
        message: order.message.clone(),
        signatures,
        counts: false,
        event: None,
        audit: vec![entry],
        receipt: order.receipt.clone().map(|receipt| (receipt, answer.encode_to_vec())),
        at_ms,
    };
    if !app.store.approve(&approval).await? {
        return Err(PublishError::Crowded.into());
    }
    app.rollouts.refresh().await; // nodes that wait for it can take it in
    Ok(answer)
}

async fn store(
    app: &App,
    row: ReleaseRow,
    judged: Judged,
    order: ApproveOrder,
) -> Result<v1::ApproveResponse, ApproveError> {
    let Judged { queued, mut approval, envelope, waits_for } = judged;
    let (revision, number) = (Revision(row.revision), row.revision);
    let signed = ReleaseRow { envelope, ..row };
    let mut view = revision::view(app, &signed, false).await?;
    view.waits_for.clone_from(&waits_for);
    if approval.counts && !view.approved_by.contains(&order.actor) {
        view.approved_by.push(order.actor.clone());
    }
    if waits_for.is_empty() {
        "queued".clone_into(&mut view.state);
    }
    let answer = v1::ApproveResponse { revision: Some(view) };
    if order.dry_run {
        return Ok(answer);
    }
    approval.receipt = order.receipt.map(|receipt| (receipt, answer.encode_to_vec()));
    let begins = approval.event.is_some();
    if !app.store.approve(&approval).await? {
        return match app.store.newest_begun().await? {
            Some(newer) if newer > number => Err(ApproveError::Overtaken { revision, newer: Revision(newer) }),
            _ => Err(PublishError::Crowded.into()),
        };
    }
    if begins {
        let release = app
            .signer
            .verify_release(&signed.envelope)
            .map_err(|source| ReadError::Content { revision: number, source })?;
        app.counters.published();
        app.rollouts.offer(Subject::of(&release), queued).await;
    }
    Ok(answer)
}

/// A refusal is recorded like a deed.
async fn refuse(app: &App, actor: &str, revision: Revision, error: &ApproveError) -> Result<(), StoreError> {
    let entry = AuditEntry {
        at_ms: app.clock.now_ms(),
        actor: actor.to_owned(),
        action: "approve_refused",
        subject: revision.to_string(),
        digest: None,
        detail: json!({ "why": error.to_string() }),
    };
    app.audit(&entry).await
}
