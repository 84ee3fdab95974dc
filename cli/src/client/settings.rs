//! Which authority, and as whom: flag over environment over `client.yaml` over default.
//!
//! Reads files and the environment; opens no connection. A token never shows in an error or in `Debug`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use crate::exit::Failure;

/// Where an authority listens unless told otherwise.
pub const DEFAULT_SERVER: &str = "http://127.0.0.1:7443";

/// A client file is a handful of lines; more is a mistake.
const CLIENT_FILE_BYTES_MAX: u64 = 64 << 10;

/// Connection options of every network command.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Connection options")]
pub struct ClientArgs {
    /// The authority [default: http://127.0.0.1:7443]
    #[arg(long, value_name = "URL", env = "SEALANE_SERVER", global = true)]
    pub server: Option<String>,
    /// File with the access token; SEALANE_TOKEN holds the token itself
    #[arg(long, value_name = "FILE", env = "SEALANE_TOKEN_FILE", global = true)]
    pub token_file: Option<PathBuf>,
    /// Certificates (PEM) that the authority's must chain to
    #[arg(long, value_name = "FILE", env = "SEALANE_CA_FILE", global = true)]
    pub ca_file: Option<PathBuf>,
    /// Client certificate (PEM)
    #[arg(long, value_name = "FILE", env = "SEALANE_CERT_FILE", requires = "key_file", global = true)]
    pub cert_file: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", env = "SEALANE_KEY_FILE", requires = "cert_file", global = true)]
    pub key_file: Option<PathBuf>,
    /// File with server, token_file, ca_file, cert_file, key_file [default: sealane/client.yaml below $XDG_CONFIG_HOME]
    #[arg(long, value_name = "FILE", env = "SEALANE_CLIENT", global = true)]
    pub client: Option<PathBuf>,
    /// How long to wait: for an answer (30s unless given), or for the verdict when watching (without limit)
    #[arg(long, value_name = "DURATION", env = "SEALANE_TIMEOUT", value_parser = crate::duration::parse, global = true)]
    pub timeout: Option<Duration>,
}

/// What the process around gives.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// `SEALANE_TOKEN`.
    pub token: Option<String>,
    /// `$XDG_CONFIG_HOME`, or `$HOME/.config`.
    pub config_home: Option<PathBuf>,
}

impl Surroundings {
    /// Those of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self {
            token: std::env::var("SEALANE_TOKEN").ok().filter(|token| !token.trim().is_empty()),
            config_home: path("XDG_CONFIG_HOME").or_else(|| path("HOME").map(|home| home.join(".config"))),
        }
    }
}

/// Settled: every file read, every value checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// With scheme.
    pub server: String,
    /// Who asks, if anyone.
    pub token: Option<Secret>,
    /// PEM.
    pub ca: Option<Vec<u8>>,
    /// PEM certificate and key.
    pub identity: Option<(Vec<u8>, Secret)>,
    /// As asked for.
    pub timeout: Option<Duration>,
}

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// `client.yaml`, as the authority's first start writes it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientFile {
    server: Option<String>,
    token_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
}

impl ClientArgs {
    /// Reads what the options point at.
    ///
    /// # Errors
    /// Wrong usage: a file that is missing or is not what it should be, or a server that is no URL.
    pub fn settle(&self, around: &Surroundings) -> Result<Settings, Failure> {
        let file = self.client_file(around)?;
        let server = self.server.clone().or(file.server).unwrap_or_else(|| DEFAULT_SERVER.into());
        let token = match (&self.token_file, &around.token, &file.token_file) {
            (Some(path), _, _) => Some(token_of(&read(path, "token file")?, &path.display().to_string())?),
            (None, Some(token), _) => Some(token_of(token.as_bytes(), "SEALANE_TOKEN")?),
            (None, None, Some(path)) => Some(token_of(&read(path, "token file")?, &path.display().to_string())?),
            (None, None, None) => None,
        };
        let ca = self.ca_file.as_ref().or(file.ca_file.as_ref()).map(|path| read(path, "CA file")).transpose()?;
        // Certificate and key go together, wherever they are named.
        let pair = match (&self.cert_file, &self.key_file) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => file.cert_file.as_ref().zip(file.key_file.as_ref()),
        };
        let identity = match pair {
            Some((certificate, key)) => {
                let key_text = String::from_utf8(read(key, "key file")?)
                    .map_err(|_| Failure::usage(format!("key file `{}` is not PEM", key.display())))?;
                Some((read(certificate, "certificate file")?, Secret(key_text)))
            }
            None => None,
        };
        Ok(Settings { server: url_of(&server)?, token, ca, identity, timeout: self.timeout })
    }

    /// The file that was named, which must be there, or the one of this user, which need not.
    fn client_file(&self, around: &Surroundings) -> Result<ClientFile, Failure> {
        let path = match (&self.client, &around.config_home) {
            (Some(path), _) => path.clone(),
            (None, Some(home)) => {
                let path = home.join("sealane/client.yaml");
                if !path.is_file() {
                    return Ok(ClientFile::default());
                }
                path
            }
            (None, None) => return Ok(ClientFile::default()),
        };
        let refused = || format!("client file `{}` cannot be used", path.display());
        let text = String::from_utf8(read(&path, "client file")?)
            .map_err(|error| Failure::usage(refused()).because(error.utf8_error()))?;
        let mut file: ClientFile = serde_saphyr::from_str(&text).map_err(|error| {
            let first_line = error.to_string().lines().next().unwrap_or_default().to_owned();
            Failure::usage(format!("{}: {first_line}", refused()))
                .hint("its keys are server, token_file, ca_file, cert_file and key_file")
        })?;
        if file.cert_file.is_some() != file.key_file.is_some() {
            return Err(Failure::usage(format!("{}: cert_file and key_file go together", refused())));
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        for named in [&mut file.token_file, &mut file.ca_file, &mut file.cert_file, &mut file.key_file] {
            *named = named.take().map(|named| folder.join(named));
        }
        Ok(file)
    }
}

