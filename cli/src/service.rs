//! What a service manager is told (`sd_notify`): serving, reloading, stopping, alive. Without one nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;
use sealane_proxy::proxy::Proxy;
use tokio::time::MissedTickBehavior;

/// Serves; `MAINPID` too, because after a hand-over this is another process than the one that was started.
pub(crate) fn ready() {
    notify(&[NotifyState::Ready, NotifyState::MainPid(std::process::id())]);
}

/// Reads its config again. [`ready`] ends it, whether the config was taken or refused.
pub(crate) fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        notify(&[NotifyState::Reloading, now]);
    }
}

/// Stops.
pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Says `WATCHDOG=1` as often as the service manager wants, as long as every worker of `proxy` answers; for ever.
pub(crate) async fn keep_watchdog(proxy: Proxy) {
    let Some(interval) = watchdog_interval() else { return std::future::pending().await };
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        proxy.respond().await;
        notify(&[NotifyState::Watchdog]);
    }
}

/// The same for a role without workers.
pub(crate) async fn keep_plain_watchdog() {
    let Some(interval) = watchdog_interval() else { return std::future::pending().await };
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

/// A third of what the service manager waits.
fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|timeout| (timeout / 3).max(Duration::from_millis(100)))
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}
