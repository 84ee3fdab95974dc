//! TLS towards clients: certificates by server name, client certificates, resumption.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{
    ClientHello, ProducesTickets, ResolvesServerCert, ServerSessionMemoryCache, StoresServerSessions,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sealane_model::config::{self, Config, HostMatch, Mtls, TlsVersion};
use sealane_model::problem::Problem;
use sha2::{Digest as _, Sha256};
use tracing::warn;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::metrics::lock;
use crate::snapshot::problems::error;
use crate::upstream::tls::{certificates, private_key};

/// How TLS listeners speak.
#[derive(Clone)]
pub(crate) struct ServerTls {
    pub(crate) config: Arc<ServerConfig>,
    /// Differs when another client CA or mode holds: a certificate accepted under another one counts as none.
    pub(crate) client_ca_key: [u8; 32],
    /// Names and expiry (seconds since 1970) of the certificates.
    pub(crate) expiries: Vec<(String, i64)>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("expiries", &self.expiries).finish_non_exhaustive()
    }
}

/// What outlives a snapshot: the provider, the system's roots, and the keys of resumption.
pub(crate) struct TlsLive {
    provider: Arc<CryptoProvider>,
    system_roots: OnceLock<Arc<RootCertStore>>,
    resumption: Mutex<Option<Resumption>>,
    /// Certificates with their keys that a snapshot uses, by a digest of both: checking a key costs more than a swap.
    certified: Mutex<HashMap<[u8; 32], Weak<CertifiedKey>>>,
}

#[derive(Clone)]
struct Resumption {
    client_ca_key: [u8; 32],
    tickets: Arc<dyn ProducesTickets>,
    sessions: Arc<dyn StoresServerSessions>,
}

/// Sessions that TLS 1.2 clients without tickets may resume.
const SESSIONS_MAX: usize = 4096;

impl Default for TlsLive {
    fn default() -> Self {
        Self {
            provider: Arc::new(provider()),
            system_roots: OnceLock::new(),
            resumption: Mutex::default(),
            certified: Mutex::default(),
        }
    }
}

/// Cryptography, with AES-128 before AES-256: it is as far out of reach, and its hash is the one that CPUs have
/// instructions for.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| {
        !matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    });
    provider
}

impl fmt::Debug for TlsLive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsLive").finish_non_exhaustive()
    }
}

impl TlsLive {
    pub(crate) fn provider(&self) -> Arc<CryptoProvider> {
        Arc::clone(&self.provider)
    }

    /// The system's CA certificates, read once; empty if there are none.
    pub(crate) fn system_roots(&self) -> Arc<RootCertStore> {
        Arc::clone(self.system_roots.get_or_init(|| Arc::new(system_roots())))
    }

    /// The certificate with its key, checked once for all snapshots that use it.
    fn certified(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Arc<CertifiedKey>, rustls::Error> {
        let mut digest = Sha256::new();
        for part in chain.iter().map(AsRef::as_ref).chain([key.secret_der()]) {
            digest.update(part.len().to_le_bytes());
            digest.update(part);
        }
        let digest = digest.finalize().into();
        if let Some(kept) = lock(&self.certified).get(&digest).and_then(Weak::upgrade) {
            return Ok(kept);
        }
        let certified = Arc::new(CertifiedKey::from_der(chain, key, &self.provider)?);
        let mut kept = lock(&self.certified);
        kept.retain(|_, certified| certified.strong_count() > 0);
        kept.insert(digest, Arc::downgrade(&certified));
        Ok(certified)
    }

    /// Tickets and sessions; new ones when the client CA or mode changed, so that nobody resumes past it.
    fn resumption(&self, client_ca_key: [u8; 32]) -> Result<Resumption, rustls::Error> {
        let mut kept = lock(&self.resumption);
        if let Some(resumption) = kept.as_ref().filter(|kept| kept.client_ca_key == client_ca_key) {
            return Ok(resumption.clone());
        }
        let resumption = Resumption {
            client_ca_key,
            tickets: aws_lc_rs::Ticketer::new()?,
            sessions: ServerSessionMemoryCache::new(SESSIONS_MAX),
        };
        *kept = Some(resumption.clone());
        Ok(resumption)
    }
}

/// The system's CA certificates, as they are now; empty if there are none.
pub(crate) fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let named = std::env::var("SSL_CERT_FILE").ok();
    let files = named.iter().map(String::as_str).chain(ROOT_FILES.iter().copied());
    if let Some(found) = files.filter_map(|file| CertificateDer::pem_file_iter(file).ok()).next() {
        roots.add_parsable_certificates(found.flatten());
    }
    roots
}

