//! What RFC 9111 lets a shared cache do: whether an answer may be stored, how long it is fresh, and whether a stored
//! answer may be used for a request. Pure functions over header views and numbers.
//!
//! Knows nothing of sockets, keys and how answers are stored. Seconds of wall time come in from outside only to be
//! compared with `Date`; what has passed since is counted on the monotonic clock in milliseconds.

use std::time::Duration;

use sealane_model::decide::HeaderView;

use super::date;
use super::directives::{RequestDirectives, ResponseDirectives, SECONDS_MAX, digits};

/// The heuristic share of an answer's age at the origin (RFC 9111 §4.2.2), in percent, and its bound in seconds.
const HEURISTIC_PERCENT: u64 = 10;
const HEURISTIC_MAX: u64 = 24 * 3600;
/// How long a hook may want an answer kept: a year.
const KEEP_SECONDS_MAX: u64 = 365 * 24 * 3600;
/// Statuses that are cacheable without saying so (RFC 9110 §15.1), but for 206, which is never stored.
const HEURISTIC_STATUSES: [u16; 11] = [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501];

/// Statuses that say something of how one client asked, not of what it asked for: a header that is too large, a range that
/// is none, a condition that fails. Whoever can provoke one would take the resource from everybody if it were stored.
const ABOUT_THE_REQUEST: [u16; 13] = [400, 408, 411, 412, 413, 416, 417, 421, 425, 426, 428, 429, 431];

/// What a rule says about storing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoreRule {
    /// Statuses that are stored. `None`: those that the answer makes cacheable, as RFC 9111 has it.
    pub(crate) status: Option<Vec<u16>>,
    /// Freshness in seconds where the answer states none.
    pub(crate) ttl: Option<u64>,
    /// Answers to requests with credentials are kept apart by these.
    pub(crate) auth_aware: bool,
}

/// What of the request counts for storing its answer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asker {
    /// It carried credentials, and its answers are kept apart by them.
    pub(crate) partitioned: bool,
    /// Its `Origin`, where it sent one.
    pub(crate) has_origin: bool,
}

/// When something happened, on both clocks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Instant {
    /// Seconds since 1970.
    pub(crate) wall: u64,
    /// Monotonic milliseconds.
    pub(crate) ms: u64,
}

/// The facts of an answer's head that caching depends on.
#[derive(Clone, Debug, Default)]
pub(crate) struct ResponseFacts {
    pub(super) directives: ResponseDirectives,
    status: u16,
    date: Option<u64>,
    /// Seconds.
    age: u64,
    /// `Some(0)`: there, but no date.
    expires: Option<u64>,
    last_modified: Option<u64>,
    has_validator: bool,
    set_cookie: bool,
    varies_on_all: bool,
    reflects_origin: bool,
    event_stream: bool,
}

/// Why an answer is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotStored {
    Status,
    NoStore,
    Private,
    SetCookie,
    VaryAll,
    EventStream,
    ReflectsOrigin,
    /// Nothing says how long it would be fresh, and nothing it could be revalidated by.
    NoFreshness,
}

/// How long a stored answer may be used, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) lifetime_ms: u64,
    /// Its age when it was received.
    initial_age_ms: u64,
    /// Monotonic.
    received_ms: u64,
    /// `no-cache`: only after asking the origin.
    always_revalidate: bool,
    /// Nothing prohibits serving it stale where somebody else allows that.
    may_be_stale: bool,
    /// By its own directive.
    stale_while_revalidate_ms: Option<u64>,
    stale_if_error_ms: Option<u64>,
}

/// What to do with a stored answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Fresh.
    Serve,
    /// Stale, and the client takes it so.
    ServeStale,
    /// Stale; served while it is fetched anew.
    ServeAndRefresh,
    /// Stale: ask the origin first.
    Stale,
    /// Fresh, but the client wants the origin asked.
    Refused,
}

