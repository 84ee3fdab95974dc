//! What a rollout was decided on, judged again.

use sealane_proto::v1;

use super::status;
use crate::args::Format;
use crate::exit::{Exit, Failure};
use crate::paint::{Paint, clean};
use crate::printer::{Look, Printer};
use crate::{clock, duration, words};

/// Prints it. Fails when a decision does not follow from its evidence.
pub(super) fn print(
    answer: &v1::RolloutServiceExplainResponse,
    format: Format,
    printer: &Printer,
) -> Result<(), Failure> {
    let names = || answer.rollout.iter().map(|rollout| words::revision(rollout.revision)).collect();
    printer.show(format, "RolloutServiceExplainResponse", answer, names, |look| page(answer, look, clock::now()))?;
    if answer.agrees {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, format!("{}; `sealane audit verify` checks the record", clean(&answer.summary))))
}

fn page(answer: &v1::RolloutServiceExplainResponse, look: Look, now: jiff::Timestamp) -> String {
    let mut out = String::new();
    if let Some(rollout) = &answer.rollout {
        let state = rollout.state();
        let name = Paint::Strong.apply(look.colour, &words::revision(rollout.revision));
        out.push_str(&format!("{name}  {}\n", words::state_paint(state).apply(look.colour, &words::state(state))));
        if !rollout.verdict_line.is_empty() {
            out.push_str(&format!("  {}\n", clean(&rollout.verdict_line)));
        }
    }
    for decision in &answer.decisions {
        let agrees = match decision.agrees {
            true => Paint::Good.apply(look.colour, "agrees"),
            false => Paint::Bad.apply(look.colour, "DIFFERS"),
        };
        out.push_str(&format!(
            "\n{} at stage {}, {}: the evidence of {} intervals says {}: {agrees}\n",
            clean(&decision.decision.replace('_', " ")),
            clean(&decision.stage),
            duration::ago(decision.at.as_ref(), now),
            decision.intervals,
            clean(&decision.verdict.replace('_', " ")),
        ));
        if !decision.detail.is_empty() {
            out.push_str(&format!("  {}\n", clean(&decision.detail)));
        }
        if !decision.gates.is_empty() {
            out.push_str(&status::gates(&decision.gates, look));
        }
    }
    out.push_str(&format!("\n{}\n", clean(&answer.summary)));
    out
}
