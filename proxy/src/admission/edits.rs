//! What the stages of a route want changed in a request and in its answer.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use sealane_model::config::ContentCoding;

use crate::admission::Held;
use crate::cache;
use crate::hooks::{Hooked, Target};
use crate::http1::field::{Known, KnownSet};
use crate::http1::write;
use crate::middleware::jwt::Identity;

/// What the stages left for the rest of the request's life. Kept per thread and used again.
#[derive(Default)]
pub(crate) struct Edits {
    /// For the head that the endpoint sees.
    pub(crate) request: FieldEdits,
    /// For whatever answers the request.
    pub(crate) response: FieldEdits,
    /// The pool that takes the request instead of the route's, by index.
    pub(crate) pool: Option<usize>,
    pub(crate) notes: Notes,
    /// What plugins did; `None`: there were none.
    pub(crate) plugins: Option<Box<PluginNotes>>,
    /// Who the request is from, once a token has been verified.
    pub(crate) identity: Option<Rc<Identity>>,
    /// What the client takes compressed answers in.
    pub(crate) coding: Option<ContentCoding>,
    /// The request gets no line in the access log, unless it fails.
    pub(crate) unlogged: bool,
    /// The id that the request takes over; empty: it keeps its own.
    request_id: Vec<u8>,
    /// Where hooks want the request to go.
    pub(crate) target: Option<Box<Target>>,
    /// Hooks that want to see what comes of the request.
    pub(crate) hooked: Option<Rc<Hooked>>,
    /// What the cache wants to know of the answer.
    pub(crate) cache: Option<Box<cache::fill::Task>>,
    held: Vec<Held>,
}

/// What stages found out, for the log and traces. Empty: the route's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Notes {
    /// `hit`, `miss`, …
    pub(crate) cache: &'static str,
    /// `canary`
    pub(crate) variant: &'static str,
    /// By what the side was chosen: `header`, `cookie` or `hash`.
    pub(crate) cohort: &'static str,
    /// The request had a value of it.
    pub(crate) cohort_key: bool,
    /// The canary is taken out at the moment.
    pub(crate) braked: bool,
}

/// What plugins did, for the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PluginNotes {
    /// Those that were asked.
    pub(crate) filters: Vec<Arc<str>>,
    /// Why one was done without; empty: none was.
    pub(crate) bypass: &'static str,
    /// What the last one does without an answer.
    pub(crate) fail_closed: bool,
    /// One answered the request.
    pub(crate) short_circuit: bool,
    /// Edits that were not theirs to make.
    pub(crate) denied: u32,
}

impl Edits {
    /// Adds to what plugins did.
    pub(crate) fn note_plugin(&mut self, later: PluginNotes) {
        let Some(notes) = &mut self.plugins else {
            self.plugins = Some(Box::new(later));
            return;
        };
        notes.filters.extend(later.filters);
        if !later.bypass.is_empty() {
            notes.bypass = later.bypass;
        }
        notes.fail_closed = later.fail_closed;
        notes.short_circuit |= later.short_circuit;
        notes.denied += later.denied;
    }

    /// Keeps `value` until the request is over: a permit, or the leadership of a coalesced fetch.
    pub(crate) fn hold(&mut self, value: impl std::any::Any) {
        self.held.push(Box::new(value));
    }

    /// Gives the request the id that it was sent with, or another one.
    pub(crate) fn take_request_id(&mut self, id: &[u8]) {
        self.request_id.clear();
        self.request_id.extend_from_slice(id);
    }

    /// The id that a stage gave the request just now.
    pub(super) fn request_id(&self) -> Option<&[u8]> {
        (!self.request_id.is_empty()).then_some(&self.request_id[..])
    }

    /// Takes over what `later` wants, as from a stage that comes after.
    pub(crate) fn merge(&mut self, later: Self) {
        self.request.merge(&later.request);
        self.response.merge(&later.response);
        self.pool = later.pool.or(self.pool);
        self.notes.merge(later.notes);
        if let Some(notes) = later.plugins {
            self.note_plugin(*notes);
        }
        self.identity = later.identity.or(self.identity.take());
        self.coding = later.coding.or(self.coding);
        self.unlogged |= later.unlogged;
        self.target = later.target.or(self.target.take());
        self.hooked = later.hooked.or(self.hooked.take());
        self.cache = later.cache.or(self.cache.take());
        self.held.extend(later.held);
    }

    /// Forgets everything and lets go of what was held.
    pub(crate) fn clear(&mut self) {
        self.request.clear();
        self.response.clear();
        self.pool = None;
        self.notes = Notes::default();
        self.plugins = None;
        self.identity = None;
        self.coding = None;
        self.unlogged = false;
        self.request_id.clear();
        self.target = None;
        self.hooked = None;
        self.cache = None;
        self.held.clear();
    }
}

