//! Connections to one endpoint that many requests of a thread share.
//!
//! A request takes a place on a connection that has room ([`Multiplexed::take`]); if there is none, one of those that wait
//! makes a connection ([`Multiplexed::poll_turn`], [`Multiplexed::open`]) and the others get places on it. A connection that
//! said GOAWAY, failed, or is too old gets no more requests and ends with its last one.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, PingPong};
use sealane_model::config::Scheme;

use super::SEND_BUFFER_BYTES;
use super::endpoint_stream::EndpointStream;
use crate::error::{Detail, Failure, FailureKind};
use crate::live::Slot;
use crate::snapshot::{CompiledEndpoint, CompiledPool};
use crate::stream::Transport;
use crate::timer::{NEVER, Timer, Wheel, ticks};
use crate::worker::Worker;

/// Connections of one thread to one endpoint; further requests wait for places.
const CONNECTIONS_MAX: usize = 16;
/// Requests at a time on one connection, whatever the endpoint allows.
const STREAMS_MAX: usize = 512;
/// What an endpoint may send on one stream before it is read, and on all together: a client that reads slowly must not
/// hold up the others.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Bytes of a head, as HPACK counts them.
const HEAD_BYTES_MAX: u32 = 256 << 10;
/// A connection that idled for so long is asked whether it still lives, along with the request.
const ASK_AFTER: Duration = Duration::from_secs(10);
/// How long it may take to say so.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// The thread's HTTP/2 connections to one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Multiplexed {
    open: RefCell<Vec<Rc<Connection>>>,
    /// The last connection made was HTTP/2, so the next will be.
    chosen: Cell<bool>,
    dialing: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

/// A connection that takes requests.
#[derive(Debug)]
struct Connection {
    request: SendRequest<Bytes>,
    scheme: &'static str,
    connect_key: u64,
    born: u64,
    wheel: Rc<Wheel>,
    streams: Cell<usize>,
    /// Tick since which there is no stream.
    idle_since: Cell<u64>,
    retired: Cell<bool>,
    /// Whether it still lives is to be asked.
    doubted: Cell<bool>,
}

impl Connection {
    fn has_room(&self) -> bool {
        self.streams.get() < self.request.current_max_send_streams().min(STREAMS_MAX)
    }
}

/// The place of one request on a connection, given back when dropped.
#[derive(Debug)]
pub(super) struct Place(Rc<Connection>);

impl Place {
    fn take(connection: &Rc<Connection>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        Self(Rc::clone(connection))
    }

    pub(super) fn scheme(&self) -> &'static str {
        self.0.scheme
    }

    /// No further request goes over this connection.
    pub(super) fn retire(&self) {
        self.0.retired.set(true);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        self.0.idle_since.set(self.0.wheel.now());
    }
}

/// The right to make the next connection; others wait until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a>(&'a Multiplexed);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.dialing.set(false);
        self.0.waiting.take().into_iter().for_each(Waker::wake);
    }
}

impl Multiplexed {
    /// A stream on a connection with room, made under the settings that hold now. With whether the connection served
    /// requests before.
    pub(crate) fn take(
        &self,
        pool: &CompiledPool,
        endpoint: &CompiledEndpoint,
        now: u64,
    ) -> Option<(EndpointStream, bool)> {
        let mut open = self.open.borrow_mut();
        open.retain(|connection| {
            !connection.retired.get()
                && connection.connect_key == endpoint.connect_key
                && now - connection.born <= pool.age_max_ticks
        });
        let roomy = open.iter().find(|connection| connection.has_room());
        let connection = match roomy {
            Some(connection) => connection,
            // They queue, as the endpoint wants it.
            None if open.len() >= CONNECTIONS_MAX => open.iter().min_by_key(|connection| connection.streams.get())?,
            None => return None,
        };
        let idle = connection.streams.get() == 0 && connection.idle_since.get() != NEVER;
        if idle && now - connection.idle_since.get() > ticks(ASK_AFTER) {
            connection.doubted.set(true);
        }
        let reused = connection.idle_since.get() != NEVER || connection.streams.get() > 0;
        Some((EndpointStream::new(connection.request.clone(), Place::take(connection)), reused))
    }

