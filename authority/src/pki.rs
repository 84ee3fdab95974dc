//! The fleet's own CA: certificates of its members (agents and proxies), and, where asked for, the authority's own server
//! certificate. It knows PEM in and PEM out, and no files.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
    string::Ia5String,
};
use sealane_model::ids::{Digest, FleetId};
use sealane_node::member::{Member, Role};
use thiserror::Error;

/// Days that the CA is valid.
const CA_DAYS: i64 = 3650;
/// Days that a server certificate is valid; a new one is issued at each start.
const SERVER_DAYS: i64 = 397;
/// Days that an agent's certificate is valid; it renews itself before.
const AGENT_DAYS: i64 = 90;
/// The same for a proxy.
const PROXY_DAYS: i64 = 30;
/// Largest certificate request, in bytes of PEM.
const REQUEST_BYTES_MAX: usize = 16 << 10;

/// The CA, ready to sign.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// An issued certificate.
pub(crate) struct Issued {
    pub(crate) pem: String,
    /// SHA-256 of the DER.
    pub(crate) fingerprint: Digest,
    pub(crate) not_after_ms: u64,
}

/// A certificate and its key.
pub(crate) struct KeyedCertificate {
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
}

/// Why a certificate was not made.
#[derive(Debug, Error)]
pub enum PkiError {
    /// Not PKCS#10 in PEM, or larger than any honest one.
    #[error("the certificate request is not PKCS#10 in PEM of at most {REQUEST_BYTES_MAX} bytes")]
    BadRequest,
    /// A name that cannot stand in a certificate.
    #[error("`{name}` cannot stand in a certificate")]
    BadName {
        /// As given.
        name: String,
    },
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Entropy(#[source] getrandom::Error),
    /// The library refused.
    #[error("a certificate could not be made")]
    Failed(#[source] rcgen::Error),
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").finish_non_exhaustive()
    }
}

/// A new CA: certificate and key.
pub(crate) fn make_ca(fleet: &FleetId, now_ms: u64) -> Result<KeyedCertificate, PkiError> {
    let mut params = params(&format!("sealane fleet {fleet}"), now_ms, CA_DAYS)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().map_err(PkiError::Failed)?;
    let certificate = params.self_signed(&key).map_err(PkiError::Failed)?;
    Ok(KeyedCertificate { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

impl Ca {
    /// From PEM.
    pub(crate) fn load(certificate_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(key_pem).map_err(PkiError::Failed)?;
        let issuer = Issuer::from_ca_cert_pem(certificate_pem, key).map_err(PkiError::Failed)?;
        Ok(Self { issuer, pem: certificate_pem.to_owned() })
    }

    /// The CA's certificate.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A server certificate for these names.
    pub(crate) fn issue_server(&self, names: &[String], now_ms: u64) -> Result<KeyedCertificate, PkiError> {
        let first = names.first().map_or("sealane authority", String::as_str);
        let mut params = params(first, now_ms, SERVER_DAYS)?;
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName(ascii(name)?),
            });
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().map_err(PkiError::Failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(PkiError::Failed)?;
        Ok(KeyedCertificate {
            certificate_pem: format!("{}{}", certificate.pem(), self.pem),
            key_pem: key.serialize_pem(),
        })
    }

    /// A certificate for the key of a request, for both ends of a connection: a member dials and is dialled. What the
    /// request says beside its key is ignored.
    pub(crate) fn issue(&self, request_pem: &str, member: &Member, now_ms: u64) -> Result<Issued, PkiError> {
        let mut request = read(request_pem)?;
        let days = match member.role {
            Role::Agent => AGENT_DAYS,
            Role::Proxy => PROXY_DAYS,
        };
        request.params = params(&member.id, now_ms, days)?;
        request.params.subject_alt_names = vec![SanType::URI(ascii(&member.to_string())?)];
        request.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        request.params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = request.signed_by(&self.issuer).map_err(PkiError::Failed)?;
        let not_after_ms = u64::try_from(request.params.not_after.unix_timestamp()).unwrap_or(0) * 1000;
        Ok(Issued { pem: certificate.pem(), fingerprint: Digest::of(certificate.der()), not_after_ms })
    }
}

/// When a certificate that was issued then has ended for sure, Unix time in milliseconds: its end is at midnight.
pub(crate) fn end_at_latest_ms(role: Role, issued_at_ms: u64) -> u64 {
    let days = match role {
        Role::Agent => AGENT_DAYS,
        Role::Proxy => PROXY_DAYS,
    };
    issued_at_ms.saturating_add((days.unsigned_abs() + 1) * 86_400_000)
}

/// Whether the key of a certificate (DER) signed this request: that who asks holds the certificate's key.
pub(crate) fn is_of_key(request_pem: &str, certificate: &[u8]) -> Result<bool, PkiError> {
    let request = read(request_pem)?;
    let (_, held) = x509_parser::parse_x509_certificate(certificate).map_err(|_| PkiError::BadRequest)?;
    Ok(request.public_key.der_bytes() == held.public_key().subject_public_key.data.as_ref())
}

/// When the first certificate of a PEM text ends, in Unix seconds; `None`: there is none that can be read.
pub(crate) fn ends_at_s(pem: &str) -> Option<u64> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    let certificate = block.parse_x509().ok()?;
    u64::try_from(certificate.validity().not_after.timestamp()).ok()
}

/// A request of which the signature is that of the key in it.
fn read(request_pem: &str) -> Result<CertificateSigningRequestParams, PkiError> {
    if request_pem.len() > REQUEST_BYTES_MAX {
        return Err(PkiError::BadRequest);
    }
    CertificateSigningRequestParams::from_pem(request_pem).map_err(|_| PkiError::BadRequest)
}

fn params(common_name: &str, now_ms: u64, days: i64) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::new(Vec::new()).map_err(PkiError::Failed)?;
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    let (year, month, day) = date(now_ms, -1);
    params.not_before = rcgen::date_time_ymd(year, month, day);
    let (year, month, day) = date(now_ms, days);
    params.not_after = rcgen::date_time_ymd(year, month, day);
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(PkiError::Entropy)?;
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

/// Year, month and day (UTC) `days` after today.
fn date(now_ms: u64, days: i64) -> (i32, u8, u8) {
    let now = jiff::Timestamp::from_millisecond(i64::try_from(now_ms).unwrap_or(0)).unwrap_or_default();
    let date = now.to_zoned(jiff::tz::TimeZone::UTC).date();
    let date = date.checked_add(jiff::Span::new().days(days)).unwrap_or(date);
    let part = |number: i8| u8::try_from(number).unwrap_or(1);
    (i32::from(date.year()), part(date.month()), part(date.day()))
}

fn ascii(name: &str) -> Result<Ia5String, PkiError> {
    Ia5String::try_from(name).map_err(|_| PkiError::BadName { name: name.to_owned() })
}
