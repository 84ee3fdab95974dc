//! What a request that went to the origin brings the cache: judged when the answer's head is there, filled while its
//! content comes.
//!
//! A [`Fill`] goes with the request. Dropped without a word, it lets whoever waits for it go on.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use sealane_model::config::PreCompress;
use sealane_model::decide::HeaderView;

use super::Cache;
use super::body::{Body, BrokenOff, Reader};
use super::directives::RequestDirectives;
use super::entry::{Entry, Gzip, LinesView, Stamp, StoredLines, stored_lines, updated_lines};
use super::flight::{Flight, Landing};
use super::key::{KeyRef, write_uri};
use super::policy::{Asker, Instant, Policy, ResponseFacts, is_error};
use super::rules::CompiledRule;
use super::serve::{self, Forward, How, Served};
use super::vary::Selected;
use crate::answer::{Content, Local, Source};
use crate::clock::Moment;
use crate::hooks::{Keep, Wish};
use crate::http1::framing::Framing;
use crate::worker::Worker;

/// What the cache wants to know of the answer to a request.
#[derive(Debug)]
pub(crate) enum Task {
    /// It may be stored, or tell that what is stored still holds.
    Fill(Fill),
    /// It may make what is stored untrue.
    Invalidate(Invalidate),
}

/// A request to the origin whose answer may be stored.
pub(crate) struct Fill {
    pub(crate) cache: Arc<Cache>,
    pub(crate) rule: Arc<CompiledRule>,
    pub(crate) key: Arc<[u8]>,
    pub(crate) uri_end: usize,
    pub(crate) stamp: Stamp,
    /// The request's fields as they go to the endpoint, without what the cache adds.
    pub(crate) request: Vec<u8>,
    pub(super) directives: RequestDirectives,
    pub(crate) asker: Asker,
    pub(crate) asked: Instant,
    pub(crate) is_get: bool,
    pub(crate) forward: Forward,
    /// What is stored, and its validators were sent if there are any.
    pub(crate) stale: Option<Arc<Entry>>,
    pub(crate) validates: bool,
    pub(crate) lead: Option<Lead>,
}

impl fmt::Debug for Fill {
    // The request's fields may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fill").field("forward", &self.forward).finish_non_exhaustive()
    }
}

/// An unsafe request (RFC 9111 §4.4).
#[derive(Debug)]
pub(crate) struct Invalidate {
    pub(crate) cache: Arc<Cache>,
    pub(crate) https: bool,
    pub(crate) authority: String,
    /// Path and query.
    pub(crate) target: String,
}

/// What became of an answer's head.
#[derive(Debug)]
pub(crate) enum Judged {
    /// It goes on as it is, with these lines.
    Pass(Vec<u8>),
    /// Its content is taken in, and the client gets this.
    Store(Box<Filling>, Local),
    /// The client gets this instead.
    Serve(Local),
}

/// An answer's head as the cache looks at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnswerHead<'a> {
    pub(crate) status: u16,
    /// Lines as they came, without what belongs to one hop.
    pub(crate) lines: LinesView<'a>,
    pub(crate) framing: Framing,
    pub(crate) content_length: Option<u64>,
    /// What a hook wants of it.
    pub(crate) wish: Wish,
}

/// Who fetches for all who wait.
#[derive(Debug)]
pub(crate) struct Lead {
    pub(super) cache: Arc<Cache>,
    pub(super) key: Arc<[u8]>,
    pub(super) uri_end: usize,
    pub(super) flight: Arc<Flight>,
    /// Nobody has been told anything yet.
    pub(super) silent: bool,
}

impl Lead {
    fn land(&mut self, landing: Landing) {
        self.silent = false;
        self.flight.land(landing);
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.cache.store.leave(KeyRef { bytes: &self.key, uri_end: self.uri_end }, &self.flight);
        if self.silent {
            self.flight.land(Landing::Abandoned);
        }
    }
}

impl Task {
    /// Judges the answer's final head. Returns what the log calls it.
    pub(crate) fn judge(self, worker: &Worker, head: &AnswerHead<'_>) -> (Judged, &'static str) {
        match self {
            Self::Fill(fill) => fill.judge(worker, head),
            Self::Invalidate(invalidate) => {
                invalidate.judge(head);
                (Judged::Pass(serve::forwarded_line(Forward::Method)), "")
            }
        }
    }

