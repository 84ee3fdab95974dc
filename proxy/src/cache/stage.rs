//! The stage of a route's admission that looks into the store. The last one: what others refuse is not answered from it.
//!
//! Answers from the store, waits for whoever fetches the same, or lets the request pass with a [`Fill`]. What it cannot
//! take, such as a GET with content, passes as if there were no cache.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use sealane_model::decide::HeaderView;

use super::Cache;
use super::directives::RequestDirectives;
use super::entry::{Entry, LinesView};
use super::fill::{self, Fill, Invalidate, Lead, Task};
use super::flight::{Flight, Landing};
use super::key::{self, KeyRef, Parts, has_credentials};
use super::policy::{Asker, Use};
use super::rules::CompiledRule;
use super::serve::{self, Forward, How};
use crate::admission::edits::FieldEdits;
use crate::admission::{Edits, Seen, Step, Then};
use crate::answer::Local;
use crate::balance::fnv;
use crate::error::Category;
use crate::exchange::refresh;
use crate::http1::field::{FieldView, Fields, Known, KnownSet, NameHints};
use crate::http1::framing::Framing;
use crate::http1::request_head::RequestHead;
use crate::http1::write;
use crate::record::Record;
use crate::request::{self, Request, decide_head};
use crate::timer::{Timer, ticks};
use crate::view::View;
use crate::worker::Worker;

/// The rules of a route.
#[derive(Debug)]
pub(crate) struct CacheStage {
    route: usize,
    /// By their number in the config.
    rules: Vec<Option<Arc<CompiledRule>>>,
    /// Where hooks may want answers kept: for requests that no rule takes.
    by_hooks: Option<Arc<CompiledRule>>,
}

/// A request's fields as an endpoint sees them: without what `Connection` names, with what stages changed.
struct AsForwarded<'a> {
    bytes: &'a [u8],
    fields: &'a Fields,
    edits: &'a FieldEdits,
    sent: NameHints,
    /// A name begins with x or f.
    may_be_taken: bool,
}

impl HeaderView for AsForwarded<'_> {
    fn any_value(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        let sent = self.sent.may_have(name.as_bytes())
            && self.fields.lines().iter().any(|field| {
                field.known != Known::Dropped
                    && field.name.of_bytes(self.bytes).eq_ignore_ascii_case(name.as_bytes())
                    && !self.edits.removes(name.as_bytes())
                    && test(field.value.of_bytes(self.bytes))
            });
        sent || LinesView(self.edits.lines()).any_value(name, test)
    }
}

impl<'a> AsForwarded<'a> {
    fn new(bytes: &'a [u8], fields: &'a Fields, edits: &'a FieldEdits) -> Self {
        let mut sent = NameHints::default();
        let mut may_be_taken = !edits.lines().is_empty();
        for field in fields.lines() {
            let name = field.name.of_bytes(bytes);
            sent.add(name);
            may_be_taken |= name.first().is_some_and(|first| key::TAKEN_INITIALS.contains(&(first | 0x20)));
        }
        Self { bytes, fields, edits, sent, may_be_taken }
    }

    fn copy(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes.len().min(4096));
        for field in self.fields.lines() {
            let name = field.name.of_bytes(self.bytes);
            if !KnownSet::HOP_BY_HOP.contains(field.known) && !self.edits.removes(name) {
                write::field(&mut out, name, field.value.of_bytes(self.bytes));
            }
        }
        out.extend_from_slice(self.edits.lines());
        out
    }
}

impl CacheStage {
    /// `None`: no rule may hold for the route.
    pub(crate) fn new(
        route: usize,
        rules: Vec<Option<Arc<CompiledRule>>>,
        by_hooks: Option<Arc<CompiledRule>>,
    ) -> Option<Self> {
        (rules.iter().any(Option::is_some) || by_hooks.is_some()).then_some(Self { route, rules, by_hooks })
    }

    /// The rules that may hold.
    pub(crate) fn rules(&self) -> impl Iterator<Item = &Arc<CompiledRule>> {
        self.rules.iter().chain([&self.by_hooks]).flatten()
    }

