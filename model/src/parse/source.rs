//! Text → tree: YAML or JSON, one document, strict.
//!
//! It knows YAML and nothing of configs. Events come from `granit-parser`, the parser below serde-saphyr, since a
//! deserializer stops at the first problem and forgets what was quoted. What it hands out is bounded: text, nesting,
//! nodes and what aliases may unfold to.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError, Tag};

use super::findings::Findings;
use super::tree::{Key, Node, Span, Value};
use crate::problem::lines::{Lines, without_bom};

/// Largest text in bytes.
pub(super) const TEXT_BYTES_MAX: usize = 32 << 20;
/// Deepest nesting of lists and mappings.
pub(super) const DEPTH_MAX: usize = 64;
/// Nodes of one text: bounds memory to some 400 MB for the worst text.
const NODES_MAX: usize = 4_000_000;
/// What anchors and aliases may copy, in the units of [`Node::cost`].
const COPIES_MAX: usize = 200_000;

/// Parses `text` into its tree. `None` after a problem that leaves nothing to look at.
pub(super) fn tree<'t>(text: &'t str, findings: &mut Findings) -> Option<Node<'t>> {
    if text.len() > TEXT_BYTES_MAX {
        findings.error_at(
            Span::default(),
            "too_large",
            format!("the file is larger than {} MiB", TEXT_BYTES_MAX >> 20),
        );
        return None;
    }
    let plain = without_bom(text);
    if plain.trim_start().starts_with('{') && plain.contains('\t') {
        // JSON may be indented with tabs, YAML may not. A blank takes the same place.
        let spaced = tabs_as_blanks(plain);
        return build(&spaced, findings).map(owned);
    }
    build(plain, findings)
}

fn build<'t>(text: &'t str, findings: &mut Findings) -> Option<Node<'t>> {
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: DEPTH_MAX + 1,
        block_nesting_limit: DEPTH_MAX + 1,
    };
    let mut builder = Builder::new(findings);
    for event in Parser::new_from_str_with_options(text, options) {
        match event {
            Ok((event, span)) => {
                if builder.take(event, place(span)).is_err() {
                    return None;
                }
            }
            Err(error) => {
                syntax_problem(&error, text, builder.findings);
                return None;
            }
        }
    }
    let root = builder.root.take().filter(|root| !root.is_null());
    if root.is_none() {
        findings
            .error_at(Span::default(), "empty_file", "the file is empty")
            .help("the smallest config is two lines: `listen: :8080` and `routes: [{ to: http://localhost:3000 }]`");
    }
    root
}

/// Nothing more can be read; the reason was reported.
struct Stop;

/// Puts events together.
struct Builder<'t, 'f> {
    findings: &'f mut Findings,
    root: Option<Node<'t>>,
    open: Vec<Open<'t>>,
    anchors: HashMap<usize, Node<'t>>,
    documents: usize,
    nodes: usize,
    copies: usize,
}

/// A list or mapping whose end has not come yet.
struct Open<'t> {
    anchor: usize,
    start: Span,
    kind: OpenKind<'t>,
}

enum OpenKind<'t> {
    List(Vec<Node<'t>>),
    Map {
        entries: Vec<(Key<'t>, Node<'t>)>,
        next: Next<'t>,
        /// The keys, kept once a mapping is larger than [`SMALL_MAP`].
        seen: HashSet<Cow<'t, str>>,
        merges: Vec<Node<'t>>,
    },
}

/// What the next node of a mapping is.
enum Next<'t> {
    Key,
    Value(Key<'t>),
    /// The value of a key that was refused.
    Dropped,
}

/// Up to here duplicates are looked for by comparing with each key.
const SMALL_MAP: usize = 16;

impl<'t, 'f> Builder<'t, 'f> {
    fn new(findings: &'f mut Findings) -> Self {
        Self { findings, root: None, open: Vec::new(), anchors: HashMap::new(), documents: 0, nodes: 0, copies: 0 }
    }

