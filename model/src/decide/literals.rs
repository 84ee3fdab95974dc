//! Literals of patterns, found in a text in one pass for each part of them.
//!
//! A part does not change and is shared by tables: the next table takes over those of which more than half is still wanted.
//! Knows nothing of patterns.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use aho_corasick::automaton::OverlappingState;
use aho_corasick::{AhoCorasick, Input};
use foldhash::fast::FixedState;

use super::automata::is_worth_keeping;

/// Literals in one part: a text is read once for each part, and a change builds one part anew.
const LITERALS_MAX: usize = if cfg!(test) { 4 } else { 1024 };

/// Literals that are searched together.
#[derive(Debug)]
pub(super) struct LiteralPart {
    searcher: AhoCorasick,
    literals: Box<[Box<[u8]>]>,
}

impl LiteralPart {
    fn new(literals: &[&[u8]]) -> Self {
        let searcher = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .build(literals)
            .expect("fewer literals than Aho-Corasick can number: the patterns themselves are far larger");
        Self { searcher, literals: literals.iter().map(|literal| Box::from(*literal)).collect() }
    }

    /// Calls `found` with the number of each literal that is in `text`, perhaps more than once.
    pub(super) fn search(&self, text: &str, mut found: impl FnMut(usize)) {
        let mut state = OverlappingState::start();
        loop {
            self.searcher.find_overlapping(Input::new(text), &mut state);
            match state.get_match() {
                Some(one) => found(one.pattern().as_usize()),
                None => return,
            }
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.literals.len()
    }
}

/// Puts literals into parts.
#[derive(Debug, Default)]
pub(super) struct LiteralsBuilder<'p> {
    before: &'p [Arc<LiteralPart>],
    /// By literal: the part before that holds it.
    part_before: HashMap<&'p [u8], usize, FixedState>,
    parts: Vec<Arc<LiteralPart>>,
}

impl<'p> LiteralsBuilder<'p> {
    pub(super) fn after(before: &'p [Arc<LiteralPart>]) -> Self {
        let literals =
            before.iter().enumerate().flat_map(|(at, part)| part.literals.iter().map(move |one| (&**one, at)));
        Self { before, part_before: literals.collect(), parts: Vec::new() }
    }

    /// Parts that hold all of `wanted`, which differ: by literal of each part its number in `wanted`, where it has one.
    pub(super) fn place(&mut self, wanted: &[&[u8]]) -> Vec<(Arc<LiteralPart>, Vec<Option<usize>>)> {
        let numbers: HashMap<&[u8], usize, FixedState> =
            wanted.iter().enumerate().map(|(number, literal)| (*literal, number)).collect();
        let mut live: BTreeMap<usize, usize> = BTreeMap::new();
        for part in wanted.iter().filter_map(|literal| self.part_before.get(*literal)) {
            *live.entry(*part).or_default() += 1;
        }
        let mut is_placed = vec![false; wanted.len()];
        let mut placed = Vec::new();
        for (part, live) in live {
            let part = &self.before[part];
            if is_worth_keeping(live, part.len(), wanted.len(), LITERALS_MAX) {
                let numbers: Vec<_> = part.literals.iter().map(|literal| numbers.get(&**literal).copied()).collect();
                numbers.iter().flatten().for_each(|number| is_placed[*number] = true);
                placed.push((Arc::clone(part), numbers));
            }
        }
        let left: Vec<usize> = (0..wanted.len()).filter(|number| !is_placed[*number]).collect();
        for chunk in left.chunks(LITERALS_MAX) {
            let literals: Vec<&[u8]> = chunk.iter().map(|number| wanted[*number]).collect();
            placed.push((Arc::new(LiteralPart::new(&literals)), chunk.iter().copied().map(Some).collect()));
        }
        for (part, _) in &placed {
            if !self.parts.iter().any(|known| Arc::ptr_eq(known, part)) {
                self.parts.push(Arc::clone(part));
            }
        }
        placed
    }

    /// For the next table.
    pub(super) fn finish(self) -> Vec<Arc<LiteralPart>> {
        self.parts
    }
}