    /// The origin could not be had: what is stored, if it may be used for that.
    pub(crate) fn on_failure(&self, worker: &Worker) -> Option<Local> {
        match self {
            Self::Fill(fill) => fill.stale_on_error(worker, None),
            Self::Invalidate(_) => None,
        }
    }
}

impl Fill {
    fn judge(mut self, worker: &Worker, head: &AnswerHead<'_>) -> (Judged, &'static str) {
        let received = now(worker);
        if head.status == 304 && self.validates {
            return self.freshen(worker, head, received);
        }
        if is_error(head.status)
            && let Some(local) = self.stale_on_error(worker, Some(head.status))
        {
            return (Judged::Serve(local), "stale");
        }
        if !self.is_get {
            self.update_by_head(head, received);
            return (Judged::Pass(serve::forwarded_line(self.forward)), "miss");
        }
        match self.take_in(worker, head, received) {
            Ok((filling, local)) => (Judged::Store(Box::new(filling), local), "miss"),
            Err(note) => {
                if let Some(lead) = &mut self.lead {
                    lead.land(Landing::NotShared);
                    self.cache.note_not_shared(&self.key, received.ms);
                }
                (Judged::Pass(serve::forwarded_line(self.forward)), note)
            }
        }
    }

    /// Starts storing the answer, if that may be.
    fn take_in(
        &mut self,
        worker: &Worker,
        head: &AnswerHead<'_>,
        received: Instant,
    ) -> Result<(Filling, Local), &'static str> {
        const NOT_CACHEABLE: &str = "not_cacheable";
        // Where the end of the connection is the end of the content nobody can tell whether all of it came.
        if head.framing == Framing::UntilClose {
            return Err(NOT_CACHEABLE);
        }
        let facts = ResponseFacts::read(head.status, &head.lines, received.wall);
        let policy = match head.wish {
            Wish::None => facts.judge(&self.rule.store, self.asker, self.asked, received),
            Wish::Keep(keep) => facts.keep(keep.ttl, received),
            Wish::Never => return Err(NOT_CACHEABLE),
        };
        let policy = policy.map_err(|_| NOT_CACHEABLE)?;
        if let Wish::Keep(keep) = head.wish
            && let Some(rule) = kept_rule(&self.rule, keep)
        {
            self.rule = Arc::new(rule);
        }
        let request = LinesView(&self.request);
        let selected = Selected::read(&head.lines, &request).ok_or(NOT_CACHEABLE)?;
        let announced = match head.framing {
            Framing::Empty => Some(0),
            Framing::Length(length) => Some(length),
            Framing::Chunked | Framing::UntilClose => None,
        };
        let fits = announced.map_or(!self.rule.needs_length, |length| length <= self.rule.body_bytes_max);
        if !fits {
            return Err(NOT_CACHEABLE);
        }
        if !self.cache.has_room(announced.unwrap_or(0)) {
            self.cache.counts.store_failures.fetch_add(1, Ordering::Relaxed);
            return Err("store_failed");
        }
        let entry = self.entry(worker, head, &facts, policy, selected, announced, received);
        let mut lines = head.lines.0.to_vec();
        lines.extend_from_slice(&serve::filled_lines(&entry, self.forward));
        let local = Local::Whole {
            status: head.status,
            reason: None,
            lines,
            content: Content::Pieces {
                length: announced,
                source: Box::new(Stored(Reader::new(Arc::clone(&entry.body)))),
            },
        };
        let mut lead = self.lead.take();
        // Others may read along once it is certain that they can read to the end.
        if let Some(lead) = lead.as_mut().filter(|_| announced.is_some()) {
            lead.land(Landing::Shared(Arc::clone(&entry)));
        }
        let filling = Filling {
            cache: Arc::clone(&self.cache),
            rule: Arc::clone(&self.rule),
            entry,
            lead,
            open: true,
            piped: false,
        };
        Ok((filling, local))
    }

    #[expect(clippy::too_many_arguments, reason = "what an entry is made of")]
    fn entry(
        &self,
        worker: &Worker,
        head: &AnswerHead<'_>,
        facts: &ResponseFacts,
        policy: Policy,
        selected: Selected,
        announced: Option<u64>,
        received: Instant,
    ) -> Arc<Entry> {
        let mut date = Vec::new();
        worker.write_http_date(&mut date);
        let lines = stored_lines(head.lines, &facts.directives, &date);
        let compresses =
            self.rule.pre_compress.is_some() && head.status == 200 && serve::is_compressible(&LinesView(&lines));
        Arc::new(Entry {
            key: Arc::clone(&self.key),
            uri_end: self.uri_end,
            stamp: self.stamp,
            status: head.status,
            lines: StoredLines::new(lines),
            policy,
            selected,
            body: Arc::new(Body::new(self.cache.resident())),
            announced,
            gzip: if compresses { Gzip::Made(Arc::default()) } else { Gzip::Never },
            date: facts.date().unwrap_or(received.wall),
            by_hook: matches!(head.wish, Wish::Keep(_)),
            hits_left: match head.wish {
                Wish::Keep(keep) => keep.hits_max.map(AtomicU32::new),
                Wish::None | Wish::Never => None,
            },
            used: AtomicBool::new(false),
        })
    }

    /// The origin says that what is stored still holds (RFC 9111 §4.3.4).
    fn freshen(mut self, worker: &Worker, head: &AnswerHead<'_>, received: Instant) -> (Judged, &'static str) {
        let Some(stale) = self.stale.take() else {
            return (Judged::Pass(serve::forwarded_line(self.forward)), "miss");
        };
        let (fresh, stored) = self.updated(&stale, head.lines, received);
        if stored {
            self.cache.insert(Arc::clone(&fresh));
        } else {
            self.cache.store.remove(&stale);
        }
        if let Some(lead) = &mut self.lead {
            lead.land(if stored { Landing::Shared(Arc::clone(&fresh)) } else { Landing::NotShared });
        }
        let served = self.serve(worker, &fresh, How::Revalidated);
        (Judged::Serve(served), "revalidated")
    }

    /// The stored answer with the fields of `news`, and whether it may still be stored.
    fn updated(&self, stale: &Arc<Entry>, news: LinesView<'_>, received: Instant) -> (Arc<Entry>, bool) {
        let merged = updated_lines(stale.head().view(), news);
        // The age of a confirmed answer starts anew.
        let facts = ResponseFacts::read(stale.status, &LinesView(&merged), received.wall);
        let judged = facts.judge(&self.rule.store, self.asker, self.asked, received);
        let lines = match &judged {
            Ok(_) => stored_lines(LinesView(&merged), &facts.directives, b""),
            Err(_) => merged.clone(),
        };
        let request = LinesView(&self.request);
        let selected = Selected::read(&LinesView(&merged), &request);
        let stored = judged.is_ok() && selected.is_some();
        let entry = Entry {
            key: Arc::clone(&stale.key),
            uri_end: stale.uri_end,
            stamp: self.stamp,
            status: stale.status,
            lines: StoredLines::new(lines),
            policy: judged.unwrap_or_else(|_| stale.policy.expired()),
            selected: selected.unwrap_or_else(|| stale.selected.clone()),
            body: Arc::clone(&stale.body),
            announced: stale.announced,
            gzip: stale.gzip.clone(),
            date: facts.date().unwrap_or(received.wall),
            by_hook: false,
            hits_left: None,
            used: AtomicBool::new(true),
        };
        (Arc::new(entry), stored)
    }

    /// An answer to HEAD updates what is stored for GET if it may be of the same content, else what is stored is stale
    /// (RFC 9111 §4.3.5).
    fn update_by_head(&self, head: &AnswerHead<'_>, received: Instant) {
        let Some(stored) = self.stale.as_ref().filter(|stored| stored.status == head.status && head.status == 200)
        else {
            return;
        };
        let same = |name: &str| {
            let mut same = true;
            head.lines.any_value(name, &mut |value| {
                same = stored.head().any_value(name, &mut |known| known == value);
                true
            });
            same
        };
        let same_length = head.content_length.is_none_or(|length| stored.body.length() == Some(length));
        if same("etag") && same("last-modified") && same_length {
            let (fresh, may_stay) = self.updated(stored, head.lines, received);
            if may_stay {
                return self.cache.insert(fresh);
            }
        }
        self.cache.store.remove(stored);
    }

    fn stale_on_error(&self, worker: &Worker, status: Option<u16>) -> Option<Local> {
        let stale = self.stale.as_ref()?;
        let may = stale.policy.may_serve_on_error(&self.directives, now(worker).ms, self.rule.stale_if_error_ms);
        may.then(|| self.serve(worker, stale, How::Error(status)))
    }

    fn serve(&self, worker: &Worker, entry: &Arc<Entry>, how: How) -> Local {
        let now = now(worker);
        local(serve::serve(entry, &LinesView(&self.request), self.is_get, how, now.ms, now.wall))
    }
}

