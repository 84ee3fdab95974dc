//! What holds whatever an agent is told: over thousands of seeded sequences of messages, honest ones and forged ones in any
//! order, the floor never falls and nothing is held that trusted keys did not sign.

use std::collections::BTreeSet;

use sealane_model::envelope::Envelope;
use sealane_model::grant::Grant;
use sealane_model::ids::{AgentId, Epoch, FleetId, Revision};
use sealane_model::keys::SigningKey;
use sealane_model::plan::Plan;
use sealane_model::release::{ChangeClass, Floor, Partition, Release, SCHEMA};
use sealane_model::timestamp::Timestamp;
use sealane_model::trust::RootDocument;
use sealane_proto::v1;

use super::*;
use crate::intake::verify::verify;

/// A linear congruential generator: a failing seed replays.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn key(entropy: u8) -> SigningKey {
    SigningKey::from_entropy([entropy; 32])
}

fn release(dice: &mut Dice, signer: u8, base: Option<Digest>) -> Envelope {
    let release = Release {
        fleet: FleetId(if dice.roll(12) == 0 { "g" } else { "f" }.into()),
        epoch: Epoch(u32::try_from(dice.roll(3)).unwrap()),
        revision: Revision(1 + dice.roll(6)),
        partition: Partition::Config,
        manifest_digest: Digest::of(&[u8::try_from(dice.roll(3)).unwrap()]),
        manifest_bytes: 1,
        base,
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
    release.sign(&[&key(signer)])
}

fn timestamp(dice: &mut Dice, head: &Envelope, signer: u8) -> Envelope {
    let timestamp = Timestamp {
        fleet: FleetId("f".into()),
        epoch: Epoch(u32::try_from(dice.roll(3)).unwrap()),
        heads: vec![(Partition::Config, Revision(1 + dice.roll(6)), Digest::of(&head.payload))],
        time_unix_ms: i64::try_from(dice.roll(20)).unwrap(),
        expires_unix_ms: i64::MAX / 2,
        grant_sequence_min: dice.roll(3),
        root_version: 1,
        audit_head: vec![],
    };
    timestamp.sign(&[&key(signer)])
}

/// Anything that anybody may send: signed by the fleet's key or a stranger's, with bytes flipped, documents left out.
fn message(dice: &mut Dice, past: &mut Vec<Envelope>) -> v1::DesiredState {
    let signer = |dice: &mut Dice| if dice.roll(5) == 0 { 66 } else { 1 };
    let mut pick = |dice: &mut Dice| {
        if !past.is_empty() && dice.roll(2) == 0 {
            let at = usize::try_from(dice.roll(past.len() as u64)).unwrap();
            return past[at].clone();
        }
        let base = past.last().map(|envelope| Digest::of(&envelope.payload));
        let who = signer(dice);
        let made = release(dice, who, base);
        past.push(made.clone());
        made
    };
    let (stable, candidate) = (pick(dice), pick(dice));
    let who = signer(dice);
    let head = if dice.roll(2) == 0 { &stable } else { &candidate };
    let stamp = timestamp(dice, head, who);
    let grant = Grant {
        fleet: FleetId("f".into()),
        epoch: Epoch(0),
        revision: Revision(1),
        release_digest: Digest::of(&candidate.payload),
        wave: 0,
        stage: 0,
        cut: u64::MAX,
        regions: vec!["*".into()],
        sequence: dice.roll(4),
        not_after_unix_ms: i64::MAX / 2,
        proxy: None,
    };
    let mut spoil = |envelope: &Envelope| {
        let mut envelope = v1::Envelope::from(envelope);
        match dice.roll(10) {
            0 => envelope.signatures.clear(),
            1 => *envelope.payload.last_mut().unwrap() ^= 1,
            _ => {}
        }
        envelope
    };
    v1::DesiredState {
        state_version: 1,
        stable: Some(spoil(&stable)),
        timestamp: Some(spoil(&stamp)),
        candidate: Some(v1::Candidate {
            release: Some(spoil(&candidate)),
            grants: vec![spoil(&grant.sign(&[&key(1)]))],
            paused: false,
        })
        .filter(|_| stable != candidate),
        ..v1::DesiredState::default()
    }
}

/// What the intake does with a message, without the fetching.
fn take(state: &State, desired: &v1::DesiredState) -> Option<State> {
    let verified = verify(state, state.seen_timestamp(), desired).ok()?;
    let mut next = state.clone();
    next.withdraw(&verified.withdrawn);
    next.take_documents(&verified.documents);
    let stays = verified.candidate.as_ref().map(|candidate| candidate.release.digest());
    if let Some(stable) = &verified.stable {
        next.take_stable(&Complete::of_nothing(stable), stays).ok()?;
    }
    match &verified.candidate {
        Some(candidate) => {
            next.take_candidate(&Complete::of_nothing(&candidate.release), &candidate.grants, candidate.paused).ok()?;
        }
        None => next.drop_candidate(),
    }
    Some(next)
}

#[test]
fn no_sequence_of_messages_lowers_the_floor_or_takes_in_what_was_not_signed() {
    let root = RootDocument::single_key(FleetId("f".into()), &key(1).public(), 0).sign(&[&key(1)]);
    let trust = TrustRoot::pinned(&root).unwrap();
    let place = |floor: &Floor| (floor.epoch, floor.revision);
    let mut taken = 0_u32;
    for seed in 0..400 {
        let mut dice = Dice(seed);
        let mut past = Vec::new();
        let mut state = State::new(AgentId("a".into()), trust.clone());
        let mut numbers: BTreeSet<(Epoch, Revision, Digest)> = BTreeSet::new();
        for _ in 0..30 {
            let desired = message(&mut dice, &mut past);
            let before = state.clone();
            if let Some(next) = take(&state, &desired) {
                state = next;
                taken += 1;
            } else {
                assert_eq!(state, before);
            }
            for (partition, floor) in &before.floors {
                let now = &state.floors[partition];
                assert!(place(now) >= place(floor), "seed {seed}: the floor fell from {floor:?} to {now:?}");
                assert!(
                    place(now) > place(floor) || now.digest == floor.digest,
                    "seed {seed}: one number, two digests"
                );
            }
            for accepted in state.releases.values() {
                let release = accepted.release();
                assert!(
                    trust.verify_release(release.envelope()).is_ok(),
                    "seed {seed}: held, and nobody trusted signed it"
                );
                numbers.insert((release.release().epoch, release.release().revision, release.digest()));
            }
        }
        let distinct: BTreeSet<_> = numbers.iter().map(|(epoch, revision, _)| (epoch, revision)).collect();
        let at_floor = state.floors.get(&Partition::Config).map(place);
        let doubles = numbers.iter().filter(|(epoch, revision, _)| Some((*epoch, *revision)) == at_floor).count();
        assert!(doubles <= 1 && !distinct.is_empty() || numbers.is_empty(), "seed {seed}: {numbers:?}");
    }
    assert!(taken > 200, "only {taken} messages were good: the test tests nothing");
}
