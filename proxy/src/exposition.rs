//! The Prometheus text of a scrape: every thread's cells, added up.
//!
//! Names are an interface. Families are bounded: what goes beyond `metrics.series_max` is folded into `other` and
//! counted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::{self, Write as _};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use crate::clock::Moment;
use crate::error::Category;
use crate::metrics::{
    APPLY_EDGES_US, CACHE_RESULTS, CLASSES, Count, DURATION_EDGES_US, EndpointCells, Histogram, Labels, LaneCells,
    OTHER, PerThread, SIZE_EDGES, STATUSES, UPSTREAM_ERRORS, lock, total,
};
use crate::middleware::jwt::token::Reject;
use crate::shared::Shared;
use crate::snapshot::Snapshot;

mod open_metrics;
mod paths;
mod plugins;
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
        lanes(&mut page, shared, snapshot);
        endpoints(&mut page, shared, snapshot);
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
    let folded = shared.registry.folded.load(Ordering::Relaxed);
    page.single("proxy_metrics_series_folded_total", "counter", "Series folded into `other`.", folded);
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

/// Cells of a family by label, summed over threads, the ones of the snapshot among them with zeros.
type Lanes<'a> = Vec<(String, &'a PerThread<LaneCells>)>;

fn lanes(page: &mut Page, shared: &Shared, snapshot: &Snapshot) {
    let series_max = snapshot.config.metrics.series_max;
    let counted = shared.registry.lanes();
    let silent: PerThread<LaneCells> = vec![Some(Arc::default())];
    let mut all: BTreeMap<Labels, &PerThread<LaneCells>> =
        counted.iter().map(|(labels, threads)| (labels.clone(), threads)).collect();
    for (route, target) in snapshot.targets().take(series_max) {
        let labels = (Arc::clone(&route.id), Arc::clone(&snapshot.pools[target.pool].id));
        if all.len() < series_max {
            all.entry(labels).or_insert(&silent);
        }
    }
    let all: Lanes<'_> = all
        .into_iter()
        .map(|((route, pool), threads)| (format!("route=\"{}\",pool=\"{}\"", label(&route), label(&pool)), threads))
        .collect();
    requests(page, &all, series_max);
    page.family("proxy_request_duration_seconds", "histogram", "From the request head to the end of the answer.");
    for (labels, threads) in &all {
        let (counts, sum) = merged(threads, |cells| &cells.duration_us);
        page.histogram("proxy_request_duration_seconds", labels, &DURATION_EDGES_US, 1e6, &counts, sum);
    }
    type Pick = fn(&LaneCells) -> &Histogram<{ SIZE_EDGES.len() + 1 }>;
    let sizes: [(&str, &str, Pick); 2] = [
        ("proxy_request_size_bytes", "Content of requests.", |cells| &cells.request_bytes),
        ("proxy_response_size_bytes", "Content of answers.", |cells| &cells.response_bytes),
    ];
    for (name, help, pick) in sizes {
        page.family(name, "histogram", help);
        for (labels, threads) in &all {
            let (counts, sum) = merged(threads, pick);
            page.histogram(name, labels, &SIZE_EDGES, 1.0, &counts, sum);
        }
    }
    cache(page, shared, snapshot, &counted, series_max);
    refusals(page, &all, series_max);
    last_durations(page, &all);
    retries::retries(page, snapshot, &counted);
    paths::paths(page, snapshot, &counted);
}

