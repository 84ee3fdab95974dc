//! The sandbox routes on disk, and what of them is known without asking the disk.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sealane_model::sandbox::{ROUTES_MAX, SandboxRoute};
use thiserror::Error;

use super::kept::Kept;
use super::{NewRoute, SandboxError};
use crate::clock::Clock;
use crate::file::{self, Lock, LockError};
use crate::store::{Store, StoreError, Write};

/// The sandbox routes of one proxy without a fleet, in a database of their own. One process at a time.
#[derive(Debug)]
pub struct SandboxBook {
    store: Store,
    /// What is committed.
    kept: Kept,
    clock: Clock,
    /// `None`: the database is held by the authority.
    _lock: Option<Lock>,
}

/// Why a database of sandbox routes cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A file or folder.
    #[error("cannot use `{}`", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// Only one process should write.
    #[error("`{}` is in use by another sealane (process {holder}): stop it first, or take another database", path.display())]
    Held {
        /// The database.
        path: PathBuf,
        /// Process id of the holder.
        holder: String,
    },
    /// The database.
    #[error("cannot use the database `{}`", path.display())]
    Store {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: StoreError,
    },
}

/// A change that is written but not committed; dropped, it never happened.
#[derive(Debug)]
pub struct Change {
    pub(crate) write: Write,
    added: Option<Arc<SandboxRoute>>,
    /// Ids.
    removed: BTreeSet<u64>,
}

impl SandboxBook {
    /// Opens or makes the database, and the folders above it.
    ///
    /// # Errors
    /// Files, another process that has it, SQLite.
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        let trouble = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::File { path, source }
        };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            file::make_folder(folder).map_err(trouble(folder))?;
        }
        let mut lock_name = path.as_os_str().to_owned();
        lock_name.push(".lock");
        let lock = Lock::take(Path::new(&lock_name)).map_err(|error| match error {
            LockError::Held(holder) => OpenError::Held { path: path.to_owned(), holder },
            LockError::Io(source) => trouble(Path::new(&lock_name))(source),
        })?;
        let failed = |source| OpenError::Store { path: path.to_owned(), source };
        let store = Store::open_for_sandboxes(path).await.map_err(failed)?;
        let kept = read(&store).await.map_err(failed)?;
        Ok(Self { store, kept, clock: Clock::starting_at_least(0), _lock: Some(lock) })
    }

    /// Those in the authority's own database.
    pub(crate) async fn of_fleet(store: Store, clock: Clock) -> Result<Self, StoreError> {
        let kept = read(&store).await?;
        Ok(Self { store, kept, clock, _lock: None })
    }

    /// What is committed, by id.
    pub fn routes(&self) -> impl Iterator<Item = &SandboxRoute> {
        self.kept.routes()
    }

    /// How many are committed.
    pub(crate) fn len(&self) -> usize {
        self.kept.len()
    }

    /// What the routes will be once `change` is committed, by id.
    pub(crate) fn after<'c>(&'c self, change: &'c Change) -> impl Iterator<Item = &'c SandboxRoute> {
        // A new id is the highest.
        self.routes().filter(|route| !change.removed.contains(&route.id)).chain(change.added())
    }

    /// A route by id.
    pub(crate) fn route(&self, id: u64) -> Option<&SandboxRoute> {
        self.kept.route(id)
    }

    /// Ids of a sandbox's routes.
    #[must_use]
    pub fn of_sandbox(&self, sandbox_id: &str) -> Vec<u64> {
        self.kept.of_sandbox(sandbox_id)
    }

    /// How long until the next route expires; zero: one has.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Duration> {
        let at_ms = self.kept.next_end_ms()?;
        Some(Duration::from_millis(at_ms.saturating_sub(self.clock.now_ms())))
    }

    /// Writes a new route; its id.
    ///
    /// # Errors
    /// What was sent is wrong, is there already, or cannot be written.
    pub async fn add(&self, new: NewRoute) -> Result<(u64, Change), SandboxError> {
        let now_ms = self.clock.now_ms();
        let mut route = new.route(now_ms)?;
        if self.kept.len() >= ROUTES_MAX {
            return Err(SandboxError::Full);
        }
        if let Some(id) = self.kept.find(&route.sandbox_id, &route.pattern) {
            return Err(SandboxError::Duplicate { id });
        }
        let mut change = self.change().await?;
        let added = self.store.add_sandbox_route(&mut change.write, &route, now_ms).await?;
        // Somebody else wrote to the file.
        route.id = added.ok_or(SandboxError::Duplicate { id: 0 })?;
        let id = route.id;
        change.added = Some(Arc::new(route));
        Ok((id, change))
    }

    /// Deletes those with these ids; how many there were, and the change unless there were none.
    ///
    /// # Errors
    /// They cannot be written.
    pub async fn delete(&self, ids: &[u64]) -> Result<(u64, Option<Change>), SandboxError> {
        let removed: BTreeSet<u64> = ids.iter().copied().filter(|id| self.kept.route(*id).is_some()).collect();
        if removed.is_empty() {
            return Ok((0, None));
        }
        let mut change = self.change().await?;
        for id in &removed {
            self.store.delete_sandbox_route(&mut change.write, *id).await?;
        }
        change.removed = removed;
        Ok((change.removed.len() as u64, Some(change)))
    }

    /// As [`Self::delete`], those whose time is over.
    ///
    /// # Errors
    /// They cannot be written.
    pub async fn expire(&self) -> Result<(u64, Option<Change>), SandboxError> {
        self.delete(&self.kept.ended(self.clock.now_ms())).await
    }

    /// Makes a change durable.
    ///
    /// # Errors
    /// It was not written.
    pub async fn commit(&mut self, change: Change) -> Result<(), SandboxError> {
        self.store.commit(change.write).await?;
        change.removed.iter().for_each(|id| self.kept.remove(*id));
        if let Some(route) = change.added {
            self.kept.insert(route);
        }
        Ok(())
    }

    /// Reads everything again; what was known before is forgotten.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn reload(&mut self) -> Result<(), SandboxError> {
        self.kept = read(&self.store).await?;
        Ok(())
    }

    /// Closes the database.
    pub async fn close(&self) {
        self.store.close().await;
    }

    /// A change that changes no route.
    pub(crate) async fn change(&self) -> Result<Change, SandboxError> {
        Ok(Change { write: self.store.write().await?, added: None, removed: BTreeSet::new() })
    }
}

impl Change {
    /// Routes that come.
    pub fn added(&self) -> impl Iterator<Item = &SandboxRoute> {
        self.added.iter().map(|route| &**route)
    }

    /// Ids of routes that go.
    pub fn removed(&self) -> impl Iterator<Item = u64> {
        self.removed.iter().copied()
    }
}

async fn read(store: &Store) -> Result<Kept, StoreError> {
    Ok(store.sandbox_routes().await?.into_iter().map(Arc::new).collect())
}
