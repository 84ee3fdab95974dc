//! A desired state from the wire → documents that verified together, or the first reason why not.
//!
//! Pure. It does not fetch content and does not change anything: one bad document refuses the whole state, so that what
//! is taken in is always what somebody signed as a whole.
//!
//! Order as in the design page "Control plane": caps, root chain, timestamp, release, grants.

use sealane_model::envelope::Envelope;
use sealane_model::grant::VerifiedGrant;
use sealane_model::ids::Digest;
use sealane_model::release::{Floor, Partition, VerifiedRelease};
use sealane_model::timestamp::{Timestamp, VerifiedTimestamp};
use sealane_model::trust::{TrustRoot, chain};
use sealane_model::verify::VerifyError;
use sealane_proto::v1;

use super::sandbox;
use crate::ledger::{Documents, State};
use crate::plan_floor;
use crate::settings::is_name;

/// A desired state of which every document verified.
#[derive(Debug)]
pub(crate) struct Verified {
    pub(crate) state_version: u64,
    pub(crate) documents: Documents,
    pub(crate) stable: Option<VerifiedRelease>,
    pub(crate) candidate: Option<OfferedCandidate>,
    pub(crate) withdrawn: Vec<Digest>,
    /// A sandbox revision that is not held yet.
    pub(crate) sandbox: Option<VerifiedRelease>,
}

/// A candidate that may be taken in.
#[derive(Debug)]
pub(crate) struct OfferedCandidate {
    pub(crate) release: VerifiedRelease,
    pub(crate) grants: Vec<VerifiedGrant>,
    pub(crate) paused: bool,
}

/// Verifies `desired` against what `state` holds and the timestamp that was `seen` before it.
pub(crate) fn verify(
    state: &State,
    seen: Option<&Timestamp>,
    desired: &v1::DesiredState,
) -> Result<Verified, VerifyError> {
    let roots = verify_roots(state, &desired.roots)?;
    let trust = roots.last().unwrap_or_else(|| state.trust());
    let timestamp = verify_timestamp(trust, seen, desired)?;
    let seen = timestamp.as_ref().map(VerifiedTimestamp::timestamp);
    let withdrawn = desired
        .withdrawn
        .iter()
        .map(|bytes| Digest::from_slice(bytes).ok_or(VerifyError::Malformed { what: "withdrawn digest" }))
        .collect::<Result<Vec<_>, _>>()?;
    let taken_back = |digest: &Digest| withdrawn.contains(digest) || state.is_withdrawn(digest);

    let sandbox = match &desired.sandbox {
        Some(envelope) => sandbox::verify(state, trust, seen, envelope)?,
        None => None,
    };
    let mut floor = state.floors.get(&Partition::Config).copied();
    let stable = match &desired.stable {
        Some(envelope) => Some(verify_release(state, trust, seen, &mut floor, envelope)?),
        None => None,
    };
    if stable.as_ref().is_some_and(|stable| taken_back(&stable.digest())) {
        return Err(VerifyError::Malformed { what: "desired state: its stable revision was taken back" });
    }
    let candidate = match &desired.candidate {
        Some(candidate) => Some(verify_candidate(state, trust, seen, &mut floor, candidate)?),
        None => None,
    };
    let stable_digest = stable.as_ref().map(VerifiedRelease::digest);
    let candidate = candidate.filter(|candidate| {
        let digest = candidate.release.digest();
        !taken_back(&digest) && Some(digest) != stable_digest
    });
    let state_version = desired.state_version;
    let mut cordoned = desired.cordoned.clone();
    cordoned.retain(|name| is_name(name));
    cordoned.truncate(CORDONED_MAX);
    let releases = stable.iter().chain(candidate.iter().map(|candidate| &candidate.release)).cloned().collect();
    let documents = Documents { roots, timestamp, releases, cordoned: Some(cordoned) };
    Ok(Verified { state_version, documents, stable, candidate, withdrawn, sandbox })
}

