//! What the store remembers of rollouts, as the machine and the views want it.

use std::sync::Arc;

use sealane_model::envelope::Envelope;
use sealane_model::gate::Entry;
use sealane_model::plan::Plan;
use sealane_proto::v1;

use super::event::{Event, Stable};
use super::machine::{Remembered, Rollout, WITHDRAWN_MAX};
use super::record::Record;
use super::subject::Subject;
use crate::signer::Signer;
use crate::store::{Store, StoreError};

/// All that a machine needs to go on.
pub(super) async fn remember(store: &Store, signer: &Signer) -> Result<Remembered, StoreError> {
    let (version, sequence, _) = store.rollout_counters().await?;
    let sequence_min = store.withdrawn_sequence().await?.map_or(0, |sequence| sequence + 1);
    let mut remembered = Remembered { sequence, sequence_min, version, ..Remembered::default() };
    if let Some(revision) = store.completed_before(u64::MAX).await? {
        let digest = load(store, signer, revision).await?.1.digest;
        remembered.stable = Some(Stable { revision, digest });
    }
    for revision in store.withdrawn(u32::try_from(WITHDRAWN_MAX).unwrap_or(u32::MAX)).await? {
        let row = store.release(revision).await?.ok_or_else(|| missing(revision))?;
        remembered.withdrawn.push(row.digest);
    }
    for revision in store.open_rollouts().await? {
        let subject = load(store, signer, revision).await?.1;
        remembered.open.push((subject, events(store, revision).await?, evidence(store, revision).await?));
    }
    Ok(remembered)
}

/// A release and its facts.
pub(super) async fn load(
    store: &Store,
    signer: &Signer,
    revision: u64,
) -> Result<(Envelope, Arc<Subject>), StoreError> {
    let row = store.release(revision).await?.ok_or_else(|| missing(revision))?;
    let release = signer
        .verify_release(&row.envelope)
        .map_err(|error| StoreError::Damaged { what: format!("revision {revision}: {error}") })?;
    Ok((row.envelope, Subject::of(&release)))
}

pub(super) async fn events(store: &Store, revision: u64) -> Result<Vec<Event>, StoreError> {
    let damaged = |error| StoreError::Damaged { what: format!("an event of revision {revision}: {error}") };
    store.events(revision).await?.iter().map(|body| Event::from_json(body).map_err(damaged)).collect()
}

/// The view of a rollout that is not at hand any more.
pub(crate) async fn stored_view(
    store: &Store,
    signer: &Signer,
    revision: u64,
) -> Result<Option<v1::Rollout>, StoreError> {
    if store.release(revision).await?.is_none() {
        return Ok(None);
    }
    let events = events(store, revision).await?;
    if events.is_empty() {
        let doing = "waits for signatures or approvals".to_owned();
        return Ok(Some(v1::Rollout { revision, state: v1::RolloutState::Queued.into(), doing, ..Default::default() }));
    }
    let subject = load(store, signer, revision).await?.1;
    let record = Record::fold(&events);
    Ok(Some(Rollout::new(subject, record, 0).view()))
}

/// What a rollout was decided on: its plan, with the bakes of its class, its events and its evidence.
pub(crate) async fn stored_evidence(
    store: &Store,
    signer: &Signer,
    revision: u64,
) -> Result<(Plan, Vec<Event>, Vec<Entry>), StoreError> {
    let subject = load(store, signer, revision).await?.1;
    Ok((subject.plan.clone(), events(store, revision).await?, evidence(store, revision).await?))
}

/// The evidence of a rollout, in order.
async fn evidence(store: &Store, revision: u64) -> Result<Vec<Entry>, StoreError> {
    let damaged = |error| StoreError::Damaged { what: format!("evidence of revision {revision}: {error}") };
    let bodies = store.evidence(revision).await?;
    bodies.iter().map(|body| serde_json::from_str(body).map_err(damaged)).collect()
}

fn missing(revision: u64) -> StoreError {
    StoreError::Damaged { what: format!("revision {revision} is missing") }
}
