//! This proxy's certificate towards an agent on another machine: asked for with a token once, renewed with its own key,
//! kept in the state directory.
//!
//! It does not know how a request travels: the caller sends it. The CA that agents are verified by is a file that came by a
//! trusted way; what an agent answers never changes it.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;

use sealane_node::disk::{self, DiskError};
use sealane_node::identity::{Identity, IdentityError, Request};
use sealane_node::keyring::{Keyring, KeyringError};
use sealane_proto::{convert, v1};
use thiserror::Error;

use super::unix_ms;

/// Where a proxy's token and CA are.
#[derive(Clone, Debug, Default)]
pub struct Enrolment {
    /// PEM of the fleet's CA.
    pub ca_file: Option<PathBuf>,
    /// A file with a token of role `proxy`; read when it is needed. Rules over `token`.
    pub token_file: Option<PathBuf>,
    /// The token itself.
    pub token: Option<String>,
}

/// A proxy's certificate and how it gets one.
#[derive(Debug)]
pub(crate) struct Credentials {
    id: String,
    keyring: Keyring,
    file: PathBuf,
    enrolment: Enrolment,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    identity: Option<Identity>,
    /// When renewing was tried last, and not done.
    tried_unix_ms: i64,
}

/// Why there is no certificate.
#[derive(Debug, Error)]
pub enum CredentialsError {
    /// Nothing to verify an agent by.
    #[error("an agent on another machine is verified by the fleet's CA: give --ca-file (the authority's ca.pem)")]
    NoCa,
    /// First contact needs a token.
    #[error("a proxy on another machine enrols with a token: give --token-file (`sealane token create --role proxy`)")]
    NoToken,
    /// A file.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The CA or own certificate.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// Own certificate.
    #[error("cannot keep a certificate")]
    Identity(#[from] IdentityError),
    /// The agent or the authority said no, or did not answer.
    #[error("cannot enrol: {0}")]
    Refused(String),
}

impl Credentials {
    /// Those in the state directory of the proxy `id`.
    pub(crate) fn open(id: &str, fleet: &str, data: &Path, enrolment: &Enrolment) -> Result<Self, CredentialsError> {
        let ca_file = enrolment.ca_file.as_ref().ok_or(CredentialsError::NoCa)?;
        let keyring = Keyring::new(fleet);
        keyring.trust(&read(ca_file)?)?;
        keyring.revoked().keep_in(&data.join("identity/revoked"))?;
        let file = data.join("identity/proxy.pem");
        let identity = Identity::load(&file)?;
        if let Some(identity) = &identity {
            keyring.show(identity)?;
        }
        let held = Mutex::new(Held { identity, tried_unix_ms: 0 });
        Ok(Self { id: id.to_owned(), keyring, file, enrolment: enrolment.clone(), held })
    }

    /// What is shown, and who is accepted.
    pub(crate) fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// Whether a certificate should be asked for now.
    pub(crate) fn is_due(&self) -> bool {
        let held = self.lock();
        let now = unix_ms();
        match &held.identity {
            None => true,
            Some(identity) if identity.has_expired(now) => true,
            Some(identity) => identity.is_due(now) && now.saturating_sub(held.tried_unix_ms) > RENEW_AGAIN_MS,
        }
    }

    /// Asks for a certificate where that is due. `true`: there is a new one, for connections from now on.
    pub(crate) async fn ensure<F>(&self, ask: impl FnOnce(v1::EnrolProxyRequest) -> F) -> Result<bool, CredentialsError>
    where
        F: Future<Output = Result<v1::EnrolProxyResponse, String>>,
    {
        if !self.is_due() {
            return Ok(false);
        }
        let now = unix_ms();
        let valid = self.lock().identity.clone().filter(|held| !held.has_expired(now));
        if valid.is_none() {
            self.keyring.hide();
        }
        let request = match &valid {
            Some(held) => Request::renew(&self.id, held)?,
            None => Request::new(&self.id)?,
        };
        let token = if valid.is_some() { String::new() } else { self.token()? };
        let answer = ask(v1::EnrolProxyRequest {
            proxy_id: self.id.clone(),
            certificate_request_pem: request.pem().to_owned(),
            token,
            renews: valid.as_ref().map(Identity::certificate_der).unwrap_or_default(),
        });
        match (answer.await, valid) {
            (Ok(answer), _) => {
                let identity = request.finish(&answer.certificate_pem, &answer.ca_pem)?;
                identity.store(&self.file)?;
                self.keyring.show(&identity)?;
                tracing::info!(not_after_unix_ms = identity.not_after_unix_ms(), "enrolled with the fleet");
                *self.lock() = Held { identity: Some(identity), tried_unix_ms: now };
                Ok(true)
            }
            (Err(why), Some(_)) => {
                tracing::warn!(why, "cannot renew this proxy's certificate yet");
                self.lock().tried_unix_ms = now;
                Ok(false)
            }
            (Err(why), None) => Err(CredentialsError::Refused(why)),
        }
    }

    /// Takes in which certificates nobody accepts any more; whether there was anything new.
    pub(crate) fn take_revoked(&self, listed: &v1::RevokedCertificates) -> bool {
        let new = self.keyring.revoked().add(convert::revoked(&listed.certificates), unix_ms());
        new.unwrap_or_else(|error| {
            tracing::error!(error = disk::chain(&error), "revoked certificates are refused, but not over a restart");
            true
        })
    }

    fn token(&self) -> Result<String, CredentialsError> {
        let token = match &self.enrolment.token_file {
            Some(path) => Some(read(path)?.trim().to_owned()),
            None => self.enrolment.token.clone(),
        };
        token.filter(|token| !token.is_empty()).ok_or(CredentialsError::NoToken)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> Result<String, DiskError> {
    let missing = || DiskError::new("read", path, std::io::Error::from(std::io::ErrorKind::NotFound));
    let bytes = disk::read(path)?.ok_or_else(missing)?;
    String::from_utf8(bytes)
        .map_err(|error| DiskError::new("read", path, std::io::Error::new(std::io::ErrorKind::InvalidData, error)))
}

/// Between two tries to renew a certificate that still holds.
const RENEW_AGAIN_MS: i64 = 600_000;
