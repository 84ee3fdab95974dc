//! What lies between a client's HTTP/2 connection and its bytes: counts the frames that cost the client nothing and the
//! proxy something, and sees what takes too long below the level of streams.
//!
//! `h2` bounds CONTINUATION frames, small DATA frames and streams that end by an error. Here are the rest: SETTINGS, PING,
//! PRIORITY and frames of unknown types, WINDOW_UPDATE beyond what the answers explain, and RST_STREAM beyond what a
//! client needs (CVE-2019-9512, -9513, -9515, CVE-2023-44487). Each has an allowance that refills with time and with use.
//! Once it is spent nothing more is read; who owns the connection looks at [`Gauge::verdict`] and ends it.
//!
//! What is wrong with frames and field blocks ends the connection here, with the code that RFC 9113 names ([`Frames`]);
//! what is wrong with one message, and `h2` would hide, is kept for its stream ([`Gauge::flaw`]). The rest is left to `h2`
//! to refuse.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::blocks::Flaw;
use super::frame::{CONTINUATION, DATA, Frame, GOAWAY, HEADERS, RST_STREAM, WINDOW_UPDATE};
use super::frames::{Frames, Seen};
use crate::stream::Transport;
use crate::timer::{NEVER, Wheel, ticks};

/// A client's bytes on their way to and from `h2`.
#[derive(Debug)]
pub(super) struct Guarded {
    transport: Rc<RefCell<Transport>>,
    /// Read before it was known that this is HTTP/2.
    first: Vec<u8>,
    gauge: Rc<Gauge>,
    frames: Frames,
}

/// What was seen of a connection.
#[derive(Debug)]
pub(super) struct Gauge {
    wheel: Rc<Wheel>,
    flooded: Cell<bool>,
    /// The code of the rule that a frame broke.
    broken: Cell<Option<Reason>>,
    /// Tick since which a header block, or a frame other than DATA, is not complete.
    partial_since: Cell<u64>,
    /// Tick since which the client takes nothing of what is to be sent.
    blocked_since: Cell<u64>,
    /// What the kernel held for the client when that was looked at last.
    held: Cell<Option<u64>>,
    /// Bytes sent to the client.
    sent: Cell<u64>,
    control: RefCell<Allowance>,
    updates: RefCell<Allowance>,
    resets: RefCell<Allowance>,
    /// Messages that are malformed, by stream.
    flaws: RefCell<Vec<(u32, Flaw)>>,
}

/// What is wrong with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Fine,
    /// Too many frames that achieve nothing.
    Flooded,
    /// A frame broke a rule; nothing of it or after it was passed on.
    Broken(Reason),
    /// The client does not complete what it began.
    Stuck,
    /// The socket takes nothing for the client ([`Gauge::goes_on`]).
    Blocked,
}

/// A number of frames that may come at once, refilled by `per_second`.
#[derive(Debug)]
struct Allowance {
    left: u64,
    most: u64,
    per_second: u64,
    /// Tick of the last refill.
    refilled: u64,
}

impl Allowance {
    const fn new(most: u64, per_second: u64, now: u64) -> Self {
        Self { left: most, most, per_second, refilled: now }
    }

    fn spend(&mut self, now: u64) -> bool {
        if self.left == 0 {
            let earned = (now - self.refilled) * self.per_second / TICKS_PER_SECOND;
            if earned > 0 {
                self.refilled = now;
                self.earn(earned);
            }
        }
        let allowed = self.left > 0;
        self.left -= u64::from(allowed);
        allowed
    }

    fn earn(&mut self, more: u64) {
        self.left = (self.left + more).min(self.most);
    }
}

/// SETTINGS, PING, PRIORITY and unknown frames. Acknowledgements too: of ours there are few.
const CONTROL_MAX: u64 = 500;
const CONTROL_PER_SECOND: u64 = 50;
/// WINDOW_UPDATE, besides those that answers explain.
const UPDATES_MAX: u64 = 2000;
const UPDATES_PER_SECOND: u64 = 200;
/// One WINDOW_UPDATE may follow so many bytes of answers.
const BYTES_PER_UPDATE: u64 = 512;
/// RST_STREAM, besides one for each answer that was completed.
const RESETS_MAX: u64 = 400;
const RESETS_PER_SECOND: u64 = 40;
/// Malformed messages that are remembered: more than there may be streams.
const FLAWS_MAX: usize = 512;
const TICKS_PER_SECOND: u64 = 50;

