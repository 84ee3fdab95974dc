//! Sandbox routes beside a file, or alone: seed 000's API on the admin address of `sealane run`.
//!
//! HTTP handlers are many, the routes have one owner: a handler sends a [`Command`] and waits. The owner writes, makes
//! the new snapshot ready, commits, and swaps; then it answers. What was answered is on disk and served.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sealane_authority::sandbox::{Actor, Change, Changed, Desk, NewRoute, SandboxBook, SandboxError, in_order};
use sealane_model::config::Config;
use sealane_model::sandbox::{Places, SandboxRoute, SandboxTimes};
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use crate::exit::{Exit, Failure};

/// Changes that wait for the owner.
const WAITING_MAX: usize = 64;

type Answer<T> = oneshot::Sender<Result<Changed<T>, SandboxError>>;

/// What a handler asks for.
#[derive(Debug)]
pub(crate) enum Command {
    Add(NewRoute, Answer<u64>),
    List(Answer<Vec<SandboxRoute>>),
    Delete(u64, Answer<()>),
    DeleteSandbox(String, Answer<u64>),
    Reload(Answer<()>),
}

/// The handlers' end.
#[derive(Clone, Debug)]
pub(crate) struct RunDesk(mpsc::Sender<Command>);

/// The two ends of the line between handlers and owner.
pub(crate) fn line() -> (RunDesk, mpsc::Receiver<Command>) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    (RunDesk(sender), receiver)
}

impl RunDesk {
    async fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<Changed<T>, SandboxError> {
        let (answer, answered) = oneshot::channel();
        self.0.send(command(answer)).await.map_err(|_| SandboxError::Stopping)?;
        answered.await.unwrap_or(Err(SandboxError::Stopping))
    }
}

impl Desk for RunDesk {
    async fn add(&self, route: NewRoute, _by: Actor) -> Result<Changed<u64>, SandboxError> {
        self.ask(|answer| Command::Add(route, answer)).await
    }

    async fn list(&self) -> Result<Vec<SandboxRoute>, SandboxError> {
        self.ask(Command::List).await.map(|changed| changed.value)
    }

    async fn delete(&self, id: u64, _by: Actor) -> Result<Changed<()>, SandboxError> {
        self.ask(|answer| Command::Delete(id, answer)).await
    }

    async fn delete_sandbox(&self, sandbox_id: String, _by: Actor) -> Result<Changed<u64>, SandboxError> {
        self.ask(|answer| Command::DeleteSandbox(sandbox_id, answer)).await
    }

    async fn reload(&self, _by: Actor) -> Result<Changed<()>, SandboxError> {
        self.ask(Command::Reload).await
    }
}

/// The routes as they are kept, and as they are served.
#[derive(Debug)]
pub(crate) struct Sandboxes {
    book: SandboxBook,
    /// Each checked once, when it comes in.
    places: Places,
    times: SandboxTimes,
    /// The last expiry was not written: the next try waits.
    expiry_failed: bool,
}

/// After an expiry that could not be written.
const EXPIRY_PAUSE: Duration = Duration::from_secs(5);

impl Sandboxes {
    /// Opens the database and forgets what expired while nobody looked.
    pub(crate) async fn open(path: &Path, times: SandboxTimes) -> Result<Self, Failure> {
        let mut book = SandboxBook::open(path).await.map_err(|error| {
            Failure::new(Exit::Failed, "cannot open the sandbox routes")
                .because(error)
                .hint("sealane run --data ./data   (or set ALB_DB_PATH)")
        })?;
        let failed = |error| Failure::new(Exit::Failed, "cannot read the sandbox routes").because(error);
        if let (_, Some(change)) = book.expire().await.map_err(failed)? {
            book.commit(change).await.map_err(failed)?;
        }
        let places = place(Places::default(), book.routes(), times);
        info!(routes_loaded = places.len(), database = %path.display(), "sandbox routes loaded");
        Ok(Self { book, places, times, expiry_failed: false })
    }

    /// Joins what is kept to a config.
    pub(crate) fn join(&mut self, config: &mut Config) {
        self.places.join(config, |_| true);
    }

    /// Closes the database.
    pub(crate) async fn close(&self) {
        self.book.close().await;
    }

    /// How long until a route expires.
    pub(crate) fn next_expiry(&self) -> Option<Duration> {
        let next = self.book.next_expiry()?;
        Some(if self.expiry_failed { next.max(EXPIRY_PAUSE) } else { next })
    }

