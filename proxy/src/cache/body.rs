//! The content of a stored answer: pieces that are shared by whoever reads them, growing while it is fetched.
//!
//! One side appends ([`Body::append`], [`Body::complete`], [`Body::fail`]), any number of [`Reader`]s follow, on any
//! thread. Bytes are copied once, on their way in. What all bodies together hold is counted as long as anybody holds it.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use crate::metrics::lock;

/// Content that is stored, or being fetched.
#[derive(Debug)]
pub(crate) struct Body {
    growing: Mutex<Growing>,
    whole: OnceLock<Whole>,
    /// Bytes of all bodies.
    resident: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Growing {
    pieces: Vec<Bytes>,
    length: u64,
    failed: bool,
    wakers: Vec<Waker>,
    /// It is passed on only: what was read is let go of.
    piped: bool,
    /// Bytes that were let go of.
    gone: u64,
    /// Piped to its end.
    ended: bool,
    readers: usize,
    /// Whoever appends and waits for room.
    filler: Option<Waker>,
}

#[derive(Debug)]
struct Whole {
    pieces: Box<[Bytes]>,
    length: u64,
}

/// What is held per piece beside its bytes.
const PIECE_OVERHEAD: u64 = 64;
/// Bodies up to this size are put into one piece once they are complete.
const JOIN_MAX: u64 = 64 << 10;
/// Smaller pieces, on average, are joined.
const PIECE_MIN: u64 = 4 << 10;
/// A joined piece.
const JOINED_BYTES: usize = 64 << 10;

/// Bytes that a piped body holds for its reader, about.
const PIPED_BYTES: u64 = 256 << 10;

/// The body broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BrokenOff;

impl Body {
    /// An empty body that grows.
    pub(crate) fn new(resident: &Arc<AtomicU64>) -> Self {
        Self { growing: Mutex::default(), whole: OnceLock::new(), resident: Arc::clone(resident) }
    }

    /// A complete body of one piece.
    pub(crate) fn whole(bytes: Bytes, resident: &Arc<AtomicU64>) -> Self {
        let body = Self::new(resident);
        body.append(bytes);
        body.complete();
        body
    }

    /// Adds a piece.
    pub(crate) fn append(&self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        self.resident.fetch_add(piece.len() as u64 + PIECE_OVERHEAD, Ordering::Relaxed);
        let mut growing = lock(&self.growing);
        growing.length += piece.len() as u64;
        growing.pieces.push(piece);
        wake(&mut growing);
    }

    /// There is no more.
    pub(crate) fn complete(&self) {
        let mut growing = lock(&self.growing);
        if growing.failed || self.whole.get().is_some() {
            return;
        }
        if growing.piped {
            growing.ended = true;
            return wake(&mut growing);
        }
        let before = held(&growing.pieces);
        let pieces = std::mem::take(&mut growing.pieces);
        let pieces = join(pieces, growing.length);
        let after = held(&pieces);
        self.resident.fetch_add(after, Ordering::Relaxed);
        self.resident.fetch_sub(before, Ordering::Relaxed);
        // Readers that are in the middle find their place again by how much they have read.
        let _ = self.whole.set(Whole { pieces: pieces.into(), length: growing.length });
        wake(&mut growing);
    }

    /// From now on it is passed on only, for the one reader that it has: nobody may start reading it any more.
    pub(crate) fn pipe(&self) {
        lock(&self.growing).piped = true;
    }

    /// Ready when more may be appended. Always, unless the body is piped and not read.
    ///
    /// # Errors
    /// Nobody reads what is piped.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<Result<(), BrokenOff>> {
        let mut growing = lock(&self.growing);
        if !growing.piped {
            return Poll::Ready(Ok(()));
        }
        if growing.readers == 0 {
            return Poll::Ready(Err(BrokenOff));
        }
        if growing.length - growing.gone <= PIPED_BYTES {
            return Poll::Ready(Ok(()));
        }
        growing.filler = Some(cx.waker().clone());
        Poll::Pending
    }

    /// There is more, but it will not come.
    pub(crate) fn fail(&self) {
        let mut growing = lock(&self.growing);
        growing.failed = true;
        wake(&mut growing);
    }

    /// Bytes, once it is complete.
    pub(crate) fn length(&self) -> Option<u64> {
        self.whole.get().map(|whole| whole.length)
    }

    /// Bytes so far.
    pub(crate) fn grown(&self) -> u64 {
        self.length().unwrap_or_else(|| lock(&self.growing).length)
    }

