//! A client's HTTP/2 connection: its streams run as tasks of their own on the same thread; what concerns the connection as
//! a whole is here: its limits, its end in a drain, and its end when it is idle, stuck or abused.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;

use super::blocks::Flaw;
use super::client_stream::ClientStream;
use super::frame::FRAME_BYTES_MAX;
use super::guard::{Gauge, Guarded, Verdict};
use super::{SEND_BUFFER_BYTES, heads};
use crate::connection::{After, Connection, Peer, before};
use crate::request::{self, Begun};
use crate::stream::{Stream, Transport};
use crate::timer::{NEVER, Timer, ticks};
use crate::unread::unread;
use crate::worker::Worker;

/// Requests at a time on one connection.
const STREAMS_MAX: u32 = 128;
/// What a client may send on one stream before it is read, and on all together.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 2 << 20;
/// Streams of one connection that ended because the client broke a rule of streams ("MadeYouReset").
const RESETS_BY_ERROR_MAX: usize = 200;
/// What HPACK adds to the size of each field (RFC 7541 §4.1).
const FIELD_OVERHEAD_BYTES: u32 = 32;
/// How long a client may read nothing of what waits for it.
const BLOCKED_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection without streams waits for its client to agree that it ends.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Both sides know.
    Orderly,
    /// The client was told, but may still be sending.
    Failed,
    /// There is nobody to tell.
    Stuck,
}

/// The streams of a connection that are in flight.
#[derive(Debug)]
struct Streams {
    open: Cell<usize>,
    /// Tick since which there is none.
    idle_since: Cell<u64>,
}

/// One of them.
#[derive(Debug)]
struct Open {
    worker: Rc<Worker>,
    streams: Rc<Streams>,
}

impl Open {
    fn new(worker: &Rc<Worker>, streams: &Rc<Streams>) -> Self {
        streams.open.set(streams.open.get() + 1);
        Self { worker: Rc::clone(worker), streams: Rc::clone(streams) }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.streams.open.set(self.streams.open.get() - 1);
        self.streams.idle_since.set(self.worker.wheel.now());
    }
}

/// Serves a connection whose client speaks HTTP/2, as its handshake or its first bytes said.
pub(crate) async fn serve(worker: &Rc<Worker>, connection: Connection) {
    worker.cells.http2_connections.add(1);
    let Connection { stream, inbox, timer, peer, .. } = connection;
    let Ok(transport) = Transport::try_from(stream) else { return };
    let transport = Rc::new(RefCell::new(transport));
    let gauge = Rc::new(Gauge::new(&worker.wheel));
    let guarded = Guarded::new(Rc::clone(&transport), inbox, Rc::clone(&gauge));
    let end = run(worker, guarded, &transport, &gauge, &timer, &peer).await;
    let Ok(transport) = Rc::try_unwrap(transport) else { return };
    let mut connection = Connection::over(worker, transport.into_inner().into(), peer);
    match end {
        End::Orderly => connection.close(worker).await,
        End::Failed => connection.linger(worker).await,
        End::Stuck => connection.stream.reset_on_drop(),
    }
}

