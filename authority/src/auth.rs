//! Who may call what: bearer tokens with roles, and client certificates of agents.
//!
//! Tokens are 256 random bits and are looked up by their SHA-256, so a lookup's time says nothing about a secret. Both
//! tables are small and in memory; a call never waits for the database to be let in.

use std::collections::{BTreeMap, HashMap};
use std::sync::{PoisonError, RwLock};

use sealane_model::ids::Digest;
use tonic::Status;

use crate::fleet::is_name;
use crate::store::agent::AgentCertificate;
use crate::store::token::TokenRow;

mod layer;
mod table;

pub(crate) use layer::{AuthLayer, bearer};
pub(crate) use table::{Access, required};

/// Tokens that are kept.
pub(crate) const TOKENS_MAX: usize = 10_000;

/// What a token may do. Each role may do what the ones before it may, but for agents, their proxies and sandboxes, which have
/// calls of their own; publishers may do what sandboxes may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Enrols a proxy, through its agent, and nothing else.
    Proxy,
    /// Its own service, and nothing else.
    Agent,
    /// Sandbox routes, and nothing else.
    Sandbox,
    /// Reads.
    Viewer,
    /// Steers rollouts, rolls back, cordons.
    Operator,
    /// Publishes.
    Publisher,
    /// Publishes through a freeze, and ends one early.
    Incident,
    /// Makes and revokes tokens.
    Admin,
}

impl Role {
    /// Every role.
    pub(crate) const ALL: [Self; 8] = [
        Self::Proxy,
        Self::Agent,
        Self::Sandbox,
        Self::Viewer,
        Self::Operator,
        Self::Publisher,
        Self::Incident,
        Self::Admin,
    ];

    /// As in requests and in the store.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Agent => "agent",
            Self::Sandbox => "sandbox",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Publisher => "publisher",
            Self::Incident => "incident",
            Self::Admin => "admin",
        }
    }

    /// From that word.
    #[must_use]
    pub(crate) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }
}

/// Who calls, once that is settled. In the extensions of every request.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// Token id and role, or agent id: the actor in the audit log.
    pub(crate) name: String,
    pub(crate) role: Role,
    /// Agent tokens: the region they enrol in.
    pub(crate) region: Option<String>,
    /// From a client certificate that this authority issued.
    pub(crate) agent: Option<AgentIdentity>,
}

/// What an agent's certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AgentIdentity {
    pub(crate) id: String,
    pub(crate) region: String,
    /// SHA-256 of the certificate's DER.
    fingerprint: Digest,
    not_after_ms: u64,
}

/// The tables.
#[derive(Debug)]
pub(crate) struct Auth {
    tokens: RwLock<HashMap<Digest, Token>>,
    certificates: RwLock<HashMap<Digest, AgentIdentity>>,
    /// Taken back before their end.
    revoked: RwLock<BTreeMap<Digest, i64>>,
    /// No tokens asked for.
    dev: bool,
    /// The listeners speak TLS: agents need their certificate.
    tls: bool,
}

#[derive(Clone, Debug)]
struct Token {
    id: String,
    role: Role,
    region: String,
    expires_at_ms: Option<u64>,
}

/// What a call brings to show who it is.
#[derive(Debug, Default)]
pub(crate) struct Credentials<'a> {
    pub(crate) bearer: Option<&'a str>,
    /// SHA-256 of the client certificate that the TLS handshake accepted.
    pub(crate) certificate: Option<Digest>,
}

impl Auth {
    pub(crate) fn new(tokens: &[TokenRow], certificates: &[AgentCertificate], dev: bool, tls: bool) -> Self {
        let (tokens_table, certificates_table) = (RwLock::default(), RwLock::default());
        let auth =
            Self { tokens: tokens_table, certificates: certificates_table, revoked: RwLock::default(), dev, tls };
        auth.set_tokens(tokens);
        for certificate in certificates {
            auth.add_certificate(certificate);
        }
        auth
    }

    /// Replaces the table of tokens.
    pub(crate) fn set_tokens(&self, rows: &[TokenRow]) {
        let valid = rows.iter().filter(|row| row.revoked_at_ms.is_none());
        let token = |row: &TokenRow| {
            let token = Token {
                id: row.id.clone(),
                role: Role::parse(&row.role)?,
                region: row.region.clone(),
                expires_at_ms: row.expires_at_ms.map(|ms| u64::try_from(ms).unwrap_or(0)),
            };
            Some((Digest::from_slice(&row.secret_sha256)?, token))
        };
        *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = valid.filter_map(token).collect();
    }

    /// Lets one more certificate in.
    pub(crate) fn add_certificate(&self, certificate: &AgentCertificate) {
        let identity = AgentIdentity {
            id: certificate.agent.clone(),
            region: certificate.region.clone(),
            fingerprint: certificate.fingerprint,
            not_after_ms: certificate.not_after_ms,
        };
        let mut certificates = self.certificates.write().unwrap_or_else(PoisonError::into_inner);
        certificates.retain(|_, one| one.not_after_ms >= certificate.enrolled_at_ms);
        certificates.insert(certificate.fingerprint, identity);
    }

    /// Replaces the list of certificates that were taken back.
    pub(crate) fn set_revoked(&self, list: BTreeMap<Digest, i64>) {
        self.certificates.write().unwrap_or_else(PoisonError::into_inner).retain(|one, _| !list.contains_key(one));
        *self.revoked.write().unwrap_or_else(PoisonError::into_inner) = list;
    }

