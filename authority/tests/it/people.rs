//! Keys that change hands, signatures and approvals of people, and revisions that wait for them.

use std::collections::HashMap;

use sealane_model::bundle::file::BundleFile;
use sealane_model::envelope::Envelope;
use sealane_model::ids::Digest;
use sealane_model::keys::SigningKey;
use sealane_model::trust::{Role, TrustRoot};
use sealane_proto::v1;
use sealane_proto::v1::RolloutState;
use sealane_proto::v1::config_service_client::ConfigServiceClient;
use sealane_proto::v1::rollout_service_client::RolloutServiceClient;
use sealane_proto::v1::trust_service_client::TrustServiceClient;
use tonic::Code;

use crate::helper::{CONFIG, Running, Wire, config, settings};

fn trust(running: &Running) -> TrustServiceClient<Wire> {
    TrustServiceClient::new(running.wire(&running.token))
}

async fn facts(running: &Running) -> v1::GetTrustResponse {
    trust(running).get_trust(v1::GetTrustRequest::default()).await.unwrap().into_inner()
}

async fn rotate(running: &Running, request: v1::RotateRootRequest) -> v1::RotateRootResponse {
    trust(running).rotate_root(request).await.unwrap().into_inner()
}

/// Trusts a person's key for releases: one signature is still enough.
async fn trust_person(running: &Running, person: &SigningKey) {
    let request = v1::RotateRootRequest {
        add: vec![v1::NewKey {
            public_key: person.public().to_bytes().to_vec(),
            roles: vec!["release".into()],
            comment: "ana".into(),
        }],
        ..Default::default()
    };
    assert!(rotate(running, request).await.applied);
}

fn two() -> v1::RotateRootRequest {
    let thresholds = vec![v1::RoleThreshold { role: "release".into(), threshold: 2 }];
    v1::RotateRootRequest { thresholds, ..Default::default() }
}

/// The person signs a revision.
async fn co_sign(running: &Running, revision: u64, person: &SigningKey) {
    let mut release = export(running, revision).await.release;
    release.add_signature(person);
    running.config().approve(approval(revision, Some(&release))).await.unwrap();
}

/// Adds a person's key to the release role, two of two; what is served is signed by both.
async fn two_of_two(running: &Running, person: &SigningKey) {
    trust_person(running, person).await;
    if running.config().get_revision(v1::GetRevisionRequest { revision: 1, ..Default::default() }).await.is_ok() {
        co_sign(running, 1, person).await;
    }
    assert!(rotate(running, two()).await.applied);
}

async fn export(running: &Running, revision: u64) -> BundleFile {
    let mut stream =
        running.config().export_revision(v1::ExportRevisionRequest { revision }).await.unwrap().into_inner();
    let mut chunks = HashMap::new();
    let mut head = None;
    while let Some(message) = stream.message().await.unwrap() {
        match message.part.unwrap() {
            v1::export_revision_response::Part::Head(one) => head = Some(one),
            v1::export_revision_response::Part::Chunk(bytes) => drop(chunks.insert(Digest::of(&bytes), bytes)),
        }
    }
    let head = head.unwrap();
    BundleFile {
        roots: head.roots.into_iter().map(Envelope::from).collect(),
        release: head.release.unwrap().into(),
        timestamp: head.timestamp.map(Envelope::from),
        grants: head.grants.into_iter().map(Envelope::from).collect(),
        manifest: head.manifest,
        chunks,
    }
}

fn approval(revision: u64, release: Option<&Envelope>) -> v1::ApproveRequest {
    v1::ApproveRequest { revision, release: release.map(Into::into), ..Default::default() }
}

async fn actions(running: &Running) -> Vec<String> {
    let request = v1::ListAuditRequest { page_size: 1000, ..Default::default() };
    let list = running.audit().list_audit(request).await.unwrap().into_inner().entries;
    list.into_iter().map(|entry| entry.action).collect()
}