    /// Carries out a command and answers it.
    pub(crate) async fn carry_out<S: Serve>(&mut self, command: Command, server: &S) {
        // Whoever asked may have gone away; what was done stays done.
        match command {
            Command::Add(route, answer) => drop(answer.send(self.add(route, server).await)),
            Command::List(answer) => drop(answer.send(Ok(unchanged(in_order(self.book.routes()))))),
            Command::Delete(id, answer) => {
                let deleted = self.delete(&[id], server).await;
                let answered = deleted.and_then(|count| if count == 0 { Err(SandboxError::NotFound) } else { Ok(()) });
                if answered.is_ok() {
                    info!(id, "sandbox route removed");
                }
                drop(answer.send(answered.map(unchanged)));
            }
            Command::DeleteSandbox(sandbox, answer) => {
                let ids = self.book.of_sandbox(&sandbox);
                let deleted = self.delete(&ids, server).await;
                if let Ok(count) = deleted {
                    info!(sandbox, count, "sandbox removed");
                }
                drop(answer.send(deleted.map(unchanged)));
            }
            Command::Reload(answer) => drop(answer.send(self.reload(server).await.map(unchanged))),
        }
    }

    /// Forgets what has expired.
    pub(crate) async fn expire<S: Serve>(&mut self, server: &S) {
        let expired = match self.book.expire().await {
            Ok((count, Some(change))) => self.finish(change, server).await.map(|()| count),
            Ok((_, None)) => return,
            Err(error) => Err(error),
        };
        self.expiry_failed = expired.is_err();
        match expired {
            Ok(count) => info!(count, "sandbox routes expired"),
            Err(error) => warn!(error = &error as &dyn std::error::Error, "sandbox routes not expired"),
        }
    }

    async fn add<S: Serve>(&mut self, route: NewRoute, server: &S) -> Result<Changed<u64>, SandboxError> {
        if !server.takes_sandboxes() {
            return Err(SandboxError::Off);
        }
        let (pattern, target) = (route.pattern.clone(), route.target_url.clone());
        let (id, change) = self.book.add(route).await?;
        self.finish(change, server).await?;
        info!(id, pattern, target, "sandbox route added");
        Ok(unchanged(id))
    }

    async fn delete<S: Serve>(&mut self, ids: &[u64], server: &S) -> Result<u64, SandboxError> {
        let (count, change) = self.book.delete(ids).await?;
        if let Some(change) = change {
            self.finish(change, server).await?;
        }
        Ok(count)
    }

    async fn reload<S: Serve>(&mut self, server: &S) -> Result<(), SandboxError> {
        self.book.reload().await?;
        // Another program may have put other routes in the place of known ones.
        let mut places = place(Places::default(), self.book.routes(), self.times);
        let ready = server.prepare(&mut places).await?;
        server.activate(ready).await?;
        info!(count = places.len(), "sandbox routes reloaded");
        self.places = places;
        Ok(())
    }

    /// Ready, then durable, then served.
    async fn finish<S: Serve>(&mut self, change: Change, server: &S) -> Result<(), SandboxError> {
        let mut places = self.places.clone();
        change.removed().for_each(|id| places.remove(id));
        places = place(places, change.added(), self.times);
        let ready = server.prepare(&mut places).await?;
        self.book.commit(change).await?;
        self.places = places;
        server.activate(ready).await
    }
}

/// `places` with these routes. A row that cannot be served, which only another program can have written, is left out with a
/// warning.
fn place<'r>(mut places: Places, routes: impl Iterator<Item = &'r SandboxRoute>, times: SandboxTimes) -> Places {
    for route in routes {
        match route.compile(times) {
            Ok(made) => places.put(route.id, made),
            Err(error) => warn!(id = route.id, %error, "sandbox route skipped"),
        }
    }
    places
}

/// Whoever serves the routes.
pub(crate) trait Serve {
    /// What is ready to be served.
    type Ready;
    /// Whether the config in force wants sandbox routes at all.
    fn takes_sandboxes(&self) -> bool;
    /// Makes a snapshot with exactly these sandbox routes. Nothing that is served changes.
    async fn prepare(&self, routes: &mut Places) -> Result<Self::Ready, SandboxError>;
    /// Serves it.
    async fn activate(&self, ready: Self::Ready) -> Result<(), SandboxError>;
}

/// Without a fleet there are no revisions.
fn unchanged<T>(value: T) -> Changed<T> {
    Changed { value, revision: None }
}

/// The handlers' end as the admin listener takes it.
pub(crate) fn api(desk: RunDesk) -> axum::Router {
    sealane_authority::sandbox::router(Arc::new(desk))
}