    /// Looks the request up.
    pub(crate) fn admit(&self, seen: &Seen<'_>, edits: &mut Edits) -> Step {
        let Some(mut rule) = self.rule(seen).or(self.by_hooks.as_ref()) else { return Step::Continue };
        let head = seen.request.head;
        if is_unsafe(head.method) {
            return Step::Continue;
        }
        let is_get = head.method == "GET";
        let taken = (is_get && rule.takes_get) || (head.method == "HEAD" && rule.takes_head);
        if !taken {
            return bypass(edits, Forward::Method, false);
        }
        let request = AsForwarded::new(seen.request.bytes, seen.fields, &edits.request);
        let directives = RequestDirectives::read(&request);
        let partitioned = has_credentials(&request);
        if let Some(by_hooks) = self.by_hooks.as_ref().filter(|_| partitioned && !rule.store.auth_aware) {
            rule = by_hooks;
        }
        let is_plain = head.framing == Framing::Empty
            && !head.upgrade
            && !head.authority.is_empty()
            && !directives.no_store
            && (rule.store.auth_aware || !partitioned)
            && !request.any_value("if-match", &mut |_| true)
            && !request.any_value("if-unmodified-since", &mut |_| true);
        if !is_plain {
            return bypass(edits, Forward::Bypass, directives.only_if_cached);
        }
        let worker = seen.worker;
        let cache = &worker.shared.cache;
        let mut key = worker.take_buffer();
        let uri_end = self.parts(seen, edits, rule, &request).write(&mut key);
        let asked = fill::at(worker, seen.record.started);
        let mut found = cache.store.find(KeyRef { bytes: &key, uri_end }, &request);
        let verdict = found.entry.as_ref().map(|entry| entry.policy.judge(&directives, asked.ms, rule.stale_ms));
        if let (Some(entry), Some(verdict)) = (&found.entry, verdict)
            && let Some(how) = how(verdict, entry)
        {
            worker.cells.cache_hits.add(1);
            let served = serve::serve(entry, &request, is_get, how, asked.ms, asked.wall);
            if verdict == Use::ServeAndRefresh && found.flight.is_none() {
                let fill = Fill {
                    cache: Arc::clone(cache),
                    rule: Arc::clone(rule),
                    key: Arc::from(&key[..]),
                    uri_end,
                    stamp: cache.stamp(&key[..uri_end]),
                    request: request.copy(),
                    directives: RequestDirectives::default(),
                    asker: Asker { partitioned, has_origin: request.any_value("origin", &mut |_| true) },
                    asked,
                    is_get: true,
                    forward: Forward::Stale,
                    stale: Some(Arc::clone(entry)),
                    validates: false,
                    lead: None,
                };
                self.refresh(seen, edits, fill);
            }
            worker.give_buffer(key);
            edits.notes.cache = if how == How::Hit { "hit" } else { "stale" };
            return Step::Answer(Box::new(fill::local(served)));
        }
        // What a hook wanted kept is of no use once its time is over.
        found.entry = found.entry.filter(|entry| !entry.by_hook);
        if directives.only_if_cached {
            worker.give_buffer(key);
            return bypass(edits, Forward::Request, true);
        }
        worker.cells.cache_misses.add(1);
        let forward = match verdict {
            Some(Use::Refused) => Forward::Request,
            Some(_) => Forward::Stale,
            None if found.has_others => Forward::VaryMiss,
            None => Forward::Miss,
        };
        let shared_key: Arc<[u8]> = Arc::from(&key[..]);
        let stamp = cache.stamp(&key[..uri_end]);
        worker.give_buffer(key);
        let has_range = request.any_value("range", &mut |_| true);
        let is_conditional =
            request.any_value("if-none-match", &mut |_| true) || request.any_value("if-modified-since", &mut |_| true);
        let fill = Fill {
            cache: Arc::clone(cache),
            rule: Arc::clone(rule),
            key: Arc::clone(&shared_key),
            uri_end,
            stamp,
            request: request.copy(),
            directives,
            asker: Asker { partitioned, has_origin: request.any_value("origin", &mut |_| true) },
            asked,
            is_get,
            forward,
            stale: found.entry,
            validates: false,
            lead: None,
        };
        let may_wait = is_get && !has_range && forward != Forward::Request && cache.may_share(&shared_key, asked.ms);
        let Some(patience) = rule.coalesce.filter(|_| may_wait) else {
            return go(edits, fill, "miss");
        };
        // All waits of a request together.
        let deadline = seen.record.started.tick() + ticks(patience) + 1;
        let flight = Arc::new(Flight::default());
        let leads = !is_conditional || fill.stale.is_some();
        let there = match found.flight {
            Some(there) => Some(there),
            None if leads => cache.store.join(KeyRef { bytes: &shared_key, uri_end }, &shared_key, &flight),
            None => None,
        };
        match there {
            Some(there) if worker.wheel.now() < deadline && there.join() => {
                let wait = wait(Rc::clone(worker), Rc::clone(&seen.record.view), self.route, there, fill, deadline);
                Step::Wait(Box::pin(wait))
            }
            Some(_) => go(edits, fill, "coalesce_breakaway"),
            None if leads => {
                let lead = Lead { cache: Arc::clone(cache), key: shared_key, uri_end, flight, silent: true };
                go(edits, Fill { lead: Some(lead), ..fill }, "miss")
            }
            None => go(edits, fill, "miss"),
        }
    }

