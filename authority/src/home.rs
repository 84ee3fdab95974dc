//! The data directory: what the first start makes, and what later starts find.
//!
//! `authority.lock` (who has it), `authority.db`, `keys/*.pem` (0600), `ca.pem`, `ca.key` (0600), `trust.json`,
//! `admin.token` (0600), `client.yaml`. Every file is written whole or not at all. A crash in the middle of the first
//! start is a first start again: the database's fleet id comes last.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sealane_model::envelope::Envelope;
use sealane_model::ids::{Digest, Epoch, FleetId};
use sealane_model::keys::{KeyError, SigningKey};
use sealane_model::trust::{RootDocument, TrustRoot};
use sealane_model::verify::VerifyError;
use serde_json::json;
use thiserror::Error;

use crate::auth::Role;
use crate::clock::wall_ms;
use crate::file::{self, Access, Lock, LockError};
use crate::pki::{self, Ca, PkiError};
use crate::signer::Signer;
use crate::store::audit::AuditEntry;
use crate::store::token::TokenRow;
use crate::store::{Store, StoreError};

/// Id of the token that the first start writes.
pub(crate) const ADMIN_TOKEN_ID: &str = "admin.token";
/// The file of the fleet's first key.
const FIRST_KEY: &str = "fleet.pem";

/// The data directory, held by this process.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) folder: PathBuf,
    pub(crate) store: Store,
    pub(crate) signer: Arc<Signer>,
    pub(crate) ca: Arc<Ca>,
    pub(crate) first_start: Option<FirstStart>,
    _lock: Lock,
}

/// What a first start made.
#[derive(Clone, PartialEq, Eq)]
pub struct FirstStart {
    /// The token file (0600).
    pub admin_token: PathBuf,
    /// The trust root, for `--trust`.
    pub trust: PathBuf,
    /// Settings for the command line.
    pub client: PathBuf,
    /// The admin token itself. To be shown on a terminal only.
    pub token: String,
}

impl std::fmt::Debug for FirstStart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FirstStart").field("admin_token", &self.admin_token).finish_non_exhaustive()
    }
}

