//! What a member shows, and whom it accepts, on a TLS connection inside the fleet: TLS 1.3, certificates of the fleet's own
//! CA, members by their name ([`crate::member`]).
//!
//! It does not know sockets or what is said over them. A keyring is shared and changes as certificates are renewed:
//! connections made after that use the new ones.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use sealane_model::ids::Digest;
use thiserror::Error;

use crate::identity::Identity;
use crate::member::{Member, Role};
use crate::revoked::Revoked;

/// Shared certificates of one member.
#[derive(Clone)]
pub struct Keyring {
    shared: Arc<Shared>,
}

struct Shared {
    fleet: String,
    provider: Arc<CryptoProvider>,
    held: RwLock<Held>,
    revoked: Revoked,
}

/// A member as its certificate shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// Who it is.
    pub member: Member,
    /// When the certificate ends, Unix time in milliseconds.
    pub until_unix_ms: i64,
    /// SHA-256 of its DER.
    pub fingerprint: Digest,
}

#[derive(Default)]
struct Held {
    /// The fleet's CA; `None`: not known yet, nobody is accepted.
    roots: Option<Arc<RootCertStore>>,
    /// Own certificate; `None`: not enrolled yet.
    own: Option<Arc<CertifiedKey>>,
    /// What a server without a certificate shows, so that it can be spoken to in order to enrol.
    stand_in: Option<Arc<CertifiedKey>>,
}

/// Whom a TLS handshake lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peers {
    /// Members with this role. Others end the handshake.
    Only(Role),
    /// Everybody: the caller asks [`Keyring::judge`] before it trusts anything. Clients may come without a certificate.
    Judged,
}

/// Why who is at the other end is not a member that this one deals with.
#[derive(Clone, Debug, Error)]
pub enum Stranger {
    /// Not enrolled, or not willing to say.
    #[error("it shows no certificate")]
    NoCertificate,
    /// Its time is over.
    #[error("its certificate has expired")]
    Expired,
    /// Taken back before its time.
    #[error("its certificate was revoked (it enrols again with a token, without the identity that it has)")]
    Revoked,
    /// Signed by somebody else, or broken.
    #[error("its certificate is not of this fleet's CA")]
    Untrusted(#[source] rustls::Error),
    /// A certificate that names no member.
    #[error("its certificate names no member of a fleet")]
    Nameless,
    /// Of another fleet.
    #[error("its certificate is of fleet `{0}`")]
    OtherFleet(String),
    /// A proxy where an agent should be, or the other way round.
    #[error("its certificate is an {}'s", .0.as_str())]
    OtherRole(Role),
    /// The fleet's CA is not known here yet.
    #[error("this member has no CA to check certificates by yet")]
    NoCa,
}

impl Stranger {
    /// Stable code for metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Expired => "certificate_expired",
            Self::Revoked => "certificate_revoked",
            Self::Untrusted(_) => "certificate_untrusted",
            Self::Nameless => "certificate_nameless",
            Self::OtherFleet(_) => "certificate_other_fleet",
            Self::OtherRole(_) => "certificate_other_role",
            Self::NoCa => "no_fleet_ca",
        }
    }

    /// The stranger for whom a handshake ended, if that is why it ended.
    #[must_use]
    pub fn behind(error: &std::io::Error) -> Option<Self> {
        let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
        let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) = error else { return None };
        inner.downcast_ref::<Self>().cloned()
    }
}

/// A certificate or CA that cannot be used.
#[derive(Debug, Error)]
pub enum KeyringError {
    /// Not PEM, or nothing in it.
    #[error("the CA is not PEM of a certificate")]
    Ca,
    /// Own certificate or key.
    #[error("own certificate and key cannot be used")]
    Own(#[source] rustls::Error),
    /// No key could be made.
    #[error("cannot make a certificate to enrol behind")]
    StandIn(#[source] rcgen::Error),
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyring").field("fleet", &self.shared.fleet).finish_non_exhaustive()
    }
}

impl Keyring {
    /// An empty one: nobody is accepted, nothing is shown.
    #[must_use]
    pub fn new(fleet: &str) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let (held, revoked) = (RwLock::default(), Revoked::default());
        Self { shared: Arc::new(Shared { fleet: fleet.to_owned(), provider, held, revoked }) }
    }

    /// The fleet of this member.
    #[must_use]
    pub fn fleet(&self) -> &str {
        &self.shared.fleet
    }

