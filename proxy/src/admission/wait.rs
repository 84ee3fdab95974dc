//! A request that waits for one of its stages, in the task of its connection.
//!
//! The head stays where it was read, with the connection. [`crate::request::resume`] parses it again and goes on.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::admission::Edits;
use crate::answer::Local;
use crate::error::Category;
use crate::record::Record;
use crate::timer::ticks;
use crate::worker::Worker;

/// What a stage waits for. It owns all that it needs, and runs on the connection's thread.
pub(crate) type Wait = Pin<Box<dyn Future<Output = Then>>>;

/// How a stage goes on once its wait is over.
pub(crate) enum Then {
    /// The next stage, with these edits.
    Continue(Box<Edits>),
    /// The proxy answers. Edits for the answer go with it.
    Answer(Box<Edits>, Box<Local>),
    /// The same stage, which looks at the head again.
    Again,
}

/// The longest wait of one stage, whatever it says itself.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(60);

/// A request that waits.
pub(crate) struct Suspended {
    pub(crate) record: Record,
    pub(crate) route: usize,
    /// The number of the stage.
    pub(crate) stage: usize,
    wait: Wait,
    /// Tick.
    deadline: u64,
}

impl fmt::Debug for Suspended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Suspended").field("route", &self.route).field("stage", &self.stage).finish_non_exhaustive()
    }
}

impl Suspended {
    pub(crate) fn new(record: Record, route: usize, stage: usize, wait: Wait, worker: &Worker) -> Self {
        let timeout = record.view.snapshot.routes[route].timeout;
        let total = timeout.map_or(u64::MAX, |ticks| record.started.tick() + ticks + 1);
        Self { route, stage, wait, deadline: worker.wheel.after(WAIT_MAX).min(total), record }
    }

    /// The tick at which the wait ends in any case.
    pub(crate) fn deadline(&self) -> u64 {
        self.deadline
    }

    /// What the wait came to; at its deadline, 504.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, worker: &Worker) -> Poll<Then> {
        if let Poll::Ready(then) = self.wait.as_mut().poll(cx) {
            return Poll::Ready(then);
        }
        if worker.wheel.now() >= self.deadline {
            let refusal = Local::refusal(Category::RequestTimeout, "");
            return Poll::Ready(Then::Answer(worker.take_edits(), Box::new(refusal)));
        }
        Poll::Pending
    }
}

/// Between two looks at whether a client whose request waits is still there.
pub(crate) const LOOK_TICKS: u64 = ticks(Duration::from_secs(1));
