//! A command from the agent → documents that verified here too, or why not.
//!
//! Pure. An agent chooses *when* a proxy runs what the fleet signed, and no more: everything is verified against this
//! proxy's own trust root and floor, and one bad document refuses the whole command.

use prost::Message;
use sealane_model::envelope::Envelope;
use sealane_model::ids::{Digest, ProxyId};
use sealane_model::release::{Partition, VerifiedRelease};
use sealane_model::timestamp::VerifiedTimestamp;
use sealane_model::trust::{TrustRoot, chain};
use sealane_model::verify::VerifyError;
use sealane_proto::v1;
use thiserror::Error;

use super::state::State;

/// A command of which every document verified.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(crate) generation: u64,
    /// Of the command's bytes.
    pub(crate) digest: Digest,
    pub(crate) roots: Vec<TrustRoot>,
    /// What to hold, in the order in which to take it up.
    pub(crate) releases: Vec<VerifiedRelease>,
    /// `None`: what is served now.
    pub(crate) active: Option<Digest>,
    pub(crate) last_good: Option<Digest>,
    pub(crate) drain: bool,
    /// Not older than what was seen.
    pub(crate) timestamp: Option<VerifiedTimestamp>,
    /// To start from disk once more.
    pub(crate) rehearse: Option<Digest>,
}

/// Why a command is not carried out.
#[derive(Debug, Error)]
pub(crate) enum CommandError {
    /// A newer one was carried out; nobody's fault.
    #[error("generation {offered} is older than {known}")]
    Old { offered: u64, known: u64 },
    /// The number of the newest with other content.
    #[error("generation {generation} came with other content before")]
    SameGenerationOtherContent { generation: u64 },
    /// It names a release to serve that it does not carry.
    #[error("it names release {} without carrying it", .digest.short())]
    NotCarried { digest: Digest },
    /// A document in it.
    #[error(transparent)]
    Document(#[from] VerifyError),
}

impl CommandError {
    /// Stable code for metrics and reports.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Old { .. } => "generation_too_old",
            Self::SameGenerationOtherContent { .. } => "same_generation_other_content",
            Self::NotCarried { .. } => "release_not_carried",
            Self::Document(error) => error.code(),
        }
    }
}

/// The newest command that was carried out in this process: number and digest.
pub(crate) type Newest = Option<(u64, Digest)>;

/// Verifies `desired`. `serving` needs no fresh grant to go on being served.
pub(crate) fn verify(
    state: &State,
    newest: Newest,
    serving: Option<Digest>,
    now_unix_ms: i64,
    desired: &v1::ProxyDesired,
) -> Result<Command, CommandError> {
    let digest = Digest::of(&desired.encode_to_vec());
    check_generation(state, newest, desired.generation, digest)?;
    let roots = chain::follow(&state.roots, desired.roots.iter().map(Envelope::from))?;
    let trust = roots.last().unwrap_or_else(|| state.trust());
    let seen = state.timestamp.as_ref().map(VerifiedTimestamp::timestamp);
    let timestamp = desired.timestamp.as_ref().map(|one| trust.verify_timestamp(&Envelope::from(one), seen));
    let timestamp = timestamp.transpose()?;
    let sequence_min =
        timestamp.as_ref().map(VerifiedTimestamp::timestamp).or(seen).map_or(0, |one| one.grant_sequence_min);
    let mut releases = verify_releases(state, trust, &desired.releases)?;
    let active = named(&desired.active_digest)?;
    let last_good = named(&desired.last_good_digest)?;
    let rehearse = named(&desired.rehearse_digest)?;
    let carried = |digest: &Digest| releases.iter().any(|release| release.digest() == *digest);
    if let Some(digest) = active.into_iter().chain(last_good).chain(rehearse).find(|digest| !carried(digest)) {
        return Err(CommandError::NotCarried { digest });
    }
    if let (Some(grant), Some(active)) = (&desired.grant, active) {
        let release = releases.iter().find(|release| release.digest() == active).expect("carried, checked above");
        let now = (serving != Some(active)).then_some(now_unix_ms);
        verify_grant(trust, &state.id, release, grant, sequence_min, now)?;
    }
    // Going back to what is kept waits for nothing; anything new is taken in in order, so that the floor rises in order.
    let at_once = |digest: Digest| Some(digest) == active && state.kept.contains_key(&digest);
    releases.sort_by_key(|release| !at_once(release.digest()));
    let (generation, drain) = (desired.generation, desired.drain);
    Ok(Command { generation, digest, roots, releases, active, last_good, drain, timestamp, rehearse })
}

fn check_generation(state: &State, newest: Newest, offered: u64, digest: Digest) -> Result<(), CommandError> {
    let persisted = state.command.map(|command| (state.generation, command));
    for (known, content) in persisted.into_iter().chain(newest) {
        if offered < known {
            return Err(CommandError::Old { offered, known });
        }
        if offered == known && digest != content {
            return Err(CommandError::SameGenerationOtherContent { generation: offered });
        }
    }
    Ok(())
}

fn verify_releases(
    state: &State,
    trust: &TrustRoot,
    envelopes: &[v1::Envelope],
) -> Result<Vec<VerifiedRelease>, VerifyError> {
    if envelopes.len() > RELEASES_MAX {
        let (bytes, max) = (envelopes.len() as u64, RELEASES_MAX as u64);
        return Err(VerifyError::TooLarge { what: "list of releases", bytes, max });
    }
    let mut floor = state.floor;
    let mut releases = Vec::new();
    for envelope in envelopes {
        let envelope = Envelope::from(envelope);
        let release = match (trust.verify_release(&envelope), state.release_like(&envelope)) {
            (Ok(release), _) => release,
            // Taken in under an earlier root: expiry stops change, not service.
            (Err(_), Some(kept)) => kept.clone(),
            (Err(error), None) => return Err(error),
        };
        if release.release().partition != Partition::Config {
            return Err(VerifyError::Malformed { what: "release: it is not of the config partition" });
        }
        floor = state.admit(floor.as_ref(), &release)?;
        releases.push(release);
    }
    Ok(releases)
}

/// The region is the agent's to judge: a proxy does not know its own.
fn verify_grant(
    trust: &TrustRoot,
    id: &str,
    release: &VerifiedRelease,
    envelope: &v1::Envelope,
    sequence_min: u64,
    now_unix_ms: Option<i64>,
) -> Result<(), VerifyError> {
    let verified = trust.verify_grant(&Envelope::from(envelope))?;
    let grant = verified.grant();
    // Which sequences are void the agent knows, that has the timestamp; without an agent this proxy has it.
    grant.check_for(release, sequence_min)?;
    let proxy = ProxyId(id.to_owned());
    if !grant.regions.iter().any(|region| grant.covers(&proxy, region)) {
        return Err(VerifyError::GrantRefused { why: "it does not cover this proxy" });
    }
    if now_unix_ms.is_some_and(|now| grant.is_expired(now)) {
        return Err(VerifyError::GrantRefused { why: "it has expired" });
    }
    Ok(())
}

fn named(bytes: &[u8]) -> Result<Option<Digest>, VerifyError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    Digest::from_slice(bytes).map(Some).ok_or(VerifyError::Malformed { what: "release digest" })
}

/// The stable revision and a candidate, and room.
const RELEASES_MAX: usize = 4;
