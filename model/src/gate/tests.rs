use super::*;
use crate::latency::{BUCKETS, bucket};
use crate::plan::{GatePlan, Plan};
use std::time::Duration;

/// A stage whose bake is over.
#[derive(Clone, Default)]
struct Evidence {
    cohort: Counts,
    control: Counts,
    rejected: u64,
}

fn judge(evidence: &Evidence, plan: &Plan) -> (Verdict, Vec<Judged>) {
    judge_when(evidence, plan, true)
}

fn judge_when(evidence: &Evidence, plan: &Plan, baked: bool) -> (Verdict, Vec<Judged>) {
    let mut case = Case::new(plan.compare_alpha);
    case.take(&Entry::Opened(Opened::default()));
    case.take(&Entry::Interval(Interval {
        at_ms: 1_000,
        cohort: evidence.cohort.clone(),
        control: evidence.control.clone(),
        cohort_proxies: 1,
        control_proxies: u32::from(evidence.control.requests > 0),
        rejected: evidence.rejected,
        baked,
    }));
    super::judge(&case, plan)
}

fn counts(requests: u64, failed: u64) -> Counts {
    Counts { requests, failed, ..Counts::default() }
}

/// Requests of which each took one of these times.
fn timed(ms: impl IntoIterator<Item = u64>) -> Counts {
    let mut counts = Counts { latency: vec![0; BUCKETS], ..Counts::default() };
    for ms in ms {
        counts.requests += 1;
        counts.latency[bucket(ms * 1000)] += 1;
    }
    counts
}

fn plan(gates: Vec<GatePlan>) -> Plan {
    Plan { gates, ..Plan::default() }
}

fn outcome(cohort: &Counts, control: &Counts, gate: GatePlan) -> (Verdict, Outcome) {
    let evidence = Evidence { cohort: cohort.clone(), control: control.clone(), rejected: 0 };
    let (verdict, judged) = judge(&evidence, &plan(vec![gate]));
    (verdict, judged[0].outcome)
}

#[test]
fn a_threshold_fails_only_what_control_keeps() {
    let check = |cohort, control, expected| {
        assert_eq!(outcome(&cohort, &control, GatePlan::ErrorRate(0.01)), expected);
    };
    let none = counts(0, 0);
    check(counts(1000, 10), none.clone(), (Verdict::Pass, Outcome::Pass));
    check(counts(1000, 11), none.clone(), (Verdict::Fail, Outcome::Fail));
    check(counts(1000, 340), counts(9000, 9), (Verdict::Fail, Outcome::Fail));
    check(counts(1000, 340), counts(9000, 3000), (Verdict::Environment, Outcome::Environment));
    check(counts(1000, 340), counts(99, 99), (Verdict::Fail, Outcome::Fail)); // control is too small to excuse
    check(counts(99, 99), none.clone(), (Verdict::NotEnoughData, Outcome::NotEnoughData));
    check(none.clone(), none, (Verdict::NotEnoughData, Outcome::NotEnoughData));
}

#[test]
fn latency_is_judged_at_its_percentile() {
    let gate = || GatePlan::Latency { percentile: 95, max: Duration::from_millis(500) };
    let fast = timed((0..1000).map(|_| 20));
    let tail = |slow: u64| timed((0..1000).map(|n| if n < slow { 900 } else { 20 }));
    let none = Counts::default();
    assert_eq!(outcome(&fast, &none, gate()), (Verdict::Pass, Outcome::Pass));
    assert_eq!(outcome(&tail(50), &none, gate()), (Verdict::Pass, Outcome::Pass));
    assert_eq!(outcome(&tail(51), &none, gate()), (Verdict::Fail, Outcome::Fail));
    assert_eq!(outcome(&tail(51), &tail(60), gate()), (Verdict::Environment, Outcome::Environment));
    assert_eq!(outcome(&counts(1000, 0), &none, gate()).1, Outcome::NotEnoughData, "requests without latencies");
    let (_, judged) = judge(&Evidence { cohort: tail(51), ..Evidence::default() }, &plan(vec![gate()]));
    assert_eq!((judged[0].gate.as_str(), judged[0].limit, judged[0].sample), ("p95_latency", 500.0, 1000));
    assert!((900.0..1012.5).contains(&judged[0].value), "{} ms", judged[0].value);
}

#[test]
fn one_refused_node_fails_without_any_traffic() {
    let evidence = Evidence { rejected: 1, ..Evidence::default() };
    let (verdict, judged) = judge(&evidence, &plan(vec![GatePlan::RejectedNodes(0), GatePlan::ErrorRate(0.01)]));
    assert_eq!(verdict, Verdict::Fail);
    assert_eq!((judged[0].outcome, judged[1].outcome), (Outcome::Fail, Outcome::NotEnoughData));
    assert_eq!(judge(&evidence, &plan(vec![GatePlan::RejectedNodes(1)])).1[0].outcome, Outcome::Pass);
}

