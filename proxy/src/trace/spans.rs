//! A finished request as OTLP spans, after the OpenTelemetry semantic conventions for HTTP: a server span, and a client
//! span for each attempt. A span's name never holds a raw path.

use sealane_model::config::{PathMatch, Scheme};
use sealane_proto::otlp::common::v1::{AnyValue, KeyValue, any_value::Value};
use sealane_proto::otlp::trace::v1::span::{Event, SpanKind};
use sealane_proto::otlp::trace::v1::{Span, Status, status::StatusCode};

use super::{AttemptNote, Trace};
use crate::breaker::State;
use crate::clock::Moment;
use crate::error::{Category, Fault};
use crate::record::Record;
use crate::worker::Worker;

/// Methods that a span's name may hold; others are `HTTP` there (conventions, "HTTP method").
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
/// Flags of a span: the trace flag that it is sampled.
const SAMPLED: u32 = 1;

/// A request that is over, with everything that its spans say. Made on the request's thread, encoded on another.
#[derive(Debug)]
pub(crate) struct Finished {
    trace: Trace,
    started_ns: u64,
    ended_ns: u64,
    /// To nanoseconds since 1970, in the same clock as the two above.
    anchor: Moment,
    anchor_ns: u64,
    status: u16,
    error: Option<&'static str>,
    route: Option<(String, Option<String>)>,
    pool: String,
    endpoints: Vec<Target>,
    request_id: String,
    revision: String,
    node: String,
    retries: u8,
    request_bytes: u64,
    response_bytes: u64,
    cache: &'static str,
    variant: &'static str,
    breaker: State,
}

/// Where an attempt went.
#[derive(Debug)]
struct Target {
    address: String,
    https: bool,
}

/// What the request failed of, by the conventions' `error.type`; `None`: it did not.
pub(crate) fn error_type(record: &Record) -> Option<&'static str> {
    record.reason.filter(|reason| reason.fault() != Fault::Downstream).map(Category::name)
}

impl Finished {
    pub(super) fn new(trace: Trace, worker: &Worker, record: &Record, now: Moment) -> Self {
        let snapshot = &record.view.snapshot;
        let template = |index: usize| match &snapshot.config.routes[index].path {
            PathMatch::Any => None,
            PathMatch::Exact(path) => Some(path.clone()),
            PathMatch::Prefix(path) => Some(format!("{}/*", path.trim_end_matches('/'))),
            PathMatch::Regex(pattern) => Some(pattern.as_str().to_owned()),
        };
        let endpoints = trace.attempts.iter().map(|attempt| {
            let endpoint = snapshot.endpoint(attempt.pool, attempt.endpoint);
            Target { address: endpoint.address.to_string(), https: endpoint.scheme == Scheme::Https }
        });
        let notes = record.edits.as_ref().map(|edits| edits.notes).unwrap_or_default();
        let pool = record.route.map(|route| &snapshot.pools[snapshot.routes[route].targets[record.target].pool].id);
        Self {
            started_ns: worker.unix_nanos(record.started),
            ended_ns: worker.unix_nanos(now),
            anchor: now,
            anchor_ns: worker.unix_nanos(now),
            status: record.status,
            error: error_type(record),
            route: record.route.map(|route| (snapshot.routes[route].id.to_string(), template(route))),
            pool: pool.map(ToString::to_string).unwrap_or_default(),
            endpoints: endpoints.collect(),
            request_id: String::from_utf8_lossy(record.request_id()).into_owned(),
            revision: snapshot.tag.label.to_string(),
            node: worker.shared.settings.node.clone(),
            retries: record.attempts.saturating_sub(1),
            request_bytes: record.request_bytes,
            response_bytes: record.response_bytes,
            cache: notes.cache,
            variant: notes.variant,
            breaker: record.breaker,
            trace,
        }
    }

    fn unix_nanos(&self, moment: Moment) -> u64 {
        (self.anchor_ns + moment.nanos()).saturating_sub(self.anchor.nanos())
    }

    /// The server span and those of the attempts.
    pub(super) fn spans(&self) -> Vec<Span> {
        let mut spans = vec![self.server_span()];
        let attempts = self.trace.attempts.iter().zip(&self.endpoints).enumerate();
        spans.extend(attempts.map(|(number, (attempt, target))| self.attempt_span(number, attempt, target)));
        spans
    }

    fn method(&self) -> &str {
        if METHODS.contains(&&*self.trace.method) { &self.trace.method } else { "_OTHER" }
    }

