//! The life of a request from its head to its first attempt, one function per phase, in order:
//! judge the head → see the snapshot → match a route → check what the route asks for → run its stages → pick an endpoint →
//! write the head for it and send. All of it happens in the poll that read the head, unless a stage waits: then the
//! connection's task waits with it ([`Begun::Suspended`]), and [`resume`] goes on.
//!
//! What follows (the answer, the bodies, further attempts) is [`crate::exchange`]; the end is [`crate::record`].

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;

use sealane_model::config::{Balancer, HashKey};
use sealane_model::decide::{self, Decision, HeaderView as _};

use crate::admin;
use crate::admission::{Admitted, Suspended, Then};
use crate::answer::{self, Local, Manner, Refusal, Streamed};
use crate::balance::{NoEndpoint, Pick, fnv, mix};
use crate::breaker::{Permit, State};
use crate::cache;
use crate::clock::Moment;
use crate::connection::{After, Peer};
use crate::error::Category;
use crate::exchange::{Exchange, Slot};
use crate::exposition;
use crate::forwarded::{self, Client};
use crate::http1::field::{FieldView, Fields};
use crate::http1::framing::Framing;
use crate::http1::request_head::{RequestFault, RequestHead};
use crate::record::Record;
use crate::snapshot::{CompiledListener, CompiledRoute};
use crate::trace::Trace;
use crate::view::{ThreadBreaker, View};
use crate::worker::Worker;

/// What came of the bytes at hand.
#[derive(Debug)]
pub(crate) enum Begun {
    /// The head is not complete.
    Partial,
    /// The request is on its way.
    Forwarded(Slot),
    /// The proxy answers itself.
    Answered(Box<Answer>),
    /// A stage waits. The bytes were not taken: they are wanted again, by [`resume`].
    Suspended(Box<Suspended>),
}

/// An answer of the proxy's own.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) record: Record,
    /// The head, and the content if it is whole.
    pub(crate) bytes: Vec<u8>,
    /// The content, if it comes in pieces.
    pub(crate) content: Option<Streamed>,
    pub(crate) after: After,
}

/// A parsed request and where it came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) head: &'a RequestHead<'a>,
    pub(crate) peer: &'a Peer,
    pub(crate) client: Client,
}

/// Begins the request at the start of `bytes`. Returns how many of them it took.
pub(crate) fn begin(cx: &mut Context<'_>, worker: &Rc<Worker>, peer: &Peer, bytes: &[u8]) -> (Begun, usize) {
    let Some(view) = worker.view() else { return (Begun::Partial, 0) };
    let mut fields = worker.fields.borrow_mut();
    let fields = &mut *fields;
    let head = match RequestHead::parse(bytes, &view.snapshot.head_limits, fields) {
        Ok(Some(head)) => head,
        Ok(None) => return (Begun::Partial, 0),
        Err(fault) => return (refuse_unread(worker, view, peer, fault), bytes.len()),
    };
    let client = Client::find(peer.ip, &view.snapshot.trusted, bytes, fields);
    let mut record = Record::begin(worker, Rc::clone(&view), peer, client, Some((&head, bytes, fields)));
    let request = Request { bytes, head: &head, peer, client };
    let Some(listener) = view.listener(peer.socket) else {
        // The address is not listened on any more; the client finds its way by a new connection.
        return (answered(worker, record, &request, &Refusal::of(Category::Misdirected)), head.length);
    };
    if forwarded::is_looping(bytes, fields) {
        worker.cells.forwarding_loops.add(1);
        let refusal = Refusal::rule(Category::BadRequest, "the request goes round in circles: see its via");
        return (answered(worker, record, &request, &refusal), head.length);
    }
    if forwarded::forwards_left(head.method, bytes, fields) == Some(0) {
        let manner = Manner::of(&head, worker);
        let bytes = answer_as_last(worker, &request, manner, &mut record);
        return (Begun::Answered(Box::new(Answer { record, bytes, content: None, after: manner.after })), head.length);
    }
    if let Some(bytes) = answer_for_listener(worker, &view, listener, &request, fields, &mut record) {
        let after = Manner::of(&head, worker).after;
        return (Begun::Answered(Box::new(Answer { record, bytes, content: None, after })), head.length);
    }
    let decided = route(&view, &request, fields);
    sample(worker, &view, &record, &request, fields, decided.as_ref().ok().copied());
    match decided.and_then(|route| {
        record.route = Some(route);
        if let Some(trace) = &mut record.trace {
            trace.event("route", "route", &*view.snapshot.routes[route].id);
        }
        check(&view.snapshot.routes[route], &view, &request).map(|()| route)
    }) {
        Ok(route) => pass(cx, worker, record, route, 0, &request, fields),
        Err(refusal) => (answered(worker, record, &request, &refusal), head.length),
    }
}