    fn take(&mut self, event: Event<'t>, span: Span) -> Result<(), Stop> {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.findings
                        .error_at(span, "several_documents", "a second document starts here")
                        .help("a config is one document: remove the `---` and what does not belong to this config");
                    return Err(Stop);
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let quoted = self.quoted(style, tag.as_deref(), span);
                self.node(Node { span, value: Value::Scalar { text, quoted } }, anchor)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.quoted(ScalarStyle::Plain, tag.as_deref(), span);
                self.open(anchor, span, OpenKind::List(Vec::new()))?;
            }
            Event::MappingStart(_, anchor, tag) => {
                self.quoted(ScalarStyle::Plain, tag.as_deref(), span);
                let kind =
                    OpenKind::Map { entries: Vec::new(), next: Next::Key, seen: HashSet::new(), merges: Vec::new() };
                self.open(anchor, span, kind)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span)?,
            Event::Alias(id) => self.alias(id, span)?,
            _ => {}
        }
        Ok(())
    }

    /// Whether a scalar is text whatever it looks like. Tags other than those of JSON's types are refused.
    fn quoted(&mut self, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> bool {
        let Some(tag) = tag else { return style != ScalarStyle::Plain };
        match tag.core_suffix() {
            Some("str") => true,
            Some("int" | "float" | "bool" | "null" | "map" | "seq") => style != ScalarStyle::Plain,
            _ => {
                self.findings
                    .error_at(span, "unknown_tag", format!("the tag `{}` has no meaning here", tag.original()))
                    .help("remove the tag");
                true
            }
        }
    }

    fn open(&mut self, anchor: usize, start: Span, kind: OpenKind<'t>) -> Result<(), Stop> {
        if self.open.len() >= DEPTH_MAX {
            return Err(too_deep(self.findings, start));
        }
        self.open.push(Open { anchor, start, kind });
        Ok(())
    }

    fn close(&mut self, end: Span) -> Result<(), Stop> {
        let Some(Open { anchor, start, kind }) = self.open.pop() else { return Ok(()) };
        let span = Span { end_line: end.end_line, end_column: end.end_column, ..start };
        let value = match kind {
            OpenKind::List(items) => Value::List(items),
            OpenKind::Map { mut entries, merges, .. } => {
                self.merge(&mut entries, merges)?;
                Value::Map(entries)
            }
        };
        self.node(Node { span, value }, anchor)
    }

    /// Puts a finished node where it belongs.
    fn node(&mut self, node: Node<'t>, anchor: usize) -> Result<(), Stop> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            self.findings.error_at(node.span, "too_large", format!("the file has more than {NODES_MAX} values"));
            return Err(Stop);
        }
        if anchor != 0 {
            self.spend(&node)?;
            self.anchors.insert(anchor, node.clone());
        }
        let Some(Open { kind, .. }) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match kind {
            OpenKind::List(items) => items.push(node),
            OpenKind::Map { entries, next, seen, merges } => match std::mem::replace(next, Next::Key) {
                Next::Key => *next = new_key(node, entries, seen, self.findings).map_or(Next::Dropped, Next::Value),
                Next::Value(key) if key.text == "<<" => merges.push(node),
                Next::Value(key) => entries.push((key, node)),
                Next::Dropped => {}
            },
        }
        Ok(())
    }

    fn alias(&mut self, id: usize, span: Span) -> Result<(), Stop> {
        let Some(node) = self.anchors.get(&id).cloned() else {
            self.findings
                .error_at(span, "alias_cycle", "this alias stands inside what it names")
                .help("it would unfold without end: write the value out");
            return Err(Stop);
        };
        self.spend(&node)?;
        if self.open.len() + node.depth() > DEPTH_MAX {
            return Err(too_deep(self.findings, span));
        }
        self.node(node, 0)
    }

    /// `<<: *name`: the keys of the named mappings that are not written here.
    fn merge(&mut self, entries: &mut Vec<(Key<'t>, Node<'t>)>, merges: Vec<Node<'t>>) -> Result<(), Stop> {
        let sources = merges.into_iter().flat_map(|node| match node.value {
            Value::List(items) => items,
            value @ (Value::Map(_) | Value::Scalar { .. }) => vec![Node { span: node.span, value }],
        });
        for source in sources {
            let Value::Map(more) = source.value else {
                self.findings.error_at(source.span, "wrong_type", "only mappings can be merged with `<<`");
                return Err(Stop);
            };
            if entries.len() * more.len() > COPIES_MAX {
                return Err(too_many_copies(self.findings, source.span));
            }
            for (key, node) in more {
                if !entries.iter().any(|(known, _)| known.text == key.text) {
                    entries.push((key, node));
                }
            }
        }
        Ok(())
    }

    /// Accounts for a copy of `node`, so that a few nested aliases cannot unfold to gigabytes.
    fn spend(&mut self, node: &Node<'t>) -> Result<(), Stop> {
        self.copies += node.cost();
        if self.copies > COPIES_MAX {
            return Err(too_many_copies(self.findings, node.span));
        }
        Ok(())
    }
}

