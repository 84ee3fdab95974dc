//! Requests as they end, for whoever watches them: bounded, and never waited for.
//!
//! A watcher is a [`Tap`] with a filter and a buffer. A worker looks at one shared word per request; only while somebody
//! watches does it put the request into words, and a line that finds no room, or comes after so many others of its tenth of
//! a second, is dropped and counted. What a line says is [`crate::record`]'s business.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::metrics::lock;

/// Watchers of one proxy at a time.
const TAPS_MAX: usize = 8;
/// Bytes of lines that wait for one watcher.
const BUFFER_BYTES_MAX: usize = 256 << 10;
/// Lines that one watcher gets in a window; the rest is counted. 500 a second.
const LINES_PER_WINDOW: u32 = 50;
const WINDOW_MS: u64 = 100;
/// Between two looks at the buffer.
const LOOK: Duration = Duration::from_millis(100);

/// Which requests a watcher wants. An empty filter wants all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Its id.
    pub route: Option<String>,
    /// Its id.
    pub pool: Option<String>,
    /// From and to, inclusive.
    pub status: Option<(u16, u16)>,
    /// Without port, in lower case.
    pub host: Option<String>,
    /// As sent, without the query.
    pub path_prefix: Option<String>,
    /// Those that took less are left out.
    pub min_duration: Duration,
}

impl Filter {
    /// Reads a status such as `404` or a class such as `5xx`; `None`: neither.
    #[must_use]
    pub fn status_of(text: &str) -> Option<(u16, u16)> {
        let class = text.as_bytes().first().filter(|digit| (b'1'..=b'5').contains(digit))?;
        let base = u16::from(class - b'0') * 100;
        match text.get(1..)? {
            "xx" | "XX" => Some((base, base + 99)),
            rest if rest.len() == 2 && rest.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().ok().map(|status| (status, status))
            }
            _ => None,
        }
    }

    fn wants(&self, seen: &Seen<'_>) -> bool {
        let is = |wanted: &Option<String>, has: &str| wanted.as_ref().is_none_or(|wanted| wanted == has);
        is(&self.route, seen.route)
            && is(&self.pool, seen.pool)
            && self.status.is_none_or(|(from, to)| (from..=to).contains(&seen.status))
            && self.host.as_ref().is_none_or(|host| host.eq_ignore_ascii_case(seen.host))
            && self.path_prefix.as_ref().is_none_or(|prefix| seen.path.starts_with(prefix.as_str()))
            && u128::from(seen.duration_us) >= self.min_duration.as_micros()
    }
}

/// A request that has ended, as filters look at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) route: &'a str,
    pub(crate) pool: &'a str,
    pub(crate) status: u16,
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) duration_us: u64,
}

/// All watchers of a proxy.
#[derive(Debug, Default)]
pub(crate) struct Taps {
    is_on: AtomicBool,
    taps: ArcSwap<Vec<Arc<Tap>>>,
    /// Held while the list changes.
    changing: Mutex<()>,
}

impl Taps {
    /// Whether anybody watches. One load of a word that hardly ever changes.
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Shows a request to all who want it. `compose` writes its line, without the end.
    pub(crate) fn show(&self, seen: &Seen<'_>, now_ms: u64, compose: impl Fn(&mut Vec<u8>)) {
        for tap in self.taps.load().iter().filter(|tap| tap.filter.wants(seen)) {
            tap.push(now_ms, &compose);
        }
    }

    fn change(&self, edit: impl FnOnce(&mut Vec<Arc<Tap>>) -> bool) -> bool {
        let _one_at_a_time = lock(&self.changing);
        let mut taps = Vec::clone(&self.taps.load());
        let is_done = edit(&mut taps);
        self.is_on.store(!taps.is_empty(), Ordering::Relaxed);
        self.taps.store(Arc::new(taps));
        is_done
    }
}

