//! What the ledger holds, verified. Only this module makes an [`Accepted`], so nothing runs that did not pass here.
//!
//! It does not know files or the network; [`super::record`] turns it into bytes and back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sealane_model::envelope::Envelope;
use sealane_model::grant::VerifiedGrant;
use sealane_model::ids::{AgentId, Digest, FleetId};
use sealane_model::release::{Floor, Partition, VerifiedRelease};
use sealane_model::timestamp::{Timestamp, VerifiedTimestamp};
use sealane_model::trust::TrustRoot;
use sealane_model::verify::VerifyError;
use serde::{Deserialize, Serialize};

use crate::checkpoint::Checked;
use crate::fetch::Complete;

/// A release that passed every check and of which every blob is on disk.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Accepted {
    release: VerifiedRelease,
    blobs: Vec<Digest>,
}

impl Accepted {
    /// The release.
    #[must_use]
    pub(crate) fn release(&self) -> &VerifiedRelease {
        &self.release
    }

    /// Its manifest and chunks.
    #[must_use]
    pub(crate) fn blobs(&self) -> &[Digest] {
        &self.blobs
    }

    pub(super) fn restored(release: VerifiedRelease, blobs: Vec<Digest>) -> Self {
        Self { release, blobs }
    }
}

/// A release that was accepted once, kept by name after its content is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) digest: Digest,
    pub(crate) base: Option<Digest>,
}

/// The revision that is being rolled out, and how far it may go.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Candidate {
    /// One of [`State::releases`].
    pub(crate) digest: Digest,
    /// By sequence.
    pub(crate) grants: Vec<VerifiedGrant>,
    /// Nothing new is activated.
    pub(crate) paused: bool,
}

/// This agent took its proxies back by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LocalRollback {
    /// Lower-case hex of the release digest.
    pub(crate) digest: String,
    /// Its revision.
    pub(crate) revision: u64,
    /// `death`, `not_ready`, `authority_loss` or `operator`.
    pub(crate) gate: String,
    /// One sentence.
    pub(crate) message: String,
    /// The proxies it was about.
    pub(crate) nodes: Vec<String>,
}

/// What the ledger holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    pub(crate) agent: AgentId,
    /// Oldest first, never empty; the last one rules.
    pub(crate) roots: Vec<TrustRoot>,
    pub(crate) floors: BTreeMap<Partition, Floor>,
    pub(crate) timestamp: Option<VerifiedTimestamp>,
    pub(crate) releases: BTreeMap<Digest, Arc<Accepted>>,
    /// The newest revision of the sandbox partition. It has no rollout and nobody goes back to an earlier one.
    pub(crate) sandbox: Option<Arc<Accepted>>,
    pub(crate) known: Vec<Known>,
    pub(crate) stable: Option<Digest>,
    pub(crate) candidate: Option<Candidate>,
    /// Newest first: what `stable` was, its present value included.
    pub(crate) ring: Vec<Digest>,
    pub(crate) withdrawn: Vec<Digest>,
    pub(crate) rolled_back: Option<LocalRollback>,
    /// Ids of proxies that sit out every stage but the last.
    pub(crate) cordoned: Vec<String>,
    /// Generations up to here may have been used.
    pub(crate) generation: u64,
    /// How far the authority's audit log was followed.
    pub(crate) audit: Option<Checked>,
}

/// Documents of one desired state that passed verification together; see [`crate::intake`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Documents {
    /// In order, each following the one before.
    pub(crate) roots: Vec<TrustRoot>,
    pub(crate) timestamp: Option<VerifiedTimestamp>,
    /// What is offered: one that is held may come with signatures of newer keys.
    pub(crate) releases: Vec<VerifiedRelease>,
    /// Not signed: it can only narrow.
    pub(crate) cordoned: Option<Vec<String>>,
}

impl State {
    /// An empty one.
    pub(crate) fn new(agent: AgentId, pinned: TrustRoot) -> Self {
        Self {
            agent,
            roots: vec![pinned],
            floors: BTreeMap::new(),
            timestamp: None,
            releases: BTreeMap::new(),
            sandbox: None,
            known: Vec::new(),
            stable: None,
            candidate: None,
            ring: Vec::new(),
            withdrawn: Vec::new(),
            rolled_back: None,
            cordoned: Vec::new(),
            generation: 0,
            audit: None,
        }
    }

