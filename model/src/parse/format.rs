//! A config text in one layout: two blanks for each level, no trailing blanks, at most one empty line in a row, one line
//! break at the end, double quotes, keys in the order of the reference. JSON is printed with two blanks too.
//!
//! Comments stay with what they stand by. What it gives says exactly what it was given: the trees of both are compared,
//! and a layout that would change the meaning is not made.

use super::findings::Findings;
use super::source;
use super::tree::{Key, Node, Value};
use crate::problem::Problem;

mod order;
mod quotes;

/// The text in one layout.
///
/// # Errors
/// What makes it no YAML or JSON.
pub fn format(file: &str, text: &str) -> Result<String, Vec<Problem>> {
    let mut findings = Findings::new();
    let root = source::tree(text, &mut findings);
    let Some(root) = root.filter(|_| !findings.any_error()) else {
        return Err(findings.into_problems(file, text, None));
    };
    let plain = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    if plain.trim_start().starts_with('{')
        && let Ok(value) = serde_json::from_str::<serde_json::Value>(&plain)
    {
        let printed = format!("{value:#}\n");
        return Ok(if says_the_same(&root, &printed) { printed } else { text.to_owned() });
    }
    let lines: Vec<&str> = plain.lines().collect();
    let quoted = quotes::unified(&root, &lines);
    let ordered = order::ordered(&root, &quoted);
    // The best that says the same: each of the three changes is left out rather than made at a risk.
    let texts = [ordered, quoted, lines.iter().map(|line| (*line).to_owned()).collect()];
    let found = texts.iter().find_map(|lines| laid_out(&root, &lines.join("\n")));
    Ok(found.unwrap_or_else(|| text.to_owned()))
}

/// `text` with its levels in order, if it still says what `root` does.
fn laid_out(root: &Node<'_>, text: &str) -> Option<String> {
    let mut findings = Findings::new();
    let tree = source::tree(text, &mut findings)?;
    let lines: Vec<&str> = text.lines().collect();
    let kept = kept_lines(&tree, &lines);
    let candidates = [indented(&lines, &kept), trimmed(&lines, &kept)];
    candidates.into_iter().find(|candidate| says_the_same(root, candidate))
}

fn says_the_same(root: &Node<'_>, text: &str) -> bool {
    let mut findings = Findings::new();
    source::tree(text, &mut findings).is_some_and(|other| !findings.any_error() && same(root, &other))
}

fn same(a: &Node<'_>, b: &Node<'_>) -> bool {
    match (&a.value, &b.value) {
        (Value::Scalar { text: a, quoted: q }, Value::Scalar { text: b, quoted: r }) => a == b && q == r,
        (Value::List(a), Value::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Map(a), Value::Map(b)) => {
            let sorted = |entries: &'_ [(Key<'_>, Node<'_>)]| {
                let mut order: Vec<usize> = (0..entries.len()).collect();
                order.sort_by(|a, b| entries[*a].0.text.cmp(&entries[*b].0.text));
                order
            };
            let pairs = sorted(a).into_iter().zip(sorted(b));
            a.len() == b.len() && pairs.into_iter().all(|(i, j)| a[i].0.text == b[j].0.text && same(&a[i].1, &b[j].1))
        }
        _ => false,
    }
}

/// Lines (from 0) that go on with a text or a bracket of an earlier line: they move with it and keep their blanks.
fn kept_lines(root: &Node<'_>, lines: &[&str]) -> Vec<bool> {
    let mut kept = vec![false; lines.len()];
    keep(root, lines, &mut kept);
    kept
}

