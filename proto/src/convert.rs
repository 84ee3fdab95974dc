//! The only place where wire types meet model types: `TryFrom` in, `From` out. An enum's `UNSPECIFIED` dies here.
//!
//! It does not verify signatures (see `TrustRoot` in the model) and decides nothing. Whatever comes in may be hostile:
//! it is refused with a [`ConvertError`] that names the field.

use std::time::Duration;

use prost::Message as _;
use sealane_model::envelope::{Envelope, Signature};
use sealane_model::gate::Counts;
use sealane_model::ids::Digest;
use sealane_model::keys::KeyId;
use sealane_model::latency::BUCKETS;
use sealane_model::plan::{Plan, PlanError};
use sealane_model::problem::{Problem, Severity};
use sealane_model::release::{ChangeClass, Partition};
use thiserror::Error;

use crate::v1;

mod question;
mod revoked;

pub use revoked::{revoked, revoked_list};

/// Why a message has no meaning in the model.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ConvertError {
    /// A word or number that stands for nothing here.
    #[error("`{field}` is unknown or not given")]
    Unknown {
        /// As in the .proto file.
        field: &'static str,
    },
    /// A number, length or list out of its range.
    #[error("`{field}` is out of range")]
    OutOfRange {
        /// As in the .proto file.
        field: &'static str,
    },
    /// A rollout plan that makes no sense.
    #[error("refused rollout plan")]
    Plan(#[from] PlanError),
}

// Envelopes: bytes as they came. Nothing is trusted, nothing re-encoded; caps are checked where it is verified.

impl From<Envelope> for v1::Envelope {
    fn from(envelope: Envelope) -> Self {
        let signature = |one: Signature| v1::Signature { key_id: one.key_id.0, signature: one.bytes };
        Self {
            payload_type: envelope.payload_type,
            payload: envelope.payload,
            signatures: envelope.signatures.into_iter().map(signature).collect(),
        }
    }
}

impl From<&Envelope> for v1::Envelope {
    fn from(envelope: &Envelope) -> Self {
        envelope.clone().into()
    }
}

impl From<v1::Envelope> for Envelope {
    fn from(envelope: v1::Envelope) -> Self {
        let signature = |one: v1::Signature| Signature { key_id: KeyId(one.key_id), bytes: one.signature };
        Self {
            payload_type: envelope.payload_type,
            payload: envelope.payload,
            signatures: envelope.signatures.into_iter().map(signature).collect(),
        }
    }
}

impl From<&v1::Envelope> for Envelope {
    fn from(envelope: &v1::Envelope) -> Self {
        envelope.clone().into()
    }
}

// Plans: the signed form and this one are the same bytes, so the model's own coding serves, checks included.

impl From<&Plan> for v1::RolloutPlan {
    fn from(plan: &Plan) -> Self {
        Self::decode(plan.to_bytes().as_slice()).expect("the model writes this very message")
    }
}

impl From<Plan> for v1::RolloutPlan {
    fn from(plan: Plan) -> Self {
        (&plan).into()
    }
}

impl TryFrom<&v1::RolloutPlan> for Plan {
    type Error = ConvertError;

    fn try_from(plan: &v1::RolloutPlan) -> Result<Self, ConvertError> {
        Ok(Self::from_bytes(&plan.encode_to_vec())?)
    }
}

impl TryFrom<v1::RolloutPlan> for Plan {
    type Error = ConvertError;

    fn try_from(plan: v1::RolloutPlan) -> Result<Self, ConvertError> {
        (&plan).try_into()
    }
}

// Enums. `v1::…::try_from(i32)` is prost's; the functions below go from a message's raw field in one step.

impl From<Partition> for v1::Partition {
    fn from(partition: Partition) -> Self {
        match partition {
            Partition::Config => Self::Config,
            Partition::Sandbox => Self::Sandbox,
        }
    }
}

impl TryFrom<v1::Partition> for Partition {
    type Error = ConvertError;

    fn try_from(partition: v1::Partition) -> Result<Self, ConvertError> {
        match partition {
            v1::Partition::Config => Ok(Self::Config),
            v1::Partition::Sandbox => Ok(Self::Sandbox),
            v1::Partition::Unspecified => Err(ConvertError::Unknown { field: "partition" }),
        }
    }
}

/// A `partition` field.
pub fn partition(number: i32) -> Result<Partition, ConvertError> {
    v1::Partition::try_from(number).map_err(|_| ConvertError::Unknown { field: "partition" })?.try_into()
}

impl From<ChangeClass> for v1::ChangeClass {
    fn from(class: ChangeClass) -> Self {
        match class {
            ChangeClass::Standard => Self::Standard,
            ChangeClass::Expedited => Self::Expedited,
            ChangeClass::Sandbox => Self::Sandbox,
            ChangeClass::Revert => Self::Revert,
        }
    }
}

impl TryFrom<v1::ChangeClass> for ChangeClass {
    type Error = ConvertError;

    fn try_from(class: v1::ChangeClass) -> Result<Self, ConvertError> {
        match class {
            v1::ChangeClass::Standard => Ok(Self::Standard),
            v1::ChangeClass::Expedited => Ok(Self::Expedited),
            v1::ChangeClass::Sandbox => Ok(Self::Sandbox),
            v1::ChangeClass::Revert => Ok(Self::Revert),
            v1::ChangeClass::Unspecified => Err(ConvertError::Unknown { field: "change_class" }),
        }
    }
}

/// A `change_class` field.
pub fn change_class(number: i32) -> Result<ChangeClass, ConvertError> {
    v1::ChangeClass::try_from(number).map_err(|_| ConvertError::Unknown { field: "change_class" })?.try_into()
}

