//! One family of names for each path, where the config wants them: what scrapers of files with `port` and `endpoints` know.
//!
//! `/index` is `index_request_count`, `index_successful_request_count`, `index_failed_request_count` and
//! `index_last_response_time`; `/` is `ROOT`.

use std::collections::{BTreeMap, HashSet};

use sealane_model::config::PathMatch;

use super::{Page, by_route, last_seconds};
use crate::error::{Category, Fault};
use crate::metrics::{Labels, LaneCells, PerThread, total};
use crate::snapshot::Snapshot;

/// Those of the snapshot's routes with an exact path, or with every path.
pub(super) fn paths(page: &mut Page, snapshot: &Snapshot, counted: &BTreeMap<Labels, PerThread<LaneCells>>) {
    if !snapshot.config.metrics.path_names {
        return;
    }
    let by_route = by_route(counted);
    let mut seen = HashSet::new();
    let named = snapshot.config.routes.iter().filter_map(|route| Some((&*route.id.0, name(&route.path)?)));
    for (id, name) in named.take(snapshot.config.metrics.series_max) {
        // Paths that differ in what a name cannot hold share one.
        if !seen.insert(name.clone()) {
            continue;
        }
        let lanes: &[_] = by_route.get(id).map(Vec::as_slice).unwrap_or_default();
        let of = |pick: &dyn Fn(&LaneCells) -> u64| -> u64 {
            lanes.iter().flat_map(|threads| threads.iter().flatten()).map(|cells| pick(cells)).sum()
        };
        let requests = of(&|cells| cells.statuses.iter().map(|count| count.value()).sum());
        let failures = Category::ALL.iter().filter(|category| category.fault() != Fault::Downstream);
        let failed: u64 = failures
            .map(|&category| {
                lanes.iter().map(|lane| total(lane, |cells| &cells.refused[category as usize])).sum::<u64>()
            })
            .sum();
        let last = lanes.iter().map(|threads| last_seconds(threads)).fold(0.0, f64::max);
        let counts = [
            ("request_count", "Requests.", requests),
            ("successful_request_count", "Requests that the proxy did not fail.", requests.saturating_sub(failed)),
            ("failed_request_count", "Requests that the proxy failed.", failed),
        ];
        for (suffix, help, value) in counts {
            page.single(&format!("{name}_{suffix}"), "counter", help, value);
        }
        let help = "Seconds that the last request took; 0 before the first.";
        page.single(&format!("{name}_last_response_time"), "gauge", help, last);
    }
}

/// The path as part of a metric's name.
fn name(path: &PathMatch) -> Option<String> {
    let path = match path {
        PathMatch::Exact(path) => path.as_str(),
        PathMatch::Any => "/",
        PathMatch::Prefix(path) if path == "/" => "/",
        PathMatch::Prefix(_) | PathMatch::Regex(_) => return None,
    };
    let path = path.trim_matches('/');
    if path.is_empty() {
        return Some("ROOT".to_owned());
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let name: String = path.chars().map(|c| if fits(c) { c } else { '_' }).collect();
    Some(if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_name_without_what_names_cannot_hold() {
        let check = |path: &str, expected| assert_eq!(name(&PathMatch::Exact(path.to_owned())).as_deref(), expected);
        check("/index", Some("index"));
        check("/", Some("ROOT"));
        check("/a/b-c.d", Some("a_b_c_d"));
        check("/1", Some("_1"));
        assert_eq!(name(&PathMatch::Prefix("/".to_owned())).as_deref(), Some("ROOT"));
        assert_eq!(name(&PathMatch::Prefix("/api/".to_owned())), None);
    }
}
