//! First answers by request id.

use sealane_model::ids::Digest;

use super::{Store, StoreError, Write, digest, doing, is_unique_violation, signed};

/// A request id is remembered for this long: a week.
const KEPT_MS: u64 = 7 * 86_400_000;

/// A request that may be repeated: its id, and what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Receipt {
    pub(crate) request_id: String,
    pub(crate) method: &'static str,
    /// Hash of the request's bytes.
    pub(crate) request: Digest,
}

/// What is known of a request id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// Nothing.
    New,
    /// The same request was answered with these bytes.
    Answered(Vec<u8>),
    /// Another request was made under this id.
    Other,
}

impl Store {
    /// Looks a request id up.
    pub(crate) async fn known(&self, receipt: &Receipt) -> Result<Known, StoreError> {
        let row: Option<(String, Vec<u8>, Vec<u8>)> =
            sqlx::query_as("SELECT method, request_sha256, answer FROM idempotency WHERE request_id = ?")
                .bind(&receipt.request_id)
                .fetch_optional(self.reader())
                .await
                .map_err(doing("read a request id"))?;
        let Some((method, request, answer)) = row else { return Ok(Known::New) };
        if method == receipt.method && digest(&request, "the hash of a request")? == receipt.request {
            return Ok(Known::Answered(answer));
        }
        Ok(Known::Other)
    }

    /// Remembers the answer in the change that it answers. False: someone was faster with this id.
    pub(crate) async fn remember(
        &self,
        write: &mut Write,
        receipt: &Receipt,
        answer: &[u8],
        at_ms: u64,
    ) -> Result<bool, StoreError> {
        sqlx::query("DELETE FROM idempotency WHERE at_ms < ?")
            .bind(signed(at_ms.saturating_sub(KEPT_MS)))
            .execute(&mut **write)
            .await
            .map_err(doing("forgot old request ids"))?;
        let done = sqlx::query(
            "INSERT INTO idempotency (request_id, method, request_sha256, answer, at_ms) VALUES (?, ?, ?, ?, ?)",
        )
        .bind(&receipt.request_id)
        .bind(receipt.method)
        .bind(receipt.request.to_vec())
        .bind(answer)
        .bind(signed(at_ms))
        .execute(&mut **write)
        .await;
        match done {
            Ok(_) => Ok(true),
            Err(error) if is_unique_violation(&error) => Ok(false),
            Err(error) => Err(doing("wrote a request id")(error)),
        }
    }
}
