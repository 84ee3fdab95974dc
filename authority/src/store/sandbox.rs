//! Sandbox routes.

use std::path::Path;

use sealane_model::bundle::Packed;
use sealane_model::envelope::Envelope;
use sealane_model::ids::Digest;
use sealane_model::sandbox::SandboxRoute;
use sqlx::FromRow;
use sqlx::migrate::Migrator;

use super::{Store, StoreError, Write, digest, doing, is_unique_violation, signed, unsigned};

/// Revisions of the sandbox partition that are kept: agents that are behind ask for the newest, and nobody goes back.
const KEPT: i64 = 16;

/// A signed revision of the sandbox partition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SandboxReleaseRow {
    pub(crate) revision: u64,
    pub(crate) epoch: u32,
    /// Of the release payload.
    pub(crate) digest: Digest,
    pub(crate) envelope: Envelope,
}

/// The schema of a database that holds sandbox routes and nothing else.
static ALONE: Migrator = sqlx::migrate!("./migrations-sandbox");

#[derive(Debug, FromRow)]
struct Row {
    id: i64,
    sandbox_id: String,
    pattern: String,
    target_url: String,
    priority: i64,
    expires_at_ms: Option<i64>,
}

impl TryFrom<Row> for SandboxRoute {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let damaged = |_| StoreError::Damaged { what: format!("the priority of sandbox route {}", row.id) };
        Ok(Self {
            id: unsigned(row.id),
            priority: i32::try_from(row.priority).map_err(damaged)?,
            sandbox_id: row.sandbox_id,
            pattern: row.pattern,
            target_url: row.target_url,
            expires_at_ms: row.expires_at_ms.map(unsigned),
        })
    }
}

