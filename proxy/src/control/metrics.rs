//! What the control side counts, as Prometheus text beside the data plane's own.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sealane_node::keyring::Keyring;
use sealane_proto::v1;
use tokio::sync::watch;

use super::poll::Counts;
use super::refusal::Refusals;

/// Where the numbers come from. Holds no part of the data plane, which holds this, and nothing that a
/// stopped control side must let go of (the state directory, a listener).
#[derive(Debug)]
pub(super) struct ControlMetrics {
    pub(super) status: watch::Receiver<v1::ProxyStatus>,
    pub(super) attached: watch::Receiver<bool>,
    pub(super) refusals: Refusals,
    /// Of a proxy that speaks to its agent over TLS.
    pub(super) keyring: Option<Keyring>,
    /// Of a proxy that polls.
    pub(super) polls: Option<Arc<Counts>>,
}

impl ControlMetrics {
    pub(super) fn text(&self) -> String {
        let status = self.status.borrow().clone();
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, samples: Vec<(String, u64)>| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in samples {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        let one = |value: u64| vec![(String::new(), value)];
        let attached = u64::from(*self.attached.borrow());
        family("sealane_proxy_attached", "gauge", "Whether the agent's stream is open.", one(attached));
        family("sealane_proxy_generation", "gauge", "Newest command carried out.", one(status.generation));
        let revisions = vec![
            ("{role=\"prepared\"}".to_owned(), status.prepared_revision),
            ("{role=\"last_good\"}".to_owned(), status.last_good_revision),
        ];
        family("sealane_proxy_revision", "gauge", "Revision held beside the active one; 0: none.", revisions);
        let refused = self.refusals.counts().into_iter().map(|(code, count)| (format!("{{code=\"{code}\"}}"), count));
        let help = "Commands and content refused, by code.";
        family("sealane_proxy_refused_bundles_total", "counter", help, refused.collect());
        let until = self.keyring.as_ref().and_then(Keyring::expiry_unix_ms);
        let until = until.and_then(|unix_ms| u64::try_from(unix_ms / 1000).ok());
        let help = "When this proxy's certificate of the fleet's CA expires; absent without one.";
        let until = until.into_iter().map(|seconds| (String::new(), seconds)).collect();
        family("sealane_proxy_certificate_expiry_timestamp_seconds", "gauge", help, until);
        if let Some(counts) = &self.polls {
            let count =
                |result: &str, count: &AtomicU64| (format!("{{result=\"{result}\"}}"), count.load(Ordering::Relaxed));
            let polls = vec![
                count("changed", &counts.changed),
                count("unchanged", &counts.unchanged),
                count("failed", &counts.failed),
            ];
            family("sealane_proxy_polls_total", "counter", "Polls of an agent or a folder.", polls);
            let last = u64::try_from(counts.last_success_unix_ms.load(Ordering::Relaxed) / 1000).unwrap_or(0);
            let help = "Unix time of the last poll that was answered; 0: none yet.";
            family("sealane_proxy_poll_last_success_timestamp_seconds", "gauge", help, one(last));
        }
        text
    }
}
