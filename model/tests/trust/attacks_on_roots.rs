//! Attacks on the trust root.

use sealane_model::envelope::{Envelope, PayloadType, Signature};
use sealane_model::keys::KeyId;
use sealane_model::trust::{KEYS_MAX, Role, RootDocument, TrustRoot};
use sealane_model::verify::VerifyError;

use crate::support::{document, key, root, root_key, signed_release};

fn version(version: u32) -> RootDocument {
    RootDocument { version, ..document() }
}

fn without_root(valid: u32) -> VerifyError {
    VerifyError::ThresholdNotMet { what: "trust root", role: "root", valid, threshold: 1 }
}

fn replace_root_keys(document: &mut RootDocument, seed: u8) {
    document.keys.push(root_key(&key(seed)));
    let role = document.roles.iter_mut().find(|one| one.role == Role::Root).unwrap();
    role.key_ids = vec![key(seed).public().id()];
}

#[test]
fn root_replaced() {
    let mut theirs = version(2);
    replace_root_keys(&mut theirs, 66);
    let root = root();
    assert_eq!(root.next(&theirs.sign(&[&key(66)])), Err(without_root(0)), "vouched for by itself alone");
    assert_eq!(root.next(&theirs.sign(&[&key(1)])), Err(without_root(0)), "vouched for by the old one alone");
    let next = root.next(&theirs.sign(&[&key(1), &key(66)])).unwrap();
    assert_eq!(next.document().version, 2);
}

#[test]
fn root_of_another_version() {
    let root = root();
    for offered in [1, 3, u32::MAX] {
        assert_eq!(
            root.next(&version(offered).sign(&[&key(1)])),
            Err(VerifyError::RootNotNext { offered, trusted: 1 })
        );
    }
    let last = TrustRoot::pinned(&version(u32::MAX).sign(&[&key(1)])).unwrap();
    assert_eq!(last.next(&version(1).sign(&[&key(1)])).unwrap_err().code(), "root_not_next");
}

#[test]
fn old_key_after_rotation() {
    let mut next = version(2);
    next.keys.push(root_key(&key(14)));
    let releases = next.roles.iter_mut().find(|one| one.role == Role::Release).unwrap();
    releases.key_ids = [12, 13, 14].map(|seed| key(seed).public().id()).into();
    let rotated = root().next(&next.sign(&[&key(1)])).unwrap();
    let envelope = signed_release(1, "a");
    assert!(root().verify_release(&envelope).is_ok());
    assert_eq!(
        rotated.verify_release(&envelope),
        Err(VerifyError::ThresholdNotMet { what: "release", role: "release", valid: 1, threshold: 2 })
    );
}

#[test]
fn root_that_does_not_meet_its_own_threshold() {
    assert_eq!(TrustRoot::pinned(&document().sign(&[&key(11)])), Err(without_root(0)));
    assert_eq!(TrustRoot::pinned(&document().sign(&[])), Err(VerifyError::Unsigned { what: "trust root" }));
    assert_eq!(TrustRoot::pinned(&signed_release(1, "a")).unwrap_err().code(), "wrong_type");
}

#[test]
fn root_with_a_weak_key() {
    // The identity point as a key: a signature of zeros would fit many messages.
    let good = RootDocument::single_key(crate::support::fleet(), &key(1).public(), 0).sign(&[]).payload;
    let mut weak = [0; 32];
    weak[0] = 1;
    let public = key(1).public().to_bytes();
    let at = good.windows(32).position(|window| window == public).unwrap();
    let mut payload = good;
    payload[at..at + 32].copy_from_slice(&weak);
    let mut signature = vec![0; 64];
    signature[0] = 1;
    let envelope = Envelope {
        payload_type: PayloadType::Root.as_str().into(),
        payload,
        signatures: vec![Signature { key_id: KeyId(String::new()), bytes: signature }],
    };
    assert_eq!(TrustRoot::pinned(&envelope), Err(VerifyError::Malformed { what: "trust root: a key is weak or none" }));
}

#[test]
fn unsound_roots() {
    let check = |change: fn(&mut RootDocument), expected: &'static str| {
        let mut document = document();
        change(&mut document);
        assert_eq!(
            TrustRoot::pinned(&document.sign(&[&key(1)])),
            Err(VerifyError::Malformed { what: expected }),
            "{expected}"
        );
    };
    check(|root| root.fleet.0.clear(), "trust root: no fleet");
    check(|root| root.version = 0, "trust root: version 0");
    check(|root| root.keys.push(root.keys[0].clone()), "trust root: a key is given twice");
    check(|root| root.roles[1].threshold = 0, "trust root: a threshold is outside 1 to the number of keys");
    check(|root| root.roles[1].threshold = 4, "trust root: a threshold is outside 1 to the number of keys");
    check(|root| root.roles[1].key_ids.clear(), "trust root: a threshold is outside 1 to the number of keys");
    check(|root| root.roles[1].key_ids[1] = root.roles[1].key_ids[0].clone(), "trust root: a role names a key twice");
    check(|root| root.roles[1].key_ids[1] = KeyId("0".repeat(64)), "trust root: a role names a key that is not there");
    check(|root| root.roles.truncate(2), "trust root: a role is missing");
    check(|root| root.roles[2] = root.roles[1].clone(), "trust root: a role is given twice");

    let mut crowd = document();
    crowd.keys = (0..=KEYS_MAX).map(|seed| root_key(&key(100 + seed as u8))).collect();
    assert_eq!(TrustRoot::pinned(&crowd.sign(&[&key(1)])).unwrap_err().code(), "too_many");
}

#[test]
fn a_plan_floor_survives_the_wire() {
    use sealane_model::release::ChangeClass;
    use sealane_model::trust::PlanFloor;
    let mut signed = document();
    signed.plan_floor = PlanFloor {
        stages_min: 3,
        bake_min: std::time::Duration::from_millis(1500),
        first_share_max_bp: Some(29),
        change_classes: vec![ChangeClass::Standard, ChangeClass::Sandbox],
    };
    let pinned = TrustRoot::pinned(&signed.sign(&[&key(2)])).unwrap();
    assert_eq!(*pinned.document(), signed);
    signed.plan_floor.first_share_max_bp = Some(0);
    let pinned = TrustRoot::pinned(&signed.sign(&[&key(2)])).unwrap();
    assert_eq!(pinned.document().plan_floor.first_share_max_bp, Some(1), "never read as \"no bound\"");
}
