//! The durable record of an agent: whom it trusts, what it accepted, how far back nobody can take it.
//!
//! One owner of the file; others ask for changes through [`Ledger`] and watch the newest [`State`]. A change is on disk
//! (written, synced, renamed) before anyone sees it, except a narrowing one: taking a revision back must work with a
//! full disk too. It does not verify documents, that is [`crate::intake`]; it checks admission once more.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sealane_model::envelope::Envelope;
use sealane_model::grant::VerifiedGrant;
use sealane_model::ids::{AgentId, Digest};
use sealane_model::timestamp::VerifiedTimestamp;
use sealane_model::trust::{TrustRoot, chain};
use sealane_model::verify::VerifyError;
use sealane_node::disk::{self, DiskError};
use thiserror::Error;
use tokio::sync::{Mutex, watch};

pub use self::record::RecordError;
pub(crate) use self::state::{Documents, LocalRollback, State};
use crate::checkpoint::Checked;
use crate::fetch::Complete;

#[cfg(test)]
mod properties;
mod record;
mod state;
#[cfg(test)]
mod tests;

/// The ledger of one state directory. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    writer: Mutex<()>,
    state: watch::Sender<Arc<State>>,
    _lock: File,
}

/// Why a ledger does not open.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// The file system refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Another process uses the directory.
    #[error("another agent uses the state directory `{}`", .0.display())]
    InUse(PathBuf),
    /// The file does not open.
    #[error("cannot open the ledger `{}`; move the state directory away to start over from the trust root", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: RecordError,
    },
    /// The trust root given is of another fleet.
    #[error("the state directory belongs to fleet `{held}`, the trust root to fleet `{offered}`")]
    OtherFleet {
        /// Of the ledger.
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
    #[error("the state directory belongs to agent `{held}`, not `{asked}`")]
    OtherId {
        /// Of the ledger.
        held: String,
        /// Asked for.
        asked: String,
    },
}