    /// Accepts members that this CA (PEM) vouches for, from now on.
    ///
    /// # Errors
    /// It is no CA.
    pub fn trust(&self, ca_pem: &str) -> Result<(), KeyringError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            let certificate = certificate.map_err(|_| KeyringError::Ca)?;
            roots.add(certificate).map_err(|_| KeyringError::Ca)?;
        }
        if roots.is_empty() {
            return Err(KeyringError::Ca);
        }
        self.write().roots = Some(Arc::new(roots));
        Ok(())
    }

    /// Shows this certificate from now on.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn show(&self, identity: &Identity) -> Result<(), KeyringError> {
        let own = self.certified(identity.pem()).map_err(KeyringError::Own)?;
        self.write().own = Some(own);
        Ok(())
    }

    /// Shows nothing any more.
    pub fn hide(&self) {
        self.write().own = None;
    }

    /// When the certificate that is shown ends, in Unix milliseconds; `None`: there is none.
    #[must_use]
    pub fn expiry_unix_ms(&self) -> Option<i64> {
        let own = self.read().own.clone()?;
        let (_, certificate) = x509_parser::parse_x509_certificate(own.end_entity_cert().ok()?).ok()?;
        Some(certificate.validity().not_after.timestamp().saturating_mul(1000))
    }

    /// Certificates that were taken back.
    #[must_use]
    pub fn revoked(&self) -> &Revoked {
        &self.shared.revoked
    }

    /// Whether there is a certificate to show.
    #[must_use]
    pub fn is_enrolled(&self) -> bool {
        self.read().own.is_some()
    }

    /// TLS of a client towards members of the fleet. `alpn`: what it speaks.
    #[must_use]
    pub fn client(&self, peers: Peers, alpn: &[u8]) -> Arc<ClientConfig> {
        let verifier = Verifier { keyring: self.clone(), peers };
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.shared.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has suites of TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(Shown(self.clone())));
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = Resumption::disabled(); // each connection is judged anew
        Arc::new(config)
    }

    /// TLS of a server towards members of the fleet.
    ///
    /// # Errors
    /// No certificate could be made to show before this member is enrolled.
    pub fn server(&self, peers: Peers, alpn: &[u8]) -> Result<Arc<ServerConfig>, KeyringError> {
        if self.read().stand_in.is_none() {
            let made = rcgen::generate_simple_self_signed(Vec::new()).map_err(KeyringError::StandIn)?;
            let pem = format!("{}{}", made.signing_key.serialize_pem(), made.cert.pem());
            let stand_in = self.certified(&pem).map_err(KeyringError::Own)?;
            self.write().stand_in = Some(stand_in);
        }
        let verifier = Verifier { keyring: self.clone(), peers };
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.shared.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has suites of TLS 1.3")
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(Shown(self.clone())));
        config.alpn_protocols = vec![alpn.to_vec()];
        config.send_tls13_tickets = 0; // each connection is judged anew
        Ok(Arc::new(config))
    }

    /// Who shows these certificates (leaf first).
    ///
    /// # Errors
    /// Nobody of this fleet.
    pub fn judge(&self, certificates: &[CertificateDer<'_>], now: UnixTime) -> Result<Certified, Stranger> {
        let (leaf, rest) = certificates.split_first().ok_or(Stranger::NoCertificate)?;
        let roots = self.read().roots.clone().ok_or(Stranger::NoCa)?;
        let algorithms = self.algorithms();
        let untrusted = |error| match error {
            rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
                Stranger::Expired
            }
            error => Stranger::Untrusted(error),
        };
        let parsed = ParsedCertificate::try_from(leaf).map_err(untrusted)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, rest, now, algorithms.all).map_err(untrusted)?;
        let member = Member::of_certificate(leaf).ok_or(Stranger::Nameless)?;
        if member.fleet != self.shared.fleet {
            return Err(Stranger::OtherFleet(member.fleet));
        }
        let until =
            x509_parser::parse_x509_certificate(leaf).map_or(0, |(_, one)| one.validity().not_after.timestamp());
        let fingerprint = Digest::of(leaf);
        if self.shared.revoked.contains(&fingerprint) {
            return Err(Stranger::Revoked);
        }
        Ok(Certified { member, until_unix_ms: until.saturating_mul(1000), fingerprint })
    }

    fn certified(&self, pem: &str) -> Result<Arc<CertifiedKey>, rustls::Error> {
        let broken = || rustls::Error::General("not PEM".to_owned());
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(|_| broken())?;
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| broken())?;
        Ok(Arc::new(CertifiedKey::from_der(chain, key, &self.shared.provider)?))
    }

    fn algorithms(&self) -> WebPkiSupportedAlgorithms {
        self.shared.provider.signature_verification_algorithms
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Held> {
        self.shared.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Held> {
        self.shared.held.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is shown at the moment of a handshake.
#[derive(Debug)]
struct Shown(Keyring);

impl rustls::server::ResolvesServerCert for Shown {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let held = self.0.read();
        held.own.clone().or_else(|| held.stand_in.clone())
    }
}

impl rustls::client::ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.read().own.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_enrolled()
    }
}

/// Judges in the handshake, by name and CA and not by host name.
#[derive(Debug)]
struct Verifier {
    keyring: Keyring,
    peers: Peers,
}

impl Verifier {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let Peers::Only(role) = self.peers else { return Ok(()) };
        let chain: Vec<CertificateDer<'_>> = std::iter::once(leaf).chain(rest).cloned().collect();
        let judged = self.keyring.judge(&chain, now).and_then(|shown| match shown.member.role == role {
            true => Ok(()),
            false => Err(Stranger::OtherRole(shown.member.role)),
        });
        judged.map_err(|stranger| CertificateError::Other(OtherError(Arc::new(stranger))).into())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(leaf, rest, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.keyring.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.keyring.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.keyring.algorithms().supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.peers != Peers::Judged
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(leaf, rest, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.keyring.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.keyring.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.keyring.algorithms().supported_schemes()
    }
}
