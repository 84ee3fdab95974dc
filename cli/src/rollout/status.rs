//! A rollout on one page: where it stands, its stages and gates, what went wrong where, and what to type next.

use sealane_proto::v1;
use sealane_proto::v1::Rollout;

use crate::args::Format;
use crate::exit::Failure;
use crate::paint::{Paint, clean};
use crate::printer::{Look, Printer};
use crate::table::{Cell, Table};
use crate::{clock, duration, words};

/// Problems listed before the rest is only counted.
const PROBLEMS_SHOWN: usize = 20;

pub(super) fn print(rollout: &Rollout, format: Format, printer: &Printer) -> Result<(), Failure> {
    let names = || vec![words::revision(rollout.revision)];
    printer.show(format, "Rollout", rollout, names, |look| page(rollout, look, clock::now()))?;
    if let (Format::Human | Format::Wide, Some(next)) = (format, words::next_step(rollout)) {
        printer.hint(&next);
    }
    Ok(())
}

fn page(rollout: &Rollout, look: Look, now: jiff::Timestamp) -> String {
    let mut out = head(rollout, look, now);
    if !rollout.stages.is_empty() {
        out.push('\n');
        out.push_str(&stages(rollout, look));
    }
    if !rollout.gates.is_empty() {
        out.push('\n');
        out.push_str(&gates(&rollout.gates, look));
        if let Some(gate) = rollout.gates.iter().find(|gate| gate.gate == "compare_5xx") {
            out.push_str(&power(gate));
        }
    }
    let problems = problem_lines(&rollout.problems);
    if !problems.is_empty() {
        out.push_str("\nproblems:\n");
        for line in problems {
            out.push_str(&format!("  {line}\n"));
        }
    }
    out
}

fn head(rollout: &Rollout, look: Look, now: jiff::Timestamp) -> String {
    let state = rollout.state();
    let mut lines = Vec::new();
    let mut first = format!(
        "{}  {}",
        Paint::Strong.apply(look.colour, &words::revision(rollout.revision)),
        words::state_paint(state).apply(look.colour, &words::state(state)),
    );
    if !rollout.stage.is_empty() {
        first.push_str(&format!(", stage {}", clean(&rollout.stage)));
        if !rollout.wave.is_empty() && rollout.stages.iter().any(|stage| stage.wave != rollout.wave) {
            first.push_str(&format!(" of wave {}", clean(&rollout.wave)));
        }
    }
    lines.push(first);
    if !rollout.message.is_empty() || !rollout.author.is_empty() {
        lines.push(field(
            "change",
            format!("{}, by {}", clean(&rollout.message), clean(&rollout.author)).trim_start_matches(", "),
        ));
    }
    let started = duration::ago(rollout.started_at.as_ref(), now);
    lines.push(field("started", &format!("{started}, changed {}", duration::ago(rollout.changed_at.as_ref(), now))));
    let mut proxies = format!("{} active, {} prepared of {}", rollout.active, rollout.prepared, rollout.proxies);
    if rollout.absent > 0 {
        proxies.push_str(&format!(", {} absent", rollout.absent));
    }
    lines.push(field("proxies", &proxies));
    lines.push(field("last good", &words::revision(rollout.last_good)));
    if !rollout.doing.is_empty() {
        lines.push(field("doing", &clean(&rollout.doing)));
    }
    if let Some(reason) = &rollout.reason {
        lines.push(field("reason", &words::reason(reason)));
        if !reason.message.is_empty() && clean(&reason.message) != words::reason(reason) {
            lines.push(field("", &clean(&reason.message)));
        }
        if !reason.nodes.is_empty() {
            lines.push(field("nodes", &clean(&reason.nodes.join(", "))));
        }
    }
    if !rollout.verdict_line.is_empty() {
        lines.push(field("verdict", &clean(&rollout.verdict_line)));
    }
    lines.join("\n") + "\n"
}

fn field(name: &str, value: &str) -> String {
    let name = if name.is_empty() { String::new() } else { format!("{name}:") };
    format!("  {name:<11}{value}")
}

fn stages(rollout: &Rollout, look: Look) -> String {
    let waves = rollout.stages.iter().any(|stage| stage.wave != rollout.stages[0].wave);
    let mut table = Table::new(["STAGE", "SHARE", "PROXIES", "STATE", "BAKED"]);
    if waves || look.wide {
        table.column("WAVE");
    }
    for stage in &rollout.stages {
        let name = match stage.merged.is_empty() {
            true => stage.name.clone(),
            false => format!("{} (with {})", stage.name, stage.merged.join(", ")),
        };
        let paint = match stage.state.as_str() {
            "passed" => Paint::Good,
            "failed" => Paint::Bad,
            "pending" => Paint::Quiet,
            _ => Paint::Strong,
        };
        let baked = format!(
            "{} of {}",
            duration::show(duration::of_wire(stage.baked.as_ref())),
            duration::show(duration::of_wire(stage.bake.as_ref()))
        );
        let mut cells: Vec<Cell> = vec![
            name.into(),
            format!("{}%", words::short(stage.fleet_percent)).into(),
            stage.proxies.to_string().into(),
            Cell::painted(&stage.state, paint),
            baked.into(),
        ];
        if waves || look.wide {
            cells.push((&stage.wave).into());
        }
        table.row(cells);
    }
    table.render(look.colour)
}

