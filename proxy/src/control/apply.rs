//! The life of a command at the proxy: verify → fetch → store → compile → activate → echo.
//!
//! The one owner of the state directory. Acts on the newest command only; a newer one ends the fetching for an older
//! one. What fails leaves the old snapshot serving (invariant S3).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use sealane_model::bundle::VerifiedBundle;
use sealane_model::config::Config;
use sealane_model::ids::Digest;
use sealane_model::parse::{Reader, parse};
use sealane_model::problem::{Problem, Severity};
use sealane_model::release::{Floor, VerifiedRelease};
use sealane_model::verify::VerifyError;
use sealane_node::backoff::Backoff;
use sealane_node::blobs::Blobs;
use sealane_node::disk::{self, DiskError};
use sealane_proto::v1;
use thiserror::Error;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::BACKOFF_LAST;
use super::cold_start;
use super::command::{self, Command, CommandError, Newest};
use super::refusal::Refusals;
use super::sandbox::{self, Base, Sandboxes};
use super::state::{Kept, State};
use super::store::{OpenError, Store, open_from};
use super::unix_ms;
use super::uplink::{FetchError, Uplink};
use crate::desk::Order;
use crate::files::Stamps;
use crate::proxy::{Prepared, Proxy, RevisionTag};

/// Carries commands out.
#[derive(Debug)]
pub(crate) struct Applier {
    pub(crate) proxy: Proxy,
    pub(crate) store: Arc<Mutex<Store>>,
    pub(crate) uplink: Uplink,
    pub(crate) refusals: Refusals,
    pub(crate) status: watch::Sender<v1::ProxyStatus>,
    pub(crate) drain: watch::Sender<bool>,
    /// Compiled and not served.
    pub(crate) prepared: BTreeMap<Digest, Ready>,
    pub(crate) refused: Option<Digest>,
    pub(crate) newest: Newest,
    /// The newest sandbox revision that was offered.
    pub(crate) sandbox_offers: watch::Receiver<Option<Arc<v1::SandboxOffer>>>,
    /// The newest one could not be fetched or kept: to be tried again.
    pub(crate) sandbox_again: bool,
    /// What is joined to every config.
    pub(crate) sandboxes: Sandboxes,
    /// The config that is served, without sandbox routes.
    pub(crate) base: Option<Base>,
    /// A start from disk that is being tried.
    pub(crate) rehearsal: Option<(Digest, AbortOnDropHandle<()>)>,
    /// The generation in force when somebody applied another config here; `None`: nobody did.
    pub(crate) overruled: Option<u64>,
}

/// A compiled snapshot and the config it was made of, without sandbox routes.
#[derive(Debug)]
pub(crate) struct Ready {
    prepared: Prepared,
    base: Base,
}

type Commands = watch::Receiver<Option<Arc<v1::ProxyDesired>>>;

/// The files that the configs which are served or held name, as they were before those were compiled.
#[derive(Default)]
struct Watched(Vec<(Arc<Config>, Stamps)>);

/// Between two looks at the files.
const FILES_LOOK: Duration = Duration::from_secs(1);

impl Watched {
    /// Adds configs that are new, and forgets those that are gone.
    fn follow<'a>(&mut self, bases: impl Iterator<Item = &'a Base>) {
        let mut known = std::mem::take(&mut self.0);
        self.0.extend(bases.map(|base| match known.iter().position(|(known, _)| Arc::ptr_eq(known, &base.config)) {
            Some(index) => known.swap_remove(index),
            None => (Arc::clone(&base.config), base.files.clone()),
        }));
    }

    /// Waits until files have changed and whoever writes them has finished: they look the same twice.
    async fn until_changed(&mut self) {
        let mut last = None;
        loop {
            tokio::time::sleep(FILES_LOOK).await;
            let now: Vec<_> = self.0.iter().map(|(_, stamps)| stamps.again()).collect();
            if now.iter().eq(self.0.iter().map(|(_, stamps)| stamps)) {
                last = None;
            } else if last.as_ref() == Some(&now) {
                self.0.iter_mut().zip(now).for_each(|((_, stamps), now)| *stamps = now);
                return;
            } else {
                last = Some(now);
            }
        }
    }
}