/// A `change_class` field of a request, where leaving it out asks for the standard class.
pub fn change_class_or_standard(number: i32) -> Result<ChangeClass, ConvertError> {
    if number == i32::from(v1::ChangeClass::Unspecified) { Ok(ChangeClass::Standard) } else { change_class(number) }
}

// Problems of a config.

impl From<Problem> for v1::Problem {
    fn from(problem: Problem) -> Self {
        let severity = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        Self {
            code: problem.code,
            severity: severity.to_owned(),
            message: problem.message,
            file: problem.file,
            line: problem.line,
            column: problem.column,
            end_column: problem.end_column,
            path: problem.path,
            help: problem.help,
            suggestion: problem.suggestion,
        }
    }
}

impl From<&Problem> for v1::Problem {
    fn from(problem: &Problem) -> Self {
        problem.clone().into()
    }
}

impl TryFrom<v1::Problem> for Problem {
    type Error = ConvertError;

    fn try_from(problem: v1::Problem) -> Result<Self, ConvertError> {
        let severity = match problem.severity.as_str() {
            "error" => Severity::Error,
            "warning" => Severity::Warning,
            _ => return Err(ConvertError::Unknown { field: "severity" }),
        };
        Ok(Self {
            code: problem.code,
            severity,
            message: problem.message,
            file: problem.file,
            line: problem.line,
            column: problem.column,
            end_column: problem.end_column,
            path: problem.path,
            help: problem.help,
            suggestion: problem.suggestion,
        })
    }
}

// Counts: of the histogram only the buckets that are not empty travel.

/// Leaves revision and digest to the caller (`..counts.into()`).
impl From<&Counts> for v1::RevisionCounts {
    fn from(counts: &Counts) -> Self {
        let filled = || counts.latency.iter().enumerate().take(BUCKETS).filter(|(_, count)| **count > 0);
        Self {
            requests: counts.requests,
            failed: counts.failed,
            refused: counts.refused,
            connect_failures: counts.connect_failures,
            latency_bucket: filled().map(|(bucket, _)| u32::try_from(bucket).expect("below BUCKETS")).collect(),
            latency_count: filled().map(|(_, count)| *count).collect(),
            ..Self::default()
        }
    }
}

impl TryFrom<&v1::RevisionCounts> for Counts {
    type Error = ConvertError;

    fn try_from(wire: &v1::RevisionCounts) -> Result<Self, ConvertError> {
        if wire.latency_bucket.len() != wire.latency_count.len() {
            return Err(ConvertError::OutOfRange { field: "latency_count" });
        }
        let ascending = wire.latency_bucket.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascending || wire.latency_bucket.last().is_some_and(|last| *last as usize >= BUCKETS) {
            return Err(ConvertError::OutOfRange { field: "latency_bucket" });
        }
        let mut latency = if wire.latency_bucket.is_empty() { Vec::new() } else { vec![0; BUCKETS] };
        for (bucket, count) in wire.latency_bucket.iter().zip(&wire.latency_count) {
            latency[*bucket as usize] = *count;
        }
        // The two counters are read one after the other; where everything fails, the later one may be ahead.
        Ok(Self {
            requests: wire.requests.max(wire.failed),
            failed: wire.failed,
            refused: wire.refused,
            connect_failures: wire.connect_failures,
            latency,
        })
    }
}

// Digests, times and durations.

/// A digest field; `field` names it in the error.
pub fn digest(bytes: &[u8], field: &'static str) -> Result<Digest, ConvertError> {
    Digest::from_slice(bytes).ok_or(ConvertError::OutOfRange { field })
}

/// A digest field that may be empty.
pub fn digest_or_none(bytes: &[u8], field: &'static str) -> Result<Option<Digest>, ConvertError> {
    if bytes.is_empty() { Ok(None) } else { digest(bytes, field).map(Some) }
}

/// Unix time in milliseconds as it travels in views.
#[must_use]
pub fn timestamp(unix_ms: i64) -> prost_types::Timestamp {
    let nanos = i32::try_from(unix_ms.rem_euclid(1000) * 1_000_000).expect("below a second");
    prost_types::Timestamp { seconds: unix_ms.div_euclid(1000), nanos }
}

/// And back, cut to the millisecond. Errs outside of what an `i64` of milliseconds holds, or on nanoseconds outside of a
/// second.
pub fn unix_ms(timestamp: &prost_types::Timestamp) -> Result<i64, ConvertError> {
    const ERROR: ConvertError = ConvertError::OutOfRange { field: "timestamp" };
    if !(0..1_000_000_000).contains(&timestamp.nanos) {
        return Err(ERROR);
    }
    let unix_ms = i128::from(timestamp.seconds) * 1000 + i128::from(timestamp.nanos / 1_000_000);
    i64::try_from(unix_ms).map_err(|_| ERROR)
}

/// A duration as it travels in views; one of more seconds than an `i64` holds is cut to that.
#[must_use]
pub fn wire_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).expect("below a second"),
    }
}

/// And back. Errs on a negative one.
pub fn duration(duration: &prost_types::Duration) -> Result<Duration, ConvertError> {
    const ERROR: ConvertError = ConvertError::OutOfRange { field: "duration" };
    let seconds = u64::try_from(duration.seconds).map_err(|_| ERROR)?;
    let nanos = u32::try_from(duration.nanos).ok().filter(|nanos| *nanos < 1_000_000_000).ok_or(ERROR)?;
    Ok(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests;