fn too_many_copies(findings: &mut Findings, span: Span) -> Stop {
    findings.error_at(span, "alias_limit", "anchors and aliases unfold to too much").help("write the values out");
    Stop
}

fn too_deep(findings: &mut Findings, span: Span) -> Stop {
    findings
        .error_at(span, "too_deep", format!("nested more than {DEPTH_MAX} levels deep"))
        .help("no config needs that: look for a bracket or an indent that is repeated by mistake");
    Stop
}

/// A node in a key's place. `None`: not usable, which was reported.
fn new_key<'t>(
    node: Node<'t>,
    entries: &[(Key<'t>, Node<'t>)],
    seen: &mut HashSet<Cow<'t, str>>,
    findings: &mut Findings,
) -> Option<Key<'t>> {
    let span = node.span;
    let Value::Scalar { text, .. } = node.value else {
        findings.error_at(span, "bad_key", "a key must be text").help("quote text that holds `[`, `{` or `: `");
        return None;
    };
    let key = Key { span, text };
    let duplicate = if entries.len() < SMALL_MAP {
        entries.iter().any(|(known, _)| known.text == key.text)
    } else {
        if seen.is_empty() {
            seen.extend(entries.iter().map(|(known, _)| known.text.clone()));
        }
        !seen.insert(key.text.clone())
    };
    if duplicate {
        let first = entries.iter().find(|(known, _)| known.text == key.text).map_or(0, |(known, _)| known.span.line);
        findings
            .error_at(span, "duplicate_key", format!("`{}` is written twice", key.text))
            .help(format!("the first one is on line {first}; keep one of them"));
        return None;
    }
    Some(key)
}

