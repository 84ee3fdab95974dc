//! Families of endpoints, and of attempts by pool.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::requests::histogram_cost;
use super::{Page, at, label, split};
use crate::clock::Moment;
use crate::fold::{Counted, Tally, add};
use crate::metrics::{DURATION_EDGES_US, EndpointCells, Labels, OTHER, UPSTREAM_ERRORS, tally, total};
use crate::shared::Shared;
use crate::snapshot::Snapshot;

/// Sums of an endpoint or of a pool.
#[derive(Debug, Default)]
struct Sums {
    counters: Tally,
    errors: Tally,
    durations: Tally,
    in_flight: u64,
}

pub(super) fn endpoints(page: &mut Page, shared: &Shared, snapshot: &Snapshot) {
    let series_max = snapshot.config.metrics.series_max;
    let mut endpoints: BTreeMap<Labels, Sums> = BTreeMap::new();
    let mut unkept = None;
    let counted = shared.registry.endpoints();
    for (labels, threads) in &*counted {
        let sums = Sums {
            counters: tally(threads, EndpointCells::counters),
            errors: tally(threads, |cells| cells.errors.iter()),
            durations: tally(threads, |cells| cells.duration_us.counts()),
            in_flight: total(threads, |cells| &cells.in_flight),
        };
        if (&*labels.0, &*labels.1) == (OTHER, OTHER) {
            unkept = Some(sums);
        } else {
            endpoints.insert(labels.clone(), sums);
        }
    }
    // Zeros for those that nobody was sent to yet.
    for (pool, endpoint) in snapshot.pools.iter().flat_map(|pool| pool.endpoints.iter().map(move |of| (pool, of))) {
        if endpoints.len() >= series_max {
            break;
        }
        endpoints.entry((Arc::clone(&pool.id), Arc::clone(&endpoint.address))).or_default();
    }
    let none: Arc<str> = Arc::from("");
    let mut pools: BTreeMap<Labels, Sums> = BTreeMap::new();
    for ((pool, _), sums) in &endpoints {
        let all = pools.entry((Arc::clone(pool), Arc::clone(&none))).or_default();
        add(&mut all.errors, &sums.errors);
        add(&mut all.durations, &sums.durations);
    }
    by_endpoint(page, shared, &endpoints, unkept.as_ref(), series_max);
    by_pool(page, shared, &pools, unkept.as_ref(), series_max);
}

/// What of the sums goes into a family, and how many series each label set takes.
fn counted(sets: &BTreeMap<Labels, Sums>, pick: fn(&Sums) -> &Tally, cost: usize) -> Vec<Counted> {
    let set = |(labels, sums): (&Labels, &Sums)| Counted {
        labels: labels.clone(),
        tally: pick(sums).clone(),
        traffic: sums.durations.iter().take(DURATION_EDGES_US.len() + 1).sum(),
        cost,
    };
    sets.iter().map(set).collect()
}

const DURATION_COST: usize = histogram_cost(DURATION_EDGES_US.len());

fn by_endpoint(
    page: &mut Page,
    shared: &Shared,
    endpoints: &BTreeMap<Labels, Sums>,
    unkept: Option<&Sums>,
    series_max: usize,
) {
    let now_ms = Moment::now().millis();
    let of_unkept = |pick: fn(&Sums) -> &Tally| unkept.map(|sums| pick(sums).clone());
    let (counters, durations) = {
        let mut folds = shared.registry.folds();
        let counters = counted(endpoints, |sums| &sums.counters, 1);
        let durations = counted(endpoints, |sums| &sums.durations, DURATION_COST);
        let of_unkept = (of_unkept(|sums| &sums.counters), of_unkept(|sums| &sums.durations));
        (
            split(&mut folds.endpoints, &counters, of_unkept.0, series_max, now_ms),
            split(&mut folds.endpoint_histograms, &durations, of_unkept.1, series_max, now_ms),
        )
    };
    let written = |(pool, endpoint): &Labels| format!("pool=\"{}\",endpoint=\"{}\"", label(pool), label(endpoint));
    // In the order of `EndpointCells::counters`.
    let families = [
        ("proxy_upstream_requests_total", "Answers of an endpoint."),
        ("proxy_upstream_connect_failures_total", "Connections that could not be made."),
        ("proxy_upstream_connections_opened_total", "Connections that were made."),
    ];
    for (place, (name, help)) in families.into_iter().enumerate() {
        page.family(name, "counter", help);
        for (labels, tally) in &counters {
            page.line(format_args!("{name}{{{}}} {}", written(labels), at(tally, place)));
        }
    }
    page.family("proxy_upstream_in_flight", "gauge", "Requests that an endpoint works on.");
    let all: u64 = endpoints.values().chain(unkept).map(|sums| sums.in_flight).sum();
    let mut shown = 0;
    for (labels, _) in &counters {
        // `other` comes last.
        let value = endpoints.get(labels).map_or(all.saturating_sub(shown), |sums| sums.in_flight);
        shown += value;
        page.line(format_args!("proxy_upstream_in_flight{{{}}} {value}", written(labels)));
    }
    let help = "From an attempt's start to the answer's head.";
    histogram(page, "proxy_upstream_duration_seconds", help, durations.iter().map(|(of, tally)| (written(of), tally)));
}

fn by_pool(page: &mut Page, shared: &Shared, pools: &BTreeMap<Labels, Sums>, unkept: Option<&Sums>, series_max: usize) {
    let now_ms = Moment::now().millis();
    let (errors, durations) = {
        let mut folds = shared.registry.folds();
        let errors = counted(pools, |sums| &sums.errors, UPSTREAM_ERRORS.len());
        let durations = counted(pools, |sums| &sums.durations, DURATION_COST);
        let of_unkept = (unkept.map(|sums| sums.errors.clone()), unkept.map(|sums| sums.durations.clone()));
        (
            split(&mut folds.pools, &errors, of_unkept.0, series_max, now_ms),
            split(&mut folds.pool_histograms, &durations, of_unkept.1, series_max, now_ms),
        )
    };
    let written = |(pool, _): &Labels| format!("pool=\"{}\"", label(pool));
    let help = "The same by pool: from an attempt's start to the answer's head.";
    histogram(page, "proxy_upstream_roundtrip_seconds", help, durations.iter().map(|(of, tally)| (written(of), tally)));
    page.family("proxy_upstream_errors_total", "counter", "Attempts that failed by the endpoint's fault.");
    for (labels, tally) in &errors {
        for (place, category) in UPSTREAM_ERRORS.iter().enumerate() {
            let (pool, value) = (written(labels), at(tally, place));
            page.line(format_args!("proxy_upstream_errors_total{{{pool},category=\"{category}\"}} {value}"));
        }
    }
}

fn histogram<'a>(page: &mut Page, name: &str, help: &str, sets: impl Iterator<Item = (String, &'a Tally)>) {
    page.family(name, "histogram", help);
    for (labels, tally) in sets {
        let edges = DURATION_EDGES_US.len();
        let counts: Vec<u64> = (0..=edges).map(|place| at(tally, place)).collect();
        page.histogram(name, &labels, &DURATION_EDGES_US, 1e6, &counts, at(tally, edges + 1));
    }
}