/// The rule with what a hook wants of the compressed copy; `None`: it wants nothing of it.
fn kept_rule(rule: &CompiledRule, keep: Keep) -> Option<CompiledRule> {
    let plan = rule.pre_compress.as_ref();
    let on = keep.pre_compress.unwrap_or(plan.is_some());
    if keep.pre_compress.is_none() && keep.length_min.is_none() {
        return None;
    }
    let pre_compress = on.then(|| PreCompress {
        level: plan.map_or(LEVEL, |plan| plan.level),
        length_min: keep.length_min.or(plan.map(|plan| plan.length_min)).unwrap_or(LENGTH_MIN),
    });
    Some(CompiledRule { pre_compress, ..rule.clone() })
}

/// What a compressed copy is made with, and of how many bytes at least, where neither config nor hook says it.
const LEVEL: u32 = 6;
const LENGTH_MIN: u64 = 512;

impl Invalidate {
    fn judge(&self, head: &AnswerHead<'_>) {
        if !(200..400).contains(&head.status) {
            return;
        }
        self.invalidate(&self.target);
        for name in ["location", "content-location"] {
            head.lines.any_value(name, &mut |value| {
                if let Some(target) = std::str::from_utf8(value).ok().and_then(|value| self.resolve(value)) {
                    self.invalidate(&target);
                }
                true
            });
        }
    }

