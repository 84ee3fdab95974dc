//! Attacks on signed documents: releases, grants, timestamps. Each test is named after the attack.

use std::time::Duration;

use sealane_model::envelope::{ENVELOPE_BYTES_MAX, Envelope, PayloadType, SIGNATURES_MAX, Signature};
use sealane_model::grant::Grant;
use sealane_model::ids::{Digest, Epoch, FleetId, ProxyId, Revision};
use sealane_model::keys::KeyId;
use sealane_model::plan::PlanError;
use sealane_model::release::{ChangeClass, EPOCH_LEAP_MAX, Floor, Partition, REVISION_LEAP_MAX};
use sealane_model::timestamp::Timestamp;
use sealane_model::trust::PlanFloor;
use sealane_model::verify::VerifyError;

use crate::support::{document, easy_root, fleet, grant, key, release, root, signed_release, timestamp, verified};

fn one_of_two(what: &'static str) -> VerifyError {
    VerifyError::ThresholdNotMet { what, role: "release", valid: 1, threshold: 2 }
}

fn none_of_two(what: &'static str) -> VerifyError {
    VerifyError::ThresholdNotMet { what, role: "release", valid: 0, threshold: 2 }
}

fn refused(envelope: &Envelope) -> VerifyError {
    root().verify_release(envelope).unwrap_err()
}

#[test]
fn arbitrary_content() {
    let honest = signed_release(1, "listen: :80");
    for at in 0..honest.payload.len() {
        let mut forged = honest.clone();
        forged.payload[at] ^= 1;
        assert_eq!(refused(&forged), none_of_two("release"), "byte {at}");
    }
    let strangers = Envelope::sign(PayloadType::Release, honest.payload, &[&key(99), &key(98)]);
    assert_eq!(refused(&strangers), none_of_two("release"));
}

#[test]
fn same_signature_counted_twice() {
    let mut envelope = signed_release(1, "a");
    envelope.signatures[1] = envelope.signatures[0].clone();
    assert_eq!(refused(&envelope), one_of_two("release"));
}

#[test]
fn two_key_ids_for_one_key() {
    let mut envelope = signed_release(1, "a");
    let other_ids = [key(12).public().id(), key(13).public().id(), KeyId("00".into()), KeyId(String::new())];
    let bytes = envelope.signatures[0].bytes.clone();
    envelope.signatures.truncate(1);
    envelope.signatures.extend(other_ids.map(|key_id| Signature { key_id, bytes: bytes.clone() }));
    assert_eq!(refused(&envelope), one_of_two("release"));
}

#[test]
fn a_key_id_is_only_a_hint() {
    let mut envelope = signed_release(1, "a");
    for signature in &mut envelope.signatures {
        signature.key_id = KeyId("whatever".into());
    }
    root().verify_release(&envelope).unwrap();
}

#[test]
fn signed_by_keys_of_another_role() {
    let payload = signed_release(1, "a").payload;
    let envelope = Envelope::sign(PayloadType::Release, payload, &[&key(1), &key(2), &key(21)]);
    assert_eq!(refused(&envelope), none_of_two("release"));
}

#[test]
fn malleated_signature() {
    // s + l is the same scalar: the strict rules take only the reduced one (RFC 8032, 5.1.7).
    const L: [u8; 16] =
        [0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14];
    let mut envelope = signed_release(1, "a");
    let s = &mut envelope.signatures[0].bytes[32..];
    let mut carry = 0;
    for (at, byte) in s.iter_mut().enumerate() {
        let l = L.get(at).copied().unwrap_or(if at == 31 { 0x10 } else { 0 });
        let sum = u16::from(*byte) + u16::from(l) + carry;
        (*byte, carry) = ((sum & 0xff) as u8, sum >> 8);
    }
    assert_eq!(refused(&envelope), one_of_two("release"));
}

#[test]
fn cross_type_replay() {
    // With one key for every role only the type stands between a grant and a release.
    let root = easy_root();
    let verified = root.verify_release(&release(1, &packed()).sign(&[&key(1)])).unwrap();
    let mut envelope = grant(&verified).sign(&[&key(1)]);
    assert_eq!(
        root.verify_release(&envelope),
        Err(VerifyError::WrongType {
            offered: PayloadType::Grant.as_str().into(),
            expected: PayloadType::Release.as_str()
        })
    );
    assert_eq!(root.verify_timestamp(&envelope, None).unwrap_err().code(), "wrong_type");
    assert_eq!(root.next(&envelope).unwrap_err().code(), "wrong_type");
    envelope.payload_type = PayloadType::Release.as_str().into();
    assert_eq!(root.verify_release(&envelope).unwrap_err().code(), "threshold_not_met");
}

