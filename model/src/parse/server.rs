//! What a proxy is: listeners, limits, TLS, admin, logs, metrics, traces, shutdown.

use std::collections::HashMap;

use super::address;
use super::fields::Fields;
use super::findings::Findings;
use super::header::header_name;
use super::middleware::web_url;
use super::path::matched_path;
use super::read::{self, shown};
use super::support::Feature;
use super::tree::{Node, Value};
use crate::config::{
    AccessSink, Admin, Certificate, CidrBlock, Limits, ListenAddress, Listener, LogFormat, Logging, Metrics, Mtls,
    Position, Shutdown, Tls, TlsVersion, Tracing, Underscores,
};

/// The listeners that a config gets without writing any.
pub(super) fn default_listeners(tls: Option<&Tls>) -> Vec<Listener> {
    let plain = |name: &str, port, tls| Listener {
        name: name.into(),
        address: ListenAddress { ip: None, port },
        tls,
        redirect_to_https: false,
        proxy_protocol: false,
        at: Position::default(),
    };
    let mut listeners = vec![plain("http", 8080, false)];
    if tls.is_some_and(|tls| !tls.certificates.is_empty()) {
        listeners.push(plain("https", 8443, true));
    }
    listeners
}

/// `listen:` — one address or a list of them.
pub(super) fn listen(node: &Node<'_>, findings: &mut Findings) -> Vec<Listener> {
    let items = match &node.value {
        Value::List(items) => items.as_slice(),
        Value::Scalar { .. } | Value::Map(_) => std::slice::from_ref(node),
    };
    let listeners = items.iter().filter_map(|item| {
        let address = address::listen(item, findings)?;
        let name = address.to_string();
        let listener =
            Listener { name, address, tls: false, redirect_to_https: false, proxy_protocol: false, at: item.at() };
        Some((item, listener))
    });
    let listeners = listeners.collect();
    unique(node, items.is_empty(), listeners, findings)
}

/// `listeners:` — `has_certificates`: whether [`Tls::certificates`] will hold any.
pub(super) fn listeners(node: &Node<'_>, has_certificates: bool, findings: &mut Findings) -> Vec<Listener> {
    let items = read::list(node, "listeners", findings).unwrap_or_default();
    let listeners = items.iter().filter_map(|item| Some((item, listener(item, has_certificates, findings)?))).collect();
    unique(node, matches!(&node.value, Value::List(items) if items.is_empty()), listeners, findings)
}