    /// What it takes once it is complete.
    pub(crate) fn cost(&self) -> u64 {
        self.whole.get().map_or(0, |whole| held(&whole.pieces))
    }

    /// The pieces, once it is complete.
    pub(crate) fn pieces(&self) -> Option<&[Bytes]> {
        self.whole.get().map(|whole| &*whole.pieces)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let growing = self.growing.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let held = held(&growing.pieces) + self.whole.get().map_or(0, |whole| held(&whole.pieces));
        self.resident.fetch_sub(held, Ordering::Relaxed);
    }
}

fn held(pieces: &[Bytes]) -> u64 {
    pieces.iter().map(|piece| piece.len() as u64 + PIECE_OVERHEAD).sum()
}

fn wake(growing: &mut Growing) {
    growing.wakers.drain(..).for_each(Waker::wake);
}

/// Many small pieces cost more than their bytes.
fn join(pieces: Vec<Bytes>, length: u64) -> Vec<Bytes> {
    if pieces.len() <= 1 || (length > JOIN_MAX && length / pieces.len() as u64 >= PIECE_MIN) {
        return pieces;
    }
    let mut joined = Vec::new();
    let mut buffer = Vec::with_capacity(JOINED_BYTES.min(length as usize));
    for piece in pieces {
        if !buffer.is_empty() && buffer.len() + piece.len() > JOINED_BYTES {
            joined.push(Bytes::from(std::mem::take(&mut buffer)));
        }
        buffer.extend_from_slice(&piece);
    }
    buffer.shrink_to_fit();
    joined.push(Bytes::from(buffer));
    joined
}

/// Reads a body from its start, or a part of it.
#[derive(Debug)]
pub(crate) struct Reader {
    body: Arc<Body>,
    at: u64,
    end: u64,
    /// The piece that `at` was last found in, and where that piece starts.
    near: (usize, u64),
    /// `near` is one of the whole body's pieces.
    in_whole: bool,
}

impl Reader {
    /// All of it.
    pub(crate) fn new(body: Arc<Body>) -> Self {
        Self::part(body, 0..u64::MAX)
    }

    /// These bytes of it.
    pub(crate) fn part(body: Arc<Body>, range: Range<u64>) -> Self {
        let in_whole = body.whole.get().is_some();
        if !in_whole {
            lock(&body.growing).readers += 1;
        }
        Self { body, at: range.start, end: range.end, near: (0, 0), in_whole }
    }

    /// Whether everything was read.
    pub(crate) fn is_done(&self) -> bool {
        self.at >= self.end.min(self.body.length().unwrap_or(u64::MAX))
    }