impl fmt::Debug for Edits {
    // Values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edits").field("pool", &self.pool).field("notes", &self.notes).finish_non_exhaustive()
    }
}

impl Notes {
    fn merge(&mut self, later: Self) {
        let texts =
            [(&mut self.cache, later.cache), (&mut self.variant, later.variant), (&mut self.cohort, later.cohort)];
        for (note, later) in texts {
            if !later.is_empty() {
                *note = later;
            }
        }
        self.cohort_key |= later.cohort_key;
        self.braked |= later.braked;
    }
}

/// Edits of the fields of one head: these names out, then these lines in.
#[derive(Clone, Default)]
pub(crate) struct FieldEdits {
    /// Names, each with a line feed after it.
    without: Vec<u8>,
    /// The known ones among them.
    without_known: KnownSet,
    /// Whole lines.
    lines: Vec<u8>,
}

impl fmt::Debug for FieldEdits {
    // Values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FieldEdits").finish_non_exhaustive()
    }
}

impl FieldEdits {
    /// Takes out every line of this name, those of earlier stages too.
    pub(crate) fn remove(&mut self, name: &[u8]) {
        self.drop_lines(name);
        self.without.extend_from_slice(name);
        self.without.push(b'\n');
        let known = Known::of(name);
        if known != Known::Other {
            self.without_known = self.without_known.and(KnownSet::of(&[known]));
        }
    }

    /// Adds a line. The value must be free of control bytes.
    pub(crate) fn add(&mut self, name: &[u8], value: &[u8]) {
        debug_assert!(!value.iter().any(|&byte| byte < 0x20 && byte != b'\t'), "no control bytes in a field");
        write::field(&mut self.lines, name, value);
    }

    /// Replaces every line of this name by this one.
    pub(crate) fn set(&mut self, name: &[u8], value: &[u8]) {
        self.remove(name);
        self.add(name, value);
    }

    /// As from a stage that comes after.
    pub(crate) fn merge(&mut self, later: &Self) {
        if !self.lines.is_empty() {
            for name in later.names() {
                self.drop_lines(name);
            }
        }
        self.without.extend_from_slice(&later.without);
        self.without_known = self.without_known.and(later.without_known);
        self.lines.extend_from_slice(&later.lines);
    }

    /// Whether lines of this name are taken out of what was sent.
    pub(crate) fn removes(&self, name: &[u8]) -> bool {
        !self.without.is_empty() && self.names().any(|removed| removed.eq_ignore_ascii_case(name))
    }

    /// Known names that are taken out.
    pub(crate) fn removed_known(&self) -> KnownSet {
        self.without_known
    }

    /// Whether any name is taken out.
    pub(crate) fn removes_any(&self) -> bool {
        !self.without.is_empty()
    }

    /// The first value added under this name.
    pub(crate) fn value(&self, name: &[u8]) -> Option<&[u8]> {
        lines(&self.lines).find(|line| name_of(line).eq_ignore_ascii_case(name)).map(value_of)
    }

    /// Whole lines to add.
    pub(crate) fn lines(&self) -> &[u8] {
        &self.lines
    }

    fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.without.split(|&byte| byte == b'\n').filter(|name| !name.is_empty())
    }

    fn drop_lines(&mut self, name: &[u8]) {
        if self.value(name).is_some() {
            let kept = lines(&self.lines).filter(|line| !name_of(line).eq_ignore_ascii_case(name));
            self.lines = kept.flatten().copied().collect();
        }
    }

    fn clear(&mut self) {
        self.without.clear();
        self.without_known = KnownSet::default();
        self.lines.clear();
    }
}

/// The lines of `text`, each with its end.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|&byte| byte == b'\n')
}

/// The name of a line `name: value`.
pub(crate) fn name_of(line: &[u8]) -> &[u8] {
    &line[..memchr::memchr(b':', line).unwrap_or(line.len())]
}

/// Its value.
pub(crate) fn value_of(line: &[u8]) -> &[u8] {
    line[(name_of(line).len() + 1).min(line.len())..].trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_edits_see_the_lines_of_earlier_ones() {
        let mut first = FieldEdits::default();
        first.add(b"X-A", b"1");
        first.add(b"X-B", b"2");
        first.set(b"x-a", b"3");
        assert_eq!(first.lines(), b"X-B: 2\r\nx-a: 3\r\n");
        let mut later = FieldEdits::default();
        later.remove(b"X-B");
        later.add(b"X-C", b"4");
        first.merge(&later);
        assert_eq!(first.lines(), b"x-a: 3\r\nX-C: 4\r\n");
        assert!(first.removes(b"x-B") && first.removes(b"X-A") && !first.removes(b"X-C"));
        assert_eq!(first.value(b"x-c"), Some(&b"4"[..]));
    }
}
