//! One client connection, from accept to close: PROXY header, TLS, then one request after the other.
//!
//! An idle connection holds no buffer: reads land in the thread's scratch, and what is left over is owned only until it
//! has been used.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use memchr::memmem;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::admission::Suspended;
use crate::admission::wait::LOOK_TICKS;
use crate::answer::{Refusal, Streamed};
use crate::clock::Moment;
use crate::error::Category;
use crate::http2::{self, Opening};
use crate::listener::OVERLOADED;
use crate::proxy_protocol;
use crate::record::Record;
use crate::request::{self, Answer, Begun};
use crate::shared::{Permit, Seat};
use crate::snapshot::TickLimits;
use crate::snapshot::tls::ServerTls;
use crate::stream::{Outbox, Stream};
use crate::timer::Timer;
use crate::worker::Worker;

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: Stream,
    pub(crate) outbox: Outbox,
    /// Read, but not used yet: the start of a head, or a pipelined request.
    pub(crate) inbox: Vec<u8>,
    pub(crate) timer: Timer,
    pub(crate) peer: Rc<Peer>,
    /// The version is not decided yet.
    fresh: bool,
    waiting: Waiting,
    /// Tick since which it waits.
    since: u64,
}

/// Who is at the other end.
#[derive(Debug)]
pub(crate) struct Peer {
    /// The address that the connection came from, or that a PROXY header named.
    pub(crate) ip: IpAddr,
    /// The same as text.
    pub(crate) text: Box<str>,
    /// The listening socket.
    pub(crate) socket: u32,
    /// It speaks HTTP/2.
    pub(crate) http2: bool,
    pub(crate) tls: Option<Box<PeerTls>>,
    /// Among the connections of the client that a PROXY header named.
    _seat: Option<Seat>,
}

/// What a TLS handshake told.
#[derive(Debug)]
pub(crate) struct PeerTls {
    pub(crate) server_name: Option<String>,
    /// A client certificate was verified.
    pub(crate) certificate: bool,
    /// Under these CAs.
    pub(crate) client_ca_key: [u8; 32],
    /// HTTP/2 was agreed on.
    pub(crate) http2: bool,
}

/// What becomes of a client's connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// The next request.
    Reuse,
    /// It ends: everything from the client was read.
    Close,
    /// It ends, but the client may still be sending: what it sends is read for a while, so that it sees the answer.
    Linger,
    /// The answer is incomplete, and the client must be able to tell.
    Reset,
}

/// What a connection without a request in flight waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// The first byte after accept.
    FirstByte,
    /// The first byte of a further request.
    NextRequest,
    /// The rest of a head.
    RestOfHead,
}

/// What a connection without a request in flight came to.
#[derive(Debug)]
enum Next {
    Begun(Begun),
    /// The client speaks HTTP/2.
    Http2,
    /// It ends without an answer.
    End,
}

/// Of a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long, and how much, a connection that ends still reads.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 1 << 20;
/// Of making and sending one piece of an answer that comes in pieces.
const PIECE_TIMEOUT: Duration = Duration::from_secs(60);
/// Of sending an answer of the proxy's own.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves a connection that was accepted.
pub(crate) async fn serve(worker: Rc<Worker>, tcp: TcpStream, peer: SocketAddr, socket: u32, permit: Permit) {
    worker.open.set(worker.open.get() + 1);
    worker.cells.connections_open.add(1);
    let open = Open(Rc::clone(&worker));
    if let Some(mut connection) = Box::pin(establish(&worker, tcp, peer, socket)).await {
        if !connection.peer.http2 {
            connection.serve_requests(&worker).await;
        }
        if connection.peer.http2 {
            Box::pin(http2::server::serve(&worker, connection)).await;
        }
    }
    drop(open);
    drop(permit);
}

/// Counts an open connection.
#[derive(Debug)]
struct Open(Rc<Worker>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.cells.connections_open.subtract(1);
    }
}

