//! The environment variables of seed 000, for those who come from it: `ALB_LISTEN_ADDR`, `ALB_ADMIN_ADDR`, `ALB_DB_PATH`,
//! `ALB_DIAL_TIMEOUT_SEC`, `ALB_RESPONSE_TIMEOUT_SEC`. Below the flags, above the file. A value that cannot be used is
//! an error, never a silent default.

use std::path::PathBuf;
use std::time::Duration;

use sealane_model::config::ListenAddress;
use sealane_model::sandbox::SandboxTimes;

use crate::exit::Failure;

/// What the variables say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Alb {
    /// Where the data plane listens.
    pub(crate) listen: Option<ListenAddress>,
    /// Where the admin API listens, as written.
    pub(crate) admin: Option<String>,
    /// The database.
    pub(crate) database: Option<PathBuf>,
    /// Of backends.
    pub(crate) times: SandboxTimes,
    /// One of them is set.
    pub(crate) any: bool,
}

/// Where seed 000 keeps its database unless told otherwise.
const DATABASE_DEFAULT: &str = "/data/alb.db";
/// Longest timeout: a day.
const SECONDS_MAX: u64 = 86_400;

impl Alb {
    /// Reads the variables through `get`. An empty one is not set.
    pub(crate) fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let mut alb = Self::default();
        if let Some(text) = get("ALB_LISTEN_ADDR") {
            let address =
                text.parse().map_err(|error| Failure::usage(format!("ALB_LISTEN_ADDR `{text}`")).because(error))?;
            alb.listen = Some(address);
        }
        alb.admin = get("ALB_ADMIN_ADDR");
        if let Some(admin) = &alb.admin {
            super::admin_address(admin).map_err(|failure| failure.hint("ALB_ADMIN_ADDR sets it"))?;
        }
        alb.database = get("ALB_DB_PATH").map(PathBuf::from);
        let dial = get("ALB_DIAL_TIMEOUT_SEC").map(|text| seconds("ALB_DIAL_TIMEOUT_SEC", &text)).transpose()?;
        let response =
            get("ALB_RESPONSE_TIMEOUT_SEC").map(|text| seconds("ALB_RESPONSE_TIMEOUT_SEC", &text)).transpose()?;
        alb.any = alb.listen.is_some()
            || alb.admin.is_some()
            || alb.database.is_some()
            || dial.is_some()
            || response.is_some();
        let times = SandboxTimes::default();
        alb.times = SandboxTimes {
            connect: dial.unwrap_or(times.connect),
            response: response.unwrap_or(times.response),
            // The seed calls it the full response timeout. Unless somebody asks for it, streams are not cut.
            total: response,
        };
        Ok(alb)
    }

    /// The database: `--data`, else `ALB_DB_PATH`; with neither, seed 000's own place if another variable is set.
    pub(crate) fn database(&self, data: Option<&PathBuf>, has_file: bool) -> Option<PathBuf> {
        match (data, &self.database) {
            (Some(folder), _) => Some(folder.join("sealane.db")),
            (None, Some(path)) => Some(path.clone()),
            (None, None) => (self.any && !has_file).then(|| DATABASE_DEFAULT.into()),
        }
    }
}

fn seconds(name: &str, text: &str) -> Result<Duration, Failure> {
    match text.parse::<u64>() {
        Ok(seconds @ 1..=SECONDS_MAX) => Ok(Duration::from_secs(seconds)),
        _ => Err(Failure::usage(format!("{name} `{text}` is not a whole number of seconds from 1 to {SECONDS_MAX}"))
            .hint(format!("{name}=30 sealane run"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Alb, Failure> {
        Alb::read(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn nothing_set_is_nothing_asked_for() {
        assert_eq!(read(&[]).unwrap(), Alb::default());
        assert_eq!(read(&[("ALB_DB_PATH", "")]).unwrap(), Alb::default());
        assert_eq!(Alb::default().database(None, false), None);
    }

    #[test]
    fn the_database_is_where_a_flag_a_variable_or_the_seed_has_it() {
        let alb = read(&[("ALB_DB_PATH", ".data/alb.db")]).unwrap();
        assert_eq!(alb.database(Some(&"d".into()), false), Some("d/sealane.db".into()));
        assert_eq!(alb.database(None, true), Some(".data/alb.db".into()));
        let alb = read(&[("ALB_LISTEN_ADDR", ":18080")]).unwrap();
        assert_eq!(alb.database(None, false), Some("/data/alb.db".into()));
        // A file is served as it is: an address alone asks for no sandbox routes.
        assert_eq!(alb.database(None, true), None);
    }

    #[test]
    fn a_bad_value_is_an_error_that_names_the_variable() {
        for (name, value) in [
            ("ALB_DIAL_TIMEOUT_SEC", "five"),
            ("ALB_DIAL_TIMEOUT_SEC", "0"),
            ("ALB_RESPONSE_TIMEOUT_SEC", "-1"),
            ("ALB_LISTEN_ADDR", "host:8080"),
        ] {
            assert!(read(&[(name, value)]).unwrap_err().sentence().unwrap().contains(name), "{name}");
        }
        assert!(read(&[("ALB_ADMIN_ADDR", "x")]).is_err());
    }

    #[test]
    fn the_response_timeout_is_for_the_whole_answer_once_somebody_sets_it() {
        let alb = read(&[("ALB_RESPONSE_TIMEOUT_SEC", "7"), ("ALB_DIAL_TIMEOUT_SEC", "2")]).unwrap();
        let seconds = Duration::from_secs;
        assert_eq!(alb.times, SandboxTimes { connect: seconds(2), response: seconds(7), total: Some(seconds(7)) });
        assert_eq!(read(&[("ALB_DIAL_TIMEOUT_SEC", "2")]).unwrap().times.total, None);
    }
}