impl ResponseFacts {
    pub(crate) fn read(status: u16, headers: &impl HeaderView, wall: u64) -> Self {
        let mut facts = Self { directives: ResponseDirectives::read(headers), status, ..Self::default() };
        let first = |name: &str, take: &mut dyn FnMut(&[u8])| {
            headers.any_value(name, &mut |value| {
                take(value);
                true
            });
        };
        first("date", &mut |value| facts.date = date::parse(value, wall));
        // The first member counts; what is no number is as if it were not there (RFC 9111 §5.1).
        first("age", &mut |value| {
            let member = value.split(|&byte| byte == b',').next().unwrap_or_default();
            facts.age = digits(member.trim_ascii()).unwrap_or(0);
        });
        headers.any_value("expires", &mut |value| {
            let expires = date::parse(value, wall).unwrap_or(0);
            facts.expires = Some(facts.expires.map_or(expires, |before: u64| before.min(expires)));
            false
        });
        first("last-modified", &mut |value| facts.last_modified = date::parse(value, wall));
        first("etag", &mut |_| facts.has_validator = true);
        facts.has_validator |= facts.last_modified.is_some();
        first("set-cookie", &mut |_| facts.set_cookie = true);
        first("set-cookie2", &mut |_| facts.set_cookie = true);
        let mut varies_on_origin = false;
        headers.any_value("vary", &mut |value| {
            for member in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                facts.varies_on_all |= member == b"*";
                varies_on_origin |= member.eq_ignore_ascii_case(b"origin");
            }
            false
        });
        first("access-control-allow-origin", &mut |value| {
            facts.reflects_origin = value != b"*" && !varies_on_origin;
        });
        first("content-type", &mut |value| {
            let essence = value.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
            facts.event_stream = essence.eq_ignore_ascii_case(b"text/event-stream");
        });
        if !facts.directives.any {
            headers.any_value("pragma", &mut |value| {
                facts.directives.no_cache |= value.eq_ignore_ascii_case(b"no-cache");
                false
            });
        }
        facts
    }

    /// Its `Date`, in seconds since 1970.
    pub(crate) const fn date(&self) -> Option<u64> {
        self.date
    }

    /// Whether a shared cache may store the answer under `rule`, and how it may use it then.
    ///
    /// `asked` is when the request was sent, `received` when the head came.
    ///
    /// # Errors
    /// The first reason against it.
    pub(crate) fn judge(
        &self,
        rule: &StoreRule,
        asker: Asker,
        asked: Instant,
        received: Instant,
    ) -> Result<Policy, NotStored> {
        let directives = &self.directives;
        let understood = HEURISTIC_STATUSES.contains(&self.status) || matches!(self.status, 302 | 303 | 307);
        let listed = rule.status.as_ref().map(|listed| listed.contains(&self.status));
        if listed == Some(false) || matches!(self.status, 0..200 | 206 | 304) {
            return Err(NotStored::Status);
        }
        if listed.is_none() && ABOUT_THE_REQUEST.contains(&self.status) {
            return Err(NotStored::Status);
        }
        if directives.must_understand && !understood {
            return Err(NotStored::Status);
        }
        // `no-store` beside `must-understand` is for caches that do not know that (RFC 9111 §5.2.2.3).
        if directives.no_store && !directives.must_understand {
            return Err(NotStored::NoStore);
        }
        let reserved = rule.auth_aware && asker.partitioned;
        if directives.private && !reserved {
            return Err(NotStored::Private);
        }
        let cookie_is_left_out = directives.without.iter().any(|name| name == "set-cookie");
        if self.set_cookie && !reserved && !cookie_is_left_out {
            return Err(NotStored::SetCookie);
        }
        if self.varies_on_all {
            return Err(NotStored::VaryAll);
        }
        if self.event_stream {
            return Err(NotStored::EventStream);
        }
        if self.reflects_origin && asker.has_origin {
            return Err(NotStored::ReflectsOrigin);
        }
        let lifetime = self.lifetime(rule, listed == Some(true), received.wall);
        let cacheable = lifetime.is_some() || directives.public || HEURISTIC_STATUSES.contains(&self.status);
        let lifetime = lifetime.unwrap_or(0);
        let strict = directives.must_revalidate || directives.proxy_revalidate || directives.no_cache;
        let policy = Policy {
            lifetime_ms: lifetime.min(SECONDS_MAX) * 1000,
            initial_age_ms: self.initial_age_ms(asked, received),
            received_ms: received.ms,
            always_revalidate: directives.no_cache,
            // `s-maxage` works like `proxy-revalidate` (RFC 9111 §5.2.2.10), but not against what the answer itself
            // allows beside it.
            may_be_stale: !strict && directives.s_maxage.is_none(),
            stale_while_revalidate_ms: directives
                .stale_while_revalidate
                .filter(|_| !strict)
                .map(|seconds| seconds * 1000),
            stale_if_error_ms: directives.stale_if_error.filter(|_| !strict).map(|seconds| seconds * 1000),
        };
        if !cacheable || (lifetime == 0 && !self.has_validator) {
            return Err(NotStored::NoFreshness);
        }
        Ok(policy)
    }

    /// The same where a hook wants it kept for this time: what cannot be stored as a whole is not.
    ///
    /// # Errors
    /// The first reason against it.
    pub(crate) fn keep(&self, ttl: Duration, received: Instant) -> Result<Policy, NotStored> {
        if matches!(self.status, 0..200 | 206 | 304) {
            return Err(NotStored::Status);
        }
        if self.varies_on_all {
            return Err(NotStored::VaryAll);
        }
        if self.event_stream {
            return Err(NotStored::EventStream);
        }
        Ok(Policy {
            lifetime_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).min(KEEP_SECONDS_MAX * 1000),
            initial_age_ms: 0,
            received_ms: received.ms,
            always_revalidate: false,
            may_be_stale: false,
            stale_while_revalidate_ms: None,
            stale_if_error_ms: None,
        })
    }

    /// Seconds (RFC 9111 §4.2.1); `None`: nothing says or suggests any.
    fn lifetime(&self, rule: &StoreRule, listed: bool, now: u64) -> Option<u64> {
        let directives = &self.directives;
        if let Some(stated) = directives.s_maxage.or(directives.max_age) {
            return Some(stated);
        }
        let date = self.date.unwrap_or(now);
        if let Some(expires) = self.expires.filter(|_| !directives.targeted) {
            return Some(expires.saturating_sub(date));
        }
        if let Some(ttl) = rule.ttl.filter(|_| listed || (rule.status.is_none() && self.status == 200)) {
            return Some(ttl);
        }
        let may_guess = HEURISTIC_STATUSES.contains(&self.status) || directives.public;
        let old = date.saturating_sub(self.last_modified.filter(|_| may_guess)?);
        Some((old * HEURISTIC_PERCENT / 100).min(HEURISTIC_MAX))
    }

    /// RFC 9111 §4.2.3.
    fn initial_age_ms(&self, asked: Instant, received: Instant) -> u64 {
        let apparent = received.wall.saturating_sub(self.date.unwrap_or(received.wall)) * 1000;
        let delay = received.ms.saturating_sub(asked.ms);
        apparent.max(self.age * 1000 + delay)
    }
}