fn keep(node: &Node<'_>, lines: &[&str], kept: &mut [bool]) {
    let (first, last) = (node.span.line as usize, node.span.end_line as usize);
    let start = lines.get(first.saturating_sub(1)).and_then(|line| line.chars().nth(node.span.column as usize - 1));
    let whole = match &node.value {
        Value::Scalar { .. } => true,
        Value::List(_) => start == Some('['),
        Value::Map(_) => start == Some('{'),
    };
    if whole {
        let header = first.saturating_sub(1);
        // A block text starts below its `|` or `>`, and its span may start either there or below.
        let block = matches!(node.value, Value::Scalar { .. }) && !matches!(start, Some('"' | '\'')) && last > first;
        let from =
            if block && !lines.get(header).is_some_and(|line| line.contains(['|', '>'])) { header } else { first };
        for line in kept.iter_mut().take(last).skip(from) {
            *line = true;
        }
        return;
    }
    match &node.value {
        Value::Scalar { .. } => {}
        Value::List(items) => items.iter().for_each(|item| keep(item, lines, kept)),
        Value::Map(entries) => entries.iter().for_each(|(_, node)| keep(node, lines, kept)),
    }
}

/// One level of the text: its blanks before and after, and whether its lines start with dashes.
struct Level {
    old: isize,
    new: isize,
    dashes: bool,
}

fn indented(lines: &[&str], kept: &[bool]) -> String {
    let mut levels = vec![Level { old: -1, new: -2, dashes: false }];
    let mut out: Vec<String> = Vec::with_capacity(lines.len());
    let mut moved: isize = 0;
    for (index, line) in lines.iter().enumerate() {
        if kept[index] {
            out.push(shifted(line, moved));
            continue;
        }
        let content = line.trim();
        if content.is_empty() {
            out.push(String::new());
            continue;
        }
        if content.starts_with('#') {
            // A comment stands as the next line of content does, if it stood so before.
            out.push(format!("\u{0}{line}"));
            continue;
        }
        let old = blanks(line);
        let dash = content == "-" || content.starts_with("- ");
        let new = enter(&mut levels, old, dash);
        moved = new - old;
        let mut text = " ".repeat(usize::try_from(new).unwrap_or(0));
        let (mut rest, mut at, mut to) = (content, old, new);
        // `- - a`: each dash opens a level of its own.
        while let Some(after) = rest.strip_prefix("- ") {
            let inner = after.trim_start();
            let skipped = isize::try_from(rest.len() - inner.len()).unwrap_or(2);
            text.push_str("- ");
            (at, to) = (at + skipped, to + 2);
            let inner_dash = inner.starts_with("- ") || inner == "-";
            levels.push(Level { old: at, new: to, dashes: inner_dash });
            moved = to - at;
            rest = inner;
        }
        text.push_str(rest);
        place_comments(&mut out, old, new);
        out.push(text);
    }
    place_comments(&mut out, 0, 0);
    joined(out)
}

/// The blanks that a line of content gets.
fn enter(levels: &mut Vec<Level>, old: isize, dash: bool) -> isize {
    while levels.last().is_some_and(|top| top.old > old || (top.old == old && top.dashes && !dash)) {
        levels.pop();
    }
    let top = levels.last().expect("the lowest level is below every line");
    if top.old == old && top.dashes == dash {
        return top.new;
    }
    let new = top.new + 2;
    levels.push(Level { old, new, dashes: dash });
    new
}

/// Settles the comments that waited for the line of content below them.
fn place_comments(out: &mut [String], old: isize, new: isize) {
    for comment in out.iter_mut().rev().take_while(|line| line.is_empty() || line.starts_with('\u{0}')) {
        if let Some(text) = comment.strip_prefix('\u{0}') {
            let blanks = blanks(text);
            let place = if blanks >= old { new + (blanks - old) } else { blanks };
            *comment = format!("{}{}", " ".repeat(usize::try_from(place).unwrap_or(0)), text.trim());
        }
    }
}

fn shifted(line: &str, by: isize) -> String {
    let content = line.trim_start();
    if content.is_empty() {
        return String::new();
    }
    let place = usize::try_from(blanks(line) + by).unwrap_or(0);
    format!("{}{content}", " ".repeat(place))
}

fn blanks(line: &str) -> isize {
    isize::try_from(line.len() - line.trim_start().len()).unwrap_or(0)
}

fn trimmed(lines: &[&str], kept: &[bool]) -> String {
    let trim = |(line, kept): (&&str, &bool)| if *kept { (*line).to_owned() } else { line.trim_end().to_owned() };
    joined(lines.iter().zip(kept).map(trim).collect())
}