/// Where systems keep their CA certificates.
const ROOT_FILES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
];

/// Loads what `config.tls` names; `None` when no listener speaks TLS.
pub(crate) fn compile(config: &Config, live: &TlsLive) -> Result<Option<ServerTls>, Vec<Problem>> {
    let Some(tls) = config.tls.as_ref().filter(|_| config.listeners.iter().any(|listener| listener.tls)) else {
        return Ok(None);
    };
    let mut problems = Vec::new();
    let mut names = Names::default();
    for (index, certificate) in tls.certificates.iter().enumerate() {
        if let Err(message) = names.add(certificate, live) {
            problems.push(error("certificate_invalid", certificate.at, format!("tls.certificates[{index}]"), message));
        }
    }
    let clients = tls.mtls.as_ref().map(|mtls| client_roots(mtls).map(|found| (mtls, found))).transpose();
    match clients {
        Ok(clients) if problems.is_empty() => {
            build(tls, names, clients, live).map(Some).map_err(|problem| vec![problem])
        }
        Ok(_) => Err(problems),
        Err(problem) => {
            problems.push(problem);
            Err(problems)
        }
    }
}

/// The client CAs and their digest.
type ClientRoots = (Arc<RootCertStore>, [u8; 32]);

fn client_roots(mtls: &Mtls) -> Result<ClientRoots, Problem> {
    let at = |message| error("ca_unreadable", mtls.at, "tls.mtls.ca_file", message);
    let mut roots = RootCertStore::empty();
    let mut digest = Sha256::new();
    digest.update([u8::from(mtls.require_client_cert)]);
    for certificate in certificates(&mtls.ca_file).map_err(at)? {
        digest.update(&certificate);
        roots
            .add(certificate)
            .map_err(|cause| at(format!("cannot use a certificate of `{}`: {cause}", mtls.ca_file)))?;
    }
    Ok((Arc::new(roots), digest.finalize().into()))
}

fn build(
    tls: &config::Tls,
    names: Names,
    clients: Option<(&Mtls, ClientRoots)>,
    live: &TlsLive,
) -> Result<ServerTls, Problem> {
    let fail = |cause: String| error("tls_invalid", clients_at(tls), "tls", cause);
    let versions: &[&rustls::SupportedProtocolVersion] = match tls.min_version {
        TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V1_3 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(live.provider())
        .with_protocol_versions(versions)
        .map_err(|cause| fail(cause.to_string()))?;
    let (builder, client_ca_key) = match clients {
        None => (builder.with_no_client_auth(), [0; 32]),
        Some((mtls, (roots, key))) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, live.provider());
            // A route that needs a certificate is refused on its own (403); the listener only asks.
            let verifier = if mtls.require_client_cert { verifier } else { verifier.allow_unauthenticated() };
            let verifier = verifier.build().map_err(|cause| fail(cause.to_string()))?;
            (builder.with_client_cert_verifier(verifier), key)
        }
    };
    let expiries = names.expiries.clone();
    let mut config = builder.with_cert_resolver(Arc::new(names));
    let resumption = live.resumption(client_ca_key).map_err(|cause| fail(cause.to_string()))?;
    config.ticketer = resumption.tickets;
    config.session_storage = resumption.sessions;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Clients put what they know in no telling order.
    config.ignore_client_order = true;
    Ok(ServerTls { config: Arc::new(config), client_ca_key, expiries })
}

