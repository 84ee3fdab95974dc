//! What every handler shares. No decisions.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sealane_model::plan::Plan;
use tokio_util::sync::CancellationToken;

use crate::auth::Auth;
use crate::bucket::Bucket;
use crate::clock::Clock;
use crate::content::Content;
use crate::fleet::Live;
use crate::metric::Counters;
use crate::pki::Ca;
use crate::questions::Questions;
use crate::rollout::board::Board;
use crate::rollout::driver::Handle;
use crate::sandbox::fleet::FleetDesk;
use crate::settings::Tuning;
use crate::signer::Signer;
use crate::store::audit::AuditEntry;
use crate::store::{Store, StoreError};
use crate::subscribe::Telling;

/// What every handler shares.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) store: Store,
    pub(crate) signer: Arc<Signer>,
    pub(crate) ca: Arc<Ca>,
    pub(crate) auth: Arc<Auth>,
    pub(crate) live: Arc<Mutex<Live>>,
    pub(crate) board: Arc<Board>,
    pub(crate) telling: Telling,
    pub(crate) content: Content,
    /// What is asked of nodes.
    pub(crate) questions: Arc<Questions>,
    pub(crate) rollouts: Handle,
    pub(crate) sandboxes: Arc<FleetDesk>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) clock: Clock,
    pub(crate) default_plan: Plan,
    /// People beside the author who must approve a publish.
    pub(crate) approvals_min: u32,
    /// Certificates that this process uses, by what for, and when they end (Unix seconds).
    pub(crate) certificate_ends: Vec<(&'static str, u64)>,
    /// How fast refusals of agents go into the audit log.
    pub(crate) refusals: Bucket,
    /// How fast agents may open subscriptions.
    pub(crate) subscriptions: Bucket,
    /// Rego policies that every config must keep.
    pub(crate) policy_dir: Option<PathBuf>,
    /// The data directory.
    pub(crate) folder: PathBuf,
    /// Held while the trust root changes.
    pub(crate) trust_change: tokio::sync::Mutex<()>,
    pub(crate) tuning: Tuning,
    /// Cancelled when the authority stops: streams end.
    pub(crate) stop: CancellationToken,
}

impl App {
    /// Records one thing that is not part of a larger change.
    pub(crate) async fn audit(&self, entry: &AuditEntry) -> Result<(), StoreError> {
        let mut write = self.store.write().await?;
        self.store.add_audit(&mut write, entry).await?;
        self.store.commit(write).await
    }

    /// The live view; held for moments only.
    pub(crate) fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