    /// The trust root that rules.
    pub(crate) fn trust(&self) -> &TrustRoot {
        self.roots.last().expect("a state is made with a root and roots are only added")
    }

    pub(crate) fn fleet(&self) -> &FleetId {
        self.trust().fleet()
    }

    pub(crate) fn seen_timestamp(&self) -> Option<&Timestamp> {
        self.timestamp.as_ref().map(VerifiedTimestamp::timestamp)
    }

    pub(crate) fn is_withdrawn(&self, digest: &Digest) -> bool {
        self.withdrawn.contains(digest)
    }

    pub(crate) fn release(&self, digest: &Digest) -> Option<&VerifiedRelease> {
        self.releases.get(digest).map(|accepted| accepted.release())
    }

    /// The accepted release with the very payload of `envelope`, whatever signatures stand beside it here or there.
    pub(crate) fn release_like(&self, envelope: &Envelope) -> Option<&VerifiedRelease> {
        let like = |held: &&VerifiedRelease| {
            held.envelope().payload_type == envelope.payload_type && held.envelope().payload == envelope.payload
        };
        self.releases.values().map(|accepted| accepted.release()).find(like)
    }

    /// Whether `release` may be accepted, and the floor after that. A release that was accepted before, or that an
    /// accepted one was based on, needs no floor: that is how a fleet goes back to last good.
    pub(crate) fn admit(&self, floor: Option<&Floor>, release: &VerifiedRelease) -> Result<Option<Floor>, VerifyError> {
        let digest = release.digest();
        let named = self.known.iter().any(|known| known.digest == digest || known.base == Some(digest));
        let known = named || self.releases.contains_key(&digest);
        if known && floor.is_some() {
            return Ok(floor.copied());
        }
        Floor::admit(floor, release).map(Some)
    }

    /// Learns from a release that another holder of this fleet's state accepted: the floor is at least there.
    pub(super) fn raise_floor(&mut self, release: &VerifiedRelease) {
        let partition = release.release().partition;
        let floor = self.floors.get(&partition);
        let above = floor
            .is_none_or(|floor| (floor.epoch, floor.revision) < (release.release().epoch, release.release().revision));
        if !above {
            return;
        }
        if let Ok(raised) = Floor::admit(floor, release) {
            self.floors.insert(partition, raised);
            self.remember(release); // what it was based on may still be offered: that is where it was rolled back to
        }
    }

    /// Every blob that is needed.
    pub(crate) fn referenced(&self) -> BTreeSet<Digest> {
        self.releases.values().chain(&self.sandbox).flat_map(|accepted| accepted.blobs.iter().copied()).collect()
    }

    /// Takes digests back: they are not activated any more.
    pub(super) fn withdraw(&mut self, digests: &[Digest]) {
        let newest = &digests[digests.len().saturating_sub(WITHDRAWN_MAX)..];
        for digest in newest {
            if !self.withdrawn.contains(digest) {
                self.withdrawn.push(*digest);
            }
        }
        let excess = self.withdrawn.len().saturating_sub(WITHDRAWN_MAX);
        self.withdrawn.drain(..excess);
    }

    pub(super) fn take_documents(&mut self, documents: &Documents) {
        for root in &documents.roots {
            if root.document().version > self.trust().document().version {
                self.roots.push(root.clone());
            }
        }
        if let Some(timestamp) = &documents.timestamp
            && self.seen_timestamp().is_none_or(|seen| seen.time_unix_ms <= timestamp.timestamp().time_unix_ms)
        {
            self.timestamp = Some(timestamp.clone());
        }
        for release in &documents.releases {
            if let Some(held) = self.releases.get_mut(&release.digest()).filter(|held| *held.release() != *release) {
                *held = Arc::new(Accepted::restored(release.clone(), held.blobs().to_vec()));
            }
        }
        if let Some(cordoned) = &documents.cordoned {
            self.cordoned.clone_from(cordoned);
        }
    }

