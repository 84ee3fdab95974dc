//! Manifests and chunks on disk, each in a file named by its SHA-256.
//!
//! It does not know what a blob means. Invariant: what [`Blobs::read`] gives has the digest it was asked for; a file
//! that does not is removed, reported and counts as missing, so that it is fetched again.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use sealane_model::ids::Digest;

use crate::disk::{self, DiskError};

/// The blobs of one state directory.
#[derive(Clone, Debug)]
pub struct Blobs {
    directory: PathBuf,
}

impl Blobs {
    /// Opens (or makes) `directory`.
    pub fn open(directory: &Path) -> Result<Self, DiskError> {
        disk::create_dir(directory)?;
        disk::sweep(directory)?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// The blob; `None` when it is missing or damaged.
    pub fn read(&self, digest: &Digest) -> Result<Option<Vec<u8>>, DiskError> {
        let path = self.path(digest);
        let Some(bytes) = disk::read(&path)? else { return Ok(None) };
        if Digest::of(&bytes) == *digest {
            return Ok(Some(bytes));
        }
        tracing::error!(blob = %digest, "a stored blob is damaged and was removed");
        fs::remove_file(&path).map_err(|source| DiskError::new("remove", &path, source))?;
        Ok(None)
    }

    /// Whether a file of that name is there; its content is looked at when it is read.
    pub fn has(&self, digest: &Digest) -> bool {
        self.path(digest).is_file()
    }

    /// Keeps `bytes`; gives their digest.
    pub fn write(&self, bytes: &[u8]) -> Result<Digest, DiskError> {
        let digest = Digest::of(bytes);
        if !self.has(&digest) {
            disk::write_atomic(&self.path(&digest), bytes)?;
        }
        Ok(digest)
    }

    /// Removes every blob that is not in `keep`.
    pub fn retain(&self, keep: &BTreeSet<Digest>) -> Result<(), DiskError> {
        let failed = |source| DiskError::new("list", &self.directory, source);
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let unneeded = name.to_str().and_then(Digest::from_hex).is_some_and(|digest| !keep.contains(&digest));
            if unneeded {
                fs::remove_file(entry.path()).map_err(|source| DiskError::new("remove", &entry.path(), source))?;
            }
        }
        Ok(())
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(digest.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_blob_is_never_given_and_counts_as_missing() {
        let directory = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(directory.path()).unwrap();
        let digest = blobs.write(b"content").unwrap();
        assert_eq!(blobs.read(&digest).unwrap().as_deref(), Some(&b"content"[..]));
        fs::write(directory.path().join(digest.to_string()), b"Content").unwrap();
        assert_eq!(blobs.read(&digest).unwrap(), None);
        assert!(!blobs.has(&digest), "it can be fetched again");
    }

    #[test]
    fn only_referenced_blobs_stay() {
        let directory = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(directory.path()).unwrap();
        let (kept, dropped) = (blobs.write(b"kept").unwrap(), blobs.write(b"dropped").unwrap());
        blobs.retain(&BTreeSet::from([kept])).unwrap();
        assert!(blobs.has(&kept) && !blobs.has(&dropped));
    }
}
