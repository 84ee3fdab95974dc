//! Revisions and their content.

use sealane_model::bundle::Packed;
use sealane_model::envelope::Envelope;
use sealane_model::ids::Digest;
use sealane_model::release::ClaimedRelease;
use sqlx::FromRow;

use super::audit::AuditEntry;
use super::idempotency::Receipt;
use super::{Store, StoreError, digest, doing, signed, unsigned};

/// A signed revision, ready to be stored.
#[derive(Clone, Debug)]
pub(crate) struct NewRelease {
    pub(crate) row: ReleaseRow,
    /// Manifest and chunks; `None` where they are stored already (a roll back).
    pub(crate) content: Option<Packed>,
    /// The revision this one was signed on top of; `None`: the first.
    pub(crate) newest: Option<u64>,
    /// First event of its rollout: kind and JSON.
    pub(crate) event: (&'static str, String),
    /// It waits for somebody: the event comes later, and so many people beside the author must approve.
    pub(crate) waits: Option<u32>,
    pub(crate) audit: AuditEntry,
    /// The request and the bytes of its answer.
    pub(crate) receipt: Option<(Receipt, Vec<u8>)>,
}

/// What came of storing a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// It is durable.
    Done,
    /// Another revision was stored meanwhile; nothing was changed.
    Moved,
    /// The request id was used meanwhile; nothing was changed.
    Repeated,
}

/// A revision as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ReleaseRow {
    pub(crate) revision: u64,
    pub(crate) epoch: u32,
    /// Of the release payload.
    pub(crate) digest: Digest,
    pub(crate) envelope: Envelope,
    pub(crate) manifest_digest: Digest,
    pub(crate) base_digest: Option<Digest>,
    /// `standard`, `expedited`, `sandbox` or `revert`.
    pub(crate) change_class: String,
    pub(crate) author: String,
    pub(crate) message: String,
    pub(crate) file: String,
    pub(crate) config_bytes: u64,
    pub(crate) content_of: Option<u64>,
    pub(crate) created_at_ms: u64,
}

#[derive(FromRow)]
struct Raw {
    revision: i64,
    epoch: i64,
    digest: Vec<u8>,
    envelope: Vec<u8>,
    manifest_digest: Vec<u8>,
    base_digest: Option<Vec<u8>>,
    change_class: String,
    author: String,
    message: String,
    file: String,
    config_bytes: i64,
    content_of: Option<i64>,
    created_at_ms: i64,
}

const COLUMNS: &str = "SELECT revision, epoch, digest, envelope, manifest_digest, base_digest, change_class, author, \
                       message, file, config_bytes, content_of, created_at_ms FROM release ";