impl Policy {
    /// Milliseconds.
    pub(crate) const fn age_ms(&self, now_ms: u64) -> u64 {
        self.initial_age_ms.saturating_add(now_ms.saturating_sub(self.received_ms))
    }

    /// Seconds of freshness that are left; negative: since when it is stale.
    pub(crate) const fn ttl(&self, now_ms: u64) -> i64 {
        let left = self.lifetime_ms as i64 - self.age_ms(now_ms) as i64;
        left.div_euclid(1000)
    }

    /// The policy of the same answer from which no freshness is left.
    pub(crate) const fn expired(self) -> Self {
        Self { lifetime_ms: 0, always_revalidate: true, may_be_stale: false, ..self }
    }

    /// What to do for a request with these directives. `stale_ms`: how long the rule lets stale answers be served while
    /// they are fetched anew.
    pub(crate) fn judge(&self, request: &RequestDirectives, now_ms: u64, stale_ms: u64) -> Use {
        let age = self.age_ms(now_ms);
        let fresh = self.lifetime_ms > age;
        if self.always_revalidate {
            return Use::Stale;
        }
        let refuses = request.no_cache
            || request.max_age.is_some_and(|max| max == 0 || age > max * 1000)
            || request.min_fresh.is_some_and(|min| self.lifetime_ms.saturating_sub(age) < min * 1000);
        if refuses {
            return if fresh { Use::Refused } else { Use::Stale };
        }
        if fresh {
            return Use::Serve;
        }
        let staleness = age - self.lifetime_ms;
        if self.may_be_stale && request.max_stale.is_some_and(|max| staleness <= max * 1000) {
            return Use::ServeStale;
        }
        let allowed = self.stale_while_revalidate_ms.unwrap_or(if self.may_be_stale { stale_ms } else { 0 });
        if staleness < allowed { Use::ServeAndRefresh } else { Use::Stale }
    }