    fn invalidate(&self, target: &str) {
        // Whether plain or not, the resource is the same to its server.
        for https in [false, true] {
            let mut uri = Vec::new();
            write_uri(&mut uri, https, &self.authority, target, None);
            self.cache.invalidate(&uri);
        }
    }

    /// The target that a reference names, if it is of the same origin.
    fn resolve(&self, reference: &str) -> Option<String> {
        let reference = reference.split('#').next().unwrap_or_default();
        if let Some((scheme, rest)) = reference.split_once("://") {
            let own = if self.https { "https" } else { "http" };
            let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            let same = scheme.eq_ignore_ascii_case(own) && authority.eq_ignore_ascii_case(&self.authority);
            return same.then(|| if target.starts_with('/') { target.to_owned() } else { format!("/{target}") });
        }
        if let Some(rest) = reference.strip_prefix("//") {
            let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            return authority
                .eq_ignore_ascii_case(&self.authority)
                .then(|| if target.starts_with('/') { target.to_owned() } else { format!("/{target}") });
        }
        if reference.starts_with('/') {
            return Some(reference.to_owned());
        }
        let path = self.target.split('?').next().unwrap_or_default();
        match reference {
            "" => Some(self.target.clone()),
            query if query.starts_with('?') => Some(format!("{path}{query}")),
            relative => Some(merge(path, relative)),
        }
    }
}

/// RFC 3986 §5.2.3 and §5.2.4.
fn merge(base: &str, relative: &str) -> String {
    let directory = &base[..=base.rfind('/').unwrap_or(0)];
    let (path, query) = relative.split_at(relative.find('?').unwrap_or(relative.len()));
    let merged = format!("{directory}{path}");
    let mut out: Vec<&str> = Vec::new();
    let mut segments = merged.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." if last => out.push(""),
            "." => {}
            ".." => {
                out.pop();
                if last {
                    out.push("");
                }
            }
            segment => out.push(segment),
        }
    }
    format!("/{}{query}", out.join("/"))
}

/// An answer whose content is being taken in.
#[derive(Debug)]
pub(crate) struct Filling {
    cache: Arc<Cache>,
    rule: Arc<CompiledRule>,
    entry: Arc<Entry>,
    lead: Option<Lead>,
    /// Neither complete nor given up.
    open: bool,
    /// It turned out too large, and is only passed on.
    piped: bool,
}

impl Filling {
    /// Takes in a piece of the content.
    pub(crate) fn data(&mut self, bytes: &[u8]) {
        if !self.piped && self.entry.announced.is_none() {
            let grown = self.entry.body.grown() + bytes.len() as u64;
            if grown > self.rule.body_bytes_max || !self.cache.has_room(bytes.len() as u64) {
                self.piped = true;
                self.entry.body.pipe();
                if let Some(mut lead) = self.lead.take() {
                    lead.land(Landing::NotShared);
                    self.cache.note_not_shared(&self.entry.key, Moment::now().millis());
                }
            }
        }
        self.entry.body.append(Bytes::copy_from_slice(bytes));
    }