fn unique(
    node: &Node<'_>,
    empty: bool,
    listeners: Vec<(&Node<'_>, Listener)>,
    findings: &mut Findings,
) -> Vec<Listener> {
    if empty {
        findings.error(node, "empty_list", "at least one listener is needed").help("add `listen: :8080`");
    }
    let (mut names, mut addresses) = (HashMap::new(), HashMap::new());
    for (item, listener) in &listeners {
        if let Some(line) = names.insert(listener.name.as_str(), item.span.line) {
            findings
                .error(*item, "duplicate_id", format!("the listener `{}` is written twice", shown(&listener.name)))
                .help(format!("the first one is on line {line}"));
        } else if listener.address.port != 0
            && let Some(line) = addresses.insert(&listener.address, item.span.line)
        {
            findings
                .error(*item, "duplicate_address", format!("two listeners bind `{}`", listener.address))
                .help(format!("the first one is on line {line}"));
        }
    }
    listeners.into_iter().map(|(_, listener)| listener).collect()
}

fn listener(node: &Node<'_>, has_certificates: bool, findings: &mut Findings) -> Option<Listener> {
    let keys = &["name", "address", "tls", "redirect_to", "proxy_protocol"];
    let fields = Fields::open(node, "a listener", keys, findings)?;
    let address = fields.require("address", "such as `\":8080\"`", findings);
    let address = address.and_then(|node| address::listen(node, findings));
    let tls = fields.boolean("tls", false, findings);
    if let (true, false, Some(key)) = (tls, has_certificates, fields.key("tls")) {
        findings
            .error(key, "missing_reference", "a listener with TLS needs a certificate, and `tls.certificates` has none")
            .help("add `tls: { certificates: [{ cert_file: …, key_file: … }] }`");
    }
    let redirect_to_https = match fields.get("redirect_to") {
        Some(node) => read::one_of(node, &[("https", true)], findings).unwrap_or(false),
        None => false,
    };
    if let (true, true, Some(key)) = (tls, redirect_to_https, fields.key("redirect_to")) {
        findings
            .error(key, "conflicting_keys", "a listener with TLS cannot redirect to https")
            .help("set `redirect_to` on the plain listener");
    }
    let proxy_protocol = fields.boolean("proxy_protocol", false, findings);
    if let (true, Some(key)) = (proxy_protocol, fields.key("proxy_protocol")) {
        findings.uses(key, Feature::ProxyProtocol);
    }
    let name = fields.text("name", "a name", findings).map(str::to_owned);
    let address = address?;
    let name = name.unwrap_or_else(|| {
        fields.get("address").and_then(Node::scalar).map_or_else(|| address.to_string(), str::to_owned)
    });
    Some(Listener { name, address, tls, redirect_to_https, proxy_protocol, at: node.at() })
}

/// `limits:`
pub(super) fn limits(node: &Node<'_>, findings: &mut Findings) -> Limits {
    let default = Limits::default();
    let keys = &[
        "max_header_bytes",
        "max_headers",
        "max_url_bytes",
        "max_body_bytes",
        "read_header_timeout",
        "idle_timeout",
        "min_body_rate",
        "min_read_rate",
        "max_connections",
        "max_connections_per_client",
        "header_underscores",
    ];
    let underscores = &[("keep", Underscores::Keep), ("drop", Underscores::Drop), ("refuse", Underscores::Refuse)];
    let Some(fields) = Fields::open(node, "`limits`", keys, findings) else { return default };
    let rate = |name: &str, default: u64, findings: &mut Findings| {
        fields.get(name).and_then(|node| read::byte_rate(node, findings)).unwrap_or(default)
    };
    Limits {
        header_bytes_max: bounded_bytes(&fields, "max_header_bytes", 1 << 10, default.header_bytes_max, findings),
        headers_max: fields.usize("max_headers", 1, default.headers_max, findings),
        url_bytes_max: bounded_bytes(&fields, "max_url_bytes", 64, default.url_bytes_max, findings),
        body_bytes_max: fields.bytes_if_any("max_body_bytes", findings),
        read_header_timeout: fields.duration("read_header_timeout", default.read_header_timeout, findings),
        idle_timeout: fields.duration("idle_timeout", default.idle_timeout, findings),
        body_rate_min: rate("min_body_rate", default.body_rate_min, findings),
        read_rate_min: rate("min_read_rate", default.read_rate_min, findings),
        connections_max: fields.usize("max_connections", 1, default.connections_max, findings),
        connections_per_client_max: fields.usize(
            "max_connections_per_client",
            1,
            default.connections_per_client_max,
            findings,
        ),
        header_underscores: fields.one_of("header_underscores", underscores, default.header_underscores, findings),
    }
}

/// A size that a buffer gets: at most 16 MiB.
fn bounded_bytes(fields: &Fields<'_, '_>, name: &str, least: u64, default: usize, findings: &mut Findings) -> usize {
    const MOST: u64 = 16 << 20;
    let Some(node) = fields.get(name) else { return default };
    let Some(bytes) = read::bytes(node, findings) else { return default };
    if !(least..=MOST).contains(&bytes) {
        let message = format!("`{name}` must be from {least}B to 16MB");
        findings.error(node, "out_of_range", message);
        return default;
    }
    usize::try_from(bytes).unwrap_or(default)
}

/// `trusted_proxies:`
pub(super) fn trusted_proxies(node: &Node<'_>, findings: &mut Findings) -> Vec<CidrBlock> {
    let items = read::list(node, "address blocks", findings).unwrap_or_default();
    items.iter().filter_map(|item| address::cidr(item, findings)).collect()
}

/// `tls:`
pub(super) fn tls(node: &Node<'_>, findings: &mut Findings) -> Option<Tls> {
    let fields = Fields::open(node, "`tls`", &["min_version", "certificates", "mtls"], findings)?;
    let versions = &[("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
    let certificates = match fields.get("certificates") {
        Some(node) => read::list(node, "certificates", findings)
            .unwrap_or_default()
            .iter()
            .filter_map(|item| certificate(item, findings))
            .collect(),
        None => Vec::new(),
    };
    Some(Tls {
        min_version: fields.one_of("min_version", versions, TlsVersion::V1_2, findings),
        certificates,
        mtls: fields.get("mtls").and_then(|node| mtls(node, findings)),
    })
}

fn certificate(node: &Node<'_>, findings: &mut Findings) -> Option<Certificate> {
    let fields = Fields::open(node, "a certificate", &["sni", "cert_file", "key_file"], findings)?;
    let sni = fields.get("sni").and_then(|node| address::host_match(node, findings));
    let cert_file = fields.require_text("cert_file", "the PEM file of the chain, leaf first", findings);
    let key_file = fields.require_text("key_file", "the PEM file of the private key", findings);
    Some(Certificate { sni, cert_file: cert_file?.to_owned(), key_file: key_file?.to_owned(), at: node.at() })
}

fn mtls(node: &Node<'_>, findings: &mut Findings) -> Option<Mtls> {
    let fields = Fields::open(node, "`mtls`", &["enabled", "ca_file", "require_client_cert"], findings)?;
    let enabled = fields.boolean("enabled", true, findings);
    let require_client_cert = fields.boolean("require_client_cert", false, findings);
    if !enabled {
        return None;
    }
    findings.uses(node, Feature::Mtls);
    let ca_file = fields.require_text("ca_file", "the PEM file of the client CAs", findings)?.to_owned();
    Some(Mtls { ca_file, require_client_cert, at: node.at() })
}

/// `admin:`
pub(super) fn admin(node: &Node<'_>, findings: &mut Findings) -> Option<Admin> {
    let fields = Fields::open(node, "`admin`", &["address"], findings)?;
    let node = fields.require("address", "such as `\"127.0.0.1:9090\"`", findings)?;
    Some(Admin { address: address::admin(node, findings)? })
}

/// `logging:`
pub(super) fn logging(node: &Node<'_>, findings: &mut Findings) -> Logging {
    #[derive(Clone, Copy, PartialEq)]
    enum Sink {
        Stdout,
        File,
        Off,
    }
    let default = Logging::default();
    let keys = &["access", "file", "format", "redact_query", "headers", "redact_headers"];
    let Some(fields) = Fields::open(node, "`logging`", keys, findings) else { return default };
    let sinks = &[("stdout", Sink::Stdout), ("file", Sink::File), ("off", Sink::Off)];
    let sink = fields.one_of("access", sinks, Sink::Stdout, findings);
    let access = match sink {
        Sink::Stdout => AccessSink::Stdout,
        Sink::Off => AccessSink::Off,
        Sink::File => AccessSink::File(
            fields.require_text("file", "the path of the access log", findings).unwrap_or_default().to_owned(),
        ),
    };
    if let (Some(key), true) = (fields.key("file"), sink != Sink::File) {
        findings
            .error(key, "conflicting_keys", "`file` works only with `access: file`")
            .help("write `access: file`, or remove `file`");
    }
    let names = |key: &str, findings: &mut Findings| {
        let items = read::list(fields.get(key)?, "headers", findings).unwrap_or_default();
        Some(items.iter().filter_map(|item| header_name(item, findings)).collect())
    };
    let headers = names("headers", findings).unwrap_or(default.headers);
    let redact_headers = names("redact_headers", findings).unwrap_or(default.redact_headers);
    Logging {
        access,
        format: fields.one_of(
            "format",
            &[("json", LogFormat::Json), ("text", LogFormat::Text)],
            default.format,
            findings,
        ),
        redact_query: fields.boolean("redact_query", default.redact_query, findings),
        headers,
        redact_headers,
    }
}

/// `metrics:`
pub(super) fn metrics(node: &Node<'_>, findings: &mut Findings) -> Metrics {
    let default = Metrics::default();
    let keys = &["enabled", "on_data_plane", "path_names", "path", "max_series", "require_token", "token_env"];
    let Some(fields) = Fields::open(node, "`metrics`", keys, findings) else { return default };
    let require_token = fields.boolean("require_token", false, findings);
    let token_env = fields.get("token_env").and_then(|node| {
        let name = read::text(node, "the name of an environment variable", findings)?;
        let good = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !name.starts_with(|c: char| c.is_ascii_digit());
        if !good {
            // The value is not shown: someone may have put the token itself here.
            findings
                .error(node, "bad_name", "this cannot be the name of an environment variable")
                .help("write a name such as `METRICS_TOKEN`; the token itself stays out of the config");
        }
        good.then(|| name.to_owned())
    });
    if require_token && fields.key("token_env").is_none() {
        fields.require("token_env", "the name of the environment variable that holds the token", findings);
    }
    Metrics {
        enabled: fields.boolean("enabled", default.enabled, findings),
        on_data_plane: fields.boolean("on_data_plane", default.on_data_plane, findings),
        path_names: fields.boolean("path_names", default.path_names, findings),
        path: fields.get("path").and_then(|node| matched_path(node, findings)).unwrap_or(default.path),
        series_max: fields.usize("max_series", 1, default.series_max, findings),
        token_env: token_env.filter(|_| require_token),
    }
}

/// `tracing:`
pub(super) fn tracing(node: &Node<'_>, findings: &mut Findings) -> Option<Tracing> {
    let fields = Fields::open(node, "`tracing`", &["otlp_endpoint", "sample_percent"], findings)?;
    let endpoint = fields.require("otlp_endpoint", "such as `http://otel-collector:4317`", findings);
    let otlp_endpoint = endpoint.and_then(|node| web_url(node, findings));
    let sample_percent = fields.percent("sample_percent", 1.0, findings);
    Some(Tracing { otlp_endpoint: otlp_endpoint?, sample_percent })
}

/// `shutdown:`
pub(super) fn shutdown(node: &Node<'_>, findings: &mut Findings) -> Shutdown {
    let default = Shutdown::default();
    let keys = &["lb_convergence", "drain", "force_close"];
    let Some(fields) = Fields::open(node, "`shutdown`", keys, findings) else { return default };
    Shutdown {
        lb_convergence: fields.duration_or_zero("lb_convergence", default.lb_convergence, findings),
        drain: fields.duration_or_zero("drain", default.drain, findings),
        force_close: fields.duration_or_zero("force_close", default.force_close, findings),
    }
}