#[test]
fn silence_never_passes_whatever_the_gates() {
    for gates in [vec![], vec![GatePlan::RejectedNodes(0)], Plan::default().gates] {
        for requests_min in [0, 1, 100] {
            let plan = Plan { requests_min, ..plan(gates.clone()) };
            let (verdict, judged) = judge(&Evidence::default(), &plan);
            assert_eq!(verdict, Verdict::NotEnoughData);
            assert!(judged.iter().any(|gate| gate.outcome == Outcome::NotEnoughData), "it says what is missing");
        }
    }
    let (verdict, judged) = judge(&Evidence { cohort: counts(100, 0), ..Evidence::default() }, &plan(vec![]));
    assert_eq!((verdict, judged.len()), (Verdict::Pass, 0));
}

#[test]
fn failing_outranks_environment_outranks_missing_data() {
    let gates = vec![
        GatePlan::ErrorRate(0.01),
        GatePlan::Latency { percentile: 99, max: Duration::from_millis(1) },
        GatePlan::RejectedNodes(0),
    ];
    let mut evidence = Evidence { cohort: counts(1000, 500), control: counts(1000, 500), rejected: 0 };
    assert_eq!(judge(&evidence, &plan(gates.clone())).0, Verdict::Environment);
    evidence.rejected = 1;
    assert_eq!(judge(&evidence, &plan(gates.clone())).0, Verdict::Fail);
    evidence = Evidence { cohort: counts(1000, 0), ..Evidence::default() };
    assert_eq!(judge(&evidence, &plan(gates)).0, Verdict::NotEnoughData);
}

#[test]
fn the_burn_rate_counts_errors_in_units_of_the_budget() {
    let burning = |failed| {
        let plan = Plan { burn_rate_max: Some(10.0), ..plan(vec![]) };
        judge(&Evidence { cohort: counts(10_000, failed), ..Evidence::default() }, &plan)
    };
    assert_eq!(burning(90).0, Verdict::Pass);
    let (verdict, judged) = burning(150);
    assert_eq!((verdict, judged[0].gate.as_str()), (Verdict::Fail, "error_budget_burn_rate"));
    assert!((judged[0].value - 15.0).abs() < 1e-9, "1.5 % failed of a budget of 0.1 %");
}

#[test]
fn counts_add_up_and_subtract_without_going_below_zero() {
    let mut sum = timed([1, 2]);
    sum.add(&counts(5, 3));
    sum.add(&timed([2]));
    assert_eq!((sum.requests, sum.failed, sum.latency[bucket(2000)]), (8, 3, 2));
    let mut empty = Counts::default();
    empty.add(&sum);
    assert_eq!(empty, sum);
    let since = sum.since(&timed([1, 2]));
    assert_eq!((since.requests, since.failed, since.latency[bucket(1000)], since.latency[bucket(2000)]), (6, 3, 0, 1));
    assert_eq!(counts(1, 1).since(&sum), counts(0, 0), "a process that started again");
    assert_eq!(sum.since(&Counts::default()), sum);
    empty.add(&counts(u64::MAX, u64::MAX));
    assert_eq!(empty.requests, u64::MAX);
}

#[test]
fn percentiles_are_the_nearest_rank() {
    let one_to_hundred = timed(1..=100);
    for percentile in [1, 50, 95, 99] {
        let us = one_to_hundred.percentile_us(percentile).unwrap();
        let exact = u64::from(percentile) * 1000;
        assert!(us >= exact && us <= exact + exact / 8, "p{percentile}: {us}");
    }
    assert_eq!(Counts::default().percentile_us(95), None);
    assert_eq!(timed([]).percentile_us(95), None);
    assert_eq!(timed([5]).percentile_us(101), None);
    assert_eq!(counts(0, 0).error_rate(), None);
}

#[test]
fn few_bad_requests_may_be_chance_until_the_bake_is_over() {
    let early = |requests, failed| {
        let evidence = Evidence { cohort: counts(requests, failed), ..Evidence::default() };
        let gates = plan(vec![GatePlan::ErrorRate(0.01)]);
        (judge_when(&evidence, &gates, false).0, judge_when(&evidence, &gates, true).0)
    };
    assert_eq!(early(200, 3), (Verdict::Suspect, Verdict::Fail), "one clump of failures");
    assert_eq!(early(200, 68), (Verdict::Fail, Verdict::Fail), "no chance explains a third");
    assert_eq!(early(200, 2), (Verdict::Pass, Verdict::Pass));
}