    /// Makes `complete` the stable revision. A candidate that is not `candidate_stays` goes.
    pub(super) fn take_stable(
        &mut self,
        complete: &Complete,
        candidate_stays: Option<Digest>,
    ) -> Result<(), VerifyError> {
        let digest = self.accept(complete)?;
        self.stable = Some(digest);
        if self.ring.first() != Some(&digest) {
            self.ring.retain(|held| *held != digest);
            self.ring.insert(0, digest);
            self.ring.truncate(RING);
        }
        if self.candidate.as_ref().is_some_and(|candidate| Some(candidate.digest) != candidate_stays) {
            self.drop_candidate();
        }
        self.drop_unneeded();
        Ok(())
    }

    /// Makes `complete` the candidate, or adds grants to it. Grants only add up while the candidate is the same.
    pub(super) fn take_candidate(
        &mut self,
        complete: &Complete,
        grants: &[VerifiedGrant],
        paused: bool,
    ) -> Result<(), VerifyError> {
        let digest = self.accept(complete)?;
        let mut all = match self.candidate.take() {
            Some(candidate) if candidate.digest == digest => candidate.grants,
            Some(_) | None => {
                self.rolled_back = None;
                Vec::new()
            }
        };
        for grant in grants {
            if all.iter().all(|held| held.grant().sequence != grant.grant().sequence) {
                all.push(grant.clone());
            }
        }
        all.sort_by_key(|grant| grant.grant().sequence);
        self.candidate = Some(Candidate { digest, grants: all, paused });
        self.drop_unneeded();
        Ok(())
    }

    /// Makes `complete` the sandbox revision. Its line of revisions has a floor of its own.
    pub(super) fn take_sandbox(&mut self, complete: &Complete) -> Result<(), VerifyError> {
        let release = complete.release();
        let floor = Floor::admit(self.floors.get(&Partition::Sandbox), release)?;
        self.floors.insert(Partition::Sandbox, floor);
        self.sandbox = Some(Arc::new(Accepted { release: release.clone(), blobs: complete.blobs().to_vec() }));
        Ok(())
    }

    pub(super) fn drop_candidate(&mut self) {
        self.candidate = None;
        self.rolled_back = None;
        self.drop_unneeded();
    }

    fn accept(&mut self, complete: &Complete) -> Result<Digest, VerifyError> {
        let release = complete.release();
        let (digest, partition) = (release.digest(), release.release().partition);
        let floor = self.floors.get(&partition).copied();
        if let Some(floor) = self.admit(floor.as_ref(), release)? {
            self.floors.insert(partition, floor);
        }
        self.remember(release);
        let accepted = Accepted { release: release.clone(), blobs: complete.blobs().to_vec() };
        self.releases.insert(digest, Arc::new(accepted));
        Ok(digest)
    }

    fn remember(&mut self, release: &VerifiedRelease) {
        let digest = release.digest();
        if self.known.iter().all(|known| known.digest != digest) {
            self.known.push(Known { digest, base: release.release().base });
            let excess = self.known.len().saturating_sub(KNOWN_MAX);
            self.known.drain(..excess);
        }
    }

    fn drop_unneeded(&mut self) {
        let candidate = self.candidate.as_ref().map(|candidate| candidate.digest);
        let (stable, ring) = (self.stable, &self.ring);
        self.releases
            .retain(|digest, _| Some(*digest) == stable || Some(*digest) == candidate || ring.contains(digest));
        self.check_invariants();
    }

    fn check_invariants(&self) {
        for digest in self.stable.iter().chain(self.candidate.iter().map(|candidate| &candidate.digest)) {
            assert!(self.releases.contains_key(digest), "what is served was accepted");
        }
        if let Some(candidate) = &self.candidate {
            assert!(
                candidate.grants.iter().all(|grant| grant.grant().release_digest == candidate.digest),
                "a grant is for its candidate"
            );
        }
    }
}

/// Last-good revisions that are kept with all content: the present one and five to go back to.
const RING: usize = 6;
/// Names of accepted releases that are kept: what may be offered again without being newer.
const KNOWN_MAX: usize = 64;
/// Withdrawn digests that are remembered; the authority repeats the ones that matter.
const WITHDRAWN_MAX: usize = 256;