    /// Ready when more may come. An error: nobody wants it.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<Result<(), BrokenOff>> {
        self.entry.body.poll_room(cx)
    }

    /// The content is complete.
    pub(crate) fn complete(mut self) {
        self.open = false;
        self.entry.body.complete();
        if self.piped {
            return;
        }
        self.cache.insert(Arc::clone(&self.entry));
        if let Some(lead) = self.lead.as_mut().filter(|lead| lead.silent) {
            lead.land(Landing::Shared(Arc::clone(&self.entry)));
        }
        self.compress();
    }

    /// Makes the compressed form, beside the workers.
    fn compress(&self) {
        let Gzip::Made(made) = &self.entry.gzip else { return };
        let Some(plan) = self.rule.pre_compress.as_ref() else { return };
        if self.entry.body.length().is_none_or(|length| length < plan.length_min) {
            return;
        }
        let (cache, entry, level) = (Arc::clone(&self.cache), Arc::clone(&self.entry), plan.level);
        let made: Arc<OnceLock<Arc<Body>>> = Arc::clone(made);
        tokio::task::spawn_blocking(move || {
            if let Some(bytes) = serve::gzip(&entry.body, level) {
                let body = Body::whole(Bytes::from(bytes), cache.resident());
                // Nobody else makes it.
                let _ = made.set(Arc::new(body));
                cache.store.recount(&entry);
            }
        });
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        if self.open {
            self.entry.body.fail();
        }
    }
}

/// Stored content as an answer's.
#[derive(Debug)]
pub(crate) struct Stored(pub(crate) Reader);

/// Bytes of one piece on its way to a client, about.
const PIECE_BYTES: usize = 64 << 10;

impl Source for Stored {
    fn poll_piece(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<io::Result<bool>> {
        let start = out.len();
        loop {
            match self.0.poll_next(cx) {
                Poll::Ready(Ok(Some(bytes))) => out.extend_from_slice(&bytes),
                Poll::Ready(Ok(None)) => return Poll::Ready(Ok(false)),
                Poll::Ready(Err(BrokenOff)) if out.len() == start => {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                Poll::Pending if out.len() == start => return Poll::Pending,
                Poll::Ready(Err(BrokenOff)) | Poll::Pending => return Poll::Ready(Ok(true)),
            }
            if self.0.is_done() {
                return Poll::Ready(Ok(false));
            }
            if out.len() - start >= PIECE_BYTES {
                return Poll::Ready(Ok(true));
            }
        }
    }
}

/// As the proxy sends it.
pub(crate) fn local(served: Served) -> Local {
    let Served { status, lines, length, content } = served;
    Local::Whole { status, reason: None, lines, content: Content::Pieces { length, source: Box::new(Stored(content)) } }
}

/// The time, on both clocks.
pub(crate) fn now(worker: &Worker) -> Instant {
    at(worker, Moment::now())
}

/// A recent moment, on both clocks.
pub(crate) fn at(worker: &Worker, moment: Moment) -> Instant {
    Instant { wall: worker.unix_nanos(moment) / 1_000_000_000, ms: moment.millis() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_of_the_same_origin_are_resolved() {
        let check = |reference: &str, expected: Option<&str>| {
            let invalidate = Invalidate {
                cache: Arc::default(),
                https: false,
                authority: "a.example:8080".to_owned(),
                target: "/x/y?q=1".to_owned(),
            };
            assert_eq!(invalidate.resolve(reference).as_deref(), expected, "{reference}");
        };
        check("http://a.example:8080/z?p", Some("/z?p"));
        check("HTTP://A.example:8080", Some("/"));
        check("http://b.example/z", None);
        check("https://a.example:8080/z", None);
        check("//a.example:8080/z", Some("/z"));
        check("//b.example/z", None);
        check("/z#f", Some("/z"));
        check("z", Some("/x/z"));
        check("./z", Some("/x/z"));
        check("../z?a=b", Some("/z?a=b"));
        check("../../z", Some("/z"));
        check("", Some("/x/y?q=1"));
        check("?p", Some("/x/y?p"));
    }
}