pub(super) fn gates(gates: &[v1::GateStatus], look: Look) -> String {
    let mut table = Table::new(["GATE", "VALUE", "LIMIT", "SAMPLE", "CONTROL", "SEES", "OUTCOME"]);
    for gate in gates {
        let paint = match gate.outcome.as_str() {
            "pass" => Paint::Good,
            "fail" => Paint::Bad,
            _ => Paint::Careful,
        };
        let compares = gate.gate.starts_with("compare_");
        let control = match gate.control_sample {
            0 => String::new(),
            sample if compares => format!("{} of {sample}", words::share(gate.control_bad, sample)),
            sample => format!("{} of {sample}", words::measure(&gate.gate, gate.control_value)),
        };
        let control = if gate.weaker { format!("{control}, before (weaker)") } else { control };
        // What the bake can see: how many times control's share.
        let sees = match gate.detects {
            ratio if ratio > 0.0 => format!("≥ {}x", words::short(ratio)),
            _ if compares => "nothing yet".to_owned(),
            _ => String::new(),
        };
        // A comparison reads as shares; the e-value and its limit are in -o json.
        let (value, limit) = match compares {
            true => {
                let share = words::share(gate.bad, gate.sample);
                let odds = (gate.value, gate.limit);
                (share, format!("e {} of {}", words::short(odds.0.min(999_999.0)), words::short(odds.1)))
            }
            false => (words::measure(&gate.gate, gate.value), words::limit(&gate.gate, gate.limit)),
        };
        table.row([
            (&gate.gate).into(),
            value.into(),
            limit.into(),
            gate.sample.to_string().into(),
            control.into(),
            sees.into(),
            Cell::painted(&gate.outcome.replace('_', " "), paint),
        ]);
    }
    table.render(look.colour)
}

/// What the comparison could find, and whether that is less than it should.
fn power(gate: &v1::GateStatus) -> String {
    let sees = match gate.detects {
        sees if sees > 0.0 => format!("this bake can see ≥ {}x control's failures", words::short(sees)),
        _ => "this bake has too few requests to see any number of times control's failures".to_owned(),
    };
    let is_weak = gate.wants > 0.0 && (gate.detects <= 0.0 || gate.detects > gate.wants);
    if !is_weak {
        return format!("{sees}\n");
    }
    let wants = words::short(gate.wants);
    format!(
        "{sees}, weaker than the {wants}x it should; `compare: {{ detect: {wants}x }}` in the plan waits for that\n"
    )
}

/// One line for each problem on a node; the rest counted.
pub(super) fn problem_lines(problems: &[v1::NodeProblem]) -> Vec<String> {
    let mut lines: Vec<String> = problems.iter().take(PROBLEMS_SHOWN).map(problem_line).collect();
    if problems.len() > PROBLEMS_SHOWN {
        lines.push(format!("… and {} more", problems.len() - PROBLEMS_SHOWN));
    }
    lines
}

/// `edge-1: routes[0].pool line 7: no pool named "api-v2"`
fn problem_line(at: &v1::NodeProblem) -> String {
    let Some(problem) = &at.problem else { return format!("{}: refused", clean(&at.node)) };
    let mut place = clean(&problem.path);
    if problem.line > 0 {
        let separator = if place.is_empty() { "" } else { " " };
        place.push_str(&format!("{separator}line {}", problem.line));
    }
    let colon = if place.is_empty() { "" } else { ": " };
    format!("{}: {place}{colon}{}", clean(&at.node), clean(&problem.message))
}

#[cfg(test)]
mod tests {
    use sealane_proto::v1::RolloutState;

    use super::*;

    #[test]
    fn a_page_says_stages_gates_problems_and_reason() {
        let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let mut rollout = Rollout {
            revision: 42,
            wave: "all".into(),
            stage: "canary".into(),
            last_good: 41,
            started_at: Some(prost_types::Timestamp { seconds: 1_000, nanos: 0 }),
            changed_at: Some(prost_types::Timestamp { seconds: 1_018, nanos: 0 }),
            stages: vec![
                v1::StageStatus {
                    wave: "all".into(),
                    name: "canary".into(),
                    fleet_percent: 1.0,
                    state: "failed".into(),
                    proxies: 1,
                    bake: seconds(3),
                    baked: seconds(2),
                    merged: vec!["small".into()],
                },
                v1::StageStatus {
                    wave: "all".into(),
                    name: "all".into(),
                    fleet_percent: 100.0,
                    state: "pending".into(),
                    proxies: 5,
                    ..Default::default()
                },
            ],
            proxies: 6,
            prepared: 6,
            active: 1,
            gates: vec![v1::GateStatus {
                gate: "error_rate".into(),
                value: 0.34,
                limit: 0.01,
                sample: 118,
                control_value: 0.0,
                control_sample: 590,
                outcome: "fail".into(),
                ..Default::default()
            }],
            reason: Some(v1::Reason {
                gate: "error_rate".into(),
                value: 0.34,
                limit: 0.01,
                sample: 118,
                stage: "canary".into(),
                nodes: vec!["edge-1".into()],
                message: String::new(),
            }),
            problems: vec![v1::NodeProblem {
                node: "edge-1".into(),
                agent: "a".into(),
                problem: Some(v1::Problem {
                    path: "routes[0].pool".into(),
                    line: 7,
                    message: "certificate expired".into(),
                    ..Default::default()
                }),
            }],
            message: "raise limit".into(),
            author: "t1".into(),
            doing: "taking 1 proxy back".into(),
            ..Default::default()
        };
        rollout.set_state(RolloutState::RollingBack);
        let now = jiff::Timestamp::new(1_020, 0).unwrap();
        insta::assert_snapshot!(page(&rollout, Look { colour: false, wide: false }, now));
    }
}
