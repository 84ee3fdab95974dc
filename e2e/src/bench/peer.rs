//! The proxies that are compared: each before the same origin, with one worker, plain and over TLS.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::place::Place;
use super::token;
use crate::fleet::free_address;

/// A started proxy; ends when dropped.
#[derive(Debug)]
pub struct Peer {
    /// As the report calls it.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Where it speaks plain HTTP.
    pub plain: SocketAddr,
    /// Where it speaks TLS.
    pub secure: SocketAddr,
    /// Its config, where another one can be put in its place.
    pub config: Option<PathBuf>,
    child: Child,
}

/// What all peers need.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// For configs and logs.
    pub directory: PathBuf,
    /// PEM, certificate and key for `localhost`.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
    /// The origin.
    pub origin: SocketAddr,
    /// For proxies.
    pub proxy: Place,
    /// For whoever asks them.
    pub load: Place,
    /// A line of a request that routes which ask for a token let pass.
    pub authorization: std::sync::Arc<str>,
}

impl Surroundings {
    /// Makes the files in `directory`.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn make(directory: &Path, origin: SocketAddr, (proxy, load): (Place, Place)) -> io::Result<(Self, String)> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).map_err(io::Error::other)?;
        let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
        fs::write(&certificate, made.cert.pem())?;
        fs::write(&key, made.signing_key.serialize_pem())?;
        let (keys, token) = token::make()?;
        fs::write(directory.join("jwks.json"), keys)?;
        let authorization = format!("Authorization: Bearer {token}\r\n").into();
        let directory = directory.to_owned();
        Ok((Self { directory, certificate, key, origin, proxy, load, authorization }, made.cert.pem()))
    }
}

/// What a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sealane.
    Own,
    /// Another proxy.
    Other,
    /// No proxy: [`super::relay`].
    Relay,
}

