//! Facts about the fleet, and its trust roots.

use sealane_model::envelope::Envelope;

use super::{Store, StoreError, Write, doing, signed};

impl Store {
    /// A fact by name; `None` before the first start.
    pub(crate) async fn fact(&self, name: &str) -> Result<Option<String>, StoreError> {
        let row: Option<(String,)> = sqlx::query_as("SELECT value FROM fact WHERE name = ?")
            .bind(name)
            .fetch_optional(self.reader())
            .await
            .map_err(doing("read a fact"))?;
        Ok(row.map(|(value,)| value))
    }

    /// Sets a fact.
    pub(crate) async fn set_fact(&self, write: &mut Write, name: &str, value: &str) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO fact (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        )
        .bind(name)
        .bind(value)
        .execute(&mut **write)
        .await
        .map_err(doing("wrote a fact"))?;
        Ok(())
    }

    /// Every trust root, oldest first.
    pub(crate) async fn roots(&self) -> Result<Vec<Envelope>, StoreError> {
        let rows: Vec<(Vec<u8>,)> = sqlx::query_as("SELECT envelope FROM root ORDER BY version")
            .fetch_all(self.reader())
            .await
            .map_err(doing("read the trust roots"))?;
        rows.iter()
            .map(|(bytes,)| {
                Envelope::from_bytes(bytes)
                    .map_err(|error| StoreError::Damaged { what: format!("a trust root: {error}") })
            })
            .collect()
    }

    /// Adds a trust root.
    pub(crate) async fn add_root(&self, write: &mut Write, version: u32, root: &Envelope) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO root (version, envelope) VALUES (?, ?)")
            .bind(signed(u64::from(version)))
            .bind(root.to_bytes())
            .execute(&mut **write)
            .await
            .map_err(doing("wrote a trust root"))?;
        Ok(())
    }
}