fn packed() -> sealane_model::bundle::Packed {
    sealane_model::bundle::pack(crate::support::config("listen: :80")).unwrap()
}

#[test]
fn cross_fleet_replay() {
    // The same keys serve two fleets.
    let root = root();
    let theirs = FleetId("us-shop".into());
    let wrong = VerifyError::WrongFleet { offered: theirs.clone(), expected: fleet() };

    let mut release = release(1, &packed());
    release.fleet = theirs.clone();
    assert_eq!(root.verify_release(&release.sign(&[&key(11), &key(12)])).unwrap_err(), wrong);

    let grant = Grant { fleet: theirs.clone(), ..grant(&verified(1, "a")) };
    assert_eq!(root.verify_grant(&grant.sign(&[&key(21)])).unwrap_err(), wrong);

    let timestamp = Timestamp { fleet: theirs.clone(), ..timestamp() };
    assert_eq!(root.verify_timestamp(&timestamp.sign(&[&key(21)]), None).unwrap_err(), wrong);

    let mut next = document();
    (next.fleet, next.version) = (theirs, 2);
    assert_eq!(root.next(&next.sign(&[&key(1)])).unwrap_err(), wrong);
}

#[test]
fn old_revision() {
    let floor = Floor::admit(None, &verified(42, "a")).unwrap();
    assert_eq!(
        Floor::admit(Some(&floor), &verified(41, "a")),
        Err(VerifyError::RevisionTooOld {
            offered: Revision(41),
            offered_epoch: Epoch(1),
            floor: Revision(42),
            floor_epoch: Epoch(1)
        })
    );
    assert_eq!(Floor::admit(Some(&floor), &verified(42, "a")), Ok(floor), "the very same one may come again");
    assert_eq!(Floor::admit(Some(&floor), &verified(43, "a")).unwrap().revision, Revision(43));
}

#[test]
fn old_epoch_with_a_higher_revision() {
    let floor = Floor { epoch: Epoch(2), revision: Revision(5), digest: Digest([0; 32]) };
    assert_eq!(Floor::admit(Some(&floor), &verified(6, "a")).unwrap_err().code(), "revision_too_old");
}

#[test]
fn same_revision_with_other_content() {
    let floor = Floor::admit(None, &verified(42, "a")).unwrap();
    assert_eq!(
        Floor::admit(Some(&floor), &verified(42, "b")),
        Err(VerifyError::SameRevisionDifferentDigest { revision: Revision(42) })
    );
}

#[test]
fn absurdly_high_revision() {
    let floor = Floor::admit(None, &verified(42, "a")).unwrap();
    assert_eq!(
        Floor::admit(Some(&floor), &verified(42 + REVISION_LEAP_MAX + 1, "b")),
        Err(VerifyError::RevisionTooHigh { offered: Revision(42 + REVISION_LEAP_MAX + 1), floor: Revision(42) })
    );
    assert_eq!(Floor::admit(Some(&floor), &verified(u64::MAX, "b")).unwrap_err().code(), "revision_too_high");
    assert!(Floor::admit(Some(&floor), &verified(42 + REVISION_LEAP_MAX, "b")).is_ok());
    let mut far = release(43, &packed());
    far.epoch = Epoch(2 + EPOCH_LEAP_MAX);
    let far = root().verify_release(&far.sign(&[&key(11), &key(12)])).unwrap();
    assert_eq!(Floor::admit(Some(&floor), &far).unwrap_err().code(), "epoch_too_high");
}

#[test]
fn endless_data() {
    let mut envelope = signed_release(1, "a");
    envelope.payload = vec![0; ENVELOPE_BYTES_MAX + 1];
    assert_eq!(refused(&envelope).code(), "too_large");
    assert_eq!(Envelope::from_bytes(&envelope.to_bytes()).unwrap_err().code(), "too_large");
    assert_eq!(Envelope::from_json(&envelope.to_json()).unwrap_err().code(), "too_large");
    assert_eq!(Envelope::from_json(&" ".repeat(1 << 20)).unwrap_err().code(), "too_large");

    let mut envelope = signed_release(1, "a");
    envelope.signatures = vec![envelope.signatures[0].clone(); SIGNATURES_MAX + 1];
    let many = VerifyError::TooMany { what: "signatures", count: 17, max: 16 };
    assert_eq!(refused(&envelope), many);
    assert_eq!(Envelope::from_bytes(&envelope.to_bytes()).unwrap_err(), many);
}

