//! How revisions, states, measures and verdicts read to people. Pure text; nothing is printed here.

use sealane_proto::v1::{ChangeClass, Reason, Rollout, RolloutState};

use crate::exit::{Exit, Failure};
use crate::paint::{Paint, clean};

/// Parses `42` or `r42`.
pub(crate) fn parse_revision(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix('r').unwrap_or(text);
    match digits.parse() {
        Ok(revision) if revision > 0 && digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(revision),
        _ => Err(format!("`{text}` is not a revision such as r42")),
    }
}

/// `r42`; `-` for none.
pub(crate) fn revision(revision: u64) -> String {
    if revision == 0 { "-".into() } else { format!("r{revision}") }
}

/// `rolling back`; `unknown` for a state of a newer authority.
pub(crate) fn state(state: RolloutState) -> String {
    match state {
        RolloutState::Unspecified => "unknown".into(),
        known => known.as_str_name().trim_start_matches("ROLLOUT_STATE_").to_lowercase().replace('_', " "),
    }
}

/// The colour of a state.
pub(crate) fn state_paint(state: RolloutState) -> Paint {
    match state {
        RolloutState::Completed => Paint::Good,
        RolloutState::Held | RolloutState::Paused | RolloutState::Superseded => Paint::Careful,
        RolloutState::RollingBack
        | RolloutState::RolledBack
        | RolloutState::RolledBackPartial
        | RolloutState::Aborted
        | RolloutState::Rejected => Paint::Bad,
        RolloutState::Unspecified
        | RolloutState::Queued
        | RolloutState::Preparing
        | RolloutState::Running
        | RolloutState::FinalBake => Paint::Plain,
    }
}

/// `standard`, `expedited`, `sandbox`, `revert`.
pub(crate) fn class(class: ChangeClass) -> String {
    class.as_str_name().trim_start_matches("CHANGE_CLASS_").to_lowercase()
}

/// Whether this state ends a watch. A held rollout waits for a person: whoever watches must be told.
pub(crate) fn ends_watch(state: RolloutState) -> bool {
    match state {
        RolloutState::Completed
        | RolloutState::Held
        | RolloutState::RolledBack
        | RolloutState::RolledBackPartial
        | RolloutState::Aborted
        | RolloutState::Rejected
        | RolloutState::Superseded => true,
        RolloutState::Unspecified
        | RolloutState::Queued
        | RolloutState::Preparing
        | RolloutState::Running
        | RolloutState::FinalBake
        | RolloutState::Paused
        | RolloutState::RollingBack => false,
    }
}

/// How a command that watched this rollout to its end, exits.
pub(crate) fn exit_of(state: RolloutState) -> Exit {
    match state {
        RolloutState::Completed => Exit::Done,
        RolloutState::Rejected => Exit::Invalid,
        RolloutState::Superseded => Exit::Conflict,
        RolloutState::RolledBack | RolloutState::RolledBackPartial | RolloutState::Aborted => Exit::RolledBack,
        RolloutState::Unspecified
        | RolloutState::Queued
        | RolloutState::Preparing
        | RolloutState::Running
        | RolloutState::FinalBake
        | RolloutState::Held
        | RolloutState::Paused
        | RolloutState::RollingBack => Exit::Unfinished,
    }
}

/// A gate's value in its unit: `3.4%`, `212ms`, `2`.
pub(crate) fn measure(gate: &str, value: f64) -> String {
    if gate.ends_with("_rate") && !gate.contains("burn") {
        return format!("{:.1}%", value * 100.0);
    }
    if gate.ends_with("_latency") {
        return format!("{value:.0}ms");
    }
    if gate == "error_budget_burn_rate" {
        return format!("{}x", short(value));
    }
    short(value)
}

/// `3.4%`
pub(crate) fn share(part: u64, of: u64) -> String {
    format!("{:.1}%", part as f64 / of.max(1) as f64 * 100.0)
}

/// A gate's limit in its unit: `1%`, `500ms`, `0`.
pub(crate) fn limit(gate: &str, value: f64) -> String {
    if gate.ends_with("_rate") && !gate.contains("burn") {
        return format!("{}%", short(value * 100.0));
    }
    measure(gate, value)
}

