//! Bounds the requests of a route that are in flight, over all threads exactly, with a bounded queue in order of arrival.
//!
//! In flight and waiting are one word, so that nobody slips between a look and an act: letting a request in is one
//! read-modify-write, its end is another. Only who has to wait, and who ends while somebody waits, takes the lock of the
//! queue. The wait is a future; dropping it, at any moment, leaves the queue or gives the place on.
//!
//! Invariants: never more in flight than the limit of whoever was let in last; nobody passes a waiting request; a place
//! that is given back goes to the one that waits longest.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use crate::metrics::lock;

/// State of all threads. Outlives snapshots, and with it the requests that are in flight.
#[derive(Debug)]
pub(crate) struct Limiter {
    word: Line,
    queue: Mutex<Queue>,
    /// What an adaptive limit has come to; above every limit where there is none.
    adaptive: AtomicU32,
    rejected: AtomicU64,
}

/// In flight in the low half, waiting in the high half, on a line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line(AtomicU64);

const WAITING: u64 = 1 << 32;
const IN_FLIGHT_MASK: u64 = WAITING - 1;

#[derive(Debug, Default)]
struct Queue {
    waiters: VecDeque<Waiter>,
    next_ticket: u64,
    /// Tickets that have a place which they have not taken yet.
    granted: Vec<u64>,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    limit: u32,
    waker: Option<Waker>,
}

impl Default for Limiter {
    fn default() -> Self {
        Self {
            word: Line::default(),
            queue: Mutex::default(),
            adaptive: AtomicU32::new(u32::MAX),
            rejected: AtomicU64::new(0),
        }
    }
}

/// What came of asking for a place.
#[derive(Debug)]
pub(crate) enum Asked<L: AsRef<Limiter>> {
    Admitted(Place<L>),
    /// Others have to finish first.
    Queued(Wait<L>),
    /// The queue is full, too.
    Full,
}

/// What came of asking again, with the queue's lock.
#[derive(Debug)]
enum Joined {
    Entered,
    Waits(u64),
    Full,
}

impl Limiter {
    /// Asks for a place among `limit`, or one among `queue_max` that wait for one.
    ///
    /// `handle` leads to the limiter. On the hot path it is one of the thread's own: cloning an [`std::sync::Arc`] for
    /// every request would be one more atomic on a shared line.
    pub(crate) fn ask<L: AsRef<Self>>(handle: L, limit: u32, queue_max: u32) -> Asked<L> {
        let limiter = handle.as_ref();
        if limiter.enter(limit) {
            return Asked::Admitted(Place { limiter: handle });
        }
        match limiter.join(limit, queue_max) {
            Joined::Entered => Asked::Admitted(Place { limiter: handle }),
            Joined::Waits(ticket) => Asked::Queued(Wait { limiter: Some(handle), ticket }),
            Joined::Full => Asked::Full,
        }
    }