/// Goes on with a request whose stage waited: `bytes` are those that it began with, and maybe more.
/// Returns how many of them it took.
pub(crate) fn resume(
    cx: &mut Context<'_>,
    worker: &Rc<Worker>,
    peer: &Peer,
    waiting: Suspended,
    then: Then,
    bytes: &[u8],
) -> (Begun, usize) {
    let Suspended { mut record, route, stage, .. } = waiting;
    let view = Rc::clone(&record.view);
    let mut fields = worker.fields.borrow_mut();
    let fields = &mut *fields;
    let head = match RequestHead::parse(bytes, &view.snapshot.head_limits, fields) {
        Ok(Some(head)) => head,
        // It was a head before.
        Ok(None) => return (refuse_unread(worker, view, peer, RequestFault::Malformed("lost head")), bytes.len()),
        Err(fault) => return (refuse_unread(worker, view, peer, fault), bytes.len()),
    };
    let client = Client::find(peer.ip, &view.snapshot.trusted, bytes, fields);
    let request = Request { bytes, head: &head, peer, client };
    let next = match then {
        Then::Continue(later) => {
            record.edit(worker).merge(*later);
            stage + 1
        }
        Then::Again => stage,
        Then::Answer(later, local) => {
            record.edit(worker).merge(*later);
            return (answered_locally(worker, record, &request, *local), head.length);
        }
    };
    // Matching again leaves in the scratch what the path is written from; the route is the same.
    let seen = FieldView { bytes, fields };
    view.snapshot.table.decide(&decide_head(&request, &seen), &mut view.scratch.borrow_mut());
    pass(cx, worker, record, route, next, &request, fields)
}

/// Runs the route's stages from number `stage` on, and forwards.
fn pass(
    cx: &mut Context<'_>,
    worker: &Rc<Worker>,
    mut record: Record,
    route: usize,
    stage: usize,
    request: &Request<'_>,
    fields: &mut Fields,
) -> (Begun, usize) {
    let view = Rc::clone(&record.view);
    if let Some(admission) = &view.snapshot.routes[route].admission {
        if record.trace.is_none() && admission.traces() {
            let seen = (request.head, request.bytes, &*fields);
            record.trace = Some(Trace::begin(&view.snapshot.traces, worker, request.peer, request.client, seen));
        }
        match admission.admit(stage, worker, &mut record, request, fields) {
            Admitted::Yes => {}
            Admitted::Answered(local) => {
                return (answered_locally(worker, record, request, *local), request.head.length);
            }
            Admitted::Waits(stage, wait) => {
                return (Begun::Suspended(Box::new(Suspended::new(record, route, stage, wait, worker))), 0);
            }
        }
    }
    if view.snapshot.caches
        && let Some(task) = cache::stage::invalidation(&worker.shared.cache, request)
    {
        record.edit(worker).cache = Some(task);
    }
    let compiled = &view.snapshot.routes[route];
    let pool = record.edits.as_ref().and_then(|edits| edits.pool);
    record.target = pool.and_then(|pool| compiled.target_of(pool)).unwrap_or(0);
    match pick(worker, &mut record, route, request, fields) {
        Ok(picked) => {
            let mut slot = worker.take_slot();
            let consumed = Exchange::begin(&mut slot, cx, worker, record, route, picked, request, fields);
            (Begun::Forwarded(slot), consumed)
        }
        Err(refusal) => {
            let task = record.edits.as_mut().and_then(|edits| edits.cache.take());
            match task.and_then(|task| task.on_failure(worker)) {
                Some(local) => {
                    record.edit(worker).notes.cache = "stale";
                    (answered_locally(worker, record, request, local), request.head.length)
                }
                None => (answered(worker, record, request, &refusal), request.head.length),
            }
        }
    }
}

/// Answers a request that may not be forwarded any further, as its last recipient (RFC 9110 §7.6.2). TRACE shows what came
/// without the fields, which may be secret (§9.3.8).
fn answer_as_last(worker: &Worker, request: &Request<'_>, manner: Manner, record: &mut Record) -> Vec<u8> {
    let head = request.head;
    if head.method != "TRACE" {
        return answer::ok(worker, record, manner, "text/plain", b"");
    }
    let query = head.query.map_or_else(String::new, |query| format!("?{query}"));
    let seen = format!("TRACE {}{query} HTTP/1.1\r\nHost: {}\r\n\r\n", head.path, head.authority);
    answer::ok(worker, record, manner, "message/http", seen.as_bytes())
}