fn read(path: &Path, what: &str) -> Result<Vec<u8>, Failure> {
    let refused = || Failure::usage(format!("cannot read {what} `{}`", path.display()));
    let size = std::fs::metadata(path).map_err(|error| refused().because(error))?.len();
    if size > CLIENT_FILE_BYTES_MAX && what != "CA file" {
        return Err(Failure::usage(format!("{what} `{}` is larger than 64 KiB", path.display())));
    }
    std::fs::read(path).map_err(|error| refused().because(error))
}

fn token_of(bytes: &[u8], place: &str) -> Result<Secret, Failure> {
    let text = std::str::from_utf8(bytes).unwrap_or_default().trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::usage(format!("`{place}` does not hold a token")));
    }
    Ok(Secret(text.to_owned()))
}

fn url_of(text: &str) -> Result<String, Failure> {
    let text = text.trim_end_matches('/');
    let refused = || Failure::usage(format!("`{text}` is not the URL of a server"));
    let uri: http::Uri = text.parse().map_err(|error: http::uri::InvalidUri| refused().because(error))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http" | "https"), Some(_)) if uri.path() == "/" && uri.query().is_none() => Ok(text.to_owned()),
        (Some("http" | "https"), Some(_)) => Err(refused().hint("give scheme, host and port only")),
        (None, _) => Err(refused().hint(format!("did you mean http://{text}?"))),
        _ => Err(refused().hint("it begins with http:// or https://")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(client_yaml: &str) -> (tempfile::TempDir, Surroundings) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sealane")).unwrap();
        std::fs::write(folder.path().join("sealane/client.yaml"), client_yaml).unwrap();
        std::fs::write(folder.path().join("sealane/admin.token"), "from-file\n").unwrap();
        let around = Surroundings { token: None, config_home: Some(folder.path().to_owned()) };
        (folder, around)
    }

    fn token(settings: &Settings) -> Option<&str> {
        settings.token.as_ref().map(Secret::expose)
    }

    #[test]
    fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
        let (folder, mut around) = home("server: https://authority.example:7443\ntoken_file: admin.token\n");
        let settings = ClientArgs::default().settle(&around).unwrap();
        assert_eq!(settings.server, "https://authority.example:7443");
        assert_eq!(token(&settings), Some("from-file"), "relative to the client file");

        around.token = Some("from-environment".into());
        let other = folder.path().join("other.token");
        std::fs::write(&other, "from-flag").unwrap();
        assert_eq!(token(&ClientArgs::default().settle(&around).unwrap()), Some("from-environment"));
        let flags =
            ClientArgs { server: Some("http://10.0.0.1:7443/".into()), token_file: Some(other), ..Default::default() };
        let settings = flags.settle(&around).unwrap();
        assert_eq!((settings.server.as_str(), token(&settings)), ("http://10.0.0.1:7443", Some("from-flag")));

        let settings = ClientArgs::default().settle(&Surroundings::default()).unwrap();
        assert_eq!((settings.server.as_str(), settings.token), (DEFAULT_SERVER, None));
    }

    #[test]
    fn a_file_that_was_named_must_be_there_and_be_right() {
        let missing = ClientArgs { client: Some("/nonexistent/client.yaml".into()), ..Default::default() };
        assert_eq!(missing.settle(&Surroundings::default()).unwrap_err().exit, crate::exit::Exit::Usage);
        let (_folder, around) = home("server: http://a\nserve: x\n");
        let failure = ClientArgs::default().settle(&around).unwrap_err();
        assert!(failure.sentence().unwrap().contains("serve"), "{failure:?}");
        let (_folder, around) = home("token_file: none.token\n");
        assert!(ClientArgs::default().settle(&around).is_err());
    }

    #[test]
    fn a_server_without_a_scheme_is_corrected() {
        let failure = url_of("127.0.0.1:7443").unwrap_err();
        assert_eq!(failure.exit, crate::exit::Exit::Usage);
        for text in ["ftp://x", "http://x/path", "", "http://"] {
            assert!(url_of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_token_never_shows() {
        let (_folder, around) = home("token_file: admin.token\n");
        let settings = ClientArgs::default().settle(&around).unwrap();
        assert!(!format!("{settings:?}").contains("from-file"));
        let failure = token_of("secret\u{7}text".as_bytes(), "F").unwrap_err();
        assert!(!failure.sentence().unwrap().contains("secret"));
    }
}
