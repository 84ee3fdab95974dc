//! The data directory put aside, put back, and made good again after an old copy was put back.
//!
//! A backup is taken while an authority runs: SQLite copies the database in one read transaction. Private keys go with it
//! only where that was said. A restore goes into an empty directory and checks every file, the database and the audit
//! chain first. What agents have seen beyond the copy, they refuse to forget: see [`recover`].

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use sealane_model::envelope::Envelope;
use sealane_model::ids::{Digest, Epoch};
use sealane_model::trust::{RootDocument, TrustRoot};
use sealane_model::verify::VerifyError;
use serde::{Deserialize, Serialize};
use serde_json::json;
use thiserror::Error;

use crate::clock::wall_ms;
use crate::file::{self, Access};
use crate::home::{self, HomeError, trouble};
use crate::signer::Signer;
use crate::store::audit::AuditEntry;
use crate::store::{Store, StoreError};

/// Whether private keys are part of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Signing keys, the CA's key and the admin token: the copy is as secret as the data directory.
    Included,
    /// None of them: they must be kept elsewhere, and put back by hand.
    LeftOut,
}

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackedUp {
    /// The fleet.
    pub fleet_id: String,
    /// Its epoch.
    pub epoch: u32,
    /// Newest revision; 0: none.
    pub revision: u64,
    /// Files, relative to the backup.
    pub files: Vec<String>,
}

/// What a restore made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// What the backup held.
    pub backup: BackedUp,
    /// Private keys are missing: they must be put into `keys/` by hand.
    pub needs_keys: bool,
}

/// How to recover.
#[derive(Clone, Debug, Default)]
pub struct RecoverOrder {
    /// The new epoch; `None`: the next one. It must be above every epoch that agents have seen.
    pub epoch: Option<u32>,
    /// The next trust root, which allows that epoch, signed by people; `None`: signed by the keys that are here.
    pub root: Option<Envelope>,
}

/// What came of a recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// This is the epoch now.
    Raised {
        /// The epoch.
        epoch: u32,
    },
    /// The root keys are elsewhere: this trust root must be signed there first. Nothing was changed.
    NeedsRoot {
        /// The epoch that it allows.
        epoch: u32,
        /// As far as it is signed.
        root: Envelope,
    },
}

