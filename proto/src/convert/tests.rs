use std::time::Duration;

use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage as _, Value};
use sealane_model::bundle::{Packed, Resource, pack};
use sealane_model::envelope::PayloadType;
use sealane_model::grant::Grant;
use sealane_model::ids::{Epoch, FleetId, ProxyId, Revision};
use sealane_model::keys::SigningKey;
use sealane_model::latency::bucket;
use sealane_model::plan::{GatePlan, OnAuthorityLoss, OnNoData, Wave};
use sealane_model::release::{Release, VerifiedRelease};
use sealane_model::timestamp::Timestamp;
use sealane_model::trust::{PlanFloor, RootDocument, TrustRoot};
use sealane_model::verify::VerifyError;

use super::*;

fn key() -> SigningKey {
    SigningKey::from_entropy([5; 32])
}

/// Every field differs from its default.
fn full_plan() -> Plan {
    let mut plan = Plan::default();
    plan.gates.push(GatePlan::RejectedNodes(3));
    plan.gates.push(GatePlan::Latency { percentile: 99, max: Duration::from_micros(1500) });
    plan.stages[3].bake = Duration::from_millis(7);
    plan.on_no_data = OnNoData::Proceed;
    plan.on_authority_loss = OnAuthorityLoss::Continue;
    plan.waves.insert(0, Wave { name: "first".into(), regions: vec!["eu".into(), "us".into()] });
    plan.cold_start_gate = true;
    plan.compare_detect = Some(3.0);
    plan.burn_rate_max = Some(10.0);
    plan
}

fn full_root() -> RootDocument {
    let mut root = RootDocument::single_key(FleetId("f".into()), &key().public(), 9);
    root.keys[0].offline = true;
    root.keys[0].comment = "in the safe".into();
    root.plan_floor = PlanFloor {
        stages_min: 2,
        bake_min: Duration::from_secs(60),
        first_share_max_bp: Some(250),
        change_classes: vec![ChangeClass::Standard, ChangeClass::Revert],
    };
    root.epoch_max = Some(Epoch(2));
    root
}

fn packed() -> Packed {
    pack(vec![Resource { kind: "config".into(), name: "fleet.yaml".into(), content: b"listen: :80".to_vec() }]).unwrap()
}

fn full_release() -> Release {
    Release {
        fleet: FleetId("f".into()),
        epoch: Epoch(2),
        revision: Revision(42),
        partition: Partition::Sandbox,
        manifest_digest: packed().manifest_digest,
        manifest_bytes: packed().manifest.len() as u64,
        base: Some(Digest([1; 32])),
        capabilities: vec!["config.v1".into()],
        schema_min: 1,
        schema_max: 2,
        plan: full_plan(),
        change_class: ChangeClass::Expedited,
        author: "ana".into(),
        message: "why".into(),
        created_at_unix_ms: 7,
        producer: "sealane 0.1.0".into(),
    }
}

fn full_grant() -> Grant {
    Grant {
        fleet: FleetId("f".into()),
        epoch: Epoch(2),
        revision: Revision(42),
        release_digest: Digest([4; 32]),
        wave: 1,
        stage: 2,
        cut: u64::MAX,
        regions: vec!["*".into()],
        sequence: 8,
        not_after_unix_ms: 99,
        proxy: Some(ProxyId("edge-1".into())),
    }
}

fn full_timestamp() -> Timestamp {
    Timestamp {
        fleet: FleetId("f".into()),
        epoch: Epoch(2),
        heads: vec![
            (Partition::Config, Revision(1), Digest([1; 32])),
            (Partition::Sandbox, Revision(2), Digest([2; 32])),
        ],
        time_unix_ms: 5,
        expires_unix_ms: 6,
        grant_sequence_min: 7,
        root_version: 1,
        audit_head: vec![8; 32],
    }
}

fn trust() -> TrustRoot {
    TrustRoot::pinned(&full_root().sign(&[&key()])).unwrap()
}

fn descriptor(name: &str) -> MessageDescriptor {
    let pool = DescriptorPool::decode(crate::DESCRIPTOR_SET).unwrap();
    pool.get_message_by_name(&format!("sealane.v1.{name}")).unwrap()
}

/// Asserts that the .proto file knows every field in `bytes`, and that `bytes` have every field of the .proto file.
fn assert_same_fields(name: &str, bytes: &[u8]) {
    fn check(message: &DynamicMessage) {
        let name = message.descriptor().full_name().to_owned();
        assert_eq!(message.unknown_fields().count(), 0, "{name}: a field that the .proto file does not have");
        for field in message.descriptor().fields() {
            let name = field.full_name();
            assert!(message.has_field(&field), "{name}: not written by the model");
            match &*message.get_field(&field) {
                Value::Message(inner) => check(inner),
                // The elements together have every field; the first one is enough here.
                Value::List(items) => items.first().and_then(Value::as_message).into_iter().for_each(check),
                _ => {}
            }
        }
    }
    check(&DynamicMessage::decode(descriptor(name), bytes).unwrap());
}

