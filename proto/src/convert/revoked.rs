//! Certificates that were taken back: a list in both directions.

use std::collections::BTreeMap;

use sealane_model::ids::Digest;

use crate::v1;

/// Fingerprints and ends. An entry that is no SHA-256 names no certificate and is left out.
pub fn revoked(listed: &[v1::RevokedCertificate]) -> impl Iterator<Item = (Digest, i64)> + '_ {
    listed.iter().filter_map(|one| Some((Digest::from_slice(&one.fingerprint)?, one.not_after_unix_ms)))
}

/// The same as it travels.
#[must_use]
pub fn revoked_list(list: &BTreeMap<Digest, i64>) -> v1::RevokedCertificates {
    let certificate = |(fingerprint, end): (&Digest, &i64)| v1::RevokedCertificate {
        fingerprint: fingerprint.to_vec(),
        not_after_unix_ms: *end,
    };
    v1::RevokedCertificates { certificates: list.iter().map(certificate).collect() }
}