    fn server_span(&self) -> Span {
        let trace = &self.trace;
        let mut attributes = vec![
            string("http.request.method", self.method()),
            string("url.scheme", if trace.https { "https" } else { "http" }),
            string("url.path", &trace.path),
            string("server.address", &trace.host),
            string("client.address", &trace.client),
            string("network.peer.address", &trace.peer),
            string("network.protocol.name", "http"),
            string("network.protocol.version", trace.protocol),
            integer("http.request.body.size", self.request_bytes),
            integer("http.response.body.size", self.response_bytes),
            string("sealane.request_id", &self.request_id),
            string("sealane.revision", &self.revision),
            string("sealane.node", &self.node),
            integer("sealane.retries", u64::from(self.retries)),
        ];
        if self.method() == "_OTHER" {
            attributes.push(string("http.request.method_original", &trace.method));
        }
        if self.status > 0 {
            attributes.push(integer("http.response.status_code", u64::from(self.status)));
        }
        attributes.extend(trace.port.map(|port| integer("server.port", u64::from(port))));
        attributes.extend(trace.query.as_ref().map(|query| string("url.query", query)));
        let texts = [
            ("user_agent.original", trace.user_agent.as_str()),
            ("sealane.pool", &self.pool),
            ("sealane.cache", self.cache),
            ("sealane.variant", self.variant),
            ("sealane.breaker_state", self.breaker.name()),
        ];
        attributes.extend(texts.iter().filter(|(_, text)| !text.is_empty()).map(|(key, text)| string(key, text)));
        let mut name = if self.method() == "_OTHER" { "HTTP".to_owned() } else { trace.method.clone() };
        if let Some((route, template)) = &self.route {
            let template = template.as_ref().unwrap_or(route);
            name = format!("{name} {template}");
            attributes.push(string("http.route", template));
            attributes.push(string("sealane.route", route));
        }
        let status = self.status.to_string();
        let error = self.error.or((self.status >= 500).then_some(&*status));
        attributes.extend(error.map(|error| string("error.type", error)));
        let mut events: Vec<Event> =
            trace.events.iter().map(|event| self.event(event.at, event.name, event.key, &event.value)).collect();
        let end = [
            ("cache", "cache.result", self.cache),
            ("breaker", "breaker.state", if self.breaker == State::Closed { "" } else { self.breaker.name() }),
        ];
        let end = end.into_iter().filter(|(.., value)| !value.is_empty());
        events.extend(end.map(|(name, key, value)| self.event(self.anchor, name, key, value)));
        Span {
            parent_span_id: trace.context.parent.map(Vec::from).unwrap_or_default(),
            dropped_events_count: trace.unnoted,
            events,
            ..self.span(trace.span_id, name, SpanKind::Server, (self.started_ns, self.ended_ns), attributes, error)
        }
    }

    fn attempt_span(&self, number: usize, attempt: &AttemptNote, target: &Target) -> Span {
        let (host, port) = target.address.rsplit_once(':').unwrap_or((&target.address, ""));
        let scheme = if target.https { "https" } else { "http" };
        let mut attributes = vec![
            string("http.request.method", self.method()),
            // Without what may be secret, and as the client sent it: a rewrite is the route's.
            string("url.full", &format!("{scheme}://{}{}", target.address, self.trace.path)),
            string("server.address", host.trim_start_matches('[').trim_end_matches(']')),
        ];
        let port = port.parse().unwrap_or(if target.https { 443 } else { 80 });
        attributes.push(integer("server.port", port));
        if number > 0 {
            attributes.push(integer("http.request.resend_count", number as u64));
        }
        if attempt.status > 0 {
            attributes.push(integer("http.response.status_code", u64::from(attempt.status)));
        }
        let status = attempt.status.to_string();
        let own = Some(attempt.error).filter(|error| !error.is_empty());
        // For a client, 4xx are errors too.
        let error = own.or((attempt.status >= 400).then_some(&*status));
        let error = error.or(self.error.filter(|_| attempt.ended.is_none()));
        attributes.extend(error.map(|error| string("error.type", error)));
        let times = (self.unix_nanos(attempt.started), attempt.ended.map_or(self.ended_ns, |end| self.unix_nanos(end)));
        let name = self.method();
        let name = if name == "_OTHER" { "HTTP" } else { name };
        Span {
            parent_span_id: self.trace.span_id.to_vec(),
            ..self.span(attempt.span_id, name.to_owned(), SpanKind::Client, times, attributes, error)
        }
    }

    fn span(
        &self,
        span_id: [u8; 8],
        name: String,
        kind: SpanKind,
        (start, end): (u64, u64),
        attributes: Vec<KeyValue>,
        error: Option<&str>,
    ) -> Span {
        Span {
            trace_id: self.trace.context.trace_id.to_vec(),
            span_id: span_id.to_vec(),
            trace_state: self.trace.state.clone(),
            name,
            kind: kind.into(),
            start_time_unix_nano: start,
            end_time_unix_nano: end.max(start),
            attributes,
            status: error.map(|_| Status { message: String::new(), code: StatusCode::Error.into() }),
            flags: if self.trace.context.sampled { SAMPLED } else { 0 },
            ..Span::default()
        }
    }

    fn event(&self, at: Moment, name: &str, key: &str, value: &str) -> Event {
        Event {
            time_unix_nano: self.unix_nanos(at),
            name: name.to_owned(),
            attributes: vec![string(&format!("sealane.{key}"), value)],
            dropped_attributes_count: 0,
        }
    }
}

/// An attribute.
pub(super) fn string(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) }) }
}

fn integer(key: &str, value: u64) -> KeyValue {
    let value = Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX));
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}