#[tokio::test]
async fn a_second_signature_is_waited_for_and_starts_the_rollout() {
    let running = Running::start().await;
    running.baseline().await;
    let person = SigningKey::from_entropy([9; 32]);
    two_of_two(&running, &person).await;
    let revision = running.publish(&config(3001)).await;
    assert_eq!((revision.state.as_str(), revision.signed_by.len(), revision.signatures_min), ("pending", 1, 2));
    assert_eq!(revision.waits_for, ["1 more signature by release keys"]);
    let shown = running.config().get_revision(v1::GetRevisionRequest { revision: 2, with_config: true }).await.unwrap();
    assert_eq!(shown.into_inner().revision.unwrap().config_yaml, config(3001), "a person reads what is to be signed");
    let refused = running.config().rollback(v1::RollbackRequest { to: 2, ..Default::default() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{}", refused.message());

    // Offline: read, look, sign.
    let mut file = BundleFile::from_json(&export(&running, 2).await.to_json()).unwrap();
    let (claimed, content) = file.claimed().unwrap();
    assert_eq!((claimed.release().revision.0, content[0].content.as_slice()), (2, config(3001).as_bytes()));
    assert!(file.verify(&running.trust()).is_err(), "one of two is not enough");
    file.release.add_signature(&person);
    assert!(file.verify(&running.trust()).is_ok());

    let stranger = SigningKey::from_entropy([66; 32]);
    let mut forged = export(&running, 2).await.release;
    forged.signatures.clear();
    forged.add_signature(&stranger);
    let refused = running.config().approve(approval(2, Some(&forged))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{}", refused.message());
    let other = export(&running, 1).await.release;
    let refused = running.config().approve(approval(2, Some(&other))).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{}", refused.message());

    let running = running.restart().await;
    let done = running.config().approve(approval(2, Some(&file.release))).await.unwrap().into_inner().revision.unwrap();
    assert_eq!((done.state.as_str(), done.signed_by.len(), done.waits_for.len()), ("queued", 2, 0));
    running.until(2, |one| one.doing == "waiting for a proxy").await;
    let again = running.config().approve(approval(2, Some(&file.release))).await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition);
    let actions = actions(&running).await;
    for action in ["root_rotate", "approve_refused", "approve", "release"] {
        assert!(actions.iter().any(|one| one == action), "{action}: {actions:?}");
    }
}

#[tokio::test]
async fn an_older_waiting_revision_cannot_overtake_a_newer_one() {
    let running = Running::start().await;
    let person = SigningKey::from_entropy([9; 32]);
    two_of_two(&running, &person).await;
    running.publish(CONFIG).await;
    running.publish(&config(3001)).await;
    let mut files = Vec::new();
    for revision in [1, 2] {
        let mut release = export(&running, revision).await.release;
        release.add_signature(&person);
        files.push(release);
    }
    running.config().approve(approval(2, Some(&files[1]))).await.unwrap();
    let refused = running.config().approve(approval(1, Some(&files[0]))).await.unwrap_err();
    assert!(refused.message().contains("has begun"), "{}", refused.message());
    let list = running.config().list_revisions(v1::ListRevisionsRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.revisions[1].state, "superseded");
}

#[tokio::test]
async fn with_approvals_asked_for_the_author_cannot_publish_alone() {
    let running = Running::with(|settings| settings.approvals_min = 1).await;
    let revision = running.publish(CONFIG).await;
    assert_eq!(revision.waits_for, ["1 more approval by others than its author"]);
    let refused = running.config().approve(approval(1, None)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{}", refused.message());
    let operator = running.make_token("operator", "").await;
    let mut low = ConfigServiceClient::new(running.wire(&operator));
    assert_eq!(low.approve(approval(1, None)).await.unwrap_err().code(), Code::PermissionDenied);
    let other = running.make_token("publisher", "").await;
    let mut other = ConfigServiceClient::new(running.wire(&other));
    let request = v1::ApproveRequest { message: "looks good".into(), request_id: "once".into(), ..approval(1, None) };
    let dry = v1::ApproveRequest { dry_run: true, request_id: String::new(), ..request.clone() };
    assert_eq!(other.approve(dry).await.unwrap().into_inner().revision.unwrap().state, "queued");
    let first = other.approve(request.clone()).await.unwrap().into_inner();
    assert_eq!(other.approve(request).await.unwrap().into_inner(), first, "a repeated request gets the first answer");
    running.until_state(1, RolloutState::Completed).await;
    let shown =
        running.config().get_revision(v1::GetRevisionRequest { revision: 1, with_config: false }).await.unwrap();
    let shown = shown.into_inner().revision.unwrap();
    assert_eq!((shown.approved_by.len(), shown.approvals_min, shown.state.as_str()), (1, 1, "completed"));
}

#[tokio::test]
async fn the_easy_set_up_says_what_it_does_not_protect_from_and_rotates_in_one_call() {
    let running = Running::start().await;
    running.baseline().await;
    let before = facts(&running).await;
    assert_eq!((before.version, before.keys.len(), before.unprotected.len()), (1, 1, 4));
    assert!(before.keys[0].held && before.keys[0].roles == ["root", "release", "timestamp"]);
    let old = running.trust();
    let dry = v1::RotateRootRequest { replace_held_keys: true, dry_run: true, ..Default::default() };
    assert!(!rotate(&running, dry).await.applied);
    assert_eq!(facts(&running).await.version, 1);

    let done = rotate(&running, v1::RotateRootRequest { replace_held_keys: true, ..Default::default() }).await;
    assert!(done.applied && done.version == 2);
    let after = facts(&running).await;
    assert_ne!(after.keys[0].key_id, before.keys[0].key_id);
    let new = running.trust();
    assert_eq!(old.next(new.envelope()).unwrap(), new, "the old key vouches for the new one");
    // What was released under the old key is offered with a signature of the new one: nodes that know version 2 alone.
    let file = export(&running, 1).await;
    assert!(file.verify(&new).is_ok());
    assert_eq!(new.signers(&file.release, Role::Release).0.len(), 1);

    let running = running.restart().await;
    assert_eq!(facts(&running).await.version, 2);
    let revision = running.publish(&config(3001)).await;
    let file = export(&running, revision.revision).await;
    assert!(file.verify(&new).is_ok());
    assert!(old.verify_release(&file.release).is_err(), "the old key signs nothing any more");
    let files: Vec<_> =
        std::fs::read_dir(running.folder.path().join("keys")).unwrap().map(|one| one.unwrap().path()).collect();
    let live = files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "pem")).count();
    assert_eq!((live, files.len()), (1, 2), "{files:?}");
}

#[tokio::test]
async fn a_trust_root_that_does_not_vouch_for_what_is_served_waits_for_the_signatures() {
    let running = Running::start().await;
    running.baseline().await;
    let person = SigningKey::from_entropy([9; 32]);
    trust_person(&running, &person).await;
    for dry_run in [true, false] {
        let refused = trust(&running).rotate_root(v1::RotateRootRequest { dry_run, ..two() }).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains("r1, which the fleet serves, has 1 of the 2"), "{}", refused.message());
    }
    assert_eq!(facts(&running).await.version, 2);
    // A stranger's signature is none.
    let mut release = export(&running, 1).await.release;
    release.add_signature(&SigningKey::from_entropy([8; 32]));
    assert!(running.config().approve(approval(1, Some(&release))).await.is_err());

    co_sign(&running, 1, &person).await;
    assert!(rotate(&running, two()).await.applied);
    assert!(facts(&running).await.lacking.is_empty());
    let root = running.trust();
    assert_eq!(root.document().version, 3);
    let file = export(&running, 1).await;
    assert_eq!(root.signers(&file.release, Role::Release).0.len(), 2);
    assert!(file.verify(&root).is_ok(), "a node that knows the newest root alone can take it in");
    assert!(actions(&running).await.contains(&"co_sign".to_owned()));

    let running = running.restart().await;
    assert!(export(&running, 1).await.verify(&root).is_ok(), "signatures are kept");
}

