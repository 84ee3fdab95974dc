//! Bounds how often one address may guess the admin token: after a few wrong ones it is locked out for a while, and told
//! for how long. A request without a token is no guess.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;
use std::time::Duration;

use crate::metrics::lock;

/// Wrong tokens within [`MEMORY`] after which an address is locked out.
const GUESSES_MAX: u32 = 10;
/// How long an address is locked out, and how long its guesses are remembered.
const MEMORY: Duration = Duration::from_secs(60);
/// Addresses that are remembered; those beyond share one memory.
const ADDRESSES_MAX: usize = 1024;

/// Who has guessed wrong lately.
#[derive(Debug, Default)]
pub(super) struct Lockout {
    by_address: Mutex<HashMap<IpAddr, Guesses>>,
}

#[derive(Clone, Copy, Debug)]
struct Guesses {
    wrong: u32,
    /// Of the last one, in milliseconds of [`crate::clock::Moment`].
    at_ms: u64,
}

impl Guesses {
    fn left_ms(self, now_ms: u64) -> u64 {
        (self.at_ms + MEMORY.as_millis() as u64).saturating_sub(now_ms)
    }
}

impl Lockout {
    /// For how many milliseconds the address is locked out; `None`: it is not.
    pub(super) fn locked_ms(&self, address: IpAddr, now_ms: u64) -> Option<u64> {
        let by_address = lock(&self.by_address);
        let guesses = by_address.get(&address).or_else(|| by_address.get(&SHARED).filter(|_| is_full(&by_address)));
        let left_ms = guesses.filter(|guesses| guesses.wrong >= GUESSES_MAX)?.left_ms(now_ms);
        (left_ms > 0).then_some(left_ms)
    }

    /// The address sent a wrong token.
    pub(super) fn guessed_wrong(&self, address: IpAddr, now_ms: u64) {
        let mut by_address = lock(&self.by_address);
        if !by_address.contains_key(&address) && is_full(&by_address) {
            by_address.retain(|_, guesses| guesses.left_ms(now_ms) > 0);
        }
        let key = if by_address.contains_key(&address) || !is_full(&by_address) { address } else { SHARED };
        let guesses = by_address.entry(key).or_insert(Guesses { wrong: 0, at_ms: now_ms });
        if guesses.left_ms(now_ms) == 0 {
            guesses.wrong = 0;
        }
        *guesses = Guesses { wrong: guesses.wrong.saturating_add(1), at_ms: now_ms };
    }
}

const SHARED: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

fn is_full(by_address: &HashMap<IpAddr, Guesses>) -> bool {
    by_address.len() >= ADDRESSES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_guesses_too_often_is_locked_out_for_a_while_and_others_are_not() {
        let lockout = Lockout::default();
        let (guesser, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        for guess in 0..u64::from(GUESSES_MAX) {
            assert_eq!(lockout.locked_ms(guesser, guess), None);
            lockout.guessed_wrong(guesser, guess);
        }
        assert_eq!(lockout.locked_ms(guesser, 9), Some(60_000));
        assert_eq!(lockout.locked_ms(other, 9), None);
        assert_eq!(lockout.locked_ms(guesser, 60_009), None);
        lockout.guessed_wrong(guesser, 60_009);
        assert_eq!(lockout.locked_ms(guesser, 60_009), None);
    }

    #[test]
    fn a_flood_of_addresses_takes_bounded_memory_and_is_locked_out_together() {
        let lockout = Lockout::default();
        for number in 0..10_000u32 {
            lockout.guessed_wrong(IpAddr::from(number.to_be_bytes()), 1);
        }
        assert!(lock(&lockout.by_address).len() <= ADDRESSES_MAX + 1);
        assert!(lockout.locked_ms(IpAddr::from([200, 0, 0, 1]), 1).is_some());
    }
}
