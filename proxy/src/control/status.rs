//! What a proxy says of itself: what it was told and did ([`v1::ProxyStatus`] as the applier keeps it), and what the
//! data plane measures at the moment of saying it.

use sealane_proto::v1;

use super::refusal::Refusals;
use crate::proxy::{Proxy, RevisionObservation, RevisionTag};

/// Fills in measurements.
#[derive(Clone, Debug)]
pub(crate) struct Measure {
    pub(crate) proxy: Proxy,
    pub(crate) refusals: Refusals,
}

impl Measure {
    /// `status` with what is measured now.
    pub(crate) fn fill(&self, status: v1::ProxyStatus) -> v1::ProxyStatus {
        let observation = self.proxy.observe();
        // Number 0: what somebody applied here in place of the fleet's.
        let active = observation.active.as_ref();
        v1::ProxyStatus {
            ready: observation.ready && observation.listeners_ok,
            active_digest: active.map(digest).unwrap_or_default(),
            active_revision: active.map_or(0, |tag| tag.number),
            counts: observation.revisions.iter().map(counts).collect(),
            data_address: self.proxy.bound().first().map(|(_, address)| address.to_string()).unwrap_or_default(),
            refused_bundles: self.refusals.total(),
            refused: self.refusals.counts().into_iter().map(refused).collect(),
            ..status
        }
    }
}

fn refused((code, count): (&'static str, u64)) -> v1::RefusedCount {
    v1::RefusedCount { code: code.to_owned(), count }
}

fn digest(tag: &RevisionTag) -> Vec<u8> {
    tag.digest.to_vec()
}

fn counts(observed: &RevisionObservation) -> v1::RevisionCounts {
    let filled = observed.latency.iter().enumerate().filter(|(_, count)| **count > 0);
    let (latency_bucket, latency_count) = filled.map(|(bucket, count)| (bucket as u32, *count)).unzip();
    v1::RevisionCounts {
        revision: observed.revision.number,
        release_digest: digest(&observed.revision),
        requests: observed.requests,
        failed: observed.failed,
        refused: observed.client_errors,
        connect_failures: observed.connect_failures,
        latency_bucket,
        latency_count,
    }
}
