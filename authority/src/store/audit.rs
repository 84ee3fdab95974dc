//! The hash-chained record of every change.
//!
//! An entry's hash covers the hash before it and every column of its own ([`sealane_model::audit`]), so that an edit, an
//! insertion or a removal in the middle breaks the chain from there on. The head is in every timestamp document: agents
//! have seen it, and ask for the way from there to the newest.

use sealane_model::audit::{Entry, next_head};
use sealane_model::ids::Digest;
use serde_json::Value;
use sqlx::FromRow;

use super::{Store, StoreError, Write, doing, signed, unsigned};

/// What is to be recorded.
#[derive(Clone, Debug)]
pub(crate) struct AuditEntry {
    pub(crate) at_ms: u64,
    /// Token id and role, agent id, or `authority`.
    pub(crate) actor: String,
    pub(crate) action: &'static str,
    /// Such as `r42`.
    pub(crate) subject: String,
    pub(crate) digest: Option<Digest>,
    pub(crate) detail: Value,
}

/// An entry as it is stored.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct AuditRow {
    pub(crate) sequence: i64,
    pub(crate) at_ms: i64,
    pub(crate) actor: String,
    pub(crate) action: String,
    pub(crate) subject: String,
    pub(crate) digest: Option<Vec<u8>>,
    pub(crate) detail: String,
    pub(crate) hash: Vec<u8>,
}

/// What checking the chain found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AuditVerdict {
    pub(crate) entries: u64,
    /// The first entry that does not follow from the one before.
    pub(crate) broken_at: Option<u64>,
    /// Hash of the newest entry; empty without entries.
    pub(crate) head: Vec<u8>,
}

/// Entries that are read at a time while the chain is checked.
const VERIFY_PAGE: i64 = 1000;

const COLUMNS: &str = "SELECT sequence, at_ms, actor, action, subject, digest, detail, hash FROM audit ";

impl Store {
    /// Appends an entry in the change that it records.
    pub(crate) async fn add_audit(&self, write: &mut Write, entry: &AuditEntry) -> Result<(), StoreError> {
        let last: Option<(i64, Vec<u8>)> =
            sqlx::query_as("SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1")
                .fetch_optional(&mut **write)
                .await
                .map_err(doing("read the audit head"))?;
        let (sequence, before) = last.map_or((1, Vec::new()), |(sequence, hash)| (sequence + 1, hash));
        let mut row = AuditRow {
            sequence,
            at_ms: signed(entry.at_ms),
            actor: entry.actor.clone(),
            action: entry.action.to_owned(),
            subject: entry.subject.clone(),
            digest: entry.digest.map(Digest::to_vec),
            detail: entry.detail.to_string(),
            hash: Vec::new(),
        };
        row.hash = chained(&before, &row);
        sqlx::query(
            "INSERT INTO audit (sequence, at_ms, actor, action, subject, digest, detail, hash)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(row.sequence)
        .bind(row.at_ms)
        .bind(row.actor)
        .bind(row.action)
        .bind(row.subject)
        .bind(row.digest)
        .bind(row.detail)
        .bind(row.hash)
        .execute(&mut **write)
        .await
        .map_err(doing("wrote the audit log"))?;
        Ok(())
    }

    /// At most `limit` entries after sequence `after`, oldest first.
    pub(crate) async fn audit_after(&self, after: u64, limit: u32) -> Result<Vec<AuditRow>, StoreError> {
        sqlx::query_as(sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE sequence > ? ORDER BY sequence LIMIT ?")))
            .bind(signed(after))
            .bind(i64::from(limit))
            .fetch_all(self.reader())
            .await
            .map_err(doing("read the audit log"))
    }

    /// Hash of the newest entry; empty without entries.
    pub(crate) async fn audit_head(&self) -> Result<Vec<u8>, StoreError> {
        let row: Option<(Vec<u8>,)> = sqlx::query_as("SELECT hash FROM audit ORDER BY sequence DESC LIMIT 1")
            .fetch_optional(self.reader())
            .await
            .map_err(doing("read the audit head"))?;
        Ok(row.map(|(hash,)| hash).unwrap_or_default())
    }

    /// When the trust root was made or last changed, in Unix milliseconds.
    pub(crate) async fn trust_root_changed_ms(&self) -> Result<Option<u64>, StoreError> {
        let (newest,): (Option<i64>,) =
            sqlx::query_as("SELECT max(at_ms) FROM audit WHERE action IN ('first_start', 'root_rotate')")
                .fetch_one(self.reader())
                .await
                .map_err(doing("read the audit log"))?;
        Ok(newest.map(unsigned))
    }

    /// The sequence of the entry after which the log had this head; 0 for the empty head; `None`: there is none.
    pub(crate) async fn audit_sequence(&self, head: &[u8]) -> Result<Option<u64>, StoreError> {
        if head.is_empty() {
            return Ok(Some(0));
        }
        let row: Option<(i64,)> = sqlx::query_as("SELECT sequence FROM audit WHERE hash = ?")
            .bind(head)
            .fetch_optional(self.reader())
            .await
            .map_err(doing("looked for an audit head"))?;
        Ok(row.map(|(sequence,)| unsigned(sequence)))
    }

    /// Checks the whole chain.
    pub(crate) async fn verify_audit(&self) -> Result<AuditVerdict, StoreError> {
        let mut verdict = AuditVerdict { entries: 0, broken_at: None, head: Vec::new() };
        let mut after: i64 = i64::MIN;
        loop {
            let page: Vec<AuditRow> =
                sqlx::query_as(sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE sequence > ? ORDER BY sequence LIMIT ?")))
                    .bind(after)
                    .bind(VERIFY_PAGE)
                    .fetch_all(self.reader())
                    .await
                    .map_err(doing("read the audit log"))?;
            for row in &page {
                verdict.entries += 1;
                let follows = unsigned(row.sequence) == verdict.entries && row.hash == chained(&verdict.head, row);
                if !follows && verdict.broken_at.is_none() {
                    verdict.broken_at = Some(unsigned(row.sequence));
                }
                verdict.head.clone_from(&row.hash);
                after = row.sequence;
            }
            if page.len() < VERIFY_PAGE as usize {
                return Ok(verdict);
            }
        }
    }
}

impl AuditRow {
    /// The entry as it is hashed: from what the columns say now, whatever stands in `hash`.
    pub(crate) fn entry(&self) -> Entry {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Entry {
            sequence: unsigned(self.sequence),
            at_unix_ms: self.at_ms,
            actor: self.actor.clone(),
            action: self.action.clone(),
            subject: self.subject.clone(),
            digest: self.digest.as_deref().map(hex).unwrap_or_default(),
            detail: self.detail.clone(),
            hash: hex(&self.hash),
        }
    }
}

/// The head after `row`.
fn chained(before: &[u8], row: &AuditRow) -> Vec<u8> {
    next_head(Digest::from_slice(before).as_ref(), &row.entry().digest()).to_vec()
}