enum Outcome {
    Done,
    /// A newer command is there.
    Superseded,
    /// Not to be had again from the same command, at least not soon.
    Refused,
    /// Not now.
    Failed,
}

#[derive(Debug, Error)]
enum ApplyError {
    #[error(transparent)]
    Content(#[from] VerifyError),
    #[error("cannot fetch {what} {}", .digest.short())]
    Fetch {
        what: &'static str,
        digest: Digest,
        #[source]
        source: Box<FetchError>,
    },
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("{retired} retired configs are still used by requests")]
    Pressure { retired: usize },
}

impl From<OpenError> for ApplyError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Refused(error) => Self::Content(error),
            OpenError::Disk(error) => Self::Disk(error),
        }
    }
}

impl Applier {
    /// Carries out whatever is newest, until `cancel`.
    pub(crate) async fn run(
        mut self,
        mut commands: Commands,
        mut orders: mpsc::Receiver<Order>,
        cancel: CancellationToken,
    ) {
        self.say_source();
        let mut backoff = Backoff::new(BACKOFF_LAST);
        let mut files = Watched::default();
        loop {
            // Sandbox routes wait for no rollout: they come first, also between two parts of a command.
            self.take_sandbox().await;
            let desired = commands.borrow_and_update().clone();
            let outcome = match desired {
                // What somebody applied here stays until a newer command.
                Some(desired) if self.overruled.is_some_and(|known| desired.generation <= known) => Outcome::Done,
                Some(desired) => {
                    self.overruled = None;
                    self.carry_out(&desired, &mut commands, &cancel).await
                }
                None => Outcome::Done,
            };
            let again = match outcome {
                Outcome::Superseded if cancel.is_cancelled() => return,
                Outcome::Superseded => continue,
                Outcome::Done => {
                    backoff.reset();
                    None
                }
                Outcome::Refused => Some(REFUSED_AGAIN),
                Outcome::Failed => Some(backoff.wait()),
            };
            let again = if self.sandbox_again { again.or_else(|| Some(backoff.wait())) } else { again };
            let wait = async {
                match again {
                    Some(after) => tokio::time::sleep(after).await,
                    None => std::future::pending().await,
                }
            };
            let ends = Self::until_one_ends(self.base.clone());
            let held = self.prepared.values().map(|ready| &ready.base);
            files.follow(self.base.iter().chain(held));
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = commands.changed() => if changed.is_err() { return },
                Some(order) = orders.recv() => self.obey(order).await,
                changed = self.sandbox_offers.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.sandbox_offers.mark_changed();
                }
                () = wait => {}
                () = ends => self.join_again().await,
                () = files.until_changed() => {
                    tracing::info!("a certificate, key or CA file changed, reading them again");
                    self.join_again().await;
                }
            }
        }
    }

    /// Waits until a sandbox route of the file in force ends.
    async fn until_one_ends(base: Option<Base>) {
        let next = base.and_then(|base| Sandboxes::default().join(&base).1);
        match next {
            Some(next) => tokio::time::sleep(next.max(ENDS_GAP)).await,
            None => std::future::pending().await,
        }
    }

    async fn carry_out(
        &mut self,
        desired: &v1::ProxyDesired,
        commands: &mut Commands,
        cancel: &CancellationToken,
    ) -> Outcome {
        let serving = self.serving();
        let verified = {
            let store = self.store.lock().await;
            command::verify(store.state(), self.newest, serving, unix_ms(), desired)
        };
        let command = match verified {
            Ok(command) => command,
            Err(error @ CommandError::Old { .. }) => {
                tracing::debug!(%error, "ignored a command");
                return Outcome::Done;
            }
            Err(error) => {
                self.refusals.count("command", error.code(), &error);
                self.status.send_modify(|_| {}); // the count is to be told
                return Outcome::Refused;
            }
        };
        self.prepared.retain(|digest, _| command.releases.iter().any(|release| release.digest() == *digest));
        for release in &command.releases {
            match self.hold(release, &command, commands, cancel).await {
                Ok(true) => {}
                Ok(false) => return Outcome::Superseded,
                Err(error) => return self.failed(error).await,
            }
        }
        match self.conclude(&command).await {
            Ok(all_well) => {
                self.drain.send_if_modified(|drain| std::mem::replace(drain, command.drain) != command.drain);
                self.rehearse(&command);
                if all_well { Outcome::Done } else { Outcome::Refused }
            }
            Err(error) => self.failed(error.into()).await,
        }
    }

    async fn failed(&self, error: ApplyError) -> Outcome {
        let outcome = match &error {
            ApplyError::Content(refused) => {
                self.refusals.count("content", refused.code(), refused);
                Outcome::Refused
            }
            ApplyError::Fetch { .. } => {
                tracing::warn!(error = disk::chain(&error), "cannot fetch a revision yet");
                return Outcome::Failed; // what was fetched stays for the next attempt
            }
            ApplyError::Pressure { .. } => {
                tracing::warn!(%error, "a revision waits until some of these end");
                let told = vec![(&problem("config_pressure", error.to_string())).into()];
                self.status.send_if_modified(|status| std::mem::replace(&mut status.problems, told.clone()) != told);
                return Outcome::Failed;
            }
            ApplyError::Disk(_) => {
                tracing::error!(error = disk::chain(&error), "cannot keep a revision, serving what is there");
                Outcome::Failed
            }
        };
        let store = self.store.lock().await;
        if let Err(error) = store.blobs().retain(&store.state().referenced()) {
            tracing::warn!(error = disk::chain(&error), "cannot remove blobs that nothing needs");
        }
        drop(store);
        self.status.send_modify(|_| {});
        outcome
    }

    /// Brings one release of a command as far as it should be: on disk, compiled, and served if it is the one to serve.
    /// `false`: a newer command came in between.
    async fn hold(
        &mut self,
        release: &VerifiedRelease,
        command: &Command,
        commands: &mut Commands,
        cancel: &CancellationToken,
    ) -> Result<bool, ApplyError> {
        let digest = release.digest();
        let to_serve = command.active == Some(digest);
        let serves = self.serving() == Some(digest);
        let kept = self.store.lock().await.state().kept.contains_key(&digest);
        if kept && (serves || self.prepared.contains_key(&digest)) {
            return if to_serve && !serves { self.activate(digest).await.map(|()| true) } else { Ok(true) };
        }
        if self.refused == Some(digest) && !to_serve {
            return Ok(true); // quarantined: asking the compiler again would only hammer
        }
        let blobs = self.store.lock().await.blobs().clone();
        let fetched = tokio::select! {
            () = cancel.cancelled() => return Ok(false),
            _ = commands.changed() => return Ok(false),
            _ = self.sandbox_offers.changed() => {
                self.sandbox_offers.mark_changed();
                return Ok(false);
            }
            fetched = complete(release, &blobs, &self.uplink) => fetched?,
        };
        let (bundle, all) = fetched;
        self.keep(release, all, command).await?;
        if serves {
            return Ok(true);
        }
        if let Some(retired) = self.proxy.pressure() {
            return Err(ApplyError::Pressure { retired });
        }
        match self.prepare(&bundle).await {
            Ok(ready) => {
                tracing::info!(revision = %release.release().revision, "prepared");
                self.prepared.insert(digest, ready);
                self.told_prepared(digest, release);
            }
            Err(problems) => {
                self.refuse(digest, release, problems);
                return Ok(true);
            }
        }
        if to_serve {
            self.activate(digest).await?;
        }
        Ok(true)
    }

    /// Remembers a release whose content is complete.
    async fn keep(&self, release: &VerifiedRelease, blobs: Vec<Digest>, command: &Command) -> Result<(), ApplyError> {
        let store = Arc::clone(&self.store).lock_owned().await;
        let mut next = store.state().clone();
        take_roots(&mut next, command);
        next.floor = next.admit(next.floor.as_ref(), release)?;
        next.kept.insert(release.digest(), Kept { release: release.clone(), blobs });
        Ok(change(store, next).await?)
    }

    async fn prepare(&mut self, bundle: &VerifiedBundle) -> Result<Ready, Vec<Problem>> {
        let base = Base::of(bundle, read(bundle).await?);
        let (joined, _) = self.sandboxes.join(&base);
        let prepared = self.proxy.prepare(tag(bundle.release()), Arc::new(joined)).await?;
        Ok(Ready { prepared, base })
    }

    /// Takes in the newest sandbox revision that was offered. What fails leaves the routes as they were: the agent
    /// offers it again with the next stream, or a newer one.
    async fn take_sandbox(&mut self) {
        if !self.sandbox_again && !self.sandbox_offers.has_changed().unwrap_or(false) {
            return;
        }
        self.sandbox_again = false;
        let Some(offer) = self.sandbox_offers.borrow_and_update().clone() else { return };
        match self.sandbox(&offer).await {
            Ok(()) => {}
            Err(ApplyError::Content(error)) => self.refusals.count("sandbox revision", error.code(), &error),
            Err(error) => {
                tracing::error!(error = disk::chain(&error), "sandbox routes stay as they are for now");
                self.sandbox_again = true;
            }
        }
        self.status.send_modify(|status| status.sandbox_revision = self.sandboxes.revision);
    }

    async fn sandbox(&mut self, offer: &v1::SandboxOffer) -> Result<(), ApplyError> {
        let verified = sandbox::verify(self.store.lock().await.state(), offer)?;
        let Some(verified) = verified else { return Ok(()) };
        let blobs = self.store.lock().await.blobs().clone();
        let (bundle, all) = complete(&verified.release, &blobs, &self.uplink).await?;
        let next = self.sandboxes.open(&bundle)?;
        let store = Arc::clone(&self.store).lock_owned().await;
        let mut state = store.state().clone();
        for root in &verified.roots {
            if root.document().version > state.trust().document().version {
                state.roots.push(root.clone());
            }
        }
        state.sandbox_floor = Some(Floor::admit(state.sandbox_floor.as_ref(), &verified.release)?);
        state.sandbox = Some(Kept { release: verified.release, blobs: all });
        change(store, state).await?;
        self.sandboxes = next;
        self.join_again().await;
        tracing::info!(revision = self.sandboxes.revision, "sandbox routes changed");
        Ok(())
    }

    /// Compiles anew what is served, then what is prepared: with the sandbox routes and the files as they are now. What
    /// cannot be compiled serves on as it was.
    async fn join_again(&mut self) {
        if let (Some(base), Some(tag)) = (self.base.clone(), self.proxy.active()) {
            let (joined, _) = self.sandboxes.join(&base);
            match self.proxy.prepare(tag, Arc::new(joined)).await {
                Ok(prepared) => {
                    if let Err(error) = self.proxy.activate(prepared).await {
                        tracing::error!(error = disk::chain(&error), "not compiled anew, the old snapshot serves on");
                    }
                }
                Err(problems) => {
                    let first = problems.first().map(|problem| problem.message.clone()).unwrap_or_default();
                    tracing::error!(first, "not compiled anew, the old snapshot serves on");
                }
            }
        }
        for (digest, ready) in std::mem::take(&mut self.prepared) {
            let (joined, _) = self.sandboxes.join(&ready.base);
            let again = self.proxy.prepare(ready.prepared.tag().clone(), Arc::new(joined)).await;
            // What cannot be compiled again is compiled anew with the next command.
            if let Ok(prepared) = again {
                self.prepared.insert(digest, Ready { prepared, base: ready.base });
            }
        }
    }

    async fn activate(&mut self, digest: Digest) -> Result<(), ApplyError> {
        let Some(Ready { prepared, base }) = self.prepared.remove(&digest) else { return Ok(()) };
        let revision = prepared.tag().label.clone();
        let activated = self.proxy.activate(prepared).await;
        let store = self.store.lock().await;
        let release = store.state().kept.get(&digest).map(|kept| kept.release.clone());
        drop(store);
        match (activated, release) {
            (Ok(()), _) => {
                self.base = Some(base);
                self.say_source();
                tracing::info!(%revision, "activated");
            }
            (Err(error), Some(release)) => {
                let problem = problem("not_activated", disk::chain(&error));
                self.refuse(digest, &release, vec![problem]);
            }
            (Err(error), None) => tracing::error!(error = disk::chain(&error), "cannot activate"),
        }
        let active = self.proxy.active();
        self.status.send_modify(|status| {
            status.active_digest = active.as_ref().map(|tag| tag.digest.to_vec()).unwrap_or_default();
            status.active_revision = active.as_ref().map_or(0, |tag| tag.number);
            if status.prepared_digest == status.active_digest {
                status.prepared_digest.clear();
                status.prepared_revision = 0;
            }
        });
        Ok(())
    }

    /// The command is carried out as far as it goes: remember it, and echo it. `false` when it names a release to serve
    /// that is not served.
    async fn conclude(&mut self, command: &Command) -> Result<bool, DiskError> {
        let serving = self.serving();
        let held: Vec<Digest> = command.releases.iter().map(VerifiedRelease::digest).collect();
        let store = Arc::clone(&self.store).lock_owned().await;
        let mut next = store.state().clone();
        take_roots(&mut next, command);
        next.generation = command.generation;
        next.command = Some(command.digest);
        if let Some(timestamp) = &command.timestamp {
            next.timestamp = Some(timestamp.clone());
        }
        let good = |digest: &Digest| serving == Some(*digest) || self.prepared.contains_key(digest);
        if let Some(last_good) = command.last_good.filter(good) {
            next.set_last_good(last_good);
        }
        if next.ring.is_empty()
            && let Some(first) = serving
        {
            next.set_last_good(first); // the very first revision is last good as soon as it is served
        }
        let mut named = held.clone();
        named.extend(serving);
        next.keep_only(&named);
        let last_good = next.ring.first().and_then(|digest| next.kept.get(digest)).map(|kept| kept.release.clone());
        change(store, next).await?;
        self.newest = Some((command.generation, command.digest));
        if self.refused.is_some_and(|refused| !held.contains(&refused)) {
            self.refused = None;
        }
        let refused = self.refused;
        let prepared = command.releases.iter().rev().find(|release| self.prepared.contains_key(&release.digest()));
        self.status.send_modify(|status| {
            status.generation = command.generation;
            status.prepared_digest = prepared.map(|release| release.digest().to_vec()).unwrap_or_default();
            status.prepared_revision = prepared.map_or(0, |release| release.release().revision.0);
            status.last_good_digest = last_good.as_ref().map(|good| good.digest().to_vec()).unwrap_or_default();
            status.last_good_revision = last_good.as_ref().map_or(0, |good| good.release().revision.0);
            if refused.is_none() {
                status.refused_digest.clear();
                status.problems.clear();
            }
        });
        Ok(command.active.is_none() || command.active == serving)
    }

    /// Has a start from disk tried, as one with everything above away would be; what comes of it is told. One that is
    /// not asked for any more ends.
    fn rehearse(&mut self, command: &Command) {
        let Some(release) = command.releases.iter().find(|one| Some(one.digest()) == command.rehearse) else {
            self.rehearsal = None;
            return;
        };
        let digest = release.digest();
        let known = self.status.borrow().clone();
        let is_done = known.rehearsed_digest == digest.to_vec() && known.rehearsal_problem.is_empty();
        let is_tried = self.rehearsal.as_ref().is_some_and(|(tried, task)| *tried == digest && !task.is_finished());
        if is_done || is_tried {
            return;
        }
        let (store, proxy, status) = (Arc::clone(&self.store), self.proxy.clone(), self.status.clone());
        let release = release.clone();
        let task = tokio::spawn(async move {
            let outcome = start_once_more(&store, &proxy, &release).await;
            let revision = release.release().revision;
            match &outcome {
                Ok(()) => tracing::info!(%revision, "it starts from disk"),
                Err(why) => tracing::error!(%revision, why, "it would not start from disk"),
            }
            status.send_modify(|status| {
                status.rehearsed_digest = digest.to_vec();
                status.rehearsal_problem = outcome.err().unwrap_or_default();
            });
        });
        self.rehearsal = Some((digest, AbortOnDropHandle::new(task)));
    }

    fn told_prepared(&mut self, digest: Digest, release: &VerifiedRelease) {
        if self.refused == Some(digest) {
            self.refused = None;
        }
        let refused = self.refused;
        self.status.send_modify(|status| {
            status.prepared_digest = digest.to_vec();
            status.prepared_revision = release.release().revision.0;
            if refused.is_none() {
                status.refused_digest.clear();
                status.problems.clear();
            }
        });
    }

    fn refuse(&mut self, digest: Digest, release: &VerifiedRelease, problems: Vec<Problem>) {
        let first = problems.first().map(|problem| problem.message.clone()).unwrap_or_default();
        tracing::error!(revision = %release.release().revision, problems = problems.len(), first, "cannot serve a revision");
        self.refused = Some(digest);
        self.status.send_modify(|status| {
            status.refused_digest = digest.to_vec();
            status.problems = problems.iter().take(PROBLEMS_MAX).map(Into::into).collect();
        });
    }

    fn serving(&self) -> Option<Digest> {
        self.proxy.active().filter(|tag| tag.number > 0).map(|tag| Digest(tag.digest))
    }
}

