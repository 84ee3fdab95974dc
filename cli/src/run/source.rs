//! What `sealane run` serves: a file, or backends named on the command line. Text in either case, so that one parser
//! and one list of problems serve both.

use std::path::{Path, PathBuf};

use sealane_model::ids::Digest;

use crate::exit::{Exit, Failure};

/// Where the config comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file, watched.
    File(PathBuf),
    /// `--to URL…`: everything goes to these backends.
    Backends(Vec<String>),
    /// `--data` alone: sandbox routes and nothing else, as seed 000.
    Sandboxes,
}

/// A source's text at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Text {
    /// Shown in problems.
    pub(crate) name: String,
    pub(crate) text: String,
}

impl Text {
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(self.text.as_bytes())
    }
}

/// Largest config file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;

impl Source {
    /// The first that applies: the named file, `--to`, sandbox routes alone, `config.yml`, `config.yaml` in the working
    /// directory.
    pub(crate) fn choose(file: Option<PathBuf>, to: Vec<String>, sandboxes: bool) -> Result<Self, Failure> {
        if let Some(file) = file {
            return Ok(Self::File(file));
        }
        if !to.is_empty() {
            return Ok(Self::Backends(to));
        }
        if sandboxes {
            return Ok(Self::Sandboxes);
        }
        ["config.yml", "config.yaml"]
            .into_iter()
            .map(PathBuf::from)
            .find(|path| path.is_file())
            .map(Self::File)
            .ok_or_else(|| {
                Failure::usage("nothing to serve: no file, no --to, and no config.yml here")
                    .hint("sealane run --to http://localhost:3000   (or: sealane run config.yaml)")
            })
    }

    /// When the file was written, Unix time in milliseconds; `None`: there is none.
    pub(crate) fn written_ms(&self) -> Option<i64> {
        let Self::File(path) = self else { return None };
        let modified = std::fs::metadata(path).ok()?.modified().ok()?;
        i64::try_from(modified.duration_since(std::time::UNIX_EPOCH).ok()?.as_millis()).ok()
    }

    /// The text now.
    pub(crate) fn read(&self) -> Result<Text, Failure> {
        match self {
            Self::File(path) => read_file(path),
            Self::Sandboxes => Ok(Text { name: "--data".into(), text: "listen: :8080\nsandboxes: {}\n".into() }),
            Self::Backends(urls) => Ok(Text { name: "--to".into(), text: backends_text(urls) }),
        }
    }
}

fn read_file(path: &Path) -> Result<Text, Failure> {
    let name = path.display().to_string();
    let unreadable = |cause: std::io::Error| {
        Failure::new(Exit::Invalid, format!("cannot read config `{name}`"))
            .because(cause)
            .hint("sealane run --to http://localhost:3000   (serves one backend without a file)")
    };
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > FILE_BYTES_MAX {
        return Err(unreadable(std::io::Error::other(format!(
            "{length} bytes, more than the {FILE_BYTES_MAX} allowed"
        ))));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    if text.trim().is_empty() {
        return Err(Failure::new(Exit::Invalid, format!("config `{name}` is empty"))
            .hint("two lines are enough: `listen: :8080` and `routes: [{ to: http://localhost:3000 }]`"));
    }
    Ok(Text { name, text })
}

/// A config that sends everything to `urls`. A bare `host:port` is taken as http, as curl does.
fn backends_text(urls: &[String]) -> String {
    let urls: Vec<String> = urls
        .iter()
        .map(|url| if url.contains("://") { url.clone() } else { format!("http://{url}") })
        .map(|url| serde_json::Value::String(url.trim_end_matches('/').to_owned()).to_string())
        .collect();
    format!("listen: :8080\nroutes:\n  - to: [{}]\n", urls.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_become_a_config_that_parses() {
        let text = backends_text(&["localhost:3000".into(), "http://localhost:3001/".into()]);
        assert_eq!(text, "listen: :8080\nroutes:\n  - to: [\"http://localhost:3000\", \"http://localhost:3001\"]\n");
        sealane_model::parse::parse("--to", &text, sealane_model::parse::Reader::Local).unwrap();
    }

    #[test]
    fn a_missing_and_an_empty_file_say_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.yaml");
        let source = Source::File(path.clone());
        assert_eq!(source.read().unwrap_err().exit, Exit::Invalid);
        std::fs::write(&path, " \n").unwrap();
        let error = source.read().unwrap_err();
        assert!(error.next_step().is_some(), "{error}");
    }
}