#[test]
fn downgrade_to_unsigned() {
    let mut envelope = signed_release(1, "a");
    envelope.signatures.clear();
    assert_eq!(refused(&envelope), VerifyError::Unsigned { what: "release" });
    for bytes in [Vec::new(), vec![0; 64], vec![0; 63]] {
        envelope.signatures = vec![Signature { key_id: key(11).public().id(), bytes }];
        assert_eq!(refused(&envelope), none_of_two("release"));
    }
    envelope = grant(&verified(1, "a")).sign(&[]);
    assert_eq!(root().verify_grant(&envelope), Err(VerifyError::Unsigned { what: "grant" }));
    envelope = timestamp().sign(&[]);
    assert_eq!(root().verify_timestamp(&envelope, None), Err(VerifyError::Unsigned { what: "timestamp" }));
}

#[test]
fn unknown_critical_field() {
    // A field that an old reader must not overlook names a capability or raises the schema.
    let mut newer = release(1, &packed());
    newer.capabilities.push("config.v2".into());
    assert_eq!(
        refused(&newer.sign(&[&key(11), &key(12)])),
        VerifyError::MissingCapability { capability: "config.v2".into() }
    );
    let mut newer = release(1, &packed());
    (newer.schema_min, newer.schema_max) = (2, 3);
    assert_eq!(refused(&newer.sign(&[&key(11), &key(12)])), VerifyError::SchemaOutOfRange { min: 2, max: 3, ours: 1 });
}

#[test]
fn nonsense_plan_of_a_trusted_signer() {
    let refused_plan = |change: fn(&mut sealane_model::plan::Plan)| {
        let mut release = release(1, &packed());
        change(&mut release.plan);
        match refused(&release.sign(&[&key(11), &key(12)])) {
            VerifyError::Plan(error) => error,
            other => panic!("{other}"),
        }
    };
    let share = |plan: PlanError| matches!(plan, PlanError::Share { .. });
    assert!(share(refused_plan(|plan| plan.stages[1].fleet_percent = 1.0)), "shares must rise");
    assert!(share(refused_plan(|plan| plan.stages[3].fleet_percent = 99.0)), "and end at 100");
    assert!(share(refused_plan(|plan| plan.stages[0].fleet_percent = f64::NAN)));
    assert!(share(refused_plan(|plan| plan.stages[0].fleet_percent = 0.0)));
    assert!(share(refused_plan(|plan| plan.stages[3].fleet_percent = f64::INFINITY)));
    assert_eq!(refused_plan(|plan| plan.stages.clear()), PlanError::StageCount { count: 0 });
    assert_eq!(
        refused_plan(|plan| plan.stages = vec![plan.stages[0].clone(); 21]),
        PlanError::StageCount { count: 21 }
    );
    assert_eq!(refused_plan(|plan| plan.stages[1].name = "canary".into()), PlanError::Name { name: "canary".into() });
    assert_eq!(refused_plan(|plan| plan.waves.clear()), PlanError::Waves);
    assert_eq!(refused_plan(|plan| plan.waves = vec![plan.waves[0].clone(); 101]), PlanError::Waves);
    assert_eq!(
        refused_plan(|plan| plan.final_bake = Duration::from_millis(u64::MAX)),
        PlanError::OutOfRange { field: "final_bake" }
    );
    assert_eq!(refused_plan(|plan| plan.compare_alpha = f64::NAN), PlanError::OutOfRange { field: "compare_alpha" });
    assert_eq!(
        refused_plan(|plan| (plan.burn_rate_max, plan.slo_percent) = (Some(10.0), 100.0)),
        PlanError::OutOfRange { field: "slo_percent" }
    );
    assert_eq!(
        refused_plan(|plan| plan.gates[0] = sealane_model::plan::GatePlan::ErrorRate(1.5)),
        PlanError::Gate { gate: "error_rate".into() }
    );
}

#[test]
fn skipped_canary_by_a_stolen_authority_key() {
    let floor = PlanFloor {
        stages_min: 2,
        bake_min: Duration::from_secs(60),
        first_share_max_bp: Some(500),
        change_classes: vec![ChangeClass::Standard, ChangeClass::Expedited],
    };
    let honest = release(1, &packed());
    assert_eq!(floor.admit(&honest), Ok(()));
    let below = |why| Err(VerifyError::BelowPlanFloor { why });

    let mut straight = honest.clone();
    straight.plan.stages.drain(..3);
    assert_eq!(floor.admit(&straight), below("too few stages before 100 %"));

    let mut hasty = honest.clone();
    hasty.plan.stages[1].bake = Duration::from_secs(59);
    assert_eq!(floor.admit(&hasty), below("a bake is too short"));
    hasty.plan.stages[1].bake = Duration::from_secs(299);
    assert_eq!(floor.admit(&hasty), Ok(()));
    hasty.change_class = ChangeClass::Expedited;
    assert_eq!(floor.admit(&hasty), below("a bake is too short"), "a fifth of it is what bakes");

    let mut wide = honest.clone();
    wide.plan.stages[0].fleet_percent = 5.01;
    assert_eq!(floor.admit(&wide), below("its first share is too large"));

    let revert = sealane_model::release::Release { change_class: ChangeClass::Revert, ..honest };
    assert_eq!(floor.admit(&revert), below("its change class is not allowed"));
}

