//! What holds for any input: no decoder panics, no floor falls, nothing is lost on the way.

use proptest::prelude::*;
use sealane_model::bundle::{CHUNK_BYTES_MAX, pack};
use sealane_model::envelope::{Envelope, PayloadType, Signature};
use sealane_model::ids::{Digest, Epoch};
use sealane_model::keys::{KeyId, PublicKey, SigningKey};
use sealane_model::plan::Plan;
use sealane_model::release::{Floor, Release};
use sealane_model::trust::TrustRoot;

use crate::support::{
    config, document, easy_root, grant, key, release, release_of, root, signed_release, timestamp, verified,
};

/// Bytes that anyone may send: noise, and honest payloads with some bytes changed, put in or cut off.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let honest = vec![
        document().sign(&[]).payload,
        signed_release(7, "listen: :80").payload,
        grant(&verified(7, "a")).sign(&[]).payload,
        timestamp().sign(&[]).payload,
        Plan::default().to_bytes(),
        pack(config("listen: :80")).unwrap().manifest,
        signed_release(7, "listen: :80").to_bytes(),
    ];
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 0..8);
    let mutated = (prop::sample::select(honest), edits).prop_map(|(mut bytes, edits)| {
        for (at, byte, kind) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => bytes.truncate(at),
                _ => bytes[at] ^= 1 << (byte % 8),
            }
        }
        bytes
    });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..300), mutated]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_decoder_panics_on_arbitrary_bytes(bytes in hostile()) {
        let root = easy_root();
        let sign = |payload_type| Envelope::sign(payload_type, bytes.clone(), &[&key(1)]);
        let _ = Envelope::from_bytes(&bytes);
        let _ = Envelope::from_json(&String::from_utf8_lossy(&bytes));
        let _ = Plan::from_bytes(&bytes);
        let _ = PublicKey::from_bytes(&bytes);
        let _ = SigningKey::from_pem(&String::from_utf8_lossy(&bytes));
        let _ = TrustRoot::pinned(&sign(PayloadType::Root));
        let _ = root.next(&sign(PayloadType::Root));
        if let Ok(release) = root.verify_release(&sign(PayloadType::Release)) {
            let _ = Floor::admit(None, &release);
        }
        if let Ok(grant) = root.verify_grant(&sign(PayloadType::Grant)) {
            let _ = grant.grant().check(&verified(1, "a"), 0, 0);
        }
        let _ = root.verify_timestamp(&sign(PayloadType::Timestamp), Some(&timestamp()));
        if let Ok(manifest) = release_of(&bytes).open_manifest(&bytes) {
            let _ = manifest.open(|_| Some(bytes.clone())).map(|bundle| bundle.config().map(|_| ()));
        }
    }

    #[test]
    fn what_a_plan_decodes_to_is_sound_and_survives(bytes in hostile()) {
        if let Ok(plan) = Plan::from_bytes(&bytes) {
            prop_assert_eq!(plan.check(), Ok(()));
            prop_assert_eq!(Plan::from_bytes(&plan.to_bytes()), Ok(plan));
        }
    }

    #[test]
    fn envelopes_survive_bytes_and_json(
        payload_type in ".{0,40}",
        payload in prop::collection::vec(any::<u8>(), 0..500),
        signatures in prop::collection::vec((".{0,10}", prop::collection::vec(any::<u8>(), 0..70)), 0..5),
    ) {
        let signatures =
            signatures.into_iter().map(|(id, bytes)| Signature { key_id: KeyId(id), bytes }).collect();
        let envelope = Envelope { payload_type, payload, signatures };
        prop_assert_eq!(Envelope::from_bytes(&envelope.to_bytes()), Ok(envelope.clone()));
        prop_assert_eq!(Envelope::from_json(&envelope.to_json()), Ok(envelope));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn chunks_put_together_are_the_content(
        seed in any::<u64>(), length in 0..700_000_usize, alphabet in 1..=256_u64
    ) {
        let mut state = seed;
        let mut byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % alphabet) as u8
        };
        let content: Vec<u8> = (0..length).map(|_| byte()).collect();
        let packed = pack(vec![sealane_model::bundle::Resource {
            kind: "config".into(),
            name: "a".into(),
            content: content.clone(),
        }])
        .unwrap();
        for (digest, bytes) in &packed.chunks {
            prop_assert_eq!(*digest, Digest::of(bytes));
            prop_assert!((1..=CHUNK_BYTES_MAX).contains(&bytes.len()));
        }
        let manifest = release_of(&packed.manifest).open_manifest(&packed.manifest).unwrap();
        let bundle = manifest
            .open(|digest| packed.chunks.iter().find(|(known, _)| known == digest).map(|(_, bytes)| bytes.clone()))
            .unwrap();
        prop_assert_eq!(&bundle.resources()[0].content, &content);
    }

    #[test]
    fn the_floor_never_falls_over_any_sequence_of_releases(
        offers in prop::collection::vec((0..4_u32, 1..6_u64, 0..3_u8), 1..25)
    ) {
        let root = root();
        let mut floor: Option<Floor> = None;
        for (epoch, revision, content) in offers {
            let packed = pack(config(&content.to_string())).unwrap();
            let release = Release { epoch: Epoch(epoch), ..release(revision, &packed) };
            let release = root.verify_release(&release.sign(&[&key(12), &key(13)])).unwrap();
            if let Ok(next) = Floor::admit(floor.as_ref(), &release) {
                prop_assert_eq!(next.digest, release.digest());
                if let Some(before) = floor {
                    let (was, is) = ((before.epoch, before.revision), (next.epoch, next.revision));
                    prop_assert!(is > was || is == was && next.digest == before.digest);
                }
                floor = Some(next);
            }
        }
    }
}
