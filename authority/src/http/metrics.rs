//! Prometheus exposition. Label values come from bounded sets, but for error codes that agents report, which are cut to
//! so many.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sealane_proto::v1;

use crate::app::App;
use crate::overview::{self, Expected};
use crate::rollout::view::state_name;
use crate::store::StoreError;

/// Codes of refused bundles that get a series.
const CODES_MAX: usize = 64;

/// The page.
pub(super) async fn page(app: &App) -> Result<String, StoreError> {
    let newest = app.store.newest_release().await?.map_or(0, |row| row.revision);
    let revisions = app.store.revisions().await?;
    let changed_ms = app.store.trust_root_changed_ms().await?;
    let shown = app.board.shown();
    let expected = Expected::of(app).await?;
    let now_ms = app.clock.now_ms();
    let mut nodes: BTreeMap<String, u64> = BTreeMap::new();
    let mut refused: BTreeMap<String, u64> = BTreeMap::new();
    let connected;
    {
        let live = app.live();
        for (id, proxy) in live.proxies() {
            *nodes.entry(overview::node(now_ms, id, proxy, false, &expected).health).or_default() += 1;
        }
        connected = live.agents().filter(|(_, agent)| agent.connected).count();
        for (code, count) in live.agents().flat_map(|(_, agent)| &agent.refused) {
            let code = if refused.len() >= CODES_MAX && !refused.contains_key(code) { "other" } else { code };
            *refused.entry(code.to_owned()).or_default() += count;
        }
    }
    let current = shown.current.and_then(|revision| shown.rollouts.get(&revision)).map(|rollout| rollout.state());
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, help: &str, series: Vec<(String, u64)>| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in series {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    let plain = |value: u64| vec![(String::new(), value)];
    let labelled = |name: &str, values: BTreeMap<String, u64>| {
        values.into_iter().map(|(label, value)| (format!("{{{name}=\"{}\"}}", escape(&label)), value)).collect()
    };
    family("sealane_revision_newest", "gauge", "Newest published revision.", plain(newest));
    let last_good = shown.stable.map_or(0, |stable| stable.revision);
    family("sealane_revision_last_good", "gauge", "Newest revision that finished its rollout.", plain(last_good));
    family("sealane_revisions", "gauge", "Revisions in the database.", plain(revisions));
    family("sealane_agents_connected", "gauge", "Agents with an open subscription.", plain(connected as u64));
    family("sealane_proxies", "gauge", "Proxies by state.", labelled("state", nodes));
    family(
        "sealane_rollout_state",
        "gauge",
        "1 for the state of the rollout under way.",
        states().map(|one| (format!("{{state=\"{}\"}}", state_name(one)), u64::from(current == Some(one)))).collect(),
    );
    let publishes = app.counters.publishes();
    family("sealane_publishes_total", "counter", "Revisions published by this process.", plain(publishes));
    let denials = app.counters.denials();
    family("sealane_policy_denials_total", "counter", "Publishes that a policy forbade.", plain(denials));
    family(
        "sealane_rollbacks_total",
        "counter",
        "Rollouts that went back, by gate.",
        labelled("gate", app.counters.rollbacks()),
    );
    family(
        "sealane_refused_bundles_total",
        "counter",
        "Bundles that agents refused since their start, by code.",
        labelled("code", refused),
    );
    let ends = app.certificate_ends.iter().map(|(name, ends_at_s)| (format!("{{name=\"{name}\"}}"), *ends_at_s));
    let help = "When a certificate of the authority expires: the fleet's CA, and what its addresses show.";
    family("sealane_certificate_expiry_timestamp_seconds", "gauge", help, ends.collect());
    let help = "When the fleet's trust root was made or last changed: the age of its keys.";
    family("sealane_trust_root_timestamp_seconds", "gauge", help, changed_ms.map_or(Vec::new(), |ms| plain(ms / 1000)));
    for (name, help, value) in [
        ("sealane_timestamps_signed_total", "Timestamp documents signed by this process.", app.signer.timestamps()),
        ("sealane_desired_states_made_total", "Desired states put together by this process.", app.telling.made()),
        (
            "sealane_chunks_packed_total",
            "Manifests and chunks packed for agents by this process.",
            app.content.packed(),
        ),
    ] {
        family(name, "counter", help, plain(value));
    }
    Ok(out)
}

/// States that a rollout under way can be in.
fn states() -> impl Iterator<Item = v1::RolloutState> {
    use v1::RolloutState as State;
    [State::Queued, State::Preparing, State::Running, State::FinalBake, State::Held, State::Paused, State::RollingBack]
        .into_iter()
}

fn escape(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