#[derive(Debug)]
struct Tap {
    filter: Filter,
    buffer: Mutex<Buffer>,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Buffer {
    text: Vec<u8>,
    lines: u64,
    window: u64,
    in_window: u32,
}

impl Tap {
    fn push(&self, now_ms: u64, compose: &impl Fn(&mut Vec<u8>)) {
        let pushed = self.buffer.try_lock().is_ok_and(|mut buffer| {
            let window = now_ms / WINDOW_MS;
            if buffer.window != window {
                (buffer.window, buffer.in_window) = (window, 0);
            }
            if buffer.in_window >= LINES_PER_WINDOW || buffer.text.len() >= BUFFER_BYTES_MAX {
                return false;
            }
            buffer.in_window += 1;
            compose(&mut buffer.text);
            buffer.text.push(b'\n');
            buffer.lines += 1;
            true
        });
        if !pushed {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A watcher's end. Dropping it ends the watching.
#[derive(Debug)]
pub struct Tail {
    shared: Arc<crate::shared::Shared>,
    tap: Arc<Tap>,
}

/// What a watcher gets at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// JSON objects as in the access log, each with its line end.
    pub text: Vec<u8>,
    /// So many.
    pub lines: u64,
    /// Requests that were wanted and are not among the lines, since the last batch.
    pub dropped: u64,
}

impl Tail {
    /// Begins to watch. `None`: so many do already.
    pub(crate) fn begin(shared: &Arc<crate::shared::Shared>, filter: Filter) -> Option<Self> {
        let tap = Arc::new(Tap { filter, buffer: Mutex::default(), dropped: AtomicU64::new(0) });
        let added = shared.taps.change(|taps| {
            let has_room = taps.len() < TAPS_MAX;
            if has_room {
                taps.push(Arc::clone(&tap));
            }
            has_room
        });
        added.then(|| Self { shared: Arc::clone(shared), tap })
    }

    /// Waits for requests. May be dropped and called again: nothing is lost.
    pub async fn next(&mut self) -> Batch {
        loop {
            tokio::time::sleep(LOOK).await;
            let batch = self.take();
            if batch.lines > 0 || batch.dropped > 0 {
                return batch;
            }
        }
    }

    /// What came since the last time.
    pub fn take(&mut self) -> Batch {
        let (text, lines) = {
            let mut buffer = lock(&self.tap.buffer);
            (std::mem::take(&mut buffer.text), std::mem::take(&mut buffer.lines))
        };
        Batch { text, lines, dropped: self.tap.dropped.swap(0, Ordering::Relaxed) }
    }

    /// Counts lines that did not arrive as dropped.
    pub fn lost(&self, lines: u64) {
        self.tap.dropped.fetch_add(lines, Ordering::Relaxed);
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.shared.taps.change(|taps| {
            taps.retain(|tap| !Arc::ptr_eq(tap, &self.tap));
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_log::LogWriter;
    use crate::settings::Settings;
    use crate::shared::Shared;

    const SEEN: Seen<'_> =
        Seen { route: "r", pool: "p", status: 503, host: "a.test", path: "/api/x", duration_us: 2_000 };

    fn shared() -> Arc<Shared> {
        Arc::new(Shared::new(Settings::default(), LogWriter::start().unwrap()))
    }

    fn show(shared: &Shared, now_ms: u64) {
        shared.taps.show(&SEEN, now_ms, |out| out.extend_from_slice(b"{}"));
    }

    #[test]
    fn nobody_watches_until_somebody_does_and_after_that_nobody_again() {
        let shared = shared();
        assert!(!shared.taps.is_on());
        let mut tail = Tail::begin(&shared, Filter::default()).unwrap();
        assert!(shared.taps.is_on());
        show(&shared, 0);
        assert_eq!(tail.take(), Batch { text: b"{}\n".to_vec(), lines: 1, dropped: 0 });
        drop(tail);
        assert!(!shared.taps.is_on());
    }

    #[test]
    fn a_filter_takes_what_it_names_and_nothing_else() {
        let some = |text: &str| Some(text.to_owned());
        let filter = Filter {
            route: some("r"),
            pool: some("p"),
            status: Filter::status_of("5xx"),
            host: some("A.test"),
            path_prefix: some("/api/"),
            min_duration: Duration::from_millis(2),
        };
        assert!(filter.wants(&SEEN));
        for other in [
            Seen { route: "s", ..SEEN },
            Seen { pool: "", ..SEEN },
            Seen { status: 499, ..SEEN },
            Seen { host: "b.test", ..SEEN },
            Seen { path: "/ap", ..SEEN },
            Seen { duration_us: 1_999, ..SEEN },
        ] {
            assert!(!filter.wants(&other), "{other:?}");
        }
        assert_eq!(Filter::status_of("404"), Some((404, 404)));
        for bad in ["", "5", "6xx", "5x", "0404", "4é", "-12"] {
            assert_eq!(Filter::status_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_too_much_is_dropped_and_counted_and_the_next_moment_has_room_again() {
        let shared = shared();
        let mut tail = Tail::begin(&shared, Filter::default()).unwrap();
        for _ in 0..1_000 {
            show(&shared, 5);
        }
        let batch = tail.take();
        assert_eq!((batch.lines, batch.dropped), (50, 950));
        show(&shared, 105);
        assert_eq!(tail.take().lines, 1);
        let big = |out: &mut Vec<u8>| out.resize(out.len() + BUFFER_BYTES_MAX, b'x');
        shared.taps.show(&SEEN, 205, big);
        shared.taps.show(&SEEN, 305, big);
        let batch = tail.take();
        assert_eq!((batch.lines, batch.dropped), (1, 1), "a watcher that does not read costs bounded memory");
    }

    #[test]
    fn so_many_may_watch() {
        let shared = shared();
        let mut tails: Vec<Tail> = (0..TAPS_MAX).map(|_| Tail::begin(&shared, Filter::default()).unwrap()).collect();
        assert!(Tail::begin(&shared, Filter::default()).is_none());
        tails.pop();
        assert!(Tail::begin(&shared, Filter::default()).is_some());
    }
}
