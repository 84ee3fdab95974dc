//! Deadlines of a thread's connections on one coarse wheel: no runtime timer per request.
//!
//! A connection registers once. Setting a later deadline stores one number; the slot that was booked finds out when its
//! turn comes and books again. Whoever owns the thread calls [`Wheel::advance`] every [`TICK`].

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

/// Length of a tick. Deadlines are late by up to one tick and the thread's own lag, never early.
pub(crate) const TICK: Duration = Duration::from_millis(20);
/// A deadline that never comes.
pub(crate) const NEVER: u64 = u64::MAX;

/// Slots of one turn: about ten seconds.
const SLOTS: usize = 512;
/// No entry.
const NIL: u32 = u32::MAX;

/// The wheel of one thread.
#[derive(Debug)]
pub(crate) struct Wheel {
    now: Cell<u64>,
    book: RefCell<Book>,
}

#[derive(Debug)]
struct Book {
    entries: Vec<Entry>,
    /// First free entry; they are linked through `next`.
    free: u32,
    /// First entry of each slot.
    slots: Vec<u32>,
}

#[derive(Debug)]
struct Entry {
    deadline: u64,
    /// The slot's tick, or [`NEVER`] when in no slot.
    booked: u64,
    next: u32,
    previous: u32,
    waker: Option<Waker>,
}

impl Wheel {
    pub(crate) fn new() -> Self {
        let book = Book { entries: Vec::new(), free: NIL, slots: vec![NIL; SLOTS] };
        Self { now: Cell::new(0), book: RefCell::new(book) }
    }

    /// The current tick.
    pub(crate) fn now(&self) -> u64 {
        self.now.get()
    }

    /// The first tick that is no earlier than `duration` from now.
    pub(crate) fn after(&self, duration: Duration) -> u64 {
        self.now.get().saturating_add(ticks(duration)).saturating_add(1)
    }

    /// Moves time to `tick` and wakes whose deadline has come.
    pub(crate) fn advance(&self, tick: u64) {
        let from = self.now.get();
        if tick <= from {
            return;
        }
        self.now.set(tick);
        let first = from.max(tick.saturating_sub(SLOTS as u64)) + 1;
        for slot in first..=tick {
            loop {
                // The borrow ends before the waker runs foreign code.
                let waker = self.book.borrow_mut().turn(slot, tick);
                match waker {
                    Turn::Wake(waker) => waker.wake(),
                    Turn::Silent => {}
                    Turn::Empty => break,
                }
            }
        }
    }

