//! The rules of the ledger that are not seen from outside: its file.

use sealane_model::ids::FleetId;
use sealane_model::keys::SigningKey;
use sealane_model::trust::RootDocument;

use super::*;

fn root(fleet: &str, entropy: u8) -> TrustRoot {
    let key = SigningKey::from_entropy([entropy; 32]);
    let document = RootDocument::single_key(FleetId(fleet.to_owned()), &key.public(), 0);
    TrustRoot::pinned(&document.sign(&[&key])).unwrap()
}

#[tokio::test]
async fn what_was_changed_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let digest = Digest::of(b"taken back");
    let ledger = Ledger::open(directory.path(), &root("f", 1), None, "host").unwrap();
    ledger.withdraw(&[digest]).await.unwrap();
    ledger.ensure_generation(5).await.unwrap();
    let before = ledger.state();
    drop(ledger);
    let after = Ledger::open(directory.path(), &root("f", 1), None, "other-host").unwrap().state();
    assert_eq!(*before, *after);
    assert!(after.is_withdrawn(&digest) && after.generation >= 5);
    assert_eq!(after.agent.0, "host", "an id stays what it was at the first start");
}

#[tokio::test]
async fn a_second_agent_on_the_same_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let _first = Ledger::open(directory.path(), &root("f", 1), None, "host").unwrap();
    let second = Ledger::open(directory.path(), &root("f", 1), None, "host");
    assert!(matches!(second, Err(LedgerError::InUse(_))));
}

#[tokio::test]
async fn a_damaged_or_edited_ledger_is_refused_and_says_how_to_go_on() {
    let directory = tempfile::tempdir().unwrap();
    drop(Ledger::open(directory.path(), &root("f", 1), None, "host").unwrap());
    let path = directory.path().join("ledger");
    let good = std::fs::read(&path).unwrap();
    let mut edited = good.clone();
    *edited.last_mut().unwrap() ^= 1;
    let newer = String::from_utf8(good.clone()).unwrap().replacen(" 1 ", " 2 ", 1).into_bytes();
    for bad in [edited, good[..good.len() / 2].to_vec(), Vec::new(), newer] {
        std::fs::write(&path, &bad).unwrap();
        let error = Ledger::open(directory.path(), &root("f", 1), None, "host").unwrap_err();
        assert!(matches!(error, LedgerError::Unusable { .. }));
        assert!(error.to_string().contains("move the state directory away"));
        assert_eq!(std::fs::read(&path).unwrap(), bad, "nothing was changed");
    }
}

#[tokio::test]
async fn a_trust_root_of_another_fleet_or_a_replaced_one_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(Ledger::open(directory.path(), &root("f", 1), None, "host").unwrap());
    let other_fleet = Ledger::open(directory.path(), &root("g", 1), None, "host").unwrap_err();
    assert!(matches!(other_fleet, LedgerError::OtherFleet { .. }));
    let replaced = Ledger::open(directory.path(), &root("f", 2), None, "host").unwrap_err();
    assert!(matches!(replaced, LedgerError::OtherRoot { version: 1 }));
    let renamed = Ledger::open(directory.path(), &root("f", 1), Some("elsewhere"), "host").unwrap_err();
    assert!(matches!(renamed, LedgerError::OtherId { .. }));
}

#[tokio::test]
async fn taking_back_holds_although_the_disk_does_not_take_it() {
    let directory = tempfile::tempdir().unwrap();
    let inner = directory.path().join("state");
    let ledger = Ledger::open(&inner, &root("f", 1), None, "host").unwrap();
    std::fs::remove_dir_all(&inner).unwrap(); // as good as a full disk, and works for root too
    let digest = Digest::of(b"taken back");
    assert!(ledger.withdraw(&[digest]).await.is_err());
    assert!(ledger.state().is_withdrawn(&digest));
}
