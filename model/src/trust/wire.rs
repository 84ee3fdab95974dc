//! The protobuf form, tags as in `sealane/v1/bundle.proto`, and the checks that make a [`RootDocument`] sound.

use std::time::Duration;

use prost::Message;

use super::{KEYS_MAX, PlanFloor, Role, RoleKeys, RootDocument, RootKey};
use crate::ids::{Epoch, FleetId};
use crate::keys::{KeyId, PublicKey};
use crate::plan::{DURATION_MAX, STAGES_MAX, wire::millis};
use crate::release::wire::{change_class_from, change_class_number};
use crate::verify::VerifyError;

#[derive(Clone, PartialEq, Message)]
struct TrustRoot {
    #[prost(string, tag = "1")]
    fleet_id: String,
    #[prost(uint32, tag = "2")]
    version: u32,
    #[prost(message, repeated, tag = "3")]
    keys: Vec<TrustKey>,
    #[prost(message, repeated, tag = "4")]
    roles: Vec<TrustRole>,
    #[prost(message, optional, tag = "5")]
    plan_floor: Option<WirePlanFloor>,
    #[prost(int64, tag = "6")]
    created_at_unix_ms: i64,
    #[prost(uint32, tag = "7")]
    epoch_max: u32,
}

#[derive(Clone, PartialEq, Message)]
struct TrustKey {
    #[prost(bytes = "vec", tag = "1")]
    public_key: Vec<u8>,
    #[prost(bool, tag = "2")]
    offline: bool,
    #[prost(string, tag = "3")]
    comment: String,
}

#[derive(Clone, PartialEq, Message)]
struct TrustRole {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, repeated, tag = "2")]
    key_ids: Vec<String>,
    #[prost(uint32, tag = "3")]
    threshold: u32,
}

#[derive(Clone, PartialEq, Message)]
struct WirePlanFloor {
    #[prost(uint32, tag = "1")]
    stages_min: u32,
    #[prost(uint64, tag = "2")]
    bake_ms_min: u64,
    #[prost(double, tag = "3")]
    first_percent_max: f64,
    #[prost(int32, repeated, tag = "4")]
    change_classes: Vec<i32>,
}

pub(super) fn encode(document: &RootDocument) -> Vec<u8> {
    let key = |one: &RootKey| TrustKey {
        public_key: one.key.to_bytes().to_vec(),
        offline: one.offline,
        comment: one.comment.clone(),
    };
    let role = |one: &RoleKeys| TrustRole {
        name: one.role.as_str().to_owned(),
        key_ids: one.key_ids.iter().map(|id| id.0.clone()).collect(),
        threshold: one.threshold,
    };
    let floor = &document.plan_floor;
    let message = TrustRoot {
        fleet_id: document.fleet.0.clone(),
        version: document.version,
        keys: document.keys.iter().map(key).collect(),
        roles: document.roles.iter().map(role).collect(),
        plan_floor: Some(WirePlanFloor {
            stages_min: floor.stages_min,
            bake_ms_min: millis(floor.bake_min),
            // 0 would mean "no bound": the least share that has a meaning is a hundredth of a percent.
            first_percent_max: floor.first_share_max_bp.map_or(0.0, |bp| f64::from(bp.max(1)) / 100.0),
            change_classes: floor.change_classes.iter().copied().map(change_class_number).collect(),
        }),
        created_at_unix_ms: document.created_at_unix_ms,
        epoch_max: document.epoch_max.map_or(0, |epoch| epoch.0),
    };
    message.encode_to_vec()
}

pub(super) fn decode(bytes: &[u8]) -> Result<RootDocument, VerifyError> {
    let message = TrustRoot::decode(bytes).map_err(|_| VerifyError::Malformed { what: "trust root" })?;
    if message.fleet_id.is_empty() {
        return malformed("trust root: no fleet");
    }
    if message.version == 0 {
        return malformed("trust root: version 0");
    }
    let keys = keys(message.keys)?;
    let roles = roles(message.roles, &keys)?;
    Ok(RootDocument {
        fleet: FleetId(message.fleet_id),
        version: message.version,
        keys,
        roles,
        plan_floor: message.plan_floor.map_or_else(|| Ok(PlanFloor::default()), plan_floor)?,
        created_at_unix_ms: message.created_at_unix_ms,
        epoch_max: Some(Epoch(message.epoch_max)).filter(|epoch| epoch.0 > 0),
    })
}

fn keys(offered: Vec<TrustKey>) -> Result<Vec<RootKey>, VerifyError> {
    if offered.len() > KEYS_MAX {
        return Err(VerifyError::TooMany { what: "keys", count: offered.len() as u64, max: KEYS_MAX as u64 });
    }
    let mut keys: Vec<RootKey> = Vec::new();
    for one in offered {
        let key = PublicKey::from_bytes(&one.public_key)
            .map_err(|_| VerifyError::Malformed { what: "trust root: a key is weak or none" })?;
        if keys.iter().any(|other| other.key == key) {
            return malformed("trust root: a key is given twice");
        }
        keys.push(RootKey { key, offline: one.offline, comment: one.comment });
    }
    Ok(keys)
}

fn roles(offered: Vec<TrustRole>, keys: &[RootKey]) -> Result<Vec<RoleKeys>, VerifyError> {
    let known: Vec<KeyId> = keys.iter().map(|one| one.key.id()).collect();
    let mut roles: Vec<RoleKeys> = Vec::new();
    for one in offered {
        let Some(role) = Role::ALL.into_iter().find(|role| role.as_str() == one.name) else {
            return malformed("trust root: unknown role");
        };
        if roles.iter().any(|other| other.role == role) {
            return malformed("trust root: a role is given twice");
        }
        let mut key_ids: Vec<KeyId> = Vec::new();
        for id in one.key_ids.into_iter().map(KeyId) {
            if key_ids.contains(&id) {
                return malformed("trust root: a role names a key twice");
            }
            if !known.contains(&id) {
                return malformed("trust root: a role names a key that is not there");
            }
            key_ids.push(id);
        }
        if one.threshold == 0 || one.threshold as usize > key_ids.len() {
            return malformed("trust root: a threshold is outside 1 to the number of keys");
        }
        roles.push(RoleKeys { role, key_ids, threshold: one.threshold });
    }
    if roles.len() != Role::ALL.len() {
        return malformed("trust root: a role is missing");
    }
    Ok(roles)
}

fn plan_floor(offered: WirePlanFloor) -> Result<PlanFloor, VerifyError> {
    let bake_min = Duration::from_millis(offered.bake_ms_min);
    if offered.stages_min as usize >= STAGES_MAX || bake_min > DURATION_MAX {
        return malformed("trust root: plan floor out of range");
    }
    let first_bp = (offered.first_percent_max * 100.0).round();
    let first_share_max_bp = match offered.first_percent_max {
        0.0 => None,
        _ if (1.0..=10_000.0).contains(&first_bp) => Some(first_bp as u32),
        _ => return malformed("trust root: first share out of range"),
    };
    let mut change_classes = Vec::new();
    for number in offered.change_classes {
        let class = change_class_from(number).ok_or(VerifyError::Malformed { what: "trust root: change class" })?;
        change_classes.push(class);
    }
    Ok(PlanFloor { stages_min: offered.stages_min, bake_min, first_share_max_bp, change_classes })
}

fn malformed<T>(what: &'static str) -> Result<T, VerifyError> {
    Err(VerifyError::Malformed { what })
}
