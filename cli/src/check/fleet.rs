//! What `sealane check` says of a fleet: each thing that is not as it should be, once, with what to type.
//!
//! It judges what the authority knows; it asks no node. The order is that of somebody who was called: who is away, what is
//! served, what waits for a person, what will be trouble soon.

use std::collections::BTreeMap;

use sealane_proto::v1;

use super::{CheckArgs, Findings};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;
use crate::{clock, duration, words};

/// A certificate or token that ends within this is spoken of.
const SOON_SECONDS: i64 = 7 * 24 * 60 * 60;
/// Nodes of one kind that are told one by one.
const NODES_MAX: usize = 20;

pub(super) async fn check(args: &CheckArgs, printer: &Printer, found: &mut Findings) {
    let server = match args.client.connect(printer).await {
        Ok(server) => server,
        Err(failure) => return away(args, &failure, found),
    };
    let fleet = match server.call(server.fleet().get_fleet(v1::GetFleetRequest {})).await {
        Ok(fleet) => fleet,
        Err(failure) => return away(args, &failure, found),
    };
    judge(&fleet, clock::now().as_second(), found);
    match server.call(server.trust().get_trust(v1::GetTrustRequest {})).await {
        Ok(trust) => judge_trust(&trust, found),
        Err(failure) => found.warning("trust", failure.sentence().unwrap_or_default(), "sealane key show"),
    }
    // Only an admin's token may see tokens; whoever has another one is told nothing of them.
    if let Ok(tokens) = server.raw(server.fleet().list_tokens(v1::ListTokensRequest {})).await {
        judge_tokens(&tokens.tokens, clock::now().as_second(), found);
    }
}

fn away(args: &CheckArgs, failure: &Failure, found: &mut Findings) {
    let is_default = args.client.server.is_none() && args.client.client.is_none();
    if failure.exit == Exit::Unreachable && is_default {
        found.ok("authority", "none at the default address, so no fleet was looked at (`--server URL`)");
        return;
    }
    let next = match failure.exit {
        Exit::NotAllowed => {
            "a token ends, is revoked, or is of another fleet: on the authority's machine `sealane token create --role \
             viewer --client DIR/client.yaml` makes one; pass it with --token-file FILE"
        }
        Exit::Unreachable => {
            "on its machine: `systemctl status sealane-authority`, `journalctl -u sealane-authority -n 50`; agents and \
             proxies serve on meanwhile (docs/runbooks/authority-away.md)"
        }
        _ => failure.next_step().unwrap_or("`sealane authority` starts one, `--server URL` names another"),
    };
    found.bad("authority", failure.sentence().unwrap_or_default(), next);
}

/// Everything that the page of the fleet says.
pub(super) fn judge(fleet: &v1::GetFleetResponse, now: i64, found: &mut Findings) {
    let (newest, good) = (words::revision(fleet.revision_newest), words::revision(fleet.revision_last_good));
    found.ok("authority", format!("reachable: {newest} newest, {good} last good"));
    judge_agents(fleet, now, found);
    judge_nodes(fleet, found);
    judge_rollout(fleet, found);
    let doing = fleet.rollout.as_ref().map(|rollout| &rollout.doing);
    for alarm in fleet.alarms.iter().filter(|alarm| Some(*alarm) != doing) {
        if let Some(next) = next_of_alarm(alarm) {
            found.bad("alarm", alarm, next);
        }
    }
}

fn judge_agents(fleet: &v1::GetFleetResponse, now: i64, found: &mut Findings) {
    if fleet.agents.is_empty() {
        let next = "make a token, `sealane token create --role agent --region REGION > agent.token`, then on a machine: \
                    `sealane agent --authority URL --region REGION --trust trust.json --token-file agent.token --data DIR`";
        found.warning("agents", "none has ever reported", next);
        return;
    }
    let connected = fleet.agents.iter().filter(|agent| agent.connected).count();
    if connected == fleet.agents.len() {
        found.ok("agents", format!("all {connected} connected"));
    }
    for agent in fleet.agents.iter().filter(|agent| !agent.connected) {
        let since = duration::ago(agent.heard_at.as_ref(), clock::now());
        let message = format!(
            "{} ({}, {}) is away, heard {since}: its proxies serve on, no change reaches them",
            agent.id,
            agent.region,
            words::proxies(agent.proxies)
        );
        let next = "on its machine: `systemctl status sealane-agent`, `journalctl -u sealane-agent -n 50` says why it cannot \
                    reach the authority (docs/runbooks/agent-partition.md)";
        found.bad("agents", message, next);
    }
    for agent in &fleet.agents {
        let Some(end) = agent.certificate_expires_at.as_ref().map(|end| end.seconds) else { continue };
        let next = format!(
            "it renews by itself while it reaches the authority: `journalctl -u sealane-agent | grep certificate` on its \
             machine; with `sealane token create --role agent --region {}` it enrols anew (docs/runbooks/certificate-expiry.md)",
            agent.region
        );
        if end <= now {
            found.bad("certificates", format!("the certificate of agent {} has expired", agent.id), next);
        } else if end - now < SOON_SECONDS {
            let left = duration::show(std::time::Duration::from_secs((end - now).unsigned_abs()));
            found.warning("certificates", format!("the certificate of agent {} expires in {left}", agent.id), next);
        }
    }
}