/// What the proxy answered or gave up itself, by route: zeros for the usual ones, and those for want of a client
/// certificate once more by the name that they always had.
fn refusals(page: &mut Page, lanes: &Lanes<'_>, series_max: usize) {
    let mut routes: BTreeMap<&str, Vec<&PerThread<LaneCells>>> = BTreeMap::new();
    for (labels, threads) in lanes {
        let route = labels.split("\",pool=").next().and_then(|label| label.strip_prefix("route=\"")).unwrap_or(OTHER);
        routes.entry(route).or_default().push(threads);
    }
    let sum = |lanes: &[&PerThread<LaneCells>], category: Category| -> u64 {
        lanes.iter().map(|threads| total(threads, |cells| &cells.refused[category as usize])).sum()
    };
    page.family("proxy_proxy_errors_total", "counter", "Requests that the proxy answered or gave up itself, by route.");
    let usual = [Category::UpstreamConnectFailed, Category::UpstreamReset, Category::UpstreamTimeout];
    for (route, lanes) in routes.iter().take(series_max) {
        for &category in Category::ALL {
            let value = sum(lanes, category);
            if value > 0 || usual.contains(&category) {
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
    for (route, lanes) in routes.iter().take(series_max) {
        let value = sum(lanes, Category::MtlsRequired);
        page.line(format_args!("proxy_mtls_reject_total{{route=\"{route}\"}} {value}"));
    }
}

/// Lanes by their route.
fn by_route(counted: &BTreeMap<Labels, PerThread<LaneCells>>) -> HashMap<&str, Vec<&PerThread<LaneCells>>> {
    let mut lanes: HashMap<&str, Vec<_>> = HashMap::new();
    for ((route, _), threads) in counted {
        lanes.entry(route).or_default().push(threads);
    }
    lanes
}

/// How long the last request of each lane took.
fn last_durations(page: &mut Page, lanes: &Lanes<'_>) {
    page.family("proxy_request_last_duration_seconds", "gauge", "How long the last request took; 0 before the first.");
    for (labels, threads) in lanes {
        let seconds = last_seconds(threads);
        page.line(format_args!("proxy_request_last_duration_seconds{{{labels}}} {seconds}"));
    }
}

/// Of the request that ended last on any thread.
fn last_seconds(threads: &PerThread<LaneCells>) -> f64 {
    let last = threads.iter().flatten().map(|cells| (cells.last.0.value(), cells.last.1.value())).max();
    last.map_or(0.0, |(_, micros)| micros as f64 / 1e6)
}

/// What the cache did for the routes that have rules, zeros included, and what it holds.
fn cache(
    page: &mut Page,
    shared: &Shared,
    snapshot: &Snapshot,
    counted: &BTreeMap<Labels, PerThread<LaneCells>>,
    series_max: usize,
) {
    let cached: Vec<_> = (snapshot.routes.iter().enumerate())
        .filter(|(index, _)| snapshot.table.may_cache(*index))
        .map(|(_, route)| (&route.id, label(&route.id)))
        .take(series_max)
        .collect();
    let lanes = by_route(counted);
    let sum = |id: &Arc<str>, pick: &dyn Fn(&LaneCells) -> &Count| -> u64 {
        lanes.get(&**id).into_iter().flatten().map(|threads| total(threads, pick)).sum()
    };
    page.family("proxy_cache_requests_total", "counter", "Requests to cached routes by what the cache made of them.");
    for (id, route) in &cached {
        for (place, result) in CACHE_RESULTS.iter().enumerate() {
            let value = sum(id, &|cells| &cells.cache[place]);
            page.line(format_args!("proxy_cache_requests_total{{route=\"{route}\",result=\"{result}\"}} {value}"));
        }
    }
    page.family("proxy_cache_coalesce_waiters", "gauge", "Requests that wait for somebody else's answer.");
    for (id, route) in &cached {
        let value = sum(id, &|cells| &cells.cache_waiters);
        page.line(format_args!("proxy_cache_coalesce_waiters{{route=\"{route}\"}} {value}"));
    }
    let breakaway = CACHE_RESULTS.iter().position(|result| *result == "coalesce_breakaway").unwrap_or_default();
    page.family(
        "proxy_cache_coalesce_breakaway_total",
        "counter",
        "Requests that waited for an answer they could not share.",
    );
    for (id, route) in &cached {
        let value = sum(id, &|cells| &cells.cache[breakaway]);
        page.line(format_args!("proxy_cache_coalesce_breakaway_total{{route=\"{route}\"}} {value}"));
    }
    let stats = shared.cache_stats();
    let counts = &shared.cache.counts;
    let load = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    let singles: [(&str, &str, &str, u64); 9] = [
        ("proxy_cache_entries", "gauge", "Stored answers.", stats.entries),
        ("proxy_cache_bytes", "gauge", "Bytes of the stored answers.", stats.bytes),
        ("proxy_cache_max_bytes", "gauge", "Bytes that stored answers may take.", stats.bytes_max),
        (
            "proxy_cache_resident_bytes",
            "gauge",
            "Bytes of content in memory, stored or still being sent.",
            stats.resident_bytes,
        ),
        ("proxy_cache_evictions_total", "counter", "Answers that left to make room.", stats.evictions),
        ("proxy_cache_purged_total", "counter", "Answers that were purged.", stats.purged),
        (
            "proxy_cache_invalidations_total",
            "counter",
            "Resources invalidated by unsafe requests.",
            load(&counts.invalidations),
        ),
        (
            "proxy_cache_refreshes_total",
            "counter",
            "Fetches in the background while a stale answer was served.",
            load(&counts.refreshes),
        ),
        (
            "proxy_cache_store_fail_total",
            "counter",
            "Answers that could have been stored but were not.",
            load(&counts.store_failures),
        ),
    ];
    for (name, kind, help, value) in singles {
        page.single(name, kind, help, value);
    }
}

/// `proxy_requests_total`: the statuses that were seen, and 200 in any case.
fn requests(page: &mut Page, lanes: &Lanes<'_>, series_max: usize) {
    page.family("proxy_requests_total", "counter", "Requests.");
    let texts: Vec<String> =
        STATUSES.iter().map(u16::to_string).chain(CLASSES.iter().map(|&class| class.to_owned())).collect();
    let mut written = 0;
    let mut folded = 0;
    for (labels, threads) in lanes {
        for (slot, status) in texts.iter().enumerate() {
            let value = total(threads, |cells| &cells.statuses[slot]);
            if value == 0 && status != "200" {
                continue;
            }
            if written >= series_max {
                folded += value;
                continue;
            }
            written += 1;
            page.line(format_args!("proxy_requests_total{{{labels},status=\"{status}\"}} {value}"));
        }
    }
    if folded > 0 {
        page.line(format_args!(
            "proxy_requests_total{{route=\"{OTHER}\",pool=\"{OTHER}\",status=\"{OTHER}\"}} {folded}"
        ));
    }
}

fn endpoints(page: &mut Page, shared: &Shared, snapshot: &Snapshot) {
    let series_max = snapshot.config.metrics.series_max;
    let counted = shared.registry.endpoints();
    let silent: PerThread<EndpointCells> = vec![Some(Arc::default())];
    let mut all: BTreeMap<Labels, &PerThread<EndpointCells>> =
        counted.iter().map(|(labels, threads)| (labels.clone(), threads)).collect();
    for pool in &snapshot.pools {
        for endpoint in &pool.endpoints {
            if all.len() < series_max {
                all.entry((Arc::clone(&pool.id), Arc::clone(&endpoint.address))).or_insert(&silent);
            }
        }
    }
    let mut pools: BTreeMap<Arc<str>, Vec<&PerThread<EndpointCells>>> = BTreeMap::new();
    for ((pool, _), threads) in &all {
        pools.entry(Arc::clone(pool)).or_default().push(threads);
    }
    let all: Vec<_> = all
        .into_iter()
        .map(|((pool, endpoint), threads)| {
            (format!("pool=\"{}\",endpoint=\"{}\"", label(&pool), label(&endpoint)), threads)
        })
        .collect();
    type Pick = fn(&EndpointCells) -> &Count;
    let families: [(&str, &str, &str, Pick); 4] = [
        ("proxy_upstream_requests_total", "counter", "Answers of an endpoint.", |cells| &cells.requests),
        ("proxy_upstream_in_flight", "gauge", "Requests that an endpoint works on.", |cells| &cells.in_flight),
        ("proxy_upstream_connect_failures_total", "counter", "Connections that could not be made.", |cells| {
            &cells.connect_failures
        }),
        ("proxy_upstream_connections_opened_total", "counter", "Connections that were made.", |cells| {
            &cells.connections_opened
        }),
    ];
    for (name, kind, help, pick) in families {
        page.family(name, kind, help);
        for (labels, threads) in &all {
            page.line(format_args!("{name}{{{labels}}} {}", total(threads, pick)));
        }
    }
    page.family("proxy_upstream_duration_seconds", "histogram", "From an attempt's start to the answer's head.");
    for (labels, threads) in &all {
        let (counts, sum) = merged(threads, |cells| &cells.duration_us);
        page.histogram("proxy_upstream_duration_seconds", labels, &DURATION_EDGES_US, 1e6, &counts, sum);
    }
    let help = "The same by pool: from an attempt's start to the answer's head.";
    page.family("proxy_upstream_roundtrip_seconds", "histogram", help);
    for (pool, endpoints) in &pools {
        let mut all = [0; DURATION_EDGES_US.len() + 1];
        let mut all_sum = 0;
        for threads in endpoints {
            let (counts, sum) = merged(threads, |cells| &cells.duration_us);
            all.iter_mut().zip(counts).for_each(|(all, count)| *all += count);
            all_sum += sum;
        }
        let labels = format!("pool=\"{}\"", label(pool));
        page.histogram("proxy_upstream_roundtrip_seconds", &labels, &DURATION_EDGES_US, 1e6, &all, all_sum);
    }
    page.family("proxy_upstream_errors_total", "counter", "Attempts that failed by the endpoint's fault.");
    for (pool, endpoints) in &pools {
        for (place, category) in UPSTREAM_ERRORS.iter().enumerate() {
            let value: u64 = endpoints.iter().map(|threads| total(threads, |cells| &cells.errors[place])).sum();
            let pool = label(pool);
            page.line(format_args!("proxy_upstream_errors_total{{pool=\"{pool}\",category=\"{category}\"}} {value}"));
        }
    }
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

/// Buckets and sum over threads.
fn merged<T, const N: usize>(threads: &PerThread<T>, pick: impl Fn(&T) -> &Histogram<N>) -> ([u64; N], u64) {
    let mut counts = [0; N];
    let mut sum = 0;
    for cells in threads.iter().flatten() {
        let histogram = pick(cells);
        counts.iter_mut().zip(&histogram.buckets).for_each(|(count, bucket)| *count += bucket.value());
        sum += histogram.sum.value();
    }
    (counts, sum)
}

/// A label's value, escaped.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
