//! One kind of quotes: `'text'` becomes `"text"` where both say the same, which is where nothing in it needs an escape.

use super::super::tree::{Node, Span, Value};

/// The lines with their quotes changed. Columns stay: one character takes the place of one.
pub(super) fn unified(root: &Node<'_>, lines: &[&str]) -> Vec<String> {
    let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    change(root, &mut lines);
    lines
}

fn change(node: &Node<'_>, lines: &mut [String]) {
    match &node.value {
        Value::Scalar { text, .. } => swap(node.span, text, lines),
        Value::List(items) => items.iter().for_each(|item| change(item, lines)),
        Value::Map(entries) => {
            for (key, node) in entries {
                swap(key.span, &key.text, lines);
                change(node, lines);
            }
        }
    }
}

fn swap(span: Span, text: &str, lines: &mut [String]) {
    if span.line != span.end_line || text.contains(['"', '\\', '\'']) || text.chars().any(char::is_control) {
        return;
    }
    let Some(line) = lines.get_mut((span.line as usize).saturating_sub(1)) else { return };
    let mut letters: Vec<char> = line.chars().collect();
    let (first, last) = (span.column as usize - 1, (span.end_column as usize).saturating_sub(2));
    // A span is trusted only as far as the text agrees: aliases point at where they were written first.
    let inside = letters.get(first + 1..last).map(|inside| inside.iter().collect::<String>());
    if first < last && letters[first] == '\'' && letters[last] == '\'' && inside.as_deref() == Some(text) {
        (letters[first], letters[last]) = ('"', '"');
        *line = letters.into_iter().collect();
    }
}
