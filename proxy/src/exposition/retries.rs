//! Families of retries.

use std::collections::BTreeMap;

use super::{Page, by_route, label, rows};
use crate::metrics::{Labels, LaneCells, PerThread, RETRY_REASONS, RetryOutcome, retry_reason, total};
use crate::snapshot::Snapshot;

const OUTCOMES: [(&str, RetryOutcome); 3] =
    [("success", RetryOutcome::Success), ("exhausted", RetryOutcome::Exhausted), ("budget", RetryOutcome::Budget)];

/// What came of retries and what their budgets have left, for the routes that have a policy for it. Zeros for the reasons
/// that the policy names.
pub(super) fn retries(page: &mut Page, snapshot: &Snapshot, counted: &BTreeMap<Labels, PerThread<LaneCells>>) {
    let retrying: Vec<_> = (snapshot.routes.iter())
        .filter_map(|route| Some((route, label(&route.id), route.retries.as_ref()?)))
        .take(rows(snapshot, RETRY_REASONS.len()))
        .collect();
    let lanes = by_route(counted);
    let sum = |id: &str, reason: usize, outcome: RetryOutcome| -> u64 {
        let of_route = lanes.get(id).into_iter().flatten();
        of_route.map(|threads| total(threads, |cells| &cells.retries[reason][outcome as usize])).sum()
    };
    let every = |id: &str, outcome| (0..RETRY_REASONS.len()).map(|reason| sum(id, reason, outcome)).sum::<u64>();
    for name in ["proxy_retries_total", "proxy_retry_outcomes_total"] {
        page.family(name, "counter", "Wishes to send a request again, by what came of it.");
        for (route, label, _) in &retrying {
            for (outcome, of) in OUTCOMES {
                let value = every(&route.id, of);
                page.line(format_args!("{name}{{route=\"{label}\",outcome=\"{outcome}\"}} {value}"));
            }
        }
    }
    page.family("proxy_retry_reasons_total", "counter", "Wishes to send a request again, by why.");
    for (route, name, retries) in &retrying {
        for (reason, text) in RETRY_REASONS.iter().enumerate() {
            let named = retries.policy.on.iter().any(|&condition| retry_reason(condition) == reason);
            let value: u64 = OUTCOMES.iter().map(|&(_, outcome)| sum(&route.id, reason, outcome)).sum();
            if named || value > 0 {
                page.line(format_args!("proxy_retry_reasons_total{{route=\"{name}\",reason=\"{text}\"}} {value}"));
            }
        }
    }
    page.family("proxy_retry_budget_exhausted_total", "counter", "Retries that the budget refused.");
    for (route, name, _) in &retrying {
        let value = every(&route.id, RetryOutcome::Budget);
        page.line(format_args!("proxy_retry_budget_exhausted_total{{route=\"{name}\"}} {value}"));
    }
    page.family("proxy_retry_budget_tokens", "gauge", "Retries that the budget has left.");
    for (_, name, retries) in &retrying {
        page.line(format_args!("proxy_retry_budget_tokens{{route=\"{name}\"}} {}", retries.budget.tokens()));
    }
}
