//! TLS towards endpoints: client configs compiled from a pool's settings.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use sealane_model::config::{self, Host};
use sealane_model::problem::Problem;
use tokio_rustls::TlsConnector;

use crate::snapshot::Wanted;
use crate::snapshot::problems::error;
use crate::snapshot::tls::TlsLive;

/// How one endpoint is spoken to.
#[derive(Clone)]
pub(crate) struct UpstreamTls {
    connectors: Connectors,
    pub(crate) name: ServerName<'static>,
}

/// One for each choice of versions that the handshake offers.
#[derive(Clone)]
struct Connectors {
    http1: TlsConnector,
    http2: TlsConnector,
    either: TlsConnector,
}

impl Connectors {
    fn new(config: &ClientConfig) -> Self {
        let offering = |protocols: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            TlsConnector::from(Arc::new(config))
        };
        Self { http1: offering(&[b"http/1.1"]), http2: offering(&[b"h2"]), either: offering(&[b"h2", b"http/1.1"]) }
    }
}

impl UpstreamTls {
    /// The connector that offers what is wanted.
    pub(crate) const fn connector(&self, wanted: Wanted) -> &TlsConnector {
        match wanted {
            Wanted::Http1 => &self.connectors.http1,
            Wanted::Http2 => &self.connectors.http2,
            Wanted::Either => &self.connectors.either,
        }
    }
}

impl std::fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamTls").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The client config of a pool, and a number that differs when its files or settings do.
#[derive(Clone)]
pub(crate) struct PoolTls {
    connectors: Connectors,
    pub(crate) key: u64,
}

impl PoolTls {
    /// Loads what `pool.tls` names.
    pub(crate) fn compile(pool: &config::Pool, live: &TlsLive) -> Result<Self, Problem> {
        let tls = &pool.tls;
        let path = |key: &str| format!("pools[{}].tls.{key}", pool.id);
        let mut key = DefaultHasher::new();
        (&tls.sni, tls.insecure_skip_verify).hash(&mut key);
        let roots = match &tls.ca_file {
            Some(file) => {
                let mut roots = RootCertStore::empty();
                for certificate in
                    certificates(file).map_err(|message| error("ca_unreadable", tls.at, path("ca_file"), message))?
                {
                    certificate.hash(&mut key);
                    roots.add(certificate).map_err(|cause| {
                        error(
                            "ca_invalid",
                            tls.at,
                            path("ca_file"),
                            format!("cannot use a certificate of `{file}`: {cause}"),
                        )
                    })?;
                }
                Arc::new(roots)
            }
            None => live.system_roots(),
        };
        if roots.is_empty() && !tls.insecure_skip_verify {
            let message = "no CA certificates: the system has none, and the pool names no `ca_file`";
            return Err(error("ca_unreadable", tls.at, path("ca_file"), message));
        }
        let provider = live.provider();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|cause| error("tls_invalid", tls.at, path(""), cause.to_string()))?;
        let builder = if tls.insecure_skip_verify {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        } else {
            builder.with_root_certificates(roots)
        };
        let config = match &tls.client_certificate {
            None => builder.with_no_client_auth(),
            Some((cert_file, key_file)) => {
                let at = |message: String| error("certificate_invalid", tls.at, path("client_certificate"), message);
                let chain = certificates(cert_file).map_err(at)?;
                chain.hash(&mut key);
                let private = private_key(key_file).map_err(at)?;
                private.secret_der().hash(&mut key);
                builder
                    .with_client_auth_cert(chain, private)
                    .map_err(|cause| at(format!("cannot use `{cert_file}` with `{key_file}`: {cause}")))?
            }
        };
        Ok(Self { connectors: Connectors::new(&config), key: key.finish() })
    }

    /// For one endpoint of the pool.
    pub(crate) fn endpoint(&self, pool: &config::Pool, host: &Host) -> Result<UpstreamTls, Problem> {
        let name = match (&pool.tls.sni, host) {
            (Some(sni), _) => ServerName::try_from(sni.clone()),
            (None, Host::Name(name)) => ServerName::try_from(name.clone()),
            (None, Host::Ip(ip)) => Ok(ServerName::from(*ip)),
        };
        let name = name.map_err(|_| {
            error("sni_invalid", pool.tls.at, format!("pools[{}].tls.sni", pool.id), "not a name that TLS can ask for")
        })?;
        Ok(UpstreamTls { connectors: self.connectors.clone(), name })
    }
}

/// For this process's own requests, verified by the CAs of `ca_file` or the system's.
///
/// # Errors
/// The file is of no use, or there are no CAs.
pub(crate) fn own_client(ca_file: Option<&str>, live: &TlsLive) -> Result<Arc<ClientConfig>, String> {
    let roots = match ca_file {
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(file)? {
                let unusable = |cause| format!("cannot use a certificate of `{file}`: {cause}");
                roots.add(certificate).map_err(unusable)?;
            }
            Arc::new(roots)
        }
        None => live.system_roots(),
    };
    let builder = ClientConfig::builder_with_provider(live.provider());
    let builder = builder.with_safe_default_protocol_versions().map_err(|cause| cause.to_string())?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Reads a PEM file of certificates; at least one.
pub(crate) fn certificates(file: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|cause| format!("cannot read certificates from `{file}`: {cause}"))?;
    if certificates.is_empty() {
        return Err(format!("`{file}` holds no certificate"));
    }
    Ok(certificates)
}

/// Reads a PEM file of a private key.
pub(crate) fn private_key(file: &str) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(file).map_err(|cause| format!("cannot read a private key from `{file}`: {cause}"))
}

/// Accepts any certificate, because the config says so (`insecure_skip_verify`). Signatures are still checked.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