/// One problem for text that is not YAML, as clear as the common causes allow.
fn syntax_problem(error: &ScanError, text: &str, findings: &mut Findings) {
    let (line, column) = mark(*error.marker());
    let span = Span { line, column, end_line: line, end_column: column + 1 };
    if matches!(error.kind(), ErrorKind::RecursionLimitExceeded) {
        too_deep(findings, span);
        return;
    }
    let lines = Lines::new(text);
    // The parser may notice a tab one line late.
    let tab = [line, line.saturating_sub(1), line + 1].into_iter().find_map(|line| {
        let indent = lines.line(line)?.chars().take_while(|c| c.is_whitespace()).collect::<Vec<_>>();
        let column = u32::try_from(indent.iter().position(|c| *c == '\t')?).ok()? + 1;
        let end_column = u32::try_from(indent.len()).ok()? + 1;
        Some(Span { line, column, end_line: line, end_column })
    });
    if let Some(tab) = tab {
        findings
            .error_at(tab, "tab", "a tab cannot indent YAML")
            .help("indent with spaces, two for each level")
            .suggest(" ".repeat(2 * (tab.end_column - tab.column) as usize));
        return;
    }
    if let Some((line, column, code)) = control_character(&lines, line) {
        let span = Span { line, column, end_line: line, end_column: column + 1 };
        findings
            .error_at(span, "syntax_error", format!("the character U+{code:04X} cannot stand in YAML"))
            .help("remove it; a file full of them is not text, or is UTF-16: save it as UTF-8");
        return;
    }
    let language = if text.trim_start().starts_with('{') { "JSON" } else { "YAML" };
    let here = lines.line(line).unwrap_or_default();
    if let Some((column, address)) = bracketed_address(here).and_then(|a| Some((columns(here, here.find(a)?), a))) {
        let span = Span { line, column, end_line: line, end_column: column + columns(address, address.len()) - 1 };
        findings
            .error_at(span, "syntax_error", "an IPv6 address without quotes is a list to YAML")
            .help(format!("quote it: \"{address}\""))
            .suggest(format!("\"{address}\""));
        return;
    }
    if let Some((line, column)) = open_quote(&lines, line) {
        let span = Span { line, column, end_line: line, end_column: column + 1 };
        findings
            .error_at(span, "syntax_error", "a quote is opened here and not closed")
            .help("close it on the same line, or remove it");
        return;
    }
    if let Some((bracket, at)) = open_bracket(text).filter(|(_, at)| at.0 < line) {
        let span = Span { line: at.0, column: at.1, end_line: at.0, end_column: at.1 + 1 };
        let close = if bracket == '[' { ']' } else { '}' };
        findings
            .error_at(span, "syntax_error", format!("the `{bracket}` that is opened here is not closed"))
            .help(format!("write `{close}` where it ends: reading on, line {line} makes no sense in it"));
        return;
    }
    if let Some(alias) = alias_at(here, column) {
        let span = Span { line, column, end_line: line, end_column: column + columns(alias, alias.len()) - 1 };
        let name = alias.trim_start_matches('*');
        if name.is_empty() || name.contains(|letter: char| !letter.is_alphanumeric() && letter != '_' && letter != '-')
        {
            findings
                .error_at(span, "syntax_error", "text that starts with `*` is an alias to YAML")
                .help(format!("quote it: \"{alias}\""))
                .suggest(format!("\"{alias}\""));
        } else {
            findings
                .error_at(span, "syntax_error", format!("nothing above this line is named `&{name}`"))
                .help(format!("name a mapping `&{name}` further up, or quote text that starts with `*`"));
        }
        return;
    }
    let found = findings.error_at(span, "syntax_error", format!("not valid {language}: {}", error.kind()));
    if let Some((key, value)) = [line, line.saturating_sub(1)].iter().find_map(|line| glued(lines.line(*line)?)) {
        found.help(format!("write a blank after the colon: `{key}: {value}`"));
    } else if matches!(error.kind(), ErrorKind::MappingValueNotAllowed | ErrorKind::InvalidColonPlacement) {
        found.help("quote text that holds `: `, and indent the keys of one mapping alike");
    } else if here.trim_start().starts_with(['%', '@', '`']) || here.contains(": @") || here.contains(": `") {
        found.help("quote text that starts with `%`, `@` or a backquote");
    } else if language == "YAML" {
        found.help("the keys of one item stand in one column: compare the blanks before this line and the one above");
    } else {
        found.help("look for a missing comma, quote or bracket here or just before");
    }
}

/// The column (from 1) of the character that starts at byte `at`.
fn columns(line: &str, at: usize) -> u32 {
    let chars = line.get(..at).unwrap_or(line).chars().count();
    u32::try_from(chars).unwrap_or(u32::MAX - 2) + 1
}

/// The place of a quote that nothing closes, on this line or one of the few before, when quotes are the trouble.
fn open_quote(lines: &Lines<'_>, line: u32) -> Option<(u32, u32)> {
    (line.saturating_sub(3).max(1)..=line).rev().find_map(|number| {
        let text = lines.line(number)?;
        let value = text.split(" #").next().unwrap_or(text);
        let odd = value.matches('"').count() - value.matches("\\\"").count();
        (odd % 2 == 1).then(|| Some((number, columns(value, value.rfind('"')?)))).flatten()
    })
}

