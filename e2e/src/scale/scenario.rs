//! What is done to a fleet, and what is measured of it.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::agent::Progress;
use super::config;
use super::figure::Figure;
use super::fleet::{ScaleFleet, wait_for_health};

/// The most that an authority with 10,000 streams may hold, in MiB; more agents may hold more.
const MEMORY_MIB_MAX: f64 = 150.0;
/// The most that may go to an agent for a change of one route, in bytes.
const CHANGE_BYTES_MAX: f64 = 64.0 * 1024.0;
/// The longest that a fleet may be away after its authority was, in seconds: the tail of the agents' own waits, and the
/// time that letting them in one after the other takes.
const STORM_SECONDS_MAX: f64 = 90.0;
/// The longest from the publish command's start until the authority knows that 10,000 proxies run the revision, in seconds,
/// without the time that a plan's bakes take.
const CONFIRMED_SECONDS_MAX: f64 = 30.0;
/// Lines of a page for a person, whatever the fleet's size.
const LINES_MAX: f64 = 200.0;
/// For everything that should come to an end.
const DEADLINE: Duration = Duration::from_secs(180);

/// How large a fleet is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Simulated agents.
    pub agents: usize,
    /// Proxies of each.
    pub proxies: usize,
    /// Routes of the config.
    pub routes: usize,
}

/// Publish → known to be confirmed by every proxy; bytes and the authority's time for a change of one route.
///
/// # Errors
/// Something does not come to its end.
pub async fn change(program: &Path, size: Size) -> anyhow::Result<Vec<Figure>> {
    let mut fleet = ScaleFleet::start(program, size.proxies, 20).await?;
    fleet.add_agents(size.agents);
    let connected = fleet.wait_for_agents(DEADLINE).await?;
    let mut figures = vec![
        Figure::of("agents", size.agents as f64, ""),
        Figure::of("proxies", (size.agents * size.proxies) as f64, ""),
        Figure::of("routes", size.routes as f64, ""),
        Figure::of("all agents subscribed after", connected.as_secs_f64(), "s"),
    ];
    let begun = Instant::now();
    fleet.publish(&config::routes(size.routes, None)).await?;
    figures.push(Figure::of("first config: publish command", begun.elapsed().as_secs_f64(), "s"));
    fleet.wait_for_revision(1, DEADLINE).await?;
    figures.push(Figure::of("first config: confirmed everywhere after", begun.elapsed().as_secs_f64(), "s"));
    fleet.completed(1).await?;
    quiet(&fleet).await;

    let before: Vec<(u64, u64)> = fleet.meters.iter().map(|meter| (meter.received(), meter.sent())).collect();
    let cost = fleet.cost();
    let begun = Instant::now();
    fleet.publish(&config::routes(size.routes, Some((size.routes / 2, 7)))).await?;
    let published = begun.elapsed();
    let published_us = fleet.cost().cpu_us - cost.cpu_us;
    fleet.wait_for_revision(2, DEADLINE).await?;
    let confirmed = begun.elapsed();
    let moved = fleet.meters.iter().zip(&before);
    let (received, sent): (Vec<u64>, Vec<u64>) =
        moved.map(|(meter, (received, sent))| (meter.received() - received, meter.sent() - sent)).unzip();
    let spent_us = fleet.cost().cpu_us - cost.cpu_us;
    fleet.completed(2).await?;
    let most = |all: &[u64]| all.iter().copied().max().unwrap_or(0) as f64;
    let mean = |all: &[u64]| all.iter().sum::<u64>() as f64 / all.len().max(1) as f64;
    let of_proxies = (size.agents * size.proxies).max(1) as f64;
    figures.extend([
        Figure::of("one route changed: publish command", published.as_secs_f64(), "s"),
        Figure::of("one route changed: confirmed everywhere after", confirmed.as_secs_f64(), "s")
            .at_most(CONFIRMED_SECONDS_MAX.max(CONFIRMED_SECONDS_MAX * of_proxies / 10_000.0)),
        Figure::of("one route changed: bytes to an agent, mean", mean(&received), "B"),
        Figure::of("one route changed: bytes to an agent, most", most(&received), "B").at_most(CHANGE_BYTES_MAX),
        Figure::of("one route changed: bytes from an agent, mean", mean(&sent), "B"),
        Figure::of("one route changed: authority's CPU until published", published_us / 1e3, "ms"),
        Figure::of("one route changed: authority's CPU until confirmed", spent_us / 1e3, "ms"),
        Figure::of(
            "one route changed: authority's CPU per agent after publish",
            (spent_us - published_us) / size.agents.max(1) as f64,
            "us",
        ),
    ]);
    for command in [["fleet", "status"], ["rollout", "status"]] {
        let begun = Instant::now();
        let page = fleet.cli(&command).await;
        anyhow::ensure!(page.code == 0, "{command:?}: {page:?}");
        let name = command.join(" ");
        figures.push(Figure::of(format!("`{name}`"), begun.elapsed().as_secs_f64(), "s"));
        figures.push(Figure::of(format!("`{name}`: lines"), page.stdout.lines().count() as f64, "").at_most(LINES_MAX));
    }
    figures.extend(standing(&fleet, size.agents));
    figures.extend(troubles(&fleet.world.progress));
    Ok(figures)
}

