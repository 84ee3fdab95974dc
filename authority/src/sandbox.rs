//! Sandbox routes: kept in SQLite, changed through seed 000's HTTP API, served by whoever stands behind a [`Desk`].
//!
//! A change is checked, written and made ready to be served before it is committed, so that a route which was accepted
//! is served, and one that was refused left no trace. This module does not know how a route is served: one proxy
//! (`sealane run`) and a fleet each bring their own [`Desk`].

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sealane_model::sandbox::{PRIORITY_DEFAULT, ROUTES_MAX, SandboxFault, SandboxRoute};
use thiserror::Error;

use crate::clock::Clock;
use crate::file::{self, Lock, LockError};
use crate::store::{Store, StoreError, Write};

pub(crate) mod fleet;
mod http;

pub use http::router;

/// A route that somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRoute {
    /// Whose it is.
    pub sandbox_id: String,
    /// A regex on the path.
    pub pattern: String,
    /// Where its requests go.
    pub target_url: String,
    /// Lower is tried first; `None`: 100.
    pub priority: Option<i32>,
    /// After this it is gone; `None`: it stays.
    pub ttl: Option<Duration>,
}

impl NewRoute {
    /// The route without its id, checked.
    pub(crate) fn route(self, now_ms: u64) -> Result<SandboxRoute, SandboxError> {
        let ttl_ms = self.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX / 4));
        let route = SandboxRoute {
            id: 0,
            sandbox_id: self.sandbox_id,
            pattern: self.pattern,
            target_url: self.target_url,
            priority: self.priority.unwrap_or(PRIORITY_DEFAULT),
            expires_at_ms: ttl_ms.map(|ttl_ms| now_ms + ttl_ms),
        };
        route.check()?;
        Ok(route)
    }
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed<T> {
    /// The answer.
    pub value: T,
    /// The revision of the sandbox partition that holds it; `None` without a fleet, or when nothing had to change.
    pub revision: Option<u64>,
}