/// Answers what the listener answers itself: the redirect to https, and metrics where the config serves them here.
fn answer_for_listener(
    worker: &Worker,
    view: &View,
    listener: &CompiledListener,
    request: &Request<'_>,
    fields: &Fields,
    record: &mut Record,
) -> Option<Vec<u8>> {
    let head = request.head;
    let manner = Manner::of(head, worker);
    if listener.redirect_to_https && request.peer.tls.is_none() && !head.authority.is_empty() {
        let host = if head.authority.starts_with('[') { format!("[{}]", head.host()) } else { head.host().to_owned() };
        let port = view.snapshot.https_port.map_or_else(String::new, |port| format!(":{port}"));
        let query = head.query.map_or_else(String::new, |query| format!("?{query}"));
        let location = format!("https://{host}{port}{}{query}", head.path);
        return Some(answer::redirect(worker, record, manner, &location));
    }
    let metrics = &view.snapshot.config.metrics;
    if metrics.enabled && metrics.on_data_plane && head.path == metrics.path && matches!(head.method, "GET" | "HEAD") {
        let mut may_scrape = admin::may_scrape(metrics.token_env.as_deref(), None);
        let headers = FieldView { bytes: request.bytes, fields };
        headers.any_value("authorization", &mut |value| {
            may_scrape |= admin::may_scrape(metrics.token_env.as_deref(), Some(value));
            may_scrape
        });
        if !may_scrape {
            return Some(Refusal::of(Category::Unauthorized).compose(worker, record, manner));
        }
        let mut accept = None;
        headers.any_value("accept", &mut |value| {
            accept = Some(String::from_utf8_lossy(value).into_owned());
            true
        });
        let (content_type, text) = exposition::answer(&worker.shared, accept.as_deref());
        return Some(answer::ok(worker, record, manner, content_type, text.as_bytes()));
    }
    None
}

/// Remembers a few requests a tick.
fn sample(worker: &Worker, view: &View, record: &Record, request: &Request<'_>, fields: &Fields, route: Option<usize>) {
    let samples = &worker.cells.samples;
    if samples.is_due(worker.wheel.now()) {
        let headers = FieldView { bytes: request.bytes, fields };
        let decided = (&view.snapshot.tag.label, route.map(|route| &view.snapshot.routes[route].id));
        samples.keep(record.request_id(), &decide_head(request, &headers), &view.snapshot.compared, decided);
    }
}

/// Matches a route.
fn route<'a>(view: &View, request: &Request<'a>, fields: &Fields) -> Result<usize, Refusal<'a>> {
    match view
        .snapshot
        .table
        .decide(&decide_head(request, &FieldView { bytes: request.bytes, fields }), &mut view.scratch.borrow_mut())
    {
        Decision::Route(route) => Ok(route),
        Decision::NoRoute => Err(Refusal { path: Some(request.head.path), ..Refusal::of(Category::NoRoute) }),
        Decision::BadPath => Err(Refusal::rule(Category::BadRequest, "invalid path")),
    }
}

/// A request head as decisions look at it.
pub(crate) fn decide_head<'a>(request: &Request<'a>, headers: &'a FieldView<'a>) -> decide::RequestHead<'a> {
    let head = request.head;
    decide::RequestHead { method: head.method, host: head.host(), path: head.path, query: head.query, headers }
}

/// Checks what the route asks of the connection and of the body's announced size.
fn check<'a>(route: &CompiledRoute, view: &View, request: &Request<'a>) -> Result<(), Refusal<'a>> {
    let tls = request.peer.tls.as_deref();
    if route.require_tls && tls.is_none() {
        return Err(Refusal::of(Category::TlsRequired));
    }
    if route.require_mtls {
        let Some(tls) = tls else { return Err(Refusal::of(Category::MtlsRequired)) };
        // A certificate shown for one host is not carried over to another. A client that reuses a connection finds its
        // way to one of its own, where it can show its certificate.
        if !tls.server_name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(request.head.host())) {
            return Err(Refusal::of(Category::Misdirected));
        }
        let key = view.snapshot.tls.as_ref().map(|tls| tls.client_ca_key);
        if !tls.certificate || Some(tls.client_ca_key) != key {
            return Err(Refusal::of(Category::MtlsRequired));
        }
    }
    match request.head.framing {
        Framing::Length(length) if length > route.body_bytes_max => Err(Refusal::of(Category::RequestTooLarge)),
        _ => Ok(()),
    }
}

/// Where a request goes first.
#[derive(Debug)]
pub(crate) struct Picked {
    /// The breaker's leave, where there is a breaker.
    pub(crate) leave: Option<Permit<ThreadBreaker>>,
    pub(crate) pool: usize,
    pub(crate) endpoint: usize,
    /// What the pool's balancer looks at in the request.
    pub(crate) hash: u64,
}

