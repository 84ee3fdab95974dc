//! Problems as text for a person: the line, the token underlined, how to go on.
//!
//! It takes any text and any problem: places that do not exist leave the picture out. Control characters never reach
//! the terminal, and a line with a secret is not shown.

use std::fmt::Write as _;

use super::lines::Lines;
use super::{Problem, Severity};

/// Columns of a source line that are shown at most.
const WINDOW: usize = 160;
/// Columns before the token that are shown at least, when a line is cut.
const BEFORE: usize = 60;

/// Renders `problems` about `text`, one paragraph each. `color` writes ANSI colours.
#[must_use]
pub fn render(problems: &[Problem], text: &str, color: bool) -> String {
    let lines = Lines::new(text);
    let paint = Paint { color };
    let mut out = String::new();
    for problem in problems {
        one(problem, &lines, paint, &mut out);
        out.push('\n');
    }
    out
}

#[derive(Clone, Copy)]
struct Paint {
    color: bool,
}

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

const BOLD: &str = "1";
const RED: &str = "1;31";
const YELLOW: &str = "1;33";
const BLUE: &str = "1;34";

fn one(problem: &Problem, lines: &Lines<'_>, paint: Paint, out: &mut String) {
    let (word, hue) = match problem.severity {
        Severity::Error => ("error", RED),
        Severity::Warning => ("warning", YELLOW),
    };
    let head = paint.with(hue, &format!("{word}[{}]", clean(&problem.code)));
    let mut write = |line: std::fmt::Arguments<'_>| {
        out.write_fmt(line).expect("a string takes any text");
        out.push('\n');
    };
    write(format_args!("{head}: {}", paint.with(BOLD, &clean(&problem.message))));
    let mut place = clean(&problem.file);
    if problem.line > 0 {
        place = format!("{place}:{}:{}", problem.line, problem.column.max(1));
    }
    if !problem.path.is_empty() {
        place = if place.is_empty() { clean(&problem.path) } else { format!("{place} ({})", clean(&problem.path)) };
    }
    let gutter = " ".repeat(problem.line.to_string().len());
    if !place.is_empty() {
        write(format_args!("{gutter}{} {place}", paint.with(BLUE, "-->")));
    }
    let bar = paint.with(BLUE, "|");
    if let Some(source) = lines.line(problem.line) {
        if problem.code == "secret_literal" {
            let number = paint.with(BLUE, &problem.line.to_string());
            write(format_args!("{number} {bar} (not shown, since it may hold a secret)"));
        } else {
            let (shown, blanks, carets) = picture(source, problem.column, problem.end_column);
            let number = paint.with(BLUE, &problem.line.to_string());
            write(format_args!("{number} {bar} {shown}"));
            if carets > 0 {
                let carets = paint.with(hue, &"^".repeat(carets));
                write(format_args!("{gutter} {bar} {}{carets}", " ".repeat(blanks)));
            }
        }
    }
    let note = |word: &str| format!("{gutter} {} {}", paint.with(BLUE, "="), paint.with(BOLD, word));
    if !problem.help.is_empty() {
        write(format_args!("{}: {}", note("help"), clean(&problem.help)));
    }
    // Blanks in place of a tab cannot be seen.
    if let Some(suggestion) = problem.suggestion.as_ref().filter(|text| !text.trim().is_empty()) {
        write(format_args!("{}: {}", note("try"), clean(suggestion)));
    }
}

/// The shown part of a line, the blanks before the underline and its length in columns of a terminal.
fn picture(source: &str, column: u32, end_column: u32) -> (String, usize, usize) {
    let chars: Vec<char> = source.chars().collect();
    if column == 0 {
        return (clean(&chars.iter().take(WINDOW).collect::<String>()), 0, 0);
    }
    let start = (column as usize - 1).min(chars.len());
    let end = (end_column as usize).saturating_sub(1).clamp(start, chars.len());
    let first = if chars.len() <= WINDOW || start <= BEFORE { 0 } else { start - BEFORE };
    let last = chars.len().min(first + WINDOW);
    let mut shown = String::new();
    if first > 0 {
        shown.push('…');
    }
    shown.extend(&chars[first..last]);
    if last < chars.len() {
        shown.push('…');
    }
    let blanks = usize::from(first > 0) + width(&chars[first..start.min(last)]);
    let carets = width(&chars[start.min(last)..end.min(last)]).max(1);
    (clean(&shown), blanks, carets)
}

