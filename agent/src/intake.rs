//! The life of a desired state at the agent: verify → narrow at once → fetch → accept into the ledger.
//!
//! Acts on the newest state only; a newer one ends the fetching for an older one. It does not know proxies: they follow
//! the ledger.

use std::sync::Arc;
use std::time::Duration;

use sealane_model::release::VerifiedRelease;
use sealane_model::timestamp::{Timestamp, VerifiedTimestamp};
use sealane_model::verify::VerifyError;
use sealane_node::backoff::Backoff;
use sealane_node::blobs::Blobs;
use sealane_node::disk::{self, DiskError};
use sealane_proto::v1;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::verify::Verified;
use crate::authority::AuthorityLink;
use crate::authority::BACKOFF_LAST;
use crate::clock;
use crate::fetch::{self, Complete, FetchError};
use crate::ledger::{ChangeError, Ledger};
use crate::refusal::Refusals;

pub(crate) mod sandbox;
pub(crate) mod verify;

/// A desired state as it came.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) desired: v1::DesiredState,
    /// The timestamp that was seen last when it came: a beacon that came later does not make it old.
    pub(crate) seen: Option<Timestamp>,
}

/// The newest offer.
pub(crate) type Offers = watch::Receiver<Option<Arc<Offer>>>;

/// What an intake works with.
#[derive(Debug)]
pub(crate) struct Intake {
    pub(crate) ledger: Ledger,
    pub(crate) blobs: Blobs,
    pub(crate) link: AuthorityLink,
    pub(crate) refusals: Refusals,
    pub(crate) checked: sandbox::Checked,
    /// The state version that was taken in last.
    pub(crate) taken: watch::Sender<u64>,
}

enum Outcome {
    Taken,
    /// A newer state is there.
    Superseded,
    /// What it says is not acceptable: only another offer can be.
    Refused,
    /// Wrong content, or stale: asking again at once would give the same.
    NotNow,
    /// Not now: the authority or the disk.
    Failed,
}

