//! Families of the cache.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Page, by_route, label};
use crate::metrics::{CACHE_RESULTS, Count, Labels, LaneCells, PerThread, total};
use crate::shared::Shared;
use crate::snapshot::Snapshot;

/// What the cache did for the routes that have rules, zeros included, and what it holds.
pub(super) fn cache(
    page: &mut Page,
    shared: &Shared,
    snapshot: &Snapshot,
    counted: &BTreeMap<Labels, PerThread<LaneCells>>,
    series_max: usize,
) {
    let cached: Vec<_> = (snapshot.routes.iter().enumerate())
        .filter(|(index, _)| snapshot.table.may_cache(*index))
        .map(|(_, route)| (&route.id, label(&route.id)))
        .take((series_max / CACHE_RESULTS.len()).max(1))
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
