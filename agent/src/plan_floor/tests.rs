//! What the plan floor lets through and what not.

use std::time::Duration;

use sealane_model::ids::{AgentId, Digest, Epoch, FleetId, Revision};
use sealane_model::keys::SigningKey;
use sealane_model::plan::Plan;
use sealane_model::release::{Partition, Release, SCHEMA};
use sealane_model::trust::{RootDocument, TrustRoot};

use super::*;

fn key() -> SigningKey {
    SigningKey::from_entropy([1; 32])
}

fn state(floor: PlanFloor) -> State {
    let mut document = RootDocument::single_key(FleetId("f".into()), &key().public(), 0);
    document.plan_floor = floor;
    State::new(AgentId("a".into()), TrustRoot::pinned(&document.sign(&[&key()])).unwrap())
}

fn release(state: &State, change: impl FnOnce(&mut Release)) -> VerifiedRelease {
    let mut release = Release {
        fleet: FleetId("f".into()),
        epoch: Epoch(0),
        revision: Revision(2),
        partition: Partition::Config,
        manifest_digest: Digest::of(b"content"),
        manifest_bytes: 7,
        base: None,
        capabilities: vec![],
        schema_min: SCHEMA,
        schema_max: SCHEMA,
        plan: Plan::default(),
        change_class: ChangeClass::Standard,
        author: "a test".into(),
        message: String::new(),
        created_at_unix_ms: 0,
        producer: "test".into(),
    };
    change(&mut release);
    state.trust().verify_release(&release.sign(&[&key()])).unwrap()
}

fn check(floor: &PlanFloor, change: impl FnOnce(&mut Release)) -> Result<(), &'static str> {
    let state = state(floor.clone());
    check_release(&state, &release(&state, change)).map_err(|error| match error {
        VerifyError::BelowPlanFloor { why } => why,
        other => panic!("{other}"),
    })
}

#[test]
fn without_a_floor_everything_passes() {
    assert_eq!(check(&PlanFloor::default(), |release| drop(release.plan.stages.drain(..3))), Ok(()));
    assert_eq!(check(&PlanFloor::default(), |release| release.change_class = ChangeClass::Revert), Ok(()));
}

#[test]
fn a_plan_must_be_as_careful_as_the_floor() {
    let floor = PlanFloor {
        stages_min: 3,
        bake_min: Duration::from_secs(300),
        first_share_max_bp: Some(100),
        change_classes: vec![],
    };
    assert_eq!(check(&floor, |_| {}), Ok(()), "the default plan is");
    let fewer = check(&floor, |release| drop(release.plan.stages.remove(1)));
    assert_eq!(fewer, Err("too few stages before 100 %"));
    let shorter = check(&floor, |release| release.plan.stages[1].bake = Duration::from_secs(299));
    assert_eq!(shorter, Err("a bake is too short"));
    let hasty = check(&floor, |release| release.change_class = ChangeClass::Expedited);
    assert_eq!(hasty, Err("a bake is too short"), "a fifth of it is what bakes");
    let larger = check(&floor, |release| release.plan.stages[0].fleet_percent = 1.5);
    assert_eq!(larger, Err("its first share is too large"));
}

#[test]
fn a_class_must_be_allowed_and_a_revert_must_be_what_was_good_here() {
    let floor = PlanFloor { change_classes: vec![ChangeClass::Standard, ChangeClass::Revert], ..PlanFloor::default() };
    let expedited = check(&floor, |release| release.change_class = ChangeClass::Expedited);
    assert_eq!(expedited, Err("its change class is not allowed"));
    let revert = check(&floor, |release| release.change_class = ChangeClass::Revert);
    assert_eq!(revert, Err("a revert may only bring back what was last good here"));
}