/// Lines with at most one empty one in a row, none at either end.
fn joined(lines: Vec<String>) -> String {
    let mut out = String::new();
    let mut empty = 0;
    for line in lines {
        let line = if line.trim().is_empty() { String::new() } else { line };
        if line.is_empty() {
            empty += 1;
            continue;
        }
        if empty > 0 && !out.is_empty() {
            out.push('\n');
        }
        empty = 0;
        out.push_str(&line);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn gives(text: &str, expected: &str) {
        let once = format("f.yaml", text).unwrap_or_else(|problems| panic!("{text}\n{problems:#?}"));
        assert_eq!(once, expected, "{text}");
        assert_eq!(format("f.yaml", &once).unwrap(), once, "it changes nothing the second time");
    }

    #[test]
    fn levels_get_two_blanks_and_comments_stay_with_their_lines() {
        gives(
            "# top  \n\n\n\nroutes:\n# first\n-   path: /a   # why\n    to:\n       - http://a:1\n       -   http://b:1\n\n-   to: http://c\n    # last\nlisten: :8080\n\n",
            "# top\n\nroutes:\n  # first\n  - path: /a   # why\n    to:\n      - http://a:1\n      - http://b:1\n\n  - to: http://c\n# last\nlisten: :8080\n"
                .replace("\n# last\n", "\n    # last\n")
                .as_str(),
        );
    }

    #[test]
    fn keys_come_in_the_order_of_the_reference_with_their_comments() {
        gives(
            "routes:\n  - to: http://a\n    # what it takes\n    path: /a  # only this\n    id: a\nlisten: :8080\n",
            "listen: :8080\nroutes:\n  - id: a\n    # what it takes\n    path: /a  # only this\n    to: http://a\n",
        );
        gives(
            "# About this file.\n\nroutes: []\n\n# Where\nlisten: :8080\n",
            "# About this file.\n\n# Where\nlisten: :8080\n\nroutes: []\n",
        );
        for unclear in [
            "# about the routes, or the file?\nroutes: []\nlisten: :8080\n",
            "routes: []\n\n# by itself\n\nlisten: :8080\n",
            "routes: []\nlisten: :8080\n# at the end\n",
            "routes: [{ to: http://a, id: a }]\n",
            "pools:\n  b: { endpoints: [\"b:1\"] }\n  a: { endpoints: [\"a:1\"] }\n",
        ] {
            gives(unclear, unclear);
        }
    }

    #[test]
    fn quotes_are_double_where_nothing_needs_an_escape() {
        gives(
            "listen: ':8080'\nx-a: 'say \"hi\"'\nx-b: 'it''s'\n",
            "listen: \":8080\"\nx-a: 'say \"hi\"'\nx-b: 'it''s'\n",
        );
    }

    #[test]
    fn texts_and_brackets_over_several_lines_keep_what_they_say() {
        gives(
            "a:\n    b: |\n        one\n          two\n    c: { d: 1,\n         e: 2 }\n",
            "a:\n  b: |\n      one\n        two\n  c: { d: 1,\n       e: 2 }\n",
        );
        gives("{\"listen\": \":8080\", \"routes\": []}", "{\n  \"listen\": \":8080\",\n  \"routes\": []\n}\n");
    }

    #[test]
    fn samples_say_the_same_afterwards_and_change_only_once() {
        for text in [
            include_str!("../../../deploy/samples/full.yaml"),
            include_str!("../../../deploy/samples/seed-001.yaml"),
            include_str!("../../../deploy/samples/seed-004.yaml"),
            include_str!("../../../deploy/samples/smallest.yaml"),
        ] {
            let once = format("f.yaml", text).unwrap();
            let mut findings = Findings::new();
            let root = source::tree(text, &mut findings).unwrap();
            assert!(says_the_same(&root, &once));
            assert_eq!(text.matches('#').count(), once.matches('#').count(), "no comment is lost");
            assert_eq!(format("f.yaml", &once).unwrap(), once);
        }
    }

    #[test]
    fn what_is_no_yaml_is_refused() {
        assert!(format("f.yaml", "a: [1").is_err());
        assert!(format("f.yaml", "").is_err());
    }
}