/// Why a backup, restore or recovery did not happen. Nothing was changed, but for files of an unfinished copy.
#[derive(Debug, Error)]
pub enum BackupError {
    /// The data directory.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The place is taken.
    #[error("`{}` is there already and not empty: nothing is overwritten", .0.display())]
    Taken(PathBuf),
    /// Not what `backup` wrote.
    #[error("`{}` is no backup of an authority: {why}", path.display())]
    NoBackup {
        /// Where it was looked for.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file that is not as it was written.
    #[error("`{}` is not as it was when the backup was made", .0.display())]
    Changed(PathBuf),
    /// The audit chain is broken.
    #[error("the audit log in it was edited: entry {0} does not follow from the one before")]
    Audit(u64),
    /// A trust root that does not do.
    #[error("the trust root given does not follow the one that is stored")]
    Root(#[source] VerifyError),
    /// A trust root that does not allow the epoch.
    #[error("the trust root given allows epochs up to {allowed}, not {wanted}")]
    RootEpoch {
        /// By the root.
        allowed: u32,
        /// Asked for.
        wanted: u32,
    },
    /// An epoch that is not above the present one.
    #[error("epoch {asked} is not above the present one, {now}")]
    EpochTooLow {
        /// Asked for.
        asked: u32,
        /// Stored.
        now: u32,
    },
}

/// `backup.json`: what belongs to a backup, each file with its SHA-256.
#[derive(Serialize, Deserialize)]
struct Contents {
    format: u32,
    fleet_id: String,
    epoch: u32,
    revision: u64,
    at_unix_ms: u64,
    keys: bool,
    files: BTreeMap<String, String>,
}

const DATABASE: &str = "authority.db";
const CONTENTS: &str = "backup.json";
const FORMAT: u32 = 1;

/// Copies the data directory `folder` to the new directory `to`, whether or not an authority runs on it.
///
/// # Errors
/// When `to` is not empty, `folder` is no data directory, or a file cannot be copied.
pub async fn backup(folder: &Path, to: &Path, keys: Keys) -> Result<BackedUp, BackupError> {
    let database = folder.join(DATABASE);
    if !database.exists() {
        return Err(trouble("read", &database, io::ErrorKind::NotFound.into()).into());
    }
    check_empty(to)?;
    file::make_folder(to).map_err(|source| trouble("make", to, source))?;
    let copy = to.join(DATABASE);
    Store::copy_database(&database, &copy).await?;
    let store = Store::open(&copy).await?;
    let summary = summary(&store).await;
    store.close().await;
    let (fleet_id, epoch, revision) = summary?;

    let mut names = vec!["ca.pem".to_owned(), "trust.json".to_owned()];
    if keys == Keys::Included {
        names.extend(["ca.key".to_owned(), "admin.token".to_owned()]);
        names.extend(key_names(folder)?);
    }
    let mut files = BTreeMap::from([(DATABASE.to_owned(), digest_of(&copy)?)]);
    for name in names {
        let (from, path) = (folder.join(&name), to.join(&name));
        let content = match std::fs::read(&from) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(trouble("read", &from, source).into()),
        };
        if let Some(parent) = path.parent() {
            file::make_folder(parent).map_err(|source| trouble("make", parent, source))?;
        }
        home::write(&path, &content, access(&name))?;
        files.insert(name, Digest::of(&content).to_string());
    }
    let contents = Contents {
        format: FORMAT,
        fleet_id: fleet_id.clone(),
        epoch,
        revision,
        at_unix_ms: wall_ms(),
        keys: keys == Keys::Included,
        files,
    };
    // Last: without it the copy is not finished.
    let text = serde_json::to_string_pretty(&contents).expect("strings and numbers always serialise");
    home::write(&to.join(CONTENTS), text.as_bytes(), Access::Everyone)?;
    Ok(BackedUp { fleet_id, epoch, revision, files: contents.files.into_keys().collect() })
}

/// Puts the backup in `from` into the empty data directory `folder`.
///
/// # Errors
/// When `folder` is not empty, or `from` is not a whole, unchanged backup.
pub async fn restore(from: &Path, folder: &Path) -> Result<Restored, BackupError> {
    let contents = read_contents(from)?;
    check_empty(folder)?;
    for (name, digest) in &contents.files {
        let path = from.join(name);
        if digest_of(&path)? != *digest {
            return Err(BackupError::Changed(path));
        }
    }
    file::make_folder(folder).map_err(|source| trouble("make", folder, source))?;
    let _lock = home::lock(folder)?;
    // The database last: a data directory without it is a first start, and nobody takes half a copy for the whole.
    let last = |name: &String| name == DATABASE;
    let names = contents.files.keys().filter(|name| !last(name)).chain(contents.files.keys().filter(|name| last(name)));
    for name in names {
        let (source, path) = (from.join(name), folder.join(name));
        let content = std::fs::read(&source).map_err(|error| trouble("read", &source, error))?;
        if let Some(parent) = path.parent() {
            file::make_folder(parent).map_err(|error| trouble("make", parent, error))?;
        }
        home::write(&path, &content, access(name))?;
    }
    let store = Store::open(&folder.join(DATABASE)).await?;
    let checked = check_database(&store, &contents).await;
    if checked.is_ok() {
        let entry = AuditEntry {
            at_ms: wall_ms(),
            actor: "authority".to_owned(),
            action: "restore",
            subject: contents.fleet_id.clone(),
            digest: None,
            detail: json!({ "backup_at_unix_ms": contents.at_unix_ms, "revision": contents.revision }),
        };
        let mut write = store.write().await?;
        store.add_audit(&mut write, &entry).await?;
        store.commit(write).await?;
    }
    store.close().await;
    checked?;
    let backup = BackedUp {
        fleet_id: contents.fleet_id,
        epoch: contents.epoch,
        revision: contents.revision,
        files: contents.files.into_keys().collect(),
    };
    Ok(Restored { backup, needs_keys: !contents.keys })
}

/// Raises the epoch after an old copy was put back, so that agents which have seen newer revisions take the ones that
/// follow. The trust root must allow the new epoch: where it does not yet, the next root is made and signed. The authority
/// must not run.
///
/// # Errors
/// When the directory is in use or no authority's, the epoch is not above the present one, or the root given does not do.
pub async fn recover(folder: &Path, order: RecoverOrder) -> Result<Recovered, BackupError> {
    let path = folder.join(DATABASE);
    if !path.exists() {
        return Err(trouble("read", &path, io::ErrorKind::NotFound.into()).into());
    }
    let _lock = home::lock(folder)?;
    let store = Store::open(&path).await?;
    let recovered = raise(folder, &store, order).await;
    store.close().await;
    recovered
}

async fn raise(folder: &Path, store: &Store, order: RecoverOrder) -> Result<Recovered, BackupError> {
    let now = home::epoch(store).await?.0;
    let epoch = order.epoch.unwrap_or(now.saturating_add(1));
    if epoch <= now {
        return Err(BackupError::EpochTooLow { asked: epoch, now });
    }
    let roots = home::walk(&store.roots().await?)?;
    let next = match next_root(folder, roots, epoch, order.root)? {
        Next::None => None,
        Next::Root(root) => Some(*root),
        Next::Unsigned(root) => return Ok(Recovered::NeedsRoot { epoch, root }),
    };
    let mut write = store.write().await?;
    if let Some(root) = &next {
        store.add_root(&mut write, root.document().version, root.envelope()).await?;
    }
    store.set_fact(&mut write, "epoch", &epoch.to_string()).await?;
    let entry = AuditEntry {
        at_ms: wall_ms(),
        actor: "authority".to_owned(),
        action: "raise_epoch",
        subject: format!("epoch {epoch}"),
        digest: next.as_ref().map(|root| Digest::of(&root.envelope().payload)),
        detail: json!({ "before": now, "root": next.as_ref().map(|root| root.document().version) }),
    };
    store.add_audit(&mut write, &entry).await?;
    store.commit(write).await?;
    if let Some(root) = &next {
        home::write_trust(folder, root)?;
    }
    Ok(Recovered::Raised { epoch })
}

enum Next {
    /// The newest root allows the epoch as it is.
    None,
    Root(Box<TrustRoot>),
    /// People must sign it.
    Unsigned(Envelope),
}

fn next_root(folder: &Path, roots: Vec<TrustRoot>, epoch: u32, given: Option<Envelope>) -> Result<Next, BackupError> {
    let newest = roots.last().expect("a walk gives at least one root").clone();
    if newest.document().epoch_max.is_none_or(|allowed| allowed.0 >= epoch) {
        return Ok(Next::None);
    }
    if let Some(envelope) = given {
        let root = newest.next(&envelope).map_err(BackupError::Root)?;
        return match root.document().epoch_max {
            Some(allowed) if allowed.0 < epoch => Err(BackupError::RootEpoch { allowed: allowed.0, wanted: epoch }),
            _ => Ok(Next::Root(Box::new(root))),
        };
    }
    let document = RootDocument {
        version: newest.document().version + 1,
        created_at_unix_ms: i64::try_from(wall_ms()).unwrap_or(i64::MAX),
        epoch_max: Some(Epoch(epoch)),
        ..newest.document().clone()
    };
    let signer = Signer::new(home::keys(folder)?, roots, 0).map_err(BackupError::Root)?;
    let envelope = signer.sign_root(&document, &[]);
    match newest.next(&envelope) {
        Ok(root) => Ok(Next::Root(Box::new(root))),
        Err(VerifyError::ThresholdNotMet { .. } | VerifyError::Unsigned { .. }) => Ok(Next::Unsigned(envelope)),
        Err(error) => Err(BackupError::Root(error)),
    }
}

async fn summary(store: &Store) -> Result<(String, u32, u64), BackupError> {
    let fleet = store.fact("fleet_id").await?;
    let fleet = fleet.ok_or_else(|| StoreError::Damaged { what: "it has no fleet id".to_owned() })?;
    let revision = store.newest_release().await?.map_or(0, |row| row.revision);
    Ok((fleet, home::epoch(store).await?.0, revision))
}

async fn check_database(store: &Store, contents: &Contents) -> Result<(), BackupError> {
    store.check_integrity().await?;
    if let Some(entry) = store.verify_audit().await?.broken_at {
        return Err(BackupError::Audit(entry));
    }
    let (fleet_id, epoch, revision) = summary(store).await?;
    if (fleet_id.as_str(), epoch, revision) != (contents.fleet_id.as_str(), contents.epoch, contents.revision) {
        return Err(
            StoreError::Damaged { what: "it is not the one that the backup's contents speak of".to_owned() }.into()
        );
    }
    home::walk(&store.roots().await?)?;
    Ok(())
}

fn read_contents(from: &Path) -> Result<Contents, BackupError> {
    let path = from.join(CONTENTS);
    let no_backup = |why: String| BackupError::NoBackup { path: from.to_owned(), why };
    let text = std::fs::read_to_string(&path).map_err(|error| no_backup(format!("{CONTENTS}: {error}")))?;
    let contents: Contents =
        serde_json::from_str(&text).map_err(|error| no_backup(format!("{CONTENTS} does not parse: {error}")))?;
    if contents.format != FORMAT {
        return Err(no_backup(format!(
            "it has format {}, which another version of this program wrote",
            contents.format
        )));
    }
    let is_known = |name: &String| {
        let key = name
            .strip_prefix("keys/")
            .is_some_and(|file| file.ends_with(".pem") && !file.starts_with('.') && !file.contains(['/', '\\']));
        key || [DATABASE, "ca.pem", "ca.key", "trust.json", "admin.token"].contains(&name.as_str())
    };
    match contents.files.keys().find(|name| !is_known(name)) {
        Some(name) => Err(no_backup(format!("it lists `{name}`, which no backup holds"))),
        None if !contents.files.contains_key(DATABASE) => Err(no_backup("it has no database".to_owned())),
        None => Ok(contents),
    }
}

fn check_empty(folder: &Path) -> Result<(), BackupError> {
    match std::fs::read_dir(folder).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(BackupError::Taken(folder.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(trouble("read", folder, source).into()),
    }
}

fn key_names(folder: &Path) -> Result<Vec<String>, HomeError> {
    let mut names = Vec::new();
    for path in home::key_files(folder)? {
        if let Some(name) = path.file_name() {
            names.push(format!("keys/{}", name.to_string_lossy()));
        }
    }
    Ok(names)
}

fn digest_of(path: &Path) -> Result<String, BackupError> {
    let content = std::fs::read(path).map_err(|source| trouble("read", path, source))?;
    Ok(Digest::of(&content).to_string())
}

fn access(name: &str) -> Access {
    if ["ca.pem", "trust.json"].contains(&name) { Access::Everyone } else { Access::Owner }
}
