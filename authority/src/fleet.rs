//! What the agents said last: the live view of the fleet. In memory only; after a restart the reports fill it again.
//!
//! Pure: time comes in as `now_ms`. It does not know rollouts; the rollout machine reads it. It is bounded: so many
//! agents, so many proxies, and what was silent for long is forgotten.

use std::collections::{BTreeMap, BTreeSet};

use sealane_model::gate::Counts;
use sealane_model::ids::{AgentId, Digest, Epoch, ProxyId, Revision};
use sealane_model::latency::BUCKETS;
use sealane_proto::v1;
use thiserror::Error;

use crate::rollout::event::Reason;
use crate::rollout::history::History;
use crate::slim::Slim;

/// Agents that are known at a time.
pub(crate) const AGENTS_MAX: usize = 10_000;
/// Proxies that are known at a time.
pub(crate) const PROXIES_MAX: usize = 100_000;
/// Proxies in one report.
pub(crate) const PROXIES_PER_AGENT_MAX: usize = 10_000;
/// Problems kept of one proxy.
const PROBLEMS_MAX: usize = 20;
/// Revisions of which one proxy's counts are kept, as the report says.
const COUNTS_MAX: usize = 8;
/// Codes of refused bundles kept of one agent.
const REFUSED_CODES_MAX: usize = 32;
/// Longest text taken from a report, in bytes.
const TEXT_MAX: usize = 1_000;
/// A second process with a live agent's id is refused while the first was heard within this.
const AGENT_ALIVE_MS: u64 = 10_000;
/// A proxy goes over to another agent when its first one has not reported it for this long.
const OWNER_ALIVE_MS: u64 = 30_000;
/// An agent or proxy that is silent for this long is forgotten.
const FORGET_MS: u64 = 3_600_000;
/// An agent that is silent for this long raises an alarm.
pub(crate) const AGENT_SILENT_MS: u64 = 30_000;
/// Two agents that claim one proxy raise an alarm for this long after the newest claim.
const CLAIM_SHOWN_MS: u64 = 60_000;

/// The live view.
#[derive(Clone, Debug, Default)]
pub(crate) struct Live {
    agents: BTreeMap<AgentId, Agent>,
    proxies: BTreeMap<ProxyId, Proxy>,
    /// The same by agent: a report costs what it says, not what the fleet is.
    owned: BTreeMap<AgentId, BTreeSet<ProxyId>>,
    /// Subscriptions that were opened.
    subscriptions: u64,
    /// Claims that were turned down: proxy → (owner, other, when).
    claims: BTreeMap<ProxyId, (AgentId, AgentId, u64)>,
    /// Kept out of every stage but the last.
    cordoned: BTreeSet<ProxyId>,
    /// Proxies whose certificates were taken back and that did not enrol anew: they leave once their agent lets go of them.
    sent_away: BTreeSet<ProxyId>,
    /// When nothing widens.
    freezes: Vec<Freeze>,
}

/// A time in which no change widens. Roll backs do not ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Freeze {
    /// Such as `f3`.
    pub(crate) id: String,
    /// Unix milliseconds; from inclusive, until exclusive.
    pub(crate) from_ms: u64,
    pub(crate) until_ms: u64,
    pub(crate) reason: String,
    pub(crate) actor: String,
    pub(crate) created_ms: u64,
}

/// An agent, as heard last.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    pub(crate) region: String,
    pub(crate) build: String,
    pub(crate) instance: String,
    /// Its subscription is open.
    pub(crate) connected: bool,
    /// The number of its newest subscription.
    subscription: u64,
    pub(crate) heard_ms: u64,
    /// Of the desired state that it has taken in.
    pub(crate) state_version: u64,
    pub(crate) epoch: Epoch,
    pub(crate) revision_floor: Revision,
    /// By error code, since its process started.
    pub(crate) refused: BTreeMap<String, u64>,
    pub(crate) alarm: String,
    pub(crate) local_rollback: Option<LocalRollback>,
}

/// An agent took its proxies back by itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LocalRollback {
    pub(crate) digest: Digest,
    pub(crate) reason: Reason,
}