#[test]
fn a_cohort_without_traffic_fails_only_where_control_has_some() {
    let gate = |evidence: &Evidence| {
        let (verdict, judged) = judge(evidence, &Plan::default());
        (verdict, judged.iter().any(|gate| gate.gate == "starved"))
    };
    let busy = Evidence { control: counts(900, 0), ..Evidence::default() };
    assert_eq!(gate(&busy), (Verdict::Fail, true));
    let quiet = Evidence { control: counts(99, 0), ..Evidence::default() };
    assert_eq!(gate(&quiet), (Verdict::NotEnoughData, false), "quiet everywhere");
    let served = Evidence { cohort: counts(90, 0), control: counts(900, 0), ..Evidence::default() };
    assert!(!gate(&served).1);
    assert_eq!(judge_when(&busy, &Plan::default(), false).0, Verdict::NotEnoughData, "it may still come");
}

/// So many intervals of the same counts on both sides.
fn series(case: &mut Case, from_ms: u64, intervals: u64, cohort: &Counts, control: &Counts) -> u64 {
    for index in 0..intervals {
        case.take(&Entry::Interval(Interval {
            at_ms: from_ms + index * 10_000,
            cohort: cohort.clone(),
            control: control.clone(),
            cohort_proxies: 1,
            control_proxies: u32::from(control.requests > 0),
            ..Interval::default()
        }));
    }
    from_ms + intervals * 10_000
}

fn gate<'j>(judged: &'j [Judged], name: &str) -> &'j Judged {
    judged.iter().find(|gate| gate.gate == name).unwrap_or_else(|| panic!("no {name} in {judged:?}"))
}

fn begun() -> Case {
    let mut case = Case::new(0.01);
    let baseline = Baseline { overdispersion: [1.0; METRICS.len()], ..Baseline::default() };
    case.take(&Entry::Opened(Opened { baseline, ..Opened::default() }));
    case
}

#[test]
fn the_canary_is_compared_with_control_metric_by_metric() {
    let worse = [
        ("compare_5xx", Counts { requests: 100, failed: 6, ..Counts::default() }),
        ("compare_4xx", Counts { requests: 100, refused: 9, ..Counts::default() }),
        ("compare_connect", Counts { requests: 100, connect_failures: 5, ..Counts::default() }),
    ];
    let control = Counts { requests: 900, failed: 1, refused: 9, connect_failures: 1, latency: Vec::new() };
    for (name, canary) in worse {
        let mut case = begun();
        series(&mut case, 0, 20, &canary, &control);
        let (verdict, judged) = super::judge(&case, &plan(vec![]));
        assert_eq!((verdict, gate(&judged, name).outcome), (Verdict::Fail, Outcome::Fail), "{name}");
        let others = judged.iter().filter(|one| one.gate != name);
        assert!(others.clone().count() > 0 && others.into_iter().all(|one| one.outcome != Outcome::Fail), "{judged:?}");
    }
}

#[test]
fn a_canary_that_is_slower_than_controls_p99_fails_though_no_threshold_says_so() {
    let fast = timed((0..300).map(|n| 20 + n % 10));
    let mut case = begun();
    let from_ms = series(&mut case, 0, 2, &timed((0..30).map(|n| 20 + n % 10)), &fast);
    assert_eq!(super::judge(&case, &Plan::default()).0, Verdict::NotEnoughData);
    series(&mut case, from_ms, 3, &timed((0..30).map(|n| 70 + n % 10)), &fast);
    let (verdict, judged) = super::judge(&case, &Plan::default());
    assert_eq!((verdict, gate(&judged, "compare_slow").outcome), (Verdict::Fail, Outcome::Fail));
    assert_ne!(gate(&judged, "p95_latency").outcome, Outcome::Fail, "80 ms is far below 500 ms");
}

#[test]
fn proxies_that_were_worse_before_the_change_are_no_worse_for_it() {
    let canary = Counts { requests: 100, refused: 5, ..Counts::default() };
    let control = Counts { requests: 900, refused: 9, ..Counts::default() };
    let mut case = begun();
    let baseline = Baseline { overdispersion: [1.0; METRICS.len()], ratio: [1.0, 5.0, 1.0, 1.0] };
    case.take(&Entry::Opened(Opened { baseline, ..Opened::default() }));
    series(&mut case, 0, 50, &canary, &control);
    assert_eq!(super::judge(&case, &plan(vec![])).0, Verdict::Pass);
}

