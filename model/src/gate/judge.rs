//! The verdict: a function of the case and the plan, of nothing else.

use super::case::{BURN_LONG_MS, BURN_SHORT_MS, Case, METRICS, Metric};
use super::counts::Counts;
use super::sequential::{SUSPICION, detects, e_value_above};
use super::{Judged, Outcome, Verdict};
use crate::latency::{bucket, upper_edge_us};
use crate::plan::{GatePlan, Plan};

/// Judges every gate of the plan, the burn rate where it has one, whether the cohort gets traffic at all, and the cohort
/// against control.
///
/// A threshold needs `requests_min` requests in the cohort, and at least one, to say anything; only refused proxies fail
/// without. It fails only when control (with as many requests) does not breach it too, and before the end of the bake
/// only when the bad requests are too many for chance. Where no gate of the plan looks at requests, their number is a
/// gate of its own, `requests_min`.
#[must_use]
pub fn judge(case: &Case, plan: &Plan) -> (Verdict, Vec<Judged>) {
    let mut judged: Vec<Judged> = plan.gates.iter().map(|gate| judge_gate(case, plan, gate)).collect();
    judged.extend(judge_burn_rate(case, plan));
    let sample = case.cohort.requests;
    let requests_min = plan.requests_min.max(1);
    if sample < requests_min && judged.iter().all(|gate| gate.outcome == Outcome::Pass) {
        judged.push(Judged {
            value: sample as f64,
            limit: requests_min as f64,
            outcome: Outcome::NotEnoughData,
            ..row("requests_min", case)
        });
    }
    judged.extend(judge_starved(case, plan));
    judged.extend(METRICS.iter().enumerate().filter_map(|(index, metric)| compare(case, plan, index, *metric)));
    (Verdict::of(&judged), judged)
}

/// A gate of which nothing is known yet.
fn row(gate: &str, case: &Case) -> Judged {
    Judged {
        gate: gate.to_owned(),
        value: 0.0,
        limit: 0.0,
        sample: case.cohort.requests,
        control_value: 0.0,
        control_sample: case.control.requests,
        bad: 0,
        control_bad: 0,
        detects: None,
        wants: None,
        weaker: false,
        outcome: Outcome::Pass,
    }
}

/// One side of a threshold.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    value: Option<f64>,
    /// Bad requests of how many.
    bad: u64,
    of: u64,
}

/// A threshold as a share of bad requests, which is how chance is reckoned with.
struct Threshold {
    limit: f64,
    /// The share of bad requests that it allows.
    share: f64,
    metric: Metric,
}

fn judge_gate(case: &Case, plan: &Plan, gate: &GatePlan) -> Judged {
    let (control, weaker) = case.yardstick();
    match gate {
        GatePlan::ErrorRate(limit) => {
            let side = |counts: &Counts| Side { value: counts.error_rate(), bad: counts.failed, of: counts.requests };
            let threshold = Threshold { limit: *limit, share: *limit, metric: Metric::Failures };
            judge_sides(&gate.metric(), &threshold, side(&case.cohort), side(control), weaker, case, plan)
        }
        GatePlan::Latency { percentile, max } => {
            let edge = bucket(u64::try_from(max.as_micros()).unwrap_or(u64::MAX));
            let side = |counts: &Counts| Side {
                value: counts.percentile_bucket(*percentile).map(|bucket| upper_edge_us(bucket) as f64 / 1e3),
                bad: counts.slower_than(edge),
                of: counts.measured(),
            };
            let share = 1.0 - f64::from(*percentile) / 100.0;
            let threshold = Threshold { limit: gate.threshold(), share, metric: Metric::Slow };
            judge_sides(&gate.metric(), &threshold, side(&case.cohort), side(control), weaker, case, plan)
        }
        // A refusal is a fact about the candidate: it needs no sample and has no control.
        GatePlan::RejectedNodes(limit) => Judged {
            value: case.rejected as f64,
            limit: *limit as f64,
            outcome: if case.rejected > *limit { Outcome::Fail } else { Outcome::Pass },
            ..row(&gate.metric(), case)
        },
    }
}

/// How many times faster than the objective allows the error budget burns: the lower of a long and a short window, so that
/// neither one bad second nor what is long over takes a revision back.
fn judge_burn_rate(case: &Case, plan: &Plan) -> Option<Judged> {
    let limit = plan.burn_rate_max?;
    let budget = 1.0 - plan.slo_percent / 100.0;
    let (long, short) = (case.recently(BURN_LONG_MS), case.recently(BURN_SHORT_MS));
    let rate = |(requests, failed): (u64, u64)| (requests > 0).then(|| failed as f64 / requests as f64 / budget);
    // A window without requests does not burn.
    let lower = |long, short| Some(f64::min(rate(long)?, rate(short).unwrap_or(0.0)));
    let cohort = Side { value: lower(long.cohort, short.cohort), bad: short.cohort.1, of: long.cohort.0 };
    let (frozen, weaker) = case.yardstick();
    let control = if weaker {
        let counts = (frozen.requests, frozen.failed);
        Side { value: rate(counts), bad: counts.1, of: counts.0 }
    } else {
        Side { value: lower(long.control, short.control), bad: short.control.1, of: long.control.0 }
    };
    let threshold = Threshold { limit, share: (limit * budget).min(1.0), metric: Metric::Failures };
    Some(judge_sides("error_budget_burn_rate", &threshold, cohort, control, weaker, case, plan))
}