#[tokio::test]
async fn a_stolen_key_goes_at_once_and_what_then_lacks_signatures_is_an_alarm_until_it_has_them() {
    let running = Running::start().await;
    running.baseline().await;
    let person = SigningKey::from_entropy([9; 32]);
    trust_person(&running, &person).await;
    assert!(rotate(&running, v1::RotateRootRequest { even_if_unsigned: true, ..two() }).await.applied);
    let fleet = || async { running.fleet().get_fleet(v1::GetFleetRequest::default()).await.unwrap().into_inner() };
    let alarm = fleet().await.alarms.into_iter().find(|alarm| alarm.contains("r1, which the fleet serves"));
    assert!(alarm.is_some_and(|alarm| alarm.contains("sealane revision approve r1")), "it says what to type");
    assert_eq!(facts(&running).await.lacking.len(), 1);
    co_sign(&running, 1, &person).await;
    assert!(facts(&running).await.lacking.is_empty());
    assert!(!fleet().await.alarms.iter().any(|alarm| alarm.contains("r1, which the fleet serves")));
    assert!(export(&running, 1).await.verify(&running.trust()).is_ok());
}

#[tokio::test]
async fn a_revision_of_a_removed_key_is_not_signed_again_by_the_keys_of_today() {
    let running = Running::start().await;
    running.baseline().await;
    let old = running.trust();
    // Left behind in a hurry: nobody but the person has the new key, and the authority's is gone.
    let person = SigningKey::from_entropy([9; 32]);
    trust_person(&running, &person).await;
    assert!(rotate(&running, v1::RotateRootRequest { even_if_unsigned: true, ..two() }).await.applied);
    let replaced = v1::RotateRootRequest { replace_held_keys: true, even_if_unsigned: true, ..Default::default() };
    assert!(rotate(&running, replaced).await.applied);
    let release = export(&running, 1).await.release;
    assert!(old.verify_release(&release).is_ok());
    let root = running.trust();
    assert!(
        root.signers(&release, Role::Release).0.is_empty(),
        "what the root before did not vouch for is carried by nobody"
    );
}

