//! The state directory of a fleet proxy: its state, and the content of the releases it keeps.
//!
//! It does not know the agent or the data plane. A change is on disk (written, synced, renamed) before it counts.

use std::fs::File;
use std::path::{Path, PathBuf};

use sealane_model::bundle::VerifiedBundle;
use sealane_model::ids::Digest;
use sealane_model::release::VerifiedRelease;
use sealane_model::trust::TrustRoot;
use sealane_model::verify::VerifyError;
use sealane_node::blobs::Blobs;
use sealane_node::disk::{self, DiskError};
use thiserror::Error;

use super::state::{State, StateError};

/// The state directory.
#[derive(Debug)]
pub(crate) struct Store {
    directory: PathBuf,
    path: PathBuf,
    previous: PathBuf,
    state: State,
    blobs: Blobs,
    /// `None`: of another process, only looked at.
    _lock: Option<File>,
}

/// Why a state directory does not open.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file system refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Another process uses it.
    #[error("another proxy uses the state directory `{}`", .0.display())]
    InUse(PathBuf),
    /// Neither the state nor the one before opens.
    #[error("cannot open the state `{}`; move the state directory away to start over from the trust root", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: StateError,
    },
    /// The trust root given is of another fleet.
    #[error("the state directory belongs to fleet `{held}`, the trust root to fleet `{offered}`")]
    OtherFleet {
        /// Of the state directory.
        held: String,
        /// Of the trust root.
        offered: String,
    },
    /// The trust root given contradicts the one that is trusted.
    #[error("the trust root given is another version {version} than the one in the state directory")]
    OtherRoot {
        /// The number both have.
        version: u32,
    },
    /// The id given is not the one of the state directory.
    #[error("the state directory belongs to proxy `{held}`, not `{asked}`")]
    OtherId {
        /// Of the state directory.
        held: String,
        /// Asked for.
        asked: String,
    },
}

impl Store {
    /// Opens (or makes) the state directory of the proxy `id` (`default_id` when `None`) that trusts `pinned`.
    pub(crate) fn open(
        directory: &Path,
        pinned: &TrustRoot,
        id: Option<&str>,
        default_id: &str,
    ) -> Result<Self, StoreError> {
        disk::create_dir(directory)?;
        let lock = lock(directory)?;
        disk::sweep(directory)?;
        let blobs = Blobs::open(&directory.join("blobs"))?;
        let (path, previous) = (directory.join("state"), directory.join("state.previous"));
        let (mut state, fresh) = match load(&path, &previous)? {
            Some(state) => (state, false),
            None => (State::new(id.unwrap_or(default_id).to_owned(), pinned.clone()), true),
        };
        if let Some(asked) = id.filter(|asked| *asked != state.id) {
            return Err(StoreError::OtherId { held: state.id, asked: asked.to_owned() });
        }
        let changed = pin(&mut state, pinned)?;
        let store = Self { directory: directory.to_owned(), path, previous, state, blobs, _lock: Some(lock) };
        if fresh || changed {
            store.persist(&store.state)?;
        }
        Ok(store)
    }

    /// The state directory that another process of this proxy has, as a start would read it. For looking only.
    pub(crate) fn look(directory: &Path) -> Result<Self, StoreError> {
        let blobs = Blobs::open(&directory.join("blobs"))?;
        let (path, previous) = (directory.join("state"), directory.join("state.previous"));
        let missing = || DiskError::new("read", &path, std::io::Error::from(std::io::ErrorKind::NotFound));
        let state = load(&path, &previous)?.ok_or_else(missing)?;
        Ok(Self { directory: directory.to_owned(), path, previous, state, blobs, _lock: None })
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Makes `next` the state once it is on disk; then lets go of content that nothing needs.
    pub(crate) fn change(&mut self, next: State) -> Result<(), DiskError> {
        if next == self.state {
            return Ok(());
        }
        self.persist(&next)?;
        self.state = next;
        self.blobs.retain(&self.state.referenced())
    }

    /// The whole content of a kept release, every byte verified again.
    pub(crate) fn open_kept(&self, release: &VerifiedRelease) -> Result<VerifiedBundle, OpenError> {
        let digest = release.release().manifest_digest;
        let missing = VerifyError::Missing { what: "manifest", digest };
        let bytes = self.blobs.read(&digest)?.ok_or(missing)?;
        open_from(&self.blobs, release, &bytes)
    }

    fn persist(&self, state: &State) -> Result<(), DiskError> {
        if let Some(bytes) = disk::read(&self.path)?
            && State::decode(&bytes).is_ok()
        {
            disk::write_atomic(&self.previous, &bytes)?;
        }
        disk::write_atomic(&self.path, &state.encode())
    }
}

/// Why kept content does not open.
#[derive(Debug, Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Refused(#[from] VerifyError),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Puts a release's content together from blobs on disk.
pub(crate) fn open_from(
    blobs: &Blobs,
    release: &VerifiedRelease,
    manifest: &[u8],
) -> Result<VerifiedBundle, OpenError> {
    let mut failed = None;
    let opened = release.open_manifest(manifest)?.open(|digest: &Digest| match blobs.read(digest) {
        Ok(content) => content,
        Err(error) => {
            failed = Some(error);
            None
        }
    });
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(opened?),
    }
}

fn lock(directory: &Path) -> Result<File, StoreError> {
    let path = directory.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| DiskError::new("open", &path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::InUse(directory.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => Err(DiskError::new("lock", &path, source).into()),
    }
}

/// The state, or the one before when that is damaged.
fn load(path: &Path, previous: &Path) -> Result<Option<State>, StoreError> {
    let current = match disk::read(path)? {
        Some(bytes) => State::decode(&bytes),
        None => match disk::read(previous)? {
            Some(bytes) => State::decode(&bytes),
            None => return Ok(None),
        },
    };
    let source = match current {
        Ok(state) => return Ok(Some(state)),
        Err(source) => source,
    };
    if let Some(bytes) = disk::read(previous)?
        && let Ok(state) = State::decode(&bytes)
    {
        tracing::error!(path = %path.display(), error = disk::chain(&source), "the state is damaged, using the one before");
        return Ok(Some(state));
    }
    Err(StoreError::Unusable { path: path.to_owned(), source })
}

/// Squares the trust root file with the state. The file came by a trusted way, so a newer one counts; an older one is
/// what the fleet has moved on from.
fn pin(state: &mut State, pinned: &TrustRoot) -> Result<bool, StoreError> {
    let held = state.trust();
    if held.fleet() != pinned.fleet() {
        return Err(StoreError::OtherFleet { held: held.fleet().0.clone(), offered: pinned.fleet().0.clone() });
    }
    let version = pinned.document().version;
    match state.roots.iter().find(|root| root.document().version == version) {
        Some(same) if same.envelope().payload == pinned.envelope().payload => Ok(false),
        Some(_) => Err(StoreError::OtherRoot { version }),
        None if version < held.document().version => Ok(false),
        None => {
            state.roots.push(pinned.clone());
            Ok(true)
        }
    }
}