/// Why a change was not made. Nothing of it is left.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// What was sent is wrong.
    #[error(transparent)]
    Fault(#[from] SandboxFault),
    /// The sandbox has this pattern.
    #[error("the sandbox has this pattern already, as route {id}")]
    Duplicate {
        /// The route that has it.
        id: u64,
    },
    /// One more would be too many.
    #[error("there are {ROUTES_MAX} sandbox routes already: delete some, or give them a ttl")]
    Full,
    /// No such route.
    #[error("route not found")]
    NotFound,
    /// The config in force says `sandboxes: { enabled: false }`.
    #[error("the config switches sandbox routes off (`sandboxes: {{ enabled: false }}`)")]
    Off,
    /// The fleet's trust root wants signatures that this authority cannot give.
    #[error("the fleet's trust root does not let this authority sign sandbox revisions: {0}")]
    NotSigned(String),
    /// The process is stopping.
    #[error("stopping")]
    Stopping,
    /// It cannot be served as it is.
    #[error("cannot be served: {0}")]
    Unservable(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Who asks for a change, as the audit log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor(pub String);

/// Whoever keeps sandbox routes and sees to it that they are served.
pub trait Desk: Send + Sync + 'static {
    /// Adds a route and gives its id. After the answer it is served (by a fleet: within a second).
    fn add(&self, route: NewRoute, by: Actor) -> impl Future<Output = Result<Changed<u64>, SandboxError>> + Send;
    /// All routes, in the order in which they are tried.
    fn list(&self) -> impl Future<Output = Result<Vec<SandboxRoute>, SandboxError>> + Send;
    /// Deletes a route.
    fn delete(&self, id: u64, by: Actor) -> impl Future<Output = Result<Changed<()>, SandboxError>> + Send;
    /// Deletes a sandbox with all its routes and says how many there were.
    fn delete_sandbox(
        &self,
        sandbox_id: String,
        by: Actor,
    ) -> impl Future<Output = Result<Changed<u64>, SandboxError>> + Send;
    /// Reads all routes from the database again and serves them.
    fn reload(&self, by: Actor) -> impl Future<Output = Result<Changed<()>, SandboxError>> + Send;
}

/// The sandbox routes of one proxy without a fleet, in a database of their own. One process at a time.
#[derive(Debug)]
pub struct SandboxBook {
    store: Store,
    /// What is committed, by id.
    routes: BTreeMap<u64, Arc<SandboxRoute>>,
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
    write: Write,
    /// What the routes will be.
    routes: BTreeMap<u64, Arc<SandboxRoute>>,
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
        let mut book = Self { store, routes: BTreeMap::new(), clock: Clock::starting_at_least(0), _lock: Some(lock) };
        book.routes = book.read().await.map_err(failed)?;
        Ok(book)
    }

    /// Those in the authority's own database.
    pub(crate) async fn of_fleet(store: Store, clock: Clock) -> Result<Self, StoreError> {
        let mut book = Self { store, routes: BTreeMap::new(), clock, _lock: None };
        book.routes = book.read().await?;
        Ok(book)
    }

    /// What is committed, by id.
    pub fn routes(&self) -> impl Iterator<Item = &SandboxRoute> {
        self.routes.values().map(|route| &**route)
    }

    /// How long until the next route expires; zero: one has.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Duration> {
        let at_ms = self.routes.values().filter_map(|route| route.expires_at_ms).min()?;
        Some(Duration::from_millis(at_ms.saturating_sub(self.clock.now_ms())))
    }

    /// Writes a new route; its id.
    ///
    /// # Errors
    /// What was sent is wrong, is there already, or cannot be written.
    pub async fn add(&self, new: NewRoute) -> Result<(u64, Change), SandboxError> {
        let now_ms = self.clock.now_ms();
        let mut route = new.route(now_ms)?;
        if self.routes.len() >= ROUTES_MAX {
            return Err(SandboxError::Full);
        }
        let same = |other: &&Arc<SandboxRoute>| other.sandbox_id == route.sandbox_id && other.pattern == route.pattern;
        if let Some(other) = self.routes.values().find(same) {
            return Err(SandboxError::Duplicate { id: other.id });
        }
        let mut change = self.change().await?;
        let added = self.store.add_sandbox_route(&mut change.write, &route, now_ms).await?;
        // Somebody else wrote to the file.
        route.id = added.ok_or(SandboxError::Duplicate { id: 0 })?;
        let id = route.id;
        change.routes.insert(id, Arc::new(route));
        Ok((id, change))
    }

    /// Deletes those that `doomed` picks; how many, and the change unless there are none.
    ///
    /// # Errors
    /// They cannot be written.
    pub async fn delete(&self, doomed: impl Fn(&SandboxRoute) -> bool) -> Result<(u64, Option<Change>), SandboxError> {
        let ids: Vec<u64> = self.routes.values().filter(|route| doomed(route)).map(|route| route.id).collect();
        if ids.is_empty() {
            return Ok((0, None));
        }
        let mut change = self.change().await?;
        for id in &ids {
            self.store.delete_sandbox_route(&mut change.write, *id).await?;
            change.routes.remove(id);
        }
        Ok((ids.len() as u64, Some(change)))
    }

    /// As [`Self::delete`], those whose time is over.
    ///
    /// # Errors
    /// They cannot be written.
    pub async fn expire(&self) -> Result<(u64, Option<Change>), SandboxError> {
        let now_ms = self.clock.now_ms();
        self.delete(|route| route.is_expired(now_ms)).await
    }

    /// Makes a change durable.
    ///
    /// # Errors
    /// It was not written.
    pub async fn commit(&mut self, change: Change) -> Result<(), SandboxError> {
        self.store.commit(change.write).await?;
        self.routes = change.routes;
        Ok(())
    }

    /// Reads everything again; what was known before is forgotten.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn reload(&mut self) -> Result<(), SandboxError> {
        self.routes = self.read().await?;
        Ok(())
    }

    /// Closes the database.
    pub async fn close(&self) {
        self.store.close().await;
    }

    /// A change that changes no route.
    pub(crate) async fn change(&self) -> Result<Change, SandboxError> {
        Ok(Change { write: self.store.write().await?, routes: self.routes.clone() })
    }

    async fn read(&self) -> Result<BTreeMap<u64, Arc<SandboxRoute>>, StoreError> {
        Ok(self.store.sandbox_routes().await?.into_iter().map(|route| (route.id, Arc::new(route))).collect())
    }
}

impl Change {
    /// What the routes will be, by id.
    pub fn routes(&self) -> impl Iterator<Item = &SandboxRoute> {
        self.routes.values().map(|route| &**route)
    }
}

/// Sorted as they are tried.
#[must_use]
pub fn in_order<'r>(routes: impl IntoIterator<Item = &'r SandboxRoute>) -> Vec<SandboxRoute> {
    let mut routes: Vec<SandboxRoute> = routes.into_iter().cloned().collect();
    routes.sort_by_key(SandboxRoute::order);
    routes
}
