//! Nodes → plain values: text, numbers, booleans, durations, sizes, one of a few words, lists and mappings.
//!
//! Each reader reports what is wrong and gives `None`; the walker then goes on with a default, since a config with an
//! error is thrown away in the end. It does not know which key it reads.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::findings::Findings;
use super::nearest::nearest;
use super::tree::{Node, Value};
use super::{duration, size};

/// The text of a scalar that is not null. `what` is what the message asks for, such as "a path such as `/api/`".
pub(super) fn text<'n>(node: &'n Node<'_>, what: &str, findings: &mut Findings) -> Option<&'n str> {
    match &node.value {
        Value::Scalar { text, .. } if !node.is_null() => Some(text),
        Value::Scalar { .. } => {
            findings.error(node, "empty_value", format!("expected {what}, found nothing"));
            None
        }
        Value::List(items) => {
            let found = findings.error(node, "wrong_type", format!("expected {what}, found a list"));
            match items.as_slice() {
                [one] if one.scalar().is_some_and(|text| text.contains("::")) => {
                    found.help(format!("quote an IPv6 address: \"[{}]:80\"", one.scalar().unwrap_or_default()))
                }
                [one] if one.scalar().is_some() => {
                    found.help("remove the brackets").suggest(one.scalar().unwrap_or_default())
                }
                _ => found.help("only one value can stand here"),
            };
            None
        }
        Value::Map(entries) => {
            let found = findings.error(node, "wrong_type", format!("expected {what}, found a mapping"));
            if let [(key, value)] = entries.as_slice()
                && let Some(text) = value.scalar()
            {
                let (holds, whole) = if value.is_null() && key.text.contains(':') {
                    ("a colon", key.text.to_string())
                } else if value.is_null() {
                    ("braces", format!("{{{}}}", key.text))
                } else {
                    ("a colon", format!("{}:{text}", key.text))
                };
                found.help(format!("quote text that holds {holds}: \"{whole}\"")).suggest(format!("\"{whole}\""));
            }
            None
        }
    }
}

/// `true` or `false`, nothing else.
pub(super) fn boolean(node: &Node<'_>, findings: &mut Findings) -> Option<bool> {
    let value = text(node, "`true` or `false`", findings)?;
    let quoted = matches!(node.value, Value::Scalar { quoted: true, .. });
    let meant = match value.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" | "1" | "enabled" => Some(true),
        "false" | "no" | "off" | "n" | "0" | "disabled" => Some(false),
        _ => None,
    };
    if let (Some(meant), false) = (meant, quoted)
        && meant.to_string() == value
    {
        return Some(meant);
    }
    let shown = if quoted { format!("\"{}\"", shown(value)) } else { shown(value) };
    let found = findings.error(node, "wrong_type", format!("expected `true` or `false`, found `{shown}`"));
    if let Some(meant) = meant {
        found.help(format!("write `{meant}`")).suggest(meant.to_string());
    }
    None
}

/// A whole number in `range`.
pub(super) fn integer(node: &Node<'_>, range: RangeInclusive<u64>, findings: &mut Findings) -> Option<u64> {
    let value = text(node, "a whole number", findings)?;
    let digits: String = value.chars().filter(|c| !matches!(c, '_' | ',' | ' ')).collect();
    let quoted = matches!(node.value, Value::Scalar { quoted: true, .. });
    let (least, most) = (range.start(), range.end());
    let bound = if *most == u64::MAX { format!("at least {least}") } else { format!("{least} to {most}") };
    if quoted || value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
        let found = findings.error(node, "wrong_type", format!("expected a whole number, found `{}`", shown(value)));
        if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
            found.help(format!("write `{digits}`")).suggest(digits);
        } else {
            found.help(format!("write a whole number: {bound}"));
        }
        return None;
    }
    let number = value.parse().unwrap_or(u64::MAX);
    if !range.contains(&number) {
        let nearest = number.clamp(*least, *most);
        findings
            .error(node, "out_of_range", format!("`{}` is not in the range: {bound}", shown(value)))
            .help(format!("the nearest that can stand here is `{nearest}`"));
        return None;
    }
    Some(number)
}

/// A decimal number in `range`.
pub(super) fn number(node: &Node<'_>, range: RangeInclusive<f64>, findings: &mut Findings) -> Option<f64> {
    let value = text(node, "a number", findings)?;
    let quoted = matches!(node.value, Value::Scalar { quoted: true, .. });
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b'-');
    let Some(number) = value.parse::<f64>().ok().filter(|_| plain(value) && !quoted) else {
        let found = findings.error(node, "wrong_type", format!("expected a number, found `{}`", shown(value)));
        let bare = value.trim_end_matches('%').trim_end();
        if plain(bare) && bare.parse::<f64>().is_ok() {
            found.help(format!("write `{bare}`")).suggest(bare);
        } else {
            found.help(format!("write a number: {} to {}", range.start(), range.end()));
        }
        return None;
    };
    if !range.contains(&number) {
        let bound = format!("{} to {}", range.start(), range.end());
        let nearest = number.clamp(*range.start(), *range.end());
        findings
            .error(node, "out_of_range", format!("`{}` is not in the range: {bound}", shown(value)))
            .help(format!("the nearest that can stand here is `{nearest}`"));
        return None;
    }
    Some(number)
}