/// A proxy, as its agent heard it last.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    pub(crate) agent: AgentId,
    pub(crate) region: String,
    pub(crate) build: String,
    pub(crate) instance: String,
    /// When its agent reported it last.
    pub(crate) reported_ms: u64,
    /// When its agent heard from it last.
    pub(crate) heard_ms: u64,
    /// Its stream to its agent is open.
    pub(crate) attached: bool,
    pub(crate) ready: bool,
    pub(crate) draining: bool,
    pub(crate) active: Option<Digest>,
    pub(crate) active_revision: u64,
    /// When `active` became what it is.
    pub(crate) active_since_ms: u64,
    pub(crate) prepared: Option<Digest>,
    pub(crate) prepared_revision: u64,
    pub(crate) last_good_revision: u64,
    pub(crate) refused: Option<Digest>,
    pub(crate) problems: Vec<v1::Problem>,
    /// The release that it started from disk once more, and why that did not work; empty: it did.
    pub(crate) rehearsed: Option<Digest>,
    pub(crate) rehearsal_problem: String,
    pub(crate) deaths: u32,
    pub(crate) counts: Vec<(Digest, Slim)>,
    /// What it counted in the last hour, whatever it ran.
    pub(crate) history: History,
    /// Over all revisions, since its process started.
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) data_address: String,
    pub(crate) refused_bundles: u64,
    /// The same by error code.
    pub(crate) refusals: Vec<v1::RefusedCount>,
}

