//! Patterns as syntax trees: reduced to ASCII, and the literals that a match must contain.
//!
//! Normalised paths are ASCII, and a host that is not is never compared with a pattern. On such text a pattern means
//! the same when every class is cut down to ASCII, and its automaton is many times smaller (`\w` alone: hundreds of
//! states).

use regex_syntax::ParserBuilder;
use regex_syntax::hir::{
    Capture, Class, ClassBytes, ClassBytesRange, ClassUnicode, ClassUnicodeRange, Dot, Hir, HirKind, Look, Repetition,
};

use crate::config::Pattern;

/// How a pattern meets its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Anchoring {
    /// Anywhere in a path; case counts.
    Path,
    /// The whole of a host name; case does not count.
    Host,
}

/// The tree of `pattern`, which matches exactly where the pattern does.
pub(super) fn parse(pattern: &Pattern) -> Hir {
    ascii(tree(pattern, false))
}

/// The tree of `pattern` for a search that starts at the first byte.
pub(super) fn parse_anchored(pattern: &Pattern, anchoring: Anchoring) -> Hir {
    match anchoring {
        Anchoring::Host => {
            let name = ascii(tree(pattern, true));
            Hir::concat(vec![Hir::look(Look::Start), name, Hir::look(Look::End)])
        }
        Anchoring::Path => {
            let path = parse(pattern);
            if path.properties().look_set_prefix().contains(Look::Start) {
                return path;
            }
            let anything = Box::new(Hir::dot(Dot::AnyByte));
            Hir::concat(vec![Hir::repetition(Repetition { min: 0, max: None, greedy: false, sub: anything }), path])
        }
    }
}

/// Sets of literals in lower case: a text that matches contains one literal of each set, in whatever case.
pub(super) fn required_literals(hir: &Hir) -> Vec<Vec<Vec<u8>>> {
    let mut sets = Vec::new();
    collect_required(hir, &mut sets);
    sets
}

fn tree(pattern: &Pattern, ignore_case: bool) -> Hir {
    ParserBuilder::new()
        .case_insensitive(ignore_case)
        .build()
        .parse(pattern.as_str())
        .expect("a Pattern is a regex that was compiled before")
}

fn ascii(hir: Hir) -> Hir {
    match hir.into_kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(literal) => Hir::literal(literal.0),
        HirKind::Class(class) => Hir::class(Class::Bytes(ascii_class(class))),
        HirKind::Look(look) => Hir::look(ascii_look(look)),
        HirKind::Repetition(Repetition { min, max, greedy, sub }) => {
            Hir::repetition(Repetition { min, max, greedy, sub: Box::new(ascii(*sub)) })
        }
        HirKind::Capture(Capture { index, name, sub }) => {
            Hir::capture(Capture { index, name, sub: Box::new(ascii(*sub)) })
        }
        HirKind::Concat(parts) => Hir::concat(parts.into_iter().map(ascii).collect()),
        HirKind::Alternation(parts) => Hir::alternation(parts.into_iter().map(ascii).collect()),
    }
}

fn ascii_class(class: Class) -> ClassBytes {
    match class {
        Class::Unicode(mut class) => {
            class.intersect(&ClassUnicode::new([ClassUnicodeRange::new('\0', '\x7f')]));
            class.to_byte_class().expect("only ASCII is left")
        }
        Class::Bytes(mut class) => {
            class.intersect(&ClassBytes::new([ClassBytesRange::new(0, 0x7f)]));
            class
        }
    }
}

/// Word boundaries that mean the same on ASCII text.
fn ascii_look(look: Look) -> Look {
    match look {
        Look::WordUnicode => Look::WordAscii,
        Look::WordUnicodeNegate => Look::WordAsciiNegate,
        Look::WordStartUnicode => Look::WordStartAscii,
        Look::WordEndUnicode => Look::WordEndAscii,
        Look::WordStartHalfUnicode => Look::WordStartHalfAscii,
        Look::WordEndHalfUnicode => Look::WordEndHalfAscii,
        Look::Start
        | Look::End
        | Look::StartLF
        | Look::EndLF
        | Look::StartCRLF
        | Look::EndCRLF
        | Look::WordAscii
        | Look::WordAsciiNegate
        | Look::WordStartAscii
        | Look::WordEndAscii
        | Look::WordStartHalfAscii
        | Look::WordEndHalfAscii => look,
    }
}

