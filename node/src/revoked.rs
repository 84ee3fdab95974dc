//! Certificates that were taken back before their end, by SHA-256 of their DER.
//!
//! The list comes from the authority over connections that authenticate it, and only grows: what was taken back stays so
//! until it would have ended anyway, whatever the one that told of it says later. It does not know who held a certificate.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use sealane_model::ids::Digest;
use tokio::sync::watch;

use crate::disk::{self, DiskError};

/// Fingerprints, and when each certificate ends (Unix time in milliseconds).
pub type List = BTreeMap<Digest, i64>;

/// The list of one member, kept in a file where there is one.
#[derive(Debug)]
pub struct Revoked {
    file: RwLock<Option<PathBuf>>,
    known: watch::Sender<Arc<List>>,
}

impl Default for Revoked {
    fn default() -> Self {
        Self { file: RwLock::default(), known: watch::Sender::new(Arc::default()) }
    }
}

impl Revoked {
    /// Takes in what `file` holds, and keeps the list there from now on.
    ///
    /// # Errors
    /// The file cannot be read, or is no such list.
    pub fn keep_in(&self, file: &Path) -> Result<(), DiskError> {
        let broken = |why: String| {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidData, why);
            DiskError::new("read the revoked certificates in", file, source)
        };
        let text = disk::read(file)?.unwrap_or_default();
        let text = String::from_utf8(text).map_err(|_| broken("it is not text".to_owned()))?;
        let mut read = List::new();
        for (index, line) in text.lines().enumerate() {
            let parsed = line.split_once(' ').and_then(|(hex, end)| Some((Digest::from_hex(hex)?, end.parse().ok()?)));
            let why =
                || format!("line {} is not a SHA-256 and a time; remove the file to have it told anew", index + 1);
            let (fingerprint, end) = parsed.ok_or_else(|| broken(why()))?;
            read.insert(fingerprint, end);
        }
        self.known.send_modify(|known| Arc::make_mut(known).extend(read));
        *self.file.write().unwrap_or_else(PoisonError::into_inner) = Some(file.to_owned());
        Ok(())
    }

    /// Adds to the list; whether there was anything new. What has ended leaves it. It holds at once, also where it cannot
    /// be written.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&self, more: impl IntoIterator<Item = (Digest, i64)>, now_unix_ms: i64) -> Result<bool, DiskError> {
        let lasting = |(_, end): &(Digest, i64)| *end > now_unix_ms;
        let new: List = {
            let known = self.known.borrow();
            more.into_iter().filter(lasting).filter(|(one, _)| !known.contains_key(one)).take(LIST_MAX).collect()
        };
        if new.is_empty() {
            return Ok(false);
        }
        self.known.send_modify(|known| {
            let known = Arc::make_mut(known);
            known.retain(|_, end| *end > now_unix_ms);
            known.extend(new);
        });
        let file = self.file.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(file) = file {
            let text: String = self.known.borrow().iter().map(|(one, end)| format!("{one} {end}\n")).collect();
            if let Some(directory) = file.parent() {
                disk::create_dir(directory)?;
            }
            disk::write_atomic(&file, text.as_bytes())?;
        }
        Ok(true)
    }

    /// Whether the certificate of this fingerprint was taken back.
    #[must_use]
    pub fn contains(&self, fingerprint: &Digest) -> bool {
        self.known.borrow().contains_key(fingerprint)
    }

    /// Follows the list.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Arc<List>> {
        self.known.subscribe()
    }
}

/// Certificates that one message can take back. An authority lists no more than this.
pub const LIST_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_back_stays_so_until_its_end_and_over_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("identity/revoked");
        let (early, late) = (Digest::of(b"early"), Digest::of(b"late"));
        let list = Revoked::default();
        list.keep_in(&file).unwrap();
        assert!(list.add([(early, 10), (late, 20)], 0).unwrap());
        assert!(!list.add([(early, 10)], 0).unwrap(), "told again, nothing is new");
        let again = Revoked::default();
        again.keep_in(&file).unwrap();
        assert!(again.contains(&early) && again.contains(&late));
        assert!(again.add([(Digest::of(b"third"), 30)], 15).unwrap());
        assert!(!again.contains(&early) && again.contains(&late), "what has ended needs no place");
        assert!(!again.add([], 15).unwrap() && again.contains(&late), "an empty list lifts nothing");
    }

    #[test]
    fn an_edited_file_is_an_error_that_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("revoked");
        for bad in ["x 1\n", "\n", &format!("{} soon\n", Digest::of(b"x"))] {
            std::fs::write(&file, bad).unwrap();
            let error = Revoked::default().keep_in(&file).unwrap_err();
            assert!(disk::chain(&error).contains("remove the file"), "{error}");
        }
    }

    #[test]
    fn it_holds_also_where_it_cannot_be_written() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("identity"), "a file in the way").unwrap();
        let list = Revoked::default();
        *list.file.write().unwrap() = Some(directory.path().join("identity/revoked"));
        assert!(list.add([(Digest::of(b"x"), 10)], 0).is_err());
        assert!(list.contains(&Digest::of(b"x")));
    }
}