/// Why a subscription or a report was refused. Nothing was changed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum LiveError {
    #[error("another live agent has the id `{id}`; it was heard {heard_s} s ago")]
    AgentIdTaken { id: AgentId, heard_s: u64 },
    #[error("{count} {what}, more than the {max} allowed")]
    TooMany { what: &'static str, count: usize, max: usize },
    #[error("`{field}` is missing or not a valid name: 1 to 128 of A-Z a-z 0-9 . _ : -")]
    BadName { field: &'static str },
}

impl Live {
    /// An agent opened its subscription, which gets a number.
    pub(crate) fn connect(&mut self, now_ms: u64, hello: &v1::SubscribeRequest) -> Result<u64, LiveError> {
        let id = AgentId(name("agent_id", &hello.agent_id)?);
        name("region", &hello.region)?;
        name("instance", &hello.instance)?;
        let subscription = self.subscriptions + 1;
        let agent = self.admit(now_ms, &id, &hello.instance)?;
        agent.subscription = subscription;
        agent.region.clone_from(&hello.region);
        agent.build = text(&hello.build);
        agent.connected = true;
        agent.heard_ms = now_ms;
        agent.epoch = Epoch(hello.epoch);
        agent.revision_floor = Revision(hello.revision_floor);
        for owned in self.owned.get(&id).into_iter().flatten() {
            if let Some(proxy) = self.proxies.get_mut(owned) {
                proxy.region.clone_from(&hello.region);
            }
        }
        self.subscriptions = subscription;
        Ok(subscription)
    }

    /// A subscription ended. One that the agent has replaced meanwhile says nothing.
    pub(crate) fn disconnect(&mut self, id: &AgentId, subscription: u64) {
        if let Some(agent) = self.agents.get_mut(id)
            && agent.subscription == subscription
        {
            agent.connected = false;
        }
    }

    /// Takes a report in. `region` is where the agent's token or certificate puts it; `None` in development, where only
    /// its hello says so.
    pub(crate) fn hear(
        &mut self,
        now_ms: u64,
        report: &v1::ReportRequest,
        region: Option<&str>,
    ) -> Result<(), LiveError> {
        let id = AgentId(name("agent_id", &report.agent_id)?);
        name("instance", &report.instance)?;
        let count = report.proxies.len();
        if count > PROXIES_PER_AGENT_MAX {
            return Err(LiveError::TooMany { what: "proxies in a report", count, max: PROXIES_PER_AGENT_MAX });
        }
        for proxy in &report.proxies {
            name("proxy_id", &proxy.proxy_id)?;
        }
        if count + self.proxies.len() > PROXIES_MAX {
            let new =
                report.proxies.iter().filter(|proxy| !self.proxies.contains_key(&ProxyId(proxy.proxy_id.clone())));
            let count = self.proxies.len() + new.count();
            if count > PROXIES_MAX {
                return Err(LiveError::TooMany { what: "proxies in the fleet", count, max: PROXIES_MAX });
            }
        }
        let agent = self.admit(now_ms, &id, &report.instance)?;
        if let Some(region) = region {
            region.clone_into(&mut agent.region);
        }
        agent.heard_ms = now_ms;
        agent.state_version = report.state_version;
        agent.epoch = Epoch(report.epoch);
        agent.revision_floor = Revision(report.revision_floor);
        agent.refused = report.refused.iter().take(REFUSED_CODES_MAX).map(|one| (text(&one.code), one.count)).collect();
        agent.alarm = text(&report.alarm);
        agent.local_rollback = report.local_rollback.as_ref().and_then(local_rollback);
        let region = agent.region.clone();

        let reported: BTreeSet<&str> = report.proxies.iter().map(|proxy| proxy.proxy_id.as_str()).collect();
        // One that said goodbye and is gone has left; one that is just missing may come back, and is silent until then.
        let owned = self.owned.entry(id.clone()).or_default();
        owned.retain(|known| {
            let may_come_back = |one: &Proxy| !one.draining && !self.sent_away.contains(known);
            let stays = reported.contains(known.0.as_str()) || self.proxies.get(known).is_some_and(may_come_back);
            if !stays {
                self.proxies.remove(known);
            }
            stays
        });
        for status in &report.proxies {
            let proxy_id = ProxyId(status.proxy_id.clone());
            if let Some(known) = self.proxies.get(&proxy_id)
                && known.agent != id
                && now_ms.saturating_sub(known.reported_ms) < OWNER_ALIVE_MS
            {
                self.claims.insert(proxy_id, (known.agent.clone(), id.clone(), now_ms));
                continue;
            }
            let before = self.proxies.remove(&proxy_id);
            if before.as_ref().is_none_or(|before| before.agent != id) {
                if let Some(others) = before.as_ref().and_then(|before| self.owned.get_mut(&before.agent)) {
                    others.remove(&proxy_id);
                }
                self.owned.entry(id.clone()).or_default().insert(proxy_id.clone());
            }
            self.proxies.insert(proxy_id, proxy(now_ms, &id, &region, status, before));
        }
        Ok(())
    }

    fn admit(&mut self, now_ms: u64, id: &AgentId, instance: &str) -> Result<&mut Agent, LiveError> {
        if let Some(known) = self.agents.get(id)
            && known.instance != instance
        {
            let silent_ms = now_ms.saturating_sub(known.heard_ms);
            if known.connected && silent_ms < AGENT_ALIVE_MS {
                return Err(LiveError::AgentIdTaken { id: id.clone(), heard_s: silent_ms / 1000 });
            }
        } else if !self.agents.contains_key(id) && self.agents.len() >= AGENTS_MAX {
            return Err(LiveError::TooMany { what: "agents", count: AGENTS_MAX + 1, max: AGENTS_MAX });
        }
        let agent = self.agents.entry(id.clone()).or_insert_with(|| Agent {
            region: String::new(),
            build: String::new(),
            instance: instance.to_owned(),
            connected: false,
            subscription: 0,
            heard_ms: now_ms,
            state_version: 0,
            epoch: Epoch(0),
            revision_floor: Revision(0),
            refused: BTreeMap::new(),
            alarm: String::new(),
            local_rollback: None,
        });
        if agent.instance != instance {
            instance.clone_into(&mut agent.instance);
            agent.connected = false;
            agent.state_version = 0;
            agent.local_rollback = None;
        }
        Ok(agent)
    }

    /// Forgets who was silent for long. Gives how many were forgotten.
    pub(crate) fn forget(&mut self, now_ms: u64) -> usize {
        let before = self.agents.len() + self.proxies.len();
        let recent = |at_ms: u64| now_ms.saturating_sub(at_ms) < FORGET_MS;
        self.proxies.retain(|_, proxy| recent(proxy.heard_ms));
        self.agents.retain(|_, agent| agent.connected || recent(agent.heard_ms));
        self.sent_away.retain(|id| self.proxies.contains_key(id));
        self.owned.retain(|_, owned| {
            owned.retain(|id| self.proxies.contains_key(id));
            !owned.is_empty()
        });
        self.claims.retain(|_, (_, _, at_ms)| now_ms.saturating_sub(*at_ms) < CLAIM_SHOWN_MS);
        before - self.agents.len() - self.proxies.len()
    }

    /// A proxy is not waited for once its agent has let go of it.
    pub(crate) fn send_away(&mut self, id: &str) {
        self.sent_away.insert(ProxyId(id.to_owned()));
    }

    /// It enrolled anew.
    pub(crate) fn welcome(&mut self, id: &str) {
        self.sent_away.remove(&ProxyId(id.to_owned()));
    }

    /// Replaces the cordoned proxies.
    pub(crate) fn set_cordoned(&mut self, cordoned: BTreeSet<ProxyId>) {
        self.cordoned = cordoned;
    }

    /// Whether a proxy is kept out of every stage but the last.
    pub(crate) fn is_cordoned(&self, id: &ProxyId) -> bool {
        self.cordoned.contains(id)
    }

    /// Proxies that are kept out of every stage but the last.
    pub(crate) fn cordoned(&self) -> &BTreeSet<ProxyId> {
        &self.cordoned
    }

    /// Replaces the freezes.
    pub(crate) fn set_freezes(&mut self, freezes: Vec<Freeze>) {
        self.freezes = freezes;
    }

    /// The freeze that holds at this time and ends last.
    pub(crate) fn frozen(&self, now_ms: u64) -> Option<&Freeze> {
        let holds = |freeze: &&Freeze| (freeze.from_ms..freeze.until_ms).contains(&now_ms);
        self.freezes.iter().filter(holds).max_by_key(|freeze| freeze.until_ms)
    }

    /// Every agent that is known.
    pub(crate) fn agents(&self) -> impl Iterator<Item = (&AgentId, &Agent)> {
        self.agents.iter()
    }

    /// How many agents are known.
    pub(crate) fn agent_count(&self) -> usize {
        self.agents.len()
    }

    /// How many proxies an agent has.
    pub(crate) fn owned_by(&self, id: &AgentId) -> usize {
        self.owned.get(id).map_or(0, BTreeSet::len)
    }

    /// An agent by id.
    pub(crate) fn agent(&self, id: &AgentId) -> Option<&Agent> {
        self.agents.get(id)
    }

    /// What a process of an agent refused so far, by code; nothing for another process.
    pub(crate) fn refused_by(&self, agent: &str, instance: &str) -> BTreeMap<String, u64> {
        let agent = self.agents.get(&AgentId(agent.to_owned())).filter(|agent| agent.instance == instance);
        agent.map(|agent| agent.refused.clone()).unwrap_or_default()
    }

    /// Every proxy that is known and has not left.
    pub(crate) fn proxies(&self) -> impl Iterator<Item = (&ProxyId, &Proxy)> {
        self.proxies.iter()
    }

    /// A proxy by id.
    pub(crate) fn proxy(&self, id: &ProxyId) -> Option<&Proxy> {
        self.proxies.get(id)
    }

    /// Proxies that two live agents claim: proxy, owner, other.
    pub(crate) fn claims(&self) -> impl Iterator<Item = (&ProxyId, &AgentId, &AgentId)> {
        self.claims.iter().map(|(proxy, (owner, other, _))| (proxy, owner, other))
    }
}

impl Proxy {
    /// Milliseconds since its agent heard from it.
    pub(crate) fn silent_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.heard_ms)
    }

    /// What it counted while it served `release`, since its process started.
    pub(crate) fn counts_of(&self, release: &Digest) -> Option<Counts> {
        self.counts.iter().find(|(digest, _)| digest == release).map(|(_, counts)| counts.into())
    }
}