    /// Whether the next connection is expected to be HTTP/2 where the endpoint chooses.
    pub(crate) fn is_chosen(&self) -> bool {
        self.chosen.get()
    }

    /// Notes what the endpoint chose.
    pub(crate) fn note_choice(&self, http2: bool) {
        self.chosen.set(http2);
    }

    /// Waits until nobody else is making a connection.
    pub(crate) fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<Turn<'_>> {
        if self.dialing.replace(true) {
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            return Poll::Pending;
        }
        Poll::Ready(Turn(self))
    }

    /// Starts HTTP/2 on a connection just made. It takes requests from now on.
    ///
    /// # Errors
    /// [`FailureKind::Connect`]: no request was sent.
    pub(crate) async fn open(
        &self,
        worker: &Worker,
        transport: Transport,
        endpoint: &CompiledEndpoint,
        slot: Slot,
    ) -> Result<(), Failure> {
        let handshake = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(HEAD_BYTES_MAX)
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .handshake(transport)
            .await;
        let (request, connection) = handshake.map_err(|error| {
            let text = format!("http/2 with {}: {error}", endpoint.address);
            Failure { kind: FailureKind::Connect, detail: Detail::Text(text) }
        })?;
        let wheel = Rc::clone(&worker.wheel);
        let timer = Timer::new(Rc::clone(&wheel));
        let entry = Rc::new(Connection {
            request,
            scheme: if endpoint.scheme == Scheme::Https { "https" } else { "http" },
            connect_key: endpoint.connect_key,
            born: wheel.now(),
            wheel,
            streams: Cell::new(0),
            idle_since: Cell::new(NEVER),
            retired: Cell::new(false),
            doubted: Cell::new(false),
        });
        let driven = drive(connection, Rc::downgrade(&entry), timer);
        tokio::task::spawn_local(async move {
            driven.await;
            drop(slot);
        });
        self.open.borrow_mut().push(entry);
        Ok(())
    }

    /// Lets go of connections that idled too long. Those with requests end with the last of them.
    pub(crate) fn sweep(&self, now: u64, idle_ticks: u64) {
        self.open.borrow_mut().retain(|connection| {
            let idles = connection.streams.get() == 0 && connection.idle_since.get() != NEVER;
            let too_long = idles && now.saturating_sub(connection.idle_since.get()) > idle_ticks;
            !(connection.retired.get() || too_long)
        });
    }

    /// Lets go of connections without requests.
    pub(crate) fn close_idle(&self) {
        self.open.borrow_mut().retain(|connection| connection.streams.get() > 0);
    }
}

/// Moves a connection's frames until it ends, and finds out whether a doubted one still lives.
async fn drive(mut connection: h2::client::Connection<Transport, Bytes>, entry: Weak<Connection>, timer: Timer) {
    let mut pings = connection.ping_pong();
    // Tick at which a connection that was asked counts as dead.
    let mut asked = NEVER;
    let ended = poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(ended.map_err(|error| error.to_string()));
            }
            let Some(pings) = &mut pings else { return Poll::Pending };
            if asked != NEVER && pings.poll_pong(cx).is_ready() {
                asked = NEVER;
            }
            if timer.now() >= asked {
                return Poll::Ready(Err("the endpoint does not answer pings".to_owned()));
            }
            if !ask(pings, &entry) {
                timer.arm(cx, asked);
                return Poll::Pending;
            }
            asked = timer.now() + ticks(ASK_TIMEOUT);
        }
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(error, "connection to an endpoint ended");
    }
    if let Some(entry) = entry.upgrade() {
        entry.retired.set(true);
    }
}

/// Asks whether the endpoint lives, if that is wanted.
fn ask(pings: &mut PingPong, entry: &Weak<Connection>) -> bool {
    let doubted = entry.upgrade().is_some_and(|entry| entry.doubted.replace(false));
    // Fails only while an earlier question is open, or the connection is about to end.
    doubted && pings.send_ping(Ping::opaque()).is_ok()
}
