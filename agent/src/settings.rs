//! What an agent process is told when it starts: its flags and environment, never the fleet's config.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Settings of one agent.
#[derive(Clone, Debug)]
pub struct Settings {
    /// 1 to 128 characters; `None`: the id in the state directory, at first start the host name.
    pub id: Option<String>,
    /// The region its proxies are in; waves go by it.
    pub region: String,
    /// URL of the authority, `http://` on loopback or `https://`.
    pub authority: String,
    /// The trust root document (DSSE JSON) that came by a trusted way.
    pub trust: PathBuf,
    /// State directory.
    pub data: PathBuf,
    /// Bearer token; over TLS it enrols the agent once.
    pub token: Option<String>,
    /// A file with that token; read again on each connection. Rules over `token`.
    pub token_file: Option<PathBuf>,
    /// PEM of the CA that signed the authority's certificate.
    pub ca_file: Option<PathBuf>,
    /// Where proxies attach. Beyond loopback over mutual TLS, for which the authority must be reached over TLS.
    pub grpc_addr: SocketAddr,
    /// Control listeners of proxies to call: `host:port` (plain on loopback, else over mutual TLS), or a URL.
    pub push: Vec<String>,
    /// Unix socket on which proxies attach; `None`: `agent.sock` in the state directory.
    pub socket: Option<PathBuf>,
    /// Pull endpoint, health and metrics. Beyond loopback over mutual TLS.
    pub http_addr: SocketAddr,
    /// Lets `http_addr` be reachable from other machines without TLS.
    pub insecure_admin: bool,
}

impl Settings {
    /// Settings with the default addresses.
    #[must_use]
    pub fn new(region: &str, authority: &str, trust: PathBuf, data: PathBuf) -> Self {
        Self {
            id: None,
            region: region.to_owned(),
            authority: authority.to_owned(),
            trust,
            data,
            token: None,
            token_file: None,
            ca_file: None,
            grpc_addr: SocketAddr::from(([127, 0, 0, 1], 7444)),
            push: Vec::new(),
            socket: None,
            http_addr: SocketAddr::from(([127, 0, 0, 1], 7481)),
            insecure_admin: false,
        }
    }
}

/// Longest id of an agent, proxy or region, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 128;

/// Whether `name` can be an id: ASCII letters, digits or any of `-_.:`, not empty.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
}
