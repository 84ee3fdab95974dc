//! Regexes of users: compiled once here, so that compiling a snapshot cannot fail on them.

use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_syntax::ast;

use super::findings::Findings;
use super::read::{shown, text};
use super::tree::Node;
use crate::config::Pattern;

/// Bound on the memory of one pattern's automaton in bytes. Patterns of people stay far below.
const AUTOMATON_BYTES_MAX: usize = 1 << 20;
/// Longest pattern in characters.
const CHARS_MAX: usize = 4096;
const SYNTAX: &str = "the syntax is that of RE2 and of Rust's `regex` crate";

/// A pattern that compiles.
pub(super) fn pattern(node: &Node<'_>, findings: &mut Findings) -> Option<Pattern> {
    checked(node, findings).map(Pattern::new)
}

/// As [`pattern`], with the compiled regex.
pub(super) fn compiled(node: &Node<'_>, findings: &mut Findings) -> Option<(Pattern, regex::Regex)> {
    let value = checked(node, findings)?;
    match regex::Regex::new(value) {
        Ok(regex) => Some((Pattern::new(value), regex)),
        Err(_) => {
            refuse(node, value, "it does not compile", SYNTAX, findings);
            None
        }
    }
}

/// As [`pattern`], of a text that is in no file; or what is wrong with it.
pub(super) fn check(value: &str) -> Result<Pattern, String> {
    match fault(value) {
        None => Ok(Pattern::new(value)),
        Some(Fault { message, help: "" }) => Err(message),
        Some(Fault { message, help }) => Err(format!("{message}; {help}")),
    }
}

fn checked<'n>(node: &'n Node<'_>, findings: &mut Findings) -> Option<&'n str> {
    let value = text(node, "a regex such as `^/v[0-9]+/`", findings)?;
    if value.is_empty() {
        findings.error(node, "bad_regex", "an empty regex matches everything").help("leave the key out for that");
        return None;
    }
    match fault(value) {
        None => Some(value),
        Some(Fault { message, help }) => {
            refuse(node, value, &message, help, findings);
            None
        }
    }
}

/// Why a regex is not usable.
struct Fault {
    message: String,
    help: &'static str,
}

fn fault(value: &str) -> Option<Fault> {
    if value.chars().count() > CHARS_MAX {
        let message = format!("it is longer than {CHARS_MAX} characters");
        return Some(Fault { message, help: "split it over several routes" });
    }
    let hir = match regex_syntax::Parser::new().parse(value) {
        Ok(hir) => hir,
        Err(error) => {
            let (message, help) = explain(&error);
            return Some(Fault { message, help });
        }
    };
    // Only the automaton: it tells the size, and a tenth of the time that a whole regex takes.
    let config = thompson::Config::new().nfa_size_limit(Some(AUTOMATON_BYTES_MAX)).which_captures(WhichCaptures::None);
    thompson::Compiler::new().configure(config).build_from_hir(&hir).err().map(|_| Fault {
        message: "it is too large when compiled".into(),
        help: "use smaller counts in `{…}` and fewer Unicode classes",
    })
}

fn refuse(node: &Node<'_>, value: &str, why: &str, help: &str, findings: &mut Findings) {
    findings.error(node, "bad_regex", format!("`{}` is not a usable regex: {why}", shown(value))).help(help);
}

fn explain(error: &regex_syntax::Error) -> (String, &'static str) {
    match error {
        regex_syntax::Error::Parse(error) => match error.kind() {
            ast::ErrorKind::UnsupportedLookAround => (
                "look-around is not supported".into(),
                "every regex runs in linear time, which rules out `(?=…)`, `(?!…)`, `(?<=…)` and `(?<!…)`; \
                 use two routes, the more special one with the lower `priority`",
            ),
            ast::ErrorKind::UnsupportedBackreference => {
                ("backreferences are not supported".into(), "every regex runs in linear time, which rules out `\\1`")
            }
            kind => (kind.to_string(), SYNTAX),
        },
        regex_syntax::Error::Translate(error) => (error.kind().to_string(), SYNTAX),
        _ => ("it does not compile".into(), SYNTAX),
    }
}

/// The first group that a replacement names and the regex does not have.
pub(super) fn unknown_group<'r>(regex: &regex::Regex, replacement: &'r str) -> Option<&'r str> {
    let known = |name: &str| match name.parse::<usize>() {
        Ok(index) => index < regex.captures_len(),
        Err(_) => regex.capture_names().flatten().any(|known| known == name),
    };
    let mut rest = replacement;
    while let Some(at) = rest.find('$') {
        rest = rest.get(at + 1..)?;
        if let Some(after) = rest.strip_prefix('$') {
            rest = after;
            continue;
        }
        let (name, after) = match rest.strip_prefix('{') {
            Some(inside) => inside.split_once('}')?,
            None => {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
                rest.split_at(end)
            }
        };
        if !name.is_empty() && !known(name) {
            return Some(name);
        }
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_a_regex_lacks_are_found() {
        let regex = regex::Regex::new("^/(?<name>[a-z]+)/(x)").unwrap();
        let check = |replacement: &str, expected: Option<&str>| {
            assert_eq!(unknown_group(&regex, replacement), expected, "{replacement}");
        };
        check("/$1/${name}/$2/$0", None);
        check("/$3", Some("3"));
        check("/${nam}", Some("nam"));
        check("/$1x", Some("1x"));
        check("/$$9", None);
        check("/$", None);
        check("/${", None);
    }
}