fn proxy(now_ms: u64, agent: &AgentId, region: &str, status: &v1::ProxyStatus, before: Option<Proxy>) -> Proxy {
    let active = Digest::from_slice(&status.active_digest);
    let active_since_ms = match &before {
        Some(before) if before.active == active => before.active_since_ms,
        _ => now_ms,
    };
    let counts: Vec<(Digest, Counts)> = status.counts.iter().take(COUNTS_MAX).filter_map(counts).collect();
    let instance = text(&status.instance);
    let history = History::next(before.map(|before| (before.instance, before.history)), now_ms, &instance, &counts);
    Proxy {
        agent: agent.clone(),
        region: region.to_owned(),
        build: text(&status.build),
        instance,
        reported_ms: now_ms,
        heard_ms: now_ms.saturating_sub(status.silent_ms),
        attached: status.attached,
        ready: status.ready,
        draining: status.draining,
        active,
        active_revision: status.active_revision,
        active_since_ms,
        prepared: Digest::from_slice(&status.prepared_digest),
        prepared_revision: status.prepared_revision,
        last_good_revision: status.last_good_revision,
        refused: Digest::from_slice(&status.refused_digest),
        problems: status.problems.iter().take(PROBLEMS_MAX).cloned().collect(),
        rehearsed: Digest::from_slice(&status.rehearsed_digest),
        rehearsal_problem: text(&status.rehearsal_problem),
        deaths: status.deaths,
        counts: counts.iter().map(|(digest, counts)| (*digest, counts.into())).collect(),
        history,
        requests: status.counts.iter().fold(0, |sum, one| sum.saturating_add(one.requests)),
        failed: status.counts.iter().fold(0, |sum, one| sum.saturating_add(one.failed)),
        data_address: text(&status.data_address),
        refused_bundles: status.refused_bundles,
        refusals: refusals(&status.refused),
    }
}

