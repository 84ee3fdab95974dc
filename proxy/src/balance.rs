//! Picks an endpoint of a pool. Takes time and randomness as arguments; reads live state, changes only the rotation.

use std::cell::Cell;

use sealane_model::config::Balancer;

use crate::clock::Moment;
use crate::live::Rotation;
use crate::snapshot::CompiledPool;

/// What picking looks at besides the pool.
#[derive(Debug)]
pub(crate) struct Pick<'a> {
    pub(crate) rotation: &'a Rotation,
    pub(crate) now: Moment,
    /// Any number.
    pub(crate) random: u64,
    /// Hash of what the pool's balancer looks at in the request; 0 for the others.
    pub(crate) hash: u64,
    /// Endpoints that this request has tried.
    pub(crate) tried: &'a [u32],
    /// Set where it passes although no endpoint is healthy.
    pub(crate) trickled: Cell<bool>,
}

/// Why there is no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoEndpoint {
    /// None is healthy, and the trickle has had its turn.
    NoneHealthy,
    /// All that are healthy have been tried.
    AllTried,
}

impl Pick<'_> {
    /// Picks an endpoint that is available and was not tried; without one, a trickle of requests passes all the same.
    pub(crate) fn endpoint(&self, pool: &CompiledPool) -> Result<usize, NoEndpoint> {
        let now_ms = self.now.millis();
        // The common case: one endpoint, or the next turn is available.
        let usable = |endpoint: usize| {
            pool.endpoints[endpoint].live.is_available(now_ms) && !self.tried.contains(&(endpoint as u32))
        };
        if let Some(endpoint) = self.choose(pool, &usable) {
            return Ok(endpoint);
        }
        let any_available = pool.endpoints.iter().any(|endpoint| endpoint.live.is_available(now_ms));
        if any_available || !self.tried.is_empty() {
            return Err(NoEndpoint::AllTried);
        }
        if pool.live.trickle(pool.trickle_per_second, self.now) {
            self.trickled.set(true);
            return self.choose(pool, &|_| true).ok_or(NoEndpoint::NoneHealthy);
        }
        Err(NoEndpoint::NoneHealthy)
    }

    fn choose(&self, pool: &CompiledPool, usable: &impl Fn(usize) -> bool) -> Option<usize> {
        match pool.balancer {
            Balancer::RoundRobin | Balancer::WeightedRoundRobin => self.rotate(pool, usable),
            Balancer::Random => {
                let usable = usable_endpoints(pool, usable);
                let count = usable.clone().count();
                usable.into_iter().nth(below(self.random, count)?)
            }
            Balancer::LeastConnections => least_busy(pool, usable_endpoints(pool, usable), self.random),
            Balancer::PowerOfTwoChoices => {
                let usable = usable_endpoints(pool, usable);
                let count = usable.clone().count();
                let first = usable.clone().nth(below(self.random, count)?)?;
                let others = usable.filter(|&endpoint| endpoint != first);
                let second = below(self.random >> 32, count - 1).and_then(|index| others.clone().nth(index));
                least_busy(pool, [first].into_iter().chain(second), self.random)
            }
            // Rendezvous hashing: only the keys of an endpoint that comes or goes move.
            Balancer::IpHash | Balancer::ConsistentHash(_) => {
                usable_endpoints(pool, usable).max_by(|&a, &b| self.score(pool, a).total_cmp(&self.score(pool, b)))
            }
        }
    }

    /// Takes turns until one is usable, so that what an unusable endpoint leaves is spread evenly over the others.
    fn rotate(&self, pool: &CompiledPool, usable: &impl Fn(usize) -> bool) -> Option<usize> {
        let turns = pool.schedule.turns();
        if turns == 1 {
            return Some(pool.schedule.at(0)).filter(|&endpoint| usable(endpoint));
        }
        let first = pool.schedule.at(self.rotation.next());
        if usable(first) {
            return Some(first);
        }
        usable_endpoints(pool, usable).next()?;
        (0..turns).map(|_| pool.schedule.at(self.rotation.next())).find(|&endpoint| usable(endpoint))
    }

    /// Weighted rendezvous score of the request's key at an endpoint: -weight / ln(u) for a uniform u.
    fn score(&self, pool: &CompiledPool, endpoint: usize) -> f64 {
        let endpoint = &pool.endpoints[endpoint];
        let mixed = mix(self.hash ^ fnv(endpoint.address.as_bytes()));
        let uniform = ((mixed >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -f64::from(endpoint.weight) / uniform.ln()
    }
}

fn usable_endpoints<'a>(
    pool: &'a CompiledPool,
    usable: &'a impl Fn(usize) -> bool,
) -> impl Iterator<Item = usize> + Clone + 'a {
    (0..pool.endpoints.len()).filter(move |&endpoint| pool.endpoints[endpoint].weight > 0 && usable(endpoint))
}

/// The endpoint with the fewest requests in flight for its weight; ties go round by chance.
fn least_busy(pool: &CompiledPool, endpoints: impl Iterator<Item = usize>, random: u64) -> Option<usize> {
    let load = |endpoint: usize| {
        let endpoint = &pool.endpoints[endpoint];
        (endpoint.live.busy() + 1) as f64 / f64::from(endpoint.weight.max(1))
    };
    endpoints
        .min_by(|&a, &b| load(a).total_cmp(&load(b)).then_with(|| mix(random ^ a as u64).cmp(&mix(random ^ b as u64))))
}

fn below(random: u64, count: usize) -> Option<usize> {
    (count > 0).then(|| (random % count.max(1) as u64) as usize)
}

/// FNV-1a, for keys that must mean the same on every node.
pub(crate) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The finaliser of splitmix64.
pub(crate) const fn mix(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