/// What is on disk first, since it gives the better sentence; then a process of its own, where there is a program.
async fn start_once_more(store: &Mutex<Store>, proxy: &Proxy, release: &VerifiedRelease) -> Result<(), String> {
    let data = store.lock().await.directory().to_owned();
    let look = {
        let data = data.clone();
        tokio::task::spawn_blocking(move || Store::look(&data)).await
    };
    let looked = look.map_err(|error| error.to_string())?.map_err(|error| disk::chain(&error))?;
    let digest = release.digest();
    let kept = looked.state().kept.get(&digest).ok_or("it is not in the state on disk")?;
    let bundle = looked.open_kept(&kept.release).map_err(|error| disk::chain(&error))?;
    let words = |problems: Vec<Problem>| problems.into_iter().map(|one| one.message).collect::<Vec<_>>().join("; ");
    let config = read(&bundle).await.map_err(words)?;
    proxy.prepare(tag(&kept.release), config).await.map(drop).map_err(words)?;
    match &proxy.settings().program {
        Some(program) => cold_start::attempt(program, proxy, &data, &digest).await,
        None => Ok(()),
    }
}

/// The config in a bundle, as this process serves it.
pub(crate) async fn read(bundle: &VerifiedBundle) -> Result<Arc<Config>, Vec<Problem>> {
    let (name, text) = bundle.config().map_err(|error| vec![problem("no_config", error.to_string())])?;
    let (name, text) = (name.to_owned(), text.to_owned());
    let parsed = tokio::task::spawn_blocking(move || parse(&name, &text, Reader::Fleet)).await;
    let (config, _warnings) =
        parsed.unwrap_or_else(|_| Err(vec![problem("internal", "parsing it failed".to_owned())]))?;
    Ok(Arc::new(config))
}