    /// Fetches the answer anew in the background, unless somebody does already.
    fn refresh(&self, seen: &Seen<'_>, edits: &Edits, mut fill: Fill) {
        let worker = seen.worker;
        let flight = Arc::new(Flight::default());
        let key = KeyRef { bytes: &fill.key, uri_end: fill.uri_end };
        if fill.cache.store.join(key, &fill.key, &flight).is_some() {
            return;
        }
        let (cache, key) = (Arc::clone(&fill.cache), Arc::clone(&fill.key));
        fill.lead = Some(Lead { cache, key, uri_end: fill.uri_end, flight, silent: true });
        let request = seen.request;
        // Also for HEAD the content is fetched: that is what is stored.
        let head = RequestHead { method: "GET", ..*request.head };
        let request = Request { head: &head, ..*request };
        let view = Rc::clone(&seen.record.view);
        let mut own = worker.take_edits();
        own.request.merge(&edits.request);
        own.target = edits.target.clone();
        own.hooked = edits.hooked.clone();
        for name in ["If-None-Match", "If-Modified-Since", "Range", "If-Range"] {
            own.request.remove(name.as_bytes());
        }
        prepare(&mut own, fill, "");
        let mut fields = seen.fields.clone();
        let described = Some((&head, request.bytes, &fields));
        let compiled = &seen.record.view.snapshot.routes[self.route];
        let mut record = Record::begin(worker, view, request.peer, request.client, described);
        record.route = Some(self.route);
        record.target = edits.pool.and_then(|pool| compiled.target_of(pool)).unwrap_or(0);
        let Ok(picked) = request::pick(worker, &mut record, self.route, &request, seen.fields) else { return };
        record.edits = Some(own);
        refresh::start(worker, record, self.route, picked, &request, &mut fields);
    }

    fn rule(&self, seen: &Seen<'_>) -> Option<&Arc<CompiledRule>> {
        let view = &seen.record.view;
        let headers = FieldView { bytes: seen.request.bytes, fields: seen.fields };
        let mut scratch = view.scratch.borrow_mut();
        let number = view.snapshot.table.cache_rule(self.route, &decide_head(seen.request, &headers), &mut scratch)?;
        self.rules.get(number)?.as_ref()
    }

    fn parts<'a>(
        &self,
        seen: &Seen<'a>,
        edits: &Edits,
        rule: &'a CompiledRule,
        headers: &'a AsForwarded<'a>,
    ) -> Parts<'a, AsForwarded<'a>> {
        let head = seen.request.head;
        Parts {
            https: is_https(seen.request),
            authority: head.authority,
            path: head.path,
            query: head.query,
            fingerprint: rule.fingerprint,
            // Another pool may answer otherwise.
            variant: edits.pool.map_or(0, |pool| fnv(seen.record.view.snapshot.pools[pool].id.as_bytes())),
            auth_aware: rule.store.auth_aware,
            vary: &rule.vary,
            trusted_peer: seen.request.client.trusted_peer,
            may_be_taken: headers.may_be_taken,
            headers,
        }
    }
}

/// How a stored answer is served; `None`: not without the origin.
fn how(verdict: Use, entry: &Arc<Entry>) -> Option<How> {
    let how = match verdict {
        Use::Serve => How::Hit,
        Use::ServeStale | Use::ServeAndRefresh => How::Stale,
        Use::Stale | Use::Refused => return None,
    };
    entry.take_hit().then_some(how)
}

fn is_https(request: &Request<'_>) -> bool {
    request.peer.tls.is_some()
}

