//! Bearer tokens, by the hash of their secret.

use sqlx::FromRow;

use super::{Store, StoreError, Write, doing, signed};

/// A token as it is stored: without its secret.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct TokenRow {
    pub(crate) id: String,
    pub(crate) secret_sha256: Vec<u8>,
    pub(crate) role: String,
    pub(crate) region: String,
    pub(crate) comment: String,
    pub(crate) created_at_ms: i64,
    pub(crate) expires_at_ms: Option<i64>,
    pub(crate) revoked_at_ms: Option<i64>,
}

impl Store {
    /// Every token, oldest first.
    pub(crate) async fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        sqlx::query_as(
            "SELECT id, secret_sha256, role, region, comment, created_at_ms, expires_at_ms, revoked_at_ms
             FROM token ORDER BY created_at_ms, id",
        )
        .fetch_all(self.reader())
        .await
        .map_err(doing("read the tokens"))
    }

    pub(crate) async fn add_token(&self, write: &mut Write, token: &TokenRow) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO token (id, secret_sha256, role, region, comment, created_at_ms, expires_at_ms, revoked_at_ms)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&token.id)
        .bind(&token.secret_sha256)
        .bind(&token.role)
        .bind(&token.region)
        .bind(&token.comment)
        .bind(token.created_at_ms)
        .bind(token.expires_at_ms)
        .bind(token.revoked_at_ms)
        .execute(&mut **write)
        .await
        .map_err(doing("wrote a token"))?;
        Ok(())
    }

    /// Whether there was a valid one to revoke.
    pub(crate) async fn revoke_token(&self, write: &mut Write, id: &str, at_ms: u64) -> Result<bool, StoreError> {
        let done = sqlx::query("UPDATE token SET revoked_at_ms = ? WHERE id = ? AND revoked_at_ms IS NULL")
            .bind(signed(at_ms))
            .bind(id)
            .execute(&mut **write)
            .await
            .map_err(doing("revoked a token"))?;
        Ok(done.rows_affected() == 1)
    }
}