/// What the generated code reads it writes again, byte for byte.
fn reread<M: prost::Message + Default>(name: &str, bytes: &[u8]) -> M {
    assert_same_fields(name, bytes);
    let message = M::decode(bytes).unwrap();
    assert_eq!(message.encode_to_vec(), bytes, "{name}");
    message
}

#[test]
fn the_generated_code_reads_every_signed_document_of_the_model_field_by_field() {
    let root: v1::TrustRoot = reread("TrustRoot", &full_root().sign(&[]).payload);
    assert_eq!((root.fleet_id.as_str(), root.version, root.created_at_unix_ms), ("f", 1, 9));
    assert_eq!(root.epoch_max, 2);
    assert_eq!(root.keys[0].public_key, key().public().to_bytes());
    assert_eq!((root.keys[0].offline, root.keys[0].comment.as_str()), (true, "in the safe"));
    let roles: Vec<_> = root.roles.iter().map(|role| (role.name.as_str(), role.threshold)).collect();
    assert_eq!(roles, [("root", 1), ("release", 1), ("timestamp", 1)]);
    assert_eq!(root.roles[0].key_ids, [key().public().id().0]);
    let floor = root.plan_floor.unwrap();
    assert_eq!((floor.stages_min, floor.bake_ms_min, floor.first_percent_max), (2, 60_000, 2.5));
    assert_eq!(floor.change_classes, [v1::ChangeClass::Standard as i32, v1::ChangeClass::Revert as i32]);

    let release: v1::Release = reread("Release", &full_release().sign(&[]).payload);
    assert_eq!((release.fleet_id.as_str(), release.epoch, release.revision), ("f", 2, 42));
    assert_eq!(release.partition(), v1::Partition::Sandbox);
    assert_eq!(release.manifest_digest, packed().manifest_digest.0);
    assert_eq!(release.manifest_bytes, packed().manifest.len() as u64);
    assert_eq!(release.base_digest, [1; 32]);
    assert_eq!(
        (release.capabilities.as_slice(), release.schema_min, release.schema_max),
        (&["config.v1".into()][..], 1, 2)
    );
    assert_eq!(release.change_class(), v1::ChangeClass::Expedited);
    assert_eq!(
        (release.author.as_str(), release.message.as_str(), release.producer.as_str()),
        ("ana", "why", "sealane 0.1.0")
    );
    assert_eq!(release.created_at_unix_ms, 7);
    assert_eq!(release.plan, Some(full_plan().into()));

    let grant: v1::Grant = reread("Grant", &full_grant().sign(&[]).payload);
    let expected = v1::Grant {
        fleet_id: "f".into(),
        epoch: 2,
        revision: 42,
        release_digest: vec![4; 32],
        wave: 1,
        stage: 2,
        cut: u64::MAX,
        regions: vec!["*".into()],
        sequence: 8,
        not_after_unix_ms: 99,
        proxy_id: "edge-1".into(),
    };
    assert_eq!(grant, expected);

    let timestamp: v1::Timestamp = reread("Timestamp", &full_timestamp().sign(&[]).payload);
    let head = |partition: v1::Partition, revision, digest| v1::PartitionHead {
        partition: partition.into(),
        revision,
        release_digest: vec![digest; 32],
    };
    let expected = v1::Timestamp {
        fleet_id: "f".into(),
        epoch: 2,
        heads: vec![head(v1::Partition::Config, 1, 1), head(v1::Partition::Sandbox, 2, 2)],
        time_unix_ms: 5,
        expires_unix_ms: 6,
        grant_sequence_min: 7,
        root_version: 1,
        audit_head: vec![8; 32],
    };
    assert_eq!(timestamp, expected);

    let manifest: v1::Manifest = reread("Manifest", &packed().manifest);
    let digest = Digest::of(b"listen: :80").to_vec();
    let resource = v1::Resource {
        kind: "config".into(),
        name: "fleet.yaml".into(),
        digest: digest.clone(),
        length: 11,
        chunks: vec![v1::ChunkRef { digest, length: 11 }],
    };
    assert_eq!(manifest.resources, [resource]);

    let signed = full_grant().sign(&[&key()]);
    let envelope: v1::Envelope = reread("Envelope", &signed.to_bytes());
    assert_eq!(envelope, v1::Envelope::from(&signed));
    assert_eq!(Envelope::from(envelope), signed);
}