fn judge_sides(
    gate: &str,
    threshold: &Threshold,
    cohort: Side,
    control: Side,
    weaker: bool,
    case: &Case,
    plan: &Plan,
) -> Judged {
    let limit = threshold.limit;
    let breach = |side: &Side| match side.value {
        Some(value) if side.of >= plan.requests_min => Some(value > limit),
        _ => None,
    };
    let index = METRICS.iter().position(|metric| *metric == threshold.metric).unwrap_or(0);
    let overdispersion = case.baseline.overdispersion[index];
    let is_certain =
        || e_value_above(threshold.share, cohort.bad, cohort.of, overdispersion) >= 1.0 / plan.compare_alpha;
    let outcome = match (breach(&cohort), breach(&control)) {
        (None, _) => Outcome::NotEnoughData,
        (Some(false), _) => Outcome::Pass,
        (Some(true), Some(true)) => Outcome::Environment,
        (Some(true), _) if case.baked || is_certain() => Outcome::Fail,
        (Some(true), _) => Outcome::Suspect,
    };
    Judged {
        value: cohort.value.unwrap_or(0.0),
        limit,
        sample: cohort.of,
        control_value: control.value.unwrap_or(0.0),
        control_sample: control.of,
        bad: cohort.bad,
        control_bad: control.bad,
        weaker: weaker && control.of > 0,
        outcome,
        ..row(gate, case)
    }
}

/// The cohort gets no traffic while control does: the change may be what keeps it away.
fn judge_starved(case: &Case, plan: &Plan) -> Option<Judged> {
    if !case.baked || case.control_proxies == 0 || case.cohort_proxies == 0 {
        return None;
    }
    let each = case.control.requests as f64 / f64::from(case.control_proxies);
    let expected = each * f64::from(case.cohort_proxies);
    let is_starved = expected >= plan.requests_min.max(1) as f64 && case.cohort.requests as f64 * 100.0 < expected;
    is_starved.then(|| Judged {
        value: case.cohort.requests as f64,
        limit: (expected / 100.0).ceil(),
        control_value: case.control.requests as f64,
        outcome: Outcome::Fail,
        ..row("starved", case)
    })
}

/// The cohort against control, one metric. `None`: there was never anything to compare with.
fn compare(case: &Case, plan: &Plan, index: usize, metric: Metric) -> Option<Judged> {
    let (yardstick, weaker) = case.yardstick();
    let ((x, n), (y, m)) = (metric.of(&case.cohort, case.edge), metric.of(yardstick, case.edge));
    if n == 0 || m == 0 {
        return None;
    }
    let test = &case.tests[index];
    let (overdispersion, alpha) = (test.overdispersion(), 1.0 / test.limit());
    // A rate that is not known is at most about this: half an event more than was seen.
    let rate = ((y as f64 + 0.5) / (m as f64 + 1.0)).min(1.0);
    let seen = detects(alpha, overdispersion, rate, n, m);
    let (value, is_alarm, is_suspect) = if weaker {
        let limit = weak_limit(y, m, overdispersion) * case.baseline.ratio[index];
        let value = e_value_above(limit, x, n, overdispersion);
        (value, value >= test.limit(), value >= SUSPICION)
    } else {
        (test.e_value(), test.alarm(), case.window[index].e_value() >= SUSPICION)
    };
    // What should be seen is about failures; the other metrics may be rarer. Only what the plan itself asks for is waited
    // for: a fleet with little traffic would wait for ever for the usual.
    let wants = (metric == Metric::Failures && !weaker).then(|| plan.compare_detect.unwrap_or_else(|| usual(n, m)));
    let is_thin = wants.is_some_and(|wanted| seen.is_none_or(|ratio| ratio > wanted));
    let outcome = match () {
        () if is_alarm => Outcome::Fail,
        () if is_suspect => Outcome::Suspect,
        () if is_thin && plan.compare_detect.is_some() => Outcome::NotEnoughData,
        () => Outcome::Pass,
    };
    Some(Judged {
        value: if is_alarm { value.max(test.peak()) } else { value },
        limit: test.limit(),
        sample: n,
        control_value: y as f64 / m as f64,
        control_sample: m,
        bad: x,
        control_bad: y,
        detects: seen,
        wants,
        weaker,
        outcome,
        ..row(metric.gate(), case)
    })
}

/// What a comparison usually should be able to see: three times control's failures, twice from a quarter of the traffic.
///
/// Source: design page "Control plane", "The test, exactly".
fn usual(canary: u64, control: u64) -> f64 {
    if canary.saturating_mul(3) >= control { 2.0 } else { 3.0 }
}

/// A share of bad requests that a fleet as it was before does not come to: twice the upper bound of control's own, for
/// time went by since.
fn weak_limit(bad: u64, of: u64, overdispersion: f64) -> f64 {
    let bad = bad as f64;
    let upper = bad + 3.0 * (overdispersion * (bad + 1.0)).sqrt() + 3.0 * overdispersion;
    (2.0 * upper / of as f64).min(1.0)
}