/// PROXY header and TLS handshake, where the listener wants them.
async fn establish(worker: &Rc<Worker>, tcp: TcpStream, peer: SocketAddr, socket: u32) -> Option<Connection> {
    let view = worker.view()?;
    let listener = view.listener(socket)?;
    let timer = Timer::new(Rc::clone(&worker.wheel));
    let mut ip = peer.ip();
    let mut seat = None;
    if listener.proxy_protocol && view.snapshot.trusted.iter().any(|block| block.contains(ip)) {
        let deadline = worker.wheel.now() + view.snapshot.limits.read_header + 1;
        let source = before(&timer, deadline, proxy_protocol::read(&tcp)).await?.ok()?;
        if let Some(source) = source {
            // A proxy stands for many clients, but it says which one this is.
            ip = source.ip().to_canonical();
            seat = Seat::take(&worker.shared, ip, view.snapshot.limits.connections_per_client_max);
            if seat.is_none() {
                worker.cells.connections_refused.add(1);
                if !listener.tls {
                    // As far as the socket takes it; nobody waits for such a client.
                    let _ = tcp.try_write(OVERLOADED);
                }
                return None;
            }
        }
    }
    let (stream, tls) = match &view.snapshot.tls {
        Some(tls) if listener.tls => {
            let deadline = worker.wheel.after(HANDSHAKE_TIMEOUT);
            let Some(Ok((stream, facts))) = before(&timer, deadline, handshake(tls, tcp)).await else {
                worker.cells.tls_handshake_failures.add(1);
                return None;
            };
            (stream, Some(facts))
        }
        _ => (Stream::Plain(tcp), None),
    };
    let http2 = tls.as_ref().is_some_and(|tls| tls.http2);
    let peer = Peer { ip, text: ip.to_string().into(), socket, http2, tls, _seat: seat };
    Some(Connection::over(worker, stream, Rc::new(peer)))
}

async fn handshake(tls: &ServerTls, tcp: TcpStream) -> io::Result<(Stream, Box<PeerTls>)> {
    let stream = TlsAcceptor::from(Arc::clone(&tls.config)).accept(tcp).await?;
    let session = stream.get_ref().1;
    let facts = PeerTls {
        server_name: session.server_name().map(str::to_owned),
        certificate: session.peer_certificates().is_some_and(|chain| !chain.is_empty()),
        client_ca_key: tls.client_ca_key,
        http2: session.alpn_protocol() == Some(b"h2"),
    };
    Ok((Stream::Tls(Box::new(stream.into())), Box::new(facts)))
}

