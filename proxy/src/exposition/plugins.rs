//! Families of external plugins.

use std::sync::atomic::Ordering;

use super::{Page, label, rows};
use crate::breaker::State;
use crate::metrics::DURATION_EDGES_US;
use crate::plugin::CallResult;
use crate::shared::Shared;
use crate::snapshot::Snapshot;

/// What plugins did, up to the bound on series. Nothing where there are none.
pub(super) fn plugins(page: &mut Page, shared: &Shared, snapshot: &Snapshot) {
    let mut plugins = shared.live.plugins.held();
    plugins.truncate(rows(snapshot, DURATION_EDGES_US.len() + 3));
    if plugins.is_empty() {
        return;
    }
    let plugins: Vec<_> = plugins.iter().map(|plugin| (label(&plugin.key.id), plugin)).collect();
    page.family("proxy_plugin_calls_total", "counter", "Calls of plugins by what came of them.");
    for (id, plugin) in &plugins {
        for result in CallResult::ALL {
            let (result, calls) = (result.name(), plugin.counts.calls(result));
            let labels = format_args!("filter=\"{id}\",phase=\"request\",result=\"{result}\"");
            page.line(format_args!("proxy_plugin_calls_total{{{labels}}} {calls}"));
        }
    }
    page.family("proxy_plugin_bypass_total", "counter", "Requests that went on without an answer of a plugin.");
    for (id, plugin) in &plugins {
        for reason in CallResult::ALL.into_iter().filter(|result| *result != CallResult::Ok) {
            let (reason, requests) = (reason.name(), plugin.counts.bypassed(reason));
            page.line(format_args!("proxy_plugin_bypass_total{{filter=\"{id}\",reason=\"{reason}\"}} {requests}"));
        }
    }
    let counters = [
        ("proxy_plugin_failclosed_total", "Requests refused for want of an answer of a plugin."),
        ("proxy_plugin_shortcircuit_total", "Requests that a plugin answered."),
        ("proxy_plugin_mutations_denied_total", "Edits of fields that are not a plugin's to make."),
    ];
    for (index, (name, help)) in counters.into_iter().enumerate() {
        page.family(name, "counter", help);
        for (id, plugin) in &plugins {
            let counts = &plugin.counts;
            let count = [&counts.refused, &counts.short_circuits, &counts.denied_mutations][index];
            page.line(format_args!("{name}{{filter=\"{id}\"}} {}", count.load(Ordering::Relaxed)));
        }
    }
    page.family("proxy_plugin_breaker_state", "gauge", "1 for the state that the breaker of a plugin is in.");
    for (id, plugin) in &plugins {
        let now = plugin.breaker_state();
        for state in State::ALL {
            let (name, is) = (state.name(), u8::from(state == now));
            page.line(format_args!("proxy_plugin_breaker_state{{filter=\"{id}\",state=\"{name}\"}} {is}"));
        }
    }
    page.family("proxy_plugin_duration_seconds", "histogram", "How long calls of plugins took.");
    for (id, plugin) in &plugins {
        let durations = plugin.counts.durations();
        let labels = format!("filter=\"{id}\"");
        let (counts, sum) = (&durations.counts, durations.sum_us);
        page.histogram("proxy_plugin_duration_seconds", &labels, &DURATION_EDGES_US, 1e6, counts, sum);
    }
}