    /// The next bytes, of one piece; `None`: there are no more.
    ///
    /// # Errors
    /// The body will not be complete.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BrokenOff>> {
        if self.at >= self.end {
            return Poll::Ready(Ok(None));
        }
        let body = Arc::clone(&self.body);
        if let Some(whole) = body.whole.get() {
            return Poll::Ready(Ok(self.take_from_whole(whole)));
        }
        let mut growing = lock(&body.growing);
        // It may have been completed in the meantime.
        if let Some(whole) = body.whole.get() {
            drop(growing);
            return Poll::Ready(Ok(self.take_from_whole(whole)));
        }
        if let Some(bytes) = self.take(&growing.pieces) {
            if growing.piped {
                self.let_go(&mut growing);
            }
            return Poll::Ready(Ok(Some(bytes)));
        }
        if growing.failed {
            return Poll::Ready(Err(BrokenOff));
        }
        if growing.ended {
            return Poll::Ready(Ok(None));
        }
        // A look at the latest ones keeps most repetitions out; looking at all would cost their square.
        if !growing.wakers.iter().rev().take(16).any(|waker| waker.will_wake(cx.waker())) {
            growing.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    fn take_from_whole(&mut self, whole: &Whole) -> Option<Bytes> {
        if !self.in_whole {
            (self.near, self.in_whole) = ((0, 0), true);
        }
        self.take(&whole.pieces)
    }

    /// Lets go of the pieces before the one that is read.
    fn let_go(&mut self, growing: &mut Growing) {
        let (index, start) = self.near;
        let read: Vec<Bytes> = growing.pieces.drain(..index).collect();
        self.body.resident.fetch_sub(held(&read), Ordering::Relaxed);
        growing.gone = start;
        self.near = (0, start);
        if let Some(filler) = growing.filler.take() {
            filler.wake();
        }
    }

    fn take(&mut self, pieces: &[Bytes]) -> Option<Bytes> {
        let (mut index, mut start) = self.near;
        while let Some(piece) = pieces.get(index) {
            let end = start + piece.len() as u64;
            if self.at < end {
                self.near = (index, start);
                let from = (self.at - start) as usize;
                let to = (self.end.min(end) - start) as usize;
                self.at = self.end.min(end);
                return Some(piece.slice(from..to));
            }
            (index, start) = (index + 1, end);
        }
        self.near = (index, start);
        None
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.body.whole.get().is_none() {
            let mut growing = lock(&self.body.growing);
            growing.readers = growing.readers.saturating_sub(1);
            if let Some(filler) = growing.filler.take() {
                filler.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Context;

    use super::*;

    fn read_all(reader: &mut Reader) -> (Vec<u8>, Poll<Result<(), BrokenOff>>) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut out = Vec::new();
        loop {
            match reader.poll_next(&mut cx) {
                Poll::Ready(Ok(Some(bytes))) => out.extend_from_slice(&bytes),
                Poll::Ready(Ok(None)) => return (out, Poll::Ready(Ok(()))),
                Poll::Ready(Err(broken)) => return (out, Poll::Ready(Err(broken))),
                Poll::Pending => return (out, Poll::Pending),
            }
        }
    }

    #[test]
    fn readers_follow_a_body_while_it_grows() {
        let resident = Arc::default();
        let body = Arc::new(Body::new(&resident));
        let mut early = Reader::new(Arc::clone(&body));
        body.append(Bytes::from_static(b"hello "));
        assert_eq!(read_all(&mut early), (b"hello ".to_vec(), Poll::Pending));
        body.append(Bytes::from_static(b"wor"));
        let mut late = Reader::new(Arc::clone(&body));
        assert_eq!(read_all(&mut late), (b"hello wor".to_vec(), Poll::Pending));
        body.append(Bytes::from_static(b"ld"));
        body.complete();
        assert_eq!(read_all(&mut early), (b"world".to_vec(), Poll::Ready(Ok(()))));
        assert_eq!(read_all(&mut late), (b"ld".to_vec(), Poll::Ready(Ok(()))));
        let mut part = Reader::part(Arc::clone(&body), 4..8);
        assert_eq!(read_all(&mut part), (b"o wo".to_vec(), Poll::Ready(Ok(()))));
        assert_eq!((body.length(), body.pieces().map(<[Bytes]>::len)), (Some(11), Some(1)));
    }

    #[test]
    fn a_body_that_broke_off_is_never_complete() {
        let body = Arc::new(Body::new(&Arc::default()));
        let mut reader = Reader::new(Arc::clone(&body));
        body.append(Bytes::from_static(b"half"));
        body.fail();
        body.complete();
        assert_eq!(read_all(&mut reader), (b"half".to_vec(), Poll::Ready(Err(BrokenOff))));
        assert_eq!(body.length(), None);
    }

    #[test]
    fn a_piped_body_holds_only_what_was_not_read() {
        let mut cx = Context::from_waker(Waker::noop());
        let resident: Arc<AtomicU64> = Arc::default();
        let body = Arc::new(Body::new(&resident));
        let mut reader = Reader::new(Arc::clone(&body));
        body.append(Bytes::from(vec![1; 1000]));
        body.pipe();
        for _ in 0..300 {
            body.append(Bytes::from(vec![2; 1000]));
        }
        assert!(body.poll_room(&mut cx).is_pending());
        let (read, end) = read_all(&mut reader);
        assert_eq!((read.len(), end), (301_000, Poll::Pending));
        assert_eq!(body.poll_room(&mut cx), Poll::Ready(Ok(())));
        assert!(resident.load(Ordering::Relaxed) < 3000);
        body.complete();
        assert_eq!(read_all(&mut reader), (Vec::new(), Poll::Ready(Ok(()))));
        assert_eq!(body.length(), None, "it is not stored");
        drop(reader);
        assert_eq!(body.poll_room(&mut cx), Poll::Ready(Err(BrokenOff)));
    }

    #[test]
    fn what_is_held_is_counted_until_the_last_reader_is_gone() {
        let resident = Arc::default();
        let body = Arc::new(Body::new(&resident));
        (0..100).for_each(|_| body.append(Bytes::from(vec![0; 1000])));
        body.complete();
        assert_eq!(resident.load(Ordering::Relaxed), 100_000 + 2 * PIECE_OVERHEAD);
        let reader = Reader::new(Arc::clone(&body));
        drop(body);
        assert_ne!(resident.load(Ordering::Relaxed), 0);
        drop(reader);
        assert_eq!(resident.load(Ordering::Relaxed), 0);
    }
}