/// Picks an endpoint of the pool with this number.
pub(crate) fn pick<'a>(
    worker: &Worker,
    record: &mut Record,
    route: usize,
    request: &Request<'a>,
    fields: &Fields,
) -> Result<Picked, Refusal<'a>> {
    let view = Rc::clone(&record.view);
    let target = &view.snapshot.routes[route].targets[record.target];
    let pool = &view.snapshot.pools[target.pool];
    let leave = take_leave(worker, record, route).map_err(|open_for_ms| {
        let circuit = Some((Arc::clone(&pool.id), open_for_ms.div_ceil(1000).max(1)));
        Refusal { circuit, ..Refusal::of(Category::CircuitOpen) }
    })?;
    let hash = match &pool.balancer {
        Balancer::IpHash => match request.client.ip {
            std::net::IpAddr::V4(ip) => fnv(&ip.octets()),
            std::net::IpAddr::V6(ip) => fnv(&ip.octets()),
        },
        Balancer::ConsistentHash(key) => hash_of(key, &FieldView { bytes: request.bytes, fields }),
        _ => 0,
    };
    let random =
        if matches!(pool.balancer, Balancer::RoundRobin | Balancer::WeightedRoundRobin) { 0 } else { worker.random() };
    let hash = if hash == 0 { mix(random) } else { hash };
    let pick = Pick {
        rotation: &target.rotation,
        now: Moment::of_tick(worker.wheel.now()),
        random,
        hash,
        tried: &[],
        trickled: Cell::default(),
    };
    let picked = pick.endpoint(pool);
    record.outlier_ignored = pick.trickled.get();
    match picked {
        Ok(endpoint) => Ok(Picked { leave, pool: target.pool, endpoint, hash }),
        Err(NoEndpoint::NoneHealthy | NoEndpoint::AllTried) => Err(Refusal::of(Category::NoHealthyUpstream)),
    }
}

/// Asks the breaker of the record's target for the leave to make an attempt; `None`: there is no breaker.
///
/// # Errors
/// It is open, for so many milliseconds.
pub(crate) fn take_leave(
    worker: &Worker,
    record: &mut Record,
    route: usize,
) -> Result<Option<Permit<ThreadBreaker>>, u64> {
    let view = Rc::clone(&record.view);
    let Some((compiled, breaker)) = view.breaker(route, record.target) else { return Ok(None) };
    let now_ms = Moment::of_tick(worker.wheel.now()).millis();
    let leave = Permit::take(breaker.clone(), compiled.plan, now_ms);
    record.breaker = match &leave {
        None => State::Open,
        Some(leave) if leave.is_probe() => State::HalfOpen,
        Some(_) => State::Closed,
    };
    match leave {
        None => Err(compiled.live.look(&compiled.plan, now_ms).open_for_ms),
        leave => Ok(leave),
    }
}

/// The hash of a header's or cookie's value; 0 without one.
fn hash_of(key: &HashKey, headers: &FieldView<'_>) -> u64 {
    let mut hash = 0;
    match key {
        HashKey::Header(name) => headers.any_value(name, &mut |value| {
            hash = fnv(value);
            true
        }),
        HashKey::Cookie(name) => headers.any_value("cookie", &mut |value| {
            let pairs = value.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
            let found = pairs.filter_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")).next();
            hash = found.map_or(0, fnv);
            found.is_some()
        }),
    };
    hash
}

fn answered(worker: &Worker, mut record: Record, request: &Request<'_>, refusal: &Refusal<'_>) -> Begun {
    let mut manner = Manner::of(request.head, worker);
    if refusal.category == Category::Misdirected {
        manner.after = After::Linger;
    }
    let bytes = refusal.compose(worker, &mut record, manner);
    Begun::Answered(Box::new(Answer { record, bytes, content: None, after: manner.after }))
}

fn answered_locally(worker: &Worker, mut record: Record, request: &Request<'_>, local: Local) -> Begun {
    let (bytes, content, after) = local.compose(worker, &mut record, Manner::of(request.head, worker));
    Begun::Answered(Box::new(Answer { record, bytes, content, after }))
}

/// Refuses a request whose head cannot be believed; the connection ends.
fn refuse_unread(worker: &Worker, view: Rc<View>, peer: &Peer, fault: RequestFault) -> Begun {
    let refusal = match fault {
        RequestFault::Malformed(rule) => Refusal::rule(Category::BadRequest, rule),
        RequestFault::TargetTooLong => Refusal::of(Category::UriTooLong),
        RequestFault::HeadersTooLarge => Refusal::of(Category::HeadersTooLarge),
    };
    Begun::Answered(refuse_early(worker, view, peer, &refusal))
}

/// Refuses before there is a head.
pub(crate) fn refuse_early(worker: &Worker, view: Rc<View>, peer: &Peer, refusal: &Refusal<'_>) -> Box<Answer> {
    let client = Client { ip: peer.ip, trusted_peer: false };
    let mut record = Record::begin(worker, view, peer, client, None);
    let bytes = refusal.compose(worker, &mut record, Manner::LAST);
    Box::new(Answer { record, bytes, content: None, after: After::Linger })
}