fn judge_nodes(fleet: &v1::GetFleetResponse, found: &mut Findings) {
    let sick: Vec<&v1::Node> = fleet.nodes.iter().filter(|node| node.health != "healthy").collect();
    if !fleet.nodes.is_empty() && sick.is_empty() {
        found.ok("proxies", format!("all {} healthy", fleet.nodes.len()));
    }
    for node in sick.iter().take(NODES_MAX) {
        let id = &node.id;
        let served = words::revision(node.revision);
        let (message, next) = match node.health.as_str() {
            "silent" => (
                format!("{id} is detached, heard {}: it serves {served} on", duration::ago(node.heard_at.as_ref(), clock::now())),
                format!(
                    "on its machine: `curl -s http://127.0.0.1:9090/ready`, `systemctl status sealane-proxy sealane-agent` \
                     (docs/runbooks/proxy-detached.md); is agent {} away, mend that first",
                    node.agent
                ),
            ),
            "drift" if node.revision == 0 => (
                format!("{id} drifts: it serves a config that somebody applied on its admin address"),
                "`curl -s http://127.0.0.1:9090/api/v2/config/current` on its machine shows it; the next publish ends it, or \
                 `systemctl restart sealane-proxy`"
                    .to_owned(),
            ),
            "drift" => (
                format!("{id} drifts: it serves {served}, which it was not told to"),
                format!("`sealane fleet node {id}` says why; mend the file, port or disk that it names (docs/runbooks/drift.md)"),
            ),
            "rejected" => {
                let why = node.problems.first().map_or_else(String::new, |problem| format!(": {}", problem.message));
                (
                    format!("{id} refuses a revision, which is in quarantine there; it serves {served} on{why}"),
                    format!(
                        "`sealane fleet node {id}` lists the problems with their lines; mend that machine and `sealane rollout \
                         retry`, or mend the config and publish again"
                    ),
                )
            }
            "not_ready" => (
                format!("{id} is not ready: load balancers leave it out"),
                "on its machine: `curl -s http://127.0.0.1:9090/ready` says why; `sealane drain --dry-run` whether it drains"
                    .to_owned(),
            ),
            "draining" => (
                format!("{id} is draining"),
                "nothing, if it is meant to stop; else start the process again".to_owned(),
            ),
            other => (format!("{id} is {}", other.replace('_', " ")), format!("sealane fleet node {id}")),
        };
        if node.health == "draining" {
            found.warning("proxies", message, next);
        } else {
            found.bad("proxies", message, next);
        }
    }
    if sick.len() > NODES_MAX {
        found.bad("proxies", format!("{} more are not healthy", sick.len() - NODES_MAX), "sealane fleet nodes");
    }
    for node in fleet.nodes.iter().filter(|node| node.problems.iter().any(|problem| problem.code == "config_pressure"))
    {
        let next = "long requests hold old configs: wait, or close them; `--max-retired N` on the proxy allows more";
        found.warning("proxies", format!("{} waits with its next config until old ones are let go", node.id), next);
    }
}

fn judge_rollout(fleet: &v1::GetFleetResponse, found: &mut Findings) {
    let mut served: BTreeMap<u64, u32> = BTreeMap::new();
    for node in &fleet.nodes {
        *served.entry(node.revision).or_default() += 1;
    }
    let parts: Vec<String> =
        served.iter().map(|(r, count)| format!("{} on {}", words::proxies(*count), words::revision(*r))).collect();
    match (served.len(), &fleet.rollout) {
        (0, _) => {}
        (1, _) => found.ok("revisions", parts.join(", ")),
        (_, Some(_)) => found.ok("revisions", format!("{}: a rollout is under way", parts.join(", "))),
        (_, None) => {
            let next = "`sealane fleet nodes` says which; `sealane rollout status` why";
            found.warning("revisions", parts.join(", "), next);
        }
    }
    let Some(rollout) = &fleet.rollout else { return };
    let name = words::revision(rollout.revision);
    match rollout.state() {
        v1::RolloutState::Held => {
            let why = rollout.reason.as_ref().map_or(rollout.doing.as_str(), |reason| reason.message.as_str());
            let next = format!(
                "`sealane rollout explain {name}` shows the evidence; then `sealane rollout promote` to go on, or `sealane \
                 rollout abort` to go back (docs/runbooks/rollout-held.md)"
            );
            found.bad("rollout", format!("{name} is held: {why}"), next);
        }
        v1::RolloutState::Paused => {
            let next = "`sealane rollout resume` to go on, `sealane rollout abort` to go back";
            found.warning("rollout", format!("{name} is paused by a person"), next);
        }
        v1::RolloutState::RollingBack => {
            let next = format!("`sealane rollout watch {name}` follows it; `sealane rollout explain {name}` says why");
            found.bad("rollout", format!("{name} is rolling back: {}", rollout.doing), next);
        }
        _ => found.ok("rollout", format!("{name}: {}", rollout.doing)),
    }
}