/// Many streams on one authority, and what happens when it goes and comes back.
///
/// # Errors
/// Something does not come to its end.
pub async fn storm(program: &Path, size: Size) -> anyhow::Result<Vec<Figure>> {
    let mut fleet = ScaleFleet::start(program, size.proxies, 100).await?;
    fleet.publish(&config::routes(size.routes, None)).await?;
    let empty_mib = fleet.cost().resident_kib as f64 / 1024.0;
    fleet.add_agents(size.agents);
    let connected = fleet.wait_for_agents(DEADLINE).await?;
    fleet.wait_for_revision(1, DEADLINE).await?;
    quiet(&fleet).await;
    let mut figures = vec![
        Figure::of("agents", size.agents as f64, ""),
        Figure::of("all agents subscribed after", connected.as_secs_f64(), "s"),
        Figure::of("authority's memory without agents", empty_mib, "MiB"),
    ];
    figures.extend(standing(&fleet, size.agents));
    let cost = fleet.cost();
    sleep(Duration::from_secs(10)).await;
    figures.push(Figure::of(
        "authority's CPU with nothing to do",
        (fleet.cost().cpu_us - cost.cpu_us) / 1e7 * 100.0,
        "%",
    ));

    let progress = &fleet.world.progress;
    let (attempts, away) = (progress.attempts.load(Ordering::Relaxed), progress.turned_away.load(Ordering::Relaxed));
    fleet.authority.kill().await;
    let world = std::sync::Arc::clone(&fleet.world);
    while world.progress.subscribed.load(Ordering::Relaxed) > 0 {
        sleep(Duration::from_millis(10)).await;
    }
    fleet.authority.restart();
    wait_for_health(fleet.http).await?;
    let begun = Instant::now();
    let mut health_ms_max = 0.0_f64;
    while world.progress.subscribed.load(Ordering::Relaxed) < size.agents {
        anyhow::ensure!(
            begun.elapsed() < DEADLINE,
            "{} of {} came back",
            world.progress.subscribed.load(Ordering::Relaxed),
            size.agents
        );
        let asked = Instant::now();
        wait_for_health(fleet.http).await?;
        health_ms_max = health_ms_max.max(asked.elapsed().as_secs_f64() * 1e3);
        sleep(Duration::from_millis(50)).await;
    }
    let back = begun.elapsed();
    figures.extend([
        Figure::of("storm: all agents back after", back.as_secs_f64(), "s").at_most(STORM_SECONDS_MAX),
        Figure::of("storm: attempts", (world.progress.attempts.load(Ordering::Relaxed) - attempts) as f64, ""),
        Figure::of("storm: turned away", (world.progress.turned_away.load(Ordering::Relaxed) - away) as f64, ""),
        Figure::of("storm: authority's CPU", fleet.cost().cpu_us / 1e6, "s"),
        Figure::of("storm: longest wait for the authority's health answer", health_ms_max, "ms"),
        Figure::of("storm: authority's memory at its highest", fleet.resident_peak_mib(), "MiB"),
    ]);
    let begun = Instant::now();
    fleet.publish(&config::routes(size.routes, Some((size.routes / 2, 7)))).await?;
    fleet.wait_for_revision(2, DEADLINE).await?;
    figures.push(Figure::of(
        "after the storm: a change confirmed everywhere after",
        begun.elapsed().as_secs_f64(),
        "s",
    ));
    figures.extend(standing(&fleet, size.agents));
    figures.extend(troubles(&world.progress));
    Ok(figures)
}

/// What went wrong, and what came late.
fn troubles(progress: &Progress) -> Vec<Figure> {
    let faults = progress.faults();
    let name = if faults.is_empty() { "faults".to_owned() } else { format!("faults, such as {}", faults.join("; ")) };
    vec![
        Figure::of("answers that came late", progress.late.load(Ordering::Relaxed) as f64, ""),
        Figure::of(name, faults.len() as f64, "").at_most(0.0),
    ]
}

/// What the authority holds.
fn standing(fleet: &ScaleFleet, agents: usize) -> Vec<Figure> {
    let mib = fleet.cost().resident_kib as f64 / 1024.0;
    let bound = if agents <= 10_000 { MEMORY_MIB_MAX } else { MEMORY_MIB_MAX * agents as f64 / 10_000.0 };
    vec![
        Figure::of("authority's memory", mib, "MiB").at_most(bound),
        Figure::of("authority's memory at its highest", fleet.resident_peak_mib(), "MiB"),
    ]
}

/// Waits until the authority has come to rest.
async fn quiet(fleet: &ScaleFleet) {
    let mut before = fleet.cost().cpu_us;
    for _ in 0..20 {
        sleep(Duration::from_millis(500)).await;
        let now = fleet.cost().cpu_us;
        if now - before < 100_000.0 {
            return;
        }
        before = now;
    }
}