fn refusals(told: &[v1::RefusedCount]) -> Vec<v1::RefusedCount> {
    let one = |one: &v1::RefusedCount| v1::RefusedCount { code: text(&one.code), count: one.count };
    told.iter().take(REFUSED_CODES_MAX).map(one).collect()
}

fn counts(counts: &v1::RevisionCounts) -> Option<(Digest, Counts)> {
    let digest = Digest::from_slice(&counts.release_digest)?;
    let mut latency = Vec::new();
    for (bucket, count) in counts.latency_bucket.iter().zip(&counts.latency_count) {
        let bucket = *bucket as usize;
        if bucket < BUCKETS {
            latency.resize(BUCKETS, 0);
            latency[bucket] = *count;
        }
    }
    let counts = Counts {
        requests: counts.requests,
        failed: counts.failed,
        refused: counts.refused,
        connect_failures: counts.connect_failures,
        latency,
    };
    Some((digest, counts))
}

fn local_rollback(told: &v1::LocalRollback) -> Option<LocalRollback> {
    let reason = told.reason.clone().unwrap_or_default();
    Some(LocalRollback {
        digest: Digest::from_slice(&told.release_digest)?,
        reason: Reason {
            gate: if reason.gate.is_empty() { "local_rollback".to_owned() } else { text(&reason.gate) },
            value: reason.value,
            limit: reason.limit,
            sample: reason.sample,
            stage: text(&reason.stage),
            nodes: reason.nodes.iter().take(PROBLEMS_MAX).map(|node| text(node)).collect(),
            message: text(&reason.message),
        },
    })
}

/// A name as agents and proxies have them: short, and safe in a log line, a label and a certificate.
fn name(field: &'static str, given: &str) -> Result<String, LiveError> {
    if is_name(given) { Ok(given.to_owned()) } else { Err(LiveError::BadName { field }) }
}

/// Whether this can name an agent, a proxy, a region or an instance.
pub(crate) fn is_name(given: &str) -> bool {
    (1..=128).contains(&given.len())
        && given.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte))
}

