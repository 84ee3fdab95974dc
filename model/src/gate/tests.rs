use super::*;
use crate::latency::bucket;
use std::time::Duration;

fn counts(requests: u64, failed: u64) -> Counts {
    Counts { requests, failed, latency: Vec::new() }
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