#[test]
fn without_a_control_the_one_of_the_stage_before_judges_and_is_marked_weaker() {
    let good = Counts { requests: 1000, failed: 1, ..Counts::default() };
    for (failed, expected) in [(1, Verdict::Pass), (60, Verdict::Fail)] {
        let mut case = begun();
        series(&mut case, 0, 20, &good, &good);
        case.take(&Entry::Opened(Opened::default()));
        let all = Counts { requests: 2000, failed, ..Counts::default() };
        series(&mut case, 200_000, 20, &all, &Counts::default());
        let (verdict, judged) = super::judge(&case, &plan(vec![]));
        let compared = gate(&judged, "compare_5xx");
        assert_eq!((verdict, compared.weaker, compared.control_sample), (expected, true, 20_000), "{failed}");
    }
}

#[test]
fn an_alarm_and_the_tests_are_carried_across_stages() {
    let mut case = begun();
    let canary = Counts { requests: 100, failed: 2, ..Counts::default() };
    let control = Counts { requests: 900, failed: 3, ..Counts::default() };
    series(&mut case, 0, 3, &canary, &control);
    let before = case.tests[0].e_value();
    assert!(before > 1.0);
    case.take(&Entry::Opened(Opened::default()));
    assert!((case.tests[0].e_value() - before).abs() < 1e-12);
    assert!((case.window[0].e_value() - 1.0).abs() < 1e-12, "a stage's own window begins anew");
}

#[test]
fn a_stage_passes_only_when_it_could_see_what_the_plan_wants_to_see() {
    let control = Counts { requests: 9000, failed: 9, ..Counts::default() };
    let canary = Counts { requests: 1000, failed: 1, ..Counts::default() };
    let wanting = |detect| Plan { compare_detect: detect, ..plan(vec![]) };
    let mut case = begun();
    let from_ms = series(&mut case, 0, 2, &canary, &control);
    let (verdict, judged) = super::judge(&case, &wanting(Some(3.0)));
    let seen = gate(&judged, "compare_5xx").detects;
    assert_eq!(verdict, Verdict::NotEnoughData, "{seen:?}");
    assert!(seen.is_some_and(|ratio| ratio > 3.0), "{seen:?}");
    // Not asked for by the plan: it passes, and says that it sees less than usual.
    let (verdict, judged) = super::judge(&case, &wanting(None));
    assert_eq!((verdict, gate(&judged, "compare_5xx").wants), (Verdict::Pass, Some(3.0)));
    assert_eq!(gate(&judged, "compare_4xx").wants, None);
    series(&mut case, from_ms, 30, &canary, &control);
    let (verdict, judged) = super::judge(&case, &wanting(Some(3.0)));
    assert_eq!((verdict, gate(&judged, "compare_5xx").detects), (Verdict::Pass, Some(2.0)));
}

#[test]
fn the_burn_rate_needs_both_windows() {
    let plan = Plan { burn_rate_max: Some(10.0), requests_min: 100, ..plan(vec![]) };
    let (good, bad) = (counts(1000, 0), counts(1000, 300));
    let none = Counts::default();
    let burn = |case: &Case| gate(&super::judge(case, &plan).1, "error_budget_burn_rate").clone();
    let mut case = begun();
    let from_ms = series(&mut case, 0, 6, &bad, &none);
    assert_eq!(burn(&case).outcome, Outcome::Fail, "{:?}", burn(&case));
    let from_ms = series(&mut case, from_ms, 31, &good, &none);
    assert_eq!(burn(&case).outcome, Outcome::Pass, "it burnt, and stopped: {:?}", burn(&case));
    let mut case = begun();
    let from_ms = series(&mut case, from_ms, 300, &good, &none);
    series(&mut case, from_ms, 1, &bad, &none);
    assert_eq!(burn(&case).outcome, Outcome::Pass, "one bad interval in an hour: {:?}", burn(&case));
}

#[test]
fn evidence_reads_back_as_it_was_written_and_gives_the_same_verdict() {
    let mut canary = timed((0..50).map(|n| 20 + n));
    canary.failed = 3;
    let interval = Interval { at_ms: 5, cohort: canary, cohort_proxies: 2, baked: true, ..Interval::default() };
    let entries =
        vec![Entry::Opened(Opened { stage: "canary".into(), ..Opened::default() }), Entry::Interval(interval)];
    let json = serde_json::to_string(&entries).unwrap();
    let again: Vec<Entry> = serde_json::from_str(&json).unwrap();
    assert_eq!(again, entries);
    assert!(json.len() < 1_500, "empty buckets are not stored: {json}");
    let case = Case::fold(0.01, &entries);
    assert_eq!(super::judge(&case, &Plan::default()), super::judge(&Case::fold(0.01, &again), &Plan::default()));
}