impl Peer {
    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            // With its workers, which outlive a parent that is killed. One that has ended already needs no signal.
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// Sealane itself, with a few routes, metrics, timeouts and a JSON access log to a file.
///
/// # Errors
/// It does not start.
pub async fn sealane(name: &str, program: &Path, around: &Surroundings) -> io::Result<Peer> {
    let (plain, secure) = (free_address(), free_address());
    let path = around.directory.join(format!("{name}.yaml"));
    fs::write(&path, sealane_config(around, plain, secure, 0))?;
    let mut command = Command::new(program);
    command.args(["run", "--threads", "1", "--admin", "off"]).arg(&path);
    start(name, command, around, (plain, secure), Some(path)).await
}

/// The config of [`sealane`]; another `version` is another config.
#[must_use]
pub fn sealane_config(around: &Surroundings, plain: SocketAddr, secure: SocketAddr, version: u32) -> String {
    let (certificate, key, origin) = (around.certificate.display(), around.key.display(), around.origin);
    let (jwks, issuer) = (around.directory.join("jwks.json"), token::ISSUER);
    let jwks = jwks.display();
    format!(
        "version: 1
listeners:
  - {{ name: plain, address: \"{plain}\" }}
  - {{ name: secure, address: \"{secure}\", tls: true }}
tls:
  certificates: [{{ sni: localhost, cert_file: {certificate}, key_file: {key} }}]
limits: {{ max_connections: 60000, max_connections_per_client: 60000 }}
logging: {{ access: stdout, format: json }}
middleware:
  - id: chain
    stages:
      - {{ type: request_id }}
      - {{ type: auth, config: {{ jwt: {{ issuer: '{issuer}', audience: api, jwks_file: '{jwks}' }} }} }}
      - {{ type: rate_limit, config: {{ requests_per_second: 1000000, burst: 1000000 }} }}
      - {{ type: header_transform, config: {{ set: {{ X-Proxy: sealane }}, response: {{ set: {{ X-Served-By: sealane }} }} }} }}
      - {{ type: access_log }}
cache: {{ rules: [{{ path_prefix: /m/cached, ttl: 1h }}] }}
routes:
  - {{ id: api, host: api.example.com, path_prefix: /v1/, pool: origin }}
  - {{ id: version, path: /version-{version}, pool: origin }}
  - {{ id: chain, path_prefix: /s/chain, pool: origin, middleware: chain, policy: {{ timeout: 30s }} }}
  - {{ id: all, path_prefix: /, pool: origin, policy: {{ timeout: 30s }} }}
pools:
  - {{ id: origin, endpoints: [\"{origin}\"], connections: {{ max_idle: 512 }} }}
"
    )
}

/// nginx, if it is installed: as its users run it before an HTTP/1.1 origin, without an access log.
///
/// # Errors
/// It is installed but does not start.
pub async fn nginx(around: &Surroundings) -> io::Result<Option<Peer>> {
    let Some(program) = installed("nginx") else { return Ok(None) };
    let version = Command::new(&program).arg("-v").output()?;
    let text = String::from_utf8_lossy(&version.stderr).into_owned();
    let numbers: Vec<u32> =
        text.rsplit('/').next().unwrap_or("").split(['.', ' ', '\n']).map_while(|number| number.parse().ok()).collect();
    // `http2 on` since 1.25.1; before that a parameter of `listen`.
    let (of_listen, directive) = if numbers >= vec![1, 25, 1] { ("", "http2 on;") } else { (" http2", "") };
    let (plain, secure) = (free_address(), free_address());
    let dir = around.directory.display();
    let (certificate, key, origin) = (around.certificate.display(), around.key.display(), around.origin);
    let config = format!(
        "daemon off; pid {dir}/nginx.pid; worker_processes 1; worker_rlimit_nofile 65000; error_log /dev/null crit;\n\
         events {{ worker_connections 30000; use epoll; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 300s; tcp_nodelay on;\n\
         client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3; uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;\n\
         upstream origin {{ server {origin}; keepalive 512; keepalive_requests 1000000000; }}\n\
         ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:S:10m; ssl_buffer_size 16k;\n\
         server {{ listen {plain} reuseport backlog=4096; listen {secure} ssl{of_listen} reuseport backlog=4096; {directive}\n\
         location / {{ proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $http_host;\n\
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_buffer_size 16k; proxy_buffers 8 32k; proxy_max_temp_file_size 0; }} }} }}\n"
    );
    let path = around.directory.join("nginx.conf");
    fs::write(&path, config)?;
    let mut command = Command::new(program);
    command.arg("-c").arg(&path);
    start("nginx", command, around, (plain, secure), None).await.map(Some)
}

/// HAProxy, if it is installed.
///
/// # Errors
/// It is installed but does not start.
pub async fn haproxy(around: &Surroundings) -> io::Result<Option<Peer>> {
    let Some(program) = installed("haproxy") else { return Ok(None) };
    let (plain, secure) = (free_address(), free_address());
    let both = around.directory.join("both.pem");
    fs::write(&both, [fs::read(&around.certificate)?, fs::read(&around.key)?].concat())?;
    let (both, origin) = (both.display(), around.origin);
    let config = format!(
        "global\n nbthread 1\n maxconn 25000\n no strict-limits\ndefaults\n mode http\n timeout connect 5s\n timeout client 300s\n timeout server 60s\n \
         option http-keep-alive\n http-reuse always\n option forwardfor\n option splice-response\n\
         frontend f\n bind {plain} backlog 4096\n bind {secure} ssl crt {both} alpn h2,http/1.1 backlog 4096\n default_backend b\n\
         backend b\n balance roundrobin\n server s1 {origin} pool-max-conn -1\n"
    );
    let path = around.directory.join("haproxy.cfg");
    fs::write(&path, config)?;
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(&path);
    start("haproxy", command, around, (plain, secure), None).await.map(Some)
}

/// Envoy, if it is installed.
///
/// # Errors
/// It is installed but does not start.
pub async fn envoy(around: &Surroundings) -> io::Result<Option<Peer>> {
    let Some(program) = installed("envoy") else { return Ok(None) };
    let (plain, secure) = (free_address(), free_address());
    let config = format!(
        "static_resources:\n  listeners:\n{}{}  clusters:\n  - name: origin\n    type: STATIC\n    connect_timeout: 5s\n    circuit_breakers: \
         {{ thresholds: [{{ max_connections: 100000, max_pending_requests: 100000, max_requests: 100000 }}] }}\n    load_assignment: \
         {{ cluster_name: origin, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }} }}] }}] }}\n",
        envoy_listener("plain", plain, None),
        envoy_listener("secure", secure, Some(around)),
        around.origin.ip(),
        around.origin.port(),
    );
    let path = around.directory.join("envoy.yaml");
    fs::write(&path, config)?;
    let mut command = Command::new(program);
    command.args(["--concurrency", "1", "-l", "critical", "--disable-hot-restart", "-c"]).arg(&path);
    start("envoy", command, around, (plain, secure), None).await.map(Some)
}

fn envoy_listener(name: &str, address: SocketAddr, tls: Option<&Surroundings>) -> String {
    let tls = tls.map_or_else(String::new, |around| {
        format!(
            "      transport_socket:\n        name: envoy.transport_sockets.tls\n        typed_config:\n          \"@type\": \
             type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n          common_tls_context: \
             {{ alpn_protocols: [h2, http/1.1], tls_params: {{ tls_maximum_protocol_version: TLSv1_3 }}, tls_certificates: \
             [{{ certificate_chain: {{ filename: {} }}, private_key: {{ filename: {} }} }}] }}\n",
            around.certificate.display(),
            around.key.display()
        )
    });
    format!(
        "  - name: {name}\n    address: {{ socket_address: {{ address: {}, port_value: {} }} }}\n    enable_reuse_port: true\n    filter_chains:\n    \
         - filters:\n      - name: envoy.filters.network.http_connection_manager\n        typed_config:\n          \"@type\": \
         type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          stat_prefix: i\n          \
         codec_type: AUTO\n          use_remote_address: true\n          generate_request_id: false\n          route_config: {{ virtual_hosts: [{{ name: v, \
         domains: [\"*\"], routes: [{{ match: {{ prefix: \"/\" }}, route: {{ cluster: origin, timeout: 60s }} }}] }}] }}\n          http_filters:\n          \
         - name: envoy.filters.http.router\n            typed_config: {{ \"@type\": \
         type.googleapis.com/envoy.extensions.filters.http.router.v3.Router, suppress_envoy_headers: true }}\n{tls}",
        address.ip(),
        address.port(),
    )
}

/// The relay, as a process of its own: `program` runs [`super::relay::run`] when it is asked to.
///
/// # Errors
/// It does not start.
pub async fn relay(program: &Path, around: &Surroundings) -> io::Result<Peer> {
    let address = free_address();
    let mut command = Command::new(program);
    command.arg("relay").arg(address.to_string()).arg(around.origin.to_string());
    let mut peer = start("tcp relay", command, around, (address, address), None).await?;
    peer.kind = Kind::Relay;
    Ok(peer)
}

/// Where a program is, looked up in `PATH` and `/usr/sbin`.
#[must_use]
pub fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    directories.map(|directory| directory.join(program)).find(|candidate| candidate.is_file())
}

/// How long a proxy may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(20);

async fn start(
    name: &str,
    mut command: Command,
    around: &Surroundings,
    (plain, secure): (SocketAddr, SocketAddr),
    config: Option<PathBuf>,
) -> io::Result<Peer> {
    let errors = around.directory.join(format!("{name}.err"));
    command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(File::create(around.directory.join(format!("{name}.out")))?)
        .stderr(File::create(&errors)?);
    let child = around.proxy.within(|| command.spawn())?;
    let kind = if config.is_some() { Kind::Own } else { Kind::Other };
    let peer = Peer { name: name.to_owned(), kind, plain, secure, config, child };
    let deadline = Instant::now() + START_TIMEOUT;
    for address in [plain, secure] {
        while TcpStream::connect(address).await.is_err() {
            if Instant::now() > deadline {
                let said = fs::read_to_string(&errors).unwrap_or_default();
                return Err(io::Error::other(format!("{name} does not listen on {address}: {said}")));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(peer)
}
