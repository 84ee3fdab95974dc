//! An agent's certificate: key and request made here, signed by the authority, kept in one file of mode 0600.

use std::path::Path;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use thiserror::Error;

use crate::disk::{self, DiskError};

/// Why there is no certificate.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// First contact needs a token.
    #[error("an agent enrols with a token: give --token-file (`sealane token create --role agent`)")]
    NoToken,
    /// The authority said no.
    #[error("the authority refused the certificate request")]
    Refused(#[source] Box<tonic::Status>),
    /// Its answer is not a certificate for our key.
    #[error("the certificate is not usable: {0}")]
    Unusable(&'static str),
    /// No key could be made.
    #[error("cannot make a key and a certificate request")]
    Key(#[source] rcgen::Error),
    /// A file.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// A certificate with its key.
#[derive(Clone)]
pub(crate) struct Identity {
    /// Key first, then the certificate chain.
    pem: String,
    not_before_unix_ms: i64,
    not_after_unix_ms: i64,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("not_after_unix_ms", &self.not_after_unix_ms).finish_non_exhaustive()
    }
}

/// A key and its request, waiting for the authority's signature.
pub(crate) struct Request {
    key: KeyPair,
    pem: String,
}

impl Request {
    pub(crate) fn new(agent_id: &str) -> Result<Self, IdentityError> {
        let key = KeyPair::generate().map_err(IdentityError::Key)?;
        let mut params = CertificateParams::new(Vec::new()).map_err(IdentityError::Key)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, agent_id);
        let pem = params.serialize_request(&key).and_then(|request| request.pem()).map_err(IdentityError::Key)?;
        Ok(Self { key, pem })
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// Joins the certificate to the key it must be for.
    pub(crate) fn finish(self, certificate_pem: &str) -> Result<Identity, IdentityError> {
        let identity = Identity::parse(format!("{}{certificate_pem}", self.key.serialize_pem()))?;
        let (_, block) = x509_parser::pem::parse_x509_pem(certificate_pem.as_bytes())
            .map_err(|_| IdentityError::Unusable("it is not PEM"))?;
        let certificate = block.parse_x509().map_err(|_| IdentityError::Unusable("it does not parse"))?;
        if certificate.public_key().subject_public_key.data.as_ref() != self.key.public_key_raw() {
            return Err(IdentityError::Unusable("it is for another key"));
        }
        Ok(identity)
    }
}

impl Identity {
    pub(crate) fn load(directory: &Path) -> Result<Option<Self>, IdentityError> {
        let Some(bytes) = disk::read(&directory.join(FILE))? else { return Ok(None) };
        let pem = String::from_utf8(bytes).map_err(|_| IdentityError::Unusable("its file is not text"))?;
        Self::parse(pem).map(Some)
    }

    pub(crate) fn store(&self, directory: &Path) -> Result<(), IdentityError> {
        disk::create_dir(directory)?;
        Ok(disk::write_atomic(&directory.join(FILE), self.pem.as_bytes())?)
    }

    /// Two thirds of its life are over.
    pub(crate) fn is_due(&self, now_unix_ms: i64) -> bool {
        let life = self.not_after_unix_ms.saturating_sub(self.not_before_unix_ms);
        now_unix_ms >= self.not_before_unix_ms.saturating_add(life / 3 * 2)
    }

    pub(crate) fn has_expired(&self, now_unix_ms: i64) -> bool {
        now_unix_ms >= self.not_after_unix_ms
    }

    pub(crate) fn for_tls(&self) -> tonic::transport::Identity {
        tonic::transport::Identity::from_pem(&self.pem, &self.pem)
    }

    fn parse(pem: String) -> Result<Self, IdentityError> {
        for block in x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes()) {
            let block = block.map_err(|_| IdentityError::Unusable("it is not PEM"))?;
            if block.label != "CERTIFICATE" {
                continue;
            }
            let certificate = block.parse_x509().map_err(|_| IdentityError::Unusable("it does not parse"))?;
            let validity = certificate.validity();
            let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
            return Ok(Self {
                not_before_unix_ms: not_before.saturating_mul(1000),
                not_after_unix_ms: not_after.saturating_mul(1000),
                pem,
            });
        }
        Err(IdentityError::Unusable("there is no certificate in it"))
    }
}

const FILE: &str = "agent.pem";

#[cfg(test)]
mod tests {
    use super::*;

    fn issue(request: &Request, days: i64) -> String {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let mut csr = rcgen::CertificateSigningRequestParams::from_pem(request.pem()).unwrap();
        csr.params.not_before = rcgen::date_time_ymd(2025, 1, 1);
        csr.params.not_after = rcgen::date_time_ymd(2025, 1, 1 + days as u8);
        csr.signed_by(&issuer).unwrap().pem()
    }

    #[test]
    fn a_certificate_is_due_at_two_thirds_of_its_life_and_survives_the_disk() {
        let request = Request::new("eu-1").unwrap();
        let certificate = issue(&request, 30);
        let identity = request.finish(&certificate).unwrap();
        let directory = tempfile::tempdir().unwrap();
        identity.store(directory.path()).unwrap();
        let loaded = Identity::load(directory.path()).unwrap().unwrap();
        let day = 86_400_000;
        let start = 1_735_689_600_000;
        assert!(!loaded.is_due(start + 19 * day) && loaded.is_due(start + 20 * day));
        assert!(!loaded.has_expired(start + 29 * day) && loaded.has_expired(start + 30 * day));
        assert!(!format!("{loaded:?}").contains("KEY"));
    }

    #[test]
    fn refuses_a_certificate_for_another_key() {
        let (request, other) = (Request::new("eu-1").unwrap(), Request::new("eu-2").unwrap());
        let certificate = issue(&other, 1);
        assert!(matches!(request.finish(&certificate), Err(IdentityError::Unusable("it is for another key"))));
    }
}