/// What an agent wrote, cut to a length and freed of control characters.
fn text(given: &str) -> String {
    let mut out = String::new();
    for letter in given.chars() {
        if out.len() + letter.len_utf8() > TEXT_MAX {
            break;
        }
        out.push(if letter.is_control() { ' ' } else { letter });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(agent: &str, instance: &str, proxies: &[&str]) -> v1::ReportRequest {
        v1::ReportRequest {
            agent_id: agent.into(),
            instance: instance.into(),
            proxies: proxies
                .iter()
                .map(|id| v1::ProxyStatus { proxy_id: (*id).into(), instance: "p".into(), ..Default::default() })
                .collect(),
            ..Default::default()
        }
    }

    fn hello(agent: &str, instance: &str) -> v1::SubscribeRequest {
        v1::SubscribeRequest {
            agent_id: agent.into(),
            region: "eu".into(),
            instance: instance.into(),
            ..Default::default()
        }
    }

    #[test]
    fn two_live_agents_with_one_id_are_refused() {
        let mut live = Live::default();
        live.connect(0, &hello("a", "one")).unwrap();
        let refused = LiveError::AgentIdTaken { id: AgentId("a".into()), heard_s: 5 };
        assert_eq!(live.connect(5_000, &hello("a", "two")), Err(refused.clone()));
        assert_eq!(live.hear(5_000, &report("a", "two", &[]), None), Err(refused));
        let two = live.connect(15_000, &hello("a", "two")).unwrap();
        live.disconnect(&AgentId("a".into()), two);
        live.connect(15_001, &hello("a", "three")).unwrap();
    }

    #[test]
    fn the_end_of_a_subscription_that_was_replaced_says_nothing() {
        let mut live = Live::default();
        let id = AgentId("a".into());
        let first = live.connect(0, &hello("a", "one")).unwrap();
        let second = live.connect(1, &hello("a", "one")).unwrap();
        live.disconnect(&id, first);
        assert!(live.agent(&id).unwrap().connected);
        live.disconnect(&id, second);
        assert!(!live.agent(&id).unwrap().connected);
    }

    #[test]
    fn a_proxy_has_one_owner_until_that_one_is_silent() {
        let mut live = Live::default();
        live.hear(0, &report("a", "one", &["p"]), None).unwrap();
        live.hear(1_000, &report("b", "one", &["p"]), None).unwrap();
        assert_eq!(live.proxy(&ProxyId("p".into())).unwrap().agent.0, "a");
        assert_eq!(live.claims().count(), 1);
        live.hear(40_000, &report("b", "one", &["p"]), None).unwrap();
        assert_eq!(live.proxy(&ProxyId("p".into())).unwrap().agent.0, "b");
    }

    #[test]
    fn a_proxy_that_said_goodbye_leaves_and_one_that_is_missing_stays() {
        let mut live = Live::default();
        let mut first = report("a", "one", &["leaves", "vanishes"]);
        first.proxies[0].draining = true;
        live.hear(0, &first, None).unwrap();
        live.hear(1_000, &report("a", "one", &[]), None).unwrap();
        assert_eq!(live.proxies().map(|(id, _)| id.0.as_str()).collect::<Vec<_>>(), ["vanishes"]);
        live.forget(FORGET_MS);
        assert_eq!(live.proxies().count(), 0);
    }

    #[test]
    fn what_an_agent_owns_is_what_it_reports_whatever_proxies_do() {
        let mut live = Live::default();
        let owns = |live: &Live, id: &str| live.owned_by(&AgentId(id.into()));
        live.hear(0, &report("a", "one", &["p", "q"]), None).unwrap();
        live.hear(0, &report("b", "one", &["r"]), None).unwrap();
        assert_eq!((owns(&live, "a"), owns(&live, "b")), (2, 1));
        live.hear(OWNER_ALIVE_MS, &report("b", "one", &["q", "r"]), None).unwrap();
        assert_eq!((owns(&live, "a"), owns(&live, "b")), (1, 2));
        let mut leaving = report("b", "one", &["q", "r"]);
        leaving.proxies[1].draining = true;
        live.hear(OWNER_ALIVE_MS + 1, &leaving, None).unwrap();
        live.hear(OWNER_ALIVE_MS + 2, &report("b", "one", &["q"]), None).unwrap();
        assert_eq!((owns(&live, "a"), owns(&live, "b")), (1, 1));
        live.forget(OWNER_ALIVE_MS + FORGET_MS);
        assert_eq!((owns(&live, "a"), owns(&live, "b"), live.proxies().count()), (0, 1, 1));
    }

    #[test]
    fn refuses_names_that_could_break_a_log_line_or_a_certificate() {
        for bad in ["", "a b", "a\n", "ä", "a/b", &"x".repeat(129)] {
            assert!(!is_name(bad), "{bad:?}");
        }
        assert!(is_name("edge-1.example.com:8080"));
    }
}
