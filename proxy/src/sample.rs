//! A bounded memory of recent requests, as decisions saw them: what `plan` runs through a new config, and what `explain`
//! knows of a request id.
//!
//! Each thread keeps a few requests a tick, so that a quiet proxy remembers all of them, and a busy one pays a comparison for
//! each request and a few hundred copies a second. Slots are reused. What is kept is [`Compared`]'s to say: no bodies, no values that no condition
//! names, no credentials.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use sealane_model::decide::RequestHead;
use sealane_model::impact::{Compared, Shape};

/// Requests that one thread remembers.
const SHAPES_MAX: usize = 512;
/// Requests of one tick that are kept.
const PER_TICK_MAX: u64 = 4;
/// Bytes of a host or path that are kept; longer ones are not sampled, since half a path is another path.
const TEXT_BYTES_MAX: usize = 2048;

/// One thread's memory.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    /// The tick of the latest one, and how many of that tick were kept.
    last: AtomicU64,
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    /// Made at the first request, all of them with room for usual texts: a request in steady state allocates nothing.
    shapes: Vec<Kept>,
    /// Slots that have been filled.
    used: usize,
    next: usize,
}

/// A request and what was decided.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    pub(crate) shape: Shape,
    /// Label of the config that decided.
    pub(crate) config: Option<Arc<str>>,
    /// The route that took it; `None`: none did.
    pub(crate) route: Option<Arc<str>>,
}

fn slot() -> Kept {
    let shape = Shape {
        request_id: String::with_capacity(32),
        method: String::with_capacity(8),
        host: String::with_capacity(32),
        path: String::with_capacity(64),
        ..Shape::default()
    };
    Kept { shape, ..Kept::default() }
}

impl Samples {
    /// Whether a request of this tick is kept. Only the thread itself asks.
    pub(crate) fn is_due(&self, tick: u64) -> bool {
        // Tick 0 is due too.
        let first = (tick + 1) * PER_TICK_MAX;
        let last = self.last.load(Ordering::Relaxed);
        if last >= first + PER_TICK_MAX - 1 {
            return false;
        }
        self.last.store(if last < first { first } else { last + 1 }, Ordering::Relaxed);
        true
    }

    /// Keeps a request, in place of the oldest one.
    pub(crate) fn keep(
        &self,
        request_id: &[u8],
        head: &RequestHead<'_>,
        compared: &Compared,
        (config, route): (&Arc<str>, Option<&Arc<str>>),
    ) {
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
        let Some(kept) = ring.shapes.get_mut(at) else { return };
        fill(&mut kept.shape, request_id, head, compared);
        (kept.config, kept.route) = (Some(Arc::clone(config)), route.map(Arc::clone));
    }

    /// A request by its id.
    pub(crate) fn find(&self, request_id: &str) -> Option<Kept> {
        let ring = self.ring.lock().ok()?;
        ring.shapes[..ring.used].iter().find(|kept| kept.shape.request_id == request_id).cloned()
    }

    /// What is remembered, in no order.
    pub(crate) fn shapes(&self) -> Vec<Shape> {
        let kept = |ring: &Ring| ring.shapes[..ring.used].iter().map(|kept| kept.shape.clone()).collect();
        self.ring.lock().map(|ring| kept(&ring)).unwrap_or_default()
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
        samples.keep(b"id-1", &head, &compared(), (&Arc::from("r1"), Some(&Arc::from("all"))));
        let kept = samples.find("id-1").unwrap();
        assert_eq!((kept.config.as_deref(), kept.route.as_deref()), (Some("r1"), Some("all")));
        assert!(samples.find("id-2").is_none());
        let shapes = samples.shapes();
        assert_eq!(shapes.len(), 1);
        assert_eq!(shapes[0].headers, [("x-version".to_owned(), None)]);
        assert_eq!(shapes[0].query, [("debug".to_owned(), "1".to_owned())]);
        assert!(!format!("{shapes:?}").contains("hunter2"));
        assert!(!format!("{shapes:?}").contains("secret"));
    }

    #[test]
    fn memory_is_bounded_and_one_tick_gives_a_few_samples() {
        let samples = Samples::default();
        let due = |tick| (0..10).filter(|_| samples.is_due(tick)).count() as u64;
        assert_eq!([due(0), due(0), due(1), due(7)], [PER_TICK_MAX, 0, PER_TICK_MAX, PER_TICK_MAX]);
        let headers = Headers(Vec::new());
        for number in 0..SHAPES_MAX + 10 {
            let path = format!("/{number}");
            let head = RequestHead { method: "GET", host: "a", path: &path, query: None, headers: &headers };
            samples.keep(b"x", &head, &Compared::default(), (&Arc::from("r1"), None));
        }
        let shapes = samples.shapes();
        assert_eq!(shapes.len(), SHAPES_MAX);
        assert!(shapes.iter().any(|shape| shape.path == format!("/{}", SHAPES_MAX + 9)), "the newest is there");
        assert!(shapes.iter().all(|shape| shape.path != "/9"), "the oldest is not");
    }
}