#[test]
fn grant_replayed_after_abort() {
    let root = root();
    let release = verified(42, "a");
    let check = |grant: Grant, sequence_min, now| {
        root.verify_grant(&grant.sign(&[&key(21)])).unwrap().grant().check(&release, sequence_min, now)
    };
    let refused = |why| Err(VerifyError::GrantRefused { why });
    let honest = grant(&release);
    let now = crate::support::NOW_UNIX_MS;
    assert_eq!(check(honest.clone(), 8, now), Ok(()));
    assert_eq!(check(honest.clone(), 9, now), refused("it was taken back"));
    assert_eq!(check(honest.clone(), 8, now + 60_001), refused("it has expired"));
    assert_eq!(check(grant(&verified(42, "b")), 8, now), refused("it is for another release"));
    assert_eq!(check(Grant { revision: Revision(43), ..honest.clone() }, 8, now), refused("it is for another release"));
    assert_eq!(check(Grant { stage: 4, ..honest.clone() }, 8, now), refused("its stage is not in the plan"));
    assert_eq!(check(Grant { wave: 1, ..honest }, 8, now), refused("its wave is not in the plan"));
}

#[test]
fn grant_for_other_proxies() {
    let release = verified(42, "a");
    let proxy = ProxyId("edge-1".into());
    let rank = sealane_model::cohort::rank(&release.digest(), &proxy);
    let grant = Grant { cut: rank, ..grant(&release) };
    assert!(grant.covers(&proxy, "eu"), "the cut is inclusive");
    assert!(!grant.covers(&proxy, "us"));
    assert!(!Grant { cut: rank - 1, ..grant.clone() }.covers(&proxy, "eu"));
    assert!(Grant { regions: vec!["*".into()], ..grant.clone() }.covers(&proxy, "us"));
    assert!(!Grant { regions: Vec::new(), ..grant }.covers(&proxy, "eu"));
}

#[test]
fn clock_set_back() {
    let root = root();
    let seen = timestamp();
    let check = |change: fn(&mut Timestamp)| {
        let mut next = timestamp();
        change(&mut next);
        root.verify_timestamp(&next.sign(&[&key(21)]), Some(&seen)).map(|_| ())
    };
    let back = Err(VerifyError::TimestampRolledBack);
    assert_eq!(check(|_| ()), Ok(()), "the one seen may come again");
    assert_eq!(check(|next| next.time_unix_ms -= 1), back);
    assert_eq!(check(|next| next.epoch = Epoch(0)), back);
    assert_eq!(check(|next| next.grant_sequence_min = 6), back, "void grants would be good again");
    assert_eq!(check(|next| next.root_version = 0), back);
    assert_eq!(
        check(|next| {
            next.epoch = Epoch(2);
            next.time_unix_ms -= 1;
        }),
        back,
        "a new epoch turns no clock back"
    );
}

#[test]
fn withheld_revision() {
    let root = root();
    let seen = timestamp();
    let check = |heads: Vec<(Partition, Revision, Digest)>, epoch| {
        let next = Timestamp { heads, epoch: Epoch(epoch), ..timestamp() };
        root.verify_timestamp(&next.sign(&[&key(21)]), Some(&seen)).map(|_| ())
    };
    let head = |revision, digest| (Partition::Config, Revision(revision), Digest([digest; 32]));
    assert_eq!(check(vec![head(40, 40)], 1), Err(VerifyError::TimestampRolledBack));
    assert_eq!(check(vec![], 1), Err(VerifyError::TimestampRolledBack));
    assert_eq!(
        check(vec![head(41, 9)], 1),
        Err(VerifyError::SameRevisionDifferentDigest { revision: Revision(41) }),
        "two histories of one fleet"
    );
    assert_eq!(check(vec![head(42, 42)], 1), Ok(()));
    assert_eq!(check(vec![head(3, 3)], 2), Ok(()), "a restored database counts afresh in its new epoch");
    assert_eq!(check(vec![head(42, 42), head(43, 43)], 1).unwrap_err().code(), "malformed");
}