/// At most two decimals, no trailing zeros.
pub(crate) fn short(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `error_rate 3.4% > 1% at stage half`, or what the authority says in words.
pub(crate) fn reason(reason: &Reason) -> String {
    let measured = reason.sample > 0 || reason.value > reason.limit;
    if !measured && !reason.message.is_empty() {
        return clean(&reason.message);
    }
    // Of a comparison and of a starved cohort the numbers say less than the sentence.
    if (reason.gate.starts_with("compare_") || reason.gate == "starved") && !reason.message.is_empty() {
        return clean(&reason.message);
    }
    let gate = clean(&reason.gate);
    let mut text = match measured {
        true => format!("{gate} {} > {}", measure(&gate, reason.value), limit(&gate, reason.limit)),
        false => gate.replace('_', " "),
    };
    if !reason.stage.is_empty() {
        text.push_str(" at stage ");
        text.push_str(&clean(&reason.stage));
    }
    text
}

/// The one verdict line: the authority's, or, for a state that it has not put in words, ours in the same shape.
pub(crate) fn verdict(rollout: &Rollout) -> String {
    if !rollout.verdict_line.is_empty() {
        return clean(&rollout.verdict_line);
    }
    let name = revision(rollout.revision);
    let back = match rollout.last_good {
        0 => name.clone(),
        last_good => format!("{name} → {}", revision(last_good)),
    };
    let why = rollout.reason.as_ref().map(|why| format!(": {}", reason(why))).unwrap_or_default();
    match rollout.state() {
        RolloutState::RolledBack => format!("ROLLED BACK {back}{why}"),
        RolloutState::RolledBackPartial => format!("ROLLED BACK {back}, not everywhere{why}"),
        RolloutState::Aborted => format!("ABORTED {back}{why}"),
        RolloutState::Held => {
            let held = rollout.reason.clone().unwrap_or_default();
            let stage = if held.stage.is_empty() { clean(&rollout.stage) } else { clean(&held.stage) };
            let place = if stage.is_empty() { String::new() } else { format!(" at stage {stage}") };
            let message = if held.message.is_empty() { reason(&held) } else { clean(&held.message) };
            format!("HELD {name}{place}: {message}")
        }
        other => format!("{} {name}{why}", state(other).to_uppercase()),
    }
}

/// What to type next in this state, if anything.
pub(crate) fn next_step(rollout: &Rollout) -> Option<String> {
    let name = revision(rollout.revision);
    match rollout.state() {
        RolloutState::Held => {
            let by_itself = match rollout.reason.as_ref().map_or("", |reason| reason.gate.as_str()) {
                "silence" | "absent" => "it goes on by itself when they are back; else ",
                "environment" => "it goes on by itself when the other proxies are fine again; else ",
                "not_confirmed" => {
                    "it goes on by itself when they confirm (`sealane fleet nodes` says what they serve); else "
                }
                "deadline" if rollout.reason.as_ref().is_some_and(|reason| !reason.nodes.is_empty()) => {
                    "mend those nodes (`sealane check` says how), then retry; else "
                }
                "no_data" => "let there be traffic, then retry; else ",
                _ => "",
            };
            Some(format!(
                "{by_itself}`sealane rollout promote {name}` goes on, `sealane rollout retry {name}` tries the stage again, \
                 `sealane rollout abort {name}` goes back"
            ))
        }
        RolloutState::Paused => {
            Some(format!("`sealane rollout resume {name}` goes on, `sealane rollout abort {name}` goes back"))
        }
        RolloutState::Rejected => {
            Some("correct the file, check it with `sealane validate FILE`, and publish it again".into())
        }
        RolloutState::RolledBack | RolloutState::Aborted => Some("correct the file and publish it again".into()),
        RolloutState::RolledBackPartial => {
            Some("`sealane fleet nodes` shows which proxies are not back yet; they go back when they return".into())
        }
        RolloutState::Queued | RolloutState::Preparing | RolloutState::Running | RolloutState::FinalBake => {
            Some(format!("`sealane rollout watch {name}` follows it, `sealane rollout abort {name}` goes back"))
        }
        RolloutState::RollingBack => Some(format!("`sealane rollout watch {name}` follows it")),
        RolloutState::Superseded => Some("`sealane rollout status` shows the newer one".into()),
        RolloutState::Completed | RolloutState::Unspecified => None,
    }
}

/// `1 proxy`, `2 proxies`.
pub(crate) fn proxies(count: u32) -> String {
    if count == 1 { "1 proxy".into() } else { format!("{count} proxies") }
}

/// `1 node`, `2 nodes`.
pub(crate) fn nodes(count: u32) -> String {
    if count == 1 { "1 node".into() } else { format!("{count} nodes") }
}

/// A fresh id that makes a repeated call the same call.
///
/// # Errors
/// When the system gives no randomness.
pub(crate) fn request_id() -> Result<String, Failure> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::new(Exit::Failed, "the system gives no random numbers").because(error.to_string()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_typed_with_or_without_its_r() {
        assert_eq!(parse_revision("42"), Ok(42));
        assert_eq!(parse_revision("r42"), Ok(42));
        for text in ["", "r", "0", "r0", "-1", "+1", "rr1", "1.0", "99999999999999999999"] {
            assert!(parse_revision(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_measure_has_its_unit() {
        assert_eq!(measure("error_rate", 0.034), "3.4%");
        assert_eq!(limit("error_rate", 0.01), "1%");
        assert_eq!(limit("error_rate", 0.0025), "0.25%");
        assert_eq!(measure("p95_latency", 512.4), "512ms");
        assert_eq!(measure("rejected_nodes", 2.0), "2");
        assert_eq!(measure("error_budget_burn_rate", 12.5), "12.5x");
    }

    #[test]
    fn a_verdict_has_the_shape_of_the_interfaces_page() {
        let why = Reason {
            gate: "error_rate".into(),
            value: 0.034,
            limit: 0.01,
            sample: 100,
            stage: "half".into(),
            ..Default::default()
        };
        let mut rollout = Rollout { revision: 42, last_good: 41, reason: Some(why), ..Default::default() };
        rollout.set_state(RolloutState::RolledBack);
        assert_eq!(verdict(&rollout), "ROLLED BACK r42 → r41: error_rate 3.4% > 1% at stage half");
        rollout.verdict_line = "ROLLED BACK r42 → r41 after 4s".into();
        assert_eq!(verdict(&rollout), "ROLLED BACK r42 → r41 after 4s");
        let why = Reason { message: "not enough requests".into(), ..Default::default() };
        let mut held = Rollout { revision: 42, stage: "half".into(), reason: Some(why), ..Default::default() };
        held.set_state(RolloutState::Held);
        assert_eq!(verdict(&held), "HELD r42 at stage half: not enough requests");
        held.stage.clear();
        assert_eq!(verdict(&held), "HELD r42: not enough requests");
    }

    #[test]
    fn a_state_of_a_newer_authority_does_not_end_a_watch() {
        let rollout = Rollout { state: 99, ..Default::default() };
        assert!(!ends_watch(rollout.state()));
        assert_eq!(state(rollout.state()), "unknown");
    }
}
