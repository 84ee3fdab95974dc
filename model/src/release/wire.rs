//! The protobuf form, tags as in `sealane/v1/bundle.proto`.

use prost::Message;

use super::{CAPABILITIES, ChangeClass, Partition, Release, SCHEMA};
use crate::ids::{Digest, Epoch, FleetId, Revision};
use crate::plan::Plan;
use crate::plan::wire::RolloutPlan;
use crate::verify::VerifyError;

#[derive(Clone, PartialEq, Message)]
struct WireRelease {
    #[prost(string, tag = "1")]
    fleet_id: String,
    #[prost(uint32, tag = "2")]
    epoch: u32,
    #[prost(uint64, tag = "3")]
    revision: u64,
    #[prost(int32, tag = "4")]
    partition: i32,
    #[prost(bytes = "vec", tag = "5")]
    manifest_digest: Vec<u8>,
    #[prost(uint64, tag = "6")]
    manifest_bytes: u64,
    #[prost(bytes = "vec", tag = "7")]
    base_digest: Vec<u8>,
    #[prost(string, repeated, tag = "8")]
    capabilities: Vec<String>,
    #[prost(uint32, tag = "9")]
    schema_min: u32,
    #[prost(uint32, tag = "10")]
    schema_max: u32,
    #[prost(message, optional, tag = "11")]
    plan: Option<RolloutPlan>,
    #[prost(int32, tag = "12")]
    change_class: i32,
    #[prost(string, tag = "13")]
    author: String,
    #[prost(string, tag = "14")]
    message: String,
    #[prost(int64, tag = "15")]
    created_at_unix_ms: i64,
    #[prost(string, tag = "16")]
    producer: String,
}

pub(super) fn encode(release: &Release) -> Vec<u8> {
    let message = WireRelease {
        fleet_id: release.fleet.0.clone(),
        epoch: release.epoch.0,
        revision: release.revision.0,
        partition: partition_number(release.partition),
        manifest_digest: release.manifest_digest.to_vec(),
        manifest_bytes: release.manifest_bytes,
        base_digest: release.base.map(Digest::to_vec).unwrap_or_default(),
        capabilities: release.capabilities.clone(),
        schema_min: release.schema_min,
        schema_max: release.schema_max,
        plan: Some(RolloutPlan::from(&release.plan)),
        change_class: change_class_number(release.change_class),
        author: release.author.clone(),
        message: release.message.clone(),
        created_at_unix_ms: release.created_at_unix_ms,
        producer: release.producer.clone(),
    };
    message.encode_to_vec()
}

/// Fleet, then capabilities, then schema: whoever may not read the rest as it is meant does not look at it.
pub(super) fn decode(
    bytes: &[u8],
    check_fleet: impl FnOnce(&FleetId) -> Result<(), VerifyError>,
) -> Result<Release, VerifyError> {
    let message = WireRelease::decode(bytes).map_err(|_| VerifyError::Malformed { what: "release" })?;
    let fleet = FleetId(message.fleet_id);
    check_fleet(&fleet)?;
    if let Some(missing) = message.capabilities.iter().find(|one| !CAPABILITIES.contains(&one.as_str())) {
        return Err(VerifyError::MissingCapability { capability: missing.chars().take(100).collect() });
    }
    let (min, max) = (message.schema_min, message.schema_max);
    if !(min..=max).contains(&SCHEMA) {
        return Err(VerifyError::SchemaOutOfRange { min, max, ours: SCHEMA });
    }
    let malformed = |what| VerifyError::Malformed { what };
    if message.revision == 0 {
        return Err(malformed("release: revision 0"));
    }
    let digest = |bytes: &[u8], what| Digest::from_slice(bytes).ok_or(malformed(what));
    let base = match message.base_digest.as_slice() {
        [] => None,
        bytes => Some(digest(bytes, "release: base digest")?),
    };
    let plan: Plan = message.plan.ok_or(malformed("release: no plan"))?.try_into()?;
    Ok(Release {
        fleet,
        epoch: Epoch(message.epoch),
        revision: Revision(message.revision),
        partition: partition_from(message.partition).ok_or(malformed("release: partition"))?,
        manifest_digest: digest(&message.manifest_digest, "release: manifest digest")?,
        manifest_bytes: message.manifest_bytes,
        base,
        capabilities: message.capabilities,
        schema_min: min,
        schema_max: max,
        plan,
        change_class: change_class_from(message.change_class).ok_or(malformed("release: change class"))?,
        author: message.author,
        message: message.message,
        created_at_unix_ms: message.created_at_unix_ms,
        producer: message.producer,
    })
}

pub(crate) fn partition_number(partition: Partition) -> i32 {
    match partition {
        Partition::Config => 1,
        Partition::Sandbox => 2,
    }
}

pub(crate) fn partition_from(number: i32) -> Option<Partition> {
    match number {
        1 => Some(Partition::Config),
        2 => Some(Partition::Sandbox),
        _ => None,
    }
}

pub(crate) fn change_class_number(class: ChangeClass) -> i32 {
    match class {
        ChangeClass::Standard => 1,
        ChangeClass::Expedited => 2,
        ChangeClass::Sandbox => 3,
        ChangeClass::Revert => 4,
    }
}

pub(crate) fn change_class_from(number: i32) -> Option<ChangeClass> {
    match number {
        1 => Some(ChangeClass::Standard),
        2 => Some(ChangeClass::Expedited),
        3 => Some(ChangeClass::Sandbox),
        4 => Some(ChangeClass::Revert),
        _ => None,
    }
}
