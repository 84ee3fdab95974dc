//! The Prometheus text of a scrape: every thread's cells, added up.
//!
//! Names are an interface. Families are bounded by `metrics.series_max`: of routes and endpoints the busiest are shown, the
//! rest is `other` and counted ([`crate::fold`]); of what only some routes and pools have, the first.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::{self, Write as _};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use crate::clock::Moment;
use crate::error::Category;
use crate::fold::{Counted, Fold, Tally, add};
use crate::metrics::{APPLY_EDGES_US, Count, Labels, LaneCells, OTHER, PerThread, lock};
use crate::middleware::jwt::token::Reject;
use crate::shared::Shared;
use crate::snapshot::Snapshot;

mod cache;
mod endpoints;
mod open_metrics;
mod paths;
mod plugins;
mod requests;
mod resilience;
mod retries;

/// The answer to a scrape: its type and its text, as OpenMetrics for those who ask for that.
pub(crate) fn answer(shared: &Shared, accept: Option<&str>) -> (&'static str, String) {
    match accept.is_some_and(open_metrics::is_wanted) {
        true => (open_metrics::CONTENT_TYPE, open_metrics::of(&text(shared))),
        false => ("text/plain; version=0.0.4; charset=utf-8", text(shared)),
    }
}

/// The text of a scrape.
pub(crate) fn text(shared: &Shared) -> String {
    let snapshot = shared.current.snapshot();
    let mut page = Page { out: String::with_capacity(16 << 10) };
    process(&mut page, shared, snapshot.as_deref());
    if let Some(snapshot) = &snapshot {
        requests::requests(&mut page, shared, snapshot);
        endpoints::endpoints(&mut page, shared, snapshot);
        pools(&mut page, snapshot);
        resilience::breakers(&mut page, snapshot);
        resilience::ejections(&mut page, snapshot);
        resilience::hedges(&mut page, snapshot);
        resilience::traffic(&mut page, snapshot);
        plugins::plugins(&mut page, shared, snapshot);
    }
    lock(&shared.others.0).iter().for_each(|other| page.out.push_str(&other()));
    page.out
}

/// Gives the Prometheus text of families that are not the data plane's own.
pub(crate) type Other = Box<dyn Fn() -> String + Send + Sync>;

/// Whoever else counts something in this process.
#[derive(Default)]
pub(crate) struct Others(Mutex<Vec<Other>>);

impl Others {
    pub(crate) fn add(&self, other: Other) {
        lock(&self.0).push(other);
    }
}

impl fmt::Debug for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} others", lock(&self.0).len())
    }
}

/// The text so far.
struct Page {
    out: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "{line}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl fmt::Display) {
        self.family(name, kind, help);
        self.line(format_args!("{name} {value}"));
    }

    /// One series of a histogram; `labels` without braces. `edges` are written divided by `unit`.
    fn histogram(&mut self, name: &str, labels: &str, edges: &[u64], unit: f64, counts: &[u64], sum: u64) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut below = 0;
        for (edge, count) in edges.iter().zip(counts) {
            below += count;
            self.line(format_args!("{name}_bucket{{{labels}{comma}le=\"{}\"}} {below}", *edge as f64 / unit));
        }
        below += counts.last().copied().unwrap_or(0);
        self.line(format_args!("{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {below}"));
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        self.line(format_args!("{name}_sum{braces} {}", sum as f64 / unit));
        self.line(format_args!("{name}_count{braces} {below}"));
    }
}

