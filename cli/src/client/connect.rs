//! Opens the connection: http is plain HTTP/2, https is TLS; the first connection is made before the first call, so
//! that a server that is not there is told from one that refuses.

use std::error::Error;
use std::net::IpAddr;
use std::time::Duration;

use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::settings::{Settings, Surroundings};
use super::{Bearer, ClientArgs, Server};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;

/// For one call, unless `--timeout` says otherwise.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// For the connection itself.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection on which nothing comes back for this long is dead: a watch must notice.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Where systems keep their certificate authorities, most common first.
const SYSTEM_CA_FILES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/opt/homebrew/etc/ca-certificates/cert.pem",
];

impl ClientArgs {
    /// Connects to the authority that the options name.
    ///
    /// # Errors
    /// Wrong usage, or [`Exit::Unreachable`] with what was tried and what to type.
    pub async fn connect(&self, printer: &Printer) -> Result<Server, Failure> {
        let settings = self.settle(&Surroundings::of_process())?;
        if settings.token.is_some() && settings.server.starts_with("http://") && !is_loopback(&settings.server) {
            printer.warn(&format!("the token travels in plain text to {}; use https://", settings.server));
        }
        connect(&settings).await
    }
}

async fn connect(settings: &Settings) -> Result<Server, Failure> {
    let timeout = settings.timeout.unwrap_or(CALL_TIMEOUT);
    let mut endpoint = Endpoint::from_shared(settings.server.clone())
        .map_err(|error| Failure::usage(format!("`{}` is not the URL of a server", settings.server)).because(error))?
        .user_agent(concat!("sealane/", env!("CARGO_PKG_VERSION")))
        .map_err(|error| Failure::new(Exit::Failed, "cannot set up the connection").because(error))?
        .connect_timeout(timeout.min(CONNECT_TIMEOUT))
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    if settings.server.starts_with("https://") {
        endpoint = endpoint
            .tls_config(tls(settings)?)
            .map_err(|error| Failure::usage("the certificate files cannot be used").because(error))?;
    } else if settings.ca.is_some() || settings.identity.is_some() {
        return Err(Failure::usage(format!("certificates do not go with {}", settings.server))
            .hint(format!("did you mean {}?", settings.server.replacen("http://", "https://", 1))));
    }
    let channel = endpoint.connect().await.map_err(|error| unreachable(&settings.server, &error))?;
    let bearer = match &settings.token {
        Some(token) => {
            let mut value: AsciiMetadataValue = format!("Bearer {}", token.expose())
                .parse()
                .map_err(|_| Failure::usage("the token has characters that no token has"))?;
            value.set_sensitive(true);
            Some(value)
        }
        None => None,
    };
    let has_token = bearer.is_some();
    let channel = super::Authorised::new(channel, Bearer(bearer));
    Ok(Server { channel, url: settings.server.clone(), timeout, time_limit: settings.timeout, has_token })
}

fn tls(settings: &Settings) -> Result<ClientTlsConfig, Failure> {
    let authorities = match &settings.ca {
        Some(pem) => pem.clone(),
        None => system_authorities().ok_or_else(|| {
            Failure::usage("no certificate authorities are installed on this machine")
                .hint("pass the authority's with --ca-file FILE")
        })?,
    };
    let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authorities));
    Ok(match &settings.identity {
        Some((certificate, key)) => config.identity(Identity::from_pem(certificate, key.expose())),
        None => config,
    })
}

fn system_authorities() -> Option<Vec<u8>> {
    let named = std::env::var("SSL_CERT_FILE").ok();
    named.iter().map(String::as_str).chain(SYSTEM_CA_FILES).find_map(|path| std::fs::read(path).ok())
}

fn unreachable(server: &str, error: &tonic::transport::Error) -> Failure {
    // tonic's outer sentences ("transport error") say nothing; the innermost cause does.
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let cause = cause.to_string();
    let cause = cause.split(" (os error").next().unwrap_or_default();
    let failure = Failure::new(Exit::Unreachable, format!("cannot reach an authority at {server}: {cause}"));
    let cause = cause.to_lowercase();
    if cause.contains("certificate") || cause.contains("unknownissuer") {
        return failure.hint("pass the certificate authority that signed the server's with --ca-file FILE");
    }
    if server.starts_with("https://") && (cause.contains("corrupt message") || cause.contains("invalidcontenttype")) {
        return failure.hint(format!("the server speaks plain text; try {}", server.replacen("https", "http", 1)));
    }
    failure.hint("start one with `sealane authority --data DIR`, or name another with --server URL or SEALANE_SERVER")
}

fn is_loopback(server: &str) -> bool {
    let Ok(uri) = server.parse::<http::Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for (server, expected) in [
            ("http://127.0.0.1:7443", true),
            ("http://localhost:1", true),
            ("http://[::1]:7443", true),
            ("http://10.0.0.1:7443", false),
            ("http://127.0.0.1.example.com", false),
        ] {
            assert_eq!(is_loopback(server), expected, "{server}");
        }
    }
}
