//! Backups: taken while it runs, put back, and what agents say of a copy that is too old.

use std::os::unix::fs::PermissionsExt;

use sealane_authority::{BackupError, Keys, RecoverOrder, Recovered, backup, recover, restore};
use sealane_model::keys::SigningKey;
use sealane_proto::v1;
use sealane_proto::v1::RolloutState;
use sealane_proto::v1::agent_service_client::AgentServiceClient;
use sealane_proto::v1::trust_service_client::TrustServiceClient;
use tonic::Code;

use crate::helper::{CONFIG, Running, config, settings};

async fn verify(running: &Running) -> v1::VerifyAuditResponse {
    running.audit().verify_audit(v1::VerifyAuditRequest::default()).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_backup_taken_while_it_runs_is_put_back_and_agents_above_it_wait_for_a_new_epoch() {
    let running = Running::start().await;
    running.baseline().await;
    let token = running.make_token("agent", "eu").await;
    let place = tempfile::tempdir().unwrap();
    let (copy, folder) = (place.path().join("copy"), place.path().join("data"));
    let data = running.folder.path().to_owned();
    let publishing = async {
        for port in 3001..3006 {
            running.publish(&config(port)).await;
        }
    };
    let (made, ()) = tokio::join!(backup(&data, &copy, Keys::Included), publishing);
    let made = made.unwrap();
    assert!((1..=6).contains(&made.revision) && made.files.iter().any(|name| name.starts_with("keys/")));
    let taken = backup(running.folder.path(), &copy, Keys::Included).await.unwrap_err();
    assert!(matches!(taken, BackupError::Taken(_)), "{taken}");
    let root = running.trust();
    running.authority.stop().await;

    let restored = restore(&copy, &folder).await.unwrap();
    assert_eq!((restored.backup.revision, restored.needs_keys), (made.revision, false));
    let mode = std::fs::metadata(folder.join("keys/fleet.pem")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    assert!(restore(&copy, &folder).await.is_err(), "nothing is overwritten");

    let keep = std::sync::Arc::new(place);
    let start = |folder: std::path::PathBuf| {
        let keep = std::sync::Arc::clone(&keep);
        async move {
            let authority = sealane_authority::start(settings(&folder)).await.unwrap();
            let token = std::fs::read_to_string(folder.join("admin.token")).unwrap().trim().to_owned();
            Running { authority, token, folder: keep }
        }
    };
    let running = start(folder.clone()).await;
    assert!(verify(&running).await.intact);
    // An agent that saw all six.
    let report = v1::ReportRequest {
        agent_id: "a".into(),
        instance: "one".into(),
        epoch: 1,
        revision_floor: 7,
        ..Default::default()
    };
    AgentServiceClient::new(running.wire(&token)).report(report.clone()).await.unwrap();
    let request = v1::PublishRequest { config_yaml: config(4000), ..Default::default() };
    let refused = running.config().publish(request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("recover --raise-epoch"), "{}", refused.message());
    let in_use = recover(&folder, RecoverOrder::default()).await.unwrap_err();
    assert!(in_use.to_string().contains("in use"), "{in_use}");
    running.authority.stop().await;

    assert_eq!(recover(&folder, RecoverOrder::default()).await.unwrap(), Recovered::Raised { epoch: 2 });
    let low = recover(&folder, RecoverOrder { epoch: Some(2), root: None }).await.unwrap_err();
    assert!(matches!(low, BackupError::EpochTooLow { asked: 2, now: 2 }), "{low}");
    let running = start(folder.clone()).await;
    AgentServiceClient::new(running.wire(&token)).report(report).await.unwrap();
    let revision = running.config().publish(request).await.unwrap().into_inner().revision.unwrap();
    assert_eq!((revision.epoch, revision.revision), (2, made.revision + 1));
    assert!(verify(&running).await.intact);
    // The root role has signed the new epoch: the old root alone does not take its releases.
    let text = std::fs::read_to_string(folder.join("trust.json")).unwrap();
    let next = root.next(&sealane_model::envelope::Envelope::from_json(&text).unwrap()).unwrap();
    assert_eq!(next.document().epoch_max.map(|epoch| epoch.0), Some(2));
    running.until(revision.revision, |one| one.state() != RolloutState::Unspecified).await;
}

#[tokio::test]
async fn a_backup_without_keys_says_so_and_one_that_was_touched_is_refused() {
    let running = Running::start().await;
    running.baseline().await;
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join("copy");
    let made = backup(running.folder.path(), &copy, Keys::LeftOut).await.unwrap();
    assert_eq!(made.files, ["authority.db", "ca.pem", "trust.json"]);
    let restored = restore(&copy, &place.path().join("data")).await.unwrap();
    assert!(restored.needs_keys);
    std::fs::create_dir(place.path().join("data/keys")).unwrap();
    let error = sealane_authority::start(settings(&place.path().join("data"))).await.unwrap_err();
    assert!(error.to_string().contains("--without-keys"), "{error}");

    std::fs::write(copy.join("trust.json"), "{}").unwrap();
    let changed = restore(&copy, &place.path().join("other")).await.unwrap_err();
    assert!(matches!(changed, BackupError::Changed(_)), "{changed}");
    std::fs::remove_file(copy.join("backup.json")).unwrap();
    let none = restore(&copy, &place.path().join("other")).await.unwrap_err();
    assert!(matches!(none, BackupError::NoBackup { .. }), "{none}");
    assert!(!place.path().join("other").exists(), "nothing was begun");
}

#[tokio::test]
async fn with_the_root_keys_elsewhere_a_new_epoch_waits_for_their_signature() {
    let running = Running::start().await;
    running.publish(CONFIG).await;
    let safe = SigningKey::from_entropy([7; 32]);
    let mut trust = TrustServiceClient::new(running.wire(&running.token));
    let add = v1::NewKey {
        public_key: safe.public().to_bytes().to_vec(),
        roles: vec!["root".into()],
        comment: "in the safe".into(),
    };
    let threshold = v1::RoleThreshold { role: "root".into(), threshold: 2 };
    let request = v1::RotateRootRequest { add: vec![add], thresholds: vec![threshold], ..Default::default() };
    let mut root: sealane_model::envelope::Envelope =
        trust.rotate_root(request).await.unwrap().into_inner().root.unwrap().into();
    root.add_signature(&safe);
    trust.put_root(v1::PutRootRequest { root: Some(root.into()), ..Default::default() }).await.unwrap();
    let folder = std::sync::Arc::clone(&running.folder);
    running.authority.stop().await;

    let Recovered::NeedsRoot { epoch: 2, mut root } = recover(folder.path(), RecoverOrder::default()).await.unwrap()
    else {
        panic!("raised without the root role");
    };
    let half = recover(folder.path(), RecoverOrder { epoch: None, root: Some(root.clone()) }).await.unwrap_err();
    assert!(matches!(half, BackupError::Root(_)), "{half}");
    root.add_signature(&safe);
    let done = recover(folder.path(), RecoverOrder { epoch: None, root: Some(root) }).await.unwrap();
    assert_eq!(done, Recovered::Raised { epoch: 2 });
}