/// Why the data directory could not be used.
#[derive(Debug, Error)]
pub enum HomeError {
    /// A file or folder.
    #[error("cannot {doing} `{}`", path.display())]
    File {
        /// read, write, make, lock
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// A second authority.
    #[error("`{}` is in use by another authority (process {holder}): stop it first, or take another --data directory",
            folder.display())]
    Held {
        /// The data directory.
        folder: PathBuf,
        /// What the holder wrote into the lock file: its process id.
        holder: String,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A signing key.
    #[error("`{}` is no signing key", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: KeyError,
    },
    /// Keys are missing, such as after a restore of a backup without them.
    #[error(
        "the keys in `{}` are not enough to sign for this fleet's timestamp role: put back the key files that belong to \
         this database (a backup made with --without-keys does not hold them)",
        folder.display()
    )]
    NoKeys {
        /// Where they should be.
        folder: PathBuf,
    },
    /// The stored trust root.
    #[error("the stored trust root cannot be trusted")]
    Root(#[source] VerifyError),
    /// The CA.
    #[error("the CA in the data directory cannot be used")]
    Ca(#[source] PkiError),
    /// No random bytes.
    #[error("the system gave no random bytes")]
    Entropy(#[source] getrandom::Error),
}

impl Home {
    /// Opens the data directory, making what is missing.
    pub(crate) async fn open(folder: &Path, timestamp_lifetime_ms: u64) -> Result<Self, HomeError> {
        file::make_folder(folder).map_err(|source| trouble("make", folder, source))?;
        let folder = folder.canonicalize().map_err(|source| trouble("read", folder, source))?;
        let lock = lock(&folder)?;
        let store = Store::open(&folder.join("authority.db")).await?;
        let first_start = match store.fact("fleet_id").await? {
            Some(_) => None,
            None => Some(begin(&folder, &store).await?),
        };
        let roots = walk(&store.roots().await?)?;
        let newest = roots.last().expect("a walk gives at least one root").clone();
        write_trust(&folder, &newest)?;
        let ca = open_ca(&folder, newest.fleet())?;
        let keys = keys(&folder)?;
        check_keys(&folder, &newest, &keys)?;
        let signer = Arc::new(Signer::new(keys, roots, timestamp_lifetime_ms).map_err(HomeError::Root)?);
        Ok(Self { folder, store, signer, ca: Arc::new(ca), first_start, _lock: lock })
    }

    /// Writes `client.yaml` for the address that the authority listens on, where it is not there or out of date.
    pub(crate) fn write_client(&self, server: &str, with_ca: bool) -> Result<(), HomeError> {
        let path = self.folder.join("client.yaml");
        let quoted = |text: &str| serde_json::Value::String(text.to_owned()).to_string();
        let quoted_path = |name: &str| quoted(&self.folder.join(name).to_string_lossy());
        let mut text = format!("server: {}\ntoken_file: {}\n", quoted(server), quoted_path("admin.token"));
        if with_ca {
            text.push_str(&format!("ca_file: {}\n", quoted_path("ca.pem")));
        }
        if std::fs::read_to_string(&path).is_ok_and(|now| now == text) {
            return Ok(());
        }
        write(&path, text.as_bytes(), Access::Everyone)
    }
}

/// The fleet's epoch.
pub(crate) async fn epoch(store: &Store) -> Result<Epoch, StoreError> {
    let text = store.fact("epoch").await?.unwrap_or_default();
    let epoch = text.parse().map_err(|_| StoreError::Damaged { what: "the epoch is no number".to_owned() })?;
    Ok(Epoch(epoch))
}

pub(crate) fn lock(folder: &Path) -> Result<Lock, HomeError> {
    let path = folder.join("authority.lock");
    Lock::take(&path).map_err(|error| match error {
        LockError::Held(holder) => HomeError::Held { folder: folder.to_owned(), holder },
        LockError::Io(source) => trouble("lock", &path, source),
    })
}

/// The first start: a key, a trust root, an admin token.
async fn begin(folder: &Path, store: &Store) -> Result<FirstStart, HomeError> {
    let now_ms = wall_ms();
    let key = new_key()?;
    let mut id = [0; 8];
    getrandom::fill(&mut id).map_err(HomeError::Entropy)?;
    let fleet = FleetId(format!("fleet-{:016x}", u64::from_be_bytes(id)));
    let secret = new_secret()?;

    let keys = folder.join("keys");
    file::make_folder(&keys).map_err(|source| trouble("make", &keys, source))?;
    write(&keys.join(FIRST_KEY), key.to_pem().as_bytes(), Access::Owner)?;
    let created_at = i64::try_from(now_ms).unwrap_or(0);
    let mut document = RootDocument::single_key(fleet.clone(), &key.public(), created_at);
    document.epoch_max = Some(Epoch(1));
    let root = document.sign(&[&key]);
    let first = FirstStart {
        admin_token: folder.join("admin.token"),
        trust: folder.join("trust.json"),
        client: folder.join("client.yaml"),
        token: secret,
    };
    write(&first.trust, root.to_json().as_bytes(), Access::Everyone)?;
    write(&first.admin_token, format!("{}\n", first.token).as_bytes(), Access::Owner)?;
    for stale in ["ca.pem", "ca.key"] {
        remove(&folder.join(stale))?;
    }

    let mut change = store.write().await?;
    store.add_root(&mut change, 1, &root).await?;
    let token = TokenRow {
        id: ADMIN_TOKEN_ID.to_owned(),
        secret_sha256: Digest::of(first.token.as_bytes()).to_vec(),
        role: Role::Admin.as_str().to_owned(),
        region: String::new(),
        comment: "made at the first start".to_owned(),
        created_at_ms: created_at,
        expires_at_ms: None,
        revoked_at_ms: None,
    };
    store.add_token(&mut change, &token).await?;
    store.set_fact(&mut change, "epoch", "1").await?;
    store.set_fact(&mut change, "fleet_id", &fleet.0).await?;
    let entry = AuditEntry {
        at_ms: now_ms,
        actor: "authority".to_owned(),
        action: "first_start",
        subject: fleet.0,
        digest: Some(Digest::of(&root.payload)),
        detail: json!({}),
    };
    store.add_audit(&mut change, &entry).await?;
    store.commit(change).await?;
    Ok(first)
}

/// A bearer token's text: 256 random bits.
pub(crate) fn new_secret() -> Result<String, HomeError> {
    use base64::Engine as _;
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(HomeError::Entropy)?;
    Ok(format!("sealane_{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(secret)))
}

/// The chain of stored roots, each verified by the one before; at least one.
pub(crate) fn walk(roots: &[Envelope]) -> Result<Vec<TrustRoot>, HomeError> {
    let damaged = || StoreError::Damaged { what: "there is no trust root".to_owned() };
    let (first, rest) = roots.split_first().ok_or_else(damaged)?;
    let mut chain = vec![TrustRoot::pinned(first).map_err(HomeError::Root)?];
    for envelope in rest {
        let next = chain.last().expect("begun with one").next(envelope).map_err(HomeError::Root)?;
        chain.push(next);
    }
    Ok(chain)
}

/// Every signing key of the data directory.
pub(crate) fn keys(folder: &Path) -> Result<Vec<SigningKey>, HomeError> {
    key_files(folder)?.into_iter().map(|path| read_key(&path)).collect()
}

/// Without keys for the timestamp role the fleet could not be told anything.
fn check_keys(folder: &Path, root: &TrustRoot, keys: &[SigningKey]) -> Result<(), HomeError> {
    let role = root.document().roles.iter().find(|one| one.role == sealane_model::trust::Role::Timestamp);
    let held = |id: &sealane_model::keys::KeyId| keys.iter().any(|key| key.public().id() == *id);
    if role.is_some_and(|role| role.key_ids.iter().filter(|id| held(id)).count() < role.threshold as usize) {
        return Err(HomeError::NoKeys { folder: folder.join("keys") });
    }
    Ok(())
}

pub(crate) fn key_files(folder: &Path) -> Result<Vec<PathBuf>, HomeError> {
    let folder = folder.join("keys");
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(|source| trouble("read", &folder, source))? {
        let path = entry.map_err(|source| trouble("read", &folder, source))?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !is_hidden && path.extension().is_some_and(|extension| extension == "pem") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read_key(path: &Path) -> Result<SigningKey, HomeError> {
    let pem = std::fs::read_to_string(path).map_err(|source| trouble("read", path, source))?;
    SigningKey::from_pem(&pem).map_err(|source| HomeError::Key { path: path.to_owned(), source })
}

/// A new signing key. It is nowhere yet.
pub(crate) fn new_key() -> Result<SigningKey, HomeError> {
    let mut entropy = [0; 32];
    getrandom::fill(&mut entropy).map_err(HomeError::Entropy)?;
    Ok(SigningKey::from_entropy(entropy))
}

/// Keeps signing keys, each in a file named after its id.
pub(crate) fn write_keys(folder: &Path, keys: &[SigningKey]) -> Result<(), HomeError> {
    for key in keys {
        let id = key.public().id().0;
        let path = folder.join("keys").join(format!("{}.pem", &id[..16]));
        write(&path, key.to_pem().as_bytes(), Access::Owner)?;
    }
    Ok(())
}

/// Writes `trust.json` where it is not the newest root.
pub(crate) fn write_trust(folder: &Path, root: &TrustRoot) -> Result<(), HomeError> {
    let (path, text) = (folder.join("trust.json"), root.envelope().to_json());
    if std::fs::read_to_string(&path).is_ok_and(|now| now == text) {
        return Ok(());
    }
    write(&path, text.as_bytes(), Access::Everyone)
}

/// Renames the files of keys that `root` does not name any more, so that no later start reads them.
pub(crate) fn retire_keys(folder: &Path, root: &TrustRoot) -> Result<(), HomeError> {
    for path in key_files(folder)? {
        let id = read_key(&path)?.public().id();
        if root.document().keys.iter().all(|one| one.key.id() != id) {
            let retired = path.with_extension("pem.retired");
            std::fs::rename(&path, &retired).map_err(|source| trouble("write", &retired, source))?;
        }
    }
    Ok(())
}

fn open_ca(folder: &Path, fleet: &FleetId) -> Result<Ca, HomeError> {
    let (certificate, key) = (folder.join("ca.pem"), folder.join("ca.key"));
    if !certificate.exists() || !key.exists() {
        let made = pki::make_ca(fleet, wall_ms()).map_err(HomeError::Ca)?;
        write(&key, made.key_pem.as_bytes(), Access::Owner)?;
        write(&certificate, made.certificate_pem.as_bytes(), Access::Everyone)?;
    }
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|source| trouble("read", path, source));
    Ca::load(&read(&certificate)?, &read(&key)?).map_err(HomeError::Ca)
}

pub(crate) fn write(path: &Path, content: &[u8], access: Access) -> Result<(), HomeError> {
    file::write(path, content, access).map_err(|source| trouble("write", path, source))
}

fn remove(path: &Path) -> Result<(), HomeError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(trouble("write", path, source)),
        _ => Ok(()),
    }
}

pub(crate) fn trouble(doing: &'static str, path: &Path, source: io::Error) -> HomeError {
    HomeError::File { doing, path: path.to_owned(), source }
}
