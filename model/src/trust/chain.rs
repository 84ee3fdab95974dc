//! A chain of trust roots: each one vouches for the next, the last one rules.
//!
//! It does not know where roots are kept. Offered roots come through any hands; held ones from a state that was verified.

use super::TrustRoot;
use crate::envelope::Envelope;
use crate::verify::VerifyError;

/// Most roots that are looked at in one message: bounds the work of following a chain.
pub const ROOTS_OFFERED_MAX: usize = 1024;

/// The roots in `offered` that follow the last of `held` one step at a time; those that are held already, and older ones,
/// are skipped. One that neither follows nor is known refuses the whole.
///
/// # Errors
/// As [`TrustRoot::next`]; more than [`ROOTS_OFFERED_MAX`]; nothing held.
pub fn follow(held: &[TrustRoot], offered: impl Iterator<Item = Envelope>) -> Result<Vec<TrustRoot>, VerifyError> {
    let newest = held.last().ok_or(VerifyError::Malformed { what: "trust root chain" })?;
    let mut new: Vec<TrustRoot> = Vec::new();
    for (index, envelope) in offered.enumerate() {
        if index >= ROOTS_OFFERED_MAX {
            let max = ROOTS_OFFERED_MAX as u64;
            return Err(VerifyError::TooMany { what: "trust roots", count: max + 1, max });
        }
        if held.iter().any(|known| known.envelope().payload == envelope.payload) {
            continue;
        }
        let trusted = new.last().unwrap_or(newest);
        // What claims to be no newer is not looked at further, so its signatures do not matter.
        let claims = super::wire::decode(&envelope.payload).ok().map(|document| document.version);
        if claims.is_some_and(|version| version <= trusted.document().version) {
            continue;
        }
        new.push(trusted.next(&envelope)?);
    }
    Ok(new)
}

/// Verifies by whichever root of a chain will, newest first; the error is the newest one's. For what was accepted under an
/// earlier root: it stays accepted when its key is rotated out, since expiry stops change, not service. Never for what is
/// offered anew.
///
/// # Errors
/// What the newest root says; nothing held.
pub fn verify_kept<T, E: From<VerifyError>>(
    roots: &[TrustRoot],
    verify: impl Fn(&TrustRoot) -> Result<T, E>,
) -> Result<T, E> {
    let (newest, before) = roots.split_last().ok_or(VerifyError::Malformed { what: "trust root chain" })?;
    verify(newest).or_else(|error| before.iter().rev().find_map(|root| verify(root).ok()).ok_or(error))
}
