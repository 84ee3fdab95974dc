//! Cohorts without coordination: every proxy has a rank per release, and a stage is everyone up to a cut.
//!
//! It does not know waves, regions or who is alive. Cohorts only grow: a higher share never gives a lower cut.

use crate::ids::{Digest, ProxyId};

/// First 8 bytes (big endian) of SHA-256(release digest ‖ proxy id).
#[must_use]
pub fn rank(release: &Digest, proxy: &ProxyId) -> u64 {
    let digest = Digest::of(&[&release.0, proxy.0.as_bytes()].concat());
    digest.0.iter().take(8).fold(0, |rank, byte| rank << 8 | u64::from(*byte))
}

/// The cut that covers the ⌈percent·N⌉ lowest of `ranks`, at least one; `u64::MAX` at 100 % (late joiners are in).
/// `None` when there are no ranks and the share is below 100 %.
#[must_use]
pub fn cut(percent: f64, ranks: &[u64]) -> Option<u64> {
    if percent >= 100.0 {
        return Some(u64::MAX);
    }
    let mut sorted = ranks.to_vec();
    sorted.sort_unstable();
    // The nudge keeps a product that is a whole number on paper from being rounded up for its last bit.
    let covered = (percent * ranks.len() as f64 / 100.0 - 1e-9).ceil();
    let covered = (covered as usize).clamp(1, ranks.len().max(1));
    sorted.get(covered - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(proxies: usize) -> Vec<u64> {
        (0..proxies).map(|n| rank(&Digest([9; 32]), &ProxyId(format!("edge-{n}")))).collect()
    }

    fn covered(percent: f64, ranks: &[u64]) -> usize {
        let cut = cut(percent, ranks).unwrap();
        ranks.iter().filter(|rank| **rank <= cut).count()
    }

    #[test]
    fn a_rank_is_the_head_of_the_hash_and_differs_by_release() {
        let proxy = ProxyId("edge-1".into());
        let mut bytes = vec![9; 32];
        bytes.extend(b"edge-1");
        let head = u64::from_be_bytes(Digest::of(&bytes).0[..8].try_into().unwrap());
        assert_eq!(rank(&Digest([9; 32]), &proxy), head);
        assert_ne!(rank(&Digest([8; 32]), &proxy), head);
    }

    #[test]
    fn a_stage_covers_its_share_rounded_up_and_at_least_one() {
        for (percent, proxies, expected) in [
            (1.0, 6, 1),
            (1.0, 100, 1),
            (1.0, 101, 2),
            (10.0, 30, 3),
            (29.0, 100, 29),
            (0.07, 10_000, 7),
            (50.0, 7, 4),
            (99.9, 5, 5),
            (100.0, 5, 5),
            (0.0, 5, 1),
            (f64::NAN, 5, 1),
        ] {
            assert_eq!(covered(percent, &fleet(proxies)), expected, "{percent} % of {proxies}");
        }
    }

    #[test]
    fn cohorts_only_grow() {
        let ranks = fleet(137);
        let cuts: Vec<_> = (1..=1000).map(|tenth| cut(f64::from(tenth) / 10.0, &ranks).unwrap()).collect();
        assert!(cuts.is_sorted());
    }

    #[test]
    fn everyone_is_everyone_and_nobody_has_no_cut() {
        assert_eq!(cut(100.0, &[]), Some(u64::MAX));
        assert_eq!(cut(100.0, &fleet(3)), Some(u64::MAX), "who joins late is in");
        assert_eq!(cut(99.0, &[]), None);
    }
}
