//! `sealane validate`: every problem of a config file, and its own tests, without a network.
//!
//! The judgement is the model's, the same that the authority and every proxy use.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use sealane_model::parse::{Reader, parse};
use sealane_model::problem::{Problem, Severity};
use sealane_model::selftest::run_tests;
use serde_json::Value;

use crate::args::Format;
use crate::clock;
use crate::exit::{Exit, Failure};
use crate::printer::Printer;
use crate::problems::{self, Source};

pub(crate) mod certificates;

const EXAMPLES: &str = "\
Examples:
  sealane validate fleet.yaml
  sealane validate fleet.yaml --fleet      as an authority reads it
  sealane validate fleet.yaml -o json      [{code, severity, message, file, line, column, …}]
  sealane validate fleet.yaml -o github    annotations for a pull request
  cat fleet.yaml | sealane validate -";

/// Arguments of `sealane validate`.
#[derive(Debug, Args)]
#[command(before_help = EXAMPLES)]
pub struct ValidateArgs {
    /// The config file, YAML or JSON; `-` is stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Read it as a fleet revision: what only one machine may say is an error
    #[arg(long)]
    fleet: bool,
    /// How to print problems
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t, env = "SEALANE_VALIDATE_OUTPUT")]
    output: ValidateFormat,
}

/// How problems are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum ValidateFormat {
    // For people: the line, the token underlined, what to do
    #[default]
    Human,
    // An array of objects
    Json,
    // The same as YAML
    Yaml,
    // Annotations of GitHub's actions, one a line
    Github,
}

/// Runs `sealane validate`.
///
/// # Errors
/// [`Exit::Invalid`] when there is an error or one of the file's tests fails.
pub fn run(args: &ValidateArgs, printer: &Printer) -> Result<(), Failure> {
    let source = Source::read(&args.file)?;
    let reader = if args.fleet { Reader::Fleet } else { Reader::Local };
    let (problems, summary) = judge(&source, reader);
    match args.output {
        ValidateFormat::Human => {
            printer.text(&problems::pictures(&problems, &source.text, printer.look(Format::Human).colour))?;
        }
        ValidateFormat::Json => printer.value(Format::Json, &array(&problems))?,
        ValidateFormat::Yaml => printer.value(Format::Yaml, &array(&problems))?,
        ValidateFormat::Github => printer.text(&problems.iter().map(annotation).collect::<String>())?,
    }
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let counted = problems::count_of(errors, problems.len() - errors);
    if errors > 0 {
        let failure = Failure::new(Exit::Invalid, format!("{}: {counted}", source.shown));
        let first = problems.iter().find(|problem| problem.severity == Severity::Error);
        return Err(match first {
            Some(first) if args.output == ValidateFormat::Human => {
                failure.hint(format!("`sealane help {}` says more about the first", first.code))
            }
            _ => failure,
        });
    }
    if args.output == ValidateFormat::Human {
        let warned = if problems.is_empty() { String::new() } else { format!("; {counted}") };
        printer.data(&format!("{}: valid: {summary}{warned}", source.shown))?;
    }
    Ok(())
}

/// Every problem, failed tests among them; and what the file holds, where it is valid.
fn judge(source: &Source, reader: Reader) -> (Vec<Problem>, String) {
    match parse(&source.shown, &source.text, reader) {
        Err(problems) => (problems, String::new()),
        Ok((config, mut problems)) => {
            problems.extend(run_tests(&config).into_iter().map(|mut problem| {
                // A config does not know where it was read from.
                problem.file.clone_from(&source.shown);
                problem
            }));
            problems.extend(certificates::check(&config, (&source.shown, &source.text), clock::now().as_second()));
            problems.sort_by_key(|problem| (problem.line, problem.column));
            let mut parts = vec![counted(config.routes.len(), "route"), counted(config.pools.len(), "pool")];
            if !config.tests.is_empty() {
                parts.push(counted(config.tests.len(), "test"));
            }
            (problems, parts.join(", "))
        }
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn array(problems: &[Problem]) -> Value {
    problems.iter().map(problems::value).collect()
}

/// `::error file=fleet.yaml,line=7,col=11,endColumn=17,title=missing_reference::no pool named "x"`
fn annotation(problem: &Problem) -> String {
    let kind = match problem.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let mut place = format!("file={}", escape(&problem.file, true));
    if problem.line > 0 {
        place.push_str(&format!(",line={}", problem.line));
    }
    if problem.column > 0 {
        place.push_str(&format!(",col={},endColumn={}", problem.column, problem.end_column));
    }
    let help = if problem.help.is_empty() { String::new() } else { format!(" ({})", problem.help) };
    let message = escape(&format!("{}{help}", problem.message), false);
    format!("::{kind} {place},title={}::{message}\n", escape(&problem.code, true))
}

/// As GitHub's workflow commands want it.
fn escape(text: &str, property: bool) -> String {
    let text = text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    if property { text.replace(':', "%3A").replace(',', "%2C") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_annotation_escapes_what_would_end_it() {
        let problem = Problem {
            code: "bad_path".into(),
            severity: Severity::Error,
            message: "100%\nwrong".into(),
            file: "a,b.yaml".into(),
            line: 7,
            column: 3,
            end_column: 9,
            path: String::new(),
            help: String::new(),
            suggestion: None,
        };
        let expected = "::error file=a%2Cb.yaml,line=7,col=3,endColumn=9,title=bad_path::100%25%0Awrong\n";
        assert_eq!(annotation(&problem), expected);
    }
}
