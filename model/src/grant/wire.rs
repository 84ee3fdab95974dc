//! The protobuf form, tags as in `sealane/v1/bundle.proto`.

use prost::Message;

use super::Grant;
use crate::ids::{Digest, Epoch, FleetId, ProxyId, Revision};
use crate::verify::VerifyError;

#[derive(Clone, PartialEq, Message)]
struct WireGrant {
    #[prost(string, tag = "1")]
    fleet_id: String,
    #[prost(uint32, tag = "2")]
    epoch: u32,
    #[prost(uint64, tag = "3")]
    revision: u64,
    #[prost(bytes = "vec", tag = "4")]
    release_digest: Vec<u8>,
    #[prost(uint32, tag = "5")]
    wave: u32,
    #[prost(uint32, tag = "6")]
    stage: u32,
    #[prost(uint64, tag = "7")]
    cut: u64,
    #[prost(string, repeated, tag = "8")]
    regions: Vec<String>,
    #[prost(uint64, tag = "9")]
    sequence: u64,
    #[prost(int64, tag = "10")]
    not_after_unix_ms: i64,
    #[prost(string, tag = "11")]
    proxy_id: String,
}

pub(super) fn encode(grant: &Grant) -> Vec<u8> {
    let message = WireGrant {
        fleet_id: grant.fleet.0.clone(),
        epoch: grant.epoch.0,
        revision: grant.revision.0,
        release_digest: grant.release_digest.to_vec(),
        wave: grant.wave,
        stage: grant.stage,
        cut: grant.cut,
        regions: grant.regions.clone(),
        sequence: grant.sequence,
        not_after_unix_ms: grant.not_after_unix_ms,
        proxy_id: grant.proxy.as_ref().map(|proxy| proxy.0.clone()).unwrap_or_default(),
    };
    message.encode_to_vec()
}

pub(super) fn decode(bytes: &[u8]) -> Result<Grant, VerifyError> {
    let message = WireGrant::decode(bytes).map_err(|_| VerifyError::Malformed { what: "grant" })?;
    let release_digest =
        Digest::from_slice(&message.release_digest).ok_or(VerifyError::Malformed { what: "grant: release digest" })?;
    Ok(Grant {
        fleet: FleetId(message.fleet_id),
        epoch: Epoch(message.epoch),
        revision: Revision(message.revision),
        release_digest,
        wave: message.wave,
        stage: message.stage,
        cut: message.cut,
        regions: message.regions,
        sequence: message.sequence,
        not_after_unix_ms: message.not_after_unix_ms,
        proxy: (!message.proxy_id.is_empty()).then_some(ProxyId(message.proxy_id)),
    })
}
