//! Taking stored answers out by request of an operator, and what the cache says of itself.

use std::sync::atomic::Ordering;

use super::Cache;
use super::key::{Resource, write_uri};

/// What to take out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purge {
    /// Every variant of one resource: `http://host/path?query`, or without scheme for both.
    Url(String),
    /// Every resource whose URL starts so; the path's start is compared byte by byte.
    Prefix(String),
    /// Everything of a host, whatever port it was asked on unless one is named.
    Host(String),
    /// Everything.
    All,
}

/// Why a purge cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PurgeError {
    /// Neither `scheme://host/path` nor `host/path`.
    #[error("`{0}` is no url: write http://host/path, or host/path for both schemes")]
    Url(String),
    /// Empty, or more than a host.
    #[error("`{0}` is no host")]
    Host(String),
}

/// What is stored, and what became of requests to cached routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Stored answers, each variant for itself.
    pub entries: u64,
    /// Most entries.
    pub entries_max: u64,
    /// Bytes of the stored answers.
    pub bytes: u64,
    /// Most bytes.
    pub bytes_max: u64,
    /// Bytes in memory: with what is being fetched, and what was evicted but is still being sent.
    pub resident_bytes: u64,
    /// Requests that were answered from the store.
    pub hits: u64,
    /// Requests that could have been, but nothing that could be used was stored.
    pub misses: u64,
    /// Answers that left to make room.
    pub evictions: u64,
    /// Answers that were purged.
    pub purged: u64,
}

/// A URL of a purge, taken apart.
struct Target {
    /// `None`: both.
    https: Option<bool>,
    authority: String,
    path: String,
}

/// Whether a resource is meant.
type Test = Box<dyn Fn(&Resource<'_>) -> bool>;

impl Target {
    fn parse(url: &str) -> Result<Self, PurgeError> {
        let fail = || PurgeError::Url(url.to_owned());
        let (https, rest) = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Some(false), rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Some(true), rest),
            Some(_) => return Err(fail()),
            None => (None, url),
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if !crate::http1::request_head::is_authority(authority) {
            return Err(fail());
        }
        // A fragment never reaches a server.
        let path = path.split('#').next().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Self { https, authority: authority.to_owned(), path: format!("{slash}{path}") })
    }

    /// Authority and target as keys have them, for each scheme that is meant.
    fn each(&self, mut visit: impl FnMut(&Resource<'_>)) {
        for https in [false, true] {
            if self.https.is_none_or(|wanted| wanted == https) {
                let mut key = Vec::new();
                write_uri(&mut key, https, &self.authority, &self.path, None);
                key.extend_from_slice(&[0; 8]);
                if let Some(resource) = Resource::of(&key) {
                    visit(&resource);
                }
            }
        }
    }
}

impl Cache {
    /// Takes out what is meant, and keeps out what is being fetched at the moment. How many stored answers these were.
    ///
    /// # Errors
    /// What is meant cannot be read.
    pub(crate) fn purge(&self, purge: &Purge) -> Result<u64, PurgeError> {
        let mut tests: Vec<Test> = Vec::new();
        match purge {
            Purge::All => tests.push(Box::new(|_| true)),
            Purge::Url(url) => Target::parse(url)?.each(|wanted| {
                let (https, authority, target) = (wanted.https, wanted.authority.to_vec(), wanted.target.to_vec());
                tests.push(Box::new(move |found| {
                    found.https == https && found.authority == authority && found.target == target
                }));
            }),
            Purge::Prefix(url) => Target::parse(url)?.each(|wanted| {
                let (https, authority, target) = (wanted.https, wanted.authority.to_vec(), wanted.target.to_vec());
                tests.push(Box::new(move |found| {
                    found.https == https && found.authority == authority && found.target.starts_with(&target)
                }));
            }),
            Purge::Host(host) => {
                let host = host.trim().to_ascii_lowercase();
                let bracketed = if host.matches(':').count() > 1 && !host.starts_with('[') {
                    format!("[{host}]")
                } else {
                    host.clone()
                };
                if !crate::http1::request_head::is_authority(&bracketed) {
                    return Err(PurgeError::Host(host));
                }
                let bare = crate::http1::request_head::host_of(&bracketed).as_bytes().to_vec();
                let with_port = bracketed.len() > bare.len() + if bracketed.starts_with('[') { 2 } else { 0 };
                tests.push(Box::new(move |found| {
                    found.host() == bare && (!with_port || found.authority == bracketed.as_bytes())
                }));
            }
        }
        // First the number, so that nothing that is on its way is stored behind the search.
        let sequence = self.sequence.fetch_add(1, Ordering::AcqRel) + 1;
        self.purged.fetch_max(sequence, Ordering::AcqRel);
        let purged = self
            .store
            .purge(|entry| Resource::of(&entry.key).is_some_and(|resource| tests.iter().any(|test| test(&resource))));
        self.counts.purged.fetch_add(purged, Ordering::Relaxed);
        Ok(purged)
    }

    /// Hits and misses are counted by the workers.
    pub(crate) fn stats(&self, hits: u64, misses: u64) -> CacheStats {
        let (bytes, entries) = self.store.used();
        CacheStats {
            entries,
            entries_max: self.store.entries_max(),
            bytes,
            bytes_max: self.store.bytes_max(),
            resident_bytes: self.resident.load(Ordering::Relaxed),
            hits,
            misses,
            evictions: self.store.evictions.load(Ordering::Relaxed),
            purged: self.counts.purged.load(Ordering::Relaxed),
        }
    }
}
