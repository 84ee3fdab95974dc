//! A bounded memory of recent requests, as decisions saw them: what `plan` runs through a new config, and what `explain`
//! knows of a request id.
//!
//! Each thread keeps at most one request a tick, so that a busy proxy pays a comparison for each request and a few
//! copies a second. Slots are reused. What is kept is [`Compared`]'s to say: no bodies, no values that no condition
//! names, no credentials.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sealane_model::decide::RequestHead;
use sealane_model::impact::{Compared, Shape};

/// Requests that one thread remembers.
const SHAPES_MAX: usize = 512;
/// Bytes of a host or path that are kept; longer ones are not sampled, since half a path is another path.
const TEXT_BYTES_MAX: usize = 2048;

/// One thread's memory.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    /// The tick of the latest one.
    last: AtomicU64,
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    /// Made at the first request, all of them with room for usual texts: a request in steady state allocates nothing.
    shapes: Vec<Shape>,
    /// Slots that have been filled.
    used: usize,
    next: usize,
}

fn slot() -> Shape {
    Shape {
        request_id: String::with_capacity(32),
        method: String::with_capacity(8),
        host: String::with_capacity(32),
        path: String::with_capacity(64),
        ..Shape::default()
    }
}

impl Samples {
    /// Whether a request of this tick is kept. Only the thread itself asks.
    pub(crate) fn is_due(&self, tick: u64) -> bool {
        // Tick 0 is due too.
        if self.last.load(Ordering::Relaxed) == tick + 1 {
            return false;
        }
        self.last.store(tick + 1, Ordering::Relaxed);
        true
    }

    /// Keeps a request, in place of the oldest one.
    pub(crate) fn keep(&self, request_id: &[u8], head: &RequestHead<'_>, compared: &Compared) {
        if head.path.len() > TEXT_BYTES_MAX || head.host.len() > TEXT_BYTES_MAX {
            return;
        }
        let Ok(mut ring) = self.ring.lock() else { return };
        let ring = &mut *ring;
        if ring.shapes.is_empty() {
            ring.shapes.resize_with(SHAPES_MAX, slot);
        }
        let at = ring.next;
        ring.used = ring.used.max(at + 1);
        ring.next = (at + 1) % SHAPES_MAX;
        let Some(shape) = ring.shapes.get_mut(at) else { return };
        fill(shape, request_id, head, compared);
    }

    /// What is remembered, in no order.
    pub(crate) fn shapes(&self) -> Vec<Shape> {
        self.ring.lock().map(|ring| ring.shapes[..ring.used].to_vec()).unwrap_or_default()
    }
}

fn fill(shape: &mut Shape, request_id: &[u8], head: &RequestHead<'_>, compared: &Compared) {
    let put = |text: &mut String, value: &str| {
        text.clear();
        text.push_str(value);
    };
    put(&mut shape.request_id, std::str::from_utf8(request_id).unwrap_or_default());
    put(&mut shape.method, head.method);
    put(&mut shape.host, head.host);
    put(&mut shape.path, head.path);
    shape.headers.clear();
    for (name, wanted) in &compared.headers {
        let mut there = false;
        let mut value = None;
        head.headers.any_value(name, &mut |sent| {
            there = true;
            value = wanted.iter().find(|wanted| wanted.as_bytes() == sent).cloned();
            value.is_some()
        });
        if there {
            shape.headers.push((name.clone(), value));
        }
    }
    shape.query.clear();
    for pair in head.query.unwrap_or_default().split('&').filter(|_| !compared.query.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if compared.query.get(name).is_some_and(|wanted| wanted.iter().any(|wanted| wanted == value)) {
            shape.query.push((name.to_owned(), value.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Headers(Vec<(&'static str, &'static str)>);

    impl sealane_model::decide::HeaderView for Headers {
        fn any_value(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
            self.0.iter().filter(|(known, _)| *known == name).any(|(_, value)| test(value.as_bytes()))
        }
    }

    fn compared() -> Compared {
        let mut compared = Compared::default();
        compared.headers.insert("x-version".into(), vec!["v2".into()]);
        compared.query.insert("debug".into(), vec!["1".into()]);
        compared
    }

    #[test]
    fn a_shape_has_the_values_that_are_asked_for_and_no_others() {
        let samples = Samples::default();
        let headers = Headers(vec![("x-version", "secret"), ("authorization", "hunter2"), ("x-other", "y")]);
        let head = RequestHead {
            method: "GET",
            host: "a.test",
            path: "/x",
            query: Some("debug=1&token=hunter2"),
            headers: &headers,
        };
        samples.keep(b"id-1", &head, &compared());
        let shapes = samples.shapes();
        assert_eq!(shapes.len(), 1);
        assert_eq!(shapes[0].headers, [("x-version".to_owned(), None)]);
        assert_eq!(shapes[0].query, [("debug".to_owned(), "1".to_owned())]);
        assert!(!format!("{shapes:?}").contains("hunter2"));
        assert!(!format!("{shapes:?}").contains("secret"));
    }

    #[test]
    fn memory_is_bounded_and_one_tick_gives_one_sample() {
        let samples = Samples::default();
        assert!(samples.is_due(0) && !samples.is_due(0) && samples.is_due(1));
        let headers = Headers(Vec::new());
        for number in 0..SHAPES_MAX + 10 {
            let path = format!("/{number}");
            let head = RequestHead { method: "GET", host: "a", path: &path, query: None, headers: &headers };
            samples.keep(b"x", &head, &Compared::default());
        }
        let shapes = samples.shapes();
        assert_eq!(shapes.len(), SHAPES_MAX);
        assert!(shapes.iter().any(|shape| shape.path == format!("/{}", SHAPES_MAX + 9)), "the newest is there");
        assert!(shapes.iter().all(|shape| shape.path != "/9"), "the oldest is not");
    }
}
