//! Whatever the text: no panic, and every problem lies inside it.
//!
//! A bounded, seeded walk over the samples; a failure prints the text. `PARSE_SEED` starts it elsewhere.

use sealane_model::parse::{Reader, parse};
use sealane_model::problem::render;

use super::samples::{FRAGMENTS, FULL, SEED_001, SEED_002, SEED_004, SMALLEST};

const ROUNDS: usize = 4_000;
const PIECES: &[&str] = &[
    "\t",
    "\n",
    "\r",
    "\r\n",
    " ",
    "  ",
    ":",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "\"",
    "'",
    "#",
    "&a ",
    "*a",
    "<<: ",
    "!",
    "!!str ",
    "|",
    ">",
    "%",
    "@",
    "`",
    "?",
    "~",
    "null",
    "---\n",
    "...\n",
    "\u{feff}",
    "\u{0}",
    "é",
    "日本",
    "\u{1f600}",
    "e\u{301}",
    "-1",
    "0",
    "999999999999999999999",
    "1.5h",
    "::1",
    "${env:X}",
    "-----BEGIN PRIVATE KEY-----",
    "x-",
    "$1",
    "(?=a)",
    "%00",
    "\u{2028}",
    "\u{85}",
];

/// xorshift64*: the same numbers everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound.max(1)
    }

    /// A character boundary of `text`.
    fn place(&mut self, text: &str) -> usize {
        let at = self.below(text.len() + 1);
        (at..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len())
    }
}

fn mutate(text: &mut String, corpus: &[&str], random: &mut Random) {
    let (a, b) = (random.place(text), random.place(text));
    let (start, end) = (a.min(b), a.max(b));
    let near = (start..=text.len().min(start + 12)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(start);
    match random.below(7) {
        0 | 1 => text.insert_str(start, PIECES[random.below(PIECES.len())]),
        2 => text.replace_range(start..near, ""),
        3 => text.replace_range(start..near, PIECES[random.below(PIECES.len())]),
        4 => text.truncate(start),
        5 => {
            let piece = text[start..end].to_owned();
            let at = random.place(text);
            text.insert_str(at, &piece);
        }
        _ => {
            let other = corpus[random.below(corpus.len())];
            let (a, b) = (random.place(other), random.place(other));
            text.insert_str(start, &other[a.min(b)..a.max(b)]);
        }
    }
}

#[test]
fn mutated_samples_never_panic_and_every_problem_lies_inside_the_text() {
    let mut corpus = vec![SMALLEST, FULL, SEED_001, SEED_002, SEED_004];
    corpus.extend(FRAGMENTS.map(|(_, text)| text));
    let seed = std::env::var("PARSE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x5ea1_a4e5);
    let mut random = Random(seed);
    for _ in 0..ROUNDS {
        let mut text = corpus[random.below(corpus.len())].to_owned();
        for _ in 0..=random.below(4) {
            mutate(&mut text, &corpus, &mut random);
        }
        check(&text);
    }
}

#[test]
fn odd_texts_never_panic() {
    for text in [
        "", "\u{feff}", "\u{0}", ":", "-", "?", "{", "}", "[", "]]", "\"", "'", "&a", "*a", "!", "|", ">-", "a: |\n",
        "%", "\r",
    ] {
        check(text);
    }
    for piece in PIECES {
        check(piece);
        check(&format!("routes: {piece}"));
        check(&format!("{piece}routes: [{{ to: {piece} }}]"));
    }
}

fn check(text: &str) {
    let outcome = std::panic::catch_unwind(|| match parse("f", text, Reader::Fleet) {
        Ok((_, warnings)) => warnings,
        Err(problems) => {
            assert!(!problems.is_empty(), "a refusal without a reason");
            problems
        }
    });
    let Ok(problems) = outcome else { panic!("this text panicked:\n{text:?}") };
    let plain = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines: Vec<&str> = split_lines(plain);
    for problem in &problems {
        if problem.line == 0 {
            assert_eq!((problem.column, problem.end_column), (0, 0), "{text:?}\n{problem:#?}");
            continue;
        }
        let line = lines.get(problem.line as usize - 1);
        let length = line.unwrap_or_else(|| panic!("{text:?}\n{problem:#?}")).chars().count() as u32;
        let inside = problem.column >= 1
            && problem.column <= length + 1
            && problem.end_column >= problem.column
            && problem.end_column <= length + 1;
        assert!(inside, "{length}\n{text:?}\n{problem:#?}");
    }
    assert!(problems.windows(2).all(|pair| pair[1].line == 0 || pair[0].line <= pair[1].line), "{text:?}");
    let rendered = render(&problems, text, false);
    assert!(rendered.is_empty() == problems.is_empty());
}

fn split_lines(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['\n', '\r']) {
        lines.push(&rest[..at]);
        let step = if rest[at..].starts_with("\r\n") { 2 } else { 1 };
        rest = &rest[at + step..];
    }
    lines.push(rest);
    lines
}
