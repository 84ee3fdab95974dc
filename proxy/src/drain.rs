//! The graceful shutdown, in stages: readiness fails; load balancers get time to notice; no new connections; requests in
//! flight finish and idle connections close; what is left is cut.

use std::sync::Arc;
use std::time::Duration;

use sealane_model::config::Shutdown;
use tokio::time::{self, Instant};
use tracing::info;

use crate::proxy::Inner;
use crate::shared::Stage;
use crate::worker::Order;

/// Between two looks at how many connections are left.
const LOOK: Duration = Duration::from_millis(20);

/// Who has to notice that this proxy is leaving before it stops taking connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Load balancers that look at readiness: `lb_convergence` is waited for.
    LoadBalancers,
    /// Nobody.
    Nobody,
}

/// Runs through all stages.
pub(crate) async fn run(inner: &Arc<Inner>, notice: Notice) {
    let Shutdown { lb_convergence, drain, force_close } = times(inner);
    // Whoever asks while it is under way waits for its end, and asks for nothing twice.
    let _one_at_a_time = inner.draining.lock().await;
    if inner.shared.stage() >= Stage::Draining {
        return;
    }
    info!("shutdown: not ready");
    inner.shared.enter(Stage::Leaving);
    if notice == Notice::LoadBalancers {
        time::sleep(lb_convergence).await;
    }
    info!("shutdown: draining");
    inner.shared.enter(Stage::Draining);
    inner.close_sockets();
    inner.ask_all(Order::StageChanged).await;
    let deadline = Instant::now() + drain;
    while inner.shared.open_connections() > 0 && Instant::now() < deadline {
        time::sleep(LOOK).await;
    }
    info!(connections = inner.shared.open_connections(), "shutdown: closing what is left");
    inner.stop(force_close).await;
}

fn times(inner: &Inner) -> Shutdown {
    let set = inner.shared.settings.shutdown.clone();
    let in_config = || inner.shared.current.snapshot().map(|snapshot| snapshot.config.shutdown.clone());
    set.or_else(in_config).unwrap_or_default()
}
