//! A stored answer: its head as lines, how long it may be used, what it varies on, and its content.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use sealane_model::decide::HeaderView;

use super::body::Body;
use super::directives::ResponseDirectives;
use super::key::KeyRef;
use super::policy::Policy;
use super::vary::Selected;
use crate::http1::field::{Known, KnownSet, NameHints};
use crate::http1::write;

/// A stored answer, or one that is being fetched to be stored. Only its content may still grow.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: Arc<[u8]>,
    /// Where the part of the key ends that names the resource.
    pub(crate) uri_end: usize,
    /// See [`super::Cache::stamp`].
    pub(crate) stamp: Stamp,
    pub(crate) status: u16,
    /// Whole lines, without those that belong to one hop or are written anew.
    pub(crate) lines: StoredLines,
    pub(crate) policy: Policy,
    pub(crate) selected: Selected,
    pub(crate) body: Arc<Body>,
    /// Bytes of the body, as far as its head says.
    pub(crate) announced: Option<u64>,
    pub(crate) gzip: Gzip,
    /// Seconds since 1970 when it was made, by its `Date`.
    pub(crate) date: u64,
    /// A hook wanted it kept: it is not asked for anew, nor served stale.
    pub(crate) by_hook: bool,
    /// Times it may still be served, where a hook bounded that.
    pub(crate) hits_left: Option<AtomicU32>,
    /// It was used since the eviction looked at it last.
    pub(super) used: AtomicBool,
}

/// The compressed form of an answer's content.
#[derive(Clone, Debug)]
pub(crate) enum Gzip {
    /// There is none and will be none.
    Never,
    /// Once it is made.
    Made(Arc<OnceLock<Arc<Body>>>),
}

/// Before what was invalidated later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp {
    pub(super) sequence: u64,
    /// Of the resource.
    pub(super) slot: u32,
}

/// What an entry takes beside its bytes.
const ENTRY_OVERHEAD: u64 = 512;

/// Names that are not stored, beside those of one hop: what the proxy writes anew, and what is for one client.
const NOT_STORED: KnownSet = KnownSet::HOP_BY_HOP.and(KnownSet::of(&[Known::Trailer]));

impl Entry {
    pub(crate) fn key(&self) -> KeyRef<'_> {
        KeyRef { bytes: &self.key, uri_end: self.uri_end }
    }

    /// Bytes that it takes, once it is complete.
    pub(crate) fn cost(&self) -> u64 {
        let gzip = match &self.gzip {
            Gzip::Made(made) => made.get().map_or(0, |body| body.cost()),
            Gzip::Never => 0,
        };
        let own = self.key.len() + self.lines.bytes.len() + self.selected.bytes();
        ENTRY_OVERHEAD + own as u64 + self.body.cost() + gzip
    }

    pub(crate) fn head(&self) -> &StoredLines {
        &self.lines
    }

    /// The compressed content, once it is made.
    pub(crate) fn gzipped(&self) -> Option<&Arc<Body>> {
        match &self.gzip {
            Gzip::Made(made) => made.get(),
            Gzip::Never => None,
        }
    }

    /// Takes one of the times that it may be served; whether there was one.
    pub(crate) fn take_hit(&self) -> bool {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        self.hits_left.as_ref().is_none_or(|left| {
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
        })
    }
}

/// Lines of a stored head.
#[derive(Debug)]
pub(crate) struct StoredLines {
    bytes: Box<[u8]>,
    names: NameHints,
}

impl StoredLines {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        let mut names = NameHints::default();
        LinesView(&bytes).lines().for_each(|(name, ..)| names.add(name));
        Self { bytes: bytes.into(), names }
    }

    pub(crate) fn view(&self) -> LinesView<'_> {
        LinesView(&self.bytes)
    }
}

impl HeaderView for StoredLines {
    fn any_value(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.names.may_have(name.as_bytes()) && self.view().any_value(name, test)
    }
}