    fn join(&self, limit: u32, queue_max: u32) -> Joined {
        let mut queue = lock(&self.queue);
        // Under the lock nobody else joins or leaves the queue; places may still be given back.
        let mut word = self.word.0.load(Ordering::Acquire);
        loop {
            let (in_flight, waiting) = (word & IN_FLIGHT_MASK, word / WAITING);
            let (after, enters) = if waiting == 0 && in_flight < u64::from(self.effective(limit)) {
                (word + 1, true)
            } else if waiting < u64::from(queue_max) {
                (word + WAITING, false)
            } else {
                self.rejected.fetch_add(1, Ordering::Relaxed);
                return Joined::Full;
            };
            match self.word.0.compare_exchange_weak(word, after, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) if enters => return Joined::Entered,
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        let ticket = queue.next_ticket;
        queue.next_ticket += 1;
        queue.waiters.push_back(Waiter { ticket, limit, waker: None });
        Joined::Waits(ticket)
    }

    /// Counts a request that gave up waiting.
    pub(crate) fn note_timeout(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests in flight, and waiting.
    pub(crate) fn load(&self) -> (u64, u64) {
        let word = self.word.0.load(Ordering::Relaxed);
        (word & IN_FLIGHT_MASK, word / WAITING)
    }

    /// Requests that were turned away.
    pub(crate) fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// The limit that holds where the plan says `limit`.
    pub(crate) fn effective(&self, limit: u32) -> u32 {
        limit.min(self.adaptive.load(Ordering::Relaxed))
    }

    /// Sets the adaptive limit; [`u32::MAX`]: none. A higher one lets in who waits.
    pub(crate) fn adapt(&self, limit: u32) {
        if self.adaptive.swap(limit, Ordering::Relaxed) < limit {
            self.hand_on();
        }
    }

    /// The way in while there is room and nobody waits.
    fn enter(&self, limit: u32) -> bool {
        let limit = u64::from(self.effective(limit));
        let mut word = self.word.0.load(Ordering::Relaxed);
        // Nobody waits: the high half is 0, so that the whole word is what is in flight.
        while word < limit {
            match self.word.0.compare_exchange_weak(word, word + 1, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
        false
    }

    fn leave(&self) {
        let before = self.word.0.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before & IN_FLIGHT_MASK > 0);
        if before >= WAITING {
            self.hand_on();
        }
    }

    /// Gives free places to those that wait, in their order.
    fn hand_on(&self) {
        let mut wakers = Vec::new();
        let mut queue = lock(&self.queue);
        while let Some(limit) = queue.waiters.front().map(|waiter| waiter.limit) {
            let limit = u64::from(self.effective(limit));
            let entered = self.word.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                (word & IN_FLIGHT_MASK < limit).then(|| word + 1 - WAITING)
            });
            if entered.is_err() {
                break;
            }
            if let Some(waiter) = queue.waiters.pop_front() {
                queue.granted.push(waiter.ticket);
                wakers.extend(waiter.waker);
            }
        }
        drop(queue);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// The place of one request in flight, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place<L: AsRef<Limiter>> {
    limiter: L,
}

impl<L: AsRef<Limiter>> Drop for Place<L> {
    fn drop(&mut self) {
        self.limiter.as_ref().leave();
    }
}

/// A place in the queue. Resolves to a place in flight.
#[derive(Debug)]
pub(crate) struct Wait<L: AsRef<Limiter>> {
    /// `None`: it has its place.
    limiter: Option<L>,
    ticket: u64,
}

impl<L: AsRef<Limiter> + Unpin> Future for Wait<L> {
    type Output = Place<L>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Place<L>> {
        let ticket = self.ticket;
        // Asked again after it has resolved, it never resolves again.
        let Some(limiter) = self.limiter.take() else { return Poll::Pending };
        let mut queue = lock(&limiter.as_ref().queue);
        if let Some(at) = queue.granted.iter().position(|granted| *granted == ticket) {
            queue.granted.swap_remove(at);
            drop(queue);
            return Poll::Ready(Place { limiter });
        }
        if let Some(waiter) = queue.waiters.iter_mut().find(|waiter| waiter.ticket == ticket)
            && !waiter.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            waiter.waker = Some(cx.waker().clone());
        }
        drop(queue);
        self.limiter = Some(limiter);
        Poll::Pending
    }
}

impl<L: AsRef<Limiter>> Drop for Wait<L> {
    fn drop(&mut self) {
        let Some(limiter) = self.limiter.take() else { return };
        let limiter = limiter.as_ref();
        let mut queue = lock(&limiter.queue);
        if let Some(at) = queue.waiters.iter().position(|waiter| waiter.ticket == self.ticket) {
            queue.waiters.remove(at);
            limiter.word.0.fetch_sub(WAITING, Ordering::AcqRel);
            drop(queue);
            // Whoever stood behind may have a higher limit of its own.
            limiter.hand_on();
        } else if let Some(at) = queue.granted.iter().position(|granted| *granted == self.ticket) {
            queue.granted.swap_remove(at);
            drop(queue);
            limiter.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use super::*;

    type Handle = Arc<Limiter>;

    fn ask(limiter: &Handle, limit: u32, queue_max: u32) -> Asked<Handle> {
        Limiter::ask(Arc::clone(limiter), limit, queue_max)
    }

    fn admitted(asked: Asked<Handle>) -> Place<Handle> {
        match asked {
            Asked::Admitted(place) => place,
            Asked::Queued(_) | Asked::Full => panic!("not admitted: {asked:?}"),
        }
    }

    fn queued(asked: Asked<Handle>) -> Wait<Handle> {
        match asked {
            Asked::Queued(wait) => wait,
            Asked::Admitted(_) | Asked::Full => panic!("not queued: {asked:?}"),
        }
    }

    fn poll(wait: &mut Wait<Handle>) -> Option<Place<Handle>> {
        match Pin::new(wait).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(place) => Some(place),
            Poll::Pending => None,
        }
    }

    #[test]
    fn lets_in_up_to_the_limit_then_queues_then_turns_away() {
        let limiter = Arc::<Limiter>::default();
        let places: Vec<_> = (0..2).map(|_| admitted(ask(&limiter, 2, 1))).collect();
        let _wait = queued(ask(&limiter, 2, 1));
        assert!(matches!(ask(&limiter, 2, 1), Asked::Full));
        assert_eq!((limiter.load(), limiter.rejected()), ((2, 1), 1));
        drop(places);
        assert_eq!(limiter.load(), (1, 0), "the one that waited has a place");
    }

    #[test]
    fn places_go_to_who_waits_longest_and_nobody_passes() {
        let limiter = Arc::<Limiter>::default();
        let first = admitted(ask(&limiter, 1, 10));
        let mut waits: Vec<_> = (0..3).map(|_| queued(ask(&limiter, 1, 10))).collect();
        drop(first);
        assert!(poll(&mut waits[1]).is_none());
        let mut late = queued(ask(&limiter, 1, 10));
        let mut held = poll(&mut waits[0]);
        for wait in &mut waits[1..] {
            assert!(poll(wait).is_none());
            drop(held.take());
            held = poll(wait);
            assert!(held.is_some());
        }
        drop(held);
        assert!(poll(&mut late).is_some());
        assert_eq!(limiter.load(), (0, 0));
    }

    #[test]
    fn a_waiter_that_vanishes_blocks_nobody_and_loses_no_place() {
        let limiter = Arc::<Limiter>::default();
        let place = admitted(ask(&limiter, 1, 10));
        let mut waits: VecDeque<_> = (0..4).map(|_| queued(ask(&limiter, 1, 10))).collect();
        waits.pop_front();
        assert_eq!(limiter.load(), (1, 3));
        drop(place);
        // The head has a place but goes before it takes it.
        waits.pop_front();
        let mut last = waits.pop_back().unwrap();
        let mut next = waits.pop_front().unwrap();
        assert!(poll(&mut last).is_none());
        let place = poll(&mut next);
        assert!(place.is_some());
        drop(place);
        assert!(poll(&mut last).is_some());
        assert_eq!(limiter.load(), (0, 0));
    }

    #[test]
    fn a_limit_that_adapts_holds_for_who_comes_and_lets_in_who_waits() {
        let limiter = Arc::<Limiter>::default();
        limiter.adapt(1);
        let _place = admitted(ask(&limiter, 100, 10));
        let mut wait = queued(ask(&limiter, 100, 10));
        limiter.adapt(2);
        assert!(poll(&mut wait).is_some());
    }

    #[test]
    fn a_snapshot_with_another_limit_keeps_who_is_in_flight() {
        let limiter = Arc::<Limiter>::default();
        let _places: Vec<_> = (0..5).map(|_| admitted(ask(&limiter, 5, 0))).collect();
        assert!(matches!(ask(&limiter, 3, 0), Asked::Full));
        drop(admitted(ask(&limiter, 6, 0)));
    }

    #[test]
    fn threads_together_never_exceed_the_limit_and_everyone_gets_through() {
        const LIMIT: usize = 3;
        let limiter = Arc::<Limiter>::default();
        let in_flight = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..8)
            .map(|number| {
                let (limiter, in_flight) = (Arc::clone(&limiter), Arc::clone(&in_flight));
                thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    runtime.block_on(async move {
                        let mut served = 0;
                        for round in 0..2_000 {
                            let place = match ask(&limiter, LIMIT as u32, 100) {
                                Asked::Admitted(place) => place,
                                // Some go away while they wait.
                                Asked::Queued(wait) if (round + number) % 7 == 0 => {
                                    drop(wait);
                                    continue;
                                }
                                Asked::Queued(wait) => wait.await,
                                Asked::Full => panic!("the queue has room for all"),
                            };
                            assert!(in_flight.fetch_add(1, Ordering::SeqCst) < LIMIT);
                            tokio::task::yield_now().await;
                            in_flight.fetch_sub(1, Ordering::SeqCst);
                            drop(place);
                            served += 1;
                        }
                        served
                    })
                })
            })
            .collect();
        let served: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert!(served > 10_000, "{served}");
        assert_eq!(limiter.load(), (0, 0));
    }
}
