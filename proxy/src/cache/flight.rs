//! One fetch for all who wait for the same answer.
//!
//! Whoever asks first leads; the others wait until the leader knows whether the answer can be shared, on whatever threads
//! they are. If it can, they read it while it is still being fetched; if not, each goes its own way. A leader that is
//! gone without a word lets the next one lead.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use super::entry::Entry;
use crate::metrics::lock;

/// A fetch that others may wait for.
#[derive(Debug, Default)]
pub(crate) struct Flight(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    landing: Option<Landing>,
    wakers: Vec<Waker>,
    /// Those who wait, or have waited.
    joined: u32,
}

/// What a fetch came to.
#[derive(Clone, Debug)]
pub(crate) enum Landing {
    /// It is there, or growing.
    Shared(Arc<Entry>),
    /// The answer is for the leader alone.
    NotShared,
    /// The leader is gone.
    Abandoned,
}

/// Who may wait for one fetch; more go their own way.
const WAITERS_MAX: u32 = 10_000;

impl Flight {
    /// Joins those who wait; whether there is room.
    pub(super) fn join(&self) -> bool {
        let mut state = lock(&self.0);
        state.joined += 1;
        state.joined <= WAITERS_MAX
    }

    /// Tells everybody.
    pub(super) fn land(&self, landing: Landing) {
        let mut state = lock(&self.0);
        state.landing = Some(landing);
        state.wakers.drain(..).for_each(Waker::wake);
    }

    pub(crate) fn poll_landing(&self, cx: &mut Context<'_>) -> Poll<Landing> {
        let mut state = lock(&self.0);
        if let Some(landing) = &state.landing {
            return Poll::Ready(landing.clone());
        }
        // A look at the latest ones keeps most repetitions out; looking at all would cost their square.
        if !state.wakers.iter().rev().take(16).any(|waker| waker.will_wake(cx.waker())) {
            state.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }
}