/// How the data plane names a release.
pub(crate) fn tag(release: &VerifiedRelease) -> RevisionTag {
    let revision = release.release().revision;
    RevisionTag { number: revision.0, digest: release.digest().0, label: Arc::from(revision.to_string()) }
}

fn problem(code: &str, message: String) -> Problem {
    Problem {
        code: code.to_owned(),
        severity: Severity::Error,
        message,
        file: String::new(),
        line: 0,
        column: 0,
        end_column: 0,
        path: String::new(),
        help: String::new(),
        suggestion: None,
    }
}

fn take_roots(state: &mut State, command: &Command) {
    for root in &command.roots {
        if root.document().version > state.trust().document().version {
            state.roots.push(root.clone());
        }
    }
}

/// Writes where it may block. Once begun it ends, whoever waits.
async fn change(mut store: OwnedMutexGuard<Store>, next: State) -> Result<(), DiskError> {
    let directory = store.directory().to_owned();
    tokio::task::spawn_blocking(move || store.change(next))
        .await
        .unwrap_or_else(|stopped| Err(DiskError::new("write", &directory, std::io::Error::other(stopped.to_string()))))
}

/// Brings every missing byte of `release` to disk and verifies the whole. Gives manifest and chunks too.
async fn complete(
    release: &VerifiedRelease,
    blobs: &Blobs,
    uplink: &Uplink,
) -> Result<(VerifiedBundle, Vec<Digest>), ApplyError> {
    let digest = release.release().manifest_digest;
    let manifest = match blobs.read(&digest)? {
        Some(bytes) => bytes,
        None => fetch("manifest", digest, uplink).await?,
    };
    let chunks = release.open_manifest(&manifest)?.chunks();
    blobs.write(&manifest)?;
    // One that was damaged on disk is fetched like one that never was here.
    let is_whole = |digest: &Digest| blobs.read(digest).is_ok_and(|held| held.is_some());
    let missing: Vec<Digest> = chunks.iter().copied().filter(|digest| !is_whole(digest)).collect();
    stream::iter(missing)
        .map(|digest| async move {
            let content = fetch("chunk", digest, uplink).await?;
            blobs.write(&content).map(drop).map_err(ApplyError::from)
        })
        .buffer_unordered(CHUNKS_AT_ONCE)
        .try_collect::<()>()
        .await?;
    let bundle = open_from(blobs, release, &manifest)?;
    let mut all = vec![digest];
    all.extend(chunks);
    Ok((bundle, all))
}