/// A percentage without sign, 0 to 100.
pub(super) fn percent(node: &Node<'_>, findings: &mut Findings) -> Option<f64> {
    number(node, 0.0..=100.0, findings)
}

/// A duration; zero is fine.
pub(super) fn duration_or_zero(node: &Node<'_>, findings: &mut Findings) -> Option<Duration> {
    let value = text(node, "a duration such as `3s`", findings)?;
    match duration::parse(value) {
        Ok(duration) => Some(duration),
        Err(correction) => {
            let message = if value.bytes().all(|b| b.is_ascii_digit()) && !value.is_empty() {
                format!("`{}` has no unit", shown(value))
            } else {
                format!("`{}` is not a duration", shown(value))
            };
            let found = findings.error(node, "bad_duration", message);
            match &correction {
                Some(correction) => found.help(format!("write `{correction}`")),
                None => found.help("write hours, minutes, seconds, milliseconds: `1h30m`, `3s`, `500ms`"),
            };
            found.suggest_any(correction);
            None
        }
    }
}

/// A duration above zero.
pub(super) fn duration_above_zero(node: &Node<'_>, findings: &mut Findings) -> Option<Duration> {
    let duration = duration_or_zero(node, findings)?;
    if duration.is_zero() {
        findings.error(node, "out_of_range", "must be longer than `0s`");
        return None;
    }
    Some(duration)
}

/// A size in bytes.
pub(super) fn bytes(node: &Node<'_>, findings: &mut Findings) -> Option<u64> {
    sized(node, "a size such as `64KB`", size::parse, findings)
}

/// A rate in bytes per second.
pub(super) fn byte_rate(node: &Node<'_>, findings: &mut Findings) -> Option<u64> {
    let parse = |text: &str| size::parse(text.strip_suffix("/s").unwrap_or(text));
    sized(node, "bytes per second such as `1KB`", parse, findings)
}

fn sized(
    node: &Node<'_>,
    what: &str,
    parse: impl Fn(&str) -> Result<u64, Option<String>>,
    findings: &mut Findings,
) -> Option<u64> {
    let value = text(node, what, findings)?;
    match parse(value) {
        Ok(bytes) => Some(bytes),
        Err(correction) => {
            let message = if value.bytes().all(|b| b.is_ascii_digit()) && !value.is_empty() {
                format!("`{}` has no unit", shown(value))
            } else {
                format!("`{}` is not a size", shown(value))
            };
            let found = findings.error(node, "bad_size", message);
            match &correction {
                Some(correction) => found.help(format!("write `{correction}`")),
                None => found.help("write a whole number and `B`, `KB`, `MB` or `GB`, such as `64KB`"),
            };
            found.suggest_any(correction);
            None
        }
    }
}

/// One of a few words.
pub(super) fn one_of<T: Clone>(node: &Node<'_>, words: &[(&'static str, T)], findings: &mut Findings) -> Option<T> {
    let all = || words.iter().map(|(word, _)| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    let value = text(node, &format!("one of {}", all()), findings)?;
    if let Some((_, known)) = words.iter().find(|(word, _)| *word == value) {
        return Some(known.clone());
    }
    let near = nearest(value, words.iter().map(|(word, _)| *word));
    findings
        .error(node, "unknown_value", format!("`{}` is not known here", shown(value)))
        .help(format!("one of {}", all()))
        .suggest_any(near);
    None
}

/// The items of a list. `what` names them, such as "routes".
pub(super) fn list<'n, 't>(node: &'n Node<'t>, what: &str, findings: &mut Findings) -> Option<&'n [Node<'t>]> {
    match &node.value {
        Value::List(items) => Some(items),
        Value::Scalar { text, .. } if !node.is_null() => {
            let found =
                findings.error(node, "wrong_type", format!("expected a list of {what}, found `{}`", shown(text)));
            found.help(format!("write `[{}]`", shown(text))).suggest(format!("[{text}]"));
            None
        }
        Value::Scalar { .. } => {
            findings
                .error(node, "empty_value", format!("expected a list of {what}, found nothing"))
                .help("an empty list is `[]`");
            None
        }
        Value::Map(_) => {
            findings
                .error(node, "wrong_type", format!("expected a list of {what}, found a mapping"))
                .help("start each item with `- `");
            None
        }
    }
}

/// The texts of a list of scalars, each with its node.
pub(super) fn texts<'n, 't>(node: &'n Node<'t>, what: &str, findings: &mut Findings) -> Vec<(&'n Node<'t>, &'n str)> {
    let items = list(node, what, findings).unwrap_or_default();
    items.iter().filter_map(|item| Some((item, text(item, what, findings)?))).collect()
}

/// A value as a message shows it: short, on one line, and never a secret.
pub(super) fn shown(value: &str) -> String {
    const CHARS_MAX: usize = 60;
    if value.contains("PRIVATE KEY") {
        return "…".into();
    }
    let mut shown: String = value.chars().take(CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if value.chars().nth(CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}