fn process(page: &mut Page, shared: &Shared, snapshot: Option<&Snapshot>) {
    let threads = &shared.registry.threads;
    let sum = |count: &dyn Fn(&crate::metrics::ThreadCells) -> &Count| {
        threads.iter().map(|cells| count(cells).value()).sum::<u64>()
    };
    page.family("proxy_build_info", "gauge", "The build.");
    page.line(format_args!("proxy_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")));
    page.single("proxy_ready", "gauge", "Whether this proxy takes requests.", u8::from(shared.is_ready()));
    let revision = snapshot.map_or(0, |snapshot| snapshot.tag.number);
    page.single("proxy_config_revision", "gauge", "The revision that is served; 0 for a local file.", revision);
    if let Some(snapshot) = snapshot {
        page.family("proxy_active_snapshot_info", "gauge", "The snapshot that is served.");
        let source = if snapshot.tag.number == 0 { "file" } else { "fleet" };
        let version = label(&snapshot.tag.label);
        page.line(format_args!("proxy_active_snapshot_info{{version=\"{version}\",source=\"{source}\"}} 1"));
    }
    let swaps = shared.registry.swaps.load(Ordering::Relaxed);
    page.single("proxy_snapshot_swaps_total", "counter", "Snapshots that were activated.", swaps);
    page.family("proxy_config_apply_total", "counter", "Configs that were to be served, by what came of it.");
    let rejected = shared.registry.rejected.load(Ordering::Relaxed);
    for (result, value) in [("success", swaps), ("rejected", rejected)] {
        page.line(format_args!("proxy_config_apply_total{{result=\"{result}\"}} {value}"));
    }
    let conflicts = shared.registry.conflicts.load(Ordering::Relaxed);
    let help = "Configs refused because somebody else decides, or another version was served than expected.";
    page.single("proxy_config_conflict_total", "counter", help, conflicts);
    page.family(
        "proxy_config_apply_duration_seconds",
        "histogram",
        "From a config being offered until it is ready to be served, or refused.",
    );
    {
        let applied = lock(&shared.registry.applied);
        let counts: Vec<u64> = applied.buckets.iter().map(Count::value).collect();
        page.histogram("proxy_config_apply_duration_seconds", "", &APPLY_EDGES_US, 1e6, &counts, applied.sum.value());
    }
    let connections: [(&str, &str, &str, u64); 10] = [
        ("proxy_connections_open", "gauge", "Client connections.", sum(&|cells| &cells.connections_open)),
        (
            "proxy_connections_accepted_total",
            "counter",
            "Client connections accepted.",
            sum(&|cells| &cells.connections_accepted),
        ),
        (
            "proxy_connections_refused_total",
            "counter",
            "Client connections above a limit.",
            sum(&|cells| &cells.connections_refused),
        ),
        (
            "proxy_tls_handshake_failures_total",
            "counter",
            "TLS handshakes that failed.",
            sum(&|cells| &cells.tls_handshake_failures),
        ),
        (
            "proxy_http2_connections_total",
            "counter",
            "Client connections that spoke HTTP/2.",
            sum(&|cells| &cells.http2_connections),
        ),
        ("proxy_http2_streams_total", "counter", "Requests over HTTP/2.", sum(&|cells| &cells.http2_streams)),
        (
            "proxy_http2_floods_total",
            "counter",
            "HTTP/2 connections ended because of too many frames that achieve nothing.",
            sum(&|cells| &cells.http2_floods),
        ),
        (
            "proxy_http2_protocol_errors_total",
            "counter",
            "HTTP/2 connections ended because of what the client sent.",
            sum(&|cells| &cells.http2_protocol_errors),
        ),
        (
            "proxy_forwarding_loops_total",
            "counter",
            "Requests refused because they went round in circles.",
            sum(&|cells| &cells.forwarding_loops),
        ),
        ("proxy_panics_total", "counter", "Tasks of connections that panicked.", sum(&|cells| &cells.panics)),
    ];
    for (name, kind, help, value) in connections {
        page.single(name, kind, help, value);
    }
    page.family("proxy_refused_total", "counter", "Requests that the proxy answered or gave up itself.");
    for &category in Category::ALL {
        let value = sum(&|cells| &cells.refused[category as usize]);
        page.line(format_args!("proxy_refused_total{{category=\"{}\"}} {value}", category.name()));
    }
    let shared_buckets = sum(&|cells| &cells.limits_shared);
    let help = "Requests whose key found no bucket of its own under a rate limit.";
    page.single("proxy_rate_limit_shared_bucket_total", "counter", help, shared_buckets);
    page.family("proxy_auth_tokens_total", "counter", "Requests by what came of verifying their token.");
    let accepted = sum(&|cells| &cells.tokens_accepted);
    page.line(format_args!("proxy_auth_tokens_total{{result=\"accepted\"}} {accepted}"));
    for reject in Reject::ALL {
        let value = sum(&|cells| &cells.tokens_refused[reject as usize]);
        page.line(format_args!("proxy_auth_tokens_total{{result=\"{}\"}} {value}", reject.name()));
    }
    let without_keys = sum(&|cells| &cells.tokens_without_keys);
    page.line(format_args!("proxy_auth_tokens_total{{result=\"no_keys\"}} {without_keys}"));
    keys(page, shared);
    let dropped = sum(&|cells| &cells.log_lines_dropped) + shared.log.lost();
    page.single("proxy_access_log_lines_dropped_total", "counter", "Lines lost to a slow or full sink.", dropped);
    let spans = &shared.live.exporters.counts;
    let spans = [
        ("proxy_trace_spans_exported_total", "Spans that the collector took.", &spans.exported),
        ("proxy_trace_spans_failed_total", "Spans that the collector did not take.", &spans.failed),
        ("proxy_traces_dropped_total", "Finished requests whose spans found no room in the queue.", &spans.dropped),
    ];
    for (name, help, count) in spans {
        page.single(name, "counter", help, count.load(Ordering::Relaxed));
    }
    let folded = shared.registry.folded();
    page.single("proxy_metrics_series_folded_total", "counter", "Label sets folded into `other`.", folded);
    if let Some(tls) = snapshot.and_then(|snapshot| snapshot.tls.as_ref()) {
        page.family("proxy_certificate_expiry_timestamp_seconds", "gauge", "When a certificate expires.");
        for (name, expiry) in &tls.expiries {
            let name = label(name);
            page.line(format_args!("proxy_certificate_expiry_timestamp_seconds{{name=\"{name}\"}} {expiry}"));
        }
    }
}

