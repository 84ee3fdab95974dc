//! The timestamp document: what is latest, now.
//!
//! It does not know the time: whether a document has expired is for the holder of a clock. Documents come from the
//! authority through any hands. Invariant: of two documents that a ledger took, the later one took nothing back.

use crate::envelope::{Envelope, PayloadType};
use crate::ids::{Digest, Epoch, FleetId, Revision};
use crate::keys::SigningKey;
use crate::release::Partition;
use crate::trust::{Role, TrustRoot};
use crate::verify::VerifyError;

mod wire;

/// What is latest, now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timestamp {
    /// Its fleet.
    pub fleet: FleetId,
    /// Current.
    pub epoch: Epoch,
    /// Newest published revision of each partition that has one.
    pub heads: Vec<(Partition, Revision, Digest)>,
    /// Unix time in milliseconds.
    pub time_unix_ms: i64,
    /// After this: stale. Serve, alarm, do not widen.
    pub expires_unix_ms: i64,
    /// Grants below are void.
    pub grant_sequence_min: u64,
    /// Newest trust root.
    pub root_version: u32,
    /// Hash of the newest audit entry, or empty.
    pub audit_head: Vec<u8>,
}

/// A timestamp whose signatures met the role's threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedTimestamp {
    timestamp: Timestamp,
    envelope: Envelope,
}

impl Timestamp {
    /// Encodes and signs it.
    #[must_use]
    pub fn sign(&self, keys: &[&SigningKey]) -> Envelope {
        Envelope::sign(PayloadType::Timestamp, wire::encode(self), keys)
    }

    /// Refuses to follow `seen` when anything went back. Within an epoch no head may fall, vanish, or change its digest;
    /// a new epoch (after a restore) counts its revisions afresh. All else only grows, in any epoch.
    fn check_follows(&self, seen: &Self) -> Result<(), VerifyError> {
        let grows = self.epoch >= seen.epoch
            && self.time_unix_ms >= seen.time_unix_ms
            && self.grant_sequence_min >= seen.grant_sequence_min
            && self.root_version >= seen.root_version;
        if !grows {
            return Err(VerifyError::TimestampRolledBack);
        }
        if self.epoch > seen.epoch {
            return Ok(());
        }
        for (partition, revision, digest) in &seen.heads {
            match self.heads.iter().find(|head| head.0 == *partition) {
                Some((_, now, _)) if now > revision => {}
                Some((_, now, other)) if now == revision && other == digest => {}
                Some((_, now, _)) if now == revision => {
                    return Err(VerifyError::SameRevisionDifferentDigest { revision: *revision });
                }
                _ => return Err(VerifyError::TimestampRolledBack),
            }
        }
        Ok(())
    }
}

impl VerifiedTimestamp {
    /// What it says.
    #[must_use]
    pub fn timestamp(&self) -> &Timestamp {
        &self.timestamp
    }
    /// What was signed, to store and pass on.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }
}

impl TrustRoot {
    /// Verifies type, signatures and fleet, and that it is not older than `seen` (epoch, heads, time, grant sequence, root
    /// version). The one seen itself may come again.
    pub fn verify_timestamp(
        &self,
        envelope: &Envelope,
        seen: Option<&Timestamp>,
    ) -> Result<VerifiedTimestamp, VerifyError> {
        let timestamp = wire::decode(self.signed_payload(envelope, PayloadType::Timestamp, Role::Timestamp)?)?;
        self.check_fleet(&timestamp.fleet)?;
        seen.map_or(Ok(()), |seen| timestamp.check_follows(seen))?;
        Ok(VerifiedTimestamp { timestamp, envelope: envelope.clone() })
    }
}