/// What to type for an alarm; `None`: it was said in other words already.
fn next_of_alarm(alarm: &str) -> Option<String> {
    let quoted = |at: usize| alarm.split('`').nth(at).unwrap_or_default().to_owned();
    let has = |words: &str| alarm.contains(words);
    let said_already = [
        "has no subscription open",
        "is silent",
        "serves something that was not asked for",
        "refuses its revision",
        "is not ready",
    ];
    if said_already.iter().any(|words| alarm.ends_with(words)) || (alarm.starts_with("agent `") && has("is silent for"))
    {
        return None;
    }
    Some(if has("waits for signatures or approvals") {
        let name = alarm.split(' ').next().unwrap_or_default();
        format!(
            "`sealane revision show {name}` says what is missing; `sealane revision approve {name}` gives your word"
        )
    } else if alarm.starts_with("frozen by ") {
        let id = alarm.split(' ').nth(2).unwrap_or_default();
        format!("wait, or `sealane freeze rm {id}`; a roll back is not held up")
    } else if has("took its proxies back by itself") {
        "`sealane rollout status` says of what; publish a mended config (docs/runbooks/rolled-back.md)".to_owned()
    } else if has("restored from a backup") {
        "on the authority's machine: `sealane authority recover --raise-epoch` (docs/how-to/recover-the-authority.md)"
            .to_owned()
    } else if has("is also reported by agent") {
        format!("two processes are called {}: give one another --id and restart it", quoted(1))
    } else if has("bundles") && alarm.starts_with("proxy `") {
        format!(
            "`sealane fleet node {}` counts them; what they mean: docs/runbooks/verification-failures.md",
            quoted(1)
        )
    } else if alarm.starts_with("agent `") {
        "`journalctl -u sealane-agent -n 50` on its machine; what it means: docs/runbooks/verification-failures.md"
            .to_owned()
    } else {
        "`sealane fleet status`; a rollout's own: `sealane rollout status`".to_owned()
    })
}

/// What this set-up does not protect from is no fault, and is said every time.
fn judge_trust(trust: &v1::GetTrustResponse, found: &mut Findings) {
    if trust.unprotected.is_empty() {
        let (version, keys) = (trust.version, trust.keys.len());
        found.ok("trust", format!("trust root version {version}, {keys} keys; no single key or person is enough"));
    }
    for sentence in &trust.unprotected {
        found.warning("trust", sentence, "sealane key show");
    }
}

