//! Revisions that wait for signatures or approvals, and what people brought.

use sealane_model::envelope::Signature;
use sealane_model::keys::KeyId;

use super::audit::AuditEntry;
use super::idempotency::Receipt;
use super::{Store, StoreError, Write, doing, signed, unsigned};

/// What a stored revision waits for, as it was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    /// People beside the author.
    pub(crate) approvals_min: u32,
    /// First event of its rollout, once nothing is missing: kind and JSON.
    pub(crate) event: (String, String),
}

/// What a person brought.
#[derive(Clone, Debug)]
pub(crate) struct NewApproval {
    pub(crate) revision: u64,
    pub(crate) actor: String,
    pub(crate) message: String,
    /// Valid ones by keys that had not signed.
    pub(crate) signatures: Vec<Signature>,
    /// The approval counts beside the signatures: it is not the author's own.
    pub(crate) counts: bool,
    /// The event that starts the rollout, when nothing is missing any more.
    pub(crate) event: Option<(String, String)>,
    pub(crate) audit: Vec<AuditEntry>,
    pub(crate) receipt: Option<(Receipt, Vec<u8>)>,
    pub(crate) at_ms: u64,
}

impl Store {
    /// What a revision waits for; `None`: it never waited. Whether its rollout has begun is [`Store::has_begun`].
    pub(crate) async fn pending(&self, revision: u64) -> Result<Option<Pending>, StoreError> {
        let row: Option<(i64, String, String)> =
            sqlx::query_as("SELECT approvals_min, event_kind, event_body FROM release_pending WHERE revision = ?")
                .bind(signed(revision))
                .fetch_optional(self.reader())
                .await
                .map_err(doing("read what a revision waits for"))?;
        Ok(row.map(|(min, kind, body)| Pending {
            approvals_min: u32::try_from(min).unwrap_or(u32::MAX),
            event: (kind, body),
        }))
    }

    /// Whether the rollout of a revision has begun, in whatever way it went on.
    pub(crate) async fn has_begun(&self, revision: u64) -> Result<bool, StoreError> {
        let row: Option<(i64,)> = sqlx::query_as("SELECT 1 FROM rollout_event WHERE revision = ? LIMIT 1")
            .bind(signed(revision))
            .fetch_optional(self.reader())
            .await
            .map_err(doing("looked for a rollout"))?;
        Ok(row.is_some())
    }

    /// The newest revision whose rollout has begun.
    pub(crate) async fn newest_begun(&self) -> Result<Option<u64>, StoreError> {
        let (revision,): (Option<i64>,) = sqlx::query_as("SELECT max(revision) FROM rollout_event")
            .fetch_one(self.reader())
            .await
            .map_err(doing("looked for the newest rollout"))?;
        Ok(revision.map(unsigned))
    }

    /// Revisions above `above` that wait for somebody, oldest first.
    pub(crate) async fn waiting(&self, above: u64) -> Result<Vec<u64>, StoreError> {
        let rows: Vec<(i64,)> = sqlx::query_as(
            "SELECT revision FROM release_pending WHERE revision > ?
                 AND NOT EXISTS (SELECT 1 FROM rollout_event WHERE rollout_event.revision = release_pending.revision)
             ORDER BY revision LIMIT 1000",
        )
        .bind(signed(above))
        .fetch_all(self.reader())
        .await
        .map_err(doing("listed revisions that wait"))?;
        Ok(rows.into_iter().map(|(revision,)| unsigned(revision)).collect())
    }

    /// Who approved a revision, oldest first.
    pub(crate) async fn approvals(&self, revision: u64) -> Result<Vec<String>, StoreError> {
        let rows: Vec<(String,)> =
            sqlx::query_as("SELECT actor FROM release_approval WHERE revision = ? ORDER BY at_ms, actor")
                .bind(signed(revision))
                .fetch_all(self.reader())
                .await
                .map_err(doing("read approvals"))?;
        Ok(rows.into_iter().map(|(actor,)| actor).collect())
    }

    /// Signatures that came after revisions `from` to `to` were stored.
    pub(super) async fn later_signatures(&self, from: u64, to: u64) -> Result<Vec<(u64, Signature)>, StoreError> {
        let rows: Vec<(i64, String, Vec<u8>)> = sqlx::query_as(
            "SELECT revision, key_id, signature FROM release_signature WHERE revision BETWEEN ? AND ?
             ORDER BY revision, at_ms, key_id",
        )
        .bind(signed(from))
        .bind(signed(to))
        .fetch_all(self.reader())
        .await
        .map_err(doing("read signatures"))?;
        let signature = |(revision, key_id, bytes)| (unsigned(revision), Signature { key_id: KeyId(key_id), bytes });
        Ok(rows.into_iter().map(signature).collect())
    }

    /// Adds a signature to a stored revision. One of a key that has signed already changes nothing.
    pub(crate) async fn add_signature(
        &self,
        write: &mut Write,
        revision: u64,
        signature: &Signature,
        actor: &str,
        at_ms: u64,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO release_signature (revision, key_id, signature, actor, at_ms) VALUES (?, ?, ?, ?, ?)
             ON CONFLICT (revision, key_id) DO NOTHING",
        )
        .bind(signed(revision))
        .bind(&signature.key_id.0)
        .bind(&signature.bytes)
        .bind(actor)
        .bind(signed(at_ms))
        .execute(&mut **write)
        .await
        .map_err(doing("wrote a signature"))?;
        Ok(())
    }

    /// Stores what a person brought, and starts the rollout where nothing is missing, in one transaction. False: someone
    /// was faster, with this request id or with the start; nothing was changed.
    pub(crate) async fn approve(&self, new: &NewApproval) -> Result<bool, StoreError> {
        let mut write = self.write().await?;
        for signature in &new.signatures {
            self.add_signature(&mut write, new.revision, signature, &new.actor, new.at_ms).await?;
        }
        if new.counts {
            sqlx::query(
                "INSERT INTO release_approval (revision, actor, message, at_ms) VALUES (?, ?, ?, ?)
                 ON CONFLICT (revision, actor) DO NOTHING",
            )
            .bind(signed(new.revision))
            .bind(&new.actor)
            .bind(&new.message)
            .bind(signed(new.at_ms))
            .execute(&mut *write)
            .await
            .map_err(doing("wrote an approval"))?;
        }
        if let Some((kind, body)) = &new.event {
            let newest: (Option<i64>,) = sqlx::query_as("SELECT max(revision) FROM rollout_event")
                .fetch_one(&mut *write)
                .await
                .map_err(doing("looked for the newest rollout"))?;
            if newest.0.map(unsigned) >= Some(new.revision) {
                return Ok(false);
            }
            self.add_event(&mut write, new.revision, 1, kind, new.at_ms, body).await?;
        }
        for entry in &new.audit {
            self.add_audit(&mut write, entry).await?;
        }
        if let Some((receipt, answer)) = &new.receipt
            && !self.remember(&mut write, receipt, answer, new.at_ms).await?
        {
            return Ok(false);
        }
        self.commit(write).await?;
        Ok(true)
    }
}
