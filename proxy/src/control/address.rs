//! Where an agent is, and what is polled: parsed once, with the rule that nothing leaves this machine in plain text.

use std::path::PathBuf;

use sealane_node::listen::is_loopback_host;
use thiserror::Error;

/// Where an agent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentAddress {
    /// `host:port` on this machine, plain.
    Http(String),
    /// `host:port`, over mutual TLS.
    Https(String),
    /// A Unix socket.
    Unix(PathBuf),
}

/// What is polled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullUrl {
    /// An agent's HTTP address: a URL without a path.
    Agent {
        /// `host:port`
        authority: String,
        /// Mutual TLS.
        tls: bool,
    },
    /// A folder on any file server: a URL with a path.
    Folder {
        /// `host:port`
        authority: String,
        /// TLS, with a host name that a public or given CA vouches for.
        tls: bool,
        /// Its path, with a `/` at both ends.
        base: String,
    },
}

/// An address that is none.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AddressError {
    /// Not an agent's.
    #[error(
        "`{0}` is not an agent address such as http://127.0.0.1:7444, https://agent:7444 or unix:/run/sealane/agent.sock"
    )]
    Malformed(String),
    /// Not what can be polled.
    #[error(
        "`{0}` is not a URL to poll, such as https://agent:7481 (an agent) or https://files.example.com/fleet/ (a folder)"
    )]
    MalformedPull(String),
    /// It would travel in plain text.
    #[error("`{0}` is not on this machine, so it is spoken to over TLS: https://")]
    Remote(String),
}

impl std::str::FromStr for AgentAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let malformed = || AddressError::Malformed(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(malformed()) } else { Ok(Self::Unix(PathBuf::from(path))) };
        }
        let url = Url::parse(text, GRPC_PORT).filter(|url| url.path == "/").ok_or_else(malformed)?;
        match url.tls {
            true => Ok(Self::Https(url.authority)),
            false if url.loopback => Ok(Self::Http(url.authority)),
            false => Err(AddressError::Remote(text.to_owned())),
        }
    }
}

impl std::str::FromStr for PullUrl {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let malformed = || AddressError::MalformedPull(text.to_owned());
        let agent = Url::parse(text, HTTP_PORT).ok_or_else(malformed)?;
        if !agent.tls && !agent.loopback {
            return Err(AddressError::Remote(text.to_owned()));
        }
        if agent.path == "/" {
            return Ok(Self::Agent { authority: agent.authority, tls: agent.tls });
        }
        let Url { authority, tls, path, .. } =
            Url::parse(text, if agent.tls { 443 } else { 80 }).ok_or_else(malformed)?;
        let base = path.strip_suffix("bundle.json").unwrap_or(&path);
        let base = format!("{}/", base.trim_end_matches('/'));
        Ok(Self::Folder { authority, tls, base })
    }
}

struct Url {
    tls: bool,
    authority: String,
    loopback: bool,
    path: String,
}

impl Url {
    fn parse(text: &str, default_port: u16) -> Option<Self> {
        let uri: http::Uri = text.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let host = uri.host()?;
        if uri.query().is_some() || uri.authority()?.as_str().contains('@') {
            return None;
        }
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(default_port));
        Some(Self { tls, authority, loopback: is_loopback_host(host), path: uri.path().to_owned() })
    }
}

/// Of an agent, for proxies.
const GRPC_PORT: u16 = 7444;
/// Of an agent, for those that poll.
const HTTP_PORT: u16 = 7481;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_on_another_machine_is_spoken_to_over_tls() {
        let check = |text: &str| text.parse::<AgentAddress>();
        assert_eq!(check("http://127.0.0.1:7444"), Ok(AgentAddress::Http("127.0.0.1:7444".into())));
        assert_eq!(check("http://localhost:7444/"), Ok(AgentAddress::Http("localhost:7444".into())));
        assert_eq!(check("http://[::1]:9"), Ok(AgentAddress::Http("[::1]:9".into())));
        assert_eq!(check("https://agent.example"), Ok(AgentAddress::Https("agent.example:7444".into())));
        assert_eq!(check("unix:/run/agent.sock"), Ok(AgentAddress::Unix("/run/agent.sock".into())));
        assert_eq!(check("unix:///run/agent.sock"), Ok(AgentAddress::Unix("/run/agent.sock".into())));
        assert!(matches!(check("http://agent.example:7444"), Err(AddressError::Remote(_))));
        for bad in ["", "unix:", "127.0.0.1:7444", "https://agent:7444/path", "https://u@agent:1", "ftp://localhost"] {
            assert!(matches!(check(bad), Err(AddressError::Malformed(_))), "{bad}");
        }
    }

    #[test]
    fn a_url_without_a_path_is_an_agent_and_one_with_a_path_a_folder() {
        let check = |text: &str| text.parse::<PullUrl>();
        let agent = |authority: &str, tls| Ok(PullUrl::Agent { authority: authority.into(), tls });
        let folder = |authority: &str, tls, base: &str| {
            Ok(PullUrl::Folder { authority: authority.into(), tls, base: base.into() })
        };
        assert_eq!(check("http://127.0.0.1:7481"), agent("127.0.0.1:7481", false));
        assert_eq!(check("https://agent"), agent("agent:7481", true));
        assert_eq!(check("https://cdn.example/fleet"), folder("cdn.example:443", true, "/fleet/"));
        assert_eq!(check("http://localhost:8000/bundle.json"), folder("localhost:8000", false, "/"));
        assert!(matches!(check("http://cdn.example/fleet/"), Err(AddressError::Remote(_))));
        for bad in ["", "cdn.example/fleet", "https://cdn.example/fleet?x=1", "file:///srv"] {
            assert!(matches!(check(bad), Err(AddressError::MalformedPull(_))), "{bad}");
        }
    }
}
