//! A member's certificate: key and request made here, signed by the authority, kept in one file of mode 0600 together with
//! the fleet's CA.
//!
//! It does not know how a request travels. Renewing keeps the key: the request's own signature then shows that the holder
//! of the present certificate asks.

use std::path::Path;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use thiserror::Error;

use crate::disk::{self, DiskError};

/// Why there is no certificate.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The answer is not a certificate for our key.
    #[error("the certificate is not usable: {0}")]
    Unusable(&'static str),
    /// No key could be made, or the present one does not sign.
    #[error("cannot make a key and a certificate request")]
    Key(#[source] rcgen::Error),
    /// A file.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Identity {
    /// Key first, then the certificate, then the fleet's CA where it is known.
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
pub struct Request {
    key: KeyPair,
    pem: String,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").finish_non_exhaustive()
    }
}

impl Request {
    /// A request with a new key.
    ///
    /// # Errors
    /// The system gives no key.
    pub fn new(common_name: &str) -> Result<Self, IdentityError> {
        Self::with(common_name, KeyPair::generate().map_err(IdentityError::Key)?)
    }

    /// A request with the key that `held` has.
    ///
    /// # Errors
    /// Its file was edited: the key does not parse.
    pub fn renew(common_name: &str, held: &Identity) -> Result<Self, IdentityError> {
        Self::with(common_name, KeyPair::from_pem(held.key_pem()).map_err(IdentityError::Key)?)
    }

    fn with(common_name: &str, key: KeyPair) -> Result<Self, IdentityError> {
        let mut params = CertificateParams::new(Vec::new()).map_err(IdentityError::Key)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let pem = params.serialize_request(&key).and_then(|request| request.pem()).map_err(IdentityError::Key)?;
        Ok(Self { key, pem })
    }

    /// PKCS#10.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Joins the certificate to the key it must be for. `ca_pem`: the fleet's CA; may be empty.
    ///
    /// # Errors
    /// What came is no certificate, or is for another key.
    pub fn finish(self, certificate_pem: &str, ca_pem: &str) -> Result<Identity, IdentityError> {
        let (_, block) = x509_parser::pem::parse_x509_pem(certificate_pem.as_bytes())
            .map_err(|_| IdentityError::Unusable("it is not PEM"))?;
        let certificate = block.parse_x509().map_err(|_| IdentityError::Unusable("it does not parse"))?;
        if certificate.public_key().subject_public_key.data.as_ref() != self.key.public_key_raw() {
            return Err(IdentityError::Unusable("it is for another key"));
        }
        let newline = |pem: &str| if pem.is_empty() || pem.ends_with('\n') { "" } else { "\n" };
        Identity::parse(format!(
            "{}{certificate_pem}{}{ca_pem}{}",
            self.key.serialize_pem(),
            newline(certificate_pem),
            newline(ca_pem)
        ))
    }
}

impl Identity {
    /// The one in `file`; `None` when there is no such file.
    ///
    /// # Errors
    /// It cannot be read, or is no certificate with a key.
    pub fn load(file: &Path) -> Result<Option<Self>, IdentityError> {
        let Some(bytes) = disk::read(file)? else { return Ok(None) };
        let pem = String::from_utf8(bytes).map_err(|_| IdentityError::Unusable("its file is not text"))?;
        Self::parse(pem).map(Some)
    }

    /// Keeps it in `file`.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn store(&self, file: &Path) -> Result<(), IdentityError> {
        if let Some(directory) = file.parent() {
            disk::create_dir(directory)?;
        }
        Ok(disk::write_atomic(file, self.pem.as_bytes())?)
    }

    /// Two thirds of its life are over, or it was issued without the fleet's CA beside it.
    #[must_use]
    pub fn is_due(&self, now_unix_ms: i64) -> bool {
        let life = self.not_after_unix_ms.saturating_sub(self.not_before_unix_ms);
        self.ca_pem().is_none() || now_unix_ms >= self.not_before_unix_ms.saturating_add(life / 3 * 2)
    }

    /// Its life is over.
    #[must_use]
    pub fn has_expired(&self, now_unix_ms: i64) -> bool {
        now_unix_ms >= self.not_after_unix_ms
    }

    /// End of its life, Unix time in milliseconds.
    #[must_use]
    pub fn not_after_unix_ms(&self) -> i64 {
        self.not_after_unix_ms
    }

    /// Key and certificates.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The fleet's CA.
    #[must_use]
    pub fn ca_pem(&self) -> Option<&str> {
        let second = self.pem.match_indices(CERTIFICATE).nth(1)?.0;
        Some(&self.pem[second..])
    }

    /// DER of the certificate.
    #[must_use]
    pub fn certificate_der(&self) -> Vec<u8> {
        let blocks = x509_parser::pem::Pem::iter_from_buffer(self.pem.as_bytes());
        let mut certificates = blocks.filter_map(Result::ok).filter(|block| block.label == "CERTIFICATE");
        certificates.next().map(|block| block.contents).unwrap_or_default()
    }

    /// PEM of the key.
    pub(crate) fn key_pem(&self) -> &str {
        self.pem.split(CERTIFICATE).next().unwrap_or_default()
    }

    fn parse(pem: String) -> Result<Self, IdentityError> {
        for block in x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes()) {
            let block = block.map_err(|_| IdentityError::Unusable("it is not PEM"))?;
            if block.label != "CERTIFICATE" {
                continue;
            }
            let certificate = block.parse_x509().map_err(|_| IdentityError::Unusable("it does not parse"))?;
            let validity = certificate.validity();
            let unix_ms = |time: x509_parser::time::ASN1Time| time.timestamp().saturating_mul(1000);
            let (not_before_unix_ms, not_after_unix_ms) = (unix_ms(validity.not_before), unix_ms(validity.not_after));
            return Ok(Self { pem, not_before_unix_ms, not_after_unix_ms });
        }
        Err(IdentityError::Unusable("there is no certificate in it"))
    }
}

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

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
        let identity = request.finish(&certificate, &certificate).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("identity/agent.pem");
        identity.store(&file).unwrap();
        let loaded = Identity::load(&file).unwrap().unwrap();
        let day = 86_400_000;
        let start = 1_735_689_600_000;
        assert!(!loaded.is_due(start + 19 * day) && loaded.is_due(start + 20 * day));
        assert!(!loaded.has_expired(start + 29 * day) && loaded.has_expired(start + 30 * day));
        assert!(!format!("{loaded:?}").contains("KEY"));
        assert_eq!(loaded.ca_pem(), Some(certificate.as_str()));
        let renewed = Request::renew("eu-1", &loaded).unwrap();
        let again = issue(&renewed, 30);
        assert_eq!(renewed.finish(&again, "").unwrap().key_pem(), loaded.key_pem(), "renewing keeps the key");
    }

    #[test]
    fn one_without_the_fleets_ca_is_asked_for_again() {
        let request = Request::new("eu-1").unwrap();
        let certificate = issue(&request, 30);
        assert!(request.finish(&certificate, "").unwrap().is_due(0));
    }

    #[test]
    fn refuses_a_certificate_for_another_key() {
        let (request, other) = (Request::new("eu-1").unwrap(), Request::new("eu-2").unwrap());
        let certificate = issue(&other, 1);
        assert!(matches!(request.finish(&certificate, ""), Err(IdentityError::Unusable("it is for another key"))));
    }
}