impl Store {
    /// Stores a revision, its content, the first event of its rollout, its audit entry and the answer to its request in
    /// one transaction, if the newest revision is still the one it was signed on top of.
    pub(crate) async fn publish(&self, new: &NewRelease) -> Result<Stored, StoreError> {
        let mut write = self.write().await?;
        let newest: Option<(i64,)> = sqlx::query_as("SELECT revision FROM release ORDER BY revision DESC LIMIT 1")
            .fetch_optional(&mut *write)
            .await
            .map_err(doing("read the newest revision"))?;
        if newest.map(|(revision,)| unsigned(revision)) != new.newest {
            return Ok(Stored::Moved);
        }
        if let Some(content) = &new.content {
            let manifest = (content.manifest_digest, content.manifest.clone());
            for (digest, bytes) in std::iter::once(&manifest).chain(&content.chunks) {
                sqlx::query("INSERT INTO blob (digest, content) VALUES (?, ?) ON CONFLICT (digest) DO NOTHING")
                    .bind(digest.to_vec())
                    .bind(bytes)
                    .execute(&mut *write)
                    .await
                    .map_err(doing("wrote content"))?;
            }
        }
        let row = &new.row;
        sqlx::query(
            "INSERT INTO release (revision, epoch, partition, digest, envelope, manifest_digest, base_digest,
                 change_class, author, message, file, config_bytes, content_of, created_at_ms)
             VALUES (?, ?, 'config', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(signed(row.revision))
        .bind(i64::from(row.epoch))
        .bind(row.digest.to_vec())
        .bind(row.envelope.to_bytes())
        .bind(row.manifest_digest.to_vec())
        .bind(row.base_digest.map(Digest::to_vec))
        .bind(&row.change_class)
        .bind(&row.author)
        .bind(&row.message)
        .bind(&row.file)
        .bind(signed(row.config_bytes))
        .bind(row.content_of.map(signed))
        .bind(signed(row.created_at_ms))
        .execute(&mut *write)
        .await
        .map_err(doing("wrote a revision"))?;
        let (kind, body) = &new.event;
        match new.waits {
            None => self.add_event(&mut write, row.revision, 1, kind, row.created_at_ms, body).await?,
            Some(approvals_min) => {
                sqlx::query(
                    "INSERT INTO release_pending (revision, approvals_min, event_kind, event_body) VALUES (?, ?, ?, ?)",
                )
                .bind(signed(row.revision))
                .bind(i64::from(approvals_min))
                .bind(kind)
                .bind(body)
                .execute(&mut *write)
                .await
                .map_err(doing("wrote what a revision waits for"))?;
            }
        }
        self.add_audit(&mut write, &new.audit).await?;
        if let Some((receipt, answer)) = &new.receipt
            && !self.remember(&mut write, receipt, answer, row.created_at_ms).await?
        {
            return Ok(Stored::Repeated);
        }
        self.commit(write).await?;
        Ok(Stored::Done)
    }

    /// The newest revision.
    pub(crate) async fn newest_release(&self) -> Result<Option<ReleaseRow>, StoreError> {
        Ok(self.releases_before(None, 1).await?.pop())
    }

    /// A revision by number.
    pub(crate) async fn release(&self, revision: u64) -> Result<Option<ReleaseRow>, StoreError> {
        let raw: Option<Raw> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE revision = ?")))
            .bind(signed(revision))
            .fetch_optional(self.reader())
            .await
            .map_err(doing("read a revision"))?;
        Ok(self.signed_rows(raw.into_iter().collect()).await?.pop())
    }

    /// At most `limit` revisions below `before` (`None`: from the newest), newest first.
    pub(crate) async fn releases_before(&self, before: Option<u64>, limit: u32) -> Result<Vec<ReleaseRow>, StoreError> {
        let raws: Vec<Raw> =
            sqlx::query_as(sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE revision < ? ORDER BY revision DESC LIMIT ?")))
                .bind(before.map_or(i64::MAX, signed))
                .bind(i64::from(limit))
                .fetch_all(self.reader())
                .await
                .map_err(doing("listed revisions"))?;
        self.signed_rows(raws).await
    }

    /// With the signatures that came later.
    async fn signed_rows(&self, raws: Vec<Raw>) -> Result<Vec<ReleaseRow>, StoreError> {
        let mut rows = raws.into_iter().map(row).collect::<Result<Vec<_>, _>>()?;
        let numbers = || rows.iter().map(|row| row.revision);
        let (Some(from), Some(to)) = (numbers().min(), numbers().max()) else { return Ok(rows) };
        for (revision, signature) in self.later_signatures(from, to).await? {
            if let Some(row) = rows.iter_mut().find(|row| row.revision == revision) {
                row.envelope.signatures.retain(|held| held.key_id != signature.key_id);
                row.envelope.signatures.push(signature);
            }
        }
        Ok(rows)
    }

    /// A manifest or chunk.
    pub(crate) async fn blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let row: Option<(Vec<u8>,)> = sqlx::query_as("SELECT content FROM blob WHERE digest = ?")
            .bind(digest.to_vec())
            .fetch_optional(self.reader())
            .await
            .map_err(doing("read content"))?;
        Ok(row.map(|(content,)| content))
    }
}

fn row(raw: Raw) -> Result<ReleaseRow, StoreError> {
    let row = ReleaseRow {
        revision: unsigned(raw.revision),
        epoch: u32::try_from(raw.epoch).unwrap_or(0),
        digest: digest(&raw.digest, "the digest of a revision")?,
        envelope: Envelope::from_bytes(&raw.envelope)
            .map_err(|error| StoreError::Damaged { what: format!("revision {}: {error}", raw.revision) })?,
        manifest_digest: digest(&raw.manifest_digest, "the manifest digest of a revision")?,
        base_digest: raw.base_digest.map(|bytes| digest(&bytes, "the base digest of a revision")).transpose()?,
        change_class: raw.change_class,
        author: raw.author,
        message: raw.message,
        file: raw.file,
        config_bytes: unsigned(raw.config_bytes),
        content_of: raw.content_of.map(unsigned),
        created_at_ms: unsigned(raw.created_at_ms),
    };
    match says_what_was_signed(&row) {
        true => Ok(row),
        false => Err(StoreError::Damaged {
            what: format!("revision {}: its row says something else than what was signed", row.revision),
        }),
    }
}

/// The columns are for finding and showing; the envelope is what counts.
fn says_what_was_signed(row: &ReleaseRow) -> bool {
    let Ok(claimed) = ClaimedRelease::read(&row.envelope) else { return false };
    let release = claimed.release();
    claimed.digest() == row.digest
        && release.manifest_digest == row.manifest_digest
        && (release.epoch.0, release.revision.0) == (row.epoch, row.revision)
        && (&release.author, &release.message) == (&row.author, &row.message)
}
