//! The order in which a rotation visits endpoints, compiled once.

/// Indexes of endpoints, in the order of turns.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Schedule(Vec<u32>);

/// Turns of a weighted schedule; weights are scaled down to fit.
const TURNS_MAX: u64 = 4096;

impl Schedule {
    /// Each endpoint that gets traffic once, from index 0.
    pub(crate) fn even(weights: &[u32]) -> Self {
        Self((0u32..).zip(weights).filter(|&(_, &weight)| weight > 0).map(|(index, _)| index).collect())
    }

    /// Smooth weighted rotation: turns of an endpoint are spread over the whole.
    pub(crate) fn weighted(weights: &[u32]) -> Self {
        let divisor = weights.iter().copied().fold(0, gcd).max(1);
        let total: u64 = weights.iter().map(|&weight| u64::from(weight / divisor)).sum();
        let scale = |weight: u32| match u64::from(weight / divisor) {
            0 => 0,
            weight if total <= TURNS_MAX => weight as i64,
            weight => (weight * TURNS_MAX / total).max(1) as i64,
        };
        let weights: Vec<i64> = weights.iter().map(|&weight| scale(weight)).collect();
        let total: i64 = weights.iter().sum();
        let mut credit = vec![0; weights.len()];
        let turns = (0..total).map(|_| {
            credit.iter_mut().zip(&weights).for_each(|(credit, weight)| *credit += weight);
            // The first of the highest.
            let next = (0..credit.len()).rev().max_by_key(|&index| credit[index]).unwrap_or(0);
            credit[next] -= total;
            next as u32
        });
        Self(turns.collect())
    }

    pub(crate) fn turns(&self) -> usize {
        self.0.len()
    }

    /// The endpoint of a turn; the schedule is not empty.
    pub(crate) fn at(&self, turn: usize) -> usize {
        self.0[turn % self.0.len()] as usize
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_become_a_smooth_schedule() {
        let check = |weights: &[u32], expected: &[u32]| assert_eq!(Schedule::weighted(weights).0, expected);
        check(&[1, 1, 1], &[0, 1, 2]);
        check(&[100, 100], &[0, 1]);
        check(&[5, 1, 1], &[0, 0, 1, 0, 2, 0, 0]);
        check(&[0, 2, 0], &[1]);
        check(&[0, 0], &[]);
    }

    #[test]
    fn huge_weights_keep_their_shares_in_a_bounded_schedule() {
        let schedule = Schedule::weighted(&[1_000_000, 333_333, 1]);
        assert!(schedule.turns() as u64 <= TURNS_MAX + 3);
        let count = |index| schedule.0.iter().filter(|&&turn| turn == index).count() as f64;
        assert!((count(0) / count(1) - 3.0).abs() < 0.01);
        assert_eq!(count(2), 1.0);
    }

    #[test]
    fn an_even_schedule_starts_at_index_0_and_leaves_out_weight_0() {
        assert_eq!(Schedule::even(&[1, 7, 0, 1]).0, [0, 1, 3]);
    }
}
