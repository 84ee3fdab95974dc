//! The protobuf form, tags as in `sealane/v1/bundle.proto`.

use prost::Message;

use super::Timestamp;
use crate::ids::{Digest, Epoch, FleetId, Revision};
use crate::release::Partition;
use crate::release::wire::{partition_from, partition_number};
use crate::verify::VerifyError;

/// Room for a hash in bytes or in hex.
const AUDIT_HEAD_BYTES_MAX: usize = 64;

#[derive(Clone, PartialEq, Message)]
struct WireTimestamp {
    #[prost(string, tag = "1")]
    fleet_id: String,
    #[prost(uint32, tag = "2")]
    epoch: u32,
    #[prost(message, repeated, tag = "3")]
    heads: Vec<PartitionHead>,
    #[prost(int64, tag = "4")]
    time_unix_ms: i64,
    #[prost(int64, tag = "5")]
    expires_unix_ms: i64,
    #[prost(uint64, tag = "6")]
    grant_sequence_min: u64,
    #[prost(uint32, tag = "7")]
    root_version: u32,
    #[prost(bytes = "vec", tag = "8")]
    audit_head: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct PartitionHead {
    #[prost(int32, tag = "1")]
    partition: i32,
    #[prost(uint64, tag = "2")]
    revision: u64,
    #[prost(bytes = "vec", tag = "3")]
    release_digest: Vec<u8>,
}

pub(super) fn encode(timestamp: &Timestamp) -> Vec<u8> {
    let head = |(partition, revision, digest): &(Partition, Revision, Digest)| PartitionHead {
        partition: partition_number(*partition),
        revision: revision.0,
        release_digest: digest.to_vec(),
    };
    let message = WireTimestamp {
        fleet_id: timestamp.fleet.0.clone(),
        epoch: timestamp.epoch.0,
        heads: timestamp.heads.iter().map(head).collect(),
        time_unix_ms: timestamp.time_unix_ms,
        expires_unix_ms: timestamp.expires_unix_ms,
        grant_sequence_min: timestamp.grant_sequence_min,
        root_version: timestamp.root_version,
        audit_head: timestamp.audit_head.clone(),
    };
    message.encode_to_vec()
}

pub(super) fn decode(bytes: &[u8]) -> Result<Timestamp, VerifyError> {
    let malformed = |what| VerifyError::Malformed { what };
    let message = WireTimestamp::decode(bytes).map_err(|_| malformed("timestamp"))?;
    if message.expires_unix_ms < message.time_unix_ms {
        return Err(malformed("timestamp: it expires before its time"));
    }
    if message.audit_head.len() > AUDIT_HEAD_BYTES_MAX {
        return Err(malformed("timestamp: audit head"));
    }
    let mut heads: Vec<(Partition, Revision, Digest)> = Vec::new();
    for head in message.heads {
        let partition = partition_from(head.partition).ok_or(malformed("timestamp: partition"))?;
        if heads.iter().any(|other| other.0 == partition) {
            return Err(malformed("timestamp: a partition is given twice"));
        }
        let digest = Digest::from_slice(&head.release_digest).ok_or(malformed("timestamp: release digest"))?;
        heads.push((partition, Revision(head.revision), digest));
    }
    Ok(Timestamp {
        fleet: FleetId(message.fleet_id),
        epoch: Epoch(message.epoch),
        heads,
        time_unix_ms: message.time_unix_ms,
        expires_unix_ms: message.expires_unix_ms,
        grant_sequence_min: message.grant_sequence_min,
        root_version: message.root_version,
        audit_head: message.audit_head,
    })
}
