//! The fleet on one page: agents, nodes, the rollout under way, and what a person should look at.

use sealane_model::ids::{AgentId, Digest, ProxyId, Revision};
use sealane_proto::v1;

use crate::app::App;
use crate::fleet::{AGENT_SILENT_MS, Agent, Live, Proxy};
use crate::home;
use crate::rollout::memory;
use crate::rollout::verdict::duration;
use crate::rollout::view::time;
use crate::store::StoreError;
use crate::trust;

/// A node that is silent for this long is shown so.
const NODE_SILENT_MS: u64 = 15_000;
/// A node may serve something else for this long while it changes over.
const DRIFT_MS: u64 = 30_000;
/// Alarms on one page.
const ALARMS_MAX: usize = 100;

/// The whole page.
pub(crate) async fn fleet(app: &App) -> Result<v1::GetFleetResponse, StoreError> {
    let newest = app.store.newest_release().await?;
    let epoch = home::epoch(&app.store).await?;
    let shown = app.board.shown();
    let rollout = shown.current.and_then(|revision| shown.rollouts.get(&revision)).map(|one| (**one).clone());
    let last_rollout = last_rollout(app).await?;
    let expected = Expected::of(app).await?;
    let now_ms = app.clock.now_ms();
    let waiting = app.store.waiting(app.store.newest_begun().await?.unwrap_or(0)).await?;
    let lacking = trust::lacking(app).await?;
    let ends = app.auth.certificate_ends();
    let live = app.live();
    let nodes: Vec<v1::Node> =
        live.proxies().map(|(id, proxy)| node(now_ms, id, proxy, live.is_cordoned(id), &expected)).collect();
    let newest_revision = newest.as_ref().map_or(0, |row| row.revision);
    let mut alarms = Vec::new();
    restored(&live, newest_revision, epoch.0, &mut alarms);
    if let Some(rollout) = &rollout
        && matches!(rollout.state(), v1::RolloutState::Held | v1::RolloutState::RollingBack)
    {
        alarms.push(rollout.doing.clone());
    }
    alarms.extend(waiting.into_iter().map(|revision| {
        let name = Revision(revision);
        format!("{name} waits for signatures or approvals: `sealane revision show {name}` says which")
    }));
    alarms.extend(lacking.iter().map(|lack| {
        let name = lack.revision;
        format!(
            "{lack} that the trust root asks for, so agents that start anew wait: `sealane revision export {name} --out \
             FILE`, `sealane sign FILE --key KEY` where a key is, `sealane revision approve {name} --signature FILE`"
        )
    }));
    if let Some(freeze) = live.frozen(now_ms) {
        let left = duration(freeze.until_ms.saturating_sub(now_ms));
        alarms.push(format!("frozen by {} for another {left}: {}", freeze.id, freeze.reason));
    }
    for (id, agent) in live.agents() {
        if let Some(told) = &agent.local_rollback {
            let why = &told.reason.message;
            alarms.push(format!("agent `{id}` took its proxies back by itself: {why} (`sealane rollout status`)"));
        }
    }
    agents_away(now_ms, &live, &mut alarms);
    for (health, words) in [
        ("drift", "serves something that was not asked for"),
        ("silent", "is silent"),
        ("rejected", "refuses its revision"),
        ("not_ready", "is not ready"),
    ] {
        let ids = nodes.iter().filter(|node| node.health == health).map(|node| &node.id);
        alarms.extend(ids.map(|id| format!("proxy `{id}` {words}: `sealane fleet node {id}` says more")));
    }
    for (proxy, owner, other) in live.claims() {
        alarms.push(format!("proxy `{proxy}` belongs to agent `{owner}` and is also reported by agent `{other}`"));
    }
    refusals(&live, &mut alarms);
    alarms.truncate(ALARMS_MAX);
    Ok(v1::GetFleetResponse {
        fleet_id: app.signer.fleet().0.clone(),
        epoch: epoch.0,
        revision_newest: newest_revision,
        revision_last_good: shown.stable.map_or(0, |stable| stable.revision),
        agents: live.agents().map(|(id, one)| agent(id, one, &live, ends.get(&id.0).copied())).collect(),
        nodes,
        rollout,
        alarms,
        last_rollout,
    })
}

/// The newest rollout that ended, also one that ended before this process began.
async fn last_rollout(app: &App) -> Result<Option<v1::Rollout>, StoreError> {
    let Some(revision) = app.store.newest_ended().await? else { return Ok(None) };
    match app.board.rollout(revision) {
        Some(rollout) => Ok(Some((*rollout).clone())),
        None => memory::stored_view(&app.store, &app.signer, revision).await,
    }
}