/// Sources of keys for tokens.
fn keys(page: &mut Page, shared: &Shared) {
    let sources = shared.live.key_sources.held();
    page.family("proxy_jwks_keys", "gauge", "Keys that verify tokens, by source.");
    for source in &sources {
        let keys = source.keys().map_or(0, |keys| keys.len());
        page.line(format_args!("proxy_jwks_keys{{source=\"{}\"}} {keys}", label(source.name())));
    }
    page.family("proxy_jwks_refreshes_total", "counter", "Looks for keys, by source.");
    for source in &sources {
        let name = label(source.name());
        let results = [("success", &source.refreshes), ("failure", &source.failures)];
        for (result, count) in results {
            let value = count.load(Ordering::Relaxed);
            page.line(format_args!("proxy_jwks_refreshes_total{{source=\"{name}\",result=\"{result}\"}} {value}"));
        }
    }
}

/// Label sets of a family that have series of their own, and `other` with all the rest; `unkept` are counts that never had
/// labels.
fn split(
    fold: &mut Fold,
    counted: &[Counted],
    unkept: Option<Tally>,
    series_max: usize,
    now_ms: u64,
) -> Vec<(Labels, Tally)> {
    let mut page = fold.split(counted, series_max, now_ms);
    let mut other = page.other.or_else(|| unkept.is_some().then(Tally::new));
    if let (Some(other), Some(unkept)) = (&mut other, unkept) {
        add(other, &unkept);
    }
    page.shown.extend(other.map(|other| ((Arc::from(OTHER), Arc::from(OTHER)), other)));
    page.shown
}

/// How many rows fit in a family in which each has `series`.
fn rows(snapshot: &Snapshot, series: usize) -> usize {
    (snapshot.config.metrics.series_max / series).max(1)
}

/// A sum in a tally.
fn at(tally: &[u64], place: usize) -> u64 {
    tally.get(place).copied().unwrap_or(0)
}

/// Lanes by their route.
fn by_route(counted: &BTreeMap<Labels, PerThread<LaneCells>>) -> HashMap<&str, Vec<&PerThread<LaneCells>>> {
    let mut lanes: HashMap<&str, Vec<_>> = HashMap::new();
    for ((route, _), threads) in counted {
        lanes.entry(route).or_default().push(threads);
    }
    lanes
}

/// Of the request that ended last on any thread.
fn last_seconds(threads: &PerThread<LaneCells>) -> f64 {
    let last = threads.iter().flatten().map(|cells| (cells.last.0.value(), cells.last.1.value())).max();
    last.map_or(0.0, |(_, micros)| micros as f64 / 1e6)
}

fn pools(page: &mut Page, snapshot: &Snapshot) {
    let now_ms = Moment::now().millis();
    let mut seen = HashSet::new();
    let pools: Vec<_> = snapshot
        .pools
        .iter()
        .take(snapshot.config.metrics.series_max)
        .filter(|pool| seen.insert(&pool.id))
        .map(|pool| {
            let healthy = pool.endpoints.iter().filter(|endpoint| endpoint.live.is_available(now_ms)).count();
            (label(&pool.id), healthy, pool.endpoints.len())
        })
        .collect();
    page.family("proxy_pool_healthy_endpoints", "gauge", "Endpoints that get requests.");
    for (pool, healthy, _) in &pools {
        page.line(format_args!("proxy_pool_healthy_endpoints{{pool=\"{pool}\"}} {healthy}"));
    }
    page.family("proxy_pool_total_endpoints", "gauge", "Endpoints.");
    for (pool, _, endpoints) in &pools {
        page.line(format_args!("proxy_pool_total_endpoints{{pool=\"{pool}\"}} {endpoints}"));
    }
}

/// A label's value, escaped.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
