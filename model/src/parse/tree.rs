//! The tree of a config text: scalars, lists and mappings, each with its place.
//!
//! It does not know what any key means. [`super::source`] builds it; the walkers beside this file read it.

use std::borrow::Cow;

use crate::config::Position;

/// A stretch of text: 1-based lines and columns in characters, the end exclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) end_line: u32,
    pub(super) end_column: u32,
}

/// A mapping's key.
#[derive(Clone, Debug)]
pub(super) struct Key<'t> {
    pub(super) span: Span,
    pub(super) text: Cow<'t, str>,
}

/// A value with its place.
#[derive(Clone, Debug)]
pub(super) struct Node<'t> {
    pub(super) span: Span,
    pub(super) value: Value<'t>,
}

/// What stands at a node. Nothing is interpreted: `1.2`, `on` and `3s` are text.
#[derive(Clone, Debug)]
pub(super) enum Value<'t> {
    Scalar { text: Cow<'t, str>, quoted: bool },
    List(Vec<Node<'t>>),
    Map(Vec<(Key<'t>, Node<'t>)>),
}

impl<'t> Node<'t> {
    /// Nothing was written, or `null`.
    pub(super) fn is_null(&self) -> bool {
        match &self.value {
            Value::Scalar { text, quoted } => !quoted && matches!(&**text, "" | "~" | "null" | "Null" | "NULL"),
            Value::List(_) | Value::Map(_) => false,
        }
    }

    /// The text of a scalar, whatever it says.
    pub(super) fn scalar(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            Value::List(_) | Value::Map(_) => None,
        }
    }

    /// The value under `key`, when this is a mapping that has it.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(k, _)| k.text == key).map(|(_, node)| node),
            Value::Scalar { .. } | Value::List(_) => None,
        }
    }

    /// Where it starts.
    pub(super) fn at(&self) -> Position {
        Position { line: self.span.line, column: self.span.column }
    }

    /// Longest chain of lists and mappings, itself included; 0 for a scalar.
    pub(super) fn depth(&self) -> usize {
        match &self.value {
            Value::Scalar { .. } => 0,
            Value::List(items) => 1 + items.iter().map(Self::depth).max().unwrap_or(0),
            Value::Map(entries) => 1 + entries.iter().map(|(_, node)| node.depth()).max().unwrap_or(0),
        }
    }

    /// What a copy of it costs: its nodes, and its text in steps of 64 bytes.
    pub(super) fn cost(&self) -> usize {
        match &self.value {
            Value::Scalar { text, .. } => 1 + text.len() / 64,
            Value::List(items) => 1 + items.iter().map(Self::cost).sum::<usize>(),
            Value::Map(entries) => {
                1 + entries.iter().map(|(key, node)| 1 + key.text.len() / 64 + node.cost()).sum::<usize>()
            }
        }
    }
}

/// Something a problem can point at. A spot is known by its address, which holds while the tree is borrowed.
pub(super) trait Spot {
    /// The stretch of text to underline.
    fn span(&self) -> Span;
    /// Tells it from every other spot of the tree.
    fn address(&self) -> usize;
}

impl Spot for Key<'_> {
    fn span(&self) -> Span {
        self.span
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

impl Spot for Node<'_> {
    /// A mapping over several lines is shown by its first key.
    fn span(&self) -> Span {
        match &self.value {
            Value::Map(entries) if self.span.line != self.span.end_line => {
                entries.first().map_or(self.span, |(key, _)| key.span)
            }
            _ => self.span,
        }
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}