    /// Wakes every connection, so that it looks at what has changed for all.
    pub(crate) fn wake_all(&self) {
        let wakers: Vec<Waker> = self.book.borrow().entries.iter().filter_map(|entry| entry.waker.clone()).collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Whole ticks of a duration, rounded up.
pub(crate) const fn ticks(duration: Duration) -> u64 {
    let ticks = duration.as_millis().div_ceil(TICK.as_millis());
    if ticks < u32::MAX as u128 { ticks as u64 } else { u32::MAX as u64 }
}

enum Turn {
    Wake(Waker),
    Silent,
    Empty,
}

impl Book {
    /// Takes one entry whose turn has come out of the slot of `slot_tick`.
    fn turn(&mut self, slot_tick: u64, now: u64) -> Turn {
        let index = self.slots[slot_tick as usize % SLOTS];
        if index == NIL {
            return Turn::Empty;
        }
        self.unlink(index);
        let entry = &mut self.entries[index as usize];
        if entry.deadline <= now {
            return entry.waker.clone().map_or(Turn::Silent, Turn::Wake);
        }
        let deadline = entry.deadline;
        // Counted from the slot at hand: after a lag, a whole turn from `now` would be a slot that this advance has yet
        // to empty, and it would never be.
        self.link(index, deadline, slot_tick);
        Turn::Silent
    }

    /// Books an entry into the slot of `deadline`, or into the last one of the turn that begins after `now`.
    fn link(&mut self, index: u32, deadline: u64, now: u64) {
        if deadline == NEVER {
            return;
        }
        let booked = deadline.clamp(now + 1, now + SLOTS as u64 - 1);
        let slot = booked as usize % SLOTS;
        let head = self.slots[slot];
        self.slots[slot] = index;
        if head != NIL {
            self.entries[head as usize].previous = index;
        }
        let entry = &mut self.entries[index as usize];
        (entry.booked, entry.next, entry.previous) = (booked, head, NIL);
    }

    fn unlink(&mut self, index: u32) {
        let Entry { booked, next, previous, .. } = self.entries[index as usize];
        if booked == NEVER {
            return;
        }
        match previous {
            NIL => self.slots[booked as usize % SLOTS] = next,
            previous => self.entries[previous as usize].next = next,
        }
        if next != NIL {
            self.entries[next as usize].previous = previous;
        }
        self.entries[index as usize].booked = NEVER;
    }
}

/// The one deadline of a connection.
#[derive(Debug)]
pub(crate) struct Timer {
    wheel: Rc<Wheel>,
    index: u32,
    deadline: Cell<u64>,
}

impl Timer {
    /// A timer without a deadline.
    pub(crate) fn new(wheel: Rc<Wheel>) -> Self {
        let mut book = wheel.book.borrow_mut();
        let entry = Entry { deadline: NEVER, booked: NEVER, next: NIL, previous: NIL, waker: None };
        let index = match book.free {
            NIL => {
                book.entries.push(entry);
                book.entries.len() as u32 - 1
            }
            free => {
                book.free = book.entries[free as usize].next;
                book.entries[free as usize] = entry;
                free
            }
        };
        drop(book);
        Self { wheel, index, deadline: Cell::new(NEVER) }
    }

    /// Sets the deadline and who is woken at it.
    pub(crate) fn arm(&self, cx: &Context<'_>, tick: u64) {
        self.deadline.set(tick);
        let mut book = self.wheel.book.borrow_mut();
        let entry = &mut book.entries[self.index as usize];
        entry.deadline = tick;
        if !entry.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            entry.waker = Some(cx.waker().clone());
        }
        if tick < entry.booked {
            book.unlink(self.index);
            book.link(self.index, tick, self.wheel.now.get());
        }
    }

    /// The current tick.
    pub(crate) fn now(&self) -> u64 {
        self.wheel.now.get()
    }

    /// Whether the deadline has come.
    pub(crate) fn is_due(&self) -> bool {
        self.wheel.now.get() >= self.deadline.get()
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let mut book = self.wheel.book.borrow_mut();
        book.unlink(self.index);
        let free = std::mem::replace(&mut book.free, self.index);
        let entry = &mut book.entries[self.index as usize];
        entry.next = free;
        entry.deadline = NEVER;
        let waker = entry.waker.take();
        drop(book);
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn timer(wheel: &Rc<Wheel>, tick: u64) -> (Timer, Arc<Count>) {
        let count = Arc::new(Count::default());
        let timer = Timer::new(Rc::clone(wheel));
        timer.arm(&Context::from_waker(&Waker::from(Arc::clone(&count))), tick);
        (timer, count)
    }

    #[test]
    fn wakes_at_the_deadline_and_not_before_however_far_it_is() {
        for deadline in [1, 2, 511, 512, 513, 5000] {
            let wheel = Rc::new(Wheel::new());
            let (timer, count) = timer(&wheel, deadline);
            for tick in 1..deadline {
                wheel.advance(tick);
            }
            assert_eq!((count.0.load(Ordering::Relaxed), timer.is_due()), (0, false), "{deadline}");
            wheel.advance(deadline);
            assert_eq!((count.0.load(Ordering::Relaxed), timer.is_due()), (1, true), "{deadline}");
        }
    }

    /// A thread that lagged by several ticks once spun for ever: what it booked anew landed in a slot it was emptying.
    #[test]
    fn time_that_jumps_by_any_number_of_ticks_wakes_each_deadline_once() {
        for jump in [2, 3, 7, 511, 512, 513, 1500] {
            for deadline in [1, 600, 1023, 1024, 5000] {
                let wheel = Rc::new(Wheel::new());
                let (timer, count) = timer(&wheel, deadline);
                let mut tick = 0;
                while tick < deadline {
                    assert_eq!(count.0.load(Ordering::Relaxed), 0, "{jump} {deadline} {tick}");
                    tick += jump;
                    wheel.advance(tick);
                }
                assert_eq!((count.0.load(Ordering::Relaxed), timer.is_due()), (1, true), "{jump} {deadline}");
            }
        }
    }

    #[test]
    fn a_deadline_moves_later_and_earlier() {
        let wheel = Rc::new(Wheel::new());
        let (timer, count) = timer(&wheel, 10);
        let waker = Waker::from(Arc::clone(&count));
        timer.arm(&Context::from_waker(&waker), 30);
        wheel.advance(20);
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        timer.arm(&Context::from_waker(&waker), 22);
        wheel.advance(22);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_dropped_timer_wakes_nobody_and_its_entry_is_used_again() {
        let wheel = Rc::new(Wheel::new());
        let (first, dropped) = timer(&wheel, 5);
        let (_kept, kept) = timer(&wheel, 5);
        drop(first);
        let (_third, third) = timer(&wheel, 6);
        wheel.advance(100_000);
        let counts = [dropped, kept, third].map(|count| count.0.load(Ordering::Relaxed));
        assert_eq!((counts, wheel.book.borrow().entries.len()), ([0, 1, 1], 2));
    }
}
