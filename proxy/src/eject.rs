//! Ejects endpoints: after failures in a row at once, and when the judge of [`crate::outlier`] finds them out.
//!
//! One place, so that one bound holds for whatever ejects ([`eject`]). State is in [`crate::live`].

use sealane_model::config::{OutlierDetection, PassiveHealth};
use tracing::{info, warn};

use crate::metrics::lock;
use crate::outlier::{Reason, Sums, ejections_max};
use crate::snapshot::CompiledPool;

/// How an attempt on an endpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// Answered, with this status, after this many microseconds.
    Answered { status: u16, latency_us: u64 },
    /// Not answered, or not to the end.
    Failed,
}

/// Passive ejections double up to this many times the first.
const PASSIVE_FACTOR_MAX: u64 = 10;
/// How long after the last ejection the next one starts from the beginning.
const OUTLIER_CALM_MS: u64 = 5 * 60 * 1000;

/// How long an endpoint is ejected.
#[derive(Clone, Copy, Debug)]
struct Terms {
    first_ms: u64,
    longest_ms: u64,
    calm_ms: u64,
}

impl From<&PassiveHealth> for Terms {
    fn from(passive: &PassiveHealth) -> Self {
        let first_ms = passive.ejection_duration.as_millis() as u64;
        Self { first_ms, longest_ms: first_ms.saturating_mul(PASSIVE_FACTOR_MAX), calm_ms: first_ms }
    }
}

impl From<&OutlierDetection> for Terms {
    fn from(outlier: &OutlierDetection) -> Self {
        Self {
            first_ms: outlier.ejection_duration.as_millis() as u64,
            longest_ms: outlier.ejection_duration_max.as_millis() as u64,
            calm_ms: OUTLIER_CALM_MS,
        }
    }
}

/// Notes how an attempt ended, and ejects the endpoint if that was one failure too many in a row.
pub(crate) fn note(pool: &CompiledPool, endpoint: usize, attempt: Attempt, thread: usize, now_ms: u64) {
    let live = &pool.endpoints[endpoint].live;
    let (failed, erred, latency_us) = match attempt {
        Attempt::Answered { status, latency_us } => (matches!(status, 502..=504), status >= 500, Some(latency_us)),
        Attempt::Failed => (true, true, None),
    };
    if pool.outlier.is_some()
        && let Some(cells) = live.outlier_cells()
    {
        cells[thread].count(erred, latency_us);
    }
    if !failed {
        live.succeeded(erred);
    }
    if failed
        && let failures = live.failed()
        && let Some(passive) = &pool.passive
        && failures >= passive.consecutive_failures
    {
        eject(pool, endpoint, Terms::from(passive), Reason::ConsecutiveFailures, now_ms);
    }
    if erred
        && let Some(outlier) = &pool.outlier
        && let errors = live.erred()
        && outlier.consecutive_failures.is_some_and(|most| errors >= most)
    {
        eject(pool, endpoint, Terms::from(outlier), Reason::ConsecutiveFailures, now_ms);
    }
}

/// Compares the endpoints of a pool if that is due. When the next look is, in milliseconds; `None`: never.
pub(crate) fn judge(pool: &CompiledPool, now_ms: u64) -> Option<u64> {
    let outlier = pool.outlier.as_ref()?;
    let mut judge = lock(&pool.live.judge);
    if now_ms < judge.due_ms() {
        return Some(judge.due_ms());
    }
    let endpoints = pool.endpoints.iter().map(|endpoint| {
        let live = &endpoint.live;
        (live.serial, Sums::of(live.outlier_cells().unwrap_or_default()), live.is_ejected(now_ms))
    });
    let verdicts = judge.look(outlier, now_ms, endpoints.collect());
    for (endpoint, reason) in verdicts {
        eject(pool, endpoint, Terms::from(outlier), reason, now_ms);
    }
    Some(judge.due_ms())
}

