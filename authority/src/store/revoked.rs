//! Certificates that were issued to members, by what the audit log says, and those that were taken back.

use std::collections::BTreeMap;

use sealane_model::ids::Digest;
use sealane_node::member::Role;

use super::{Store, StoreError, Write, digest, doing, signed, unsigned};

/// A certificate as its issue was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IssuedCertificate {
    pub(crate) fingerprint: Digest,
    pub(crate) region: String,
    pub(crate) issued_at_ms: u64,
}

impl Store {
    /// Those that were issued to a member since, oldest first.
    pub(crate) async fn issued_certificates(
        &self,
        role: Role,
        node: &str,
        since_ms: u64,
    ) -> Result<Vec<IssuedCertificate>, StoreError> {
        let action = match role {
            Role::Agent => "enrol",
            Role::Proxy => "enrol_proxy",
        };
        let rows: Vec<(Vec<u8>, Option<String>, i64)> = sqlx::query_as(
            "SELECT digest, detail ->> '$.region', at_ms FROM audit
             WHERE action = ? AND subject = ? AND at_ms >= ? AND digest IS NOT NULL ORDER BY sequence",
        )
        .bind(action)
        .bind(node)
        .bind(signed(since_ms))
        .fetch_all(self.reader())
        .await
        .map_err(doing("read which certificates were issued"))?;
        rows.into_iter()
            .map(|(fingerprint, region, at_ms)| {
                Ok(IssuedCertificate {
                    fingerprint: digest(&fingerprint, "the hash of a certificate")?,
                    region: region.unwrap_or_default(),
                    issued_at_ms: unsigned(at_ms),
                })
            })
            .collect()
    }

    /// Those that were taken back and would still be good: fingerprint and end.
    pub(crate) async fn revoked_certificates(&self, now_ms: u64) -> Result<BTreeMap<Digest, i64>, StoreError> {
        let rows: Vec<(Vec<u8>, i64)> =
            sqlx::query_as("SELECT sha256, not_after_ms FROM revoked_certificate WHERE not_after_ms > ?")
                .bind(signed(now_ms))
                .fetch_all(self.reader())
                .await
                .map_err(doing("read the revoked certificates"))?;
        rows.into_iter().map(|(sha256, end)| Ok((digest(&sha256, "the hash of a certificate")?, end))).collect()
    }

    /// Takes one back, and forgets those that have ended.
    pub(crate) async fn revoke_certificate(
        &self,
        write: &mut Write,
        fingerprint: Digest,
        (role, node): (Role, &str),
        not_after_ms: u64,
        (at_ms, actor): (u64, &str),
    ) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM revoked_certificate WHERE not_after_ms <= ?")
            .bind(signed(at_ms))
            .execute(&mut **write)
            .await
            .map_err(doing("forgot expired certificates"))?;
        sqlx::query(
            "INSERT INTO revoked_certificate (sha256, role, node, not_after_ms, revoked_at_ms, actor)
             VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (sha256) DO NOTHING",
        )
        .bind(fingerprint.to_vec())
        .bind(role.as_str())
        .bind(node)
        .bind(signed(not_after_ms))
        .bind(signed(at_ms))
        .bind(actor)
        .execute(&mut **write)
        .await
        .map_err(doing("revoked a certificate"))?;
        sqlx::query("DELETE FROM agent_certificate WHERE sha256 = ?")
            .bind(fingerprint.to_vec())
            .execute(&mut **write)
            .await
            .map_err(doing("revoked an agent's certificate"))?;
        Ok(())
    }
}
