//! Keys in the order of the reference, mapping by mapping, whole lines at a time.
//!
//! A key moves with its lines and with the comments directly above it. Where a comment's place is not clear (it stands by
//! itself, at the end, or at the head of the file) the mapping stays as it is. Mappings with free keys keep their order,
//! and so do those in braces.

use super::super::tree::{Key, Node, Value};
use crate::schema::{Kind, Object, object};

/// The lines with the keys of every mapping that has an order in that order.
pub(super) fn ordered(root: &Node<'_>, lines: &[String]) -> Vec<String> {
    let mut lines = lines.to_vec();
    let Value::Map(entries) = &root.value else { return lines };
    let native = object("config").filter(|config| entries.iter().any(|(key, _)| config.place(&key.text).is_some()));
    // A small format has its own few keys.
    if let Some(config) = native.filter(|_| !entries.iter().any(|(key, _)| key.text == "port")) {
        let end = lines.len();
        of_object(config, entries, end, true, &mut lines);
    }
    lines
}

/// The same for what stands at a key, in the lines before `end` (from 0).
fn of_kind(kind: &'static Kind, node: &Node<'_>, end: usize, lines: &mut [String]) {
    match (kind, &node.value) {
        (Kind::Object(name), Value::Map(entries)) => {
            if let Some(object) = object(name).filter(|_| !in_braces(node, lines)) {
                of_object(object, entries, end, false, lines);
            }
        }
        (Kind::List(inner), Value::List(items)) if !in_braces(node, lines) => {
            for (index, item) in items.iter().enumerate() {
                let next = items.get(index + 1).map_or(end, |next| next.span.line as usize - 1);
                of_kind(inner, item, next, lines);
            }
        }
        (Kind::Map(inner), Value::Map(entries)) if !in_braces(node, lines) => {
            for (index, (_, value)) in entries.iter().enumerate() {
                let next = entries.get(index + 1).map_or(end, |(key, _)| key.span.line as usize - 1);
                of_kind(inner, value, next, lines);
            }
        }
        (Kind::Any(kinds), _) => {
            let fits = |kind: &&Kind| match (kind, &node.value) {
                (Kind::Object(name), Value::Map(entries)) => {
                    object(name).is_some_and(|one| entries.iter().any(|(key, _)| one.place(&key.text).is_some()))
                }
                (Kind::List(_), Value::List(_)) | (Kind::Map(_), Value::Map(_)) => true,
                _ => false,
            };
            if let Some(kind) = kinds.iter().find(fits) {
                of_kind(kind, node, end, lines);
            }
        }
        _ => {}
    }
}

fn in_braces(node: &Node<'_>, lines: &[String]) -> bool {
    let line = lines.get((node.span.line as usize).saturating_sub(1));
    line.and_then(|line| line.chars().nth(node.span.column as usize - 1)).is_none_or(|first| "[{&*!".contains(first))
}

fn of_object(
    object: &'static Object,
    entries: &[(Key<'_>, Node<'_>)],
    end: usize,
    is_root: bool,
    lines: &mut [String],
) {
    // What is inside first: it moves lines within its own, so that the keys here stay where they are.
    for (index, (key, value)) in entries.iter().enumerate() {
        let next = entries.get(index + 1).map_or(end, |(key, _)| key.span.line as usize - 1);
        if let Some(kind) = object.kind(&key.text) {
            of_kind(kind, value, next, lines);
        }
    }
    let place =
        |key: &Key<'_>| if key.text == "<<" { 0 } else { object.place(&key.text).map_or(usize::MAX, |at| at + 1) };
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by_key(|index| place(&entries[*index].0));
    if order.iter().enumerate().all(|(at, index)| at == *index) {
        return;
    }
    if let Some(parts) = parts(entries, end, is_root, lines) {
        put(&parts, &order, entries[0].0.span.column as usize - 1, lines);
    }
}

/// Lines of each key, comments above it among them; the blank lines between two parts belong to neither.
fn parts(
    entries: &[(Key<'_>, Node<'_>)],
    end: usize,
    is_root: bool,
    lines: &[String],
) -> Option<Vec<std::ops::Range<usize>>> {
    let is_comment = |at: usize| lines[at].trim_start().starts_with('#');
    let is_blank = |at: usize| lines[at].trim().is_empty();
    let indent = |at: usize| lines[at].len() - lines[at].trim_start().len();
    let column = entries[0].0.span.column;
    let mut starts = Vec::new();
    for (index, (key, _)) in entries.iter().enumerate() {
        let line = key.span.line as usize - 1;
        // Keys that share a line, or were merged in from elsewhere.
        if key.span.column != column || starts.last().is_some_and(|last| *last >= line) || line >= lines.len() {
            return None;
        }
        let mut start = line;
        while index > 0 && start > 0 && is_comment(start - 1) {
            if indent(start - 1) + 1 != column as usize {
                return None;
            }
            start -= 1;
        }
        if index == 0 && is_root && line > 0 && (0..line).any(|at| !is_blank(at)) && is_comment(line - 1) {
            return None;
        }
        starts.push(start);
    }
    let mut parts = Vec::new();
    for (index, start) in starts.iter().enumerate() {
        let mut last = starts.get(index + 1).copied().unwrap_or(end.min(lines.len()));
        while last > *start && is_blank(last - 1) {
            last -= 1;
        }
        let is_last = index + 1 == starts.len();
        while is_last && last > *start && (is_blank(last - 1) || is_comment(last - 1)) {
            if is_comment(last - 1) && indent(last - 1) + 1 >= column as usize {
                return None;
            }
            last -= 1;
        }
        if last <= *start || (!is_last && is_comment(last - 1)) {
            return None;
        }
        parts.push(*start..last);
    }
    Some(parts)
}

/// Writes the parts in `order`; what is between them stays. `indent`: blanks or dashes before each key.
fn put(parts: &[std::ops::Range<usize>], order: &[usize], indent: usize, lines: &mut [String]) {
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return };
    let (start, end) = (first.start, last.end);
    let head: String = lines[start].chars().take(indent).collect();
    let blanks = " ".repeat(indent);
    let mut texts: Vec<Vec<String>> = parts.iter().map(|part| lines[part.clone()].to_vec()).collect();
    texts[0][0] = format!("{blanks}{}", texts[0][0].chars().skip(indent).collect::<String>());
    if head != blanks && order.first().is_some_and(|index| texts[*index][0].trim_start().starts_with('#')) {
        return;
    }
    let mut written: Vec<String> = Vec::with_capacity(end - start);
    for (at, index) in order.iter().enumerate() {
        written.extend(texts[*index].iter().cloned());
        if let Some(next) = parts.get(at + 1) {
            written.extend(lines[parts[at].end..next.start].iter().cloned());
        }
    }
    written[0] = format!("{head}{}", written[0].chars().skip(indent).collect::<String>());
    lines[start..end].clone_from_slice(&written);
}