impl Gauge {
    pub(super) fn new(wheel: &Rc<Wheel>) -> Self {
        let now = wheel.now();
        debug_assert_eq!(ticks(std::time::Duration::from_secs(1)), TICKS_PER_SECOND);
        Self {
            wheel: Rc::clone(wheel),
            flooded: Cell::new(false),
            broken: Cell::new(None),
            partial_since: Cell::new(NEVER),
            blocked_since: Cell::new(NEVER),
            held: Cell::new(None),
            sent: Cell::new(0),
            control: RefCell::new(Allowance::new(CONTROL_MAX, CONTROL_PER_SECOND, now)),
            updates: RefCell::new(Allowance::new(UPDATES_MAX, UPDATES_PER_SECOND, now)),
            resets: RefCell::new(Allowance::new(RESETS_MAX, RESETS_PER_SECOND, now)),
            flaws: RefCell::default(),
        }
    }

    /// An answer was completed: a client that works may also give some up.
    pub(super) fn answered(&self) {
        self.resets.borrow_mut().earn(1);
    }

    /// Judges; heads may take `head_ticks`, and a client may take nothing for `blocked_ticks`.
    pub(super) fn verdict(&self, head_ticks: u64, blocked_ticks: u64) -> Verdict {
        let now = self.wheel.now();
        let late = |since: u64, allowed: u64| now > since.saturating_add(allowed);
        if self.flooded.get() {
            Verdict::Flooded
        } else if let Some(reason) = self.broken.get() {
            Verdict::Broken(reason)
        } else if late(self.partial_since.get(), head_ticks) {
            Verdict::Stuck
        } else if late(self.blocked_since.get(), blocked_ticks) {
            Verdict::Blocked
        } else {
            Verdict::Fine
        }
    }

    /// Whether a client that is blocked may go on: the kernel holds so much for it, and that was more at the last look. The
    /// first look only sets the mark. Where the system does not say, it may not.
    pub(super) fn goes_on(&self, held: Option<u64>) -> bool {
        let before = self.held.replace(held);
        let goes_on = held.is_some_and(|held| before.is_none_or(|before| held < before));
        if goes_on {
            self.blocked_since.set(self.wheel.now());
        }
        goes_on
    }

    /// The tick at which [`Self::verdict`] has to be asked again, if nothing else happens.
    pub(super) fn deadline(&self, head_ticks: u64, blocked_ticks: u64) -> u64 {
        let head = self.partial_since.get().saturating_add(head_ticks);
        head.min(self.blocked_since.get().saturating_add(blocked_ticks)).saturating_add(1)
    }

    /// What is wrong with the message of this stream, if anything.
    pub(super) fn flaw(&self, stream: u32) -> Option<Flaw> {
        self.flaws.borrow().iter().find(|(flawed, _)| *flawed == stream).map(|(_, flaw)| *flaw)
    }

    /// The stream has ended.
    pub(super) fn forget(&self, stream: u32) {
        self.flaws.borrow_mut().retain(|(flawed, _)| *flawed != stream);
    }

    fn see(&self, seen: Seen) {
        match seen {
            Seen::Frame(frame) => self.spend(frame),
            Seen::Flaw(stream, flaw) => {
                let mut flaws = self.flaws.borrow_mut();
                flaws.push((stream, flaw));
                // Those of streams that were refused before they began are never asked for.
                if flaws.len() > FLAWS_MAX {
                    self.flooded.set(true);
                }
            }
        }
    }

    fn spend(&self, frame: Frame) {
        let allowance = match frame.kind {
            DATA | HEADERS | CONTINUATION | GOAWAY => return,
            WINDOW_UPDATE => {
                let explained = self.sent.get() / BYTES_PER_UPDATE;
                if explained > 0 {
                    self.sent.set(self.sent.get() - explained * BYTES_PER_UPDATE);
                    self.updates.borrow_mut().earn(explained);
                }
                &self.updates
            }
            RST_STREAM => &self.resets,
            _ => &self.control,
        };
        if !allowance.borrow_mut().spend(self.wheel.now()) {
            self.flooded.set(true);
        }
    }
}

impl Guarded {
    pub(super) fn new(transport: Rc<RefCell<Transport>>, first: Vec<u8>, gauge: Rc<Gauge>) -> Self {
        Self { transport, first, gauge, frames: Frames::new() }
    }