/// Columns of a terminal that `chars` take, as far as can be told without the terminal.
fn width(chars: &[char]) -> usize {
    chars
        .iter()
        .map(|c| match u32::from(*c) {
            0x300..=0x36f | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
            0x1100..=0x115f
            | 0x2e80..=0xa4cf
            | 0xac00..=0xd7a3
            | 0xf900..=0xfaff
            | 0xfe30..=0xfe6f
            | 0xff00..=0xff60
            | 0xffe0..=0xffe6
            | 0x1f300..=0x1faff
            | 0x20000..=0x3fffd => 2,
            _ => 1,
        })
        .sum()
}

/// `text` with each control character as one blank.
fn clean(text: &str) -> String {
    let hidden = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if hidden(c) { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(line: u32, column: u32, end_column: u32) -> Problem {
        Problem {
            code: "unknown_key".into(),
            severity: Severity::Error,
            message: "a route has no key `pol`".into(),
            file: "fleet.yaml".into(),
            line,
            column,
            end_column,
            path: "routes[0].pol".into(),
            help: "did you mean `pool`?".into(),
            suggestion: Some("pool".into()),
        }
    }

    #[test]
    fn the_token_is_underlined_below_its_line() {
        let text = "routes:\n  - pol: api\n";
        let expected = "\
error[unknown_key]: a route has no key `pol`
 --> fleet.yaml:2:5 (routes[0].pol)
2 |   - pol: api
  |     ^^^
  = help: did you mean `pool`?
  = try: pool

";
        assert_eq!(render(&[problem(2, 5, 8)], text, false), expected);
        let colored = render(&[problem(2, 5, 8)], text, true);
        assert!(colored.contains("\u{1b}[1;31m^^^\u{1b}[0m"), "{colored}");
    }

    #[test]
    fn wide_characters_tabs_and_a_bom_do_not_move_the_underline() {
        let carets = |text: &str, column, end| {
            let shown = render(&[problem(1, column, end)], text, false);
            shown.lines().nth(3).unwrap_or_default().to_owned()
        };
        assert_eq!(carets("\u{feff}pol: 1", 1, 4), "  | ^^^");
        assert_eq!(carets("\tpol: 1", 2, 5), "  |  ^^^");
        assert_eq!(carets("\u{65e5}\u{672c}: pol", 5, 8), "  |       ^^^");
    }

    #[test]
    fn places_that_do_not_exist_and_odd_texts_never_panic() {
        let texts =
            ["", "\u{feff}", "a", "\u{feff}\u{1f600}e\u{301}\t\u{0}", "\r\r\n\n", &"x".repeat(10_000), "日本語: 値\n"];
        let numbers = [0, 1, 2, 3, 7, 5_000, u32::MAX - 1, u32::MAX];
        for text in texts {
            for line in numbers {
                for column in numbers {
                    for end in numbers {
                        let shown = render(&[problem(line, column, end)], text, false);
                        assert!(shown.len() < 2_000, "{}", shown.len());
                    }
                }
            }
        }
    }

    #[test]
    fn a_long_line_is_cut_around_the_token() {
        let text = format!("{}pol{}", "x".repeat(1_000), "y".repeat(1_000));
        let shown = render(&[problem(1, 1_001, 1_004)], &text, false);
        let lines: Vec<_> = shown.lines().collect();
        let at = lines[3].find('^').unwrap();
        let chars: Vec<char> = lines[2].chars().collect();
        assert_eq!(chars[at..at + 3].iter().collect::<String>(), "pol");
    }

    #[test]
    fn secrets_and_escape_sequences_are_not_shown() {
        let secret = Problem { code: "secret_literal".into(), ..problem(1, 1, 2) };
        assert!(!render(&[secret], "key: hunter2", false).contains("hunter2"));
        assert!(!render(&[problem(1, 1, 2)], "\u{1b}[2Jx", false).contains('\u{1b}'));
    }
}