    /// Whether the answer may be served because the origin cannot be had, or answers 500, 502, 503 or 504 (RFC 5861 §4).
    pub(crate) fn may_serve_on_error(&self, request: &RequestDirectives, now_ms: u64, stale_ms: u64) -> bool {
        let staleness = self.age_ms(now_ms).saturating_sub(self.lifetime_ms);
        if request.no_cache && staleness > 0 {
            return false;
        }
        let own = self.stale_if_error_ms;
        let asked = request.stale_if_error.filter(|_| self.may_be_stale).map(|seconds| seconds * 1000);
        let configured = self.may_be_stale.then_some(stale_ms).filter(|&ms| ms > 0);
        [own, asked, configured].into_iter().flatten().any(|allowed| staleness < allowed)
    }
}

/// Statuses that a stale answer may be served for.
pub(crate) const fn is_error(status: u16) -> bool {
    matches!(status, 500 | 502 | 503 | 504)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::tests::Lines;

    /// Tue, 20 Jan 2026 10:30:45 GMT.
    const NOW: u64 = 1_768_905_045;
    const NOW_TEXT: &str = "Tue, 20 Jan 2026 10:30:45 GMT";

    fn received() -> Instant {
        Instant { wall: NOW, ms: 1_000_000 }
    }

    fn judge(status: u16, lines: &[(&str, &str)], rule: &StoreRule) -> Result<Policy, NotStored> {
        ResponseFacts::read(status, &Lines(lines), NOW).judge(rule, Asker::default(), received(), received())
    }

    fn lifetime(status: u16, lines: &[(&str, &str)]) -> Result<u64, NotStored> {
        judge(status, lines, &StoreRule::default()).map(|policy| policy.lifetime_ms / 1000)
    }

    #[test]
    fn freshness_is_taken_from_the_first_source_that_states_it() {
        let check = |lines: &[(&str, &str)], expected| assert_eq!(lifetime(200, lines), expected, "{lines:?}");
        let expires = ("expires", "Tue, 20 Jan 2026 11:30:45 GMT");
        check(&[("cache-control", "max-age=60, s-maxage=10"), expires], Ok(10));
        check(&[("cache-control", "max-age=60"), expires], Ok(60));
        check(&[("date", NOW_TEXT), expires], Ok(3600));
        check(&[expires], Ok(3600));
        check(&[("expires", "0")], Err(NotStored::NoFreshness));
        check(&[("expires", "0"), ("etag", "\"a\"")], Ok(0));
        check(&[("cache-control", "max-age=60"), ("expires", "0")], Ok(60));
        check(&[("cache-control", "max-age=0"), expires, ("etag", "\"a\"")], Ok(0));
        check(&[expires, ("expires", "0"), ("etag", "\"a\"")], Ok(0));
        check(&[("date", NOW_TEXT), ("last-modified", "Mon, 19 Jan 2026 10:30:45 GMT")], Ok(8640));
        check(&[("date", NOW_TEXT), ("last-modified", "Tue, 20 Jan 2015 10:30:45 GMT")], Ok(HEURISTIC_MAX));
        check(&[], Err(NotStored::NoFreshness));
        check(&[("etag", "\"a\"")], Ok(0));
    }

    #[test]
    fn the_rules_ttl_counts_where_the_answer_states_nothing() {
        let rule = StoreRule { ttl: Some(30), ..StoreRule::default() };
        let check = |status, lines: &[(&str, &str)], expected| {
            assert_eq!(judge(status, lines, &rule).map(|policy| policy.lifetime_ms / 1000), expected, "{lines:?}");
        };
        check(200, &[], Ok(30));
        check(200, &[("cache-control", "public")], Ok(30));
        check(200, &[("cache-control", "max-age=5")], Ok(5));
        check(404, &[], Err(NotStored::NoFreshness));
        check(200, &[("last-modified", "Mon, 19 Jan 2026 10:30:45 GMT")], Ok(30));
        let listed = StoreRule { status: Some(vec![404]), ..rule.clone() };
        assert_eq!(judge(404, &[], &listed).unwrap().lifetime_ms, 30_000);
        assert_eq!(judge(200, &[("cache-control", "max-age=5")], &listed), Err(NotStored::Status));
    }

    #[test]
    fn statuses_are_stored_as_the_answer_makes_them_cacheable() {
        let modified = ("last-modified", "Mon, 19 Jan 2026 10:30:45 GMT");
        for status in HEURISTIC_STATUSES {
            assert!(lifetime(status, &[modified]).unwrap() > 0, "{status}");
        }
        for status in [201, 202, 403, 502, 503, 504, 599] {
            assert_eq!(lifetime(status, &[modified]), Err(NotStored::NoFreshness), "{status}");
            assert_eq!(lifetime(status, &[("cache-control", "max-age=5")]), Ok(5), "{status}");
        }
        assert!(lifetime(599, &[modified, ("cache-control", "public")]).unwrap() > 0);
        assert_eq!(lifetime(206, &[("cache-control", "max-age=5")]), Err(NotStored::Status));
        assert_eq!(lifetime(599, &[("cache-control", "max-age=5, must-understand")]), Err(NotStored::Status));
        assert_eq!(lifetime(200, &[("cache-control", "max-age=5, no-store, must-understand")]), Ok(5));
    }

    #[test]
    fn what_is_for_one_user_is_never_shared() {
        let fresh = ("cache-control", "max-age=60");
        let check = |line, expected| assert_eq!(lifetime(200, &[fresh, line]), expected, "{line:?}");
        check(("cache-control", "private"), Err(NotStored::Private));
        check(("cache-control", "no-store"), Err(NotStored::NoStore));
        check(("set-cookie", "sid=1"), Err(NotStored::SetCookie));
        check(("vary", "*"), Err(NotStored::VaryAll));
        check(("vary", "accept, *"), Err(NotStored::VaryAll));
        check(("content-type", "text/event-stream; charset=utf-8"), Err(NotStored::EventStream));
        check(("cache-control", "private=\"x\""), Ok(60));
    }

    #[test]
    fn partitioned_answers_may_be_for_one_user() {
        let rule = StoreRule { auth_aware: true, ..StoreRule::default() };
        let lines = [("cache-control", "private, max-age=60"), ("set-cookie", "a=b")];
        let facts = ResponseFacts::read(200, &Lines(&lines), NOW);
        let judge = |partitioned| {
            facts.judge(&rule, Asker { partitioned, ..Asker::default() }, received(), received()).map(|_| ())
        };
        assert_eq!(judge(true), Ok(()));
        assert_eq!(judge(false), Err(NotStored::Private));
    }

    #[test]
    fn an_answer_made_for_one_origin_is_not_stored_for_all() {
        let judge = |lines: &[(&str, &str)]| {
            let facts = ResponseFacts::read(200, &Lines(lines), NOW);
            facts
                .judge(&StoreRule::default(), Asker { has_origin: true, ..Asker::default() }, received(), received())
                .map(|_| ())
        };
        let fresh = ("cache-control", "max-age=60");
        let allow = ("access-control-allow-origin", "https://evil.example");
        assert_eq!(judge(&[fresh, allow]), Err(NotStored::ReflectsOrigin));
        assert_eq!(judge(&[fresh, allow, ("vary", "Origin")]), Ok(()));
        assert_eq!(judge(&[fresh, ("access-control-allow-origin", "*")]), Ok(()));
    }

    #[test]
    fn age_counts_what_came_before_the_delay_and_the_time_since() {
        let age = |lines: &[(&str, &str)], asked_ms, now_ms| {
            let facts = ResponseFacts::read(200, &Lines(lines), NOW);
            let asked = Instant { wall: NOW, ms: asked_ms };
            let policy =
                facts.judge(&StoreRule { ttl: Some(9), ..StoreRule::default() }, Asker::default(), asked, received());
            policy.unwrap().age_ms(now_ms)
        };
        assert_eq!(age(&[], 1_000_000, 1_000_000), 0);
        assert_eq!(age(&[], 999_000, 1_002_500), 3500, "the delay counts");
        assert_eq!(age(&[("age", "30")], 1_000_000, 1_001_000), 31_000);
        assert_eq!(age(&[("age", "7200, 0")], 1_000_000, 1_000_000), 7_200_000);
        assert_eq!(age(&[("age", "0"), ("age", "7200")], 1_000_000, 1_000_000), 0);
        for text in ["abc", "-7200", "7200.0", ""] {
            assert_eq!(age(&[("age", text)], 1_000_000, 1_000_000), 0, "{text}");
        }
        assert_eq!(age(&[("date", "Tue, 20 Jan 2026 10:30:35 GMT")], 1_000_000, 1_000_000), 10_000);
        assert_eq!(age(&[("date", "Tue, 20 Jan 2026 10:40:35 GMT")], 1_000_000, 1_000_000), 0, "a clock ahead");
    }

    fn use_of(cache_control: &str, request: &str, age_s: u64, stale_s: u64) -> Use {
        let lines = [("cache-control", cache_control), ("etag", "\"a\"")];
        let policy = judge(200, &lines, &StoreRule::default()).unwrap();
        let request = RequestDirectives::read(&Lines(&[("cache-control", request)]));
        policy.judge(&request, received().ms + age_s * 1000, stale_s * 1000)
    }

    #[test]
    fn a_stored_answer_is_used_as_both_sides_allow() {
        let check = |response, request, age, expected| {
            assert_eq!(use_of(response, request, age, 0), expected, "{response} | {request} | {age}")
        };
        check("max-age=60", "", 59, Use::Serve);
        check("max-age=60", "", 60, Use::Stale);
        check("max-age=60", "no-cache", 1, Use::Refused);
        check("max-age=60", "max-age=0", 0, Use::Refused);
        check("max-age=60", "max-age=10", 10, Use::Serve);
        check("max-age=60", "max-age=10", 11, Use::Refused);
        check("max-age=60", "min-fresh=50", 10, Use::Serve);
        check("max-age=60", "min-fresh=50", 11, Use::Refused);
        check("max-age=60", "max-stale", 6000, Use::ServeStale);
        check("max-age=60", "max-stale=5", 65, Use::ServeStale);
        check("max-age=60", "max-stale=5", 66, Use::Stale);
        check("max-age=60, must-revalidate", "max-stale", 61, Use::Stale);
        check("max-age=60, proxy-revalidate", "max-stale", 61, Use::Stale);
        check("s-maxage=60", "max-stale", 61, Use::Stale);
        check("max-age=60, no-cache", "", 1, Use::Stale);
        check("max-age=60, stale-while-revalidate=10", "", 69, Use::ServeAndRefresh);
        check("max-age=60, stale-while-revalidate=10", "", 70, Use::Stale);
        check("s-maxage=60, stale-while-revalidate=10", "", 69, Use::ServeAndRefresh);
        check("max-age=60, stale-while-revalidate=10, must-revalidate", "", 69, Use::Stale);
        check("max-age=60, stale-while-revalidate=10", "no-cache", 69, Use::Stale);
    }

    #[test]
    fn the_configured_window_holds_unless_the_answer_says_otherwise() {
        assert_eq!(use_of("max-age=60", "", 80, 30), Use::ServeAndRefresh);
        assert_eq!(use_of("max-age=60", "", 90, 30), Use::Stale);
        assert_eq!(use_of("max-age=60, stale-while-revalidate=0", "", 61, 30), Use::Stale);
        assert_eq!(use_of("max-age=60, must-revalidate", "", 61, 30), Use::Stale);
        assert_eq!(use_of("s-maxage=60", "", 61, 30), Use::Stale);
    }

    #[test]
    fn errors_are_bridged_only_where_allowed() {
        let check = |response, request, age_s: u64, stale_s: u64, expected| {
            let policy = judge(200, &[("cache-control", response), ("etag", "\"a\"")], &StoreRule::default()).unwrap();
            let asked = RequestDirectives::read(&Lines(&[("cache-control", request)]));
            let found = policy.may_serve_on_error(&asked, received().ms + age_s * 1000, stale_s * 1000);
            assert_eq!(found, expected, "{response} | {request} | {age_s}");
        };
        check("max-age=60, stale-if-error=60", "", 119, 0, true);
        check("max-age=60, stale-if-error=60", "", 120, 0, false);
        check("max-age=60, stale-if-error=60, must-revalidate", "", 61, 0, false);
        check("max-age=60", "stale-if-error=60", 119, 0, true);
        check("max-age=60, must-revalidate", "stale-if-error=60", 61, 0, false);
        check("max-age=60", "", 61, 0, false);
        check("max-age=60", "", 61, 30, true);
        check("s-maxage=60", "", 61, 30, false);
        check("max-age=60, no-cache", "", 61, 30, false);
    }
}
