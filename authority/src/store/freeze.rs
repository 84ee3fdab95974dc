//! Freezes.

use super::{Store, StoreError, Write, doing, signed, unsigned};
use crate::fleet::Freeze;

impl Store {
    /// Adds one, and gives its number.
    pub(crate) async fn add_freeze(&self, write: &mut Write, freeze: &Freeze) -> Result<u64, StoreError> {
        let done =
            sqlx::query("INSERT INTO freeze (from_ms, until_ms, reason, actor, created_at_ms) VALUES (?, ?, ?, ?, ?)")
                .bind(signed(freeze.from_ms))
                .bind(signed(freeze.until_ms))
                .bind(&freeze.reason)
                .bind(&freeze.actor)
                .bind(signed(freeze.created_ms))
                .execute(&mut **write)
                .await
                .map_err(doing("wrote a freeze"))?;
        Ok(unsigned(done.last_insert_rowid()))
    }

    /// Removes one; whether it was there.
    pub(crate) async fn remove_freeze(&self, write: &mut Write, number: u64) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM freeze WHERE number = ?")
            .bind(signed(number))
            .execute(&mut **write)
            .await
            .map_err(doing("removed a freeze"))?;
        Ok(done.rows_affected() > 0)
    }

    /// All of them, oldest first; those that are over are left out.
    pub(crate) async fn freezes(&self, now_ms: u64) -> Result<Vec<Freeze>, StoreError> {
        let rows: Vec<(i64, i64, i64, String, String, i64)> = sqlx::query_as(
            "SELECT number, from_ms, until_ms, reason, actor, created_at_ms FROM freeze WHERE until_ms > ? ORDER BY number",
        )
        .bind(signed(now_ms))
        .fetch_all(self.reader())
        .await
        .map_err(doing("read the freezes"))?;
        let freeze = |(number, from_ms, until_ms, reason, actor, created_ms)| Freeze {
            id: format!("f{}", unsigned(number)),
            from_ms: unsigned(from_ms),
            until_ms: unsigned(until_ms),
            reason,
            actor,
            created_ms: unsigned(created_ms),
        };
        Ok(rows.into_iter().map(freeze).collect())
    }
}