async fn fetch(what: &'static str, digest: Digest, uplink: &Uplink) -> Result<Vec<u8>, ApplyError> {
    let content = uplink.fetch(digest).await;
    let content = content.map_err(|source| ApplyError::Fetch { what, digest, source: Box::new(source) })?;
    let actual = Digest::of(&content);
    if actual != digest {
        return Err(VerifyError::WrongDigest { what, expected: digest, actual }.into());
    }
    Ok(content)
}

/// Chunks under way at a time.
const CHUNKS_AT_ONCE: usize = 8;
/// What was refused is looked at again after this, unless another command comes: a file that was missing may be there.
const REFUSED_AGAIN: Duration = Duration::from_secs(15);
/// Routes that end closer together end together.
const ENDS_GAP: Duration = Duration::from_millis(100);
/// Problems of one revision that are told.
const PROBLEMS_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use sealane_model::parse::{Reader, parse};

    use super::*;
    use crate::desk::Origin;
    use crate::files;

    #[tokio::test]
    async fn a_file_that_changed_before_it_was_watched_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ca.crt");
        let text = format!(
            "routes: [{{ pool: p }}]\n\
             pools: [{{ id: p, endpoints: ['https://127.0.0.1:9'], tls: {{ ca_file: {} }} }}]\n",
            file.display()
        );
        let (config, _) = parse("test.yaml", &text, Reader::Fleet).unwrap();
        std::fs::write(&file, "old").unwrap();
        let base = Base {
            files: Stamps::of(files::named(&config)),
            config: Arc::new(config),
            born_ms: 0,
            name: "test.yaml".to_owned(),
            text: text.into(),
            origin: Origin::Fleet,
        };
        // Between the reading of the file and the first look at it.
        std::fs::write(&file, "renewed").unwrap();
        let mut watched = Watched::default();
        watched.follow([&base].into_iter());
        tokio::time::timeout(20 * FILES_LOOK, watched.until_changed()).await.unwrap();
        watched.follow([&base].into_iter());
        assert_eq!(watched.0[0].1, base.files.again(), "once is enough");
    }
}