#[test]
fn the_model_reads_every_signed_document_of_the_generated_code() {
    let resign = |payload_type, message: Vec<u8>| Envelope::sign(payload_type, message, &[&key()]);

    let root: v1::TrustRoot = reread("TrustRoot", &full_root().sign(&[]).payload);
    let root = TrustRoot::pinned(&resign(PayloadType::Root, root.encode_to_vec())).unwrap();
    assert_eq!(*root.document(), full_root());

    let release: v1::Release = reread("Release", &full_release().sign(&[]).payload);
    let release = root.verify_release(&resign(PayloadType::Release, release.encode_to_vec())).unwrap();
    assert_eq!(*release.release(), full_release());

    let grant: v1::Grant = reread("Grant", &full_grant().sign(&[]).payload);
    let grant = root.verify_grant(&resign(PayloadType::Grant, grant.encode_to_vec())).unwrap();
    assert_eq!(*grant.grant(), full_grant());

    let timestamp: v1::Timestamp = reread("Timestamp", &full_timestamp().sign(&[]).payload);
    let timestamp = root.verify_timestamp(&resign(PayloadType::Timestamp, timestamp.encode_to_vec()), None).unwrap();
    assert_eq!(*timestamp.timestamp(), full_timestamp());

    let manifest: v1::Manifest = reread("Manifest", &packed().manifest);
    assert_eq!(release.open_manifest(&manifest.encode_to_vec()).unwrap().resources().len(), 1);

    let envelope = v1::Envelope::from(grant.envelope());
    assert_eq!(Envelope::from_bytes(&envelope.encode_to_vec()), Ok(grant.envelope().clone()));
}

fn with_release(change: impl FnOnce(&mut v1::Release)) -> Result<VerifiedRelease, VerifyError> {
    let mut release: v1::Release = reread("Release", &full_release().sign(&[]).payload);
    change(&mut release);
    trust().verify_release(&Envelope::sign(PayloadType::Release, release.encode_to_vec(), &[&key()]))
}

#[test]
fn unspecified_and_unknown_enums_are_refused_even_when_signed() {
    let malformed = |what| Err(VerifyError::Malformed { what });
    for number in [0, 3, -1] {
        assert_eq!(with_release(|release| release.partition = number), malformed("release: partition"));
        assert_eq!(partition(number), Err(ConvertError::Unknown { field: "partition" }));
    }
    for number in [0, 5, i32::MIN] {
        assert_eq!(with_release(|release| release.change_class = number), malformed("release: change class"));
        assert_eq!(change_class(number), Err(ConvertError::Unknown { field: "change_class" }));
    }
    assert_eq!(change_class_or_standard(0), Ok(ChangeClass::Standard));
    assert_eq!(change_class_or_standard(4), Ok(ChangeClass::Revert));
    assert!(change_class_or_standard(5).is_err());
    for class in [ChangeClass::Standard, ChangeClass::Expedited, ChangeClass::Sandbox, ChangeClass::Revert] {
        assert_eq!(change_class(v1::ChangeClass::from(class).into()), Ok(class));
    }
    for line in [Partition::Config, Partition::Sandbox] {
        assert_eq!(partition(v1::Partition::from(line).into()), Ok(line));
    }
}

#[test]
fn fields_that_are_missing_or_out_of_range_are_refused_even_when_signed() {
    let malformed = |what| Err(VerifyError::Malformed { what });
    assert_eq!(with_release(|release| release.revision = 0), malformed("release: revision 0"));
    assert_eq!(with_release(|release| release.plan = None), malformed("release: no plan"));
    assert_eq!(with_release(|release| release.base_digest = vec![1; 31]), malformed("release: base digest"));
    assert_eq!(with_release(|release| release.manifest_digest.clear()), malformed("release: manifest digest"));
}

