//! Problems of a config, shown with the line they stand on, whoever found them: `validate` here, the authority, a node.

use std::io::Read;
use std::path::Path;

use sealane_model::problem::{Problem, Severity};
use sealane_proto::v1;
use serde_json::Value;

use crate::exit::{Exit, Failure};
use crate::paint::clean;
use crate::printer::Printer;

/// The largest config that an authority takes.
pub const CONFIG_BYTES_MAX: u64 = 64 << 20;

/// A config file as it was read.
#[derive(Clone, Debug)]
pub struct Source {
    /// As the user named it.
    pub shown: String,
    /// Its name without folders: what a revision calls it.
    pub name: String,
    /// Its text.
    pub text: String,
}

impl Source {
    /// Reads a file; `-` is stdin.
    ///
    /// # Errors
    /// [`Exit::Invalid`]: missing, empty, too large, or not text.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let stdin = path.as_os_str() == "-";
        let shown = if stdin { "<stdin>".to_owned() } else { path.display().to_string() };
        let refused = |error: std::io::Error| {
            let hint = match error.kind() {
                std::io::ErrorKind::IsADirectory => "name the config file in it, such as `fleet.yaml`",
                std::io::ErrorKind::PermissionDenied => {
                    "let this user read it, or pipe it: `sudo cat FILE | sealane … -`"
                }
                _ => "check the name and the folder, or begin with one: `sealane init`",
            };
            Failure::new(Exit::Invalid, format!("cannot read `{shown}`")).because(error).hint(hint)
        };
        let mut bytes = Vec::new();
        if stdin {
            std::io::stdin().lock().take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(refused)?;
        } else {
            let file = std::fs::File::open(path).map_err(refused)?;
            file.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(refused)?;
        }
        if bytes.len() as u64 > CONFIG_BYTES_MAX {
            return Err(Failure::new(Exit::Invalid, format!("`{shown}` is larger than 64 MiB")));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let line = 1 + error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count();
            Failure::new(Exit::Invalid, format!("`{shown}` is not UTF-8 text: line {line} has other bytes")).hint(format!(
                "save it as UTF-8; to see what is wrong: sed -n {line}p {shown} | od -c; from Latin-1: iconv -f latin1 -t utf8"
            ))
        })?;
        let name = match (stdin, path.file_name()) {
            (false, Some(name)) => name.to_string_lossy().into_owned(),
            _ => "config.yaml".to_owned(),
        };
        Ok(Self { shown, name, text })
    }
}

/// `2 errors, 1 warning`
#[must_use]
pub fn count(problems: &[v1::Problem]) -> String {
    let warnings = problems.iter().filter(|problem| problem.severity == "warning").count();
    count_of(problems.len() - warnings, warnings)
}

/// `2 errors, 1 warning`
pub(crate) fn count_of(errors: usize, warnings: usize) -> String {
    let part = |count: usize, what: &str| match count {
        0 => None,
        1 => Some(format!("1 {what}")),
        _ => Some(format!("{count} {what}s")),
    };
    let parts: Vec<String> = [part(errors, "error"), part(warnings, "warning")].into_iter().flatten().collect();
    if parts.is_empty() { "no problems".into() } else { parts.join(", ") }
}

/// Says the authority's problems, each with its line in `source`.
pub fn talk(problems: &[v1::Problem], source: &Source, printer: &Printer) {
    if problems.is_empty() {
        return;
    }
    let problems: Vec<Problem> = problems.iter().map(|problem| of_wire(problem, &source.shown)).collect();
    printer.talk_text(&pictures(&problems, &source.text, printer.talks_in_colour()));
}

/// Problems that nodes found in a config of this text, each headed by its node.
#[must_use]
pub fn on_nodes(problems: &[v1::NodeProblem], file: &str, text: &str, colour: bool) -> String {
    let mut out = String::new();
    for at in problems.iter().take(20) {
        out.push_str(&format!("on {}:\n", clean(&at.node)));
        if let Some(problem) = &at.problem {
            out.push_str(&pictures(&[of_wire(problem, file)], text, colour));
        }
    }
    if problems.len() > 20 {
        out.push_str(&format!("… and {} more\n", problems.len() - 20));
    }
    out
}

/// The array that `validate -o json` prints.
#[must_use]
pub fn values(problems: &[v1::Problem], source: &Source) -> Value {
    problems.iter().map(|problem| value(&of_wire(problem, &source.shown))).collect()
}

/// One object of it.
pub(crate) fn value(problem: &Problem) -> Value {
    serde_json::to_value(problem).expect("a problem is texts and numbers")
}

/// The model's problem, about the file as the user named it. What a newer authority calls neither is an error.
fn of_wire(problem: &v1::Problem, file: &str) -> Problem {
    Problem {
        code: clean(&problem.code),
        severity: if problem.severity == "warning" { Severity::Warning } else { Severity::Error },
        message: clean(&problem.message),
        file: file.to_owned(),
        line: problem.line,
        column: problem.column,
        end_column: problem.end_column,
        path: clean(&problem.path),
        help: clean(&problem.help),
        suggestion: problem.suggestion.as_deref().map(clean),
    }
}

/// Each problem with its line and the token underlined.
pub(crate) fn pictures(problems: &[Problem], text: &str, colour: bool) -> String {
    sealane_model::problem::render(problems, text, colour)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_counted_by_weight() {
        assert_eq!(count_of(2, 1), "2 errors, 1 warning");
        assert_eq!(count_of(0, 3), "3 warnings");
        assert_eq!(count_of(0, 0), "no problems");
    }

    #[test]
    fn a_config_is_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fleet.yaml");
        std::fs::write(&path, b"a: 1\nb: \xff\n").unwrap();
        let failure = Source::read(&path).unwrap_err();
        assert_eq!(failure.exit, Exit::Invalid);
        assert!(failure.sentence().unwrap().contains("line 2"));
        std::fs::write(&path, "listen: :8080\n").unwrap();
        assert_eq!(Source::read(&path).unwrap().name, "fleet.yaml");
        assert_eq!(Source::read(Path::new("/nonexistent")).unwrap_err().exit, Exit::Invalid);
    }
}