async fn run(
    worker: &Rc<Worker>,
    guarded: Guarded,
    transport: &RefCell<Transport>,
    gauge: &Rc<Gauge>,
    timer: &Timer,
    peer: &Rc<Peer>,
) -> End {
    let Some(view) = worker.view() else { return End::Orderly };
    let limits = &view.snapshot.head_limits;
    let head_bytes_max = u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX);
    let fields_max = u32::try_from(limits.fields_max).unwrap_or(u32::MAX);
    let handshake = server::Builder::new()
        .max_concurrent_streams(STREAMS_MAX)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX as u32)
        .max_header_list_size(head_bytes_max.saturating_add(fields_max.saturating_mul(FIELD_OVERHEAD_BYTES)))
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .max_local_error_reset_streams(Some(RESETS_BY_ERROR_MAX))
        .enable_connect_protocol()
        .handshake::<_, Bytes>(guarded);
    let deadline = worker.wheel.now() + view.snapshot.limits.read_header + 1;
    drop(view);
    let mut connection = match before(timer, deadline, handshake).await {
        Some(Ok(connection)) => connection,
        Some(Err(_)) => return End::Failed,
        None => return End::Stuck,
    };
    let streams = Rc::new(Streams { open: Cell::new(0), idle_since: Cell::new(worker.wheel.now()) });
    // Tick at which the client was told that this ends.
    let mut told = NEVER;
    // The code that it was told: it broke a rule, or floods.
    let mut refused = None;
    poll_fn(|cx| {
        loop {
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    begin(cx, worker, peer, gauge, &streams, request, respond);
                    continue;
                }
                Poll::Ready(None) if refused.is_none() => return Poll::Ready(End::Orderly),
                Poll::Ready(None) => return Poll::Ready(End::Failed),
                Poll::Ready(Some(Err(error))) => {
                    if !error.is_io() && refused.is_none() {
                        worker.cells.http2_protocol_errors.add(1);
                        tracing::debug!(%error, "http/2 connection ended");
                    }
                    return Poll::Ready(End::Failed);
                }
                Poll::Pending => {}
            }
            let now = worker.wheel.now();
            let Some(view) = worker.view() else { return Poll::Ready(End::Stuck) };
            let (head, blocked) = (view.snapshot.limits.read_header, ticks(BLOCKED_TIMEOUT));
            match gauge.verdict(head, blocked) {
                Verdict::Fine => {}
                Verdict::Flooded | Verdict::Broken(_) if refused.is_some() => {}
                Verdict::Flooded => {
                    worker.cells.http2_floods.add(1);
                    (refused, told) = (Some(Reason::ENHANCE_YOUR_CALM), now);
                    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    continue;
                }
                Verdict::Broken(reason) => {
                    worker.cells.http2_protocol_errors.add(1);
                    tracing::debug!(%reason, "http/2 connection ended");
                    (refused, told) = (Some(reason), now);
                    connection.abrupt_shutdown(reason);
                    continue;
                }
                Verdict::Blocked if gauge.goes_on(unread(transport.borrow().tcp())) => {}
                Verdict::Stuck | Verdict::Blocked => return Poll::Ready(End::Stuck),
            }
            let idle = streams.open.get() == 0;
            // Of a connection with streams, each has deadlines of its own: this looks in now and then.
            let since = if idle { streams.idle_since.get() } else { now };
            let deadline = match told {
                NEVER => since.saturating_add(view.snapshot.limits.idle),
                told if refused.is_some() => told + ticks(LEAVE_TIMEOUT),
                told => since.max(told) + ticks(LEAVE_TIMEOUT),
            };
            if told == NEVER && (worker.is_draining() || now > deadline) {
                connection.graceful_shutdown();
                told = now;
                continue;
            }
            if now > deadline {
                return Poll::Ready(if refused.is_some() { End::Failed } else { End::Orderly });
            }
            timer.arm(cx, (deadline + 1).min(gauge.deadline(head, blocked)));
            return Poll::Pending;
        }
    })
    .await
}

/// Begins a request in the poll that brought it, and leaves the rest to a task.
fn begin(
    cx: &mut Context<'_>,
    worker: &Rc<Worker>,
    peer: &Rc<Peer>,
    gauge: &Rc<Gauge>,
    streams: &Rc<Streams>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    worker.cells.http2_streams.add(1);
    let (parts, receive) = request.into_parts();
    let mut head = worker.take_buffer();
    let nonce = || {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&worker.random().to_ne_bytes());
        nonce[8..].copy_from_slice(&worker.random().to_ne_bytes());
        nonce
    };
    let stream_id = receive.stream_id().as_u32();
    let well_formed = match gauge.flaw(stream_id) {
        Some(Flaw::OddPath) => Err(()),
        Some(Flaw::PseudoTrailers) | None => heads::write_request(&mut head, &parts, receive.is_end_stream(), nonce),
    };
    let Ok((kind, shown)) = well_formed else {
        gauge.forget(stream_id);
        worker.give_buffer(head);
        return respond.send_reset(Reason::PROTOCOL_ERROR);
    };
    let (begun, _) = request::begin(cx, worker, peer, &head);
    let stream = ClientStream::new(receive, respond, kind, shown, Rc::clone(gauge));
    let mut connection = Connection::over(worker, Stream::Http2Client(Box::new(stream)), Rc::clone(peer));
    if matches!(begun, Begun::Suspended(_)) {
        // The head is wanted again.
        connection.inbox = head;
    } else {
        worker.give_buffer(head);
    }
    let open = Open::new(worker, streams);
    // Boxed: a task is moved about several times, and this is large.
    worker.spawn(Box::pin(serve_stream(connection, begun, open, Rc::clone(gauge))));
}

async fn serve_stream(mut connection: Connection, begun: Begun, open: Open, gauge: Rc<Gauge>) {
    match connection.see_through(begun, &open.worker).await {
        After::Reset => connection.stream.reset_on_drop(),
        // What the client still sends is not read: dropping the stream says so (RFC 9113 §8.1).
        After::Reuse | After::Close | After::Linger => gauge.answered(),
    }
}
