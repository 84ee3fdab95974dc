//! Client certificates of agents, and nodes that are cordoned.

use std::collections::BTreeSet;

use sealane_model::ids::{Digest, ProxyId};

use super::{Store, StoreError, Write, digest, doing, signed, unsigned};

/// A client certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AgentCertificate {
    /// SHA-256 of its DER.
    pub(crate) fingerprint: Digest,
    pub(crate) agent: String,
    pub(crate) region: String,
    pub(crate) enrolled_at_ms: u64,
    pub(crate) not_after_ms: u64,
}

impl Store {
    /// Every client certificate.
    pub(crate) async fn agent_certificates(&self) -> Result<Vec<AgentCertificate>, StoreError> {
        let rows: Vec<(Vec<u8>, String, String, i64, i64)> = sqlx::query_as(
            "SELECT sha256, agent, region, enrolled_at_ms, not_after_ms FROM agent_certificate ORDER BY agent",
        )
        .fetch_all(self.reader())
        .await
        .map_err(doing("read the agents' certificates"))?;
        rows.into_iter()
            .map(|(fingerprint, agent, region, enrolled_at_ms, not_after_ms)| {
                Ok(AgentCertificate {
                    fingerprint: digest(&fingerprint, "the hash of an agent's certificate")?,
                    agent,
                    region,
                    enrolled_at_ms: unsigned(enrolled_at_ms),
                    not_after_ms: unsigned(not_after_ms),
                })
            })
            .collect()
    }

    /// Remembers a certificate, and forgets those that have expired.
    pub(crate) async fn add_agent_certificate(
        &self,
        write: &mut Write,
        certificate: &AgentCertificate,
    ) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM agent_certificate WHERE not_after_ms < ?")
            .bind(signed(certificate.enrolled_at_ms))
            .execute(&mut **write)
            .await
            .map_err(doing("forgot expired certificates"))?;
        sqlx::query(
            "INSERT INTO agent_certificate (sha256, agent, region, enrolled_at_ms, not_after_ms) VALUES (?, ?, ?, ?, ?)",
        )
        .bind(certificate.fingerprint.to_vec())
        .bind(&certificate.agent)
        .bind(&certificate.region)
        .bind(signed(certificate.enrolled_at_ms))
        .bind(signed(certificate.not_after_ms))
        .execute(&mut **write)
        .await
        .map_err(doing("wrote an agent's certificate"))?;
        Ok(())
    }

    /// Cordoned nodes.
    pub(crate) async fn cordoned(&self) -> Result<BTreeSet<ProxyId>, StoreError> {
        let rows: Vec<(String,)> = sqlx::query_as("SELECT node FROM cordon")
            .fetch_all(self.reader())
            .await
            .map_err(doing("read the cordoned nodes"))?;
        Ok(rows.into_iter().map(|(node,)| ProxyId(node)).collect())
    }

    pub(crate) async fn set_cordon(
        &self,
        write: &mut Write,
        node: &ProxyId,
        cordoned: bool,
        actor: &str,
        at_ms: u64,
    ) -> Result<(), StoreError> {
        let query = if cordoned {
            sqlx::query("INSERT INTO cordon (node, actor, at_ms) VALUES (?, ?, ?) ON CONFLICT (node) DO NOTHING")
                .bind(&node.0)
                .bind(actor)
                .bind(signed(at_ms))
        } else {
            sqlx::query("DELETE FROM cordon WHERE node = ?").bind(&node.0)
        };
        query.execute(&mut **write).await.map_err(doing("wrote a cordon"))?;
        Ok(())
    }
}