/// Lines of a head, each `name: value` and CRLF.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinesView<'a>(pub(crate) &'a [u8]);

impl<'a> LinesView<'a> {
    /// Name, value and the whole line.
    pub(crate) fn lines(self) -> impl Iterator<Item = (&'a [u8], &'a [u8], &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let end = memchr::memchr(b'\n', rest)? + 1;
            let (line, after) = rest.split_at(end);
            rest = after;
            let colon = memchr::memchr(b':', line)?;
            Some((&line[..colon], line[colon + 1..].trim_ascii(), line))
        })
    }
}

impl HeaderView for LinesView<'_> {
    fn any_value(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.lines().any(|(found, value, _)| found.eq_ignore_ascii_case(name.as_bytes()) && test(value))
    }
}

/// The lines of `head` that may be stored: none that belongs to one hop, says how old the answer is, or is for one client.
/// `date` is added where there is none.
pub(crate) fn stored_lines(head: LinesView<'_>, directives: &ResponseDirectives, date: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(head.0.len() + 48);
    let mut dated = false;
    for (name, _, line) in head.lines() {
        let known = Known::of(name);
        let is = |text: &str| name.eq_ignore_ascii_case(text.as_bytes());
        let left_out = NOT_STORED.contains(known)
            || is("age")
            || is("set-cookie")
            || is("set-cookie2")
            || is("proxy-authentication-info")
            || is("x-cache")
            || directives.without.iter().any(|without| is(without));
        if !left_out {
            dated |= known == Known::Date;
            out.extend_from_slice(line);
        }
    }
    if !dated {
        write::field(&mut out, b"Date", date);
    }
    out
}

/// A stored head with the fields of a 304, or of an answer to HEAD, in place of its own (RFC 9111 §3.2).
pub(crate) fn updated_lines(stored: LinesView<'_>, news: LinesView<'_>) -> Vec<u8> {
    /// What describes the stored content, which stays.
    const KEPT: [&str; 6] =
        ["content-length", "content-encoding", "content-range", "content-md5", "etag", "transfer-encoding"];
    let is_kept = |name: &[u8]| {
        NOT_STORED.contains(Known::of(name)) || KEPT.iter().any(|kept| name.eq_ignore_ascii_case(kept.as_bytes()))
    };
    let mut out = Vec::with_capacity(stored.0.len() + news.0.len());
    for (name, _, line) in stored.lines() {
        let replaced = !is_kept(name) && news.lines().any(|(new, ..)| new.eq_ignore_ascii_case(name));
        if !replaced {
            out.extend_from_slice(line);
        }
    }
    for (name, _, line) in news.lines() {
        if !is_kept(name) {
            out.extend_from_slice(line);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_hop_or_one_client_are_not_stored() {
        let head = b"Server: x\r\nConnection: a\r\nAge: 5\r\nSet-Cookie: a=b\r\nContent-Length: 3\r\nX-User: u\r\nProxy-Authenticate: y\r\nETag: \"a\"\r\n";
        let directives = ResponseDirectives { without: vec!["x-user".to_owned()], ..ResponseDirectives::default() };
        let stored = stored_lines(LinesView(head), &directives, b"now");
        assert_eq!(stored, b"Server: x\r\nETag: \"a\"\r\nDate: now\r\n");
    }

    #[test]
    fn a_304_updates_all_but_what_describes_the_content() {
        let stored = b"A: 1\r\nContent-Encoding: gzip\r\nETag: \"a\"\r\nCache-Control: max-age=1\r\nB: 1\r\n";
        let news = b"a: 2\r\na: 3\r\ncontent-encoding: br\r\netag: \"b\"\r\ncache-control: max-age=9\r\n";
        let updated = updated_lines(LinesView(stored), LinesView(news));
        assert_eq!(
            String::from_utf8_lossy(&updated),
            "Content-Encoding: gzip\r\nETag: \"a\"\r\nB: 1\r\na: 2\r\na: 3\r\ncache-control: max-age=9\r\n"
        );
    }
}
