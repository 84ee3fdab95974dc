//! What an authority process is told at start: addresses, files and times. Nothing in here is config of the fleet.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use sealane_model::plan::Plan;

use crate::rollout::machine::Timing;

/// How an authority runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The data directory; made if it is missing.
    pub data: PathBuf,
    /// Where gRPC listens; port 0: any.
    pub grpc_addr: SocketAddr,
    /// Where HTTP listens; port 0: any.
    pub http_addr: SocketAddr,
    /// No tokens asked for; loopback only.
    pub dev: bool,
    /// Files of the server certificate, for both listeners.
    pub tls: Option<TlsFiles>,
    /// Names (DNS or IP) for which the authority issues itself a server certificate from `DIR/ca.pem`. Empty: none.
    /// Not together with [`Settings::tls`].
    pub tls_name: Vec<String>,
    /// Lets a listener bind a non-loopback address without TLS, with a warning at each start. For development.
    pub insecure_admin: bool,
    /// Plan of files without `rollout:`; `None`: the four stages of [`Plan::default`].
    pub default_plan: Option<Plan>,
    /// People beside the author who must approve each publish; 0: none.
    pub approvals_min: u32,
    /// A folder of `*.rego` files that every config must keep.
    pub policy_dir: Option<PathBuf>,
    /// Times of the control plane.
    pub tuning: Tuning,
}

/// Files of a server certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM chain, leaf first.
    pub cert: PathBuf,
    /// PEM key.
    pub key: PathBuf,
    /// PEM of a client CA: with it, *every* client must present a certificate of this CA or of the fleet's own,
    /// beside its token.
    pub client_ca: Option<PathBuf>,
}

/// Times of the control plane. The defaults are what design page "Control plane" says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Between beacons on a subscription; at most 10 s.
    pub beacon_interval: Duration,
    /// From the signing of a timestamp document to its expiry.
    pub timestamp_lifetime: Duration,
    /// Between two looks of the rollout machine when nothing happens.
    pub tick: Duration,
    /// Times of the rollout machine.
    pub rollout: Timing,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            beacon_interval: Duration::from_secs(10),
            timestamp_lifetime: Duration::from_secs(60),
            tick: Duration::from_secs(1),
            rollout: Timing::default(),
        }
    }
}

impl Settings {
    /// Settings for `data` with both listeners on any free loopback port, tokens on, no TLS.
    #[must_use]
    pub fn loopback(data: impl Into<PathBuf>) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            data: data.into(),
            grpc_addr: any,
            http_addr: any,
            dev: false,
            tls: None,
            tls_name: Vec::new(),
            insecure_admin: false,
            default_plan: None,
            approvals_min: 0,
            policy_dir: None,
            tuning: Tuning::default(),
        }
    }

    /// Whether the listeners speak TLS.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        self.tls.is_some() || !self.tls_name.is_empty()
    }
}
