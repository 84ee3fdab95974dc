//! Content of a release: manifest and chunks, by digest, from the authority to disk.
//!
//! It does not know who signed the release; it only fills in bytes that the signed digests ask for. Invariant: only
//! [`complete`] makes a [`Complete`], after every byte was verified and synced.

use futures_util::{StreamExt, TryStreamExt, stream};
use sealane_model::bundle::{MANIFEST_BYTES_MAX, VerifiedBundle, VerifiedManifest, transfer};
use sealane_model::ids::Digest;
use sealane_model::release::VerifiedRelease;
use sealane_model::verify::VerifyError;
use sealane_node::blobs::Blobs;
use sealane_node::disk::DiskError;
use sealane_proto::v1;
use thiserror::Error;

use crate::authority::AuthorityLink;
use crate::ledger::State;

/// A release of which every blob is on disk and verified.
#[derive(Clone, Debug)]
pub(crate) struct Complete {
    release: VerifiedRelease,
    blobs: Vec<Digest>,
}

impl Complete {
    /// For tests of what comes after the fetching.
    #[cfg(test)]
    pub(crate) fn of_nothing(release: &VerifiedRelease) -> Self {
        Self { release: release.clone(), blobs: Vec::new() }
    }

    pub(crate) fn release(&self) -> &VerifiedRelease {
        &self.release
    }

    pub(crate) fn blobs(&self) -> &[Digest] {
        &self.blobs
    }
}

