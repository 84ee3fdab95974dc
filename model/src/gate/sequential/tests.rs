//! Seeded simulations: the numbers of the design page "Control plane", "The test, exactly", hold for this code.

use super::*;

/// SplitMix64: the same run for the same seed, everywhere.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn poisson(&mut self, mean: f64) -> u64 {
        let limit = (-mean).exp();
        let mut product = self.unit();
        let mut count = 0;
        while product > limit {
            product *= self.unit();
            count += 1;
        }
        count
    }

    /// Events in clumps of `clump`: their variance is `clump` times their mean.
    fn clumped(&mut self, mean: f64, clump: u64) -> u64 {
        clump * self.poisson(mean / clump as f64)
    }
}

/// Requests of the canary and of control in an interval: one proxy against nine.
const CANARY: u64 = 100;
const CONTROL: u64 = 900;
const BASE_RATE: f64 = 0.001;

/// One of four metrics of a rollout with α = 0.01.
const ALPHA: f64 = 0.01 / 4.0;

#[test]
fn clean_rollouts_alarm_in_less_than_one_percent_though_failures_come_in_clumps() {
    let mut random = Random(42);
    let mut false_alarms = 0;
    for _ in 0..500 {
        // The hour before: nine control proxies, twelve slots of five minutes.
        let slot = |random: &mut Random| (random.clumped(BASE_RATE * (300 * CANARY) as f64, 4), 300 * CANARY);
        let hour: Vec<[(u64, u64); 12]> = (0..9).map(|_| std::array::from_fn(|_| slot(&mut random))).collect();
        let mut test = Sequential::new(0.01).with_overdispersion(overdispersion(&hour));
        for _ in 0..600 {
            let x = random.clumped(BASE_RATE * CANARY as f64, 4);
            let y = random.clumped(BASE_RATE * CONTROL as f64, 4);
            test.observe(x, CANARY, y, CONTROL);
        }
        false_alarms += u32::from(test.alarm());
    }
    assert!(false_alarms < 5, "{false_alarms} of 500");
}

#[test]
fn independent_failures_raise_no_false_alarm_without_any_tempering() {
    let mut random = Random(7);
    let mut false_alarms = 0;
    for _ in 0..500 {
        let mut test = Sequential::new(0.01).with_overdispersion(1.0);
        for _ in 0..600 {
            let x = random.poisson(BASE_RATE * CANARY as f64);
            let y = random.poisson(BASE_RATE * CONTROL as f64);
            test.observe(x, CANARY, y, CONTROL);
        }
        false_alarms += u32::from(test.alarm());
    }
    assert!(false_alarms < 5, "{false_alarms} of 500");
}

#[test]
fn a_worse_canary_is_seen_within_few_bad_events() {
    for (times, events_median_max) in [(10.0, 8), (5.0, 13), (3.0, 23), (2.0, 45)] {
        let mut random = Random(times as u64);
        let mut events: Vec<u64> = (0..201)
            .map(|_| {
                let mut test = Sequential::new(ALPHA).with_overdispersion(1.0);
                let mut bad = 0;
                while !test.alarm() {
                    let x = random.poisson(times * BASE_RATE * CANARY as f64);
                    let y = random.poisson(BASE_RATE * CONTROL as f64);
                    test.observe(x, CANARY, y, CONTROL);
                    bad += x;
                }
                bad
            })
            .collect();
        events.sort_unstable();
        assert!(events[100] <= events_median_max, "{times}x was seen after {} bad events", events[100]);
    }
}

#[test]
fn a_better_canary_never_alarms_and_equal_sides_stay_near_one() {
    let mut test = Sequential::new(0.01).with_overdispersion(1.0);
    for _ in 0..1000 {
        test.observe(0, 100, 9, 900);
    }
    assert!(test.e_value() < 1e-6);
    let mut test = Sequential::new(0.01).with_overdispersion(1.0);
    for _ in 0..100 {
        test.observe(1, 100, 9, 900);
    }
    assert!(test.e_value() < 1.0, "{}", test.e_value());
}

#[test]
fn the_e_value_is_the_formula_of_the_page() {
    let mut test = Sequential::new(0.01).with_overdispersion(2.0);
    test.observe(3, 100, 2, 900);
    test.observe(1, 50, 4, 950);
    let expected: f64 = [1.5, 2.0, 3.0, 5.0, 10.0, 30.0]
        .iter()
        .map(|r: &f64| {
            let interval = |x: f64, n: f64, y: f64, m: f64| {
                let (p0, p) = (n / (n + m), r * n / (r * n + m));
                (p / p0).powf(x / 2.0) * ((1.0 - p) / (1.0 - p0)).powf(y / 2.0)
            };
            interval(3.0, 100.0, 2.0, 900.0) * interval(1.0, 50.0, 4.0, 950.0)
        })
        .sum::<f64>()
        / 6.0;
    assert!((test.e_value() / expected - 1.0).abs() < 1e-12, "{} is not {expected}", test.e_value());
}

#[test]
fn an_alarm_stays_and_state_survives_a_restart() {
    let mut test = Sequential::new(0.01).with_overdispersion(1.0);
    test.observe(50, 100, 9, 900);
    assert!(test.alarm());
    for _ in 0..500 {
        test.observe(0, 100, 9, 900);
    }
    assert!(test.alarm() && test.e_value() < 1.0);
    let json = serde_json::to_string(&test).unwrap();
    let again: Sequential = serde_json::from_str(&json).unwrap();
    assert_eq!((again.alarm(), serde_json::to_string(&again).unwrap()), (true, json));
}

#[test]
fn absurd_counts_stay_finite_and_silence_is_no_evidence() {
    let mut test = Sequential::new(0.01);
    test.observe(5, 0, 5, 10);
    test.observe(5, 10, 5, 0);
    assert!((test.e_value() - 1.0).abs() < 1e-12 && !test.alarm());
    for _ in 0..3 {
        test.observe(u64::MAX, u64::MAX, 0, 1);
        test.observe(u64::MAX, 1, u64::MAX, u64::MAX);
    }
    assert!(test.e_value().is_finite());
    test.observe(u64::MAX, 1_000_000, 0, 1_000_000);
    assert!(test.e_value().is_finite() && test.alarm());
    for alpha in [0.0, 1.0, -1.0, f64::NAN] {
        let mut test = Sequential::new(alpha);
        test.observe(1_000_000, 1_000_000, 0, 1_000_000);
        assert!(!test.alarm(), "α = {alpha} alarms never");
    }
}

#[test]
fn overdispersion_is_that_of_the_control_proxies() {
    let unknown = OVERDISPERSION_UNKNOWN;
    assert_eq!(overdispersion(&[[(1, 1000)]; 4]), unknown, "too few proxies");
    assert_eq!(overdispersion(&[[(1, 1000); 12]; 4]), unknown, "slots are no proxies");
    assert_eq!(overdispersion(&[[(1, 1000)], [(1, 1000)], [(1, 1000)], [(1, 1000)], [(0, 0)]]), unknown);
    assert_eq!(overdispersion(&[[(1, 1000)]; 9]), 1.0, "never below 1");
    assert_eq!(overdispersion(&[[(0, 1000)]; 9]), 1.0);
    assert_eq!(overdispersion(&[[(0, 999)], [(0, 999)], [(0, 999)], [(0, 999)], [(999, 999)]]), OVERDISPERSION_MAX);
    let mut random = Random(3);
    let proxies: Vec<_> = (0..200).map(|_| [(random.clumped(100.0, 6), 100_000)]).collect();
    let estimate = overdispersion(&proxies);
    assert!((5.0..7.0).contains(&estimate), "{estimate}");
}