/// The output of `future`, unless the deadline comes first.
pub(crate) async fn before<T>(timer: &Timer, deadline: u64, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        timer.arm(cx, deadline);
        if timer.is_due() { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}

impl Connection {
    /// On which nothing was read yet.
    pub(crate) fn over(worker: &Worker, stream: Stream, peer: Rc<Peer>) -> Self {
        Self {
            stream,
            outbox: Outbox::default(),
            inbox: Vec::new(),
            timer: Timer::new(Rc::clone(&worker.wheel)),
            peer,
            fresh: true,
            waiting: Waiting::FirstByte,
            since: worker.wheel.now(),
        }
    }

    /// One request after the other, until the connection ends or turns out to be HTTP/2.
    async fn serve_requests(&mut self, worker: &Rc<Worker>) {
        loop {
            let after = match poll_fn(|cx| self.poll_next(cx, worker)).await {
                Next::Begun(begun) => self.see_through(begun, worker).await,
                Next::Http2 => {
                    // Nobody else holds the peer before the first request.
                    if let Some(peer) = Rc::get_mut(&mut self.peer) {
                        peer.http2 = true;
                    }
                    return;
                }
                Next::End => return,
            };
            match after {
                After::Reuse => {
                    self.waiting = Waiting::NextRequest;
                    self.since = worker.wheel.now();
                    self.outbox.release();
                }
                After::Close => return Box::pin(self.close(worker)).await,
                After::Linger => return Box::pin(self.linger(worker)).await,
                After::Reset => return self.stream.reset_on_drop(),
            }
        }
    }

    /// Sees a request through that was begun.
    pub(crate) async fn see_through(&mut self, mut begun: Begun, worker: &Rc<Worker>) -> After {
        while let Begun::Suspended(waiting) = begun {
            match Box::pin(self.wait(worker, waiting)).await {
                Some(next) => begun = next,
                None => return After::Reset,
            }
        }
        match begun {
            Begun::Forwarded(mut slot) => {
                let after = slot.run(self, worker).await;
                worker.give_slot(slot);
                after
            }
            Begun::Answered(answer) => Box::pin(self.answer(worker, answer)).await,
            // Not begun at all.
            Begun::Partial | Begun::Suspended(_) => After::Reset,
        }
    }

    /// Reads a head and begins its request, in one poll once the head is there.
    fn poll_next(&mut self, cx: &mut Context<'_>, worker: &Rc<Worker>) -> Poll<Next> {
        if !self.inbox.is_empty() && self.waiting != Waiting::RestOfHead && is_blank(&self.inbox) {
            self.inbox = Vec::new();
        }
        if !self.inbox.is_empty() && self.waiting != Waiting::RestOfHead {
            // A pipelined request.
            if let Some(begun) = self.begin_from_inbox(cx, worker) {
                return Poll::Ready(Next::Begun(begun));
            }
            self.wait_for_rest(worker);
        }
        loop {
            let mut scratch = worker.scratch.borrow_mut();
            let read = match self.stream.poll_read(cx, &mut scratch) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Next::End),
                Poll::Ready(Ok(read)) => &scratch[..read],
                Poll::Pending => {
                    drop(scratch);
                    return self.poll_patience(cx, worker);
                }
            };
            if self.fresh {
                match self.opening(read) {
                    Opening::Http1 => self.fresh = false,
                    Opening::Http2 => {
                        self.inbox.extend_from_slice(read);
                        return Poll::Ready(Next::Http2);
                    }
                    Opening::Undecided => {
                        self.inbox.extend_from_slice(read);
                        self.wait_for_rest(worker);
                        continue;
                    }
                }
            }
            if self.inbox.is_empty() {
                if is_blank(read) {
                    continue;
                }
                let (begun, consumed) = request::begin(cx, worker, &self.peer, read);
                self.inbox.extend_from_slice(&read[consumed..]);
                if !matches!(begun, Begun::Partial) {
                    return Poll::Ready(Next::Begun(begun));
                }
                self.wait_for_rest(worker);
                continue;
            }
            // Parsing from the start each time would let slow heads cost the square of their length.
            let seen = self.inbox.len().saturating_sub(3);
            self.inbox.extend_from_slice(read);
            drop(scratch);
            let is_complete = memmem::find(&self.inbox[seen..], b"\r\n\r\n").is_some();
            if (is_complete || self.inbox.len() > head_bytes_max(worker))
                && let Some(begun) = self.begin_from_inbox(cx, worker)
            {
                return Poll::Ready(Next::Begun(begun));
            }
        }
    }

    /// Clients without TLS say by how they begin that they speak HTTP/2 (RFC 9113 §3.3).
    fn opening(&self, read: &[u8]) -> Opening {
        if self.peer.tls.is_some() {
            Opening::Http1
        } else if self.inbox.is_empty() {
            Opening::of(read)
        } else {
            // What is undecided is shorter than the preface.
            Opening::of(&[&self.inbox, read].concat())
        }
    }

    fn wait_for_rest(&mut self, worker: &Worker) {
        // The time of the first head runs from accept.
        if self.waiting != Waiting::FirstByte {
            self.since = worker.wheel.now();
        }
        self.waiting = Waiting::RestOfHead;
    }

    fn begin_from_inbox(&mut self, cx: &mut Context<'_>, worker: &Rc<Worker>) -> Option<Begun> {
        let (begun, consumed) = request::begin(cx, worker, &self.peer, &self.inbox);
        if matches!(begun, Begun::Partial) {
            return None;
        }
        self.take_from_inbox(consumed);
        Some(begun)
    }

    fn take_from_inbox(&mut self, consumed: usize) {
        if consumed == self.inbox.len() {
            // No buffer stays with the connection.
            self.inbox = Vec::new();
        } else {
            self.inbox.drain(..consumed);
        }
    }

    /// Nothing to read: ends the connection if it waited too long or the proxy is draining, else sets the timer.
    fn poll_patience(&mut self, cx: &mut Context<'_>, worker: &Rc<Worker>) -> Poll<Next> {
        let Some(view) = worker.view() else { return Poll::Ready(Next::End) };
        let limits: &TickLimits = &view.snapshot.limits;
        let deadline = 1 + match self.waiting {
            Waiting::FirstByte | Waiting::RestOfHead => self.since + limits.read_header,
            Waiting::NextRequest => self.since + limits.idle,
        };
        let is_idle = self.waiting != Waiting::RestOfHead;
        // A connection that was made a moment ago brings its first request: in a drain it keeps its time for that.
        let deadline = if self.waiting == Waiting::NextRequest { deadline.min(worker.idle_end()) } else { deadline };
        if worker.wheel.now() < deadline {
            self.timer.arm(cx, deadline);
            return Poll::Pending;
        }
        if is_idle {
            return Poll::Ready(Next::End);
        }
        let refusal = Refusal::of(Category::ClientTimeout);
        Poll::Ready(Next::Begun(Begun::Answered(request::refuse_early(worker, view, &self.peer, &refusal))))
    }

    /// Waits with a request for one of its route's stages, and goes on with it.
    async fn wait(&mut self, worker: &Rc<Worker>, mut waiting: Box<Suspended>) -> Option<Begun> {
        let then = poll_fn(|cx| {
            if let Poll::Ready(then) = waiting.poll(cx, worker) {
                return Poll::Ready(Some(then));
            }
            let gone = self.stream.poll_gone(cx).is_ready();
            if gone || (self.timer.is_due() && self.client_end() == ClientEnd::Closed) {
                return Poll::Ready(None);
            }
            self.timer.arm(cx, waiting.deadline().min(worker.wheel.now() + LOOK_TICKS));
            Poll::Pending
        })
        .await;
        let Some(then) = then else {
            let record = &mut waiting.record;
            (record.status, record.reason) = (Category::ClientClosed.status(), Some(Category::ClientClosed));
            record.finish(worker, Moment::now());
            return None;
        };
        let mut rest = Some((*waiting, then));
        poll_fn(|cx| {
            // Polled once: this is here for the context.
            let Some((waiting, then)) = rest.take() else { return Poll::Ready(None) };
            let (begun, consumed) = request::resume(cx, worker, &self.peer, waiting, then, &self.inbox);
            self.take_from_inbox(consumed);
            Poll::Ready(Some(begun))
        })
        .await
    }

    async fn answer(&mut self, worker: &Rc<Worker>, answer: Box<Answer>) -> After {
        let Answer { mut record, bytes, content, mut after } = *answer;
        if !self.send_answer(worker, bytes, content, &mut record).await {
            after = After::Reset;
        }
        record.finish(worker, Moment::now());
        after
    }

    /// Sends an answer of the proxy's own: what is at hand in one write, then the rest of its content. Whether all of it
    /// came.
    pub(crate) async fn send_answer(
        &mut self,
        worker: &Worker,
        mut bytes: Vec<u8>,
        mut content: Option<Streamed>,
        record: &mut Record,
    ) -> bool {
        if let Some(streamed) = &mut content {
            let first = poll_fn(|cx| Poll::Ready(streamed.poll_piece(cx, &mut bytes))).await;
            record.response_bytes = streamed.bytes();
            match first {
                Poll::Ready(Ok(false)) => content = None,
                Poll::Ready(Ok(true)) | Poll::Pending => {}
                Poll::Ready(Err(_)) => return false,
            }
        }
        self.send_all(worker, bytes).await;
        match content {
            Some(content) => self.send_pieces(worker, content, record).await.is_some(),
            None => true,
        }
    }

    /// Sends content that comes in pieces. `None`: not to its end.
    async fn send_pieces(&mut self, worker: &Worker, mut content: Streamed, record: &mut Record) -> Option<()> {
        let Self { stream, outbox, timer, .. } = self;
        let mut piece = Vec::new();
        loop {
            piece.clear();
            let deadline = worker.wheel.after(PIECE_TIMEOUT);
            let more = before(timer, deadline, poll_fn(|cx| content.poll_piece(cx, &mut piece))).await?.ok()?;
            outbox.queue(&piece);
            before(timer, deadline, poll_fn(|cx| outbox.poll_drain(cx, stream))).await?.ok()?;
            record.response_bytes = content.bytes();
            if !more {
                return Some(());
            }
        }
    }

    /// Sends what the client takes of `bytes` now and keeps the rest in the outbox.
    pub(crate) fn send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        self.outbox.send(cx, &mut self.stream, bytes)
    }

    /// Sends all, or gives up when the client takes too long.
    pub(crate) async fn send_all(&mut self, worker: &Worker, bytes: Vec<u8>) {
        let Self { stream, outbox, timer, .. } = self;
        let sent = poll_fn(|cx| Poll::Ready(outbox.send(cx, stream, &bytes))).await;
        worker.give_buffer(bytes);
        // A client that is gone, or takes nothing, is not told.
        if sent.is_err() || outbox.is_empty() {
            return;
        }
        let deadline = worker.wheel.after(ANSWER_TIMEOUT);
        let _ = before(timer, deadline, poll_fn(|cx| outbox.poll_drain(cx, stream))).await;
    }

    /// Ends the connection, all of which was read. A plain one that is dropped says so by itself.
    pub(crate) async fn close(&mut self, worker: &Worker) {
        if self.stream.plain().is_some() {
            return;
        }
        let Self { stream, timer, .. } = self;
        // A client that is gone needs no farewell.
        let _ = before(timer, worker.wheel.after(ANSWER_TIMEOUT), poll_fn(|cx| stream.poll_shutdown(cx))).await;
    }

    /// Ends the connection without losing the answer to a reset: what the client still sends is read for a while.
    pub(crate) async fn linger(&mut self, worker: &Worker) {
        let Self { stream, timer, .. } = self;
        let mut left = LINGER_BYTES_MAX;
        let drained = async {
            poll_fn(|cx| stream.poll_shutdown(cx)).await?;
            poll_fn(|cx| {
                loop {
                    let mut scratch = worker.scratch.borrow_mut();
                    let read = ready!(stream.poll_read(cx, &mut scratch))?;
                    left = left.saturating_sub(read);
                    if read == 0 || left == 0 {
                        return Poll::Ready(Ok::<(), io::Error>(()));
                    }
                }
            })
            .await
        };
        // Whatever the client does now, the connection ends.
        let _ = before(timer, worker.wheel.after(LINGER_TIMEOUT), drained).await;
    }

    /// What the client's end of the connection looks like; one system call.
    pub(crate) fn client_end(&self) -> ClientEnd {
        self.stream.tcp().map_or(ClientEnd::Open, peer_end)
    }
}

