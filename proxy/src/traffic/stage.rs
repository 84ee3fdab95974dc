//! What a traffic plan does with a request: picks its side, and finds it a place among those in flight.
//!
//! Both run as stages of [`crate::admission`]: the side first, so that the other stages know the pool; the place last, so
//! that nobody holds one who is refused, or answered from elsewhere.

use std::rc::Rc;
use std::sync::Arc;

use sealane_model::config::{AutoBrake, CohortKey, OverloadProtection};
use tokio::time;

use crate::admission::{Edits, Seen, Step, Then};
use crate::answer::Local;
use crate::clock::Moment;
use crate::error::Category;
use crate::traffic::TrafficLive;
use crate::traffic::limiter::{Asked, Limiter};
use crate::traffic::split::{Split, Variant};

/// A route's traffic plan, compiled.
#[derive(Debug)]
pub(crate) struct CompiledTraffic {
    pub(crate) split: Split,
    /// Whose value decides.
    pub(crate) cohort: Option<CohortKey>,
    pub(crate) brake: Option<AutoBrake>,
    pub(crate) overload: Option<OverloadProtection>,
    pub(crate) live: Arc<TrafficLive>,
    /// Among the plans of the snapshot.
    pub(crate) number: usize,
}

/// A thread's own way to the limiter that all threads share: cloning it touches no line of theirs.
#[derive(Clone, Debug)]
#[expect(clippy::redundant_allocation, reason = "the count of the inner one is shared by all threads")]
pub(crate) struct ThreadTraffic(pub(crate) Rc<Arc<TrafficLive>>);

impl AsRef<Limiter> for ThreadTraffic {
    fn as_ref(&self) -> &Limiter {
        &self.0.limiter
    }
}

/// Picks the side: sets the pool and the variant.
pub(crate) fn split(traffic: &CompiledTraffic, seen: &Seen<'_>, edits: &mut Edits) {
    let now_ms = Moment::of_tick(seen.worker.wheel.now()).millis();
    let braked = traffic.brake.is_some() && traffic.live.is_braked(now_ms);
    edits.notes.braked = braked;
    edits.notes.cohort = traffic.cohort.as_ref().map_or("", mode);
    let mut found = false;
    let mut choose = |cohort: Option<&[u8]>| {
        let cohort = cohort.filter(|cohort| !cohort.is_empty());
        found = cohort.is_some();
        traffic.split.choose(&traffic.live.turns, cohort, braked)
    };
    let (pool, variant) = match &traffic.cohort {
        None => choose(None),
        Some(CohortKey::Header(name) | CohortKey::HashHeader(name)) => choose(seen.sent(name).next()),
        Some(CohortKey::Cookie(name) | CohortKey::HashCookie(name)) => {
            choose(seen.sent("cookie").find_map(|pairs| cookie(pairs, name.as_bytes())))
        }
        Some(CohortKey::HashClientIp) => match seen.client_ip().to_canonical() {
            std::net::IpAddr::V4(ip) => choose(Some(&ip.octets())),
            std::net::IpAddr::V6(ip) => choose(Some(&ip.octets())),
        },
    };
    edits.notes.cohort_key = found;
    edits.pool = Some(pool);
    if variant != Variant::Stable {
        edits.notes.variant = variant.name();
    }
}

/// By what a side is chosen, for the log.
const fn mode(key: &CohortKey) -> &'static str {
    match key {
        CohortKey::Header(_) => "header",
        CohortKey::Cookie(_) => "cookie",
        CohortKey::HashHeader(_) | CohortKey::HashCookie(_) | CohortKey::HashClientIp => "hash",
    }
}

/// Finds the request a place, now or after a while in the queue. The place is held until the request is over.
pub(crate) fn place(traffic: &CompiledTraffic, seen: &Seen<'_>, edits: &mut Edits) -> Step {
    let Some(overload) = &traffic.overload else { return Step::Continue };
    let limiter = seen.record.view.traffic(traffic).clone();
    match Limiter::ask(limiter.clone(), overload.concurrent_max, overload.queue_max) {
        Asked::Admitted(place) => {
            edits.hold(place);
            Step::Continue
        }
        Asked::Full => Step::Answer(Box::new(Local::refusal(Category::Overloaded, ""))),
        Asked::Queued(wait) => {
            let timeout = overload.queue_timeout;
            Step::Wait(Box::pin(async move {
                let mut edits = Box::<Edits>::default();
                match time::timeout(timeout, wait).await {
                    Ok(place) => {
                        edits.hold(place);
                        Then::Continue(edits)
                    }
                    Err(_) => {
                        limiter.as_ref().note_timeout();
                        Then::Answer(edits, Box::new(Local::refusal(Category::Overloaded, "")))
                    }
                }
            }))
        }
    }
}

/// The value of a cookie in one `Cookie` line.
fn cookie<'a>(pairs: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let pairs = pairs.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
    pairs.filter_map(|pair| pair.strip_prefix(name)?.strip_prefix(b"=")).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let check = |pairs: &str, expected: Option<&str>| {
            assert_eq!(cookie(pairs.as_bytes(), b"sid"), expected.map(str::as_bytes), "{pairs}");
        };
        check("sid=1", Some("1"));
        check("a=b; sid=x y; c=d", Some("x y"));
        check("xsid=1; sid2=2", None);
        check("sid", None);
    }
}