/// Why a change was not made.
#[derive(Debug, Error)]
pub(crate) enum ChangeError {
    /// It may not be.
    #[error(transparent)]
    Refused(#[from] VerifyError),
    /// It could not be made durable.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl Ledger {
    /// Opens the ledger of `directory`, or makes one that trusts `pinned` and is called `id` (`default_id` when `None`).
    pub(crate) fn open(
        directory: &Path,
        pinned: &TrustRoot,
        id: Option<&str>,
        default_id: &str,
    ) -> Result<Self, LedgerError> {
        disk::create_dir(directory)?;
        let lock = lock(directory)?;
        disk::sweep(directory)?;
        let path = directory.join("ledger");
        let (mut state, fresh) = match disk::read(&path)? {
            Some(bytes) => {
                let state =
                    record::decode(&bytes).map_err(|source| LedgerError::Unusable { path: path.clone(), source })?;
                (state, false)
            }
            None => (State::new(AgentId(id.unwrap_or(default_id).to_owned()), pinned.clone()), true),
        };
        if let Some(asked) = id.filter(|asked| *asked != state.agent.0) {
            return Err(LedgerError::OtherId { held: state.agent.0, asked: asked.to_owned() });
        }
        let pinned_now = pin(&mut state, pinned)?;
        if fresh || pinned_now {
            disk::write_atomic(&path, &record::encode(&state))?;
        }
        let (state, _) = watch::channel(Arc::new(state));
        Ok(Self { shared: Arc::new(Shared { path, writer: Mutex::new(()), state, _lock: lock }) })
    }

    /// What it holds now.
    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.shared.state.borrow())
    }

    /// Sees every newest state.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.shared.state.subscribe()
    }

    /// Takes digests back. Holds from now on even when the disk is full.
    pub(crate) async fn withdraw(&self, digests: &[Digest]) -> Result<(), DiskError> {
        self.narrow(|state| state.withdraw(digests)).await
    }

    /// Remembers that this agent took its proxies back. Holds from now on even when the disk is full.
    pub(crate) async fn roll_back(&self, rollback: LocalRollback) -> Result<(), DiskError> {
        self.narrow(|state| state.rolled_back = Some(rollback)).await
    }

    /// Makes `complete` the stable revision; see [`State`].
    pub(crate) async fn take_stable(
        &self,
        documents: &Documents,
        complete: &Complete,
        candidate_stays: Option<Digest>,
    ) -> Result<(), ChangeError> {
        self.change(|state| {
            state.take_documents(documents);
            state.take_stable(complete, candidate_stays)
        })
        .await
    }

    /// Makes `complete` the candidate; see [`State`].
    pub(crate) async fn take_candidate(
        &self,
        documents: &Documents,
        complete: &Complete,
        grants: &[VerifiedGrant],
        paused: bool,
    ) -> Result<(), ChangeError> {
        self.change(|state| {
            state.take_documents(documents);
            state.take_candidate(complete, grants, paused)
        })
        .await
    }

    /// Makes `complete` the sandbox revision; see [`State`].
    pub(crate) async fn take_sandbox(&self, complete: &Complete) -> Result<(), ChangeError> {
        self.change(|state| state.take_sandbox(complete)).await
    }

    /// There is no rollout under way.
    pub(crate) async fn take_no_candidate(&self, documents: &Documents) -> Result<(), ChangeError> {
        self.change(|state| {
            state.take_documents(documents);
            state.drop_candidate();
            Ok(())
        })
        .await
    }

    /// Remembers a newer timestamp: on disk when it says something new, else only in memory.
    pub(crate) async fn take_timestamp(&self, timestamp: VerifiedTimestamp) -> Result<(), DiskError> {
        let state = self.state();
        let news = state.seen_timestamp().is_none_or(|seen| {
            let new = timestamp.timestamp();
            (seen.epoch, seen.grant_sequence_min, &seen.heads) != (new.epoch, new.grant_sequence_min, &new.heads)
                || new.time_unix_ms - seen.time_unix_ms > TIMESTAMP_PERSIST_MS
        });
        if news {
            return self.narrow(|state| state.timestamp = Some(timestamp)).await;
        }
        let _writer = self.shared.writer.lock().await;
        let mut next = State::clone(&self.state());
        next.timestamp = Some(timestamp);
        self.shared.state.send_replace(Arc::new(next));
        Ok(())
    }

    /// Remembers how far the audit log was followed.
    pub(crate) async fn set_audit(&self, audit: Checked) -> Result<(), DiskError> {
        self.narrow(|state| state.audit = Some(audit)).await
    }

    /// Learns from a release that one of this agent's proxies took in: an agent that lost its state must not be led back
    /// below what the fleet has seen. Anybody may say so, the release's signatures vouch for it.
    pub(crate) async fn learn_floor(&self, offered: &Envelope) -> Result<(), ChangeError> {
        let state = self.state();
        let release = chain::verify_kept(&state.roots, |root| root.verify_release(offered))?;
        self.change(|state| {
            state.raise_floor(&release);
            Ok(())
        })
        .await
    }

    /// Takes in trust roots that follow the one that is trusted.
    pub(crate) async fn take_roots(&self, roots: &[TrustRoot]) -> Result<(), ChangeError> {
        let documents = Documents { roots: roots.to_vec(), ..Documents::default() };
        self.change(|state| {
            state.take_documents(&documents);
            Ok(())
        })
        .await
    }

    /// Makes sure that a restart goes on above generation `used`. Writes ahead, so that this is rare.
    pub(crate) async fn ensure_generation(&self, used: u64) -> Result<(), DiskError> {
        if used <= self.state().generation {
            return Ok(());
        }
        self.narrow(|state| state.generation = used.saturating_add(GENERATION_BLOCK)).await
    }

    async fn change(&self, change: impl FnOnce(&mut State) -> Result<(), VerifyError>) -> Result<(), ChangeError> {
        let _writer = self.shared.writer.lock().await;
        let current = self.state();
        let mut next = State::clone(&current);
        change(&mut next)?;
        if next != *current {
            self.persist(&next).await?;
            self.shared.state.send_replace(Arc::new(next));
        }
        Ok(())
    }

    /// A change that holds in memory whether or not it could be made durable.
    async fn narrow(&self, change: impl FnOnce(&mut State)) -> Result<(), DiskError> {
        let _writer = self.shared.writer.lock().await;
        let current = self.state();
        let mut next = State::clone(&current);
        change(&mut next);
        if next == *current {
            return Ok(());
        }
        let persisted = self.persist(&next).await;
        self.shared.state.send_replace(Arc::new(next));
        persisted
    }

    async fn persist(&self, state: &State) -> Result<(), DiskError> {
        let (path, bytes) = (self.shared.path.clone(), record::encode(state));
        let written = tokio::task::spawn_blocking(move || disk::write_atomic(&path, &bytes)).await;
        written.unwrap_or_else(|stopped| {
            Err(DiskError::new("write", &self.shared.path, std::io::Error::other(stopped.to_string())))
        })
    }
}

fn lock(directory: &Path) -> Result<File, LedgerError> {
    let path = directory.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| DiskError::new("open", &path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(LedgerError::InUse(directory.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => Err(DiskError::new("lock", &path, source).into()),
    }
}

/// Squares the trust root file with the ledger. The file came by a trusted way, so a newer one counts; an older one is
/// what the fleet has moved on from.
fn pin(state: &mut State, pinned: &TrustRoot) -> Result<bool, LedgerError> {
    let held = state.trust();
    if held.fleet() != pinned.fleet() {
        return Err(LedgerError::OtherFleet { held: held.fleet().0.clone(), offered: pinned.fleet().0.clone() });
    }
    let version = pinned.document().version;
    match state.roots.iter().find(|root| root.document().version == version) {
        Some(same) if same.envelope().payload == pinned.envelope().payload => Ok(false),
        Some(_) => Err(LedgerError::OtherRoot { version }),
        None if version < held.document().version => Ok(false),
        None => {
            state.roots.push(pinned.clone());
            Ok(true)
        }
    }
}

/// A timestamp that says nothing new is written at most this often.
const TIMESTAMP_PERSIST_MS: i64 = 60_000;
/// Generations per write: commands to proxies seldom wait for the disk.
const GENERATION_BLOCK: u64 = 1024;
