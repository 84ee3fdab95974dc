//! The request head that an endpoint sees.

use crate::admission::edits::FieldEdits;
use crate::forwarded::{self, Hop};
use crate::http1::field::{FieldView, Fields, Known, KnownSet};
use crate::http1::framing::Framing;
use crate::http1::write;
use crate::record::Record;
use crate::request::{Request, decide_head};
use crate::snapshot::{CompiledEndpoint, CompiledPool};

use sealane_model::config::HostHeader;

/// Lines that never go on: hop-by-hop ones, and those that are written anew.
const WITHOUT: KnownSet = KnownSet::HOP_BY_HOP.and(forwarded::WITHOUT);
/// The same for routes of a sandbox, which set these.
const WITHOUT_SANDBOX: KnownSet = WITHOUT.and(KnownSet::of(&[Known::XSandboxId, Known::XAlbRouteId]));
/// Written anew where requests are traced; the state of another trace does not go on with it.
const TRACEPARENT: KnownSet = KnownSet::of(&[Known::Traceparent]);
const MAX_FORWARDS: KnownSet = KnownSet::of(&[Known::MaxForwards]);
const TRACESTATE: KnownSet = KnownSet::of(&[Known::Tracestate]);

/// Appends the head for an endpoint (pool and index). Must follow the decision of the same request.
pub(super) fn write(
    out: &mut Vec<u8>,
    record: &Record,
    route: usize,
    (pool, endpoint): (usize, usize),
    request: &Request<'_>,
    fields: &mut Fields,
) {
    let snapshot = &record.view.snapshot;
    let compiled = &snapshot.routes[route];
    let target = record.edits.as_ref().and_then(|edits| edits.target.as_deref());
    let edits = record.edits.as_ref().map(|edits| &edits.request);
    let pool = &snapshot.pools[pool];
    let endpoint = &pool.endpoints[endpoint];
    let head = request.head;

    out.extend_from_slice(head.method.as_bytes());
    out.push(b' ');
    match target.and_then(|target| target.path.as_deref()) {
        Some(path) => out.extend_from_slice(path.as_bytes()),
        None => {
            let view = FieldView { bytes: request.bytes, fields };
            let scratch = &mut record.view.scratch.borrow_mut();
            snapshot.table.write_path(route, &decide_head(request, &view), &endpoint.path, scratch, out);
        }
    }
    if let Some(query) = head.query {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let named = target.and_then(|target| target.host.as_deref());
    write::field(out, b"Host", named.unwrap_or_else(|| host(pool, endpoint, head.authority)).as_bytes());

    if let Some(edits) = edits.filter(|edits| edits.removes_any()) {
        fields.drop_where(request.bytes, |name| edits.removes(name));
    }
    let without = if compiled.sandbox.is_some() { WITHOUT_SANDBOX } else { WITHOUT };
    let without = match &record.trace {
        None => without,
        Some(trace) if trace.keeps_state => without.and(TRACEPARENT),
        Some(_) => without.and(TRACEPARENT).and(TRACESTATE),
    };
    let forwards_left = forwarded::forwards_left(head.method, request.bytes, fields);
    let without = if forwards_left.is_some() { without.and(MAX_FORWARDS) } else { without };
    write::fields(out, request.bytes, head.length, fields, without);
    if let Some(left) = forwards_left {
        out.extend_from_slice(b"Max-Forwards: ");
        write::decimal(out, u64::from(left.saturating_sub(1)));
        out.extend_from_slice(b"\r\n");
    }
    let hop = Hop {
        without: edits.map(FieldEdits::removed_known).unwrap_or_default(),
        client: request.client,
        peer: &request.peer.text,
        https: request.peer.tls.is_some(),
        http2: request.peer.http2,
        request_id: record.request_id(),
    };
    forwarded::write_lines(out, &hop, request.bytes, head, fields);
    if let Some(trace) = &record.trace {
        trace.write_line(out);
    }
    if let Some(edits) = edits {
        out.extend_from_slice(edits.lines());
    }
    if let Some(sandbox) = &compiled.sandbox {
        out.extend_from_slice(&sandbox.request_lines);
    }
    match head.framing {
        Framing::Length(length) => {
            out.extend_from_slice(b"Content-Length: ");
            write::decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        // A length of zero is said for methods that usually have content (RFC 9110 §8.6).
        Framing::Empty if matches!(head.method, "POST" | "PUT" | "PATCH") => {
            out.extend_from_slice(b"Content-Length: 0\r\n");
        }
        Framing::Empty | Framing::UntilClose => {}
    }
    if head.upgrade
        && let Some(protocol) = fields.first(Known::Upgrade)
    {
        out.extend_from_slice(b"Connection: Upgrade\r\n");
        write::field(out, b"Upgrade", protocol.value.of_bytes(request.bytes));
    } else if head.accepts_trailers {
        out.extend_from_slice(b"Connection: TE\r\nTE: trailers\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// The `Host` that an endpoint sees. A client of HTTP/1.0 may have sent none.
fn host<'a>(pool: &'a CompiledPool, endpoint: &'a CompiledEndpoint, sent: &'a str) -> &'a str {
    match &pool.host_header {
        HostHeader::Name(name) => name,
        HostHeader::Preserve if !sent.is_empty() => sent,
        HostHeader::Preserve | HostHeader::Endpoint => &endpoint.host_value,
    }
}