impl Store {
    /// Opens or makes a database for sandbox routes alone. One of seed 000 is taken over: its routes are copied once.
    pub(crate) async fn open_for_sandboxes(path: &Path) -> Result<Self, StoreError> {
        let store = Self::open_with(path, &ALONE).await?;
        let mut write = store.write().await?;
        let copied = "read the routes of seed 000";
        let (theirs, ours): (i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'routes'),
                    (SELECT count(*) FROM sqlite_sequence WHERE name = 'sandbox_route')",
        )
        .fetch_one(&mut *write)
        .await
        .map_err(doing(copied))?;
        if theirs == 1 && ours == 0 {
            sqlx::query(
                "INSERT INTO sandbox_route (id, sandbox_id, pattern, target_url, priority, created_at_ms)
                 SELECT id, sandbox_id, pattern, target_url, priority, 0 FROM routes ORDER BY id",
            )
            .execute(&mut *write)
            .await
            .map_err(doing(copied))?;
        }
        store.commit(write).await?;
        Ok(store)
    }

    /// All of them, by id.
    pub(crate) async fn sandbox_routes(&self) -> Result<Vec<SandboxRoute>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT id, sandbox_id, pattern, target_url, priority, expires_at_ms FROM sandbox_route ORDER BY id",
        )
        .fetch_all(self.reader())
        .await
        .map_err(doing("read the sandbox routes"))?;
        rows.into_iter().map(SandboxRoute::try_from).collect()
    }

    /// Adds one, whose id is ignored, and gives its id; `None`: the sandbox has this pattern already.
    pub(crate) async fn add_sandbox_route(
        &self,
        write: &mut Write,
        route: &SandboxRoute,
        now_ms: u64,
    ) -> Result<Option<u64>, StoreError> {
        let added = sqlx::query_scalar::<_, i64>(
            "INSERT INTO sandbox_route (sandbox_id, pattern, target_url, priority, created_at_ms, expires_at_ms)
             VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
        )
        .bind(&route.sandbox_id)
        .bind(&route.pattern)
        .bind(&route.target_url)
        .bind(i64::from(route.priority))
        .bind(signed(now_ms))
        .bind(route.expires_at_ms.map(signed))
        .fetch_one(&mut **write)
        .await;
        match added {
            Ok(id) => Ok(Some(unsigned(id))),
            Err(error) if is_unique_violation(&error) => Ok(None),
            Err(error) => Err(doing("wrote a sandbox route")(error)),
        }
    }

    /// The newest revision of the sandbox partition.
    pub(crate) async fn newest_sandbox_release(&self) -> Result<Option<SandboxReleaseRow>, StoreError> {
        let row: Option<(i64, i64, Vec<u8>, Vec<u8>)> = sqlx::query_as(
            "SELECT revision, epoch, digest, envelope FROM sandbox_release ORDER BY revision DESC LIMIT 1",
        )
        .fetch_optional(self.reader())
        .await
        .map_err(doing("read the newest sandbox revision"))?;
        row.map(|(revision, epoch, bytes, envelope)| {
            Ok(SandboxReleaseRow {
                revision: unsigned(revision),
                epoch: u32::try_from(epoch).unwrap_or(0),
                digest: digest(&bytes, "the digest of a sandbox revision")?,
                envelope: Envelope::from_bytes(&envelope)
                    .map_err(|error| StoreError::Damaged { what: format!("sandbox revision {revision}: {error}") })?,
            })
        })
        .transpose()
    }

    /// Stores a revision of the sandbox partition with its content, and lets go of old ones.
    pub(crate) async fn add_sandbox_release(
        &self,
        write: &mut Write,
        row: &SandboxReleaseRow,
        content: &Packed,
    ) -> Result<(), StoreError> {
        let revision = signed(row.revision);
        sqlx::query("INSERT INTO sandbox_release (revision, epoch, digest, envelope) VALUES (?, ?, ?, ?)")
            .bind(revision)
            .bind(i64::from(row.epoch))
            .bind(row.digest.to_vec())
            .bind(row.envelope.to_bytes())
            .execute(&mut **write)
            .await
            .map_err(doing("wrote a sandbox revision"))?;
        let manifest = (content.manifest_digest, content.manifest.clone());
        for (digest, bytes) in std::iter::once(&manifest).chain(&content.chunks) {
            let known: Option<(i64,)> = sqlx::query_as("SELECT 1 FROM sandbox_blob WHERE digest = ?")
                .bind(digest.to_vec())
                .fetch_optional(&mut **write)
                .await
                .map_err(doing("wrote sandbox content"))?;
            if known.is_none() {
                sqlx::query("INSERT INTO sandbox_blob (digest, content) VALUES (?, ?)")
                    .bind(digest.to_vec())
                    .bind(bytes)
                    .execute(&mut **write)
                    .await
                    .map_err(doing("wrote sandbox content"))?;
            }
            sqlx::query("INSERT INTO sandbox_blob_use (revision, digest) VALUES (?, ?)")
                .bind(revision)
                .bind(digest.to_vec())
                .execute(&mut **write)
                .await
                .map_err(doing("wrote sandbox content"))?;
        }
        let oldest = revision.saturating_sub(KEPT);
        for statement in [
            "DELETE FROM sandbox_blob WHERE digest IN (SELECT digest FROM sandbox_blob_use WHERE revision <= ?1)
                 AND NOT EXISTS (SELECT 1 FROM sandbox_blob_use AS needed
                                 WHERE needed.digest = sandbox_blob.digest AND needed.revision > ?1)",
            "DELETE FROM sandbox_blob_use WHERE revision <= ?1",
            "DELETE FROM sandbox_release WHERE revision <= ?1",
        ] {
            sqlx::query(statement)
                .bind(oldest)
                .execute(&mut **write)
                .await
                .map_err(doing("let go of old sandbox revisions"))?;
        }
        Ok(())
    }

    /// A manifest or chunk of a sandbox revision.
    pub(crate) async fn sandbox_blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        sqlx::query_scalar("SELECT content FROM sandbox_blob WHERE digest = ?")
            .bind(digest.to_vec())
            .fetch_optional(self.reader())
            .await
            .map_err(doing("read sandbox content"))
    }

    /// Deletes one; whether it was there.
    pub(crate) async fn delete_sandbox_route(&self, write: &mut Write, id: u64) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM sandbox_route WHERE id = ?")
            .bind(signed(id))
            .execute(&mut **write)
            .await
            .map_err(doing("deleted a sandbox route"))?;
        Ok(done.rows_affected() == 1)
    }
}
