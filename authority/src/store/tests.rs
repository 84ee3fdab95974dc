//! The store by itself: a full disk, a chain of audit entries, numbers that move.

use futures_util::future::join_all;
use sealane_model::bundle::{Resource, pack};
use sealane_model::ids::{Digest, Epoch, FleetId, Revision};
use sealane_model::plan::Plan;
use sealane_model::release::{ChangeClass, Partition, Release, SCHEMA};
use serde_json::json;

use super::audit::AuditEntry;
use super::release::{NewRelease, ReleaseRow, Stored};
use super::{Store, StoreError};
use crate::content::Content;

fn entry() -> AuditEntry {
    AuditEntry {
        at_ms: 1,
        actor: "a".into(),
        action: "publish",
        subject: "r1".into(),
        digest: None,
        detail: json!({ "note": "x".repeat(2_000) }),
    }
}

fn release(revision: u64, bytes: usize) -> NewRelease {
    let noise: Vec<u8> = (0..bytes as u64).flat_map(|at| Digest::of(&at.to_be_bytes()).0).take(bytes).collect();
    let text = Resource { kind: "config".into(), name: "f".into(), content: noise };
    let packed = pack(vec![text]).unwrap();
    let statement = Release {
        fleet: FleetId("f".into()),
        epoch: Epoch(1),
        revision: Revision(revision),
        partition: Partition::Config,
        manifest_digest: packed.manifest_digest,
        manifest_bytes: packed.manifest.len() as u64,
        base: None,
        capabilities: Vec::new(),
        schema_min: SCHEMA,
        schema_max: SCHEMA,
        plan: Plan::default(),
        change_class: ChangeClass::Standard,
        author: "a".into(),
        message: String::new(),
        created_at_unix_ms: 1,
        producer: "test".into(),
    };
    let envelope = statement.sign(&[]);
    NewRelease {
        waits: None,
        row: ReleaseRow {
            revision,
            epoch: 1,
            digest: Digest::of(&envelope.payload),
            envelope,
            manifest_digest: packed.manifest_digest,
            base_digest: None,
            change_class: "standard".into(),
            author: "a".into(),
            message: String::new(),
            file: "f".into(),
            config_bytes: bytes as u64,
            content_of: None,
            created_at_ms: 1,
        },
        content: Some(packed),
        newest: revision.checked_sub(1).filter(|before| *before > 0),
        event: ("queued", "{}".into()),
        audit: entry(),
        receipt: None,
    }
}

async fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("authority.db")).await.unwrap();
    (folder, store)
}

#[tokio::test]
async fn a_full_disk_says_so_changes_nothing_and_still_reads() {
    let (_folder, store) = store().await;
    assert_eq!(store.publish(&release(1, 1_000)).await.unwrap(), Stored::Done);
    let (pages,): (i64,) = sqlx::query_as("PRAGMA page_count").fetch_one(store.writer_for_test()).await.unwrap();
    let bound = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {}", pages + 4));
    sqlx::query(bound).execute(store.writer_for_test()).await.unwrap();
    let refused = store.publish(&release(2, 400_000)).await.unwrap_err();
    assert!(matches!(refused, StoreError::DiskFull), "{refused:?}");
    assert_eq!(store.newest_release().await.unwrap().unwrap().revision, 1);
    assert_eq!(store.verify_audit().await.unwrap().entries, 1);
    sqlx::query("PRAGMA max_page_count = 1000000").execute(store.writer_for_test()).await.unwrap();
    assert_eq!(store.publish(&release(2, 400_000)).await.unwrap(), Stored::Done);
}

#[tokio::test]
async fn a_revision_signed_on_top_of_an_older_one_is_not_stored() {
    let (_folder, store) = store().await;
    store.publish(&release(1, 10)).await.unwrap();
    store.publish(&release(2, 20)).await.unwrap();
    let mut late = release(3, 30);
    late.newest = Some(1);
    assert_eq!(store.publish(&late).await.unwrap(), Stored::Moved);
    assert_eq!(store.revisions().await.unwrap(), 2);
}

#[tokio::test]
async fn what_was_published_cannot_be_changed_by_a_slip() {
    let (_folder, store) = store().await;
    store.publish(&release(1, 10)).await.unwrap();
    for statement in [
        "UPDATE release SET message = 'x'",
        "DELETE FROM release",
        "UPDATE rollout_event SET body = '{}'",
        "DELETE FROM rollout_event",
        "UPDATE blob SET content = x'00'",
        "UPDATE audit SET actor = 'x'",
        "DELETE FROM audit",
    ] {
        let refused = sqlx::query(statement).execute(store.writer_for_test()).await.unwrap_err();
        assert!(refused.to_string().contains("append-only"), "{statement}: {refused}");
    }
}

#[tokio::test]
async fn the_chain_finds_an_edit_a_removal_and_a_swap() {
    let cases = [
        ("UPDATE audit SET detail = '{}' WHERE sequence = 3", 3),
        ("DELETE FROM audit WHERE sequence = 3", 4),
        ("UPDATE audit SET sequence = 99 WHERE sequence = 2", 3),
    ];
    for (edit, broken_at) in cases {
        let (_folder, store) = store().await;
        for _ in 0..5 {
            let mut write = store.write().await.unwrap();
            store.add_audit(&mut write, &entry()).await.unwrap();
            store.commit(write).await.unwrap();
        }
        assert_eq!(store.verify_audit().await.unwrap().broken_at, None);
        for statement in ["DROP TRIGGER audit_stays", "DROP TRIGGER audit_is_kept", edit] {
            sqlx::query(statement).execute(store.writer_for_test()).await.unwrap();
        }
        assert_eq!(store.verify_audit().await.unwrap().broken_at, Some(broken_at), "{edit}");
    }
}

#[tokio::test]
async fn a_blob_is_packed_once_however_many_ask_for_it_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("authority.db")).await.unwrap();
    let new = release(1, 100_000);
    assert_eq!(store.publish(&new).await.unwrap(), Stored::Done);
    let content = Content::new(store);
    let answers = join_all((0..50).map(|_| content.get(new.row.manifest_digest, true))).await;
    let sizes: Vec<usize> =
        answers.into_iter().map(|one| one.unwrap().map_or(0, |one| one.content.len() + one.deflated.len())).collect();
    assert!(sizes[0] > 0 && sizes.iter().all(|size| *size == sizes[0]), "{sizes:?}");
    assert_eq!(content.packed(), 1);
    assert_eq!(content.get(Digest::of(b"nothing"), true).await.unwrap(), None);
}
