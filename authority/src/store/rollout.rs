//! Events and grants of rollouts.

use sealane_model::envelope::Envelope;

use super::audit::AuditEntry;
use super::idempotency::Receipt;
use super::{Store, StoreError, Write, doing, signed, unsigned};

/// Newest revisions whose evidence is kept.
const EVIDENCE_REVISIONS: u64 = 1_000;

/// What one step of the rollout machine leaves to remember; all of it in one transaction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Steps {
    pub(crate) events: Vec<EventRow>,
    /// Sequence, revision, signed grant.
    pub(crate) grants: Vec<(u64, u64, Envelope)>,
    pub(crate) audit: Vec<AuditEntry>,
    /// Revision, number, JSON.
    pub(crate) evidence: Vec<(u64, u64, String)>,
    /// The command and the bytes of its answer.
    pub(crate) receipt: Option<(Receipt, Vec<u8>)>,
}

/// An event as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EventRow {
    pub(crate) revision: u64,
    pub(crate) seq: u64,
    pub(crate) kind: &'static str,
    pub(crate) at_ms: u64,
    pub(crate) body: String,
}

impl Store {
    /// Appends what a step decided. Errs on a sequence that is taken: then another process wrote.
    pub(crate) async fn append(&self, steps: &Steps, now_ms: u64) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        for event in &steps.events {
            self.add_event(&mut write, event.revision, event.seq, event.kind, event.at_ms, &event.body).await?;
        }
        for (sequence, revision, envelope) in &steps.grants {
            sqlx::query("INSERT INTO stage_grant (sequence, revision, envelope, at_ms) VALUES (?, ?, ?, ?)")
                .bind(signed(*sequence))
                .bind(signed(*revision))
                .bind(envelope.to_bytes())
                .bind(signed(now_ms))
                .execute(&mut *write)
                .await
                .map_err(doing("wrote a grant"))?;
        }
        for (revision, seq, body) in &steps.evidence {
            sqlx::query("INSERT INTO rollout_evidence (revision, seq, at_ms, body) VALUES (?, ?, ?, ?)")
                .bind(signed(*revision))
                .bind(signed(*seq))
                .bind(signed(now_ms))
                .bind(body)
                .execute(&mut *write)
                .await
                .map_err(doing("wrote evidence"))?;
            if *seq == 1 {
                sqlx::query("DELETE FROM rollout_evidence WHERE revision < ?")
                    .bind(signed(revision.saturating_sub(EVIDENCE_REVISIONS)))
                    .execute(&mut *write)
                    .await
                    .map_err(doing("forgot old evidence"))?;
            }
        }
        for entry in &steps.audit {
            self.add_audit(&mut write, entry).await?;
        }
        if let Some((receipt, answer)) = &steps.receipt {
            self.remember(&mut write, receipt, answer, now_ms).await?;
        }
        self.commit(write).await
    }

    pub(super) async fn add_event(
        &self,
        write: &mut Write,
        revision: u64,
        seq: u64,
        kind: &str,
        at_ms: u64,
        body: &str,
    ) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO rollout_event (revision, seq, kind, at_ms, body) VALUES (?, ?, ?, ?, ?)")
            .bind(signed(revision))
            .bind(signed(seq))
            .bind(kind)
            .bind(signed(at_ms))
            .bind(body)
            .execute(&mut **write)
            .await
            .map_err(doing("wrote a rollout event"))?;
        Ok(())
    }

    /// The events of a rollout, as JSON, in order.
    pub(crate) async fn events(&self, revision: u64) -> Result<Vec<String>, StoreError> {
        let rows: Vec<(String,)> = sqlx::query_as("SELECT body FROM rollout_event WHERE revision = ? ORDER BY seq")
            .bind(signed(revision))
            .fetch_all(self.reader())
            .await
            .map_err(doing("read a rollout"))?;
        Ok(rows.into_iter().map(|(body,)| body).collect())
    }

    /// The evidence of a rollout, as JSON, in order.
    pub(crate) async fn evidence(&self, revision: u64) -> Result<Vec<String>, StoreError> {
        let rows: Vec<(String,)> = sqlx::query_as("SELECT body FROM rollout_evidence WHERE revision = ? ORDER BY seq")
            .bind(signed(revision))
            .fetch_all(self.reader())
            .await
            .map_err(doing("read evidence"))?;
        Ok(rows.into_iter().map(|(body,)| body).collect())
    }

    /// Revisions whose rollout has not ended, oldest first. `ends` are the kinds of events that end one.
    pub(crate) async fn open_rollouts(&self) -> Result<Vec<u64>, StoreError> {
        let rows: Vec<(i64,)> = sqlx::query_as(
            "SELECT revision FROM release WHERE EXISTS (
                 SELECT 1 FROM rollout_event WHERE rollout_event.revision = release.revision
             ) AND NOT EXISTS (
                 SELECT 1 FROM rollout_event
                 WHERE rollout_event.revision = release.revision AND kind IN ('completed', 'rejected', 'ended')
             ) ORDER BY revision",
        )
        .fetch_all(self.reader())
        .await
        .map_err(doing("listed open rollouts"))?;
        Ok(rows.into_iter().map(|(revision,)| unsigned(revision)).collect())
    }

    /// The revision that completed last, below `before`.
    pub(crate) async fn completed_before(&self, before: u64) -> Result<Option<u64>, StoreError> {
        let row: Option<(i64,)> = sqlx::query_as(
            "SELECT revision FROM rollout_event WHERE kind = 'completed' AND revision < ? ORDER BY id DESC LIMIT 1",
        )
        .bind(signed(before))
        .fetch_optional(self.reader())
        .await
        .map_err(doing("looked for the last good revision"))?;
        Ok(row.map(|(revision,)| unsigned(revision)))
    }

    /// The newest revision whose rollout has ended.
    pub(crate) async fn newest_ended(&self) -> Result<Option<u64>, StoreError> {
        let row: Option<(i64,)> = sqlx::query_as(
            "SELECT revision FROM rollout_event WHERE kind IN ('completed', 'rejected', 'ended') ORDER BY id DESC LIMIT 1",
        )
        .fetch_optional(self.reader())
        .await
        .map_err(doing("looked for the newest rollout that ended"))?;
        Ok(row.map(|(revision,)| unsigned(revision)))
    }

    /// The newest `limit` revisions that were taken back, newest first.
    pub(crate) async fn withdrawn(&self, limit: u32) -> Result<Vec<u64>, StoreError> {
        let rows: Vec<(i64,)> = sqlx::query_as(
            "SELECT revision FROM rollout_event WHERE kind IN ('rejected', 'rolling_back')
             GROUP BY revision ORDER BY max(id) DESC LIMIT ?",
        )
        .bind(i64::from(limit))
        .fetch_all(self.reader())
        .await
        .map_err(doing("listed revisions that were taken back"))?;
        Ok(rows.into_iter().map(|(revision,)| unsigned(revision)).collect())
    }

    /// Grants of a rollout, oldest first.
    pub(crate) async fn grants(&self, revision: u64) -> Result<Vec<Envelope>, StoreError> {
        let rows: Vec<(Vec<u8>,)> =
            sqlx::query_as("SELECT envelope FROM stage_grant WHERE revision = ? ORDER BY sequence")
                .bind(signed(revision))
                .fetch_all(self.reader())
                .await
                .map_err(doing("read grants"))?;
        rows.iter()
            .map(|(bytes,)| {
                Envelope::from_bytes(bytes)
                    .map_err(|error| StoreError::Damaged { what: format!("a grant of revision {revision}: {error}") })
            })
            .collect()
    }

    /// Newest grant of a rollout that went back; `None`: there is none.
    pub(crate) async fn withdrawn_sequence(&self) -> Result<Option<u64>, StoreError> {
        let (sequence,): (Option<i64>,) = sqlx::query_as(
            "SELECT max(sequence) FROM stage_grant
             WHERE revision IN (SELECT revision FROM rollout_event WHERE kind = 'rolling_back')",
        )
        .fetch_one(self.reader())
        .await
        .map_err(doing("looked for void grants"))?;
        Ok(sequence.map(unsigned))
    }

    /// Counters of the rollout machine: events stored, newest grant sequence, time of the newest event.
    pub(crate) async fn rollout_counters(&self) -> Result<(u64, u64, u64), StoreError> {
        let (events, sequence, at_ms): (i64, i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM rollout_event), (SELECT coalesce(max(sequence), 0) FROM stage_grant),
                    (SELECT coalesce(max(at_ms), 0) FROM rollout_event)",
        )
        .fetch_one(self.reader())
        .await
        .map_err(doing("read the rollout counters"))?;
        Ok((unsigned(events), unsigned(sequence), unsigned(at_ms)))
    }

    /// How many revisions there are.
    pub(crate) async fn revisions(&self) -> Result<u64, StoreError> {
        let (count,): (i64,) = sqlx::query_as("SELECT count(*) FROM release")
            .fetch_one(self.reader())
            .await
            .map_err(doing("counted revisions"))?;
        Ok(unsigned(count))
    }
}