#[test]
fn plans_survive_the_wire_and_nonsense_does_not() {
    for plan in [Plan::default(), full_plan()] {
        assert_eq!(Plan::try_from(v1::RolloutPlan::from(&plan)), Ok(plan));
    }
    let refused = |change: fn(&mut v1::RolloutPlan)| {
        let mut plan = v1::RolloutPlan::from(full_plan());
        change(&mut plan);
        match Plan::try_from(plan) {
            Err(ConvertError::Plan(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let gate = |metric: &str| PlanError::Gate { gate: metric.into() };
    assert_eq!(refused(|plan| plan.gates[0].metric = "p42_latency".into()), gate("p42_latency"));
    assert_eq!(refused(|plan| plan.gates[0].threshold = f64::NAN), gate("error_rate"));
    assert_eq!(refused(|plan| plan.gates[1].threshold = -1.0), gate("p95_latency"));
    assert_eq!(refused(|plan| plan.gates[1].threshold = 1e300), gate("p95_latency"));
    assert_eq!(refused(|plan| plan.gates[2].threshold = 0.5), gate("rejected_nodes"));
    assert_eq!(refused(|plan| plan.on_no_data.clear()), PlanError::OutOfRange { field: "on_no_data" });
    assert_eq!(
        refused(|plan| plan.on_authority_loss = "stop".into()),
        PlanError::OutOfRange { field: "on_authority_loss" }
    );
    assert_eq!(refused(|plan| plan.burn_rate_max = -1.0), PlanError::OutOfRange { field: "burn_rate_max" });
    assert_eq!(refused(|plan| plan.burn_rate_max = f64::NAN), PlanError::OutOfRange { field: "burn_rate_max" });
    assert_eq!(refused(|plan| plan.stages[0].bake_ms = u64::MAX), PlanError::OutOfRange { field: "bake" });
    assert_eq!(refused(|plan| plan.waves[0].regions.clear()), PlanError::Waves);
    assert!(matches!(refused(|plan| plan.stages.swap(0, 1)), PlanError::Share { .. }));
}

#[test]
fn problems_survive_the_wire() {
    let problem = Problem {
        code: "unknown_key".into(),
        severity: Severity::Warning,
        message: "no key `rout`".into(),
        file: "fleet.yaml".into(),
        line: 3,
        column: 5,
        end_column: 9,
        path: "routes[0].rout".into(),
        help: "did you mean `route`?".into(),
        suggestion: Some("route".into()),
    };
    let mut wire = v1::Problem::from(&problem);
    assert_eq!(Problem::try_from(wire.clone()), Ok(problem));
    wire.severity = "fatal".into();
    assert_eq!(Problem::try_from(wire), Err(ConvertError::Unknown { field: "severity" }));
}

#[test]
fn counts_travel_without_their_empty_buckets() {
    let mut counts = Counts { requests: 10, failed: 2, refused: 3, connect_failures: 1, latency: vec![0; BUCKETS] };
    counts.latency[0] = 3;
    counts.latency[bucket(20_000)] = 6;
    counts.latency[BUCKETS - 1] = 1;
    let wire = v1::RevisionCounts { revision: 42, ..(&counts).into() };
    assert_eq!((wire.latency_bucket.len(), wire.latency_count.as_slice()), (3, &[3, 6, 1][..]));
    assert_eq!(Counts::try_from(&wire), Ok(counts));
    assert_eq!(Counts::try_from(&v1::RevisionCounts::default()), Ok(Counts::default()));

    let refused = |bucket: &[u32], count: &[u64], field| {
        let wire = v1::RevisionCounts {
            latency_bucket: bucket.to_vec(),
            latency_count: count.to_vec(),
            ..v1::RevisionCounts::default()
        };
        assert_eq!(Counts::try_from(&wire), Err(ConvertError::OutOfRange { field }));
    };
    refused(&[1], &[], "latency_count");
    refused(&[2, 1], &[1, 1], "latency_bucket");
    refused(&[1, 1], &[1, 1], "latency_bucket");
    refused(&[BUCKETS as u32], &[1], "latency_bucket");
    let ahead = v1::RevisionCounts { requests: 5, failed: 6, ..v1::RevisionCounts::default() };
    assert_eq!(Counts::try_from(&ahead).unwrap().error_rate(), Some(1.0), "a share is never above 1");
}

#[test]
fn times_and_durations_survive_the_wire() {
    for ms in [0, 1, -1, 1_760_000_000_123, i64::MIN, i64::MAX] {
        assert_eq!(unix_ms(&timestamp(ms)), Ok(ms));
    }
    assert!(timestamp(-1).nanos > 0, "nanoseconds never count backwards");
    let bad = prost_types::Timestamp { seconds: i64::MAX, nanos: 0 };
    assert_eq!(unix_ms(&bad), Err(ConvertError::OutOfRange { field: "timestamp" }));
    assert!(unix_ms(&prost_types::Timestamp { seconds: 0, nanos: -1 }).is_err());

    for one in [Duration::ZERO, Duration::from_nanos(1_500_000_001), Duration::from_secs(i64::MAX as u64)] {
        assert_eq!(duration(&wire_duration(one)), Ok(one));
    }
    assert_eq!(wire_duration(Duration::MAX).seconds, i64::MAX);
    for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000)] {
        assert!(duration(&prost_types::Duration { seconds, nanos }).is_err());
    }
    assert_eq!(digest_or_none(&[], "base_digest"), Ok(None));
    assert_eq!(digest(&[], "base_digest"), Err(ConvertError::OutOfRange { field: "base_digest" }));
}