impl Intake {
    /// Takes in whatever is newest, until `cancel`.
    pub(crate) async fn run(self, mut offers: Offers, cancel: CancellationToken) {
        let mut backoff = Backoff::new(BACKOFF_LAST);
        loop {
            let offer = offers.borrow_and_update().clone();
            let outcome = match offer {
                Some(offer) => self.take_in(&offer, &mut offers, &cancel).await,
                None => Outcome::Taken,
            };
            let again = match outcome {
                Outcome::Superseded => continue,
                Outcome::Taken => {
                    backoff.reset();
                    None
                }
                Outcome::Refused => None,
                Outcome::NotNow => Some(NOT_NOW_AGAIN),
                Outcome::Failed => Some(backoff.wait()),
            };
            let wait = async {
                match again {
                    Some(after) => tokio::time::sleep(after).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = offers.changed() => if changed.is_err() { return },
                () = wait => {}
            }
        }
    }

    async fn take_in(&self, offer: &Offer, offers: &mut Offers, cancel: &CancellationToken) -> Outcome {
        let verified = match verify::verify(&self.ledger.state(), offer.seen.as_ref(), &offer.desired) {
            Ok(verified) => verified,
            Err(error) => {
                self.refusals.count("desired state", &error);
                return Outcome::Refused;
            }
        };
        let sandbox = tokio::select! {
            () = cancel.cancelled() => return Outcome::Superseded,
            taken = self.take_sandbox(&verified, offers) => self.judge(taken),
        };
        if matches!(sandbox, Outcome::Superseded) {
            return Outcome::Superseded;
        }
        let taken = tokio::select! {
            () = cancel.cancelled() => return Outcome::Superseded,
            taken = self.take_verified(&verified, offers) => taken,
        };
        let taken = self.judge(taken);
        if matches!(taken, Outcome::Superseded | Outcome::Failed) {
            return taken; // what was fetched stays for the next attempt
        }
        if matches!(taken, Outcome::Taken) {
            self.taken.send_replace(verified.state_version);
        }
        self.collect_garbage().await;
        // The config goes its way whatever becomes of the sandboxes; these are tried again.
        if matches!(taken, Outcome::Taken) { sandbox } else { taken }
    }

    /// What follows from how a part of a state was taken in.
    fn judge(&self, taken: Result<bool, TakeError>) -> Outcome {
        match taken {
            Ok(true) => Outcome::Taken,
            Ok(false) => Outcome::Superseded,
            Err(TakeError::Refused(error)) => {
                self.refusals.count("revision", &error);
                Outcome::NotNow
            }
            Err(TakeError::Stale) => {
                tracing::error!("{STALE}");
                self.refusals.alarm(STALE.to_owned());
                Outcome::NotNow
            }
            Err(TakeError::Source(error)) => {
                tracing::warn!(error = disk::chain(&error), "cannot fetch a revision yet");
                Outcome::Failed
            }
            Err(TakeError::Disk(error)) => {
                tracing::error!(error = disk::chain(&error), "cannot keep a revision, serving what is there");
                self.refusals.alarm(disk::chain(&error));
                Outcome::Failed
            }
        }
    }

    /// Takes in a sandbox revision, at once and for all proxies. `false`: a newer state came in between.
    async fn take_sandbox(&self, verified: &Verified, offers: &mut Offers) -> Result<bool, TakeError> {
        let Some(release) = &verified.sandbox else { return Ok(true) };
        self.ledger.take_roots(&verified.documents.roots).await?;
        self.check_not_stale(verified)?;
        let Some(complete) = self.complete(release, offers).await? else { return Ok(false) };
        let bundle = fetch::open(release, &self.blobs).await?;
        self.checked.check(&bundle).map_err(TakeError::Refused)?;
        self.ledger.take_sandbox(&complete).await?;
        tracing::info!(revision = release.release().revision.0, "sandbox revision taken in");
        Ok(true)
    }

    /// `false`: a newer state came in between.
    async fn take_verified(&self, verified: &Verified, offers: &mut Offers) -> Result<bool, TakeError> {
        let (ledger, documents) = (&self.ledger, &verified.documents);
        if let Err(error) = ledger.withdraw(&verified.withdrawn).await {
            self.refusals.alarm(disk::chain(&error)); // it holds in memory
        }
        ledger.take_roots(&documents.roots).await?;
        self.check_fresh(verified)?;
        let candidate = verified.candidate.as_ref();
        // A stable revision that is there already changes nothing before the candidate is complete too.
        let held = ledger.state().stable;
        if let Some(stable) = verified.stable.as_ref().filter(|stable| Some(stable.digest()) != held) {
            let Some(complete) = self.complete(stable, offers).await? else { return Ok(false) };
            ledger.take_stable(documents, &complete, candidate.map(|candidate| candidate.release.digest())).await?;
        }
        match candidate {
            Some(candidate) => {
                let Some(complete) = self.complete(&candidate.release, offers).await? else { return Ok(false) };
                ledger.take_candidate(documents, &complete, &candidate.grants, candidate.paused).await?;
            }
            None => ledger.take_no_candidate(documents).await?,
        }
        Ok(true)
    }

    /// An expired timestamp stops change, never service.
    fn check_fresh(&self, verified: &Verified) -> Result<(), TakeError> {
        let state = self.ledger.state();
        let offered = verified.stable.iter().chain(verified.candidate.iter().map(|candidate| &candidate.release));
        if offered.into_iter().any(|release| !state.releases.contains_key(&release.digest())) {
            return self.check_not_stale(verified);
        }
        Ok(())
    }

    fn check_not_stale(&self, verified: &Verified) -> Result<(), TakeError> {
        let state = self.ledger.state();
        let offered = verified.documents.timestamp.as_ref().map(VerifiedTimestamp::timestamp);
        let expires =
            offered.into_iter().chain(state.seen_timestamp()).map(|timestamp| timestamp.expires_unix_ms).max();
        if expires.is_some_and(|expires| clock::unix_ms() > expires) {
            return Err(TakeError::Stale);
        }
        Ok(())
    }

    /// `None`: a newer state came in between.
    async fn complete(&self, release: &VerifiedRelease, offers: &mut Offers) -> Result<Option<Complete>, TakeError> {
        let state = self.ledger.state();
        tokio::select! {
            changed = offers.changed() => match changed {
                Ok(()) => Ok(None),
                // Nobody offers any more; what is being fetched is still wanted.
                Err(_) => Ok(Some(fetch::complete(release, &state, &self.blobs, &self.link).await?)),
            },
            complete = fetch::complete(release, &state, &self.blobs, &self.link) => Ok(Some(complete?)),
        }
    }

    async fn collect_garbage(&self) {
        let (blobs, keep) = (self.blobs.clone(), self.ledger.state().referenced());
        if let Err(error) = fetch::blocking(move || blobs.retain(&keep)).await {
            tracing::warn!(error = disk::chain(&error), "cannot remove blobs that nothing needs");
        }
    }
}

/// Why a verified state was not taken in.
enum TakeError {
    Refused(VerifyError),
    Stale,
    Source(FetchError),
    Disk(DiskError),
}

impl From<FetchError> for TakeError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Refused(error) => Self::Refused(error),
            FetchError::Disk(error) => Self::Disk(error),
            FetchError::Source { .. } => Self::Source(error),
        }
    }
}

impl From<ChangeError> for TakeError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Refused(error) => Self::Refused(error),
            ChangeError::Disk(error) => Self::Disk(error),
        }
    }
}

/// What a stale timestamp means, for logs and reports.
pub(crate) const STALE: &str = "the timestamp document has expired, or this machine's clock is ahead: serving what is \
                                there, taking in and widening nothing";
/// An offer that could not be taken in is looked at again after this, unless another comes.
const NOT_NOW_AGAIN: Duration = Duration::from_secs(60);
