//! A folder for static pull, as `sealane revision export --dir` writes it: `bundle.json` with the documents and the
//! manifest, `blobs/HEX` with the content. No agent stands in between: this proxy finds its own place in the rollout.
//!
//! It does not know HTTP. Pure but for the state it reads: what it makes is a command like an agent's, which
//! [`super::command`] verifies as such. Who serves the folder is trusted with nothing: it can withhold, and offer again
//! what is kept here anyway; a timestamp older than one that was seen is refused.

use std::sync::{Arc, Mutex, PoisonError};

use sealane_model::bundle::MANIFEST_BYTES_MAX;
use sealane_model::bundle::file::BundleFile;
use sealane_model::ids::{Digest, ProxyId};
use sealane_model::release::VerifiedRelease;
use sealane_model::trust::chain;
use sealane_model::verify::VerifyError;
use sealane_proto::v1;

use super::state::State;
use super::store::Store;
use super::unix_ms;

/// A folder and this proxy's place in it.
#[derive(Debug)]
pub(crate) struct Folder {
    /// Path on the server, with a `/` at its end.
    base: String,
    /// Waves go by it; `None`: only grants for all regions count.
    region: Option<String>,
    store: Arc<tokio::sync::Mutex<Store>>,
    /// Of the head that was read last.
    read: Mutex<Option<Head>>,
}

#[derive(Debug)]
struct Head {
    digest: Digest,
    manifest: Vec<u8>,
}

impl Folder {
    pub(crate) fn new(base: String, region: Option<String>, store: Arc<tokio::sync::Mutex<Store>>) -> Self {
        Self { base, region, store, read: Mutex::new(None) }
    }

    /// Path of the head.
    pub(crate) fn head(&self) -> String {
        format!("{}bundle.json", self.base)
    }

    /// Path of a chunk.
    pub(crate) fn blob(&self, digest: &Digest) -> String {
        format!("{}blobs/{digest}", self.base)
    }

    /// The manifest, which comes in the head.
    pub(crate) fn manifest(&self, digest: &Digest) -> Option<Vec<u8>> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.as_ref().map(|head| head.manifest.clone()).filter(|manifest| Digest::of(manifest) == *digest)
    }

    /// The command in a head; `None`: it is the one that was read last.
    pub(crate) async fn read(
        &self,
        bytes: &[u8],
        status: &v1::ProxyStatus,
    ) -> Result<Option<v1::ProxyDesired>, VerifyError> {
        let digest = Digest::of(bytes);
        if self.read.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(|one| one.digest == digest) {
            return Ok(None);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| VerifyError::Malformed { what: "bundle file" })?;
        let file = BundleFile::from_json(text)?;
        let desired = {
            let store = self.store.lock().await;
            decide(store.state(), &file, self.region.as_deref(), status, unix_ms())?
        };
        let head = Head { digest, manifest: file.manifest };
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some(head);
        Ok(Some(desired))
    }
}

/// What a proxy does about the revision in a folder: hold it; serve it where a grant covers its rank or it was last good
/// here; go back to last good where the grants under which it serves were taken back.
fn decide(
    state: &State,
    file: &BundleFile,
    region: Option<&str>,
    status: &v1::ProxyStatus,
    now_unix_ms: i64,
) -> Result<v1::ProxyDesired, VerifyError> {
    let roots = chain::follow(&state.roots, file.roots.iter().cloned())?;
    let trust = roots.last().unwrap_or_else(|| state.trust());
    let envelope =
        file.timestamp.as_ref().ok_or(VerifyError::Malformed { what: "bundle file: it has no timestamp" })?;
    let seen = state.timestamp.as_ref().map(|seen| seen.timestamp());
    let sequence_min = trust.verify_timestamp(envelope, seen)?.timestamp().grant_sequence_min;
    let release = match (trust.verify_release(&file.release), state.release_like(&file.release)) {
        (Ok(release), _) => release,
        (Err(_), Some(kept)) => kept.clone(),
        (Err(error), None) => return Err(error),
    };
    state.admit(state.floor.as_ref(), &release)?;
    let grants = file.grants.iter().map(|grant| trust.verify_grant(grant)).collect::<Result<Vec<_>, _>>()?;
    let live: Vec<_> = grants.iter().filter(|grant| grant.grant().check_for(&release, sequence_min).is_ok()).collect();
    let (id, region) = (ProxyId(state.id.clone()), region.unwrap_or("*"));
    let plan = &release.release().plan;
    let covering = live.iter().rev().find(|grant| {
        let grant = grant.grant();
        grant.covers(&id, region) && !grant.is_expired(now_unix_ms)
    });
    let for_all = covering.is_some_and(|grant| {
        // The stage's number says nothing: one that adds no proxy is merged into the one before.
        let grant = grant.grant();
        grant.cut == u64::MAX && grant.wave as usize + 1 == plan.waves.len()
    });
    let digest = release.digest();
    let last_good = state.ring.iter().find(|good| **good != digest).and_then(|good| state.kept.get(good));
    let taken_back = live.is_empty() && status.active_digest == digest.to_vec();
    let active = match last_good {
        _ if covering.is_some() || (state.ring.contains(&digest) && !taken_back) => digest.to_vec(),
        Some(last_good) if taken_back => last_good.release.digest().to_vec(),
        Some(_) | None => Vec::new(),
    };
    let held: Vec<&VerifiedRelease> = last_good.map(|kept| &kept.release).into_iter().chain([&release]).collect();
    let serves_it = active == digest.to_vec();
    Ok(v1::ProxyDesired {
        generation: state.generation.max(status.generation) + 1,
        roots: file.roots.iter().map(Into::into).collect(),
        releases: held.iter().map(|release| release.envelope().into()).collect(),
        active_digest: active,
        last_good_digest: if for_all { digest.to_vec() } else { Vec::new() },
        grant: covering.filter(|_| serves_it).map(|grant| grant.envelope().into()),
        drain: false,
        rehearse_digest: Vec::new(),
        timestamp: Some(envelope.into()),
    })
}

/// A manifest in base64, and documents of 64 KiB each at most.
pub(crate) const HEAD_BYTES_MAX: usize = MANIFEST_BYTES_MAX / 3 * 4 + (4 << 20);
