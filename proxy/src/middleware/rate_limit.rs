//! A token bucket per client, header or claim; the buckets are in [`crate::limiter`].

use std::net::IpAddr;
use std::sync::Arc;

use sealane_model::config::{RateLimit as Config, RateLimitKey};

use crate::admission::{Edits, Seen, Step};
use crate::answer::Local;
use crate::clock::Moment;
use crate::error::Category;
use crate::http1::write;
use crate::limiter::{Limiter, Rate, Taken};
use crate::worker::Worker;

/// Compiled for one route.
#[derive(Debug)]
pub(crate) struct RateLimit {
    rate: Rate,
    key: RateLimitKey,
    limiter: Arc<Limiter>,
    /// `RateLimit-Policy`: the burst, and the seconds in which it comes back.
    policy: Vec<u8>,
}

/// What keys are of; part of the key itself.
const NOBODY: u8 = 0;
const IP: u8 = 1;
const HEADER: u8 = 2;
const CLAIM: u8 = 3;

impl RateLimit {
    pub(crate) fn compile(config: &Config, limiter: Arc<Limiter>) -> Self {
        let rate = Rate::new(config.requests_per_second, config.burst);
        let seconds = rate.window().div_ceil(1_000_000_000);
        let policy = format!("\"default\";q={};w={seconds}", rate.burst()).into_bytes();
        Self { rate, key: config.key.clone(), limiter, policy }
    }

    pub(crate) fn admit(&self, seen: &Seen<'_>, edits: &mut Edits) -> Step {
        // No look at the clock; the request may have waited since it came.
        let now = seen.record.started.max(Moment::of_tick(seen.worker.wheel.now()));
        let taken = self.limiter.take(&seen.worker.limits, self.key(seen, edits), self.rate, now);
        self.tell(taken, seen.worker, edits);
        if taken.shared {
            seen.worker.cells.limits_shared.add(1);
        }
        if taken.granted {
            return Step::Continue;
        }
        let mut seconds = Vec::new();
        write::decimal(&mut seconds, taken.retry_after.div_ceil(1_000_000_000).max(1));
        edits.response.set(b"Retry-After", &seconds);
        Step::Answer(Box::new(Local::refusal(Category::RateLimited, "")))
    }

    /// Requests without the header or claim share one bucket: leaving it out gets nobody past the limit.
    fn key(&self, seen: &Seen<'_>, edits: &Edits) -> u128 {
        match &self.key {
            RateLimitKey::ClientIp => match seen.client_ip() {
                IpAddr::V4(ip) => self.limiter.key(IP, &ip.octets()),
                // A client has a whole /64 to choose addresses from.
                IpAddr::V6(ip) => self.limiter.key(IP, &ip.octets()[..8]),
            },
            RateLimitKey::Header(name) => match seen.header(name, edits) {
                Some(value) => self.limiter.key(HEADER, value),
                None => self.limiter.key(NOBODY, b""),
            },
            RateLimitKey::Claim(name) => match edits.identity.as_ref().and_then(|identity| identity.claim(name)) {
                Some(value) => self.limiter.key(CLAIM, value.as_bytes()),
                None => self.limiter.key(NOBODY, b""),
            },
        }
    }

    /// `RateLimit-*` of the IETF draft up to -06, with one field each, which most clients know, and `RateLimit` with
    /// `RateLimit-Policy` of the later ones. Of several limits the one that is nearest to its end is told.
    fn tell(&self, taken: Taken, worker: &Worker, edits: &mut Edits) {
        let told = edits.response.value(b"RateLimit-Remaining").and_then(|value| std::str::from_utf8(value).ok());
        if told.and_then(|told| told.parse().ok()).is_some_and(|told: u32| told <= taken.remaining) && taken.granted {
            return;
        }
        let mut number = worker.take_buffer();
        let fields: [(&[u8], u64); 3] = [
            (b"RateLimit-Limit", u64::from(self.rate.burst())),
            (b"RateLimit-Remaining", u64::from(taken.remaining)),
            (b"RateLimit-Reset", taken.full_after.div_ceil(1_000_000_000)),
        ];
        for (name, value) in fields {
            number.clear();
            write::decimal(&mut number, value);
            edits.response.set(name, &number);
        }
        number.clear();
        number.extend_from_slice(b"\"default\";r=");
        write::decimal(&mut number, u64::from(taken.remaining));
        number.extend_from_slice(b";t=");
        write::decimal(&mut number, taken.full_after.div_ceil(1_000_000_000));
        edits.response.set(b"RateLimit", &number);
        edits.response.set(b"RateLimit-Policy", &self.policy);
        worker.give_buffer(number);
    }
}