/// The root documents that follow the one in `state`; those it knows already are skipped.
pub(crate) fn verify_roots(state: &State, envelopes: &[v1::Envelope]) -> Result<Vec<TrustRoot>, VerifyError> {
    chain::follow(&state.roots, envelopes.iter().map(Envelope::from))
}

fn verify_timestamp(
    trust: &TrustRoot,
    seen: Option<&Timestamp>,
    desired: &v1::DesiredState,
) -> Result<Option<VerifiedTimestamp>, VerifyError> {
    match &desired.timestamp {
        Some(envelope) => trust.verify_timestamp(&Envelope::from(envelope), seen).map(Some),
        None if desired.stable.is_none() && desired.candidate.is_none() && desired.sandbox.is_none() => Ok(None),
        None => Err(VerifyError::Unsigned { what: "desired state (it has no timestamp document)" }),
    }
}

fn verify_release(
    state: &State,
    trust: &TrustRoot,
    seen: Option<&Timestamp>,
    floor: &mut Option<Floor>,
    envelope: &v1::Envelope,
) -> Result<VerifiedRelease, VerifyError> {
    let envelope = Envelope::from(envelope);
    let verified = match (trust.verify_release(&envelope), state.release_like(&envelope)) {
        (Ok(verified), _) => verified,
        // Accepted under an earlier root: expiry stops change, not service.
        (Err(_), Some(accepted)) => accepted.clone(),
        (Err(error), None) => return Err(error),
    };
    let release = verified.release();
    if release.partition != Partition::Config {
        return Err(VerifyError::Malformed { what: "release: it is not of the config partition" });
    }
    let head = seen.and_then(|seen| {
        let head = seen.heads.iter().find(|(partition, ..)| *partition == release.partition);
        head.filter(|(_, revision, _)| (seen.epoch, *revision) == (release.epoch, release.revision))
    });
    if head.is_some_and(|(.., digest)| *digest != verified.digest()) {
        return Err(VerifyError::SameRevisionDifferentDigest { revision: release.revision });
    }
    *floor = state.admit(floor.as_ref(), &verified)?;
    Ok(verified)
}

fn verify_candidate(
    state: &State,
    trust: &TrustRoot,
    seen: Option<&Timestamp>,
    floor: &mut Option<Floor>,
    candidate: &v1::Candidate,
) -> Result<OfferedCandidate, VerifyError> {
    let Some(envelope) = &candidate.release else {
        return Err(VerifyError::Malformed { what: "candidate: it has no release" });
    };
    let release = verify_release(state, trust, seen, floor, envelope)?;
    plan_floor::check_release(state, &release)?;
    if candidate.grants.len() > GRANTS_MAX {
        let (bytes, max) = (candidate.grants.len() as u64, GRANTS_MAX as u64);
        return Err(VerifyError::TooLarge { what: "list of grants", bytes, max });
    }
    let sequence_min = seen.map_or(0, |seen| seen.grant_sequence_min);
    let grants = candidate
        .grants
        .iter()
        .map(|envelope| verify_grant(trust, &release, sequence_min, envelope))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(OfferedCandidate { release, grants, paused: candidate.paused })
}

fn verify_grant(
    trust: &TrustRoot,
    release: &VerifiedRelease,
    sequence_min: u64,
    envelope: &v1::Envelope,
) -> Result<VerifiedGrant, VerifyError> {
    let verified = trust.verify_grant(&Envelope::from(envelope))?;
    // Whether it has expired is asked where it would activate something: what is active under it stays.
    verified.grant().check_for(release, sequence_min)?;
    Ok(verified)
}

/// Grants of one rollout that are looked at: one per stage and wave, with room for retries.
const GRANTS_MAX: usize = 256;
/// Cordoned proxies that are kept: more than a fleet has any reason for.
const CORDONED_MAX: usize = 10_000;
