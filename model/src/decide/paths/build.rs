//! Fills the arrays of [`Paths`], group by group.

use std::borrow::Cow;
use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::{Candidate, Group, Key, Kind, Paths, Regexes, Slot, Span, bit, hash, small};
use crate::config::{PathMatch, Pattern};
use crate::decide::automata::AutomataBuilder;
use crate::decide::path;
use crate::decide::patterns::Patterns;
use crate::decide::rank::Rank;
use crate::decide::syntax::Anchoring;

/// Collects candidates by group, in the order of rank.
#[derive(Debug, Default)]
pub(in crate::decide) struct PathsBuilder<'p> {
    groups: Vec<Vec<(&'p PathMatch, Candidate)>>,
}

impl<'p> PathsBuilder<'p> {
    /// The index of the next group.
    pub(in crate::decide) fn next_group(&self) -> usize {
        self.groups.len()
    }

    /// Adds to a group that is there or next. `candidate` ranks behind all that were added before.
    pub(in crate::decide) fn add(&mut self, group: usize, condition: &'p PathMatch, candidate: Candidate) {
        if group == self.groups.len() {
            self.groups.push(Vec::new());
        }
        self.groups[group].push((condition, candidate));
    }

    /// All groups, by index.
    pub(in crate::decide) fn finish(self, automata: &mut AutomataBuilder<'p>) -> (Paths, Vec<Group>) {
        let mut paths = Paths::default();
        let mut texts = HashMap::default();
        let groups =
            (0..).zip(self.groups).map(|(index, members)| paths.add_group(index, members, &mut texts, automata));
        let groups = groups.collect();
        (paths, groups)
    }
}

impl Paths {
    fn add_group<'p>(
        &mut self,
        index: u32,
        members: Vec<(&'p PathMatch, Candidate)>,
        texts: &mut HashMap<String, Span, FixedState>,
        automata: &mut AutomataBuilder<'p>,
    ) -> Group {
        let lowest = members.first().map_or(Rank::MAX, |(_, candidate)| candidate.rank);
        let (mut any, mut keyed) = (Vec::new(), Vec::new());
        let mut regexes = RegexesBuilder { most: members.len(), ..RegexesBuilder::default() };
        for (condition, candidate) in members {
            match condition {
                PathMatch::Any => any.push(candidate),
                PathMatch::Regex(pattern) => regexes.add(pattern, candidate),
                PathMatch::Exact(path) => keyed.push((Kind::Exact, path::normalised_condition(path), candidate)),
                PathMatch::Prefix(prefix) => {
                    let (kind, text) = prefix_key(path::normalised_condition(prefix));
                    keyed.push((kind, text, candidate));
                }
            }
        }
        let (mut lengths, mut prefix_bytes_max) = ([0; 3], 0);
        for (kind, text, _) in &keyed {
            lengths[*kind as usize] |= bit(text);
            if !matches!(kind, Kind::Exact) {
                prefix_bytes_max = prefix_bytes_max.max(small(text.len()));
            }
        }
        Group {
            index,
            lowest,
            slots: self.add_keys(keyed, texts),
            lengths,
            prefix_bytes_max,
            any: self.add_candidates(any),
            regex: self.add_regexes(regexes, automata),
        }
    }

    fn add_keys(
        &mut self,
        keyed: Vec<(Kind, Cow<'_, str>, Candidate)>,
        texts: &mut HashMap<String, Span, FixedState>,
    ) -> Span {
        let mut hashed: Vec<_> =
            keyed.into_iter().map(|(kind, text, candidate)| (hash(kind, &text), text, candidate)).collect();
        hashed.sort_unstable_by(|(hash, text, candidate), (other_hash, other_text, other)| {
            (hash, text, candidate.rank).cmp(&(other_hash, other_text, other.rank))
        });
        let start = small(self.slots.len());
        for same in hashed.chunk_by(|(hash, text, _), (next_hash, next_text, _)| hash == next_hash && text == next_text)
        {
            let (hash, text, first) = &same[0];
            let others = self.add_candidates(same[1..].iter().map(|(_, _, candidate)| *candidate));
            let text = self.add_text(text, texts);
            self.slots.push(Slot { hash: *hash, lowest: first.rank });
            self.keys.push(Key { text, first: *first, others });
        }
        Span { start, end: small(self.slots.len()) }
    }

    fn add_text(&mut self, text: &str, texts: &mut HashMap<String, Span, FixedState>) -> Span {
        if let Some(span) = texts.get(text) {
            return *span;
        }
        let start = small(self.texts.len());
        self.texts.push_str(text);
        let span = Span { start, end: small(self.texts.len()) };
        texts.insert(text.to_owned(), span);
        span
    }

    fn add_candidates(&mut self, candidates: impl IntoIterator<Item = Candidate>) -> Span {
        let start = small(self.candidates.len());
        self.candidates.extend(candidates);
        Span { start, end: small(self.candidates.len()) }
    }

    fn add_regexes<'p>(&mut self, builder: RegexesBuilder<'p>, automata: &mut AutomataBuilder<'p>) -> Option<u32> {
        let RegexesBuilder { patterns, mut members, .. } = builder;
        if patterns.is_empty() {
            return None;
        }
        let patterns = Patterns::compile(&patterns, Anchoring::Path, automata);
        // Stable: those of one pattern stay in the order of rank.
        members.sort_by_key(|(pattern, _)| *pattern);
        let of_one = members.chunk_by(|(one, _), (other, _)| one == other);
        let candidates =
            of_one.map(|members| self.add_candidates(members.iter().map(|(_, candidate)| *candidate))).collect();
        self.regexes.push(Regexes { patterns, candidates });
        Some(small(self.regexes.len() - 1))
    }
}

/// Collects the candidates of one group by pattern, patterns in the order of their lowest rank.
#[derive(Debug, Default)]
struct RegexesBuilder<'p> {
    /// Each with its lowest rank.
    patterns: Vec<(&'p Pattern, Rank)>,
    /// With the index of the pattern.
    members: Vec<(u32, Candidate)>,
    known: HashMap<&'p Pattern, u32, FixedState>,
    /// More will not come.
    most: usize,
}

impl<'p> RegexesBuilder<'p> {
    fn add(&mut self, pattern: &'p Pattern, candidate: Candidate) {
        if self.patterns.is_empty() {
            self.known.reserve(self.most);
            self.members.reserve(self.most);
        }
        let index = *self.known.entry(pattern).or_insert_with(|| {
            self.patterns.push((pattern, candidate.rank));
            small(self.patterns.len() - 1)
        });
        self.members.push((index, candidate));
    }
}

fn prefix_key(prefix: Cow<'_, str>) -> (Kind, Cow<'_, str>) {
    match prefix {
        Cow::Borrowed(prefix) => match prefix.strip_suffix('/') {
            Some(bare) => (Kind::PrefixWithSlash, bare.into()),
            None => (Kind::Prefix, prefix.into()),
        },
        Cow::Owned(mut prefix) if prefix.ends_with('/') => {
            prefix.pop();
            (Kind::PrefixWithSlash, prefix.into())
        }
        Cow::Owned(prefix) => (Kind::Prefix, prefix.into()),
    }
}