/// Passes with a fill, and with the validators of what is stored (RFC 9111 §4.3.1).
fn go(edits: &mut Edits, fill: Fill, note: &'static str) -> Step {
    prepare(edits, fill, note);
    Step::Continue
}

fn prepare(edits: &mut Edits, mut fill: Fill, note: &'static str) {
    if fill.is_get
        && let Some(stale) = fill.stale.as_ref().filter(|stale| stale.body.length().is_some())
    {
        let mut validator = |stored: &str, sent: &str| {
            stale.head().any_value(stored, &mut |value| {
                if !fill.validates {
                    for name in ["If-None-Match", "If-Modified-Since", "Range", "If-Range"] {
                        edits.request.remove(name.as_bytes());
                    }
                }
                fill.validates = true;
                edits.request.add(sent.as_bytes(), value);
                true
            });
        };
        validator("etag", "If-None-Match");
        validator("last-modified", "If-Modified-Since");
    }
    edits.request.add(b"Surrogate-Capability", b"sealane=\"Surrogate/1.0\"");
    edits.notes.cache = note;
    edits.cache = Some(Box::new(Task::Fill(fill)));
}

fn bypass(edits: &mut Edits, forward: Forward, only_if_cached: bool) -> Step {
    edits.notes.cache = "bypass";
    if only_if_cached {
        // RFC 9111 §5.2.1.7
        edits.response.add(b"Cache-Status", b"sealane; detail=only-if-cached");
        return Step::Answer(Box::new(Local::refusal(Category::NotCached, "")));
    }
    let line = serve::forwarded_line(forward);
    for (name, value, _) in LinesView(&line).lines() {
        edits.response.add(name, value);
    }
    Step::Continue
}

/// Counts somebody who waits.
struct Waiter(Rc<View>, usize, Rc<Worker>);

impl Waiter {
    fn start(view: Rc<View>, route: usize, worker: Rc<Worker>) -> Self {
        view.lane(Some(route), 0, &worker).cache_waiters.add(1);
        Self(view, route, worker)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.lane(Some(self.1), 0, &self.2).cache_waiters.subtract(1);
    }
}

/// Waits until it is known whether somebody else's answer can be shared.
async fn wait(
    worker: Rc<Worker>,
    view: Rc<View>,
    route: usize,
    flight: Arc<Flight>,
    fill: Fill,
    deadline: u64,
) -> Then {
    let waiter = Waiter::start(view, route, Rc::clone(&worker));
    let timer = Timer::new(Rc::clone(&worker.wheel));
    let landing = poll_fn(|cx| {
        if let Poll::Ready(landing) = flight.poll_landing(cx) {
            return Poll::Ready(Some(landing));
        }
        if worker.wheel.now() >= deadline {
            return Poll::Ready(None);
        }
        timer.arm(cx, deadline);
        Poll::Pending
    })
    .await;
    drop(waiter);
    let mut edits = worker.take_edits();
    match landing {
        Some(Landing::Shared(entry)) if entry.selected.fits(&LinesView(&fill.request)) => {
            entry.used.store(true, Ordering::Relaxed);
            let now = fill::now(&worker);
            let served = serve::serve(&entry, &LinesView(&fill.request), fill.is_get, How::Collapsed, now.ms, now.wall);
            edits.notes.cache = "coalesce_follower";
            Then::Answer(edits, Box::new(fill::local(served)))
        }
        Some(Landing::Abandoned) => {
            worker.give_edits(edits);
            Then::Again
        }
        Some(Landing::Shared(_) | Landing::NotShared) | None => {
            prepare(&mut edits, fill, "coalesce_breakaway");
            Then::Continue(edits)
        }
    }
}

/// Methods that may change what they are asked of (RFC 9110 §9.2.1): all but the safe ones.
fn is_unsafe(method: &str) -> bool {
    !matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE")
}

/// What an unsafe request may make untrue, whatever route it goes.
pub(crate) fn invalidation(cache: &Arc<Cache>, request: &Request<'_>) -> Option<Box<Task>> {
    let head = request.head;
    is_unsafe(head.method).then(|| {
        let query = head.query.map_or_else(String::new, |query| format!("?{query}"));
        Box::new(Task::Invalidate(Invalidate {
            cache: Arc::clone(cache),
            https: is_https(request),
            authority: head.authority.to_owned(),
            target: format!("{}{query}", head.path),
        }))
    })
}