/// The releases that a node may serve without drifting.
pub(crate) struct Expected {
    stable: Option<Digest>,
    candidate: Option<Digest>,
}

impl Expected {
    pub(crate) async fn of(app: &App) -> Result<Self, StoreError> {
        let candidate = match app.board.current() {
            Some(revision) => app.store.release(revision).await?.map(|row| row.digest),
            None => None,
        };
        Ok(Self { stable: app.board.stable().map(|stable| stable.digest), candidate })
    }
}

/// A node as operators see it.
pub(crate) fn node(now_ms: u64, id: &ProxyId, proxy: &Proxy, cordoned: bool, expected: &Expected) -> v1::Node {
    let is_expected = proxy.active.is_none() || [expected.stable, expected.candidate].contains(&proxy.active);
    let has_settled = now_ms.saturating_sub(proxy.active_since_ms) > DRIFT_MS;
    let health = if proxy.silent_ms(now_ms) > NODE_SILENT_MS {
        "silent"
    } else if proxy.draining {
        "draining"
    } else if proxy.refused.is_some() && [expected.stable, expected.candidate].contains(&proxy.refused) {
        "rejected"
    } else if !proxy.ready {
        "not_ready"
    } else if !is_expected && has_settled {
        "drift"
    } else {
        "healthy"
    };
    v1::Node {
        id: id.0.clone(),
        agent: proxy.agent.0.clone(),
        region: proxy.region.clone(),
        build: proxy.build.clone(),
        revision: proxy.active_revision,
        prepared: proxy.prepared_revision,
        last_good: proxy.last_good_revision,
        health: health.to_owned(),
        heard_at: time(proxy.heard_ms),
        cordoned,
        problems: proxy.problems.clone(),
        data_address: proxy.data_address.clone(),
        requests: proxy.requests,
        failed: proxy.failed,
        refused_bundles: proxy.refused_bundles,
        refused: proxy.refusals.clone(),
    }
}

fn agent(id: &AgentId, agent: &Agent, live: &Live, expires_ms: Option<u64>) -> v1::Agent {
    v1::Agent {
        id: id.0.clone(),
        region: agent.region.clone(),
        build: agent.build.clone(),
        connected: agent.connected,
        heard_at: time(agent.heard_ms),
        proxies: u32::try_from(live.owned_by(id)).unwrap_or(u32::MAX),
        revision_floor: agent.revision_floor.0,
        refused_bundles: agent.refused.values().fold(0, |sum, count| sum.saturating_add(*count)),
        alarm: agent.alarm.clone(),
        certificate_expires_at: expires_ms.and_then(time),
    }
}

fn restored(live: &Live, newest: u64, epoch: u32, alarms: &mut Vec<String>) {
    for (id, agent) in live.agents() {
        if (agent.epoch.0, agent.revision_floor.0) > (epoch, newest) {
            alarms.push(format!(
                "agent `{id}` has seen {} of epoch {}, which this database does not know: it was restored from a backup, \
                 and nothing can be published until `sealane authority recover --raise-epoch`",
                Revision(agent.revision_floor.0),
                agent.epoch
            ));
        }
    }
}

fn agents_away(now_ms: u64, live: &Live, alarms: &mut Vec<String>) {
    for (id, agent) in live.agents() {
        let silent_ms = now_ms.saturating_sub(agent.heard_ms);
        if silent_ms > AGENT_SILENT_MS {
            alarms.push(format!(
                "agent `{id}` is silent for {}: look at its machine and its network; its proxies serve on",
                duration(silent_ms)
            ));
        } else if !agent.connected {
            alarms.push(format!(
                "agent `{id}` has no subscription open: look at its log and its network; its proxies serve on"
            ));
        }
    }
}

fn refusals(live: &Live, alarms: &mut Vec<String>) {
    for (id, agent) in live.agents() {
        if !agent.alarm.is_empty() {
            alarms.push(format!("agent `{id}`: {}", agent.alarm));
        }
        for (code, count) in agent.refused.iter().filter(|(_, count)| **count > 0) {
            alarms.push(format!(
                "agent `{id}` refused {count} bundles: {code} (`sealane help {code}` says what that is)"
            ));
        }
    }
    for (id, proxy) in live.proxies() {
        for one in proxy.refusals.iter().filter(|one| one.count > 0) {
            let (count, code) = (one.count, &one.code);
            alarms.push(format!(
                "proxy `{id}` refused {count} bundles: {code} (`sealane help {code}` says what that is)"
            ));
        }
    }
}