fn clients_at(tls: &config::Tls) -> config::Position {
    tls.certificates.first().map(|certificate| certificate.at).unwrap_or_default()
}

/// Certificates by server name: exact, then wildcard, then the first.
#[derive(Debug, Default)]
struct Names {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// `example.com` for `*.example.com`.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    default: Option<Arc<CertifiedKey>>,
    expiries: Vec<(String, i64)>,
}

impl Names {
    fn add(&mut self, certificate: &config::Certificate, live: &TlsLive) -> Result<(), String> {
        let chain = certificates(&certificate.cert_file)?;
        let key = private_key(&certificate.key_file)?;
        let facts = facts(&chain[0]).ok_or_else(|| format!("cannot parse `{}`", certificate.cert_file))?;
        let certified = live.certified(chain, key).map_err(|cause| {
            format!("cannot use `{}` with `{}`: {cause}", certificate.cert_file, certificate.key_file)
        })?;
        let names = match &certificate.sni {
            Some(name) => vec![name.clone()],
            None => facts.names,
        };
        if names.is_empty() && self.default.is_some() {
            warn!(cert_file = certificate.cert_file, "a certificate without names is never chosen");
        }
        for name in names {
            let (map, name, text) = match name {
                HostMatch::Exact(name) => (&mut self.exact, name.clone(), name),
                HostMatch::Wildcard(base) => (&mut self.wildcard, base.clone(), format!("*.{base}")),
            };
            map.entry(name).or_insert_with(|| Arc::clone(&certified));
            self.expiries.push((text, facts.not_after));
        }
        self.default.get_or_insert(certified);
        Ok(())
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let parents = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
        self.exact.get(&name).or_else(|| parents.into_iter().find_map(|parent| self.wildcard.get(parent)))
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        hello.server_name().and_then(|name| self.find(name)).or(self.default.as_ref()).cloned()
    }
}

/// What the proxy wants to know of a certificate.
struct Facts {
    names: Vec<HostMatch>,
    not_after: i64,
}

fn facts(certificate: &CertificateDer<'_>) -> Option<Facts> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let names = alternative.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => {
            let name = name.to_ascii_lowercase();
            Some(match name.strip_prefix("*.") {
                Some(base) => HostMatch::Wildcard(base.to_owned()),
                None => HostMatch::Exact(name),
            })
        }
        _ => None,
    });
    Some(Facts { names: names.collect(), not_after: certificate.validity().not_after.timestamp() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_and_its_key_are_checked_once_as_long_as_a_snapshot_uses_them() {
        let live = TlsLive::default();
        let made = |name: &str| {
            let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
            (vec![made.cert.der().clone()], PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap())
        };
        let (one, other) = (made("a.example"), made("b.example"));
        let load = |(chain, key): &(Vec<_>, PrivateKeyDer<'static>)| live.certified(chain.clone(), key.clone_key());
        let first = load(&one).unwrap();
        assert!(Arc::ptr_eq(&first, &load(&one).unwrap()));
        assert!(!Arc::ptr_eq(&first, &load(&other).unwrap()));
        // With the key of another certificate it is as wrong as ever.
        assert!(load(&(one.0.clone(), other.1.clone_key())).is_err());
        drop(first);
        load(&other).unwrap();
        assert_eq!(lock(&live.certified).len(), 1, "what no snapshot uses is let go of");
    }

    #[test]
    fn aes_128_goes_before_aes_256_and_nothing_is_lost() {
        let all = |provider: &CryptoProvider| -> Vec<CipherSuite> {
            provider.cipher_suites.iter().map(rustls::SupportedCipherSuite::suite).collect()
        };
        let (ours, theirs) = (all(&provider()), all(&aws_lc_rs::default_provider()));
        assert_eq!(ours[0], CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert_eq!(ours.len(), theirs.len());
        assert!(theirs.iter().all(|suite| ours.contains(suite)));
    }
}
