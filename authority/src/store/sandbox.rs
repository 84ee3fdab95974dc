//! Sandbox routes.

use std::path::Path;

use sealane_model::sandbox::SandboxRoute;
use sqlx::FromRow;
use sqlx::migrate::Migrator;

use super::{Store, StoreError, Write, doing, is_unique_violation, signed, unsigned};

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