fn collect_required(hir: &Hir, sets: &mut Vec<Vec<Vec<u8>>>) {
    match hir.kind() {
        HirKind::Literal(_) | HirKind::Class(_) => collect_run(std::slice::from_ref(hir), sets),
        HirKind::Capture(capture) => collect_required(&capture.sub, sets),
        HirKind::Repetition(repetition) if repetition.min > 0 => collect_required(&repetition.sub, sets),
        HirKind::Concat(parts) => collect_run(parts, sets),
        HirKind::Alternation(parts) => {
            let mut union = Vec::new();
            for part in parts {
                let mut of_part = Vec::new();
                collect_required(part, &mut of_part);
                let shortest = |set: &Vec<Vec<u8>>| set.iter().map(Vec::len).min();
                let Some(best) = of_part.into_iter().max_by_key(shortest) else { return };
                union.extend(best);
            }
            if union.len() <= ALTERNATIVES_MAX {
                sets.push(union);
            }
        }
        HirKind::Empty | HirKind::Look(_) | HirKind::Repetition(_) => {}
    }
}

/// Joins neighbouring literals and letters of either case into one literal.
fn collect_run(parts: &[Hir], sets: &mut Vec<Vec<Vec<u8>>>) {
    let mut run = Vec::new();
    for part in parts {
        match part.kind() {
            HirKind::Literal(literal) => run.extend(literal.0.to_ascii_lowercase()),
            HirKind::Class(class) => match letter_of_either_case(class) {
                Some(letter) => run.push(letter),
                None => end_run(&mut run, sets),
            },
            HirKind::Look(_) | HirKind::Empty => {}
            HirKind::Repetition(_) | HirKind::Capture(_) | HirKind::Concat(_) | HirKind::Alternation(_) => {
                end_run(&mut run, sets);
                collect_required(part, sets);
            }
        }
    }
    end_run(&mut run, sets);
}

fn end_run(run: &mut Vec<u8>, sets: &mut Vec<Vec<Vec<u8>>>) {
    run.truncate(LITERAL_BYTES_MAX);
    if !run.is_empty() {
        sets.push(vec![std::mem::take(run)]);
    }
}

/// `x` for `[Xx]`.
fn letter_of_either_case(class: &Class) -> Option<u8> {
    let Class::Bytes(class) = class else { return None };
    match class.ranges() {
        [upper, lower] if upper.len() == 1 && lower.len() == 1 => (upper.start().is_ascii_uppercase()
            && upper.start().to_ascii_lowercase() == lower.start())
        .then_some(lower.start()),
        _ => None,
    }
}

/// Alternatives beyond this are not looked for one by one.
const ALTERNATIVES_MAX: usize = 32;

/// A longer literal tells hardly more and costs memory.
const LITERAL_BYTES_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn required_literals_are_what_every_match_contains() {
        let check = |pattern: &str, expected: &[&[&str]]| {
            let found = required_literals(&parse(&Pattern::new(pattern)));
            let found: Vec<Vec<String>> = found
                .into_iter()
                .map(|set| set.into_iter().map(|literal| String::from_utf8(literal).unwrap()).collect())
                .collect();
            assert_eq!(found, expected, "{pattern}");
        };
        check("^/api/users(/.*)?$", &[&["/api/users"]]);
        check("^/api/v[0-9]+/orders/\\d+$", &[&["/api/v"], &["/orders/"]]);
        check("^/(foo|bar)/x", &[&["/"], &["foo", "bar"], &["/x"]]);
        check("(?i)/Users", &[&["/users"]]);
        check("^/[aA]b$", &[&["/ab"]]);
        check("(abc)+", &[&["abc"]]);
        check("(abc)*", &[]);
        check("a|.*", &[]);
        check(".*", &[]);
        check("", &[]);
        check("\\.(png|jpe?g)$", &[&["."], &["png", "jp"]]);
    }
}
