//! Durable files: a file is either the old one or the whole new one, also after a power cut.
//!
//! It does not know what it writes. Everything here blocks; callers are on a blocking thread.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use thiserror::Error;

pub use crate::said::chain;

/// A file operation that failed, and on what.
#[derive(Debug, Error)]
#[error("cannot {doing} `{}`", path.display())]
pub struct DiskError {
    /// A verb: `read`, `write`, …
    pub doing: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl DiskError {
    /// An error of `doing` something to `path`.
    pub fn new(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self { doing, path: path.to_owned(), source }
    }
}

/// Makes a directory (and those above it) that only its owner can read.
pub fn create_dir(path: &Path) -> Result<(), DiskError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| DiskError::new("create directory", path, source))
}

/// Writes a temporary file beside `path`, syncs it, renames it over `path`, syncs the directory. Mode 0600.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!("{TEMPORARY_PREFIX}{name}.{}.{number}", std::process::id()));
    let written = write_synced(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if let Err(source) = written {
        let _ = fs::remove_file(&temporary); // best effort: `sweep` takes what stays
        return Err(DiskError::new("write", path, source));
    }
    sync_parent(path)
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_parent(path: &Path) -> Result<(), DiskError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| DiskError::new("sync directory", parent, source))
}

/// Removes temporary files that a crash left in `directory`.
pub fn sweep(directory: &Path) -> Result<(), DiskError> {
    let failed = |source| DiskError::new("list", directory, source);
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) {
            fs::remove_file(entry.path()).map_err(|source| DiskError::new("remove", &entry.path(), source))?;
        }
    }
    Ok(())
}

/// The file's bytes; `None` when there is no such file.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, DiskError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DiskError::new("read", path, source)),
    }
}

const TEMPORARY_PREFIX: &str = ".tmp-";
