//! What judges from a distance: adds up what the threads counted, and lets pools and routes draw their conclusions.
//!
//! One task on the background runtime, awake only as often as the snapshot in force asks for. What is judged and what
//! follows is the business of [`crate::eject`] and its like; state is in [`crate::live`], so that a swap loses nothing.

use std::sync::Weak;
use std::time::Duration;

use tokio::time;
use tracing::{info, warn};

use crate::clock::Moment;
use crate::eject;
use crate::shared::Shared;
use crate::snapshot::Snapshot;
use crate::traffic::ADAPT_MS;
use crate::traffic::brake::Change;

/// Between two looks, whatever the config says.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// A new snapshot waits this long for its first look.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Judges for as long as the proxy lives.
pub(crate) async fn run(shared: Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        let now_ms = Moment::now().millis();
        let due_ms = shared.current.snapshot().and_then(|snapshot| look(&snapshot, now_ms));
        drop(shared);
        let pause = due_ms.map_or(PAUSE_MAX, |due_ms| Duration::from_millis(due_ms.saturating_sub(now_ms)));
        time::sleep(pause.clamp(PAUSE_MIN, PAUSE_MAX)).await;
    }
}

/// Looks at what is due. When the next look is, in milliseconds; `None`: nothing is judged.
fn look(snapshot: &Snapshot, now_ms: u64) -> Option<u64> {
    let pools = snapshot.pools.iter().filter_map(|pool| eject::judge(pool, now_ms)).min();
    let hedges = snapshot.routes.iter().filter_map(|route| route.hedge.as_ref());
    let hedges = hedges.filter_map(|hedge| hedge.live.look(hedge.after, now_ms)).min();
    pools.into_iter().chain(hedges).chain(look_at_traffic(snapshot, now_ms)).min()
}

fn look_at_traffic(snapshot: &Snapshot, now_ms: u64) -> Option<u64> {
    let mut due_ms = None;
    if snapshot.traffic_plans == 0 {
        return due_ms;
    }
    for route in &snapshot.routes {
        let Some(traffic) = &route.traffic else { continue };
        due_ms = Some(now_ms + ADAPT_MS);
        match traffic.live.look(traffic.brake.as_ref(), traffic.overload.as_ref(), now_ms) {
            Some(Change::Engaged { until_ms, window }) => warn!(
                route = &*route.id,
                canary_requests = window.canary.requests,
                canary_error_rate = window.canary.error_rate(),
                stable_error_rate = window.stable.error_rate(),
                cooloff_ms = until_ms - now_ms,
                "canary taken out"
            ),
            Some(Change::Released) => info!(route = &*route.id, "canary back"),
            None => {}
        }
    }
    due_ms
}