/// The first character that YAML does not allow, on this line or the one before.
fn control_character(lines: &Lines<'_>, line: u32) -> Option<(u32, u32, u32)> {
    [line.saturating_sub(1), line].into_iter().find_map(|number| {
        let text = lines.line(number)?;
        let (at, found) = text.char_indices().find(|(_, c)| c.is_control() && !matches!(c, '\t' | '\r' | '\u{85}'))?;
        Some((number, columns(text, at), u32::from(found)))
    })
}

/// The innermost `[` or `{` that is open to the end, outside of quotes and comments, with its line and column. Only looked
/// for where something is wrong: plain text in YAML may hold brackets that open nothing.
fn open_bracket(text: &str) -> Option<(char, (u32, u32))> {
    let mut open: Vec<(char, (u32, u32))> = Vec::new();
    let mut quote = None;
    for (number, here) in (1..).zip(text.lines()) {
        let mut before = ' ';
        for (at, letter) in (1..).zip(here.chars()) {
            // What opens something stands where a value may begin.
            let begins = matches!(before, ' ' | '\t' | ',' | '[' | '{') || at == 1;
            match (quote, letter) {
                (Some(mark), _) if mark == letter && before != '\\' => quote = None,
                (Some(_), _) => {}
                (None, '#') if begins => break,
                (None, '"' | '\'') if begins => quote = Some(letter),
                (None, '[' | '{') if begins => open.push((letter, (number, at))),
                (None, ']' | '}') => {
                    let opens = if letter == ']' { '[' } else { '{' };
                    open.pop_if(|(bracket, _)| *bracket == opens);
                }
                (None, _) => {}
            }
            before = letter;
        }
    }
    open.pop()
}

/// `path:/a`: a key whose colon touches its value.
fn glued(line: &str) -> Option<(&str, &str)> {
    let content = line.trim_start().trim_start_matches("- ");
    let (key, value) = content.split_once(':')?;
    let named = !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    (named && !value.is_empty() && !value.starts_with([' ', '/'])
        || named && value.starts_with('/') && !value.starts_with("//"))
    .then(|| (key, value.trim()))
}

/// `*name` at `column` of a line, up to where a value ends.
fn alias_at(line: &str, column: u32) -> Option<&str> {
    let at = line.char_indices().nth(column as usize - 1)?.0;
    let rest = line.get(at..)?.strip_prefix('*').and(line.get(at..))?;
    rest.split([' ', ',', ']', '}']).next()
}

/// `[::1]:8080`, which YAML takes for a list.
fn bracketed_address(line: &str) -> Option<&str> {
    let start = line.find('[')?;
    let close = start + line.get(start..)?.find("]:")?;
    let inside = line.get(start + 1..close)?;
    inside.parse::<std::net::Ipv6Addr>().ok()?;
    let after = line.get(close + 2..)?;
    let digits = after.bytes().take_while(u8::is_ascii_digit).count();
    line.get(start..close + 2 + digits)
}

fn place(span: granit_parser::Span) -> Span {
    let ((line, column), (end_line, end_column)) = (mark(span.start), mark(span.end));
    Span { line, column, end_line, end_column }
}

fn mark(marker: Marker) -> (u32, u32) {
    let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX - 2);
    (small(marker.line()).max(1), small(marker.col()) + 1)
}

/// `text` with the tabs outside double quotes replaced.
fn tabs_as_blanks(text: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    text.chars()
        .map(|c| {
            let inside = quoted;
            match c {
                '"' if !escaped => quoted = !quoted,
                '\\' if quoted && !escaped => {
                    escaped = true;
                    return c;
                }
                _ => {}
            }
            escaped = false;
            if c == '\t' && !inside { ' ' } else { c }
        })
        .collect()
}

/// The same tree, free of the text it came from.
fn owned(node: Node<'_>) -> Node<'static> {
    let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
    let value = match node.value {
        Value::Scalar { text, quoted } => Value::Scalar { text: own(text), quoted },
        Value::List(items) => Value::List(items.into_iter().map(owned).collect()),
        Value::Map(entries) => Value::Map(
            entries.into_iter().map(|(key, node)| (Key { span: key.span, text: own(key.text) }, owned(node))).collect(),
        ),
    };
    Node { span: node.span, value }
}

#[cfg(test)]
mod tests;
