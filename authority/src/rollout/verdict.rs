//! The one line in which a rollout ends, and the sentences of reasons. Other programs read these lines: their shape is
//! part of the interface (design page "Public interfaces", One binary).

use sealane_model::gate::Judged;

use super::event::{NodeProblem, Reason};

/// Nodes named in a line; the rest is a number.
const NODES_MAX: usize = 3;

/// `COMPLETED r42 in 21s: 6 of 6 proxies`
pub(crate) fn completed(revision: u64, took_ms: u64, active: usize, proxies: usize) -> String {
    let took = duration(took_ms);
    if proxies == 0 {
        return format!("COMPLETED r{revision} in {took}: no proxy is connected yet");
    }
    format!("COMPLETED r{revision} in {took}: {active} of {proxies} proxies")
}

/// `ROLLED BACK r42 → r41 after 4s: error_rate 34.0% > 1% at stage canary`
pub(crate) fn ended(
    words: &str,
    revision: u64,
    back_to: Option<u64>,
    took_ms: u64,
    reason: &Reason,
    missing: &[&str],
) -> String {
    let back_to = back_to.map_or_else(String::new, |revision| format!(" → r{revision}"));
    let missing = match missing {
        [] => String::new(),
        some => format!(" (not heard from since: {})", names(some)),
    };
    format!("{words} r{revision}{back_to} after {}: {}{missing}", duration(took_ms), sentence(reason))
}

/// `REJECTED r42: proxy-1: routes[0].pool line 7: …`
pub(crate) fn rejected(revision: u64, problems: &[NodeProblem]) -> String {
    let Some(problem) = problems.first() else { return format!("REJECTED r{revision}") };
    let mut line = format!("REJECTED r{revision}: {}: ", problem.node);
    if !problem.path.is_empty() {
        line.push_str(&problem.path);
        line.push(' ');
    }
    if problem.line > 0 {
        line.push_str(&format!("line {}", problem.line));
    }
    let line = line.trim_end().trim_end_matches(':');
    let more = problems.len() - 1;
    let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
    format!("{line}: {}{more}", problem.message)
}

/// `HELD r42 at stage half: …`
pub(crate) fn held(revision: u64, reason: &Reason) -> String {
    let stage = if reason.stage.is_empty() { String::new() } else { format!(" at stage {}", reason.stage) };
    format!("HELD r{revision}{stage}: {}", reason.message)
}

/// What a reason says after the colon.
pub(super) fn sentence(reason: &Reason) -> String {
    if reason.message.is_empty() { reason.gate.clone() } else { reason.message.clone() }
}

/// `error_rate 34.0% > 1% at stage canary`, `5xx 6.2% > control's 0.3% at stage canary`
pub(crate) fn breach(judged: &Judged, stage: &str) -> String {
    let place = if stage.is_empty() { String::new() } else { format!(" at stage {stage}") };
    let percent = |part: u64, of: u64| format!("{:.1}%", part as f64 / of.max(1) as f64 * 100.0);
    if let Some(metric) = judged.gate.strip_prefix("compare_") {
        let (canary, control) =
            (percent(judged.bad, judged.sample), percent(judged.control_bad, judged.control_sample));
        let what = match metric {
            "connect" => "connect failures",
            "slow" => "slower than control's p99",
            other => other,
        };
        return format!("{}: {what} {canary} > control's {control}{place}", judged.gate);
    }
    if judged.gate == "starved" {
        let (value, control) = (judged.value, judged.control_value);
        return format!("starved: {value} requests reached the cohort, {control} the others{place}");
    }
    let (value, limit) = match judged.gate.as_str() {
        "error_rate" => (format!("{:.1}%", judged.value * 100.0), format!("{}%", trimmed(judged.limit * 100.0))),
        gate if gate.ends_with("_latency") => {
            (format!("{}ms", judged.value.round()), format!("{}ms", trimmed(judged.limit)))
        }
        "error_budget_burn_rate" => (format!("{}x", trimmed(judged.value)), format!("{}x", trimmed(judged.limit))),
        _ => (trimmed(judged.value), trimmed(judged.limit)),
    };
    format!("{} {value} > {limit}{place}", judged.gate)
}

/// At most three decimals, none that is zero.
fn trimmed(number: f64) -> String {
    let text = format!("{number:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `21s`, `4m`, `1h5m`; below a second `0.4s`.
pub(crate) fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0) => format!("{}.{}s", seconds, ms / 100 % 10),
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, 0) => format!("{minutes}m"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, 0, _) => format!("{hours}h"),
        (hours, minutes, _) => format!("{hours}h{minutes}m"),
    }
}

/// `a, b, c and 4 more`
pub(crate) fn names<S: AsRef<str>>(all: &[S]) -> String {
    let shown: Vec<&str> = all.iter().take(NODES_MAX).map(AsRef::as_ref).collect();
    match all.len().saturating_sub(NODES_MAX) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealane_model::gate::Outcome;

    #[test]
    fn lines_have_the_shape_that_programs_read() {
        assert_eq!(completed(42, 21_300, 6, 6), "COMPLETED r42 in 21s: 6 of 6 proxies");
        let judged = |gate: &str, value, limit| Judged {
            gate: gate.into(),
            value,
            limit,
            sample: 100,
            control_value: 0.0,
            control_sample: 0,
            bad: 0,
            control_bad: 0,
            detects: None,
            wants: None,
            weaker: false,
            outcome: Outcome::Fail,
        };
        let reason = Reason { message: breach(&judged("error_rate", 0.34, 0.01), "canary"), ..Reason::default() };
        assert_eq!(
            ended("ROLLED BACK", 42, Some(41), 4_100, &reason, &[]),
            "ROLLED BACK r42 → r41 after 4s: error_rate 34.0% > 1% at stage canary"
        );
        assert_eq!(breach(&judged("p95_latency", 812.4, 500.0), "half"), "p95_latency 812ms > 500ms at stage half");
        assert_eq!(breach(&judged("rejected_nodes", 1.0, 0.0), ""), "rejected_nodes 1 > 0");
        let compared = Judged { bad: 6, control_bad: 1, control_sample: 400, ..judged("compare_5xx", 900.0, 400.0) };
        assert_eq!(breach(&compared, "canary"), "compare_5xx: 5xx 6.0% > control's 0.2% at stage canary");
        let problem = NodeProblem {
            node: "edge-1".into(),
            agent: "a".into(),
            code: "missing_reference".into(),
            severity: "error".into(),
            message: "no pool named \"x\"".into(),
            file: "fleet.yaml".into(),
            line: 7,
            column: 3,
            end_column: 4,
            path: "routes[0].pool".into(),
            help: String::new(),
            suggestion: None,
        };
        assert_eq!(rejected(42, &[problem]), "REJECTED r42: edge-1: routes[0].pool line 7: no pool named \"x\"");
    }

    #[test]
    fn durations_are_short() {
        for (ms, text) in [(400, "0.4s"), (21_999, "21s"), (60_000, "1m"), (61_000, "1m1s"), (3_900_000, "1h5m")] {
            assert_eq!(duration(ms), text);
        }
    }
}
