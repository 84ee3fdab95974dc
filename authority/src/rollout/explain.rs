//! Judges what is stored once more: a verdict is a function of the plan and the evidence, so it comes out again. Pure.

use sealane_model::gate::{self, Case, Entry, Verdict};
use sealane_model::plan::Plan;
use sealane_proto::v1;

use super::event::{End, Event, GateRecord, What};
use super::view;

/// Numbers that differ by less are the same: they went through JSON.
const EPSILON: f64 = 1e-6;

/// What was decided on evidence, oldest first.
pub(crate) fn explain(plan: &Plan, events: &[Event], entries: &[Entry]) -> Vec<v1::Decision> {
    events.iter().filter(|event| event.evidence > 0).filter_map(|event| decision(plan, event, entries)).collect()
}

/// One sentence on all of them.
pub(crate) fn summary(decisions: &[v1::Decision]) -> String {
    let wrong = decisions.iter().filter(|decision| !decision.agrees).count();
    match (decisions.len(), wrong) {
        (0, _) => "nothing was decided on evidence".to_owned(),
        (1, 0) => "the one decision follows from the stored evidence".to_owned(),
        (all, 0) => format!("all {all} decisions follow from the stored evidence"),
        (all, wrong) => format!("{wrong} of {all} decisions do NOT follow from the stored evidence"),
    }
}

fn decision(plan: &Plan, event: &Event, entries: &[Entry]) -> Option<v1::Decision> {
    let (gates, allowed): (&[GateRecord], &[Verdict]) = match &event.what {
        What::StagePassed { gates, why } if why == super::look::EVERY_GATE_PASSED => (gates, &[Verdict::Pass]),
        What::Completed { gates, .. } => (gates, &[Verdict::Pass]),
        What::Held { gates, reason } if reason.gate == "environment" => (gates, &[Verdict::Environment]),
        What::Held { gates, reason } if reason.gate == "suspect" => (gates, &[Verdict::Suspect]),
        What::Held { gates, reason } if reason.gate == "no_data" => (gates, &[Verdict::NotEnoughData]),
        What::RollingBack { gates, reason, end: End::RolledBack }
            if gates.iter().any(|gate| gate.gate == reason.gate) =>
        {
            (gates, &[Verdict::Fail])
        }
        _ => return None,
    };
    let known = usize::try_from(event.evidence).unwrap_or(usize::MAX).min(entries.len());
    let mut decision =
        v1::Decision { at: view::time(event.at_ms), decision: event.what.kind().to_owned(), ..v1::Decision::default() };
    if (known as u64) < event.evidence {
        decision.detail = format!("{known} of {} pieces of evidence are left: too old", event.evidence);
        return Some(decision);
    }
    let seen = &entries[..known];
    let (verdict, judged) = gate::judge(&Case::fold(plan.compare_alpha, seen), plan);
    let now: Vec<GateRecord> = judged.iter().map(GateRecord::from).collect();
    for entry in seen {
        match entry {
            Entry::Opened(opened) => (decision.stage, decision.intervals) = (opened.stage.clone(), 0),
            Entry::Interval(_) => decision.intervals += 1,
        }
    }
    let differing = now.iter().zip(gates).find(|(now, then)| !is_same(now, then));
    decision.verdict = verdict_name(verdict).to_owned();
    decision.gates = now.iter().map(view::gate).collect();
    // A final bake of a person's word, or none at all, completes whatever the gates say.
    let waived = matches!(event.what, What::Completed { .. }) && verdict != Verdict::Fail;
    decision.detail = match differing {
        Some((now, then)) => {
            format!("{} was {} ({}), is {} ({})", now.gate, then.value, then.outcome, now.value, now.outcome)
        }
        None if now.len() != gates.len() => format!("{} gates were judged, {} are now", gates.len(), now.len()),
        None if allowed.contains(&verdict) || waived => String::new(),
        None => format!("the evidence says {}", decision.verdict),
    };
    decision.agrees = decision.detail.is_empty();
    Some(decision)
}

fn is_same(one: &GateRecord, other: &GateRecord) -> bool {
    let close = |one: f64, other: f64| (one - other).abs() <= EPSILON * one.abs().max(other.abs()).max(1.0);
    one.gate == other.gate
        && one.outcome == other.outcome
        && close(one.value, other.value)
        && close(one.limit, other.limit)
        && one.sample == other.sample
        && one.control_sample == other.control_sample
}

fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "fail",
        Verdict::Environment => "environment",
        Verdict::Suspect => "suspect",
        Verdict::NotEnoughData => "not_enough_data",
    }
}