/// Ejects an endpoint, unless it is ejected already, or there would be too many: where outlier detection is configured, its
/// bound holds for all ejections, and what probes found unhealthy counts.
fn eject(pool: &CompiledPool, endpoint: usize, terms: Terms, reason: Reason, now_ms: u64) {
    let _one_at_a_time = lock(&pool.live.ejecting);
    let live = &pool.endpoints[endpoint].live;
    if live.is_ejected(now_ms) {
        return;
    }
    let address = &*pool.endpoints[endpoint].address;
    if let Some(outlier) = &pool.outlier {
        let serving = pool.endpoints.iter().filter(|endpoint| endpoint.weight > 0);
        let out = serving.clone().filter(|endpoint| !endpoint.live.is_available(now_ms)).count();
        if out >= ejections_max(serving.count(), outlier.ejection_max_percent) {
            return;
        }
    }
    let duration = live.eject(terms.first_ms, terms.longest_ms, terms.calm_ms, now_ms);
    pool.live.note_ejection(reason);
    match reason {
        Reason::ConsecutiveFailures => {
            info!(pool = &*pool.id, endpoint = address, ?duration, reason = reason.name(), "endpoint ejected");
        }
        Reason::ErrorRate | Reason::Latency => {
            warn!(pool = &*pool.id, endpoint = address, ?duration, reason = reason.name(), "endpoint ejected");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use sealane_model::parse::{Reader, parse};

    use super::*;
    use crate::live::Live;
    use crate::snapshot::pools;

    fn pool(live: &Live, endpoints: usize, rest: &str) -> CompiledPool {
        let addresses: Vec<_> = (0..endpoints).map(|number| format!("'127.0.0.1:{}'", 1000 + number)).collect();
        let yaml = format!(
            "listen: :8080\npools: {{ p: {{ endpoints: [{}], {rest} }} }}\nroutes: [{{ pool: p }}]\n",
            addresses.join(", ")
        );
        let (config, _) = parse("test.yaml", &yaml, Reader::Local).unwrap_or_else(|found| panic!("{found:#?}"));
        pools::compile(&config.pools[0], 0, live).unwrap()
    }

    fn fail(pool: &CompiledPool, endpoint: usize, times: usize, now_ms: u64) {
        (0..times).for_each(|_| note(pool, endpoint, Attempt::Failed, 0, now_ms));
    }

    fn ejected(pool: &CompiledPool, now_ms: u64) -> Vec<usize> {
        (0..pool.endpoints.len()).filter(|&index| pool.endpoints[index].live.is_ejected(now_ms)).collect()
    }

    fn ejected_for(pool: &CompiledPool, endpoint: usize, now_ms: u64) -> u64 {
        pool.endpoints[endpoint].live.passive_state().1.saturating_sub(now_ms) / 1000
    }

    #[test]
    fn failures_in_a_row_eject_and_repeated_ejections_last_longer() {
        let live = Live::new(1);
        let pool = pool(&live, 2, "health: { passive: { consecutive_failures: 2, ejection_duration: 30s } }");
        fail(&pool, 0, 1, 1000);
        note(&pool, 0, Attempt::Answered { status: 500, latency_us: 1 }, 0, 1000);
        fail(&pool, 0, 1, 1000);
        assert_eq!(ejected(&pool, 1000), [0; 0], "an answer between");
        fail(&pool, 0, 1, 1000);
        assert_eq!((ejected(&pool, 30_999), ejected(&pool, 31_000)), (vec![0], vec![]));
        for (at, seconds) in [(31_000, 60), (91_000, 120), (400_000, 30)] {
            fail(&pool, 0, 2, at);
            assert_eq!(ejected_for(&pool, 0, at), seconds);
        }
        fail(&pool, 1, 2, 400_000);
        assert_eq!(ejected(&pool, 400_000), [0, 1], "without outlier detection there is no bound");
    }

    #[test]
    fn any_5xx_in_a_row_is_an_outlier() {
        let live = Live::new(1);
        let pool = pool(&live, 2, "outlier_detection: { consecutive_failures: 3 }");
        for _ in 0..3 {
            note(&pool, 0, Attempt::Answered { status: 500, latency_us: 1 }, 0, 1000);
        }
        assert_eq!(ejected(&pool, 1000), [0]);
        assert_eq!(pool.live.ejections(Reason::ConsecutiveFailures), 1);
    }

    #[test]
    fn the_bound_counts_all_ejections_and_probes() {
        let live = Live::new(1);
        let rest = "outlier_detection: { consecutive_failures: 3, max_ejection_percent: 50 }, \
                    health: { passive: { consecutive_failures: 2 } }";
        let pool = pool(&live, 4, rest);
        pool.endpoints[3].live.set_probed_healthy(false);
        (0..3).for_each(|endpoint| fail(&pool, endpoint, 10, 1000));
        assert_eq!(ejected(&pool, 1000), [0], "one is unhealthy, one is ejected");
        pool.endpoints[3].live.set_probed_healthy(true);
        fail(&pool, 2, 1, 1000);
        assert_eq!(ejected(&pool, 1000), [0, 2], "a failure more, and there is room");
    }

    #[test]
    fn the_only_endpoint_is_never_an_outlier() {
        let live = Live::new(1);
        let pool = pool(&live, 1, "outlier_detection: { consecutive_failures: 1, max_ejection_percent: 100 }");
        fail(&pool, 0, 100, 1000);
        assert_eq!(ejected(&pool, 1000), [0; 0]);
    }

    #[test]
    fn threads_together_keep_the_bound() {
        for _ in 0..50 {
            let live = Live::new(4);
            let rest = "outlier_detection: { consecutive_failures: 1, max_ejection_percent: 50 }";
            let pool = Arc::new(pool(&live, 4, rest));
            let threads: Vec<_> = (0..4)
                .map(|endpoint| {
                    let pool = Arc::clone(&pool);
                    thread::spawn(move || note(&pool, endpoint, Attempt::Failed, endpoint, 1000))
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!(ejected(&pool, 1000).len(), 2);
        }
    }

    #[test]
    fn the_judge_ejects_by_error_rate_and_looks_once_an_interval() {
        let live = Live::new(1);
        let pool = pool(&live, 2, "outlier_detection: { error_rate_threshold: 50, interval: 1s }");
        assert_eq!(judge(&pool, 1000), Some(2000));
        for number in 0..40 {
            let status = if number % 2 == 0 { 500 } else { 200 };
            note(&pool, 0, Attempt::Answered { status, latency_us: 1000 }, 0, 1500);
        }
        assert_eq!(judge(&pool, 1500), Some(2000));
        assert_eq!(ejected(&pool, 1500), [0; 0]);
        assert_eq!(judge(&pool, 2000), Some(3000));
        assert_eq!(ejected(&pool, 2000), [0]);
        assert_eq!(pool.live.ejections(Reason::ErrorRate), 1);
        assert_eq!(ejected_for(&pool, 0, 2000), 30);
    }
}
