//! What is known of a request once it is over: its counts and its line in the access log.
//!
//! The facts of the request head are put into words while the head is at hand; the rest is added at the end.

use std::rc::Rc;

use sealane_model::config::LogFormat;
use sealane_model::decide::HeaderView as _;
use sealane_model::latency;

use crate::access_log::{LogPlan, Redacted, json_string, json_value};
use crate::admission::Edits;
use crate::admission::edits::{Notes, PluginNotes};
use crate::breaker::State;
use crate::clock::{Civil, Moment, digits};
use crate::connection::Peer;
use crate::error::{Category, Fault};
use crate::forwarded::{Client, is_request_id};
use crate::http1::field::{FieldView, Fields, Known};
use crate::http1::framing::Version;
use crate::http1::request_head::RequestHead;
use crate::http1::write::decimal;
use crate::metrics::{CACHE_RESULTS, DURATION_EDGES_US, RETRY_REASONS, SIZE_EDGES};
use crate::tap::Seen;
use crate::trace::{Trace, TraceContext, write_hex};
use crate::view::View;
use crate::worker::Worker;

/// A request and what became of it.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) view: Rc<View>,
    pub(crate) started: Moment,
    pub(crate) route: Option<usize>,
    /// Which of the route's targets took it.
    pub(crate) target: usize,
    /// Pool and endpoint of the last attempt.
    pub(crate) endpoint: Option<(usize, usize)>,
    pub(crate) status: u16,
    /// Why the proxy answered, or gave up, itself.
    pub(crate) reason: Option<Category>,
    pub(crate) attempts: u8,
    /// Why it was sent again the last time, by its place in [`RETRY_REASONS`].
    pub(crate) retry_reason: Option<usize>,
    /// It would have been sent again, but for the budget.
    pub(crate) retry_budget_exhausted: bool,
    /// It was sent although no endpoint was healthy.
    pub(crate) outlier_ignored: bool,
    /// What the breaker let through when the last attempt asked; closed where there is none.
    pub(crate) breaker: State,
    /// Content bytes.
    pub(crate) request_bytes: u64,
    /// Content bytes.
    pub(crate) response_bytes: u64,
    /// From the last attempt's connection to its response head.
    pub(crate) upstream_us: Option<u64>,
    /// What the route's stages want; `None`: nothing.
    pub(crate) edits: Option<Box<Edits>>,
    /// What its trace will show; `None`: nothing.
    pub(crate) trace: Option<Box<Trace>>,
    /// What those who watch will see; `None`: nobody watches.
    watched: Option<Box<Watched>>,
    /// The request id, then two pieces of the line.
    facts: Vec<u8>,
    id_end: usize,
    piece_end: usize,
}

/// The head of a request that somebody watches.
#[derive(Debug, Default)]
struct Watched {
    host: String,
    path: String,
    /// The two pieces of its line.
    facts: Vec<u8>,
    piece_end: usize,
}

