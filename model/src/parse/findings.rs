//! What the walkers found wrong, kept until every problem has its place and path.
//!
//! A walker names the spot; line, columns and path are worked out once, at the end, in a single pass over the tree.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use super::nearest::nearest;
use super::support::{Feature, support};
use super::tree::{Node, Span, Spot, Value};
use crate::problem::lines::Lines;
use crate::problem::{Problem, Severity};

/// Problems that are kept; further ones are only counted. A person reads a few dozen at most.
pub(super) const PROBLEMS_MAX: usize = 10_000;
/// Comparisons of names that one file may cost when nearest names are looked for.
const COMPARISONS_MAX: usize = 100_000;

/// Problems on their way to the reader.
#[derive(Debug)]
pub(super) struct Findings {
    found: Vec<Found>,
    errors: usize,
    left_out: usize,
    /// The latest problem that is not kept; its maker may still want to add to it.
    beyond: Option<Found>,
    /// Spots of fields that may hold `${env:…}` and `${file:…}`.
    secret_spots: HashSet<usize>,
    comparisons_left: usize,
}

/// One problem before it has its path.
#[derive(Debug)]
pub(super) struct Found {
    code: &'static str,
    severity: Severity,
    message: String,
    span: Span,
    /// `None`: the whole file.
    address: Option<usize>,
    /// A key below the spot that is missing.
    below: &'static str,
    help: String,
    suggestion: Option<String>,
}

impl Found {
    /// How to go on.
    pub(super) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = help.into();
        self
    }

    /// The text to put in place of the underlined token.
    pub(super) fn suggest(&mut self, text: impl Into<String>) -> &mut Self {
        self.suggestion = Some(text.into());
        self
    }

    /// As [`Self::suggest`], when there is one.
    pub(super) fn suggest_any(&mut self, text: Option<impl Into<String>>) -> &mut Self {
        self.suggestion = text.map(Into::into);
        self
    }

    /// The problem is about this key below the spot.
    pub(super) fn below(&mut self, key: &'static str) -> &mut Self {
        self.below = key;
        self
    }
}

impl Findings {
    pub(super) fn new() -> Self {
        Self {
            found: Vec::new(),
            errors: 0,
            left_out: 0,
            beyond: None,
            secret_spots: HashSet::new(),
            comparisons_left: COMPARISONS_MAX,
        }
    }

    /// Whether the config cannot be used.
    pub(super) fn any_error(&self) -> bool {
        self.errors > 0
    }

    /// How many errors there are so far.
    pub(super) fn errors(&self) -> usize {
        self.errors
    }

    /// Whether further problems are only counted, so that their texts need not be made.
    pub(super) fn is_full(&self) -> bool {
        self.found.len() >= PROBLEMS_MAX
    }

    /// Something that must be changed.
    pub(super) fn error(&mut self, spot: &impl Spot, code: &'static str, message: impl Into<String>) -> &mut Found {
        self.push(Severity::Error, Some(spot.address()), spot.span(), code, message.into())
    }

    /// Something that works but is probably not meant.
    pub(super) fn warning(&mut self, spot: &impl Spot, code: &'static str, message: impl Into<String>) -> &mut Found {
        self.push(Severity::Warning, Some(spot.address()), spot.span(), code, message.into())
    }

    /// An error at a place that is not in the tree; `Span::default()` is the whole file.
    pub(super) fn error_at(&mut self, span: Span, code: &'static str, message: impl Into<String>) -> &mut Found {
        self.push(Severity::Error, None, span, code, message.into())
    }

    /// Refuses a feature that this version does not have.
    pub(super) fn uses(&mut self, spot: &impl Spot, feature: Feature) {
        let row = support(feature);
        if !row.works {
            self.error(spot, "not_supported_yet", format!("{} is not supported by this version", row.name))
                .help(row.instead);
        }
    }

    /// This field may hold `${env:…}` and `${file:…}`.
    pub(super) fn allow_secret(&mut self, spot: &impl Spot) {
        self.secret_spots.insert(spot.address());
    }

