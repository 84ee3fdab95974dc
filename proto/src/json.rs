//! A message as the JSON that `-o json` prints: snake_case names, enums in lower case without their prefix, 64-bit
//! numbers as numbers, durations as `"3s"`, times as RFC 3339, every field present except unset messages.
//!
//! Works on any message of the package by reflection, so that a new field shows up by itself.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, ReflectMessage, Value};
use serde_json::{Map, Number, Value as Json};

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(crate::DESCRIPTOR_SET).expect("our own build wrote the descriptor set"));

/// The JSON of a message of package `sealane.v1`, by its name there (`Rollout`).
///
/// # Panics
/// If the package has no message of that name, which a test of every caller shows.
#[must_use]
pub fn to_json(name: &str, message: &impl Message) -> Json {
    let descriptor = POOL.get_message_by_name(&format!("sealane.v1.{name}")).expect("a message of our own package");
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .expect("what prost encoded, its descriptor decodes");
    object(&dynamic)
}

fn object(message: &DynamicMessage) -> Json {
    match message.descriptor().full_name() {
        "google.protobuf.Duration" => return Json::String(duration(message)),
        "google.protobuf.Timestamp" => return Json::String(time(message)),
        _ => {}
    }
    let mut out = Map::new();
    for field in message.descriptor().fields() {
        if field.supports_presence() && !message.has_field(&field) {
            continue;
        }
        out.insert(field.name().to_owned(), value(&field, &message.get_field(&field)));
    }
    Json::Object(out)
}

fn value(field: &FieldDescriptor, value: &Value) -> Json {
    match value {
        Value::Bool(flag) => Json::Bool(*flag),
        Value::I32(number) => (*number).into(),
        Value::I64(number) => (*number).into(),
        Value::U32(number) => (*number).into(),
        Value::U64(number) => (*number).into(),
        Value::F32(number) => float(f64::from(*number)),
        Value::F64(number) => float(*number),
        Value::String(text) => Json::String(text.clone()),
        Value::Bytes(bytes) => Json::String(hex(bytes)),
        Value::EnumNumber(number) => Json::String(enum_name(field, *number)),
        Value::Message(message) => object(message),
        Value::List(items) => Json::Array(items.iter().map(|item| self::value(field, item)).collect()),
        Value::Map(_) => Json::Null, // the package has no map fields
    }
}

fn float(number: f64) -> Json {
    if number.fract() == 0.0 && number.abs() < 9e15 {
        return Json::Number((number as i64).into());
    }
    Number::from_f64(number).map_or(Json::Null, Json::Number)
}

fn enum_name(field: &FieldDescriptor, number: i32) -> String {
    let Kind::Enum(descriptor) = field.kind() else { return number.to_string() };
    let Some(value) = descriptor.get_value(number) else { return number.to_string() };
    let name = value.name().to_ascii_lowercase();
    let mut prefix = String::new();
    for (index, letter) in descriptor.name().char_indices() {
        if letter.is_ascii_uppercase() && index > 0 {
            prefix.push('_');
        }
        prefix.push(letter.to_ascii_lowercase());
    }
    prefix.push('_');
    name.strip_prefix(&prefix).unwrap_or(&name).to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parts(message: &DynamicMessage) -> (i64, i32) {
    let seconds = message.get_field_by_name("seconds").and_then(|value| value.as_i64()).unwrap_or(0);
    let nanos = message.get_field_by_name("nanos").and_then(|value| value.as_i32()).unwrap_or(0);
    (seconds, nanos)
}

fn duration(message: &DynamicMessage) -> String {
    let (seconds, nanos) = parts(message);
    if nanos == 0 {
        return format!("{seconds}s");
    }
    format!("{}s", format!("{seconds}.{nanos:09}").trim_end_matches('0'))
}

fn time(message: &DynamicMessage) -> String {
    let (seconds, nanos) = parts(message);
    jiff::Timestamp::new(seconds, nanos).map_or_else(|_| String::new(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    #[test]
    fn a_rollout_reads_as_the_interfaces_page_says() {
        let rollout = v1::Rollout {
            revision: 42,
            state: v1::RolloutState::RolledBack.into(),
            stage: "canary".into(),
            reason: Some(v1::Reason { gate: "error_rate".into(), value: 0.034, limit: 0.01, ..Default::default() }),
            stages: vec![v1::StageStatus {
                bake: Some(prost_types::Duration { seconds: 3, nanos: 0 }),
                baked: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
                ..Default::default()
            }],
            started_at: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
            ..Default::default()
        };
        let json = to_json("Rollout", &rollout);
        assert_eq!(json["revision"], 42);
        assert_eq!(json["state"], "rolled_back");
        assert_eq!(json["reason"]["value"], 0.034);
        assert_eq!(json["stages"][0]["bake"], "3s");
        assert_eq!(json["stages"][0]["baked"], "1.5s");
        assert_eq!(json["started_at"], "2023-11-14T22:13:20Z");
        assert!(json.get("changed_at").is_none(), "an unset message is left out");
    }
}