impl Record {
    /// Starts a record, and gives the request its id: the one that a trusted peer sent, or a new one.
    pub(crate) fn begin(
        worker: &Worker,
        view: Rc<View>,
        peer: &Peer,
        client: Client,
        request: Option<(&RequestHead<'_>, &[u8], &Fields)>,
    ) -> Self {
        let mut facts = worker.take_buffer();
        let sent_id = request.filter(|_| client.trusted_peer).and_then(|(_, bytes, fields)| {
            let id = fields.first(Known::XRequestId)?.value.of_bytes(bytes);
            is_request_id(id).then_some(id)
        });
        match sent_id {
            Some(id) => facts.extend_from_slice(id),
            None => facts.extend_from_slice(&random_id(worker)),
        }
        let mut record = Self {
            view,
            started: Moment::now(),
            route: None,
            target: 0,
            breaker: State::Closed,
            endpoint: None,
            status: 0,
            reason: None,
            attempts: 0,
            retry_reason: None,
            retry_budget_exhausted: false,
            outlier_ignored: false,
            request_bytes: 0,
            response_bytes: 0,
            upstream_us: None,
            edits: None,
            trace: None,
            watched: None,
            id_end: facts.len(),
            piece_end: facts.len(),
            facts,
        };
        let traces = &record.view.snapshot.traces;
        if traces.exporter.is_some()
            && let Some(request) = request
        {
            record.trace = Some(Trace::begin(traces, worker, peer, client, request));
        }
        if worker.shared.taps.is_on() {
            record.watch(peer, client, request);
        }
        let plan = &record.view.snapshot.log;
        if plan.is_on() {
            match plan.format {
                LogFormat::Json => {
                    let mut facts = std::mem::take(&mut record.facts);
                    record.piece_end = record.write_json_facts(&mut facts, peer, client, request);
                    record.facts = facts;
                }
                LogFormat::Text => record.write_text_facts(peer, client, request),
            }
        }
        record
    }

    pub(crate) fn request_id(&self) -> &[u8] {
        &self.facts[..self.id_end]
    }

    /// Gives the request another id: a well-formed one, of at most 128 bytes.
    pub(crate) fn set_request_id(&mut self, id: &[u8]) {
        self.facts.splice(..self.id_end, id.iter().copied());
        self.piece_end = self.piece_end - self.id_end + id.len();
        self.id_end = id.len();
    }

    /// What the route's stages want, to add to it.
    pub(crate) fn edit(&mut self, worker: &Worker) -> &mut Edits {
        self.edits.get_or_insert_with(|| worker.take_edits())
    }

    /// The request is over: counts it and writes its line.
    pub(crate) fn finish(&mut self, worker: &Worker, now: Moment) {
        let duration_us = now.micros_since(self.started);
        let lane = self.view.lane(self.route, self.target, worker);
        lane.status(self.status).add(1);
        lane.duration_us.record(&DURATION_EDGES_US, duration_us);
        lane.last.0.set(now.nanos());
        lane.last.1.set(duration_us);
        lane.request_bytes.record(&SIZE_EDGES, self.request_bytes);
        lane.response_bytes.record(&SIZE_EDGES, self.response_bytes);
        if let Some(note) = self.edits.as_ref().map(|edits| edits.notes.cache).filter(|note| !note.is_empty())
            && let Some(place) = CACHE_RESULTS.iter().position(|result| *result == note)
        {
            lane.cache[place].add(1);
        }
        let revision = &self.view.revision;
        revision.requests.add(1);
        revision.latency[latency::bucket(duration_us)].add(1);
        let proxy_failed = self.reason.is_some_and(|reason| reason.fault() != Fault::Downstream);
        // Whoever asks only for what is stored takes that there may be nothing.
        let asked_for = self.reason == Some(Category::NotCached);
        if (self.status >= 500 && !asked_for) || proxy_failed {
            revision.failed.add(1);
        } else if self.status >= 400 {
            revision.client_errors.add(1);
        }
        self.count_variant(worker, duration_us);
        if let Some(reason) = self.reason {
            worker.cells.refused[reason as usize].add(1);
            lane.refused[reason as usize].add(1);
        }
        if let Some(watched) = self.watched.take() {
            self.show(&watched, worker, duration_us, now);
        }
        let plan = &self.view.snapshot.log;
        let unlogged = self.status < 500 && self.edits.as_ref().is_some_and(|edits| edits.unlogged);
        if plan.is_on() && !unlogged {
            worker.log_line(plan, |out| match plan.format {
                LogFormat::Json => {
                    let (first, last) = self.facts[self.id_end..].split_at(self.piece_end - self.id_end);
                    self.write_json(out, worker, duration_us, first, last);
                }
                LogFormat::Text => self.write_text(out, worker),
            });
        }
        if let Some(trace) = self.trace.take() {
            trace.finish(worker, self, now);
        }
        worker.give_buffer(std::mem::take(&mut self.facts));
        if let Some(edits) = self.edits.take() {
            worker.give_edits(edits);
        }
    }

    /// Tells the route's traffic plan how a request that was sent to a side ended.
    fn count_variant(&self, worker: &Worker, duration_us: u64) {
        let Some(route) = self.route.map(|route| &self.view.snapshot.routes[route]) else { return };
        let Some(traffic) = &route.traffic else { return };
        let refused_by_side = matches!(self.reason, Some(Category::CircuitOpen | Category::NoHealthyUpstream));
        if self.attempts == 0 && !refused_by_side {
            return;
        }
        let variant = traffic.split.variant_of(route.targets[self.target].pool);
        let error = self.status >= 500 || self.reason.is_some_and(|reason| reason.fault() == Fault::Upstream);
        let latency_us = self.upstream_us.unwrap_or(duration_us);
        traffic.live.count(worker.index, variant, error, latency_us);
    }

    /// Puts the head into words for those who watch.
    #[cold]
    fn watch(&mut self, peer: &Peer, client: Client, request: Option<(&RequestHead<'_>, &[u8], &Fields)>) {
        let mut watched = Box::<Watched>::default();
        if let Some((head, ..)) = request {
            head.host().clone_into(&mut watched.host);
            head.path.clone_into(&mut watched.path);
        }
        watched.piece_end = self.write_json_facts(&mut watched.facts, peer, client, request);
        self.watched = Some(watched);
    }

    /// Shows the request to those who watch and want it.
    #[cold]
    fn show(&self, watched: &Watched, worker: &Worker, duration_us: u64, now: Moment) {
        let snapshot = &self.view.snapshot;
        let route = self.route.map(|route| &snapshot.routes[route]);
        let seen = Seen {
            route: route.map_or("", |route| &*route.id),
            pool: route.map_or("", |route| &*snapshot.pools[route.targets[self.target].pool].id),
            status: self.status,
            host: &watched.host,
            path: &watched.path,
            duration_us,
        };
        let (first, last) = watched.facts.split_at(watched.piece_end);
        worker.shared.taps.show(&seen, now.millis(), |out| self.write_json(out, worker, duration_us, first, last));
    }

    /// The two pieces of a JSON line that the head knows; gives where the first one ends.
    fn write_json_facts(
        &self,
        facts: &mut Vec<u8>,
        peer: &Peer,
        client: Client,
        request: Option<(&RequestHead<'_>, &[u8], &Fields)>,
    ) -> usize {
        let plan = &self.view.snapshot.log;
        facts.extend_from_slice(b",\"method\":");
        json_string(facts, request.map_or("", |(head, ..)| head.method));
        facts.extend_from_slice(b",\"path\":");
        json_string(facts, request.map_or("", |(head, ..)| head.path));
        if let Some(query) = request.and_then(|(head, ..)| head.query) {
            facts.pop();
            if plan.redact_query {
                facts.extend_from_slice(b"?<redacted>\"");
            } else {
                let end = facts.len();
                json_string(facts, query);
                facts[end] = b'?';
            }
        }
        facts.extend_from_slice(b",\"host\":");
        json_string(facts, request.map_or("", |(head, ..)| head.host()));
        let piece_end = facts.len();
        facts.extend_from_slice(b",\"remote_addr\":\"");
        write_client(facts, peer, client);
        facts.extend_from_slice(if peer.tls.is_some() { b"\",\"tls\":true" } else { b"\",\"tls\":false" });
        if peer.tls.as_ref().is_some_and(|tls| tls.certificate) {
            facts.extend_from_slice(b",\"mtls_verified\":true");
        }
        if let Some((_, bytes, fields)) = request {
            if let Some(agent) = fields.first(Known::UserAgent) {
                facts.extend_from_slice(b",\"user_agent\":");
                let agent = agent.value.of_bytes(bytes);
                json_value(facts, if plan.redact_agent { REDACTED } else { agent });
            }
            if !plan.headers.is_empty() {
                write_headers(facts, plan, &FieldView { bytes, fields });
            }
        }
        facts.extend_from_slice(b",\"trace_id\":\"");
        if let Some((_, bytes, fields)) = request
            && self.trace.is_none()
            && let Some(context) =
                fields.first(Known::Traceparent).and_then(|field| TraceContext::parse(field.value.of_bytes(bytes)))
        {
            write_hex(facts, &context.trace_id);
        }
        piece_end
    }

    fn write_json(&self, out: &mut Vec<u8>, worker: &Worker, duration_us: u64, first: &[u8], last: &[u8]) {
        let snapshot = &self.view.snapshot;
        let unix_nanos = worker.unix_nanos(self.started);
        out.extend_from_slice(b"{\"timestamp\":\"");
        Civil::of_unix(unix_nanos / 1_000_000_000).write_rfc3339(out);
        out.push(b'.');
        digits(out, unix_nanos / 1_000_000 % 1000, 3);
        out.extend_from_slice(b"Z\",\"request_id\":\"");
        out.extend_from_slice(self.request_id());
        out.push(b'"');
        out.extend_from_slice(first);
        match self.route {
            Some(route) => out.extend_from_slice(&snapshot.routes[route].targets[self.target].log_members),
            None => out.extend_from_slice(b",\"route\":\"\",\"pool\":\"\""),
        }
        match self.endpoint {
            Some((pool, endpoint)) => out.extend_from_slice(&snapshot.endpoint(pool, endpoint).log_member),
            None => out.extend_from_slice(b",\"endpoint\":\"\""),
        }
        out.extend_from_slice(b",\"status\":");
        decimal(out, u64::from(self.status));
        out.extend_from_slice(b",\"duration_ms\":");
        milliseconds(out, duration_us);
        out.extend_from_slice(b",\"upstream_duration_ms\":");
        match self.upstream_us {
            Some(us) => milliseconds(out, us),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"retries\":");
        decimal(out, u64::from(self.attempts.saturating_sub(1)));
        let notes = self.edits.as_ref().map(|edits| edits.notes).unwrap_or_default();
        let or = |note: &'static str, default: &'static str| if note.is_empty() { default } else { note };
        out.extend_from_slice(b",\"cache\":\"");
        out.extend_from_slice(or(notes.cache, "bypass").as_bytes());
        out.extend_from_slice(b"\",\"breaker_state\":\"");
        out.extend_from_slice(self.breaker.name().as_bytes());
        out.extend_from_slice(b"\",\"canary_variant\":\"");
        out.extend_from_slice(or(notes.variant, "stable").as_bytes());
        out.push(b'"');
        if let Some(notes) = self.edits.as_ref().and_then(|edits| edits.plugins.as_ref()) {
            write_plugins(out, notes);
        }
        self.write_applicable(out, notes, worker);
        out.extend_from_slice(&snapshot.log_members);
        out.extend_from_slice(b",\"reason\":\"");
        out.extend_from_slice(self.reason.map_or("", Category::name).as_bytes());
        out.extend_from_slice(b"\",\"attempts\":");
        decimal(out, u64::from(self.attempts));
        out.extend_from_slice(last);
        // The last of these pieces is a trace id, which a stage may have given.
        if let Some(trace) = self.trace.as_ref().filter(|_| last.ends_with(b"\"")) {
            write_hex(out, &trace.context.trace_id);
        }
        out.extend_from_slice(b"\",\"bytes_in\":");
        decimal(out, self.request_bytes);
        out.extend_from_slice(b",\"bytes_out\":");
        decimal(out, self.response_bytes);
        out.push(b'}');
    }

    /// Members that only some requests have something to say for.
    fn write_applicable(&self, out: &mut Vec<u8>, notes: Notes, worker: &Worker) {
        if let Some(reason) = self.retry_reason {
            out.extend_from_slice(b",\"retry_last_reason\":\"");
            out.extend_from_slice(RETRY_REASONS[reason].as_bytes());
            out.push(b'"');
        }
        if !notes.cohort.is_empty() {
            out.extend_from_slice(b",\"cohort_mode\":\"");
            out.extend_from_slice(notes.cohort.as_bytes());
            out.extend_from_slice(b"\",\"cohort_key_present\":");
            out.extend_from_slice(if notes.cohort_key { b"true" } else { b"false" });
        }
        let route = self.route.map(|route| &self.view.snapshot.routes[route]);
        let endpoint = self.endpoint.map(|(pool, endpoint)| &self.view.snapshot.pools[pool].endpoints[endpoint].live);
        let ejected = endpoint.is_some_and(|live| live.is_ejected(Moment::of_tick(worker.wheel.now()).millis()));
        let flags: [(bool, &[u8]); 7] = [
            (self.retry_budget_exhausted, b",\"retry_budget_exhausted\":true"),
            (self.outlier_ignored, b",\"outlier_ignored\":true"),
            (ejected, b",\"endpoint_ejected\":true"),
            (notes.braked, b",\"autodrain_active\":true"),
            (self.reason == Some(Category::Overloaded), b",\"overload_rejected\":true"),
            (self.reason == Some(Category::CircuitOpen), b",\"breaker_denied\":true"),
            (route.is_some_and(|route| route.require_mtls), b",\"mtls_route_required\":true"),
        ];
        for (_, member) in flags.iter().filter(|(applies, _)| *applies) {
            out.extend_from_slice(member);
        }
    }

    /// The pieces of a line in combined log format: up to the date, and from the request line.
    fn write_text_facts(&mut self, peer: &Peer, client: Client, request: Option<(&RequestHead<'_>, &[u8], &Fields)>) {
        let plan = &self.view.snapshot.log;
        let facts = &mut self.facts;
        write_client(facts, peer, client);
        self.piece_end = facts.len();
        let Some((head, bytes, fields)) = request else { return };
        facts.extend_from_slice(head.method.as_bytes());
        facts.push(b' ');
        write_quoted(facts, head.path.as_bytes());
        if let Some(query) = head.query {
            facts.push(b'?');
            write_quoted(facts, if plan.redact_query { b"<redacted>" } else { query.as_bytes() });
        }
        facts.extend_from_slice(match head.version {
            _ if peer.http2 => b" HTTP/2.0",
            Version::Http10 => b" HTTP/1.0",
            Version::Http11 => b" HTTP/1.1",
        });
        for (known, redacted) in [(Known::Referer, plan.redact_referer), (Known::UserAgent, plan.redact_agent)] {
            let value = fields.first(known).map_or(&b"-"[..], |field| field.value.of_bytes(bytes));
            facts.push(b'\n');
            write_quoted(facts, if redacted { b"-" } else { value });
        }
    }

    fn write_text(&self, out: &mut Vec<u8>, worker: &Worker) {
        let mut pieces = self.facts[self.piece_end..].split(|&byte| byte == b'\n');
        let mut piece = || pieces.next().unwrap_or(b"-");
        out.extend_from_slice(&self.facts[self.id_end..self.piece_end]);
        out.extend_from_slice(b" - - [");
        Civil::of_unix(worker.unix_nanos(self.started) / 1_000_000_000).write_log_date(out);
        out.extend_from_slice(b"] \"");
        out.extend_from_slice(piece());
        out.extend_from_slice(b"\" ");
        decimal(out, u64::from(self.status));
        out.push(b' ');
        decimal(out, self.response_bytes);
        for _ in 0..2 {
            out.extend_from_slice(b" \"");
            out.extend_from_slice(piece());
            out.push(b'"');
        }
    }
}

/// What plugins did. Members of lines whose route has plugins.
fn write_plugins(out: &mut Vec<u8>, notes: &PluginNotes) {
    out.extend_from_slice(b",\"plugin_filters\":[");
    for (index, filter) in notes.filters.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        json_string(out, filter);
    }
    let flag = |on: bool| if on { &b"true"[..] } else { b"false" };
    out.extend_from_slice(b"],\"plugin_bypassed\":");
    out.extend_from_slice(flag(!notes.bypass.is_empty()));
    out.extend_from_slice(b",\"plugin_bypass_reason\":");
    json_string(out, notes.bypass);
    out.extend_from_slice(b",\"plugin_failure_mode\":");
    json_string(out, if notes.fail_closed { "fail_closed" } else { "fail_open" });
    out.extend_from_slice(b",\"plugin_shortcircuit\":");
    out.extend_from_slice(flag(notes.short_circuit));
    out.extend_from_slice(b",\"plugin_mutation_denied\":");
    out.extend_from_slice(flag(notes.denied > 0));
}

/// The headers that the config wants logged, those that were sent.
fn write_headers(out: &mut Vec<u8>, plan: &LogPlan, headers: &FieldView<'_>) {
    out.extend_from_slice(b",\"headers\":{");
    let start = out.len();
    for (name, redacted) in &plan.headers {
        headers.any_value(name, &mut |value| {
            if out.len() > start {
                out.push(b',');
            }
            json_string(out, name);
            out.push(b':');
            json_value(out, if *redacted == Redacted::Yes { REDACTED } else { value });
            // A name stands once in an object: the first line of several.
            true
        });
    }
    out.push(b'}');
}

/// In place of a value.
const REDACTED: &[u8] = b"[redacted]";

fn write_client(out: &mut Vec<u8>, peer: &Peer, client: Client) {
    if client.ip == peer.ip {
        out.extend_from_slice(peer.text.as_bytes());
    } else {
        use std::io::Write as _;
        // Writing to a vector cannot fail.
        let _ = write!(out, "{}", client.ip);
    }
}

/// Without what would end the quotes or the line.
fn write_quoted(out: &mut Vec<u8>, text: &[u8]) {
    out.extend(text.iter().map(|&byte| if byte == b'"' || byte < 0x20 { b'_' } else { byte }));
}

/// 32 hexadecimal digits.
pub(crate) fn random_id(worker: &Worker) -> [u8; 32] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&worker.random().to_ne_bytes());
    bytes[8..].copy_from_slice(&worker.random().to_ne_bytes());
    let mut digits = [0; 32];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
        pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
    }
    digits
}

/// Milliseconds with three decimals.
fn milliseconds(out: &mut Vec<u8>, micros: u64) {
    decimal(out, micros / 1000);
    out.push(b'.');
    digits(out, micros % 1000, 3);
}
