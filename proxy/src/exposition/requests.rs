//! Families of requests by route and pool.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Page, at, cache, label, last_seconds, paths, retries, split};
use crate::clock::Moment;
use crate::error::Category;
use crate::fold::{Counted, Tally};
use crate::metrics::{
    CLASSES, DURATION_EDGES_US, Labels, LaneCells, OTHER, PerThread, REFUSED_AT, SIZE_EDGES, STATUSES, tally,
};
use crate::shared::Shared;
use crate::snapshot::Snapshot;

/// Series of a histogram with as many edges: its buckets, the one without an edge, sum and count.
pub(super) const fn histogram_cost(edges: usize) -> usize {
    edges + 3
}

/// Label sets that have series of their own, and `other`.
type Sets = Vec<(Labels, Tally)>;

pub(super) fn requests(page: &mut Page, shared: &Shared, snapshot: &Snapshot) {
    let series_max = snapshot.config.metrics.series_max;
    let now_ms = Moment::now().millis();
    let counted = shared.registry.lanes();
    let (counters, histograms) = sets(shared, snapshot, &counted, series_max, now_ms);
    statuses(page, &counters);
    let sizes = DURATION_EDGES_US.len() + 2;
    let answers = sizes + SIZE_EDGES.len() + 2;
    let help = "From the request head to the end of the answer.";
    histogram(page, "proxy_request_duration_seconds", help, &histograms, (0, &DURATION_EDGES_US, 1e6));
    histogram(page, "proxy_request_size_bytes", "Content of requests.", &histograms, (sizes, &SIZE_EDGES, 1.0));
    histogram(page, "proxy_response_size_bytes", "Content of answers.", &histograms, (answers, &SIZE_EDGES, 1.0));
    cache::cache(page, shared, snapshot, &counted, series_max);
    refusals(page, &counters, series_max);
    last_durations(page, &counters, &counted);
    retries::retries(page, snapshot, &counted);
    paths::paths(page, snapshot, &counted);
}

/// What is shown: counters, and histograms, which take more room.
fn sets(
    shared: &Shared,
    snapshot: &Snapshot,
    counted: &BTreeMap<Labels, PerThread<LaneCells>>,
    series_max: usize,
    now_ms: u64,
) -> (Sets, Sets) {
    let mut tallies: BTreeMap<Labels, (Tally, Tally)> = BTreeMap::new();
    let mut unkept = None;
    for (labels, threads) in counted {
        let both = (tally(threads, LaneCells::counters), tally(threads, LaneCells::histograms));
        if (&*labels.0, &*labels.1) == (OTHER, OTHER) {
            unkept = Some(both);
        } else {
            tallies.insert(labels.clone(), both);
        }
    }
    // Zeros for what was asked for by nobody yet.
    for (route, target) in snapshot.targets().take(series_max) {
        if tallies.len() < series_max {
            let labels = (Arc::clone(&route.id), Arc::clone(&snapshot.pools[target.pool].id));
            tallies.entry(labels).or_default();
        }
    }
    let (mut counters, mut histograms) = (Vec::with_capacity(tallies.len()), Vec::with_capacity(tallies.len()));
    for (labels, (counts, buckets)) in tallies {
        let (statuses, refused) = counts.split_at(REFUSED_AT.min(counts.len()));
        let seen = |counts: &[u64]| counts.iter().filter(|count| **count > 0).count();
        let traffic = statuses.iter().sum();
        // The one for 200 is there in any case.
        let cost = (seen(statuses) + usize::from(at(statuses, OK) == 0)).max(seen(refused));
        let set = |tally: Tally, cost| Counted { labels: labels.clone(), tally, traffic, cost };
        histograms.push(set(buckets, histogram_cost(DURATION_EDGES_US.len())));
        counters.push(set(counts, cost));
    }
    let (unkept_counts, unkept_buckets) = unkept.unzip();
    let mut folds = shared.registry.folds();
    (
        split(&mut folds.lanes, &counters, unkept_counts, series_max, now_ms),
        split(&mut folds.lane_histograms, &histograms, unkept_buckets, series_max, now_ms),
    )
}

/// The place of 200 among the statuses.
const OK: usize = 1;

fn written((route, pool): &Labels) -> String {
    format!("route=\"{}\",pool=\"{}\"", label(route), label(pool))
}

/// `proxy_requests_total`: the statuses that were seen, and 200 in any case.
fn statuses(page: &mut Page, counters: &Sets) {
    page.family("proxy_requests_total", "counter", "Requests.");
    let texts: Vec<String> =
        STATUSES.iter().map(u16::to_string).chain(CLASSES.iter().map(|&class| class.to_owned())).collect();
    for (labels, tally) in counters {
        let labels = written(labels);
        for (slot, status) in texts.iter().enumerate() {
            let value = at(tally, slot);
            if value > 0 || slot == OK {
                page.line(format_args!("proxy_requests_total{{{labels},status=\"{status}\"}} {value}"));
            }
        }
    }
}

/// A histogram that begins at a place of each tally, with its edges and what they are divided by.
fn histogram(page: &mut Page, name: &str, help: &str, sets: &Sets, (begin, edges, unit): (usize, &[u64], f64)) {
    page.family(name, "histogram", help);
    for (labels, tally) in sets {
        let counts: Vec<u64> = (begin..=begin + edges.len()).map(|place| at(tally, place)).collect();
        page.histogram(name, &written(labels), edges, unit, &counts, at(tally, begin + edges.len() + 1));
    }
}

/// What the proxy answered or gave up itself, by route: zeros for the usual ones where there is room, and those for want of
/// a client certificate once more by the name that they always had.
fn refusals(page: &mut Page, counters: &Sets, series_max: usize) {
    let mut routes: BTreeMap<&str, Vec<&Tally>> = BTreeMap::new();
    for ((route, _), tally) in counters {
        routes.entry(route).or_default().push(tally);
    }
    let sum = |lanes: &[&Tally], category: Category| -> u64 {
        lanes.iter().map(|tally| at(tally, REFUSED_AT + category as usize)).sum()
    };
    page.family("proxy_proxy_errors_total", "counter", "Requests that the proxy answered or gave up itself, by route.");
    let usual = [Category::UpstreamConnectFailed, Category::UpstreamReset, Category::UpstreamTimeout];
    let has_room = routes.len() * usual.len() <= series_max;
    for (route, lanes) in &routes {
        let route = label(route);
        for &category in Category::ALL {
            let value = sum(lanes, category);
            if value > 0 || (has_room && usual.contains(&category)) {
                let category = category.name();
                page.line(format_args!(
                    "proxy_proxy_errors_total{{route=\"{route}\",category=\"{category}\"}} {value}"
                ));
            }
        }
    }
    page.family(
        "proxy_mtls_reject_total",
        "counter",
        "Requests without the client certificate that their route wants.",
    );
    for (route, lanes) in &routes {
        let value = sum(lanes, Category::MtlsRequired);
        page.line(format_args!("proxy_mtls_reject_total{{route=\"{}\"}} {value}", label(route)));
    }
}

/// How long the last request of each lane took.
fn last_durations(page: &mut Page, counters: &Sets, counted: &BTreeMap<Labels, PerThread<LaneCells>>) {
    page.family("proxy_request_last_duration_seconds", "gauge", "How long the last request took; 0 before the first.");
    for (labels, _) in counters {
        let seconds = counted.get(labels).map_or(0.0, last_seconds);
        page.line(format_args!("proxy_request_last_duration_seconds{{{}}} {seconds}", written(labels)));
    }
}
