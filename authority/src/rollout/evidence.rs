//! What both sides counted while a stage was open. Counters of proxies are cumulative and start again with a new
//! process; here they become differences.

use std::collections::BTreeMap;

use sealane_model::gate::Counts;
use sealane_model::ids::{Digest, ProxyId};

use crate::fleet::Proxy;
use crate::slim::Slim;

/// One side of the comparison: proxies and what they counted for one release since they were first looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Side {
    tallies: BTreeMap<ProxyId, Tally>,
}

#[derive(Clone, Debug)]
struct Tally {
    instance: String,
    last: Slim,
    /// Since it was first looked at, without latency.
    sum: Counts,
    /// Since the last interval.
    new: Counts,
}

impl Side {
    /// Takes in what a proxy says now. The first look at a proxy only sets where counting starts.
    pub(crate) fn observe(&mut self, id: &ProxyId, proxy: &Proxy, release: &Digest) {
        let now = proxy.counts_of(release);
        let Some(tally) = self.tallies.get_mut(id) else {
            let last = now.as_ref().map(Slim::from).unwrap_or_default();
            let tally =
                Tally { instance: proxy.instance.clone(), last, sum: Counts::default(), new: Counts::default() };
            self.tallies.insert(id.clone(), tally);
            return;
        };
        let is_same = tally.instance == proxy.instance;
        let last = Counts::from(&tally.last);
        match now {
            // Older than what was heard: it came late.
            Some(now) if is_same && (now == last || now.requests < last.requests) => return,
            Some(now) => {
                tally.last = Slim::from(&now);
                let new = if is_same { now.since(&last) } else { now };
                tally.new.add(&new);
                tally.sum.add(&Counts { latency: Vec::new(), ..new });
            }
            // A new process that has not served it yet.
            None if !is_same => tally.last = Slim::default(),
            None => return,
        }
        tally.instance.clone_from(&proxy.instance);
    }

    /// What was counted since this was asked last, over the proxies that `counts` picks, and how many those are.
    pub(crate) fn take(&mut self, counts: impl Fn(&ProxyId) -> bool) -> (Counts, u32) {
        let (mut sum, mut proxies) = (Counts::default(), 0);
        for (id, tally) in &mut self.tallies {
            let new = std::mem::take(&mut tally.new);
            if counts(id) {
                sum.add(&new);
                proxies += 1;
            }
        }
        (sum, proxies)
    }

    /// Proxies whose own share of failures is above `limit`, worst first, at most `max`.
    pub(crate) fn worst(&self, limit: f64, max: usize) -> Vec<String> {
        let mut rates: Vec<(f64, &ProxyId)> = self
            .tallies
            .iter()
            .filter_map(|(id, tally)| Some((tally.sum.error_rate()?, id)))
            .filter(|(rate, _)| *rate > limit)
            .collect();
        rates.sort_by(|one, other| other.0.total_cmp(&one.0).then_with(|| one.1.cmp(other.1)));
        rates.into_iter().take(max).map(|(_, id)| id.0.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Live;
    use sealane_proto::v1;

    /// Instance, and requests so far.
    type Reports<'a> = &'a [(&'a str, Option<u64>)];

    /// What one proxy adds up to over these reports.
    fn counted(reports: Reports<'_>) -> u64 {
        let release = Digest::of(b"release");
        let id = ProxyId("p".into());
        let mut side = Side::default();
        for (instance, requests) in reports {
            let counts = requests.map(|requests| v1::RevisionCounts {
                release_digest: release.to_vec(),
                requests,
                ..Default::default()
            });
            let status = v1::ProxyStatus {
                proxy_id: "p".into(),
                instance: (*instance).into(),
                counts: counts.into_iter().collect(),
                ..Default::default()
            };
            let report = v1::ReportRequest {
                agent_id: "a".into(),
                instance: "one".into(),
                proxies: vec![status],
                ..Default::default()
            };
            let mut live = Live::default();
            live.hear(0, &report, None).unwrap();
            side.observe(&id, live.proxy(&id).unwrap(), &release);
        }
        side.take(|_| true).0.requests
    }

    #[test]
    fn counters_that_start_again_with_a_new_process_are_not_lost_and_not_counted_twice() {
        let cases: &[(Reports<'_>, u64)] = &[
            (&[("one", Some(70)), ("one", Some(100))], 30),
            (&[("one", None), ("one", Some(5)), ("one", Some(9))], 9),
            (&[("one", Some(70)), ("one", Some(100)), ("two", Some(10)), ("two", Some(15))], 45),
            (&[("one", Some(70)), ("two", None), ("two", Some(20))], 20),
            (&[("one", Some(70)), ("one", None), ("one", Some(71))], 1),
            (&[("one", Some(70)), ("two", Some(90))], 90),
            (&[("one", Some(70)), ("one", Some(90)), ("one", Some(80)), ("one", Some(95))], 25),
        ];
        for (reports, expected) in cases {
            assert_eq!(counted(reports), *expected, "{reports:?}");
        }
    }
}
