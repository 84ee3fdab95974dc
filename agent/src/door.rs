//! Who may speak as which proxy, at every way in: a connection's certificate against the id that it speaks for. Those that
//! are turned away are counted by code, and each code is told once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use sealane_node::keyring::{Keyring, Stranger};
use sealane_node::listen::Peer;
use sealane_node::member::Role;
use sealane_node::revoked::List;
use tokio::sync::watch;
use tonic::Status;

use crate::clock;

/// The doorkeeper of one agent. Clones share the counts.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    region: Arc<str>,
    keyring: Keyring,
    /// Codes are static: a bounded set.
    refused: Arc<Mutex<BTreeMap<&'static str, u64>>>,
}

impl Door {
    pub(crate) fn new(region: &str, keyring: &Keyring) -> Self {
        Self { region: Arc::from(region), keyring: keyring.clone(), refused: Arc::default() }
    }

    /// Lets a peer speak as the proxy `id`.
    pub(crate) fn admit(&self, peer: Option<&Peer>, id: &str) -> Result<(), Status> {
        let refused = match peer {
            Some(peer) => peer.speaks_for(Role::Proxy, &self.region, id, self.keyring.revoked(), clock::unix_ms()),
            None => Err(("no_certificate", "nothing says who is at the other end".to_owned())),
        };
        refused.map_err(|(code, words)| {
            self.turn_away(code, &words);
            match code {
                "certificate_other_id" | "certificate_other_region" | "certificate_other_role" => {
                    Status::permission_denied(format!("cannot speak for proxy `{id}`: {words}"))
                }
                _ => Status::unauthenticated(format!("cannot speak for proxy `{id}`: {words}")),
            }
        })
    }

    /// Lets a peer read what every proxy of this agent may read.
    pub(crate) fn admit_any(&self, peer: Option<&Peer>) -> Result<(), Status> {
        match peer {
            Some(Peer::Member(shown)) => self.admit(peer, &shown.member.id),
            Some(_) | None => self.admit(peer, "?"),
        }
    }

    /// Why the certificate that a connection was opened with is good no more.
    pub(crate) fn is_over(&self, peer: &Peer) -> Option<Stranger> {
        peer.is_over(self.keyring.revoked(), clock::unix_ms())
    }

    /// Follows the list of certificates that were taken back.
    pub(crate) fn follow_revoked(&self) -> watch::Receiver<Arc<List>> {
        self.keyring.revoked().follow()
    }

    /// Counts one that was turned away.
    pub(crate) fn turn_away(&self, code: &'static str, words: &str) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let count = refused.entry(code).or_default();
        *count += 1;
        if *count == 1 {
            tracing::warn!(code, words, "turned a connection or a call away; more of these are only counted");
        }
    }

    /// By code.
    pub(crate) fn counts(&self) -> Vec<(&'static str, u64)> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.iter().map(|(code, count)| (*code, *count)).collect()
    }
}
