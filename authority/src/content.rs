//! Content as agents fetch it: each blob is read and packed once, however many agents ask for it, and kept for those that
//! ask next, up to so many bytes.
//!
//! It does not know who asks. Blobs are named by their digest, so what is kept never grows old.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sealane_model::bundle::transfer;
use sealane_model::ids::Digest;
use sealane_proto::v1;
use tokio::sync::OnceCell;

use crate::store::{Store, StoreError};

/// Packed content that is kept, in bytes: a change of a large config, and the whole of most.
const KEPT_BYTES_MAX: usize = 8 << 20;
/// Names that are known at a time: more, and those of fetches that were broken off are forgotten.
const NAMES_MAX: usize = 64 << 10;

/// Blobs, ready to be sent.
#[derive(Debug)]
pub(crate) struct Content {
    store: Store,
    kept: Mutex<Kept>,
    packed: AtomicU64,
}

/// A blob, and whether it may be compressed.
type Name = (Digest, bool);

#[derive(Debug, Default)]
struct Kept {
    answers: HashMap<Name, Answer>,
    bytes: usize,
    uses: u64,
}

#[derive(Debug, Default)]
struct Answer {
    /// Filled by the first who asks, while the others wait.
    answer: Arc<OnceCell<v1::GetChunkResponse>>,
    /// 0 until it is filled.
    bytes: usize,
    used: u64,
}

impl Content {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, kept: Mutex::default(), packed: AtomicU64::new(0) }
    }

    /// The blob of this name; `None`: there is none.
    pub(crate) async fn get(&self, digest: Digest, deflate: bool) -> Result<Option<v1::GetChunkResponse>, StoreError> {
        let name = (digest, deflate);
        let cell = {
            let mut kept = self.kept();
            if kept.answers.len() >= NAMES_MAX {
                kept.answers.retain(|_, answer| answer.bytes > 0 || Arc::strong_count(&answer.answer) > 1);
            }
            kept.uses += 1;
            let used = kept.uses;
            let answer = kept.answers.entry(name).or_default();
            answer.used = used;
            Arc::clone(&answer.answer)
        };
        let made = cell.get_or_try_init(|| self.pack(digest, deflate)).await;
        let answer = match made {
            Ok(answer) => answer.clone(),
            Err(missing) => {
                let mut kept = self.kept();
                // Unless somebody has found it meanwhile.
                if kept.answers.get(&name).is_some_and(|one| one.answer.get().is_none()) {
                    kept.answers.remove(&name);
                }
                return missing.map_or(Ok(None), Err);
            }
        };
        self.keep(name, answer.content.len() + answer.deflated.len());
        Ok(Some(answer))
    }

    /// Blobs that were read and packed by this process.
    pub(crate) fn packed(&self) -> u64 {
        self.packed.load(Ordering::Relaxed)
    }

    /// Errs with `None` where there is no such blob.
    async fn pack(&self, digest: Digest, deflate: bool) -> Result<v1::GetChunkResponse, Option<StoreError>> {
        let content = match self.store.blob(&digest).await? {
            Some(content) => content,
            None => self.store.sandbox_blob(&digest).await?.ok_or(None)?,
        };
        self.packed.fetch_add(1, Ordering::Relaxed);
        if !deflate {
            return Ok(v1::GetChunkResponse { content: content.into(), ..Default::default() });
        }
        let packing = tokio::task::spawn_blocking(move || match transfer::deflate(&content) {
            Some(deflated) => v1::GetChunkResponse { deflated: deflated.into(), ..Default::default() },
            None => v1::GetChunkResponse { content: content.into(), ..Default::default() },
        });
        packing.await.map_err(|_| Some(StoreError::Damaged { what: format!("{digest}: it could not be packed") }))
    }

    /// Counts what is kept, and lets go of what was not asked for the longest.
    fn keep(&self, name: Name, bytes: usize) {
        let mut kept = self.kept();
        let Some(answer) = kept.answers.get_mut(&name).filter(|answer| answer.bytes == 0) else { return };
        answer.bytes = bytes.max(1);
        kept.bytes += bytes.max(1);
        while kept.bytes > KEPT_BYTES_MAX {
            let filled = kept.answers.iter().filter(|(_, answer)| answer.bytes > 0);
            let Some(oldest) = filled.min_by_key(|(_, answer)| answer.used).map(|(name, _)| *name) else { return };
            kept.bytes -= kept.answers.remove(&oldest).map_or(0, |answer| answer.bytes);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