/// Why content is not there.
#[derive(Debug, Error)]
pub(crate) enum FetchError {
    /// Wrong bytes.
    #[error(transparent)]
    Refused(#[from] VerifyError),
    /// The authority did not give them.
    #[error("cannot fetch {what} {digest}")]
    Source {
        what: &'static str,
        digest: Digest,
        #[source]
        source: Box<tonic::Status>,
    },
    /// They could not be stored.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Brings every missing byte of `release` to disk and verifies the whole.
pub(crate) async fn complete(
    release: &VerifiedRelease,
    state: &State,
    blobs: &Blobs,
    link: &AuthorityLink,
) -> Result<Complete, FetchError> {
    if let Some(accepted) = state.releases.get(&release.digest())
        && accepted.blobs().iter().all(|digest| blobs.has(digest))
    {
        return Ok(Complete { release: release.clone(), blobs: accepted.blobs().to_vec() });
    }
    let manifest = manifest(release, blobs, link).await?;
    let chunks = manifest.chunks();
    let length = |digest: &Digest| manifest.chunk_bytes(digest).map_or(0, |bytes| bytes as usize);
    let missing: Vec<(Digest, usize)> =
        lacking(&chunks, blobs).await?.into_iter().map(|digest| (digest, length(&digest))).collect();
    stream::iter(missing)
        .map(|(digest, bytes)| async move { fetch_one("chunk", digest, bytes, blobs, link).await.map(drop) })
        .buffer_unordered(CHUNKS_AT_ONCE)
        .try_collect::<()>()
        .await?;
    verify_whole(manifest, blobs).await?;
    let mut all = vec![release.release().manifest_digest];
    all.extend(chunks);
    Ok(Complete { release: release.clone(), blobs: all })
}

/// Those that are not here whole: one that was damaged on disk is fetched like one that never was here.
async fn lacking(chunks: &[Digest], blobs: &Blobs) -> Result<Vec<Digest>, DiskError> {
    let (chunks, blobs) = (chunks.to_vec(), blobs.clone());
    blocking(move || {
        let mut lacking = Vec::new();
        for digest in chunks {
            if blobs.read(&digest)?.is_none() {
                lacking.push(digest);
            }
        }
        Ok(lacking)
    })
    .await
}

/// Fetches one blob by its digest and keeps it.
pub(crate) async fn fetch_one(
    what: &'static str,
    digest: Digest,
    bytes_max: usize,
    blobs: &Blobs,
    link: &AuthorityLink,
) -> Result<Vec<u8>, FetchError> {
    let content = get(what, digest, bytes_max, link).await?;
    write(content, blobs).await
}

async fn manifest(
    release: &VerifiedRelease,
    blobs: &Blobs,
    link: &AuthorityLink,
) -> Result<VerifiedManifest, FetchError> {
    let digest = release.release().manifest_digest;
    let held = {
        let blobs = blobs.clone();
        blocking(move || blobs.read(&digest)).await?
    };
    if let Some(bytes) = held {
        return Ok(release.open_manifest(&bytes)?);
    }
    let bytes_max = usize::try_from(release.release().manifest_bytes).unwrap_or(usize::MAX).min(MANIFEST_BYTES_MAX);
    let bytes = get("manifest", digest, bytes_max, link).await?;
    let manifest = release.open_manifest(&bytes)?;
    write(bytes, blobs).await?;
    Ok(manifest)
}

/// At most `bytes_max` bytes come out, however they were packed.
async fn get(
    what: &'static str,
    digest: Digest,
    bytes_max: usize,
    link: &AuthorityLink,
) -> Result<Vec<u8>, FetchError> {
    let mut request = tonic::Request::new(v1::GetChunkRequest { digest: digest.to_vec(), deflate: true });
    request.set_timeout(FETCH_TIMEOUT);
    let answer = link.client().get_chunk(request).await;
    let answer = answer.map_err(|status| FetchError::Source { what, digest, source: Box::new(status) })?.into_inner();
    let content = match &*answer.deflated {
        [] => answer.content.into(),
        deflated => transfer::inflate(deflated, bytes_max)?,
    };
    let actual = Digest::of(&content);
    if actual != digest {
        return Err(VerifyError::WrongDigest { what, expected: digest, actual }.into());
    }
    Ok(content)
}

async fn write(content: Vec<u8>, blobs: &Blobs) -> Result<Vec<u8>, FetchError> {
    let blobs = blobs.clone();
    Ok(blocking(move || blobs.write(&content).map(|_| content)).await?)
}

/// Reads every chunk back from disk: what is accepted is what is stored.
async fn verify_whole(manifest: VerifiedManifest, blobs: &Blobs) -> Result<(), FetchError> {
    open_whole(manifest, blobs).await.map(drop)
}

/// The content of a release that is complete on disk, every byte verified again.
pub(crate) async fn open(release: &VerifiedRelease, blobs: &Blobs) -> Result<VerifiedBundle, FetchError> {
    let digest = release.release().manifest_digest;
    let held = {
        let blobs = blobs.clone();
        blocking(move || blobs.read(&digest)).await?
    };
    let bytes = held.ok_or(VerifyError::Missing { what: "manifest", digest })?;
    open_whole(release.open_manifest(&bytes)?, blobs).await
}

async fn open_whole(manifest: VerifiedManifest, blobs: &Blobs) -> Result<VerifiedBundle, FetchError> {
    let blobs = blobs.clone();
    let mut failed = None;
    let opened = tokio::task::spawn_blocking(move || {
        let opened = manifest.open(|digest| match blobs.read(digest) {
            Ok(content) => content,
            Err(error) => {
                failed = Some(error);
                None
            }
        });
        match failed {
            Some(error) => Err(FetchError::Disk(error)),
            None => opened.map_err(FetchError::Refused),
        }
    });
    opened.await.unwrap_or_else(|_| Err(VerifyError::Malformed { what: "bundle" }.into()))
}

/// Runs file work where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
) -> Result<T, DiskError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|stopped| {
        Err(DiskError::new("finish work on", std::path::Path::new("blobs"), std::io::Error::other(stopped.to_string())))
    })
}

/// Chunks under way at a time: enough to fill a link, few enough to hold in memory (256 KiB each).
const CHUNKS_AT_ONCE: usize = 8;
/// For one chunk or manifest (8 MiB at most).
const FETCH_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);