    /// The name nearest to `name`, unless none is near or the file has cost too much already.
    pub(super) fn nearest<'a>(&mut self, name: &str, names: impl ExactSizeIterator<Item = &'a str>) -> Option<&'a str> {
        self.comparisons_left = self.comparisons_left.checked_sub(names.len())?;
        nearest(name, names)
    }

    fn push(
        &mut self,
        severity: Severity,
        address: Option<usize>,
        span: Span,
        code: &'static str,
        message: String,
    ) -> &mut Found {
        debug_assert!(
            crate::codes::find(code).is_some_and(|row| row.severity == severity),
            "`{code}` has no row in the table of codes"
        );
        let found = Found { code, severity, message, span, address, below: "", help: String::new(), suggestion: None };
        self.errors += usize::from(severity == Severity::Error);
        if self.found.len() >= PROBLEMS_MAX {
            self.left_out += 1;
            return self.beyond.insert(found);
        }
        self.found.push(found);
        self.found.last_mut().expect("just pushed")
    }

    /// The problems in source order, each with its path.
    pub(super) fn into_problems(mut self, file: &str, text: &str, root: Option<&Node<'_>>) -> Vec<Problem> {
        if self.found.is_empty() {
            return Vec::new();
        }
        self.found.sort_by_key(|found| (found.span.line, found.span.column));
        let wanted: HashMap<usize, String> =
            self.found.iter().filter_map(|found| Some((found.address?, String::new()))).collect();
        let paths = root.map(|root| Paths::of(root, wanted)).unwrap_or_default();
        let lines = Lines::new(text);
        let mut problems: Vec<_> = self.found.into_iter().map(|found| found.placed(file, &lines, &paths)).collect();
        if self.left_out > 0 {
            problems.push(Problem {
                code: "too_many_problems".into(),
                severity: Severity::Error,
                message: format!("{} more problems are not shown", self.left_out),
                file: file.into(),
                line: 0,
                column: 0,
                end_column: 0,
                path: String::new(),
                help: "mend these first".into(),
                suggestion: None,
            });
        }
        problems
    }
}

impl Found {
    fn placed(self, file: &str, lines: &Lines<'_>, paths: &HashMap<usize, String>) -> Problem {
        let mut path = self.address.and_then(|address| paths.get(&address).cloned()).unwrap_or_default();
        if !self.below.is_empty() {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(self.below);
        }
        let (line, column, end_column) = inside(self.span, lines);
        Problem {
            code: self.code.into(),
            severity: self.severity,
            message: self.message,
            file: file.into(),
            line,
            column,
            end_column,
            path,
            help: self.help,
            suggestion: self.suggestion,
        }
    }
}

/// A place that surely lies in the text: on one line, the end after the start unless the line ends there.
fn inside(span: Span, lines: &Lines<'_>) -> (u32, u32, u32) {
    if span.line == 0 {
        return (0, 0, 0);
    }
    let line = span.line.min(lines.count());
    let length = lines.line(line).map_or(0, |text| u32::try_from(text.chars().count()).unwrap_or(u32::MAX - 1));
    let past = length + 1;
    let column = if line < span.line { past } else { span.column.clamp(1, past) };
    let end = if span.end_line == span.line { span.end_column } else { past };
    (line, column, end.clamp(column, past).max(column + 1).min(past.max(column)))
}

/// Finds the paths of spots in one pass.
#[derive(Default)]
struct Paths {
    wanted: HashMap<usize, String>,
    missing: usize,
    path: String,
}

impl Paths {
    fn of(root: &Node<'_>, wanted: HashMap<usize, String>) -> HashMap<usize, String> {
        let mut paths = Self { missing: wanted.len(), wanted, path: String::new() };
        paths.visit(root);
        paths.wanted
    }

    fn visit(&mut self, node: &Node<'_>) {
        self.meet(node);
        if self.missing == 0 {
            return;
        }
        let length = self.path.len();
        match &node.value {
            Value::Scalar { .. } => {}
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    write!(self.path, "[{index}]").expect("a string takes any text");
                    self.visit(item);
                    self.path.truncate(length);
                }
            }
            Value::Map(entries) => {
                for (key, node) in entries {
                    if length > 0 {
                        self.path.push('.');
                    }
                    if key.text.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-')) {
                        self.path.push_str(&key.text);
                    } else {
                        write!(self.path, "{:?}", &*key.text).expect("a string takes any text");
                    }
                    self.meet(key);
                    self.visit(node);
                    self.path.truncate(length);
                }
            }
        }
    }

    fn meet(&mut self, spot: &impl Spot) {
        if let Some(path) = self.wanted.get_mut(&spot.address())
            && path.is_empty()
        {
            path.push_str(&self.path);
            self.missing -= 1;
        }
    }
}

/// Refuses secrets in the text and references to secrets outside the fields that may hold them.
pub(super) fn check_secrets(node: &Node<'_>, findings: &mut Findings) {
    match &node.value {
        Value::Scalar { text, .. } => {
            if text.contains("-----BEGIN") && text.contains("PRIVATE KEY") {
                findings
                    .error(node, "secret_literal", "a private key must not be part of a config")
                    .help("put it into a file on each node and name the file, such as `key_file: /etc/certs/site.key`");
            } else if (text.contains("${env:") || text.contains("${file:"))
                && !findings.secret_spots.contains(&node.address())
            {
                findings
                    .error(node, "reference_not_allowed", "`${env:…}` and `${file:…}` work only in secret fields")
                    .help(
                        "write the value itself; secret fields are the values of credential headers that a chain adds",
                    );
            }
        }
        Value::List(items) => items.iter().for_each(|item| check_secrets(item, findings)),
        Value::Map(entries) => entries.iter().for_each(|(_, node)| check_secrets(node, findings)),
    }
}