    fn sent(&self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.gauge.sent.set(self.gauge.sent.get() + *bytes as u64);
                self.gauge.blocked_since.set(NEVER);
                self.gauge.held.set(None);
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending if self.gauge.blocked_since.get() == NEVER => {
                self.gauge.blocked_since.set(self.gauge.wheel.now());
            }
            Poll::Pending => {}
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.gauge.flooded.get() || this.gauge.broken.get().is_some() {
            // The owner looks at the verdict whenever nothing is left to do.
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        if this.first.is_empty() {
            ready!(Pin::new(&mut *this.transport.borrow_mut()).poll_read(cx, buffer))?;
        } else {
            let taken = this.first.len().min(buffer.remaining());
            buffer.put_slice(&this.first[..taken]);
            this.first.drain(..taken);
            if this.first.is_empty() {
                this.first = Vec::new();
            }
        }
        let gauge = &this.gauge;
        if let Err((passed, reason)) = this.frames.read(&buffer.filled()[before..], |seen| gauge.see(seen)) {
            gauge.broken.set(Some(reason));
            buffer.set_filled(before + passed);
            if passed == 0 {
                // Nothing would mean the end.
                return Poll::Pending;
            }
        }
        if !this.frames.is_partial() {
            gauge.partial_since.set(NEVER);
        } else if gauge.partial_since.get() == NEVER {
            gauge.partial_since.set(gauge.wheel.now());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.transport.borrow_mut()).poll_write(cx, bytes);
        self.sent(&written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.transport.borrow_mut()).poll_write_vectored(cx, slices);
        self.sent(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.borrow().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.transport.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.transport.borrow_mut()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{PING, SETTINGS};
    use super::*;

    #[test]
    fn what_costs_nothing_is_counted_and_what_is_earned_is_not() {
        let wheel = Rc::new(Wheel::new());
        let of = |kind: u8, flags: u8| Frame { length: 0, kind, flags, stream: 0 };
        let check = |kind: u8, flags: u8, most: u64| {
            let gauge = Gauge::new(&wheel);
            for _ in 0..most {
                gauge.spend(of(kind, flags));
            }
            assert_eq!(gauge.verdict(1, 1), Verdict::Fine, "{kind}");
            gauge.spend(of(kind, flags));
            assert_eq!(gauge.verdict(1, 1), Verdict::Flooded, "{kind}");
        };
        check(PING, 0, CONTROL_MAX);
        check(PING, 1, CONTROL_MAX);
        check(SETTINGS, 0, CONTROL_MAX);
        check(SETTINGS, 1, CONTROL_MAX);
        check(2, 0, CONTROL_MAX);
        check(99, 0, CONTROL_MAX);
        check(RST_STREAM, 0, RESETS_MAX);
        check(WINDOW_UPDATE, 0, UPDATES_MAX);
        let gauge = Gauge::new(&wheel);
        for _ in 0..10 * UPDATES_MAX {
            gauge.spend(of(WINDOW_UPDATE, 0));
            gauge.spend(of(RST_STREAM, 0));
            gauge.sent.set(gauge.sent.get() + 1024);
            gauge.answered();
        }
        assert_eq!(gauge.verdict(1, 1), Verdict::Fine);
    }

    #[test]
    fn a_blocked_client_goes_on_as_long_as_it_reads() {
        let wheel = Rc::new(Wheel::new());
        let gauge = Gauge::new(&wheel);
        gauge.blocked_since.set(0);
        let advance = |ticks| wheel.advance(wheel.now() + ticks);
        let look = |held| (gauge.verdict(NEVER, 10) == Verdict::Blocked).then(|| gauge.goes_on(held));
        assert_eq!(look(Some(100)), None, "not yet");
        advance(11);
        assert_eq!((look(Some(100)), look(Some(100))), (Some(true), None), "the first look sets the mark");
        advance(11);
        assert_eq!(look(Some(99)), Some(true));
        advance(11);
        assert_eq!(look(Some(99)), Some(false));
        gauge.held.set(None);
        assert_eq!(look(None), Some(false), "nobody knows");
    }

    #[test]
    fn an_allowance_refills_with_time() {
        let mut allowance = Allowance::new(2, 50, 0);
        assert_eq!([0, 0, 0, 1, 1].map(|now| allowance.spend(now)), [true, true, false, true, false]);
        assert_eq!([100, 100, 100].map(|now| allowance.spend(now)), [true, true, false]);
    }
}