    /// The certificates that were taken back, and when each ends (Unix time in milliseconds).
    pub(crate) fn revoked(&self) -> BTreeMap<Digest, i64> {
        self.revoked.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether that certificate was taken back.
    pub(crate) fn is_revoked(&self, fingerprint: &Digest) -> bool {
        self.revoked.read().unwrap_or_else(PoisonError::into_inner).contains_key(fingerprint)
    }

    /// Whether a certificate that opened a stream is still good.
    pub(crate) fn still_holds(&self, identity: &AgentIdentity, now_ms: u64) -> bool {
        now_ms < identity.not_after_ms && !self.is_revoked(&identity.fingerprint)
    }

    /// Settles who calls `path` (`/package.Service/Method`), or says why not.
    pub(crate) fn admit(
        &self,
        path: &str,
        credentials: &Credentials<'_>,
        now_ms: u64,
    ) -> Result<Option<Caller>, Status> {
        let access = required(path);
        if access == Access::Public {
            return Ok(None);
        }
        if self.dev {
            let caller = Caller { name: "dev (admin)".to_owned(), role: Role::Admin, region: None, agent: None };
            return Ok(Some(caller));
        }
        let agent = credentials.certificate.and_then(|fingerprint| self.agent(&fingerprint, now_ms));
        let was_revoked = credentials.certificate.is_some_and(|fingerprint| self.is_revoked(&fingerprint));
        match access {
            Access::Public => Ok(None),
            Access::AgentEnrol => match agent {
                Some(agent) => Ok(Some(of_certificate(agent))),
                None => self.of_token(credentials, now_ms, Role::Agent).map(Some),
            },
            Access::Agent if self.tls => match agent {
                Some(agent) => Ok(Some(of_certificate(agent))),
                None if was_revoked => Err(Status::unauthenticated(
                    "this agent's certificate was revoked: to let it in again, stop it, remove `identity` in its data \
                     directory, and start it with a token (`sealane token create --role agent`)",
                )),
                None => Err(Status::unauthenticated("this call needs the client certificate that Enrol issued")),
            },
            Access::Agent => self.of_token(credentials, now_ms, Role::Agent).map(Some),
            Access::Operators(role) => self.of_token(credentials, now_ms, role).map(Some),
        }
    }

    /// The caller behind a bearer token, if its role is enough.
    pub(crate) fn of_token(&self, credentials: &Credentials<'_>, now_ms: u64, needed: Role) -> Result<Caller, Status> {
        let bearer =
            credentials.bearer.ok_or_else(|| Status::unauthenticated("a token is needed: authorization: Bearer …"))?;
        let digest = Digest::of(bearer.as_bytes());
        let token = self.tokens.read().unwrap_or_else(PoisonError::into_inner).get(&digest).cloned();
        let is_expired = |token: &Token| token.expires_at_ms.is_some_and(|at_ms| at_ms <= now_ms);
        let Some(token) = token.filter(|token| !is_expired(token)) else {
            return Err(Status::unauthenticated("the token is unknown, revoked or expired"));
        };
        let is_enough = match needed {
            Role::Proxy | Role::Agent => token.role == needed,
            Role::Sandbox => token.role == Role::Sandbox || token.role >= Role::Publisher,
            Role::Viewer | Role::Operator | Role::Publisher | Role::Incident | Role::Admin => token.role >= needed,
        };
        if !is_enough {
            let (has, needed) = (token.role.as_str(), needed.as_str());
            return Err(Status::permission_denied(format!("this call needs role {needed}; the token has role {has}")));
        }
        Ok(Caller {
            name: format!("{} ({})", token.id, token.role.as_str()),
            role: token.role,
            region: Some(token.region).filter(|region| !region.is_empty()),
            agent: None,
        })
    }

    /// When the newest certificate of each agent that has one ends, Unix time in milliseconds.
    pub(crate) fn certificate_ends(&self) -> HashMap<String, u64> {
        let mut ends: HashMap<String, u64> = HashMap::new();
        for one in self.certificates.read().unwrap_or_else(PoisonError::into_inner).values() {
            let end = ends.entry(one.id.clone()).or_default();
            *end = one.not_after_ms.max(*end);
        }
        ends
    }

    /// Whether nobody is asked for a token.
    pub(crate) fn is_dev(&self) -> bool {
        self.dev
    }

    fn agent(&self, fingerprint: &Digest, now_ms: u64) -> Option<AgentIdentity> {
        let certificates = self.certificates.read().unwrap_or_else(PoisonError::into_inner);
        certificates.get(fingerprint).filter(|identity| identity.not_after_ms > now_ms).cloned()
    }
}

fn of_certificate(agent: AgentIdentity) -> Caller {
    Caller {
        name: format!("{} (agent)", agent.id),
        role: Role::Agent,
        region: Some(agent.region.clone()),
        agent: Some(agent),
    }
}

impl Caller {
    /// Whether this caller may speak for an agent: the id and region of its certificate, or the region of its token.
    pub(crate) fn speaks_for(&self, agent: &str, region: &str) -> Result<(), Status> {
        for (field, name) in [("agent_id", agent), ("region", region)] {
            if !is_name(name) {
                let message = format!("`{field}` is missing or not a valid name: 1 to 128 of A-Z a-z 0-9 . _ : -");
                return Err(Status::invalid_argument(message));
            }
        }
        if let Some(identity) = &self.agent
            && identity.id != agent
        {
            let message = format!("the certificate belongs to agent `{}`, not `{agent}`", identity.id);
            return Err(Status::permission_denied(message));
        }
        match &self.region {
            Some(own) if own != region => {
                Err(Status::permission_denied(format!("the credentials are for region `{own}`, not `{region}`")))
            }
            _ => Ok(()),
        }
    }
}
