//! Active health checks: one task per checked endpoint, on the background runtime, at once and then again and again.
//!
//! Reconciled with each snapshot: checks that stay go on undisturbed, state included. What a probe is: [`probe`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sealane_model::config::{ActiveHealth, Pool};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{self, MissedTickBehavior};
use tracing::{info, warn};

use crate::live::EndpointLive;
use crate::metrics::{Labels, lock};
use crate::snapshot::Snapshot;

mod probe;

/// The running checks, by pool and endpoint.
#[derive(Debug, Default)]
pub(crate) struct Health {
    checks: Mutex<HashMap<Labels, Running>>,
}

#[derive(Debug)]
struct Running {
    plan: Plan,
    live: Arc<EndpointLive>,
    task: AbortHandle,
}

/// What a check depends on; another plan is another check.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    active: ActiveHealth,
    path: Option<String>,
    connect_key: u64,
}

impl Health {
    /// Starts the checks that `snapshot` wants, stops those that it does not. An endpoint that is checked no more counts
    /// as healthy.
    pub(crate) fn reconcile(&self, snapshot: &Arc<Snapshot>, runtime: &Handle) {
        let mut before = std::mem::take(&mut *lock(&self.checks));
        let mut after = HashMap::new();
        for (pool_index, (pool, compiled)) in snapshot.config.pools.iter().zip(&snapshot.pools).enumerate() {
            let Some(active) = &pool.health.active else { continue };
            for (index, endpoint) in compiled.endpoints.iter().enumerate() {
                let plan =
                    Plan { active: active.clone(), path: path(pool, active, index), connect_key: endpoint.connect_key };
                let key = (Arc::clone(&compiled.id), Arc::clone(&endpoint.address));
                let running = match before.remove(&key) {
                    Some(running) if running.plan == plan => running,
                    other => {
                        if let Some(old) = other {
                            old.task.abort();
                        }
                        let task = runtime.spawn(check(Arc::clone(snapshot), pool_index, index, plan.clone()));
                        Running { plan, live: Arc::clone(&endpoint.live), task: task.abort_handle() }
                    }
                };
                after.insert(key, running);
            }
        }
        for ended in before.into_values() {
            ended.task.abort();
            ended.live.set_probed_healthy(true);
        }
        *lock(&self.checks) = after;
    }
}

/// The path that an endpoint is asked for.
fn path(pool: &Pool, active: &ActiveHealth, index: usize) -> Option<String> {
    debug_assert!(active.endpoint_paths.is_empty() || active.endpoint_paths.len() == pool.endpoints.len());
    active.endpoint_paths.get(index).cloned().or_else(|| active.path.clone())
}

/// Checks one endpoint for ever.
async fn check(snapshot: Arc<Snapshot>, pool: usize, index: usize, plan: Plan) {
    let pool_id = Arc::clone(&snapshot.pools[pool].id);
    // The endpoint alone: a check must not keep a whole old snapshot.
    let endpoint = snapshot.endpoint(pool, index).clone();
    drop(snapshot);
    let mut rounds = time::interval(plan.active.interval.max(Duration::from_millis(10)));
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut streak = Streak::default();
    loop {
        rounds.tick().await;
        let outcome = time::timeout(plan.active.timeout, probe::probe(&endpoint, plan.path.as_deref())).await;
        let outcome = match outcome {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(status)))
                if (plan.active.expected_status.first..=plan.active.expected_status.last).contains(&status) =>
            {
                Ok(())
            }
            Ok(Ok(Some(status))) => Err(format!("status {status}")),
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err("no answer in time".to_owned()),
        };
        let Some(healthy) = streak.take(outcome.is_ok(), &plan.active) else { continue };
        if endpoint.live.set_probed_healthy(healthy) {
            match outcome {
                Ok(()) => info!(pool = &*pool_id, endpoint = &*endpoint.address, "endpoint healthy"),
                Err(reason) => warn!(pool = &*pool_id, endpoint = &*endpoint.address, reason, "endpoint unhealthy"),
            }
        }
    }
}

/// Equal outcomes in a row.
#[derive(Debug, Default)]
struct Streak {
    good: bool,
    length: u32,
}

impl Streak {
    /// The verdict, once a streak is long enough for one.
    fn take(&mut self, good: bool, active: &ActiveHealth) -> Option<bool> {
        self.length = if self.good == good { self.length.saturating_add(1) } else { 1 };
        self.good = good;
        let needed = if good { active.success_threshold } else { active.fail_threshold };
        (self.length >= needed).then_some(good)
    }
}

#[cfg(test)]
mod tests {
    use sealane_model::config::StatusRange;

    use super::*;

    #[test]
    fn a_verdict_needs_a_streak() {
        let active = ActiveHealth {
            path: None,
            endpoint_paths: Vec::new(),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            expected_status: StatusRange { first: 200, last: 399 },
            fail_threshold: 3,
            success_threshold: 2,
        };
        let mut streak = Streak::default();
        let verdicts: Vec<_> = [false, false, true, false, false, false, false, true, true]
            .into_iter()
            .map(|good| streak.take(good, &active))
            .collect();
        let (bad, good) = (Some(false), Some(true));
        assert_eq!(verdicts, [None, None, None, None, None, bad, bad, None, good]);
    }
}