/// The client's end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientEnd {
    Open,
    /// It sends no more. `nc` and HTTP/1.0 clients end their requests so and still read the answer (RFC 9112 §9.6 knows
    /// half-closed connections); a client that has closed looks the same until something is sent to it.
    Half,
    /// It is gone.
    Closed,
}

/// Whether there is nothing but empty lines: before a request they are none of it (RFC 9112 §2.2), and do not start its
/// time.
fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
}

/// One system call; only for connections that wait.
fn peer_end(tcp: &TcpStream) -> ClientEnd {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    #[cfg(target_os = "linux")]
    let asked = PollFlags::RDHUP;
    #[cfg(not(target_os = "linux"))]
    let asked = PollFlags::empty();
    let mut fds = [PollFd::new(tcp, asked)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if !poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0) {
        return ClientEnd::Open;
    }
    // Errors and the end of both directions are told without being asked for.
    let is_closed = fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
    if is_closed { ClientEnd::Closed } else { ClientEnd::Half }
}

/// More than any head may have.
fn head_bytes_max(worker: &Worker) -> usize {
    worker.view().map_or(0, |view| {
        let limits = &view.snapshot.head_limits;
        limits.header_bytes_max.min(limits.target_bytes_max)
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_client_that_sends_no_more_is_not_gone_and_one_that_reset_the_connection_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert_eq!(peer_end(&accepted), ClientEnd::Open);
        client.shutdown().await.unwrap();
        accepted.readable().await.unwrap();
        assert_eq!(peer_end(&accepted), ClientEnd::Half);
        client.set_zero_linger().unwrap();
        drop(client);
        while peer_end(&accepted) != ClientEnd::Closed {
            tokio::task::yield_now().await;
        }
    }
}