#[tokio::test]
async fn a_root_key_that_is_elsewhere_signs_the_next_root_elsewhere() {
    let running = Running::start().await;
    let safe = SigningKey::from_entropy([7; 32]);
    let held = facts(&running).await.keys[0].key_id.clone();
    let key = |key: &SigningKey, role: &str| v1::NewKey {
        public_key: key.public().to_bytes().to_vec(),
        roles: vec![role.into()],
        comment: "in the safe".into(),
    };
    // Two root keys, both must sign: the authority's, and the one in the safe. The safe's has not signed yet.
    let wanted = v1::RotateRootRequest {
        add: vec![key(&safe, "root")],
        thresholds: vec![v1::RoleThreshold { role: "root".into(), threshold: 2 }],
        plan_floor: Some(v1::PlanFloor { stages_min: 2, first_percent_max: 10.0, ..Default::default() }),
        ..Default::default()
    };
    let half = rotate(&running, wanted).await;
    assert!(!half.applied, "{half:?}");
    assert_eq!(half.missing, ["1 of 2 root keys of version 2 have signed"]);
    let mut root: Envelope = half.root.unwrap().into();
    let unsigned = trust(&running)
        .put_root(v1::PutRootRequest { root: Some((&root).into()), ..Default::default() })
        .await
        .unwrap_err();
    assert_eq!(unsigned.code(), Code::FailedPrecondition);
    root.add_signature(&safe);
    let put = trust(&running)
        .put_root(v1::PutRootRequest { root: Some((&root).into()), ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(put.version, 2);
    let now = facts(&running).await;
    assert_eq!((now.plan_floor.unwrap().stages_min, now.unprotected.len()), (2, 2), "{:?}", now.unprotected);
    // From now on the authority cannot change the root alone, and it may not lose its own timestamp key.
    let alone = rotate(&running, v1::RotateRootRequest { replace_held_keys: true, ..Default::default() }).await;
    assert!(!alone.applied && !alone.missing.is_empty());
    let request = v1::RotateRootRequest { remove: vec![held], ..Default::default() };
    let refused = trust(&running).rotate_root(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{}", refused.message());
    let stranger = TrustRoot::pinned(&{
        let mut document = running.trust().document().clone();
        document.version = 3;
        document.sign(&[&safe])
    });
    assert!(stranger.is_err(), "one of two");
    let running = running.restart().await;
    assert_eq!(facts(&running).await.version, 2);
}

#[tokio::test]
async fn a_freeze_is_overridden_and_ended_by_the_incident_role_alone_and_never_asked_by_a_roll_back() {
    let running = Running::start().await;
    running.baseline().await;
    let mut wires = HashMap::new();
    for role in ["operator", "publisher", "incident"] {
        wires.insert(role, running.wire(&running.make_token(role, "").await));
    }
    let rollouts = |role: &str| RolloutServiceClient::new(wires[role].clone());
    let configs = |role: &str| ConfigServiceClient::new(wires[role].clone());
    let until = prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 };
    let far = v1::AddFreezeRequest { until: Some(until), reason: "sale".into(), ..Default::default() };
    assert!(rollouts("operator").add_freeze(far).await.is_err(), "more than a year");
    let soon = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() + 3600;
    let until = prost_types::Timestamp { seconds: i64::try_from(soon).unwrap(), nanos: 0 };
    let freeze = v1::AddFreezeRequest { until: Some(until), reason: "sale".into(), ..Default::default() };
    let id = rollouts("operator").add_freeze(freeze).await.unwrap().into_inner().freeze.unwrap().id;

    let publish = |text: String| v1::PublishRequest {
        config_yaml: text,
        file: "fleet.yaml".into(),
        message: "incident 12".into(),
        override_freeze: true,
        ..Default::default()
    };
    let refused = configs("publisher").publish(publish(config(3001))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("needs role incident"), "{}", refused.message());
    assert!(actions(&running).await.contains(&"override_refused".to_owned()), "a refusal is recorded");
    assert!(configs("incident").publish(publish(config(3001))).await.is_ok());
    let back = v1::RollbackRequest { to: 1, message: "back".into(), ..Default::default() };
    assert!(configs("operator").rollback(back).await.is_ok(), "a roll back asks no freeze");

    let remove = |role: &str| {
        let (mut client, id) = (rollouts(role), id.clone());
        async move { client.remove_freeze(v1::RemoveFreezeRequest { id }).await }
    };
    for role in ["operator", "publisher"] {
        assert_eq!(remove(role).await.unwrap_err().code(), Code::PermissionDenied, "{role}");
    }
    assert!(remove("incident").await.is_ok());
}

#[tokio::test]
async fn an_authority_without_its_keys_does_not_start() {
    let running = Running::start().await;
    let folder = std::sync::Arc::clone(&running.folder);
    running.authority.stop().await;
    std::fs::remove_file(folder.path().join("keys/fleet.pem")).unwrap();
    let error = sealane_authority::start(settings(folder.path())).await.unwrap_err();
    assert!(error.to_string().contains("not enough to sign"), "{error}");
}

#[tokio::test]
async fn a_policy_forbids_a_publish_by_name_and_asks_for_approvals() {
    let policies = tempfile::tempdir().unwrap();
    let rules = "package sealane.ports\n\ndeny contains msg if {\n    contains(input.config.routes[0].to, \":3001\")\n    \
                 msg := sprintf(\"%s may not use port 3001\", [input.role])\n}\n\nrequire_approvals := 1 if \
                 count(input.diff.routes.changed) > 0\n";
    std::fs::write(policies.path().join("ports.rego"), rules).unwrap();
    let folder = policies.path().to_owned();
    let running = Running::with(|settings| settings.policy_dir = Some(folder)).await;
    running.baseline().await;
    let validate = v1::ValidateRequest { config_yaml: config(3001), file: "fleet.yaml".into() };
    let found = running.config().validate(validate).await.unwrap().into_inner();
    assert!(!found.valid);
    assert_eq!(found.problems[0].code, "policy_denied");
    assert_eq!(found.problems[0].message, "sealane.ports.deny: admin may not use port 3001");
    let plan = v1::PlanRequest { config_yaml: config(3001), file: "fleet.yaml".into(), ..Default::default() };
    assert!(!running.config().plan(plan).await.unwrap().into_inner().valid);
    let request = v1::PublishRequest { config_yaml: config(3001), ..Default::default() };
    let denied = running.config().publish(request).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    assert!(denied.message().contains("sealane.ports.deny"), "{}", denied.message());
    assert!(actions(&running).await.iter().any(|action| action == "publish_denied"));

    let waits = running.publish(&config(3002)).await;
    assert_eq!((waits.state.as_str(), waits.approvals_min), ("pending", 1), "{waits:?}");
    // A rule that is broken lets nothing through.
    std::fs::write(policies.path().join("broken.rego"), "package sealane.broken\ndeny contains x if {\n").unwrap();
    let request = v1::PublishRequest { config_yaml: config(3003), ..Default::default() };
    let closed = running.config().publish(request).await.unwrap_err();
    assert_eq!(closed.code(), Code::FailedPrecondition);
    assert!(closed.message().contains("broken.rego"), "{}", closed.message());
    // A roll back is not asked.
    let back = running.config().rollback(v1::RollbackRequest { to: 1, ..Default::default() }).await;
    assert!(back.is_ok(), "{back:?}");
}