/// Tokens that have ended or will soon.
pub(super) fn judge_tokens(tokens: &[v1::Token], now: i64, found: &mut Findings) {
    for token in tokens.iter().filter(|token| !token.revoked) {
        let Some(end) = token.expires_at.as_ref().map(|end| end.seconds) else { continue };
        let for_whom = match (token.role.as_str(), token.comment.as_str()) {
            ("agent", _) => format!("agents of region {}", token.region),
            (role, "") => format!("role {role}"),
            (role, comment) => format!("role {role}, {comment}"),
        };
        let region = if token.role == "agent" { format!(" --region {}", token.region) } else { String::new() };
        let next = format!(
            "`sealane token create --role {}{region}` makes another: write it to the --token-file, which is read again by \
             itself; `sealane token revoke {}` tidies up",
            token.role, token.id
        );
        if end <= now {
            found.warning(
                "tokens",
                format!("{} ({for_whom}) has expired: whoever uses it is not let in", token.id),
                next,
            );
        } else if end - now < SOON_SECONDS {
            let left = duration::show(std::time::Duration::from_secs((end - now).unsigned_abs()));
            found.warning("tokens", format!("{} ({for_whom}) expires in {left}", token.id), next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    const NOW: i64 = 1_000_000_000;

    fn at(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds, nanos: 0 })
    }

    fn node(id: &str, health: &str, revision: u64) -> v1::Node {
        v1::Node { id: id.into(), health: health.into(), revision, agent: "a".into(), ..v1::Node::default() }
    }

    fn told(found: &Findings, words: &str) -> (State, String) {
        let mut those = found.0.iter().filter(|it| it.message.contains(words));
        let one = those.next().unwrap_or_else(|| panic!("{words}: {:#?}", found.0));
        assert!(those.next().is_none(), "{words} is said once: {:#?}", found.0);
        (one.state, one.next.clone())
    }

    #[test]
    fn everything_that_is_not_as_it_should_be_is_said_once_with_what_to_type() {
        let mut rejected = node("n4", "rejected", 1);
        rejected.problems = vec![v1::Problem { message: "cannot read `a.pem`".into(), ..v1::Problem::default() }];
        let fleet = v1::GetFleetResponse {
            revision_newest: 2,
            agents: vec![
                v1::Agent { id: "a".into(), region: "eu".into(), proxies: 4, ..v1::Agent::default() },
                v1::Agent {
                    id: "b".into(),
                    region: "us".into(),
                    connected: true,
                    certificate_expires_at: at(NOW + 3_600),
                    ..v1::Agent::default()
                },
            ],
            nodes: vec![
                node("n1", "healthy", 2),
                node("n2", "silent", 1),
                node("n3", "drift", 1),
                rejected,
                node("n5", "drift", 0),
                node("n6", "not_ready", 2),
            ],
            rollout: Some(v1::Rollout {
                revision: 2,
                state: v1::RolloutState::Held.into(),
                doing: "held: not enough data".into(),
                ..v1::Rollout::default()
            }),
            alarms: vec![
                "held: not enough data".into(),
                "agent `a` has no subscription open".into(),
                "proxy `n3` serves something that was not asked for".into(),
                "frozen by f3 for another 2h: holidays".into(),
            ],
            ..v1::GetFleetResponse::default()
        };
        let mut found = Findings::default();
        judge(&fleet, NOW, &mut found);
        for (words, state, next) in [
            ("a (eu, 4 proxies) is away", State::Bad, "journalctl -u sealane-agent"),
            ("n2 is detached", State::Bad, "curl -s http://127.0.0.1:9090/ready"),
            ("n3 drifts: it serves r1", State::Bad, "sealane fleet node n3"),
            (
                "n4 refuses a revision, which is in quarantine there; it serves r1 on: cannot read `a.pem`",
                State::Bad,
                "rollout retry",
            ),
            ("n5 drifts: it serves a config that somebody applied", State::Bad, "systemctl restart sealane-proxy"),
            ("n6 is not ready", State::Bad, "sealane drain --dry-run"),
            ("the certificate of agent b expires in 1h", State::Warning, "renews by itself"),
            ("r2 is held", State::Bad, "sealane rollout explain r2"),
            ("frozen by f3", State::Bad, "sealane freeze rm f3"),
        ] {
            let (its_state, its_next) = told(&found, words);
            assert_eq!(its_state, state, "{words}");
            assert!(its_next.contains(next), "{words}: {its_next}");
        }
        assert!(found.0.iter().all(|it| it.state == State::Ok || !it.next.is_empty()), "each says what to type");
    }

    #[test]
    fn what_a_set_up_does_not_protect_from_is_said_and_is_no_fault() {
        let mut found = Findings::default();
        judge_trust(&v1::GetTrustResponse { unprotected: vec!["one key".into()], ..Default::default() }, &mut found);
        judge_trust(&v1::GetTrustResponse::default(), &mut found);
        let states: Vec<_> = found.0.iter().map(|it| it.state).collect();
        assert_eq!(states, [State::Warning, State::Ok]);
    }

    #[test]
    fn tokens_that_end_are_spoken_of_and_others_are_not() {
        let token = |id: &str, role: &str, end: Option<i64>| v1::Token {
            id: id.into(),
            role: role.into(),
            region: "eu".into(),
            expires_at: end.and_then(at),
            ..v1::Token::default()
        };
        let tokens = [
            token("t-1", "agent", Some(NOW - 1)),
            token("t-2", "viewer", Some(NOW + 60)),
            token("t-3", "admin", None),
            v1::Token { revoked: true, ..token("t-4", "viewer", Some(NOW - 1)) },
        ];
        let mut found = Findings::default();
        judge_tokens(&tokens, NOW, &mut found);
        assert_eq!(found.0.len(), 2, "{:?}", found.0);
        assert!(found.0[0].next.contains("sealane token create --role agent --region eu"), "{}", found.0[0].next);
        assert!(found.0[1].message.contains("expires in 1m"), "{}", found.0[1].message);
    }

    #[test]
    fn a_fleet_that_is_well_gets_no_advice() {
        let fleet = v1::GetFleetResponse {
            agents: vec![v1::Agent { id: "a".into(), connected: true, ..v1::Agent::default() }],
            nodes: vec![node("n1", "healthy", 2)],
            ..v1::GetFleetResponse::default()
        };
        let mut found = Findings::default();
        judge(&fleet, NOW, &mut found);
        assert!(found.0.iter().all(|it| it.state == State::Ok), "{:?}", found.0);
    }
}
